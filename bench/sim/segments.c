/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/segments.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "common/must.h"

#define PIECES_MAX 128U /* per block: no block is larger */

struct piece {
    uint64_t key, offset;
};

/* A block being filled. */
struct filling {
    struct piece pieces[PIECES_MAX];
    uint32_t count, room;
    uint64_t before; /* name of the block before it */
};

/* How far the call goes along blocks that were there before. */
struct sharing {
    int32_t ref;
    uint32_t shared;
    bool ended;
};

void segments_fini(struct segments *s)
{
    free(s->at);
    *s = (struct segments){0};
}

void segments_add(struct segments *s, struct segment one)
{
    if (s->count == s->room) {
        s->room = s->room == 0 ? 16 : s->room * 2;
        s->at = realloc(s->at, s->room * sizeof(*s->at));
        must(s->at != NULL);
    }
    s->at[s->count++] = one;
}

void segments_copy(struct segments *to, const struct segments *from)
{
    to->count = 0;
    for (uint32_t i = 0; i < from->count; i++)
        segments_add(to, from->at[i]);
}

uint64_t segment_key(const char *kind, uint64_t a, uint64_t b)
{
    uint64_t parts[3] = {XXH3_64bits(kind, strlen(kind)), a, b};

    return XXH3_64bits(parts, sizeof(parts));
}

void writer_init(struct writer *w, struct trace *t)
{
    *w = (struct writer){.trace = t, .room = 1U << 16};
    w->names = calloc(w->room, sizeof(*w->names));
    w->owners = calloc(w->room, sizeof(*w->owners));
    must(w->names != NULL && w->owners != NULL && t->block <= PIECES_MAX);
}

void writer_fini(struct writer *w)
{
    free(w->names);
    free(w->owners);
}

static size_t place(const struct writer *w, uint64_t name)
{
    size_t i = name & (w->room - 1);

    while (w->names[i] != 0 && w->names[i] != name)
        i = (i + 1) & (w->room - 1);
    return i;
}

static void grow(struct writer *w)
{
    struct writer big = {.room = w->room * 2, .used = w->used, .trace = w->trace};

    big.names = calloc(big.room, sizeof(*big.names));
    big.owners = calloc(big.room, sizeof(*big.owners));
    must(big.names != NULL && big.owners != NULL);
    for (size_t i = 0; i < w->room; i++)
        if (w->names[i] != 0) {
            size_t at = place(&big, w->names[i]);

            big.names[at] = w->names[i];
            big.owners[at] = w->owners[i];
        }
    writer_fini(w);
    *w = big;
}

static void block_close(struct writer *w, struct filling *f, uint32_t call, struct sharing *s)
{
    uint64_t name = XXH3_64bits_withSeed(f->pieces, f->count * sizeof(*f->pieces), f->before);
    size_t i;

    name += name == 0;
    i = place(w, name);
    if (w->names[i] == 0) {
        s->ended = true;
        w->names[i] = name;
        w->owners[i] = call;
        if (++w->used * 2 > w->room)
            grow(w);
    } else if (!s->ended) {
        s->ref = (int32_t)w->owners[i];
        s->shared++;
    }
    f->before = name;
    f->count = 0;
    f->room = w->trace->block;
}

static void fill(struct writer *w, struct filling *f, const struct segment *seg, uint32_t call,
                 struct sharing *s)
{
    for (uint32_t at = 0, n; at < seg->tokens; at += n) {
        n = seg->tokens - at < f->room ? seg->tokens - at : f->room;
        f->pieces[f->count++] = (struct piece){seg->key, at};
        f->room -= n;
        if (f->room == 0)
            block_close(w, f, call, s);
    }
}

uint32_t writer_call(struct writer *w, struct trace_call call, const uint32_t *deps,
                     uint32_t dep_count, const struct segments *prompt, struct segment *answer)
{
    struct filling f = {.room = w->trace->block};
    struct sharing s = {.ref = -1};
    uint32_t id = (uint32_t)w->trace->call_count;

    call.in = 0;
    for (uint32_t i = 0; i < prompt->count; i++) {
        call.in += prompt->at[i].tokens;
        fill(w, &f, &prompt->at[i], id, &s);
    }
    *answer = (struct segment){segment_key("answer", id, 0), call.out};
    fill(w, &f, answer, id, &s);
    call.ref = s.ref;
    call.shared = s.shared;
    return trace_add(w->trace, &call, deps, dep_count);
}
