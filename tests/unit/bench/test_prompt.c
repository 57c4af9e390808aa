/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/prompt.h"

#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bench/replay/dry.h"
#include "bench/replay/perfect.h"
#include "bench/replay/synth.h"

#define META "{\"trace\":\"x\",\"block\":16,\"mode\":\"closed\"}\n"

struct fixture {
    struct trace *t;
    struct plans *p;
    struct answers known;
};

static struct fixture planned(const char *text)
{
    struct buf why = {0};
    struct fixture x = {0};

    assert_int_equal(trace_parse(text, strlen(text), &x.t, &why), ERR_OK);
    buf_fini(&why);
    x.p = plans_new(x.t, 1);
    x.known.count = x.t->call_count;
    x.known.text = calloc(x.known.count, sizeof(*x.known.text));
    return x;
}

static void finished(struct fixture *x)
{
    for (size_t i = 0; i < x->known.count; i++)
        buf_fini(&x->known.text[i]);
    free(x->known.text);
    plans_free(x->p);
    trace_free(x->t);
}

/* What the engine model counts and keeps: the stream that the messages of a call come to, read from
 * the JSON that is sent. */
static uint32_t *tokens_by_messages(const struct fixture *x, uint32_t call, uint32_t *count)
{
    struct buf json = {0};
    json_t *list, *message;
    size_t i;
    uint32_t *out = calloc(1U << 16, sizeof(*out)), n = 0;

    prompt_add_messages(x->p, call, &x->known, &json);
    list = json_loadb(json.base, json.len, 0, NULL);
    assert_true(json_is_array(list));
    json_array_foreach(list, i, message)
    {
        const char *role = json_string_value(json_object_get(message, "role"));
        const char *text = json_string_value(json_object_get(message, "content"));
        size_t len = strlen(text);

        out[n++] = strcmp(role, "user") == 0 ? PROMPT_USER : PROMPT_ASSISTANT;
        memcpy(&out[n], text, len);
        n += (uint32_t)((len + 3) / 4);
        out[n++] = PROMPT_END;
    }
    out[n++] = PROMPT_ASSISTANT;
    json_decref(list);
    buf_fini(&json);
    *count = n;
    return out;
}

static uint32_t common(const uint32_t *a, uint32_t na, const uint32_t *b, uint32_t nb)
{
    uint32_t n = 0;

    while (n < na && n < nb && a[n] == b[n])
        n++;
    return n;
}

/* Tokens that the prompt of call shares with prompt + output of ref. */
static uint32_t shared(const struct fixture *x, uint32_t ref, uint32_t call)
{
    uint32_t nr, nc, out = x->t->calls[ref].out, n;
    uint32_t *r = tokens_by_messages(x, ref, &nr), *c = tokens_by_messages(x, call, &nc);

    prompt_output(x->p, ref, &x->known, out, (char *)(r + nr));
    n = common(r, nr + out, c, nc);
    free(r);
    free(c);
    return n;
}

static void prompts_have_the_length_of_the_trace(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,100,20,-1,0]\n[0,0,0,[0],0,130,9,0,7]\n"
                                    "[0,0,0,[1],0,139,9,1,8]\n[0,0,0,[1],0,2,9,-1,0]\n");
    static const uint32_t want[] = {100, 130, 139, 4}; /* no prompt is shorter than its frame */

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t n, *tokens = tokens_by_messages(&x, i, &n);

        assert_int_equal(n, want[i]);
        assert_int_equal(x.p->of[i].prompt_tokens, want[i]);
        free(tokens);
    }
    finished(&x);
}

static void what_is_sent_is_what_is_counted(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,100,20,-1,0]\n[0,0,0,[0],0,130,9,0,7]\n"
                                    "[0,0,0,[1],0,200,9,1,8]\n[0,0,0,[1],0,190,9,2,3]\n");

    (void)state;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t n, *sent = tokens_by_messages(&x, i, &n);
        uint32_t *counted = prompt_tokens_of(x.p, i, &x.known);

        assert_memory_equal(sent, counted, n * sizeof(*sent));
        free(sent);
        free(counted);
    }
    finished(&x);
}

