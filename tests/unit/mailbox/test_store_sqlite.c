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
#include <sqlite3.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/must.h"
#include "mailbox/store.h"

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

static int teardown(void **state)
{
    struct fixture *f = *state;
    char name[512];

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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(payloads_of_every_size_come_back_from_the_cache),
        TEST(payloads_of_every_size_come_back_from_the_file),
        TEST(a_payload_beyond_the_ceiling_is_refused),
        TEST(a_scan_gives_back_everything_that_was_said),
        TEST(what_came_and_went_between_two_commits_leaves_nothing),
        TEST(what_was_not_committed_is_not_there_after_a_restart),
        TEST(a_failed_commit_drops_what_came_and_keeps_what_left),
        TEST(a_full_store_says_so_and_keeps_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
