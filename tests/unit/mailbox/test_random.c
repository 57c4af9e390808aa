/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/unit/mailbox/model_check.h"

/*
 * Random events of all kinds against the model: the core must say exactly what the model expects,
 * over commits that fail and restarts at any moment, and the counts must add up after each event.
 */
#define EVENTS 20000u

/* ---- sending ---- */

static void item_new(struct model *m, size_t box, const struct sending *s, size_t len)
{
    struct item *k = &m->items[m->len++];

    assert_true(m->len < ITEMS);
    *k = (struct item){.serial = m->serials++,
                       .box = box,
                       .len = len,
                       .where = NEW,
                       .priority = s->priority,
                       .ttl_ms = s->ttl_ms,
                       .delay_ms = s->delay_ms,
                       .created = m->f->now,
                       .place = m->places++,
                       .expires = m->f->now + s->ttl_ms * MS,
                       .at = UINT64_MAX,
                       .type = s->type[0],
                       .group = s->group != NULL ? s->group[0] : '\0'};
    strcpy(k->id, m->f->sent.message_id);
    tell(m, k, s->delay_ms != 0 ? m->f->now + s->delay_ms * MS : 0);
    m->closing[box] = false;
}

static struct known_answer *answer_of(struct model *m, size_t workflow, unsigned key)
{
    size_t i;

    for (i = 0; i < ANSWERS; i++)
        if (m->answers[i].on && m->answers[i].workflow == workflow && m->answers[i].key == key)
            return &m->answers[i];
    return NULL;
}

static void remember_answer(struct model *m, size_t workflow, unsigned key, unsigned body)
{
    struct known_answer *a = m->answers;

    while (a->on)
        a++;
    assert_true(a < m->answers + ANSWERS);
    *a = (struct known_answer){.on = true,
                               .workflow = workflow,
                               .key = key,
                               .body = body,
                               .err = m->f->sent.err,
                               .count = m->f->sent.count,
                               .expires = m->f->now + m->limits.key_window_ns,
                               .order = m->orders++};
    strcpy(a->id, m->f->sent.message_id);
    rank_keys(m);
}

static void check_replay(struct model *m, const struct known_answer *a, unsigned body)
{
    if (a->body != body) {
        assert_int_equal(m->f->sent.kind, MBOX_REPLY);
        assert_int_equal(m->f->sent.err, ERR_IDEMPOTENCY);
        m->seen[5]++;
        return;
    }
    assert_true(m->f->sent.replayed);
    assert_int_equal(m->f->sent.err, a->err);
    assert_int_equal(m->f->sent.count, a->count);
    assert_string_equal(m->f->sent.message_id, a->id);
    m->seen[6]++;
}

static void take_in(struct model *m, size_t workflow, const struct sending *s, size_t len)
{
    size_t i, j;

    for (i = 0; i < m->f->sent.count; i++)
        for (j = 0; j < AGENTS; j++)
            if (strcmp(m->f->names[i], agent_names[j]) == 0) {
                item_new(m, workflow * AGENTS + j, s, len);
            }
}