static void shared_prefix_is_exact_inside_a_prompt_and_an_output(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,100,60,-1,0]\n"
                                    "[0,0,0,[],0,130,9,0,4]\n"  /* 64: inside the user's text */
                                    "[0,0,0,[0],0,300,9,0,9]\n" /* 144: inside the answer */
                                    "[0,0,0,[0],0,300,9,0,10]\n" /* 160: all of it */);

    (void)state;
    assert_int_equal(shared(&x, 0, 1), 64);
    assert_int_equal(shared(&x, 0, 2), 144);
    assert_int_equal(shared(&x, 0, 3), 160);
    finished(&x);
}

static void answers_that_came_back_are_sent_again(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,10,2,-1,0]\n[0,0,0,[0],0,40,2,0,0]\n"
                                    "[0,0,0,[0],0,60,6,1,2]\n[0,0,0,[0],0,90,6,2,4]\n");
    struct buf json = {0};

    (void)state;
    buf_adds(&x.known.text[2], "say \"hi\"\n\\and on and on..");
    prompt_add_messages(x.p, 3, &x.known, &json);
    assert_non_null(strstr(buf_cstr(&json), "{\"role\":\"assistant\",\"content\":"
                                            "\"say \\u0022hi\\u0022\\u000a\\u005cand on\"}"));
    buf_fini(&json);
    finished(&x);
}

static void short_or_missing_answers_are_made_up_to_length(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,28,20,-1,0]\n[0,0,0,[0],0,70,2,0,3]\n");
    struct buf none = {0}, part = {0};

    (void)state;
    prompt_add_messages(x.p, 1, NULL, &none);
    buf_adds(&x.known.text[0], "abcdef");
    prompt_add_messages(x.p, 1, &x.known, &part);
    assert_int_equal(none.len, part.len);
    assert_non_null(strstr(buf_cstr(&part), "\"assistant\",\"content\":\"abcd"));
    buf_fini(&none);
    buf_fini(&part);
    finished(&x);
}

static void later_calls_repeat_what_was_said_not_what_became_known(void **state)
{
    struct fixture x = planned(META "[0,0,0,[],0,28,20,-1,0]\n[0,1,0,[],0,70,2,0,3]\n"
                                    "[0,1,0,[1],0,90,2,1,4]\n[0,0,0,[0],0,90,2,0,3]\n");
    uint32_t *before, *after, *other;

    (void)state;
    prompt_settle(x.p, 1, &x.known);
    before = prompt_tokens_of(x.p, 1, &x.known);
    for (int i = 0; i < 20; i++)
        buf_adds(&x.known.text[0], "real");
    prompt_settle(x.p, 2, &x.known);
    prompt_settle(x.p, 3, &x.known);
    after = prompt_tokens_of(x.p, 2, &x.known);
    other = prompt_tokens_of(x.p, 3, &x.known);
    assert_int_equal(common(before, 70, after, 90), 64);
    assert_int_equal(common(before, 70, other, 90), 28);
    assert_memory_equal(&other[28], "real", 4);
    free(before);
    free(after);
    free(other);
    finished(&x);
}

static void other_seeds_and_traces_share_nothing(void **state)
{
    struct fixture a = planned(META "[0,0,0,[],0,400,20,-1,0]\n");
    struct plans *other = plans_new(a.t, 2);
    uint32_t *x = prompt_tokens_of(a.p, 0, NULL), *y = prompt_tokens_of(other, 0, NULL);

    (void)state;
    assert_int_equal(common(x, 400, y, 400), 1); /* the role marker */
    free(x);
    free(y);
    plans_free(other);
    finished(&a);
}

