/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's batch and its clock.
 *
 * A request waits (heap by priority, then arrival), is admitted when blocks for its whole prompt
 * and output can be reserved, prefills in chunks under the token budget, decodes one token a step,
 * and leaves. Nothing is preempted: when memory is short the queue waits for the next release.
 * `priv` counts blocks that are reserved but have no content that others could hit yet;
 * block_register() turns them into shared ones.
 *
 * Unless tokens are streamed, a run of steps in which nothing can change but the clock is taken in
 * one jump of k steps; a newcomer cuts the jump at the next step border.
 */
#include "bench/engine/core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine/cache.h"
#include "common/must.h"

struct heap {
    struct engine_req **at;
    size_t len, cap;
};

struct chunk {
    struct engine_req *req; /* NULL: cancelled meanwhile */
    uint32_t tokens;
};

struct engine {
    struct engine_conf conf;
    struct engine_profile p;
    struct cache cache;
    struct cache host; /* capacity 0: none; blocks there have no references */
    double load_s;     /* what was loaded from there since the last step began */
    uint32_t priv;
    bool blocked; /* the head of the queue did not fit; nothing was released since */
    uint64_t order;

    struct heap wait, dec;
    struct list pre; /* in order of admission */
    uint32_t pre_count;
    int64_t tick; /* decode steps so far */
    int64_t ctx;  /* tokens of context of all decoding requests */

    bool running;
    double start_s, dt_s, free_s; /* of this step; when the last one ended */
    int64_t k;
    struct chunk *chunks;
    size_t chunk_count;
    struct engine_req **over; /* finished in this step */

    struct engine_stats stats;
};

static const struct engine_profile profiles[] = {
#define PROFILE(name, base, tok, attn, seq, kv, load, cache, help) \
    {name, help, base, tok, attn, seq, kv, load, cache},
#include "bench/engine/profiles.def"
#undef PROFILE
};

const struct engine_profile *engine_profile_row(size_t i)
{
    return i < sizeof profiles / sizeof *profiles ? &profiles[i] : NULL;
}

const struct engine_profile *engine_profile_find(const char *name)
{
    const struct engine_profile *p;

    for (size_t i = 0; (p = engine_profile_row(i)) != NULL; i++) {
        if (strcmp(p->name, name) == 0)
            return p;
    }
    return NULL;
}

/* heap of requests by (key, order) */

static bool before(const struct engine_req *a, const struct engine_req *b)
{
    return a->key != b->key ? a->key < b->key : a->order < b->order;
}

static void heap_set(struct heap *h, size_t i, struct engine_req *r)
{
    h->at[i] = r;
    r->pos = i;
}

static void heap_up(struct heap *h, size_t i, struct engine_req *r)
{
    for (size_t up; i > 0 && before(r, h->at[up = (i - 1) / 2]); i = up)
        heap_set(h, i, h->at[up]);
    heap_set(h, i, r);
}

static void heap_push(struct heap *h, struct engine_req *r)
{
    if (h->len == h->cap) {
        h->cap = h->cap == 0 ? 64 : h->cap * 2;
        h->at = realloc(h->at, h->cap * sizeof(struct engine_req *));
        must(h->at != NULL);
    }
    heap_up(h, h->len++, r);
}

static void heap_remove(struct heap *h, struct engine_req *r)
{
    size_t i = r->pos, down;
    struct engine_req *last = h->at[--h->len];

    must(i <= h->len);
    if (last == r)
        return;
    while ((down = 2 * i + 1) < h->len) {
        if (down + 1 < h->len && before(h->at[down + 1], h->at[down]))
            down++;
        if (!before(h->at[down], last))
            break;
        heap_set(h, i, h->at[down]);
        i = down;
    }
    heap_up(h, i, last);
}

/* blocks */

static void block_tell(struct engine *e, const struct engine_block *b)
{
    if (e->conf.on_block != NULL)
        e->conf.on_block(e->conf.hook_arg, b);
}

static void block_add(struct engine *e, const struct engine_req *r, uint32_t i)
{
    cache_add(&e->cache, r->ids[i]);
    block_tell(e, &(struct engine_block){.id = r->ids[i],
                                         .parent = i > 0 ? r->ids[i - 1] : 0,
                                         .stored = true,
                                         .index = i,
                                         .req = r});
}

/* It becomes the second tier's newest. */
static void host_put(struct engine *e, uint64_t id)
{
    struct cache *h = &e->host;

    if (h->capacity == 0)
        return;
    if (!cache_hold(h, id)) {
        if (h->cached == h->capacity)
            block_tell(e, &(struct engine_block){.id = cache_evict(h), .host = true});
        cache_add(h, id);
        block_tell(e, &(struct engine_block){.id = id, .stored = true, .host = true});
    }
    cache_drop(h, id);
}