/* With a key, everything about the message follows from its body's number: the same is the same. */
static void random_send(struct model *m)
{
    static const char *const groups[] = {"g", "h"}, *const types[] = {"x", "y", "z"};
    size_t workflow = draw(m, WORKFLOWS), agent = draw(m, AGENTS), len;
    bool keyed = draw(m, 8) == 0, to_all = draw(m, 8) == 0, room;
    unsigned key = (unsigned)draw(m, 12), body = (unsigned)draw(m, keyed ? 2 : 1000000);
    char key_text[16], text[400];
    struct sending s = {.workflow = workflow_names[workflow],
                        .from = "a",
                        .to = to_all ? "*" : agent_names[agent],
                        .type = types[body % 3],
                        .group = body % 3 == 0 ? NULL : groups[body % 2],
                        .priority = body % 5 == 0 ? body / 5 % 10 : 4,
                        .ttl_ms = keyed ? 5000 : 1 + (uint32_t)draw(m, 20000),
                        .delay_ms = keyed || draw(m, 6) != 0 ? 0 : 1 + (uint32_t)draw(m, 3000),
                        .payload = text,
                        .uncommitted = true};
    const struct known_answer *known = keyed ? answer_of(m, workflow, key) : NULL;

    if (keyed) {
        snprintf(key_text, sizeof(key_text), "key-%u", key);
        s.key = key_text;
        s.to = agent_names[key % AGENTS];
        to_all = false;
        agent = key % AGENTS;
    }
    len = 9 + (keyed ? body : draw(m, draw(m, 10) == 0 ? 390 : 40));
    memset(text, ' ', sizeof(text));
    text[snprintf(text, 9, "%8u", body)] = ' ';
    text[len] = '\0';
    durable_of(m->f->store)->fail_append = draw(m, 100) == 0;
    room = has_room(m, workflow * AGENTS + agent, len);
    send_as(m->f, s);
    if (known != NULL) {
        check_replay(m, known, body);
    } else if (m->f->sent.err == ERR_OK) {
        assert_true(to_all || (room && m->f->sent.count == 1));
        take_in(m, workflow, &s, len);
        if (keyed)
            remember_answer(m, workflow, key, body);
    } else if (m->f->sent.err == ERR_STORE) {
        assert_true(durable_of(m->f->store)->fail_append);
    } else {
        assert_int_equal(m->f->sent.err, ERR_MAILBOX_FULL);
        assert_true(to_all || !room);
        m->seen[7]++;
    }
    durable_of(m->f->store)->fail_append = false;
}

/* ---- receiving ---- */

static void resume_model(struct model *m, size_t box, const char *after)
{
    struct item *last = NULL, *k;
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].box == box && m->items[i].where == KEPT &&
            strcmp(m->items[i].id, after) == 0)
            last = &m->items[i];
    while (last != NULL) { /* in the order in which they were kept */
        k = NULL;
        for (i = 0; i < m->len; i++)
            if (m->items[i].box == box && m->items[i].where == KEPT &&
                m->items[i].kept > last->kept && (k == NULL || m->items[i].kept < k->kept))
                k = &m->items[i];
        m->seen[8]++;
        if (k == NULL)
            break;
        come_back(m, k, 0, false);
    }
}

static void check_peek(struct model *m, const struct mbox_action *a, size_t box, char type,
                       uint32_t max)
{
    struct item *picked[PICKED];
    size_t count = pick(m, box, type, max, picked), i;

    assert_int_equal(a->count, count);
    assert_int_equal(a->delivery, 0);
    for (i = 0; i < count; i++)
        check_view(m, view(m->f, a, (uint32_t)i), picked[i], picked[i]->attempts);
}

static const struct item *any_kept(struct model *m)
{
    size_t start = draw(m, m->len + 1), i;

    for (i = start; i < m->len; i++)
        if (m->items[i].where == KEPT)
            return &m->items[i];
    return NULL;
}

static void random_receive(struct model *m)
{
    static const char *const types[] = {"x", "y", "z"};
    const struct item *kept = draw(m, 4) == 0 ? any_kept(m) : NULL;
    size_t box = kept != NULL ? kept->box : draw(m, BOXES), type = draw(m, 6);
    struct parked *w = &m->parked[draw(m, POLLS)];
    char wanted = type < 3 ? types[type][0] : 0;
    char after[32] = "";
    struct reading r = {.workflow = workflow_names[box / AGENTS],
                        .agent = agent_names[box % AGENTS],
                        .peer = 1 + draw(m, PEERS),
                        .max = (uint32_t)(1 + draw(m, 6)),
                        .types = type < 3 ? &types[type] : NULL,
                        .type_count = type < 3,
                        .lease_ms = draw(m, 2) == 0 ? (uint32_t)(1 + draw(m, 4000)) : 0,
                        .peek = draw(m, 8) == 0};
    const struct mbox_action *a;

    if (kept != NULL)
        strcpy(after, kept->id);
    r.resume_after = after;
    if (!w->on && draw(m, 2) == 0) {
        r.poll = (uint64_t)(w - m->parked) + 1;
        r.wait_ms = (uint32_t)(1 + draw(m, 20000));
    }
    a = receive_as(m->f, r);
    assert_int_equal(a->err, ERR_OK);
    if (r.peek) {
        check_peek(m, a, box, wanted, r.max);
        return;
    }
    if (kept != NULL)
        resume_model(m, box, after);
    hand_out(m, a, box, r.peer, wanted, r.max, r.lease_ms);
    assert_int_equal(a->parked, a->count == 0 && r.wait_ms != 0);
    if (a->parked)
        *w = (struct parked){true,   box,         r.peer,
                             r.poll, m->orders++, m->f->now + r.wait_ms * MS,
                             r.max,  r.lease_ms,  wanted};
}

