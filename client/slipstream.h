/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIPSTREAM_H
#define SLIPSTREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * libslipstream: talk to Slipstream's scheduler and mailbox from a C program.
 *
 * A handle (struct slipstream) is a pair of connections, each made when first needed and made again
 * by itself after a failure. Calls block until they are answered or their time is up; sends,
 * receives and settles can also be started, any number at a time, and end in a callback.
 *
 * Threads: one handle serves one thread at a time; the caller sees to that. Several threads that
 * want to block at once open a handle each. The library starts threads of its own for input and
 * output; they run no code of the caller and take no signals.
 *
 * Strings are UTF-8 and NUL-terminated, ids are 1 to 256 bytes without control characters. Strings
 * that go in are borrowed for the length of the call. Results come out as plain structs; what ends
 * in ** is allocated by the library and freed, with everything in it, by one slipstream_free().
 *
 * Functions answer 0 or one of enum slipstream_error; results are untouched on failure.
 *
 * The library is static, so the structs are those of the header that a program was compiled with.
 * They grow at their ends only; zero what is not named (designated initialisers do).
 */

/* Stable numbers: they are never reused. Others than these occur, as well; all of them have a code
 * and a text. */
enum slipstream_error {
    SLIPSTREAM_OK = 0,
    SLIPSTREAM_BUSY = 4,          /* a table of the other side is full: try again later */
    SLIPSTREAM_TIMEOUT = 5,       /* no answer in time; the call may have had its effect */
    SLIPSTREAM_GONE = 6,          /* the connection broke in the middle; likewise */
    SLIPSTREAM_UNIMPLEMENTED = 9, /* the other side is older and does not know this call */
    SLIPSTREAM_VERSION = 12,      /* the other side speaks no version that we speak */
    SLIPSTREAM_DENIED = 13,       /* the key is not accepted */
    SLIPSTREAM_INVALID = 14,      /* the arguments are not valid */
    SLIPSTREAM_NOT_FOUND = 15,
    SLIPSTREAM_TOO_LARGE = 16,
    SLIPSTREAM_CANCELLED = 17,   /* the handle was closed */
    SLIPSTREAM_JSON = 18,        /* a payload is not JSON */
    SLIPSTREAM_ID = 22,          /* an id is not valid */
    SLIPSTREAM_VALUE = 23,       /* a number is out of its range */
    SLIPSTREAM_DRAINING = 45,    /* the other side is shutting down */
    SLIPSTREAM_WORKFLOW = 48,    /* no such workflow */
    SLIPSTREAM_AGENT_LIMIT = 50, /* too many agents in this workflow */
    SLIPSTREAM_MAILBOX_FULL = 51,
    SLIPSTREAM_MAILBOX_DOWN = 52,   /* the mailbox could not be reached; nothing was done */
    SLIPSTREAM_SCHEDULER_DOWN = 53, /* the scheduler could not be reached; nothing was done */
    SLIPSTREAM_RECEIPT = 57,     /* the message is not, or no longer, leased under this receipt */
    SLIPSTREAM_IDEMPOTENCY = 58, /* the idempotency key came with other messages before */
    SLIPSTREAM_STORE = 59        /* the mailbox cannot write its store; nothing was taken */
};

/* "mailbox_full": stable, for programs. Never NULL. Static. */
const char *slipstream_error_code(int error);
/* One sentence, for people. Never NULL. Static. */
const char *slipstream_error_text(int error);
/* Version of this library. Static. */
const char *slipstream_version(void);

struct slipstream;

/* Zeroed is valid. */
struct slipstream_options {
    const char *scheduler_url; /* NULL: ipc:///run/slipstream/sock/scheduler */
    const char *mailbox_url;   /* NULL: ipc:///run/slipstream/sock/mailbox */
    const char *key;           /* API key; needed for tcp and tls+tcp, NULL on the same host */
    const char *tls_ca_file;   /* PEM; for tls+tcp */
    bool allow_plain_tcp;      /* tcp:// addresses are refused without */
    const char *tenant;        /* NULL: "". Counts where no key decides it */
    const char *name;          /* of this client, in the server's log; NULL: "client" */
    uint32_t timeout_ms;       /* of each call, waiting for messages excepted; 0: 5000 */
    bool uncompressed;         /* payloads travel as they are; else the large ones are compressed */
};

