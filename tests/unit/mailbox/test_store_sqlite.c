/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/must.h"
#include "mailbox/store.h"
#include "tests/unit/mailbox/blocks.h"

/* ---- a folder of its own, and what a scan finds ---- */

#define SEEN_MAX 4096u

struct seen_message {
    uint64_t ref, id, created_ms, ttl_ms;
    size_t stored, payload_len, copy_count;
    uint32_t priority;
    char texts[256]; /* all of them, with bars between */
    struct mbox_copy_record copies[8];
    char agents[8][32];
};

struct seen {
    struct seen_message *messages;
    size_t count;
    struct mbox_answer_record answers[8];
    char answer_texts[8][128];
    size_t answer_count;
};

struct fixture {
    char dir[64], path[96];
    struct store_sqlite_conf conf;
    struct mbox_store *s;
    struct seen seen;
};

static void on_message(void *arg, uint64_t ref, size_t stored, const struct mbox_record *r)
{
    struct seen *seen = arg;
    struct seen_message *m = &seen->messages[seen->count];
    size_t i;

    if (seen->count >= SEEN_MAX) {
        seen->count++;
        return;
    }
    *m = (struct seen_message){.ref = ref,
                               .id = r->copies[0].id,
                               .created_ms = r->created_ms,
                               .ttl_ms = r->ttl_ms,
                               .stored = stored,
                               .payload_len = r->payload_len,
                               .copy_count = r->copy_count,
                               .priority = r->priority};
    snprintf(m->texts, sizeof(m->texts), "%s|%s|%s|%s|%s|%s|%s|%s", r->tenant, r->workflow,
             r->message_id, r->source, r->type, r->correlation_id, r->reply_to, r->group);
    for (i = 0; i < r->copy_count && i < 8; i++) {
        m->copies[i] = r->copies[i];
        snprintf(m->agents[i], sizeof(m->agents[i]), "%s", r->copies[i].agent);
    }
    seen->count++;
}

static void on_answer(void *arg, const struct mbox_answer_record *a)
{
    struct seen *seen = arg;

    assert_true(seen->answer_count < 8);
    seen->answers[seen->answer_count] = *a;
    snprintf(seen->answer_texts[seen->answer_count++], sizeof(seen->answer_texts[0]),
             "%s|%s|%s|%.*s", a->tenant, a->workflow, a->key, (int)a->answer_len,
             (const char *)a->answer);
}

static enum err scan(struct fixture *f)
{
    const struct mbox_scan calls = {.arg = &f->seen, .message = on_message, .answer = on_answer};

    must(f->s != NULL);
    f->seen.count = f->seen.answer_count = 0;
    return f->s->ops->scan(f->s, &calls);
}

static enum err try_open(struct fixture *f)
{
    return store_sqlite_open(&f->conf, &f->s);
}

static void open_store(struct fixture *f)
{
    assert_int_equal(try_open(f), ERR_OK);
    assert_int_equal(scan(f), ERR_OK);
}

static void close_store(struct fixture *f)
{
    f->s->ops->close(f->s);
    f->s = NULL;
}

static void reopen(struct fixture *f)
{
    close_store(f);
    open_store(f);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));

    must(f != NULL);
    f->seen.messages = calloc(SEEN_MAX, sizeof(f->seen.messages[0]));
    must(f->seen.messages != NULL);
    snprintf(f->dir, sizeof(f->dir), "%s/store.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    must(mkdtemp(f->dir) != NULL);
    snprintf(f->path, sizeof(f->path), "%s/mailbox.db", f->dir);
    f->conf = (struct store_sqlite_conf){
        .path = f->path, .compress_bytes = 4096, .cache_bytes = 1u << 20};
    *state = f;
    return 0;
}

