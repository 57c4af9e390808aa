/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/store.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <lz4.h>

#include "common/fault.h"
#include "common/list.h"
#include "common/must.h"

/*
 * Slots with generations: an id is (generation << 32 | slot + 1), so that a late id finds nothing.
 * The slot array grows with the number of payloads, which the core bounds by total_bytes.
 */
struct blob {
    uint32_t raw_len, stored_len;
    bool compressed;
    char bytes[];
};

struct slot {
    struct blob *blob; /* NULL: free */
    uint32_t generation, next_free;
};

struct memory {
    struct mbox_store store;
    size_t compress_bytes;
    struct slot *slots;
    uint32_t len, cap, free_head; /* free_head: slot + 1, 0 none */
    uint64_t bytes, commits;
    char *scratch; /* for compressing */
    size_t scratch_len;
};

static struct memory *memory_of(struct mbox_store *s)
{
    return container_of(s, struct memory, store);
}

static const struct memory *memory_of_const(const struct mbox_store *s)
{
    return (const struct memory *)(const void *)((const char *)s - offsetof(struct memory, store));
}

static struct slot *slot_find(struct memory *m, uint64_t id)
{
    uint32_t at = (uint32_t)id;

    if (at == 0 || at > m->len)
        return NULL;
    if (m->slots[at - 1].generation != (uint32_t)(id >> 32) || m->slots[at - 1].blob == NULL)
        return NULL;
    return &m->slots[at - 1];
}

static uint32_t slot_take(struct memory *m)
{
    uint32_t at;

    if (m->free_head != 0) {
        at = m->free_head - 1;
        m->free_head = m->slots[at].next_free;
        return at;
    }
    if (m->len == m->cap) {
        m->cap = m->cap != 0 ? m->cap * 2 : 256;
        m->slots = realloc(m->slots, m->cap * sizeof(m->slots[0]));
        must(m->slots != NULL);
    }
    m->slots[m->len] = (struct slot){.generation = 1};
    return m->len++;
}

static struct blob *blob_new(const void *bytes, size_t len)
{
    struct blob *b = malloc(sizeof(*b) + len);

    must(b != NULL);
    memcpy(b->bytes, bytes, len);
    b->stored_len = (uint32_t)len;
    b->compressed = false;
    return b;
}

/* Length in m->scratch, 0 where compressing does not pay. */
static size_t compress(struct memory *m, const void *payload, size_t len)
{
    int n;

    if (len < m->compress_bytes || len < 2)
        return 0;
    if (m->scratch_len < len) {
        free(m->scratch);
        m->scratch = malloc(len);
        must(m->scratch != NULL);
        m->scratch_len = len;
    }
    /* Room for one byte less than the payload: lz4 gives up where it would not shrink. */
    n = LZ4_compress_default(payload, m->scratch, (int)len, (int)len - 1);
    return n > 0 ? (size_t)n : 0;
}

static enum err memory_append(struct mbox_store *s, const struct mbox_record *r, uint64_t *ref,
                              size_t *stored)
{
    struct memory *m = memory_of(s);
    size_t len = r->payload_len, n;
    struct slot *slot;
    uint32_t at;

    if (len > MBOX_PAYLOAD_MAX)
        return ERR_TOO_LARGE;
    if (fault_hits(FAULT_store_full))
        return ERR_STORE;
    n = compress(m, r->payload, len);
    at = slot_take(m);
    slot = &m->slots[at];
    slot->blob = n > 0 ? blob_new(m->scratch, n) : blob_new(r->payload, len);
    slot->blob->compressed = n > 0;
    slot->blob->raw_len = (uint32_t)len;
    m->bytes += slot->blob->stored_len;
    *ref = (uint64_t)slot->generation << 32 | (at + 1);
    *stored = slot->blob->stored_len;
    return ERR_OK;
}

static enum err memory_get(struct mbox_store *s, uint64_t id, struct buf *out)
{
    struct slot *slot = slot_find(memory_of(s), id);
    const struct blob *b;
    char *to;

    if (slot == NULL)
        return ERR_NOT_FOUND;
    b = slot->blob;
    if (b->raw_len > MBOX_PAYLOAD_MAX)
        return ERR_IO;
    if (!b->compressed) {
        buf_add(out, b->bytes, b->stored_len);
        return ERR_OK;
    }
    to = buf_reserve(out, b->raw_len);
    if (LZ4_decompress_safe(b->bytes, to, (int)b->stored_len, (int)b->raw_len) != (int)b->raw_len)
        return ERR_IO;
    out->len += b->raw_len;
    return ERR_OK;
}

static void memory_remove(struct mbox_store *s, uint64_t ref, uint64_t copy, bool last)
{
    struct memory *m = memory_of(s);
    struct slot *slot = slot_find(m, ref);

    (void)copy;
    if (slot == NULL || !last)
        return;
    m->bytes -= slot->blob->stored_len;
    free(slot->blob);
    slot->blob = NULL;
    slot->generation++;
    slot->next_free = m->free_head;
    m->free_head = (uint32_t)(slot - m->slots) + 1;
}

static void memory_mark(struct mbox_store *s, uint64_t ref, const struct mbox_copy_record *copy)
{
    (void)s;
    (void)ref;
    (void)copy;
}

static void memory_remember(struct mbox_store *s, const struct mbox_answer_record *a)
{
    (void)s;
    (void)a;
}

static void memory_forget(struct mbox_store *s, uint64_t answer)
{
    (void)s;
    (void)answer;
}

static enum err memory_commit(struct mbox_store *s)
{
    memory_of(s)->commits++;
    return ERR_OK;
}

static enum err memory_scan(struct mbox_store *s, const struct mbox_scan *calls)
{
    (void)s;
    (void)calls;
    return ERR_OK;
}

static void memory_stats(const struct mbox_store *s, struct mbox_store_stats *out)
{
    const struct memory *m = memory_of_const(s);

    *out = (struct mbox_store_stats){.payload_bytes = m->bytes, .commits = m->commits};
}

static void memory_compress_from(struct mbox_store *s, size_t bytes)
{
    memory_of(s)->compress_bytes = bytes;
}

static void memory_close(struct mbox_store *s)
{
    struct memory *m;
    uint32_t i;

    if (s == NULL)
        return;
    m = memory_of(s);
    for (i = 0; i < m->len; i++)
        free(m->slots[i].blob);
    free(m->slots);
    free(m->scratch);
    free(m);
}

struct mbox_store *store_memory_open(size_t compress_bytes)
{
    static const struct mbox_store_ops ops = {
        .name = "memory",
        .append = memory_append,
        .get = memory_get,
        .mark = memory_mark,
        .remove = memory_remove,
        .remember = memory_remember,
        .forget = memory_forget,
        .commit = memory_commit,
        .scan = memory_scan,
        .stats = memory_stats,
        .compress_from = memory_compress_from,
        .close = memory_close,
    };
    struct memory *m = calloc(1, sizeof(*m));

    must(m != NULL);
    m->store.ops = &ops;
    m->compress_bytes = compress_bytes;
    return &m->store;
}
