/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_SYNTH_H
#define REPLAY_SYNTH_H

#include "bench/replay/trace.h"

/*
 * The bundled workload: supervisors with tools that hand parts of a task to sub-agents.
 *
 * Each workflow: a supervisor reads a task behind tool definitions that all supervisors share, and
 * takes a few steps (output and tool result are appended to its conversation); then it starts
 * sub-agents in parallel, whose conversations begin with tool definitions that all sub-agents share
 * and a briefing that those of one workflow share; it waits for all, reads their reports and takes
 * the last steps. Deterministic from the seed. Prompts have the lengths of recorded coding agents
 * (tens of thousands of tokens, a few thousand more with each step); pauses follow published
 * figures (86 % of tool calls return within a second, 95 % within ten).
 */
struct trace *synth_supervisor(uint32_t workflows, uint32_t seed);

#endif
