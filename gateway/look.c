/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/look.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/must.h"
#include "gateway/digest.h"
#include "gateway/finish.h"
#include "gateway/placement.h"
#include "gateway/worker.h"

#define AT_ONCE_BYTES (64u << 10)
#define PIECE_BYTES (96u << 10)
#define TIMED_BYTES (16u << 10)

enum look_stage { LOOK_IDLE, LOOK_INSPECT, LOOK_DIGEST };

struct look {
    struct inspection in;
    struct digest digest;
    uint64_t owner; /* request whose body this is */
    enum look_stage stage;
};

struct gw_scratch {
    struct look small, big;
};

void look_init(struct gw *gw)
{
    gw->scratch = calloc(1, sizeof(*gw->scratch));
    must(gw->scratch != NULL);
    list_init(&gw->looking);
}

void look_fini(struct gw *gw)
{
    if (gw->scratch == NULL)
        return;
    inspect_fini(&gw->scratch->small.in);
    inspect_fini(&gw->scratch->big.in);
    digest_fini(&gw->scratch->small.digest);
    digest_fini(&gw->scratch->big.digest);
    free(gw->scratch);
    gw->scratch = NULL;
}

static const char *id_keep(struct gw_request *r, const struct inspect_id *id)
{
    return id->len > 0 ? request_strdup(r, id->bytes, id->len) : "";
}

static enum err identity_keep(struct gw_request *r, const struct inspect_metadata *md,
                              const char **param)
{
    struct identity *id = r->identity;
    enum err e = identity_body_add(id, md);

    if (e != ERR_OK) {
        *param = id->err_param;
        return e;
    }
    r->workflow_id = id_keep(r, &id->workflow_id);
    r->agent_id = id_keep(r, &id->agent_id);
    r->parent_id = id_keep(r, &id->parent_request_id);
    r->group_id = id_keep(r, &id->group_id);
    r->group_size = id->group_size;
    r->strategy = id->strategy;
    r->priority = id->priority;
    r->final = id->final;
    r->conflict = id->conflict;
    return ERR_OK;
}

static void error_say(struct gw_request *r, const struct inspection *in)
{
    char text[200];

    if (in->err_param[0] != '\0')
        snprintf(text, sizeof(text), "%s (\"%s\", at byte %u)", err_text(in->err), in->err_param,
                 in->err_at);
    else
        snprintf(text, sizeof(text), "%s (at byte %u)", err_text(in->err), in->err_at);
    respond_error(r, in->err, in->err_param, text);
}

static bool is_optional_model(const struct gw_request *r)
{
    return r->path_len >= 9 && r->path[0] == '/' && r->path[1] != 'v'; /* /tokenize, /detokenize */
}

/* The body is known: false when an error has been answered. */
static bool body_accept(struct gw_request *r, const struct inspection *in)
{
    const char *param = NULL;
    enum err e;

    if (in->err != ERR_OK) {
        error_say(r, in);
        return false;
    }
    e = identity_keep(r, in->metadata.present ? &in->metadata : NULL, &param);
    if (e != ERR_OK) {
        respond_error(r, e, param, NULL);
        return false;
    }
    if (in->model.len == 0 && !is_optional_model(r)) {
        bool unknown_path = r->route->shape == INSPECT_OTHER;

        respond_error(r, unknown_path ? ERR_PATH : ERR_NO_MODEL, unknown_path ? NULL : "model",
                      NULL);
        return false;
    }
    r->model = id_keep(r, &in->model);
    r->model_len = in->model.len;
    r->stream = in->stream == INSPECT_TRUE;
    r->max_tokens = in->max_tokens;
    r->facts = (struct gw_look){.metadata_cut = in->metadata.cut,
                                .stream_options = in->stream_options,
                                .priority = in->priority,
                                .object_open = in->object_open,
                                .stream_options_empty = in->stream_options_empty,
                                .stream_options_null = in->stream_options_null};
    r->facts.may_add_usage =
        r->stream && in->include_usage == INSPECT_ABSENT &&
        (r->route->shape == INSPECT_CHAT || r->route->shape == INSPECT_COMPLETION);
    return true;
}

