/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The replay itself: sends each call when the flow says so, keeps what comes back, and tells the
 * flow that it ended. One thread, one loop.
 *
 * Time to first token counts from the moment at which the call was due, so a replayer that is late
 * makes figures worse, never better.
 */
#include "bench/replay/live.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/replay/client.h"
#include "bench/replay/engines.h"
#include "bench/replay/perfect.h"
#include "common/clock.h"
#include "common/list.h"
#include "common/loop.h"
#include "common/must.h"

#define SAMPLE_NS (200 * NS_PER_MS)
#define PROGRESS_NS (2 * NS_PER_S)
#define ERRORS_SHOWN 10

struct live {
    const struct live_conf *conf;
    struct plans *plans;
    struct loop *loop;
    struct client *client, *engines;
    struct flow *flow;
    struct answers answers;
    struct perfect computed; /* on any engine, in this run */
    struct outcome *outcomes;
    size_t outcome_count, total;
    uint32_t running, errors;
    uint64_t prompt_tokens, cached_tokens;
    double first_sum;
    uint64_t start_ns;
    bool interrupted, finishing, closing;
    struct timer due, sample, progress;
    struct engine_sample *seen, *before; /* per engine; before: when the run began */
    uint32_t sampling, samples;
    struct time_mean held;
};

struct job { /* a call on its way */
    struct live *live;
    uint32_t call;
    double ready, first; /* first: negative until the first token */
    struct chain chain;  /* of the prompt */
    uint32_t expected;
};

static double model_now(const struct live *l)
{
    return (double)(clock_ns() - l->start_ns) / (double)NS_PER_S * l->conf->time_scale;
}

static const struct trace_call *call_of(const struct job *j)
{
    return &j->live->plans->trace->calls[j->call];
}

static void add_metadata(const struct job *j, bool last, struct buf *out)
{
    const struct live_conf *conf = j->live->conf;

    buf_addf(out, ",\"workflow_metadata\":{\"workflow_id\":\"%s-%u\",\"agent_id\":\"a%u\"",
             conf->tag, call_of(j)->workflow, call_of(j)->agent);
    buf_adds(out, last && conf->final_mark ? ",\"final\":true}" : "}");
}

static void make_body(const struct job *j, bool last, struct buf *out)
{
    buf_adds(out, "{\"model\":");
    buf_add_json(out, j->live->conf->model, strlen(j->live->conf->model));
    buf_addf(out, ",\"max_tokens\":%u,\"ignore_eos\":true,\"temperature\":0,\"stream\":true",
             call_of(j)->out);
    buf_adds(out, ",\"stream_options\":{\"include_usage\":true}");
    if (j->live->conf->identity == LIVE_METADATA)
        add_metadata(j, last, out);
    buf_adds(out, ",\"messages\":");
    prompt_add_messages(j->live->plans, j->call, &j->live->answers, out);
    buf_adds(out, "}");
}

static void make_headers(const struct job *j, bool last, struct buf *out)
{
    const struct live_conf *conf = j->live->conf;

    buf_adds(out, "Content-Type: application/json\r\nAccept: text/event-stream\r\n");
    if (conf->identity != LIVE_HEADER)
        return;
    buf_addf(out, "X-Workflow-ID: %s-%u\r\nX-Agent-ID: a%u\r\n", conf->tag, call_of(j)->workflow,
             call_of(j)->agent);
    if (last && conf->final_mark)
        buf_adds(out, "X-Workflow-Final: true\r\n");
}

static void on_bytes(void *arg, struct answer *a)
{
    struct job *j = arg;

    if (j->first < 0 && a->text_events > 0)
        j->first = model_now(j->live);
}

static const char *complaint(const struct job *j, enum err e, const struct answer *a, char *dst,
                             size_t size)
{
    uint32_t want = call_of(j)->out * PROMPT_TOKEN_BYTES;

    if (a->error[0] != '\0') /* the gateway says why it then cuts the stream off */
        snprintf(dst, size, "error in the stream: %s", a->error);
    else if (e != ERR_OK)
        snprintf(dst, size, "%s", err_text(e));
    else if (a->status != 200)
        snprintf(dst, size, "status %u: %.*s", a->status,
                 (int)(a->body.len < 200 ? a->body.len : 200), a->body.len > 0 ? a->body.base : "");
    else if (!a->seen_done)
        snprintf(dst, size, "the stream ended without [DONE]");
    else if (!a->has_usage)
        snprintf(dst, size, "no usage in the stream");
    else if (j->first < 0 || a->text.len != want)
        snprintf(dst, size, "%zu bytes of text instead of %u", a->text.len, want);
    else
        return NULL;
    return dst;
}

static void learn_output(struct job *j, const struct answer *a)
{
    size_t n = a->text.len / PROMPT_TOKEN_BYTES;
    uint32_t *tokens = calloc(n + 1, sizeof(*tokens));

    must(tokens != NULL);
    memcpy(tokens, a->text.base, n * PROMPT_TOKEN_BYTES);
    chain_add(&j->chain, tokens, n);
    perfect_learn(&j->live->computed, &j->chain);
    free(tokens);
    buf_add(&j->live->answers.text[j->call], a->text.base, a->text.len);
}

