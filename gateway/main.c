/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "common/proc.h"
#include "common/secret.h"
#include "gateway/check.h"
#include "gateway/client.h"
#include "gateway/engine_link.h"
#include "gateway/keys.h"
#include "gateway/look.h"
#include "gateway/mailbox_link.h"
#include "gateway/placement.h"
#include "gateway/request.h"
#include "gateway/routes.h"
#include "gateway/tls.h"
#include "gateway/worker.h"

#define EXIT_UNAVAILABLE 69
#define EXIT_LOOP_FAILED 70
#define H2O_BODY_HEADROOM (1u << 20)
#define KEPT_BUFFERS 64 /* of 8 KB */

static const struct metric_desc metric_table[] = {
#define METRIC METRIC_ROW_DESC
#include "gateway/metrics.def"
#undef METRIC
};

/* ---- common/rpc on h2o's loop ---- */

struct fd_watch {
    h2o_socket_t *sock;
    void (*on_readable)(void *arg);
    void *arg;
};

static void on_watch(h2o_socket_t *sock, const char *err)
{
    struct fd_watch *w = sock->data;

    (void)err; /* the owner finds out when it reads */
    w->on_readable(w->arg);
}

static void *watch_add(void *ctx, int fd, void (*on_readable)(void *arg), void *arg)
{
    struct gw *gw = ctx;
    struct fd_watch *w = calloc(1, sizeof(*w));

    must(w != NULL);
    w->on_readable = on_readable;
    w->arg = arg;
    w->sock = h2o_evloop_socket_create(gw->ctx.loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    w->sock->data = w;
    h2o_socket_read_start(w->sock, on_watch);
    return w;
}

static void watch_remove(void *ctx, void *watch)
{
    struct fd_watch *w = watch;
    h2o_socket_export_t mine;

    (void)ctx;
    /* Not closed: the descriptor is its owner's. */
    if (h2o_socket_export(w->sock, &mine) == 0)
        h2o_buffer_dispose(&mine.input);
    free(w);
}

/* ---- signals ---- */

static void body_budget_set(struct gw *gw)
{
    gw->body_budget = gw->conf->gateway.body_budget_bytes;
    if (gw->body_budget == 0)
        gw->body_budget = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 16;
}

/* A quarter of the descriptors is for engines, channels and files: a worker whose clients hold them
 * all could serve none of them. */
static void client_max_set(struct gw *gw)
{
    unsigned wanted = gw->conf->gateway.max_connections;
    struct rlimit l;
    rlim_t room;

    gw->client_max = wanted;
    if (getrlimit(RLIMIT_NOFILE, &l) != 0)
        return;
    room = l.rlim_cur > 64 ? l.rlim_cur / 4 * 3 - 24 : 16;
    if (l.rlim_cur == RLIM_INFINITY || room >= wanted)
        return;
    gw->client_max = (unsigned)room;
    log_warn("few_files", "limit=%llu max_connections=%u now=%u", (unsigned long long)l.rlim_cur,
             wanted, gw->client_max);
}

static void drain_begin(struct gw *gw)
{
    if (gw->draining)
        return;
    log_info("draining", "requests=%u", gw->requests.used);
    proc_stopping("draining");
    gw->draining = true;
    gw->drain_until_ns = clock_ns() + gw->conf->gateway.drain_timeout_ms * NS_PER_MS;
    listeners_stop(gw);
    h2o_context_request_shutdown(&gw->ctx);
    mailbox_drain(gw);
    clients_drain(gw);
}

static enum err tls_take(const struct conf_gateway *conf, bool http2, SSL_CTX **out)
{
    struct buf note = {0};
    enum err e = tls_open(conf, http2, out, &note);

    if (e != ERR_OK)
        log_error("tls_failed", "reason=\"%s\"", buf_cstr(&note));
    else if (note.len > 0)
        log_warn("tls_doubtful", "reason=\"%s\"", buf_cstr(&note));
    buf_fini(&note);
    return e;
}

static enum err access_open(const struct conf_gateway *conf, int *fd)
{
    const char *path = conf->access_log;

    *fd = -1;
    if (path[0] == '\0')
        return ERR_OK;
    *fd = strcmp(path, "-") == 0 ? dup(STDERR_FILENO)
                                 : open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0640);
    if (*fd < 0) {
        log_error("access_log_failed", "file=%s error=\"%s\"", path, strerror(errno));
        return ERR_CONF;
    }
    return ERR_OK;
}

static void files_close(struct gw *gw)
{
    keys_free(gw);
    SSL_CTX_free(gw->accept_data.ssl_ctx);
    gw->accept_data.ssl_ctx = NULL;
    if (gw->access_fd >= 0)
        close(gw->access_fd);
    gw->access_fd = -1;
}

