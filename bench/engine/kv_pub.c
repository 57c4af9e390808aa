/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/kv_pub.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <zmq.h>

#include "common/clock.h"
#include "common/must.h"

#define IDLE_MS 1000

struct batch {
    struct batch *next;
    uint64_t due_ns;
    void *payload;
    size_t len;
};

struct kept {
    uint64_t seq;
    void *payload;
    size_t len;
};

struct kv_pub {
    struct kv_pub_conf conf;
    pthread_t thread;
    void *zmq, *pub, *router;
    int wake;
    pthread_mutex_t lock; /* over what follows, up to the blank line */
    struct batch *first, **last;
    bool stop;

    struct kept kept[KV_PUB_KEEP]; /* the thread's; batch seq at seq % KV_PUB_KEEP */
    uint64_t seq;
};

static void seq_write(uint64_t seq, unsigned char frame[8])
{
    for (unsigned i = 8; i-- > 0; seq >>= 8)
        frame[i] = (unsigned char)seq;
}

/* ---- the thread ---- */

static void batch_send(struct kv_pub *p, struct batch *b)
{
    struct kept *k = &p->kept[p->seq % KV_PUB_KEEP];
    const char *topic = p->conf.topic != NULL ? p->conf.topic : "";
    unsigned char frame[8];

    seq_write(p->seq, frame);
    zmq_send(p->pub, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(p->pub, frame, sizeof frame, ZMQ_SNDMORE);
    zmq_send(p->pub, b->payload, b->len, 0);
    free(k->payload);
    *k = (struct kept){p->seq++, b->payload, b->len};
    free(b);
}

/* Sends what is due; milliseconds until more is, -1: told to stop. */
static long batches_send(struct kv_pub *p)
{
    for (;;) {
        uint64_t now = clock_ns();
        struct batch *b;
        long wait = IDLE_MS;
        bool stop;

        pthread_mutex_lock(&p->lock);
        stop = p->stop;
        b = p->first;
        if (b != NULL && b->due_ns > now) {
            wait = (long)((b->due_ns - now) / NS_PER_MS) + 1;
            b = NULL;
        }
        if (b != NULL) {
            p->first = b->next;
            if (p->first == NULL)
                p->last = &p->first;
        }
        pthread_mutex_unlock(&p->lock);
        if (stop && b != NULL) {
            free(b->payload);
            free(b);
        }
        if (stop)
            return -1;
        if (b == NULL)
            return wait;
        batch_send(p, b);
    }
}

static void replay_frame(struct kv_pub *p, zmq_msg_t *who, const unsigned char seq[8],
                         const void *payload, size_t len)
{
    const char *topic = p->conf.topic != NULL ? p->conf.topic : "";

    zmq_send(p->router, zmq_msg_data(who), zmq_msg_size(who), ZMQ_SNDMORE);
    zmq_send(p->router, "", 0, ZMQ_SNDMORE);
    zmq_send(p->router, topic, strlen(topic), ZMQ_SNDMORE);
    zmq_send(p->router, seq, 8, ZMQ_SNDMORE);
    zmq_send(p->router, payload, len, 0);
}

static void replay_send(struct kv_pub *p, zmq_msg_t *who, const unsigned char *from)
{
    static const unsigned char end[8] = {255, 255, 255, 255, 255, 255, 255, 255};
    uint64_t seq = 0, oldest = p->seq > KV_PUB_KEEP ? p->seq - KV_PUB_KEEP : 0;
    unsigned char frame[8];

    for (unsigned i = 0; i < 8; i++)
        seq = seq << 8 | from[i];
    for (seq = seq > oldest ? seq : oldest; seq < p->seq; seq++) {
        const struct kept *k = &p->kept[seq % KV_PUB_KEEP];

        seq_write(seq, frame);
        replay_frame(p, who, frame, k->payload, k->len);
    }
    replay_frame(p, who, end, "", 0);
}

/* Requests are three frames: who, nothing, from where. False: there are no more. */
static bool replay_serve(struct kv_pub *p)
{
    zmq_msg_t who, part;
    unsigned char from[8];
    unsigned frames = 1;
    bool ok;

    zmq_msg_init(&who);
    if (zmq_msg_recv(&who, p->router, ZMQ_DONTWAIT) < 0)
        return false;
    ok = zmq_msg_more(&who);
    for (bool more = ok; more; frames++) {
        zmq_msg_init(&part);
        ok = zmq_msg_recv(&part, p->router, ZMQ_DONTWAIT) >= 0 && ok;
        more = zmq_msg_more(&part);
        if (frames == 2 && zmq_msg_size(&part) == sizeof from)
            memcpy(from, zmq_msg_data(&part), sizeof from);
        else if (frames == 2 || zmq_msg_size(&part) != 0)
            ok = false;
        zmq_msg_close(&part);
    }
    if (ok && frames == 3)
        replay_send(p, &who, from);
    zmq_msg_close(&who);
    return true;
}

static void *kv_pub_run(void *arg)
{
    struct kv_pub *p = arg;
    uint64_t rings;
    long wait;

    while ((wait = batches_send(p)) >= 0) {
        zmq_pollitem_t items[] = {{.fd = p->wake, .events = ZMQ_POLLIN},
                                  {.socket = p->router, .events = ZMQ_POLLIN}};

        zmq_poll(items, p->router != NULL ? 2 : 1, wait);
        while (read(p->wake, &rings, sizeof rings) < 0 && errno == EINTR)
            ;
        while (p->router != NULL && replay_serve(p))
            ;
    }
    return NULL;
}

/* ---- on the loop's thread ---- */

static bool is_bound(const char *endpoint)
{
    return strchr(endpoint, '*') != NULL || strstr(endpoint, "::") != NULL ||
           strncmp(endpoint, "ipc://", 6) == 0;
}

static bool sockets_open(struct kv_pub *p)
{
    int none = 0, queue = 100000;

    p->pub = zmq_socket(p->zmq, ZMQ_PUB);
    if (p->pub == NULL)
        return false;
    zmq_setsockopt(p->pub, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(p->pub, ZMQ_SNDHWM, &queue, sizeof queue);
    if ((is_bound(p->conf.events) ? zmq_bind(p->pub, p->conf.events)
                                  : zmq_connect(p->pub, p->conf.events)) != 0)
        return false;
    if (p->conf.replay == NULL)
        return true;
    p->router = zmq_socket(p->zmq, ZMQ_ROUTER);
    if (p->router == NULL)
        return false;
    zmq_setsockopt(p->router, ZMQ_LINGER, &none, sizeof none);
    zmq_setsockopt(p->router, ZMQ_SNDHWM, &queue, sizeof queue);
    return zmq_bind(p->router, p->conf.replay) == 0;
}

static void kv_pub_free(struct kv_pub *p)
{
    struct batch *b;

    if (p->pub != NULL)
        zmq_close(p->pub);
    if (p->router != NULL)
        zmq_close(p->router);
    zmq_ctx_term(p->zmq);
    close(p->wake);
    while ((b = p->first) != NULL) {
        p->first = b->next;
        free(b->payload);
        free(b);
    }
    for (size_t i = 0; i < KV_PUB_KEEP; i++)
        free(p->kept[i].payload);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

struct kv_pub *kv_pub_start(const struct kv_pub_conf *conf)
{
    struct kv_pub *p = calloc(1, sizeof *p);
    int error;

    must(p != NULL);
    p->conf = *conf;
    p->last = &p->first;
    p->zmq = zmq_ctx_new();
    p->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(p->zmq != NULL && p->wake >= 0);
    must(pthread_mutex_init(&p->lock, NULL) == 0);
    if (!sockets_open(p)) {
        error = zmq_errno();
        kv_pub_free(p);
        errno = error;
        return NULL;
    }
    must(pthread_create(&p->thread, NULL, kv_pub_run, p) == 0);
    return p;
}

static void kv_pub_wake(struct kv_pub *p)
{
    uint64_t one = 1;

    while (write(p->wake, &one, sizeof one) < 0)
        must(errno == EINTR);
}

void kv_pub_send(struct kv_pub *p, void *payload, size_t len)
{
    struct batch *b = calloc(1, sizeof *b);

    must(b != NULL);
    *b = (struct batch){.due_ns = clock_ns() + p->conf.delay_ns, .payload = payload, .len = len};
    pthread_mutex_lock(&p->lock);
    *p->last = b;
    p->last = &b->next;
    pthread_mutex_unlock(&p->lock);
    kv_pub_wake(p);
}

void kv_pub_stop(struct kv_pub *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    kv_pub_wake(p);
    pthread_join(p->thread, NULL);
    kv_pub_free(p);
}
