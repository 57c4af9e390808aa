/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

#include <malloc.h>
#include <stdio.h>

/*
 * What a queued message costs beside its payload: core, store and malloc together. The goal is 1.3
 * times a payload of 1 KiB.
 */
#define PAYLOAD 1024u
#define BOXES 64u

#if defined(__SANITIZE_ADDRESS__)
#define MEASURED false
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define MEASURED false
#endif
#endif
#ifndef MEASURED
#define MEASURED true
#endif

static size_t heap_bytes(void)
{
    struct mallinfo2 m = mallinfo2();

    return m.uordblks + m.hblkhd;
}

static void fill(struct fixture *f, char *text, unsigned count)
{
    struct mbox_event e = {.kind = MBOX_SEND};
    struct mbox_draft d[100];
    char agents[BOXES][16];
    unsigned i, j;

    for (i = 0; i < BOXES; i++)
        snprintf(agents[i], sizeof(agents[i]), "agent-%u", i);
    e.send.tenant = "t";
    e.send.workflow = "w";
    e.send.drafts = d;
    for (i = 0; i < count; i += 100) {
        e.send.draft_count = 0;
        for (j = i; j < i + 100; j++)
            d[e.send.draft_count++] = (struct mbox_draft){.source = "planner-agent",
                                                          .target = agents[j % BOXES],
                                                          .type = "task",
                                                          .payload = text,
                                                          .payload_len = PAYLOAD};
        step(f, &e);
        for (j = 0; j < 100; j++)
            assert_int_equal(f->out.items[j].err, ERR_OK);
        commit(f, true);
        f->now += MS;
    }
}

static double overhead(unsigned count)
{
    struct mbox_limits limits = fixture_limits();
    size_t before = heap_bytes(), after;
    struct fixture *f;
    char *text = malloc(PAYLOAD);

    limits.max_agents = BOXES;
    limits.box_messages = UINT32_MAX;
    limits.box_bytes = limits.total_bytes = UINT64_MAX / 2;
    f = fixture_new(limits);
    memset(text, '7', PAYLOAD);
    f->store->ops->compress_from(f->store, 4096);
    fill(f, text, count);
    after = heap_bytes();
    assert_int_equal(totals(f).queued, count);
    fixture_free(f);
    free(text);
    return (double)(after - before) / count - PAYLOAD;
}

static void a_queued_message_costs_little_beside_its_payload(void **state)
{
    /* Sizes at which growing tables have just grown are among them. */
    static const unsigned counts[] = {50000, 65600, 90000};
    unsigned i;

    (void)state;
    if (!MEASURED)
        skip();
    for (i = 0; i < 3; i++) {
        double bytes = overhead(counts[i]);

        print_message("%u messages: %.1f bytes each beside the payload\n", counts[i], bytes);
        assert_true(bytes > 0 && bytes <= 0.3 * PAYLOAD);
    }
}

/* SLIPSTREAM_MESSAGES=1000000 for the published figure. */
static void a_stated_number_costs_no_more(void **state)
{
    const char *stated = getenv("SLIPSTREAM_MESSAGES");
    double bytes;

    (void)state;
    if (!MEASURED || stated == NULL)
        skip();
    bytes = overhead((unsigned)atoi(stated));
    print_message("%s messages: %.1f bytes each beside the payload\n", stated, bytes);
    assert_true(bytes <= 0.3 * PAYLOAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_queued_message_costs_little_beside_its_payload),
        cmocka_unit_test(a_stated_number_costs_no_more),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
