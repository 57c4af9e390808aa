/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_RPC_NNG_H
#define SLIP_RPC_NNG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/rpc.h"

/*
 * The nng carrier: whole frames between one client and one server. Channel internal; rpc_nng.c is
 * the only file that includes nng. Everything here is called, and calls back, on the owner's
 * thread.
 */
struct nng_security {
    const char *ca_file, *cert_file, *key_file; /* each may be NULL */
    bool allow_plain_tcp;
};

/* ---- client: a REQ socket with two requests at most in flight ---- */
enum nngc_slot { NNGC_CALLS, NNGC_NEXT, NNGC_SLOTS };

struct nngc;
struct nngc_calls {
    void *arg;
    void (*on_pipe)(void *arg, bool is_up);
    /* A request ended. p is valid during the call, NULL when e is not ERR_OK. */
    void (*on_done)(void *arg, enum nngc_slot slot, enum err e, const uint8_t *p, size_t len);
};

/* Starts to dial and keeps dialing. ERR_CONF with *why set, ERR_IO. */
enum err nngc_open(const char *url, const struct nng_security *sec, struct rpc_host host,
                   const struct nngc_calls *calls, struct nngc **out, const char **why);
void nngc_close(struct nngc *c);
bool nngc_is_idle(const struct nngc *c, enum nngc_slot slot);
/* Sends one request of two parts in an idle slot; on_done follows. ERR_NOMEM. */
enum err nngc_send(struct nngc *c, enum nngc_slot slot, const void *a, size_t a_len, const void *b,
                   size_t b_len);
void nngc_cancel(struct nngc *c); /* on_done comes for what is in flight */
/* Why the dialer has made no pipe of late, in words; NULL: nothing new since the last call. */
const char *nngc_trouble(struct nngc *c);
/* Gives the dialer and its pipe up and starts a new one: for a link that nothing comes from. */
void nngc_redial(struct nngc *c);

/* ---- server: a REP socket, answers in any order ---- */
struct nngs;
struct nngs_slot;
struct nngs_calls {
    void *arg;
    void (*on_pipe)(void *arg, uint32_t pipe, bool is_up);
    /* A request. Answer it with nngs_answer(), now or later. p is valid until then. */
    void (*on_frame)(void *arg, struct nngs_slot *slot, uint32_t pipe, const uint8_t *p,
                     size_t len);
};

/* pipes_max: more are rejected before they can send anything. */
enum err nngs_open(const char *const *urls, size_t url_count, const struct nng_security *sec,
                   unsigned slots_max, unsigned pipes_max, struct rpc_host host,
                   const struct nngs_calls *calls, struct nngs **out, const char **why);
void nngs_close(struct nngs *s);
void nngs_answer(struct nngs_slot *slot, const void *a, size_t a_len, const void *b, size_t b_len);
void nngs_check(struct nngs *s); /* about twice a second: brings back listeners that died */
/* False: there is no such pipe any more. */
bool nngs_pipe_is_alive(struct nngs *s, uint32_t pipe, bool *is_local);

#endif
