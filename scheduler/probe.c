/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/probe.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <curl/curl.h>
#include <jansson.h>

#include "common/buf.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/must.h"
#include "scheduler/core.h"

#define BODY_MAX (4u << 20)
#define SCRAPE_PATIENCE 10u             /* many engines have no such page */
#define MODELS_EVERY_NS (30 * NS_PER_S) /* adapters come and go */

enum probe_kind { PROBE_HEALTH, PROBE_MODELS, PROBE_METRICS, PROBE_KINDS };

struct probe { /* one kind of one engine; the side thread's */
    struct slot *slot;
    enum probe_kind kind;
    CURL *easy;
    bool busy;
    uint64_t due_ns;
    struct buf body;
};

struct slot {
    bool used;
    bool was_ok;
    struct probe_target target;
    struct curl_slist *headers;
    struct probe probes[PROBE_KINDS];
};

#define WARN_EVERY_NS (10 * NS_PER_S)

struct prober {
    pthread_t thread;
    CURLM *multi;
    struct inbox *inbox;
    void (*on_result)(void *arg, const struct probe_result *r);
    void *arg;
    pthread_mutex_t lock; /* over what follows, up to the blank line */
    struct probe_conf conf;
    struct probe_target *targets; /* new ones for the side thread; NULL: none */
    size_t target_count;
    bool stop;

    struct probe_conf now; /* the side thread's from here on */
    struct slot slots[ENGINES_MAX];
    uint64_t warned_ns;
};

struct item {
    struct inbox_item base;
    struct prober *prober;
    struct probe_result result;
};

/* ---- on the loop's thread ---- */

static void item_handle(struct inbox_item *base)
{
    struct item *it = (struct item *)(void *)base;

    if (it->prober->on_result != NULL)
        it->prober->on_result(it->prober->arg, &it->result);
    for (size_t i = 0; i < it->result.model_count; i++)
        free(it->result.models[i]);
    free(it->result.models);
    free(it);
}

/* ---- on the side thread ---- */

static struct item *item_new(struct prober *p, const struct probe *probe)
{
    struct item *it = calloc(1, sizeof(*it));

    must(it != NULL);
    it->base.handle = item_handle;
    it->prober = p;
    it->result.index = probe->slot->target.index;
    it->result.generation = probe->slot->target.generation;
    it->result.is_models = probe->kind == PROBE_MODELS;
    it->result.is_metrics = probe->kind == PROBE_METRICS;
    return it;
}

static size_t on_body(char *data, size_t size, size_t n, void *arg)
{
    struct probe *probe = arg;

    if (probe->kind == PROBE_HEALTH)
        return size * n;
    if (size * n > BODY_MAX - probe->body.len)
        return 0;
    buf_add(&probe->body, data, size * n);
    return size * n;
}

static void models_read(const struct buf *body, struct probe_result *r)
{
    json_t *root = json_loadb(body->base != NULL ? body->base : "", body->len, 0, NULL);
    json_t *data = json_object_get(root, "data"), *item;
    size_t count = json_array_size(data), i;

    if (json_is_array(data)) {
        r->ok = true;
        r->models = calloc(count + 1, sizeof(*r->models));
        must(r->models != NULL);
        json_array_foreach(data, i, item)
        {
            const char *id = json_string_value(json_object_get(item, "id"));

            if (id == NULL || r->model_count == ENGINE_MODELS_MAX)
                continue;
            r->models[r->model_count] = strdup(id);
            must(r->models[r->model_count++] != NULL);
        }
    } else {
        snprintf(r->reason, sizeof(r->reason), "the list of models is not one");
    }
    json_decref(root);
}

static void metrics_read(const struct buf *body, struct probe_result *r)
{
    r->ok = scrape_read(body->base != NULL ? body->base : "", body->len, &r->scrape);
    if (!r->ok)
        snprintf(r->reason, sizeof(r->reason), "nothing that is known is on its metrics page");
}

static const char *probe_url(const struct probe *probe)
{
    const struct probe_target *t = &probe->slot->target;

    switch (probe->kind) {
    case PROBE_MODELS:
        return t->models_url;
    case PROBE_METRICS:
        return t->metrics_url;
    case PROBE_HEALTH:
    case PROBE_KINDS:
        break;
    }
    return t->health_url;
}

/* Model discovery and scrapes are not for every engine. */
static bool probe_is_wanted(const struct prober *p, const struct probe *probe)
{
    if (probe->kind == PROBE_METRICS && p->now.scrape_ms == 0)
        return false;
    return *probe_url(probe) != '\0';
}

