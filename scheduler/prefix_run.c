/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/prefix_store.h"

/* Runs that more footprints and pins share than this are not compared any more. */
#define JOIN_MEMBERS 64u
/* Among so many the one that is looked for is found faster without the map. */
#define FEW_MEMBERS 4u

static uint64_t mate_key(const struct prefix *p, uint32_t part, uint32_t run)
{
    return table_mix(((uint64_t)part << 32 | run) ^ p->seed);
}

/* Digests are chained: where two are equal, so are all before them. */
static uint32_t same_count(const uint64_t *a, const uint64_t *b, uint32_t n)
{
    uint32_t low = 0, step = 1;

    if (n == 0 || a[n - 1] == b[n - 1])
        return n;
    while (low + step < n && a[low + step - 1] == b[low + step - 1]) {
        low += step;
        step *= 2;
    }
    if (low + step < n)
        n = low + step;
    while (low < n) {
        uint32_t mid = low + (n - low) / 2;

        if (a[mid] == b[mid])
            low = mid + 1;
        else
            n = mid;
    }
    return low;
}

bool step_find(const struct prefix *p, const uint64_t *d, uint32_t n, struct step *out)
{
    uint32_t slot = id_find(p, d[0]);
    const struct run *r;

    if (slot == SLOT_NONE)
        return false;
    out->run = p->slots.owners[slot];
    r = run_at(p, out->run);
    out->off = slot - r->start;
    out->count = r->len - out->off < n ? r->len - out->off : n;
    out->count = 1 + same_count(p->slots.digests + slot + 1, d + 1, out->count - 1);
    return true;
}

bool tail_find(const struct prefix *p, const uint64_t *d, uint32_t n, struct step *out)
{
    uint32_t i = 0;

    if (n == 0)
        return false;
    if (p->every)
        return step_find(p, d + n - 1, 1, out);
    while (i < n) {
        if (!step_find(p, d + i, n - i, out))
            i++;
        else if (i + out->count < n)
            i += out->count;
        else
            break;
    }
    if (i == n)
        return false;
    *out = (struct step){.run = out->run, .off = out->off + out->count - 1, .count = 1};
    return true;
}

static void slots_own(struct prefix *p, uint32_t start, uint32_t n, uint32_t run)
{
    n = p->every ? n : 1;
    for (uint32_t i = start; i < start + n; i++)
        p->slots.owners[i] = run;
}

uint32_t run_new(struct prefix *p, const uint64_t *d, uint32_t n, uint32_t *count)
{
    uint32_t run = crate_take(&p->runs), start = slots_take(&p->slots, n, run);
    uint32_t i = ids_add_new(p, d, n, start);

    slots_give(&p->slots, start + i, n - i);
    *run_at(p, run) = (struct run){.start = start, .len = i, .capacity = i};
    *count = i;
    p->blocks += i;
    return run;
}

static void run_free(struct prefix *p, uint32_t run)
{
    struct run *r = run_at(p, run);

    slots_give(&p->slots, r->start, r->capacity);
    r->len = 0;
    crate_give(&p->runs, run);
}

uint32_t hold_find(const struct prefix *p, uint32_t run, uint32_t engine)
{
    uint32_t h = run_at(p, run)->holds;

    while (h != 0 && hold_at(p, h)->engine != engine)
        h = hold_at(p, h)->next;
    return h;
}

uint32_t hold_get(struct prefix *p, uint32_t run, uint32_t engine)
{
    uint32_t hold = hold_find(p, run, engine);

    if (hold != 0)
        return hold;
    hold = crate_take(&p->holds);
    *hold_at(p, hold) =
        (struct hold){.run = run, .engine = (uint16_t)engine, .next = run_at(p, run)->holds};
    run_at(p, run)->holds = hold;
    hold_link(p, hold);
    return hold;
}

uint32_t hold_cover(const struct prefix *p, const struct hold *h)
{
    if (h->pins != 0)
        return run_at(p, h->run)->len;
    return h->held > h->told ? h->held : h->told;
}

void hold_unlink(struct prefix *p, uint32_t hold)
{
    struct hold *h = hold_at(p, hold);
    struct shelf *s = &p->shelves[h->engine];

    if (h->older != 0)
        hold_at(p, h->older)->newer = h->newer;
    else if (h->in_order)
        s->oldest = h->newer;
    else
        s->others = h->newer;
    if (h->newer != 0)
        hold_at(p, h->newer)->older = h->older;
    else if (h->in_order)
        s->newest = h->older;
}

