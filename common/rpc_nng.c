/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_nng.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/must.h"
#include "common/secret.h"
#include "common/rpc_nng_shared.h"

/*
 * nng completes on threads of its own. Its callbacks do one thing with what is ours: inbox_put().
 * A slot belongs either to nng (an operation is under way) or to the owner's thread, and the inbox
 * is where it changes hands.
 *
 * Four faults of nng 1.5.2 shape these files. (1) A peer that disconnects while it negotiates can
 * end the listener, or the dialer, for good: nngs_check() and nngc_redial() notice and replace it.
 * (2) Closing a pipe while a message comes in on it can block nng's only reaper thread for ever,
 * and with it every later close: so a pipe is closed here only before it has started or when
 * nothing comes from it, and a socket by nngx_socket_close(), which lets it fall quiet first (who
 * gets no answers has at most two requests to send) and gives up after a while. (3) So a pipe's end
 * may go unnoticed: whoever waits for one has a deadline besides. (4) A request sent at the moment
 * at which its pipe closes is never freed; the sanitizer is told so in tests/support/lsan.supp.
 */
#define RECEIVED_BYTES_MAX (8u << 20)
#define CLOSE_TIMEOUT_S 2
#define CLOSE_QUIET_MS 20 /* for what the other side had sent already, see (2) */

sigset_t nngx_signals_block(void)
{
    sigset_t all, old;

    sigfillset(&all);
    must(pthread_sigmask(SIG_SETMASK, &all, &old) == 0);
    return old;
}

void nngx_signals_restore(const sigset_t *old)
{
    must(pthread_sigmask(SIG_SETMASK, old, NULL) == 0);
}

enum err nngx_err(int rv)
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

bool nngx_starts_with(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool nngx_url_is_local(const char *url)
{
    return nngx_starts_with(url, "ipc://") || nngx_starts_with(url, "unix://") ||
           nngx_starts_with(url, "abstract://");
}

bool nngx_url_is_tls(const char *url)
{
    return nngx_starts_with(url, "tls+tcp");
}

enum err nngx_url_check(const char *url, const struct nng_security *sec, const char **why)
{
    if (nngx_url_is_local(url))
        return ERR_OK;
    if (nngx_url_is_tls(url)) {
        if (strcmp(nng_tls_engine_name(), "none") != 0)
            return ERR_OK;
        *why = "this nng library is built without TLS";
        return ERR_CONF;
    }
    if (nngx_starts_with(url, "tcp") && sec->allow_plain_tcp)
        return ERR_OK;
    *why = nngx_starts_with(url, "tcp") ? "plain tcp is not allowed, use tls+tcp or set insecure"
                                        : "unknown kind of address";
    return ERR_CONF;
}

int nngx_set_options(nng_socket socket)
{
    int rv = nng_socket_set_size(socket, NNG_OPT_RECVMAXSZ, RECEIVED_BYTES_MAX);

    if (rv == 0)
        rv = nng_socket_set_ms(socket, NNG_OPT_RECONNMINT, 20);
    if (rv == 0)
        rv = nng_socket_set_ms(socket, NNG_OPT_RECONNMAXT, 100);
    return rv;
}

static int tls_add_own_cert(nng_tls_config *tls, const struct nng_security *sec, struct buf *note)
{
    char *cert = NULL, *key = NULL;
    int rv = NNG_ENOFILES;

    if (sec->key_file == NULL)
        buf_adds(note, "no key for the certificate");
    else if (secret_file_read(sec->cert_file, &cert, note) == ERR_OK) {
        buf_clear(note);
        if (secret_file_read(sec->key_file, &key, note) == ERR_OK) {
            rv = nng_tls_config_own_cert(tls, cert, key, NULL);
            buf_clear(note);
            if (rv != 0)
                buf_addf(note, "%s or %s: not in PEM form", sec->cert_file, sec->key_file);
        }
    }
    secret_free(cert);
    secret_free(key);
    return rv;
}

static int tls_add_ca(nng_tls_config *tls, const char *file, struct buf *note)
{
    char *ca = NULL;
    int rv = NNG_ENOFILES;

    if (secret_file_read(file, &ca, note) == ERR_OK) {
        rv = nng_tls_config_ca_chain(tls, ca, NULL);
        buf_clear(note);
        if (rv != 0)
            buf_addf(note, "%s: holds no certificate in PEM form", file);
    }
    secret_free(ca);
    return rv;
}

static int tls_fill(nng_tls_config *tls, const struct nng_security *sec, const char *host,
                    struct buf *note)
{
    int rv = nng_tls_config_version(tls, NNG_TLS_1_2, NNG_TLS_1_3);

    if (rv == NNG_ENOTSUP)
        rv = nng_tls_config_version(tls, NNG_TLS_1_2, NNG_TLS_1_2);
    if (rv == 0 && (host != NULL || sec->ca_file != NULL))
        rv = nng_tls_config_auth_mode(tls, NNG_TLS_AUTH_MODE_REQUIRED);
    if (rv == 0 && host != NULL)
        rv = nng_tls_config_server_name(tls, host);
    if (rv == 0 && sec->ca_file != NULL)
        rv = tls_add_ca(tls, sec->ca_file, note);
    if (rv == 0 && sec->cert_file != NULL)
        rv = tls_add_own_cert(tls, sec, note);
    return rv;
}

int nngx_tls_config(const struct nng_security *sec, const char *host, nng_tls_config **out,
                    const char **why)
{
    static __thread char words[1024];
    struct buf note = {0};
    nng_tls_config *tls;
    int rv = nng_tls_config_alloc(&tls, host != NULL ? NNG_TLS_MODE_CLIENT : NNG_TLS_MODE_SERVER);

    if (rv != 0)
        return rv;
    rv = tls_fill(tls, sec, host, &note);
    if (rv == 0) {
        *out = tls;
    } else {
        nng_tls_config_free(tls);
        if (note.len > 0) {
            snprintf(words, sizeof(words), "%s", buf_cstr(&note));
            *why = words;
        }
    }
    buf_fini(&note);
    return rv;
}

nng_msg *nngx_message(const void *a, size_t a_len, const void *b, size_t b_len)
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

void nngx_message_drop(nng_aio *aio)
{
    nng_msg *m = nng_aio_get_msg(aio);

    if (m != NULL) {
        nng_aio_set_msg(aio, NULL);
        nng_msg_free(m);
    }
}

void nngx_pipe_tell(struct inbox *in, void *owner, nng_pipe p, bool is_up,
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

    usleep(CLOSE_QUIET_MS * 1000);
    nng_close(c->socket);
    pthread_mutex_lock(&c->lock);
    c->is_done = true;
    pthread_cond_signal(&c->done);
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

bool nngx_socket_close(nng_socket socket)
{
    struct closing *c = calloc(1, sizeof(*c));
    struct timespec until;
    sigset_t old = nngx_signals_block();
    pthread_t thread;
    bool is_done;
    int rv = 0;

    must(c != NULL);
    c->socket = socket;
    must(pthread_mutex_init(&c->lock, NULL) == 0 && pthread_cond_init(&c->done, NULL) == 0);
    must(pthread_create(&thread, NULL, close_in_thread, c) == 0);
    nngx_signals_restore(&old);
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

void nngx_on_inbox(void *arg)
{
    inbox_run(arg);
}
