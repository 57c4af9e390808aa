/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/log.h"
#include "common/must.h"
#include "mailbox/store_sqlite.h"

/*
 * Opening the file, and what to do with one that is damaged.
 *
 * Crash-safe means synchronous=NORMAL. After kill -9 of this process everything it wrote is still
 * in the page cache, so even OFF loses nothing then; NORMAL adds an fsync before and after each
 * checkpoint, which is free on tmpfs (where the runtime directory is), and on a disk makes the
 * difference between a file that lost its last commits in a power cut and a file that is damaged.
 * power_safe is FULL: an fsync of the WAL with every commit.
 *
 * One process: locking_mode=EXCLUSIVE holds the file's lock while it is open and keeps the index
 * of the WAL in our memory instead of in a shared -shm file.
 */
#define CHECK_BYTES                                                              \
    (256u << 20) /* bigger files are not checked as a whole before they are used \
                  */
#define PATH_ROOM 512u

bool sqlite_is_damage(int rc)
{
    int code = rc & 0xff;

    return code == SQLITE_CORRUPT || code == SQLITE_NOTADB || code == SQLITE_FORMAT ||
           code == SQLITE_TOOBIG;
}

static uint64_t file_bytes(const char *path, const char *suffix)
{
    char name[PATH_ROOM];
    struct stat st;

    snprintf(name, sizeof(name), "%s%s", path, suffix);
    return stat(name, &st) == 0 ? (uint64_t)st.st_size : 0;
}

void store_sqlite_measure(struct sqlite_store *s)
{
    s->disk_bytes = file_bytes(s->path, "") + file_bytes(s->path, "-wal");
}

void store_sqlite_shut(struct sqlite_store *s)
{
    size_t i;

    for (i = 0; i < ST_COUNT; i++) {
        sqlite3_finalize(s->statements[i]);
        s->statements[i] = NULL;
    }
    if (s->db != NULL)
        must(sqlite3_close(s->db) == SQLITE_OK);
    s->db = NULL;
    s->is_open = false;
}

static bool move_aside(const char *path, const char *suffix, const char *stamp)
{
    char from[PATH_ROOM], to[PATH_ROOM + 64];

    snprintf(from, sizeof(from), "%s%s", path, suffix);
    snprintf(to, sizeof(to), "%s.damaged-%s%s", path, stamp, suffix);
    if (rename(from, to) == 0 || errno == ENOENT)
        return true;
    log_error("store_not_moved", "from=%s to=%s error=\"%s\"", from, to, strerror(errno));
    return false;
}

static void draw_stamp(const char *path, char *stamp, size_t size)
{
    char name[PATH_ROOM + 64];
    time_t now = time(NULL);
    struct tm tm;
    size_t len = strftime(stamp, size, "%Y%m%dT%H%M%SZ", gmtime_r(&now, &tm));
    struct stat st;
    int n;

    for (n = 2;; n++) {
        snprintf(name, sizeof(name), "%s.damaged-%s", path, stamp);
        if (lstat(name, &st) != 0)
            return;
        snprintf(stamp + len, size - len, "-%d", n);
    }
}

/* The database goes first: were it to be found without its -wal after a crash here, it would look
 * whole; a -wal that is found alone is noticed at the next open. */
