/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decisions of the scheduler's core, one thread, policy workflow. A decision is QUERY and DONE of
 * one request, what the index and the footprints learn from it included.
 *
 *   8k:   prompts of 8K tokens that grow and start anew, 10 000 live workflows, 16 engines
 *   100k: prompts of 100K tokens, 64 engines, a million indexed blocks
 *
 * Every engine says what was cached, none sends KV events. The caches are full and the tables warm
 * before anything is measured. Rates are by processor time, as is the slowest batch of 16, the
 * others by the clock. Prints one JSON object.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/state.h"

#define BATCH 16u
#define WORD_TOKENS (TEXT_BLOCK / 4)

struct setup {
    const char *name;
    uint32_t engines, workflows;
    uint32_t first, longest; /* blocks of a prompt */
    uint64_t kv_tokens;      /* of an engine */
    uint32_t warm, measured; /* decisions */
};

struct talk {
    char id[16];
    uint32_t len, batch;
    uint64_t *digests;
};

struct bench {
    const struct setup *setup;
    struct core *core;
    struct actions actions;
    struct talk *talks;
    uint64_t *wire; /* prompts of a batch, as they have just come in */
    uint64_t now, handle, seed, waits;
    double *us, stall;
};

static double clock_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Of this thread, whatever else the machine does meanwhile. Asking takes a while. */
static double spent_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static uint64_t draw(struct bench *b)
{
    b->seed += UINT64_C(0x9e3779b97f4a7c15);
    return table_mix(b->seed);
}

static void step(struct bench *b, const struct event *ev)
{
    must(core_step(b->core, b->now, ev, &b->actions) == ERR_OK);
}

static void open_core(struct bench *b)
{
    const struct setup *s = b->setup;
    struct core_conf conf = {.max_workflows = s->workflows + 1,
                             .max_agents = 16,
                             .max_leases = 1024,
                             .max_workers = 1,
                             .workflow_ttl_ns = 100000 * NS_PER_S,
                             .agent_active_ns = 60 * NS_PER_S,
                             .probe_failures = 3,
                             .hash_seed = 1,
                             .policy = "workflow",
                             .default_policy = "least"};

    must(core_new(&conf, &b->core) == ERR_OK);
    step(b, &(struct event){.type = EV_WORKER_HELLO});
    step(b, &(struct event){.type = EV_RESUME_LAST});
    for (uint32_t i = 0; i < s->engines; i++) {
        char id[16];
        int n = snprintf(id, sizeof(id), "e%u", i);
        struct event set = {
            .type = EV_ENGINE_SET,
            .engine = {
                .index = i, .generation = 1, .id = {id, (uint32_t)n}, .kv_tokens = s->kv_tokens}};
        struct event health = {.type = EV_ENGINE_HEALTH,
                               .health = {.index = i, .generation = 1, .ok = true}};

        step(b, &set);
        step(b, &health);
    }
}

/* The next prompt: a few blocks more, or from the beginning. */
static void talk_turn(struct bench *b, struct talk *t)
{
    uint32_t more = 2 + (uint32_t)(draw(b) % 5);

    if (t->len + more > b->setup->longest)
        t->len = 0;
    if (t->len == 0)
        more = b->setup->first;
    while (more-- > 0)
        t->digests[t->len++] = draw(b);
}

/* Microseconds of QUERY and DONE together. */
static double decide(struct bench *b, const struct talk *t, const uint64_t *digests)
{
    struct event query = {.type = EV_QUERY,
                          .query = {.handle = ++b->handle,
                                    .workflow = {t->id, (uint32_t)strlen(t->id)},
                                    .agent = {"a", 1},
                                    .prompt_bytes = t->len * TEXT_BLOCK,
                                    .digests = digests,
                                    .digest_count = t->len}};
    struct event done = {.type = EV_DONE,
                         .report = {.handle = b->handle,
                                    .has_usage = true,
                                    .has_cached = true,
                                    .prompt_tokens = t->len * WORD_TOKENS,
                                    .completion_tokens = 50,
                                    .latency_ns = NS_PER_S}};
    double start = clock_us(), middle;
    bool placed = false;

    step(b, &query);
    middle = clock_us();
    for (size_t i = 0; i < b->actions.count; i++) {
        const struct action *a = &b->actions.items[i];

        placed |= a->type == ACT_GO;
        if (a->type == ACT_GO)
            done.report.cached_tokens =
                (uint32_t)((double)a->hit * (double)done.report.prompt_tokens);
    }
    b->waits += !placed;
    if (!placed)
        done.type = EV_CANCEL;
    b->now += NS_PER_MS;
    middle = clock_us() - middle; /* what this program did itself */
    (void)core_step(b->core, b->now, &done, &b->actions);
    return clock_us() - start - middle;
}

