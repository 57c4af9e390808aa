/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/must.h"
#include "common/ring.h"
#include "common/shm.h"
#include "common/timers.h"

#define TICKET_MAGIC UINT64_C(0x31676e6972706c73)
#define GUESTS_MAX 64u /* accepted, ticket not shown yet */
#define GUEST_TIMEOUT_NS (2 * NS_PER_S)
#define DOOR_PAUSE_NS (100 * NS_PER_MS)
#define BATCH_BYTES (UINT64_C(1) << 17) /* of one link in one turn, but one frame at least */
#define RECORD_KEPT (256u << 10) /* memory for larger records goes when none of them came in */
#define RECORD_QUIET 256u        /* so many batches */

struct ring_ticket { /* a client's first message */
    uint64_t magic, session, token;
};

enum { BELL_SERVER, BELL_CLIENT, BELLS }; /* whom it wakes */

static void close_all(const int *fds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* ---- a link: the same on both sides ---- */

struct ring_link {
    struct rpc_host host;
    struct ring_link_calls calls;
    int fd;               /* the socket: its end of file is the death notice */
    int hear, ring;       /* eventfds: our bell and theirs */
    void *watch, *listen; /* of fd and hear */
    struct shm segment;
    struct ring in, out;
    struct buf record;
    unsigned quiet;     /* batches since the last large record */
    struct timer again; /* the batch was cut short: carry on in the next turn */
    bool is_busy, is_freed, is_dead;
    bool is_awake; /* the owner looks without being rung */
};

static void link_unwatch(struct ring_link *l)
{
    if (l->watch == NULL)
        return;
    l->host.unwatch(l->host.ctx, l->watch);
    l->host.unwatch(l->host.ctx, l->listen);
    l->watch = l->listen = NULL;
}

static void link_destroy(struct ring_link *l)
{
    link_unwatch(l);
    timer_stop(l->host.timers, &l->again);
    close(l->fd);
    close(l->hear);
    close(l->ring);
    shm_close(&l->segment);
    buf_fini(&l->record);
    free(l);
}

void ring_link_free(struct ring_link *l)
{
    if (l == NULL)
        return;
    l->is_freed = true;
    if (!l->is_busy)
        link_destroy(l);
}

static void link_die(struct ring_link *l, const char *reason)
{
    if (l->is_dead || l->is_freed)
        return;
    l->is_dead = true;
    link_unwatch(l);
    timer_stop(l->host.timers, &l->again);
    l->calls.on_dead(l->calls.arg, reason);
}

/* Handles what is there, a batch of it at most, so that a fast writer cannot hold the loop.
 * Returns why the link must end, or NULL. */
static const char *link_drain(struct ring_link *l)
{
    uint64_t stop = l->in.at + BATCH_BYTES;
    enum err e;

    do {
        while ((e = ring_read(&l->in, &l->record)) == ERR_OK) {
            if (l->record.len > RECORD_KEPT)
                l->quiet = 0;
            e = l->calls.on_frame(l->calls.arg, (const uint8_t *)l->record.base, l->record.len);
            if (l->is_freed)
                return NULL;
            if (e != ERR_OK)
                return err_text(e);
            if (l->in.at >= stop) {
                timer_start(l->host.timers, &l->again, clock_ns());
                return NULL;
            }
        }
        if (e != ERR_NOT_FOUND)
            return "the ring is damaged";
    } while (!l->is_awake && !ring_sleep(&l->in));
    return NULL;
}

static void record_trim(struct ring_link *l)
{
    if (l->record.cap <= RECORD_KEPT || ++l->quiet < RECORD_QUIET)
        return;
    buf_fini(&l->record);
    l->quiet = 0;
}

static void link_work(struct ring_link *l, bool is_closed)
{
    const char *reason;

    l->is_busy = true;
    reason = link_drain(l);
    if (!l->is_freed)
        l->calls.on_drained(l->calls.arg);
    record_trim(l);
    if (reason == NULL && is_closed && !timer_is_running(&l->again))
        reason = "the other side closed the ring";
    if (reason != NULL)
        link_die(l, reason);
    l->is_busy = false;
    if (l->is_freed)
        link_destroy(l);
}

void ring_link_drain(struct ring_link *l)
{
    if (l->is_busy || l->is_freed || l->is_dead)
        return;
    l->is_busy = true;
    link_drain(l);
    l->is_busy = false;
    if (l->is_freed)
        link_destroy(l);
}

bool ring_link_is_elsewhere(const struct ring_link *l)
{
    return ring_reader_is_elsewhere(&l->out);
}

void ring_link_stay_awake(struct ring_link *l)
{
    if (!l->is_awake && !l->is_freed && !l->is_dead) {
        l->is_awake = true;
        ring_wake(&l->in);
    }
}

void ring_link_look(struct ring_link *l)
{
    if (!l->is_busy && !l->is_freed && !l->is_dead && !ring_is_empty(&l->in))
        link_work(l, false);
}

void ring_link_doze(struct ring_link *l)
{
    if (!l->is_awake)
        return;
    l->is_awake = false;
    if (!l->is_busy && !l->is_freed && !l->is_dead)
        link_work(l, false);
}

static void link_on_bell(void *arg)
{
    struct ring_link *l = arg;
    uint64_t rings;

    if (read(l->hear, &rings, sizeof(rings)) > 0)
        link_work(l, false);
}

/* Nobody writes to the socket any more: it has come to its end, or the other side misbehaves. What
 * lay in the ring before still counts. */
static void link_on_readable(void *arg)
{
    struct ring_link *l = arg;
    char byte;

    if (recv(l->fd, &byte, sizeof(byte), MSG_DONTWAIT) < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    link_work(l, true);
}

static void link_on_again(struct timer *t)
{
    link_work(container_of(t, struct ring_link, again), false);
}

static struct ring_link *link_new(int fd, const struct shm *segment, uint32_t bytes,
                                  const int bells[BELLS], bool is_server, struct rpc_host host,
                                  const struct ring_link_calls *calls)
{
    struct ring_link *l = calloc(1, sizeof(*l));

    must(l != NULL);
    l->host = host;
    l->calls = *calls;
    l->fd = fd;
    l->hear = bells[is_server ? BELL_SERVER : BELL_CLIENT];
    l->ring = bells[is_server ? BELL_CLIENT : BELL_SERVER];
    l->segment = *segment;
    l->again.fire = link_on_again;
    ring_init(&l->in, ring_in_segment(segment->head, bytes, is_server), bytes);
    ring_init(&l->out, ring_in_segment(segment->head, bytes, !is_server), bytes);
    l->watch = host.watch(host.ctx, fd, link_on_readable, l);
    l->listen = host.watch(host.ctx, l->hear, link_on_bell, l);
    /* The first look happens in the next turn, never inside this call. */
    timer_start(host.timers, &l->again, clock_ns());
    return l;
}

size_t ring_link_frame_max(const struct ring_link *l)
{
    return ring_record_max(l->out.bytes);
}

enum err ring_link_write(struct ring_link *l, const void *a, size_t a_len, const void *b,
                         size_t b_len)
{
    return ring_write(&l->out, a, a_len, b, b_len);
}

void ring_link_kick(struct ring_link *l)
{
    uint64_t one = 1;

    if (ring_must_ring(&l->out))
        (void)!write(l->ring, &one, sizeof(one)); /* EAGAIN: it has been rung 2^64 times */
}

/* ---- client ---- */

struct ring_dial {
    struct rpc_host host;
    struct ring_link_calls link_calls;
    void (*on_end)(void *arg, struct ring_link *link);
    uint32_t bytes;
    int fd;
    void *watch;
};

static int seqpacket_socket(const char *path, struct sockaddr_un *addr)
{
    *addr = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(addr->sun_path))
        return -1;
    strcpy(addr->sun_path, path);
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* The segment, then the bells. False: not what a server sends. */
static bool receive_fds(int socket, int fds[1 + BELLS])
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE((1 + BELLS) * sizeof(int))];
    } control;
    char byte;
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c;
    size_t count, i;

    if (recvmsg(socket, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0)
        return false;
    c = CMSG_FIRSTHDR(&m);
    if (c == NULL || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return false;
    count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    memcpy(fds, CMSG_DATA(c), count * sizeof(int));
    if (count == 1 + BELLS)
        return true;
    for (i = 0; i < count; i++)
        close(fds[i]);
    return false;
}

static struct ring_link *dial_link(struct ring_dial *d)
{
    int fds[1 + BELLS];
    struct shm segment;

    if (!receive_fds(d->fd, fds))
        return NULL;
    if (shm_map_fd(fds[0], ring_segment_bytes(d->bytes), &segment) != ERR_OK) {
        close_all(fds + 1, BELLS);
        return NULL;
    }
    return link_new(d->fd, &segment, d->bytes, fds + 1, false, d->host, &d->link_calls);
}

static void dial_on_readable(void *arg)
{
    struct ring_dial *d = arg;
    struct ring_link *link;

    d->host.unwatch(d->host.ctx, d->watch);
    link = dial_link(d);
    if (link == NULL)
        close(d->fd);
    d->on_end(d->link_calls.arg, link);
    free(d);
}

enum err ring_dial_start(const char *path, uint64_t session, uint64_t token, uint32_t bytes,
                         struct rpc_host host, const struct ring_link_calls *link_calls,
                         void (*on_end)(void *arg, struct ring_link *link), struct ring_dial **out)
{
    const struct ring_ticket ticket = {TICKET_MAGIC, session, token};
    struct sockaddr_un addr;
    struct ring_dial *d;
    int fd = ring_bytes_can_be(bytes) ? seqpacket_socket(path, &addr) : -1;

    if (fd < 0)
        return ERR_IO;
    if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        send(fd, &ticket, sizeof(ticket), MSG_NOSIGNAL) != (ssize_t)sizeof(ticket)) {
        close(fd);
        return ERR_IO;
    }
    d = calloc(1, sizeof(*d));
    must(d != NULL);
    *d = (struct ring_dial){
        .host = host, .link_calls = *link_calls, .on_end = on_end, .bytes = bytes, .fd = fd};
    d->watch = host.watch(host.ctx, fd, dial_on_readable, d);
    *out = d;
    return ERR_OK;
}

