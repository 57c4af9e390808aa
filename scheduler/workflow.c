/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include <xxhash.h>

#include "common/must.h"
#include "scheduler/state.h"

/* ---- names ---- */

struct text name_text(const struct core *c, const struct name *n)
{
    if (n->len <= NAME_INLINE)
        return (struct text){n->head, n->len};
    return (struct text){pool_find(&c->names, n->rest), n->len};
}

static bool name_set(struct core *c, struct name *n, const char *p, uint32_t len)
{
    char *to = n->head;

    must(len <= NAME_LONG);
    if (len > NAME_INLINE) {
        to = pool_take(&c->names, &n->rest);
        if (to == NULL)
            return false;
    }
    n->len = (uint16_t)len;
    memcpy(to, p, len);
    return true;
}

static void name_drop(struct core *c, struct name *n)
{
    if (n->len > NAME_INLINE)
        pool_give(&c->names, n->rest);
    n->len = 0;
}

struct text workflow_tenant(const struct core *c, const struct workflow *w)
{
    return (struct text){name_text(c, &w->name).p, w->tenant_len};
}

struct text workflow_id(const struct core *c, const struct workflow *w)
{
    struct text t = name_text(c, &w->name);

    return (struct text){t.p + w->tenant_len, t.len - w->tenant_len};
}

struct text agent_id(const struct core *c, const struct agent *a)
{
    return name_text(c, &a->id);
}

void workflow_key(struct text tenant, struct text id, uint64_t *lo, uint64_t *hi)
{
    char whole[TENANT_MAX + 1 + ID_MAX];
    XXH128_hash_t h;

    must(tenant.len <= TENANT_MAX && id.len <= ID_MAX);
    if (tenant.len > 0)
        memcpy(whole, tenant.p, tenant.len);
    whole[tenant.len] = '\0';
    memcpy(whole + tenant.len + 1, id.p, id.len);
    h = XXH3_128bits(whole, tenant.len + 1 + id.len);
    *lo = h.low64;
    *hi = h.high64;
}

static bool workflow_name_set(struct core *c, struct workflow *w, struct text tenant,
                              struct text id)
{
    char whole[TENANT_MAX + ID_MAX];

    if (tenant.len > 0)
        memcpy(whole, tenant.p, tenant.len);
    memcpy(whole + tenant.len, id.p, id.len);
    w->tenant_len = (uint16_t)tenant.len;
    return name_set(c, &w->name, whole, tenant.len + id.len);
}

static bool text_is(struct text a, struct text b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* ---- the table ---- */

struct workflow *core_workflow(const struct core *c, uint64_t handle)
{
    return pool_find(&c->workflows, handle);
}

/* Keys are public arithmetic: without a secret anybody could choose ids that crowd one place. */
static uint64_t index_key(const struct core *c, uint64_t lo)
{
    return table_mix(lo ^ c->conf.hash_seed);
}

/* All of it is needed now, and the neighbours that it is about to leave. */
static void workflow_expect(const struct workflow *w)
{
    for (size_t at = 64; at < sizeof(*w); at += 64)
        __builtin_prefetch((const char *)w + at);
    __builtin_prefetch(w->idle.next);
    __builtin_prefetch(w->idle.prev);
    __builtin_prefetch(w->flow.idle.next);
    __builtin_prefetch(w->flow.idle.prev);
}

static struct workflow *find_by_key(struct core *c, uint64_t lo, uint64_t hi, struct text tenant,
                                    struct text id)
{
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&c->workflow_index, index_key(c, lo), &cursor)) != UINT32_MAX) {
        struct workflow *w = pool_at(&c->workflows, slot);

        workflow_expect(w);
        if (w->key_lo != lo || w->key_hi != hi)
            continue;
        if (w->name.len == 0 && !workflow_name_set(c, w, tenant, id))
            continue;
        if (text_is(workflow_tenant(c, w), tenant) && text_is(workflow_id(c, w), id))
            return w;
    }
    return NULL;
}

struct workflow *core_workflow_find(struct core *c, struct text tenant, struct text id)
{
    uint64_t lo, hi;

    if (id.len == 0 || id.len > ID_MAX || tenant.len > TENANT_MAX)
        return NULL;
    workflow_key(tenant, id, &lo, &hi);
    return find_by_key(c, lo, hi, tenant, id);
}

