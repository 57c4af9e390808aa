/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"
#include "mailbox/store_sqlite.h"

/*
 * The sqlite store: what the core calls. Nothing touches the file before the commit: appends,
 * marks and removes are noted here, and the commit writes them in one transaction
 * (store_sqlite_write.c), so that a commit that fails has one place to be undone in, and what came
 * and went between two commits costs no input or output at all.
 *
 * Payloads stay in memory up to cache_bytes. When the cache is full new ones are not kept: boxes
 * are emptied from their oldest end.
 */
#define FRESH_BYTES (16u << 20) /* payloads waiting for the commit; beyond: written ahead */

static enum err sqlite_append(struct mbox_store *store, const struct mbox_record *r, uint64_t *ref,
                              size_t *stored)
{
    struct sqlite_store *s = sqlite_store_of(store);
    struct packed packed;
    struct item *item;
    enum err e = payload_keep(&s->packer, r, &packed);

    if (e != ERR_OK)
        return e;
    if (s->doomed || s->db == NULL || !store_sqlite_has_room(s) || fault_hits(FAULT_store_full))
        return ERR_STORE;
    if (s->fresh_bytes > FRESH_BYTES && store_sqlite_write_ahead(s) != ERR_OK)
        return ERR_STORE;
    item = refs_take(&s->refs, ref);
    item->row = r->copies[0].id;
    item->bytes = payload_rest(&packed, &item->slot.word);
    item->slot.word |= ITEM_FRESH;
    if (r->copy_count > 1)
        item->slot.word |= ITEM_SHARED;
    if (s->cached_bytes + packed.len <= s->cache_bytes) {
        item->slot.word |= ITEM_CACHED;
        s->cached_bytes += packed.len;
    } else {
        s->fresh_bytes += packed.len;
    }
    s->payload_bytes += packed.len;
    s->held++;
    store_sqlite_row(s, r, *ref);
    *stored = packed.len;
    return ERR_OK;
}

/* raw_len NULL: the payload itself. */
static enum err item_get(struct sqlite_store *s, uint64_t ref, struct buf *out, uint32_t *raw_len)
{
    const struct item *item = refs_find(&s->refs, ref);
    struct packed packed;

    if (item == NULL)
        return ERR_NOT_FOUND;
    if (fault_hits(FAULT_store_unreadable))
        return ERR_IO;
    if (item->bytes == NULL && (item->slot.word & REST_LEN) != 0)
        return store_sqlite_load(s, item, out, raw_len);
    packed = payload_at_rest(item->bytes, item->slot.word);
    if (raw_len == NULL)
        return payload_unpack(&packed, out);
    payload_give(&packed, out, raw_len);
    return ERR_OK;
}

static enum err sqlite_get(struct mbox_store *store, uint64_t ref, struct buf *out)
{
    return item_get(sqlite_store_of(store), ref, out, NULL);
}

static enum err sqlite_get_stored(struct mbox_store *store, uint64_t ref, struct buf *out,
                                  uint32_t *raw_len)
{
    return item_get(sqlite_store_of(store), ref, out, raw_len);
}

static void sqlite_mark(struct mbox_store *store, uint64_t ref, const struct mbox_copy_record *copy)
{
    struct sqlite_store *s = sqlite_store_of(store);
    struct item *item = refs_find(&s->refs, ref);
    bool is_shared;

    if (item == NULL)
        return;
    is_shared = (item->slot.word & ITEM_SHARED) != 0;
    if (!is_shared)
        item->slot.word |= ITEM_MARKED;
    store_sqlite_change(s, item->row, copy, is_shared);
}

void store_sqlite_item_end(struct sqlite_store *s, struct item *item, uint64_t ref)
{
    uint32_t len = item->slot.word & REST_LEN;

    if (item->slot.word & ITEM_CACHED)
        s->cached_bytes -= len;
    else if (item->bytes != NULL)
        s->fresh_bytes -= len;
    s->payload_bytes -= len;
    s->held--;
    free(item->bytes);
    refs_give(&s->refs, item, ref);
}

static void sqlite_remove(struct mbox_store *store, uint64_t ref, uint64_t copy, bool last)
{
    struct sqlite_store *s = sqlite_store_of(store);
    struct item *item = refs_find(&s->refs, ref);
    enum gone_kind kind = GONE_SINGLE;

    if (item == NULL)
        return;
    if (!last) {
        store_sqlite_gone(s, item->row, copy, GONE_COPY);
        return;
    }
    if (item->slot.word & ITEM_SHARED)
        kind = GONE_SHARED;
    else if (item->slot.word & ITEM_MARKED)
        kind = GONE_MARKED;
    if (!(item->slot.word & ITEM_FRESH) || (item->slot.word & ITEM_WRITTEN))
        store_sqlite_gone(s, item->row, 0, kind);
    store_sqlite_item_end(s, item, ref);
}

static void sqlite_remember(struct mbox_store *store, const struct mbox_answer_record *a)
{
    struct sqlite_store *s = sqlite_store_of(store);

    if (!s->doomed)
        store_sqlite_answer(s, a);
}

static void sqlite_forget(struct mbox_store *store, uint64_t answer)
{
    struct sqlite_store *s = sqlite_store_of(store);

    if (!store_sqlite_withdraw(s, answer))
        store_sqlite_gone(s, answer, 0, GONE_ANSWER);
}

static enum err sqlite_commit(struct mbox_store *store)
{
    return store_sqlite_commit(sqlite_store_of(store));
}

static enum err sqlite_scan(struct mbox_store *store, const struct mbox_scan *calls)
{
    return store_sqlite_scan(sqlite_store_of(store), calls);
}

static void sqlite_stats(const struct mbox_store *store, struct mbox_store_stats *out)
{
    const struct sqlite_store *s =
        (const void *)((const char *)store - offsetof(struct sqlite_store, store));

    *out = (struct mbox_store_stats){.payload_bytes = s->payload_bytes,
                                     .disk_bytes = s->disk_bytes,
                                     .commits = s->commits,
                                     .failed_commits = s->failed_commits,
                                     .failing = s->failing || s->is_tight};
}

static void sqlite_compress_from(struct mbox_store *store, size_t bytes)
{
    sqlite_store_of(store)->packer.compress_from = bytes;
}

static void sqlite_close(struct mbox_store *store)
{
    struct sqlite_store *s;
    uint32_t i;

    if (store == NULL)
        return;
    s = sqlite_store_of(store);
    /* What changed and left and never got committed: the core settles that before it closes. */
    store_sqlite_shut(s);
    for (i = 0; i < s->refs.len; i++) {
        struct item *item = refs_at(&s->refs, i);

        if (item != NULL)
            free(item->bytes);
    }
    refs_fini(&s->refs);
    packer_fini(&s->packer);
    buf_fini(&s->rows);
    buf_fini(&s->answers);
    free(s->gone.items);
    free(s->changes.items);
    free(s->path);
    free(s);
}

const struct mbox_store_ops store_sqlite_ops = {
    .name = "sqlite",
    .append = sqlite_append,
    .get = sqlite_get,
    .get_stored = sqlite_get_stored,
    .mark = sqlite_mark,
    .remove = sqlite_remove,
    .remember = sqlite_remember,
    .forget = sqlite_forget,
    .commit = sqlite_commit,
    .scan = sqlite_scan,
    .stats = sqlite_stats,
    .compress_from = sqlite_compress_from,
    .close = sqlite_close,
};