/* Names of the folder's files that start with prefix; the last of them in name. */
static size_t files(const struct fixture *f, const char *prefix, char *name, size_t size)
{
    DIR *d = opendir(f->dir);
    struct dirent *e;
    size_t n = 0;

    must(d != NULL);
    while ((e = readdir(d)) != NULL)
        if (e->d_name[0] != '.' && strncmp(e->d_name, prefix, strlen(prefix)) == 0) {
            n++;
            if (name != NULL)
                snprintf(name, size, "%s/%s", f->dir, e->d_name);
        }
    closedir(d);
    return n;
}

/* No file of this process may grow beyond bytes; 0: any may. */
static void limit_files(uint64_t bytes)
{
    struct rlimit limit;

    must(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    must(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes != 0 ? bytes : limit.rlim_max;
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    char name[512];

    limit_files(0);
    if (f->s != NULL)
        f->s->ops->close(f->s);
    while (files(f, "", name, sizeof(name)) > 0)
        must(unlink(name) == 0);
    must(rmdir(f->dir) == 0);
    free(f->seen.messages);
    free(f);
    return 0;
}

static enum err put_of(struct fixture *f, uint64_t id, const void *payload, size_t len,
                       uint64_t *ref)
{
    const struct mbox_copy_record copy = {.id = id, .agent = "reader", .expires_ms = 5000 + id};
    const struct mbox_record r = {.tenant = "t",
                                  .workflow = "w",
                                  .message_id = "m",
                                  .source = "s",
                                  .type = "y",
                                  .correlation_id = "",
                                  .reply_to = "",
                                  .group = "",
                                  .created_ms = id,
                                  .ttl_ms = 10,
                                  .payload = payload,
                                  .payload_len = len,
                                  .copies = &copy,
                                  .copy_count = 1};
    size_t stored;

    return f->s->ops->append(f->s, &r, ref, &stored);
}

static uint64_t put(struct fixture *f, uint64_t id, const void *payload, size_t len)
{
    uint64_t ref;

    assert_int_equal(put_of(f, id, payload, len, &ref), ERR_OK);
    return ref;
}

static uint64_t put_broadcast(struct fixture *f, uint64_t id, size_t count, const char *payload)
{
    static const char *const names[] = {"ann", "bob", "cid", "dan"};
    struct mbox_copy_record copies[4];
    struct mbox_record r = {.tenant = "",
                            .workflow = "w2",
                            .message_id = "b",
                            .source = "s",
                            .type = "",
                            .correlation_id = "c",
                            .reply_to = "r",
                            .group = "g",
                            .priority = 9,
                            .payload = payload,
                            .payload_len = strlen(payload),
                            .copies = copies,
                            .copy_count = count};
    uint64_t ref;
    size_t i, stored;

    for (i = 0; i < count; i++)
        copies[i] =
            (struct mbox_copy_record){.id = id + i, .agent = names[i], .expires_ms = 100 + i};
    assert_int_equal(f->s->ops->append(f->s, &r, &ref, &stored), ERR_OK);
    return ref;
}

static enum err commit(struct fixture *f)
{
    return f->s->ops->commit(f->s);
}

static void check_payload(struct fixture *f, uint64_t ref, const void *bytes, size_t len)
{
    struct buf b = {0};

    assert_int_equal(f->s->ops->get(f->s, ref, &b), ERR_OK);
    assert_int_equal(b.len, len);
    if (len > 0)
        assert_memory_equal(b.base, bytes, len);
    buf_fini(&b);
}

static void check_gone(struct fixture *f, uint64_t ref)
{
    struct buf b = {0};

    assert_int_equal(f->s->ops->get(f->s, ref, &b), ERR_NOT_FOUND);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
}

static struct mbox_store_stats stats_of(const struct fixture *f)
{
    struct mbox_store_stats stats;

    f->s->ops->stats(f->s, &stats);
    return stats;
}

static void noise(char *to, size_t len, uint64_t random)
{
    size_t i;

    for (i = 0; i < len; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        to[i] = (char)(random >> 56);
    }
}

/* ---- round trips ---- */

static void check_sizes(struct fixture *f)
{
    static const size_t sizes[] = {0, 1, 4095, 4096, 9000, MBOX_PAYLOAD_MAX};
    enum { COUNT = sizeof(sizes) / sizeof(sizes[0]) };
    char *random = malloc(MBOX_PAYLOAD_MAX), *even = malloc(MBOX_PAYLOAD_MAX);
    uint64_t refs[2 * COUNT];
    size_t i;

    must(random != NULL && even != NULL);
    noise(random, MBOX_PAYLOAD_MAX, 7);
    memset(even, 'e', MBOX_PAYLOAD_MAX);
    open_store(f);
    for (i = 0; i < 2 * COUNT; i++)
        refs[i] = put(f, i + 1, i % 2 ? even : random, sizes[i / 2]);
    for (i = 0; i < 2 * COUNT; i++)
        check_payload(f, refs[i], i % 2 ? even : random, sizes[i / 2]);
    assert_int_equal(commit(f), ERR_OK);
    for (i = 0; i < 2 * COUNT; i++)
        check_payload(f, refs[i], i % 2 ? even : random, sizes[i / 2]);
    reopen(f);
    assert_int_equal(f->seen.count, 2 * COUNT);
    for (i = 0; i < 2 * COUNT; i++) {
        const struct seen_message *m = &f->seen.messages[i];

        assert_int_equal(m->id, i + 1);
        assert_int_equal(m->payload_len, sizes[i / 2]);
        if (i % 2 == 0 || sizes[i / 2] < 4096)
            assert_int_equal(m->stored, m->payload_len);
        else
            assert_true(m->stored < m->payload_len / 50);
        check_payload(f, m->ref, i % 2 ? even : random, sizes[i / 2]);
        f->s->ops->remove(f->s, m->ref, m->id, true);
    }
    assert_int_equal(stats_of(f).payload_bytes, 0);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 0);
    free(random);
    free(even);
}

static void payloads_of_every_size_come_back_from_the_cache(void **state)
{
    struct fixture *f = *state;

    f->conf.cache_bytes = 64u << 20;
    check_sizes(f);
}

static void payloads_of_every_size_come_back_from_the_file(void **state)
{
    struct fixture *f = *state;

    f->conf.cache_bytes = 0;
    check_sizes(f);
}

static void a_payload_beyond_the_ceiling_is_refused(void **state)
{
    struct fixture *f = *state;
    char *big = calloc(1, MBOX_PAYLOAD_MAX + 1);
    uint64_t ref;

    open_store(f);
    assert_int_equal(put_of(f, 1, big, MBOX_PAYLOAD_MAX + 1, &ref), ERR_TOO_LARGE);
    assert_int_equal(commit(f), ERR_OK);
    free(big);
}

static void a_scan_gives_back_everything_that_was_said(void **state)
{
    struct fixture *f = *state;
    const struct mbox_answer_record a = {.id = 6,
                                         .tenant = "t",
                                         .workflow = "w",
                                         .key = "k",
                                         .body_hash = {UINT64_MAX, 77},
                                         .expires_ms = 9,
                                         .answer = "yes",
                                         .answer_len = 3};
    struct mbox_copy_record change = {.id = 2,
                                      .agent = "bob",
                                      .expires_ms = 8,
                                      .due_ms = 7,
                                      .attempts = 3,
                                      .dead = MBOX_DEAD_ATTEMPTS,
                                      .dead_ms = 6};
    const struct seen_message *m;
    uint64_t ref[3];

    open_store(f);
    ref[0] = put_broadcast(f, 1, 3, "to all");
    ref[1] = put(f, 4, "one", 3);
    ref[2] = put(f, 5, "two", 3);
    f->s->ops->remember(f->s, &a);
    f->s->ops->mark(f->s, ref[0], &change);
    assert_int_equal(commit(f), ERR_OK);
    change.id = 4;
    change.agent = "reader";
    f->s->ops->mark(f->s, ref[1], &change);
    change.attempts = 4;
    f->s->ops->mark(f->s, ref[1], &change);
    f->s->ops->remove(f->s, ref[0], 1, false);
    assert_int_equal(commit(f), ERR_OK);
    check_payload(f, ref[0], "to all", 6);

    reopen(f);
    assert_int_equal(f->seen.count, 3);
    m = &f->seen.messages[0];
    assert_string_equal(m->texts, "|w2|b|s||c|r|g");
    assert_int_equal(m->priority, 9);
    assert_int_equal(m->copy_count, 2);
    assert_int_equal(m->copies[0].id, 2);
    assert_string_equal(m->agents[0], "bob");
    assert_int_equal(m->copies[0].attempts, 3);
    assert_int_equal(m->copies[0].dead, MBOX_DEAD_ATTEMPTS);
    assert_int_equal(m->copies[1].id, 3);
    assert_int_equal(m->copies[1].expires_ms, 102);
    m = &f->seen.messages[1];
    assert_string_equal(m->texts, "t|w|m|s|y|||");
    assert_int_equal(m->created_ms, 4);
    assert_int_equal(m->ttl_ms, 10);
    assert_int_equal(m->copies[0].id, 4);
    assert_int_equal(m->copies[0].attempts, 4);
    assert_int_equal(m->copies[0].due_ms, 7);
    assert_int_equal(m->copies[0].expires_ms, 8);
    assert_int_equal(m->copies[0].dead_ms, 6);
    assert_int_equal(f->seen.messages[2].copies[0].expires_ms, 5005);
    assert_int_equal(f->seen.answer_count, 1);
    assert_int_equal(f->seen.answers[0].id, 6);
    assert_true(f->seen.answers[0].body_hash[0] == UINT64_MAX);
    assert_int_equal(f->seen.answers[0].body_hash[1], 77);
    assert_string_equal(f->seen.answer_texts[0], "t|w|k|yes");

    f->s->ops->remove(f->s, f->seen.messages[0].ref, 2, false);
    f->s->ops->remove(f->s, f->seen.messages[0].ref, 3, true);
    f->s->ops->remove(f->s, f->seen.messages[1].ref, 4, true);
    f->s->ops->forget(f->s, 6);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
    assert_int_equal(f->seen.answer_count, 0);
    assert_string_equal(f->seen.messages[0].agents[0], "reader");
}

static void what_is_kept_comes_back_as_kept_until_it_is_marked_otherwise(void **state)
{
    struct fixture *f = *state;
    struct mbox_copy_record change = {
        .id = 1, .agent = "bob", .expires_ms = 8, .attempts = 3, .kept_ms = 77, .kept_order = 9};
    uint64_t ref[2];

    open_store(f);
    ref[0] = put_broadcast(f, 1, 2, "to all");
    ref[1] = put(f, 3, "one", 3);
    assert_int_equal(commit(f), ERR_OK);
    f->s->ops->mark(f->s, ref[0], &change);
    change.id = 3;
    change.kept_order = 10;
    f->s->ops->mark(f->s, ref[1], &change);
    assert_int_equal(commit(f), ERR_OK);

    reopen(f);
    assert_int_equal(f->seen.messages[0].copies[0].kept_ms, 77);
    assert_int_equal(f->seen.messages[0].copies[0].kept_order, 9);
    assert_int_equal(f->seen.messages[0].copies[0].dead, MBOX_ALIVE);
    assert_int_equal(f->seen.messages[0].copies[1].kept_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].kept_order, 10);
    assert_int_equal(f->seen.messages[1].copies[0].due_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].dead_ms, 0);
    assert_int_equal(f->seen.messages[1].copies[0].attempts, 3);
    change.kept_ms = change.kept_order = 0;
    f->s->ops->mark(f->s, f->seen.messages[1].ref, &change);
    assert_int_equal(commit(f), ERR_OK);

    reopen(f);
    assert_int_equal(f->seen.messages[1].copies[0].kept_ms, 0);
    f->s->ops->remove(f->s, f->seen.messages[1].ref, 3, true);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
}

