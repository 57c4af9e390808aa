/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"
#include "mailbox/store_sqlite.h"

/*
 * What waits for the commit, and the commit.
 *
 * One transaction holds, in this order: what came, what changed, what left. Each copy leaves at
 * most once and never changes after that, so this order gives what the order of the calls gives.
 *
 * When a commit fails, what came is dropped. What changed and left before it is kept and written
 * first when the next commit comes, in slices with a transaction each: one that fails costs one
 * slice, however much is kept, and on a full disk every slice that gets through is progress; one
 * that does not is tried with less in it. What
 * is kept is bounded by what the file held when the trouble began: each copy leaves once, and
 * several changes of one copy are made one.
 */
#define SLICE 256u
#define SQUEEZE_FROM 1024u

struct fresh_copy {
    uint64_t id, expires_ms, due_ms, dead_ms;
    uint32_t attempts, dead, agent, agent_len; /* agent: offset from the row */
};

/* In s->rows, with copies and texts behind it. */
struct fresh_row {
    uint64_t ref, row, created_ms, ttl_ms;
    uint32_t size, priority, copy_count, texts; /* texts: offset of the first */
    uint32_t len[8];
    struct fresh_copy copies[];
};

struct fresh_answer {
    uint64_t id, body_hash[2], expires_ms;
    uint32_t size, len[4];
    bool withdrawn;
    char bytes[];
};

/* ---- noting ---- */

static void pad(struct buf *b)
{
    static const char zeros[8];

    buf_add(b, zeros, (8 - b->len % 8) % 8);
}

static void add_text(struct buf *b, const char *s, size_t len)
{
    if (len > 0)
        buf_add(b, s, len);
}

void store_sqlite_row(struct sqlite_store *s, const struct mbox_record *r, uint64_t ref)
{
    const char *texts[8] = {r->tenant, r->workflow,       r->message_id, r->source,
                            r->type,   r->correlation_id, r->reply_to,   r->group};
    size_t at = s->rows.len, i, size = sizeof(struct fresh_row);
    struct fresh_row *row;

    size += r->copy_count * sizeof(struct fresh_copy);
    memset(buf_reserve(&s->rows, size), 0, size);
    s->rows.len += size;
    row = (struct fresh_row *)(void *)(s->rows.base + at);
    *row = (struct fresh_row){.ref = ref,
                              .row = r->copies[0].id,
                              .created_ms = r->created_ms,
                              .ttl_ms = r->ttl_ms,
                              .priority = r->priority,
                              .copy_count = (uint32_t)r->copy_count,
                              .texts = (uint32_t)size};
    for (i = 0; i < 8; i++)
        row->len[i] = texts[i] != NULL ? (uint32_t)strlen(texts[i]) : 0;
    for (i = 0; i < r->copy_count; i++)
        row->copies[i] = (struct fresh_copy){.id = r->copies[i].id,
                                             .expires_ms = r->copies[i].expires_ms,
                                             .due_ms = r->copies[i].due_ms,
                                             .dead_ms = r->copies[i].dead_ms,
                                             .attempts = r->copies[i].attempts,
                                             .dead = r->copies[i].dead,
                                             .agent_len = (uint32_t)strlen(r->copies[i].agent)};
    /* From here on the buffer moves. */
    for (i = 0; i < 8; i++) {
        row = (struct fresh_row *)(void *)(s->rows.base + at);
        add_text(&s->rows, texts[i], row->len[i]);
    }
    for (i = 0; i < r->copy_count; i++) {
        row = (struct fresh_row *)(void *)(s->rows.base + at);
        row->copies[i].agent = (uint32_t)(s->rows.len - at);
        add_text(&s->rows, r->copies[i].agent, row->copies[i].agent_len);
    }
    pad(&s->rows);
    row = (struct fresh_row *)(void *)(s->rows.base + at);
    row->size = (uint32_t)(s->rows.len - at);
    if (row->row < s->first_row)
        s->first_row = row->row;
}

