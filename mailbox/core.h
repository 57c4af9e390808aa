/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_CORE_H
#define SLIP_MAILBOX_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "mailbox/store.h"

/*
 * Mailboxes: bounded queues of messages, one for each (tenant, workflow, agent).
 *
 * Pure: no sockets, no clock, no threads. mbox_step() takes one event and says what to do in
 * actions; time is what the caller says it is (nanoseconds of a monotonic clock, never going back).
 * What an action points to is valid until the next mbox_step().
 *
 * A message that is handed out is not gone yet: it rests in a delivery until MBOX_SETTLE. Settled
 * as done it leaves; settled as not done, or when its reader's peer is gone, or after settle_ns, it
 * goes back to its place at the front of its box and is handed out again with the next attempt
 * number. So every message that was taken in leaves by exactly one door: delivered, expired or
 * purged.
 */
#define MBOX_ID_LEN 26u               /* of a message id drawn here: 128 bits in base 32 */
#define MBOX_RECEIVE_BYTES (3u << 20) /* a receive stops before it grows beyond this */
#define MBOX_RECEIVE_MESSAGES 1000u   /* most messages of one receive */
#define MBOX_BOX_WAITING 256u         /* most readers parked at one box */

struct mbox_core;

struct mbox_limits {
    uint32_t max_boxes;
    uint32_t max_agents; /* boxes of one workflow */
    uint32_t box_messages;
    uint32_t max_waiting;
    uint64_t box_bytes;         /* payloads as sent */
    uint64_t total_bytes;       /* payloads as stored, and records */
    uint64_t max_payload_bytes; /* of one message */
    uint64_t ttl_ns, max_wait_ns, idle_ns, settle_ns;
};

struct mbox_key {
    const char *tenant, *workflow, *agent;
};

/* A message as it comes in; strings may be NULL where optional. */
struct mbox_draft {
    const char *message_id; /* NULL or empty: drawn here */
    const char *source, *target, *type;
    const char *correlation_id, *reply_to, *group;
    uint32_t priority;
    uint32_t ttl_ms; /* 0: that of the event */
    const void *payload;
    size_t payload_len;
};

enum mbox_event_kind {
    MBOX_TICK,
    MBOX_SEND,
    MBOX_RECEIVE,
    MBOX_SETTLE,
    MBOX_UNPARK,
    MBOX_PEER_GONE,
    MBOX_CLOSE,
    MBOX_LIMITS,
    MBOX_DRAIN
};

struct mbox_event {
    enum mbox_event_kind kind;
    uint64_t peer; /* who asks; the caller's number for it */
    union {
        struct {
            const char *tenant, *workflow;
            const struct mbox_draft *drafts;
            size_t draft_count;
            const char *const *agents; /* who "*" means besides the boxes that exist */
            size_t agent_count;
            uint32_t ttl_ms;  /* 0: the configured one */
            uint64_t wall_ms; /* now, for people */
        } send;
        struct {
            struct mbox_key box;
            uint32_t max; /* 0: 10 */
            uint32_t wait_ms;
            uint64_t poll; /* the peer's name for the parked poll; not 0 with wait_ms */
            const char *const *types;
            size_t type_count; /* 0: all */
            bool peek;
            bool settle; /* echoed in the action; the core itself always waits for MBOX_SETTLE */
        } receive;
        struct {
            uint64_t delivery;
            bool done;
        } settle;
        struct {
            uint64_t poll;
        } unpark;
        struct {
            const char *tenant, *workflow;
            bool purge;
        } close;
        struct mbox_limits limits;
    };
};

/* The part of a message that the copies of a broadcast share. */
struct mbox_letter {
    uint64_t payload; /* in the store */
    uint32_t payload_len;
    uint32_t priority;
    uint64_t created_ns;
    uint64_t created_ms, expires_ms; /* wall clock */
    const char *id, *source, *type;
    const char *correlation_id, *reply_to, *group; /* "" where not given */
};

struct mbox_view {
    const struct mbox_letter *letter;
    const char *target;
    uint32_t attempt; /* 1 = first delivery; in a peek: deliveries so far */
};

/*
 * SEND gives one MBOX_SENT for each draft, in order. RECEIVE, SETTLE, UNPARK and CLOSE give one
 * MBOX_REPLY. Any event may end parked polls before and after that: MBOX_POLL_END.
 */
enum mbox_action_kind { MBOX_SENT, MBOX_REPLY, MBOX_POLL_END };

struct mbox_action {
    enum mbox_action_kind kind;
    enum err err;
    uint32_t retry_ms;      /* SENT */
    uint64_t peer, poll;    /* POLL_END */
    uint64_t delivery;      /* 0: nothing to settle */
    bool settle;            /* as asked; false: settle it as soon as it was handed over */
    bool parked;            /* REPLY to RECEIVE */
    uint32_t more;          /* messages left in the box */
    uint64_t waited_ns;     /* POLL_END */
    uint32_t first, count;  /* into views (REPLY, POLL_END) or names (SENT: queued for) */
    uint32_t dropped, left; /* REPLY to CLOSE */
    char message_id[257];   /* SENT */
};

/* The caller's array; grows as needed and is reused. Zeroed is a valid empty one. */
struct mbox_actions {
    struct mbox_action *items;
    size_t len, cap;
    struct mbox_view *views;
    size_t view_len, view_cap;
    const char **names;
    size_t name_len, name_cap;
};
void mbox_actions_fini(struct mbox_actions *a);

/* seed: hashing and message ids; equal seeds and equal events give equal runs. The store is
 * borrowed and must outlive the core. */
struct mbox_core *mbox_new(const struct mbox_limits *limits, struct mbox_store *store,
                           uint64_t seed);
void mbox_free(struct mbox_core *c);

/* Empties out first. Deadlines that passed by now_ns come before the event. */
void mbox_step(struct mbox_core *c, uint64_t now_ns, const struct mbox_event *event,
               struct mbox_actions *out);
uint64_t mbox_next_deadline(const struct mbox_core *c); /* UINT64_MAX: none */

struct mbox_totals {
    uint64_t sent, delivered, redelivered, expired, rejected, purged; /* copies, since the start */
    uint64_t queued, unsettled;                                       /* copies, now */
    uint64_t bytes; /* counted against total_bytes */
    uint32_t boxes, workflows, waiting;
};
void mbox_totals(const struct mbox_core *c, struct mbox_totals *out);

struct mbox_box_info {
    uint32_t depth, unsettled, waiting;
    uint64_t bytes;
    uint64_t oldest_ns; /* age of the oldest queued message */
    uint64_t sent, delivered, expired, rejected;
};
bool mbox_box_find(const struct mbox_core *c, uint64_t now_ns, struct mbox_key key,
                   struct mbox_box_info *out);

struct mbox_workflow_info {
    uint64_t queued, delivered;
    uint32_t boxes;
};
bool mbox_workflow_find(const struct mbox_core *c, const char *tenant, const char *workflow,
                        struct mbox_workflow_info *out);
/* Names of the workflow's agents into names (borrowed until the next step); returns how many there
 * are. */
size_t mbox_workflow_agents(const struct mbox_core *c, const char *tenant, const char *workflow,
                            const char **names, size_t max);

/*
 * Boxes whose depth changed since they were last named here, for gauges. user is the caller's slot;
 * a box that was forgotten while its slot was set is named one last time with gone. False at the
 * end of the list.
 */
struct mbox_change {
    struct mbox_key key;
    uint32_t depth;
    bool gone;
    void **user;
};
bool mbox_take_change(struct mbox_core *c, struct mbox_change *out);

#endif
