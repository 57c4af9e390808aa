/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_KV_STREAM_H
#define SCHED_KV_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/kv_decode.h"
#include "scheduler/kv_view.h"

/*
 * One publisher's stream of batches: what to take, when to ask for a replay, and when to begin
 * anew. Pure: messages and the time come in, a wish for a replay comes out.
 *
 * A replay is asked for from 0 on the first connection, and from the last batch that was taken
 * after a gap or a new connection: its answer begins with that batch if the publisher is still the
 * same. The socket that answers drops silently when it is full, so holes in a replay, and a missing
 * end, ask again from where it got. What is published meanwhile waits unread (kv_stream_is_live).
 */
#define KV_REPLAY_NS UINT64_C(3000000000) /* without a word: given up */
#define KV_RETRY_NS UINT64_C(30000000000) /* after that nobody asks for so long */
#define KV_REPLAY_TRIES 2u                /* without progress */

struct kv_counters {
#define KV_COUNTER(name, help) uint64_t name;
#include "scheduler/kv_counters.def"
#undef KV_COUNTER
};

enum kv_stream_state { KV_IDLE, KV_REPLAY, KV_LIVE }; /* idle: never connected */

struct kv_stream {
    struct kv_view view;
    enum kv_stream_state state;
    bool has_replay;
    bool first;     /* no answer to the replay yet */
    bool moved;     /* it has brought something new */
    bool by_live;   /* a batch with a gap before it was the reason */
    bool was_empty; /* such a replay had nothing at all */
    unsigned tries;
    uint64_t deadline_ns, retry_ns; /* retry_ns: no replay before */

    bool ask; /* a wish: the caller asks for a replay from ask_from, and resets this */
    uint64_t ask_from;
    bool cleared;    /* the engine's cache is another; the caller resets this */
    const char *why; /* of the last loss, gap or garbage, in words */
    struct kv_counters count;
};

void kv_stream_init(struct kv_stream *s, bool has_replay);
void kv_stream_fini(struct kv_stream *s);
void kv_stream_up(struct kv_stream *s, uint64_t now_ns); /* a connection has come about */
/* A batch from either socket. True: batch is to be taken over; delta says what it changed. */
bool kv_stream_batch(struct kv_stream *s, uint64_t now_ns, uint64_t seq,
                     const struct kv_batch *batch, bool live, struct kv_delta *delta);
/* A message of this number cannot be read (KV_SEQ_END: the number cannot, either). */
void kv_stream_garbage(struct kv_stream *s, uint64_t now_ns, uint64_t seq, bool live,
                       const char *why);
void kv_stream_replay_end(struct kv_stream *s, uint64_t now_ns); /* the end marker came */
void kv_stream_tick(struct kv_stream *s, uint64_t now_ns);
uint64_t kv_stream_deadline(const struct kv_stream *s); /* UINT64_MAX: none */

static inline bool kv_stream_is_live(const struct kv_stream *s)
{
    return s->state == KV_LIVE;
}

#endif