/* Processor time of some decisions together, of each by the clock. */
static double batch(struct bench *b, uint32_t number, double *us)
{
    struct talk *talks[BATCH];
    double start, spent;

    for (uint32_t i = 0; i < BATCH; i++) {
        do
            talks[i] = &b->talks[draw(b) % b->setup->workflows];
        while (talks[i]->batch == number);
        talks[i]->batch = number;
        talk_turn(b, talks[i]);
        memcpy(b->wire + i * b->setup->longest, talks[i]->digests,
               talks[i]->len * sizeof(uint64_t));
    }
    start = spent_us();
    for (uint32_t i = 0; i < BATCH; i++) {
        double one = decide(b, talks[i], b->wire + i * b->setup->longest);

        if (us != NULL)
            us[i] = one;
    }
    spent = spent_us() - start;
    if (us != NULL && spent > b->stall)
        b->stall = spent;
    return spent;
}

static int compare(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

static void run(const struct setup *setup, bool last)
{
    struct bench b = {.setup = setup, .seed = 1, .now = NS_PER_S};
    struct prefix_stats stats;
    double sum = 0;

    open_core(&b);
    b.talks = calloc(setup->workflows, sizeof(*b.talks));
    b.us = calloc(setup->measured, sizeof(*b.us));
    b.wire = calloc((size_t)BATCH * setup->longest, sizeof(uint64_t));
    must(b.talks != NULL && b.us != NULL && b.wire != NULL);
    for (uint32_t i = 0; i < setup->workflows; i++) {
        snprintf(b.talks[i].id, sizeof(b.talks[i].id), "w%u", i);
        b.talks[i].digests = calloc(setup->longest, sizeof(uint64_t));
        must(b.talks[i].digests != NULL);
        talk_turn(&b, &b.talks[i]);
        (void)decide(&b, &b.talks[i], b.talks[i].digests);
    }
    for (uint32_t i = 0; i < setup->warm; i += BATCH)
        (void)batch(&b, i / BATCH + 1, NULL);
    for (uint32_t i = 0; i < setup->measured; i += BATCH)
        sum += batch(&b, (setup->warm + i) / BATCH + 1, b.us + i);
    qsort(b.us, setup->measured, sizeof(*b.us), compare);
    prefix_stats_get(b.core->view.prefix, &stats);
    printf("\"decisions_per_s_%s\":%.0f,\"decision_%s_us_p50\":%.2f,\"decision_%s_us_p99\":%.2f,"
           "\"decision_%s_us_max\":%.0f,\"decisions_16_%s_us_max\":%.0f,\"blocks_%s\":%llu,\"bytes_"
           "per_block_%s\":%.1f,"
           "\"waits_%s\":%llu,\"live_%s\":%u%s",
           setup->name, setup->measured / sum * 1e6, setup->name, b.us[setup->measured / 2],
           setup->name, b.us[setup->measured / 100 * 99], setup->name, b.us[setup->measured - 1],
           setup->name, b.stall, setup->name, (unsigned long long)stats.blocks, setup->name,
           (double)stats.bytes / (double)stats.blocks, setup->name, (unsigned long long)b.waits,
           setup->name, core_stats_get(b.core)->workflows, last ? "" : ",");
    for (uint32_t i = 0; i < setup->workflows; i++)
        free(b.talks[i].digests);
    free(b.talks);
    free(b.us);
    free(b.wire);
    actions_fini(&b.actions);
    core_free(b.core);
}

int main(void)
{
    static const struct setup setups[] = {
        {"8k", 16, 10000, 50, 70, 8000000, 100000, 300000},
        {"100k", 64, 700, 1500, 1620, 2600000, 10000, 20000},
    };

    printf("{");
    run(&setups[0], false);
    run(&setups[1], true);
    printf("}\n");
    return 0;
}
