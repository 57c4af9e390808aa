/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_MAILBOX_FIXTURE_H
#define SLIP_TESTS_MAILBOX_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/must.h"
#include "mailbox/core.h"

#define MS UINT64_C(1000000)
#define SEC (1000 * MS)

/* A core with a clock that tests move, and short words for its events. Tenant "t". */
struct fixture {
    struct mbox_store *store;
    struct mbox_core *core;
    struct mbox_actions out;
    struct mbox_action sent; /* the last one; its names: */
    char names[64][64];
    uint64_t now;
    struct buf text;
};

static inline uint64_t stored_bytes(const struct fixture *f)
{
    struct mbox_store_stats stats;

    f->store->ops->stats(f->store, &stats);
    return stats.payload_bytes;
}

static inline struct mbox_limits fixture_limits(void)
{
    return (struct mbox_limits){
        .max_boxes = 100,
        .max_agents = 50,
        .box_messages = 10,
        .max_waiting = 20,
        .box_bytes = 4096,
        .total_bytes = 1 << 20,
        .max_payload_bytes = 2048,
        .ttl_ns = 100 * SEC,
        .max_wait_ns = 60 * SEC,
        .idle_ns = 1800 * SEC,
        .settle_ns = 60 * SEC,
        .dead_messages = 5,
        .dead_ttl_ns = 1000 * SEC,
        .max_lease_ns = 600 * SEC,
        .max_keep_ns = 60 * SEC,
        .key_window_ns = 300 * SEC,
        .max_keys = 10,
    };
}

static inline struct fixture *fixture_new(struct mbox_limits limits)
{
    struct fixture *f = calloc(1, sizeof(*f));

    must(f != NULL);
    f->store = store_memory_open(256);
    f->core = mbox_new(&limits, f->store, 42);
    f->now = 1000 * SEC;
    return f;
}

static inline void fixture_free(struct fixture *f)
{
    mbox_free(f->core);
    f->store->ops->close(f->store);
    mbox_actions_fini(&f->out);
    buf_fini(&f->text);
    free(f);
}

static inline void step(struct fixture *f, const struct mbox_event *e)
{
    mbox_step(f->core, f->now, e, &f->out);
}

static inline void tick(struct fixture *f, uint64_t ns)
{
    struct mbox_event e = {.kind = MBOX_TICK};

    f->now += ns;
    step(f, &e);
}

static inline const struct mbox_action *reply(const struct fixture *f)
{
    size_t i;

    for (i = 0; i < f->out.len; i++)
        if (f->out.items[i].kind == MBOX_REPLY)
            return &f->out.items[i];
    fail_msg("no reply");
    return NULL;
}

/* The nth MBOX_POLL_END, NULL when there are fewer. */
static inline const struct mbox_action *poll_end(const struct fixture *f, size_t nth)
{
    size_t i;

    for (i = 0; i < f->out.len; i++)
        if (f->out.items[i].kind == MBOX_POLL_END && nth-- == 0)
            return &f->out.items[i];
    return NULL;
}

static inline const struct mbox_view *view(const struct fixture *f, const struct mbox_action *a,
                                           uint32_t i)
{
    assert_true(i < a->count);
    return &f->out.views[a->first + i];
}

/* The payload as a C string, valid until the next call. */
static inline const char *payload(struct fixture *f, const struct mbox_action *a, uint32_t i)
{
    buf_clear(&f->text);
    assert_int_equal(f->store->ops->get(f->store, view(f, a, i)->letter.payload, &f->text), ERR_OK);
    return buf_cstr(&f->text);
}

static inline void commit(struct fixture *f, bool ok)
{
    struct mbox_event e = {.kind = MBOX_COMMIT};

    if (ok)
        assert_int_equal(f->store->ops->commit(f->store), ERR_OK);
    e.commit.ok = ok;
    step(f, &e);
}

struct sending {
    const char *workflow, *from, *to, *type, *payload, *group, *key, *id;
    uint32_t ttl_ms, priority, delay_ms;
    bool uncommitted;
    const char *const *agents;
    size_t agent_count;
};

static inline const struct mbox_action *send_as(struct fixture *f, struct sending s)
{
    struct mbox_draft d = {
        .source = s.from != NULL ? s.from : "src",
        .target = s.to,
        .type = s.type != NULL ? s.type : "task",
        .payload = s.payload,
        .payload_len = strlen(s.payload),
        .message_id = s.id,
        .group = s.group,
        .priority = s.priority,
        .ttl_ms = s.ttl_ms,
        .delay_ms = s.delay_ms,
    };
    struct mbox_event e = {.kind = MBOX_SEND};
    size_t i = 0;

    e.send.idempotency_key = s.key;
    e.send.tenant = "t";
    e.send.workflow = s.workflow != NULL ? s.workflow : "w";
    e.send.drafts = &d;
    e.send.draft_count = 1;
    e.send.agents = s.agents;
    e.send.agent_count = s.agent_count;
    e.send.wall_ms = f->now / MS;
    step(f, &e);
    while (i < f->out.len && f->out.items[i].kind == MBOX_POLL_END)
        i++;
    assert_true(i < f->out.len);
    f->sent = f->out.items[i];
    for (i = 0; i < f->sent.count && i < 64; i++)
        snprintf(f->names[i], sizeof(f->names[i]), "%s", f->out.names[f->sent.first + i]);
    if (!s.uncommitted)
        commit(f, true);
    return &f->sent;
}

