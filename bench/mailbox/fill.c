/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Looks at a mailbox process from beside the load:
 *   --status            prints its counts
 *   --fill N            queues N messages, one after the other over --boxes mailboxes (1)
 *   --receive N         with --pid: the processor time that N receives cost the mailbox process.
 *                       Messages are queued in small parts before they are received, so that the
 *                       depth stays where --fill left it; queuing does not count
 * Each prints one JSON object.
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "bench/load/net.h"
#include "bench/mailbox/link.h"
#include "bench/mailbox/mail.h"
#include "common/clock.h"

#define BATCH 64u      /* messages of one call */
#define OUTSTANDING 8u /* calls */
#define PART 512u      /* messages between two looks at the clock */

struct fill {
    struct link link;
    unsigned boxes;
    uint64_t sent, asked, answered, failed;
    uint64_t box; /* the next one */
    bool over;
    char payload[BATCH][MAIL_BYTES];
};

static void on_sent(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct fill *f = arg;
    Slipstream__V1__SendReply *r =
        link_answer(&slipstream__v1__send_reply__descriptor, "send", status, body, len);

    (void)token;
    for (size_t i = 0; i < r->n_results; i++)
        f->failed += r->results[i]->status != ERR_OK;
    f->answered += r->n_results;
    slipstream__v1__send_reply__free_unpacked(r, NULL);
}

static void batch_send(struct fill *f, unsigned count)
{
    Slipstream__V1__Message m[BATCH], *messages[BATCH];
    Slipstream__V1__SendRequest q;
    char workflow[LINK_NAME], source[] = "agent-1", target[] = "agent-0", type[] = "task";

    link_workflow_name(workflow, (unsigned)(f->box++ % f->boxes) + 1);
    for (unsigned i = 0; i < count; i++) {
        slipstream__v1__message__init(&m[i]);
        m[i].source_agent = source;
        m[i].target_agent = target;
        m[i].message_type = type;
        mail_payload(f->payload[i], f->sent + i);
        m[i].payload.data = (uint8_t *)f->payload[i];
        m[i].payload.len = MAIL_BYTES;
        messages[i] = &m[i];
    }
    slipstream__v1__send_request__init(&q);
    q.workflow_id = workflow;
    q.n_messages = count;
    q.messages = messages;
    link_call(&f->link, LINK_SEND, &q.base, on_sent, f);
    f->sent += count;
}

static void fill(struct fill *f, uint64_t count)
{
    uint64_t until = f->sent + count;

    while (f->answered < until) {
        while (f->sent < until && f->sent - f->answered < OUTSTANDING * BATCH)
            batch_send(f, until - f->sent < BATCH ? (unsigned)(until - f->sent) : BATCH);
        loop_turn(f->link.loop, 100);
    }
}

/* ---- receives ---- */

static void on_received(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct fill *f = arg;
    Slipstream__V1__ReceiveReply *r =
        link_answer(&slipstream__v1__receive_reply__descriptor, "receive", status, body, len);

    (void)token;
    f->failed += r->n_messages != 1 || r->messages[0]->payload.len != MAIL_BYTES;
    f->asked--;
    slipstream__v1__receive_reply__free_unpacked(r, NULL);
}

static void receive(struct fill *f, uint64_t count)
{
    char workflow[LINK_NAME], agent[] = "agent-0";
    Slipstream__V1__ReceiveRequest q;

    link_workflow_name(workflow, 1);
    slipstream__v1__receive_request__init(&q);
    q.workflow_id = workflow;
    q.agent_id = agent;
    q.max = 1;
    while (count > 0 || f->asked > 0) {
        for (; count > 0 && f->asked < BATCH; count--, f->asked++)
            link_call(&f->link, LINK_RECEIVE, &q.base, on_received, f);
        loop_turn(f->link.loop, 100);
    }
}

static uint64_t process_cpu_ns(int pid)
{
    struct timespec t;
    clockid_t clock;

    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &t) != 0)
        net_die("clock of the mailbox process");
    return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static void receive_timed(struct fill *f, uint64_t count, int pid)
{
    uint64_t cpu = 0, parts = (count + PART - 1) / PART;

    for (uint64_t i = 0; i < parts; i++) {
        uint64_t before;

        fill(f, PART);
        before = process_cpu_ns(pid);
        receive(f, PART);
        cpu += process_cpu_ns(pid) - before;
    }
    printf("{\"received\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"us\":%.3f}\n", parts * PART,
           f->failed, (double)cpu / 1e3 / (double)(parts * PART));
}

/* ---- counts ---- */

static void on_status(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct fill *f = arg;
    Slipstream__V1__MailboxStatus *s =
        link_answer(&slipstream__v1__mailbox_status__descriptor, "status", status, body, len);

    (void)token;
    printf("{\"boxes\":%u,\"workflows\":%u,\"messages\":%" PRIu64 ",\"bytes\":%" PRIu64
           ",\"waiting\":%u,\"leased\":%" PRIu64 ",\"store_bytes\":%" PRIu64 "}\n",
           s->boxes, s->workflows, s->messages, s->bytes, s->waiting, s->leased, s->store_bytes);
    slipstream__v1__mailbox_status__free_unpacked(s, NULL);
    f->over = true;
}

static void print_status(struct fill *f)
{
    Slipstream__V1__Empty q;

    slipstream__v1__empty__init(&q);
    link_call(&f->link, LINK_STATUS, &q.base, on_status, f);
    while (!f->over)
        loop_turn(f->link.loop, 100);
}

static const struct option options[] = {{"url", required_argument, NULL, 'u'},
                                        {"fill", required_argument, NULL, 'f'},
                                        {"boxes", required_argument, NULL, 'b'},
                                        {"receive", required_argument, NULL, 'r'},
                                        {"pid", required_argument, NULL, 'p'},
                                        {"status", no_argument, NULL, 's'},
                                        {0}};

int main(int argc, char **argv)
{
    static struct fill f = {.boxes = 1};
    const char *url = NULL;
    uint64_t filled = 0, received = 0;
    int pid = 0, o;
    bool status = false;

    while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (o == 'u')
            url = optarg;
        else if (o == 'f')
            filled = net_number("--fill", optarg, 1, 100000000);
        else if (o == 'b')
            f.boxes = (unsigned)net_number("--boxes", optarg, 1, 1000000);
        else if (o == 'r')
            received = net_number("--receive", optarg, 1, 100000000);
        else if (o == 'p')
            pid = (int)net_number("--pid", optarg, 1, 1 << 30);
        else if (o == 's')
            status = true;
        else
            return 2;
    }
    if (url == NULL || (filled == 0 && received == 0 && !status) || (received > 0 && pid == 0)) {
        fprintf(stderr, "usage: bench_fill --url URL [--fill N] [--boxes N] [--receive N --pid P] "
                        "[--status]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    link_open(&f.link, url);
    if (filled > 0) {
        fill(&f, filled);
        printf("{\"sent\":%" PRIu64 ",\"failed\":%" PRIu64 "}\n", f.sent, f.failed);
    }
    if (received > 0)
        receive_timed(&f, received, pid);
    if (status)
        print_status(&f);
    link_close(&f.link);
    return 0;
}
