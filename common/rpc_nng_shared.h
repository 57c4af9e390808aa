/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_NNG_SHARED_H
#define SLIP_RPC_NNG_SHARED_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nng/nng.h>
#include <nng/supplemental/tls/tls.h>

#include "common/inbox.h"
#include "common/rpc_nng.h"

/* What the two ends of the nng carrier share. Included by rpc_nng*.c alone. */
struct pipe_notice { /* from nng's thread to the owner's */
    struct inbox_item item;
    void *owner;
    uint32_t pipe;
    bool is_up;
};

/* Signals are blocked around everything that may start nng's threads. */
sigset_t nngx_signals_block(void);
void nngx_signals_restore(const sigset_t *old);
enum err nngx_err(int rv);
bool nngx_starts_with(const char *s, const char *prefix);
bool nngx_url_is_local(const char *url);
bool nngx_url_is_tls(const char *url);
enum err nngx_url_check(const char *url, const struct nng_security *sec, const char **why);
int nngx_set_options(nng_socket socket);
/* host: whom the certificate must name; NULL for servers. *why, of this thread until the next call,
 * is set where a file is to blame. */
int nngx_tls_config(const struct nng_security *sec, const char *host, nng_tls_config **out,
                    const char **why);
/* A message of two parts; NULL without memory. */
nng_msg *nngx_message(const void *a, size_t a_len, const void *b, size_t b_len);
void nngx_message_drop(nng_aio *aio); /* frees what a failed send gave back */
void nngx_pipe_tell(struct inbox *in, void *owner, nng_pipe p, bool is_up,
                    void (*handle)(struct inbox_item *item));
/* False: nng hangs in it; what its callbacks may still touch must stay. */
bool nngx_socket_close(nng_socket socket);
void nngx_on_inbox(void *arg); /* the inbox */

#endif
