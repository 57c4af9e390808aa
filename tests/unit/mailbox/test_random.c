/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/fixture.h"

#include <stdbool.h>
#include <stdio.h>

/*
 * Random events against a simple model. The model knows each copy by (box, number in its payload)
 * and what may happen to it; the core must never hand out something else.
 */
#define EVENTS 200000
#define WORKFLOWS 3
#define AGENTS 4
#define BOXES (WORKFLOWS * AGENTS)
#define PEERS 3
#define POLLS 64
#define HELD 512

enum where { QUEUED, HANDED_OUT, LEFT };

struct item {
    uint32_t number;
    unsigned attempts;
    uint64_t expires, delivery;
    enum where where;
    char type;
    size_t len;
};

struct pile {
    struct item *items; /* all that ever came in, in order; those that left first are cut off */
    size_t len, cap, first;
};

struct parked {
    bool on;
    size_t box;
    uint64_t peer, poll, order, deadline;
    uint32_t max;
    char type; /* 0: any */
};

struct held {
    uint64_t id, peer, deadline;
    size_t box;
};

struct model {
    struct fixture *f;
    uint64_t random, order, numbers;
    struct mbox_limits limits;
    struct pile piles[BOXES];
    struct parked parked[POLLS];
    struct held held[HELD];
    size_t held_count;
    uint64_t sent, delivered, expired, purged;
};

static const char *const agents[AGENTS] = {"a", "b", "c", "d"};
static const char *const workflows[WORKFLOWS] = {"u", "v", "w"};
static const char *const types[2] = {"x", "y"};

static uint64_t draw(struct model *m, uint64_t below)
{
    m->random = m->random * 6364136223846793005u + 1442695040888963407u;
    return (m->random >> 33) % below;
}

static void item_add(struct model *m, size_t box, struct item item)
{
    struct pile *p = &m->piles[box];

    if (p->len == p->cap) {
        p->cap = p->cap != 0 ? p->cap * 2 : 64;
        p->items = realloc(p->items, p->cap * sizeof(p->items[0]));
        assert_non_null(p->items);
    }
    p->items[p->len++] = item;
    m->sent++;
}

static void return_held(struct model *m, size_t at)
{
    struct pile *p = &m->piles[m->held[at].box];
    size_t i;

    for (i = p->first; i < p->len; i++)
        if (p->items[i].where == HANDED_OUT && p->items[i].delivery == m->held[at].id)
            p->items[i].where = QUEUED;
    m->held[at] = m->held[--m->held_count];
}

/* What time alone does. */
static void expire_all(struct model *m)
{
    size_t i, j;

    for (i = m->held_count; i > 0; i--)
        if (m->held[i - 1].deadline <= m->f->now)
            return_held(m, i - 1);
    for (i = 0; i < BOXES; i++) {
        struct pile *p = &m->piles[i];

        for (j = p->first; j < p->len; j++)
            if (p->items[j].where == QUEUED && p->items[j].expires <= m->f->now) {
                p->items[j].where = LEFT;
                m->expired++;
            }
        while (p->first < p->len && p->items[p->first].where == LEFT)
            p->first++;
    }
}

static bool matches(char wanted, char type)
{
    return wanted == 0 || wanted == type;
}

/* A hand-out must be exactly the first messages of the box that match. */
static void check_views(struct model *m, const struct mbox_action *a, size_t box, uint64_t peer,
                        char type, uint32_t max, bool peek)
{
    struct pile *p = &m->piles[box];
    uint32_t i, number;
    size_t at = p->first;

    assert_true(a->count <= max);
    for (i = 0; i < a->count; i++) {
        const struct mbox_view *v = view(m->f, a, i);
        struct item *k;

        while (at < p->len && !(p->items[at].where == QUEUED && matches(type, p->items[at].type)))
            at++;
        assert_true(at < p->len);
        k = &p->items[at++];
        assert_int_equal(sscanf(payload(m->f, a, i), "%u", &number), 1);
        assert_int_equal(number, k->number);
        assert_int_equal(v->letter.payload_len, k->len);
        assert_string_equal(v->target, agents[box % AGENTS]);
        assert_int_equal(v->attempt, k->attempts + (peek ? 0 : 1));
        if (peek)
            continue;
        k->attempts++;
        k->where = HANDED_OUT;
        k->delivery = a->delivery;
    }
    if (a->count > 0 && !peek) {
        assert_true(m->held_count < HELD);
        m->held[m->held_count++] =
            (struct held){a->delivery, peer, m->f->now + m->limits.settle_ns, box};
    }
}

static struct parked *parked_find(struct model *m, uint64_t peer, uint64_t poll)
{
    size_t i;

