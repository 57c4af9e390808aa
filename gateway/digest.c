/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/digest.h"

#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "common/must.h"

static uint64_t chain_start(const struct digest_key *key)
{
    const char *parts[] = {key->model, key->lora, key->salt, key->tenant};
    uint64_t h = key->seed;

    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        const char *s = parts[i] != NULL ? parts[i] : "";

        h = XXH3_64bits_withSeed(s, strlen(s), h);
    }
    return h;
}

void digest_start(struct digest *d, const struct inspection *in, const struct digest_key *key)
{
    d->count = 0;
    d->tail_bytes = 0;
    d->bytes = 0;
    d->in = in;
    d->chain = chain_start(key);
    d->part = 0;
    d->at = 0;
    d->skip = 0;
    d->held = 0;
}

/* Part 0 is tools, part 1 system, then the elements. NULL: there are no more. */
static const struct span *part_get(const struct inspection *in, uint32_t part)
{
    if (part == 0)
        return &in->tools;
    if (part == 1)
        return &in->system;
    return part - 2 < in->element_count ? &in->elements[part - 2] : NULL;
}

static void block_add(struct digest *d, const char *block)
{
    if (d->count == d->cap) {
        d->cap = d->cap != 0 ? d->cap * 2 : 64;
        d->blocks = realloc(d->blocks, d->cap * sizeof(*d->blocks));
        must(d->blocks != NULL);
    }
    d->chain = XXH3_64bits_withSeed(block, DIGEST_BLOCK, d->chain);
    d->blocks[d->count++] = d->chain;
}

static void bytes_add(struct digest *d, const char *p, size_t n)
{
    size_t room = DIGEST_BLOCK - d->held;

    d->bytes += n;
    if (d->count == DIGEST_MAX)
        return;
    if (d->held != 0 && n >= room) {
        memcpy(d->block + d->held, p, room);
        block_add(d, d->block);
        d->held = 0;
        p += room;
        n -= room;
    }
    while (n >= DIGEST_BLOCK && d->count < DIGEST_MAX) {
        block_add(d, p);
        p += DIGEST_BLOCK;
        n -= DIGEST_BLOCK;
    }
    if (d->count == DIGEST_MAX || n == 0)
        return;
    memcpy(d->block + d->held, p, n);
    d->held += n;
}

/* The next piece of this part that is not skipped, at most budget bytes; moves d->at and d->skip.
 * Returns how many bytes of the body it went over. */
static size_t piece_add(struct digest *d, const struct span *part, size_t budget)
{
    const struct inspection *in = d->in;
    uint32_t from = part->at + d->at, end = part->at + part->len, stop = end;

    while (d->skip < in->skip_count && in->skips[d->skip].at + in->skips[d->skip].len <= from)
        d->skip++;
    if (d->skip < in->skip_count) {
        const struct span *s = &in->skips[d->skip];

        if (s->at <= from) {
            uint32_t to = s->at + s->len < end ? s->at + s->len : end;

            d->at += to - from;
            return 1;
        }
        if (s->at < stop)
            stop = s->at;
    }
    if (budget < stop - from)
        stop = from + (uint32_t)budget;
    bytes_add(d, in->body + from, stop - from);
    d->at += stop - from;
    return stop - from;
}

bool digest_run(struct digest *d, size_t budget)
{
    const struct span *part;

    budget += budget == 0;
    while ((part = part_get(d->in, d->part)) != NULL) {
        if (d->at == part->len) {
            d->part++;
            d->at = 0;
            /* The spans of tools, system and elements may come in any order. */
            if (d->part <= 2)
                d->skip = 0;
            continue;
        }
        if (budget == 0)
            return false;
        size_t n = piece_add(d, part, budget);
        budget -= n < budget ? n : budget;
    }
    d->tail_bytes = (uint32_t)d->held;
    return true;
}

void digest_fini(struct digest *d)
{
    free(d->blocks);
    *d = (struct digest){0};
}
