/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/wait.h>

#include "tests/unit/mailbox/sqlite_fixture.h"

/* ---- files that are not right ---- */

static void fill(struct fixture *f, size_t count)
{
    char payload[1000];
    size_t i;

    noise(payload, sizeof(payload), 19);
    open_store(f);
    for (i = 0; i < count; i++)
        put(f, i + 1, payload, sizeof(payload));
    assert_int_equal(commit(f), ERR_OK);
    close_store(f);
}

static void overwrite(const char *path, off_t at, const void *bytes, size_t len)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    must(fd >= 0 && pwrite(fd, bytes, len, at) == (ssize_t)len);
    close(fd);
}

/* What was there is kept under another name, and whoever comes again begins with nothing. */
static void check_quarantined(struct fixture *f, uint64_t bytes)
{
    char name[512];
    struct stat st;

    assert_int_equal(files(f, "mailbox.db", NULL, 0), files(f, "mailbox.db.damaged-", NULL, 0));
    assert_in_range(files(f, "mailbox.db.damaged-", name, sizeof(name)), 1, 2);
    if (strcmp(name + strlen(name) - 4, "-wal") == 0) /* it went along */
        name[strlen(name) - 4] = '\0';
    assert_int_equal(stat(name, &st), 0);
    assert_int_equal(st.st_size, bytes);
    open_store(f);
    assert_int_equal(f->seen.count, 0);
    put(f, 1, "anew", 4);
    assert_int_equal(commit(f), ERR_OK);
}

static uint64_t bytes_of(const char *path)
{
    struct stat st;

    must(stat(path, &st) == 0);
    return (uint64_t)st.st_size;
}

static void a_file_of_something_else_is_moved_aside(void **state)
{
    struct fixture *f = *state;
    char text[5000];
    int fd = open(f->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

    memset(text, 'x', sizeof(text));
    must(fd >= 0 && write(fd, text, sizeof(text)) == sizeof(text));
    close(fd);
    assert_int_equal(try_open(f), ERR_CONF);
    check_quarantined(f, sizeof(text));
}

static void a_broken_header_is_moved_aside(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes;

    fill(f, 100);
    bytes = bytes_of(f->path);
    overwrite(f->path, 0, "Sqlite", 6);
    assert_int_equal(try_open(f), ERR_CONF);
    check_quarantined(f, bytes);
}

static void a_broken_page_is_moved_aside(void **state)
{
    struct fixture *f = *state;
    char zeros[512] = {0};
    uint64_t bytes;

    fill(f, 200);
    bytes = bytes_of(f->path);
    overwrite(f->path, (off_t)(bytes / 2 / 8192 * 8192), zeros, sizeof(zeros));
    assert_int_equal(try_open(f), ERR_CONF);
    check_quarantined(f, bytes);
}

static void a_cut_file_is_moved_aside(void **state)
{
    struct fixture *f = *state;
    uint64_t bytes;

    fill(f, 200);
    bytes = bytes_of(f->path) / 2 / 8192 * 8192;
    must(truncate(f->path, (off_t)bytes) == 0);
    assert_int_equal(try_open(f), ERR_CONF);
    check_quarantined(f, bytes);
}

static void a_log_without_its_database_is_moved_aside(void **state)
{
    struct fixture *f = *state;
    char wal[128], name[512];
    int fd;

    snprintf(wal, sizeof(wal), "%s-wal", f->path);
    fd = open(wal, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, "left", 4) == 4);
    close(fd);
    assert_int_equal(try_open(f), ERR_CONF);
    assert_int_equal(files(f, "mailbox.db.damaged-", name, sizeof(name)), 1);
    assert_int_equal(bytes_of(name), 4);
    open_store(f);
}

/* SQLite would take the empty file for a new database and delete its log. */
static void a_database_cut_to_nothing_is_moved_aside_with_its_log(void **state)
{
    struct fixture *f = *state;
    char wal[128], saved[128];

    snprintf(wal, sizeof(wal), "%s-wal", f->path);
    snprintf(saved, sizeof(saved), "%s/saved", f->dir);
    open_store(f);
    put(f, 1, "x", 1);
    assert_int_equal(commit(f), ERR_OK);
    assert_int_equal(link(wal, saved), 0);
    close_store(f);
    assert_int_equal(rename(saved, wal), 0);
    must(truncate(f->path, 0) == 0);
    assert_in_range(bytes_of(wal), 1, UINT32_MAX);
    assert_int_equal(try_open(f), ERR_CONF);
    assert_int_equal(files(f, "mailbox.db.damaged-", NULL, 0), 2);
    check_quarantined(f, 0);
}

