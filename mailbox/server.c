/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/server.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/must.h"
#include "common/proc.h"
#include "proto/mailbox.pb-c.h"
#include "mailbox/keys.h"
#include "mailbox/meters.h"
#include "mailbox/methods.h"
#include "mailbox/notes.h"

#define BEAT_NS (250 * NS_PER_MS)
#define MAX_PEERS 1024
#define RING_BYTES \
    (4 * RPC_NNG_FRAME_MAX) /* frames as large as over nng: a payload may have 3 MiB */
#define HOT_BYTES (256u << 10)
#define REQUEST_STAYS (64u << 10)
#define REQUEST_MAX (64u << 20) /* of one call, unpacked; the door lets nothing near it in */
/* After a drain: time for the last answers to leave this process. */
#define GOODBYE_NS (200 * NS_PER_MS)

/* ---- peers ---- */

static void info_pack(const struct server *s, uint8_t **info, size_t *len)
{
    Slipstream__V1__MailboxInfo m = SLIPSTREAM__V1__MAILBOX_INFO__INIT;

    m.max_payload_bytes = (uint32_t)s->conf->mailbox.max_payload_bytes;
    m.compress_bytes = s->conf->mailbox.compress_bytes;
    *info = malloc(slipstream__v1__mailbox_info__get_packed_size(&m) + 1);
    must(*info != NULL);
    *len = slipstream__v1__mailbox_info__pack(&m, *info);
}

static enum err on_hello(void *arg, struct rpc_peer *rpc, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(rpc);
    const char *tenant;
    char quoted[128];
    bool worker;
    enum err e = keys_check(s->keys, rpc_peer_is_local(rpc), key, &worker, &tenant);

    log_quote(quoted, sizeof(quoted), name != NULL ? name : "", name != NULL ? strlen(name) : 0);
    if (e != ERR_OK) {
        *reason = "this key is not known here";
        log_warn("peer_refused", "name=%s reason=\"%s\"", quoted, *reason);
        return e;
    }
    info_pack(s, info, info_len);
    if (p != NULL) /* the same session again: its polls and deliveries are where they were */
        return ERR_OK;
    p = calloc(1, sizeof(*p));
    must(p != NULL);
    p->rpc = rpc;
    p->worker = worker;
    if (tenant != NULL) {
        p->tenant = strdup(tenant);
        must(p->tenant != NULL);
    }
    hash_add(&s->peers, &p->hash, ++s->next_peer);
    rpc_peer_set_data(rpc, p);
    log_info("peer_up", "name=%s peer=%llu", quoted, (unsigned long long)p->hash.key);
    return ERR_OK;
}

static void on_gone(void *arg, struct rpc_peer *rpc)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(rpc);
    struct mbox_event e = {.kind = MBOX_PEER_GONE};

    if (p == NULL)
        return;
    log_info("peer_gone", "peer=%llu", (unsigned long long)p->hash.key);
    e.peer = p->hash.key;
    rpc_peer_set_data(rpc, NULL);
    hash_remove(&s->peers, &p->hash);
    free(p->tenant);
    free(p);
    server_step(s, &e);
}

static void on_call(void *arg, struct rpc_peer *rpc, unsigned method, uint64_t token,
                    uint32_t timeout_ms, const uint8_t *body, size_t len)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(rpc);

    (void)timeout_ms;
    if (p == NULL) {
        rpc_reply(s->rpc, token, ERR_HELLO, NULL);
        return;
    }
    methods_call(s, p, method, token, body, len);
}

/* ---- time ---- */

static void on_core_deadline(struct timer *t)
{
    struct server *s = container_of(t, struct server, core_timer);
    const struct mbox_event e = {.kind = MBOX_TICK};

    server_step(s, &e);
}

static void stop_when_drained(struct server *s)
{
    struct mbox_totals t;

    mbox_totals(s->core, &t);
    if (t.unsettled != 0 || t.waiting != 0)
        return;
    s->leaving = true;
    timer_start(loop_timers(s->loop), &s->drain_timer, clock_ns() + GOODBYE_NS);
}

static void on_beat(struct timer *t)
{
    struct server *s = container_of(t, struct server, beat_timer);

    meters_beat(s->meters, s->core);
    proc_alive();
    timer_start(loop_timers(s->loop), t, clock_ns() + BEAT_NS);
}

/* Every box that changed in this turn, to whoever shows it. */
static void changes_tell(struct server *s)
{
    struct mbox_change change;

    while (mbox_take_change(s->core, &change)) {
        if (change.arrived != 0 && !change.gone)
            notes_add(s->notes, &change);
        meters_change(s->meters, &change);
    }
    notes_flush(s->notes);
    meters_flush(s->meters, s->core, s->store, (uint32_t)s->peers.count);
}

