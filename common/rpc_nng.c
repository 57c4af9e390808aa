/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_nng.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <nng/nng.h>
#include <nng/protocol/reqrep0/rep.h>
#include <nng/protocol/reqrep0/req.h>
#include <nng/supplemental/tls/tls.h>
#include <nng/transport/tls/tls.h>

#include "common/fault.h"
#include "common/inbox.h"
#include "common/log.h"
#include "common/must.h"

/*
 * nng completes on threads of its own. Its callbacks do one thing with what is ours: inbox_put().
 * A slot belongs either to nng (an operation is under way) or to the owner's thread, and the inbox
 * is where it changes hands.
 *
 * Three faults of nng 1.5.2 shape this file. (1) A peer that disconnects while it negotiates can
 * end the listener, or the dialer, for good: nngs_check() and nngc_redial() notice and replace it.
 * (2) Closing a pipe while a message comes in on it can block nng's only reaper thread for ever,
 * and with it every later close: so a pipe is closed here only before it has started or when
 * nothing comes from it, and a socket by socket_close(), which gives up after a while. (3) So a
 * pipe's end may go unnoticed: whoever waits for one has a deadline besides.
 */
#define AIO_TIMEOUT_MS 30000   /* then the channel is given up and said hello to again */
#define ANSWER_TIMEOUT_MS 5000 /* a peer that reads no answers for so long is dropped */
#define RECEIVED_BYTES_MAX (8u << 20)
#define RECEIVERS 4u /* slots that listen while others are parked */
#define LISTENERS 8u
#define LISTENERS_EVER 64u /* with those that died */
#define CLOSE_TIMEOUT_S 2
#define PEM_BYTES_MAX (256u << 10)

struct pipe_notice {
    struct inbox_item item;
    void *owner;
    uint32_t pipe;
    bool is_up;
};

static sigset_t signals_block(void)
{
    sigset_t all, old;

    sigfillset(&all);
    must(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    return old;
}

static void signals_restore(const sigset_t *old)
{
    must(pthread_sigmask(SIG_SETMASK, old, NULL) == 0);
}

static enum err err_from_nng(int rv)
{
    switch (rv) {
    case 0:
        return ERR_OK;
    case NNG_ENOMEM:
        return ERR_NOMEM;
    case NNG_ETIMEDOUT:
        return ERR_TIMEOUT;
    case NNG_ECANCELED:
        return ERR_CANCELLED;
    case NNG_EINVAL:
    case NNG_EADDRINVAL:
    case NNG_ENOTSUP:
        return ERR_CONF;
    case NNG_ECONNRESET:
    case NNG_ECLOSED:
        return ERR_GONE;
    default:
        return ERR_IO;
    }
}

static bool starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

static bool url_is_local(const char *url)
{
    return starts_with(url, "ipc://") || starts_with(url, "unix://") ||
           starts_with(url, "abstract://");
}

static bool url_is_tls(const char *url)
{
    return starts_with(url, "tls+tcp");
}

static enum err url_check(const char *url, const struct nng_security *sec, const char **why)
{
    if (url_is_local(url))
        return ERR_OK;
    if (url_is_tls(url)) {
        if (strcmp(nng_tls_engine_name(), "none") != 0)
            return ERR_OK;
        *why = "this nng library is built without TLS";
        return ERR_CONF;
    }
    if (starts_with(url, "tcp") && sec->allow_plain_tcp)
        return ERR_OK;
    *why = starts_with(url, "tcp") ? "plain tcp is not allowed, use tls+tcp or set insecure"
                                   : "unknown kind of address";
    return ERR_CONF;
}

static int set_common_options(nng_socket socket)
{
    int rv = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, RECEIVED_BYTES_MAX);

    if (rv == 0)
        rv = nng_socket_set_ms(socket, NNG_OPT_RECONNMINT, 20);
    if (rv == 0)
        rv = nng_socket_set_ms(socket, NNG_OPT_RECONNMAXT, 100);
    return rv;
}

static char *pem_read(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = NULL;
    size_t n;

    if (f == NULL)
        return NULL;
    text = malloc(PEM_BYTES_MAX);
    must(text != NULL);
    n = fread(text, 1, PEM_BYTES_MAX - 1, f);
    text[n] = '\0';
    fclose(f);
    return text;
}

