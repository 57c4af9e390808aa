/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_PERFECT_H
#define REPLAY_PERFECT_H

#include <stddef.h>
#include <stdint.h>

/*
 * A prefix cache that never forgets: what all engines together have computed so far. A block of 16
 * tokens is named by a hash of itself and all before it.
 */
#define PERFECT_BLOCK 16U

struct perfect {
    uint64_t *slots; /* 0: free */
    size_t room, used;
};

/* The names of a token stream's full blocks; a stream can be carried on. Zeroed is an empty one. */
struct chain {
    uint64_t *names;
    size_t count, room;
    uint32_t tail[PERFECT_BLOCK];
    uint32_t tail_count;
};

void perfect_init(struct perfect *p);
void perfect_fini(struct perfect *p);
/* Leading blocks of c that are known. */
size_t perfect_match(const struct perfect *p, const struct chain *c);
void perfect_learn(struct perfect *p, const struct chain *c);

void chain_add(struct chain *c, const uint32_t *tokens, size_t count);
void chain_fini(struct chain *c);

#endif