static inline enum err send_to(struct fixture *f, const char *to, const char *text)
{
    return send_as(f, (struct sending){.to = to, .payload = text})->err;
}

struct reading {
    const char *workflow, *agent;
    uint64_t peer, poll;
    uint32_t max, wait_ms;
    const char *const *types;
    size_t type_count;
    bool peek;
    uint32_t lease_ms;
    const char *resume_after;
};

static inline const struct mbox_action *receive_as(struct fixture *f, struct reading r)
{
    struct mbox_event e = {.kind = MBOX_RECEIVE, .peer = r.peer};

    e.receive.box = (struct mbox_key){"t", r.workflow != NULL ? r.workflow : "w", r.agent};
    e.receive.max = r.max;
    e.receive.wait_ms = r.wait_ms;
    e.receive.poll = r.poll;
    e.receive.types = r.types;
    e.receive.type_count = r.type_count;
    e.receive.peek = r.peek;
    e.receive.lease_ms = r.lease_ms;
    e.receive.resume_after = r.resume_after;
    e.receive.settle = true;
    step(f, &e);
    return reply(f);
}

static inline const struct mbox_action *receive(struct fixture *f, const char *agent, uint32_t max)
{
    return receive_as(f, (struct reading){.agent = agent, .peer = 1, .max = max});
}

static inline enum err park(struct fixture *f, const char *agent, uint64_t peer, uint64_t poll,
                            uint32_t wait_ms)
{
    const struct mbox_action *a = receive_as(
        f, (struct reading){.agent = agent, .peer = peer, .poll = poll, .wait_ms = wait_ms});

    assert_int_equal(a->parked, a->err == ERR_OK);
    return a->err;
}

static inline enum err settle(struct fixture *f, uint64_t peer, uint64_t delivery, bool done)
{
    struct mbox_event e = {.kind = MBOX_SETTLE, .peer = peer};

    e.settle.delivery = delivery;
    e.settle.done = done;
    step(f, &e);
    return reply(f)->err;
}

static inline enum err ack(struct fixture *f, const char *agent, struct mbox_ack a)
{
    struct mbox_event e = {.kind = MBOX_ACK};

    e.ack.box = (struct mbox_key){"t", "w", agent};
    e.ack.acks = &a;
    e.ack.ack_count = 1;
    e.ack.wall_ms = f->now / MS;
    step(f, &e);
    assert_true(f->out.len >= 1 && f->out.items[0].kind == MBOX_ACKED);
    return f->out.items[0].err;
}

/* What is needed to speak of a leased message later. */
struct leased {
    char id[300], receipt[MBOX_RECEIPT_MAX];
    uint64_t delivery;
};

static inline struct leased lease(struct fixture *f, const char *agent, uint32_t lease_ms)
{
    const struct mbox_action *a =
        receive_as(f, (struct reading){.agent = agent, .peer = 1, .max = 1, .lease_ms = lease_ms});
    struct leased l = {.delivery = a->delivery};

    assert_int_equal(a->count, 1);
    snprintf(l.id, sizeof(l.id), "%s", view(f, a, 0)->letter.id);
    strcpy(l.receipt, view(f, a, 0)->receipt);
    return l;
}

static inline enum err ack_leased(struct fixture *f, const char *agent, const struct leased *l,
                                  enum mbox_ack_kind kind)
{
    return ack(f, agent,
               (struct mbox_ack){.message_id = l->id, .receipt = l->receipt, .kind = kind});
}

static inline struct mbox_box_info box_info(const struct fixture *f, const char *agent)
{
    struct mbox_box_info info = {0};

    mbox_box_find(f->core, f->now, (struct mbox_key){"t", "w", agent}, &info);
    return info;
}

static inline const struct mbox_action *list_dead(struct fixture *f, const char *agent,
                                                  uint32_t max, const char *after)
{
    struct mbox_event e = {.kind = MBOX_DEAD};

    e.dead.box = (struct mbox_key){"t", "w", agent};
    e.dead.max = max;
    e.dead.after = after;
    step(f, &e);
    return reply(f);
}

static inline const struct mbox_action *redrive(struct fixture *f, const char *agent,
                                                const char *id, bool drop)
{
    struct mbox_event e = {.kind = MBOX_REDRIVE};

    e.redrive.box = (struct mbox_key){"t", "w", agent};
    e.redrive.message_ids = &id;
    e.redrive.id_count = id != NULL;
    e.redrive.drop = drop;
    step(f, &e);
    return reply(f);
}

static inline void peer_gone(struct fixture *f, uint64_t peer)
{
    struct mbox_event e = {.kind = MBOX_PEER_GONE, .peer = peer};

    step(f, &e);
}

static inline const struct mbox_action *close_workflow(struct fixture *f, const char *workflow,
                                                       bool purge)
{
    struct mbox_event e = {.kind = MBOX_CLOSE};

    e.close.tenant = "t";
    e.close.workflow = workflow;
    e.close.purge = purge;
    step(f, &e);
    return reply(f);
}

static inline struct mbox_totals totals(const struct fixture *f)
{
    struct mbox_totals t;

    mbox_totals(f->core, &t);
    return t;
}

#endif