static void what_came_and_went_between_two_commits_leaves_nothing(void **state)
{
    struct fixture *f = *state;
    const struct mbox_answer_record a = {
        .id = 9, .tenant = "", .workflow = "w", .key = "k", .answer = "", .answer_len = 0};
    uint64_t ref[2];

    open_store(f);
    ref[0] = put(f, 1, "x", 1);
    ref[1] = put_broadcast(f, 2, 2, "y");
    f->s->ops->remove(f->s, ref[1], 2, false);
    f->s->ops->remove(f->s, ref[1], 3, true);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->remember(f->s, &a);
    f->s->ops->forget(f->s, 9);
    check_gone(f, ref[0]);
    assert_int_equal(commit(f), ERR_OK);
    assert_int_equal(stats_of(f).payload_bytes, 0);
    reopen(f);
    assert_int_equal(f->seen.count, 0);
    assert_int_equal(f->seen.answer_count, 0);
}

static void what_was_not_committed_is_not_there_after_a_restart(void **state)
{
    struct fixture *f = *state;

    open_store(f);
    put(f, 1, "kept", 4);
    assert_int_equal(commit(f), ERR_OK);
    put(f, 2, "not", 3);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
    check_payload(f, f->seen.messages[0].ref, "kept", 4);
}

/* ---- commits that fail ---- */