/* One piece of work, at most budget bytes. true: r has moved on. */
static bool look_step(struct look *l, struct gw_request *r, size_t budget)
{
    struct gw *gw = r->gw;

    if (l->stage == LOOK_INSPECT) {
        if (!inspect_run(&l->in, budget))
            return false;
        l->stage = LOOK_IDLE;
        if (!body_accept(r, &l->in))
            return true;
        struct digest_key key = {.seed = fleet_digest_seed(&gw->fleet),
                                 .model = r->model,
                                 .salt = l->in.cache_salt.len > 0 ? l->in.cache_salt.bytes : NULL,
                                 .tenant = r->tenant[0] != '\0' ? r->tenant : NULL};
        digest_start(&l->digest, &l->in, &key);
        l->stage = LOOK_DIGEST;
        if (budget < l->in.len)
            return false;
    }
    if (!digest_run(&l->digest, budget))
        return false;
    l->stage = LOOK_IDLE;
    r->prompt_bytes = l->digest.bytes < UINT32_MAX ? (uint32_t)l->digest.bytes : UINT32_MAX;
    r->looked = true;
    gw_goto(r, GW_PLACING, "body looked at");
    return true;
}

/* CPU time of this thread: what the machine did meanwhile is not the step's length. */
static uint64_t thread_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static bool look_timed(struct look *l, struct gw_request *r, size_t budget)
{
    struct gw *gw = r->gw;
    uint64_t from;
    double took;
    bool moved;

    if (r->req->entity.len < TIMED_BYTES) /* a few microseconds; the clock would cost as much */
        return look_step(l, r, budget);
    from = thread_ns();
    moved = look_step(l, r, budget);
    took = (double)(thread_ns() - from) / 1e9;
    if (took > metric_value(gw->m[GW_M_longest_step]))
        metric_set(gw->m[GW_M_longest_step], took);
    return moved;
}

static void look_begin(struct look *l, struct gw_request *r)
{
    l->owner = r->handle;
    l->stage = LOOK_INSPECT;
    inspect_start(&l->in, r->route->shape, r->req->entity.base, r->req->entity.len);
}

void look_start(struct gw_request *r)
{
    struct gw *gw = r->gw;

    if (r->req->entity.len == 0) {
        respond_error(r, ERR_JSON, NULL, "The body is empty; a JSON object is expected.");
        return;
    }
    if (r->req->entity.len > AT_ONCE_BYTES) {
        list_push(&gw->looking, &r->node);
        return;
    }
    look_begin(&gw->scratch->small, r);
    while (!look_timed(&gw->scratch->small, r, 2 * AT_ONCE_BYTES))
        ;
    gw->scratch->small.owner = 0;
}

bool look_turn(struct gw *gw)
{
    struct look *l = &gw->scratch->big;
    struct list *n = list_first(&gw->looking);
    struct gw_request *r;

    if (n == NULL)
        return false;
    r = container_of(n, struct gw_request, node);
    if (l->owner != r->handle || l->stage == LOOK_IDLE)
        look_begin(l, r);
    list_remove(&r->node);
    if (look_timed(l, r, PIECE_BYTES))
        l->owner = 0; /* r may be gone */
    else
        list_push_front(&gw->looking, &r->node);
    return !list_is_empty(&gw->looking);
}

bool look_digests(struct gw_request *r, const uint64_t **digests, uint32_t *count,
                  uint32_t *tail_bytes)
{
    struct gw_scratch *s = r->gw->scratch;
    const struct look *l = s->small.owner == r->handle ? &s->small
                           : s->big.owner == r->handle ? &s->big
                                                       : NULL;

    if (l == NULL || l->stage != LOOK_IDLE)
        return false;
    *digests = l->digest.blocks;
    *count = l->digest.count;
    *tail_bytes = l->digest.tail_bytes;
    return true;
}
