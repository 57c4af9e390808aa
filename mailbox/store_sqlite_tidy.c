/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "common/log.h"
#include "mailbox/store_sqlite.h"

/*
 * Keeping the files small, in the runtime directory they are memory. Checked after a commit, and
 * bounded each time, because all mailboxes wait meanwhile.
 *
 * The WAL is written back into the database at STORE_CHECKPOINT_BYTES and starts again at its
 * front: pages that were written over and over until then (the newest messages come and go in the
 * same few) are written back once.
 *
 * The database has free pages after a backlog was read. They are used again, and given back to the
 * file system when they are many: where little else is left by writing that anew, else
 * (auto_vacuum=INCREMENTAL, for which every page costs an entry in a map: up to a fifth of the CPU
 * time) a few at a time from the end of the file.
 */
#define FREE_ENOUGH (8u << 20) /* bytes of free pages that are left alone */
#define LIVE_LITTLE (4u << 20) /* bytes that can be written anew in one go */
#define STEP_BYTES (1u << 20)  /* moved or given back with one checkpoint */

uint64_t store_sqlite_pages(struct sqlite_store *s, enum statement which)
{
    sqlite3_stmt *st = s->statements[which];
    uint64_t pages = 0;

    if (sqlite3_step(st) == SQLITE_ROW)
        pages = (uint64_t)sqlite3_column_int64(st, 0);
    sqlite3_reset(st);
    return pages;
}

static void shrink(struct sqlite_store *s)
{
    uint64_t bytes = store_sqlite_pages(s, ST_pages) * s->page_size;
    uint64_t free_bytes = store_sqlite_pages(s, ST_free_pages) * s->page_size;
    char sql[64];

    if (free_bytes < FREE_ENOUGH || free_bytes > bytes)
        return;
    if (bytes - free_bytes <= LIVE_LITTLE)
        snprintf(sql, sizeof(sql), "VACUUM");
    else if (free_bytes > bytes / 4)
        snprintf(sql, sizeof(sql), "PRAGMA incremental_vacuum(%u)", STEP_BYTES / s->page_size);
    else
        return;
    /* Failing is for the next commit to meet, if there is no room or worse. */
    if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK)
        log_debug("store_not_shrunk", "path=%s error=\"%s\"", s->path, sqlite3_errmsg(s->db));
}

static bool is_due(const struct sqlite_store *s)
{
    if (s->wal_pages >= s->checkpoint_at)
        return true;
    return s->held == 0 && s->disk_bytes >= FREE_ENOUGH + STORE_CHECKPOINT_BYTES;
}

void store_sqlite_tidy(struct sqlite_store *s)
{
    int rc;

    store_sqlite_room(s);
    if (!is_due(s))
        return;
    s->look_at = 0;
    shrink(s);
    rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    store_sqlite_measure(s);
    if (rc == SQLITE_OK) {
        s->wal_pages = 0;
        s->checkpoint_at = STORE_CHECKPOINT_BYTES / s->page_size;
        s->checkpoint_failing = false;
        return;
    }
    s->checkpoint_at = s->wal_pages + STORE_CHECKPOINT_BYTES / s->page_size;
    if (!s->checkpoint_failing)
        log_warn("store_checkpoint_fails", "path=%s error=\"%s\"", s->path, sqlite3_errmsg(s->db));
    s->checkpoint_failing = true;
}
