/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/kv_sub.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <zmq.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "scheduler/core.h"

#define QUEUE_MAX 1024u       /* weight of news that the loop has not handled yet */
#define WEIGHT_BYTES 4096u    /* as heavy as one more piece of news */
#define READ_MAX 64u          /* messages of one socket before the next one's turn */
#define READ_BYTES (1u << 20) /* and their bytes */
/* libzmq counts messages, not bytes: what it may hold unread of one publisher. A publisher that is
 * not read fast enough keeps more; one that answers a request for a replay drops what is more. */
#define LIVE_UNREAD 64
#define REPLAY_UNREAD 2048
#define BUSY_MS 5 /* how soon a full queue is looked at again */
#define IDLE_MS 1000
#define LOG_EVERY_NS (5 * NS_PER_S)
#define OPEN_EVERY_NS (5 * NS_PER_S)
#define RANKS_MAX 64u

struct feed;

struct rank { /* one publisher */
    struct feed *feed;
    uint32_t number;
    void *sub, *monitor, *dealer; /* NULL: closed */
    uint64_t open_ns;             /* sub is NULL: when to try again */
    uint32_t connected;
    struct kv_stream stream;
    struct kv_counters told; /* what the log has heard */
    uint64_t told_ns;
    struct kv_counters posted; /* what the loop has heard */
    bool posted_complete;
};

struct feed { /* one engine; the thread's */
    bool used;
    struct kv_target target;
    struct rank *ranks;
};

struct kv_sub {
    pthread_t thread;
    void *zmq;
    int wake;
    struct inbox *inbox;
    void (*on_news)(void *arg, const struct kv_news *news);
    void *arg;
    atomic_uint queued;
    pthread_mutex_t lock;      /* over what follows, up to the blank line */
    struct kv_target *targets; /* new ones for the thread; NULL: none */
    size_t target_count;
    bool stop;

    struct feed feeds[ENGINES_MAX]; /* the thread's from here on */
    struct kv_decoder *decoder;
    zmq_pollitem_t *items;
    struct rank **item_ranks;
    size_t item_cap;
    uint64_t monitor_count;
};

struct item {
    struct inbox_item base;
    struct kv_sub *sub;
    unsigned weight;
    struct kv_news news;
};

/* ---- on the loop's thread ---- */

static void item_handle(struct inbox_item *base)
{
    struct item *it = (struct item *)(void *)base;

    if (it->sub->on_news != NULL)
        it->sub->on_news(it->sub->arg, &it->news);
    atomic_fetch_sub_explicit(&it->sub->queued, it->weight, memory_order_relaxed);
    free(it);
}

/* ---- news ---- */

static struct item *item_new(const struct kv_batch *batch)
{
    size_t ops = 0, digests = 0, used = 0;
    struct item *it;
    struct kv_op *op;
    uint64_t *copy;

    for (size_t i = 0; batch != NULL && i < batch->count; i++) {
        if (batch->events[i].medium != KV_DIGEST || batch->events[i].kind == KV_CLEARED)
            continue;
        ops++;
        digests += batch->events[i].count;
    }
    it = calloc(1, sizeof(*it) + ops * sizeof(*op) + digests * sizeof(*copy));
    must(it != NULL);
    it->base.handle = item_handle;
    it->weight = 1 + (unsigned)(digests * sizeof(*copy) / WEIGHT_BYTES);
    op = (struct kv_op *)(void *)(it + 1);
    copy = (uint64_t *)(void *)(op + ops);
    it->news.ops = op;
    for (size_t i = 0; ops > 0 && i < batch->count; i++) {
        const struct kv_record *r = &batch->events[i];

        if (r->kind == KV_CLEARED)
            it->news.op_count = 0; /* what came before it does not matter any more */
        if (r->medium != KV_DIGEST || r->kind == KV_CLEARED)
            continue;
        memcpy(copy + used, r->hashes, r->count * sizeof(*copy));
        op[it->news.op_count++] = (struct kv_op){.stored = r->kind == KV_STORED,
                                                 .parent = r->has_parent ? r->parent : 0,
                                                 .digests = copy + used,
                                                 .count = r->count};
        used += r->count;
    }
    return it;
}

