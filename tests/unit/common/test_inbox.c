/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include <cmocka.h>

#include "common/inbox.h"

#define WRITERS 4
#define PER_WRITER 20000

struct note {
    struct inbox_item item;
    int writer;
    int number;
};

static struct inbox *in;
static int last[WRITERS];
static int handled;
static int disorder; /* counted, not asserted: the callback runs below cmocka's jump buffers */

static void on_note(struct inbox_item *item)
{
    struct note *n = container_of(item, struct note, item);

    if (n->number != last[n->writer] + 1)
        disorder++;
    last[n->writer] = n->number;
    handled++;
    free(n);
}

static void *write_notes(void *arg)
{
    int writer = (int)(intptr_t)arg, i;

    for (i = 1; i <= PER_WRITER; i++) {
        struct note *n = calloc(1, sizeof(*n));

        *n = (struct note){.item.handle = on_note, .writer = writer, .number = i};
        inbox_put(in, &n->item);
    }
    return NULL;
}

static int setup(void **state)
{
    int i;

    (void)state;
    in = inbox_new();
    handled = disorder = 0;
    for (i = 0; i < WRITERS; i++)
        last[i] = 0;
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    inbox_free(in);
    return 0;
}

static bool is_ringing(int wait_ms)
{
    struct pollfd p = {.fd = inbox_fd(in), .events = POLLIN};

    return poll(&p, 1, wait_ms) == 1;
}

static void every_item_of_every_writer_arrives_once_and_in_order(void **state)
{
    pthread_t threads[WRITERS];
    int i;

    (void)state;
    for (i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_notes, (void *)(intptr_t)i), 0);
    while (handled < WRITERS * PER_WRITER) {
        assert_true(is_ringing(10000)); /* a lost ring would hang here */
        inbox_run(in);
    }
    for (i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    inbox_run(in);
    assert_int_equal(handled, WRITERS * PER_WRITER);
    assert_int_equal(disorder, 0);
}

static void an_empty_inbox_does_not_ring(void **state)
{
    (void)state;
    assert_false(is_ringing(0));
    write_notes((void *)(intptr_t)0);
    assert_true(is_ringing(0));
    assert_int_equal(inbox_run(in), PER_WRITER);
    assert_false(is_ringing(0));
    assert_int_equal(inbox_run(in), 0);
    assert_int_equal(disorder, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_item_of_every_writer_arrives_once_and_in_order, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(an_empty_inbox_does_not_ring, setup, teardown),
    };

    return cmocka_run_group_tests_name("inbox", tests, NULL, NULL);
}
