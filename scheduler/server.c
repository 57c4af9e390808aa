/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/log.h"
#include "common/must.h"
#include "common/proc.h"
#include "scheduler/settings.h"

#define BEAT_NS (50 * NS_PER_MS)
#define STATS_EVERY 5u /* beats */
#define SHOW_WAIT_NS (5 * NS_PER_MS)
#define WALL_SLACK_MS 100u

/* ---- time ---- */

uint64_t server_to_model(const struct server *s, uint64_t real_ns)
{
    return s->scale == 1 ? real_ns : (uint64_t)((double)real_ns * s->scale);
}

uint64_t server_now(const struct server *s)
{
    return server_to_model(s, s->call_ns != 0 ? s->call_ns : clock_ns()); /* one moment a call */
}

struct wire_way server_wire(const struct server *s)
{
    return (struct wire_way){.scale = s->scale,
                             .lease_slack_ns = server_to_model(s, SERVER_LEASE_SLACK_NS),
                             .gate_wait_ns = s->conf->scheduler.gate_wait_ms * NS_PER_MS};
}

/* ---- steps and what they ask for ---- */

static void act_home(struct server *s, const struct action *act)
{
    struct workflow *w = core_workflow(s->core, act->workflow);

    if (w == NULL)
        return;
    stats_workflow(&s->stats, s->core, w);
    publish_home(&s->publisher, s->core, w);
}

static void act_revoke(struct server *s, const struct action *act)
{
    Slipstream__V1__Decision d;

    slipstream__v1__decision__init(&d);
    if (s->workers[act->worker] == NULL)
        return;
    d.kind = SLIPSTREAM__V1__DECISION_KIND__DECISION_NO;
    d.handle = act->handle;
    d.err = act->err;
    rpc_event(s->rpc, s->workers[act->worker], SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_REVOKE,
              &d.base);
}

/* The answer to the query under way, or the end of a wait. */
static void act_decision(struct server *s, const struct action *act)
{
    struct rpc_peer *peer = act->worker < SERVER_PEERS ? s->workers[act->worker] : NULL;
    Slipstream__V1__Decision d;
    enum err err;

    explain_action(&s->explain, s->core, act);
    if (s->ask.open && act->worker == s->ask.worker && act->handle == s->ask.handle) {
        s->ask.answer = *act;
        s->ask.open = false;
        return;
    }
    if (peer == NULL || act->type == ACT_WAIT)
        return;
    stats_waited(&s->stats, act->waited_ns);
    wire_decision(&s->arena, s->core, act, server_wire(s), true, &d);
    d.handle = act->handle;
    err = rpc_event(s->rpc, peer, SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_GRANT, &d.base);
    if (err != ERR_OK) /* it reads nothing; its own deadline ends the wait, and tells us */
        log_warn("grant_lost", "worker=%u error=%s", act->worker, err_code(err));
}

static void act(struct server *s, const struct action *a)
{
    switch (a->type) {
    case ACT_GO:
    case ACT_NO:
    case ACT_WAIT:
        act_decision(s, a);
        break;
    case ACT_REVOKE:
        act_revoke(s, a);
        break;
    case ACT_PUBLISH_ENGINE:
        set_add(&s->dirty, a->engine);
        break;
    case ACT_PUBLISH_HOME:
        act_home(s, a);
        break;
    case ACT_HOME_ENDED:
        publish_home_ended(&s->publisher, a->row);
        stats_ended(&s->stats, a->label);
        break;
    case ACT_FINISHED:
        stats_finished(&s->stats, core_workflow(s->core, a->workflow), a);
        break;
    }
}

enum err server_step(struct server *s, const struct event *ev)
{
    enum err err = core_step(s->core, server_now(s), ev, &s->actions);

    for (size_t i = 0; i < s->actions.count; i++)
        act(s, &s->actions.items[i]);
    return err;
}

enum err server_ask(struct server *s, const struct event *ev)
{
    enum err err;

    s->ask =
        (struct server_ask){.worker = ev->query.worker, .handle = ev->query.handle, .open = true};
    err = server_step(s, ev);
    must(err != ERR_OK || !s->ask.open);
    s->ask.open = false;
    return err;
}

static void tick_set(struct server *s)
{
    uint64_t next = core_next_deadline(s->core);

    if (next == UINT64_MAX)
        timer_stop(loop_timers(s->loop), &s->tick);
    else
        timer_start(loop_timers(s->loop), &s->tick,
                    s->scale == 1 ? next : (uint64_t)((double)next / s->scale) + 1);
}