static void a_failed_commit_drops_what_came_and_keeps_what_left(void **state)
{
#ifdef SLIP_FAULTS
    struct fixture *f = *state;
    struct mbox_copy_record change = {.id = 3, .agent = "reader", .attempts = 1};
    const struct mbox_answer_record a = {
        .id = 5, .tenant = "", .workflow = "w", .key = "k", .answer = "a", .answer_len = 1};
    uint64_t ref[4], i;

    open_store(f);
    for (i = 0; i < 3; i++)
        ref[i] = put(f, i + 1, "x", 1);
    assert_int_equal(commit(f), ERR_OK);
    ref[3] = put(f, 4, "new", 3);
    f->s->ops->remember(f->s, &a);
    f->s->ops->remove(f->s, ref[0], 1, true);
    f->s->ops->mark(f->s, ref[2], &change);
    fault_arm("store_commit_fails", 2);
    assert_int_equal(commit(f), ERR_STORE);
    assert_true(stats_of(f).failing);
    check_gone(f, ref[3]);
    assert_int_equal(stats_of(f).payload_bytes, 2);
    f->s->ops->remove(f->s, ref[3], 4, true);
    f->s->ops->remove(f->s, ref[1], 2, true);
    change.attempts = 2;
    f->s->ops->mark(f->s, ref[2], &change);
    assert_int_equal(commit(f), ERR_STORE);
    assert_int_equal(stats_of(f).failed_commits, 2);
    put(f, 6, "later", 5);
    assert_int_equal(commit(f), ERR_OK);
    assert_false(stats_of(f).failing);
    reopen(f);
    assert_int_equal(f->seen.count, 2);
    assert_int_equal(f->seen.messages[0].id, 3);
    assert_int_equal(f->seen.messages[0].copies[0].attempts, 2);
    assert_int_equal(f->seen.messages[1].id, 6);
    assert_int_equal(f->seen.answer_count, 0);
#else
    (void)state;
    skip();
#endif
}

