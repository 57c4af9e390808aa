/* SPDX-License-Identifier: Apache-2.0 */
#include "client/client.h"

#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/must.h"

/*
 * A blocking face on the channel: each call turns a loop of its own until it is answered. Between
 * calls nothing runs here; what arrives meanwhile waits in the channel.
 */
#define DEFAULT_TIMEOUT_MS 5000u
#define IDLE_NS (10 * NS_PER_S)

/* The call in flight; lives on the stack of client_call(). */
struct waiting {
    uint64_t token;
    bool done;
    enum err status;
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *reply;
    char text[200];
};

_Static_assert(SLIPSTREAM_BUSY == (int)ERR_BUSY, "");
_Static_assert(SLIPSTREAM_TIMEOUT == (int)ERR_TIMEOUT, "");
_Static_assert(SLIPSTREAM_GONE == (int)ERR_GONE, "");
_Static_assert(SLIPSTREAM_VERSION == (int)ERR_VERSION, "");
_Static_assert(SLIPSTREAM_DENIED == (int)ERR_DENIED, "");
_Static_assert(SLIPSTREAM_INVALID == (int)ERR_INVALID, "");
_Static_assert(SLIPSTREAM_NOT_FOUND == (int)ERR_NOT_FOUND, "");
_Static_assert(SLIPSTREAM_TOO_LARGE == (int)ERR_TOO_LARGE, "");
_Static_assert(SLIPSTREAM_JSON == (int)ERR_JSON, "");
_Static_assert(SLIPSTREAM_ID == (int)ERR_ID, "");
_Static_assert(SLIPSTREAM_DRAINING == (int)ERR_DRAINING, "");
_Static_assert(SLIPSTREAM_WORKFLOW == (int)ERR_WORKFLOW, "");
_Static_assert(SLIPSTREAM_AGENT_LIMIT == (int)ERR_AGENT_LIMIT, "");
_Static_assert(SLIPSTREAM_MAILBOX_FULL == (int)ERR_MAILBOX_FULL, "");
_Static_assert(SLIPSTREAM_MAILBOX_DOWN == (int)ERR_MAILBOX_DOWN, "");
_Static_assert(SLIPSTREAM_SCHEDULER_DOWN == (int)ERR_SCHEDULER_DOWN, "");

const char *slipstream_error_code(int error)
{
    return err_code((enum err)error);
}

const char *slipstream_error_text(int error)
{
    return err_text((enum err)error);
}

const char *slipstream_version(void)
{
    return SLIP_VERSION;
}

const char *slipstream_last_error(const struct slipstream *s)
{
    return s->error;
}

char *unconst(const char *s)
{
    union {
        const char *in;
        char *out;
    } u = {s};

    return u.out;
}

uint64_t deadline_after(uint32_t ms)
{
    return clock_ns() + ms * NS_PER_MS;
}

enum err client_fail(struct slipstream *s, enum err e, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(s->error, sizeof(s->error), fmt, ap);
    va_end(ap);
    return e;
}

/* ---- links ---- */

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t info_len)
{
    struct link *l = arg;

    (void)epoch;
    (void)info;
    (void)info_len;
    l->up = true;
}

static void on_down(void *arg, const char *reason)
{
    struct link *l = arg;

    l->up = false;
    l->downs++;
    snprintf(l->reason, sizeof(l->reason), "%s", reason != NULL ? reason : "");
}

static void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    struct link *l = arg;

    if (l == &l->owner->links[SIDE_MAILBOX])
        mailbox_event(l->owner, method, body, len);
}

/* The channel's threads inherit this mask: no signal of the program ends up in them. */
static enum err link_open(struct link *l)
{
    const struct rpc_client_conf conf = {
        .url = l->url,
        .name = l->owner->name,
        .key = l->owner->key,
        .tls_ca_file = l->owner->tls_ca_file,
        .allow_plain_tcp = l->owner->allow_plain_tcp,
        .channel = RPC_NNG,
        .arg = l,
        .on_up = on_up,
        .on_down = on_down,
        .on_event = on_event,
    };
    sigset_t all, before;
    enum err e;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    e = rpc_client_open(&conf, rpc_host_loop(l->owner->loop), &l->rpc);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return e;
}

