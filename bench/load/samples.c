/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/load/samples.h"

#include <stdlib.h>

#include "common/must.h"

void samples_add(struct samples *s, uint64_t ns)
{
    if (s->count == s->cap) {
        s->cap = s->cap != 0 ? s->cap * 2 : 65536;
        s->v = realloc(s->v, s->cap * sizeof(*s->v));
        must(s->v != NULL);
    }
    s->v[s->count++] = ns;
}

void samples_fini(struct samples *s)
{
    free(s->v);
    *s = (struct samples){0};
}

static int compare(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

void samples_sort(struct samples *s)
{
    if (s->count != 0)
        qsort(s->v, s->count, sizeof(*s->v), compare);
}

double samples_us(const struct samples *s, double p)
{
    size_t i = (size_t)(p * (double)s->count);

    if (s->count == 0)
        return 0;
    return (double)s->v[i < s->count ? i : s->count - 1] / 1e3;
}