/* Connects to nobody yet. ERR: SLIPSTREAM_INVALID. The options are copied. */
int slipstream_open(const struct slipstream_options *options, struct slipstream **out);
/* NULL is fine. */
void slipstream_close(struct slipstream *s);
/* What went wrong in the last call that failed, in words; "" at first. Valid until the next call.
 */
const char *slipstream_last_error(const struct slipstream *s);
/* Frees any result of the functions below. NULL is fine. */
void slipstream_free(void *result);

/* ---- the fleet ---- */

struct slipstream_scheduler_status {
    char policy[64], version[32];
    uint64_t epoch, uptime_ms, decisions;
    uint32_t workflows, leases, waiting, clients, engines, engines_healthy;
    uint64_t waits; /* requests that had to wait, so far */
    double gate;    /* share of the KV memory that live workflows may claim; 0: no limit */
    double waste;   /* share of the engines' time spent on prompts computed before */
    double credit;  /* engine seconds saved up for whoever waits longest */
};
struct slipstream_mailbox_status {
    char version[32];
    uint64_t uptime_ms, messages, bytes;
    uint32_t boxes, workflows, waiting;
    uint64_t dead, delayed, leased; /* messages; dead ones are not among messages */
    char store[16];                 /* "memory", "sqlite" */
    uint64_t store_bytes;           /* on disk */
    bool store_failing;             /* the last commit failed: sends are refused */
};
int slipstream_scheduler_status(struct slipstream *s, struct slipstream_scheduler_status *out);
int slipstream_mailbox_status(struct slipstream *s, struct slipstream_mailbox_status *out);

struct slipstream_engine {
    const char *id, *address, *health_reason;
    const char *const *models;
    size_t model_count;
    bool healthy, draining, priority;
    uint32_t running, homed_workflows;
    uint64_t home_tokens, requests, failures;
    uint64_t kv_tokens, claimed_tokens; /* capacity, and claims of live workflows */
    double queue_seconds;               /* prefill work sent, without a first byte */
    /* What was found out about it: in use over configured, from so many samples. */
    double prefill_seconds; /* of 10,000 tokens, none of them cached */
    double prefill_factor, decode_factor, kv_factor;
    uint64_t prefill_samples, decode_samples;
    const char *cached_tokens; /* "told", "never", "unknown" */
};
struct slipstream_engines {
    size_t count;
    const struct slipstream_engine *items;
};
int slipstream_engines_list(struct slipstream *s, struct slipstream_engines **out);

/* ---- workflows ---- */

struct slipstream_agent {
    const char *id;
    bool active; /* a request in flight or in the last minute */
    uint32_t inflight, idle_ms;
    uint64_t requests, prompt_tokens, cached_tokens, completion_tokens;
};
struct slipstream_workflow {
    const char *id, *tenant, *state; /* "active" or "idle" */
    const char *assigned_instance;   /* engine id, "" for none */
    uint32_t active_agents, inflight, ttl_ms;
    uint64_t total_requests, waits;
    double cache_hit_rate; /* 0 to 1 */
    bool cache_hit_estimated;
    uint64_t created_ms, last_activity_ms; /* since 1970 */
    uint64_t prompt_tokens, cached_tokens, completion_tokens, recomputed_tokens;
    double latency_mean, latency_p50, latency_p99, waited_mean; /* seconds */
    const char
        *admission;   /* "new", "live", "lapsed", "paused", "waiting"; "" where it says nothing */
    uint32_t waiting; /* requests that wait now */
    double waiting_longest;                /* seconds */
    const struct slipstream_agent *agents; /* not in lists */
    size_t agent_count;
};
struct slipstream_workflows {
    size_t count;
    const struct slipstream_workflow *items;
    const char *cursor; /* of the next page, "" for none */
};
int slipstream_workflow_get(struct slipstream *s, const char *id, struct slipstream_workflow **out);
/* Newest first. state: "active", "idle" or NULL; limit 0: 100; cursor NULL: from the start. */
int slipstream_workflows_list(struct slipstream *s, const char *state, uint32_t limit,
                              const char *cursor, struct slipstream_workflows **out);

struct slipstream_ended {
    uint32_t messages_dropped, messages_left; /* left: stay until delivered or expired */
};
/* Ends a workflow in the scheduler and closes its mailboxes; purge drops their messages.
 * SLIPSTREAM_WORKFLOW: neither of the two knows it. out may be NULL. */