static void on_tick(struct timer *t)
{
    server_step(container_of(t, struct server, tick), &(struct event){.type = EV_TICK});
}

static void rows_publish(struct server *s)
{
    set_for(i, &s->dirty) publish_engine(&s->publisher, s->core, &s->fleet.seats[i], i);
    publish_engine_count(&s->publisher, core_engine_count(s->core));
    s->dirty = (struct engine_set){{0}};
}

static void on_show(struct timer *t)
{
    rows_publish(container_of(t, struct server, show));
}

/* Loads are only read by workers that decide alone: they may be a few milliseconds old. What else
 * changes is shown at once. */
static void on_turn_end(void *arg)
{
    struct server *s = arg;

    if (s->fleet_changed) {
        rows_publish(s);
        s->fleet_changed = false;
        publish_conf_epoch(&s->publisher, ++s->conf_epoch);
        server_tell_fleet(s);
    }
    if (!set_is_empty(&s->dirty) && !timer_is_running(&s->show))
        timer_start(loop_timers(s->loop), &s->show, clock_ns() + SHOW_WAIT_NS);
    tick_set(s);
    rpc_server_flush(s->rpc);
}

/* Kept while it holds, so that one moment always reads alike; taken anew when somebody set the
 * clock. */
static void wall_base_keep(struct server *s)
{
    uint64_t base = clock_wall_ms() - clock_ms();
    uint64_t *kept = &s->publisher.wall_base_ms;

    if ((base > *kept ? base - *kept : *kept - base) > WALL_SLACK_MS)
        *kept = base;
}

static void on_beat(struct timer *t)
{
    struct server *s = container_of(t, struct server, beat);

    wall_base_keep(s);
    shm_beat(&s->publisher.shm);
    proc_alive();
    server_retry_fleet(s);
    if (s->beats++ % STATS_EVERY == 0) {
        stats_feeds(&s->stats, s->core, &s->feeds); /* before unclaimed series go */
        stats_refresh(&s->stats, s->core, rpc_server_peers(s->rpc));
    }
    /* Workflows that a predecessor had labelled are known again, or have expired by now. */
    if (s->beats * BEAT_NS > (uint64_t)s->conf->scheduler.workflow_ttl_ms * NS_PER_MS)
        stats_forget_unclaimed(&s->stats);
    timer_start(loop_timers(s->loop), &s->beat, clock_ns() + BEAT_NS);
}

/* ---- engines ---- */

static void on_probe(void *arg, const struct probe_result *r)
{
    struct server *s = arg;
    struct seat *seat = &s->fleet.seats[r->index];
    const struct engine *e = core_engine(s->core, r->index);
    struct text names[ENGINE_MODELS_MAX];
    struct event ev = {.type = EV_ENGINE_HEALTH};
    bool was, was_probed;

    if (e == NULL || e->generation != r->generation)
        return;
    if (r->is_metrics) {
        feeds_on_scrape(s, r);
        return;
    }
    if (r->is_models) {
        if (!r->ok)
            return; /* what it served it serves; health says whether it lives */
        ev.type = EV_ENGINE_MODELS;
        ev.engine =
            (struct engine_event){.index = r->index, .generation = r->generation, .models = names};
        for (size_t i = 0; i < r->model_count; i++)
            names[ev.engine.model_count++] =
                (struct text){r->models[i], (uint32_t)strlen(r->models[i])};
        s->fleet_changed |= core_engine_models_differ(s->core, e, names, ev.engine.model_count);
        server_step(s, &ev);
        return;
    }
    was = e->healthy;
    was_probed = e->probed;
    if (r->port != 0 && strcmp(seat->address, r->address) != 0) {
        memcpy(seat->address, r->address, sizeof(seat->address));
        seat->port = r->port;
        set_add(&s->dirty, r->index);
        s->fleet_changed = true;
    }
    snprintf(seat->health_reason, sizeof(seat->health_reason), "%s", r->reason);
    ev.health = (struct health_event){
        .index = r->index, .generation = r->generation, .ok = r->ok, .unreachable = r->unreachable};
    server_step(s, &ev);
    if (was == e->healthy && was_probed == e->probed)
        return;
    s->fleet_changed = true;
    if (e->healthy)
        log_info("engine_up", "engine=%s", e->id);
    else
        log_warn("engine_down", "engine=%s reason=\"%s\"", e->id, r->reason);
    if (was && !e->healthy)
        feeds_engine_down(s, r->index);
}

