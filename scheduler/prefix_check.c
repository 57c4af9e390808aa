/* SPDX-License-Identifier: Apache-2.0 */
#include "common/must.h"
#include "scheduler/prefix_store.h"

struct sums {
    uint64_t runs, blocks, free_ranges, holds, members, mates;
};

static uint64_t run_pins(const struct prefix *p, const struct run *r, uint32_t engine)
{
    uint64_t pins = 0;

    for (uint32_t m = r->members; m != 0; m = member_at(p, m)->run_next)
        pins += part_at(p, member_at(p, m)->part)->pin &&
                part_at(p, member_at(p, m)->part)->engine == engine;
    return pins;
}

static bool part_is_whole(const struct prefix *p, uint32_t part)
{
    uint64_t blocks = 0;

    for (uint32_t m = part_at(p, part)->members; m != 0; m = member_at(p, m)->part_next)
        blocks += run_at(p, member_at(p, m)->run)->len;
    return part_at(p, part)->pin || part_at(p, part)->blocks == blocks;
}

static void run_check(const struct prefix *p, uint32_t run, struct sums *sums)
{
    const struct run *r = run_at(p, run);
    uint32_t i, prev = 0, needed = 0, gens = 0, members = 0;
    struct engine_set seen = {0}, full = {0};

    must(r->len > 0 && r->len <= r->capacity && !r->marked);
    for (i = 0; i < (p->every ? r->len : 1); i++)
        must(id_leads_to(p, r->start + i));
    for (i = 0; i < r->capacity; i++)
        must(p->slots.owners[r->start + i] == run ||
             (!p->every && i > 0 && (p->slots.owners[r->start + i] & SLOT_FREE) == 0));
    for (i = r->holds; i != 0; i = hold_at(p, i)->next) {
        const struct hold *h = hold_at(p, i);
        uint32_t cover = hold_cover(p, h);

        must(h->run == run && !set_has(&seen, h->engine));
        must(cover > 0 && h->held <= r->len && h->told <= r->len);
        must(h->gen_at <= cover && (h->gen_at == 0) == (h->gen_tokens == 0));
        must(h->pins == run_pins(p, r, h->engine));
        set_add(&seen, h->engine);
        if (cover == r->len)
            set_add(&full, h->engine);
        gens += h->gen_at != 0;
        needed = cover > needed ? cover : needed;
        sums->holds++;
    }
    for (i = r->members; i != 0; i = member_at(p, i)->run_next) {
        const struct member *m = member_at(p, i);

        must(m->run == run && m->run_prev == prev && member_find(p, m->part, run) == i);
        must(m->part_prev != 0 ? member_at(p, m->part_prev)->part_next == i
                               : part_at(p, m->part)->members == i);
        must(m->part_prev != 0 || part_is_whole(p, m->part));
        must(m->part_next == 0 || member_at(p, m->part_next)->part_prev == i);
        prev = i;
        members++;
    }
    full = set_minus(full, r->full);
    must(set_is_empty(&full) && gens == r->gens && members == r->member_count);
    full = set_minus(r->full, seen);
    must(set_is_empty(&full) && (members != 0 || needed == r->len));
    sums->members += members;
    sums->mates += r->mated ? members : 0;
    sums->blocks += r->len;
    sums->runs++;
}

static void slots_check(const struct prefix *p, struct sums *sums)
{
    const struct slots *s = &p->slots;
    uint32_t i, n, bin, listed = 0;
    bool after_free = false;

    for (i = 0; i < s->capacity; i += n) {
        if ((s->owners[i] & SLOT_FREE) != 0) {
            n = s->owners[i] & ~SLOT_FREE;
            must(n > 0 && n <= s->capacity - i && s->owners[i + n - 1] == s->owners[i]);
            must(!after_free);
            sums->free_ranges++;
            after_free = true;
            continue;
        }
        after_free = false;
        must(run_at(p, s->owners[i])->start == i);
        run_check(p, s->owners[i], sums);
        n = run_at(p, s->owners[i])->capacity;
    }
    must(i == s->capacity);
    for (bin = 0; bin < SLOT_BINS; bin++) {
        must((s->bins[bin] != 0) == (s->filled[bin / 64] >> bin % 64 & 1));
        for (i = s->bins[bin]; i != 0; i = (uint32_t)(s->digests[i - 1] >> 32))
            listed++;
    }
    must(listed == sums->free_ranges);
}

static uint64_t shelf_check(const struct prefix *p, uint32_t engine)
{
    const struct shelf *s = &p->shelves[engine];
    uint64_t held = 0, told = 0, count = 0, stamp = 0;
    uint32_t i, prev = 0;

    for (i = s->oldest; i != 0; i = hold_at(p, i)->newer) {
        const struct hold *h = hold_at(p, i);

        must(h->engine == engine && h->in_order && h->held > 0 && h->older == prev);
        must(h->stamp >= stamp);
        stamp = h->stamp;
        prev = i;
        held += h->held;
        told += h->told;
        count++;
    }
    must(s->newest == prev);
    prev = 0;
    for (i = s->others; i != 0; i = hold_at(p, i)->newer) {
        const struct hold *h = hold_at(p, i);

        must(h->engine == engine && !h->in_order && h->held == 0 && h->older == prev);
        prev = i;
        told += h->told;
        count++;
    }
    must(held == s->held && told == s->told);
    return count;
}

void prefix_check(const struct prefix *p)
{
    struct sums sums = {0};
    uint64_t holds = 0;

    slots_check(p, &sums);
    for (uint32_t e = 0; e < ENGINES_MAX; e++)
        holds += shelf_check(p, e);
    must(sums.runs == p->runs.used && sums.blocks == p->blocks);
    must((p->every ? sums.blocks : sums.runs) == p->ids.used);
    must(sums.holds == p->holds.used && holds == sums.holds);
    must(sums.members == p->members.used && sums.mates == p->mates.used);
}
