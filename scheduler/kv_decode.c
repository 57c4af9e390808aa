/* SPDX-License-Identifier: Apache-2.0 */
/*
 * msgpack-c builds a tree of 24-byte objects and believes the counts in front of arrays: five bytes
 * could ask it for 96 GiB. So shape_check() walks the bytes first: one value, nothing behind it, no
 * count larger than the bytes that are left, a bounded depth. After that the tree is at most
 * 24 times the payload.
 */
#include "scheduler/kv_decode.h"

#include <stdlib.h>
#include <string.h>

#include <msgpack.h>

#include "common/must.h"

#define DEPTH_MAX 16u

enum field {
#define KV_FIELD(name, stored, removed) FIELD_##name,
#include "scheduler/kv_fields.def"
#undef KV_FIELD
    FIELD_COUNT
};

static const struct {
    const char *name;
    uint32_t place[2]; /* by enum kv_kind: KV_STORED, KV_REMOVED */
} fields[] = {
#define KV_FIELD(name, stored, removed) {#name, {stored, removed}},
#include "scheduler/kv_fields.def"
#undef KV_FIELD
};

static const char *const type_names[] = {"BlockStored", "BlockRemoved", "AllBlocksCleared"};

struct kv_decoder {
    uint64_t *hashes;
    size_t hash_count, hash_cap;
    struct kv_record *events;
    size_t event_count, event_cap;
};

struct kv_decoder *kv_decoder_new(void)
{
    struct kv_decoder *d = calloc(1, sizeof(*d));

    must(d != NULL);
    return d;
}

void kv_decoder_free(struct kv_decoder *d)
{
    if (d == NULL)
        return;
    free(d->hashes);
    free(d->events);
    free(d);
}

/* ---- frames ---- */

bool kv_seq_read(const void *frame, size_t len, uint64_t *seq)
{
    const unsigned char *b = frame;
    uint64_t v = 0;

    if (len != 8)
        return false;
    for (unsigned i = 0; i < 8; i++)
        v = v << 8 | b[i];
    *seq = v;
    return true;
}

void kv_seq_write(uint64_t seq, unsigned char frame[8])
{
    for (unsigned i = 8; i-- > 0; seq >>= 8)
        frame[i] = (unsigned char)seq;
}

/* ---- shape ---- */

struct head {
    size_t lead;       /* bytes of the type byte and its count */
    uint64_t body;     /* bytes behind it that belong to it */
    uint64_t children; /* values behind it that belong to it */
};

static uint64_t big_endian(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    while (bytes-- > 0)
        v = v << 8 | *p++;
    return v;
}

/* Types 0xc0 to 0xdf; false: truncated or not a type. */
static bool head_read_long(const uint8_t *p, size_t left, struct head *h)
{
    /* bytes of the count, bytes of a body without a count, kind of what the count counts */
    static const struct {
        uint8_t count, fixed;
        enum { PLAIN, NONE, BYTES, EXT, ARRAY, MAP } kind;
    } types[32] = {{0, 0, PLAIN}, {0, 0, NONE},  {0, 0, PLAIN}, {0, 0, PLAIN}, {1, 0, BYTES},
                   {2, 0, BYTES}, {4, 0, BYTES}, {1, 0, EXT},   {2, 0, EXT},   {4, 0, EXT},
                   {0, 4, PLAIN}, {0, 8, PLAIN}, {0, 1, PLAIN}, {0, 2, PLAIN}, {0, 4, PLAIN},
                   {0, 8, PLAIN}, {0, 1, PLAIN}, {0, 2, PLAIN}, {0, 4, PLAIN}, {0, 8, PLAIN},
                   {0, 2, PLAIN}, {0, 3, PLAIN}, {0, 5, PLAIN}, {0, 9, PLAIN}, {0, 17, PLAIN},
                   {1, 0, BYTES}, {2, 0, BYTES}, {4, 0, BYTES}, {2, 0, ARRAY}, {4, 0, ARRAY},
                   {2, 0, MAP},   {4, 0, MAP}};
    uint8_t i = *p & 31;
    uint64_t n;

    if (types[i].kind == NONE || left < 1u + types[i].count)
        return false;
    n = big_endian(p + 1, types[i].count);
    h->lead = 1u + types[i].count;
    h->body = types[i].kind == BYTES ? n : types[i].kind == EXT ? n + 1 : types[i].fixed;
    h->children = types[i].kind == ARRAY ? n : types[i].kind == MAP ? 2 * n : 0;
    return true;
}

