/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "bench/replay/random.h"

static struct trace *parsed(const char *text)
{
    struct buf why = {0};
    struct trace *t = NULL;

    assert_int_equal(trace_parse(text, strlen(text), &t, &why), ERR_OK);
    buf_fini(&why);
    return t;
}

static void refused(const char *text, const char *complaint)
{
    struct buf why = {0};
    struct trace *t = NULL;

    assert_int_equal(trace_parse(text, strlen(text), &t, &why), ERR_INVALID);
    assert_string_equal(buf_cstr(&why), complaint);
    assert_null(t);
    buf_fini(&why);
}

#define META "{\"trace\":\"x\",\"block\":16,\"mode\":\"closed\"}\n"

static void reads_metadata_and_calls(void **state)
{
    struct trace *t = parsed(META "[3,7,0,[],0,100,20,-1,0]\n[3,8,1.5,[0],2.5,200,0,0,6]\n");

    (void)state;
    assert_int_equal(t->block, 16);
    assert_int_equal(t->mode, TRACE_CLOSED);
    assert_int_equal(t->call_count, 2);
    assert_int_equal(t->calls[1].workflow, 3);
    assert_int_equal(t->calls[1].agent, 8);
    assert_true(t->calls[1].gap == 2.5);
    assert_int_equal(t->calls[1].out, 1); /* nothing generated is not possible */
    assert_int_equal(t->calls[1].ref, 0);
    assert_int_equal(t->calls[1].dep_count, 1);
    assert_int_equal(t->deps[t->calls[1].dep_at], 0);
    assert_null(t->launch);
    trace_free(t);
}

static void refuses_what_is_not_a_trace(void **state)
{
    (void)state;
    refused("", "no calls in it");
    refused(META, "no calls in it");
    refused("[0,0,0,[],0,100,20,-1,0]\n", "line 1 is not trace metadata");
    refused("{\"block\":16,\"mode\":\"sideways\"}\n", "line 1 is not trace metadata");
    refused(META "[0,0,0,[],0,100,20,-1]\n", "line 2 is not a call");
    refused(META "[0,0,0,[],0,100,20,0,0]\n", "line 2 is not a call");   /* ref to itself */
    refused(META "[0,0,0,[0],0,100,20,-1,0]\n", "line 2 is not a call"); /* waits for itself */
    refused(META "[0,0,-1,[],0,100,20,-1,0]\n", "line 2 is not a call");
    refused(META "[0,0,0,[],0,1e3,20,-1,0]\n", "line 2 is not a call");
    refused(META "[0,0,0,[],0,99999999999,20,-1,0]\n", "line 2 is not a call");
}

static void shuffle_draws_what_python_draws(void **state)
{
    /* random.Random(1).shuffle(list(range(10))), then .random() */
    static const uint32_t want[10] = {6, 8, 9, 7, 5, 3, 0, 4, 1, 2};
    uint32_t items[10];
    struct mt m;

    (void)state;
    for (uint32_t i = 0; i < 10; i++)
        items[i] = i;
    mt_seed(&m, 1);
    mt_shuffle(&m, items, 10);
    assert_memory_equal(items, want, sizeof(want));
    assert_true(mt_unit(&m) == 0.7887233511355132);
}

#define FOUR_FLOWS                                                                 \
    META "[0,0,0,[],0,9,1,-1,0]\n[0,0,0,[0],0,9,1,-1,0]\n[0,0,0,[1],0,9,1,-1,0]\n" \
         "[1,1,0,[],0,9,1,-1,0]\n[2,2,0,[],0,9,1,-1,0]\n[3,3,0,[],0,9,1,-1,0]\n"

static void selects_first_workflows_and_first_steps(void **state)
{
    struct trace *t = parsed(FOUR_FLOWS);
    struct selection_rule rule = {.sessions = 2, .max_steps = 2};
    struct selection sel;

    (void)state;
    selection_make(t, &rule, &sel);
    assert_int_equal(sel.kept, 3);
    assert_true(sel.keep[0] && sel.keep[1] && !sel.keep[2] && sel.keep[3] && !sel.keep[4]);
    assert_int_equal(sel.launch_count, 2);
    assert_int_equal(sel.launch[1].workflow, 1);
    assert_true(sel.launch[1].start < 0);
    selection_fini(&sel);
    trace_free(t);
}

static void same_seed_selects_the_same(void **state)
{
    struct trace *t = parsed(FOUR_FLOWS);
    struct selection_rule rule = {.sessions = 3, .shuffle = true, .seed = 5};
    struct selection a, b;

    (void)state;
    selection_make(t, &rule, &a);
    selection_make(t, &rule, &b);
    assert_int_equal(a.launch_count, 3);
    assert_memory_equal(a.keep, b.keep, t->call_count * sizeof(*a.keep));
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(a.launch[i].workflow, b.launch[i].workflow);
    selection_fini(&a);
    selection_fini(&b);
    trace_free(t);
}

static void given_launch_order_is_taken_as_it_is(void **state)
{
    struct trace *t = parsed("{\"trace\":\"dump\",\"block\":16,\"mode\":\"closed\","
                             "\"launch\":[[1,null],[0,2.5]]}\n"
                             "[0,0,0,[],0,9,1,-1,0]\n[1,1,0,[],0,9,1,-1,0]\n");
    struct selection_rule rule = {.sessions = 1, .max_steps = 1, .shuffle = true};
    struct selection sel;

    (void)state;
    selection_make(t, &rule, &sel);
    assert_int_equal(sel.kept, 2);
    assert_int_equal(sel.launch_count, 2);
    assert_int_equal(sel.launch[0].workflow, 1);
    assert_true(sel.launch[0].start < 0);
    assert_true(sel.launch[1].start == 2.5);
    selection_fini(&sel);
    trace_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_metadata_and_calls),
        cmocka_unit_test(refuses_what_is_not_a_trace),
        cmocka_unit_test(shuffle_draws_what_python_draws),
        cmocka_unit_test(selects_first_workflows_and_first_steps),
        cmocka_unit_test(same_seed_selects_the_same),
        cmocka_unit_test(given_launch_order_is_taken_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
