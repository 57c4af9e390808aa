/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/args.h"

#include <stdlib.h>

double args_number(const char *s, double min, double max, struct argp_state *state,
                   const char *name)
{
    char *end = NULL;
    double v = strtod(s, &end);

    if (end == s || *end != '\0' || !(v >= min) || !(v <= max))
        argp_error(state, "--%s: a number from %g to %g", name, min, max);
    return v;
}