static void result_fill(const struct probe *probe, CURLcode code, struct probe_result *r)
{
    long status = 0, port = 0;
    curl_off_t connected = 0;
    char *ip = NULL;

    curl_easy_getinfo(probe->easy, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_getinfo(probe->easy, CURLINFO_CONNECT_TIME_T, &connected);
    if (code == CURLE_OK && status >= 200 && status < 300) {
        r->ok = true;
        snprintf(r->reason, sizeof(r->reason), "ok");
        curl_easy_getinfo(probe->easy, CURLINFO_PRIMARY_IP, &ip);
        curl_easy_getinfo(probe->easy, CURLINFO_PRIMARY_PORT, &port);
        if (ip != NULL && *ip != '\0' && port > 0) {
            snprintf(r->address, sizeof(r->address), "%s", ip);
            r->port = (uint32_t)port;
        }
    } else if (code == CURLE_OK) {
        snprintf(r->reason, sizeof(r->reason), "HTTP %ld", status);
    } else {
        snprintf(r->reason, sizeof(r->reason), "%s", curl_easy_strerror(code));
        r->unreachable = code == CURLE_COULDNT_CONNECT || code == CURLE_COULDNT_RESOLVE_HOST ||
                         (code == CURLE_OPERATION_TIMEDOUT && connected == 0);
    }
}

static void probe_start(struct prober *p, struct probe *probe)
{
    CURL *e = probe->easy;

    buf_clear(&probe->body);
    curl_easy_reset(e);
    curl_easy_setopt(e, CURLOPT_URL, probe_url(probe));
    curl_easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)p->now.timeout_ms);
    curl_easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(e, CURLOPT_PROXY, "");
    curl_easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(e, CURLOPT_USERAGENT, "slipstream/" SLIP_VERSION);
    /* A new connection each time: whether it accepts one is half of the question. */
    curl_easy_setopt(e, CURLOPT_FRESH_CONNECT, 1L);
    curl_easy_setopt(e, CURLOPT_FORBID_REUSE, 1L);
    curl_easy_setopt(e, CURLOPT_HTTPHEADER, probe->slot->headers);
    curl_easy_setopt(e, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(e, CURLOPT_WRITEDATA, probe);
    curl_easy_setopt(e, CURLOPT_PRIVATE, probe);
    curl_multi_add_handle(p->multi, e);
    probe->busy = true;
}

/* A probe that could not leave says nothing about its engine. */
static bool is_out_of_files(struct prober *p, uint64_t now)
{
    int fd = dup(STDERR_FILENO);

    if (fd >= 0) {
        close(fd);
        return false;
    }
    if (p->warned_ns == 0 || now - p->warned_ns > WARN_EVERY_NS) {
        p->warned_ns = now;
        log_warn("probe_failed", "reason=\"no descriptor is free: engines keep their state\"");
    }
    return true;
}

static void probe_done(struct prober *p, struct probe *probe, CURLcode code)
{
    struct slot *slot = probe->slot;
    uint64_t now = clock_ns();
    struct probe_result *r;
    struct item *it;

    curl_multi_remove_handle(p->multi, probe->easy);
    probe->busy = false;
    if (code == CURLE_COULDNT_CONNECT && is_out_of_files(p, now)) {
        probe->due_ns = now + p->now.interval_ms * NS_PER_MS;
        return;
    }
    it = item_new(p, probe);
    r = &it->result;
    result_fill(probe, code, r);
    if (probe->kind == PROBE_MODELS) {
        if (r->ok) {
            r->ok = false;
            models_read(&probe->body, r);
        }
        probe->due_ns = now + (r->ok ? MODELS_EVERY_NS : p->now.interval_ms * NS_PER_MS);
    } else if (probe->kind == PROBE_METRICS) {
        if (r->ok)
            metrics_read(&probe->body, r);
        probe->due_ns = now + p->now.scrape_ms * NS_PER_MS * (r->ok ? 1 : SCRAPE_PATIENCE);
    } else {
        probe->due_ns = now + p->now.interval_ms * NS_PER_MS;
        if (r->ok && !slot->was_ok) /* it may be another server than before */
            slot->probes[PROBE_MODELS].due_ns = slot->probes[PROBE_METRICS].due_ns = now;
        slot->was_ok = r->ok;
    }
    inbox_put(p->inbox, &it->base);
}

static void slot_close(struct prober *p, struct slot *s)
{
    for (unsigned k = 0; k < PROBE_KINDS; k++) {
        struct probe *probe = &s->probes[k];

        if (probe->busy)
            curl_multi_remove_handle(p->multi, probe->easy);
        curl_easy_cleanup(probe->easy);
        buf_fini(&probe->body);
    }
    curl_slist_free_all(s->headers);
    *s = (struct slot){0};
}

static void slot_open(struct slot *s, const struct probe_target *t)
{
    char header[SECRET_KEY_MAX + 32];

    *s = (struct slot){.used = true, .target = *t};
    for (unsigned k = 0; k < PROBE_KINDS; k++) {
        s->probes[k].slot = s;
        s->probes[k].kind = (enum probe_kind)k;
        s->probes[k].easy = curl_easy_init();
        must(s->probes[k].easy != NULL);
    }
    if (t->key[0] != '\0') {
        snprintf(header, sizeof(header), "Authorization: Bearer %s", t->key);
        s->headers = curl_slist_append(NULL, header);
    }
}

