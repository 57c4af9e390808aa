/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/log.h"
#include "common/must.h"
#include "mailbox/store_sqlite.h"

/*
 * Reading back. SQLite notices damage to its own structure only, so every row carries a sum of what
 * it says, and nothing that does not match it is believed: a letter must not go to another agent
 * because of a flipped bit.
 */
enum column {
    COL_ID,
    COL_TEXTS,
    COL_PRIORITY = COL_TEXTS + 8,
    COL_CREATED,
    COL_TTL,
    COL_RAW_LEN,
    COL_STORED,
    COL_SUM,
    COL_AGENT,
    COL_COPY,                 /* expires_ms, due_ms, attempts, dead, dead_ms */
    COL_STATE = COL_COPY + 5, /* id, and the same five */
    COL_PAYLOAD_TYPE = COL_STATE + 6
};

struct reader {
    struct sqlite_store *s;
    struct mbox_copy_record *copies;
    size_t copy_cap;
    struct buf agents; /* texts of the row at hand */
};

static uint32_t head_sum(uint64_t row, const struct row_text *t, const uint64_t numbers[3])
{
    uint64_t sum = XXH3_64bits_withSeed(numbers, 3 * sizeof(numbers[0]), row);
    size_t i;

    for (i = 0; i < 9; i++)
        sum = XXH3_64bits_withSeed(t->text[i], t->len[i], sum + t->len[i]);
    return (uint32_t)sum;
}

static uint32_t payload_sum(uint64_t row, const struct packed *p)
{
    return (uint32_t)XXH3_64bits_withSeed(p->bytes, p->len, row ^ (uint64_t)p->raw_len << 40);
}

uint64_t message_sum(uint64_t row, const struct row_text *texts, uint32_t priority,
                     uint64_t created_ms, uint64_t ttl_ms, const struct packed *payload)
{
    const uint64_t numbers[3] = {priority, created_ms, ttl_ms};

    return (uint64_t)payload_sum(row, payload) << 32 | head_sum(row, texts, numbers);
}

uint64_t copy_sum(uint64_t row, uint64_t id, const char *agent, size_t len)
{
    return XXH3_64bits_withSeed(agent, len, row << 32 ^ id);
}

uint64_t answer_sum(uint64_t id, const char *texts, const uint32_t len[4],
                    const uint64_t body_hash[2], uint64_t expires_ms)
{
    const uint64_t numbers[5] = {body_hash[0], body_hash[1], expires_ms,
                                 (uint64_t)len[0] << 32 | len[1], (uint64_t)len[2] << 32 | len[3]};
    uint64_t sum = XXH3_64bits_withSeed(numbers, sizeof(numbers), id);

    return XXH3_64bits_withSeed(texts, (size_t)len[0] + len[1] + len[2] + len[3], sum);
}

/* ---- payloads ---- */

static enum err read_failed(struct sqlite_store *s, uint64_t row, const char *why)
{
    if (!s->damage_logged)
        log_error("store_unreadable", "path=%s row=%llu error=\"%s\"", s->path,
                  (unsigned long long)row, why);
    s->damage_logged = true;
    return ERR_IO;
}

/* The payload of item as the file has it, valid until the statement is reset. NULL, or why not. */
static const char *payload_read(struct sqlite_store *s, const struct item *item, struct packed *out)
{
    sqlite3_stmt *st = s->statements[ST_payload];
    bool is_packed = (item->slot.word & REST_PACKED) != 0;
    int64_t raw_len;
    int rc;

    sqlite3_bind_int64(st, 1, (sqlite3_int64)item->row);
    rc = sqlite3_step(st);
    if (rc == SQLITE_DONE)
        return "it is gone";
    if (rc != SQLITE_ROW)
        return sqlite3_errmsg(s->db);
    out->bytes = sqlite3_column_blob(st, 0);
    out->len = (uint32_t)sqlite3_column_bytes(st, 0);
    out->is_packed = sqlite3_column_type(st, 1) == SQLITE_INTEGER;
    raw_len = out->is_packed ? sqlite3_column_int64(st, 1) : out->len;
    if (out->len != (item->slot.word & REST_LEN) || out->is_packed != is_packed || raw_len < 0 ||
        raw_len > MBOX_PAYLOAD_MAX)
        return "its length changed";
    out->raw_len = (uint32_t)raw_len;
    if (payload_sum(item->row, out) != (uint64_t)sqlite3_column_int64(st, 2) >> 32)
        return "its payload does not match its sum";
    return NULL;
}