static void block_evict(struct engine *e)
{
    uint64_t id = cache_evict(&e->cache);

    host_put(e, id); /* before the news that it left: it is in one of the two at any time */
    block_tell(e, &(struct engine_block){.id = id});
}

/* Blocks whose content is now computed, or about to be. */
static void block_register(struct engine *e, struct engine_req *r, uint32_t upto)
{
    for (uint32_t i = r->reg; i < upto; i++) {
        if (!cache_hold(&e->cache, r->ids[i]))
            block_add(e, r, i);
    }
    if (upto > r->reg) {
        e->priv -= upto - r->reg;
        r->reg = upto;
    }
}

/* The tail goes first, so that it is evicted first. */
static void block_release(struct engine *e, struct engine_req *r)
{
    e->priv -= r->need - r->reg;
    for (uint32_t i = r->reg; i > 0; i--)
        cache_drop(&e->cache, r->ids[i - 1]);
    e->blocked = false;
    r->state = ENGINE_REQ_OUT;
}

/* Behind its hits in the first tier, a prompt may go on in the second. */
static uint32_t host_load(struct engine *e, struct engine_req *r)
{
    uint32_t from = r->reg, upto = from;

    if (e->host.capacity == 0)
        return from;
    while (upto < r->np && cache_has(&e->host, r->ids[upto]))
        upto++;
    e->load_s += (double)(upto - from) * e->conf.block_tokens * e->p.load;
    return upto;
}

static bool admit(struct engine *e, struct engine_req *r)
{
    struct cache *c = &e->cache;
    uint32_t hit = cache_match(c, r->ids, r->np), need = r->need - hit, revived = 0;

    for (uint32_t i = 0; i < hit; i++)
        revived += cache_is_cached(c, r->ids[i]);
    if ((uint64_t)need + revived > c->capacity - c->held - e->priv)
        return false;
    for (uint32_t i = 0; i < hit; i++)
        (void)cache_hold(c, r->ids[i]);
    while (c->held + c->cached + e->priv + need > c->capacity)
        block_evict(e);
    e->priv += need;
    r->reg = hit;
    hit = host_load(e, r);
    r->hit_blocks = hit;
    r->host_blocks = hit - r->reg;
    block_register(e, r, hit);
    r->todo =
        (uint64_t)hit * e->conf.block_tokens < r->nin ? r->nin - hit * e->conf.block_tokens : 1;
    r->hit_tokens = r->nin - r->todo;
    e->stats.query_tokens += r->nin;
    e->stats.hit_tokens += r->hit_tokens;
    e->stats.computed_tokens += r->todo;
    if (e->conf.on_admit != NULL)
        e->conf.on_admit(e->conf.hook_arg, r);
    return true;
}

/* steps */

static uint32_t chunk_add(struct engine *e, struct engine_req *r, uint32_t budget)
{
    uint32_t m = r->todo < budget ? r->todo : budget;

    e->chunks[e->chunk_count++] = (struct chunk){r, m};
    return budget - m;
}

static void chunk_share(struct engine *e, const struct chunk *c)
{
    uint32_t upto = (c->req->nin - c->req->todo + c->tokens) / e->conf.block_tokens;

    if (!e->conf.share_after)
        block_register(e, c->req, upto < c->req->np ? upto : c->req->np);
}

static void batch_fill(struct engine *e)
{
    uint32_t budget = e->conf.budget_tokens;

    budget -= e->dec.len < budget ? (uint32_t)e->dec.len : budget;
    e->chunk_count = 0;
    list_for(pos, &e->pre)
    {
        if (budget == 0)
            break;
        budget = chunk_add(e, container_of(pos, struct engine_req, link), budget);
    }
    while (e->wait.len > 0 && budget > 0 && !e->blocked &&
           e->pre_count + e->dec.len < e->conf.seqs_max) {
        struct engine_req *r = e->wait.at[0];

        if (!admit(e, r)) {
            e->blocked = true;
            break;
        }
        heap_remove(&e->wait, r);
        list_push(&e->pre, &r->link);
        e->pre_count++;
        r->state = ENGINE_REQ_PREFILL;
        r->admitted_s = e->free_s;
        budget = chunk_add(e, r, budget);
        /* At once: the next in the queue may hit what this step is going to compute. */
        chunk_share(e, &e->chunks[e->chunk_count - 1]);
    }
    for (size_t i = 0; i < e->chunk_count; i++)
        chunk_share(e, &e->chunks[i]);
}