static void random_settle(struct model *m)
{
    struct mbox_event e = {.kind = MBOX_SETTLE};
    struct item *k;
    size_t at;

    if (m->held_len == 0)
        return;
    at = draw(m, m->held_len);
    e.peer = m->held[at].peer;
    e.settle.delivery = m->held[at].id;
    e.settle.done = draw(m, 3) != 0;
    e.settle.keep_ms = draw(m, 3) == 0 ? (uint32_t)draw(m, 5000) : 0;
    step(m->f, &e);
    assert_int_equal(reply(m->f)->err, ERR_OK);
    if (!e.settle.done) {
        return_held(m, at);
        return;
    }
    while ((k = first_of(m, m->held[at].id)) != NULL) {
        if (k->lease_ms != 0) {
            k->where = LEASED;
        } else if (e.settle.keep_ms != 0 && !m->closing[k->box]) {
            k->where = KEPT;
            k->busy = false;
            k->kept = m->orders++;
            k->at = m->f->now + e.settle.keep_ms * MS;
            tell(m, k, 0);
            k->told.kept_until = k->at;
            k->told.kept = k->kept;
        } else {
            done(m, k);
        }
    }
    end_held(m, at);
}

/* ---- receipts ---- */

static enum err ack_model(struct model *m, const struct receipt *r, const struct mbox_ack *a)
{
    struct item *k = NULL;
    bool leased;
    size_t i;

    for (i = 0; i < m->len; i++)
        if (m->items[i].serial == r->serial && m->items[i].where != GONE)
            k = &m->items[i];
    if (k == NULL || k->where == NEW || k->where == KEPT)
        return ERR_RECEIPT;
    if (r->epoch == m->epoch) {
        if (!k->taken || k->returned || r->attempts != k->attempts || r->driven != k->driven)
            return ERR_RECEIPT;
    } else if (k->taken || !k->restored ||
               (r->attempts != k->attempts && r->attempts != k->attempts + 1)) {
        return ERR_RECEIPT;
    }
    leased = (k->where == OUT || k->where == LEASED) && k->lease_ms != 0;
    if (!leased && (k->where == OUT || a->kind != MBOX_ACK_DONE))
        return ERR_RECEIPT;
    m->seen[9]++;
    m->seen[10] += r->epoch != m->epoch;
    m->seen[11] += !leased;
    if (a->kind == MBOX_ACK_DONE)
        done(m, k);
    else if (a->kind == MBOX_ACK_RETURN)
        come_back(m, k, a->delay_ms, true);
    else {
        k->lease_ms = a->lease_ms != 0 ? a->lease_ms : k->lease_ms;
        k->at = m->f->now + k->lease_ms * MS;
    }
    return ERR_OK;
}

static void random_ack(struct model *m)
{
    const struct receipt *r[3];
    struct mbox_ack acks[3];
    struct mbox_event e = {.kind = MBOX_ACK};
    size_t known = m->receipt_count < RECEIPTS ? m->receipt_count : RECEIPTS, i;

    if (known == 0)
        return;
    r[0] = &m->receipts[draw(m, known)];
    for (i = 0; i < 3; i++) {
        r[i] = &m->receipts[draw(m, known)];
        if (r[i]->box != r[0]->box)
            break;
        acks[i] = (struct mbox_ack){.message_id = r[i]->id,
                                    .receipt = r[i]->text,
                                    .kind = (enum mbox_ack_kind)draw(m, 3),
                                    .delay_ms = draw(m, 2) == 0 ? (uint32_t)draw(m, 3000) : 0,
                                    .lease_ms = draw(m, 2) == 0 ? (uint32_t)draw(m, 3000) : 0};
    }
    e.ack.box = key_of(r[0]->box);
    e.ack.acks = acks;
    e.ack.ack_count = i;
    e.ack.wall_ms = m->f->now / MS;
    step(m->f, &e);
    for (i = 0; i < e.ack.ack_count; i++) {
        assert_int_equal(m->f->out.items[i].kind, MBOX_ACKED);
        assert_int_equal(m->f->out.items[i].err, ack_model(m, r[i], &acks[i]));
    }
}