void store_sqlite_quarantine(struct sqlite_store *s, const char *why)
{
    char stamp[48], quoted[256];

    if (s->db != NULL)
        (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    log_quote(quoted, sizeof(quoted), why, strlen(why)); /* why may be of the database */
    store_sqlite_shut(s);
    draw_stamp(s->path, stamp, sizeof(stamp));
    if (move_aside(s->path, "", stamp) && move_aside(s->path, "-wal", stamp) &&
        move_aside(s->path, "-shm", stamp) && move_aside(s->path, "-journal", stamp))
        log_error("store_damaged", "path=%s why=%s moved_to=%s.damaged-%s next_start=empty",
                  s->path, quoted, s->path, stamp);
    else
        log_error("store_damaged", "path=%s why=%s next_start=fails until it is moved away",
                  s->path, quoted);
}

static enum err open_failed(struct sqlite_store *s, int rc, const char *doing)
{
    char why[256];

    snprintf(why, sizeof(why), "%s: %s", doing,
             s->db != NULL ? sqlite3_errmsg(s->db) : sqlite3_errstr(rc));
    if (sqlite_is_damage(rc)) {
        store_sqlite_quarantine(s, why);
        return ERR_CONF;
    }
    if ((rc & 0xff) == SQLITE_BUSY)
        snprintf(why, sizeof(why), "another process has it open");
    log_error("store_open_failed", "path=%s error=\"%s\" errno=%d", s->path, why,
              s->db != NULL ? sqlite3_system_errno(s->db) : 0);
    return ERR_IO;
}

static int number_of(sqlite3 *db, const char *sql, int64_t *out)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &st, NULL);

    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc == SQLITE_ROW) {
        *out = sqlite3_column_int64(st, 0);
        rc = SQLITE_OK;
    }
    sqlite3_finalize(st);
    return rc;
}

/* Messages are for nobody else's eyes; the -wal takes its rights from the database. */
static enum err file_make(struct sqlite_store *s)
{
    struct stat st;
    bool exists = stat(s->path, &st) == 0;
    int fd;

    if (exists && !S_ISREG(st.st_mode)) {
        log_error("store_open_failed", "path=%s error=\"not a regular file\"", s->path);
        return ERR_IO;
    }
    if ((!exists || st.st_size == 0) && file_bytes(s->path, "-wal") > 0) {
        store_sqlite_quarantine(s, "the log of a database that is gone"); /* SQLite deletes it */
        return ERR_CONF;
    }
    if (exists)
        return ERR_OK;
    fd = open(s->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        log_error("store_open_failed", "path=%s error=\"%s\"", s->path, strerror(errno));
        return ERR_IO;
    }
    close(fd);
    return ERR_OK;
}

static int db_open(struct sqlite_store *s)
{
    int rc;

    /* One thread, and nobody asks for SQLite's totals: no locks, no counting in its malloc. Refused
     * where SQLite is in use already, which is fine. */
    (void)sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
    rc = sqlite3_open_v2(s->path, &s->db,
                         SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE,
                         NULL);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_extended_result_codes(s->db, 1);
    /* A file from elsewhere must not run anything of its own, nor make us allocate what it says. */
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
    (void)sqlite3_limit(s->db, SQLITE_LIMIT_LENGTH, (int)(MBOX_PAYLOAD_MAX + (64u << 10)));
    return sqlite3_exec(s->db,
                        "PRAGMA locking_mode=EXCLUSIVE; PRAGMA temp_store=MEMORY;"
                        "PRAGMA cell_size_check=ON; PRAGMA secure_delete=OFF;"
                        "PRAGMA cache_size=-8192",
                        NULL, NULL, NULL);
}

static int db_create(struct sqlite_store *s)
{
    char sql[1600];

    /* In one transaction, and before WAL: a crash leaves an empty file or a complete one. The
     * payload comes last in its row, so that the rest is read without its overflow pages. */
    snprintf(
        sql, sizeof(sql),
        "PRAGMA page_size=%d; PRAGMA auto_vacuum=%s; BEGIN EXCLUSIVE;"
        "PRAGMA application_id=%d; PRAGMA user_version=%d;"
        "CREATE TABLE message(id INTEGER PRIMARY KEY, tenant TEXT, workflow TEXT,"
        " message_id TEXT, source TEXT, type TEXT, correlation_id TEXT, reply_to TEXT,"
        " in_group TEXT, priority INT, created_ms INT, ttl_ms INT, agent TEXT, expires_ms INT,"
        " due_ms INT, attempts INT, dead INT, dead_ms INT, raw_len INT, sum INT,"
        " payload BLOB);"
        "CREATE TABLE copy(message INT, id INT, agent TEXT, expires_ms INT, due_ms INT,"
        " attempts INT, dead INT, dead_ms INT, sum INT, PRIMARY KEY(message, id)) WITHOUT ROWID;"
        "CREATE TABLE state(id INTEGER PRIMARY KEY, expires_ms INT, due_ms INT, attempts INT,"
        " dead INT, dead_ms INT);"
        "CREATE TABLE answer(id INTEGER PRIMARY KEY, tenant TEXT, workflow TEXT, key TEXT,"
        " hash_low INT, hash_high INT, expires_ms INT, sum INT, answer BLOB);"
        "COMMIT",
        STORE_PAGE_BYTES, STORE_AUTO_VACUUM, STORE_APPLICATION_ID, STORE_VERSION);
    return sqlite3_exec(s->db, sql, NULL, NULL, NULL);
}