static void a_full_store_says_so_and_keeps_nothing(void **state)
{
#ifdef SLIP_FAULTS
    struct fixture *f = *state;
    uint64_t ref;

    open_store(f);
    fault_arm("store_full", 1);
    assert_int_equal(put_of(f, 1, "x", 1, &ref), ERR_STORE);
    assert_int_equal(stats_of(f).payload_bytes, 0);
    assert_int_equal(put_of(f, 2, "x", 1, &ref), ERR_OK);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 1);
#else
    (void)state;
    skip();
#endif
}

/* ---- no room ---- */

static void a_full_disk_refuses_and_recovers_when_there_is_room(void **state)
{
    struct fixture *f = *state;
    struct mbox_copy_record change = {.agent = "reader", .attempts = 7};
    char payload[4000];
    uint64_t refs[200], ids[200], ref, id = 0, kept = 0, refused = 0, i;

    noise(payload, sizeof(payload), 3);
    open_store(f);
    limit_files(256u << 10);
    /* The first refusal makes room once, by writing the WAL back; then there is none left. */
    while (refused < 5 && kept < 200) {
        refs[kept] = put(f, ++id, payload, sizeof(payload));
        ids[kept] = id;
        if (commit(f) == ERR_OK) {
            kept++;
            continue;
        }
        check_gone(f, refs[kept]);
        refused++;
    }
    assert_in_range(kept, 10, 150);
    assert_true(stats_of(f).failing);
    assert_int_equal(stats_of(f).failed_commits, 5);
    assert_int_equal(stats_of(f).payload_bytes, kept * sizeof(payload));
    for (i = 0; i < kept; i++)
        check_payload(f, refs[i], payload, sizeof(payload));
    change.id = ids[0];
    f->s->ops->mark(f->s, refs[0], &change);
    f->s->ops->remove(f->s, refs[1], ids[1], true);
    put(f, ++id, payload, sizeof(payload));
    assert_int_equal(commit(f), ERR_STORE);
    limit_files(0);
    ref = put(f, ++id, "late", 4);
    assert_int_equal(commit(f), ERR_OK);
    assert_false(stats_of(f).failing);
    check_payload(f, ref, "late", 4);
    reopen(f);
    assert_int_equal(f->seen.count, kept);
    assert_int_equal(f->seen.messages[0].copies[0].attempts, 7);
    for (i = 0; i + 1 < kept; i++) {
        assert_int_equal(f->seen.messages[i].id, ids[i == 0 ? 0 : i + 1]);
        check_payload(f, f->seen.messages[i].ref, payload, sizeof(payload));
    }
    assert_int_equal(f->seen.messages[kept - 1].id, id);
}