void client_turn(struct slipstream *s, uint64_t deadline_ns)
{
    uint64_t now = clock_ns(), left_ms = 0;
    unsigned i;

    if (deadline_ns > now)
        left_ms = (deadline_ns - now) / NS_PER_MS + 1;
    for (i = 0; i < SIDES; i++)
        if (s->links[i].rpc != NULL)
            rpc_client_flush(s->links[i].rpc);
    loop_turn(s->loop, left_ms < 1000 ? (int)left_ms : 1000);
    s->last_turn_ns = clock_ns();
}

/*
 * Between calls nobody answers the server, which takes a silent client for dead after a while. A
 * link that may have been given up is made anew before a call rather than found broken by it;
 * nothing rests on the old one.
 */
static void link_refresh(struct slipstream *s, struct link *l)
{
    if (l->rpc == NULL || clock_ns() - s->last_turn_ns < IDLE_NS)
        return;
    rpc_client_close(l->rpc);
    l->rpc = NULL;
    l->up = false;
}

static enum err link_need(struct slipstream *s, enum side side, uint64_t deadline_ns)
{
    static const char *const names[] = {"scheduler", "mailbox"};
    struct link *l = &s->links[side];
    enum err e = ERR_OK;

    link_refresh(s, l);
    if (l->rpc == NULL)
        e = link_open(l);
    if (e != ERR_OK)
        return client_fail(s, e, "%s at %s: %s", names[side], l->url, err_text(e));
    while (!l->up && clock_ns() < deadline_ns)
        client_turn(s, deadline_ns);
    if (l->up)
        return ERR_OK;
    return client_fail(s, side == SIDE_MAILBOX ? ERR_MAILBOX_DOWN : ERR_SCHEDULER_DOWN,
                       "%s at %s is not reachable%s%s", names[side], l->url,
                       l->reason[0] != '\0' ? ": " : "", l->reason);
}

/* ---- calls ---- */

static void failure_read(struct waiting *w, const uint8_t *body, size_t len)
{
    Slipstream__V1__Failure *f = len > 0 ? slipstream__v1__failure__unpack(NULL, len, body) : NULL;

    snprintf(w->text, sizeof(w->text), "%s",
             f != NULL && f->message[0] != '\0' ? f->message : err_text(w->status));
    if (f != NULL)
        slipstream__v1__failure__free_unpacked(f, NULL);
}

static void on_done(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    struct slipstream *s = arg;
    struct waiting *w = s->waiting;

    if (w == NULL || w->token != token)
        return; /* of client_tell() */
    w->done = true;
    w->status = status;
    if (status == ERR_OK) {
        w->reply = protobuf_c_message_unpack(w->type, NULL, len, body);
        if (w->reply == NULL)
            w->status = ERR_PROTO;
    }
    if (w->status != ERR_OK)
        failure_read(w, body, status == ERR_OK ? 0 : len);
}

static void on_late_receive(void *arg, uint64_t token, enum err status, const uint8_t *body,
                            size_t len)
{
    (void)token;
    receive_late(arg, status, body, len);
}

static const ProtobufCServiceDescriptor *service_of(enum side side)
{
    return side == SIDE_MAILBOX ? &slipstream__v1__mailbox__descriptor
                                : &slipstream__v1__scheduler__descriptor;
}

/* Hands the call to the channel; a link that is found down has done nothing yet, so it is waited
 * for. */
