/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_SQLITE_H
#define SLIP_MAILBOX_STORE_SQLITE_H

#include <sqlite3.h>

#include "mailbox/store.h"
#include "mailbox/store_payload.h"
#include "mailbox/store_refs.h"

/* Shared by the files of the sqlite store; nobody else includes this. */

#define STORE_APPLICATION_ID 0x536c4d62 /* "SlMb" */
#define STORE_VERSION 2                 /* 1 had no STORE_KEPT, and is read as it is */
/* In columns dead, dead_ms and due_ms: kept, until when, and its order. */
#define STORE_KEPT (MBOX_DEAD_OVERFLOW + 1)
#define STORE_PAGE_BYTES 8192
#define STORE_AUTO_VACUUM "INCREMENTAL"
#define STORE_FRAMES_UNKNOWN UINT32_MAX
#define STORE_CHECKPOINT_BYTES (4u << 20) /* of the WAL, before it is written back */
#define STORE_WAL_KEPT_BYTES "67108864"   /* a WAL that one big commit made longer is cut to this */

/* Statements, prepared once. */
enum statement {
#define STATEMENT(name, sql) ST_##name,
#include "mailbox/store_sqlite.def"
#undef STATEMENT
    ST_COUNT
};

/* A message in the file, or about to be. */
struct item {
    struct ref_slot slot; /* its word: see payload_rest(), and ITEM_ flags */
    uint64_t row;         /* the id of its first copy */
    char *bytes;          /* NULL where only the file has them */
};
#define ITEM_CACHED (1u << 23)  /* bytes stay after the commit */
#define ITEM_FRESH (1u << 24)   /* appended since the last good commit */
#define ITEM_WRITTEN (1u << 25) /* fresh, and in the transaction that is open */
#define ITEM_SHARED (1u << 26)  /* a broadcast: its copies are rows of their own */
#define ITEM_MARKED (1u << 27)  /* has a row in table state */

/* What left since the last good commit. */
enum gone_kind { GONE_SINGLE, GONE_MARKED, GONE_COPY, GONE_SHARED, GONE_ANSWER };
struct gone {
    uint64_t row, copy;
    enum gone_kind kind;
};

struct change {
    uint64_t row;
    struct mbox_copy_record copy; /* without its agent */
    bool is_shared;
};

/* Arrays that grow; the first kept of them are of commits that failed. */
struct gone_list {
    struct gone *items;
    size_t len, cap, kept;
};
struct change_list {
    struct change *items;
    size_t len, cap, kept;
    size_t squeeze_at; /* beyond this length changes of one copy are made one */
};

struct sqlite_store {
    struct mbox_store store;
    sqlite3 *db; /* NULL after damage was found */
    sqlite3_stmt *statements[ST_COUNT];
    char *path;
    struct packer packer;
    struct refs refs;
    uint64_t cache_bytes, cached_bytes, payload_bytes;
    uint64_t held; /* messages */

    /* since the last good commit */
    struct buf rows;     /* struct fresh_row after struct fresh_row */
    size_t rows_written; /* offset of the first that is not in the open transaction */
    size_t fresh_bytes;  /* payloads held for the commit only */
    uint64_t first_row;  /* of the fresh ones; UINT64_MAX: none */
    struct buf answers;  /* struct fresh_answer after struct fresh_answer */
    struct gone_list gone;
    struct change_list changes;
    bool is_open; /* a transaction */
    bool doomed;  /* writing ahead failed: the commit will */

    uint64_t commits, failed_commits;
    bool failing, damage_logged, checkpoint_failing;
    uint32_t wal_pages, checkpoint_at, page_size;
    uint32_t wal_frames; /* committed ones in the WAL's file, or more than that */
    uint32_t look_at;    /* of wal_pages: how much room there is, may have changed */
    uint32_t slice;
    bool is_tight, was_tight, tight_told;
    uint64_t disk_bytes;
};

static inline struct sqlite_store *sqlite_store_of(struct mbox_store *s)
{
    return (struct sqlite_store *)(void *)((char *)s - offsetof(struct sqlite_store, store));
}

/* store_sqlite.c */
extern const struct mbox_store_ops store_sqlite_ops;
void store_sqlite_item_end(struct sqlite_store *s, struct item *item, uint64_t ref);

/* store_sqlite_open.c */
/* Damage makes the file unusable: closes it and moves it aside, with its -wal. */
void store_sqlite_quarantine(struct sqlite_store *s, const char *why);
void store_sqlite_shut(struct sqlite_store *s);
bool sqlite_is_damage(int rc);
void store_sqlite_measure(struct sqlite_store *s);

/* store_sqlite_write.c */
void store_sqlite_gone(struct sqlite_store *s, uint64_t row, uint64_t copy, enum gone_kind kind);
void store_sqlite_change(struct sqlite_store *s, uint64_t row, const struct mbox_copy_record *copy,
                         bool is_shared);
void store_sqlite_row(struct sqlite_store *s, const struct mbox_record *r, uint64_t ref);
void store_sqlite_answer(struct sqlite_store *s, const struct mbox_answer_record *a);
/* Takes back an answer that is not written yet. False: there is none of that id. */
bool store_sqlite_withdraw(struct sqlite_store *s, uint64_t answer);
/* Puts what is fresh into the open transaction, so that its payloads need not stay in memory. */
enum err store_sqlite_write_ahead(struct sqlite_store *s);
enum err store_sqlite_commit(struct sqlite_store *s);

/* store_sqlite_tidy.c */
uint64_t store_sqlite_pages(struct sqlite_store *s, enum statement which);
void store_sqlite_tidy(struct sqlite_store *s); /* after a good commit */

/* store_sqlite_room.c */
void store_sqlite_room(struct sqlite_store *s); /* after a good commit */
bool store_sqlite_has_room(struct sqlite_store *s);
void store_sqlite_room_after_failure(struct sqlite_store *s); /* and a rollback */

/* store_sqlite_scan.c */
struct row_text { /* the texts of a message in the order of its columns, then its agent */
    const char *text[9];
    size_t len[9];
};
/* Over what never changes of a message (lower half), and over its payload (upper half). */
uint64_t message_sum(uint64_t row, const struct row_text *texts, uint32_t priority,
                     uint64_t created_ms, uint64_t ttl_ms, const struct packed *payload);
uint64_t copy_sum(uint64_t row, uint64_t id, const char *agent, size_t len);
/* texts: tenant, workflow, key and the answer, one behind the other. */
uint64_t answer_sum(uint64_t id, const char *texts, const uint32_t len[4],
                    const uint64_t body_hash[2], uint64_t expires_ms);
/* Appends the payload of an item whose bytes are in the file only; raw_len: as in get_stored, NULL:
 * as in get. */
enum err store_sqlite_load(struct sqlite_store *s, const struct item *item, struct buf *out,
                           uint32_t *raw_len);
enum err store_sqlite_scan(struct sqlite_store *s, const struct mbox_scan *calls);

#endif
