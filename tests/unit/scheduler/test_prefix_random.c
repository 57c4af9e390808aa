/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "scheduler/engine.h"
#include "scheduler/prefix.h"
#include "scheduler/table.h"

/*
 * The index against sets of blocks, kept the slow way: whatever is called in whatever order, hits,
 * counts and stamps are the same.
 *
 * The world is a forest of conversations that share prefixes; block ids are small numbers, so each
 * set is an array.
 */
#ifdef SLIP_SANITIZED
#define STEPS 60000u
#else
#define STEPS 200000u
#endif
#define CHECK_EVERY 2003u
#define CHATS 160u
#define CHAT_MAX 150u
#define BLOCKS_MAX (CHATS * CHAT_MAX)
#define ENGINES 5u
#define FOOTS 6u
#define PINS 40u
#define NIL UINT32_MAX

struct naive_engine {
    uint64_t stamp[BLOCKS_MAX];
    uint32_t older[BLOCKS_MAX], newer[BLOCKS_MAX], oldest, newest;
    bool held[BLOCKS_MAX], told[BLOCKS_MAX];
    uint32_t pins[BLOCKS_MAX], gen[BLOCKS_MAX];
    uint32_t held_count, told_count;
};

struct naive_pin {
    uint64_t handle;
    uint32_t engine, chat, len;
};

struct world {
    struct prefix *p;
    uint64_t seed, now;
    uint32_t blocks;
    uint32_t ids[CHATS][CHAT_MAX];
    uint64_t digests[CHATS][CHAT_MAX];
    uint32_t lens[CHATS], grown[CHATS];
    struct naive_engine engines[ENGINES];
    struct naive_pin pins[PINS];
    struct foot foots[FOOTS];
    bool foot_has[FOOTS][ENGINES][BLOCKS_MAX];
    uint32_t foot_count[FOOTS][ENGINES];
    uint64_t unknown_parents;
    bool silent; /* no engine tells its content */
};

static uint32_t draw(struct world *w, uint32_t below)
{
    w->seed += UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(table_mix(w->seed) >> 33) % below;
}

static void world_build(struct world *w)
{
    for (uint32_t c = 0; c < CHATS; c++) {
        uint32_t from = c > 0 && draw(w, 5) != 0 ? draw(w, c) : NIL, n = 0;

        w->lens[c] = 1 + draw(w, CHAT_MAX);
        if (from != NIL)
            n = draw(w, (w->lens[from] < w->lens[c] ? w->lens[from] : w->lens[c]) + 1);
        for (uint32_t i = 0; i < w->lens[c]; i++) {
            w->ids[c][i] = i < n ? w->ids[from][i] : w->blocks++;
            w->digests[c][i] = table_mix(w->ids[c][i] + UINT64_C(77));
        }
        w->grown[c] = 1 + draw(w, w->lens[c]);
    }
    for (uint32_t e = 0; e < ENGINES; e++)
        w->engines[e].oldest = w->engines[e].newest = NIL;
}

static void naive_unlink(struct naive_engine *x, uint32_t b)
{
    if (x->older[b] != NIL)
        x->newer[x->older[b]] = x->newer[b];
    else
        x->oldest = x->newer[b];
    if (x->newer[b] != NIL)
        x->older[x->newer[b]] = x->older[b];
    else
        x->newest = x->older[b];
}

static bool naive_covers(const struct naive_engine *x, uint32_t b)
{
    return x->held[b] || x->told[b] || x->pins[b] != 0;
}

static void naive_gen_check(struct naive_engine *x, uint32_t b)
{
    if (!naive_covers(x, b))
        x->gen[b] = 0;
}

static void naive_use(struct world *w, uint32_t e, uint32_t c, uint32_t n, bool only_new)
{
    struct naive_engine *x = &w->engines[e];

    for (uint32_t i = n; i-- > 0;) {
        uint32_t b = w->ids[c][i];

        if (x->held[b] && only_new)
            continue;
        if (x->held[b])
            naive_unlink(x, b);
        else
            x->held_count++;
        x->held[b] = true;
        x->stamp[b] = w->now;
        x->older[b] = x->newest;
        x->newer[b] = NIL;
        if (x->newest != NIL)
            x->newer[x->newest] = b;
        else
            x->oldest = b;
        x->newest = b;
    }
}

static void naive_spare(struct naive_engine *x, uint32_t b)
{
    if (x->newest == b)
        return;
    naive_unlink(x, b);
    x->stamp[b] = x->stamp[x->newest];
    x->older[b] = x->newest;
    x->newer[b] = NIL;
    x->newer[x->newest] = b;
    x->newest = b;
}

static void naive_evict(struct naive_engine *x)
{
    uint32_t b = x->oldest;

    naive_unlink(x, b);
    x->held[b] = false;
    x->held_count--;
    naive_gen_check(x, b);
}