static void start_due(struct live *l);

static void job_free(struct job *j)
{
    chain_fini(&j->chain);
    free(j);
}

static void take_outcome(struct job *j, enum err e, const struct answer *a, double now)
{
    struct live *l = j->live;
    struct outcome *o = &l->outcomes[l->outcome_count++];
    char why[320];

    *o = (struct outcome){
        .workflow = call_of(j)->workflow, .ready = j->ready, .end = now - j->ready};
    if (complaint(j, e, a, why, sizeof(why)) != NULL) {
        if (l->errors++ < ERRORS_SHOWN)
            fprintf(stderr, "call %u of workflow %u failed: %s\n", j->call, o->workflow, why);
    } else {
        o->ok = true;
        o->first = j->first - j->ready;
        o->prompt_tokens = a->prompt_tokens;
        o->cached_tokens = a->cached_tokens;
        o->output_tokens = a->completion_tokens;
        o->expected_cached = j->expected;
        l->prompt_tokens += a->prompt_tokens;
        l->cached_tokens += a->cached_tokens;
        l->first_sum += o->first;
        learn_output(j, a);
    }
}

static void on_end(void *arg, enum err e, struct answer *a)
{
    struct job *j = arg;
    struct live *l = j->live;
    double now = model_now(l);
    bool last;

    if (!l->closing) {
        take_outcome(j, e, a, now);
        l->running--;
        flow_done(l->flow, j->call, now, &last);
        start_due(l);
    }
    job_free(j);
}

static void send_call(struct live *l, uint32_t call, double ready)
{
    struct job *j = calloc(1, sizeof(*j));
    uint32_t prompt = l->plans->of[call].prompt_tokens, *tokens;
    struct exchange_calls calls = {.on_bytes = on_bytes, .on_end = on_end, .arg = j};
    struct buf headers = {0}, body = {0};
    bool last = flow_left(l->flow, call) == 1;
    size_t match;

    must(j != NULL);
    *j = (struct job){.live = l, .call = call, .ready = ready, .first = -1};
    prompt_settle(l->plans, call, &l->answers);
    tokens = prompt_tokens_of(l->plans, call, &l->answers);
    chain_add(&j->chain, tokens, prompt);
    free(tokens);
    /* An engine computes at least the last token. */
    match = perfect_match(&l->computed, &j->chain);
    if (match > (prompt - 1) / PERFECT_BLOCK)
        match = (prompt - 1) / PERFECT_BLOCK;
    j->expected = (uint32_t)match * PERFECT_BLOCK;
    /* From now on, not from the first token on: engines share what is being computed, too. */
    perfect_learn(&l->computed, &j->chain);
    make_headers(j, last, &headers);
    make_body(j, last, &body);
    l->running++;
    client_send(l->client, -1, "POST", "/v1/chat/completions", buf_cstr(&headers), &body, &calls);
    buf_fini(&headers);
}

static void take_samples(struct live *l);

static void start_due(struct live *l)
{
    uint32_t call;
    double when, next;

    while (flow_take(l->flow, model_now(l), &call, &when))
        send_call(l, call, when);
    next = flow_next(l->flow);
    if (isfinite(next))
        timer_start(loop_timers(l->loop), &l->due,
                    l->start_ns + (uint64_t)ceil(next / l->conf->time_scale * (double)NS_PER_S));
    if (flow_is_over(l->flow) && !l->finishing) {
        l->finishing = true;
        timer_stop(loop_timers(l->loop), &l->sample);
        if (l->sampling == 0)
            take_samples(l);
    }
}

static void on_due(struct timer *t)
{
    start_due(container_of(t, struct live, due));
}

struct probe {
    struct live *live;
    uint32_t engine;
};

static void samples_are_in(struct live *l)
{
    double sum = 0;
    bool all = l->engines != NULL;

    for (uint32_t i = 0; all && i < client_targets(l->engines); i++) {
        all = l->seen[i].has_resident;
        sum += l->seen[i].resident_tokens;
    }
    if (l->samples++ == 0) {
        l->start_ns = clock_ns();
        if (l->engines != NULL)
            memcpy(l->before, l->seen, client_targets(l->engines) * sizeof(*l->seen));
        start_due(l);
    }
    if (all)
        time_mean_add(&l->held, model_now(l), sum);
    if (l->finishing)
        loop_stop(l->loop);
    else
        timer_start(loop_timers(l->loop), &l->sample, clock_ns() + SAMPLE_NS);
}

static void on_sample_end(void *arg, enum err e, struct answer *a)
{
    struct probe *p = arg;
    struct live *l = p->live;

    if (e == ERR_OK && a->status == 200)
        engine_sample_read(buf_cstr(&a->body), a->body.len, &l->seen[p->engine]);
    free(p);
    if (--l->sampling == 0 && !l->closing)
        samples_are_in(l);
}

