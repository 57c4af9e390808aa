/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_SEGMENTS_H
#define SIM_SEGMENTS_H

#include "bench/replay/trace.h"

/*
 * Prompts put together from named pieces of text: calls whose prompts begin with the same pieces
 * share blocks, an answer becomes a piece of later prompts. Turns such calls into calls of a trace,
 * where sharing is a reference to an earlier call.
 */
struct segment {
    uint64_t key; /* equal key: equal text */
    uint32_t tokens;
};

struct segments { /* zeroed is a valid empty one */
    struct segment *at;
    uint32_t count, room;
};

void segments_fini(struct segments *s);
void segments_add(struct segments *s, struct segment one);
void segments_copy(struct segments *to, const struct segments *from); /* in place of what it held */

struct writer {
    struct trace *trace; /* the owner's */
    uint64_t *names;     /* of blocks seen so far; 0: free */
    uint32_t *owners;    /* the call that had it first */
    size_t room, used;
};

void writer_init(struct writer *w, struct trace *t);
void writer_fini(struct writer *w);
/* Appends a call with this prompt and `out` tokens of answer; fills in what follows from them. The
 * answer is a piece of text of its own: *answer. */
uint32_t writer_call(struct writer *w, struct trace_call call, const uint32_t *deps,
                     uint32_t dep_count, const struct segments *prompt, struct segment *answer);

uint64_t segment_key(const char *kind, uint64_t a, uint64_t b);

#endif
