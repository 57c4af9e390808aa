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
 * A message that came in is pending until MBOX_COMMIT: nobody sees it before the store has it. If
 * the commit failed it was never there.
 *
 * A message that is handed out is not gone yet: it rests in a delivery until MBOX_SETTLE. Settled
 * as done it leaves, or, asked for under a lease, waits for its MBOX_ACK; settled as not done, or
 * when its reader's peer is gone, or after settle_ns, or at the end of its lease, it goes back to
 * its place at the front of its box and is handed out again with the next attempt number. After
 * max_deliveries, at its expiry, or when a full box drops its oldest, it is a dead letter, which
 * can be read, driven back or dropped. So every message that was taken in leaves by exactly one
 * door: delivered, purged, or (from the dead letters) forgotten, and each is counted.
 *
 * Order in a box: by priority, then by arrival; what came back is where it was, what was delayed or
 * driven back counts as arriving when it is due. Messages of one group are handed out strictly by
 * arrival, whatever their priorities, several in one receive where there are: while any of them is
 * handed out, leased or put off by its reader, all others wait. A reader of certain types gets one
 * of a group only when it is its turn.
 */
#define MBOX_ID_LEN 26u               /* of a message id drawn here: 128 bits in base 32 */
#define MBOX_RECEIVE_BYTES (3u << 20) /* a receive stops before it grows beyond this */
#define MBOX_RECEIVE_MESSAGES 1000u   /* most messages of one receive */
#define MBOX_LOST_MS 1000u            /* an unreadable message is tried again after this */
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
    /* Whatever their state, dead letters too; 0: no limit. */
    uint32_t workflow_messages, total_messages;
    uint64_t workflow_bytes; /* payloads as sent */
    /* A full box drops the oldest of its least priority to the dead letters, when what is to take
     * their place is committed; it refuses where all is in somebody's hands, and where it is set
     * to. */
    bool drop_oldest;
    uint32_t max_deliveries; /* then a message is dead; 0: never */
    uint32_t dead_messages;  /* of one box; beyond: the oldest is forgotten */
    uint64_t dead_ttl_ns, max_lease_ns, max_keep_ns;
    uint64_t key_window_ns; /* how long an idempotency key is remembered */
    uint32_t max_keys;      /* beyond: the oldest of who has most is forgotten */
};

struct mbox_key {
    const char *tenant, *workflow, *agent;
};

/* A message as it comes in; strings may be NULL where optional. */
struct mbox_draft {
    /* NULL or empty: drawn here. ERR_VALUE: this box has 64 of this id already. */
    const char *message_id;
    const char *source, *target, *type;
    const char *correlation_id, *reply_to, *group;
    uint32_t priority; /* 0 to 9, higher first */
    uint32_t ttl_ms;   /* 0: that of the event */
    uint32_t delay_ms;
    const void *payload; /* NULL: larger than max_payload_bytes, and not looked at */
    size_t payload_len;
    const void *block; /* the same as one lz4 block, for the store; NULL: none came */
    size_t block_len;
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
    MBOX_DRAIN,
    MBOX_COMMIT,
    MBOX_ACK,
    MBOX_HOLD,
    MBOX_DEAD,
    MBOX_REDRIVE,
    MBOX_LOST
};

enum mbox_ack_kind { MBOX_ACK_DONE, MBOX_ACK_RETURN, MBOX_ACK_EXTEND };

struct mbox_ack {
    const char *message_id, *receipt;
    enum mbox_ack_kind kind;
    uint32_t delay_ms; /* RETURN */
    uint32_t lease_ms; /* EXTEND; 0: as long as it was given */
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
            uint32_t ttl_ms;             /* 0: the configured one */
            uint64_t wall_ms;            /* now, for people */
            const char *idempotency_key; /* NULL or empty: none */
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
            bool lz4;    /* echoed likewise: its reader can unpack blocks */
            uint32_t lease_ms;        /* 0: no lease */
            const char *resume_after; /* NULL or empty: no stream that comes again */
        } receive;
        struct {
            uint64_t delivery;
            bool done;
            bool unsent;      /* not done, and nobody saw any of it: it was no delivery */
            uint32_t keep_ms; /* with done: kept for resume_after this long */
        } settle;
        struct { /* of a delivery: the message whose payload the store does not give */
            uint64_t delivery, payload;
        } lost;
        struct {
            uint64_t poll;
        } unpark;
        struct {
            const char *tenant, *workflow;
            bool purge;
        } close;
        struct mbox_limits limits;
        struct {
            bool ok;
        } commit;
        struct {
            struct mbox_key box;
            const struct mbox_ack *acks;
            size_t ack_count;
            uint64_t wall_ms;
        } ack;
        struct {
            struct mbox_key box;
            const char *const *message_ids;
            size_t id_count;
        } hold;
        struct {
            struct mbox_key box;
            uint32_t max;      /* 0: 10 */
            const char *after; /* message id; NULL or empty: from the oldest on */
        } dead;
        struct {
            struct mbox_key box;
            const char *const *message_ids;
            size_t id_count; /* 0: all */
            bool drop;
        } redrive;
    };
};