static void many_removes_on_a_full_disk_are_kept_and_written_later(void **state)
{
    enum { COUNT = 2000 };
    struct fixture *f = *state;
    uint64_t *refs = calloc(COUNT, sizeof(refs[0])), i, round;
    struct mbox_copy_record change = {.agent = "reader"};
    char payload[600];

    must(refs != NULL);
    noise(payload, sizeof(payload), 5);
    open_store(f);
    for (i = 0; i < COUNT; i++)
        refs[i] = put(f, i + 1, payload, sizeof(payload));
    assert_int_equal(commit(f), ERR_OK);
    reopen(f); /* the WAL is empty, and must not grow */
    limit_files(4096);
    for (round = 1; round <= 3; round++) {
        for (i = COUNT / 2; i < COUNT; i++) {
            change.id = i + 1;
            change.attempts = (uint32_t)round;
            f->s->ops->mark(f->s, f->seen.messages[i].ref, &change);
        }
        assert_int_equal(commit(f), ERR_STORE);
    }
    for (i = 0; i < COUNT / 2 + 10; i++)
        f->s->ops->remove(f->s, f->seen.messages[i].ref, i + 1, true);
    assert_int_equal(commit(f), ERR_STORE);
    limit_files(0);
    put(f, COUNT + 1, "x", 1);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, COUNT / 2 - 10 + 1);
    for (i = 0; i < COUNT / 2 - 10; i++) {
        assert_int_equal(f->seen.messages[i].id, COUNT / 2 + 11 + i);
        assert_int_equal(f->seen.messages[i].copies[0].attempts, 3);
    }
    free(refs);
}

