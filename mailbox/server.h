/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_SERVER_H
#define SLIP_MAILBOX_SERVER_H

#include "common/arena.h"
#include "common/conf.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "mailbox/core.h"
#include "mailbox/hash.h"
#include "mailbox/region.h"
#include "mailbox/turn.h"

/* The shell round the core. One thread, one loop. */

struct meters;
struct keys;
struct notes;
struct answer_scratch;

/* One client. Owned by the server from its hello until it is gone. */
struct peer {
    struct hash_node hash; /* key: the core's number for it */
    struct rpc_peer *rpc;
    bool worker;  /* names the tenant in each call */
    char *tenant; /* of everybody else */
    /* Compressed payloads of this peer in that turn, unpacked. */
    uint64_t unpacked, unpacked_turn;
};

/* A hand-over that ended inside of a step and waits for the core to hear of it. */
struct settle_due {
    uint64_t peer, delivery;
    uint64_t lost; /* ref of a payload that could not be read; 0: all of it is settled */
    bool done, unsent;
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
    struct notes *notes;
    struct answer_scratch *scratch;
    struct arena hot;      /* what the call under way was unpacked into, where it fits */
    struct region request; /* and everything else that lives as long as the call, but for */
    struct buf unpacked;   /* its payloads that came compressed */
    struct turn turn;
    struct settle_due *due;
    size_t due_len, due_cap;
    struct hash peers;
    uint64_t next_peer, turns;
    uint64_t start_ns;
    struct timer core_timer, beat_timer, drain_timer;
    bool draining, leaving; /* leaving: nothing is owed to anybody */
};

/* Runs until SIGTERM has drained it. Returns the exit code. conf belongs to the caller, but a
 * reload replaces it: s->conf is what to free. */
int server_run(struct conf **conf, const char *conf_path);

/* setup.c */
struct mbox_limits limits_of(const struct conf_mailbox *c);
/* Where the store of these settings lies. */
const char *store_path_of(const struct conf *c, char *dst, size_t size);
/* The log says why not. ERR_CONF: its file was damaged, or is not ours, and was moved aside. */
enum err store_open(const struct conf *c, struct mbox_store **out);
/* For --check. */
enum err store_check(const struct conf *c, struct buf *words);
/* Says in the log which new settings wait for the next start. */
void reload_compare(const struct conf *old, const struct conf *new);

/* answer.c */
struct answer_scratch *answer_scratch_new(void);
void answer_scratch_free(struct answer_scratch *a);
/* What a RECEIVE, PEEK or DEAD brought, into r: good until the next step or answer. lz4: payloads
 * that are stored compressed are given as they are. */
struct Slipstream__V1__ReceiveReply;
void answer_fill(struct server *s, const struct mbox_action *a, bool lz4,
                 struct Slipstream__V1__ReceiveReply *r);
/* After that answer went to the channel (ERR_OK), or did not. */
void answer_given(struct server *s, const struct mbox_action *a, uint64_t peer, enum err e);
/* A time of the core's clock for people. */
uint64_t answer_wall_ms(uint64_t then_ns, uint64_t now_ns, uint64_t now_wall_ms);
/* One event through the core, then everything that it set off besides the caller's own reply. */
void server_step(struct server *s, const struct mbox_event *e);
void server_finish_step(struct server *s);

#endif