int slipstream_workflow_end(struct slipstream *s, const char *id, bool purge,
                            struct slipstream_ended *out);

/* ---- decisions ---- */

struct slipstream_candidate { /* an engine that a request could have gone to */
    const char *engine;
    double cost; /* seconds; NAN where the policy compares something else */
    double queue_seconds;
    uint32_t cached_tokens, workflows; /* workflows: with requests in flight there */
};
struct slipstream_explanation {
    const char *kind; /* "go", "wait" (still), "no" */
    const char *request_id, *tenant, *workflow_id, *agent_id, *parent_request_id;
    const char *model, *route, *priority, *group_id, *policy, *reason, *engine, *wait_reason;
    const char *error; /* code of a "no", else "" */
    uint64_t at_ms;    /* since 1970 */
    uint32_t waited_ms, prompt_bytes, group_size;
    double hit; /* 0 to 1 */
    const struct slipstream_candidate *candidates;
    size_t candidate_count;
};
struct slipstream_explanations {
    size_t count;
    const struct slipstream_explanation *items;
};
/* The last decisions that the scheduler remembers, newest first. workflow, request: NULL for any;
 * limit 0: 20. */
int slipstream_explain(struct slipstream *s, const char *workflow, const char *request,
                       uint32_t limit, struct slipstream_explanations **out);

struct slipstream_policy_rule {
    const char *model, *route; /* "": any */
    const char *policy;        /* name[:key=value]... */
};
struct slipstream_policies {
    const char *policy, *default_policy; /* default: of requests without a workflow */
    size_t rule_count;
    const struct slipstream_policy_rule *rules;
};
/* What is in force. */
int slipstream_policies_get(struct slipstream *s, struct slipstream_policies **out);

struct slipstream_policy_change {
    const char *policy;        /* name[:key=value]... */
    const char *model, *route; /* NULL: the general policy */
    bool is_default;           /* the policy of requests without a workflow */
    bool remove;               /* the rule of this model and route */
};
/* Holds until the scheduler reads its settings again. SLIPSTREAM_DENIED: operators only. out: what
 * is in force now; may be NULL. */
int slipstream_policy_set(struct slipstream *s, const struct slipstream_policy_change *change,
                          struct slipstream_policies **out);

/* ---- messages ---- */

/* To send: source, target, type and payload are needed. */
struct slipstream_message {
    const char *id;     /* sending: NULL, drawn by the mailbox */
    const char *source; /* agent */
    const char *target; /* agent, or "*": one copy for every agent of the workflow but the source;
                           receiving: the agent whose mailbox it came from */
    const char *type;
    const char *payload; /* JSON; need not be NUL-terminated when sent, is when received */
    size_t payload_len;
    const char *correlation_id, *reply_to, *group; /* NULL or "": none */
    uint32_t priority;                             /* 0 to 9, higher first */
    uint32_t ttl_ms;                               /* sending; 0: the mailbox's own */
    uint32_t attempt;                /* receiving; 1 = first delivery; peeking: deliveries so far */
    uint64_t created_ms, expires_ms; /* receiving; since 1970; expires 0: never */
    uint32_t delay_ms;               /* sending; not handed out earlier */
    const char *receipt;             /* receiving under a lease, else "" */
    uint64_t lease_expires_ms;       /* since 1970 */
    const char *dead_reason;         /* dead letters: "expired", "attempts", "overflow"; else "" */
    uint64_t dead_ms;                /* since 1970 */
};

struct slipstream_send_options {
    const char *workflow;
    const char *idempotency_key; /* of this call as a whole; NULL: none */
    uint32_t ttl_ms;             /* of messages that name none; 0: the mailbox's own */
    const char *const *agents;   /* who "*" means besides the mailboxes that exist */
    size_t agent_count;
};
struct slipstream_sent {
    int error;      /* of this message: SLIPSTREAM_MAILBOX_FULL, ... */
    const char *id; /* "" on failure */
    const char *const *queued_for;
    size_t queued_for_count;
    uint32_t retry_ms; /* advice, where a repetition may help */
};
struct slipstream_sent_list {
    size_t count; /* as many as were to be sent, in their order */
    const struct slipstream_sent *items;
    bool replayed; /* the answer to an earlier call with the same idempotency key */
};
/*
 * Sends 1 to 1000 messages of at most 3 MiB in all, in order. 0 means that the mailbox judged each
 * of them: look at their errors. After SLIPSTREAM_TIMEOUT and SLIPSTREAM_GONE messages may be there
 * or not: the same call repeated with the same idempotency key sends nothing twice.
 */
