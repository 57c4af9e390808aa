/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/store.h"

#include <stdlib.h>

#include "common/fault.h"
#include "common/list.h"
#include "common/must.h"
#include "mailbox/store_payload.h"
#include "mailbox/store_refs.h"

/* In memory: what a payload costs beside its bytes is an item and what malloc adds, 32 bytes. */
struct item {
    struct ref_slot slot; /* its word: see payload_rest() */
    char *bytes;
};

struct memory {
    struct mbox_store store;
    struct packer packer;
    struct refs refs;
    uint64_t bytes, commits, failed_commits;
    bool failing;
#ifdef SLIP_FAULTS
    uint64_t *fresh; /* appended since the last commit, to be dropped when one is made to fail */
    size_t fresh_len, fresh_cap;
#endif
};

static struct memory *memory_of(struct mbox_store *s)
{
    return container_of(s, struct memory, store);
}

static const struct memory *memory_of_const(const struct mbox_store *s)
{
    return (const struct memory *)(const void *)((const char *)s - offsetof(struct memory, store));
}

#ifdef SLIP_FAULTS
static void fresh_add(struct memory *m, uint64_t ref)
{
    if (m->fresh_len == m->fresh_cap) {
        m->fresh_cap = m->fresh_cap != 0 ? m->fresh_cap * 2 : 64;
        m->fresh = realloc(m->fresh, m->fresh_cap * sizeof(m->fresh[0]));
        must(m->fresh != NULL);
    }
    m->fresh[m->fresh_len++] = ref;
}
#endif

static enum err memory_append(struct mbox_store *s, const struct mbox_record *r, uint64_t *ref,
                              size_t *stored)
{
    struct memory *m = memory_of(s);
    struct packed packed;
    struct item *item;
    enum err e = payload_keep(&m->packer, r, &packed);

    if (e != ERR_OK)
        return e;
    if (fault_hits(FAULT_store_full))
        return ERR_STORE;
    item = refs_take(&m->refs, ref);
    item->bytes = payload_rest(&packed, &item->slot.word);
    m->bytes += packed.len;
    *stored = packed.len;
#ifdef SLIP_FAULTS
    fresh_add(m, *ref);
#endif
    return ERR_OK;
}

static enum err memory_get(struct mbox_store *s, uint64_t ref, struct buf *out)
{
    const struct item *item = refs_find(&memory_of(s)->refs, ref);
    struct packed packed;

    if (item == NULL)
        return ERR_NOT_FOUND;
    packed = payload_at_rest(item->bytes, item->slot.word);
    return payload_unpack(&packed, out);
}

static enum err memory_get_stored(struct mbox_store *s, uint64_t ref, struct buf *out,
                                  uint32_t *raw_len)
{
    const struct item *item = refs_find(&memory_of(s)->refs, ref);
    struct packed packed;

    if (item == NULL)
        return ERR_NOT_FOUND;
    packed = payload_at_rest(item->bytes, item->slot.word);
    payload_give(&packed, out, raw_len);
    return ERR_OK;
}

static void memory_remove(struct mbox_store *s, uint64_t ref, uint64_t copy, bool last)
{
    struct memory *m = memory_of(s);
    struct item *item = refs_find(&m->refs, ref);

    (void)copy;
    if (item == NULL || !last)
        return;
    m->bytes -= item->slot.word & REST_LEN;
    free(item->bytes);
    refs_give(&m->refs, item, ref);
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
    struct memory *m = memory_of(s);

    m->failing = fault_hits(FAULT_store_commit_fails);
#ifdef SLIP_FAULTS
    while (m->failing && m->fresh_len > 0)
        memory_remove(s, m->fresh[--m->fresh_len], 0, true);
    m->fresh_len = 0;
#endif
    if (m->failing) {
        m->failed_commits++;
        return ERR_STORE;
    }
    m->commits++;
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

    *out = (struct mbox_store_stats){.payload_bytes = m->bytes,
                                     .commits = m->commits,
                                     .failed_commits = m->failed_commits,
                                     .failing = m->failing};
}

static void memory_compress_from(struct mbox_store *s, size_t bytes)
{
    memory_of(s)->packer.compress_from = bytes;
}

static void memory_close(struct mbox_store *s)
{
    struct memory *m;
    uint32_t i;

    if (s == NULL)
        return;
    m = memory_of(s);
    for (i = 0; i < m->refs.len; i++) {
        struct item *item = refs_at(&m->refs, i);

        if (item != NULL)
            free(item->bytes);
    }
    refs_fini(&m->refs);
    packer_fini(&m->packer);
#ifdef SLIP_FAULTS
    free(m->fresh);
#endif
    free(m);
}

struct mbox_store *store_memory_open(size_t compress_bytes)
{
    static const struct mbox_store_ops ops = {
        .name = "memory",
        .append = memory_append,
        .get = memory_get,
        .get_stored = memory_get_stored,
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
    m->packer.compress_from = compress_bytes;
    refs_init(&m->refs, sizeof(struct item));
    return &m->store;
}
