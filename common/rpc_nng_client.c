/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/transport/tls/tls.h>

#include "common/fault.h"
#include "common/must.h"
#include "common/rpc_nng_shared.h"

/* The client: a REQ socket, two contexts, one dialer. rpc_nng.c says what to beware of. */
#define SEND_TIMEOUT_MS 2000    /* to be on the way: only a pipe that is dead takes longer */
#define ANSWER_TIMEOUT_MS 30000 /* then the channel is given up and said hello to again */

/* A server that is about to come back is asked for often; one that stays away costs no more than it
 * must, as each attempt wakes half a dozen of nng's threads. */
#define REDIALS_OFTEN 5u
#define SELDOM_MIN_MS 250
#define SELDOM_MAX_MS 1000

/* What nng counts of a dialer, the clearest first. */
static const struct nngc_failure {
    const char *counter, *words;
} nngc_failures[] = {
    {"auth", "the server's certificate is not of the CA in rpc_tls_ca_file, or not for this host"},
    {"refused", "the connection is refused: nobody listens there"},
    {"timeout", "the host does not answer"},
    {"proto", "the server speaks another protocol"},
    {"disconnect", "the server closes the connection before the hello"},
    {"other", "the connection fails"},
};
#define NNGC_FAILURES (sizeof(nngc_failures) / sizeof(nngc_failures[0]))

struct nngc_request {
    struct inbox_item item;
    struct nngc *client;
    nng_ctx ctx;
    nng_aio *aio;
    enum nngc_slot slot;
    bool is_sent;
    bool is_busy; /* owner's thread: from nngc_send() to on_done */
};

struct nngc {
    nng_socket socket;
    bool has_socket, is_closing;
    struct nngc_request requests[NNGC_SLOTS];
    struct inbox *inbox;
    void *watch;
    struct rpc_host host;
    struct nngc_calls calls;
    nng_dialer dialer;
    bool has_dialer;
    unsigned redials;                 /* since there was a pipe */
    uint64_t failures[NNGC_FAILURES]; /* of this dialer, when last looked at */
    char *url, *ca_file, *cert_file, *key_file;
    uint32_t pipe; /* 0: none */
};

static void nngc_on_aio(void *arg) /* on an nng thread */
{
    struct nngc_request *r = arg;

    if (!r->is_sent && nng_aio_result(r->aio) == 0) {
        r->is_sent = true;
        nng_aio_set_timeout(r->aio, ANSWER_TIMEOUT_MS);
        nng_ctx_recv(r->ctx, r->aio);
        return;
    }
    inbox_put(r->client->inbox, &r->item);
}

static void nngc_on_request(struct inbox_item *item)
{
    struct nngc_request *r = container_of(item, struct nngc_request, item);
    struct nngc *c = r->client;
    int rv = nng_aio_result(r->aio);
    nng_msg *m = NULL;

    if (rv != 0 && !r->is_sent)
        nngx_message_drop(r->aio); /* a failed send gives the message back */
    if (rv == 0) {
        m = nng_aio_get_msg(r->aio);
        nng_aio_set_msg(r->aio, NULL);
    }
    r->is_busy = false;
    if (!c->is_closing)
        c->calls.on_done(c->calls.arg, r->slot, nngx_err(rv), m != NULL ? nng_msg_body(m) : NULL,
                         m != NULL ? nng_msg_len(m) : 0);
    if (m != NULL)
        nng_msg_free(m);
}

static void nngc_on_notice(struct inbox_item *item)
{
    struct pipe_notice *n = container_of(item, struct pipe_notice, item);
    struct nngc *c = n->owner;
    bool is_up = n->is_up, matters = n->is_up || n->pipe == c->pipe;

    if (matters)
        c->pipe = is_up ? n->pipe : 0;
    if (is_up)
        c->redials = 0;
    free(n);
    if (matters && !c->is_closing)
        c->calls.on_pipe(c->calls.arg, is_up);
}

static void nngc_on_pipe(nng_pipe p, nng_pipe_ev ev, void *arg) /* on an nng thread */
{
    struct nngc *c = arg;

    nngx_pipe_tell(c->inbox, c, p, ev == NNG_PIPE_EV_ADD_POST, nngc_on_notice);
}

static int nngc_open_socket(struct nngc *c)
{
    unsigned i;
    int rv = nng_req0_open(&c->socket);

    if (rv != 0)
        return rv;
    c->has_socket = true;
    rv = nngx_set_options(c->socket);
    if (rv == 0)
        rv = nng_socket_set_ms(c->socket, NNG_OPT_REQ_RESENDTIME, NNG_DURATION_INFINITE);
    if (rv == 0)
        rv = nng_pipe_notify(c->socket, NNG_PIPE_EV_ADD_POST, nngc_on_pipe, c);
    if (rv == 0)
        rv = nng_pipe_notify(c->socket, NNG_PIPE_EV_REM_POST, nngc_on_pipe, c);
    for (i = 0; i < NNGC_SLOTS && rv == 0; i++) {
        struct nngc_request *r = &c->requests[i];

        r->client = c;
        r->slot = (enum nngc_slot)i;
        r->item.handle = nngc_on_request;
        rv = nng_aio_alloc(&r->aio, nngc_on_aio, r);
        if (rv == 0)
            rv = nng_ctx_open(&r->ctx, c->socket);
    }
    return rv;
}