static void step_leave(struct world *w, uint32_t e, uint32_t c, uint32_t n)
{
    struct naive_engine *x = &w->engines[e];
    uint32_t from = draw(w, n);

    prefix_leave(w->p, e, w->digests[c], from, n);
    for (uint32_t i = from; i < n; i++) {
        uint32_t b = w->ids[c][i];

        if (!x->held[b])
            continue;
        naive_unlink(x, b);
        x->held[b] = false;
        x->held_count--;
        naive_gen_check(x, b);
    }
}

static bool naive_known(const struct world *w, uint32_t b)
{
    for (uint32_t e = 0; e < ENGINES; e++) {
        if (naive_covers(&w->engines[e], b))
            return true;
        for (uint32_t f = 0; f < FOOTS; f++)
            if (w->foot_has[f][e][b])
                return true;
    }
    return false;
}

static void naive_told(struct naive_engine *x, uint32_t b, bool told)
{
    if (x->told[b] != told)
        x->told_count += told ? 1 : UINT32_MAX;
    x->told[b] = told;
    naive_gen_check(x, b);
}

static void step_told(struct world *w, uint32_t e, uint32_t c, uint32_t n)
{
    struct naive_engine *x = &w->engines[e];
    uint32_t from = draw(w, n), i, k = 0;
    uint64_t ids[CHAT_MAX], parent = from > 0 ? w->digests[c][from - 1] : 0;

    if (draw(w, 3) != 0) {
        if (draw(w, 2) == 0)
            from = 0, parent = 0;
        prefix_stored(w->p, e, parent, w->digests[c] + from, n - from);
        if (from > 0 && !naive_known(w, w->ids[c][from - 1]))
            w->unknown_parents++;
        else
            for (i = from; i < n; i++)
                naive_told(x, w->ids[c][i], true);
        return;
    }
    switch (draw(w, 3)) {
    case 0: /* tail first */
        for (i = w->lens[c]; i-- > from;)
            ids[k++] = w->digests[c][i];
        break;
    case 1: /* head first */
        for (i = from; i < n; i++)
            ids[k++] = w->digests[c][i];
        break;
    default:
        for (i = 0; i < 5; i++)
            ids[k++] = w->digests[c][draw(w, w->lens[c])];
        break;
    }
    prefix_removed(w->p, e, ids, k);
    for (i = 0; i < w->lens[c]; i++)
        for (uint32_t j = 0; j < k; j++)
            if (ids[j] == w->digests[c][i])
                naive_told(x, w->ids[c][i], false);
}

static void naive_unpin(struct world *w, struct naive_pin *pin)
{
    for (uint32_t i = 0; i < pin->len; i++) {
        w->engines[pin->engine].pins[w->ids[pin->chat][i]]--;
        naive_gen_check(&w->engines[pin->engine], w->ids[pin->chat][i]);
    }
    pin->handle = 0;
}

static void step_pin(struct world *w, uint32_t e, uint32_t c, uint32_t n)
{
    struct naive_pin *pin = &w->pins[draw(w, PINS)];

    if (pin->handle != 0) {
        prefix_unpin(w->p, pin->handle);
        if (draw(w, 8) == 0)
            prefix_unpin(w->p, pin->handle); /* nobody there */
        naive_unpin(w, pin);
        return;
    }
    *pin = (struct naive_pin){.engine = e, .chat = c, .len = n};
    pin->handle = prefix_pin(w->p, e, w->digests[c], n);
    assert_true(pin->handle != 0);
    for (uint32_t i = 0; i < n; i++)
        w->engines[e].pins[w->ids[c][i]]++;
}

static void step_foot(struct world *w, uint32_t e, uint32_t c, uint32_t n)
{
    uint32_t f = draw(w, FOOTS), added = 0, i;
    struct foot *foot = &w->foots[f];

    switch (draw(w, 40)) {
    case 0:
        foot_clear(w->p, foot);
        memset(w->foot_has[f], 0, sizeof(w->foot_has[f]));
        memset(w->foot_count[f], 0, sizeof(w->foot_count[f]));
        return;
    case 1:
        foot_drop(w->p, foot, e);
        memset(w->foot_has[f][e], 0, sizeof(w->foot_has[f][e]));
        w->foot_count[f][e] = 0;
        return;
    default:
        break;
    }
    for (i = 0; i < n; i++) {
        added += !w->foot_has[f][e][w->ids[c][i]];
        w->foot_has[f][e][w->ids[c][i]] = true;
    }
    w->foot_count[f][e] += added;
    assert_int_equal(foot_add(w->p, foot, e, w->digests[c], n), added);
}