/* Asks all engines at once. The first answers start the run, the ones after its end stop it. */
static void take_samples(struct live *l)
{
    if (l->engines == NULL) {
        samples_are_in(l);
        return;
    }
    for (uint32_t i = 0; i < client_targets(l->engines); i++) {
        struct probe *p = calloc(1, sizeof(*p));
        struct exchange_calls calls = {.on_end = on_sample_end, .arg = p};
        struct buf none = {0};

        must(p != NULL);
        *p = (struct probe){.live = l, .engine = i};
        l->sampling++;
        client_send(l->engines, (int)i, "GET", "/metrics", "", &none, &calls);
    }
}

static void on_sample(struct timer *t)
{
    take_samples(container_of(t, struct live, sample));
}

static void show_progress(const struct live *l)
{
    double n = l->outcome_count > l->errors ? (double)(l->outcome_count - l->errors) : 1;

    fprintf(stderr,
            "%s%-12s %zu/%zu calls, %u workflows done, %u running, hit %.1f %%, ttft %.2f s, "
            "%u errors, %.0f model s%s",
            isatty(STDERR_FILENO) ? "\r\033[K" : "", l->conf->policy, l->outcome_count, l->total,
            flow_workflows_done(l->flow), l->running,
            l->prompt_tokens > 0 ? 100 * (double)l->cached_tokens / (double)l->prompt_tokens : 0,
            l->first_sum / n, l->errors, model_now(l),
            isatty(STDERR_FILENO) && !l->finishing ? "" : "\n");
}

static void on_progress(struct timer *t)
{
    struct live *l = container_of(t, struct live, progress);

    show_progress(l);
    timer_start(loop_timers(l->loop), t, clock_ns() + PROGRESS_NS);
}

static void on_interrupt(void *arg, int signo)
{
    struct live *l = arg;

    (void)signo;
    l->interrupted = true;
    loop_stop(l->loop);
}

static double engine_hit(const struct live *l)
{
    double query = 0, hit = 0;

    for (uint32_t i = 0; l->engines != NULL && i < client_targets(l->engines); i++) {
        if (!l->seen[i].has_counters)
            return -1;
        query += l->seen[i].query_tokens - l->before[i].query_tokens;
        hit += l->seen[i].hit_tokens - l->before[i].hit_tokens;
    }
    return query > 0 ? 100 * hit / query : -1;
}

static bool live_open(struct live *l)
{
    struct buf why = {0};
    bool ok = client_new(l->loop, l->conf->urls, l->conf->timeout_ms, &l->client, &why) == ERR_OK;

    if (ok && l->conf->engine_urls != NULL)
        ok = client_new(l->loop, l->conf->engine_urls, 2000, &l->engines, &why) == ERR_OK;
    if (!ok)
        fprintf(stderr, "slipstream-replay: %s\n", buf_cstr(&why));
    buf_fini(&why);
    return ok;
}

static void live_start(struct live *l, const struct selection *sel)
{
    size_t calls = l->plans->trace->call_count;
    uint32_t engines = l->engines != NULL ? client_targets(l->engines) : 0;

    l->answers.text = calloc(calls + 1, sizeof(*l->answers.text));
    l->answers.count = calls;
    l->outcomes = calloc(sel->kept + 1, sizeof(*l->outcomes));
    l->seen = calloc(engines + 1, sizeof(*l->seen));
    l->before = calloc(engines + 1, sizeof(*l->before));
    must(l->answers.text != NULL && l->outcomes != NULL && l->seen != NULL && l->before != NULL);
    l->total = sel->kept;
    perfect_init(&l->computed);
    l->flow = flow_new(l->plans->trace, sel, &l->conf->rule);
    l->due.fire = on_due;
    l->sample.fire = on_sample;
    l->progress.fire = on_progress;
    if (l->conf->progress)
        timer_start(loop_timers(l->loop), &l->progress, clock_ns() + PROGRESS_NS);
    timer_start(loop_timers(l->loop), &l->sample, clock_ns());
}

static void live_close(struct live *l)
{
    l->closing = true;
    client_free(l->client);
    client_free(l->engines);
    flow_free(l->flow);
    for (size_t i = 0; i < l->answers.count; i++)
        buf_fini(&l->answers.text[i]);
    free(l->answers.text);
    free(l->outcomes);
    free(l->seen);
    free(l->before);
    perfect_fini(&l->computed);
    loop_free(l->loop);
}

bool live_run(const struct live_conf *conf, struct plans *plans, const struct selection *sel,
              struct report *report, struct report_label *label)
{
    struct live l = {.conf = conf, .plans = plans};
    bool done = false;

    l.loop = loop_new();
    loop_on_signal(l.loop, SIGINT, on_interrupt, &l);
    loop_on_signal(l.loop, SIGTERM, on_interrupt, &l);
    if (live_open(&l)) {
        live_start(&l, sel);
        loop_run(l.loop);
        done = !l.interrupted;
        if (conf->progress)
            show_progress(&l);
        report_make(l.outcomes, l.outcome_count, report);
        label->kv_held = time_mean_get(&l.held);
        label->kv_peak = label->kv_held < 0 ? -1 : l.held.peak;
        label->engine_hit = engine_hit(&l);
    }
    live_close(&l);
    return done;
}