/* What a feed's ranks hold together. */
static void news_fill(struct feed *f, struct kv_news *n)
{
    bool all_cleared = true, any_cleared = false;

    n->index = f->target.index;
    n->generation = f->target.generation;
    n->known = n->whole = true;
    for (uint32_t i = 0; i < f->target.ranks; i++) {
        struct rank *r = &f->ranks[i];
        const uint64_t *from = (const uint64_t *)(const void *)&r->stream.count;
        uint64_t *to = (uint64_t *)(void *)&n->count;

        n->known = n->known && r->stream.view.complete;
        n->whole = n->whole && r->stream.view.whole;
        n->tokens += r->stream.view.tokens;
        n->connected += r->connected > 0;
        any_cleared |= r->stream.cleared;
        all_cleared = all_cleared && (r->stream.cleared || r->stream.view.tokens == 0);
        r->stream.cleared = false;
        for (size_t k = 0; k < sizeof(n->count) / sizeof(*to); k++)
            to[k] += from[k];
    }
    /* One of several ranks: its share goes, the rest stays. */
    n->cleared = any_cleared && all_cleared;
}

static void news_post(struct kv_sub *s, struct rank *r, const struct kv_batch *batch)
{
    struct item *it = item_new(r->feed->target.content ? batch : NULL);

    it->sub = s;
    news_fill(r->feed, &it->news);
    r->posted = r->stream.count;
    r->posted_complete = r->stream.view.complete;
    atomic_fetch_add_explicit(&s->queued, it->weight, memory_order_relaxed);
    inbox_put(s->inbox, &it->base);
}

/* Nobody listens to that engine any more. */
static void news_end(struct kv_sub *s, const struct feed *f)
{
    struct item *it = item_new(NULL);

    it->sub = s;
    it->news.index = f->target.index;
    it->news.generation = f->target.generation;
    atomic_fetch_add_explicit(&s->queued, it->weight, memory_order_relaxed);
    inbox_put(s->inbox, &it->base);
}

static bool has_news(const struct rank *r)
{
    return r->stream.cleared || r->stream.view.complete != r->posted_complete ||
           memcmp(&r->stream.count, &r->posted, sizeof(r->posted)) != 0;
}

/* Losses, gaps, restarts and garbage, in words, but not each one of a flood. */
static void rank_tell(struct rank *r, uint64_t now)
{
    const struct kv_counters *c = &r->stream.count, *told = &r->told;

    if (c->garbage == told->garbage && c->gaps == told->gaps && c->restarts == told->restarts &&
        c->lost == told->lost)
        return;
    if (r->told_ns != 0 && now - r->told_ns < LOG_EVERY_NS)
        return;
    log_warn("kv_events_disturbed",
             "engine=%s rank=%u gaps=%llu restarts=%llu garbage=%llu lost=%llu reason=\"%s\"",
             r->feed->target.id, r->number, (unsigned long long)(c->gaps - told->gaps),
             (unsigned long long)(c->restarts - told->restarts),
             (unsigned long long)(c->garbage - told->garbage),
             (unsigned long long)(c->lost - told->lost),
             r->stream.why != NULL ? r->stream.why : "");
    r->told = *c;
    r->told_ns = now;
}

/* ---- sockets ---- */

bool kv_endpoint(const char *endpoint, uint32_t rank, char *dst, size_t size)
{
    const char *colon = strrchr(endpoint, ':');
    unsigned long port;
    char *rest;
    int n;

    if (rank == 0) {
        n = snprintf(dst, size, "%s", endpoint);
        return n >= 0 && (size_t)n < size;
    }
    if (strncmp(endpoint, "tcp://", 6) != 0 || colon == NULL || colon < endpoint + 6)
        return false;
    port = strtoul(colon + 1, &rest, 10);
    if (rest == colon + 1 || *rest != '\0' || port + rank > 65535)
        return false;
    n = snprintf(dst, size, "%.*s:%lu", (int)(colon - endpoint), endpoint, port + rank);
    return n >= 0 && (size_t)n < size;
}