static void a_commit_too_big_for_memory_is_written_ahead_and_stays_whole(void **state)
{
    enum { COUNT = 24 };
    struct fixture *f = *state;
    char *payload = malloc(1u << 20);
    uint64_t refs[COUNT], i, ref;

    must(payload != NULL);
    noise(payload, 1u << 20, 11);
    f->conf.cache_bytes = 0;
    f->conf.compress_bytes = 4u << 20;
    open_store(f);
    for (i = 0; i < COUNT; i++)
        refs[i] = put(f, i + 1, payload, (1u << 20) - i);
    for (i = 0; i < COUNT; i++)
        check_payload(f, refs[i], payload, (1u << 20) - i);
    f->s->ops->remove(f->s, refs[0], 1, true); /* it is in the open transaction already */
    assert_int_equal(commit(f), ERR_OK);
    for (i = 1; i < COUNT; i++)
        check_payload(f, refs[i], payload, (1u << 20) - i);
    for (i = 1; i < COUNT; i++)
        f->s->ops->remove(f->s, refs[i], i + 1, true);
    assert_int_equal(commit(f), ERR_OK);

    put(f, 100, "good", 4);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    limit_files(8u << 20);
    for (i = 0; i < 60; i++)
        if (put_of(f, 101 + i, payload, 1u << 20, &ref) != ERR_OK)
            break;
    assert_in_range(i, 15, 40);
    assert_int_equal(stats_of(f).payload_bytes, 4);
    assert_int_equal(put_of(f, 200, "x", 1, &ref), ERR_STORE);
    assert_int_equal(commit(f), ERR_STORE);
    limit_files(0);
    put(f, 201, "y", 1);
    assert_int_equal(commit(f), ERR_OK);
    reopen(f);
    assert_int_equal(f->seen.count, 2);
    assert_int_equal(f->seen.messages[0].id, 100);
    assert_int_equal(f->seen.messages[1].id, 201);
    free(payload);
}

static void files_stay_bounded_and_shrink_after_a_backlog(void **state)
{
    enum { COUNT = 3000 };
    struct fixture *f = *state;
    uint64_t *refs = calloc(COUNT, sizeof(refs[0])), i, round, id = 0, most = 0;
    char *payload = malloc(8000);

    must(refs != NULL && payload != NULL);
    noise(payload, 8000, 13);
    f->conf.compress_bytes = 1u << 20;
    open_store(f);
    /* The same room is used again and again. */
    for (round = 0; round < 40; round++) {
        for (i = 0; i < 64; i++)
            refs[i] = put(f, ++id, payload, 8000);
        assert_int_equal(commit(f), ERR_OK);
        for (i = 0; i < 64; i++)
            f->s->ops->remove(f->s, refs[i], id - 63 + i, true);
        assert_int_equal(commit(f), ERR_OK);
        most = stats_of(f).disk_bytes > most ? stats_of(f).disk_bytes : most;
    }
    assert_in_range(most, 1, 9u << 20);
    for (i = 0; i < COUNT; i++) {
        refs[i] = put(f, ++id, payload, 8000);
        if (i % 64 == 63)
            assert_int_equal(commit(f), ERR_OK);
    }
    assert_int_equal(commit(f), ERR_OK);
    assert_true(stats_of(f).disk_bytes > 20u << 20);
    for (i = 0; i < COUNT; i++) {
        f->s->ops->remove(f->s, refs[i], id - COUNT + 1 + i, true);
        if (i % 64 == 63)
            assert_int_equal(commit(f), ERR_OK);
    }
    assert_int_equal(commit(f), ERR_OK);
    assert_in_range(stats_of(f).disk_bytes, 1, 12u << 20);
    free(refs);
    free(payload);
}

/* ---- kill -9 ---- */

struct progress { /* in memory that the child shares; ids: those from tail to committed are there */
    _Atomic uint64_t committed, tail, sent, started;
};

static size_t length_of(uint64_t id)
{
    return id % 97 == 0 ? 20000 + id % 5000 : 1 + id * 2654435761u % 1500;
}

