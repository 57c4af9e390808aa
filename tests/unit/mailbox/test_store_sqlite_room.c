/* SPDX-License-Identifier: Apache-2.0 */
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "tests/unit/mailbox/sqlite_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_full_disk_refuses_and_recovers_when_there_is_room),
        TEST(many_removes_on_a_full_disk_are_kept_and_written_later),
        TEST(a_commit_too_big_for_memory_is_written_ahead_and_stays_whole),
        TEST(files_stay_bounded_and_shrink_after_a_backlog),
        TEST(every_commit_survives_kill_minus_nine),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