static void socket_close(void **socket)
{
    if (*socket != NULL)
        zmq_close(*socket);
    *socket = NULL;
}

static void *socket_open(struct kv_sub *s, int type)
{
    void *socket = zmq_socket(s->zmq, type);
    int64_t biggest = KV_PAYLOAD_MAX;
    int none = 0, on = 1, idle = 30, again = 100, again_max = 2000;
    int queue = type == ZMQ_SUB ? LIVE_UNREAD : REPLAY_UNREAD;

    if (socket == NULL)
        return NULL;
    zmq_setsockopt(socket, ZMQ_LINGER, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_MAXMSGSIZE, &biggest, sizeof(biggest));
    zmq_setsockopt(socket, ZMQ_RCVHWM, &queue, sizeof(queue));
    zmq_setsockopt(socket, ZMQ_IPV6, &on, sizeof(on));
    zmq_setsockopt(socket, ZMQ_TCP_KEEPALIVE, &on, sizeof(on));
    zmq_setsockopt(socket, ZMQ_TCP_KEEPALIVE_IDLE, &idle, sizeof(idle));
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL, &again, sizeof(again));
    zmq_setsockopt(socket, ZMQ_RECONNECT_IVL_MAX, &again_max, sizeof(again_max));
    return socket;
}

static bool monitor_open(struct kv_sub *s, struct rank *r)
{
    char name[48];

    snprintf(name, sizeof(name), "inproc://monitor-%llu", (unsigned long long)s->monitor_count++);
    if (zmq_socket_monitor(r->sub, name, ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED) !=
        0)
        return false;
    r->monitor = zmq_socket(s->zmq, ZMQ_PAIR);
    return r->monitor != NULL && zmq_connect(r->monitor, name) == 0;
}

static void rank_close(struct rank *r)
{
    if (r->sub != NULL)
        zmq_socket_monitor(r->sub, NULL, 0);
    socket_close(&r->monitor);
    socket_close(&r->sub);
    socket_close(&r->dealer);
    r->connected = 0;
}

static void rank_open(struct kv_sub *s, struct rank *r, uint64_t now)
{
    const struct kv_target *t = &r->feed->target;
    char endpoint[224] = "";

    r->sub = socket_open(s, ZMQ_SUB);
    if (r->sub != NULL && kv_endpoint(t->events, r->number, endpoint, sizeof(endpoint)) &&
        zmq_setsockopt(r->sub, ZMQ_SUBSCRIBE, t->topic, strlen(t->topic)) == 0 &&
        monitor_open(s, r) &&
        (t->bind ? zmq_bind(r->sub, endpoint) : zmq_connect(r->sub, endpoint)) == 0) {
        log_info("kv_events_open", "engine=%s rank=%u endpoint=%s mode=%s", t->id, r->number,
                 endpoint, t->bind ? "bind" : "connect");
        return;
    }
    if (r->told_ns == 0)
        log_warn("kv_events_failed", "engine=%s rank=%u endpoint=%s error=\"%s\"", t->id, r->number,
                 endpoint, zmq_strerror(zmq_errno()));
    r->told_ns = now;
    rank_close(r);
    r->open_ns = now + OPEN_EVERY_NS;
}

/* A socket of its own for each replay: answers to an older request reach nobody. */
static void replay_send(struct kv_sub *s, struct rank *r)
{
    unsigned char frame[8];
    char endpoint[224];

    r->stream.ask = false;
    socket_close(&r->dealer);
    r->dealer = socket_open(s, ZMQ_DEALER);
    if (r->dealer == NULL ||
        !kv_endpoint(r->feed->target.replay, r->number, endpoint, sizeof(endpoint)) ||
        zmq_connect(r->dealer, endpoint) != 0)
        return; /* the stream's deadline gives it up */
    kv_seq_write(r->stream.ask_from, frame);
    zmq_send(r->dealer, "", 0, ZMQ_SNDMORE | ZMQ_DONTWAIT);
    zmq_send(r->dealer, frame, sizeof(frame), ZMQ_DONTWAIT);
}

