/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_WORKER_H
#define GW_WORKER_H

#include <stdbool.h>
#include <stdint.h>

#include <h2o.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/list.h"
#include "common/metric.h"
#include "common/pool.h"
#include "common/rpc.h"
#include "common/timers.h"
#include "gateway/fleet.h"

/*
 * One worker process: one h2o loop, one thread. Everything it owns hangs here; whoever needs it
 * gets the pointer.
 */
enum gw_metric {
#define METRIC(field, ...) GW_M_##field,
#include "gateway/metrics.def"
#undef METRIC
    GW_M_COUNT
};

struct gw_request;  /* request.h */
struct gw_key;      /* keys.c */
struct engine_pool; /* engine_link.c */
struct gw_scratch;  /* inspection and digests of one request at a time; request_look.c */

struct gw {
    struct conf *conf;
    unsigned instance;
    char name[32]; /* "gateway-1" */
    h2o_globalconf_t config;
    h2o_context_t ctx;
    h2o_accept_ctx_t accept_data, accept_admin;
    struct timers timers;
    struct rpc_host rpc_host;
    struct pool requests; /* struct gw_request */
    struct list ready;    /* READING: dispatched at the end of the loop turn */
    struct list patient;  /* ASKING: answered when the turn's readers have theirs */
    h2o_timeout_entry_t dispatch;
    h2o_timeout_entry_t look; /* for the scheduler's answers */
    bool look_more;           /* a big body waits for its next piece */
    struct list looking;      /* READING: big bodies, one after the other, a piece each turn */
    struct gw_scratch *scratch;
    struct buf head; /* where upstream heads are put together */
    struct buf flat; /* and what is written at once, in one piece */
    struct fleet fleet;
    struct engine_pool *pools; /* one per fleet index */
    struct rpc_client *scheduler, *mailbox;
    struct mail_link *mail; /* mailbox_link.c */
    char *rpc_key;          /* shown in the hello; NULL: none */
    struct gw_key *keys;
    size_t key_count;
    uint64_t body_bytes, body_budget;
    uint64_t coming_bytes; /* of requests that are not complete yet, at the last sweep */
    double retry_tokens;   /* the budget for repeats */
    uint64_t retry_at_ns;
    uint64_t alone_turn; /* rotation of requests that are placed alone */

    struct list clients; /* client.c: every accepted connection */
    struct client **by_fd;
    size_t by_fd_count;
    unsigned client_count, client_max; /* max: as configured, or what descriptors allow */
    struct gw_listener *listeners;
    size_t listener_count;
    bool accepting;
    uint64_t accept_warned_ns;

    bool draining, stopped;
    bool scheduler_lost; /* the link was up and closed; not merely not up yet */
    uint64_t scheduler_lost_ns;
    char scheduler_why[240]; /* as the log has it */
    uint64_t drain_until_ns;
    struct timer sweep;
    int signal_fd;
    void *signal_watch;
    int access_fd; /* -1: none */
    struct buf access;

    struct metric *metric_file;
    struct metric_series *m[GW_M_COUNT]; /* rows without labels */
    struct metric_series *m_state[8];
    struct metric_series *m_status[600]; /* made when first seen */
    struct metric_series *m_error[ERR_COUNT];
};

bool worker_run(struct gw *gw);                /* until drained; false: the loop itself failed */
double worker_time_scale(const struct gw *gw); /* the scheduler's, where it has told, else ours */
/* What metrics and reports show of a time that was measured here: seconds of the engines' clock
 * (common.time_scale). */
double worker_model_seconds(const struct gw *gw, uint64_t ns);

/* Requests on gw->ready get their turn when everything that is readable now has been read. */
void worker_dispatch_soon(struct gw *gw);
/* The answer to a sender, at the end of the loop turn: who receives does not wait for it. */
void worker_answer_soon(struct gw_request *r, void (*answer)(struct gw_request *r));
void worker_access_flush(struct gw *gw); /* to the file, or forgotten */
void worker_count(struct gw *gw, enum gw_metric row, double v);
void worker_error_count(struct gw *gw, enum err e); /* an error answer of our own */
void worker_status_count(struct gw *gw, unsigned status);
void worker_label_count(struct gw *gw, enum gw_metric row, const char *label,
                        double v); /* rows with one label */

#endif
