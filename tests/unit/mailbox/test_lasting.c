/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

#include <unistd.h>

/* The core over the store that lasts: what one process was told, the next one knows. */

static char dir[] = "/tmp/slipstream-lasting-XXXXXX";
static char path[128];

static void open_all(struct fixture *f, uint64_t seed)
{
    const struct store_sqlite_conf conf = {
        .path = path, .compress_bytes = 256, .cache_bytes = 1 << 20};
    const struct mbox_limits limits = fixture_limits();

    assert_int_equal(store_sqlite_open(&conf, &f->store), ERR_OK);
    f->core = mbox_new(&limits, f->store, seed);
    assert_int_equal(mbox_restore(f->core, f->now, f->now / MS), ERR_OK);
}

static void close_all(struct fixture *f)
{
    mbox_free(f->core);
    f->store->ops->close(f->store);
}

static struct fixture *new_lasting(void)
{
    struct fixture *f = calloc(1, sizeof(*f));

    assert_non_null(f);
    f->now = 1000 * SEC;
    open_all(f, 1);
    return f;
}

static void end_lasting(struct fixture *f)
{
    fixture_free(f);
    unlink(path);
}

static void again(struct fixture *f, uint64_t later_ns, uint64_t seed)
{
    close_all(f);
    f->now += later_ns;
    open_all(f, seed);
}

static void messages_keys_attempts_delays_and_dead_letters_are_there_again(void **state)
{
    struct fixture *f = new_lasting();
    struct sending keyed = {.to = "a", .payload = "{\"n\":1}", .key = "k", .priority = 3};
    const struct mbox_action *a;
    struct leased l;
    char id[64];

    (void)state;
    strcpy(id, send_as(f, keyed)->message_id);
    send_as(f, (struct sending){.to = "a", .payload = "2", .group = "g"});
    send_as(f, (struct sending){.to = "a", .payload = "3", .group = "g"});
    send_as(f, (struct sending){.to = "a", .payload = "4", .delay_ms = 60000});
    send_as(f, (struct sending){.to = "a", .payload = "5", .ttl_ms = 500});
    tick(f, SEC);
    settle(f, 1, receive(f, "a", 1)->delivery, false);
    l = lease(f, "a", 30000);
    settle(f, 1, l.delivery, true);
    commit(f, true);
    again(f, SEC, 2);
    assert_int_equal(totals(f).restored, 5);
    assert_int_equal(totals(f).delayed, 1);
    assert_int_equal(totals(f).dead_now, 1);
    assert_int_equal(ack_leased(f, "a", &l, MBOX_ACK_DONE), ERR_OK);
    send_as(f, keyed);
    assert_true(f->sent.replayed);
    assert_string_equal(f->sent.message_id, id);
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 2);
    assert_string_equal(payload(f, a, 0), "2");
    assert_string_equal(view(f, a, 0)->letter.group, "g");
    settle(f, 1, a->delivery, true);
    assert_int_equal(redrive(f, "a", NULL, false)->dropped, 1);
    commit(f, true);
    again(f, 60 * SEC, 3);
    assert_int_equal(totals(f).restored, 2);
    a = receive(f, "a", 9);
    assert_int_equal(a->count, 1); /* the redriven one had half a second */
    assert_string_equal(payload(f, a, 0), "4");
    assert_string_equal(payload(f, list_dead(f, "a", 9, NULL), 0), "5");
    end_lasting(f);
}

static void what_leaves_takes_its_bytes_with_it(void **state)
{
    struct fixture *f = new_lasting();
    char text[1500];
    int i;

    (void)state;
    memset(text, '7', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    receive(f, "b", 1);
    for (i = 0; i < 20; i++) {
        send_as(f, (struct sending){.from = "s", .to = i % 3 == 0 ? "*" : "b", .payload = text});
        settle(f, 1, receive(f, "b", 1)->delivery, i % 5 != 0);
        if (i % 7 == 0)
            again(f, MS, 10 + (uint64_t)i);
    }
    assert_true(stored_bytes(f) > 0);
    close_workflow(f, "w", true);
    tick(f, 1);
    commit(f, true);
    assert_int_equal(stored_bytes(f), 0);
    assert_int_equal(totals(f).bytes, 0);
    again(f, MS, 99);
    assert_int_equal(totals(f).restored, 0);
    end_lasting(f);
}

static void a_broadcast_is_restored_for_those_who_have_not_had_it(void **state)
{
    static const char *const agents[] = {"a", "b", "c"};
    struct fixture *f = new_lasting();

    (void)state;
    send_as(f, (struct sending){.to = "*", .payload = "1", .agents = agents, .agent_count = 3});
    settle(f, 1, receive(f, "b", 1)->delivery, true);
    commit(f, true);
    again(f, MS, 2);
    assert_int_equal(receive(f, "a", 1)->count, 1);
    assert_int_equal(receive(f, "b", 1)->count, 0);
    assert_int_equal(receive(f, "c", 1)->count, 1);
    assert_string_equal(payload(f, reply(f), 0), "1");
    end_lasting(f);
}

static int make_dir(void **state)
{
    (void)state;
    if (mkdtemp(dir) == NULL)
        return -1;
    snprintf(path, sizeof(path), "%s/mailbox.db", dir);
    return 0;
}

static int remove_dir(void **state)
{
    static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
    char name[160];
    int i;

    (void)state;
    for (i = 0; i < 4; i++) {
        snprintf(name, sizeof(name), "%s%s", path, suffixes[i]);
        unlink(name);
    }
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(messages_keys_attempts_delays_and_dead_letters_are_there_again),
        cmocka_unit_test(what_leaves_takes_its_bytes_with_it),
        cmocka_unit_test(a_broadcast_is_restored_for_those_who_have_not_had_it),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