    for (i = 0; i < POLLS; i++)
        if (m->parked[i].on && m->parked[i].peer == peer && m->parked[i].poll == poll)
            return &m->parked[i];
    return NULL;
}

static void check_poll_ends(struct model *m)
{
    size_t i, j;

    for (i = 0; i < m->f->out.len; i++) {
        const struct mbox_action *a = &m->f->out.items[i];
        struct parked *w;

        if (a->kind != MBOX_POLL_END)
            continue;
        w = parked_find(m, a->peer, a->poll);
        assert_non_null(w);
        w->on = false;
        check_views(m, a, w->box, w->peer, w->type, w->max, false);
        if (a->count == 0)
            continue;
        for (j = 0; j < POLLS; j++) /* nobody who asked earlier for the same was passed over */
            if (m->parked[j].on && m->parked[j].box == w->box)
                assert_false(m->parked[j].order < w->order &&
                             (m->parked[j].type == 0 || m->parked[j].type == w->type));
    }
}

static void check_all(struct model *m)
{
    struct mbox_totals t = totals(m->f);
    uint64_t queued = 0, handed_out = 0;
    size_t i, j, parked = 0;

    for (i = 0; i < BOXES; i++) {
        struct mbox_key key = {"t", workflows[i / AGENTS], agents[i % AGENTS]};
        struct mbox_box_info info = {0};
        struct pile *p = &m->piles[i];
        uint64_t depth = 0, out = 0, bytes = 0;

        for (j = p->first; j < p->len; j++) {
            depth += p->items[j].where == QUEUED;
            out += p->items[j].where == HANDED_OUT;
            bytes += p->items[j].where == LEFT ? 0 : p->items[j].len;
        }
        mbox_box_find(m->f->core, m->f->now, key, &info);
        assert_int_equal(info.depth, depth);
        assert_int_equal(info.unsettled, out);
        assert_int_equal(info.bytes, bytes);
        assert_true(depth + out <= m->limits.box_messages && bytes <= m->limits.box_bytes);
        queued += depth;
        handed_out += out;
    }
    for (i = 0; i < POLLS; i++)
        parked += m->parked[i].on;
    assert_int_equal(t.queued, queued);
    assert_int_equal(t.unsettled, handed_out);
    assert_int_equal(t.waiting, parked);
    assert_int_equal(t.sent, m->sent);
    assert_int_equal(t.delivered, m->delivered);
    assert_int_equal(t.expired, m->expired);
    assert_int_equal(t.purged, m->purged);
    assert_int_equal(t.sent, t.delivered + t.expired + t.purged + t.queued + t.unsettled);
    assert_true(t.bytes <= m->limits.total_bytes);
    assert_true(t.queued + t.unsettled > 0 || t.bytes == 0);
}

static void random_send(struct model *m)
{
    size_t workflow = draw(m, WORKFLOWS), i, j;
    const char *target = draw(m, 6) == 0 ? "*" : agents[draw(m, AGENTS)];
    const char *type = types[draw(m, 2)];
    uint32_t ttl_ms = (uint32_t)(1 + draw(m, 30000));
    char text[3000];
    size_t len = 8 + draw(m, draw(m, 10) == 0 ? 2900 : 60);
    const struct mbox_action *a;

    memset(text, ' ', sizeof(text));
    text[snprintf(text, 9, "%8u", (unsigned)m->numbers)] = ' ';
    text[len] = '\0';
    a = send_as(m->f, (struct sending){.workflow = workflows[workflow],
                                       .from = "a",
                                       .to = target,
                                       .type = type,
                                       .payload = text,
                                       .ttl_ms = ttl_ms});
    if (a->err != ERR_OK) {
        assert_int_equal(a->count, 0);
        assert_true(a->err == ERR_MAILBOX_FULL || a->err == ERR_TOO_LARGE);
        m->numbers++;
        return;
    }
    for (i = 0; i < a->count; i++)
        for (j = 0; j < AGENTS; j++)
            if (strcmp(m->f->names[i], agents[j]) == 0)
                item_add(m, workflow * AGENTS + j,
                         (struct item){.number = (uint32_t)m->numbers,
                                       .expires = m->f->now + ttl_ms * MS,
                                       .type = type[0],
                                       .len = len});
    m->numbers++;
}