static void step_begin(struct engine *e)
{
    const struct engine_profile *p = &e->p;
    double n;

    batch_fill(e);
    if (e->chunk_count == 0 && e->dec.len == 0)
        return;
    n = (double)e->dec.len;
    e->k = 1;
    if (e->chunk_count == 0 && !e->conf.stream_tokens && e->dec.at[0]->key - e->tick > 1)
        e->k = e->dec.at[0]->key - e->tick;
    e->dt_s = p->base + e->load_s + p->seq * n + p->kv * ((double)e->ctx + n * (double)e->k / 2);
    for (size_t i = 0; i < e->chunk_count; i++) {
        double m = e->chunks[i].tokens;
        const struct engine_req *r = e->chunks[i].req;

        e->dt_s += p->tok * m + p->attn * m * ((double)(r->nin - r->todo) + m / 2);
    }
    e->load_s = 0;
    e->start_s = e->free_s;
    e->free_s = e->start_s + e->dt_s * (double)e->k;
    e->running = true;
}

/* A jump of several steps ends at the next border, because something changed. */
static void jump_cut(struct engine *e, double now)
{
    int64_t done;

    if (!e->running || e->chunk_count > 0 || e->k <= 1 || e->dt_s <= 0)
        return;
    done = (int64_t)ceil((now - e->start_s) / e->dt_s - 1e-9);
    if (done < 1)
        done = 1;
    if (done < e->k) {
        e->k = done;
        e->free_s = e->start_s + e->dt_s * (double)done;
    }
}

static size_t emit(struct engine_event *ev, size_t n, enum engine_event_kind kind, uint32_t tokens,
                   double at, struct engine_req *r)
{
    ev[n] = (struct engine_event){kind, tokens, at, r};
    return n + 1;
}

static void prefill_end(struct engine *e, struct engine_req *r, size_t *over)
{
    list_remove(&r->link);
    e->pre_count--;
    block_register(e, r, r->np);
    r->first_s = e->free_s;
    e->stats.prompt_tokens += r->nin;
    e->stats.out_tokens++;
    if (r->nout == 1) {
        e->over[(*over)++] = r;
        return;
    }
    r->state = ENGINE_REQ_DECODE;
    r->key = e->tick + r->nout - 1;
    heap_push(&e->dec, r);
    e->ctx += r->nin + INT64_C(1);
}

static size_t step_end(struct engine *e, struct engine_event *ev)
{
    size_t n = 0, over = 0;
    double at = e->free_s;

    e->running = false;
    e->stats.steps += (uint64_t)e->k;
    e->stats.busy_s += at - e->start_s;
    e->stats.out_tokens += (uint64_t)e->k * e->dec.len;
    e->tick += e->k;
    e->ctx += e->k * (int64_t)e->dec.len;
    for (size_t i = 0; e->conf.stream_tokens && i < e->dec.len; i++)
        n = emit(ev, n, ENGINE_TOKENS, (uint32_t)e->k, at, e->dec.at[i]);
    while (e->dec.len > 0 && e->dec.at[0]->key <= e->tick) {
        struct engine_req *r = e->dec.at[0];

        heap_remove(&e->dec, r);
        e->ctx -= (int64_t)r->nin + r->nout;
        e->over[over++] = r;
    }
    for (size_t i = 0; i < e->chunk_count; i++) {
        struct engine_req *r = e->chunks[i].req;

        if (r == NULL)
            continue;
        r->todo -= e->chunks[i].tokens;
        if (r->todo == 0) {
            prefill_end(e, r, &over);
            n = emit(ev, n, ENGINE_FIRST, 1, at, r);
        }
    }
    e->chunk_count = 0;
    for (size_t i = 0; i < over; i++) {
        block_register(e, e->over[i], e->over[i]->n_ids);
        block_release(e, e->over[i]);
        e->stats.done++;
        n = emit(ev, n, ENGINE_DONE, e->over[i]->nout, at, e->over[i]);
    }
    return n;
}

/* the door */

struct engine *engine_new(const struct engine_conf *conf)
{
    struct engine *e = calloc(1, sizeof *e);
    struct engine_conf *c;

    must(e != NULL);
    c = &e->conf;
    *c = *conf;
    e->p = conf->profile;
    if (c->cache_tokens == 0)
        c->cache_tokens = e->p.cache_tokens;
    if (c->block_tokens == 0)
        c->block_tokens = 16;
    if (c->budget_tokens == 0)
        c->budget_tokens = 8192;
    if (c->seqs_max == 0)
        c->seqs_max = 256;
    cache_init(&e->cache, (uint32_t)(c->cache_tokens / c->block_tokens));
    if (c->host_tokens >= c->block_tokens)
        cache_init(&e->host, (uint32_t)(c->host_tokens / c->block_tokens));
    list_init(&e->pre);
    e->chunks = calloc(c->seqs_max, sizeof *e->chunks);
    e->over = calloc(c->seqs_max, sizeof *e->over);
    e->dec.cap = c->seqs_max;
    e->dec.at = calloc(e->dec.cap, sizeof *e->dec.at);
    must(e->chunks != NULL && e->over != NULL && e->dec.at != NULL);
    return e;
}

