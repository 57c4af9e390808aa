/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/transport/tls/tls.h>

#include "common/log.h"
#include "common/must.h"
#include "common/rpc_nng_shared.h"

/*
 * The server: a REP socket whose contexts are slots. A few listen; one that holds a request which
 * waits for its answer (a parked Next) is replaced by another, up to a limit.
 * rpc_nng.c says what to beware of.
 */
#define ANSWER_TIMEOUT_MS 5000 /* a peer that reads no answers for so long loses them */
#define RECEIVERS 4u           /* slots that listen while others are parked */
#define LISTENERS 8u
#define LISTENERS_MAX 64u /* with those that died and still have pipes */
#define UNUSED_CHECKS 4u  /* checks without a pipe until a dead listener is closed */

struct nngs_slot {
    struct inbox_item item;
    struct nngs *server;
    nng_ctx ctx;
    nng_aio *aio;
    nng_msg *request; /* while the owner holds it */
    uint32_t pipe;
    bool is_answering;
};

struct nngs {
    nng_socket socket;
    bool has_socket, is_closing;
    struct nngs_slot **slots;
    unsigned slot_count, slots_max;
    unsigned held_count; /* slots whose request waits for nngs_answer() */
    struct nngs_listener {
        nng_listener listener;
        const char *url; /* NULL: has died; its pipes live on */
        const char *was_url;
        bool is_used; /* it had a pipe since the last check */
        unsigned unused_checks;
        bool is_local;
        uint64_t failures; /* as nng counts them: most are harmless */
        int probe;         /* a connection of our own that must make a pipe, -1: none */
        unsigned probe_adds;
    } listeners[LISTENERS_MAX];
    unsigned listener_count;
    struct nng_security security;
    unsigned pipes_max;
    _Atomic unsigned pipe_count, pipe_adds;
    struct inbox *inbox;
    void *watch;
    struct rpc_host host;
    struct nngs_calls calls;
};

static void nngs_receive(struct nngs_slot *slot)
{
    slot->is_answering = false;
    nng_aio_set_timeout(slot->aio, NNG_DURATION_INFINITE);
    nng_ctx_recv(slot->ctx, slot->aio);
}

static void nngs_on_aio(void *arg) /* on an nng thread */
{
    struct nngs_slot *slot = arg;
    int rv = nng_aio_result(slot->aio);

    if (slot->is_answering) {
        if (rv != 0)
            nngx_message_drop(slot->aio);
        if (rv != NNG_ECLOSED)
            nngs_receive(slot);
        return;
    }
    if (rv != NNG_ECLOSED)
        inbox_put(slot->server->inbox, &slot->item);
}

static enum err nngs_add_slot(struct nngs *s);

static void nngs_on_request(struct inbox_item *item)
{
    struct nngs_slot *slot = container_of(item, struct nngs_slot, item);
    struct nngs *s = slot->server;
    nng_msg *m;

    if (nng_aio_result(slot->aio) != 0) {
        if (!s->is_closing)
            nngs_receive(slot);
        return;
    }
    m = nng_aio_get_msg(slot->aio);
    nng_aio_set_msg(slot->aio, NULL);
    if (s->is_closing) {
        nng_msg_free(m);
        return;
    }
    slot->request = m;
    slot->pipe = (uint32_t)nng_pipe_id(nng_msg_get_pipe(m));
    s->held_count++;
    s->calls.on_frame(s->calls.arg, slot, slot->pipe, nng_msg_body(m), nng_msg_len(m));
    if (s->slot_count - s->held_count < RECEIVERS && s->slot_count < s->slots_max)
        nngs_add_slot(s);
}

static void nngs_on_notice(struct inbox_item *item)
{
    struct pipe_notice *n = container_of(item, struct pipe_notice, item);
    struct nngs *s = n->owner;

    if (!s->is_closing)
        s->calls.on_pipe(s->calls.arg, n->pipe, n->is_up);
    free(n);
}

static void nngs_on_pipe(nng_pipe p, nng_pipe_ev ev, void *arg) /* on an nng thread */
{
    struct nngs *s = arg;

    if (ev == NNG_PIPE_EV_ADD_PRE) {
        if (atomic_fetch_add(&s->pipe_count, 1) >= s->pipes_max)
            nng_pipe_close(p); /* it has not started: nothing can come in yet */
        return;
    }
    if (ev == NNG_PIPE_EV_ADD_POST)
        atomic_fetch_add(&s->pipe_adds, 1);
    else
        atomic_fetch_sub(&s->pipe_count, 1);
    nngx_pipe_tell(s->inbox, s, p, ev == NNG_PIPE_EV_ADD_POST, nngs_on_notice);
}

static enum err nngs_add_slot(struct nngs *s)
{
    struct nngs_slot *slot = calloc(1, sizeof(*slot));

