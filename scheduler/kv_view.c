/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/kv_view.h"

#include <stdlib.h>

#include "common/must.h"

#define SLOTS_FIRST 1024u

void kv_view_init(struct kv_view *v)
{
    *v = (struct kv_view){.group = -1};
}

void kv_view_fini(struct kv_view *v)
{
    free(v->slots);
    kv_view_init(v);
}

void kv_view_clear(struct kv_view *v, bool complete, bool goes_on)
{
    struct kv_view fresh = {.group = -1, .complete = complete, .whole = complete};

    if (goes_on) {
        fresh.any = v->any;
        fresh.last = v->last;
        fresh.last_ts = v->last_ts;
        fresh.live_any = v->live_any;
        fresh.live_last = v->live_last;
        fresh.group = v->group;
    }
    free(v->slots);
    *v = fresh;
}

/* ---- numbers ---- */

enum kv_step kv_view_step(const struct kv_view *v, uint64_t seq, double ts, bool live)
{
    if (!v->any || seq == v->last + 1)
        return KV_STEP_TAKE;
    if (seq > v->last)
        return KV_STEP_GAP;
    /* One connection never goes back; a replay brings what the connection is going to repeat. */
    if (live && v->live_any && seq <= v->live_last)
        return KV_STEP_RESTART;
    return ts > v->last_ts ? KV_STEP_RESTART : KV_STEP_REPEAT;
}

void kv_view_took(struct kv_view *v, uint64_t seq, double ts, bool live)
{
    if (!v->any || seq > v->last) {
        v->last = seq;
        v->last_ts = ts;
    }
    v->any = true;
    if (live) {
        v->live_any = true;
        v->live_last = seq;
    }
}

/* ---- blocks ---- */

static uint32_t slot_home(const struct kv_view *v, uint64_t hash)
{
    hash ^= hash >> 32;
    hash *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(hash >> 32) & v->mask;
}

static uint32_t slot_find(const struct kv_view *v, uint64_t hash)
{
    uint32_t i = slot_home(v, hash);

    while (v->slots[i].tokens != 0 && v->slots[i].hash != hash)
        i = (i + 1) & v->mask;
    return i;
}

static void slots_grow(struct kv_view *v)
{
    struct kv_slot *old = v->slots;
    uint32_t size = old != NULL ? v->mask + 1 : 0, i;

    v->mask = (size > 0 ? size * 2 : SLOTS_FIRST) - 1;
    v->slots = calloc((size_t)v->mask + 1, sizeof(*v->slots));
    must(v->slots != NULL);
    for (i = 0; i < size; i++)
        if (old[i].tokens != 0)
            v->slots[slot_find(v, old[i].hash)] = old[i];
    free(old);
}

static bool block_add(struct kv_view *v, uint64_t hash, uint32_t tokens)
{
    uint32_t i;

    if (v->slots == NULL || v->blocks >= v->mask / 2)
        slots_grow(v);
    i = slot_find(v, hash);
    if (v->slots[i].tokens != 0)
        return false;
    v->slots[i] = (struct kv_slot){hash, tokens};
    v->blocks++;
    v->tokens += tokens;
    return true;
}

/* Its tokens; 0: not there. */
static uint32_t block_remove(struct kv_view *v, uint64_t hash)
{
    uint32_t i, j, home, tokens;

    if (v->slots == NULL)
        return 0;
    i = slot_find(v, hash);
    tokens = v->slots[i].tokens;
    if (tokens == 0)
        return 0;
    /* Close the gap, so that no search stops short of what collided with it. */
    for (j = (i + 1) & v->mask; v->slots[j].tokens != 0; j = (j + 1) & v->mask) {
        home = slot_home(v, v->slots[j].hash);
        if (((j - home) & v->mask) >= ((j - i) & v->mask)) {
            v->slots[i] = v->slots[j];
            i = j;
        }
    }
    v->slots[i].tokens = 0;
    v->blocks--;
    v->tokens -= tokens;
    return tokens;
}

/* ---- events ---- */

/*
 * Of several groups of layers only the first that keeps whole contexts counts: all hold the same
 * tokens. An event whose blocks do not cover its tokens is of another kind of group.
 */
static bool is_ours(struct kv_view *v, const struct kv_record *r)
{
    if (r->medium != KV_GPU || r->partial_view)
        return false;
    if (r->kind == KV_STORED &&
        (r->block_size == 0 || (uint64_t)r->count * r->block_size != r->token_count))
        return false;
    if (r->kind == KV_STORED && v->group < 0)
        v->group = r->group;
    return r->group < 0 || r->group == v->group;
}

static void record_stored(struct kv_view *v, const struct kv_record *r, struct kv_delta *out)
{
    for (uint32_t i = 0; i < r->count; i++) {
        if (!block_add(v, r->hashes[i], r->block_size))
            continue;
        out->stored_blocks++;
        out->stored_tokens += r->block_size;
    }
    if (v->blocks > KV_VIEW_MAX) {
        kv_view_clear(v, false, true);
        out->overflow = true;
    }
}

static void record_removed(struct kv_view *v, const struct kv_record *r, struct kv_delta *out)
{
    for (uint32_t i = 0; i < r->count; i++) {
        uint32_t tokens = block_remove(v, r->hashes[i]);

        v->known_removals = tokens > 0 ? v->known_removals + 1 : 0;
        out->removed_blocks += tokens > 0;
        out->removed_tokens += tokens;
    }
    if (v->known_removals >= KV_TURNOVER)
        v->complete = true;
}

void kv_view_apply(struct kv_view *v, const struct kv_batch *batch, struct kv_delta *out)
{
    *out = (struct kv_delta){0};
    for (size_t i = 0; i < batch->count; i++) {
        const struct kv_record *r = &batch->events[i];

        if (r->kind == KV_CLEARED) {
            kv_view_clear(v, true, true);
            *out = (struct kv_delta){.cleared = true, .ignored = out->ignored};
        } else if (!is_ours(v, r)) {
            out->ignored += r->medium != KV_DIGEST;
        } else if (r->kind == KV_STORED) {
            record_stored(v, r, out);
        } else {
            record_removed(v, r, out);
        }
    }
}