static void random_hold(struct model *m)
{
    struct mbox_event e = {.kind = MBOX_HOLD, .peer = 1 + draw(m, PEERS)};
    struct item *held[3];
    const char *ids[4] = {"nobody"};
    size_t box = draw(m, BOXES), count = 0, i;

    for (i = 0; i < m->len && count < 3; i++)
        if (m->items[i].box == box && m->items[i].where == QUEUED && draw(m, 3) == 0)
            held[count++] = &m->items[i];
    for (i = 0; i < count; i++)
        ids[i + 1] = held[i]->id;
    e.hold.box = key_of(box);
    e.hold.message_ids = ids;
    e.hold.id_count = count + 1;
    step(m->f, &e);
    assert_int_equal(reply(m->f)->dropped, count);
    assert_int_equal(reply(m->f)->delivery != 0, count != 0);
    for (i = 0; i < count; i++) {
        m->counts.redelivered += held[i]->attempts++ > 0;
        held[i]->where = OUT;
        held[i]->busy = held[i]->taken = true;
        held[i]->returned = false;
        held[i]->delivery = reply(m->f)->delivery;
        held[i]->held = m->orders++;
        held[i]->lease_ms = 0;
        held[i]->at = UINT64_MAX;
    }
    if (count != 0)
        m->held[m->held_len++] =
            (struct held){reply(m->f)->delivery, e.peer, m->f->now + m->limits.settle_ns, box};
}

/* ---- dead letters ---- */

static void random_dead(struct model *m)
{
    struct mbox_event e = {.kind = MBOX_DEAD};
    size_t box = draw(m, BOXES), i, skip = 0, total = count_of(m, box, DEAD);
    struct item *sorted[64], *k;
    const struct mbox_action *a;
    uint64_t last = 0;

    for (i = 0; i < total; i++) { /* by time of death */
        struct item *next = NULL;
        size_t j;

        for (j = 0; j < m->len; j++) {
            k = &m->items[j];
            if (k->box == box && k->where == DEAD && k->died >= last &&
                (next == NULL || k->died < next->died))
                next = k;
        }
        sorted[i] = next;
        last = next->died + 1;
    }
    if (total > 1 && draw(m, 2) == 0) {
        skip = 1 + draw(m, total - 1);
        e.dead.after = sorted[skip - 1]->id;
    }
    e.dead.box = key_of(box);
    e.dead.max = 1 + (uint32_t)draw(m, 4);
    step(m->f, &e);
    a = reply(m->f);
    assert_int_equal(a->count, total - skip < e.dead.max ? total - skip : e.dead.max);
    assert_int_equal(a->more, total - skip - a->count);
    for (i = 0; i < a->count; i++) {
        const struct mbox_view *v = view(m->f, a, (uint32_t)i);

        check_view(m, v, sorted[skip + i], sorted[skip + i]->attempts);
        assert_int_equal(v->dead, sorted[skip + i]->dead);
    }
}

static bool redrive_model(struct model *m, struct item *k, bool drop)
{
    if (drop) {
        forget(m, k);
        return true;
    }
    if (!fits(m, k->box, k->len, false))
        return false;
    m->counts.redriven++;
    k->dead = MBOX_ALIVE;
    k->attempts = 0;
    k->driven++;
    k->expires = m->f->now + k->ttl_ms * MS;
    k->place = m->places++;
    tell(m, k, m->f->now);
    queue(k);
    return true;
}

static void random_redrive(struct model *m)
{
    struct mbox_event e = {.kind = MBOX_REDRIVE};
    size_t box = draw(m, BOXES), i, count = 0, moved = 0;
    struct item *some[4], *k;
    const char *ids[4];

    for (i = 0; i < m->len && count < 4; i++)
        if (m->items[i].box == box && m->items[i].where == DEAD && draw(m, 2) == 0) {
            some[count] = &m->items[i];
            ids[count++] = m->items[i].id;
        }
    e.redrive.box = key_of(box);
    e.redrive.message_ids = ids;
    e.redrive.id_count = count;
    e.redrive.drop = draw(m, 4) == 0;
    step(m->f, &e);
    for (i = 0; i < count; i++)
        moved += redrive_model(m, some[i], e.redrive.drop);
    while (count == 0 && (k = first_dead(m, box)) != NULL && redrive_model(m, k, e.redrive.drop))
        moved++;
    assert_int_equal(reply(m->f)->dropped, moved);
    assert_int_equal(reply(m->f)->left, count_of(m, box, DEAD));
}

