/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <string.h>

#include "bench/engine/json.h"
#include "bench/engine/server.h"
#include "bench/engine/text.h"
#include "bench/engine/trouble.h"

static struct server *server_of(struct conn *c)
{
    return c->http->conf.arg;
}

static void give(struct conn *c, struct buf *b)
{
    conn_answer(c, 200, "application/json", b->base, b->len);
    buf_fini(b);
}

static void give_error(struct conn *c, const struct ask_error *e, bool anthropic)
{
    struct buf b = {0};

    answer_refusal(e, anthropic, &b);
    conn_answer(c, e->status, "application/json", b.base, b.len);
    buf_fini(&b);
}

static void generate(struct conn *c, const struct http_request *q, enum ask_kind kind)
{
    struct server *s = server_of(c);
    struct ask a = {0};
    struct ask_error e;

    if (ask_parse(&a, kind, q->body.at, q->body.len, &s->limits, &e))
        server_submit(s, c, &a, q);
    else
        give_error(c, &e, kind == ASK_MESSAGES);
    ask_fini(&a);
}

static void serve_chat(struct conn *c, const struct http_request *q)
{
    generate(c, q, ASK_CHAT);
}

static void serve_completion(struct conn *c, const struct http_request *q)
{
    generate(c, q, ASK_COMPLETION);
}

static void serve_messages(struct conn *c, const struct http_request *q)
{
    generate(c, q, ASK_MESSAGES);
}

static void serve_embedding(struct conn *c, const struct http_request *q)
{
    generate(c, q, ASK_EMBEDDING);
}

static void serve_count_tokens(struct conn *c, const struct http_request *q)
{
    struct server *s = server_of(c);
    struct ask a = {0};
    struct ask_error e;
    struct buf b = {0};

    if (ask_parse(&a, ASK_TOKENIZE, q->body.at, q->body.len, &s->limits, &e)) {
        buf_addf(&b, "{\"input_tokens\":%zu}", text_count(&a.tokens));
        give(c, &b);
    } else {
        give_error(c, &e, true);
    }
    ask_fini(&a);
}

static void serve_tokenize(struct conn *c, const struct http_request *q)
{
    struct server *s = server_of(c);
    struct ask a = {0};
    struct ask_error e;
    struct buf b = {0};

    if (ask_parse(&a, ASK_TOKENIZE, q->body.at, q->body.len, &s->limits, &e)) {
        buf_addf(&b, "{\"count\":%zu,\"max_model_len\":%u,\"tokens\":[", text_count(&a.tokens),
                 s->conf.max_len);
        for (size_t i = 0; i < text_count(&a.tokens); i++)
            buf_addf(&b, "%s%u", i > 0 ? "," : "", text_token(&a.tokens, i));
        buf_adds(&b, "],\"token_strs\":null}");
        give(c, &b);
    } else {
        give_error(c, &e, false);
    }
    ask_fini(&a);
}

static void serve_detokenize(struct conn *c, const struct http_request *q)
{
    struct server *s = server_of(c);
    struct ask a = {0};
    struct ask_error e;
    struct buf b = {0}, text = {0};

    if (ask_parse(&a, ASK_DETOKENIZE, q->body.at, q->body.len, &s->limits, &e)) {
        for (size_t i = 0; i < text_count(&a.tokens); i++)
            text_from_token(text_token(&a.tokens, i), &text);
        buf_adds(&b, "{\"prompt\":");
        buf_add_json(&b, text.base, text.len);
        buf_adds(&b, "}");
        give(c, &b);
    } else {
        give_error(c, &e, false);
    }
    buf_fini(&text);
    ask_fini(&a);
}

static void serve_models(struct conn *c, const struct http_request *q)
{
    struct server *s = server_of(c);
    struct buf b = {0};

    (void)q;
    buf_adds(&b, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; s->conf.models[i] != NULL; i++)
        buf_addf(&b,
                 "%s{\"id\":%s,\"object\":\"model\",\"created\":%llu,\"owned_by\":"
                 "\"slipstream-engine-simulated\",\"root\":%s,\"parent\":null,\"max_model_len\":%u,"
                 "\"permission\":[]}",
                 i > 0 ? "," : "", s->models_json[i], (unsigned long long)s->started_s,
                 s->models_json[i], s->conf.max_len);
    buf_adds(&b, "]}");
    give(c, &b);
}

static void serve_health(struct conn *c, const struct http_request *q)
{
    (void)q;
    conn_answer(c, 200, "application/json", "", 0);
}

static void serve_metrics(struct conn *c, const struct http_request *q)
{
    struct server *s = server_of(c);
    struct engine_stats stats;
    struct buf b = {0};

    (void)q;
    engine_stats_get(s->core, &stats);
    if (s->conf.null_profile)
        stats.running = s->job_count;
    metrics_print(&s->metrics, &stats, s->models_json[0], &b);
    conn_answer(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.base, b.len);
    buf_fini(&b);
}

static void serve_version(struct conn *c, const struct http_request *q)
{
    static const char text[] = "{\"version\":\"" SLIP_VERSION "\",\"simulated\":true}";

    (void)q;
    conn_answer(c, 200, "application/json", text, sizeof text - 1);
}

static void serve_load(struct conn *c, const struct http_request *q)
{
    struct buf b = {0};

    (void)q;
    buf_addf(&b, "{\"server_load\":%u}", server_of(c)->job_count);
    give(c, &b);
}

static void serve_fault_get(struct conn *c, const struct http_request *q)
{
    struct buf b = {0};

    (void)q;
    trouble_print(&c->http->trouble, c->http->troubled, &b);
    give(c, &b);
}

static void serve_fault_set(struct conn *c, const struct http_request *q)
{
    struct trouble t;
    struct ask_error e = {.status = 400, .type = "BadRequestError", .param = "mode"};

    if (!trouble_from_json(q->body.at, q->body.len, &t)) {
        snprintf(e.message, sizeof e.message, "Not a fault; see --help for the modes");
        give_error(c, &e, false);
        return;
    }
    http_set_trouble(c->http, &t);
    serve_fault_get(c, q);
}

static void serve_reset(struct conn *c, const struct http_request *q)
{
    (void)q;
    server_reset(server_of(c));
    conn_answer(c, 200, "application/json", "{}", 2);
}

static bool span_is(struct phr_span s, const char *text)
{
    return s.len == strlen(text) && memcmp(s.at, text, s.len) == 0;
}

void api_serve(struct conn *c, const struct http_request *q)
{
    static const struct {
        const char *method, *path;
        void (*serve)(struct conn *c, const struct http_request *q);
    } routes[] = {
#define ROUTE(method, path, handler) {method, path, handler},
#include "bench/engine/routes.def"
#undef ROUTE
    };
    struct ask_error e = {.status = 404, .type = "NotFoundError"};

    for (size_t i = 0; i < sizeof routes / sizeof *routes; i++) {
        if (!span_is(q->path, routes[i].path))
            continue;
        if (span_is(q->method, routes[i].method)) {
            routes[i].serve(c, q);
            return;
        }
        e = (struct ask_error){.status = 405, .type = "Method Not Allowed"};
    }
    snprintf(e.message, sizeof e.message, e.status == 404 ? "Not Found" : "Method Not Allowed");
    give_error(c, &e, false);
}