struct mbox_letter {
    uint64_t payload; /* ref in the store */
    uint32_t payload_len;
    uint32_t priority;
    uint64_t created_ns;
    uint64_t created_ms, expires_ms; /* wall clock */
    const char *id, *source, *type;
    const char *correlation_id, *reply_to, *group; /* "" where not given */
};

#define MBOX_RECEIPT_MAX 64u

struct mbox_view {
    struct mbox_letter letter;
    const char *target;
    uint32_t attempt;               /* 1 = first delivery; in a peek: deliveries so far */
    char receipt[MBOX_RECEIPT_MAX]; /* "" without a lease */
    uint64_t lease_end_ns;          /* of the core's clock; 0 without a lease */
    enum mbox_dead dead;
    uint64_t dead_ns; /* when it died, of the core's clock */
};

/*
 * SEND gives one MBOX_SENT for each draft, in order, or one MBOX_REPLY (ERR_IDEMPOTENCY: the key
 * came with another body). What SENT promises holds only after the MBOX_COMMIT that follows.
 * RECEIVE, SETTLE, UNPARK, CLOSE, HOLD, DEAD, REDRIVE and LOST give one MBOX_REPLY, ACK one
 * MBOX_ACKED for each ack, in order. Any event may end parked polls before and after that:
 * MBOX_POLL_END.
 *
 * ACKED: ERR_INVALID, no receipt at all; ERR_RECEIPT, not the last one of this message, or its
 * lease is over (DONE is still taken while nobody has the message again). REDRIVE moves at most
 * 10000 of one event, and stops where the box is full. DEAD after an id that is not there begins
 * anew.
 */
enum mbox_action_kind { MBOX_SENT, MBOX_REPLY, MBOX_POLL_END, MBOX_ACKED };

struct mbox_action {
    enum mbox_action_kind kind;
    enum err err;
    uint32_t retry_ms;     /* SENT */
    uint64_t peer, poll;   /* POLL_END */
    uint64_t delivery;     /* 0: nothing to settle */
    bool settle;           /* as asked; false: settle it as soon as it was handed over */
    bool lz4;              /* as asked */
    bool parked;           /* REPLY to RECEIVE */
    bool replayed;         /* SENT: the answer to an earlier request with this key */
    uint64_t lease_end_ns; /* ACKED, after EXTEND: of the core's clock */
    /* Messages left in the box; REPLY to DEAD: dead letters behind these, counted up to 1000. */
    uint32_t more;
    uint64_t waited_ns;    /* POLL_END */
    uint32_t first, count; /* into views (REPLY, POLL_END) or names (SENT: queued for) */
    uint32_t dropped,
        left; /* REPLY to CLOSE; REDRIVE: moved or dropped, left; HOLD: held in dropped */
    char message_id[257]; /* SENT */
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
/* Takes over what the store holds from before, once, before the first step. Deliveries and leases
 * of that time are over; receipts of messages that nobody took since are still good for an ack. */
enum err mbox_restore(struct mbox_core *c, uint64_t now_ns, uint64_t wall_ms);

/* Messages came in, or something else changed, since the last MBOX_COMMIT. The caller commits the
 * store and says MBOX_COMMIT before it answers. */
bool mbox_needs_commit(const struct mbox_core *c);

/* Empties out first. Deadlines that passed by now_ns come before the event. */
void mbox_step(struct mbox_core *c, uint64_t now_ns, const struct mbox_event *event,
               struct mbox_actions *out);
uint64_t mbox_next_deadline(const struct mbox_core *c); /* UINT64_MAX: none */

struct mbox_totals {
    /* copies, since the start; dead: of whatever reason, expired ones counted there too; forgotten:
     * dead letters that were dropped, or gave way */
    uint64_t sent, delivered, redelivered, expired, rejected, purged, dead, redriven, forgotten;
    uint64_t restored; /* copies that mbox_restore() found */
    uint64_t replayed; /* requests answered by their idempotency key */
    uint64_t queued, unsettled, leased, delayed, dead_now, kept; /* copies, now */
    uint64_t bytes;                                              /* counted against total_bytes */
    uint32_t boxes, workflows, waiting, keys;
};
void mbox_totals(const struct mbox_core *c, struct mbox_totals *out);

struct mbox_box_info {
    uint32_t depth, unsettled, leased, delayed, dead, kept, waiting;
    uint64_t bytes;
    uint64_t oldest_ns; /* age of the oldest queued message */
    uint64_t sent, delivered, redelivered, expired, rejected;
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
 * Boxes whose depth changed, or that got messages, since they were last named here. user is the
 * caller's slot; a box that was forgotten while its slot was set is named one last time with gone.
 * False at the end of the list.
 */
struct mbox_change {
    struct mbox_key key;
    uint32_t depth;
    /* copies, and their payloads as sent, that became visible since: sent, due, driven back */
    uint32_t arrived;
    uint64_t arrived_bytes;
    bool gone;
    void **user;
};
bool mbox_take_change(struct mbox_core *c, struct mbox_change *out);

#endif