/* ---- ends ---- */

static void random_peer_gone(struct model *m)
{
    uint64_t peer = 1 + draw(m, PEERS);
    size_t i;

    for (i = 0; i < POLLS; i++)
        if (m->parked[i].peer == peer)
            m->parked[i].on = false;
    for (i = 0; i < m->held_len;) {
        if (m->held[i].peer == peer)
            return_held(m, i);
        else
            i++;
    }
    peer_gone(m->f, peer);
}

static void random_unpark(struct model *m)
{
    struct mbox_event e = {.kind = MBOX_UNPARK};
    struct parked *w = &m->parked[draw(m, POLLS)];

    if (!w->on)
        return;
    e.peer = w->peer;
    e.unpark.poll = w->poll;
    w->on = false;
    step(m->f, &e);
    assert_int_equal(reply(m->f)->err, ERR_OK);
}

static void random_close(struct model *m)
{
    size_t workflow = draw(m, WORKFLOWS), i;
    bool purge = draw(m, 2) == 0;

    for (i = 0; i < AGENTS; i++)
        close_box(m, workflow * AGENTS + i, purge);
    close_workflow(m->f, workflow_names[workflow], purge);
    for (i = 0; i < POLLS; i++) /* a purge sends all readers home */
        if (purge && m->parked[i].on && m->parked[i].box / AGENTS == workflow)
            m->parked[i].deadline = m->f->now;
}

static void random_commit(struct model *m)
{
    bool ok = draw(m, 12) != 0;

    if (!mbox_needs_commit(m->f->core))
        return;
    durable_of(m->f->store)->fail_commit = !ok;
    assert_int_equal(m->f->store->ops->commit(m->f->store) == ERR_OK, ok);
    commit_model(m, ok);
    commit(m->f, ok);
}

/* ---- the process dies ---- */

static int by_arrival(const void *x, const void *y)
{
    const struct item *const *a = x, *const *b = y;

    if ((*a)->place != (*b)->place)
        return (*a)->place < (*b)->place ? -1 : 1;
    return (*a)->serial < (*b)->serial ? -1 : 1;
}

static void restart_item(struct model *m, struct item *k, uint64_t latest_ms)
{
    const struct told *t = &k->safe;

    k->told = *t;
    k->attempts = t->attempts;
    k->expires = t->expires;
    k->dead = t->dead;
    k->busy = k->taken = k->returned = k->doomed = false;
    k->restored = true;
    k->where = QUEUED;
    k->place = latest_ms; /* for now: when it arrived */
    if (t->dead != MBOX_ALIVE)
        k->place = t->dead_ms;
    else if (t->attempts == 0 && t->due_ms != 0)
        k->place = t->due_ms;
    m->counts.restored++;
}

static void place_item(struct model *m, struct item *k)
{
    if (k->dead != MBOX_ALIVE) {
        k->where = DEAD;
        k->died = m->orders++;
        k->at = k->place * MS + m->limits.dead_ttl_ns;
    } else if (k->told.kept_until != 0) {
        k->where = KEPT;
        k->kept = k->told.kept;
        k->at = k->told.kept_until;
        m->seen[13]++;
    } else if (k->told.due_ms * MS > m->f->now) {
        k->busy = k->attempts != 0;
        delay(k, k->told.due_ms * MS);
    } else {
        queue(k);
    }
}

/* They come back in the order in which the store names them. */
static void restart_answers(struct model *m)
{
    const struct durable *d = durable_of(m->f->store);
    bool was_on[ANSWERS];
    size_t i, j;

    for (i = 0; i < ANSWERS; i++) {
        was_on[i] =
            m->answers[i].on && m->answers[i].committed && m->answers[i].expires > m->f->now;
        m->answers[i].on = false;
    }
    rank_keys(m);
    for (j = 0; j < d->answer_len; j++)
        for (i = 0; i < ANSWERS; i++)
            if (was_on[i] && m->answers[i].key == (unsigned)atoi(d->answers[j]->text[2] + 4) &&
                strcmp(workflow_names[m->answers[i].workflow], d->answers[j]->text[1]) == 0) {
                m->answers[i].on = true;
                rank_keys(m);
            }
}

