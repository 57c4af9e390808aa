/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_PREFIX_STORE_H
#define SCHED_PREFIX_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "scheduler/engine.h"
#include "scheduler/prefix.h"
#include "scheduler/table.h"

/*
 * Runs instead of blocks.
 *
 * A run is an array of digests, consecutive in some prompt, that every holder holds from its start
 * up to some length of its own. What an operation changes is first cut out as a run of its own, and
 * neighbours that have become alike are joined again, so nearly all work is per run while the
 * result is that of sets of blocks. One map leads from the digest of a run's first block to its
 * slot and so to the run. There is no tree: digests are chained, so the next digest of a prompt
 * names its run without help, and a run whose head was evicted simply stands alone. Blocks go from
 * the end of a run only, so a prompt comes by the head of every run that it has blocks of.
 *
 * An engine that tells its content names blocks without what stands before them: from the first
 * such word on the map leads from every digest to its slot, and slots say whose they are.
 *
 * Digests rest in slots, a run in slots that follow each other with some to spare. Cutting a run
 * moves none of them.
 *
 * Inside the prefix_*.c files only. Indices are 32 bits, 0 is none; pointers into a pool are valid
 * until the next take from it.
 */
struct crate { /* of equal objects; item 0 is never given out */
    void *items;
    uint32_t item_bytes, fresh, capacity, free, used;
};

#define SLOT_BINS 128u

struct slots {
    uint64_t *digests;
    uint32_t *owners; /* run, or SLOT_FREE | length at both ends of a free range; of slots that the
                         map does not lead to, any run */
    uint32_t capacity;
    uint32_t bins[SLOT_BINS]; /* free ranges by length: first slot + 1 */
    uint64_t filled[SLOT_BINS / 64];
};
#define SLOT_FREE (UINT32_C(1) << 31)
#define SLOT_NONE UINT32_MAX

/* Digest -> slot: open addressing as in table.h, but where there is one entry per block it is three
 * quarters full, and an entry can follow its digest to another slot. */
struct id_entry {
    uint32_t tag;  /* lower half of the hash */
    uint32_t slot; /* plus 1; 0 = empty */
};

struct id_map {
    struct id_entry *entries;
    uint32_t mask, used;
};

struct run {
    uint32_t start, len, capacity; /* in slots */
    uint32_t holds, members;       /* lists */
    uint32_t member_count;
    uint32_t gens;          /* holds with gen_tokens */
    bool mated;             /* its members are in mates: they are many, or were */
    bool marked;            /* is in path as one that path_run() still has to take */
    struct engine_set full; /* that hold all of it */
};

struct hold { /* of a run by an engine */
    uint64_t stamp;
    uint32_t run, next;    /* in the run's list */
    uint32_t older, newer; /* in the engine's order, or its list of the others */
    uint32_t held, told;   /* blocks from the start: in the router's list, by the engine's word */
    uint32_t pins;         /* of the whole run */
    uint32_t gen_tokens, gen_at; /* an answer behind block gen_at - 1 */
    uint16_t engine;
    bool in_order; /* stands in the engine's order */
};

struct part { /* of a footprint, or a pin: a set of whole runs on an engine */
    uint32_t members;
    uint32_t next; /* in the footprint */
    uint32_t blocks, engine;
    uint32_t generation; /* of the pins that were here */
    bool pin;            /* a valid one */
};

struct member {
    uint32_t run, part;
    uint32_t run_prev, run_next, part_prev, part_next;
};

struct shelf {               /* an engine's holds */
    uint32_t oldest, newest; /* those with held > 0, in order of use */
    uint32_t others;
    uint64_t held, told; /* blocks */
};

struct prefix {
    uint64_t seed;
    struct slots slots;
    struct id_map ids;
    bool every; /* ids has every block, not only the heads of runs */
    uint64_t blocks;
    struct table mates; /* part and run -> member, of runs that have many */
    struct crate runs, holds, parts, members;
    struct shelf shelves[ENGINES_MAX];
    uint32_t *path; /* runs of the operation at hand */
    uint32_t path_count, path_capacity;
    uint64_t pins, unknown_parents;
};

