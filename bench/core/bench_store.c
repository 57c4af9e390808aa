/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The mailbox stores alone, in one thread: messages of 1 KiB of random bytes come in groups
 * with a commit each, are read once and removed with the group after (or with a later one, as far
 * behind as depth says), or kept for a stream and removed when so many more were kept. Messages a
 * second, CPU time of each, and how long commits take, as one JSON object per store.
 *
 * bench_store [memory | sqlite FILE | power FILE] [messages] [depth] [group] [kept]
 * Without arguments: memory, and sqlite in /dev/shm and in the working directory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "common/must.h"
#include "mailbox/store.h"

#define GROUP 64u /* where not given */
#define PAYLOAD 1024u
#define CACHE (64u << 20)

struct bench {
    struct mbox_store *store;
    uint64_t *refs;
    uint64_t next, tail; /* ids appended and removed so far */
    double *commit_us;
    size_t commits, group, kept;
    struct buf out;
};

static double now_us(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

static void append(struct bench *b, const char *noise)
{
    struct mbox_copy_record copy = {
        .id = b->next + 1, .agent = "agent-7", .expires_ms = 1795000000000};
    struct mbox_record r = {.tenant = "",
                            .workflow = "workflow-123456",
                            .message_id = "01kaqz5rk8f3v9q2m7c1d4x6ya",
                            .source = "agent-3",
                            .type = "result",
                            .correlation_id = "",
                            .reply_to = "",
                            .group = "",
                            .created_ms = 1794990000000 + b->next,
                            .ttl_ms = 3600000,
                            .payload = noise + b->next * 61 % PAYLOAD,
                            .payload_len = PAYLOAD,
                            .copies = &copy,
                            .copy_count = 1};
    size_t stored;

    must(b->store->ops->append(b->store, &r, &b->refs[b->next++], &stored) == ERR_OK);
}

static void take(struct bench *b)
{
    uint64_t ref = b->refs[b->tail++];

    b->out.len = 0;
    must(b->store->ops->get(b->store, ref, &b->out) == ERR_OK);
    must(b->out.len == PAYLOAD);
    if (b->kept != 0) {
        const struct mbox_copy_record mark = {.id = b->tail,
                                              .agent = "reader",
                                              .expires_ms = 1794990000000 + b->tail + 3600000,
                                              .attempts = 1,
                                              .kept_ms = 1794990030000 + b->tail,
                                              .kept_order = b->tail};

        b->store->ops->mark(b->store, ref, &mark);
    }
    if (b->tail > b->kept)
        b->store->ops->remove(b->store, b->refs[b->tail - b->kept - 1], b->tail - b->kept, true);
}

static void run(struct bench *b, const char *where, size_t messages, size_t depth)
{
    static char noise[2 * PAYLOAD];
    struct mbox_store_stats stats;
    double start, commit, took, cpu;
    uint64_t random = 1, most = 0;
    size_t i;

    for (i = 0; i < sizeof(noise); i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        noise[i] = (char)(random >> 56);
    }
    start = now_us(CLOCK_MONOTONIC);
    cpu = now_us(CLOCK_PROCESS_CPUTIME_ID);
    while (b->tail < messages) {
        for (i = 0; i < b->group && b->next < messages; i++)
            append(b, noise);
        while (b->tail + depth + b->group < b->next ||
               (b->next == messages && b->tail < messages && i++ < b->group))
            take(b);
        commit = now_us(CLOCK_MONOTONIC);
        must(b->store->ops->commit(b->store) == ERR_OK);
        b->commit_us[b->commits++] = now_us(CLOCK_MONOTONIC) - commit;
        if (b->commits % 64 == 0) {
            b->store->ops->stats(b->store, &stats);
            most = stats.disk_bytes > most ? stats.disk_bytes : most;
        }
    }
    took = now_us(CLOCK_MONOTONIC) - start;
    cpu = now_us(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    b->store->ops->stats(b->store, &stats);
    qsort(b->commit_us, b->commits, sizeof(double), compare);
    printf("{\"store\": \"%s\", \"where\": \"%s\", \"messages_per_s\": %.0f, \"cpu_us\": %.2f, "
           "\"commit_p50_us\": %.0f, "
           "\"commit_p99_us\": %.0f, \"commit_max_us\": %.0f, \"disk_most\": %llu, \"disk_end\": "
           "%llu}\n",
           b->store->ops->name, where, (double)messages / took * 1e6, cpu / (double)messages,
           b->commit_us[b->commits / 2], b->commit_us[b->commits * 99 / 100],
           b->commit_us[b->commits - 1], (unsigned long long)most,
           (unsigned long long)stats.disk_bytes);
    fflush(stdout);
}

static void unlink_all(const char *path)
{
    static const char *const suffixes[] = {"", "-wal", "-shm"};
    char name[512];
    size_t i;

    for (i = 0; i < 3; i++) {
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        unlink(name);
    }
}

static void measure(const char *kind, const char *path, size_t messages, size_t depth, size_t group,
                    size_t kept)
{
    struct store_sqlite_conf conf = {.path = path,
                                     .compress_bytes = 4096,
                                     .cache_bytes = CACHE,
                                     .power_safe = strcmp(kind, "power") == 0};
    struct bench b = {.group = group, .kept = kept};

    b.refs = calloc(messages, sizeof(b.refs[0]));
    b.commit_us = calloc(messages / group * 2 + 2 * depth + 4, sizeof(double));
    must(b.refs != NULL && b.commit_us != NULL);
    if (path == NULL) {
        b.store = store_memory_open(4096);
    } else {
        unlink_all(path);
        must(store_sqlite_open(&conf, &b.store) == ERR_OK);
    }
    run(&b, path != NULL ? path : "", messages, depth);
    b.store->ops->close(b.store);
    if (path != NULL)
        unlink_all(path);
    buf_fini(&b.out);
    free(b.refs);
    free(b.commit_us);
}

int main(int argc, char **argv)
{
    int file = argc > 1 && strcmp(argv[1], "memory") != 0;
    size_t messages = argc > 2 + file ? strtoul(argv[2 + file], NULL, 10) : 200000;
    size_t depth = argc > 3 + file ? strtoul(argv[3 + file], NULL, 10) : 0;
    size_t group = argc > 4 + file ? strtoul(argv[4 + file], NULL, 10) : GROUP;
    size_t kept = argc > 5 + file ? strtoul(argv[5 + file], NULL, 10) : 0;
    char shm[64];

    if (argc > 1) {
        measure(argv[1], file && argc > 2 ? argv[2] : NULL, messages, depth, group, kept);
        return 0;
    }
    snprintf(shm, sizeof(shm), "/dev/shm/bench_store.%d.db", (int)getpid());
    measure("memory", NULL, messages, depth, group, kept);
    measure("sqlite", shm, messages, depth, group, kept);
    measure("sqlite", "bench_store.db", messages, depth, group, kept);
    measure("power", "bench_store.db", messages / 10, depth, group, kept);
    return 0;
}