    must(slot != NULL);
    slot->server = s;
    slot->item.handle = nngs_on_request;
    if (nng_aio_alloc(&slot->aio, nngs_on_aio, slot) != 0 ||
        nng_ctx_open(&slot->ctx, s->socket) != 0) {
        nng_aio_free(slot->aio);
        free(slot);
        return ERR_NOMEM;
    }
    s->slots[s->slot_count++] = slot;
    nngs_receive(slot);
    return ERR_OK;
}

static int nngs_listen(struct nngs *s, const char *url, const char **why)
{
    nng_listener l;
    nng_tls_config *tls = NULL;
    int rv = nng_listener_create(&l, s->socket, url);

    if (rv == 0 && nngx_starts_with(url, "ipc://"))
        rv = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (rv == 0 && nngx_url_is_tls(url)) {
        rv = nngx_tls_config(&s->security, NULL, &tls, why);
        if (rv == 0)
            rv = nng_listener_set_ptr(l, NNG_OPT_TLS_CONFIG, tls);
        if (tls != NULL) /* nng frees no NULL */
            nng_tls_config_free(tls);
    }
    if (rv == 0)
        rv = nng_listener_start(l, 0);
    if (rv == 0)
        s->listeners[s->listener_count++] = (struct nngs_listener){
            .listener = l, .url = url, .is_local = nngx_url_is_local(url), .probe = -1};
    return rv;
}

static int nngs_open_socket(struct nngs *s, const char *const *urls, size_t url_count,
                            const char **why)
{
    size_t i;
    int rv = nng_rep0_open(&s->socket);

    if (rv != 0)
        return rv;
    s->has_socket = true;
    rv = nngx_set_options(s->socket);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_ADD_PRE, nngs_on_pipe, s);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_ADD_POST, nngs_on_pipe, s);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_REM_POST, nngs_on_pipe, s);
    for (i = 0; i < RECEIVERS && rv == 0; i++)
        rv = nngs_add_slot(s) == ERR_OK ? 0 : NNG_ENOMEM;
    for (i = 0; i < url_count && rv == 0; i++)
        rv = nngs_listen(s, urls[i], why);
    return rv;
}

