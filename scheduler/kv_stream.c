/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/kv_stream.h"

#define FIRST_SEQ_MAX 1u /* publishers number from 0 or from 1 */

void kv_stream_init(struct kv_stream *s, bool has_replay)
{
    *s = (struct kv_stream){.has_replay = has_replay};
    kv_view_init(&s->view);
}

void kv_stream_fini(struct kv_stream *s)
{
    kv_view_fini(&s->view);
}

/* ---- replays ---- */

static void replay_ask(struct kv_stream *s, uint64_t now_ns)
{
    s->state = KV_REPLAY;
    s->ask = s->first = true;
    s->moved = false;
    s->ask_from = s->view.any ? s->view.last : 0;
    s->deadline_ns = now_ns + KV_REPLAY_NS;
    s->count.replays++;
}

static void replay_begin(struct kv_stream *s, uint64_t now_ns, bool by_live)
{
    s->tries = 0;
    s->by_live = by_live;
    replay_ask(s, now_ns);
}

/* From where it got, or not at all where it gets nowhere. */
static void replay_again(struct kv_stream *s, uint64_t now_ns, const char *why)
{
    s->tries = s->moved ? 0 : s->tries + 1;
    if (s->tries < KV_REPLAY_TRIES) {
        replay_ask(s, now_ns);
        return;
    }
    s->state = KV_LIVE;
    s->retry_ns = now_ns + KV_RETRY_NS;
    s->why = why;
}

static bool may_replay(const struct kv_stream *s, uint64_t now_ns)
{
    return s->has_replay && now_ns >= s->retry_ns;
}

/* ---- losses and beginnings ---- */

static void stream_lose(struct kv_stream *s, const char *why)
{
    if (s->view.complete || s->view.blocks > 0)
        s->count.lost++;
    s->why = why;
    kv_view_clear(&s->view, false, true);
}

static void stream_restart(struct kv_stream *s)
{
    s->count.restarts++;
    s->cleared = true;
    s->why = "the publisher began anew";
    kv_view_clear(&s->view, false, false);
}

/* The first batch that is seen of a publisher. */
static void stream_begin(struct kv_stream *s, uint64_t seq)
{
    bool whole = seq <= FIRST_SEQ_MAX;

    if (!whole)
        s->why = "the history begins in the middle";
    kv_view_clear(&s->view, whole, false);
}

static bool stream_take(struct kv_stream *s, uint64_t seq, const struct kv_batch *batch, bool live,
                        struct kv_delta *delta)
{
    kv_view_took(&s->view, seq, batch->ts, live);
    kv_view_apply(&s->view, batch, delta);
    s->count.batches++;
    s->count.events += batch->count + batch->unknown;
    s->count.ignored += delta->ignored + batch->unknown;
    s->cleared |= delta->cleared;
    if (delta->overflow) {
        s->count.lost++;
        s->why = "more blocks than any cache has";
    }
    return true;
}

void kv_stream_up(struct kv_stream *s, uint64_t now_ns)
{
    s->retry_ns = 0;
    if (s->has_replay)
        replay_begin(s, now_ns, false);
    else
        s->state = KV_LIVE;
    s->view.live_any = false; /* another connection, which counts for itself */
}

/* ---- batches ---- */

/* False: this answer is not a continuation. */
static bool replay_opens(struct kv_stream *s, uint64_t now_ns, uint64_t seq, double ts)
{
    s->first = false;
    if (!s->view.any) {
        stream_begin(s, seq);
        return true;
    }
    if (seq > s->view.last) {
        stream_lose(s, "the publisher has not kept what was missed");
        return true;
    }
    if (seq < s->view.last || ts > s->view.last_ts || ts < s->view.last_ts) {
        stream_restart(s);
        replay_begin(s, now_ns, s->by_live);
    }
    return false; /* known, or to come again from 0 */
}

static bool batch_replayed(struct kv_stream *s, uint64_t now_ns, uint64_t seq,
                           const struct kv_batch *batch, struct kv_delta *delta)
{
    if (s->state != KV_REPLAY)
        return false;
    s->deadline_ns = now_ns + KV_REPLAY_NS;
    if (s->first) {
        if (!replay_opens(s, now_ns, seq, batch->ts))
            return false;
    } else if (s->view.any && seq <= s->view.last) {
        return false;
    } else if (s->view.any && seq > s->view.last + 1) {
        replay_again(s, now_ns, "replays have holes");
        return false;
    }
    s->moved = true;
    return stream_take(s, seq, batch, false, delta);
}

static bool batch_live(struct kv_stream *s, uint64_t now_ns, uint64_t seq,
                       const struct kv_batch *batch, struct kv_delta *delta)
{
    enum kv_step step = kv_view_step(&s->view, seq, batch->ts, true);

    if (step == KV_STEP_REPEAT) {
        s->view.live_any = true;
        s->view.live_last = seq;
        return false;
    }
    if (step == KV_STEP_RESTART)
        stream_restart(s);
    if (step == KV_STEP_GAP) {
        s->count.gaps++;
        s->why = "batches are missing";
    }
    if (!s->view.any || step == KV_STEP_GAP) {
        /* The replay brings this batch, too. */
        if (may_replay(s, now_ns) && !s->was_empty && (s->view.any || seq > 0)) {
            replay_begin(s, now_ns, true);
            return false;
        }
        if (s->view.any)
            stream_lose(s, "batches are missing and cannot be had again");
        else
            stream_begin(s, seq);
    }
    s->was_empty = false;
    return stream_take(s, seq, batch, true, delta);
}

bool kv_stream_batch(struct kv_stream *s, uint64_t now_ns, uint64_t seq,
                     const struct kv_batch *batch, bool live, struct kv_delta *delta)
{
    *delta = (struct kv_delta){0};
    return live ? batch_live(s, now_ns, seq, batch, delta)
                : batch_replayed(s, now_ns, seq, batch, delta);
}

void kv_stream_garbage(struct kv_stream *s, uint64_t now_ns, uint64_t seq, bool live,
                       const char *why)
{
    s->count.garbage++;
    s->why = why;
    if (seq == KV_SEQ_END || (!live && s->state != KV_REPLAY))
        return;
    if (!live) {
        s->deadline_ns = now_ns + KV_REPLAY_NS;
        s->first = false;
        s->moved = true;
    }
    /* What it said is lost; asking again would bring the same. */
    if (s->view.any && seq <= s->view.last)
        return;
    stream_lose(s, why);
    kv_view_took(&s->view, seq, s->view.last_ts, live);
}

void kv_stream_replay_end(struct kv_stream *s, uint64_t now_ns)
{
    if (s->state != KV_REPLAY)
        return;
    if (s->first && s->view.any) { /* it has nothing from there on, and had */
        stream_restart(s);
        replay_begin(s, now_ns, s->by_live);
        return;
    }
    s->was_empty = s->first && s->by_live;
    if (s->first)
        kv_view_clear(&s->view, true, false);
    s->state = KV_LIVE;
}

void kv_stream_tick(struct kv_stream *s, uint64_t now_ns)
{
    if (s->state == KV_REPLAY && now_ns >= s->deadline_ns)
        replay_again(s, now_ns, "nobody answers the request for a replay");
}

uint64_t kv_stream_deadline(const struct kv_stream *s)
{
    return s->state == KV_REPLAY ? s->deadline_ns : UINT64_MAX;
}