/* What is pinned goes to the end of the row once. */
static void naive_bound(struct naive_engine *x, uint32_t bound)
{
    uint32_t unseen = x->held_count;

    while (x->held_count > bound) {
        uint32_t b = x->oldest;

        if (unseen > 0 && x->pins[b] > 0) {
            naive_spare(x, b);
            unseen--;
            continue;
        }
        naive_evict(x);
        unseen -= unseen > 0;
    }
}

static void step_drop(struct world *w, uint32_t e)
{
    struct naive_engine *x = &w->engines[e];
    uint64_t stamp;
    uint32_t bound, b;

    switch (draw(w, 12)) {
    case 0:
        prefix_clear(w->p, e);
        while (x->oldest != NIL)
            naive_evict(x);
        for (b = 0; b < w->blocks; b++)
            naive_told(x, b, false);
        break;
    case 1:
    case 2:
        stamp = w->now - draw(w, 3000);
        prefix_drop_older(w->p, e, stamp);
        while (x->oldest != NIL && x->stamp[x->oldest] < stamp)
            naive_evict(x);
        break;
    default:
        bound = draw(w, 3) == 0 ? draw(w, 3000) : x->held_count - draw(w, x->held_count / 8 + 1);
        assert_int_equal(prefix_bound(w->p, e, bound), x->held_count > bound);
        naive_bound(x, bound);
        break;
    }
}

static void look(struct world *w)
{
    uint32_t c = draw(w, CHATS), n = draw(w, w->lens[c] + 1), e, f, i, most = 0;
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {0};

    for (e = 0; e < ENGINES; e++)
        if (draw(w, 8) != 0)
            set_add(&who, e);
    hits[ENGINES_MAX - 1].blocks = 99;
    i = prefix_match(w->p, w->digests[c], n, &who, hits);
    for (e = 0; e < ENGINES; e++) {
        const struct naive_engine *x = &w->engines[e];
        uint32_t hit = 0;

        while (set_has(&who, e) && hit < n && naive_covers(x, w->ids[c][hit]))
            hit++;
        assert_int_equal(hits[e].blocks, hit);
        most = hit > most ? hit : most;
        if (hits[e].gen_tokens != 0)
            assert_int_equal(hits[e].gen_tokens, hit > 0 ? x->gen[w->ids[c][hit - 1]] : 0);
        for (hit = 0; hit < n; hit++)
            if (!x->held[w->ids[c][hit]] && x->pins[w->ids[c][hit]] == 0)
                break;
        assert_int_equal(prefix_listed(w->p, e, w->digests[c], n).blocks, hit);
        assert_int_equal(prefix_blocks(w->p, e), x->held_count);
        assert_int_equal(prefix_told(w->p, e), x->told_count);
        hit = n > 0 ? w->ids[c][n - 1] : 0;
        assert_int_equal(prefix_stamp(w->p, e, w->digests[c], n),
                         n > 0 && x->held[hit] ? x->stamp[hit] : 0);
    }
    assert_int_equal(i, most);
    assert_int_equal(hits[ENGINES_MAX - 1].blocks, 0);
    f = draw(w, FOOTS);
    for (e = 0, most = 0; e < ENGINES; e++) {
        uint32_t known = 0;

        while (known < n && w->foot_has[f][e][w->ids[c][known]])
            known++;
        most = known > most ? known : most;
        assert_int_equal(foot_blocks(w->p, &w->foots[f], e), w->foot_count[f][e]);
    }
    assert_int_equal(foot_known(w->p, &w->foots[f], w->digests[c], n), most);
}

static void look_at_all(struct world *w)
{
    struct prefix_stats stats;
    uint32_t known = 0, b, next = 0;

    prefix_check(w->p);
    for (b = 0; b < w->blocks; b++)
        known += naive_known(w, b);
    for (uint32_t c = 0; c < CHATS; c++)
        for (uint32_t k = 0; k < w->lens[c]; k++) {
            b = w->ids[c][k];
            if (b != next) /* an earlier chat's */
                continue;
            next++;
            for (uint32_t e = 0; e < ENGINES; e++) {
                assert_int_equal(prefix_stamp(w->p, e, w->digests[c], k + 1),
                                 w->engines[e].held[b] ? w->engines[e].stamp[b] : 0);
                assert_int_equal(prefix_is_told(w->p, e, w->digests[c][k]), w->engines[e].told[b]);
            }
        }
    assert_int_equal(next, w->blocks);
    prefix_stats_get(w->p, &stats);
    assert_int_equal(stats.blocks, known);
    assert_int_equal(stats.unknown_parents, w->unknown_parents);
    assert_true(stats.runs <= known);
}