static void random_receive(struct model *m)
{
    size_t box = draw(m, BOXES);
    struct parked *w = &m->parked[draw(m, POLLS)];
    size_t type = draw(m, 4);
    struct reading r = {.workflow = workflows[box / AGENTS],
                        .agent = agents[box % AGENTS],
                        .peer = 1 + draw(m, PEERS),
                        .max = (uint32_t)(1 + draw(m, 5)),
                        .types = type < 2 ? &types[type] : NULL,
                        .type_count = type < 2,
                        .peek = draw(m, 8) == 0};
    const struct mbox_action *a;
    char wanted = type < 2 ? types[type][0] : 0;

    if (!w->on && draw(m, 2) == 0) {
        r.poll = (uint64_t)(w - m->parked) + 1;
        r.wait_ms = (uint32_t)(1 + draw(m, 20000));
    }
    a = receive_as(m->f, r);
    check_views(m, a, box, r.peer, wanted, r.max, r.peek);
    if (!a->parked) {
        assert_true(a->err == ERR_OK || a->err == ERR_BUSY);
        return;
    }
    assert_int_equal(a->count, 0);
    *w = (struct parked){true, box, r.peer, r.poll, m->order++, 0, r.max, wanted};
}

static void random_settle(struct model *m)
{
    size_t at, i;
    struct held h;
    bool done = draw(m, 3) != 0;
    struct pile *p;

    if (m->held_count == 0) {
        tick(m->f, 0);
        return;
    }
    at = draw(m, m->held_count);
    h = m->held[at];
    p = &m->piles[h.box];
    if (!done) {
        return_held(m, at);
        expire_all(m);
        assert_int_equal(settle(m->f, h.peer, h.id, false), ERR_OK);
        return;
    }
    m->held[at] = m->held[--m->held_count];
    for (i = p->first; i < p->len; i++)
        if (p->items[i].where == HANDED_OUT && p->items[i].delivery == h.id) {
            p->items[i].where = LEFT;
            m->delivered++;
        }
    assert_int_equal(settle(m->f, h.peer, h.id, true), ERR_OK);
}

static void random_peer_gone(struct model *m)
{
    uint64_t peer = 1 + draw(m, PEERS);
    size_t i;

    for (i = 0; i < POLLS; i++)
        if (m->parked[i].peer == peer)
            m->parked[i].on = false;
    for (i = m->held_count; i > 0; i--)
        if (m->held[i - 1].peer == peer)
            return_held(m, i - 1);
    expire_all(m);
    peer_gone(m->f, peer);
}

static void random_close(struct model *m)
{
    size_t workflow = draw(m, WORKFLOWS), i, j;
    bool purge = draw(m, 2) == 0;

    close_workflow(m->f, workflows[workflow], purge);
    for (i = workflow * AGENTS; purge && i < (workflow + 1) * AGENTS; i++) {
        struct pile *p = &m->piles[i];

        for (j = p->first; j < p->len; j++)
            if (p->items[j].where != LEFT) {
                p->items[j].where = LEFT;
                m->purged++;
            }
    }
    for (i = m->held_count; purge && i > 0; i--)
        if (m->held[i - 1].box / AGENTS == workflow)
            m->held[i - 1] = m->held[--m->held_count];
}

/* Time moves first, by a tick of its own, so that the model knows what it did before the event. */
static void random_event(struct model *m)
{
    uint64_t what = draw(m, 1000);

    m->f->now += draw(m, 20) == 0 ? draw(m, 8000) * MS : draw(m, 3) * MS;
    expire_all(m);
    tick(m->f, 0);
    check_poll_ends(m);
    if (what < 450)
        random_send(m);
    else if (what < 720)
        random_receive(m);
    else if (what < 990)
        random_settle(m);
    else if (what < 996)
        random_peer_gone(m);
    else
        random_close(m);
    check_poll_ends(m);
    expire_all(m);
}

static void run(uint64_t seed, unsigned events)
{
    static struct model m;
    struct mbox_change change;
    unsigned i;

    memset(&m, 0, sizeof(m));
    m.limits = fixture_limits();
    m.limits.box_messages = 20;
    m.limits.box_bytes = 6000;
    m.limits.total_bytes = 20000;
    m.limits.settle_ns = 10 * SEC;
    m.limits.idle_ns = 4 * SEC;
    m.limits.dead_messages = 0;
    m.f = fixture_new(m.limits);
    m.random = seed;
    for (i = 0; i < events; i++) {
        random_event(&m);
        check_all(&m);
        if (i % 64 == 0)
            while (mbox_take_change(m.f->core, &change))
                *change.user = change.gone ? NULL : &m;
    }
    assert_true(m.delivered > events / 20 && m.expired > 0 && m.purged > 0);
    for (i = 0; i < BOXES; i++)
        free(m.piles[i].items);
    fixture_free(m.f);
}

static void no_message_is_lost_doubled_or_out_of_order(void **state)
{
    (void)state;
    run(1, EVENTS / 2);
    run(2, EVENTS / 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_message_is_lost_doubled_or_out_of_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
