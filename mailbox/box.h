/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_BOX_H
#define SLIP_MAILBOX_BOX_H

#include "common/list.h"
#include "common/timers.h"
#include "mailbox/core.h"
#include "mailbox/hash.h"

/* What core.c, box.c and waiters.c share; nobody else includes this. */

/* A message. Owned by its copies: the last one to leave puts it on core->dead_letters, where it
 * lives until the next step because actions point to it. */
struct letter {
    struct mbox_letter pub;
    uint32_t refs;
    uint64_t cost; /* of core->bytes */
    struct list dead;
    char text[];
};

/* A letter in one box: on box->queue (waits) or delivery->copies (handed out). */
struct copy {
    struct list node;
    struct timer expiry; /* runs while queued */
    struct letter *letter;
    struct box *box;
    uint64_t seq; /* place in the box, for good */
    uint64_t expires_ns;
    uint32_t attempts;
};

struct workflow {
    struct hash_node hash;
    struct list boxes; /* in the order in which they were made */
    uint32_t box_count;
    uint64_t delivered;
    const char *tenant, *id;
    char text[];
};

/*
 * A box is on core->idle_boxes, least recently used first, while nothing is queued, handed out or
 * waited for; it leaves when used, or is forgotten after idle_ns or when room is needed.
 */
struct box {
    struct hash_node hash;
    struct mbox_core *core;
    struct workflow *workflow;
    struct list in_workflow;
    struct list idle;    /* core->idle_boxes; after being forgotten core->dead_boxes */
    struct list touched; /* core->touched: got messages in this step, readers not yet served */
    struct list changed; /* core->changed: depth not yet told */
    struct list queue;   /* copies by seq */
    struct list waiters; /* first come, first served */
    struct timer idle_timer;
    uint32_t depth, unsettled, waiting;
    uint64_t bytes;                /* payloads as sent, queued and handed out */
    uint32_t arrived;              /* not yet told by mbox_take_change() */
    uint64_t arrived_bytes;
    uint64_t next_seq, served_seq; /* parked readers have seen all below served_seq */
    uint64_t sent, delivered, expired, rejected;
    uint64_t mark; /* already a target of the message being sent */
    bool closing;  /* forgotten as soon as it is empty */
    bool gone;
    void *user;
    char agent[];
};

struct waiter {
    struct hash_node hash;
    struct list in_box, in_all;
    struct timer deadline;
    struct box *box;
    uint64_t peer, poll, since_ns;
    uint32_t max;
    bool settle;
    size_t type_count;
    const char **types; /* into this allocation */
};

/* Copies handed to a reader, until settled. */
struct delivery {
    struct hash_node hash; /* key: id */
    struct list in_all;
    struct list copies; /* by seq */
    struct timer deadline;
    struct box *box;
    uint64_t peer;
    uint32_t count;
};

struct mbox_core {
    struct mbox_limits limits;
    struct mbox_store *store;
    uint64_t seed, now_ns;
    struct timers timers;
    struct hash workflows, boxes, waiters, deliveries;
    struct list all_waiters, all_deliveries; /* in the order in which they began */
    struct list idle_boxes, touched, changed;
    struct list dead_letters, dead_boxes; /* freed at the start of the next step */
    struct mbox_totals totals;
    uint64_t next_delivery, id_ms, id_count, mark;
    struct box **targets; /* scratch of one send */
    size_t target_count, target_cap;
    bool draining;
    struct mbox_actions *out; /* of the running step */
};

struct want {
    uint32_t max;
    const char *const *types;
    size_t type_count;
};

/* box.c */
uint64_t box_hash(const struct mbox_core *c, const char *tenant, const char *workflow,
                  const char *agent);
struct workflow *workflow_find(const struct mbox_core *c, const char *tenant, const char *id);
struct box *box_find(const struct mbox_core *c, struct mbox_key key); /* NULL when none */
/* Finds or makes. ERR_MAILBOX_FULL: too many boxes; ERR_AGENT_LIMIT: of this workflow. */
enum err box_open(struct mbox_core *c, struct mbox_key key, struct box **out);
void box_rest(struct box *b); /* call after anything that may have left it idle, or in use again */
void box_drop(struct box *b, uint32_t *dropped); /* with all messages; parked readers first! */
bool box_has_room(const struct box *b, size_t payload_len);
void box_put(struct box *b, struct letter *l, uint64_t expires_ns);
/* Hands out what is wanted of seq >= from; the views go to core->out. NULL when there is none. */
struct delivery *box_take(struct box *b, const struct want *w, uint64_t from, uint64_t peer);
void box_peek(const struct box *b, const struct want *w);
void delivery_end(struct mbox_core *c, struct delivery *d, bool done);
struct delivery *delivery_find(const struct mbox_core *c, uint64_t id);
uint64_t delivery_id(const struct delivery *d);
void letter_release(struct mbox_core *c, struct letter *l);
void reap(struct mbox_core *c); /* frees what the last step's actions pointed to */

/* waiters.c */
struct waiter *waiter_find(const struct mbox_core *c, uint64_t peer, uint64_t poll);
/* before: whose place it takes, ended without an action; NULL: the last place. */
enum err waiter_park(struct box *b, const struct mbox_event *e, struct waiter *before);
void waiter_end(struct mbox_core *c, struct waiter *w); /* without an action */
void waiter_end_empty(struct mbox_core *c, struct waiter *w);
void waiters_serve(struct box *b, uint64_t from); /* messages of seq >= from are new to them */
void waiters_end_all(struct box *b);

/* core.c */
struct mbox_action *action_new(struct mbox_core *c, enum mbox_action_kind kind);
void view_add(struct mbox_core *c, const struct copy *k, uint32_t attempt);

#endif
