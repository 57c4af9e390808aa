/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_SERVER_H
#define ENGINE_SERVER_H

#include "bench/engine/answer.h"
#include "bench/engine/ask.h"
#include "bench/engine/core.h"
#include "bench/engine/http.h"
#include "bench/engine/kv_feed.h"
#include "bench/engine/metrics.h"

/*
 * The live engine: HTTP requests become jobs in the core, the core's events become answers. Model
 * time is CLOCK_MONOTONIC since start, times the time scale; a timerfd wakes at the next scheduled
 * step end.
 */
#define SERVER_MODELS_MAX 8

struct server_conf {
    const char *id;
    const char *models[SERVER_MODELS_MAX + 1]; /* NULL at the end */
    struct engine_conf engine;
    struct kv_feed_conf kv;
    bool null_profile; /* no core: answers at once */
    bool late_head;    /* the head of a stream comes with the first token, not at once */
    double time_scale;
    uint32_t max_len, pace_ms, stream_interval;
    bool lenient;
    uint64_t seed;
};

struct job {
    struct engine_req req;
    struct server *server;
    struct conn *conn; /* NULL: the client left */
    struct list link;  /* of server.jobs, dirty or dead */
    enum ask_kind kind;
    bool stream, include_usage, base64, fixed, head_sent, begun, done, retired;
    char id[160];
    const char *model; /* JSON */
    uint32_t made, sent, dimensions, inputs;
    uint64_t seed;
    struct buf text, tool;
    uint64_t *ids;
    struct kv_prompt prompt; /* where there is a feed */
    double last_s;           /* when its last token came */
    h2o_timeout_entry_t pace_entry;
};

struct server {
    struct server_conf conf;
    struct http http;
    struct ask_limits limits;
    struct engine *core;
    struct kv_feed *kv; /* NULL: none */
    struct engine_event *events;
    size_t events_cap;
    struct list jobs, dirty, dead;
    uint32_t job_count;
    bool driving;
    int timer_fd;
    h2o_socket_t *timer;
    double armed_s;
    h2o_timeout_t pace;
    uint64_t start_ns, request_count;
    uint64_t started_s; /* wall clock */
    char *models_json[SERVER_MODELS_MAX];
    struct metrics metrics;
};

/* False: the endpoints of KV events are no good; errno tells. */
bool server_init(struct server *s, h2o_loop_t *loop, const struct server_conf *conf,
                 uint32_t keepalive_ms);
void server_fini(struct server *s);
double server_now(const struct server *s); /* model seconds */

/* Takes over what it needs of a; the answer follows now or later. */
void server_submit(struct server *s, struct conn *c, struct ask *a, const struct http_request *q);
void server_reset(struct server *s); /* empties the cache and zeroes the counters */

/* api.c: the HTTP surface, by routes.def. */
void api_serve(struct conn *c, const struct http_request *q);

#endif
