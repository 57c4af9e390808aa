/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_MAILBOX_MODEL_CHECK_H
#define SLIP_TESTS_MAILBOX_MODEL_CHECK_H

#include "tests/unit/mailbox/model.h"

/* Whether the core says what the model expects. */

/* ---- what was handed out ---- */

static inline void check_view(struct model *m, const struct mbox_view *v, const struct item *k,
                              uint32_t attempt)
{
    unsigned number;

    assert_string_equal(v->letter.id, k->id);
    assert_string_equal(v->target, agent_names[k->box % AGENTS]);
    assert_int_equal(v->attempt, attempt);
    assert_int_equal(v->letter.priority, k->priority);
    assert_int_equal(v->letter.payload_len, k->len);
    assert_int_equal(v->letter.expires_ms, k->expires / MS);
    assert_int_equal(v->letter.group[0], k->group);
    assert_int_equal(v->letter.type[0], k->type);
    buf_clear(&m->f->text);
    assert_int_equal(m->f->store->ops->get(m->f->store, v->letter.payload, &m->f->text), ERR_OK);
    assert_int_equal(sscanf(buf_cstr(&m->f->text), "%u", &number), 1);
    assert_int_equal(m->f->text.len, k->len);
}

static inline void remember_receipt(struct model *m, const struct item *k,
                                    const struct mbox_view *v)
{
    struct receipt *r = &m->receipts[m->receipt_count++ % RECEIPTS];

    *r = (struct receipt){.serial = k->serial,
                          .attempts = k->attempts,
                          .driven = k->driven,
                          .epoch = m->epoch,
                          .box = k->box};
    strcpy(r->id, k->id);
    strcpy(r->text, v->receipt);
}

static inline void hand_out(struct model *m, const struct mbox_action *a, size_t box, uint64_t peer,
                            char type, uint32_t max, uint32_t lease_ms)
{
    struct item *picked[PICKED];
    size_t count = pick(m, box, type, max, picked), i;

    assert_int_equal(a->count, count);
    assert_int_equal(a->delivery != 0, count != 0);
    if (count == 0)
        return;
    for (i = 0; i < count; i++) {
        struct item *k = picked[i];
        const struct mbox_view *v = view(m->f, a, (uint32_t)i);

        m->counts.redelivered += k->attempts++ > 0;
        check_view(m, v, k, k->attempts);
        k->where = OUT;
        k->busy = k->taken = true;
        k->returned = false;
        k->delivery = a->delivery;
        k->held = m->orders++;
        k->lease_ms = lease_ms;
        k->at = lease_ms != 0 ? m->f->now + lease_ms * MS : UINT64_MAX;
        assert_int_equal(v->lease_end_ns, lease_ms != 0 ? k->at : 0);
        assert_int_equal(v->receipt[0] != '\0', lease_ms != 0);
        if (lease_ms != 0)
            remember_receipt(m, k, v);
    }
    assert_true(m->held_len < HELD);
    m->held[m->held_len++] = (struct held){a->delivery, peer, m->f->now + m->limits.settle_ns, box};
}

static inline struct parked *parked_find(struct model *m, uint64_t peer, uint64_t poll)
{
    size_t i;

    for (i = 0; i < POLLS; i++)
        if (m->parked[i].on && m->parked[i].peer == peer && m->parked[i].poll == poll)
            return &m->parked[i];
    fail_msg("nobody waits here");
    return NULL;
}

static inline size_t would_get(struct model *m, const struct parked *w)
{
    struct item *picked[PICKED];

    return pick(m, w->box, w->type, w->max, picked);
}

