/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_BOX_H
#define SLIP_MAILBOX_BOX_H

#include "common/list.h"
#include "common/timers.h"
#include "mailbox/core.h"
#include "mailbox/hash.h"

/* What the files of the core share; nobody else includes this. */

#define MBOX_ID_MAX 256u        /* bytes of a message id */
#define MBOX_KEPT_MESSAGES 256u /* of one box; older ones are done */
#define MBOX_KEPT_BYTES (1u << 20)
#define MBOX_ANSWER_BYTES (1u << 20) /* remembered answers that are larger name no targets */
#define MBOX_ANSWERS_SHARE 8u        /* of total_bytes: one in so many may be answers */
#define MBOX_SAME_ID 64u             /* most messages of one id in a box */
#define MBOX_REDRIVE_MAX 10000u      /* of one event */
#define MBOX_DUES_MAX 4096u          /* deadlines of copies of one step; the next one goes on */
#define MBOX_COUNT_MORE 1000u        /* dead letters behind a page are counted up to here */
#define MBOX_PLACE_BITS 56           /* of an arrival number in a place */

struct box;
struct copy;
struct delivery;

/* The texts of a letter, in the order in which they are packed. */
enum letter_text { TEXT_ID, TEXT_SOURCE, TEXT_TYPE, TEXT_CORRELATION, TEXT_REPLY_TO, TEXT_GROUP };
#define LETTER_TEXTS 6u

/*
 * A message. Owned by its copies: with the last one it goes, or waits on core->dead_letters for the
 * next step where an action of this one points to it. A message for one box shares its allocation
 * with its copy.
 */
struct letter {
    uint64_t payload; /* ref in the store */
    union {
        uint64_t created_ns;
        struct letter *next_dead;
    };
    uint64_t created_ms;
    uint32_t ttl_ms, payload_len;
    uint32_t cost; /* of core->bytes: stored payload and this record, copies apart */
    uint32_t refs;
    uint32_t viewed;    /* low bits of the last step in which an action pointed here */
    uint16_t type_bits; /* two bits of a tree's mask */
    uint8_t priority;
    bool single : 1; /* lies behind its only copy */
    bool grouped : 1;
    char text[];
};

/*
 * Where a copy is:
 *   NEW      taken in, not committed. On core->pending. Leaves by MBOX_COMMIT.
 *   READY    may be handed out. In box->ready.
 *   WAITING  queued behind others of its group. In group->waiting.
 *   DELAYED  not due yet. On box->delayed.
 *   HELD     handed out, not settled. On delivery->copies; under a lease its deadline runs already.
 *   LEASED   settled and under a lease. On box->leased.
 *   KEPT     done in a while, unless a stream resumes before it. On box->kept, as handed out.
 *   DEAD     a dead letter. On box->dead, by time of death.
 */
enum copy_state {
    COPY_NEW,
    COPY_READY,
    COPY_WAITING,
    COPY_DELAYED,
    COPY_HELD,
    COPY_LEASED,
    COPY_KEPT,
    COPY_DEAD,
    COPY_STATES
};

/* A letter in one box. */
struct copy {
    union {
        struct { /* READY, WAITING */
            struct copy *left, *right, *up;
            uint64_t mask; /* of all types in this subtree */
        };
        struct { /* the other states */
            struct list node;
            union {
                struct delivery *delivery; /* HELD */
                uint64_t dead_ns;          /* DEAD */
            };
            uint32_t lease_ms; /* HELD, LEASED; 0: no lease */
            uint32_t delay_ms; /* NEW */
        };
    };
    struct copy *next_same; /* in core->index */
    struct letter *letter;
    struct box *box;
    uint64_t id;
    uint64_t place; /* 9 - priority, then the number of its arrival */
    uint64_t expires_ns;
    uint32_t attempts;
    uint32_t due_at;  /* position in core->dues, 0: no deadline */
    uint32_t hash;    /* of box and message id */
    uint8_t state;    /* enum copy_state */
    uint8_t dead;     /* enum mbox_dead */
    uint8_t driven;   /* how often it was driven back, for receipts */
    bool busy : 1;    /* its group waits for it */
    bool renewed : 1; /* driven back: its life is not that of the letter */
    bool taken : 1;   /* handed out since the start */
    bool restored : 1;
    bool returned : 1; /* its last lease was given back by hand */
    bool doomed : 1;   /* NEW: purged as soon as it is committed */
};

/* Copies in order. A treap: its ranks are drawn from the copies' ids. */
struct tree {
    struct copy *root, *first, *last;
    uint64_t seed;
    uint64_t key_mask; /* which bits of a place count here */
};

/*
 * Messages of one group in one box. While none of it is handed out or delayed by its reader, its
 * first is in box->ready and the others wait here; meanwhile all wait.
 */