static void a_file_that_is_moved_while_in_use_takes_nothing_until_it_is_back(void **state)
{
    struct fixture *f = *state;
    char away[128];
    uint64_t first, second;

    snprintf(away, sizeof(away), "%s/away", f->dir);
    open_store(f);
    first = put(f, 1, "one", 3);
    assert_int_equal(commit(f), ERR_OK);
    must(rename(f->path, away) == 0);
    second = put(f, 2, "two", 3);
    assert_int_equal(commit(f), ERR_STORE);
    assert_true(stats_of(f).failing);
    check_gone(f, second);
    check_payload(f, first, "one", 3);
    must(rename(away, f->path) == 0);
    put(f, 3, "three", 5);
    assert_int_equal(commit(f), ERR_OK);
    assert_false(stats_of(f).failing);
    reopen(f);
    assert_int_equal(f->seen.count, 2);
}

static void sql(const struct fixture *f, const char *text)
{
    sqlite3 *db;

    must(sqlite3_open(f->path, &db) == SQLITE_OK);
    must(sqlite3_exec(db, text, NULL, NULL, NULL) == SQLITE_OK);
    must(sqlite3_close(db) == SQLITE_OK);
}

static int64_t sql_number(const struct fixture *f, const char *text)
{
    sqlite3_stmt *st;
    sqlite3 *db;
    int64_t n;

    must(sqlite3_open(f->path, &db) == SQLITE_OK);
    must(sqlite3_prepare_v2(db, text, -1, &st, NULL) == SQLITE_OK);
    must(sqlite3_step(st) == SQLITE_ROW);
    n = sqlite3_column_int64(st, 0);
    sqlite3_finalize(st);
    must(sqlite3_close(db) == SQLITE_OK);
    return n;
}

static void rows_that_say_nonsense_are_not_believed(void **state)
{
    static const char *const nonsense[] = {
        "UPDATE message SET agent=5 WHERE id=3",
        "UPDATE message SET source='z' WHERE id=3",
        "UPDATE message SET created_ms=created_ms+1 WHERE id=3",
        "UPDATE message SET dead=99 WHERE id=3",
        "UPDATE message SET attempts=-1 WHERE id=3",
        "UPDATE message SET type=NULL WHERE id=3",
        "UPDATE message SET payload='text' WHERE id=3",
        "UPDATE message SET payload=zeroblob(1000) WHERE id=3",
        "UPDATE message SET raw_len=99999999 WHERE id=3",
        "UPDATE message SET agent=NULL WHERE id=3", /* a broadcast without copies */
        "UPDATE message SET tenant='a' || char(0) || 'b' WHERE id=3",
        "INSERT INTO state VALUES(3,1,1,1,'x',1)",
        "INSERT INTO answer VALUES(900,'t','w','k',1,2,3,4,x'00')",
        "UPDATE message SET id=-3 WHERE id=3",
        "UPDATE copy SET agent='eve' WHERE agent='bob'",
        "UPDATE copy SET dead=9 WHERE agent='bob'",
        "DELETE FROM copy",
        "DROP TABLE state",
    };
    struct fixture *f = *state;
    char name[512];
    size_t i;

    for (i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
        enum err e;

        fill(f, 10);
        open_store(f);
        put_broadcast(f, 20, 3, "to all");
        assert_int_equal(commit(f), ERR_OK);
        close_store(f);
        sql(f, nonsense[i]);
        e = try_open(f);
        if (e == ERR_OK) {
            e = scan(f);
            assert_int_equal(put_of(f, 50, "x", 1, &(uint64_t){0}), ERR_STORE);
            close_store(f);
        }
        if (e != ERR_CONF)
            fail_msg("believed: %s", nonsense[i]);
        assert_in_range(files(f, "mailbox.db.damaged-", NULL, 0), 1, 2);
        assert_int_equal(access(f->path, F_OK), -1);
        while (files(f, "", name, sizeof(name)) > 0)
            must(unlink(name) == 0);
    }
}

static void damage_that_a_read_finds_fails_that_read_only(void **state)
{
    struct fixture *f = *state;
    struct buf b = {0};

    f->conf.cache_bytes = 0; /* the scan does not look at payloads then */
    fill(f, 10);
    sql(f, "UPDATE message SET payload=zeroblob(1000) WHERE id=3");
    open_store(f);
    assert_int_equal(f->seen.count, 10);
    assert_int_equal(f->s->ops->get(f->s, f->seen.messages[2].ref, &b), ERR_IO);
    assert_int_equal(b.len, 0);
    assert_int_equal(f->s->ops->get(f->s, f->seen.messages[3].ref, &b), ERR_OK);
    assert_int_equal(b.len, 1000);
    buf_fini(&b);
}

static void a_newer_or_foreign_database_is_refused_and_left_alone(void **state)
{
    static const char *const changes[] = {"PRAGMA user_version=3", "PRAGMA application_id=1"};
    struct fixture *f = *state;
    size_t i;

    fill(f, 10);
    for (i = 0; i < 2; i++) {
        sql(f, changes[i]);
        assert_int_equal(try_open(f), ERR_IO);
        assert_int_equal(files(f, "mailbox.db.damaged-", NULL, 0), 0);
    }
    sql(f, "PRAGMA user_version=2; PRAGMA application_id=1399606626");
    open_store(f);
    assert_int_equal(f->seen.count, 10);
}

