/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_BLOCKS_H
#define REPLAY_BLOCKS_H

#include "bench/replay/trace.h"

/*
 * The blocks of a trace by number, from 0 up: two calls have a block in common exactly if they have
 * its number in common. Numbers follow from the trace alone, whatever is selected of it.
 */
struct blocks {
    uint32_t **ids;   /* per call: those of prompt + output */
    uint32_t *counts; /* how many; of them belong to the prompt: at most in / trace.block */
    uint32_t total;   /* distinct ones */
};

void blocks_init(struct blocks *b, const struct trace *t);
void blocks_fini(struct blocks *b, const struct trace *t);
/* Full blocks of a call's prompt. */
uint32_t blocks_of_prompt(const struct blocks *b, const struct trace *t, uint32_t call);

#endif
