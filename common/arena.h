/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_ARENA_H
#define SLIP_ARENA_H

#include <stddef.h>

/* Memory that is taken piece by piece and given back all at once. Whoever sets base owns it. */
struct arena {
    char *base;
    size_t used, size;
};

void arena_clear(struct arena *a);
void *arena_take(struct arena *a, size_t bytes); /* zeroed, aligned to 16; NULL: full */
void *arena_room(struct arena *a, size_t bytes); /* not zeroed */

#endif