static bool head_read(const uint8_t *p, size_t left, struct head *h)
{
    if (left == 0)
        return false;
    *h = (struct head){.lead = 1};
    if (*p < 0x80 || *p >= 0xe0)
        return true;
    if (*p < 0x90)
        h->children = 2u * (*p & 15u);
    else if (*p < 0xa0)
        h->children = *p & 15u;
    else if (*p < 0xc0)
        h->body = *p & 31u;
    else
        return head_read_long(p, left, h);
    return true;
}

static bool shape_check(const uint8_t *p, size_t len, const char **why)
{
    const uint8_t *end = p + len;
    uint64_t left[DEPTH_MAX] = {1};
    unsigned depth = 0;
    struct head h;

    for (;;) {
        while (left[depth] == 0 && depth > 0)
            depth--;
        if (left[depth] == 0)
            break;
        left[depth]--;
        *why = "it is truncated";
        if (!head_read(p, (size_t)(end - p), &h))
            return false;
        p += h.lead;
        if (h.body > (uint64_t)(end - p) || h.children > (uint64_t)(end - p))
            return false;
        p += h.body;
        *why = "it is nested too deeply";
        if (h.children > 0 && ++depth == DEPTH_MAX)
            return false;
        if (h.children > 0)
            left[depth] = h.children;
    }
    *why = "bytes follow the batch";
    return p == end;
}

/* ---- values ---- */

static bool is_text(const msgpack_object *o, const char *text)
{
    return o->type == MSGPACK_OBJECT_STR && o->via.str.size == strlen(text) &&
           memcmp(o->via.str.ptr, text, o->via.str.size) == 0;
}

static bool has_text(const msgpack_object *o, const char *text)
{
    return o->type == MSGPACK_OBJECT_STR &&
           memmem(o->via.str.ptr, o->via.str.size, text, strlen(text)) != NULL;
}

static bool is_nil(const msgpack_object *o)
{
    return o == NULL || o->type == MSGPACK_OBJECT_NIL;
}

/* Integers of either sign, or bytes: of those the last 8, as the engines themselves cut them. */
static bool hash_read(const msgpack_object *o, uint64_t *hash)
{
    const char *p;
    uint32_t n;

    switch (o->type) {
    case MSGPACK_OBJECT_POSITIVE_INTEGER:
        *hash = o->via.u64;
        return true;
    case MSGPACK_OBJECT_NEGATIVE_INTEGER:
        *hash = (uint64_t)o->via.i64;
        return true;
    case MSGPACK_OBJECT_BIN:
        p = o->via.bin.ptr;
        n = o->via.bin.size;
        if (n == 0)
            return false;
        *hash = big_endian((const uint8_t *)p + (n > 8 ? n - 8 : 0), n > 8 ? 8 : n);
        return true;
    case MSGPACK_OBJECT_NIL:
    case MSGPACK_OBJECT_BOOLEAN:
    case MSGPACK_OBJECT_FLOAT32:
    case MSGPACK_OBJECT_FLOAT64:
    case MSGPACK_OBJECT_STR:
    case MSGPACK_OBJECT_ARRAY:
    case MSGPACK_OBJECT_MAP:
    case MSGPACK_OBJECT_EXT:
        break;
    }
    return false;
}

static bool count_read(const msgpack_object *o, uint64_t max, uint32_t *out)
{
    if (is_nil(o) || o->type != MSGPACK_OBJECT_POSITIVE_INTEGER || o->via.u64 > max)
        return false;
    *out = (uint32_t)o->via.u64;
    return true;
}

/* ---- events ---- */