void store_sqlite_answer(struct sqlite_store *s, const struct mbox_answer_record *a)
{
    struct fresh_answer head = {.id = a->id,
                                .body_hash = {a->body_hash[0], a->body_hash[1]},
                                .expires_ms = a->expires_ms,
                                .len = {(uint32_t)strlen(a->tenant), (uint32_t)strlen(a->workflow),
                                        (uint32_t)strlen(a->key), (uint32_t)a->answer_len}};
    size_t at = s->answers.len;

    buf_add(&s->answers, &head, sizeof(head));
    s->answers.len = at + offsetof(struct fresh_answer, bytes);
    add_text(&s->answers, a->tenant, head.len[0]);
    add_text(&s->answers, a->workflow, head.len[1]);
    add_text(&s->answers, a->key, head.len[2]);
    add_text(&s->answers, a->answer, a->answer_len);
    pad(&s->answers);
    ((struct fresh_answer *)(void *)(s->answers.base + at))->size = (uint32_t)(s->answers.len - at);
    if (a->id < s->first_row)
        s->first_row = a->id;
}

bool store_sqlite_withdraw(struct sqlite_store *s, uint64_t answer)
{
    size_t at;

    if (answer < s->first_row)
        return false;
    for (at = 0; at < s->answers.len;) {
        struct fresh_answer *a = (struct fresh_answer *)(void *)(s->answers.base + at);

        if (a->id == answer) {
            a->withdrawn = true;
            return true;
        }
        at += a->size;
    }
    return false;
}

void store_sqlite_gone(struct sqlite_store *s, uint64_t row, uint64_t copy, enum gone_kind kind)
{
    struct gone_list *l = &s->gone;

    if (l->len == l->cap) {
        l->cap = l->cap != 0 ? l->cap * 2 : 64;
        l->items = realloc(l->items, l->cap * sizeof(l->items[0]));
        must(l->items != NULL);
    }
    l->items[l->len++] = (struct gone){.row = row, .copy = copy, .kind = kind};
}

static int compare_changes(const void *a, const void *b)
{
    const struct change *x = a, *y = b;

    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    if (x->copy.id != y->copy.id)
        return x->copy.id < y->copy.id ? -1 : 1;
    return x->copy.agent < y->copy.agent ? -1 : x->copy.agent > y->copy.agent;
}

/* Of several changes of one copy the last stays. */
static void squeeze(struct change_list *l)
{
    size_t i, n = 0;

    /* The agent is not written; its place tells the sort which change came first. */
    for (i = 0; i < l->len; i++)
        l->items[i].copy.agent = (const char *)(uintptr_t)i;
    qsort(l->items, l->len, sizeof(l->items[0]), compare_changes);
    for (i = 0; i < l->len; i++)
        if (i + 1 == l->len || l->items[i + 1].row != l->items[i].row ||
            l->items[i + 1].copy.id != l->items[i].copy.id)
            l->items[n++] = l->items[i];
    l->len = n;
    l->squeeze_at = n * 2 > SQUEEZE_FROM ? n * 2 : SQUEEZE_FROM;
}

void store_sqlite_change(struct sqlite_store *s, uint64_t row, const struct mbox_copy_record *copy,
                         bool is_shared)
{
    struct change_list *l = &s->changes;

    if (l->len == l->cap) {
        l->cap = l->cap != 0 ? l->cap * 2 : 64;
        l->items = realloc(l->items, l->cap * sizeof(l->items[0]));
        must(l->items != NULL);
    }
    l->items[l->len] = (struct change){.row = row, .copy = *copy, .is_shared = is_shared};
    l->items[l->len++].copy.agent = NULL;
}

/* ---- writing ---- */

static int run(struct sqlite_store *s, enum statement st)
{
    int rc = sqlite3_step(s->statements[st]);

    if (rc == SQLITE_DONE || rc == SQLITE_ROW)
        rc = SQLITE_OK;
    sqlite3_reset(s->statements[st]);
    return rc;
}

static void bind_number(sqlite3_stmt *st, int at, uint64_t v)
{
    sqlite3_bind_int64(st, at, (sqlite3_int64)v);
}

static void bind_text(sqlite3_stmt *st, int at, const char *s, size_t len)
{
    sqlite3_bind_text(st, at, s, (int)len, SQLITE_STATIC);
}

static int write_copy(struct sqlite_store *s, const struct fresh_row *r, const struct fresh_copy *c)
{
    sqlite3_stmt *st = s->statements[ST_copy];

    bind_number(st, 1, r->row);
    bind_number(st, 2, c->id);
    bind_text(st, 3, (const char *)r + c->agent, c->agent_len);
    bind_number(st, 4, c->expires_ms);
    bind_number(st, 5, c->due_ms);
    bind_number(st, 6, c->attempts);
    bind_number(st, 7, c->dead);
    bind_number(st, 8, c->dead_ms);
    bind_number(st, 9, copy_sum(r->row, c->id, (const char *)r + c->agent, c->agent_len));
    return run(s, ST_copy);
}

