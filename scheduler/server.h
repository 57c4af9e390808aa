/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_SERVER_H
#define SCHED_SERVER_H

#include "common/clock.h"
#include "common/conf.h"
#include "common/inbox.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "scheduler/core.h"
#include "scheduler/engine.h"
#include "scheduler/explain.h"
#include "scheduler/feeds.h"
#include "scheduler/fleet.h"
#include "scheduler/probe.h"
#include "scheduler/publish.h"
#include "scheduler/rules.h"
#include "scheduler/stats.h"
#include "scheduler/wire.h"

#define SERVER_PEERS 1024u
#define SERVER_LEASE_SLACK_NS (10 * NS_PER_S) /* real: a worker's own time limit comes first */

/*
 * The shell round the core: calls, probe results and signals become events, actions become answers,
 * rows of the fleet segment and counters. One thread; the prober and the subscriber of KV events
 * have one each.
 *
 * Real time outside, model time inside: what comes in is multiplied by common.time_scale, what goes
 * out is divided by it. Receipts, reports and metrics show model time.
 */
struct peer {                    /* rpc_peer's data */
    uint32_t worker;             /* index in the core */
    bool trusted;                /* a gateway: names the tenant of each call, places and reports */
    bool fleet_due;              /* it must be told the fleet and could not, yet */
    char tenant[TENANT_MAX + 1]; /* of one that is not */
};

struct server {
    struct conf *conf;
    const char *conf_path;
    struct loop *loop;
    struct inbox *inbox;
    struct core *core;
    struct actions actions;
    struct fleet_table fleet; /* what the core need not know about engines */
    struct publisher publisher;
    struct stats stats;
    struct prober *prober;
    struct feeds feeds;
    struct rpc_server *rpc;
    struct rpc_peer *workers[SERVER_PEERS]; /* by index; NULL: free */
    uint64_t call_ns;                       /* when the call under way began; 0: none */
    struct arena arena;                     /* of that call */
    struct server_ask {                     /* the query under way */
        uint32_t worker;
        uint64_t handle;
        bool open;            /* has no answer yet */
        struct action answer; /* ACT_GO, ACT_WAIT or ACT_NO */
    } ask;
    struct explain explain;
    struct rules rules; /* policies in force */
    struct timer tick, beat;
    struct timer show;       /* publishes dirty rows */
    struct engine_set dirty; /* rows to publish: at once with fleet_changed, else soon */
    bool fleet_changed;      /* more than load: workers without the segment must hear */
    bool fleet_due;          /* some peer has not been told */
    double scale;
    uint64_t epoch, started_ns, conf_epoch, beats;
    char *peer_key; /* common.rpc_key_file; NULL: none */
    char **keys;    /* API keys, as many as conf->key_count; NULL: unreadable */
    int lock_fd;    /* run_dir/scheduler.lock */
    const char *urls[2];
    char url[216], ipc_url[216], ring_path[160];
};

/* conf belongs to the server once this succeeds. The log says what went wrong. */
enum err server_open(struct conf *conf, const char *conf_path, struct server **out);
void server_run(struct server *s);   /* until SIGTERM or SIGINT */
void server_close(struct server *s); /* frees conf, too */

uint64_t server_now(const struct server *s); /* model time */
struct wire_way server_wire(const struct server *s);
uint64_t server_to_model(const struct server *s, uint64_t real_ns);
/* Steps the core and does what it says. What ends an earlier wait goes to its worker as an event.
 */
enum err server_step(struct server *s, const struct event *ev);
/* The same for an EV_QUERY; its answer lands in s->ask.answer. */
enum err server_ask(struct server *s, const struct event *ev);

/* Until the next reload or restart. Errors as rules_change(). */
enum err server_policy_set(struct server *s, const struct rule_change *change, char *why,
                           size_t size);

/* For settings.c: seats have changed; probes go by the table of seats. */
void server_engines_apply(struct server *s, const enum fleet_change changes[ENGINES_MAX]);
void server_probes_set(struct server *s);

/* peers.c: who calls. */
enum err server_on_hello(void *arg, struct rpc_peer *peer, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason);
void server_on_gone(void *arg, struct rpc_peer *peer);
void server_tell_fleet(struct server *s);  /* to workers without the segment */
void server_retry_fleet(struct server *s); /* those that had no room for it */

/* methods.c: what the service answers. */
void server_on_call(void *arg, struct rpc_peer *peer, unsigned method, uint64_t token,
                    uint32_t timeout_ms, const uint8_t *body, size_t len);

#endif