struct group {
    struct hash_node hash;
    struct list in_box;
    struct list open; /* core->open_groups: its next one was shown during this hand-out */
    struct box *box;
    struct tree waiting; /* by arrival alone */
    struct copy *shown;
    uint32_t busy;
    char name[];
};

struct workflow {
    struct hash_node hash;
    struct list boxes; /* in the order in which they were made */
    uint32_t box_count;
    uint32_t messages; /* whatever their state */
    uint64_t bytes, delivered;
    const char *tenant, *id;
    char text[];
};

/* Places from first to last; none where first > last. */
struct span {
    uint64_t first, last;
};
#define SPAN_NONE ((struct span){UINT64_MAX, 0})
#define SPAN_ALL ((struct span){0, UINT64_MAX})

/*
 * A box is on core->idle_boxes, least recently used first, while nothing is in it and nobody waits
 * for anything; it leaves when used, or is forgotten after idle_ns or when room is needed.
 */
struct box {
    struct hash_node hash;
    struct mbox_core *core;
    struct workflow *workflow;
    struct list in_workflow;
    struct list idle;    /* core->idle_boxes; after being forgotten core->dead_boxes */
    struct list touched; /* core->touched: got messages, readers not yet served */
    struct list changed; /* core->changed: depth not yet told */
    struct tree ready;
    struct span fresh; /* where copies became READY since the parked readers were served */
    struct list delayed, leased, kept, dead; /* of copies */
    struct list deliveries, groups;
    struct list waiters; /* first come, first served */
    struct timer idle_timer;
    uint32_t count[COPY_STATES], waiting;
    uint64_t bytes; /* payloads as sent; without KEPT and DEAD */
    uint64_t ready_bytes, kept_bytes;
    uint64_t arrived_bytes; /* not yet told by mbox_take_change() */
    uint32_t arrived;
    uint64_t sent, delivered, redelivered, expired, rejected;
    uint64_t mark; /* already a target of the message being sent */
    bool closing;  /* forgotten as soon as it is empty */
    bool gone;
    void *user;
    char agent[];
};

/* Who reads: there while it has parked polls or deliveries. */
struct reader {
    struct hash_node hash; /* key: the peer */
    struct list waiters, deliveries;
};

struct waiter {
    struct hash_node hash;
    struct list in_box, in_all, in_reader;
    struct timer deadline;
    struct box *box;
    struct reader *reader;
    uint64_t poll, since_ns;
    uint32_t max, lease_ms;
    bool settle, lz4;
    size_t type_count;
    const char **types; /* into this allocation */
};

/* Copies handed to a reader, until settled. */
struct delivery {
    struct hash_node hash; /* key: id */
    struct list in_box, in_reader;
    struct list copies; /* as handed out */
    struct timer deadline;
    struct box *box;
    struct reader *reader;
    uint32_t count;
};

/* A workflow of which answers are remembered: there while any is. */
enum asker_scale { BY_KEYS, BY_BYTES, ASKER_SCALES };
#define ASKER_CLASSES 64u
struct asker {
    struct hash_node hash;
    struct list answers;                /* oldest first */
    struct list in_class[ASKER_SCALES]; /* core->askers_by */
    uint8_t class[ASKER_SCALES];
    uint32_t count, cost;
    uint64_t bytes;
    const char *tenant, *workflow;
    char text[];
};

/* What was answered to a request with an idempotency key. */
struct answer {
    struct hash_node hash;
    struct list in_all; /* oldest first; uncommitted ones at the tail */
    struct list in_asker;
    struct asker *asker;
    uint64_t id, body_hash[2], expires_ns;
    uint32_t len, cost;
    bool committed;
    const char *key, *bytes;
    char text[];
};

struct due {
    uint64_t at_ns;
    struct copy *copy;
};

/* Deadlines of copies: a binary heap, earliest first, then by id. */
struct dues {
    struct due *heap; /* from 1 on */
    uint32_t len, cap;
};

/* All copies by box and message id: chains that grow by one bucket at a time. */
struct index {
    struct copy **buckets;
    uint32_t len, cap, count;
};

struct mbox_core {
    struct mbox_limits limits;
    struct mbox_store *store;
    uint64_t seed, epoch, now_ns;
    uint64_t wall_ms, wall_at_ns; /* people's time when it was last told */
    struct timers timers;
    struct dues dues;
    struct index index;
    struct hash workflows, boxes, groups, readers, waiters, deliveries, answers, askers;
    struct list askers_by[ASKER_SCALES][ASKER_CLASSES];
    struct list pending; /* NEW copies */
    struct list all_waiters, all_answers;
    struct list idle_boxes, touched, changed, open_groups;
    struct letter *dead_letters; /* removed at the start of the next step, as are: */
    struct list dead_boxes;
    struct timer answer_timer;
    uint64_t answer_bytes; /* of totals.bytes */
    struct mbox_totals totals;
    uint64_t count[COPY_STATES];
    uint64_t next_delivery, next_id, id_ms, id_count, mark;
    uint32_t steps;
    struct box **targets; /* scratch of one send */
    size_t target_count, target_cap;
    struct mbox_copy_record *records; /* the same */
    size_t record_cap;
    struct buf scratch;
    void *hash_state;
    bool draining, dirty, freeing;
    struct mbox_actions *out; /* of the running step */
};