void server_probes_set(struct server *s)
{
    const struct conf_scheduler *conf = &s->conf->scheduler;
    struct probe_conf how = {.interval_ms = conf->probe_interval_ms,
                             .timeout_ms = conf->probe_timeout_ms,
                             .scrape_ms = conf->scrape_interval_ms};
    struct probe_target *targets = calloc(ENGINES_MAX, sizeof(*targets));
    size_t count = 0;

    must(targets != NULL);
    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        const struct seat *seat = &s->fleet.seats[i];
        struct probe_target *t = &targets[count];

        if (!seat->used)
            continue;
        count++;
        t->index = i;
        t->generation = seat->generation;
        snprintf(t->health_url, sizeof(t->health_url), "%s%s", seat->url, conf->probe_path);
        if (seat->model_count == 0)
            snprintf(t->models_url, sizeof(t->models_url), "%s/v1/models", seat->url);
        if (seat->metrics_path[0] != '\0')
            snprintf(t->metrics_url, sizeof(t->metrics_url), "%s%s", seat->url, seat->metrics_path);
        memcpy(t->key, seat->key, sizeof(t->key));
    }
    prober_set(s->prober, &how, targets, count);
    free(targets);
}

void server_engines_apply(struct server *s, const enum fleet_change changes[ENGINES_MAX])
{
    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        const struct engine *e = core_engine(s->core, i);
        struct event ev = {.type = EV_ENGINE_GONE};

        if (changes[i] == FLEET_KEPT || changes[i] == FLEET_FREE)
            continue;
        s->fleet_changed = true;
        if (e != NULL && changes[i] != FLEET_CHANGED) {
            log_info("engine_removed", "engine=%s", e->id);
            ev.engine = (struct engine_event){.index = i, .generation = e->generation};
            server_step(s, &ev);
        }
        if (changes[i] == FLEET_GONE)
            continue;
        ev.type = EV_ENGINE_SET;
        fleet_table_event(&s->fleet, i, &ev.engine);
        must(server_step(s, &ev) == ERR_OK);
        log_info("engine_set", "engine=%s index=%u generation=%u url=%s draining=%d",
                 s->fleet.seats[i].id, i, s->fleet.seats[i].generation, s->fleet.seats[i].url,
                 s->fleet.seats[i].drain);
    }
}

static void on_stop(void *arg, int signo)
{
    struct server *s = arg;

    log_info("stopping", "signal=%d", signo);
    proc_stopping("stopping");
    loop_stop(s->loop);
}

/* ---- start and end ---- */

/* Folders that systemd-tmpfiles makes elsewhere. */
static enum err run_dir_make(const char *dir)
{
    static const char *const subs[] = {"", "/sock", "/metrics"};
    char path[160];

    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s%s", dir, subs[i]);
        if (mkdir(path, 0750) != 0 && errno != EEXIST) {
            log_error("run_dir", "path=%s error=\"%s\"", path, strerror(errno));
            return ERR_IO;
        }
    }
    return ERR_OK;
}

/* One scheduler per folder: two would give every engine twice the load. */
static enum err lock_take(struct server *s)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/scheduler.lock", s->conf->common.run_dir);
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (s->lock_fd < 0) {
        log_error("lock", "path=%s error=\"%s\"", path, strerror(errno));
        return ERR_IO;
    }
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        log_error("lock", "path=%s error=\"another scheduler runs in this run_dir\"", path);
        return ERR_BUSY;
    }
    return ERR_OK;
}

static uint64_t from_real_ms(const struct server *s, uint64_t ms)
{
    return server_to_model(s, ms < UINT64_MAX / NS_PER_S ? ms * NS_PER_MS : 0);
}

/* A moment that the predecessor named keeps its name: its idea of the wall clock's zero was
 * another, by a millisecond or by what somebody set it since. */
static uint64_t created_of(const struct server *s, const struct fleet_home *h)
{
    uint64_t base = s->publisher.wall_base_ms, wall = h->created_wall_ms;
    uint64_t ms = wall > base ? wall - base : 0;

    if ((ms > h->created_ms ? ms - h->created_ms : h->created_ms - ms) > WALL_SLACK_MS)
        ms = h->created_ms;
    return from_real_ms(s, ms) + server_to_model(s, NS_PER_MS / 2); /* rounding finds it again */
}

