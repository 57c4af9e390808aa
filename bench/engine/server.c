/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/server.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "bench/engine/text.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"

static void drive(struct server *s);

double server_now(const struct server *s)
{
    return (double)(clock_ns() - s->start_ns) / 1e9 * s->conf.time_scale;
}

/* jobs */

static void job_free(struct job *j)
{
    h2o_timeout_unlink(&j->pace_entry);
    list_remove(&j->link);
    buf_fini(&j->text);
    buf_fini(&j->tool);
    free(j->ids);
    kv_prompt_fini(&j->prompt);
    free(j);
}

/* Ends once, whoever comes first: the last token or the client's leaving. */
static void job_retire(struct job *j)
{
    if (j->retired)
        return;
    j->retired = true;
    if (j->conn != NULL)
        j->conn->job = NULL;
    j->conn = NULL;
    list_remove(&j->link);
    list_push(&j->server->dead, &j->link);
    j->server->job_count--;
}

static void on_gone(struct conn *c)
{
    struct job *j = c->job;

    engine_cancel(j->server->core, server_now(j->server), &j->req);
    if (j->server->kv != NULL)
        kv_feed_flush(j->server->kv);
    job_retire(j);
}

static struct answer job_answer(const struct job *j)
{
    return (struct answer){
        .kind = j->kind,
        .id = j->id,
        .model = j->model,
        .created_s = (uint64_t)time(NULL),
        .prompt_tokens = j->req.nin,
        .cached_tokens = j->req.hit_tokens,
        .out_tokens = j->req.nout,
        .text = j->text.base,
        .fixed = j->fixed,
        .tool = j->tool.base,
        .include_usage = j->include_usage,
        .dimensions = j->dimensions,
        .inputs = j->inputs,
        .base64 = j->base64,
        .seed = j->seed,
    };
}

static void job_stream_head(struct job *j)
{
    if (!j->head_sent)
        conn_stream_begin(j->conn, "text/event-stream; charset=utf-8");
    j->head_sent = true;
}

static void job_stream(struct job *j)
{
    struct answer a = job_answer(j);
    struct buf out = {0};
    struct conn *c = j->conn;

    if (!j->done && j->begun && j->made - j->sent < j->server->conf.stream_interval)
        return;
    job_stream_head(j);
    if (!j->begun)
        answer_begin(&a, &out);
    j->begun = true;
    answer_tokens(&a, j->sent, j->made - j->sent, &out);
    j->sent = j->made;
    if (j->done)
        answer_end(&a, &out);
    conn_stream_add(c, out.base, out.len); /* may lose the connection, and the job with it */
    buf_fini(&out);
    if (j->conn != NULL && j->done)
        conn_stream_end(c);
}

static void job_whole(struct job *j)
{
    struct answer a = job_answer(j);
    struct buf out = {0};

    answer_whole(&a, &out);
    conn_answer(j->conn, 200, "application/json", out.base, out.len);
    buf_fini(&out);
}

/* Tells the client all that is due. */
static void job_flush(struct job *j)
{
    if (j->conn != NULL && j->stream)
        job_stream(j);
    else if (j->conn != NULL && j->done)
        job_whole(j);
    if (j->done)
        job_retire(j);
}

static void reap(struct server *s)
{
    while (!list_is_empty(&s->dead))
        job_free(container_of(list_first(&s->dead), struct job, link));
}

/* the core's clock */

static void job_measure(struct job *j, const struct engine_event *ev)
{
    struct metrics *m = &j->server->metrics;
    const struct engine_req *r = &j->req;

    switch (ev->kind) {
    case ENGINE_FIRST:
        histogram_add(&m->ttft, ev->at_s - r->arrived_s);
        histogram_add(&m->queue, r->admitted_s - r->arrived_s);
        histogram_add(&m->prefill, ev->at_s - r->admitted_s);
        break;
    case ENGINE_TOKENS:
        histogram_add(&m->itl, ev->at_s - j->last_s);
        break;
    case ENGINE_DONE:
        histogram_add(&m->e2e, ev->at_s - r->arrived_s);
        histogram_add(&m->decode, ev->at_s - r->first_s);
        *(j->fixed ? &m->stop_total : &m->length_total) += 1;
        break;
    }
    j->last_s = ev->at_s;
}

static void on_event(struct server *s, const struct engine_event *ev)
{
    struct job *j = container_of(ev->req, struct job, req);

    job_measure(j, ev);
    if (s->kv != NULL && ev->kind != ENGINE_TOKENS)
        kv_feed_content(s->kv, &j->req, ev->kind == ENGINE_DONE ? j->req.n_ids : j->req.np,
                        &j->prompt);
    if (ev->kind == ENGINE_DONE)
        j->done = true;
    else
        j->made += ev->tokens;
    list_remove(&j->link);
    list_push(&s->dirty, &j->link);
}