/* What the settings name in files: keys, certificates, the access log. All of it, or nothing. */
static enum err files_open(struct gw *gw, const struct conf *conf, bool http2)
{
    enum err e = keys_load(gw, conf);

    if (e == ERR_OK)
        e = tls_take(&conf->gateway, http2, &gw->accept_data.ssl_ctx);
    if (e == ERR_OK)
        e = access_open(&conf->gateway, &gw->access_fd);
    if (e != ERR_OK)
        files_close(gw);
    return e;
}

/* Time limits, budgets, keys, certificates and the access log change at once; addresses and
 * channels need a restart. Connections keep the certificate that they began with. */
static void conf_take(struct gw *gw, struct conf *fresh)
{
    struct gw next = {.access_fd = -1};

    fresh->common.channel = gw->conf->common.channel;
    fresh->gateway.http2 = gw->conf->gateway.http2;
    if (files_open(&next, fresh, fresh->gateway.http2) != ERR_OK) {
        log_error("reload_refused", "reason=\"a file that the settings name cannot be used\"");
        conf_free(fresh);
        return;
    }
    worker_access_flush(gw);
    keys_replace(gw, &next);
    SSL_CTX_free(gw->accept_data.ssl_ctx);
    if (gw->access_fd >= 0)
        close(gw->access_fd);
    gw->accept_data.ssl_ctx = next.accept_data.ssl_ctx;
    gw->access_fd = next.access_fd;
    log_set_level((enum log_level)fresh->common.log_level);
    conf_free(gw->conf);
    gw->conf = fresh;
    body_budget_set(gw);
    client_max_set(gw);
    log_info("reloaded", "file=%s", fresh->path);
}

static void conf_reload(struct gw *gw)
{
    struct conf *fresh = NULL;
    struct buf errors = {0};

    proc_reloading();
    if (conf_load(gw->conf->path, &fresh, &errors) == ERR_OK)
        conf_take(gw, fresh);
    else
        log_error("reload_refused", "errors=\"%s\"", buf_cstr(&errors));
    buf_fini(&errors);
    proc_ready("running");
}

static void on_signal(void *arg)
{
    struct gw *gw = arg;
    struct signalfd_siginfo info;

    while (read(gw->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo == SIGHUP)
            conf_reload(gw);
        else if (gw->draining)
            gw->drain_until_ns = 0; /* a second signal: at once */
        else
            drain_begin(gw);
    }
}

static void signals_open(struct gw *gw)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    gw->signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    gw->signal_watch = watch_add(gw, gw->signal_fd, on_signal, gw);
}

/* ---- set-up ---- */

static enum err server_open(struct gw *gw)
{
    const struct conf_gateway *conf = &gw->conf->gateway;
    h2o_hostconf_t *data, *admin;
    h2o_hostconf_t **hosts;

    h2o_config_init(&gw->config);
    gw->config.server_name = h2o_iovec_init(H2O_STRLIT(""));
    gw->config.http1.upgrade_to_http2 = conf->http2;
    gw->config.http1.req_timeout =
        (uint64_t)conf->keepalive_timeout_ms + conf->body_timeout_ms + 5000;
    gw->config.http2.idle_timeout = conf->keepalive_timeout_ms;
    gw->config.max_request_entity_size = (size_t)conf->max_body_bytes + H2O_BODY_HEADROOM;
    data = h2o_config_register_host(&gw->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    admin = h2o_config_register_host(&gw->config, h2o_iovec_init(H2O_STRLIT("admin")), 65535);
    routes_register(gw, data, LISTENER_DATA);
    routes_register(gw, admin, LISTENER_ADMIN);
    h2o_context_init(&gw->ctx, h2o_evloop_create(), &gw->config);
    hosts = calloc(4, sizeof(*hosts));
    if (hosts == NULL)
        return ERR_NOMEM;
    hosts[0] = data;
    hosts[2] = admin;
    gw->accept_data = (h2o_accept_ctx_t){.ctx = &gw->ctx, .hosts = hosts};
    gw->accept_admin = (h2o_accept_ctx_t){.ctx = &gw->ctx, .hosts = hosts + 2};
    return ERR_OK;
}

static enum err metrics_open(struct gw *gw)
{
    enum err e;
    unsigned i;