static void homes_restore(struct server *s, const struct predecessor *before)
{
    for (size_t i = 0; i < before->home_count; i++) {
        const struct fleet_home *h = &before->homes[i];
        struct event ev = {.type = EV_WF_RESTORE};
        const struct engine *e = h->engine < ENGINES_MAX ? core_engine(s->core, h->engine) : NULL;

        ev.restore = (struct restore_event){
            .key_lo = h->key_lo,
            .key_hi = h->key_hi,
            .engine = e != NULL && e->generation == h->engine_generation ? h->engine : ENGINE_NONE,
            .created_ns = created_of(s, h),
            .last_ns = from_real_ms(s, h->last_ms),
            .requests = h->requests,
            .prompt_tokens = h->prompt_tokens,
            .cached_tokens = h->cached_tokens,
            .completion_tokens = h->completion_tokens,
            .recomputed_tokens = h->recomputed_tokens,
            .home_tokens = h->home_tokens};
        server_step(s, &ev);
    }
}

/* What it served it serves, until it says otherwise: else the first requests of a new scheduler
 * would hear that nobody has their model. */
static void models_restore(struct server *s, const struct predecessor *before)
{
    struct text names[FLEET_ENGINE_MODELS];

    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        const struct fleet_engine *row = &before->engines[i];
        const struct engine *e = core_engine(s->core, i);
        struct event ev = {.type = EV_ENGINE_MODELS};

        if (e == NULL || e->models_known || e->generation != row->generation)
            continue;
        ev.engine = (struct engine_event){.index = i, .generation = e->generation, .models = names};
        for (size_t m = 0; m < FLEET_ENGINE_MODELS && row->models[m][0] != '\0'; m++)
            names[ev.engine.model_count++] = (struct text){
                row->models[m], (uint32_t)strnlen(row->models[m], sizeof(row->models[m]))};
        if (ev.engine.model_count > 0)
            server_step(s, &ev);
    }
}

static void rows_restore(struct server *s)
{
    uint64_t handle;
    uint32_t cursor = 0;
    struct workflow *w;

    while ((w = core_workflow_next(s->core, &cursor, &handle)) != NULL)
        publish_home(&s->publisher, s->core, w);
}

/* The predecessor's seats, homes and seed; then our own segment, not visible yet. */
static enum err fleet_open(struct server *s)
{
    const struct conf *conf = s->conf;
    enum fleet_change changes[ENGINES_MAX];
    struct predecessor before;
    uint64_t seed = conf->scheduler.digest_seed;
    char path[160];
    enum err err;

    snprintf(path, sizeof(path), "%s/fleet", conf->common.run_dir);
    predecessor_read(path, &before);
    if (seed == 0)
        seed = before.digest_seed != 0 ? before.digest_seed : proc_random();
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        fleet_table_remember(&s->fleet, i, &before.engines[i]);
    err = fleet_table_plan(&s->fleet, conf, true, changes);
    if (err != ERR_OK)
        log_error("engines", "error=\"more than %u engines\"", ENGINES_MAX);
    if (err == ERR_OK)
        err = publish_open(&s->publisher, path, s->epoch, seed, s->scale);
    if (err == ERR_OK) {
        wall_base_keep(s);
        publish_policy(&s->publisher, core_policy_name(s->core));
        server_engines_apply(s, changes);
        models_restore(s, &before);
        homes_restore(s, &before);
        rows_restore(s);
        log_info("restored", "workflows=%zu engines=%zu", before.home_count, conf->engine_count);
    }
    predecessor_fini(&before);
    return err;
}

static enum err listen_open(struct server *s)
{
    const struct conf_common *conf = &s->conf->common;
    struct rpc_server_conf rpc = {.service = &slipstream__v1__scheduler__descriptor,
                                  .epoch = s->epoch,
                                  .max_peers = SERVER_PEERS,
                                  .arg = s,
                                  .allow_plain_tcp = conf->insecure,
                                  .on_hello = server_on_hello,
                                  .on_call = server_on_call,
                                  .on_gone = server_on_gone};

