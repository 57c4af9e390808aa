/* SPDX-License-Identifier: Apache-2.0 */
#include <malloc.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/scheduler/core_fixture.h"

#define AGENTS 4u

static size_t resident_bytes(void)
{
    unsigned long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu %lu", &size, &resident), 2);
    fclose(f);
    return resident * (size_t)sysconf(_SC_PAGESIZE);
}

static uint64_t real_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* One round: each workflow's next agent asks, and is answered. */
static void round_of(struct fixture *f, uint32_t workflows, uint32_t agent, const uint64_t *digests)
{
    char name[48], who[16];

    snprintf(who, sizeof(who), "agent-%u", agent);
    for (uint32_t i = 0; i < workflows; i++) {
        struct query q;

        snprintf(name, sizeof(name), "3f2504e0-4f89-11d3-9a0c-%012u", i);
        q = query_of(f, name, who);
        q.digests = digests;
        q.digest_count = 200;
        q.prompt_bytes = 200 * 512;
        assert_int_equal(ask(f, &q)->type, ACT_GO);
        finish(f, q.handle, 25600, 20000, 300);
    }
}

static void measure(uint32_t workflows, double *bytes, double *ns)
{
    struct core_conf conf = fixture_conf();
    uint64_t digests[200], start;
    struct fixture f;
    size_t before;
    uint32_t i;

    for (i = 0; i < 200; i++)
        digests[i] = table_mix(i);
    conf.max_workflows = 100000;
    conf.max_leases = 65536;
    fixture_open(&f, &conf, 4);
    before = resident_bytes();
    for (i = 0; i < AGENTS; i++)
        round_of(&f, workflows, i, digests);
    *bytes = (double)(resident_bytes() - before) / workflows;
    start = real_ns();
    for (i = 0; i < AGENTS; i++)
        round_of(&f, workflows, i, digests);
    *ns = (double)(real_ns() - start) / (AGENTS * workflows);
    assert_int_equal(core_stats_get(f.core)->workflows, workflows);
    fixture_close(&f);
}

static void workflow_with_four_agents_fits_in_two_kilobytes(void **state)
{
    static const uint32_t counts[] = {1000, 10000};
    double bytes, ns;

    (void)state;
    assert_true(core_workflow_bytes(AGENTS) <= 2048);
    print_message("tables: %zu bytes per workflow of %u agents, %zu of 2\n",
                  core_workflow_bytes(AGENTS), AGENTS, core_workflow_bytes(2));
    for (size_t i = 0; i < 2; i++) {
        measure(counts[i], &bytes, &ns);
        print_message("%u workflows: %.0f resident bytes each, %.0f ns per query and report\n",
                      counts[i], bytes, ns);
    }
#ifndef SLIP_SANITIZED
    assert_true(bytes <= 2048 * 1.1); /* whole pages, and the tables' last doubling */
#endif
}

static void warm_steps_allocate_nothing(void **state)
{
#ifndef SLIP_SANITIZED
    struct core_conf conf = fixture_conf();
    uint64_t digests[200] = {1};
    struct mallinfo2 before, after;
    struct fixture f;

    (void)state;
    fixture_open(&f, &conf, 4);
    round_of(&f, 50, 0, digests);
    before = mallinfo2();
    for (int i = 0; i < 20; i++)
        round_of(&f, 50, 0, digests);
    after = mallinfo2();
    assert_true(after.uordblks == before.uordblks && after.hblkhd == before.hblkhd);
    fixture_close(&f);
#else
    (void)state;
    skip(); /* pools allocate under sanitizers, so that use after give is seen */
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(workflow_with_four_agents_fits_in_two_kilobytes),
        cmocka_unit_test(warm_steps_allocate_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
