/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_ARGS_H
#define REPLAY_ARGS_H

#include <argp.h>

/* The number in s, of the option --name; ends the program with a message when it is none, or not
 * from min to max. */
double args_number(const char *s, double min, double max, struct argp_state *state,
                   const char *name);

#endif
