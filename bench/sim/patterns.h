/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_PATTERNS_H
#define SIM_PATTERNS_H

#include "bench/replay/trace.h"

/*
 * Synthetic workloads of the ways in which agents work together (patterns.def). Deterministic from
 * the seed; draws are those of Python's random.Random(seed), so that a plain script can make the
 * same ones. Step sizes and pauses follow published figures where there are any: 86 % of tool calls
 * return within a second and 95 % within ten, a supervisor's step appends 875 tokens and makes 214.
 */

/* spec: NAME[:KEY=VALUE,...]. On failure `why` has one line about it. */
enum err pattern_make(const char *spec, uint32_t workflows, uint32_t seed, struct trace **out,
                      struct buf *why);
/* All patterns and their options, for --help. */
void patterns_describe(struct buf *out);

#endif
