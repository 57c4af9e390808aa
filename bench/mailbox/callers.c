/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Agents that share one channel. Each sends a message to a mailbox of its own, receives it under a
 * lease, acknowledges it and begins again, with one call outstanding at a time.
 *
 * --bytes N sends JSON of N bytes that shrinks, --lz4 sends and takes it compressed.
 *
 * Prints "begin" when the measured window opens and one JSON object when it closes.
 */
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/load/net.h"
#include "bench/mailbox/link.h"
#include "bench/mailbox/mail.h"
#include "common/clock.h"
#include "common/lz4_payload.h"
#include "common/must.h"
#include "proto/send_packed.h"

#define LEASE_MS 30000u
#define COMPRESS_FROM 4096u

struct callers {
    struct link link;
    struct mail_window window;
    struct caller *all;
    unsigned count;
    bool leaseless; /* taken when delivered: nothing to acknowledge */
    size_t bytes;   /* of a payload */
    bool table, lz4;
    char *unpacked; /* bytes of it */
};

struct caller {
    struct callers *all;
    uint64_t since, wire_bytes;
    char workflow[LINK_NAME];
    char *payload;
};

static void caller_send(struct caller *c);

static void caller_call(struct caller *c, unsigned method, const ProtobufCMessage *q,
                        rpc_done_fn *done)
{
    c->wire_bytes += protobuf_c_message_get_packed_size(q);
    link_call(&c->all->link, method, q, done, c);
}

static void *caller_answer(struct caller *c, const ProtobufCMessageDescriptor *type,
                           const char *what, enum err status, const uint8_t *body, size_t len)
{
    c->wire_bytes += len;
    return link_answer(type, what, status, body, len);
}

static void caller_done(struct caller *c)
{
    struct mail_window *w = &c->all->window;
    uint64_t now = clock_ns();
    unsigned long before;

    mail_window_turn(w, now);
    before = w->count;
    mail_window_add(w, c->since, now);
    if (w->count > before)
        w->wire_bytes += c->wire_bytes;
    if (!c->all->window.done)
        caller_send(c);
}

static void on_acked(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct caller *c = arg;
    Slipstream__V1__AckReply *r =
        caller_answer(c, &slipstream__v1__ack_reply__descriptor, "ack", status, body, len);

    (void)token;
    c->all->window.errors += r->n_results != 1 || r->results[0]->status != ERR_OK;
    slipstream__v1__ack_reply__free_unpacked(r, NULL);
    caller_done(c);
}

static void caller_ack(struct caller *c, const Slipstream__V1__Message *m)
{
    Slipstream__V1__Ack ack, *acks = &ack;
    Slipstream__V1__AckRequest q;
    char agent[] = "agent-0";

    slipstream__v1__ack__init(&ack);
    ack.message_id = m->message_id;
    ack.receipt = m->receipt;
    ack.kind = SLIPSTREAM__V1__ACK_KIND__ACK_DONE;
    slipstream__v1__ack_request__init(&q);
    q.workflow_id = c->workflow;
    q.agent_id = agent;
    q.n_acks = 1;
    q.acks = &acks;
    caller_call(c, LINK_ACK, &q.base, on_acked);
}

static bool is_whole(struct caller *c, const Slipstream__V1__Message *m)
{
    struct packed p;

    return payload_claim(m->payload.data, m->payload.len, m->raw_len, PAYLOAD_MAX, &p) == ERR_OK &&
           p.raw_len == c->all->bytes && (!p.is_packed || payload_unpack_to(&p, c->all->unpacked));
}

static void on_received(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct caller *c = arg;
    Slipstream__V1__ReceiveReply *r =
        caller_answer(c, &slipstream__v1__receive_reply__descriptor, "receive", status, body, len);

    (void)token;
    if (r->n_messages != 1 || !is_whole(c, r->messages[0])) {
        c->all->window.errors++;
        caller_done(c);
    } else if (c->all->leaseless) {
        caller_done(c);
    } else {
        caller_ack(c, r->messages[0]);
    }
    slipstream__v1__receive_reply__free_unpacked(r, NULL);
}