static bool is_same(const struct probe_target *a, const struct probe_target *b)
{
    return a->generation == b->generation && strcmp(a->health_url, b->health_url) == 0 &&
           strcmp(a->models_url, b->models_url) == 0 &&
           strcmp(a->metrics_url, b->metrics_url) == 0 && strcmp(a->key, b->key) == 0;
}

static void targets_take(struct prober *p, struct probe_target *targets, size_t count)
{
    bool wanted[ENGINES_MAX] = {false};

    for (size_t i = 0; i < count; i++) {
        struct slot *s = &p->slots[targets[i].index];

        wanted[targets[i].index] = true;
        if (s->used && is_same(&s->target, &targets[i]))
            continue;
        if (s->used)
            slot_close(p, s);
        slot_open(s, &targets[i]);
    }
    for (unsigned i = 0; i < ENGINES_MAX; i++)
        if (p->slots[i].used && !wanted[i])
            slot_close(p, &p->slots[i]);
    free(targets);
}

/* Starts what is due; milliseconds until the next. */
static int due_start(struct prober *p)
{
    uint64_t now = clock_ns(), next = now + NS_PER_S;

    for (unsigned i = 0; i < ENGINES_MAX; i++) {
        struct slot *s = &p->slots[i];

        for (unsigned k = 0; s->used && k < PROBE_KINDS; k++) {
            struct probe *probe = &s->probes[k];

            if (probe->busy || !probe_is_wanted(p, probe))
                continue;
            if (probe->due_ns <= now)
                probe_start(p, probe);
            else if (probe->due_ns < next)
                next = probe->due_ns;
        }
    }
    return (int)((next - now + NS_PER_MS - 1) / NS_PER_MS);
}

static bool news_take(struct prober *p)
{
    struct probe_target *targets;
    size_t count;
    bool stop;

    pthread_mutex_lock(&p->lock);
    stop = p->stop;
    targets = p->targets;
    count = p->target_count;
    p->targets = NULL;
    p->now = p->conf;
    pthread_mutex_unlock(&p->lock);
    if (targets != NULL)
        targets_take(p, targets, count);
    return !stop;
}

static void *prober_run(void *arg)
{
    struct prober *p = arg;
    int running, left, wait_ms;
    CURLMsg *msg;

    while (news_take(p)) {
        wait_ms = due_start(p);
        curl_multi_perform(p->multi, &running);
        while ((msg = curl_multi_info_read(p->multi, &left)) != NULL) {
            struct probe *probe = NULL;
            CURLcode code = msg->data.result;

            if (msg->msg != CURLMSG_DONE)
                continue;
            curl_easy_getinfo(msg->easy_handle, CURLINFO_PRIVATE, (char **)&probe);
            probe_done(p, probe, code);
            wait_ms = 0;
        }
        if (wait_ms > 0)
            curl_multi_poll(p->multi, NULL, 0, wait_ms, NULL);
    }
    for (unsigned i = 0; i < ENGINES_MAX; i++)
        if (p->slots[i].used)
            slot_close(p, &p->slots[i]);
    return NULL;
}

/* ---- on the loop's thread again ---- */

struct prober *prober_start(struct inbox *inbox,
                            void (*on_result)(void *arg, const struct probe_result *r), void *arg)
{
    struct prober *p = calloc(1, sizeof(*p));

    must(p != NULL);
    must(curl_global_init(CURL_GLOBAL_DEFAULT) == 0);
    p->inbox = inbox;
    p->on_result = on_result;
    p->arg = arg;
    p->conf = (struct probe_conf){.interval_ms = 1000, .timeout_ms = 2000};
    p->multi = curl_multi_init();
    must(p->multi != NULL);
    must(pthread_mutex_init(&p->lock, NULL) == 0);
    must(pthread_create(&p->thread, NULL, prober_run, p) == 0);
    return p;
}

void prober_set(struct prober *p, const struct probe_conf *conf, const struct probe_target *targets,
                size_t count)
{
    struct probe_target *copy = calloc(count + 1, sizeof(*copy));

    must(copy != NULL);
    memcpy(copy, targets, count * sizeof(*copy));
    pthread_mutex_lock(&p->lock);
    free(p->targets);
    p->targets = copy;
    p->target_count = count;
    p->conf = *conf;
    pthread_mutex_unlock(&p->lock);
    curl_multi_wakeup(p->multi);
}

void prober_stop(struct prober *p)
{
    if (p == NULL)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_mutex_unlock(&p->lock);
    curl_multi_wakeup(p->multi);
    pthread_join(p->thread, NULL);
    p->on_result = NULL;
    inbox_run(p->inbox); /* what it had put there meanwhile */
    curl_multi_cleanup(p->multi);
    pthread_mutex_destroy(&p->lock);
    free(p->targets);
    free(p);
    curl_global_cleanup();
}
