/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_FLEET_H
#define SCHED_FLEET_H

#include "common/conf.h"
#include "common/secret.h"
#include "common/shm_layout.h"
#include "scheduler/core.h"

/*
 * Engines as the configuration names them, and the index that each has. An engine keeps index and
 * generation while its id and address stay, through reloads and through restarts (a predecessor's
 * rows say which); an index that gets another engine gets another generation.
 */
struct seat {
    bool used;
    uint32_t generation; /* kept when the seat is free */
    char id[64];
    char host[128];   /* host:port of the url */
    char address[64]; /* numeric; empty: not known yet, the first probe tells */
    uint32_t port;
    char url[208];                /* without a slash at the end */
    char key[SECRET_KEY_MAX + 1]; /* sent to it; empty: none */
    int usage;                    /* enum conf_usage */
    bool priority, drain, late_share;
    uint64_t kv_tokens; /* 0: not told */
    struct {            /* where its KV events come from; feeds.c */
        char events[208], replay[208], topic[128];
        bool bind, content; /* content: they tell prompt digests */
        uint32_t ranks;
    } kv;
    bool kv_exact; /* and do so now without a gap */
    char metrics_path[208];
    struct text models[ENGINE_MODELS_MAX]; /* of conf: they live as long as it */
    uint32_t model_count;                  /* 0: asked from the engine */
    char health_reason[96];
};

struct fleet_table {
    struct seat seats[ENGINES_MAX];
};

enum fleet_change { FLEET_KEPT, FLEET_CHANGED, FLEET_NEW, FLEET_GONE, FLEET_FREE };

/* Before the first plan: what the predecessor had where. */
void fleet_table_remember(struct fleet_table *t, uint32_t index, const struct fleet_engine *row);
/*
 * Seats the engines of conf and says for each index what has changed. ERR_BUSY: more engines than
 * seats; nothing has changed then. may_block: names may be looked up now (else the prober does it).
 */
enum err fleet_table_plan(struct fleet_table *t, const struct conf *conf, bool may_block,
                          enum fleet_change changes[ENGINES_MAX]);
/* The event that tells the core about a seat. */
void fleet_table_event(const struct fleet_table *t, uint32_t index, struct engine_event *out);

#endif