/* So that a program of the older version, which would not understand it any more, leaves it alone.
 */
static enum err upgrade(struct sqlite_store *s)
{
    char sql[48];
    int rc;

    snprintf(sql, sizeof(sql), "PRAGMA user_version=%d", STORE_VERSION);
    rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? ERR_OK : open_failed(s, rc, "upgrading it");
}

/* Whose file is this, and of what age? Neither a stranger's nor a newer one is touched. */
static enum err identify(struct sqlite_store *s)
{
    int64_t application = 0, version = 0, tables = 0;
    int rc = number_of(s->db, "PRAGMA application_id", &application);

    if (rc == SQLITE_OK)
        rc = number_of(s->db, "PRAGMA user_version", &version);
    if (rc == SQLITE_OK)
        rc = number_of(s->db, "SELECT count(*) FROM sqlite_schema", &tables);
    if (rc != SQLITE_OK)
        return open_failed(s, rc, "reading its head");
    if (application == 0 && version == 0 && tables == 0) {
        rc = db_create(s);
        return rc == SQLITE_OK ? ERR_OK : open_failed(s, rc, "creating its tables");
    }
    if (application != STORE_APPLICATION_ID) {
        log_error("store_open_failed",
                  "path=%s error=\"this database belongs to another program\" application_id=%lld",
                  s->path, (long long)application);
        return ERR_IO;
    }
    if (version < 1 || version > STORE_VERSION) {
        log_error(
            "store_open_failed",
            "path=%s error=\"written by a newer version of this program, which alone can read "
            "it\" version=%lld readable=%d",
            s->path, (long long)version, STORE_VERSION);
        return ERR_IO;
    }
    return version == STORE_VERSION ? ERR_OK : upgrade(s);
}

static enum err start_wal(struct sqlite_store *s, bool power_safe)
{
    sqlite3_stmt *st = NULL;
    int rc = sqlite3_prepare_v2(s->db, "PRAGMA journal_mode=WAL", -1, &st, NULL);
    bool is_wal;

    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    is_wal = rc == SQLITE_ROW && strcmp((const char *)sqlite3_column_text(st, 0), "wal") == 0;
    if (rc == SQLITE_ROW && !is_wal)
        rc = SQLITE_CANTOPEN;
    sqlite3_finalize(st);
    if (!is_wal)
        return open_failed(s, rc, "starting its log");
    rc = sqlite3_exec(s->db,
                      power_safe ? "PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0;"
                                 : "PRAGMA synchronous=NORMAL; PRAGMA wal_autocheckpoint=0;",
                      NULL, NULL, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_exec(s->db, "PRAGMA journal_size_limit=" STORE_WAL_KEPT_BYTES, NULL, NULL,
                          NULL);
    return rc == SQLITE_OK ? ERR_OK : open_failed(s, rc, "setting it up");
}

static enum err check(struct sqlite_store *s)
{
    sqlite3_stmt *st = NULL;
    enum err e = ERR_OK;
    char why[200];
    int rc;