static void step(struct world *w)
{
    uint32_t c = draw(w, CHATS), e = draw(w, ENGINES), n, gen;
    uint32_t *grown = &w->grown[c];

    if (draw(w, 3) == 0 && *grown < w->lens[c])
        *grown += 1 + draw(w, w->lens[c] - *grown < 8 ? w->lens[c] - *grown : 8);
    n = draw(w, 4) == 0 ? 1 + draw(w, *grown) : *grown;
    w->now += draw(w, 3);
    switch (draw(w, 17)) {
    case 0:
    case 1:
    case 2:
        prefix_enter(w->p, e, w->digests[c], n, w->now);
        naive_use(w, e, c, n, true);
        break;
    case 3:
    case 4:
    case 5:
        prefix_refresh(w->p, e, w->digests[c], n, w->now);
        naive_use(w, e, c, n, false);
        break;
    case 6:
    case 7:
        if (!w->silent)
            step_told(w, e, c, n);
        break;
    case 8:
    case 9:
    case 10:
        step_pin(w, e, c, n);
        break;
    case 11:
    case 12:
        step_foot(w, e, c, n);
        break;
    case 13:
        gen = 1 + draw(w, 500);
        prefix_output(w->p, e, w->digests[c], n, gen);
        if (naive_covers(&w->engines[e], w->ids[c][n - 1]))
            w->engines[e].gen[w->ids[c][n - 1]] = gen;
        break;
    case 14:
        step_leave(w, e, c, n);
        break;
    default:
        step_drop(w, e);
        break;
    }
}

static void world_end(struct world *w)
{
    struct prefix_stats stats;
    uint32_t i;

    for (i = 0; i < PINS; i++)
        prefix_unpin(w->p, w->pins[i].handle);
    for (i = 0; i < FOOTS; i++)
        foot_clear(w->p, &w->foots[i]);
    for (i = 0; i < ENGINES; i++)
        prefix_clear(w->p, i);
    prefix_check(w->p);
    prefix_stats_get(w->p, &stats);
    assert_int_equal(stats.blocks, 0);
    assert_int_equal(stats.runs, 0);
    assert_int_equal(stats.pins, 0);
    prefix_free(w->p);
}

static void hits_counts_and_stamps_are_those_of_sets_of_blocks(void **state)
{
    struct world *w;

    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        w = calloc(1, sizeof(*w));
        assert_non_null(w);
        w->seed = seed;
        w->silent = seed == 3;
        w->now = 5000;
        w->p = prefix_new(seed);
        world_build(w);
        for (uint32_t i = 0; i < STEPS; i++) {
            step(w);
            look(w);
            if (i % CHECK_EVERY == 0)
                look_at_all(w);
        }
        look_at_all(w);
        world_end(w);
        free(w);
    }
}

static void hostile_step(struct world *w, const uint64_t *d, uint32_t n)
{
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {{7}};
    uint32_t e = draw(w, 3), i;

    w->now++;
    switch (draw(w, 10)) {
    case 0:
        prefix_enter(w->p, e, d, n, w->now);
        break;
    case 1:
        prefix_refresh(w->p, e, d, n, w->now);
        break;
    case 2:
        if (!w->silent)
            prefix_stored(w->p, e, n > 0 ? d[n - 1] : 0, d, n);
        break;
    case 3:
        if (!w->silent)
            prefix_removed(w->p, e, d, n);
        break;
    case 4:
        i = draw(w, PINS);
        prefix_unpin(w->p, w->pins[i].handle);
        w->pins[i].handle = prefix_pin(w->p, e, d, n);
        break;
    case 5:
        assert_true(foot_add(w->p, &w->foots[e], e, d, n) <= n);
        break;
    case 6:
        foot_drop(w->p, &w->foots[e], e);
        break;
    case 7:
        prefix_output(w->p, e, d, n, 5);
        break;
    case 8:
        prefix_bound(w->p, e, draw(w, 30));
        break;
    default:
        if (draw(w, 20) == 0)
            prefix_clear(w->p, e);
        break;
    }
    assert_true(prefix_match(w->p, d, n, &who, hits) <= n);
    assert_true(foot_known(w->p, &w->foots[e], d, n) <= n);
}

static void digests_that_are_no_chain_do_no_harm(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    uint64_t d[48];

    (void)state;
    assert_non_null(w);
    w->p = prefix_new(0);
    for (uint32_t i = 0; i < 100000; i++) {
        uint32_t n = draw(w, 49), alphabet = 1 + draw(w, 60), k;

        w->silent = i < 50000;
        for (k = 0; k < n; k++)
            d[k] = draw(w, alphabet) * (draw(w, 2) != 0 ? UINT64_C(1) << 32 : 1);
        hostile_step(w, d, n);
        if (i % 37 == 0)
            prefix_check(w->p);
    }
    world_end(w);
    free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hits_counts_and_stamps_are_those_of_sets_of_blocks),
        cmocka_unit_test(digests_that_are_no_chain_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