struct want {
    uint32_t max, lease_ms;
    const char *const *types;
    size_t type_count;
    struct span where; /* nothing else is looked at */
};

/* tree.c */
void tree_init(struct tree *t, uint64_t seed, bool by_arrival);
void tree_add(struct tree *t, struct copy *k);
void tree_remove(struct tree *t, struct copy *k);
uint64_t type_mask(const char *type);
/* The first copy from a place on of whose type there may be one in masks; none: any. */
struct copy *tree_seek(const struct tree *t, uint64_t place, const uint64_t *masks, size_t count);
struct copy *tree_next(struct copy *k, const uint64_t *masks, size_t count);

/* index.c */
void index_fini(struct index *x);
void index_add(struct index *x, struct copy *k);
void index_remove(struct index *x, struct copy *k);
uint32_t index_hash(const struct box *b, const char *message_id);
/* Of this message id in this box, in one of these states (1 << state); the copy of this id alone
 * where it is not 0. */
struct copy *index_find(const struct box *b, const char *message_id, unsigned states, uint64_t id);
uint32_t index_count(const struct box *b, const char *message_id); /* stops at MBOX_SAME_ID */

/* dues.c */
void dues_fini(struct dues *d);
void due_set(struct copy *k, uint64_t at_ns);
void due_clear(struct copy *k);
uint64_t due_of(const struct copy *k);
struct copy *dues_first(const struct dues *d, uint64_t now_ns); /* NULL when none has passed */
uint64_t dues_next(const struct dues *d);

/* letter.c */
const char *letter_get(const struct letter *l, enum letter_text which);
struct letter *letter_new(struct mbox_core *c, const struct mbox_record *r, bool single);
void letter_release(struct mbox_core *c, struct letter *l); /* the store does not have it */
void letter_remove(struct mbox_core *c, struct letter *l, uint64_t copy);
void reap(struct mbox_core *c); /* frees what the last step's actions pointed to */
uint64_t wall_of(const struct mbox_core *c, uint64_t ns);
uint64_t ns_of(const struct mbox_core *c, uint64_t wall_ms);
void wall_set(struct mbox_core *c, uint64_t wall_ms);

/* copy.c */
struct copy *copy_new(struct box *b, struct letter *l, uint64_t id, uint64_t expires_ns);
void copy_enter(struct copy *k,
                enum copy_state s); /* NEW, HELD and WAITING: by the caller's list */
void copy_leave(struct copy *k);    /* where it is */
void copy_show(struct copy *k);     /* into the queue, at its place */
void copy_delay(struct copy *k, uint64_t due_ns);
void copy_appear(struct copy *k); /* shows one that is new there */
void copy_arrive(struct copy *k); /* the same, at the tail */
void copy_return(struct copy *k, uint32_t delay_ms, bool by_hand);
void copy_done(struct copy *k);
void copy_purge(struct copy *k, uint32_t *dropped); /* counts it there as well */
void copy_die(struct copy *k, enum mbox_dead why);
void copy_keep(struct copy *k, uint64_t until_ns);
void copy_keep_again(struct copy *k, uint64_t until_ns); /* the store knows */
void copy_end(struct copy *k);   /* away, whatever it is; who calls counts why */
void copy_abort(struct copy *k); /* NEW: the store never had it */
void copy_mark(const struct copy *k, uint64_t due_ns);
void copies_run(struct mbox_core *c); /* deadlines that have passed */

/* group.c */
bool copy_is_grouped(const struct copy *k);
void group_enter(struct copy *k); /* shows it, or lets it wait */
void group_left(struct copy *k);  /* it was READY or WAITING and is no more */
void group_hold(struct copy *k);  /* the others wait for it; call before group_left() */
void group_free_hold(struct copy *k);
struct copy *group_go_on(struct copy *k); /* its next one, which may go out with it; or NULL */
void groups_close(struct mbox_core *c);   /* end of a hand-out */

/* box.c */
uint64_t box_hash(const struct mbox_core *c, const char *tenant, const char *workflow,
                  const char *agent);
