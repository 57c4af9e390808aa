/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_TURN_H
#define SLIP_MAILBOX_TURN_H

#include <protobuf-c/protobuf-c.h>

#include "common/err.h"
#include "common/timers.h"
#include "mailbox/region.h"

/*
 * One turn of the loop. Calls change the core, and the store takes note; at the turn's end one
 * commit makes all of it last, and only then those who were promised something hear of it. So what
 * a lasting store costs is shared by everybody who called in the same turn.
 *
 * While the store cannot be written, sends are refused without being tried but for a few now and
 * then, and everything else goes on. Acks and the like hold from the moment at which
 * they were taken: they are answered as they are, and last from the next good commit on.
 */
/* Messages that wait for one commit; with more it comes inside the turn. */
#define TURN_WEIGHT_MAX 1024u

struct server;
struct flow;

struct turn_answer {
    uint64_t token;
    bool promise; /* not true unless the commit succeeds */
    const ProtobufCMessage *body;
};

struct turn {
    struct region mem; /* of the bodies */
    struct turn_answer *answers;
    size_t len, cap;
    struct flow **flows; /* one for each copy sent */
    size_t flow_len, flow_cap;
    uint32_t weight;
    bool failing;       /* the store could not be written, and has not been since */
    bool shut;          /* the last commit failed: no sends until the next try */
    struct timer retry; /* runs while shut, or while something waits for the next turn's end */
    struct server *server;
};

void turn_init(struct turn *t, struct server *s);
void turn_fini(struct turn *t);
/* body and everything that it points to: from t->mem. Answered by turn_commit. */
void turn_hold(struct turn *t, uint64_t token, bool promise, uint32_t weight,
               const ProtobufCMessage *body);
void turn_flow(struct turn *t, struct flow *f);
bool turn_is_full(const struct turn *t);
/* Between steps, never from inside one. */
void turn_commit(struct turn *t);
/* Commits where anything waits for it. */
void turn_end(struct turn *t);

#endif
