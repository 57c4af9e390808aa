/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "common/must.h"
#include "scheduler/state.h"

static void check_engines(const struct core *c, uint32_t stays[ENGINES_MAX])
{
    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        const struct engine *e = &c->fleet.engines[i];
        uint32_t running = 0, prefilling = 0, alone = 0;

        must(set_has(&c->fleet.used, i) == e->used);
        must(e->used || !set_has(&c->fleet.alive, i));
        list_for(pos, &e->leases)
        {
            const struct lease *l = container_of(pos, struct lease, of_engine);

            must(l->engine == e && l->loaded);
            must((l->stay != NULL) == (l->workflow != NULL));
            must(l->stay == NULL || l->stay->engine == e);
            prefilling += l->prefilling;
            alone += l->stay == NULL;
            running++;
        }
        must(e->running == running && e->prefilling == prefilling);
        stays[i] = alone; /* check_stays() takes the workflows' */
        must(prefilling > 0 || (fabs(e->q_seconds) < 1e-6 && e->q_tokens == 0));
    }
}

static uint32_t check_agents(const struct core *c, const struct workflow *w)
{
    uint64_t tokens = w->restored_tokens;
    uint32_t agents = 0, inflight = 0;

    list_for(pos, &w->agents)
    {
        const struct agent *a = container_of(pos, const struct agent, node);

        must(a->workflow == w->self);
        tokens += agent_context(a);
        inflight += a->inflight;
        agents++;
    }
    must(agents == w->agent_count && agents <= c->conf.max_agents);
    must(inflight == w->inflight);
    must(tokens == w->home_tokens);
    return agents;
}

static void check_workflows(const struct core *c)
{
    uint64_t home_tokens[ENGINES_MAX] = {0}, seq = 0, last = 0;
    uint32_t homed[ENGINES_MAX] = {0}, workflows = 0, idle = 0, agents = 0, on_idle = 0;

    list_for(pos, &c->by_age)
    {
        const struct workflow *w = container_of(pos, const struct workflow, by_age);
        uint32_t leases = 0, counted = 0;

        must(w->seq > seq);
        seq = w->seq;
        workflows++;
        idle += w->inflight == 0 && w->waiting_count == 0;
        must((w->inflight == 0 && w->waiting_count == 0) == !list_is_empty(&w->idle));
        list_for(at, &w->leases)
        {
            const struct lease *l = container_of(at, const struct lease, of_workflow);

            must(l->workflow == w && l->agent->workflow == w->self);
            counted += l->counts;
            leases++;
        }
        must(leases == w->inflight && counted == w->counted_inflight);
        agents += check_agents(c, w);
        if (w->home != ENGINE_NONE && core_engine(c, w->home) != NULL &&
            c->fleet.engines[w->home].generation == w->home_generation) {
            homed[w->home]++;
            home_tokens[w->home] += w->home_tokens;
        }
    }
    list_for(pos, &c->idle)
    {
        const struct workflow *w = container_of(pos, const struct workflow, idle);

        must(w->last_ns >= last);
        last = w->last_ns;
        on_idle++;
    }
    must(workflows == c->stats.workflows && workflows == c->workflows.used);
    must(idle == on_idle && agents == c->stats.agents && agents == c->agents.used);
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        if (c->fleet.engines[i].used) {
            must(c->fleet.engines[i].homed_workflows == homed[i]);
            must(c->fleet.engines[i].home_tokens == home_tokens[i]);
        }
}

static void check_stays(const struct core *c, uint32_t stays[ENGINES_MAX])
{
    uint32_t count = 0;

    list_for(pos, &c->by_age)
    {
        const struct workflow *w = container_of(pos, const struct workflow, by_age);

        list_for(at, &w->stays)
        {
            const struct stay *s = container_of(at, const struct stay, of_workflow);
            uint32_t inflight = 0;

            list_for(of, &w->leases) inflight +=
                container_of(of, const struct lease, of_workflow)->stay == s;
            must(inflight == s->inflight && inflight > 0);
            stays[s->engine->index]++;
            count++;
        }
    }
    must(count == c->load.stays.used);
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        must(c->fleet.engines[i].workflows == stays[i]);
}

/* Returns how many deadlines they and their groups have. */
static uint32_t check_waits(const struct core *c)
{
    const struct waits *ws = &c->waits;
    uint32_t count = 0, grouped = 0, deadlines = c->groups.pool.used;

    lines_check(c);
    for (uint32_t i = 0; i < c->conf.max_workers; i++)
        list_for(pos, &c->workers[i].waits)
        {
            const struct wait *w = container_of(pos, struct wait, of_worker);

            must(c->workers[i].known && w->query.worker == i);
            must((w->group == NULL) == w->in_line);
            must((w->group == NULL) == timer_is_running(&w->since));
            grouped += w->group != NULL;
            deadlines += timer_is_running(&w->deadline);
            count++;
        }
    must(count == ws->lines.waiting + grouped && ws->lines.waiting == ws->by_age.len);
    must(count == ws->pool.used && grouped >= c->groups.pool.used);
    must(count == ws->index.used && count == c->stats.waiting);
    return deadlines;
}

/* A claim is what LIVE workflows hold, no more, no less. */
static void check_claims(const struct core *c)
{
    uint64_t claims[ENGINES_MAX] = {0};

    list_for(pos, &c->by_age)
    {
        const struct workflow *w = container_of(pos, const struct workflow, by_age);
        uint32_t waiting = 0;

        list_for(at, &w->waiting)
        {
            must(container_of(at, struct wait, of_workflow)->workflow == w);
            waiting++;
        }
        must(waiting == w->waiting_count);
        must(w->flow.state != FLOW_PAUSED || foot_total(&w->flow.foot) == 0);
        must(w->flow.state != FLOW_NEW || foot_total(&w->flow.foot) == 0);
        set_for(i, &c->fleet.used) if (w->flow.state == FLOW_LIVE) claims[i] +=
            (uint64_t)foot_blocks(c->view.prefix, &w->flow.foot, i) * w->flow.bias;
    }
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        must(c->fleet.engines[i].claims == claims[i]);
}

void core_check(const struct core *c)
{
    uint32_t leases = 0, workers = 0, stays[ENGINES_MAX], timers = 0;

    check_engines(c, stays);
    check_stays(c, stays);
    check_claims(c);
    prefix_check(c->view.prefix);
    check_workflows(c);
    for (uint32_t i = 0; i < c->conf.max_workers; i++) {
        workers += c->workers[i].known;
        must(c->workers[i].known || list_is_empty(&c->workers[i].leases));
        list_for(pos, &c->workers[i].leases)
        {
            const struct lease *l = container_of(pos, const struct lease, of_worker);

            must(l->worker == i && timer_is_running(&l->deadline));
            leases++;
            timers += 1 + timer_is_running(&l->first_due);
        }
    }
    timers += check_waits(c);
    must(timers == c->timers.len);
    must(workers == c->stats.workers);
    must(leases == c->stats.leases && leases == c->leases.used);
    must(c->lease_index.used == leases && c->agent_index.used == c->agents.used &&
         c->workflow_index.used == c->workflows.used);
}

size_t core_workflow_bytes(unsigned agents)
{
    /* An index entry takes 8 bytes in a table at least a quarter full, a pool slot 16. */
    return (sizeof(struct workflow) + 4 * 8 + 16) + agents * (sizeof(struct agent) + 4 * 8 + 16);
}