static void on_turn_end(void *arg)
{
    struct server *s = arg;
    uint64_t next;

    s->turns++;
    turn_end(&s->turn);
    next = mbox_next_deadline(s->core);
    if (next == UINT64_MAX)
        timer_stop(loop_timers(s->loop), &s->core_timer);
    else if (!timer_is_running(&s->core_timer) || s->core_timer.at_ns != next)
        timer_start(loop_timers(s->loop), &s->core_timer, next);
    if (s->draining && !s->leaving)
        stop_when_drained(s);
    changes_tell(s);
    rpc_server_flush(s->rpc);
}

/* ---- signals ---- */

static void on_drain_end(struct timer *t)
{
    loop_stop(container_of(t, struct server, drain_timer)->loop);
}

/* Readers are sent home with an empty answer; deliveries that are being written out get time to be
 * settled; nothing new is taken in. */
static void on_terminate(void *arg, int signo)
{
    struct server *s = arg;
    const struct mbox_event e = {.kind = MBOX_DRAIN};

    (void)signo;
    if (s->draining)
        return;
    s->draining = true;
    proc_stopping("draining");
    log_info("draining", "peers=%zu", s->peers.count);
    timer_start(loop_timers(s->loop), &s->drain_timer,
                clock_ns() + s->conf->mailbox.drain_timeout_ms * NS_PER_MS);
    server_step(s, &e);
}

static void limits_apply(struct server *s, struct conf *conf, struct keys *keys)
{
    struct mbox_event e = {.kind = MBOX_LIMITS};

    reload_compare(s->conf, conf);
    conf_free(s->conf);
    keys_free(s->keys);
    s->conf = conf;
    s->keys = keys;
    e.limits = limits_of(&conf->mailbox);
    server_step(s, &e);
    s->store->ops->compress_from(s->store, conf->mailbox.compress_bytes);
    log_set_level((enum log_level)conf->common.log_level);
}

static void on_reload(void *arg, int signo)
{
    struct server *s = arg;
    struct buf errors = {0};
    struct conf *conf = NULL;
    struct keys *keys = NULL;

    (void)signo;
    proc_reloading();
    if (conf_load(s->conf_path, &conf, &errors) == ERR_OK &&
        keys_load(conf, &keys, &errors) == ERR_OK) {
        limits_apply(s, conf, keys);
        log_info("reloaded", "path=%s", s->conf_path);
    } else {
        log_error("reload_failed", "kept=old\n%s", buf_cstr(&errors));
        conf_free(conf);
    }
    buf_fini(&errors);
    proc_ready("running");
}

/* ---- start and end ---- */

static bool make_dir(const char *run_dir, const char *name)
{
    char path[256];

    snprintf(path, sizeof(path), "%s%s%s", run_dir, name[0] != '\0' ? "/" : "", name);
    if (mkdir(path, 0770) == 0 || errno == EEXIST)
        return true;
    log_error("start_failed", "path=%s reason=\"%s\"", path, strerror(errno));
    return false;
}

/* One mailbox per run_dir. The lock lasts as long as the process. It lies where servers may create
 * files: the folder itself belongs to the scheduler. */