static struct workflow *workflow_take(struct core *c, uint64_t lo, uint64_t hi)
{
    struct workflow *w;
    uint64_t handle;

    if (c->workflows.used == c->workflows.capacity && !list_is_empty(&c->idle)) {
        c->stats.workflows_evicted++;
        workflow_end(c, container_of(list_first(&c->idle), struct workflow, idle));
    }
    w = pool_take(&c->workflows, &handle);
    if (w == NULL)
        return NULL;
    w->self = handle;
    w->key_lo = lo;
    w->key_hi = hi;
    w->seq = SEQ_FIRST + c->workflow_seq++;
    w->created_ns = w->last_ns = c->now;
    w->deaths = c->fleet.deaths;
    w->home = w->last_engine = ENGINE_NONE;
    list_init(&w->agents);
    list_init(&w->leases);
    list_init(&w->stays);
    list_init(&w->waiting);
    flow_open(c, w);
    list_push(&c->by_age, &w->by_age);
    list_push(&c->idle, &w->idle);
    table_add(&c->workflow_index, index_key(c, lo), pool_slot_of(handle));
    c->stats.workflows++;
    return w;
}

enum err workflow_make(struct core *c, struct text tenant, struct text id, struct workflow **out)
{
    struct workflow *w;
    uint64_t lo, hi;

    workflow_key(tenant, id, &lo, &hi);
    w = find_by_key(c, lo, hi, tenant, id);
    if (w == NULL) {
        w = workflow_take(c, lo, hi);
        if (w == NULL)
            return ERR_WORKFLOW_LIMIT;
        if (!workflow_name_set(c, w, tenant, id)) {
            workflow_end(c, w);
            return ERR_WORKFLOW_LIMIT;
        }
        c->stats.workflows_created++;
    }
    *out = w;
    return ERR_OK;
}

static void agent_drop(struct core *c, struct agent *a)
{
    list_remove(&a->node);
    table_remove(&c->agent_index, a->key, pool_slot_of(a->self));
    name_drop(c, &a->id);
    pool_give(&c->agents, a->self);
    c->stats.agents--;
}

void workflow_end(struct core *c, struct workflow *w)
{
    struct action *act;

    policies_tell(c, workflow_ended, w);
    while (!list_is_empty(&w->leases))
        lease_detach_workflow(c, container_of(list_first(&w->leases), struct lease, of_workflow));
    while (!list_is_empty(&w->waiting))
        wait_detach_workflow(c, container_of(list_first(&w->waiting), struct wait, of_workflow));
    foot_clear(c->view.prefix, &w->flow.foot);
    workflow_set_home(c, w, NULL);
    w->latest = 0;
    while (!list_is_empty(&w->agents))
        agent_drop(c, container_of(list_first(&w->agents), struct agent, node));
    act = action_add(c, ACT_HOME_ENDED);
    act->key_lo = w->key_lo;
    act->key_hi = w->key_hi;
    act->row = w->row;
    act->label = w->label;
    table_remove(&c->workflow_index, index_key(c, w->key_lo), pool_slot_of(w->self));
    list_remove(&w->by_age);
    list_remove(&w->idle);
    name_drop(c, &w->name);
    pool_give(&c->workflows, w->self);
    c->stats.workflows--;
    c->stats.workflows_ended++;
}

void workflow_restore(struct core *c, const struct restore_event *ev)
{
    struct workflow *w;
    struct list *at;
    struct engine *home;
    uint32_t cursor = 0, slot;

    while ((slot = table_find(&c->workflow_index, index_key(c, ev->key_lo), &cursor)) !=
           UINT32_MAX) {
        w = pool_at(&c->workflows, slot);
        if (w->key_lo == ev->key_lo && w->key_hi == ev->key_hi)
            return;
    }
    if (c->workflows.used == c->workflows.capacity)
        return; /* the caller begins with the latest used */
    w = workflow_take(c, ev->key_lo, ev->key_hi);
    brain_restarted(c);
    w->seq = SEQ_FIRST - ++c->restored;
    list_remove(&w->by_age);
    list_push_front(&c->by_age, &w->by_age);
    w->created_ns = ev->created_ns < c->now ? ev->created_ns : c->now;
    w->last_ns = ev->last_ns < c->now ? ev->last_ns : c->now;
    w->ended_requests = ev->requests;
    w->prompt_tokens = ev->prompt_tokens;
    w->cached_tokens = ev->cached_tokens;
    w->completion_tokens = ev->completion_tokens;
    w->recomputed_tokens = ev->recomputed_tokens;
    w->home_tokens = ev->home_tokens;
    w->restored_tokens = ev->home_tokens;
    home = ev->engine < ENGINES_MAX && c->fleet.engines[ev->engine].used
               ? &c->fleet.engines[ev->engine]
               : NULL;
    workflow_set_home(c, w, home);
    /* Stays in order whatever the order of restoring; from the latest used on it is one step. */
    list_remove(&w->idle);
    for (at = c->idle.next; at != &c->idle; at = at->next)
        if (container_of(at, struct workflow, idle)->last_ns >= w->last_ns)
            break;
    list_insert(at, &w->idle);
}

