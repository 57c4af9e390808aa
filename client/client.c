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
#include "proto/send_packed.h"

/*
 * The channel, turned by the thread that calls: each blocking call, and slipstream_turn(), turn a
 * loop of the handle's own. Between turns nothing runs here; what arrives meanwhile waits in the
 * channel.
 *
 * An ask goes out at once where its link is up. Else it is packed and waits for the link, in order;
 * a link that is found down has done nothing yet.
 */
#define DEFAULT_TIMEOUT_MS 5000u
#define IDLE_NS (10 * NS_PER_S)
#define WAITING_MAX 8191u
#define RING_BUSY_MS 1000u /* megabytes fill a ring faster than its reader empties it */
#define CLOSE_MS 1000u     /* longest time for deliveries to be settled */

_Static_assert(SLIPSTREAM_BUSY == (int)ERR_BUSY, "");
_Static_assert(SLIPSTREAM_TIMEOUT == (int)ERR_TIMEOUT, "");
_Static_assert(SLIPSTREAM_GONE == (int)ERR_GONE, "");
_Static_assert(SLIPSTREAM_UNIMPLEMENTED == (int)ERR_UNIMPLEMENTED, "");
_Static_assert(SLIPSTREAM_VERSION == (int)ERR_VERSION, "");
_Static_assert(SLIPSTREAM_DENIED == (int)ERR_DENIED, "");
_Static_assert(SLIPSTREAM_INVALID == (int)ERR_INVALID, "");
_Static_assert(SLIPSTREAM_NOT_FOUND == (int)ERR_NOT_FOUND, "");
_Static_assert(SLIPSTREAM_TOO_LARGE == (int)ERR_TOO_LARGE, "");
_Static_assert(SLIPSTREAM_CANCELLED == (int)ERR_CANCELLED, "");
_Static_assert(SLIPSTREAM_JSON == (int)ERR_JSON, "");
_Static_assert(SLIPSTREAM_ID == (int)ERR_ID, "");
_Static_assert(SLIPSTREAM_VALUE == (int)ERR_VALUE, "");
_Static_assert(SLIPSTREAM_DRAINING == (int)ERR_DRAINING, "");
_Static_assert(SLIPSTREAM_WORKFLOW == (int)ERR_WORKFLOW, "");
_Static_assert(SLIPSTREAM_AGENT_LIMIT == (int)ERR_AGENT_LIMIT, "");
_Static_assert(SLIPSTREAM_MAILBOX_FULL == (int)ERR_MAILBOX_FULL, "");
_Static_assert(SLIPSTREAM_MAILBOX_DOWN == (int)ERR_MAILBOX_DOWN, "");
_Static_assert(SLIPSTREAM_SCHEDULER_DOWN == (int)ERR_SCHEDULER_DOWN, "");
_Static_assert(SLIPSTREAM_RECEIPT == (int)ERR_RECEIPT, "");
_Static_assert(SLIPSTREAM_IDEMPOTENCY == (int)ERR_IDEMPOTENCY, "");
_Static_assert(SLIPSTREAM_STORE == (int)ERR_STORE, "");

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

