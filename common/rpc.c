/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc.h"

#include <stdlib.h>
#include <sys/epoll.h>

#include "common/loop.h"
#include "common/must.h"

/*
 * What the channel needs of common/loop.c. The two ends are rpc_client.c and rpc_server.c; frames
 * rpc_frame.c; carriers rpc_nng.c and rpc_ring.c.
 */
struct loop_bridge {
    struct watch *watch;
    void (*on_readable)(void *arg);
    void *arg;
};

static void on_ready(void *arg, uint32_t events)
{
    struct loop_bridge *b = arg;

    (void)events;
    b->on_readable(b->arg); /* may free b */
}

static void *bridge_watch(void *ctx, int fd, void (*on_readable)(void *arg), void *arg)
{
    struct loop_bridge *b = calloc(1, sizeof(*b));

    must(b != NULL);
    *b = (struct loop_bridge){.on_readable = on_readable, .arg = arg};
    b->watch = loop_watch(ctx, fd, EPOLLIN, on_ready, b);
    return b;
}

static void bridge_unwatch(void *ctx, void *watch)
{
    struct loop_bridge *b = watch;

    (void)ctx;
    loop_unwatch(b->watch);
    free(b);
}

struct rpc_host rpc_host_loop(struct loop *l)
{
    return (struct rpc_host){
        .ctx = l, .watch = bridge_watch, .unwatch = bridge_unwatch, .timers = loop_timers(l)};
}