static void chains_carry_on_at_any_length(void **state)
{
    struct chain whole = {0}, parts = {0};
    struct perfect p;
    uint32_t tokens[100];

    (void)state;
    for (uint32_t i = 0; i < 100; i++)
        tokens[i] = i * 7919;
    chain_add(&whole, tokens, 100);
    for (uint32_t i = 0; i < 100; i += 1 + i % 37)
        chain_add(&parts, tokens + i, i + 1 + i % 37 < 100 ? 1 + i % 37 : 100 - i);
    assert_int_equal(whole.count, 6);
    assert_int_equal(parts.count, 6);
    assert_memory_equal(whole.names, parts.names, 6 * sizeof(*whole.names));
    perfect_init(&p);
    assert_int_equal(perfect_match(&p, &whole), 0);
    perfect_learn(&p, &whole);
    assert_int_equal(perfect_match(&p, &parts), 6);
    perfect_fini(&p);
    chain_fini(&whole);
    chain_fini(&parts);
}

static void reproduced(struct trace *t, double want, double within)
{
    struct selection_rule rule = {0};
    struct selection sel;
    struct plans *p = plans_new(t, 1);
    struct dry d;

    selection_make(t, &rule, &sel);
    dry_run(p, &sel, &d);
    assert_true(fabs(d.text_hit - d.trace_hit) < .1);
    assert_true(fabs(d.text_hit - want) < within);
    assert_true(fabs(d.tokens_off) < .1);
    assert_true(d.worst_off <= t->block);
    selection_fini(&sel);
    plans_free(p);
    trace_free(t);
}

static void endless_cache_reproduces_the_synthetic_workload(void **state)
{
    (void)state;
    reproduced(synth_supervisor(24, 1), 89.5, 1);
}

static void same_seed_makes_the_same_workload(void **state)
{
    struct trace *a = synth_supervisor(5, 3), *b = synth_supervisor(5, 3);
    struct trace *c = synth_supervisor(5, 4);

    (void)state;
    assert_int_equal(a->call_count, b->call_count);
    assert_memory_equal(a->calls, b->calls, a->call_count * sizeof(*a->calls));
    assert_true(a->call_count != c->call_count ||
                memcmp(a->calls, c->calls, a->call_count * sizeof(*a->calls)) != 0);
    trace_free(a);
    trace_free(b);
    trace_free(c);
}

/* With SLIPSTREAM_TRACES naming a folder of traces; the figures are published with them. */
static void endless_cache_reproduces_the_real_traces(void **state)
{
    static const struct {
        const char *file;
        double hit;
    } want[] = {{"weka_claude_code_dev", 96.8},
                {"mooncake_conversation", 38.4},
                {"mooncake_synthetic", 65.1},
                {"whowhen", 93.7}};
    const char *dir = getenv("SLIPSTREAM_TRACES");

    (void)state;
    if (dir == NULL)
        skip();
    for (size_t i = 0; i < sizeof(want) / sizeof(*want); i++) {
        struct trace *t = NULL;
        struct buf why = {0};
        char path[4096];

        snprintf(path, sizeof(path), "%s/%s.jsonl.gz", dir, want[i].file);
        assert_int_equal(trace_load(path, &t, &why), ERR_OK);
        reproduced(t, want[i].hit, .5);
        buf_fini(&why);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_have_the_length_of_the_trace),
        cmocka_unit_test(what_is_sent_is_what_is_counted),
        cmocka_unit_test(shared_prefix_is_exact_inside_a_prompt_and_an_output),
        cmocka_unit_test(answers_that_came_back_are_sent_again),
        cmocka_unit_test(short_or_missing_answers_are_made_up_to_length),
        cmocka_unit_test(later_calls_repeat_what_was_said_not_what_became_known),
        cmocka_unit_test(other_seeds_and_traces_share_nothing),
        cmocka_unit_test(chains_carry_on_at_any_length),
        cmocka_unit_test(endless_cache_reproduces_the_synthetic_workload),
        cmocka_unit_test(same_seed_makes_the_same_workload),
        cmocka_unit_test(endless_cache_reproduces_the_real_traces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