/* Between older and newer, which are neighbours. */
static void hold_link_at(struct prefix *p, uint32_t hold, uint32_t older, uint32_t newer)
{
    struct hold *h = hold_at(p, hold);
    struct shelf *s = &p->shelves[h->engine];

    h->older = older;
    h->newer = newer;
    h->in_order = h->held != 0;
    if (older != 0)
        hold_at(p, older)->newer = hold;
    else if (h->in_order)
        s->oldest = hold;
    else
        s->others = hold;
    if (newer != 0)
        hold_at(p, newer)->older = hold;
    else if (h->in_order)
        s->newest = hold;
}

void hold_link(struct prefix *p, uint32_t hold)
{
    const struct hold *h = hold_at(p, hold);
    const struct shelf *s = &p->shelves[h->engine];

    if (h->held != 0)
        hold_link_at(p, hold, s->newest, 0);
    else
        hold_link_at(p, hold, 0, s->others);
}

void hold_fit(struct prefix *p, uint32_t hold)
{
    struct hold *h = hold_at(p, hold);
    struct run *r = run_at(p, h->run);
    uint32_t cover = hold_cover(p, h);

    if (h->in_order != (h->held != 0)) {
        hold_unlink(p, hold);
        hold_link(p, hold);
    }
    if (h->gen_at > cover) {
        h->gen_at = h->gen_tokens = 0;
        r->gens--;
    }
    if (cover == r->len)
        set_add(&r->full, h->engine);
    else
        set_remove(&r->full, h->engine);
}

/* prev stands before it in the run's list. */
static void hold_drop(struct prefix *p, struct run *r, uint32_t hold, uint32_t prev)
{
    struct hold *h = hold_at(p, hold);

    if (prev != 0)
        hold_at(p, prev)->next = h->next;
    else
        r->holds = h->next;
    if (h->gen_at != 0)
        r->gens--;
    set_remove(&r->full, h->engine);
    hold_unlink(p, hold);
    crate_give(&p->holds, hold);
}

uint32_t member_find(const struct prefix *p, uint32_t part, uint32_t run)
{
    uint32_t cursor = 0, m;
    uint64_t key;

    if (!run_at(p, run)->mated) {
        m = run_at(p, run)->members;
        while (m != 0 && member_at(p, m)->part != part)
            m = member_at(p, m)->run_next;
        return m;
    }
    key = mate_key(p, part, run);
    while ((m = table_find(&p->mates, key, &cursor)) != UINT32_MAX)
        if (member_at(p, m)->part == part && member_at(p, m)->run == run)
            return m;
    return 0;
}

static void mate_add(struct prefix *p, uint32_t m)
{
    table_add(&p->mates, mate_key(p, member_at(p, m)->part, member_at(p, m)->run), m);
}

void member_add(struct prefix *p, uint32_t part, uint32_t run)
{
    uint32_t m = crate_take(&p->members);
    struct run *r = run_at(p, run);
    struct part *t = part_at(p, part);

    *member_at(p, m) =
        (struct member){.run = run, .part = part, .run_next = r->members, .part_next = t->members};
    if (r->members != 0)
        member_at(p, r->members)->run_prev = m;
    if (t->members != 0)
        member_at(p, t->members)->part_prev = m;
    r->members = t->members = m;
    r->member_count++;
    if (r->mated) {
        mate_add(p, m);
    } else if (r->member_count > FEW_MEMBERS) {
        r->mated = true;
        for (; m != 0; m = member_at(p, m)->run_next)
            mate_add(p, m);
    }
}

static void member_drop(struct prefix *p, uint32_t m)
{
    struct member *x = member_at(p, m);
    struct run *r = run_at(p, x->run);

    if (r->mated)
        table_remove(&p->mates, mate_key(p, x->part, x->run), m);
    if (x->run_next != 0)
        member_at(p, x->run_next)->run_prev = x->run_prev;
    if (x->run_prev != 0)
        member_at(p, x->run_prev)->run_next = x->run_next;
    else
        r->members = x->run_next;
    r->mated &= --r->member_count > 0;
    if (x->part_next != 0)
        member_at(p, x->part_next)->part_prev = x->part_prev;
    if (x->part_prev != 0)
        member_at(p, x->part_prev)->part_next = x->part_next;
    else
        part_at(p, x->part)->members = x->part_next;
    crate_give(&p->members, m);
}