    e = metric_open(gw->conf->common.run_dir, gw->name, metric_table, GW_M_COUNT, 2048,
                    &gw->metric_file);
    for (i = 0; e == ERR_OK && i < GW_M_COUNT; i++)
        if (metric_table[i].labels[0] == '\0')
            gw->m[i] = metric_get(gw->metric_file, i, NULL);
    for (i = 0; e == ERR_OK && i < GW_STATES; i++) {
        const char *label = state_name((enum gw_state)i);

        gw->m_state[i] = metric_get(gw->metric_file, GW_M_active, &label);
    }
    return e;
}

/* Big bodies otherwise cost a fresh mapping, and its page faults, each time a buffer doubles. Of
 * the input buffers that come and go with every answer, h2o keeps 16 for reuse: too few for a busy
 * turn. */
static void malloc_tune(void)
{
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
    h2o_socket_buffer_prototype.allocator.max = KEPT_BUFFERS;
    h2o_socket_buffer_mmap_settings.threshold =
        SIZE_MAX; /* never to a file in the temporary folder */
}

static enum err gw_open(struct gw *gw)
{
    char url[256];
    enum err e;

    must(gw->conf != NULL);
    list_init(&gw->ready);
    list_init(&gw->patient);
    list_init(&gw->clients);
    timers_init(&gw->timers);
    pool_init(&gw->requests, sizeof(struct gw_request), gw->conf->gateway.max_requests);
    look_init(gw);
    conf_scheduler_url(gw->conf, url, sizeof(url));
    fleet_init(&gw->fleet, strncmp(url, "ipc:", 4) == 0 ? gw->conf->common.run_dir : NULL);
    body_budget_set(gw);
    client_max_set(gw);
    gw->retry_tokens = 10;
    gw->retry_at_ns = clock_ns();
    e = server_open(gw);
    if (e != ERR_OK)
        return e;
    gw->rpc_host = (struct rpc_host){
        .ctx = gw, .watch = watch_add, .unwatch = watch_remove, .timers = &gw->timers};
    signals_open(gw);
    e = metrics_open(gw);
    if (e != ERR_OK) {
        log_error("metrics_failed", "run_dir=%s error=\"%s\"", gw->conf->common.run_dir,
                  err_text(e));
        return e;
    }
    e = engine_pools_init(gw);
    if (e == ERR_OK)
        e = files_open(gw, gw->conf, gw->conf->gateway.http2);
    if (e == ERR_OK && gw->conf->common.rpc_key_file[0] != '\0')
        e = keys_secret_read(gw->conf->common.rpc_key_file, &gw->rpc_key);
    if (e == ERR_OK)
        e = placement_open(gw);
    if (e == ERR_OK)
        e = mailbox_open(gw);
    fleet_refresh(&gw->fleet, clock_ns());
    return e == ERR_OK ? listeners_open(gw) : e;
}

/* What is left is closed and given back, so that a leak checker sees only what was really lost. */
static void gw_close(struct gw *gw)
{
    int turns;

    gw->stopped = true;
    listeners_stop(gw);
    clients_close_all(gw);
    for (turns = 0; gw->client_count > 0 && turns < 100; turns++)
        h2o_evloop_run(gw->ctx.loop, 1);
    placement_close(gw);
    mailbox_close(gw);
    if (gw->pools != NULL)
        engine_pools_fini(gw);
    if (gw->signal_watch != NULL)
        watch_remove(gw, gw->signal_watch);
    if (gw->ctx.loop != NULL)
        h2o_evloop_run(gw->ctx.loop, 0);
    look_fini(gw);
    files_close(gw);
    secret_free(gw->rpc_key);
    fleet_fini(&gw->fleet);
    if (gw->metric_file != NULL)
        metric_close(gw->metric_file);
    buf_fini(&gw->head);
    buf_fini(&gw->flat);
    buf_fini(&gw->access);
    free(gw->by_fd);
    if (gw->client_count == 0)
        pool_fini(&gw->requests);
    timers_fini(&gw->timers);
    conf_free(gw->conf);
}

int main(int argc, char **argv)
{
    struct proc_args args = {
        .name = "slipstream-gateway",
        .summary = "One worker of the Slipstream gateway: HTTP in, inference engines out.",
        .has_instance = true,
        .check = check_files};
    static struct gw gw = {.access_fd = -1};
    enum err e;
    int status = 0;

    proc_start(&args, argc, argv, &gw.conf);
    malloc_tune();
    gw.instance = args.instance;
    snprintf(gw.name, sizeof(gw.name), "gateway-%u", gw.instance);
    e = gw_open(&gw);
    if (e != ERR_OK) {
        gw_close(&gw);
        return e == ERR_CONF ? 78 : EXIT_UNAVAILABLE;
    }
    log_info("ready", "listeners=%zu", gw.listener_count);
    proc_ready("running");
    if (!worker_run(&gw))
        status = EXIT_LOOP_FAILED;
    log_info("stopped", "requests=%u", gw.requests.used);
    gw_close(&gw);
    return status;
}