static void fields_of_array(const msgpack_object_array *a, enum kv_kind kind,
                            const msgpack_object *found[FIELD_COUNT])
{
    for (unsigned f = 0; f < FIELD_COUNT; f++) {
        uint32_t place = fields[f].place[kind];

        if (place > 0 && place < a->size)
            found[f] = &a->ptr[place];
    }
}

static void fields_of_map(const msgpack_object_map *m, const msgpack_object *found[FIELD_COUNT])
{
    for (uint32_t i = 0; i < m->size; i++)
        for (unsigned f = 0; f < FIELD_COUNT; f++)
            if (is_text(&m->ptr[i].key, fields[f].name))
                found[f] = &m->ptr[i].val;
}

static const msgpack_object *map_find(const msgpack_object_map *m, const char *key)
{
    for (uint32_t i = 0; i < m->size; i++)
        if (is_text(&m->ptr[i].key, key))
            return &m->ptr[i].val;
    return NULL;
}

static bool hashes_read(struct kv_decoder *d, const msgpack_object *o, struct kv_record *ev)
{
    if (is_nil(o) || o->type != MSGPACK_OBJECT_ARRAY)
        return false;
    must(o->via.array.size <= d->hash_cap - d->hash_count); /* one byte each at least */
    ev->hashes = d->hashes + d->hash_count;
    ev->count = o->via.array.size;
    for (uint32_t i = 0; i < ev->count; i++)
        if (!hash_read(&o->via.array.ptr[i], &d->hashes[d->hash_count++]))
            return false;
    return true;
}

/* Engines that say nothing about the medium have one; DRAM, disks and other hosts are elsewhere. */
static enum kv_medium medium_read(const msgpack_object *medium, const msgpack_object *locality)
{
    if (!is_nil(locality) && !is_text(locality, "LOCAL"))
        return KV_ELSEWHERE;
    if (is_nil(medium) || is_text(medium, "GPU"))
        return KV_GPU;
    return is_text(medium, "PROMPT_DIGEST") ? KV_DIGEST : KV_ELSEWHERE;
}

static bool event_fill(struct kv_decoder *d, const msgpack_object *found[FIELD_COUNT],
                       struct kv_record *ev, const char **why)
{
    const msgpack_object *kind = found[FIELD_kv_cache_spec_kind];
    uint32_t group;

    *why = "the block hashes are none";
    if (!hashes_read(d, found[FIELD_block_hashes], ev))
        return false;
    ev->medium = medium_read(found[FIELD_medium], found[FIELD_locality]);
    *why = "the group is none";
    if (!is_nil(found[FIELD_group_idx])) {
        if (!count_read(found[FIELD_group_idx], INT32_MAX, &group))
            return false;
        ev->group = (int32_t)group;
    }
    if (ev->kind == KV_REMOVED)
        return true;
    if (!is_nil(kind))
        ev->partial_view = has_text(kind, "sliding") || has_text(kind, "chunked") ||
                           !(has_text(kind, "full") || has_text(kind, "mla"));
    *why = "the parent is no block hash";
    if (!is_nil(found[FIELD_parent_block_hash])) {
        ev->has_parent = true;
        if (!hash_read(found[FIELD_parent_block_hash], &ev->parent))
            return false;
    }
    *why = "the token ids are none";
    if (!is_nil(found[FIELD_token_ids])) {
        if (found[FIELD_token_ids]->type != MSGPACK_OBJECT_ARRAY)
            return false;
        ev->token_count = found[FIELD_token_ids]->via.array.size;
    }
    *why = "the block size is none";
    return count_read(found[FIELD_block_size], KV_BLOCK_MAX, &ev->block_size);
}