/* ---- messages ---- */

struct message { /* its last two frames */
    zmq_msg_t seq, payload;
    unsigned frames;
};

static void message_close(struct message *m)
{
    zmq_msg_close(&m->seq);
    zmq_msg_close(&m->payload);
}

/* False: there is none. */
static bool message_read(void *socket, struct message *m)
{
    *m = (struct message){0};
    zmq_msg_init(&m->seq);
    zmq_msg_init(&m->payload);
    do {
        zmq_msg_move(&m->seq, &m->payload); /* frees what was there, empties the other */
        if (zmq_msg_recv(&m->payload, socket, ZMQ_DONTWAIT) < 0) {
            message_close(m);
            return false;
        }
        m->frames++;
    } while (zmq_msg_more(&m->payload));
    return true;
}

static void message_take(struct kv_sub *s, struct rank *r, struct message *m, bool live,
                         uint64_t now)
{
    const char *why = "the number of a batch is none";
    struct kv_stream *st = &r->stream;
    struct kv_batch batch;
    struct kv_delta delta;
    uint64_t seq;

    if (m->frames < 2 || !kv_seq_read(zmq_msg_data(&m->seq), zmq_msg_size(&m->seq), &seq)) {
        kv_stream_garbage(st, now, KV_SEQ_END, live, why);
    } else if (seq == KV_SEQ_END) {
        if (!live)
            kv_stream_replay_end(st, now);
    } else if (kv_decode(s->decoder, zmq_msg_data(&m->payload), zmq_msg_size(&m->payload), &batch,
                         &why) != ERR_OK) {
        kv_stream_garbage(st, now, seq, live, why);
    } else if (kv_stream_batch(st, now, seq, &batch, live, &delta)) {
        news_post(s, r, &batch);
        return;
    }
    if (has_news(r))
        news_post(s, r, NULL);
}

static void rank_read(struct kv_sub *s, struct rank *r, bool live)
{
    struct message m;
    size_t bytes = 0;

    for (unsigned i = 0; i < READ_MAX && bytes < READ_BYTES; i++) {
        void *socket = live ? r->sub : r->dealer;

        if (socket == NULL || (live && !kv_stream_is_live(&r->stream)) ||
            atomic_load_explicit(&s->queued, memory_order_relaxed) >= QUEUE_MAX ||
            !message_read(socket, &m))
            return;
        bytes += zmq_msg_size(&m.payload);
        message_take(s, r, &m, live, clock_ns());
        message_close(&m);
        if (r->stream.ask)
            replay_send(s, r);
        else if (r->stream.state != KV_REPLAY)
            socket_close(&r->dealer);
    }
}

/* Connections that came and went. */
static void rank_watch(struct kv_sub *s, struct rank *r)
{
    const struct kv_target *t = &r->feed->target;
    struct message m;
    uint16_t event;

    while (message_read(r->monitor, &m)) {
        event = 0;
        if (m.frames == 2 && zmq_msg_size(&m.seq) >= sizeof(event))
            memcpy(&event, zmq_msg_data(&m.seq), sizeof(event));
        message_close(&m);
        if (event == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) {
            r->connected++;
            log_info("kv_events_up", "engine=%s rank=%u", t->id, r->number);
            kv_stream_up(&r->stream, clock_ns());
        } else if (event == ZMQ_EVENT_DISCONNECTED && r->connected > 0) {
            r->connected--;
            log_warn("kv_events_down", "engine=%s rank=%u", t->id, r->number);
        } else {
            continue;
        }
        news_post(s, r, NULL);
    }
    if (r->stream.ask)
        replay_send(s, r);
}

/* ---- targets ---- */