enum err nngs_open(const char *const *urls, size_t url_count, const struct nng_security *sec,
                   unsigned slots_max, unsigned pipes_max, struct rpc_host host,
                   const struct nngs_calls *calls, struct nngs **out, const char **why)
{
    struct nngs *s;
    sigset_t old;
    size_t i;
    enum err e = url_count <= LISTENERS ? ERR_OK : ERR_CONF;
    int rv;

    *why = "too many addresses";
    for (i = 0; i < url_count && e == ERR_OK; i++)
        e = nngx_url_check(urls[i], sec, why);
    if (e != ERR_OK)
        return e;
    s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->host = host;
    s->calls = *calls;
    s->security = *sec;
    s->pipes_max = pipes_max;
    s->slots_max = slots_max + RECEIVERS;
    s->slots = calloc(s->slots_max, sizeof(struct nngs_slot *));
    must(s->slots != NULL);
    s->inbox = inbox_new();
    s->watch = host.watch(host.ctx, inbox_fd(s->inbox), nngx_on_inbox, s->inbox);
    *why = NULL;
    old = nngx_signals_block();
    rv = nngs_open_socket(s, urls, url_count, why);
    nngx_signals_restore(&old);
    if (rv != 0) {
        e = *why != NULL ? ERR_CONF : nngx_err(rv); /* a file of TLS */
        if (*why == NULL)
            *why = nng_strerror(rv);
        nngs_close(s);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void nngs_close(struct nngs *s)
{
    unsigned i;

    if (s == NULL)
        return;
    s->is_closing = true;
    s->host.unwatch(s->host.ctx, s->watch);
    for (i = 0; i < s->listener_count; i++)
        if (s->listeners[i].probe >= 0)
            close(s->listeners[i].probe);
    /* First no operation may be under way or start: nng 1.5.2 stumbles over one that meets the end
     * of its context. */
    for (i = 0; i < s->slot_count; i++)
        nng_aio_stop(s->slots[i]->aio);
    if (s->has_socket && !nngx_socket_close(s->socket))
        return; /* leaked: its callbacks may still come */
    inbox_run(s->inbox);
    for (i = 0; i < s->slot_count; i++) {
        if (s->slots[i]->request != NULL)
            nng_msg_free(s->slots[i]->request);
        nng_aio_free(s->slots[i]->aio);
        free(s->slots[i]);
    }
    inbox_free(s->inbox);
    free(s->slots);
    free(s);
}

void nngs_answer(struct nngs_slot *slot, const void *a, size_t a_len, const void *b, size_t b_len)
{
    nng_msg *m = nngx_message(a, a_len, b, b_len);

    must(m != NULL && slot->request != NULL);
    nng_msg_free(slot->request);
    slot->request = NULL;
    slot->server->held_count--;
    slot->is_answering = true;
    nng_aio_set_timeout(slot->aio, ANSWER_TIMEOUT_MS);
    nng_aio_set_msg(slot->aio, m);
    nng_ctx_send(slot->ctx, slot->aio);
}

bool nngs_pipe_is_alive(struct nngs *s, uint32_t pipe, bool *is_local)
{
    nng_pipe p = NNG_PIPE_INITIALIZER;
    unsigned i;
    int id;

    p.id = pipe;
    id = nng_listener_id(nng_pipe_listener(p));
    for (i = 0; i < s->listener_count; i++)
        if (id > 0 && nng_listener_id(s->listeners[i].listener) == id) {
            *is_local = s->listeners[i].is_local;
            s->listeners[i].is_used = true;
            return true;
        }
    return false;
}

/* ---- listeners that die ---- */

static const char *ipc_path(const char *url)
{
    return url != NULL && nngx_starts_with(url, "ipc://") ? url + strlen("ipc://") : NULL;
}

static uint64_t listener_failures(nng_stat *all, nng_listener l)
{
    nng_stat *st = nng_stat_find_listener(all, l);
    nng_stat *other = st != NULL ? nng_stat_find(st, "other") : NULL;

    return other != NULL ? nng_stat_value(other) : 0;
}

/* Connects and negotiates as a client would; a listener that lives makes a pipe of it. */
static void probe_start(struct nngs *s, struct nngs_listener *l)
{
    static const char hello[8] = {0, 'S', 'P', 0, 0, NNG_REQ0_SELF, 0, 0};
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    const char *path = ipc_path(l->url);
    int fd;

    if (strlen(path) >= sizeof(addr.sun_path))
        return;
    strcpy(addr.sun_path, path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        send(fd, hello, sizeof(hello), MSG_NOSIGNAL) != (ssize_t)sizeof(hello)) {
        close(fd);
        return;
    }
    l->probe = fd;
    l->probe_adds = atomic_load(&s->pipe_adds);
}

/* A new listener takes the name; the old one keeps its pipes. */
static void listener_replace(struct nngs *s, struct nngs_listener *l)
{
    const char *url = l->url, *why = NULL;
    sigset_t old;

    if (s->listener_count == LISTENERS_MAX)
        return;
    old = nngx_signals_block();
    unlink(ipc_path(url));
    if (nngs_listen(s, url, &why) == 0) {
        l->was_url = url;
        l->url = NULL;
    }
    nngx_signals_restore(&old);
    log_warn("rpc_listener_replaced", "url=\"%s\" reason=\"it accepted no more\"", url);
}

/* nng unlinks the name that it has listened under, which is its successor's by now. */
static void listener_close(struct nngs_listener *l, const char *path)
{
    char aside[sizeof(((struct sockaddr_un *)0)->sun_path) + 8];

    snprintf(aside, sizeof(aside), "%s.aside", path);
    if (rename(path, aside) != 0)
        return;
    nng_listener_close(l->listener);
    if (rename(aside, path) != 0)
        log_error("rpc_listener_lost", "path=%s error=\"%s\"", path, strerror(errno));
}

/* A dead listener without pipes is given back; clients that it had let in and never served get to
 * know of its end. Tells whether its row is free. */
static bool listener_is_over(struct nngs *s, struct nngs_listener *l)
{
    unsigned i;

    l->unused_checks = l->is_used ? 0 : l->unused_checks + 1;
    l->is_used = false;
    if (l->unused_checks < UNUSED_CHECKS)
        return false;
    for (i = 0; i < s->listener_count; i++)
        if (s->listeners[i].url == l->was_url) {
            listener_close(l, ipc_path(l->was_url));
            return true;
        }
    return false;
}

static void listener_check(struct nngs *s, struct nngs_listener *l, nng_stat *all)
{
    uint64_t failures = listener_failures(all, l->listener);

    if (l->probe >= 0) {
        close(l->probe);
        l->probe = -1;
        if (atomic_load(&s->pipe_adds) == l->probe_adds)
            listener_replace(s, l);
    } else if (failures != l->failures) {
        probe_start(s, l);
        if (l->probe >= 0)
            l->failures = failures;
    }
}

void nngs_check(struct nngs *s)
{
    unsigned i, count = s->listener_count;
    nng_stat *all;

    if (nng_stats_get(&all) != 0)
        return;
    for (i = 0; i < count; i++)
        if (ipc_path(s->listeners[i].url) != NULL)
            listener_check(s, &s->listeners[i], all);
    for (i = s->listener_count; i-- > 0;)
        if (s->listeners[i].url == NULL && listener_is_over(s, &s->listeners[i]))
            s->listeners[i] = s->listeners[--s->listener_count];
    nng_stats_free(all);
}
