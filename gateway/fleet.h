/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_FLEET_H
#define GW_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/shm_layout.h"

/*
 * The worker's copy of the fleet, taken from the scheduler's segment, and what it decides from it
 * when the scheduler is gone.
 */
struct fleet {
    struct shm shm; /* closed while there is no segment */
    char path[200];
    const struct fleet_segment *seg;
    uint64_t conf_epoch;
    uint64_t looked_ns;
    uint32_t count;
    struct fleet_engine engines[FLEET_ENGINES];
};

void fleet_init(struct fleet *f, const char *run_dir);
void fleet_fini(struct fleet *f);
/* Attaches, or follows a successor's segment, and copies changed engine rows. Cheap; call it as
 * often as you like. */
void fleet_refresh(struct fleet *f, uint64_t now_ns);
/* Copies everything anew, load included: for those who look, and when a decision names what the
 * copy does not have. */
void fleet_reread(struct fleet *f, uint64_t now_ns);
bool fleet_is_fresh(const struct fleet *f); /* the scheduler's heart beats: younger than 300 ms */
const struct fleet_engine *fleet_engine_get(const struct fleet *f, uint32_t index,
                                            uint32_t generation); /* NULL: gone or changed */
bool fleet_serves(const struct fleet_engine *e, const char *model, size_t model_len);

/*
 * A worker's own decision: the workflow's home if it lives, else rendezvous hashing of the
 * workflow, else (no workflow) rotation. Returns the index or -1. avoid: indices not to take again,
 * unless there is no other. *known is false when no engine serves the model.
 */
struct fleet_wish {
    const char *tenant, *workflow_id, *model; /* workflow_id "" = none */
    size_t tenant_len, workflow_len, model_len;
    const uint32_t *avoid;
    unsigned avoid_count;
    uint64_t turn; /* for rotation */
};
int fleet_choose(const struct fleet *f, const struct fleet_wish *wish, const char **reason,
                 bool *known);

#endif