/* What a message with one copy has in its own row; a broadcast has nothing there. */
static void bind_copy(sqlite3_stmt *st, const struct fresh_row *r)
{
    const struct fresh_copy *c = &r->copies[0];
    int i;

    if (r->copy_count > 1) {
        for (i = 13; i <= 18; i++)
            sqlite3_bind_null(st, i);
        return;
    }
    bind_text(st, 13, (const char *)r + c->agent, c->agent_len);
    bind_number(st, 14, c->expires_ms);
    bind_number(st, 15, c->due_ms);
    bind_number(st, 16, c->attempts);
    bind_number(st, 17, c->dead);
    bind_number(st, 18, c->dead_ms);
}

static int write_row(struct sqlite_store *s, const struct fresh_row *r, const struct item *item)
{
    sqlite3_stmt *st = s->statements[ST_message];
    struct packed p = payload_at_rest(item->bytes, item->slot.word);
    const char *text = (const char *)r + r->texts;
    struct row_text texts;
    uint32_t i;
    int rc;

    bind_number(st, 1, r->row);
    for (i = 0; i < 8; i++) {
        texts.text[i] = text;
        texts.len[i] = r->len[i];
        bind_text(st, 2 + (int)i, text, r->len[i]);
        text += r->len[i];
    }
    texts.text[8] = (const char *)r + r->copies[0].agent;
    texts.len[8] = r->copy_count > 1 ? 0 : r->copies[0].agent_len;
    bind_number(st, 10, r->priority);
    bind_number(st, 11, r->created_ms);
    bind_number(st, 12, r->ttl_ms);
    bind_copy(st, r);
    if (p.is_packed)
        bind_number(st, 19, p.raw_len);
    else
        sqlite3_bind_null(st, 19);
    bind_number(st, 20, message_sum(r->row, &texts, r->priority, r->created_ms, r->ttl_ms, &p));
    sqlite3_bind_blob(st, 21, p.len > 0 ? p.bytes : "", (int)p.len, SQLITE_STATIC);
    rc = run(s, ST_message);
    for (i = 0; r->copy_count > 1 && i < r->copy_count && rc == SQLITE_OK; i++)
        rc = write_copy(s, r, &r->copies[i]);
    return rc;
}

static int write_answer(struct sqlite_store *s, const struct fresh_answer *a)
{
    sqlite3_stmt *st = s->statements[ST_answer];
    const char *workflow = a->bytes + a->len[0], *key = workflow + a->len[1];
    const char *answer = key + a->len[2];

    bind_number(st, 1, a->id);
    bind_text(st, 2, a->bytes, a->len[0]);
    bind_text(st, 3, workflow, a->len[1]);
    bind_text(st, 4, key, a->len[2]);
    bind_number(st, 5, a->body_hash[0]);
    bind_number(st, 6, a->body_hash[1]);
    bind_number(st, 7, a->expires_ms);
    bind_number(st, 8, answer_sum(a->id, a->bytes, a->len, a->body_hash, a->expires_ms));
    sqlite3_bind_blob(st, 9, answer, (int)a->len[3], SQLITE_STATIC);
    return run(s, ST_answer);
}

static int write_change(struct sqlite_store *s, const struct change *c)
{
    enum statement which = c->is_shared ? ST_mark_copy : ST_mark;
    bool is_kept = c->copy.kept_ms != 0;
    sqlite3_stmt *st = s->statements[which];
    int at = 1;

    bind_number(st, at++, c->row);
    if (c->is_shared)
        bind_number(st, at++, c->copy.id);
    bind_number(st, at++, c->copy.expires_ms);
    bind_number(st, at++, is_kept ? c->copy.kept_order : c->copy.due_ms);
    bind_number(st, at++, c->copy.attempts);
    bind_number(st, at++, is_kept ? STORE_KEPT : c->copy.dead);
    bind_number(st, at, is_kept ? c->copy.kept_ms : c->copy.dead_ms);
    return run(s, which);
}