void engine_free(struct engine *e)
{
    if (e == NULL)
        return;
    cache_fini(&e->cache);
    cache_fini(&e->host);
    free(e->chunks);
    free(e->over);
    free(e->dec.at);
    free(e->wait.at);
    free(e);
}

enum err engine_add(struct engine *e, double now_s, struct engine_req *r)
{
    uint32_t nout = r->nout > 0 ? r->nout : 1;
    uint64_t need = ((uint64_t)r->nin + nout + e->conf.block_tokens - 1) / e->conf.block_tokens;

    if (r->nin == 0 || r->np > r->n_ids || r->n_ids > need ||
        (uint64_t)r->np * e->conf.block_tokens > r->nin)
        return ERR_INVALID;
    if (need > e->cache.capacity)
        return ERR_TOO_LARGE;
    if (!e->running && e->wait.len + e->pre_count + e->dec.len == 0 && e->free_s < now_s)
        e->free_s = now_s;
    r->nout = nout;
    r->need = (uint32_t)need;
    r->reg = r->todo = r->hit_tokens = r->hit_blocks = r->host_blocks = 0;
    r->arrived_s = now_s;
    r->admitted_s = r->first_s = NAN;
    r->key = e->conf.priority ? r->priority : 0;
    e->order++;
    if (r->order == 0)
        r->order = e->order;
    r->state = ENGINE_REQ_WAIT;
    list_init(&r->link);
    heap_push(&e->wait, r);
    e->stats.requests++;
    jump_cut(e, now_s);
    return ERR_OK;
}

void engine_begin(struct engine *e)
{
    if (!e->running)
        step_begin(e);
}

void engine_cancel(struct engine *e, double now_s, struct engine_req *r)
{
    int64_t made;

    switch (r->state) {
    case ENGINE_REQ_OUT:
        return;
    case ENGINE_REQ_WAIT:
        if (e->wait.at[0] == r)
            e->blocked = false; /* the next one may be smaller */
        heap_remove(&e->wait, r);
        r->state = ENGINE_REQ_OUT;
        break;
    case ENGINE_REQ_PREFILL:
        for (size_t i = 0; i < e->chunk_count; i++) {
            if (e->chunks[i].req == r)
                e->chunks[i].req = NULL;
        }
        list_remove(&r->link);
        e->pre_count--;
        block_release(e, r);
        break;
    case ENGINE_REQ_DECODE:
        heap_remove(&e->dec, r);
        made = r->nout - (r->key - e->tick);
        e->ctx -= r->nin + made;
        made = (r->nin + made) / e->conf.block_tokens;
        block_register(e, r, made < r->n_ids ? (uint32_t)made : r->n_ids);
        block_release(e, r);
        jump_cut(e, now_s);
        break;
    }
    e->stats.cancelled++;
}

size_t engine_step(struct engine *e, double now_s, struct engine_event *events, size_t cap)
{
    size_t n = 0;

    must(cap >= engine_events_max(e));
    while (n == 0) {
        if (!e->running)
            step_begin(e);
        if (!e->running || e->free_s > now_s)
            break;
        n = step_end(e, events);
    }
    return n;
}

size_t engine_events_max(const struct engine *e)
{
    return (size_t)e->conf.seqs_max * 2;
}

double engine_next_deadline(const struct engine *e)
{
    if (e->running || e->wait.len + e->pre_count + e->dec.len > 0)
        return e->free_s;
    return INFINITY;
}

bool engine_forget(struct engine *e, uint64_t id)
{
    if (!cache_forget(&e->cache, id))
        return false;
    block_tell(e, &(struct engine_block){.id = id});
    return true;
}

bool engine_has(const struct engine *e, uint64_t id)
{
    return cache_has(&e->cache, id) || (e->host.capacity > 0 && cache_has(&e->host, id));
}

uint32_t engine_match(const struct engine *e, const uint64_t *ids, uint32_t n)
{
    return cache_match(&e->cache, ids, n);
}

void engine_stats_get(const struct engine *e, struct engine_stats *out)
{
    *out = e->stats;
    out->running = e->pre_count + (uint32_t)e->dec.len;
    out->waiting = (uint32_t)e->wait.len;
    out->blocks = e->cache.capacity;
    out->blocks_held = e->cache.held + e->priv;
    out->blocks_cached = e->cache.cached;
}

void engine_reset(struct engine *e)
{
    while (e->cache.cached > 0)
        (void)engine_forget(e, e->cache.blocks[e->cache.blocks[0].next].id);
    while (e->host.cached > 0)
        block_tell(e, &(struct engine_block){.id = cache_evict(&e->host), .host = true});
    memset(&e->stats, 0, sizeof e->stats);
}