static void a_file_of_the_first_version_is_taken_over(void **state)
{
    struct fixture *f = *state;

    fill(f, 10);
    sql(f, "PRAGMA user_version=1");
    open_store(f);
    assert_int_equal(f->seen.count, 10);
    close_store(f);
    assert_int_equal(sql_number(f, "PRAGMA user_version"), 2);
}

static void paths_that_cannot_be_written_are_refused(void **state)
{
    struct fixture *f = *state;
    struct store_sqlite_conf conf = f->conf;
    char path[600];
    int status;
    pid_t pid;

    snprintf(path, sizeof(path), "%s/none/mailbox.db", f->dir);
    conf.path = path;
    assert_int_equal(store_sqlite_open(&conf, &f->s), ERR_IO);
    conf.path = f->dir;
    assert_int_equal(store_sqlite_open(&conf, &f->s), ERR_IO);
    conf.path = "";
    assert_int_equal(store_sqlite_open(&conf, &f->s), ERR_IO);
    memset(path, 'p', sizeof(path));
    path[sizeof(path) - 1] = '\0';
    conf.path = path;
    assert_int_equal(store_sqlite_open(&conf, &f->s), ERR_IO);
    assert_null(f->s);

    must(chmod(f->dir, 0555) == 0);
    pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && seteuid(65534) != 0)
            _exit(1);
        _exit(try_open(f) == ERR_IO ? 0 : 2);
    }
    must(waitpid(pid, &status, 0) == pid);
    must(chmod(f->dir, 0700) == 0);
    assert_int_equal(status, 0);
    assert_int_equal(files(f, "", NULL, 0), 0);
}

static void a_second_process_is_refused_while_the_first_has_it_open(void **state)
{
    struct fixture *f = *state;
    int status, round;
    pid_t pid;

    open_store(f);
    put(f, 1, "mine", 4);
    assert_int_equal(commit(f), ERR_OK);
    for (round = 0; round < 2; round++) {
        struct fixture other = *f;

        if (round == 1)
            close_store(f);
        pid = fork();
        must(pid >= 0);
        if (pid == 0) {
            enum err e = try_open(&other);

            if (round == 0)
                _exit(e == ERR_IO ? 0 : 1);
            _exit(e == ERR_OK && scan(&other) == ERR_OK && other.seen.count == 1 ? 0 : 1);
        }
        must(waitpid(pid, &status, 0) == pid);
        assert_int_equal(status, 0);
    }
    open_store(f);
    assert_int_equal(f->seen.count, 1);
}

static void messages_are_readable_by_their_owner_only(void **state)
{
    struct fixture *f = *state;
    char wal[128];
    struct stat st;

    open_store(f);
    put(f, 1, "private", 7);
    assert_int_equal(commit(f), ERR_OK);
    snprintf(wal, sizeof(wal), "%s-wal", f->path);
    must(stat(f->path, &st) == 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    must(stat(wal, &st) == 0);
    assert_int_equal(st.st_mode & 0777, 0600);
}

/* Before the commit, from the cache, from the file, and after a restart. */
static void a_block_is_kept_as_it_came_and_given_as_it_is(void **state)
{
    struct fixture *f = *state;
    uint64_t refs[4];
    size_t i, round;

    for (round = 0; round < 2; round++) {
        f->conf.cache_bytes = round == 0 ? 1u << 20 : 0;
        open_store(f);
        check_blocks(f->s, 1, refs);
        check_stored(f->s, refs);
        assert_int_equal(f->s->ops->commit(f->s), ERR_OK);
        check_stored(f->s, refs);
        reopen(f);
        assert_int_equal(f->seen.count, 4);
        for (i = 0; i < 4; i++)
            refs[i] = f->seen.messages[i].ref;
        check_stored(f->s, refs);
        for (i = 0; i < 4; i++)
            f->s->ops->remove(f->s, refs[i], i + 1, true);
        assert_int_equal(f->s->ops->commit(f->s), ERR_OK);
        close_store(f);
    }
    open_store(f);
    assert_int_equal(f->seen.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_block_is_kept_as_it_came_and_given_as_it_is),
        TEST(a_file_of_something_else_is_moved_aside),
        TEST(a_broken_header_is_moved_aside),
        TEST(a_broken_page_is_moved_aside),
        TEST(a_cut_file_is_moved_aside),
        TEST(a_log_without_its_database_is_moved_aside),
        TEST(a_database_cut_to_nothing_is_moved_aside_with_its_log),
        TEST(a_file_that_is_moved_while_in_use_takes_nothing_until_it_is_back),
        TEST(rows_that_say_nonsense_are_not_believed),
        TEST(damage_that_a_read_finds_fails_that_read_only),
        TEST(a_newer_or_foreign_database_is_refused_and_left_alone),
        TEST(a_file_of_the_first_version_is_taken_over),
        TEST(paths_that_cannot_be_written_are_refused),
        TEST(a_second_process_is_refused_while_the_first_has_it_open),
        TEST(messages_are_readable_by_their_owner_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
