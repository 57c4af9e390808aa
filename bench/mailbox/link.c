/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/mailbox/link.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/clock.h"

#define UP_NS (10 * NS_PER_S)
#define CALL_MS 30000u

static void on_turn_end(void *arg)
{
    rpc_client_flush(((struct link *)arg)->rpc);
}

static _Noreturn void link_die(const char *what, const char *why)
{
    fprintf(stderr, "mailbox: %s: %s\n", what, why);
    exit(1);
}

void link_open(struct link *l, const char *url)
{
    struct rpc_client_conf conf = {
        .url = url, .name = "bench", .channel = RPC_AUTO, .ring_busy_ms = 1000};
    uint64_t until = clock_ns() + UP_NS;

    l->loop = loop_new();
    if (rpc_client_open(&conf, rpc_host_loop(l->loop), &l->rpc) != ERR_OK)
        link_die(url, "no such address");
    loop_at_turn_end(l->loop, on_turn_end, l);
    while (!rpc_client_is_up(l->rpc)) {
        if (clock_ns() > until)
            link_die(url, "nobody answers");
        loop_turn(l->loop, 10);
    }
}

void link_close(struct link *l)
{
    rpc_client_close(l->rpc);
    loop_free(l->loop);
}

void *link_answer(const ProtobufCMessageDescriptor *type, const char *what, enum err status,
                  const uint8_t *body, size_t len)
{
    void *m = NULL;

    if (status != ERR_OK)
        link_die(what, err_text(status));
    m = protobuf_c_message_unpack(type, NULL, len, body);
    if (m == NULL)
        link_die(what, "an answer that is none");
    return m;
}

void link_call(struct link *l, unsigned method, const ProtobufCMessage *request, rpc_done_fn *done,
               void *arg)
{
    enum err e = rpc_call(l->rpc, method, request, CALL_MS, done, arg, 0, NULL);

    if (e != ERR_OK)
        link_die("call", err_text(e));
}

void link_workflow_name(char to[LINK_NAME], unsigned index)
{
    snprintf(to, LINK_NAME, "wf-%08u", index);
}

void link_agent_name(char to[LINK_NAME], unsigned index)
{
    snprintf(to, LINK_NAME, "agent-%u", index);
}
