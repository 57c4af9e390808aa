/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work of bench_callers against NATS JetStream on a file store: each agent is a thread that
 * publishes and waits until the server has stored it, fetches from a durable pull consumer of its
 * own and acknowledges. The stream drops what was acknowledged (work queue).
 *
 * Prints "begin" when the measured window opens and one JSON object when it closes.
 */
#include <getopt.h>
#include <nats/nats.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/load/net.h"
#include "bench/mailbox/mail.h"
#include "common/clock.h"
#include "common/must.h"

#define FETCH_MS 5000
#define NAME_BYTES 24

struct agents {
    struct mail_window window;
    struct agent *all;
    unsigned count, connections;
    bool sync_acks;
    natsConnection **nc;
    jsCtx **js;
    atomic_bool over;
};

struct agent {
    struct agents *all;
    jsCtx *js;
    natsSubscription *sub;
    pthread_t thread;
    char subject[NAME_BYTES], name[NAME_BYTES];
    char payload[MAIL_BYTES];
    struct samples times; /* of everything; the window picks */
    uint64_t *begins;
    size_t begins_cap;
};

static void check(natsStatus s, const char *what)
{
    if (s == NATS_OK)
        return;
    fprintf(stderr, "jetstream: %s: %s\n", what, natsStatus_GetText(s));
    exit(1);
}

static void agent_note(struct agent *a, uint64_t since, uint64_t now)
{
    size_t i = a->times.count;

    if (i == a->begins_cap) {
        a->begins_cap = i != 0 ? 2 * i : 1024;
        a->begins = realloc(a->begins, a->begins_cap * sizeof(a->begins[0]));
        must(a->begins != NULL);
    }
    a->begins[i] = since;
    samples_add(&a->times, now - since);
}

static void *agent_run(void *arg)
{
    struct agent *a = arg;

    while (!atomic_load(&a->all->over)) {
        uint64_t since = clock_ns();
        natsMsgList list = {0};

        check(js_Publish(NULL, a->js, a->subject, a->payload, MAIL_BYTES, NULL, NULL), "publish");
        check(natsSubscription_Fetch(&list, a->sub, 1, FETCH_MS, NULL), "fetch");
        if (list.Count != 1 || natsMsg_GetDataLength(list.Msgs[0]) != (int)MAIL_BYTES)
            check(NATS_ERR, "fetched something else");
        if (a->all->sync_acks)
            check(natsMsg_AckSync(list.Msgs[0], NULL, NULL), "ack");
        else
            check(natsMsg_Ack(list.Msgs[0], NULL), "ack");
        natsMsgList_Destroy(&list);
        agent_note(a, since, clock_ns());
    }
    nats_ReleaseThreadMemory();
    return NULL;
}

static void agents_start(struct agents *s)
{
    s->all = calloc(s->count, sizeof(*s->all));
    must(s->all != NULL);
    for (unsigned i = 0; i < s->count; i++) {
        struct agent *a = &s->all[i];
        jsSubOptions so;

        a->all = s;
        a->js = s->js[i % s->connections];
        snprintf(a->subject, sizeof(a->subject), "box.%u", i);
        snprintf(a->name, sizeof(a->name), "agent-%u", i);
        mail_payload(a->payload, i);
        check(jsSubOptions_Init(&so), "options");
        so.Stream = "mail";
        check(js_PullSubscribe(&a->sub, a->js, a->subject, a->name, NULL, &so, NULL), "subscribe");
    }
    for (unsigned i = 0; i < s->count; i++)
        if (pthread_create(&s->all[i].thread, NULL, agent_run, &s->all[i]) != 0)
            net_die("pthread_create");
}

static void connect_all(struct agents *s, const char *url)
{
    const char *subjects[] = {"box.*"};
    jsStreamConfig sc;

    s->nc = calloc(s->connections, sizeof(*s->nc));
    s->js = calloc(s->connections, sizeof(*s->js));
    must(s->nc != NULL && s->js != NULL);
    for (unsigned i = 0; i < s->connections; i++) {
        check(natsConnection_ConnectTo(&s->nc[i], url), url);
        check(natsConnection_JetStream(&s->js[i], s->nc[i], NULL), "jetstream");
    }
    js_DeleteStream(s->js[0], "mail", NULL, NULL); /* of a run before; there may be none */
    check(jsStreamConfig_Init(&sc), "options");
    sc.Name = "mail";
    sc.Subjects = subjects;
    sc.SubjectsLen = 1;
    sc.Retention = js_WorkQueuePolicy;
    sc.Storage = js_FileStorage;
    check(js_AddStream(NULL, s->js[0], &sc, NULL, NULL), "stream");
}

static void agents_stop(struct agents *s)
{
    atomic_store(&s->over, true);
    for (unsigned i = 0; i < s->count; i++) {
        struct agent *a = &s->all[i];

        pthread_join(a->thread, NULL);
        for (size_t k = 0; k < a->times.count; k++)
            if (a->begins[k] >= s->window.begin_ns &&
                a->begins[k] + a->times.v[k] <= s->window.end_ns) {
                s->window.count++;
                samples_add(&s->window.times, a->times.v[k]);
            }
        samples_fini(&a->times);
        free(a->begins);
        natsSubscription_Destroy(a->sub);
    }
    for (unsigned i = 0; i < s->connections; i++) {
        jsCtx_Destroy(s->js[i]);
        natsConnection_Destroy(s->nc[i]);
    }
    free(s->js);
    free(s->nc);
    free(s->all);
}

static const struct option options[] = {MAIL_WINDOW_OPTIONS,
                                        {"url", required_argument, NULL, 'u'},
                                        {"agents", required_argument, NULL, 'n'},
                                        {"connections", required_argument, NULL, 'c'},
                                        {"sync-acks", no_argument, NULL, 's'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct agents s = {.count = 64, .connections = 1};
    const char *url = NULL;
    int o;

    s.window.warm_ns = NS_PER_S;
    s.window.length_ns = 5 * NS_PER_S;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'u')
            url = optarg;
        else if (o == 'n')
            s.count = (unsigned)net_number("--agents", optarg, 1, 1000);
        else if (o == 'c')
            s.connections = (unsigned)net_number("--connections", optarg, 1, 1000);
        else if (o == 's')
            s.sync_acks = true;
        else if (!mail_window_option(&s.window, o, optarg))
            return 2;
    }
    if (url == NULL) {
        fprintf(stderr, "usage: bench_jetstream --url URL [--agents N] [--connections N] "
                        "[--sync-acks] [--warm-ms N] [--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    connect_all(&s, url);
    agents_start(&s);
    mail_window_start(&s.window, clock_ns());
    while (!s.window.done) {
        mail_window_turn(&s.window, clock_ns());
        usleep(1000);
    }
    agents_stop(&s);
    mail_window_report(&s.window);
    samples_fini(&s.window.times);
    nats_Close();
    return 0;
}