    if (file_bytes(s->path, "") > CHECK_BYTES) {
        log_info("store_not_checked", "path=%s bytes=%llu why=\"too big; read as it is used\"",
                 s->path, (unsigned long long)file_bytes(s->path, ""));
        return ERR_OK;
    }
    rc = sqlite3_prepare_v2(s->db, "PRAGMA quick_check(1)", -1, &st, NULL);
    if (rc == SQLITE_OK)
        rc = sqlite3_step(st);
    if (rc != SQLITE_ROW)
        e = ERR_IO;
    else if (strcmp((const char *)sqlite3_column_text(st, 0), "ok") != 0)
        e = ERR_CONF;
    if (e == ERR_CONF)
        snprintf(why, sizeof(why), "%.190s", (const char *)sqlite3_column_text(st, 0));
    sqlite3_finalize(st);
    if (e == ERR_CONF)
        store_sqlite_quarantine(s, why);
    return e == ERR_IO ? open_failed(s, rc, "checking it") : e;
}

static enum err prepare(struct sqlite_store *s)
{
    static const char *const sql[ST_COUNT] = {
#define STATEMENT(name, text) [ST_##name] = (text),
#include "mailbox/store_sqlite.def"
#undef STATEMENT
    };
    size_t i;
    int rc;

    for (i = 0; i < ST_COUNT; i++) {
        rc = sqlite3_prepare_v3(s->db, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &s->statements[i],
                                NULL);
        if (rc != SQLITE_OK) /* a table or a column is missing */
            return open_failed(s, rc == SQLITE_ERROR ? SQLITE_CORRUPT : rc, "its tables");
    }
    return ERR_OK;
}

static int on_wal(void *arg, sqlite3 *db, const char *name, int pages)
{
    struct sqlite_store *s = arg;

    (void)db;
    (void)name;
    s->wal_pages = s->wal_frames = (uint32_t)pages;
    return SQLITE_OK;
}

static enum err store_start(struct sqlite_store *s, bool power_safe)
{
    int64_t page_size = 0;
    enum err e = file_make(s);
    int rc;

    if (e != ERR_OK)
        return e;
    rc = db_open(s);
    if (rc != SQLITE_OK)
        return open_failed(s, rc, "opening it");
    e = identify(s);
    if (e == ERR_OK)
        e = start_wal(s, power_safe);
    if (e == ERR_OK)
        e = check(s);
    if (e == ERR_OK)
        e = prepare(s);
    if (e != ERR_OK)
        return e;
    rc = number_of(s->db, "PRAGMA page_size", &page_size);
    if (rc != SQLITE_OK || page_size <= 0)
        return open_failed(s, rc, "reading its head");
    s->page_size = (uint32_t)page_size;
    s->checkpoint_at = STORE_CHECKPOINT_BYTES / s->page_size;
    (void)sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
    sqlite3_wal_hook(s->db, on_wal, s);
    store_sqlite_measure(s);
    return ERR_OK;
}

enum err store_sqlite_open(const struct store_sqlite_conf *conf, struct mbox_store **out)
{
    struct sqlite_store *s;
    enum err e;

    if (strlen(conf->path) == 0 || strlen(conf->path) > PATH_ROOM - 16) {
        log_error("store_open_failed", "error=\"its path must have 1 to %u bytes\"",
                  PATH_ROOM - 16);
        return ERR_IO;
    }
    s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->store.ops = &store_sqlite_ops;
    s->path = strdup(conf->path);
    must(s->path != NULL);
    s->packer.compress_from = conf->compress_bytes;
    s->cache_bytes = conf->cache_bytes;
    s->first_row = UINT64_MAX;
    s->wal_frames = STORE_FRAMES_UNKNOWN;
    refs_init(&s->refs, sizeof(struct item));
    e = store_start(s, conf->power_safe);
    if (e != ERR_OK) {
        s->store.ops->close(&s->store);
        return e;
    }
    *out = &s->store;
    return ERR_OK;
}