static void arm(struct server *s)
{
    double at = engine_next_deadline(s->core), ns;
    struct itimerspec t = {0};
    uint64_t due;

    if (at == s->armed_s)
        return;
    s->armed_s = at;
    if (!isinf(at)) {
        ns = at / s->conf.time_scale * 1e9;
        due = s->start_ns + (ns > 0 ? (uint64_t)ns : 0) + 1;
        t.it_value.tv_sec = (time_t)(due / NS_PER_S);
        t.it_value.tv_nsec = (long)(due % NS_PER_S);
    }
    must(timerfd_settime(s->timer_fd, TFD_TIMER_ABSTIME, &t, NULL) == 0);
}

static void drive(struct server *s)
{
    double now;
    size_t n;

    if (s->driving)
        return;
    s->driving = true;
    now = server_now(s);
    while ((n = engine_step(s->core, now, s->events, s->events_cap)) > 0) {
        for (size_t i = 0; i < n; i++)
            on_event(s, &s->events[i]);
    }
    while (!list_is_empty(&s->dirty)) {
        struct job *j = container_of(list_first(&s->dirty), struct job, link);

        list_remove(&j->link);
        list_push(&s->jobs, &j->link);
        job_flush(j);
    }
    reap(s);
    if (s->kv != NULL)
        kv_feed_flush(s->kv);
    s->driving = false;
    arm(s);
}

static void on_timer(h2o_socket_t *sock, const char *err)
{
    struct server *s = sock->data;
    uint64_t ticks;

    (void)err;
    if (read(s->timer_fd, &ticks, sizeof ticks) > 0)
        s->armed_s = -1;
    drive(s);
}

/* One token per job and interval, each job in its own phase: a steady load for stream measurements.
 */
static void on_pace(h2o_timeout_entry_t *entry)
{
    struct job *j = container_of(entry, struct job, pace_entry);
    struct server *s = j->server;

    j->made++;
    j->done = j->made >= j->req.nout;
    if (!j->done)
        h2o_timeout_link(s->http.loop, &s->pace, &j->pace_entry);
    job_flush(j);
    reap(s);
}

/* submission */

static bool is_word(struct phr_span s)
{
    for (size_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.at[i];

        if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' ||
              c == '_' || c == '.' || c == ':'))
            return false;
    }
    return s.len > 0;
}

static void job_name(struct job *j, struct phr_span request_id)
{
    static const char *const prefix[] = {"cmpl-", "chatcmpl-", "msg_", "embd-", "", ""};
    struct server *s = j->server;

    if (is_word(request_id)) {
        snprintf(j->id, sizeof j->id, "%s%.*s", prefix[j->kind], (int)request_id.len,
                 request_id.at);
        return;
    }
    s->request_count++;
    snprintf(j->id, sizeof j->id, "%s%016llx%08llx", prefix[j->kind],
             (unsigned long long)text_hash(&s->request_count, sizeof s->request_count, s->start_ns),
             (unsigned long long)s->request_count);
}

static struct job *job_new(struct server *s, struct conn *c, struct ask *a,
                           struct phr_span request_id)
{
    struct job *j = calloc(1, sizeof *j);

    must(j != NULL);
    j->server = s;
    j->conn = c;
    c->job = j;
    j->kind = a->kind;
    j->stream = a->stream;
    j->include_usage = a->include_usage;
    j->base64 = a->base64;
    j->dimensions = a->dimensions;
    j->inputs = a->inputs;
    j->fixed = a->fixed.len > 0;
    j->pace_entry.cb = on_pace;
    j->req.priority = a->priority;
    j->req.nin = (uint32_t)text_count(&a->tokens);
    j->req.nout = a->max_tokens;
    j->seed = text_hash(a->tokens.base, a->tokens.len, s->conf.seed);
    for (size_t i = 0; s->conf.models[i] != NULL; i++) {
        if (strcmp(s->conf.models[i], buf_cstr(&a->model)) == 0)
            j->model = s->models_json[i];
    }
    job_name(j, request_id);
    j->tool = a->tool;
    a->tool = (struct buf){0};
    if (j->tool.len > 0)
        (void)buf_cstr(&j->tool);
    if (j->fixed) {
        j->text = a->fixed;
        a->fixed = (struct buf){0};
    } else {
        text_make(&j->text, j->req.nout, j->seed);
    }
    list_push(&s->jobs, &j->link);
    s->job_count++;
    return j;
}

static void on_block(void *arg, const struct engine_block *b)
{
    struct server *s = arg;
    const struct job *j = NULL;

    if (b->req != NULL)
        j = (const struct job *)(const void *)((const char *)b->req - offsetof(struct job, req));
    kv_feed_block(s->kv, b, j != NULL ? &j->prompt : NULL);
}