static int write_gone(struct sqlite_store *s, const struct gone *g)
{
    static const struct {
        enum statement first, second; /* second: ST_COUNT where there is none */
    } steps[] = {
        [GONE_SINGLE] = {ST_delete, ST_COUNT},    [GONE_MARKED] = {ST_delete, ST_delete_state},
        [GONE_COPY] = {ST_delete_copy, ST_COUNT}, [GONE_SHARED] = {ST_delete, ST_delete_copies},
        [GONE_ANSWER] = {ST_forget, ST_COUNT},
    };
    int rc;

    bind_number(s->statements[steps[g->kind].first], 1, g->row);
    if (g->kind == GONE_COPY)
        bind_number(s->statements[ST_delete_copy], 2, g->copy);
    rc = run(s, steps[g->kind].first);
    if (rc != SQLITE_OK || steps[g->kind].second == ST_COUNT)
        return rc;
    bind_number(s->statements[steps[g->kind].second], 1, g->row);
    return run(s, steps[g->kind].second);
}

/* ---- transactions ---- */

static void roll_back(struct sqlite_store *s)
{
    if (!sqlite3_get_autocommit(s->db))
        (void)run(s, ST_rollback);
    s->is_open = false;
}

/* Up to SLICE of what is kept, from the changes and removes at *c and *g on. */
static int write_slice(struct sqlite_store *s, size_t *c, size_t *g)
{
    size_t next_c = *c, next_g = *g, n;
    int rc = run(s, ST_begin);

    for (n = 0; rc == SQLITE_OK && n < s->slice && next_c < s->changes.kept; n++)
        rc = write_change(s, &s->changes.items[next_c++]);
    for (; rc == SQLITE_OK && n < s->slice && next_g < s->gone.kept; n++)
        rc = write_gone(s, &s->gone.items[next_g++]);
    if (rc == SQLITE_OK)
        rc = run(s, ST_commit);
    if (rc != SQLITE_OK) {
        roll_back(s);
        return rc;
    }
    *c = next_c;
    *g = next_g;
    return SQLITE_OK;
}

static int write_kept(struct sqlite_store *s)
{
    size_t c = 0, g = 0;
    int rc = SQLITE_OK;

    s->slice = SLICE;
    while ((rc == SQLITE_OK || s->slice > 0) && (c < s->changes.kept || g < s->gone.kept)) {
        rc = write_slice(s, &c, &g);
        if (rc != SQLITE_OK)
            s->slice /= 4;
        /* The WAL starts again at its front, and needs no more room than it has. */
        (void)sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    }
    if (c > 0) {
        s->changes.len -= c;
        s->changes.kept -= c;
        memmove(s->changes.items, s->changes.items + c, s->changes.len * sizeof(struct change));
    }
    if (g > 0) {
        s->gone.len -= g;
        s->gone.kept -= g;
        memmove(s->gone.items, s->gone.items + g, s->gone.len * sizeof(struct gone));
    }
    return rc;
}

static int open_transaction(struct sqlite_store *s)
{
    int rc = SQLITE_OK;

    if (s->is_open)
        return SQLITE_OK;
    if (s->changes.kept + s->gone.kept > 0)
        rc = write_kept(s);
    if (rc == SQLITE_OK)
        rc = run(s, ST_begin);
    s->is_open = rc == SQLITE_OK;
    return rc;
}

static void bytes_leave(struct sqlite_store *s, struct item *item)
{
    if (item->bytes == NULL || (item->slot.word & ITEM_CACHED))
        return;
    s->fresh_bytes -= item->slot.word & REST_LEN;
    free(item->bytes);
    item->bytes = NULL;
}

static int write_rows(struct sqlite_store *s)
{
    int rc = open_transaction(s);

    while (rc == SQLITE_OK && s->rows_written < s->rows.len) {
        const struct fresh_row *r = (void *)(s->rows.base + s->rows_written);
        struct item *item = refs_find(&s->refs, r->ref);

        if (item != NULL) {
            rc = write_row(s, r, item);
            item->slot.word |= ITEM_WRITTEN;
            bytes_leave(s, item);
        }
        s->rows_written += r->size;
    }
    return rc;
}

static int write_answers(struct sqlite_store *s)
{
    int rc = SQLITE_OK;
    size_t at = 0;

    while (rc == SQLITE_OK && at < s->answers.len) {
        const struct fresh_answer *a = (void *)(s->answers.base + at);

        if (!a->withdrawn)
            rc = write_answer(s, a);
        at += a->size;
    }
    return rc;
}

static int write_all(struct sqlite_store *s)
{
    int rc = write_rows(s);
    size_t i;

    if (rc == SQLITE_OK)
        rc = write_answers(s);
    for (i = 0; rc == SQLITE_OK && i < s->changes.len; i++)
        rc = write_change(s, &s->changes.items[i]);
    for (i = 0; rc == SQLITE_OK && i < s->gone.len; i++)
        rc = write_gone(s, &s->gone.items[i]);
    if (rc == SQLITE_OK && fault_hits(FAULT_store_commit_fails))
        rc = SQLITE_FULL;
    return rc == SQLITE_OK ? run(s, ST_commit) : rc;
}