static int lock_take(const char *run_dir)
{
    char path[256];
    int fd;

    if (!make_dir(run_dir, "") || !make_dir(run_dir, "sock") || !make_dir(run_dir, "metrics"))
        return -1;
    snprintf(path, sizeof(path), "%s/sock/mailbox.lock", run_dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0640);
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    log_error("start_failed", "path=%s reason=\"%s\"", path,
              fd >= 0 && errno == EWOULDBLOCK ? "another mailbox runs here" : strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

static enum err rpc_start(struct server *s, uint64_t epoch)
{
    const char *url = conf_mailbox_url(s->conf, s->url_text, sizeof(s->url_text));
    const struct conf_common *c = &s->conf->common;
    struct rpc_server_conf conf = {
        .urls = &s->url,
        .url_count = 1,
        .tls_cert_file = c->rpc_tls_cert_file,
        .tls_key_file = c->rpc_tls_key_file,
        .allow_plain_tcp = c->insecure,
        .service = &slipstream__v1__mailbox__descriptor,
        .epoch = epoch,
        .max_peers = MAX_PEERS,
        .arg = s,
        .on_hello = on_hello,
        .on_call = on_call,
        .on_gone = on_gone,
    };
    enum err e;

    s->url = url;
    if (c->channel == RPC_AUTO || c->channel == RPC_SHM) {
        snprintf(s->ring_path, sizeof(s->ring_path), "%s/sock/mailbox.ring", c->run_dir);
        conf.ring_path = s->ring_path;
        conf.ring_bytes = RING_BYTES;
    }
    if (strncmp(url, "tcp://", 6) == 0 && !c->insecure) {
        log_error("start_failed", "url=%s reason=\"plain tcp needs common.insecure: true\"", url);
        return ERR_CONF;
    }
    e = rpc_server_open(&conf, rpc_host_loop(s->loop), &s->rpc);
    if (e != ERR_OK)
        log_error("start_failed", "url=%s reason=\"%s\"", url, err_text(e));
    else
        log_info("listening", "url=%s epoch=%016llx", url, (unsigned long long)epoch);
    return e;
}

/* What was there before this start. */
static enum err messages_restore(struct server *s)
{
    uint64_t start = clock_ns();
    struct mbox_store_stats stats;
    struct mbox_totals t;
    enum err e;

    s->store->ops->stats(s->store, &stats);
    log_info("restoring", "store=%s disk_bytes=%llu", s->store->ops->name,
             (unsigned long long)stats.disk_bytes);
    e = mbox_restore(s->core, start, clock_wall_ms());
    if (e != ERR_OK) {
        log_error("start_failed", "store=%s reason=\"its messages cannot be read: %s\"",
                  s->store->ops->name, err_text(e));
        return e;
    }
    mbox_totals(s->core, &t);
    log_info("restored", "messages=%llu dead=%llu boxes=%u seconds=%.3f",
             (unsigned long long)(t.queued + t.delayed), (unsigned long long)t.dead_now, t.boxes,
             (double)(clock_ns() - start) / 1e9);
    return ERR_OK;
}

static enum err core_open(struct server *s)
{
    struct mbox_limits limits = limits_of(&s->conf->mailbox);
    enum err e = store_open(s->conf, &s->store);

    if (e != ERR_OK)
        return e;
    s->core = mbox_new(&limits, s->store, proc_random());
    e = messages_restore(s);
    if (e != ERR_OK)
        return e;
    e = meters_open(s->conf->common.run_dir, s->conf->mailbox.metrics_boxes, &s->meters);
    if (e != ERR_OK)
        log_error("start_failed", "reason=\"metrics: %s\"", err_text(e));
    return e;
}

static enum err keys_open(struct server *s)
{
    struct buf error = {0};
    enum err e = keys_load(s->conf, &s->keys, &error);

    if (e != ERR_OK)
        log_error("start_failed", "reason=\"%s\"", buf_cstr(&error));
    buf_fini(&error);
    return e;
}

static enum err server_open(struct server *s)
{
    enum err e = keys_open(s);

    methods_check_service();
    hash_init(&s->peers);
    region_init(&s->request, REQUEST_STAYS, REQUEST_MAX);
    s->hot = (struct arena){.base = malloc(HOT_BYTES), .size = HOT_BYTES};
    must(s->hot.base != NULL);
    turn_init(&s->turn, s);
    s->start_ns = clock_ns();
    s->loop = loop_new();
    s->scratch = answer_scratch_new();
    if (e == ERR_OK)
        e = core_open(s);
    if (e != ERR_OK)
        return e;
    s->core_timer.fire = on_core_deadline;
    s->beat_timer.fire = on_beat;
    s->drain_timer.fire = on_drain_end;
    loop_on_signal(s->loop, SIGTERM, on_terminate, s);
    loop_on_signal(s->loop, SIGINT, on_terminate, s);
    loop_on_signal(s->loop, SIGHUP, on_reload, s);
    notes_open(s->conf, keys_own(s->keys), s->loop, s->meters, &s->notes);
    e = rpc_start(s, proc_random());
    if (e == ERR_OK)
        loop_at_turn_end(s->loop, on_turn_end, s);
    return e;
}

static void server_close(struct server *s)
{
    if (s->rpc != NULL) {
        turn_commit(&s->turn);
        rpc_server_close(s->rpc); /* on_gone for every peer */
    }
    if (s->core != NULL && s->meters != NULL) {
        turn_commit(&s->turn);
        changes_tell(s);
    }
    notes_close(s->notes);
    mbox_free(s->core);
    if (s->store != NULL)
        s->store->ops->close(s->store);
    mbox_actions_fini(&s->out);
    answer_scratch_free(s->scratch);
    meters_close(s->meters);
    hash_fini(&s->peers);
    free(s->due);
    turn_fini(&s->turn);
    region_fini(&s->request);
    buf_fini(&s->unpacked);
    free(s->hot.base);
    if (s->loop != NULL)
        loop_free(s->loop);
    keys_free(s->keys);
}

int server_run(struct conf **conf, const char *conf_path)
{
    struct server s = {.conf = *conf, .conf_path = conf_path};
    int lock = lock_take(s.conf->common.run_dir);
    enum err e;

    if (lock < 0)
        return EX_TEMPFAIL;
    e = server_open(&s);
    if (e == ERR_OK) {
        timer_start(loop_timers(s.loop), &s.beat_timer, clock_ns());
        proc_ready("running");
        loop_run(s.loop);
        log_info("stopped", "reason=\"drained\"");
    }
    server_close(&s);
    *conf = s.conf;
    close(lock);
    return e == ERR_OK ? EXIT_SUCCESS : e == ERR_CONF ? EX_CONFIG : EX_UNAVAILABLE;
}