static void feed_close(struct feed *f)
{
    for (uint32_t i = 0; i < f->target.ranks; i++) {
        rank_close(&f->ranks[i]);
        kv_stream_fini(&f->ranks[i].stream);
    }
    free(f->ranks);
    *f = (struct feed){0};
}

static void feed_open(struct feed *f, const struct kv_target *t)
{
    *f = (struct feed){.used = true, .target = *t};
    must(t->ranks > 0 && t->ranks <= RANKS_MAX);
    f->ranks = calloc(t->ranks, sizeof(*f->ranks));
    must(f->ranks != NULL);
    for (uint32_t i = 0; i < t->ranks; i++) {
        f->ranks[i].feed = f;
        f->ranks[i].number = i;
        kv_stream_init(&f->ranks[i].stream, t->replay[0] != '\0');
    }
}

static bool is_same(const struct kv_target *a, const struct kv_target *b)
{
    return a->generation == b->generation && a->serial == b->serial && a->bind == b->bind &&
           a->content == b->content && a->ranks == b->ranks && strcmp(a->id, b->id) == 0 &&
           strcmp(a->events, b->events) == 0 && strcmp(a->replay, b->replay) == 0 &&
           strcmp(a->topic, b->topic) == 0;
}

static void targets_take(struct kv_sub *s, const struct kv_target *targets, size_t count)
{
    bool keep[ENGINES_MAX] = {false};

    for (size_t i = 0; i < count; i++)
        keep[targets[i].index] = s->feeds[targets[i].index].used &&
                                 is_same(&s->feeds[targets[i].index].target, &targets[i]);
    for (unsigned i = 0; i < ENGINES_MAX; i++) /* all that go before any that comes: one address */
        if (s->feeds[i].used && !keep[i]) {
            news_end(s, &s->feeds[i]);
            feed_close(&s->feeds[i]);
        }
    for (size_t i = 0; i < count; i++)
        if (!keep[targets[i].index])
            feed_open(&s->feeds[targets[i].index], &targets[i]);
}

static bool orders_take(struct kv_sub *s)
{
    struct kv_target *targets;
    uint64_t rings;
    size_t count;
    bool stop;

    while (read(s->wake, &rings, sizeof(rings)) < 0 && errno == EINTR)
        ;
    pthread_mutex_lock(&s->lock);
    stop = s->stop;
    targets = s->targets;
    count = s->target_count;
    s->targets = NULL;
    pthread_mutex_unlock(&s->lock);
    if (targets != NULL)
        targets_take(s, targets, count);
    free(targets);
    return !stop;
}

/* ---- the thread ---- */

static void item_add(struct kv_sub *s, size_t *n, struct rank *r, void *socket)
{
    if (*n == s->item_cap) {
        s->item_cap = s->item_cap * 2 + 16;
        s->items = realloc(s->items, s->item_cap * sizeof(*s->items));
        s->item_ranks = realloc(s->item_ranks, s->item_cap * sizeof(struct rank *));
        must(s->items != NULL && s->item_ranks != NULL);
    }
    s->items[*n] = (zmq_pollitem_t){.socket = socket, .events = ZMQ_POLLIN};
    s->item_ranks[(*n)++] = r;
}

/* Opens what is due, gives up what waits too long; the time until the next such moment. */
static long rank_due(struct kv_sub *s, struct rank *r, uint64_t now, long wait_ms)
{
    uint64_t due;

    if (r->sub == NULL && now >= r->open_ns)
        rank_open(s, r, now);
    kv_stream_tick(&r->stream, now);
    if (r->stream.ask)
        replay_send(s, r);
    if (has_news(r))
        news_post(s, r, NULL);
    rank_tell(r, now);
    due = kv_stream_deadline(&r->stream);
    if (r->sub == NULL && r->open_ns < due)
        due = r->open_ns;
    if (due == UINT64_MAX)
        return wait_ms;
    due = due > now ? (due - now) / NS_PER_MS + 1 : 0;
    return due < (uint64_t)wait_ms ? (long)due : wait_ms;
}