void ring_dial_cancel(struct ring_dial *d)
{
    if (d == NULL)
        return;
    d->host.unwatch(d->host.ctx, d->watch);
    close(d->fd);
    free(d);
}

/* ---- server ---- */

struct ring_guest { /* on ring_door.guests until its ticket is seen, it hangs up or time is up */
    struct list link;
    struct ring_door *door;
    struct timer timer;
    int fd;
    void *watch;
};

struct ring_door {
    struct rpc_host host;
    void *arg;
    void (*on_guest)(void *arg, uint64_t session, uint64_t token, int fd);
    int fd;
    void *watch; /* NULL while there are too many guests or no descriptors */
    struct timer pause;
    struct list guests;
    unsigned guest_count;
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

static void door_watch(struct ring_door *d);

static int guest_release(struct ring_guest *g) /* returns its descriptor */
{
    struct ring_door *d = g->door;
    int fd = g->fd;

    list_remove(&g->link);
    timer_stop(d->host.timers, &g->timer);
    d->host.unwatch(d->host.ctx, g->watch);
    d->guest_count--;
    free(g);
    return fd;
}

static void guest_on_timeout(struct timer *t)
{
    close(guest_release(container_of(t, struct ring_guest, timer)));
}

static void guest_on_readable(void *arg)
{
    struct ring_guest *g = arg;
    struct ring_door *d = g->door;
    struct ring_ticket ticket;
    ssize_t n = recv(g->fd, &ticket, sizeof(ticket), MSG_DONTWAIT | MSG_TRUNC);
    int fd;

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    fd = guest_release(g);
    if (n == (ssize_t)sizeof(ticket) && ticket.magic == TICKET_MAGIC && ticket.token != 0)
        d->on_guest(d->arg, ticket.session, ticket.token, fd);
    else
        close(fd);
}

static void door_pause(struct ring_door *d)
{
    d->host.unwatch(d->host.ctx, d->watch);
    d->watch = NULL;
    timer_start(d->host.timers, &d->pause, clock_ns() + DOOR_PAUSE_NS);
}

static void door_on_pause_end(struct timer *t)
{
    door_watch(container_of(t, struct ring_door, pause));
}

static void door_on_readable(void *arg)
{
    struct ring_door *d = arg;
    struct ring_guest *g;
    int fd;

    if (d->guest_count >= GUESTS_MAX) {
        door_pause(d);
        return;
    }
    fd = accept4(d->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            door_pause(d);
        return;
    }
    g = calloc(1, sizeof(*g));
    must(g != NULL);
    g->door = d;
    g->fd = fd;
    g->timer.fire = guest_on_timeout;
    list_init(&g->link);
    list_push(&d->guests, &g->link);
    d->guest_count++;
    g->watch = d->host.watch(d->host.ctx, fd, guest_on_readable, g);
    timer_start(d->host.timers, &g->timer, clock_ns() + GUEST_TIMEOUT_NS);
}

static void door_watch(struct ring_door *d)
{
    d->watch = d->host.watch(d->host.ctx, d->fd, door_on_readable, d);
}

/* A name that nobody listens behind is a dead server's; one that answers is in use. */
static bool path_is_free(const struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool is_free = fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0 &&
                   (errno == ECONNREFUSED || errno == ENOENT);

    if (fd >= 0)
        close(fd);
    if (is_free)
        unlink(addr->sun_path);
    return is_free;
}

enum err ring_door_open(const char *path, struct rpc_host host, void *arg,
                        void (*on_guest)(void *arg, uint64_t session, uint64_t token, int fd),
                        struct ring_door **out)
{
    struct sockaddr_un addr;
    struct ring_door *d;
    int fd = seqpacket_socket(path, &addr);