static enum err call_start(struct slipstream *s, enum side side, unsigned method,
                           const ProtobufCMessage *request, uint64_t deadline_ns, uint64_t token)
{
    bool is_receive = side == SIDE_MAILBOX && method == MAILBOX_RECEIVE;
    uint64_t now;
    enum err e;

    do {
        e = link_need(s, side, deadline_ns);
        if (e != ERR_OK)
            return e;
        now = clock_ns();
        e = rpc_call(s->links[side].rpc, method, request,
                     deadline_ns > now ? (uint32_t)((deadline_ns - now) / NS_PER_MS) + 1 : 1,
                     on_done, s, token, is_receive ? on_late_receive : NULL);
        if (e == ERR_GONE)
            s->links[side].up = rpc_client_is_up(s->links[side].rpc);
    } while (e == ERR_GONE && !s->links[side].up);
    if (e != ERR_OK)
        return client_fail(s, e, "%s", err_text(e));
    return ERR_OK;
}

enum err client_call(struct slipstream *s, enum side side, unsigned method,
                     const ProtobufCMessage *request, uint64_t deadline_ns,
                     ProtobufCMessage **reply)
{
    struct waiting w = {.token = ++s->next_token, .type = service_of(side)->methods[method].output};
    enum err e;

    s->waiting = &w;
    e = call_start(s, side, method, request, deadline_ns, w.token);
    if (e == ERR_OK) {
        while (!w.done)
            client_turn(s, deadline_ns);
        e = w.status;
        if (e == ERR_OK)
            *reply = w.reply;
        else
            client_fail(s, e, "%s", w.text);
    }
    s->waiting = NULL;
    return e;
}

void client_tell(struct slipstream *s, enum side side, unsigned method,
                 const ProtobufCMessage *request)
{
    struct link *l = &s->links[side];

    if (l->rpc != NULL && l->up)
        (void)rpc_call(l->rpc, method, request, s->timeout_ms, on_done, s, ++s->next_token, NULL);
}

/* ---- handles ---- */

static char *copy_of(const char *s, const char *otherwise)
{
    char *copy;

    if (s == NULL)
        s = otherwise;
    if (s == NULL)
        return NULL;
    copy = strdup(s);
    must(copy != NULL);
    return copy;
}

static bool is_url(const char *s)
{
    return s == NULL || strncmp(s, "ipc://", 6) == 0 || strncmp(s, "tcp://", 6) == 0 ||
           strncmp(s, "tls+tcp://", 10) == 0;
}

int slipstream_open(const struct slipstream_options *o, struct slipstream **out)
{
    struct slipstream *s;

    if (!is_url(o->scheduler_url) || !is_url(o->mailbox_url))
        return ERR_INVALID;
    s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->loop = loop_new();
    s->links[SIDE_SCHEDULER].url =
        copy_of(o->scheduler_url, "ipc:///run/slipstream/sock/scheduler");
    s->links[SIDE_MAILBOX].url = copy_of(o->mailbox_url, "ipc:///run/slipstream/sock/mailbox");
    s->links[SIDE_SCHEDULER].owner = s->links[SIDE_MAILBOX].owner = s;
    s->key = copy_of(o->key, NULL);
    s->tls_ca_file = copy_of(o->tls_ca_file, NULL);
    s->name = copy_of(o->name, "client");
    s->tenant = copy_of(o->tenant, "");
    s->allow_plain_tcp = o->allow_plain_tcp;
    s->timeout_ms = o->timeout_ms != 0 ? o->timeout_ms : DEFAULT_TIMEOUT_MS;
    *out = s;
    return ERR_OK;
}

void slipstream_close(struct slipstream *s)
{
    unsigned i;

    if (s == NULL)
        return;
    for (i = 0; i < SIDES; i++) {
        if (s->links[i].rpc != NULL)
            rpc_client_close(s->links[i].rpc);
        free(s->links[i].url);
    }
    if (s->poll_reply != NULL)
        slipstream__v1__receive_reply__free_unpacked(s->poll_reply, NULL);
    loop_free(s->loop);
    free(s->key);
    free(s->tls_ca_file);
    free(s->name);
    free(s->tenant);
    free(s);
}
