/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/beside.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/must.h"
#include "mailbox/near.h"

struct beside {
    struct near near;
    cpu_set_t first; /* those that the process was started with */
    uint32_t at;     /* what the affinity says now */
    uint64_t beat_ns;
    int stat_fd;
    bool is_wanted, is_able;
};

/* Man page proc_pid_schedstat(5): time on the CPU, time waiting for it, turns on it. */
static bool use_read(const struct beside *b, struct near_use *use)
{
    char text[96];
    ssize_t n = pread(b->stat_fd, text, sizeof(text) - 1, 0);

    if (n <= 0)
        return false;
    text[n] = '\0';
    return sscanf(text, "%" SCNu64 " %" SCNu64 " %" SCNu64, &use->ran_ns, &use->waited_ns,
                  &use->turns) == 3;
}

static void keep_to(struct beside *b, uint32_t cpu)
{
    cpu_set_t one;

    if (cpu == b->at)
        return;
    CPU_ZERO(&one);
    if (cpu != NEAR_ANYWHERE)
        CPU_SET(cpu, &one);
    b->at = cpu;
    if (sched_setaffinity(0, sizeof(one), cpu != NEAR_ANYWHERE ? &one : &b->first) != 0 &&
        cpu != NEAR_ANYWHERE) {
        b->is_able = false;
        keep_to(b, NEAR_ANYWHERE);
    }
}

struct beside *beside_new(bool wanted)
{
    struct beside *b = calloc(1, sizeof(*b));
    struct near_use use;

    must(b != NULL);
    near_init(&b->near);
    b->at = NEAR_ANYWHERE;
    b->is_wanted = wanted;
    b->stat_fd = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
    b->is_able = b->stat_fd >= 0 && use_read(b, &use) &&
                 sched_getaffinity(0, sizeof(b->first), &b->first) == 0 && CPU_COUNT(&b->first) > 1;
    return b;
}

void beside_free(struct beside *b)
{
    if (b == NULL)
        return;
    if (b->stat_fd >= 0)
        close(b->stat_fd);
    free(b);
}

void beside_want(struct beside *b, bool wanted)
{
    b->is_wanted = wanted;
    near_init(&b->near);
    keep_to(b, NEAR_ANYWHERE);
}

void beside_answered(struct beside *b, uint32_t cpu)
{
    /* The number comes from the reader: it may be any. */
    if (b->is_wanted && b->is_able && cpu < CPU_SETSIZE && CPU_ISSET(cpu, &b->first))
        keep_to(b, near_answered(&b->near, cpu));
}

void beside_beat(struct beside *b, uint64_t now_ns)
{
    struct near_use use;

    if (b->is_wanted && b->is_able && use_read(b, &use))
        keep_to(b, near_beat(&b->near, &use, now_ns - b->beat_ns));
    b->beat_ns = now_ns;
}