enum err store_sqlite_load(struct sqlite_store *s, const struct item *item, struct buf *out,
                           uint32_t *raw_len)
{
    struct packed p;
    const char *why;
    enum err e = ERR_OK;

    if (s->db == NULL)
        return ERR_IO;
    why = payload_read(s, item, &p);
    if (why != NULL)
        e = read_failed(s, item->row, why);
    else if (raw_len != NULL)
        payload_give(&p, out, raw_len);
    else
        e = payload_unpack(&p, out);
    sqlite3_reset(s->statements[ST_payload]);
    return e;
}

/* ---- messages ---- */

/* False: not a number of 0 to max. */
static bool column_number(sqlite3_stmt *st, int at, uint64_t max, uint64_t *out)
{
    int64_t v = sqlite3_column_int64(st, at);

    if (sqlite3_column_type(st, at) != SQLITE_INTEGER || v < 0 || (uint64_t)v > max)
        return false;
    *out = (uint64_t)v;
    return true;
}

/* False: not a text, or one with a zero in it. */
static bool column_text(sqlite3_stmt *st, int at, const char **out, size_t *len)
{
    if (sqlite3_column_type(st, at) != SQLITE_TEXT)
        return false;
    *out = (const char *)sqlite3_column_text(st, at);
    *len = (size_t)sqlite3_column_bytes(st, at);
    return *out != NULL && strlen(*out) == *len;
}

/* Five columns from at on. */
static bool column_copy(sqlite3_stmt *st, int at, struct mbox_copy_record *out)
{
    uint64_t attempts, dead;

    if (!column_number(st, at, INT64_MAX, &out->expires_ms) ||
        !column_number(st, at + 1, INT64_MAX, &out->due_ms) ||
        !column_number(st, at + 2, UINT32_MAX, &attempts) ||
        !column_number(st, at + 3, STORE_KEPT, &dead) ||
        !column_number(st, at + 4, INT64_MAX, &out->dead_ms))
        return false;
    out->attempts = (uint32_t)attempts;
    if (dead == STORE_KEPT) {
        out->kept_ms = out->dead_ms;
        out->kept_order = out->due_ms;
        out->dead_ms = out->due_ms = dead = 0;
    }
    out->dead = (enum mbox_dead)dead;
    return true;
}

static struct mbox_copy_record *copy_room(struct reader *r, size_t n)
{
    if (n == r->copy_cap) {
        r->copy_cap = n != 0 ? n * 2 : 16;
        r->copies = realloc(r->copies, r->copy_cap * sizeof(r->copies[0]));
        must(r->copies != NULL);
    }
    r->copies[n] = (struct mbox_copy_record){0};
    return &r->copies[n];
}