static size_t items_make(struct kv_sub *s, bool is_full, long *wait_ms)
{
    uint64_t now = clock_ns();
    size_t n = 0;

    item_add(s, &n, NULL, NULL);
    s->items[0].fd = s->wake;
    *wait_ms = is_full ? BUSY_MS : IDLE_MS;
    for (unsigned i = 0; i < ENGINES_MAX; i++) {
        struct feed *f = &s->feeds[i];

        for (uint32_t k = 0; f->used && k < f->target.ranks; k++) {
            struct rank *r = &f->ranks[k];

            *wait_ms = rank_due(s, r, now, *wait_ms);
            if (r->sub == NULL)
                continue;
            item_add(s, &n, r, r->monitor);
            if (!is_full && kv_stream_is_live(&r->stream))
                item_add(s, &n, r, r->sub);
            if (!is_full && r->dealer != NULL)
                item_add(s, &n, r, r->dealer);
        }
    }
    return n;
}

static void *kv_sub_run(void *arg)
{
    struct kv_sub *s = arg;
    bool is_full;
    long wait_ms;
    size_t n;

    while (orders_take(s)) {
        is_full = atomic_load_explicit(&s->queued, memory_order_relaxed) >= QUEUE_MAX;
        n = items_make(s, is_full, &wait_ms);
        if (zmq_poll(s->items, (int)n, wait_ms) <= 0)
            continue;
        for (size_t i = 1; i < n; i++) { /* connections first: they say whose messages come */
            struct rank *r = s->item_ranks[i];

            if ((s->items[i].revents & ZMQ_POLLIN) == 0)
                continue;
            if (s->items[i].socket == r->monitor)
                rank_watch(s, r);
            else if (s->items[i].socket == r->sub)
                rank_read(s, r, true);
            else if (s->items[i].socket == r->dealer)
                rank_read(s, r, false);
        }
    }
    for (unsigned i = 0; i < ENGINES_MAX; i++)
        if (s->feeds[i].used)
            feed_close(&s->feeds[i]);
    return NULL;
}

/* ---- on the loop's thread again ---- */

struct kv_sub *kv_sub_start(struct inbox *inbox,
                            void (*on_news)(void *arg, const struct kv_news *news), void *arg)
{
    struct kv_sub *s = calloc(1, sizeof(*s));

    must(s != NULL);
    s->inbox = inbox;
    s->on_news = on_news;
    s->arg = arg;
    s->zmq = zmq_ctx_new();
    s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(s->zmq != NULL && s->wake >= 0);
    zmq_ctx_set(s->zmq, ZMQ_MAX_SOCKETS, 65535);
    s->decoder = kv_decoder_new();
    atomic_init(&s->queued, 0);
    must(pthread_mutex_init(&s->lock, NULL) == 0);
    must(pthread_create(&s->thread, NULL, kv_sub_run, s) == 0);
    return s;
}

static void kv_sub_wake(struct kv_sub *s)
{
    uint64_t one = 1;

    while (write(s->wake, &one, sizeof(one)) < 0)
        must(errno == EINTR);
}

void kv_sub_set(struct kv_sub *s, const struct kv_target *targets, size_t count)
{
    struct kv_target *copy = calloc(count + 1, sizeof(*copy));

    must(copy != NULL);
    memcpy(copy, targets, count * sizeof(*copy));
    pthread_mutex_lock(&s->lock);
    free(s->targets);
    s->targets = copy;
    s->target_count = count;
    pthread_mutex_unlock(&s->lock);
    kv_sub_wake(s);
}

void kv_sub_stop(struct kv_sub *s)
{
    if (s == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_mutex_unlock(&s->lock);
    kv_sub_wake(s);
    pthread_join(s->thread, NULL);
    s->on_news = NULL;
    inbox_run(s->inbox); /* what it had put there meanwhile */
    zmq_ctx_term(s->zmq);
    close(s->wake);
    pthread_mutex_destroy(&s->lock);
    kv_decoder_free(s->decoder);
    free(s->items);
    free(s->item_ranks);
    free(s->targets);
    free(s);
}