    conf_scheduler_url(s->conf, s->url, sizeof(s->url));
    snprintf(s->ipc_url, sizeof(s->ipc_url), "ipc://%s/sock/scheduler", conf->run_dir);
    snprintf(s->ring_path, sizeof(s->ring_path), "%s/sock/scheduler.ring", conf->run_dir);
    /* With an address for other hosts, this host's clients still find the usual one. */
    s->urls[rpc.url_count++] = s->url;
    if (strcmp(s->url, s->ipc_url) != 0)
        s->urls[rpc.url_count++] = s->ipc_url;
    rpc.urls = s->urls;
    if (conf->channel == RPC_AUTO || conf->channel == RPC_SHM)
        rpc.ring_path = s->ring_path;
    if (*conf->rpc_tls_cert_file != '\0') {
        rpc.tls_cert_file = conf->rpc_tls_cert_file;
        rpc.tls_key_file = conf->rpc_tls_key_file;
    }
    return rpc_server_open(&rpc, rpc_host_loop(s->loop), &s->rpc);
}

static void on_inbox(void *arg, uint32_t events)
{
    (void)events;
    inbox_run(arg);
}

static enum err server_start(struct server *s)
{
    const struct conf *conf = s->conf;
    struct policy_rule array[POLICY_RULES_MAX];
    struct core_conf core;
    enum err err = run_dir_make(conf->common.run_dir);

    if (err == ERR_OK)
        err = lock_take(s);
    if (err != ERR_OK)
        return err;
    rules_load(&s->rules, conf);
    core = settings_core(s, &conf->scheduler, &s->rules, array);
    err = core_new(&core, &s->core);
    if (err != ERR_OK) {
        log_error("policy", "error=\"cannot be in force: %s / %s\"", conf->scheduler.policy,
                  conf->scheduler.default_policy);
        return err;
    }
    err = stats_open(&s->stats, conf->common.run_dir, conf->scheduler.metrics_workflows);
    if (err == ERR_OK)
        err = fleet_open(s);
    if (err == ERR_OK)
        err = listen_open(s);
    if (err == ERR_OK) {
        settings_keys_load(s);
        rows_publish(s);
        err = publish_show(&s->publisher);
    }
    return err;
}

enum err server_open(struct conf *conf, const char *conf_path, struct server **out)
{
    struct server *s = calloc(1, sizeof(*s));
    enum err err;

    must(s != NULL);
    s->conf = conf;
    s->conf_path = conf_path;
    s->lock_fd = -1;
    s->scale = conf->common.time_scale;
    s->epoch = proc_random();
    s->started_ns = clock_ns();
    s->conf_epoch = proc_random() >> 32;
    s->loop = loop_new();
    s->inbox = inbox_new();
    arena_init(&s->arena);
    explain_init(&s->explain, conf->scheduler.explain_decisions);
    loop_on_signal(s->loop, SIGTERM, on_stop, s);
    loop_on_signal(s->loop, SIGINT, on_stop, s);
    loop_on_signal(s->loop, SIGHUP, settings_on_reload, s);
    err = server_start(s);
    if (err != ERR_OK) {
        log_error("start_failed", "error=%s", err_code(err));
        s->conf = NULL; /* the caller's still */
        server_close(s);
        return err;
    }
    loop_watch(s->loop, inbox_fd(s->inbox), EPOLLIN, on_inbox, s->inbox);
    loop_at_turn_end(s->loop, on_turn_end, s);
    s->prober = prober_start(s->inbox, on_probe, s);
    server_probes_set(s);
    feeds_open(s);
    s->tick.fire = on_tick;
    s->beat.fire = on_beat;
    s->show.fire = on_show;
    timer_start(loop_timers(s->loop), &s->beat, clock_ns());
    *out = s;
    return ERR_OK;
}

void server_run(struct server *s)
{
    log_info("ready", "epoch=%016llx policy=%s url=%s run_dir=%s", (unsigned long long)s->epoch,
             core_policy_name(s->core), s->url, s->conf->common.run_dir);
    proc_ready(core_policy_name(s->core));
    loop_run(s->loop);
    stats_refresh(&s->stats, s->core, rpc_server_peers(s->rpc));
}

void server_close(struct server *s)
{
    prober_stop(s->prober);
    feeds_close(s);
    if (s->rpc != NULL)
        rpc_server_close(s->rpc); /* on_gone comes for every peer */
    publish_close(&s->publisher);
    if (s->stats.metric != NULL)
        stats_close(&s->stats);
    core_free(s->core);
    actions_fini(&s->actions);
    arena_fini(&s->arena);
    explain_fini(&s->explain);
    inbox_free(s->inbox);
    loop_free(s->loop);
    if (s->conf != NULL) {
        settings_keys_drop(s);
        conf_free(s->conf);
    }
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    free(s);
}
