/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_FLEET_H
#define GW_FLEET_H

#include <stdbool.h>
#include <stdint.h>

#include "common/shm_layout.h"

/*
 * The worker's copy of the fleet, and what it decides from it when the scheduler is gone. It comes
 * from one of two sources: the scheduler's segment on its host, or, for a worker on another host,
 * the scheduler's messages (fleet_told.h). There are no homes then, and the link's state stands for
 * the heartbeat.
 */
struct fleet {
    struct shm shm; /* closed while there is no segment */
    char path[200];
    const struct fleet_segment *seg;
    uint64_t conf_epoch;
    uint64_t looked_ns;
    uint32_t count;
    struct fleet_engine engines[FLEET_ENGINES];
    bool is_told, is_linked;
    uint64_t told_seed;
    double told_scale; /* 0: unknown */
    int64_t told_now;  /* the priority of what came at told_ns */
    uint64_t told_ns;
};

/* NULL: there is no segment, rows are told. */
void fleet_init(struct fleet *f, const char *run_dir);
void fleet_fini(struct fleet *f);
/* Attaches, or follows a successor's segment, and copies changed engine rows. Cheap; call it as
 * often as you like. */
void fleet_refresh(struct fleet *f, uint64_t now_ns);
/* Copies everything anew, load included: for those who look, and when a decision names what the
 * copy does not have. */
void fleet_reread(struct fleet *f, uint64_t now_ns);
/* The scheduler's heart beats: younger than 300 ms. Where rows are told: the link is up. */
bool fleet_is_fresh(const struct fleet *f);
uint64_t fleet_digest_seed(const struct fleet *f); /* 0: not known yet */
/* Rows replace all that were there; those that cannot be are left out. Only where rows are told. */
void fleet_tell(struct fleet *f, const struct fleet_engine *rows, uint32_t count,
                uint64_t conf_epoch);
void fleet_set_linked(struct fleet *f, bool is_linked);
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