/* The chain covers the output as well: what we will say is known already. */
static void job_chain(struct job *j, struct ask *a, struct phr_span body)
{
    uint32_t block = j->server->conf.engine.block_tokens;

    buf_add(&a->tokens, j->text.base, j->text.len);
    j->ids = malloc((text_count(&a->tokens) / block + 1) * sizeof *j->ids);
    must(j->ids != NULL);
    j->req.n_ids = text_ids(&a->tokens, block, a->root, j->ids);
    j->req.np = (j->req.nin - 1) / block; /* the last prompt token is always computed */
    j->req.ids = j->ids;
    if (j->server->kv != NULL)
        kv_feed_prompt(j->server->kv, &j->prompt, j->kind, body.at, body.len, buf_cstr(&a->model),
                       &a->tokens);
}

static void submit_null(struct server *s, struct job *j)
{
    j->made = j->req.nout;
    j->done = true;
    if (j->stream && s->conf.pace_ms > 0) {
        j->made = 0;
        j->done = false;
        job_stream_head(j);
        conn_flush(j->conn);
        h2o_timeout_link(s->http.loop, &s->pace, &j->pace_entry);
        return;
    }
    job_flush(j);
    reap(s);
}

void server_submit(struct server *s, struct conn *c, struct ask *a, const struct http_request *q)
{
    static const char busy[] = "{\"error\":{\"message\":\"The request does not fit the KV cache\","
                               "\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}";
    struct job *j = job_new(s, c, a, q->request_id);

    if (s->conf.null_profile) {
        submit_null(s, j);
        return;
    }
    job_chain(j, a, q->body);
    drive(s); /* what is due ends before this one arrives */
    if (j->conn == NULL)
        return;
    if (engine_add(s->core, server_now(s), &j->req) != ERR_OK) {
        job_retire(j);
        conn_answer(c, 400, "application/json", busy, sizeof busy - 1);
        reap(s);
        return;
    }
    if (j->stream && !s->conf.late_head)
        job_stream_head(j);
    drive(s);
    conn_flush(c);
}

void server_reset(struct server *s)
{
    engine_reset(s->core);
    memset(&s->metrics, 0, sizeof s->metrics);
    if (s->kv != NULL)
        kv_feed_flush(s->kv);
}

bool server_init(struct server *s, h2o_loop_t *loop, const struct server_conf *conf,
                 uint32_t keepalive_ms)
{
    struct http_conf http = {.serve = api_serve,
                             .gone = on_gone,
                             .arg = s,
                             .keepalive_ms = keepalive_ms,
                             .body_bytes_max = (size_t)64 << 20};

    *s = (struct server){.conf = *conf, .start_ns = clock_ns(), .armed_s = -1};
    s->started_s = clock_wall_ms() / 1000;
    s->limits = (struct ask_limits){.models = s->conf.models,
                                    .max_len = conf->max_len,
                                    .priority = conf->engine.priority,
                                    .lenient = conf->lenient};
    for (size_t i = 0; conf->models[i] != NULL; i++) {
        struct buf b = {0};

        buf_add_json(&b, conf->models[i], strlen(conf->models[i]));
        (void)buf_cstr(&b);
        s->models_json[i] = b.base;
    }
    list_init(&s->jobs);
    list_init(&s->dirty);
    list_init(&s->dead);
    if (conf->kv.pub.events != NULL) {
        s->kv = kv_feed_open(&conf->kv, conf->engine.block_tokens, conf->time_scale);
        if (s->kv == NULL)
            return false;
        s->conf.engine.on_block = on_block;
        s->conf.engine.hook_arg = s;
    }
    s->core = engine_new(&s->conf.engine);
    s->events_cap = engine_events_max(s->core);
    s->events = calloc(s->events_cap, sizeof *s->events);
    must(s->events != NULL);
    http_init(&s->http, loop, &http);
    h2o_timeout_init(loop, &s->pace, conf->pace_ms > 0 ? conf->pace_ms : 1);
    s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    must(s->timer_fd >= 0);
    s->timer = h2o_evloop_socket_create(loop, s->timer_fd, H2O_SOCKET_FLAG_DONT_READ);
    s->timer->data = s;
    h2o_socket_read_start(s->timer, on_timer);
    return true;
}

void server_fini(struct server *s)
{
    http_fini(&s->http); /* cancels every job */
    reap(s);
    h2o_socket_close(s->timer);
    h2o_timeout_dispose(s->http.loop, &s->pace);
    engine_free(s->core);
    free(s->events);
    kv_feed_close(s->kv);
    for (size_t i = 0; i < SERVER_MODELS_MAX; i++)
        free(s->models_json[i]);
}
