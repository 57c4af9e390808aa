/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/component/scheduler/world.h"

#include "common/json.h"

/*
 * Waits over the wire. One engine whose KV cache is a thousand tokens: a workflow with a request in
 * flight has claimed it, and the next one waits until that is done.
 */
#define PROMPT_BYTES 3600u

static uint64_t text_seed;

/* kind of the answer; digests make the claim. */
static Slipstream__V1__DecisionKind ask(struct link *l, uint64_t handle, const char *workflow,
                                        uint32_t patience_ms, uint32_t *deadline_ms)
{
    query_msg q = query_of(handle, workflow);
    Slipstream__V1__Decision *d;
    Slipstream__V1__DecisionKind kind;
    uint64_t digests[PROMPT_BYTES / 512];

    for (size_t i = 0; i < PROMPT_BYTES / 512; i++)
        digests[i] = ++text_seed * UINT64_C(0x9e3779b97f4a7c15);
    q.prompt_bytes = PROMPT_BYTES;
    q.digests = digests;
    q.n_digests = PROMPT_BYTES / 512;
    q.final = true;
    q.patience_ms = patience_ms;
    q.request_id = (char *)(uintptr_t)workflow;
    assert_int_equal(call(l, PLACE, &q.base), ERR_OK);
    d = slipstream__v1__decision__unpack(NULL, l->body.len, body_of(l));
    assert_non_null(d);
    kind = d->kind;
    if (kind == SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT)
        assert_string_equal(d->reason, "door");
    if (deadline_ms != NULL)
        *deadline_ms = d->deadline_ms;
    slipstream__v1__decision__free_unpacked(d, NULL);
    return kind;
}

static void assert_goes(struct link *l, uint64_t handle, const char *workflow)
{
    assert_int_equal(ask(l, handle, workflow, 0, NULL), SLIPSTREAM__V1__DECISION_KIND__DECISION_GO);
}

static void assert_waits(struct link *l, uint64_t handle, const char *workflow)
{
    assert_int_equal(ask(l, handle, workflow, 0, NULL),
                     SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT);
}

static void grants_wait(struct link *l, unsigned want)
{
    uint64_t end = clock_ms() + ANY_MS;

    while (l->grants < want) {
        assert_true(clock_ms() < end);
        link_turn(l);
    }
}

static uint32_t waiting(struct link *l)
{
    Slipstream__V1__SchedulerStatus *st = status_get(l);
    uint32_t n = st->waiting;

    slipstream__v1__scheduler_status__free_unpacked(st, NULL);
    return n;
}

static void done(struct link *l, uint64_t handle)
{
    report(l, handle, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
}

static void wait_ends_by_one_event_at_its_own_worker(void **state)
{
    struct link owner, waiter;
    uint32_t deadline;

    (void)state;
    link_open(&owner);
    link_open(&waiter);
    engines_wait(&owner, 1);
    assert_goes(&owner, 1, "owner");
    assert_int_equal(ask(&waiter, 7, "waiter", 0, &deadline),
                     SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT);
    assert_true(deadline > 59000 && deadline <= 60000); /* as long as the request may live */
    assert_int_equal(waiting(&owner), 1);
    done(&owner, 1);
    grants_wait(&waiter, 1);
    assert_int_equal(waiter.grant.handle, 7);
    assert_true(waiter.grant.go);
    assert_string_equal(waiter.grant.wait_reason, "door");
    assert_int_equal(waiting(&waiter), 0);
    done(&waiter, 7);
    assert_int_equal(owner.grants, 0);
    assert_int_equal(waiter.grants, 1);
    link_close(&owner);
    link_close(&waiter);
}

static void each_wait_is_ended_once_and_in_turn(void **state)
{
    struct link l;
    char name[8];

    (void)state;
    link_open(&l);
    engines_wait(&l, 1);
    assert_goes(&l, 100, "owner");
    for (uint64_t i = 1; i <= 5; i++) {
        snprintf(name, sizeof(name), "w%u", (unsigned)i);
        assert_waits(&l, i, name);
    }
    done(&l, 100);
    for (unsigned i = 1; i <= 5; i++) { /* the oldest workflow first */
        grants_wait(&l, i);
        assert_int_equal(l.grant.handle, i);
        assert_true(l.grant.go);
        assert_int_equal(waiting(&l), 5 - i);
        assert_int_equal(l.grants, i);
        done(&l, i);
    }
    link_close(&l);
}

static void client_patience_ends_a_wait_with_a_refusal(void **state)
{
    struct link l;
    uint32_t deadline;

    (void)state;
    link_open(&l);
    engines_wait(&l, 1);
    assert_goes(&l, 1, "owner");
    assert_int_equal(ask(&l, 2, "hasty", 200, &deadline),
                     SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT);
    assert_true(deadline > 0 && deadline <= 200);
    grants_wait(&l, 1);
    assert_int_equal(l.grant.handle, 2);
    assert_false(l.grant.go);
    assert_int_equal(l.grant.err, ERR_GATE_WAIT);
    assert_int_equal(waiting(&l), 0);
    link_close(&l);
}

static void cancelled_wait_gets_no_event_and_leaves_its_place_to_others(void **state)
{
    struct link l;

    (void)state;
    link_open(&l);
    engines_wait(&l, 1);
    assert_goes(&l, 1, "owner");
    assert_waits(&l, 2, "first");
    assert_waits(&l, 3, "second");
    report(&l, 2, SLIPSTREAM__V1__REPORT_KIND__REPORT_CANCEL);
    assert_int_equal(waiting(&l), 1);
    done(&l, 1);
    grants_wait(&l, 1);
    assert_int_equal(l.grant.handle, 3);
    link_close(&l);
}

static void vanished_worker_waits_no_longer(void **state)
{
    struct link l, doomed;
    uint64_t end = clock_ms() + ANY_MS;

    (void)state;
    link_open(&l);
    link_open(&doomed);
    engines_wait(&l, 1);
    assert_goes(&l, 1, "owner");
    assert_waits(&doomed, 2, "doomed");
    link_close(&doomed);
    while (waiting(&l) != 0)
        assert_true(clock_ms() < end);
    done(&l, 1);
    assert_goes(&l, 3, "next");
    link_close(&l);
}

static void time_already_waited_counts(void **state)
{
    query_msg q = query_of(3, "patient");
    struct link l;

    (void)state;
    link_open(&l);
    engines_wait(&l, 1);
    assert_goes(&l, 1, "owner");
    q.prompt_bytes = PROMPT_BYTES;
    q.waited_ms = 5000; /* at another scheduler */
    assert_int_equal(call(&l, PLACE, &q.base), ERR_OK);
    done(&l, 1);
    grants_wait(&l, 1);
    assert_true(l.grant.go);
    assert_true(l.grant.waited_ms >= 5000);
    link_close(&l);
}

static void explained_wait_becomes_an_explained_decision(void **state)
{
    Slipstream__V1__ExplainQuery query;
    Slipstream__V1__Explanations *out;
    struct link l;

    (void)state;
    slipstream__v1__explain_query__init(&query);
    query.request_id = (char *)(uintptr_t) "waiter";
    link_open(&l);
    engines_wait(&l, 1);
    assert_goes(&l, 1, "owner");
    assert_waits(&l, 2, "waiter");
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(call(&l, EXPLAIN, &query.base), ERR_OK);
        out = slipstream__v1__explanations__unpack(NULL, l.body.len, body_of(&l));
        assert_non_null(out);
        assert_int_equal(out->n_items, 1);
        assert_string_equal(out->items[0]->wait_reason, "door");
        if (i == 0) {
            assert_int_equal(out->items[0]->kind, SLIPSTREAM__V1__DECISION_KIND__DECISION_WAIT);
            done(&l, 1);
            grants_wait(&l, 1);
        } else {
            assert_int_equal(out->items[0]->kind, SLIPSTREAM__V1__DECISION_KIND__DECISION_GO);
            assert_string_equal(out->items[0]->engine, "e0");
            assert_int_equal(out->items[0]->n_engines, 1);
            assert_false(out->items[0]->engines[0]->no_cost);
        }
        slipstream__v1__explanations__free_unpacked(out, NULL);
    }
    link_close(&l);
}