uint64_t workflows_next_expiry(const struct core *c)
{
    struct list *head = list_first(&c->idle);

    return head == NULL
               ? UINT64_MAX
               : container_of(head, struct workflow, idle)->last_ns + c->conf.workflow_ttl_ns;
}

void workflows_expire(struct core *c)
{
    while (workflows_next_expiry(c) <= c->now) {
        c->stats.workflows_expired++;
        workflow_end(c, container_of(list_first(&c->idle), struct workflow, idle));
    }
}

void workflow_touch(struct core *c, struct workflow *w)
{
    w->last_ns = c->now;
    list_remove(&w->idle);
    if (w->inflight == 0 && w->waiting_count == 0)
        list_push(&c->idle, &w->idle);
}

/* ---- agents ---- */

static uint64_t agent_key(const struct core *c, const struct workflow *w, struct text id)
{
    return XXH3_64bits_withSeed(id.len > 0 ? id.p : "", id.len, w->key_lo ^ c->conf.hash_seed);
}

struct agent *agent_find(struct core *c, const struct workflow *w, struct text id)
{
    struct agent *latest = w->latest != 0 ? pool_at(&c->agents, w->latest - 1) : NULL;
    uint32_t cursor = 0, slot;
    uint64_t key;

    if (latest != NULL && text_is(agent_id(c, latest), id))
        return latest;
    key = agent_key(c, w, id);
    while ((slot = table_find(&c->agent_index, key, &cursor)) != UINT32_MAX) {
        struct agent *a = pool_at(&c->agents, slot);

        if (a->workflow == w->self && text_is(agent_id(c, a), id))
            return a;
    }
    return NULL;
}

enum err agent_make(struct core *c, struct workflow *w, struct text id, struct agent **out)
{
    struct agent *a = agent_find(c, w, id);
    uint64_t handle;

    if (a != NULL) {
        w->latest = pool_slot_of(a->self) + 1;
        *out = a;
        return ERR_OK;
    }
    if (w->agent_count >= c->conf.max_agents)
        return ERR_AGENT_LIMIT;
    while (c->agents.used == c->agents.capacity) {
        struct list *oldest = list_first(&c->idle);

        if (oldest == NULL || oldest == &w->idle)
            return ERR_AGENT_LIMIT;
        c->stats.workflows_evicted++;
        workflow_end(c, container_of(oldest, struct workflow, idle));
    }
    a = pool_take(&c->agents, &handle);
    if (!name_set(c, &a->id, id.len > 0 ? id.p : "", id.len)) {
        pool_give(&c->agents, handle);
        return ERR_AGENT_LIMIT;
    }
    a->self = handle;
    a->workflow = w->self;
    a->engine = ENGINE_NONE;
    a->key = agent_key(c, w, id);
    list_push(&w->agents, &a->node);
    table_add(&c->agent_index, a->key, pool_slot_of(handle));
    w->agent_count++;
    w->latest = pool_slot_of(handle) + 1;
    c->stats.agents++;
    *out = a;
    return ERR_OK;
}

uint32_t agent_context(const struct agent *a)
{
    return a->known_tokens > a->guessed_tokens ? a->known_tokens : a->guessed_tokens;
}

bool agent_is_active(const struct core *c, const struct agent *a, uint64_t now_ns)
{
    return a->inflight > 0 || (a->last_ns > 0 && now_ns < a->last_ns + c->conf.agent_active_ns);
}

/* ---- what is told about a workflow ---- */

uint32_t workflow_active_agents(const struct core *c, const struct workflow *w, uint64_t now_ns)
{
    uint32_t n = 0;

    list_for(pos, &w->agents) n +=
        agent_is_active(c, container_of(pos, struct agent, node), now_ns);
    return n;
}

