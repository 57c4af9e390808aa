/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PUBLISH_H
#define SCHED_PUBLISH_H

#include "common/shm.h"
#include "common/shm_layout.h"
#include "scheduler/core.h"
#include "scheduler/fleet.h"
#include "scheduler/workflow.h"

/*
 * The fleet segment: what gateways read without asking. This scheduler writes a segment of its own;
 * its predecessor's is read once and retired when the new one takes the name.
 */
struct publisher {
    struct shm shm;
    struct fleet_segment *segment; /* in shm */
    double scale;
    uint64_t wall_base_ms; /* wall clock at monotonic time 0; the shell keeps it */
};

struct predecessor {
    uint64_t digest_seed;         /* 0: there was none */
    struct fleet_engine *engines; /* ENGINES_MAX rows */
    struct fleet_home *homes;     /* live ones, the latest used first */
    size_t home_count;
};

/* Nothing readable there: empty. */
void predecessor_read(const char *path, struct predecessor *out);
void predecessor_fini(struct predecessor *p);

/* Not visible before publish_show(). */
enum err publish_open(struct publisher *p, const char *path, uint64_t epoch, uint64_t digest_seed,
                      double time_scale);
enum err publish_show(struct publisher *p);
void publish_close(struct publisher *p); /* the file stays, for the successor */

void publish_engine(struct publisher *p, const struct core *c, const struct seat *seat,
                    uint32_t index);
void publish_engine_count(struct publisher *p, uint32_t count);
void publish_conf_epoch(struct publisher *p, uint64_t conf_epoch);
void publish_policy(struct publisher *p, const char *policy); /* before publish_show(), and later */
/* Remembers the row in w->row. */
void publish_home(struct publisher *p, const struct core *c, struct workflow *w);
void publish_home_ended(struct publisher *p, uint32_t row);

#endif