static int nngc_dial(struct nngc *c, const char **why)
{
    const struct nng_security sec = {c->ca_file, c->cert_file, c->key_file, true};
    nng_tls_config *tls = NULL;
    nng_url *parts = NULL;
    int rv = nng_dialer_create(&c->dialer, c->socket, c->url);

    if (rv == 0 && c->redials >= REDIALS_OFTEN)
        rv = nng_dialer_set_ms(c->dialer, NNG_OPT_RECONNMINT, SELDOM_MIN_MS);
    if (rv == 0 && c->redials >= REDIALS_OFTEN)
        rv = nng_dialer_set_ms(c->dialer, NNG_OPT_RECONNMAXT, SELDOM_MAX_MS);
    if (rv == 0 && nngx_url_is_tls(c->url)) {
        rv = nng_url_parse(&parts, c->url);
        if (rv == 0)
            rv = nngx_tls_config(&sec, parts->u_hostname, &tls, why);
        if (rv == 0)
            rv = nng_dialer_set_ptr(c->dialer, NNG_OPT_TLS_CONFIG, tls);
        if (tls != NULL) /* nng frees no NULL */
            nng_tls_config_free(tls);
        if (parts != NULL)
            nng_url_free(parts);
    }
    if (rv == 0)
        rv = nng_dialer_start(c->dialer, NNG_FLAG_NONBLOCK);
    c->has_dialer = rv == 0;
    return rv;
}

static char *copy(const char *s)
{
    char *t = s != NULL ? strdup(s) : NULL;

    must(s == NULL || t != NULL);
    return t;
}

enum err nngc_open(const char *url, const struct nng_security *sec, struct rpc_host host,
                   const struct nngc_calls *calls, struct nngc **out, const char **why)
{
    struct nngc *c;
    sigset_t old;
    enum err e = nngx_url_check(url, sec, why);
    int rv;

    if (e != ERR_OK)
        return e;
    c = calloc(1, sizeof(*c));
    must(c != NULL);
    c->host = host;
    c->calls = *calls;
    c->url = copy(url);
    c->ca_file = copy(sec->ca_file);
    c->cert_file = copy(sec->cert_file);
    c->key_file = copy(sec->key_file);
    c->inbox = inbox_new();
    c->watch = host.watch(host.ctx, inbox_fd(c->inbox), nngx_on_inbox, c->inbox);
    *why = NULL;
    old = nngx_signals_block();
    rv = nngc_open_socket(c);
    if (rv == 0)
        rv = nngc_dial(c, why);
    nngx_signals_restore(&old);
    if (rv != 0) {
        e = *why != NULL ? ERR_CONF : nngx_err(rv); /* a file of TLS */
        if (*why == NULL)
            *why = nng_strerror(rv);
        nngc_close(c);
        return e;
    }
    *out = c;
    return ERR_OK;
}

void nngc_close(struct nngc *c)
{
    unsigned i;

    if (c == NULL)
        return;
    c->is_closing = true;
    c->host.unwatch(c->host.ctx, c->watch);
    for (i = 0; i < NNGC_SLOTS; i++)
        if (c->requests[i].aio != NULL)
            nng_aio_stop(c->requests[i].aio);
    if (c->has_socket && !nngx_socket_close(c->socket))
        return;          /* leaked: its callbacks may still come */
    inbox_run(c->inbox); /* nothing is under way any more; drops what still lay there */
    for (i = 0; i < NNGC_SLOTS; i++)
        if (c->requests[i].aio != NULL)
            nng_aio_free(c->requests[i].aio);
    inbox_free(c->inbox);
    free(c->url);
    free(c->ca_file);
    free(c->cert_file);
    free(c->key_file);
    free(c);
}

bool nngc_is_idle(const struct nngc *c, enum nngc_slot slot)
{
    return !c->requests[slot].is_busy;
}

enum err nngc_send(struct nngc *c, enum nngc_slot slot, const void *a, size_t a_len, const void *b,
                   size_t b_len)
{
    struct nngc_request *r = &c->requests[slot];
    nng_msg *m;

    must(!r->is_busy);
    if (fault_hits(FAULT_rpc_send_fails))
        return ERR_IO;
    m = nngx_message(a, a_len, b, b_len);
    if (m == NULL)
        return ERR_NOMEM;
    r->is_busy = true;
    r->is_sent = false;
    nng_aio_set_msg(r->aio, m);
    nng_aio_set_timeout(r->aio, SEND_TIMEOUT_MS);
    nng_ctx_send(r->ctx, r->aio);
    return ERR_OK;
}

void nngc_cancel(struct nngc *c)
{
    unsigned i;

    for (i = 0; i < NNGC_SLOTS; i++)
        if (c->requests[i].is_busy)
            nng_aio_cancel(c->requests[i].aio);
}

const char *nngc_trouble(struct nngc *c)
{
    const char *words = NULL;
    nng_stat *all, *dialer, *st;
    uint64_t n;
    size_t i;

    if (!c->has_dialer || nng_stats_get(&all) != 0)
        return NULL;
    dialer = nng_stat_find_dialer(all, c->dialer);
    for (i = 0; i < NNGC_FAILURES && dialer != NULL; i++) {
        st = nng_stat_find(dialer, nngc_failures[i].counter);
        n = st != NULL ? nng_stat_value(st) : 0;
        if (n != c->failures[i] && words == NULL)
            words = nngc_failures[i].words;
        c->failures[i] = n;
    }
    nng_stats_free(all);
    return words;
}

void nngc_redial(struct nngc *c)
{
    const char *why = NULL;
    sigset_t old = nngx_signals_block();

    if (c->has_dialer)
        nng_dialer_close(c->dialer);
    c->pipe = 0;
    if (c->redials < REDIALS_OFTEN)
        c->redials++;
    memset(c->failures, 0, sizeof(c->failures));
    nngc_dial(c, &why); /* a failure is met by the next redial */
    nngx_signals_restore(&old);
}
