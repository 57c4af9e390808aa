/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The prefix index under agents: conversations that share a system prompt and grow by a few blocks
 * a turn, most turns on the engine of the turn before, a million blocks in all. Once every engine
 * is full, what a turn costs at each of its points. Microseconds, one JSON object.
 *
 * bench_prefix [blocks in thousands]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "scheduler/engine.h"
#include "scheduler/prefix.h"
#include "scheduler/table.h"

#define ENGINES 64u
#define SHARED 40u /* blocks of the system prompt */
#define FIRST 400u /* blocks of a first prompt */
#define FULL 1563u /* 100 000 tokens */
#define LONGEST (FULL + 10)
#define MEASURED 40000u

enum point { MATCH, DISPATCH, FIRST_BYTE, DONE, COLD_MATCH, POINTS };
static const char *const point_names[] = {"match", "enter_pin_foot", "refresh_unpin",
                                          "refresh_output_bound", "match_unknown"};

struct chat {
    struct foot foot;
    uint32_t len, engine;
    uint64_t digests[LONGEST];
};

struct bench {
    struct prefix *p;
    struct chat *chats;
    uint32_t chat_count;
    uint64_t seed, now, bound, touched;
    double *us[POINTS];
    uint32_t count;
};

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

static uint64_t draw(struct bench *b)
{
    b->seed += UINT64_C(0x9e3779b97f4a7c15);
    return table_mix(b->seed);
}

static void chat_start(struct bench *b, struct chat *c)
{
    foot_clear(b->p, &c->foot);
    c->len = FIRST;
    c->engine = (uint32_t)(draw(b) % ENGINES);
    for (uint32_t i = 0; i < FIRST; i++)
        c->digests[i] = i < SHARED ? table_mix(i + 1) : draw(b);
}

static void chat_grow(struct bench *b, struct chat *c)
{
    uint32_t more = 5 + (uint32_t)(draw(b) % 6);

    if (c->len + more > LONGEST) {
        chat_start(b, c);
        return;
    }
    while (more-- > 0)
        c->digests[c->len++] = draw(b);
    if (draw(b) % 32 == 0)
        c->engine = (uint32_t)(draw(b) % ENGINES);
}

static void turn(struct bench *b, struct chat *c, bool measure)
{
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {{UINT64_MAX}};
    double t[POINTS + 1];
    uint64_t pin;

    b->now++;
    /* A prompt comes fresh from the wire: it is in the processor's cache, the index is not. */
    for (uint32_t i = 0; i < c->len; i++)
        b->touched += c->digests[i];
    t[0] = now_us();
    (void)prefix_match(b->p, c->digests, c->len, &who, hits);
    t[1] = now_us();
    (void)foot_add(b->p, &c->foot, c->engine, c->digests, c->len);
    pin = prefix_pin(b->p, c->engine, c->digests, c->len);
    prefix_enter(b->p, c->engine, c->digests, c->len, b->now);
    t[2] = now_us();
    prefix_refresh(b->p, c->engine, c->digests, c->len, b->now);
    prefix_unpin(b->p, pin);
    t[3] = now_us();
    prefix_refresh(b->p, c->engine, c->digests, c->len, b->now);
    prefix_output(b->p, c->engine, c->digests, c->len, 100);
    prefix_bound(b->p, c->engine, b->bound);
    t[4] = now_us();
    for (unsigned i = 0; measure && i < COLD_MATCH; i++)
        b->us[i][b->count] = t[i + 1] - t[i];
    b->count += measure;
}

static void report(struct bench *b, double fill_s)
{
    struct prefix_stats s;

    prefix_stats_get(b->p, &s);
    printf("{\"name\":\"bench_prefix\",\"engines\":%u,\"blocks\":%llu,\"runs\":%llu,"
           "\"bytes_per_block\":%.1f,\"fill_s\":%.2f",
           ENGINES, (unsigned long long)s.blocks, (unsigned long long)s.runs,
           (double)s.bytes / (double)s.blocks, fill_s);
    for (unsigned i = 0; i < POINTS; i++) {
        qsort(b->us[i], b->count, sizeof(double), compare);
        printf(",\"%s_us\":{\"p50\":%.2f,\"p99\":%.2f,\"max\":%.1f}", point_names[i],
               b->us[i][b->count / 2], b->us[i][b->count / 100 * 99], b->us[i][b->count - 1]);
    }
    printf(",\"sum\":%llu}\n", (unsigned long long)(b->touched & 1));
}

static void unknown_match(struct bench *b, uint32_t n)
{
    struct prefix_hit hits[ENGINES_MAX];
    struct engine_set who = {{UINT64_MAX}};
    uint64_t d[64];
    double t;

    for (uint32_t i = 0; i < 64; i++)
        d[i] = draw(b);
    t = now_us();
    (void)prefix_match(b->p, d, 64, &who, hits);
    b->us[COLD_MATCH][n] = now_us() - t;
}

int main(int argc, char **argv)
{
    uint64_t blocks = (argc > 1 ? strtoull(argv[1], NULL, 10) : 1000) * 1000;
    struct bench b = {.p = prefix_new(1)};
    double t0;
    uint32_t i;

    b.chat_count = (uint32_t)(blocks / (FIRST + (FULL - FIRST) / 2) + 1);
    b.chats = calloc(b.chat_count, sizeof(*b.chats));
    b.bound = blocks * 5 / 4 / ENGINES;
    for (i = 0; i < POINTS; i++)
        b.us[i] = calloc(MEASURED, sizeof(double));
    for (i = 0; i < b.chat_count; i++) {
        chat_start(&b, &b.chats[i]);
        b.chats[i].len = SHARED + 1 + (uint32_t)(draw(&b) % (FIRST - SHARED));
    }
    t0 = now_us();
    for (i = 0; i < b.chat_count * 200; i++) {
        struct chat *c = &b.chats[draw(&b) % b.chat_count];

        chat_grow(&b, c);
        turn(&b, c, false);
    }
    t0 = (now_us() - t0) / 1e6;
    while (b.count < MEASURED) {
        struct chat *c = &b.chats[draw(&b) % b.chat_count];
        uint32_t before = c->len;

        chat_grow(&b, c);
        turn(&b, c, c->len > before && c->len > FULL * 3 / 4);
        if (b.count > 0)
            unknown_match(&b, b.count - 1);
    }
    report(&b, t0);
    prefix_free(b.p);
    for (i = 0; i < POINTS; i++)
        free(b.us[i]);
    free(b.chats);
    return 0;
}