static void long_names_are_cut_between_characters(void **state)
{
    query_msg q = query_of(1, "w");
    Slipstream__V1__ExplainQuery query;
    Slipstream__V1__Explanations *out;
    char group[] = "x\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"
                   "\u00e4\u00e4\u00e4"
                   "\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"
                   "\u00e4\u00e4\u00e4"
                   "y\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"
                   "\u00e4\u00e4\u00e4";
    const char *cut;
    struct link l;

    (void)state;
    slipstream__v1__explain_query__init(&query);
    link_open(&l);
    engines_wait(&l, 1);
    q.group_size = 1; /* waits for nobody */
    for (unsigned i = 0; i < 2; i++) {
        q.group_id = group + i; /* one of them is cut in the middle of a character */
        q.handle = i + 1;
        assert_int_equal(call(&l, PLACE, &q.base), ERR_OK);
        assert_int_equal(call(&l, EXPLAIN, &query.base), ERR_OK);
        out = slipstream__v1__explanations__unpack(NULL, l.body.len, body_of(&l));
        assert_non_null(out);
        assert_true(out->n_items > 0);
        cut = out->items[0]->group_id;
        assert_true(strlen(cut) >= 94 && strlen(cut) < strlen(group + i));
        assert_true(json_is_utf8(cut, strlen(cut)));
        slipstream__v1__explanations__free_unpacked(out, NULL);
    }
    link_close(&l);
}

static int world_small(const char *over)
{
    channel = over;
    scale = 1;
    engine_conf = "    kv_tokens: 1000\n";
    snprintf(dir, sizeof(dir), "/tmp/slip-wait-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(url, sizeof(url), "ipc://%s/run/sock/scheduler", dir);
    for (unsigned i = 0; i < ENGINES; i++)
        engine_start(&engines[i]);
    file_write("key", "sesame\n");
    conf_write(1, "  policy: workflow:gate=1:tax=0\n");
    scheduler = scheduler_spawn();
    return 0;
}

static int small_nng(void **state)
{
    (void)state;
    return world_small("nng");
}

static int small_shm(void **state)
{
    (void)state;
    return world_small("shm");
}

#define OVER_BOTH(test)                                     \
    {#test " (nng)", test, small_nng, world_close, NULL},   \
    {                                                       \
#test " (ring)", test, small_shm, world_close, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        OVER_BOTH(wait_ends_by_one_event_at_its_own_worker),
        OVER_BOTH(each_wait_is_ended_once_and_in_turn),
        OVER_BOTH(client_patience_ends_a_wait_with_a_refusal),
        OVER_BOTH(cancelled_wait_gets_no_event_and_leaves_its_place_to_others),
        OVER_BOTH(vanished_worker_waits_no_longer),
        OVER_BOTH(time_already_waited_counts),
        OVER_BOTH(explained_wait_becomes_an_explained_decision),
        OVER_BOTH(long_names_are_cut_between_characters),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