/* Who ended, ended rightly, and nobody waits who need not. */
static inline void check_poll_ends(struct model *m)
{
    size_t i, j;

    for (i = 0; i < m->f->out.len; i++) {
        const struct mbox_action *a = &m->f->out.items[i];
        struct parked *w;

        if (a->kind != MBOX_POLL_END)
            continue;
        w = parked_find(m, a->peer, a->poll);
        w->on = false;
        if (a->count == 0) {
            assert_true(w->deadline <= m->f->now || (m->closing[w->box] && is_empty(m, w->box)));
            continue;
        }
        for (j = 0; j < POLLS; j++)
            if (m->parked[j].on && m->parked[j].box == w->box && m->parked[j].order < w->order)
                assert_int_equal(would_get(m, &m->parked[j]), 0);
        hand_out(m, a, w->box, w->peer, w->type, w->max, w->lease_ms);
    }
    for (j = 0; j < BOXES; j++)
        for (i = 0; i < POLLS; i++) {
            const struct parked *w = &m->parked[i];

            if (!w->on || w->box != j)
                continue;
            assert_true(w->deadline > m->f->now && !(m->closing[j] && is_empty(m, j)));
            assert_int_equal(would_get(m, w), 0);
        }
    for (j = 0; j < BOXES; j++)
        m->closing[j] = m->closing[j] && !is_empty(m, j);
}

/* ---- sums ---- */

static inline void check_box(struct model *m, size_t box, uint64_t sums[GONE + 1])
{
    struct mbox_box_info info = {0};
    uint64_t n[GONE + 1] = {0}, bytes = 0;
    size_t i;

    for (i = 0; i < m->len; i++) {
        const struct item *k = &m->items[i];

        if (k->box != box)
            continue;
        n[k->where]++;
        bytes += is_live(k) ? k->len : 0;
    }
    mbox_box_find(m->f->core, m->f->now, key_of(box), &info);
    assert_int_equal(info.depth, n[QUEUED]);
    assert_int_equal(info.delayed, n[DELAYED]);
    assert_int_equal(info.unsettled, n[OUT]);
    assert_int_equal(info.leased, n[LEASED]);
    assert_int_equal(info.kept, n[KEPT]);
    assert_int_equal(info.dead, n[DEAD]);
    assert_int_equal(info.bytes, bytes);
    for (i = 0; i <= GONE; i++)
        sums[i] += n[i];
}

static inline void check_all(struct model *m)
{
    struct mbox_totals t = totals(m->f);
    uint64_t n[GONE + 1] = {0};
    size_t i, parked = 0, keys = 0;

    for (i = 0; i < BOXES; i++)
        check_box(m, i, n);
    for (i = 0; i < POLLS; i++)
        parked += m->parked[i].on;
    for (i = 0; i < ANSWERS; i++)
        keys += m->answers[i].on;
    assert_int_equal(t.queued, n[QUEUED]);
    assert_int_equal(t.delayed, n[DELAYED]);
    assert_int_equal(t.unsettled, n[OUT]);
    assert_int_equal(t.leased, n[LEASED]);
    assert_int_equal(t.kept, n[KEPT]);
    assert_int_equal(t.dead_now, n[DEAD]);
    assert_int_equal(t.waiting, parked);
    assert_int_equal(t.keys, keys);
    assert_int_equal(t.sent, m->counts.sent);
    assert_int_equal(t.restored, m->counts.restored);
    assert_int_equal(t.delivered, m->counts.delivered);
    assert_int_equal(t.redelivered, m->counts.redelivered);
    assert_int_equal(t.expired, m->counts.expired);
    assert_int_equal(t.purged, m->counts.purged);
    assert_int_equal(t.dead, m->counts.dead);
    assert_int_equal(t.redriven, m->counts.redriven);
    assert_int_equal(t.forgotten, m->counts.forgotten);
    assert_int_equal(t.sent + t.restored, t.delivered + t.purged + t.forgotten + t.queued +
                                              t.delayed + t.unsettled + t.leased + t.kept +
                                              t.dead_now);
    assert_true(n[NEW] == 0 || mbox_needs_commit(m->f->core));
    assert_true(t.bytes != 0 || t.queued + t.unsettled + t.dead_now == 0);
}

#endif
