/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/load.h"

#include <math.h>

#include "common/clock.h"
#include "common/must.h"
#include "scheduler/state.h"

#define MOUT_START 200.0
#define BURST_SECONDS 60.0
#define ROUNDING_S 1e-7

void load_init(struct load *ld, uint32_t max_leases)
{
    *ld = (struct load){.mout = MOUT_START};
    pool_init(&ld->stays, sizeof(struct stay), max_leases);
}

void load_fini(struct load *ld)
{
    pool_fini(&ld->stays);
}

double load_burst(const struct core *c)
{
    double past = (double)(c->now - c->load.burst_ns) / NS_PER_S;

    return c->load.burst > 0 ? c->load.burst * exp(-past / BURST_SECONDS) : 0;
}

static void stay_join(struct core *c, struct lease *l)
{
    uint64_t self;

    list_for(pos, &l->workflow->stays)
    {
        struct stay *s = container_of(pos, struct stay, of_workflow);

        if (s->engine == l->engine) {
            s->inflight++;
            l->stay = s;
            return;
        }
    }
    l->stay = pool_take(&c->load.stays, &self);
    must(l->stay != NULL); /* there are as many as leases */
    *l->stay = (struct stay){.self = self, .engine = l->engine, .inflight = 1};
    list_init(&l->stay->of_workflow);
    list_push(&l->workflow->stays, &l->stay->of_workflow);
    l->engine->workflows++;
}

static void stay_leave(struct core *c, struct lease *l)
{
    struct stay *s = l->stay;

    l->stay = NULL;
    if (--s->inflight > 0)
        return;
    list_remove(&s->of_workflow);
    s->engine->workflows--;
    pool_give(&c->load.stays, s->self);
}

static void on_first_byte_due(struct timer *t)
{
    struct lease *l = container_of(t, struct lease, first_due);

    load_first_byte(l->core, l);
    view_first_byte(l->core, l);
}

void load_join(struct core *c, struct lease *l)
{
    struct engine *e = l->engine;
    double n = l->guessed_tokens, u = n - l->cached_tokens;

    l->est_s = c->brain.opt.terr * engine_prefill_s(e, u > 1 ? u : 1, n);
    l->load_tokens = n + c->load.mout;
    c->load.dispatches++;
    l->model->dispatches++;
    c->load.burst = load_burst(c) + l->est_s * l->est_s;
    c->load.burst_ns = c->now;
    if (!l->first_byte) {
        if (!l->stream) {
            l->first_due.fire = on_first_byte_due;
            timer_start(&c->timers, &l->first_due,
                        c->now + (uint64_t)((e->q_seconds + l->est_s) * NS_PER_S));
        }
        l->prefilling = true;
        e->prefilling++;
        e->x_prefilling += l->load_tokens;
        e->q_seconds += l->est_s;
        l->q_tokens = u > 0 ? (uint32_t)u : 0;
        e->q_tokens += l->q_tokens;
    }
    e->x_tokens += l->load_tokens;
    if (l->workflow != NULL)
        stay_join(c, l);
    else
        e->workflows++;
    l->loaded = true;
}

void load_first_byte(struct core *c, struct lease *l)
{
    struct engine *e = l->engine;

    timer_stop(&c->timers, &l->first_due);
    if (!l->prefilling)
        return;
    l->prefilling = false;
    must(e->prefilling > 0 && e->q_tokens >= l->q_tokens);
    e->q_tokens -= l->q_tokens;
    e->prefilling--;
    e->x_prefilling -= l->load_tokens;
    /* What rounding leaves of an empty queue stays: between idle engines it decides, as in the
     * reference model. */
    e->q_seconds -= l->est_s;
    if (e->prefilling == 0 && fabs(e->q_seconds) > ROUNDING_S) /* of absurdly long prompts */
        e->q_seconds = 0;
}

void load_leave_workflow(struct core *c, struct lease *l)
{
    if (l->stay == NULL)
        return;
    l->engine->workflows++;
    stay_leave(c, l);
}

void load_leave(struct core *c, struct lease *l)
{
    struct engine *e = l->engine;

    if (!l->loaded)
        return;
    load_first_byte(c, l);
    l->loaded = false;
    e->x_tokens -= l->load_tokens;
    if (l->stay != NULL)
        stay_leave(c, l);
    else
        e->workflows--;
}
