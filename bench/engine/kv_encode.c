/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/kv_encode.h"

#include <stdlib.h>
#include <string.h>

#include <msgpack.h>

#include "common/must.h"

enum kind { STORED, REMOVED, CLEARED };

struct event {
    enum kind kind;
    bool digest;
    uint64_t parent;
    size_t first, count; /* of hashes */
    size_t token_first, token_count;
};

struct kv_encode {
    enum kv_form form;
    uint32_t block_tokens;
    struct event *events;
    uint64_t *hashes;
    uint32_t *tokens;
    size_t event_count, event_cap, hash_count, hash_cap, token_count, token_cap;
};

struct kv_encode *kv_encode_new(enum kv_form form, uint32_t block_tokens)
{
    struct kv_encode *k = calloc(1, sizeof *k);

    must(k != NULL);
    k->form = form;
    k->block_tokens = block_tokens;
    return k;
}

void kv_encode_free(struct kv_encode *k)
{
    if (k == NULL)
        return;
    free(k->events);
    free(k->hashes);
    free(k->tokens);
    free(k);
}

/* ---- gathering ---- */

static void *room(void *base, size_t count, size_t more, size_t *cap, size_t size)
{
    if (count + more <= *cap)
        return base;
    *cap = (count + more) * 2;
    base = realloc(base, *cap * size);
    must(base != NULL);
    return base;
}

/* The event at hand if another block may join it, else a new one. */
static struct event *event_at(struct kv_encode *k, enum kind kind, bool digest, uint64_t parent)
{
    struct event *e = k->event_count > 0 ? &k->events[k->event_count - 1] : NULL;

    if (e != NULL && e->kind == kind && e->digest == digest && kind != CLEARED &&
        (kind == REMOVED || (parent != 0 && k->hashes[k->hash_count - 1] == parent)))
        return e;
    k->events = room(k->events, k->event_count, 1, &k->event_cap, sizeof *k->events);
    e = &k->events[k->event_count++];
    *e = (struct event){.kind = kind,
                        .digest = digest,
                        .parent = parent,
                        .first = k->hash_count,
                        .token_first = k->token_count};
    return e;
}

static void hash_add(struct kv_encode *k, struct event *e, uint64_t hash)
{
    k->hashes = room(k->hashes, k->hash_count, 1, &k->hash_cap, sizeof *k->hashes);
    k->hashes[k->hash_count++] = hash;
    e->count++;
}

void kv_encode_stored(struct kv_encode *k, uint64_t id, uint64_t parent, const uint32_t *tokens)
{
    struct event *e = event_at(k, STORED, false, parent);

    hash_add(k, e, id);
    k->tokens = room(k->tokens, k->token_count, k->block_tokens, &k->token_cap, sizeof *k->tokens);
    memcpy(k->tokens + k->token_count, tokens, k->block_tokens * sizeof *tokens);
    k->token_count += k->block_tokens;
    e->token_count += k->block_tokens;
}

void kv_encode_removed(struct kv_encode *k, uint64_t id)
{
    hash_add(k, event_at(k, REMOVED, false, 0), id);
}

void kv_encode_digest(struct kv_encode *k, uint64_t digest, uint64_t parent, bool stored)
{
    hash_add(k, event_at(k, stored ? STORED : REMOVED, true, stored ? parent : 0), digest);
}

void kv_encode_cleared(struct kv_encode *k)
{
    event_at(k, CLEARED, false, 0);
}

/* ---- packing ---- */

static void pack_text(msgpack_packer *p, const char *s)
{
    msgpack_pack_str(p, strlen(s));
    msgpack_pack_str_body(p, s, strlen(s));
}

/* In the map form a field has its name before it. */
static void pack_name(const struct kv_encode *k, msgpack_packer *p, const char *name)
{
    if (k->form == KV_FORM_MAP)
        pack_text(p, name);
}

static void pack_event_head(const struct kv_encode *k, msgpack_packer *p, const char *type,
                            size_t fields)
{
    if (k->form == KV_FORM_MAP)
        msgpack_pack_map(p, fields + 1);
    else
        msgpack_pack_array(p, fields + 1);
    pack_name(k, p, "type");
    pack_text(p, type);
}

static void pack_hashes(const struct kv_encode *k, msgpack_packer *p, const struct event *e)
{
    pack_name(k, p, "block_hashes");
    msgpack_pack_array(p, e->count);
    for (size_t i = 0; i < e->count; i++)
        msgpack_pack_uint64(p, k->hashes[e->first + i]);
}

static void pack_medium(const struct kv_encode *k, msgpack_packer *p, const struct event *e)
{
    pack_name(k, p, "medium");
    pack_text(p, e->digest ? "PROMPT_DIGEST" : "GPU");
}

static void pack_stored(const struct kv_encode *k, msgpack_packer *p, const struct event *e)
{
    pack_event_head(k, p, "BlockStored", 7);
    pack_hashes(k, p, e);
    pack_name(k, p, "parent_block_hash");
    if (e->parent != 0)
        msgpack_pack_uint64(p, e->parent);
    else
        msgpack_pack_nil(p);
    pack_name(k, p, "token_ids");
    msgpack_pack_array(p, e->token_count);
    for (size_t i = 0; i < e->token_count; i++)
        msgpack_pack_uint32(p, k->tokens[e->token_first + i]);
    pack_name(k, p, "block_size");
    msgpack_pack_uint32(p, e->digest ? 0 : k->block_tokens);
    pack_name(k, p, "lora_id");
    msgpack_pack_nil(p);
    pack_medium(k, p, e);
    pack_name(k, p, "lora_name");
    msgpack_pack_nil(p);
}

static void pack_event(const struct kv_encode *k, msgpack_packer *p, const struct event *e)
{
    switch (e->kind) {
    case STORED:
        pack_stored(k, p, e);
        return;
    case REMOVED:
        pack_event_head(k, p, "BlockRemoved", 2);
        pack_hashes(k, p, e);
        pack_medium(k, p, e);
        return;
    case CLEARED:
        pack_event_head(k, p, "AllBlocksCleared", 0);
        return;
    }
}

void *kv_encode_batch(struct kv_encode *k, double ts, size_t *len)
{
    msgpack_sbuffer buf;
    msgpack_packer p;

    if (k->event_count == 0)
        return NULL;
    msgpack_sbuffer_init(&buf);
    msgpack_packer_init(&p, &buf, msgpack_sbuffer_write);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, ts);
    msgpack_pack_array(&p, k->event_count);
    for (size_t i = 0; i < k->event_count; i++)
        pack_event(k, &p, &k->events[i]);
    msgpack_pack_int(&p, 0); /* data-parallel rank */
    k->event_count = k->hash_count = k->token_count = 0;
    *len = buf.size;
    return msgpack_sbuffer_release(&buf);
}