struct workflow *workflow_find(const struct mbox_core *c, const char *tenant, const char *id);
/* What is NEW: the store may not have it yet, so it goes when it has. */
void workflow_doom(struct mbox_core *c, const struct workflow *w, uint32_t *dropped);
struct box *box_find(const struct mbox_core *c, struct mbox_key key); /* NULL when none */
/* Finds or makes. ERR_MAILBOX_FULL: too many boxes; ERR_AGENT_LIMIT: of this workflow. */
enum err box_open(struct mbox_core *c, struct mbox_key key, struct box **out);
struct box *box_restore(struct mbox_core *c, struct mbox_key key); /* whatever the limits say */
uint32_t box_depth(const struct box *b);
uint32_t box_live(const struct box *b); /* copies that count against its limit */
void box_rest(struct box *b); /* call after anything that may have left it idle, or in use again */
void box_changed(struct box *b);
void box_touch(struct box *b, uint64_t place);   /* something is READY there */
void box_drop(struct box *b, uint32_t *dropped); /* with all messages; parked readers first! */
void box_close(struct box *b);                   /* takes leave of kept and dead ones */
/* Room for one more of this length? With drop_oldest: could be made. */
bool box_has_room(const struct box *b, size_t payload_len);
bool box_fits(const struct box *b, size_t payload_len); /* as it is */
void box_make_room(struct box *b); /* drops the oldest while there is more than its limits say */

/* delivery.c */
/* Hands out what is wanted; the views go to core->out. NULL when there is none. */
struct delivery *box_take(struct box *b, const struct want *w, uint64_t peer);
void box_peek(struct box *b, const struct want *w);
void delivery_end(struct delivery *d, bool done, uint32_t keep_ms);
void delivery_unsend(struct delivery *d); /* handing it out does not count */
void delivery_drop(struct delivery *d, uint32_t *dropped);
void on_lost(struct mbox_core *c, const struct mbox_event *e);
struct delivery *delivery_find(const struct mbox_core *c, uint64_t id);
uint64_t delivery_id(const struct delivery *d);
size_t copy_weight(const struct copy *k); /* in an answer, at most */
void on_hold(struct mbox_core *c, const struct mbox_event *e);
void box_resume(struct box *b, const char *after);
struct reader *reader_find(const struct mbox_core *c, uint64_t peer);
struct reader *reader_open(struct mbox_core *c, uint64_t peer);
void reader_rest(struct mbox_core *c, struct reader *r); /* frees it when it has nothing */

/* lease.c */
void lease_begin(struct copy *k, uint32_t lease_ms);
void receipt_print(const struct mbox_core *c, const struct copy *k, char *dst);
void on_ack(struct mbox_core *c, const struct mbox_event *e);

/* dead.c */
void on_dead(struct mbox_core *c, const struct mbox_event *e);
void on_redrive(struct mbox_core *c, const struct mbox_event *e);
void dead_forget(struct copy *k);

/* answers.c */
bool answers_replay(struct mbox_core *c, const struct mbox_event *e, uint64_t body_hash[2]);
void answers_add(struct mbox_core *c, const struct mbox_event *e, const uint64_t body_hash[2],
                 size_t first_action);
void answers_commit(struct mbox_core *c, bool ok);
void answers_restore(struct mbox_core *c, const struct mbox_answer_record *r);
void answers_fini(struct mbox_core *c);
void on_answer_deadline(struct timer *t);

/* asker.c */
void askers_init(struct mbox_core *c);
struct asker *asker_find(const struct mbox_core *c, const char *tenant, const char *workflow);
struct asker *asker_open(struct mbox_core *c, const char *tenant, const char *workflow);
void asker_add(struct mbox_core *c, struct asker *a, uint32_t cost);
void asker_remove(struct mbox_core *c, struct asker *a, uint32_t cost); /* frees it with the last */
struct asker *asker_biggest(const struct mbox_core *c, enum asker_scale scale); /* NULL: none */

/* send.c */
void on_send(struct mbox_core *c, const struct mbox_event *e);
void on_commit(struct mbox_core *c, const struct mbox_event *e);

/* waiters.c */
struct waiter *waiter_find(const struct mbox_core *c, uint64_t peer, uint64_t poll);
/* before: whose place it takes, ended without an action; NULL: the last place. */
enum err waiter_park(struct box *b, const struct mbox_event *e, struct waiter *before);
void waiter_end(struct mbox_core *c, struct waiter *w); /* without an action */
void waiter_end_empty(struct mbox_core *c, struct waiter *w);
void waiters_serve(struct box *b);
void waiters_serve_touched(struct mbox_core *c);
void waiters_end_all(struct box *b); /* call box_rest() then */

/* core.c */
void *grown(void *items, size_t len, size_t *cap, size_t size);
struct mbox_action *action_new(struct mbox_core *c, enum mbox_action_kind kind);
struct mbox_view *view_add(struct mbox_core *c, struct copy *k, uint32_t attempt);
void name_add(struct mbox_core *c, const char *name);

#endif