    if (fd < 0)
        return strlen(path) >= sizeof(addr.sun_path) ? ERR_CONF : ERR_IO;
    if (!path_is_free(&addr) || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0 ||
        chmod(path, 0660) != 0 || listen(fd, 64) != 0) {
        close(fd);
        return ERR_IO;
    }
    d = calloc(1, sizeof(*d));
    must(d != NULL);
    *d = (struct ring_door){.host = host, .arg = arg, .on_guest = on_guest, .fd = fd};
    d->pause.fire = door_on_pause_end;
    strcpy(d->path, path);
    list_init(&d->guests);
    door_watch(d);
    *out = d;
    return ERR_OK;
}

void ring_door_close(struct ring_door *d)
{
    if (d == NULL)
        return;
    while (!list_is_empty(&d->guests))
        close(guest_release(container_of(list_first(&d->guests), struct ring_guest, link)));
    if (d->watch != NULL)
        d->host.unwatch(d->host.ctx, d->watch);
    timer_stop(d->host.timers, &d->pause);
    close(d->fd);
    unlink(d->path);
    free(d);
}

static bool send_fds(int socket, int segment, const int bells[BELLS])
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE((1 + BELLS) * sizeof(int))];
    } control = {0};
    char byte = 'R';
    struct iovec iov = {&byte, 1};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = control.bytes,
                       .msg_controllen = sizeof(control.bytes)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN((1 + BELLS) * sizeof(int));
    memcpy(CMSG_DATA(c), &segment, sizeof(int));
    memcpy(CMSG_DATA(c) + sizeof(int), bells, BELLS * sizeof(int));
    return sendmsg(socket, &m, MSG_DONTWAIT | MSG_NOSIGNAL) == 1;
}

enum err ring_link_serve(int fd, uint32_t bytes, struct rpc_host host,
                         const struct ring_link_calls *calls, struct ring_link **out)
{
    int bells[BELLS] = {eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC),
                        eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    struct shm segment;
    enum err e = bells[0] >= 0 && bells[1] >= 0 ? ERR_OK : ERR_IO;

    if (e == ERR_OK)
        e = shm_memfd("slipstream-ring", ring_segment_bytes(bytes), &segment);
    if (e == ERR_OK && !send_fds(fd, segment.fd, bells)) {
        shm_close(&segment);
        e = ERR_IO;
    }
    if (e != ERR_OK) {
        close_all(bells, BELLS);
        close(fd);
        return e;
    }
    *out = link_new(fd, &segment, bytes, bells, true, host, calls);
    return ERR_OK;
}