static void caller_receive(struct caller *c)
{
    Slipstream__V1__ReceiveRequest q;
    char agent[] = "agent-0";

    slipstream__v1__receive_request__init(&q);
    q.workflow_id = c->workflow;
    q.agent_id = agent;
    q.max = 1;
    q.lz4 = c->all->lz4;
    q.lease_ms = c->all->leaseless ? 0 : LEASE_MS;
    caller_call(c, LINK_RECEIVE, &q.base, on_received);
}

static void on_sent(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct caller *c = arg;
    Slipstream__V1__SendReply *r =
        caller_answer(c, &slipstream__v1__send_reply__descriptor, "send", status, body, len);

    (void)token;
    c->all->window.errors += r->n_results != 1 || r->results[0]->status != ERR_OK;
    slipstream__v1__send_reply__free_unpacked(r, NULL);
    caller_receive(c);
}

static void caller_send(struct caller *c)
{
    Slipstream__V1__Message m, *messages = &m;
    Slipstream__V1__SendRequest q, *packed = NULL;
    char source[] = "agent-1", target[] = "agent-0", type[] = "task";

    slipstream__v1__message__init(&m);
    m.source_agent = source;
    m.target_agent = target;
    m.message_type = type;
    m.payload.data = (uint8_t *)c->payload;
    m.payload.len = c->all->bytes;
    slipstream__v1__send_request__init(&q);
    q.workflow_id = c->workflow;
    q.n_messages = 1;
    q.messages = &messages;
    c->since = clock_ns();
    c->wire_bytes = 0;
    if (c->all->lz4)
        packed = send_packed(&q, COMPRESS_FROM);
    caller_call(c, LINK_SEND, packed != NULL ? &packed->base : &q.base, on_sent);
    free(packed);
}

static const struct option options[] = {MAIL_WINDOW_OPTIONS,
                                        {"url", required_argument, NULL, 'u'},
                                        {"callers", required_argument, NULL, 'n'},
                                        {"leaseless", no_argument, NULL, 'l'},
                                        {"bytes", required_argument, NULL, 'b'},
                                        {"lz4", no_argument, NULL, 'z'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct callers s = {.count = 64, .bytes = MAIL_BYTES};
    const char *url = NULL;
    int o;

    s.window.warm_ns = NS_PER_S;
    s.window.length_ns = 5 * NS_PER_S;
    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'u')
            url = optarg;
        else if (o == 'n')
            s.count = (unsigned)net_number("--callers", optarg, 1, 8000);
        else if (o == 'l')
            s.leaseless = true;
        else if (o == 'z')
            s.lz4 = true;
        else if (o == 'b')
            s.table = (s.bytes = (size_t)net_number("--bytes", optarg, 64, PAYLOAD_MAX)) > 0;
        else if (!mail_window_option(&s.window, o, optarg))
            return 2;
    }
    if (url == NULL) {
        fprintf(stderr, "usage: bench_callers --url URL [--callers N] [--leaseless] [--bytes N] "
                        "[--lz4] [--warm-ms N] [--duration-ms N]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    link_open(&s.link, url);
    s.all = calloc(s.count, sizeof(*s.all));
    s.unpacked = malloc(s.bytes);
    must(s.all != NULL && s.unpacked != NULL);
    mail_window_start(&s.window, clock_ns());
    for (unsigned i = 0; i < s.count; i++) {
        s.all[i].all = &s;
        link_workflow_name(s.all[i].workflow, i + 1);
        s.all[i].payload = malloc(s.bytes);
        must(s.all[i].payload != NULL);
        if (s.table)
            mail_table(s.all[i].payload, s.bytes, i);
        else
            mail_payload(s.all[i].payload, i);
        caller_send(&s.all[i]);
    }
    while (!s.window.done)
        loop_turn(s.link.loop, 100);
    mail_window_report(&s.window);
    link_close(&s.link);
    samples_fini(&s.window.times);
    for (unsigned i = 0; i < s.count; i++)
        free(s.all[i].payload);
    free(s.unpacked);
    free(s.all);
    return 0;
}
