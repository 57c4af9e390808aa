/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_SHM_LAYOUT_H
#define SLIP_SHM_LAYOUT_H

#include "common/shm.h"

/*
 * The fleet segment, run_dir/fleet: written by the scheduler alone, read by every gateway worker
 * without a round trip. Each engine and each home row is a seqlock record of its own
 * (common/snapshot.h).
 */
#define FLEET_LAYOUT 1u
#define FLEET_ENGINES 256u
#define FLEET_HOMES \
    65536u /* a power of two; rows of 128 bytes: 8 MiB of a tmpfs, touched as used */
#define FLEET_ENGINE_MODELS 4u

enum fleet_engine_flag {
    FLEET_USED = 1u << 0,
    FLEET_HEALTHY = 1u << 1,
    FLEET_DRAINING = 1u << 2,
    FLEET_PRIORITY = 1u << 3,     /* runs with priority scheduling */
    FLEET_USAGE_NEVER = 1u << 4,  /* never add include_usage */
    FLEET_USAGE_ALWAYS = 1u << 5, /* add it for requests without a workflow, too */
    FLEET_PROBED = 1u << 6,       /* health is known */
    FLEET_FLAGS = (1u << 7) - 1   /* all of them */
};

struct fleet_engine {    /* the scheduler's word about one engine */
    uint32_t generation; /* changes when the index gets another engine */
    uint32_t flags;      /* enum fleet_engine_flag */
    char id[64];         /* NUL-terminated, as all strings here */
    char host[128];      /* Host header and SNI: name or address, with the port */
    char address[64];    /* numeric address, resolved by the scheduler */
    uint32_t port;
    uint32_t running;     /* leases held */
    uint64_t home_tokens; /* of homed live workflows */
    char models[FLEET_ENGINE_MODELS][96];
    uint64_t reserved[2];
};
_Static_assert(sizeof(struct fleet_engine) == 680 && sizeof(struct fleet_engine) % 8 == 0,
               "fleet_engine");

struct fleet_engine_row {
    _Atomic uint64_t seq;
    _Atomic uint64_t words[sizeof(struct fleet_engine) / 8];
};

/* Homes: open addressing, linear probing over at most 64 rows from key_lo & (FLEET_HOMES - 1); key
 * 0/0 = free row, never used before. */
struct fleet_home {
    uint64_t key_lo, key_hi; /* XXH3_128bits of tenant, NUL, workflow id */
    uint32_t engine, engine_generation;
    uint32_t live; /* 0: ended, the row may be used again */
    uint32_t reserved;
    uint64_t created_ms, last_ms; /* CLOCK_MONOTONIC of this boot */
    uint64_t created_wall_ms;
    uint64_t requests, prompt_tokens, cached_tokens, completion_tokens;
    uint64_t recomputed_tokens;
    uint64_t home_tokens;
    uint64_t reserved2;
};
_Static_assert(sizeof(struct fleet_home) == 112 && sizeof(struct fleet_home) % 8 == 0,
               "fleet_home");

struct fleet_home_row {
    _Atomic uint64_t seq;
    _Atomic uint64_t words[sizeof(struct fleet_home) / 8];
    uint64_t pad;
};
_Static_assert(sizeof(struct fleet_home_row) == 128, "fleet_home_row");

struct fleet_segment {
    struct shm_head head;          /* beat_ms: every 50 ms */
    uint64_t epoch;                /* of the scheduler that wrote it; constant in one segment */
    uint64_t digest_seed;          /* survives restarts */
    _Atomic uint64_t conf_epoch;   /* changes when an engine row changes */
    _Atomic uint32_t engine_count; /* rows in use, from 0; holes have no FLEET_USED */
    uint32_t home_count;           /* FLEET_HOMES */
    double time_scale;
    char policy[64];
    uint64_t reserved[4];
    struct fleet_engine_row engines[FLEET_ENGINES];
    struct fleet_home_row homes[FLEET_HOMES];
};

#endif