/* ---- how it ended ---- */

static void fresh_end(struct sqlite_store *s)
{
    s->rows.len = 0;
    s->rows_written = 0;
    s->answers.len = 0;
    s->first_row = UINT64_MAX;
}

static void rows_stay(struct sqlite_store *s)
{
    size_t at = 0;

    while (at < s->rows.len) {
        const struct fresh_row *r = (void *)(s->rows.base + at);
        struct item *item = refs_find(&s->refs, r->ref);

        if (item != NULL)
            item->slot.word &= ~(ITEM_FRESH | ITEM_WRITTEN);
        at += r->size;
    }
    fresh_end(s);
}

static void rows_drop(struct sqlite_store *s)
{
    size_t at = 0;

    while (at < s->rows.len) {
        const struct fresh_row *r = (void *)(s->rows.base + at);
        struct item *item = refs_find(&s->refs, r->ref);

        if (item != NULL)
            store_sqlite_item_end(s, item, r->ref);
        at += r->size;
    }
}

/* What was said of rows that are dropped is void; the rest is kept. */
static void rest_keep(struct sqlite_store *s)
{
    size_t i, n = 0;

    for (i = 0; i < s->changes.len; i++)
        if (s->changes.items[i].row < s->first_row)
            s->changes.items[n++] = s->changes.items[i];
    s->changes.len = n;
    if (s->changes.len >= SQUEEZE_FROM && s->changes.len >= s->changes.squeeze_at)
        squeeze(&s->changes);
    s->changes.kept = s->changes.len;
    for (i = n = 0; i < s->gone.len; i++)
        if (s->gone.items[i].row < s->first_row)
            s->gone.items[n++] = s->gone.items[i];
    s->gone.kept = s->gone.len = n;
}

static void give_up(struct sqlite_store *s, int rc)
{
    char why[160];

    snprintf(why, sizeof(why), "%s (%d, errno %d)", sqlite3_errmsg(s->db),
             sqlite3_extended_errcode(s->db), sqlite3_system_errno(s->db));
    if (rc == SQLITE_READONLY_DBMOVED)
        snprintf(why, sizeof(why), "the file was moved or removed while it is in use");
    else if (rc != sqlite3_extended_errcode(s->db))
        snprintf(why, sizeof(why), "%s", sqlite3_errstr(rc));
    if (!s->failing)
        log_error("store_failing", "path=%s error=\"%s\" damage=%s", s->path, why,
                  sqlite_is_damage(rc) ? "yes" : "no");
    s->failing = true;
    roll_back(s);
    rows_drop(s);
    rest_keep(s);
    fresh_end(s);
    store_sqlite_room_after_failure(s);
}

enum err store_sqlite_write_ahead(struct sqlite_store *s)
{
    int rc = write_rows(s);

    if (rc == SQLITE_OK)
        return ERR_OK;
    give_up(s, rc);
    s->doomed = true;
    return ERR_STORE;
}

/* What is written to a file without a name is gone with this process. */
static bool has_moved(struct sqlite_store *s)
{
    int moved = 0;

    return sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_HAS_MOVED, &moved) == SQLITE_OK &&
           moved != 0;
}

enum err store_sqlite_commit(struct sqlite_store *s)
{
    int rc;

    if (s->db == NULL || s->doomed) {
        s->failed_commits++;
        s->failing = true;
        s->doomed = false;
        return ERR_STORE;
    }
    if (s->rows.len + s->answers.len + s->changes.len + s->gone.len == 0)
        return ERR_OK;
    rc = has_moved(s) ? SQLITE_READONLY_DBMOVED : write_all(s);
    if (rc != SQLITE_OK) {
        s->failed_commits++;
        give_up(s, rc);
        return ERR_STORE;
    }
    s->is_open = false;
    s->commits++;
    if (s->failing)
        log_info("store_recovered", "path=%s failed_commits=%llu", s->path,
                 (unsigned long long)s->failed_commits);
    s->failing = false;
    rows_stay(s);
    s->changes.len = s->changes.kept = 0;
    s->gone.len = s->gone.kept = 0;
    store_sqlite_tidy(s);
    return ERR_OK;
}