/* prefix_slots.c */
void crate_init(struct crate *a, uint32_t item_bytes);
uint32_t crate_take(struct crate *a); /* zeroed the first time, as it was left later */
void crate_give(struct crate *a, uint32_t i);
void slots_init(struct slots *s);
void slots_fini(struct slots *s);
void slots_fit(struct slots *s, uint64_t capacity);
uint32_t slots_take(struct slots *s, uint32_t n, uint32_t owner); /* n > 0; grows as needed */
void slots_give(struct slots *s, uint32_t start, uint32_t n);

/* prefix_ids.c */
uint32_t id_find(const struct prefix *p, uint64_t d); /* slot or SLOT_NONE */
bool id_leads_to(const struct prefix *p, uint32_t slot);
/* Puts the digests of a new run into slots from slot on, up to the first that is known, which d[0]
 * is not; how many. */
uint32_t ids_add_new(struct prefix *p, const uint64_t *d, uint32_t n, uint32_t slot);
void ids_remove(struct prefix *p, uint32_t slot, uint32_t n); /* blocks of a run, not its head */
/* To other slots, which do not overlap. */
void ids_move(struct prefix *p, uint32_t from, uint32_t to, uint32_t n);
/* A run begins there, or no longer; where every block is known neither means anything. */
void head_add(struct prefix *p, uint32_t slot);
void head_drop(struct prefix *p, uint32_t slot);
void ids_every(struct prefix *p);               /* from now on every block is known */
void ids_fit(struct id_map *m, uint64_t count); /* makes room for so many; first of all */
void ids_fini(struct id_map *m);

/* prefix_run.c */
/* Where d[i] is: blocks d[i] .. d[i + count - 1] are the run's from off on. */
struct step {
    uint32_t run, off, count;
};
bool step_find(const struct prefix *p, const uint64_t *d, uint32_t n, struct step *out);
/* Where block n - 1 of a prompt is. */
bool tail_find(const struct prefix *p, const uint64_t *d, uint32_t n, struct step *out);
/* A run of unknown digests: as many of d as are. Nobody holds it yet. */
uint32_t run_new(struct prefix *p, const uint64_t *d, uint32_t n, uint32_t *count);
/* Cuts blocks [from, to) out as a run. */
uint32_t run_isolate(struct prefix *p, uint32_t run, uint32_t from, uint32_t to);
/* Appends b to a if every holder of b goes on from a. */
bool run_join(struct prefix *p, uint32_t a, uint32_t b);
/* After a holder let go: what nobody holds goes. The run may be gone after it. */
void run_settle(struct prefix *p, uint32_t run);
uint32_t hold_find(const struct prefix *p, uint32_t run, uint32_t engine); /* 0: none */
uint32_t hold_get(struct prefix *p, uint32_t run, uint32_t engine);        /* or a new one */
uint32_t hold_cover(const struct prefix *p, const struct hold *h);
void hold_fit(struct prefix *p, uint32_t hold); /* after its numbers changed */
void hold_unlink(struct prefix *p, uint32_t hold);
void hold_link(struct prefix *p, uint32_t hold); /* as the most recent, or with the others */
uint32_t member_find(const struct prefix *p, uint32_t part, uint32_t run);
void member_add(struct prefix *p, uint32_t part, uint32_t run);
void part_empty(struct prefix *p, uint32_t part); /* and every run that only it kept */
/* The runs of d, cut to it, missing ones made. None twice, even where digests repeat: a run stays
 * whole from path_mark() to path_run(), else what is cut off would never get its holder. */
void path_carve(struct prefix *p, const uint64_t *d, uint32_t n);
void path_push(struct prefix *p, uint32_t run);
void path_mark(struct prefix *p, uint32_t run); /* and push */
uint32_t path_run(struct prefix *p, uint32_t i);
void path_join(struct prefix *p); /* those that follow each other, where they are alike */

static inline struct run *run_at(const struct prefix *p, uint32_t i)
{
    return (struct run *)p->runs.items + i;
}

static inline struct hold *hold_at(const struct prefix *p, uint32_t i)
{
    return (struct hold *)p->holds.items + i;
}

static inline struct part *part_at(const struct prefix *p, uint32_t i)
{
    return (struct part *)p->parts.items + i;
}

static inline struct member *member_at(const struct prefix *p, uint32_t i)
{
    return (struct member *)p->members.items + i;
}

#endif
