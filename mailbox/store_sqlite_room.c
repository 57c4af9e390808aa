/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>

#include "common/log.h"
#include "mailbox/store_sqlite.h"

/*
 * Room in the file system.
 *
 * Taking messages out needs some, too: what leaves is written to the WAL before it leaves the
 * database, and a checkpoint may make the database as much longer as the WAL has new pages. So the
 * last of the room is not for what comes: appends are refused while less than a reserve would be
 * left after a checkpoint. Readers can always take what is there then, what they leave behind goes
 * back to the file system, and appends go on.
 *
 * A commit that met the end of the room all the same leaves a WAL that fills the disk with what was
 * never committed; it is cut off, as a checkpoint needs that room.
 */
#define RESERVE_BYTES (1u << 20)
#define RESERVE_SHARE 8u /* of a small file system: so much of it at most */
#define STEP_PAGES 16u   /* given back with one checkpoint; each may take a few pages of the WAL */
#define STEPS_MAX 64u    /* of one commit */
#define FRAME_HEAD 24u
#define WAL_HEAD 32u

/* How much longer a checkpoint makes the database. */
static uint64_t growth_of(struct sqlite_store *s)
{
    uint64_t then = store_sqlite_pages(s, ST_pages) * s->page_size;
    struct stat st;
    uint64_t now = stat(s->path, &st) == 0 ? (uint64_t)st.st_size : 0;

    return then > now ? then - now : 0;
}

static void room_look(struct sqlite_store *s)
{
    struct statvfs fs;
    uint64_t reserve, room, growth;
    bool was_tight = s->is_tight;

    s->look_at = s->wal_pages + 1;
    if (statvfs(s->path, &fs) != 0)
        return;
    reserve = (uint64_t)fs.f_blocks * fs.f_frsize / RESERVE_SHARE;
    if (reserve > RESERVE_BYTES)
        reserve = RESERVE_BYTES;
    if (was_tight) /* a little more, so that it does not flutter */
        reserve += reserve / 4;
    room = (uint64_t)fs.f_bavail * fs.f_frsize;
    growth = growth_of(s);
    s->is_tight = room < growth + reserve;
    if (!s->is_tight)
        s->look_at += (uint32_t)((room - growth - reserve) / 4 / s->page_size);
    if (s->is_tight != was_tight)
        s->tight_told = false;
}

static void tell(struct sqlite_store *s)
{
    static const char *const words[] = {"store_has_room", "store_short_of_room"};

    if (s->tight_told)
        return;
    s->tight_told = true;
    if (s->is_tight)
        log_error(words[1], "path=%s sends=refused until=\"messages were taken, or there is room\"",
                  s->path);
    else if (s->was_tight)
        log_info(words[0], "path=%s", s->path);
    s->was_tight = s->is_tight;
}

/* Writes the WAL back, and gives its room back as well. */
static bool checkpoint(struct sqlite_store *s)
{
    if (sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL) != SQLITE_OK)
        return false;
    s->wal_pages = s->wal_frames = 0;
    s->checkpoint_at = STORE_CHECKPOINT_BYTES / s->page_size;
    return true;
}

static void relieve(struct sqlite_store *s)
{
    unsigned steps = STEPS_MAX;
    char sql[64];

    if (!checkpoint(s))
        return;
    room_look(s);
    snprintf(sql, sizeof(sql), "PRAGMA incremental_vacuum(%u)", STEP_PAGES);
    while (s->is_tight && steps-- > 0 && store_sqlite_pages(s, ST_free_pages) > 0) {
        if (sqlite3_exec(s->db, sql, NULL, NULL, NULL) != SQLITE_OK || !checkpoint(s))
            break;
        room_look(s);
    }
    store_sqlite_measure(s);
}

void store_sqlite_room(struct sqlite_store *s)
{
    if (!s->is_tight && s->wal_pages < s->look_at)
        return;
    room_look(s);
    if (s->is_tight)
        relieve(s);
    tell(s);
}

bool store_sqlite_has_room(struct sqlite_store *s)
{
    if (!s->is_tight)
        return true;
    if (!s->is_open)
        room_look(s);
    tell(s);
    return !s->is_tight;
}

/* Nothing is under way. */
static void wal_cut(struct sqlite_store *s)
{
    sqlite3_file *f = NULL;
    uint64_t bytes = 0;

    if (s->wal_frames == STORE_FRAMES_UNKNOWN)
        return;
    if (s->wal_frames > 0)
        bytes = WAL_HEAD + (uint64_t)s->wal_frames * (FRAME_HEAD + s->page_size);
    if (sqlite3_file_control(s->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, (void *)&f) !=
            SQLITE_OK ||
        f == NULL || f->pMethods == NULL)
        return;
    (void)f->pMethods->xTruncate(f, (sqlite3_int64)bytes);
}

void store_sqlite_room_after_failure(struct sqlite_store *s)
{
    wal_cut(s);
    room_look(s);
    relieve(s);
    tell(s);
}