void part_empty(struct prefix *p, uint32_t part)
{
    uint32_t m, run, hold;

    while ((m = part_at(p, part)->members) != 0) {
        run = member_at(p, m)->run;
        member_drop(p, m);
        if (part_at(p, part)->pin) {
            hold = hold_find(p, run, part_at(p, part)->engine);
            hold_at(p, hold)->pins--;
            hold_fit(p, hold);
        }
        run_settle(p, run);
    }
    part_at(p, part)->blocks = 0;
}

void run_settle(struct prefix *p, uint32_t run)
{
    struct run *r = run_at(p, run);
    uint32_t prev = 0, hold, next, needed = r->member_count != 0 ? r->len : 0;

    for (hold = r->holds; hold != 0; hold = next) {
        uint32_t cover = hold_cover(p, hold_at(p, hold));

        next = hold_at(p, hold)->next;
        if (cover == 0)
            hold_drop(p, r, hold, prev);
        else
            prev = hold;
        needed = cover > needed ? cover : needed;
    }
    if (needed == r->len)
        return;
    ids_remove(p, r->start + needed, r->len - needed);
    p->blocks -= r->len - needed;
    r->len = needed;
    if (needed == 0) {
        head_drop(p, r->start);
        run_free(p, run);
        return;
    }
    if (r->capacity / 2 > needed) {
        slots_give(&p->slots, r->start + needed, r->capacity - needed);
        r->capacity = needed;
    }
    for (hold = r->holds; hold != 0; hold = hold_at(p, hold)->next)
        hold_fit(p, hold);
}

/* What the hold has beyond block at goes over to the new run. */
static void hold_split(struct prefix *p, uint32_t hold, uint32_t lower, uint32_t at)
{
    struct hold rest = *hold_at(p, hold), *h;
    uint32_t more;

    rest.held = rest.held > at ? rest.held - at : 0;
    rest.told = rest.told > at ? rest.told - at : 0;
    rest.gen_at = rest.gen_at > at ? rest.gen_at - at : 0;
    rest.gen_tokens = rest.gen_at != 0 ? rest.gen_tokens : 0;
    if (rest.held == 0 && rest.told == 0 && rest.pins == 0)
        return;
    more = crate_take(&p->holds);
    h = hold_at(p, hold);
    h->held -= rest.held;
    h->told -= rest.told;
    rest.run = lower;
    rest.next = run_at(p, lower)->holds;
    run_at(p, lower)->holds = more;
    if (rest.gen_at != 0) {
        h->gen_at = h->gen_tokens = 0;
        run_at(p, h->run)->gens--;
        run_at(p, lower)->gens++;
    }
    *hold_at(p, more) = rest;
    /* The tail is older than the head. */
    if (rest.held != 0)
        hold_link_at(p, more, h->older, hold);
    else
        hold_link(p, more);
    hold_fit(p, more);
}

static uint32_t run_split(struct prefix *p, uint32_t run, uint32_t at)
{
    uint32_t lower = crate_take(&p->runs), i;
    struct run *r = run_at(p, run);

    *run_at(p, lower) =
        (struct run){.start = r->start + at, .len = r->len - at, .capacity = r->capacity - at};
    slots_own(p, r->start + at, r->capacity - at, lower);
    head_add(p, r->start + at);
    r->len = r->capacity = at;
    for (i = r->holds; i != 0; i = hold_at(p, i)->next) {
        hold_split(p, i, lower, at);
        hold_fit(p, i);
    }
    for (i = r->members; i != 0; i = member_at(p, i)->run_next)
        member_add(p, member_at(p, i)->part, lower);
    return lower;
}

uint32_t run_isolate(struct prefix *p, uint32_t run, uint32_t from, uint32_t to)
{
    if (to < run_at(p, run)->len)
        (void)run_split(p, run, to);
    return from > 0 ? run_split(p, run, from) : run;
}