static void random_restart(struct model *m)
{
    static struct item *order[ITEMS];
    uint64_t later = draw(m, 3000) * MS, latest_ms = 0;
    size_t i, n = 0;

    durable_restart(m->f, m->limits, later, m->random);
    m->epoch++;
    m->counts = (struct counts){0};
    m->held_len = 0;
    memset(m->parked, 0, sizeof(m->parked));
    memset(m->closing, 0, sizeof(m->closing));
    for (i = 0; i < m->len; i++) {
        m->items[i].where = GONE;
        if (!m->items[i].safe.there)
            continue;
        if (m->items[i].created / MS > latest_ms)
            latest_ms = m->items[i].created / MS;
        restart_item(m, &m->items[i], latest_ms);
        order[n++] = &m->items[i];
    }
    if (n != 0)
        qsort(order, n, sizeof(order[0]), by_arrival);
    for (i = 0; i < n; i++) {
        place_item(m, order[i]);
        order[i]->place = m->places++;
    }
    compact(m);
    restart_answers(m);
    m->seen[12]++;
}

/* ---- all of it ---- */

static void random_event(struct model *m)
{
    static const struct {
        unsigned weight;
        void (*run)(struct model *m);
    } kinds[] = {
        {400, random_send},    {260, random_receive}, {200, random_settle}, {160, random_ack},
        {400, random_commit},  {10, random_hold},     {15, random_dead},    {15, random_redrive},
        {8, random_peer_gone}, {10, random_unpark},   {5, random_close},    {4, random_restart},
    };
    uint64_t what = draw(m, 1487);
    size_t i = 0;

    /* Time moves by a tick of its own, so that the model knows what it did before the event. */
    m->f->now += draw(m, 40) == 0 ? draw(m, 4000) * MS : draw(m, 20) * MS;
    pass_time(m);
    tick(m->f, 0);
    check_poll_ends(m);
    m->f->out.len = 0; /* an event that has nothing to do leaves nothing to check */
    while (what >= kinds[i].weight)
        what -= kinds[i++].weight;
    kinds[i].run(m);
    check_poll_ends(m);
    compact(m);
}

static struct model *model_new(uint64_t seed, bool drop_oldest)
{
    struct model *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    m->limits = fixture_limits();
    m->limits.box_messages = 9;
    m->limits.box_bytes = 2000;
    m->limits.workflow_messages = 34;
    m->limits.workflow_bytes = 6000;
    m->limits.total_messages = 60;
    m->limits.max_waiting = 1000;
    m->limits.settle_ns = 3 * SEC;
    m->limits.idle_ns = 4 * SEC;
    m->limits.max_deliveries = 4;
    m->limits.dead_messages = 6;
    m->limits.dead_ttl_ns = 8 * SEC;
    m->limits.key_window_ns = 5 * SEC;
    m->limits.max_keys = 8;
    m->limits.drop_oldest = drop_oldest;
    m->f = durable_new(m->limits);
    m->random = seed;
    m->places = 1;
    return m;
}

static void run(uint64_t seed, bool drop_oldest, unsigned events)
{
    struct model *m = model_new(seed, drop_oldest);
    struct mbox_change change;
    unsigned i;

    for (i = 0; i < events; i++) {
        random_event(m);
        check_all(m);
        if (i % 64 == 0)
            while (mbox_take_change(m->f->core, &change))
                *change.user = change.gone ? NULL : m;
    }
    for (i = 1; i < 15; i++) /* all of it happened */
        assert_true(m->seen[i] > 0 || (i == MBOX_DEAD_OVERFLOW && !drop_oldest));
    fixture_free(m->f);
    free(m);
}

static void every_message_leaves_by_one_door_in_order_when_full_boxes_refuse(void **state)
{
    (void)state;
    run(1, false, EVENTS);
    run(2, false, EVENTS);
}

static void
every_message_leaves_by_one_door_in_order_when_full_boxes_drop_their_oldest(void **state)
{
    (void)state;
    run(3, true, EVENTS);
    run(4, true, EVENTS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_leaves_by_one_door_in_order_when_full_boxes_refuse),
        cmocka_unit_test(
            every_message_leaves_by_one_door_in_order_when_full_boxes_drop_their_oldest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