char **strings_of(const char *const *strings)
{
    union {
        const char *const *in;
        char **out;
    } u = {strings};

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

static const ProtobufCServiceDescriptor *service_of(enum side side)
{
    return side == SIDE_MAILBOX ? &slipstream__v1__mailbox__descriptor
                                : &slipstream__v1__scheduler__descriptor;
}

/* ---- asks ---- */

static void on_answer(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    union {
        uintptr_t token;
        struct ask *ask;
    } u = {(uintptr_t)token};

    (void)arg;
    u.ask->done(u.ask->arg, status, body, len);
}

static void on_late_receive(void *arg, uint64_t token, enum err status, const uint8_t *body,
                            size_t len)
{
    (void)token;
    receive_late(arg, status, body, len);
}

/* ERR_GONE: the link is down, and nothing was done. What waits is not compressed: another mailbox
 * may be at the other end by then. */
static enum err ask_send(struct ask *a, const ProtobufCMessage *request)
{
    struct link *l = a->to;
    bool to_mailbox = l->side == SIDE_MAILBOX;
    Slipstream__V1__SendRequest *packed = NULL;
    uint64_t now = clock_ns();
    enum err e;

    if (a->epoch != 0 && a->epoch != l->epoch)
        return ERR_HELLO;
    if (to_mailbox && a->method == MAILBOX_SEND)
        packed = send_packed((const Slipstream__V1__SendRequest *)request, l->compress_from);
    e = rpc_call(l->rpc, a->method, packed != NULL ? &packed->base : request,
                 a->deadline_ns > now ? (uint32_t)((a->deadline_ns - now) / NS_PER_MS) + 1 : 1,
                 on_answer, l->owner, (uintptr_t)a,
                 to_mailbox && a->method == MAILBOX_RECEIVE ? on_late_receive : NULL);
    free(packed);
    return e;
}

static void ask_leave(struct ask *a)
{
    timer_stop(loop_timers(a->to->owner->loop), &a->timer);
    list_remove(&a->link);
    a->to->waiting_count--;
    free(a->packed);
    a->packed = NULL;
}

bool ask_withdraw(struct ask *a)
{
    if (a->packed == NULL)
        return false;
    ask_leave(a);
    return true;
}

static void on_unreachable(struct timer *t)
{
    struct ask *a = container_of(t, struct ask, timer);
    enum err e = a->to->side == SIDE_MAILBOX ? ERR_MAILBOX_DOWN : ERR_SCHEDULER_DOWN;

    ask_leave(a);
    a->done(a->arg, e, NULL, 0);
}

static enum err ask_park(struct ask *a, const ProtobufCMessage *request)
{
    struct link *l = a->to;

    if (l->waiting_count == WAITING_MAX)
        return ERR_BUSY;
    a->packed_len = protobuf_c_message_get_packed_size(request);
    a->packed = malloc(a->packed_len + 1);
    must(a->packed != NULL);
    protobuf_c_message_pack(request, a->packed);
    if (a->first)
        list_push_front(&l->waiting, &a->link);
    else
        list_push(&l->waiting, &a->link);
    l->waiting_count++;
    timer_start(loop_timers(l->owner->loop), &a->timer, a->deadline_ns);
    return ERR_OK;
}

/* The link is up again. What cannot go out yet stays. */
static void asks_resume(struct link *l)
{
    const ProtobufCServiceDescriptor *service = service_of(l->side);
    ProtobufCMessage *request;
    struct list *n;
    enum err e;

    while (l->up && (n = list_first(&l->waiting)) != NULL) {
        struct ask *a = container_of(n, struct ask, link);

        request = protobuf_c_message_unpack(service->methods[a->method].input, NULL, a->packed_len,
                                            a->packed);
        must(request != NULL);
        e = ask_send(a, request);
        protobuf_c_message_free_unpacked(request, NULL);
        if (e == ERR_GONE) {
            l->up = false;
            return;
        }
        ask_leave(a);
        if (e != ERR_OK)
            a->done(a->arg, e, NULL, 0);
    }
}

static void asks_cancel(struct link *l)
{
    struct list *n;

    while ((n = list_first(&l->waiting)) != NULL) {
        struct ask *a = container_of(n, struct ask, link);

        ask_leave(a);
        a->done(a->arg, ERR_CANCELLED, NULL, 0);
    }
}

/* ---- links ---- */

static void mailbox_info_read(struct link *l, const uint8_t *info, size_t len)
{
    Slipstream__V1__MailboxInfo *m = slipstream__v1__mailbox_info__unpack(NULL, len, info);

    l->compress_from = m != NULL && !l->owner->uncompressed ? m->compress_bytes : 0;
    if (m != NULL)
        slipstream__v1__mailbox_info__free_unpacked(m, NULL);
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t info_len)
{
    struct link *l = arg;

    if (l->side == SIDE_MAILBOX)
        mailbox_info_read(l, info, info_len);
    l->up = true;
    l->epoch = epoch;
    asks_resume(l);
}

static void on_down(void *arg, const char *reason)
{
    struct link *l = arg;

    l->up = false;
    l->downs++;
    snprintf(l->reason, sizeof(l->reason), "%s", or_empty(reason));
    if (l->side == SIDE_MAILBOX)
        mailbox_down(l->owner);
}

static void on_event(void *arg, unsigned method, const uint8_t *body, size_t len)
{
    struct link *l = arg;

    if (l->side == SIDE_MAILBOX)
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
        .channel = l->side == SIDE_MAILBOX ? RPC_AUTO : RPC_NNG,
        .ring_busy_ms = RING_BUSY_MS,
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

/*
 * Between turns nobody answers the server, which takes a silent client for dead after a while. A
 * link that may have been given up is made anew before a call rather than found broken by it,
 * unless something rests on the old one.
 */
static void link_refresh(struct slipstream *s, struct link *l)
{
    if (l->rpc == NULL || s->under_way > 0 || s->settling_count > 0 ||
        clock_ns() - s->last_turn_ns < IDLE_NS)
        return;
    rpc_client_close(l->rpc);
    l->rpc = NULL;
    l->up = false;
}

enum err ask_start(struct slipstream *s, struct ask *a, enum side side, unsigned method,
                   const ProtobufCMessage *request, uint64_t deadline_ns)
{
    static const char *const names[] = {"scheduler", "mailbox"};
    struct link *l = &s->links[side];
    enum err e = ERR_GONE;

    if (s->closing)
        return client_fail(s, ERR_CANCELLED, "the handle is being closed");
    list_init(&a->link);
    a->timer = (struct timer){.fire = on_unreachable};
    a->to = l;
    a->method = method;
    a->deadline_ns = deadline_ns;
    a->packed = NULL;
    link_refresh(s, l);
    if (l->rpc == NULL && (e = link_open(l)) != ERR_OK)
        return client_fail(s, e, "%s at %s: %s", names[side], l->url, err_text(e));
    e = ERR_GONE;
    if (l->up && (a->first || list_is_empty(&l->waiting)))
        e = ask_send(a, request);
    if (e == ERR_GONE) {
        l->up = l->up && rpc_client_is_up(l->rpc);
        e = ask_park(a, request);
    }
    return e == ERR_OK ? e : client_fail(s, e, "%s", err_text(e));
}

void ask_explain(const struct ask *a, enum err status, const uint8_t *body, size_t len, char *dst,
                 size_t size)
{
    static const char *const names[] = {"scheduler", "mailbox"};
    Slipstream__V1__Failure *f = len > 0 ? slipstream__v1__failure__unpack(NULL, len, body) : NULL;
    const struct link *l = a->to;

    if (f != NULL && f->message[0] != '\0')
        snprintf(dst, size, "%s", f->message);
    else if (len == 0 && (status == ERR_MAILBOX_DOWN || status == ERR_SCHEDULER_DOWN))
        snprintf(dst, size, "%s at %s is not reachable%s%s", names[l->side], l->url,
                 l->reason[0] != '\0' ? ": " : "", l->reason);
    else
        snprintf(dst, size, "%s", err_text(status));
    if (f != NULL)
        slipstream__v1__failure__free_unpacked(f, NULL);
}

/* ---- turns ---- */

static void links_flush(struct slipstream *s)
{
    unsigned i;

    for (i = 0; i < SIDES; i++)
        if (s->links[i].rpc != NULL)
            rpc_client_flush(s->links[i].rpc);
}

void client_turn(struct slipstream *s, int wait_ms)
{
    links_flush(s);
    loop_turn(s->loop, list_is_empty(&s->ended) ? wait_ms : 0);
    s->last_turn_ns = clock_ns();
    ops_deliver(s);
    links_flush(s);
}

size_t slipstream_turn(struct slipstream *s, int wait_ms)
{
    if (!s->in_done)
        client_turn(s, s->under_way > 0 ? wait_ms : 0);
    return s->under_way;
}

int slipstream_fd(const struct slipstream *s)
{
    return loop_fd(s->loop);
}

int slipstream_wait_ms(const struct slipstream *s)
{
    return list_is_empty(&s->ended) ? loop_wait_ms(s->loop) : 0;
}

enum err may_block(struct slipstream *s)
{
    if (!s->in_done)
        return ERR_OK;
    return client_fail(s, ERR_INVALID, "a callback must not block");
}

/* ---- plain calls ---- */

/* The call in flight; lives on the stack of client_call(). */
struct plain {
    struct ask ask;
    bool done;
    enum err status;
    const ProtobufCMessageDescriptor *type;
    ProtobufCMessage *reply;
    char text[400];
};

static void on_plain(void *arg, enum err status, const uint8_t *body, size_t len)
{
    struct plain *p = arg;

    p->done = true;
    if (status == ERR_OK) {
        p->reply = protobuf_c_message_unpack(p->type, NULL, len, body);
        if (p->reply == NULL)
            status = ERR_PROTO;
        len = 0;
    }
    p->status = status;
    if (status != ERR_OK)
        ask_explain(&p->ask, status, body, len, p->text, sizeof(p->text));
}

enum err client_call(struct slipstream *s, enum side side, unsigned method,
                     const ProtobufCMessage *request, uint64_t deadline_ns,
                     ProtobufCMessage **reply)
{
    struct plain p = {.type = service_of(side)->methods[method].output,
                      .ask = {.done = on_plain, .arg = &p}};
    enum err e = may_block(s);

    if (e == ERR_OK)
        e = ask_start(s, &p.ask, side, method, request, deadline_ns);
    if (e != ERR_OK)
        return e;
    while (!p.done)
        client_turn(s, -1);
    if (p.status != ERR_OK)
        return client_fail(s, p.status, "%s", p.text);
    *reply = p.reply;
    return ERR_OK;
}

static void on_told(void *arg, uint64_t token, enum err status, const uint8_t *body, size_t len)
{
    (void)arg, (void)token, (void)status, (void)body, (void)len;
}

void client_tell(struct slipstream *s, enum side side, unsigned method,
                 const ProtobufCMessage *request)
{
    struct link *l = &s->links[side];

    if (l->rpc != NULL && l->up && !s->closing)
        (void)rpc_call(l->rpc, method, request, s->timeout_ms, on_told, s, 0, NULL);
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
    unsigned i;

    if (!is_url(o->scheduler_url) || !is_url(o->mailbox_url))
        return ERR_INVALID;
    s = calloc(1, sizeof(*s));
    must(s != NULL);
    s->loop = loop_new();
    s->links[SIDE_SCHEDULER].url =
        copy_of(o->scheduler_url, "ipc:///run/slipstream/sock/scheduler");
    s->links[SIDE_MAILBOX].url = copy_of(o->mailbox_url, "ipc:///run/slipstream/sock/mailbox");
    for (i = 0; i < SIDES; i++) {
        s->links[i].owner = s;
        s->links[i].side = (enum side)i;
        list_init(&s->links[i].waiting);
    }
    list_init(&s->ended);
    receives_init(s);
    s->key = copy_of(o->key, NULL);
    s->tls_ca_file = copy_of(o->tls_ca_file, NULL);
    s->name = copy_of(o->name, "client");
    s->tenant = copy_of(o->tenant, "");
    s->allow_plain_tcp = o->allow_plain_tcp;
    s->uncompressed = o->uncompressed;
    s->timeout_ms = o->timeout_ms != 0 ? o->timeout_ms : DEFAULT_TIMEOUT_MS;
    *out = s;
    return ERR_OK;
}

/* What is under way ends here, as far as the channel has not ended it; then nothing refers to the
 * links any more. */
void slipstream_close(struct slipstream *s)
{
    uint64_t deadline_ns;
    unsigned i;

    if (s == NULL || s->in_done)
        return;
    deadline_ns = deadline_after(s->timeout_ms < CLOSE_MS ? s->timeout_ms : CLOSE_MS);
    while (s->settling_count > 0 && s->links[SIDE_MAILBOX].up && clock_ns() < deadline_ns)
        client_turn(s, 10);
    s->closing = true;
    for (i = 0; i < SIDES; i++) {
        asks_cancel(&s->links[i]);
        if (s->links[i].rpc != NULL)
            rpc_client_close(s->links[i].rpc);
        s->links[i].rpc = NULL;
        free(s->links[i].url);
    }
    receives_cancel(s);
    ops_deliver(s);
    receives_fini(s);
    loop_free(s->loop);
    free(s->key);
    free(s->tls_ca_file);
    free(s->name);
    free(s->tenant);
    free(s);
}