_Noreturn static void child_of(const struct fixture *of, struct progress *p, const char *bytes)
{
    struct fixture f = *of;
    uint64_t refs[512], id = p->committed, first = p->tail, i, group;

    f.seen.count = f.seen.answer_count = 0;
    if (try_open(&f) != ERR_OK || scan(&f) != ERR_OK)
        _exit(3);
    for (i = first; i <= id; i++)
        refs[i % 512] = f.seen.messages[i - first].ref;
    atomic_store(&p->started, 1);
    for (;;) {
        for (group = 1 + id % 40; group > 0; group--) {
            id++;
            refs[id % 512] = put(&f, id, bytes + id % 1000, length_of(id));
        }
        atomic_store(&p->sent, id);
        for (; first + 60 < p->committed; first++)
            f.s->ops->remove(f.s, refs[first % 512], first, true);
        if (commit(&f) != ERR_OK)
            _exit(4);
        atomic_store(&p->committed, id);
        atomic_store(&p->tail, first);
    }
}

/* Messages tail to committed are there, each once and whole. The group at hand may be there, too,
 * as a whole, if its commit was done; what it removed is then gone. */
static void check_after_kill(struct fixture *f, struct progress *p, const char *bytes)
{
    uint64_t i, first, last;

    assert_int_equal(try_open(f), ERR_OK);
    assert_int_equal(scan(f), ERR_OK);
    assert_true(f->seen.count > 0 || p->committed == 0);
    if (f->seen.count == 0)
        return;
    first = f->seen.messages[0].id;
    last = f->seen.messages[f->seen.count - 1].id;
    assert_true(last == p->committed || last == p->sent);
    assert_true(last == p->committed ? first == p->tail || p->sent == p->committed
                                     : first >= p->tail);
    assert_int_equal(last - first + 1, f->seen.count);
    for (i = 0; i < f->seen.count; i++) {
        assert_int_equal(f->seen.messages[i].id, first + i);
        check_payload(f, f->seen.messages[i].ref, bytes + (first + i) % 1000, length_of(first + i));
    }
    p->committed = p->sent = last;
    p->tail = first;
    close_store(f);
}

static void every_commit_survives_kill_minus_nine(void **state)
{
    struct fixture *f = *state;
    struct progress *p =
        mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *bytes = malloc(30000);
    uint64_t random = (uint64_t)getpid(), round;

    must(p != MAP_FAILED && bytes != NULL);
    noise(bytes, 30000, 17);
    p->tail = 1;
    for (round = 0; round < 25; round++) {
        uint64_t target;
        int status;
        pid_t pid;

        random = random * 6364136223846793005u + 1442695040888963407u;
        target = p->committed + (random >> 54); /* up to a thousand further */
        p->started = 0;
        pid = fork();
        must(pid >= 0);
        if (pid == 0)
            child_of(f, p, bytes);
        while (!p->started || p->committed < target)
            if (waitpid(pid, &status, WNOHANG) != 0)
                fail_msg("the child ended by itself: %d", status);
        for (target = random >> 40 & 0xffff; target > 0; target--)
            __asm__ volatile(""); /* somewhere in its next commits */
        must(kill(pid, SIGKILL) == 0);
        must(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
        check_after_kill(f, p, bytes);
    }
    free(bytes);
    munmap(p, sizeof(*p));
}

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
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(payloads_of_every_size_come_back_from_the_cache),
        TEST(payloads_of_every_size_come_back_from_the_file),
        TEST(a_payload_beyond_the_ceiling_is_refused),
        TEST(a_block_is_kept_as_it_came_and_given_as_it_is),
        TEST(a_scan_gives_back_everything_that_was_said),
        TEST(what_is_kept_comes_back_as_kept_until_it_is_marked_otherwise),
        TEST(what_came_and_went_between_two_commits_leaves_nothing),
        TEST(what_was_not_committed_is_not_there_after_a_restart),
        TEST(a_failed_commit_drops_what_came_and_keeps_what_left),
        TEST(a_full_store_says_so_and_keeps_nothing),
        TEST(a_full_disk_refuses_and_recovers_when_there_is_room),
        TEST(many_removes_on_a_full_disk_are_kept_and_written_later),
        TEST(a_commit_too_big_for_memory_is_written_ahead_and_stays_whole),
        TEST(files_stay_bounded_and_shrink_after_a_backlog),
        TEST(every_commit_survives_kill_minus_nine),
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
