/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_KV_SUB_H
#define SCHED_KV_SUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/inbox.h"
#include "scheduler/kv_stream.h"

/*
 * KV-cache events of the engines, over ZeroMQ, on a thread of their own: one SUB socket for each
 * publisher (an engine, or each data-parallel rank of it: port + rank), and one DEALER while a
 * replay is under way. News come as inbox items. When the loop is behind, nothing more is read;
 * what a publisher drops then is asked for again.
 */
struct kv_target {
    uint32_t index, generation;
    char id[64];
    char events[208], replay[208]; /* ZeroMQ endpoints; replay empty: none */
    char topic[128];               /* prefix; empty: all */
    bool bind;                     /* the publisher connects to us */
    bool content;                  /* prompt digests are wanted, too */
    uint32_t ranks;
    uint32_t serial; /* another one: all is to be told again */
};

struct kv_op { /* content: prompt digests that came or went, in order */
    bool stored;
    uint64_t parent; /* 0: none */
    const uint64_t *digests;
    uint32_t count;
};

struct kv_news {
    uint32_t index, generation;
    bool known;      /* all that the engine holds is known, as a number of tokens */
    bool whole;      /* its content, too: nothing was missed since it was empty */
    bool cleared;    /* it was empty meanwhile: before tokens and ops */
    uint64_t tokens; /* that it holds now */
    const struct kv_op *ops;
    size_t op_count;
    uint32_t connected;       /* publishers of it */
    struct kv_counters count; /* since the target was set */
};

struct kv_sub;
/* on_news comes on the loop's thread, from inbox_run(); news are freed after it. */
struct kv_sub *kv_sub_start(struct inbox *inbox,
                            void (*on_news)(void *arg, const struct kv_news *news), void *arg);
/* Replaces all targets; those that stay the same go on. Any number of times. */
void kv_sub_set(struct kv_sub *s, const struct kv_target *targets, size_t count);
void kv_sub_stop(struct kv_sub *s); /* joins; news under way are dropped. NULL is fine */

/* The endpoint of a rank: its port is higher by so much. False: there is none (only tcp has
 * ports). */
bool kv_endpoint(const char *endpoint, uint32_t rank, char *dst, size_t size);

#endif