/* The copies of a broadcast, with their agents in r->agents. False: garbage, or reading failed. */
static bool copies_read(struct reader *r, uint64_t row, size_t *count, int *rc)
{
    sqlite3_stmt *st = r->s->statements[ST_copies];
    bool is_good = true;
    size_t n = 0, i;

    r->agents.len = 0;
    sqlite3_bind_int64(st, 1, (sqlite3_int64)row);
    while (is_good && (*rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct mbox_copy_record *c = copy_room(r, n++);
        const char *agent;
        size_t len;

        is_good = column_number(st, 0, INT64_MAX, &c->id) && column_text(st, 1, &agent, &len) &&
                  column_copy(st, 2, c) &&
                  copy_sum(row, c->id, agent, len) == (uint64_t)sqlite3_column_int64(st, 7);
        if (!is_good)
            break;
        c->agent = (const char *)(uintptr_t)r->agents.len; /* the buffer moves while it grows */
        buf_add(&r->agents, agent, len + 1);
    }
    sqlite3_reset(st);
    for (i = 0; is_good && i < n; i++)
        r->copies[i].agent = r->agents.base + (uintptr_t)r->copies[i].agent;
    *count = n;
    return is_good && *rc == SQLITE_DONE && n > 0;
}

/* The only copy of a message, which is in the message's row, or in table state since it changed. */
static bool copy_read(struct reader *r, sqlite3_stmt *st, uint64_t row, bool *is_marked)
{
    struct mbox_copy_record *c = copy_room(r, 0);
    size_t len;

    *is_marked = sqlite3_column_type(st, COL_STATE) == SQLITE_INTEGER;
    c->id = row;
    return column_text(st, COL_AGENT, &c->agent, &len) &&
           column_copy(st, *is_marked ? COL_STATE + 1 : COL_COPY, c);
}

static bool message_read(struct reader *r, struct mbox_record *out, uint64_t *row, uint32_t *word)
{
    sqlite3_stmt *st = r->s->statements[ST_messages];
    uint64_t priority, stored, raw_len, numbers[3];
    const char *type = (const char *)sqlite3_column_text(st, COL_PAYLOAD_TYPE);
    bool is_packed = sqlite3_column_type(st, COL_RAW_LEN) != SQLITE_NULL;
    struct row_text t;
    int i;

    for (i = 0; i < 8; i++)
        if (!column_text(st, COL_TEXTS + i, &t.text[i], &t.len[i]))
            return false;
    if (!column_number(st, COL_ID, INT64_MAX, row) || *row == 0 ||
        !column_number(st, COL_PRIORITY, UINT32_MAX, &priority) ||
        !column_number(st, COL_CREATED, INT64_MAX, &out->created_ms) ||
        !column_number(st, COL_TTL, INT64_MAX, &out->ttl_ms) ||
        !column_number(st, COL_STORED, MBOX_PAYLOAD_MAX, &stored) || strcmp(type, "blob") != 0)
        return false;
    raw_len = stored;
    if (is_packed && (!column_number(st, COL_RAW_LEN, MBOX_PAYLOAD_MAX, &raw_len) || stored == 0))
        return false;
    t.text[8] = "";
    t.len[8] = 0;
    if (sqlite3_column_type(st, COL_AGENT) != SQLITE_NULL &&
        !column_text(st, COL_AGENT, &t.text[8], &t.len[8]))
        return false;
    numbers[0] = priority;
    numbers[1] = out->created_ms;
    numbers[2] = out->ttl_ms;
    if (head_sum(*row, &t, numbers) != (uint32_t)sqlite3_column_int64(st, COL_SUM))
        return false;
    *out = (struct mbox_record){t.text[0],  t.text[1],  t.text[2],
                                t.text[3],  t.text[4],  t.text[5],
                                t.text[6],  t.text[7],  (uint32_t)priority,
                                numbers[1], numbers[2], NULL,
                                raw_len,    NULL,       0,
                                NULL,       0};
    *word = (uint32_t)stored | (is_packed ? REST_PACKED : 0);
    return true;
}

/* Oldest first into the cache, as far as it reaches. */
static enum err cache_fill(struct sqlite_store *s, struct item *item)
{
    uint32_t len = item->slot.word & REST_LEN, word;
    struct packed p;
    const char *why;

    if (s->cached_bytes + len > s->cache_bytes)
        return ERR_OK;
    if (len > 0) {
        why = payload_read(s, item, &p);
        if (why == NULL)
            item->bytes = payload_rest(&p, &word);
        sqlite3_reset(s->statements[ST_payload]);
        if (why != NULL)
            return read_failed(s, item->row, why);
    }
    item->slot.word |= ITEM_CACHED;
    s->cached_bytes += len;
    return ERR_OK;
}

/* One row of the query. ERR_CONF: garbage; ERR_IO: see rc. */
static enum err message_take(struct reader *r, const struct mbox_scan *calls, int *rc)
{
    struct sqlite_store *s = r->s;
    sqlite3_stmt *st = s->statements[ST_messages];
    struct mbox_record record = {0};
    size_t count = 1;
    uint64_t row, ref;
    uint32_t word;
    struct item *item;
    bool is_marked = false, is_shared = sqlite3_column_type(st, COL_AGENT) == SQLITE_NULL;

    *rc = SQLITE_ROW;
    if (!message_read(r, &record, &row, &word))
        return ERR_CONF;
    if (is_shared ? !copies_read(r, row, &count, rc) : !copy_read(r, st, row, &is_marked))
        return *rc == SQLITE_ROW || *rc == SQLITE_DONE ? ERR_CONF : ERR_IO;
    record.copies = r->copies;
    record.copy_count = count;
    item = refs_take(&s->refs, &ref);
    item->row = row;
    item->slot.word = word | (is_shared ? ITEM_SHARED : 0) | (is_marked ? ITEM_MARKED : 0);
    s->payload_bytes += word & REST_LEN;
    s->held++;
    if (cache_fill(s, item) != ERR_OK)
        return ERR_CONF;
    calls->message(calls->arg, ref, word & REST_LEN, &record);
    return ERR_OK;
}

static enum err messages_take(struct reader *r, const struct mbox_scan *calls, int *rc)
{
    sqlite3_stmt *st = r->s->statements[ST_messages];
    enum err e = ERR_OK;

    while (e == ERR_OK && (*rc = sqlite3_step(st)) == SQLITE_ROW)
        e = message_take(r, calls, rc);
    if (e == ERR_OK && *rc != SQLITE_DONE)
        e = ERR_IO;
    return e;
}

/* ---- answers ---- */

static bool answer_read(struct reader *r, struct mbox_answer_record *a)
{
    sqlite3_stmt *st = r->s->statements[ST_answers];
    uint32_t len[4];
    size_t n[3];
    int i;

    if (!column_number(st, 0, INT64_MAX, &a->id) || !column_text(st, 1, &a->tenant, &n[0]) ||
        !column_text(st, 2, &a->workflow, &n[1]) || !column_text(st, 3, &a->key, &n[2]) ||
        !column_number(st, 6, INT64_MAX, &a->expires_ms) ||
        sqlite3_column_type(st, 8) != SQLITE_BLOB)
        return false;
    a->body_hash[0] = (uint64_t)sqlite3_column_int64(st, 4);
    a->body_hash[1] = (uint64_t)sqlite3_column_int64(st, 5);
    a->answer = sqlite3_column_blob(st, 8);
    a->answer_len = (size_t)sqlite3_column_bytes(st, 8);
    r->agents.len = 0;
    for (i = 0; i < 3; i++) {
        len[i] = (uint32_t)n[i];
        buf_add(&r->agents, (const char *)sqlite3_column_text(st, 1 + i), n[i]);
    }
    len[3] = (uint32_t)a->answer_len;
    if (len[3] > 0)
        buf_add(&r->agents, a->answer, a->answer_len);
    return answer_sum(a->id, r->agents.base, len, a->body_hash, a->expires_ms) ==
           (uint64_t)sqlite3_column_int64(st, 7);
}

static enum err answers_take(struct reader *r, const struct mbox_scan *calls, int *rc)
{
    sqlite3_stmt *st = r->s->statements[ST_answers];

    while ((*rc = sqlite3_step(st)) == SQLITE_ROW) {
        struct mbox_answer_record a = {0};

        if (!answer_read(r, &a))
            return ERR_CONF;
        calls->answer(calls->arg, &a);
    }
    return *rc == SQLITE_DONE ? ERR_OK : ERR_IO;
}

enum err store_sqlite_scan(struct sqlite_store *s, const struct mbox_scan *calls)
{
    struct reader r = {.s = s};
    char why[200];
    int rc = SQLITE_OK;
    enum err e;

    if (s->db == NULL)
        return ERR_IO;
    e = messages_take(&r, calls, &rc);
    if (e == ERR_CONF)
        snprintf(why, sizeof(why), "message %lld is garbage",
                 (long long)sqlite3_column_int64(s->statements[ST_messages], COL_ID));
    if (e == ERR_OK) {
        e = answers_take(&r, calls, &rc);
        if (e == ERR_CONF)
            snprintf(why, sizeof(why), "answer %lld is garbage",
                     (long long)sqlite3_column_int64(s->statements[ST_answers], 0));
    }
    if (e == ERR_IO) {
        snprintf(why, sizeof(why), "%s", sqlite3_errmsg(s->db));
        e = sqlite_is_damage(rc) ? ERR_CONF : ERR_IO;
    }
    sqlite3_reset(s->statements[ST_messages]);
    sqlite3_reset(s->statements[ST_answers]);
    free(r.copies);
    buf_fini(&r.agents);
    if (e == ERR_CONF)
        store_sqlite_quarantine(s, why);
    else if (e == ERR_IO)
        log_error("store_unreadable", "path=%s error=\"%s\"", s->path, why);
    return e;
}