int slipstream_send(struct slipstream *s, const struct slipstream_send_options *options,
                    const struct slipstream_message *messages, size_t count,
                    struct slipstream_sent_list **out);

struct slipstream_receive_options {
    const char *workflow, *agent;
    uint32_t max;     /* 0: 10 */
    uint32_t wait_ms; /* how long to wait for the first message; 0: not at all */
    const char *const *types;
    size_t type_count; /* 0: all types */
    bool peek;         /* look, and leave everything there */
    uint32_t lease_ms; /* 0: no lease */
};
struct slipstream_messages {
    size_t count;
    const struct slipstream_message *items;
    uint32_t more; /* left behind these: in the mailbox, or of its dead letters */
};
/*
 * The next messages of an agent. 0 and count 0: there was none in time.
 *
 * Without a lease a message leaves the mailbox only after it has arrived here, so one whose reader
 * dies in between comes again, with the next attempt. That also holds when the mailbox is started
 * anew meanwhile: the library tells it what has arrived.
 *
 * Under a lease it stays the mailbox's until it is settled as SLIPSTREAM_ACK with its receipt.
 * Otherwise it comes again at the end of its lease. An answer that comes too late for wait_ms 0
 * rests until then.
 */
int slipstream_receive(struct slipstream *s, const struct slipstream_receive_options *options,
                       struct slipstream_messages **out);

enum slipstream_action {
    SLIPSTREAM_ACK,   /* done: it leaves the mailbox */
    SLIPSTREAM_NACK,  /* back to its place, for the next attempt */
    SLIPSTREAM_EXTEND /* a new lease from now on, under the same receipt */
};
struct slipstream_settling {
    const char *message_id, *receipt;
    enum slipstream_action action;
    uint32_t delay_ms; /* NACK: not handed out earlier */
    uint32_t lease_ms; /* EXTEND; 0: as long as it was given */
};
struct slipstream_settled {
    int error;                 /* SLIPSTREAM_RECEIPT: somebody else may have the message */
    uint64_t lease_expires_ms; /* EXTEND; since 1970 */
};
struct slipstream_settled_list {
    size_t count; /* as many as were to be settled, in their order */
    const struct slipstream_settled *items;
};
/* Settles 1 to 1000 messages of one agent. 0: each was judged on its own, see their errors. */
int slipstream_settle(struct slipstream *s, const char *workflow, const char *agent,
                      const struct slipstream_settling *settlings, size_t count,
                      struct slipstream_settled_list **out);
/* One message as it was received under a lease. The answer is that of the message. */
int slipstream_ack(struct slipstream *s, const char *workflow,
                   const struct slipstream_message *message);
int slipstream_nack(struct slipstream *s, const char *workflow,
                    const struct slipstream_message *message, uint32_t delay_ms);
/* lease_ms 0: as long as it was given. lease_expires_ms: since 1970; may be NULL. */
int slipstream_extend(struct slipstream *s, const char *workflow,
                      const struct slipstream_message *message, uint32_t lease_ms,
                      uint64_t *lease_expires_ms);

enum slipstream_next {
    SLIPSTREAM_NEXT,        /* done with this message, go on (under a lease: ack) */
    SLIPSTREAM_NEXT_RETURN, /* go on; the message goes back (under a lease: nack) */
    SLIPSTREAM_STOP,        /* done with this message, the last one */
    SLIPSTREAM_STOP_RETURN  /* stop; the message goes back (under a lease: nack) */
};
typedef enum slipstream_next slipstream_on_message(void *arg,
                                                   const struct slipstream_message *message);
/*
 * Hands messages to on_message, one after the other in order, until it says stop (0) or a call
 * fails. Waits for messages as long as it takes, over restarts of the mailbox that are shorter than
 * timeout_ms. wait_ms is that of each receive (0: 30 s). on_message may make calls on s.
 *
 * max 0 means 1 here: then no lease runs out behind a slow message, and without leases nothing is
 * lost that was received behind a stop. Under a lease each message is settled as on_message says;
 * that the receipt is stale by then is no failure: the message has gone to somebody else. Without
 * a lease a message is gone once it is here.
 */
int slipstream_follow(struct slipstream *s, const struct slipstream_receive_options *options,
                      slipstream_on_message *on_message, void *arg);