static int tls_add_own_cert(nng_tls_config *tls, const struct nng_security *sec)
{
    char *cert = pem_read(sec->cert_file);
    char *key = sec->key_file != NULL ? pem_read(sec->key_file) : NULL;
    int rv = NNG_ENOFILES;

    if (cert != NULL && key != NULL)
        rv = nng_tls_config_own_cert(tls, cert, key, NULL);
    if (key != NULL)
        explicit_bzero(key, PEM_BYTES_MAX);
    free(cert);
    free(key);
    return rv;
}

/* host: whom the certificate must name, NULL for servers. */
static int tls_config_make(const struct nng_security *sec, const char *host, nng_tls_config **out)
{
    nng_tls_config *tls;
    int rv = nng_tls_config_alloc(&tls, host != NULL ? NNG_TLS_MODE_CLIENT : NNG_TLS_MODE_SERVER);

    if (rv != 0)
        return rv;
    rv = nng_tls_config_version(tls, NNG_TLS_1_2, NNG_TLS_1_3);
    if (rv == NNG_ENOTSUP)
        rv = nng_tls_config_version(tls, NNG_TLS_1_2, NNG_TLS_1_2);
    if (rv == 0 && (host != NULL || sec->ca_file != NULL))
        rv = nng_tls_config_auth_mode(tls, NNG_TLS_AUTH_MODE_REQUIRED);
    if (rv == 0 && host != NULL)
        rv = nng_tls_config_server_name(tls, host);
    if (rv == 0 && sec->ca_file != NULL)
        rv = nng_tls_config_ca_file(tls, sec->ca_file);
    if (rv == 0 && sec->cert_file != NULL)
        rv = tls_add_own_cert(tls, sec);
    if (rv != 0)
        nng_tls_config_free(tls);
    else
        *out = tls;
    return rv;
}

/* Parts of one message, in our memory until nng_sendmsg succeeds. */
static nng_msg *message_make(const void *a, size_t a_len, const void *b, size_t b_len)
{
    nng_msg *m;

    if (nng_msg_alloc(&m, a_len + b_len) != 0)
        return NULL;
    if (a_len > 0)
        memcpy(nng_msg_body(m), a, a_len);
    if (b_len > 0)
        memcpy((char *)nng_msg_body(m) + a_len, b, b_len);
    return m;
}

static void message_drop(nng_aio *aio)
{
    nng_msg *m = nng_aio_get_msg(aio);

    if (m != NULL) {
        nng_aio_set_msg(aio, NULL);
        nng_msg_free(m);
    }
}

static void pipe_tell(struct inbox *in, void *owner, nng_pipe p, bool is_up,
                      void (*handle)(struct inbox_item *item))
{
    struct pipe_notice *n = calloc(1, sizeof(*n));

    must(n != NULL);
    *n = (struct pipe_notice){
        .item.handle = handle, .owner = owner, .pipe = (uint32_t)nng_pipe_id(p), .is_up = is_up};
    inbox_put(in, &n->item);
}

/* nng_close() in a thread, see (2) above. */
struct closing {
    nng_socket socket;
    pthread_mutex_t lock;
    pthread_cond_t done;
    bool is_done;
};

