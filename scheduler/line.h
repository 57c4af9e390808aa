/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_LINE_H
#define SCHED_LINE_H

#include <stdbool.h>

#include "common/list.h"
#include "common/pool.h"
#include "scheduler/table.h"

/*
 * The lines at the door, one for each model: the order in which those that wait are tried.
 *
 * First by class, then by tenant, the one whose live workflows hold the least first (an equal share
 * is the same for all, so this is the order of shares; of equals the one let in longest ago), then
 * by the age of the workflow. Each tenant has a row of its own in a line, a pairing heap, and a
 * heap of rows goes by their first ones: O(log n), amortised, of either. A tenant whose request was
 * tried in vain steps behind the others in that line until the request is put back, so that nobody
 * blocks it with what cannot be let in.
 *
 * A tenant is here while a workflow of it is LIVE or waits. Those beyond TENANTS_MAX share one
 * record. What waits without a workflow any more belongs to nobody, who holds nothing.
 */
#define TENANTS_MAX 4096u

struct core;
struct wait;
struct workflow;

struct tenant {
    uint64_t key_lo, key_hi; /* XXH3_128 of its name, seeded */
    uint64_t self;           /* handle; 0: nobody, or the others */
    uint64_t claims;         /* of its LIVE workflows, in 1/CLAIM_UNIT of a block */
    uint64_t served;         /* lines.served when a workflow of it came to life last; 0: none did */
    uint32_t workflows;      /* LIVE or waiting */
    struct list rows;
};

struct row { /* of those of one tenant who want one model, in line or just tried */
    struct tenant *tenant;
    struct list of_tenant;
    uint64_t self;
    struct wait *first; /* NULL: none in line */
    uint32_t line;
    uint32_t waiting, failed; /* in line or just tried; tried in vain and not back in line */
    uint32_t pos;             /* in its line's heap + 1; 0: none in line */
};

struct line {          /* those who want one model */
    struct row **heap; /* in the order of trying */
    uint32_t count, cap;
    uint32_t failures;
    uint32_t used_at; /* in lines.used, unless it is empty */
};

struct lines {
    struct pool tenants, rows;
    struct table index; /* of tenants, by name */
    struct line *of_model;
    uint32_t *used; /* that are not empty */
    uint32_t used_count;
    uint32_t waiting; /* in line, in all of them */
    uint64_t served;  /* workflows that came to life */
    bool share;       /* false: tenants do not matter */
    struct tenant nobody, others;
};

void lines_init(struct lines *ls, uint32_t waits, uint32_t workflows); /* at most */
void lines_fini(struct lines *ls);
void lines_set_share(struct lines *ls, bool share);
void line_join(struct lines *ls, struct wait *w, struct tenant *t); /* the line of w->line */
void line_take(struct lines *ls, struct wait *w);                   /* to be tried */
void line_leave(struct lines *ls, struct wait *w);                  /* if it stands in one */
/*
 * Takes the first of all lines out of line, to be tried; NULL: nobody is left. A line of which so
 * many as failures_max were tried in vain is passed over: those behind them wait for the same.
 */
struct wait *lines_take(struct lines *ls, uint32_t failures_max);
void line_failed(struct lines *ls, struct wait *w, struct list *failed); /* tried in vain */
void line_put(struct lines *ls, struct wait *w);                         /* back in line */
void lines_check(const struct core *c);

/* After a change of its state, or of how many of its requests wait: joins its tenant, or leaves. */
void tenant_update(struct core *c, struct workflow *w);
/* It became LIVE. */
void tenant_served(struct core *c, struct workflow *w);
/* Units of its claims came or went. It is LIVE. */
void tenant_claim(struct core *c, struct workflow *w, uint64_t units, bool in);

#endif