bool workflow_is_active(const struct core *c, const struct workflow *w, uint64_t now_ns)
{
    return w->inflight > 0 || now_ns < w->last_ns + c->conf.agent_active_ns;
}

uint64_t workflow_requests(const struct workflow *w)
{
    return w->ended_requests + w->counted_inflight;
}

double workflow_hit_rate(const struct workflow *w)
{
    return w->prompt_tokens > 0 ? (double)w->cached_tokens / (double)w->prompt_tokens : 0;
}

double workflow_batch_efficiency(const struct workflow *w)
{
    return w->overlap_tokens > 0 ? 1 - (double)w->duplicate_tokens / (double)w->overlap_tokens : 1;
}

const struct engine *workflow_engine(const struct core *c, const struct workflow *w)
{
    const struct engine *e;

    if (w->home != ENGINE_NONE) {
        e = &c->fleet.engines[w->home];
        if (e->used && e->generation == w->home_generation)
            return e;
    }
    if (w->last_engine != ENGINE_NONE) {
        e = &c->fleet.engines[w->last_engine];
        if (e->used && e->generation == w->last_generation)
            return e;
    }
    return NULL;
}

const struct workflow *core_workflow_before(const struct core *c, uint64_t seq)
{
    struct list *at;

    for (at = c->by_age.prev; at != &c->by_age; at = at->prev) {
        const struct workflow *w = container_of(at, const struct workflow, by_age);

        if (w->seq < seq && w->name.len > 0)
            return w;
    }
    return NULL;
}

const struct workflow *core_workflow_older(const struct core *c, const struct workflow *from)
{
    struct list *at = from != NULL ? from->by_age.prev : c->by_age.prev;

    for (; at != &c->by_age; at = at->prev) {
        const struct workflow *w = container_of(at, const struct workflow, by_age);

        if (w->name.len > 0)
            return w;
    }
    return NULL;
}

/* ---- home and tokens ---- */

struct engine *workflow_home(struct core *c, const struct workflow *w)
{
    return w->home == ENGINE_NONE ? NULL : fleet_find(&c->fleet, w->home, w->home_generation);
}

void workflow_set_home(struct core *c, struct workflow *w, struct engine *e)
{
    struct engine *old = workflow_home(c, w);

    if (old != NULL) {
        must(old->homed_workflows > 0 && old->home_tokens >= w->home_tokens);
        old->homed_workflows--;
        old->home_tokens -= w->home_tokens;
        action_engine(c, old);
    }
    w->home = ENGINE_NONE;
    if (e != NULL) {
        w->home = e->index;
        w->home_generation = e->generation;
        e->homed_workflows++;
        e->home_tokens += w->home_tokens;
        action_engine(c, e);
    }
}

static void workflow_add_tokens(struct core *c, struct workflow *w, int64_t delta)
{
    struct engine *home = workflow_home(c, w);

    w->home_tokens = (uint64_t)((int64_t)w->home_tokens + delta);
    if (home != NULL)
        home->home_tokens = (uint64_t)((int64_t)home->home_tokens + delta);
}

void workflow_set_tokens(struct core *c, struct workflow *w, struct agent *a, uint32_t known,
                         uint32_t guessed)
{
    int64_t before = agent_context(a), delta;

    a->known_tokens = known;
    a->guessed_tokens = guessed;
    delta = (int64_t)agent_context(a) - before;
    /* What a predecessor knew gives way as the agents show themselves again. */
    if (delta > 0 && w->restored_tokens > 0) {
        int64_t eaten = delta < (int64_t)w->restored_tokens ? delta : (int64_t)w->restored_tokens;

        w->restored_tokens -= (uint64_t)eaten;
        delta -= eaten;
    }
    workflow_add_tokens(c, w, delta);
}

void workflow_refresh_marks(struct core *c, struct workflow *w)
{
    if (w->deaths == c->fleet.deaths)
        return;
    for (uint32_t i = 0; i < ENGINES_MAX; i++) {
        if (c->fleet.engines[i].died <= w->deaths)
            continue;
        marks_drop_engine(&w->marks, i);
        list_for(pos, &w->agents)
            mark_ends_drop_engine(&container_of(pos, struct agent, node)->ends, i);
    }
    w->deaths = c->fleet.deaths;
}