/* Places an event behind the others, or counts it as unknown. */
static bool event_read(struct kv_decoder *d, const msgpack_object *o, struct kv_batch *batch,
                       const char **why)
{
    const msgpack_object *found[FIELD_COUNT] = {NULL}, *type = NULL;
    struct kv_record *ev = &d->events[d->event_count];
    unsigned kind;

    if (o->type == MSGPACK_OBJECT_ARRAY && o->via.array.size > 0)
        type = &o->via.array.ptr[0];
    else if (o->type == MSGPACK_OBJECT_MAP)
        type = map_find(&o->via.map, "type");
    *why = "an event has no type";
    if (type == NULL || type->type != MSGPACK_OBJECT_STR)
        return false;
    for (kind = 0; kind <= KV_CLEARED && !is_text(type, type_names[kind]); kind++)
        ;
    if (kind > KV_CLEARED) {
        batch->unknown++;
        return true;
    }
    *ev = (struct kv_record){.kind = (enum kv_kind)kind, .group = -1};
    d->event_count++;
    if (kind == KV_CLEARED)
        return true;
    if (o->type == MSGPACK_OBJECT_ARRAY)
        fields_of_array(&o->via.array, ev->kind, found);
    else
        fields_of_map(&o->via.map, found);
    return event_fill(d, found, ev, why);
}

/* ---- batches ---- */

static bool number_read(const msgpack_object *o, double *out)
{
    if (is_nil(o))
        return false;
    if (o->type == MSGPACK_OBJECT_FLOAT32 || o->type == MSGPACK_OBJECT_FLOAT64)
        *out = o->via.f64;
    else if (o->type == MSGPACK_OBJECT_POSITIVE_INTEGER)
        *out = (double)o->via.u64;
    else
        return false;
    return true;
}

static bool batch_read(struct kv_decoder *d, const msgpack_object *o, struct kv_batch *out,
                       const char **why)
{
    const msgpack_object *ts = NULL, *events = NULL, *rank = NULL;
    uint32_t r;

    if (o->type == MSGPACK_OBJECT_ARRAY) {
        const msgpack_object_array *a = &o->via.array;

        ts = a->size > 0 ? &a->ptr[0] : NULL;
        events = a->size > 1 ? &a->ptr[1] : NULL;
        rank = a->size > 2 ? &a->ptr[2] : NULL;
    } else if (o->type == MSGPACK_OBJECT_MAP) {
        ts = map_find(&o->via.map, "ts");
        events = map_find(&o->via.map, "events");
        rank = map_find(&o->via.map, "data_parallel_rank");
    }
    *why = "it is no batch of events";
    if (!number_read(ts, &out->ts) || is_nil(events) || events->type != MSGPACK_OBJECT_ARRAY)
        return false;
    if (!is_nil(rank)) {
        if (!count_read(rank, INT32_MAX, &r))
            return false;
        out->rank = (int64_t)r;
    }
    if (events->via.array.size > d->event_cap) {
        d->event_cap = events->via.array.size;
        d->events = realloc(d->events, d->event_cap * sizeof(*d->events));
        must(d->events != NULL);
    }
    for (uint32_t i = 0; i < events->via.array.size; i++)
        if (!event_read(d, &events->via.array.ptr[i], out, why))
            return false;
    return true;
}

enum err kv_decode(struct kv_decoder *d, const void *payload, size_t len, struct kv_batch *out,
                   const char **why)
{
    struct kv_batch batch = {.rank = -1};
    msgpack_unpacked tree;
    size_t at = 0;
    bool ok;

    *why = "it is too long";
    if (len > KV_PAYLOAD_MAX || !shape_check(payload, len, why))
        return ERR_INVALID;
    if (len > d->hash_cap) { /* no more hashes than bytes */
        d->hash_cap = len;
        d->hashes = realloc(d->hashes, d->hash_cap * sizeof(*d->hashes));
        must(d->hashes != NULL);
    }
    d->hash_count = d->event_count = 0;
    msgpack_unpacked_init(&tree);
    *why = "it is not MessagePack";
    ok = msgpack_unpack_next(&tree, payload, len, &at) == MSGPACK_UNPACK_SUCCESS &&
         batch_read(d, &tree.data, &batch, why);
    msgpack_unpacked_destroy(&tree);
    if (!ok)
        return ERR_INVALID;
    batch.events = d->events;
    batch.count = d->event_count;
    *out = batch;
    *why = NULL;
    return ERR_OK;
}
