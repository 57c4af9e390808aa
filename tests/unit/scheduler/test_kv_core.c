/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/scheduler/core_fixture.h"

/* What the core makes of KV events. */

static void kv(struct fixture *f, enum event_type type, const struct kv_event *ev)
{
    struct event e = {.type = type, .kv = *ev};

    e.kv.generation = 1;
    assert_int_equal(step(f, &e), ERR_OK);
}

static void open_one(struct fixture *f, bool content)
{
    struct core_conf conf = fixture_conf();
    struct text m = text_of("m");

    fixture_open(f, &conf, 1);
    step(f, &(struct event){.type = EV_ENGINE_SET,
                            .engine = {.generation = 1,
                                       .id = text_of("e0"),
                                       .models = &m,
                                       .model_count = 1,
                                       .models_known = true,
                                       .content = content}});
}

static float hit_of(struct fixture *f, const char *workflow)
{
    struct action a = place(f, workflow, "");

    assert_int_equal(a.type, ACT_GO);
    assert_int_equal(finish(f, a.handle, 1000, 0, 1), ERR_OK);
    return a.hit;
}

static void a_prompt_on_its_way_to_an_empty_engine_counts_as_cached(void **state)
{
    struct fixture f;
    struct action a;

    (void)state;
    open_one(&f, false);
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 16});
    a = place(&f, "w", "a");
    assert_true(a.hit < .01f);
    a = place(&f, "w", "b");
    assert_true(a.hit > .8f);
    fixture_close(&f);
}

static void removals_trim_what_the_index_holds(void **state)
{
    struct fixture f;

    (void)state;
    open_one(&f, false);
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 2000});
    assert_true(hit_of(&f, "w") < .01f);
    assert_true(hit_of(&f, "v") < .01f);
    /* Room for one of the two is left: the older goes. */
    kv(&f, EV_KV_REMOVED, &(struct kv_event){.tokens = 1000});
    assert_true(hit_of(&f, "v") > .8f);
    kv(&f, EV_KV_REMOVED, &(struct kv_event){.tokens = 1});
    assert_true(hit_of(&f, "w") < .5f);
    fixture_close(&f);
}

static void a_size_that_is_not_known_any_more_takes_nothing_away(void **state)
{
    struct fixture f;

    (void)state;
    open_one(&f, false);
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 2000});
    assert_true(hit_of(&f, "w") < .01f);
    kv(&f, EV_KV_CLEARED, &(struct kv_event){.unknown = true});
    assert_true(hit_of(&f, "w") > .8f);
    assert_false(core_engine(f.core, 0)->kv_events);
    kv(&f, EV_KV_CLEARED, &(struct kv_event){0});
    assert_true(hit_of(&f, "w") < .01f);
    fixture_close(&f);
}

static void a_clear_forgets_what_was_sent_there(void **state)
{
    struct fixture f;

    (void)state;
    open_one(&f, false);
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 16});
    kv(&f, EV_KV_CLEARED, &(struct kv_event){.unknown = true});
    assert_true(hit_of(&f, "w") < .01f);
    assert_true(hit_of(&f, "w") > .8f);
    kv(&f, EV_KV_CLEARED, &(struct kv_event){0});
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 32});
    assert_true(hit_of(&f, "w") < .01f);
    fixture_close(&f);
}

static void content_is_followed_exactly_whatever_the_size(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    open_one(&f, true);
    q = query_of(&f, "w", "");
    kv(&f, EV_KV_STORED,
       &(struct kv_event){.content = true, .digests = q.digests, .count = q.digest_count});
    kv(&f, EV_KV_STORED, &(struct kv_event){.tokens = 100});
    kv(&f, EV_KV_REMOVED, &(struct kv_event){.tokens = 90});
    assert_true(hit_of(&f, "w") > .8f);
    kv(&f, EV_KV_REMOVED,
       &(struct kv_event){.content = true, .digests = q.digests + 1, .count = q.digest_count - 1});
    kv(&f, EV_KV_CLEARED, &(struct kv_event){0});
    assert_true(hit_of(&f, "w") < .01f);
    fixture_close(&f);
}

static void stored(struct fixture *f, const struct query *q)
{
    kv(f, EV_KV_STORED,
       &(struct kv_event){.content = true, .digests = q->digests, .count = q->digest_count});
}

/* A request of workflow w; after its first byte the event comes so much later. */
static void served_and_told(struct fixture *f, const char *w, uint64_t late_ns)
{
    struct query q = query_of(f, w, "");
    uint64_t handle = q.handle;

    assert_int_equal(ask(f, &q)->type, ACT_GO);
    step(f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = handle}});
    assert_int_equal(finish(f, handle, 1000, 0, 10), ERR_OK);
    f->now += late_ns;
    stored(f, &q);
}

static void what_a_first_byte_proves_counts_once_events_are_seen_to_be_late(void **state)
{
    struct fixture f;
    struct query q;

    (void)state;
    open_one(&f, true);
    served_and_told(&f, "v", 0);
    q = query_of(&f, "w", "");
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    step(&f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = q.handle}});
    assert_int_equal(finish(&f, q.handle, 1000, 0, 10), ERR_OK);
    assert_true(hit_of(&f, "w") < .01f);
    f.now += 5 * NS_PER_S;
    stored(&f, &q);
    q = query_of(&f, "x", "");
    assert_int_equal(ask(&f, &q)->type, ACT_GO);
    step(&f, &(struct event){.type = EV_FIRST_BYTE, .report = {.handle = q.handle}});
    assert_int_equal(finish(&f, q.handle, 1000, 0, 10), ERR_OK);
    assert_true(hit_of(&f, "x") > .8f);
    fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_prompt_on_its_way_to_an_empty_engine_counts_as_cached),
        cmocka_unit_test(removals_trim_what_the_index_holds),
        cmocka_unit_test(a_size_that_is_not_known_any_more_takes_nothing_away),
        cmocka_unit_test(a_clear_forgets_what_was_sent_there),
        cmocka_unit_test(content_is_followed_exactly_whatever_the_size),
        cmocka_unit_test(what_a_first_byte_proves_counts_once_events_are_seen_to_be_late),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
