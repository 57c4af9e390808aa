/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_SQLITE_FIXTURE_H
#define SLIP_TESTS_SQLITE_FIXTURE_H

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
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "common/must.h"
#include "mailbox/store.h"
#include "tests/unit/mailbox/blocks.h"

/*
 * A store in a folder of its own, what a scan of it finds, and short words for what is done to it.
 */
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

static inline void on_message(void *arg, uint64_t ref, size_t stored, const struct mbox_record *r)
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

static inline void on_answer(void *arg, const struct mbox_answer_record *a)
{
    struct seen *seen = arg;

    assert_true(seen->answer_count < 8);
    seen->answers[seen->answer_count] = *a;
    snprintf(seen->answer_texts[seen->answer_count++], sizeof(seen->answer_texts[0]),
             "%s|%s|%s|%.*s", a->tenant, a->workflow, a->key, (int)a->answer_len,
             (const char *)a->answer);
}

static inline enum err scan(struct fixture *f)
{
    const struct mbox_scan calls = {.arg = &f->seen, .message = on_message, .answer = on_answer};

    must(f->s != NULL);
    f->seen.count = f->seen.answer_count = 0;
    return f->s->ops->scan(f->s, &calls);
}

static inline enum err try_open(struct fixture *f)
{
    return store_sqlite_open(&f->conf, &f->s);
}

static inline void open_store(struct fixture *f)
{
    assert_int_equal(try_open(f), ERR_OK);
    assert_int_equal(scan(f), ERR_OK);
}

static inline void close_store(struct fixture *f)
{
    f->s->ops->close(f->s);
    f->s = NULL;
}

static inline void reopen(struct fixture *f)
{
    close_store(f);
    open_store(f);
}

static inline int setup(void **state)
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
static inline size_t files(const struct fixture *f, const char *prefix, char *name, size_t size)
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
static inline void limit_files(uint64_t bytes)
{
    struct rlimit limit;

    must(signal(SIGXFSZ, SIG_IGN) != SIG_ERR);
    must(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    limit.rlim_cur = bytes != 0 ? bytes : limit.rlim_max;
    must(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static inline int teardown(void **state)
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

static inline enum err put_of(struct fixture *f, uint64_t id, const void *payload, size_t len,
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

static inline uint64_t put(struct fixture *f, uint64_t id, const void *payload, size_t len)
{
    uint64_t ref;

    assert_int_equal(put_of(f, id, payload, len, &ref), ERR_OK);
    return ref;
}

static inline uint64_t put_broadcast(struct fixture *f, uint64_t id, size_t count,
                                     const char *payload)
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

static inline enum err commit(struct fixture *f)
{
    return f->s->ops->commit(f->s);
}

static inline void check_payload(struct fixture *f, uint64_t ref, const void *bytes, size_t len)
{
    struct buf b = {0};

    assert_int_equal(f->s->ops->get(f->s, ref, &b), ERR_OK);
    assert_int_equal(b.len, len);
    if (len > 0)
        assert_memory_equal(b.base, bytes, len);
    buf_fini(&b);
}

static inline void check_gone(struct fixture *f, uint64_t ref)
{
    struct buf b = {0};

    assert_int_equal(f->s->ops->get(f->s, ref, &b), ERR_NOT_FOUND);
    assert_int_equal(b.len, 0);
    buf_fini(&b);
}

static inline struct mbox_store_stats stats_of(const struct fixture *f)
{
    struct mbox_store_stats stats;

    f->s->ops->stats(f->s, &stats);
    return stats;
}

static inline void noise(char *to, size_t len, uint64_t random)
{
    size_t i;

    for (i = 0; i < len; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        to[i] = (char)(random >> 56);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