/* Pins are compared as members. */
static bool holds_go_on(const struct prefix *p, uint32_t a, uint32_t b)
{
    uint32_t i, len = run_at(p, a)->len;

    for (i = run_at(p, b)->holds; i != 0; i = hold_at(p, i)->next) {
        const struct hold *y = hold_at(p, i), *x;
        uint32_t j = hold_find(p, a, y->engine);

        if (j == 0)
            return false;
        x = hold_at(p, j);
        if (y->told != 0 && x->told != len)
            return false;
        if (y->held != 0 && (x->held != len || y->newer != j || x->stamp != y->stamp))
            return false;
    }
    return true;
}

static bool members_same(const struct prefix *p, uint32_t a, uint32_t b)
{
    uint32_t m;

    if (run_at(p, a)->member_count != run_at(p, b)->member_count ||
        run_at(p, a)->member_count > JOIN_MEMBERS)
        return false;
    for (m = run_at(p, a)->members; m != 0; m = member_at(p, m)->run_next)
        if (member_find(p, member_at(p, m)->part, b) == 0)
            return false;
    return true;
}

/* Brings the digests of b behind those of a. */
static void slots_join(struct prefix *p, uint32_t a, uint32_t b)
{
    struct run *x = run_at(p, a), *y = run_at(p, b);
    uint32_t need = x->len + y->len, start;

    head_drop(p, y->start);
    if (x->start + x->len == y->start) {
        slots_own(p, y->start, y->capacity, a);
        x->capacity = x->len + y->capacity;
        x->len = need;
        return;
    }
    if (need > x->capacity) {
        start = slots_take(&p->slots, need + need / 3, a);
        head_drop(p, x->start);
        ids_move(p, x->start, start, x->len);
        slots_give(&p->slots, x->start, x->capacity);
        x->start = start;
        x->capacity = need + need / 3;
        head_add(p, start);
    }
    ids_move(p, y->start, x->start + x->len, y->len);
    slots_give(&p->slots, y->start, y->capacity);
    x->len = need;
}

bool run_join(struct prefix *p, uint32_t a, uint32_t b)
{
    uint32_t i, len = run_at(p, a)->len;

    if (run_at(p, b)->len == 0)
        return true; /* digests that repeat: joined a moment ago */
    if (a == b || !holds_go_on(p, a, b) || !members_same(p, a, b))
        return false;
    while ((i = run_at(p, b)->holds) != 0) {
        struct hold *y = hold_at(p, i), *x = hold_at(p, hold_find(p, a, y->engine));

        x->held += y->held;
        x->told += y->told;
        if (y->gen_at != 0) {
            run_at(p, a)->gens += x->gen_at == 0;
            x->gen_at = len + y->gen_at;
            x->gen_tokens = y->gen_tokens;
        }
        hold_drop(p, run_at(p, b), i, 0);
    }
    while ((i = run_at(p, b)->members) != 0)
        member_drop(p, i);
    slots_join(p, a, b);
    run_at(p, b)->len = 0;
    crate_give(&p->runs, b);
    for (i = run_at(p, a)->holds; i != 0; i = hold_at(p, i)->next)
        hold_fit(p, i);
    return true;
}

void path_push(struct prefix *p, uint32_t run)
{
    if (p->path_count == p->path_capacity) {
        p->path_capacity = p->path_capacity * 2 + 64;
        p->path = realloc(p->path, p->path_capacity * sizeof(*p->path));
        must(p->path != NULL);
    }
    p->path[p->path_count++] = run;
}

void path_mark(struct prefix *p, uint32_t run)
{
    run_at(p, run)->marked = true;
    path_push(p, run);
}

uint32_t path_run(struct prefix *p, uint32_t i)
{
    run_at(p, p->path[i])->marked = false;
    return p->path[i];
}

void path_carve(struct prefix *p, const uint64_t *d, uint32_t n)
{
    struct step s;

    p->path_count = 0;
    for (uint32_t i = 0; i < n; i += s.count) {
        if (!step_find(p, d + i, n - i, &s))
            path_mark(p, run_new(p, d + i, n - i, &s.count));
        else if (!run_at(p, s.run)->marked)
            path_mark(p, run_isolate(p, s.run, s.off, s.off + s.count));
    }
}

void path_join(struct prefix *p)
{
    uint32_t last = 0;

    for (uint32_t i = 0; i < p->path_count; i++)
        if (last == 0 || p->path[i] == 0 || !run_join(p, last, p->path[i]))
            last = p->path[i];
}
