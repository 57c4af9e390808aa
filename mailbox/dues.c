/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "common/must.h"
#include "mailbox/box.h"

/* One deadline for each copy: what it means depends on the copy's state. Times lie in the heap, so
 * that sifting touches no copy but to tell it its position. */

void dues_fini(struct dues *d)
{
    free(d->heap);
    *d = (struct dues){0};
}

static bool is_before(const struct due *a, const struct due *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->copy->id < b->copy->id;
}

static void put(struct dues *d, uint32_t i, struct due due)
{
    d->heap[i] = due;
    due.copy->due_at = i;
}

static void sift(struct dues *d, uint32_t i, struct due due)
{
    uint32_t child;

    while (i > 1 && is_before(&due, &d->heap[i / 2])) {
        put(d, i, d->heap[i / 2]);
        i /= 2;
    }
    while ((child = 2 * i) <= d->len) {
        if (child < d->len && is_before(&d->heap[child + 1], &d->heap[child]))
            child++;
        if (!is_before(&d->heap[child], &due))
            break;
        put(d, i, d->heap[child]);
        i = child;
    }
    put(d, i, due);
}

void due_set(struct copy *k, uint64_t at_ns)
{
    struct dues *d = &k->box->core->dues;

    if (k->due_at == 0) {
        if (d->len + 1 >= d->cap) {
            d->cap = d->cap != 0 ? d->cap + d->cap / 4 : 64;
            d->heap = realloc(d->heap, d->cap * sizeof(d->heap[0]));
            must(d->heap != NULL);
        }
        k->due_at = ++d->len;
    }
    sift(d, k->due_at, (struct due){at_ns, k});
}

void due_clear(struct copy *k)
{
    struct dues *d = &k->box->core->dues;
    uint32_t at = k->due_at;

    if (at == 0)
        return;
    k->due_at = 0;
    if (d->len-- != at)
        sift(d, at, d->heap[d->len + 1]);
}

uint64_t due_of(const struct copy *k)
{
    return k->due_at != 0 ? k->box->core->dues.heap[k->due_at].at_ns : UINT64_MAX;
}

struct copy *dues_first(const struct dues *d, uint64_t now_ns)
{
    return d->len != 0 && d->heap[1].at_ns <= now_ns ? d->heap[1].copy : NULL;
}

uint64_t dues_next(const struct dues *d)
{
    return d->len != 0 ? d->heap[1].at_ns : UINT64_MAX;
}