/* ---- many calls at once ---- */

/*
 * The twins of the calls above return at once and end in done: exactly once, and never inside the
 * call that started it, but inside slipstream_turn() or a blocking call on the same handle. Calls
 * that are started together travel together, so one handle with many calls under way carries far
 * more than many blocking callers; sends take effect in the order in which they were started.
 *
 * done gets what the blocking twin would have answered: error, and result (a struct
 * slipstream_sent_list, slipstream_messages, slipstream_settled_list; NULL on failure), which
 * belongs to it: slipstream_free(). It may start calls, and must not block (SLIPSTREAM_INVALID) or
 * close the handle. slipstream_last_error() is that of the call that ended.
 *
 * What goes in is copied. A start fails, without done, with SLIPSTREAM_INVALID,
 * SLIPSTREAM_TOO_LARGE or SLIPSTREAM_BUSY (some 8000 calls under way). slipstream_close() ends what
 * is under way with SLIPSTREAM_CANCELLED.
 */
typedef void slipstream_done(void *arg, int error, void *result);

int slipstream_send_start(struct slipstream *s, const struct slipstream_send_options *options,
                          const struct slipstream_message *messages, size_t count,
                          slipstream_done *done, void *arg);
/* call: for slipstream_receive_stop(); may be NULL. */
int slipstream_receive_start(struct slipstream *s, const struct slipstream_receive_options *options,
                             slipstream_done *done, void *arg, uint64_t *call);
int slipstream_settle_start(struct slipstream *s, const char *workflow, const char *agent,
                            const struct slipstream_settling *settlings, size_t count,
                            slipstream_done *done, void *arg);

/* Waits no longer: done comes soon, with messages if some came first. A call that has ended is
 * fine. */
void slipstream_receive_stop(struct slipstream *s, uint64_t call);

/*
 * Sends what was started, waits up to wait_ms for something to happen (0: not at all, -1: without
 * an end) and calls done for what has ended. Returns how many calls are still under way.
 *
 *     while (slipstream_turn(s, -1) > 0)
 *         ;
 *
 * In a program with a loop of its own: call it with 0 after starting calls, when slipstream_fd()
 * is readable, and when slipstream_wait_ms() have passed. A handle with receives under way needs a
 * turn every few seconds, or the mailbox takes it for dead.
 */
size_t slipstream_turn(struct slipstream *s, int wait_ms);
/* For poll(2) and its like; the same for the life of the handle. */
int slipstream_fd(const struct slipstream *s);
/* Until the next turn is due at the latest; -1: when the descriptor is readable. */
int slipstream_wait_ms(const struct slipstream *s);

/* ---- dead letters ---- */

/* Looks at the dead letters of an agent, oldest first. max 0: 10; after: id of the last message of
 * the page before, NULL: from the oldest on. */
int slipstream_dead_letters(struct slipstream *s, const char *workflow, const char *agent,
                            uint32_t max, const char *after, struct slipstream_messages **out);

struct slipstream_redriven {
    uint32_t moved; /* or dropped */
    uint32_t left;  /* still dead: not named, or no room for them */
};
/* Back to the tail of the mailbox with attempts and life as when they were new; or, with drop,
 * away. message_ids NULL: all; an empty list is SLIPSTREAM_INVALID, not all. out may be NULL. */
int slipstream_redrive(struct slipstream *s, const char *workflow, const char *agent,
                       const char *const *message_ids, size_t count, bool drop,
                       struct slipstream_redriven *out);

/* ---- boxes ---- */

struct slipstream_box {
    uint32_t depth; /* that can be received now */
    uint32_t waiting, oldest_ms, limit_messages;
    uint64_t bytes, limit_bytes;
    uint64_t sent, delivered, expired, rejected, redelivered; /* so far */
    uint32_t unsettled;                                       /* on their way to a reader */
    uint32_t leased, delayed, dead;
    uint32_t kept;           /* written to an event stream, for a reader that comes again */
    uint32_t max_deliveries; /* then a message is dead; 0: never */
    bool drop_oldest;        /* what a full mailbox does: its oldest becomes a dead letter */
};
/* An agent that nobody has written to has an empty mailbox. */
int slipstream_box_get(struct slipstream *s, const char *workflow, const char *agent,
                       struct slipstream_box *out);

#ifdef __cplusplus
}
#endif
#endif