static void *close_in_thread(void *arg)
{
    struct closing *c = arg;

    nng_close(c->socket);
    pthread_mutex_lock(&c->lock);
    c->is_done = true;
    pthread_cond_signal(&c->done);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

/* False: nng hangs in it; what its callbacks may still touch must stay. */
static bool socket_close(nng_socket socket)
{
    struct closing *c = calloc(1, sizeof(*c));
    struct timespec until;
    sigset_t old = signals_block();
    pthread_t thread;
    bool is_done;
    int rv = 0;

    must(c != NULL);
    c->socket = socket;
    must(pthread_mutex_init(&c->lock, NULL) == 0 && pthread_cond_init(&c->done, NULL) == 0);
    must(pthread_create(&thread, NULL, close_in_thread, c) == 0);
    signals_restore(&old);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += CLOSE_TIMEOUT_S;
    pthread_mutex_lock(&c->lock);
    while (!c->is_done && rv == 0)
        rv = pthread_cond_timedwait(&c->done, &c->lock, &until);
    is_done = c->is_done;
    pthread_mutex_unlock(&c->lock);
    if (!is_done) {
        pthread_detach(thread);
        return false; /* c is the thread's */
    }
    pthread_join(thread, NULL);
    pthread_cond_destroy(&c->done);
    pthread_mutex_destroy(&c->lock);
    free(c);
    return true;
}

static void on_inbox(void *arg)
{
    inbox_run(arg);
}

/* ---- client ---- */

struct nngc_request {
    struct inbox_item item;
    struct nngc *client;
    nng_ctx ctx;
    nng_aio *aio;
    enum nngc_slot slot;
    bool has_ctx, is_sent;
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
    char *url, *ca_file, *cert_file, *key_file;
    uint32_t pipe; /* 0: none */
};

static void nngc_on_aio(void *arg) /* on an nng thread */
{
    struct nngc_request *r = arg;

    if (!r->is_sent && nng_aio_result(r->aio) == 0) {
        r->is_sent = true;
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
        message_drop(r->aio); /* a failed send gives the message back */
    if (rv == 0) {
        m = nng_aio_get_msg(r->aio);
        nng_aio_set_msg(r->aio, NULL);
    }
    r->is_busy = false;
    if (!c->is_closing)
        c->calls.on_done(c->calls.arg, r->slot, err_from_nng(rv),
                         m != NULL ? nng_msg_body(m) : NULL, m != NULL ? nng_msg_len(m) : 0);
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
    free(n);
    if (matters && !c->is_closing)
        c->calls.on_pipe(c->calls.arg, is_up);
}

static void nngc_on_pipe(nng_pipe p, nng_pipe_ev ev, void *arg) /* on an nng thread */
{
    struct nngc *c = arg;

    pipe_tell(c->inbox, c, p, ev == NNG_PIPE_EV_ADD_POST, nngc_on_notice);
}

static int nngc_open_socket(struct nngc *c)
{
    unsigned i;
    int rv = nng_req0_open(&c->socket);

    if (rv != 0)
        return rv;
    c->has_socket = true;
    rv = set_common_options(c->socket);
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
        if (rv == 0) {
            r->has_ctx = true;
            nng_aio_set_timeout(r->aio, AIO_TIMEOUT_MS);
        }
    }
    return rv;
}

static int nngc_dial(struct nngc *c)
{
    const struct nng_security sec = {c->ca_file, c->cert_file, c->key_file, true};
    nng_tls_config *tls = NULL;
    nng_url *parts = NULL;
    int rv = nng_dialer_create(&c->dialer, c->socket, c->url);

    if (rv == 0 && url_is_tls(c->url)) {
        rv = nng_url_parse(&parts, c->url);
        if (rv == 0)
            rv = tls_config_make(&sec, parts->u_hostname, &tls);
        if (rv == 0)
            rv = nng_dialer_set_ptr(c->dialer, NNG_OPT_TLS_CONFIG, tls);
        nng_tls_config_free(tls);
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
    enum err e = url_check(url, sec, why);
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
    c->watch = host.watch(host.ctx, inbox_fd(c->inbox), on_inbox, c->inbox);
    old = signals_block();
    rv = nngc_open_socket(c);
    if (rv == 0)
        rv = nngc_dial(c);
    signals_restore(&old);
    if (rv != 0) {
        *why = nng_strerror(rv);
        nngc_close(c);
        return err_from_nng(rv);
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
    if (c->has_socket && !socket_close(c->socket))
        return; /* leaked: its callbacks may still come */
    for (i = 0; i < NNGC_SLOTS; i++)
        if (c->requests[i].aio != NULL)
            nng_aio_stop(c->requests[i].aio);
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
    m = message_make(a, a_len, b, b_len);
    if (m == NULL)
        return ERR_NOMEM;
    r->is_busy = true;
    r->is_sent = false;
    nng_aio_set_msg(r->aio, m);
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

void nngc_redial(struct nngc *c)
{
    sigset_t old = signals_block();

    if (c->has_dialer)
        nng_dialer_close(c->dialer);
    c->pipe = 0;
    nngc_dial(c); /* a failure is met by the next redial */
    signals_restore(&old);
}

/* ---- server ---- */

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
        bool is_local;
        uint64_t failures; /* as nng counts them: most are harmless */
        int probe;         /* a connection of our own that must make a pipe, -1: none */
        unsigned probe_adds;
    } listeners[LISTENERS_EVER];
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
            message_drop(slot->aio);
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
    pipe_tell(s->inbox, s, p, ev == NNG_PIPE_EV_ADD_POST, nngs_on_notice);
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

static int nngs_listen(struct nngs *s, const char *url)
{
    nng_listener l;
    nng_tls_config *tls = NULL;
    int rv = nng_listener_create(&l, s->socket, url);

    if (rv == 0 && starts_with(url, "ipc://"))
        rv = nng_listener_set_int(l, NNG_OPT_IPC_PERMISSIONS, 0660);
    if (rv == 0 && url_is_tls(url)) {
        rv = tls_config_make(&s->security, NULL, &tls);
        if (rv == 0)
            rv = nng_listener_set_ptr(l, NNG_OPT_TLS_CONFIG, tls);
        nng_tls_config_free(tls);
    }
    if (rv == 0)
        rv = nng_listener_start(l, 0);
    if (rv == 0)
        s->listeners[s->listener_count++] = (struct nngs_listener){
            .listener = l, .url = url, .is_local = url_is_local(url), .probe = -1};
    return rv;
}

static int nngs_open_socket(struct nngs *s, const char *const *urls, size_t url_count)
{
    size_t i;
    int rv = nng_rep0_open(&s->socket);

    if (rv != 0)
        return rv;
    s->has_socket = true;
    rv = set_common_options(s->socket);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_ADD_PRE, nngs_on_pipe, s);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_ADD_POST, nngs_on_pipe, s);
    if (rv == 0)
        rv = nng_pipe_notify(s->socket, NNG_PIPE_EV_REM_POST, nngs_on_pipe, s);
    for (i = 0; i < RECEIVERS && rv == 0; i++)
        rv = nngs_add_slot(s) == ERR_OK ? 0 : NNG_ENOMEM;
    for (i = 0; i < url_count && rv == 0; i++)
        rv = nngs_listen(s, urls[i]);
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
        e = url_check(urls[i], sec, why);
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
    s->watch = host.watch(host.ctx, inbox_fd(s->inbox), on_inbox, s->inbox);
    old = signals_block();
    rv = nngs_open_socket(s, urls, url_count);
    signals_restore(&old);
    if (rv != 0) {
        *why = nng_strerror(rv);
        nngs_close(s);
        return err_from_nng(rv);
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
    if (s->has_socket && !socket_close(s->socket))
        return; /* leaked: its callbacks may still come */
    for (i = 0; i < s->slot_count; i++)
        nng_aio_stop(s->slots[i]->aio);
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
    nng_msg *m = message_make(a, a_len, b, b_len);

    must(m != NULL && slot->request != NULL);
    nng_msg_free(slot->request);
    slot->request = NULL;
    slot->server->held_count--;
    slot->is_answering = true;
    nng_aio_set_timeout(slot->aio, ANSWER_TIMEOUT_MS);
    nng_aio_set_msg(slot->aio, m);
    nng_ctx_send(slot->ctx, slot->aio);
}

bool nngs_pipe_is_alive(const struct nngs *s, uint32_t pipe, bool *is_local)
{
    nng_pipe p = NNG_PIPE_INITIALIZER;
    unsigned i;
    int id;

    p.id = pipe;
    id = nng_listener_id(nng_pipe_listener(p));
    for (i = 0; i < s->listener_count; i++)
        if (id > 0 && nng_listener_id(s->listeners[i].listener) == id) {
            *is_local = s->listeners[i].is_local;
            return true;
        }
    return false;
}

/* ---- listeners that die ---- */

static const char *ipc_path(const char *url)
{
    return url != NULL && starts_with(url, "ipc://") ? url + strlen("ipc://") : NULL;
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
    const char *url = l->url;
    sigset_t old;

    if (s->listener_count == LISTENERS_EVER)
        return;
    old = signals_block();
    unlink(ipc_path(url));
    if (nngs_listen(s, url) == 0)
        l->url = NULL;
    signals_restore(&old);
    log_warn("rpc_listener_replaced", "url=\"%s\" reason=\"it accepted no more\"", url);
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
    nng_stats_free(all);
}
