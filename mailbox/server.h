/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_SERVER_H
#define SLIP_MAILBOX_SERVER_H

#include "common/conf.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "mailbox/core.h"
#include "mailbox/hash.h"

/* The shell round the core: main.c, server.c, methods.c. One thread, one loop. */

struct meters;
struct keys;
struct answer_scratch;

/* One client. Owned by the server from its hello until it is gone. */
struct peer {
    struct hash_node hash; /* key: the core's number for it */
    struct rpc_peer *rpc;
    bool worker;  /* names the tenant in each call */
    char *tenant; /* of everybody else */
};

/* A hand-over that ended inside of a step and waits for the core to hear of it. */
struct settle_due {
    uint64_t peer, delivery;
    bool done;
};

struct server {
    struct conf *conf;
    const char *conf_path;
    char url_text[256];
    const char *url; /* the channel borrows it */
    char ring_path[160];
    struct loop *loop;
    struct rpc_server *rpc;
    struct mbox_core *core;
    struct mbox_store *store;
    struct mbox_actions out;
    struct meters *meters;
    struct keys *keys;
    struct answer_scratch *scratch;
    struct settle_due *due;
    size_t due_len, due_cap;
    struct hash peers;
    uint64_t next_peer;
    uint64_t start_ns;
    struct timer core_timer, beat_timer, drain_timer;
    bool draining, leaving; /* leaving: nothing is owed to anybody */
};

/* Runs until SIGTERM has drained it. Returns the exit code. conf belongs to the caller, but a
 * reload replaces it: s->conf is what to free. */
int server_run(struct conf **conf, const char *conf_path);

/* methods.c */
struct answer_scratch *answer_scratch_new(void);
void answer_scratch_free(struct answer_scratch *a);
void methods_check_service(void); /* the table here and mailbox.proto agree, or must() */
void methods_call(struct server *s, struct peer *p, unsigned method, uint64_t token,
                  const uint8_t *body, size_t len);
/* One event through the core, then everything that it set off besides the caller's own reply. */
void server_step(struct server *s, const struct mbox_event *e);
void server_finish_step(struct server *s);

#endif
