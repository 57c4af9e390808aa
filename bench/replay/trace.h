/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_TRACE_H
#define REPLAY_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * A workload: calls of a model, their order and what they share.
 *
 * File: gzip or plain JSON lines. Line 1 is metadata {"trace","block","mode","launch"?}, each later
 * line one call [w, a, t, deps, gap, in, out, ref, shared]; the first call has index 0. "The first
 * `shared` blocks of `block` tokens over prompt + output of call `ref` are identical to mine."
 */
enum trace_mode { TRACE_CLOSED, TRACE_OPEN };

struct trace_call {
    uint32_t workflow, agent;
    double t, gap;              /* seconds */
    uint32_t in, out;           /* tokens; out is at least 1 */
    int32_t ref;                /* an earlier call, or -1 */
    uint32_t shared;            /* blocks */
    uint32_t dep_at, dep_count; /* in trace.deps; always earlier calls */
};

struct trace_launch {
    uint32_t workflow;
    double start; /* seconds; negative: as soon as one of the users is free */
};

struct trace {
    char *name;
    uint32_t block; /* tokens */
    enum trace_mode mode;
    struct trace_call *calls;
    size_t call_count, call_room;
    uint32_t *deps;
    size_t dep_count, dep_room;
    struct trace_launch *launch; /* given by the file; else NULL */
    size_t launch_count;
};

/* Reads a file; on failure `why` has one line about it. The trace is the caller's. */
enum err trace_load(const char *path, struct trace **out, struct buf *why);
/* The same from memory (plain text). */
enum err trace_parse(const char *text, size_t len, struct trace **out, struct buf *why);
struct trace *trace_new(const char *name, uint32_t block, enum trace_mode mode);
void trace_free(struct trace *t);

/* Appends a call; returns its index. deps are copied. Generators. */
uint32_t trace_add(struct trace *t, const struct trace_call *call, const uint32_t *deps,
                   uint32_t dep_count);

/* Which calls are replayed, and in which order workflows start. */
struct selection {
    bool *keep; /* one per call */
    size_t kept;
    struct trace_launch *launch;
    size_t launch_count;
};

struct selection_rule {
    uint32_t sessions;  /* workflows (closed) or calls (open); 0: all */
    uint32_t max_steps; /* first calls of each workflow; 0: all */
    bool only_multi;    /* only workflows of more than one agent */
    bool shuffle;       /* workflows in an order drawn from seed, else as in the file */
    double rate;        /* workflows started per second (Poisson); 0: as users are free */
    uint32_t seed;
};

/* A trace that brings its own launch order is taken as it is. */
void selection_make(const struct trace *t, const struct selection_rule *rule,
                    struct selection *out);
void selection_fini(struct selection *s);

#endif
