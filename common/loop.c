/* SPDX-License-Identifier: Apache-2.0 */
#include "common/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/must.h"

#define EVENTS_PER_TURN 64
#define TURN_ENDS 8
#define SIGNALS 8

struct watch {
    struct list link; /* loop.watches, or loop.dead until the turn ends */
    struct loop *loop;
    void (*on_ready)(void *arg, uint32_t events); /* NULL: unwatched */
    void *arg;
    int fd;
};

struct loop {
    int epoll_fd, signal_fd;
    bool stopped, in_turn;
    struct timers timers;
    struct list watches;
    struct list dead; /* unwatched in this turn: epoll may already have reported them */
    struct watch *signal_watch;
    sigset_t signals;
    unsigned turn_end_count, signal_count;
    struct {
        void (*fn)(void *arg);
        void *arg;
    } turn_ends[TURN_ENDS];
    struct {
        int signo;
        void (*fn)(void *arg, int signo);
        void *arg;
    } on_signal[SIGNALS];
};

struct loop *loop_new(void)
{
    struct loop *l = calloc(1, sizeof(*l));

    must(l != NULL);
    l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    must(l->epoll_fd >= 0);
    l->signal_fd = -1;
    sigemptyset(&l->signals);
    timers_init(&l->timers);
    list_init(&l->watches);
    list_init(&l->dead);
    return l;
}

static void free_all(struct list *watches)
{
    struct list *n;

    while ((n = list_take(watches)) != NULL)
        free(container_of(n, struct watch, link));
}

void loop_free(struct loop *l)
{
    if (l == NULL)
        return;
    free_all(&l->watches);
    free_all(&l->dead);
    timers_fini(&l->timers);
    if (l->signal_fd >= 0)
        close(l->signal_fd);
    close(l->epoll_fd);
    free(l);
}

struct watch *loop_watch(struct loop *l, int fd, uint32_t events,
                         void (*on_ready)(void *arg, uint32_t events), void *arg)
{
    struct watch *w = calloc(1, sizeof(*w));
    struct epoll_event ev = {.events = events, .data.ptr = w};

    must(w != NULL && on_ready != NULL);
    *w = (struct watch){.loop = l, .fd = fd, .on_ready = on_ready, .arg = arg};
    must(epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0);
    list_init(&w->link);
    list_push(&l->watches, &w->link);
    return w;
}

void loop_rewatch(struct watch *w, uint32_t events)
{
    struct epoll_event ev = {.events = events, .data.ptr = w};

    must(epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) == 0);
}

void loop_unwatch(struct watch *w)
{
    if (w == NULL)
        return;
    /* Fails when the owner has closed the descriptor already; epoll has forgotten it then. */
    epoll_ctl(w->loop->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
    w->on_ready = NULL;
    list_remove(&w->link);
    if (w->loop->in_turn)
        list_push(&w->loop->dead, &w->link);
    else
        free(w);
}

struct timers *loop_timers(struct loop *l)
{
    return &l->timers;
}

void loop_at_turn_end(struct loop *l, void (*fn)(void *arg), void *arg)
{
    must(l->turn_end_count < TURN_ENDS);
    l->turn_ends[l->turn_end_count].fn = fn;
    l->turn_ends[l->turn_end_count++].arg = arg;
}

static void on_signal_ready(void *arg, uint32_t events)
{
    struct loop *l = arg;
    struct signalfd_siginfo info;
    unsigned i;

    (void)events;
    while (read(l->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        for (i = 0; i < l->signal_count; i++)
            if (l->on_signal[i].signo == (int)info.ssi_signo)
                l->on_signal[i].fn(l->on_signal[i].arg, (int)info.ssi_signo);
}

void loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg)
{
    must(l->signal_count < SIGNALS);
    l->on_signal[l->signal_count].signo = signo;
    l->on_signal[l->signal_count].fn = fn;
    l->on_signal[l->signal_count++].arg = arg;
    sigaddset(&l->signals, signo);
    must(pthread_sigmask(SIG_BLOCK, &l->signals, NULL) == 0);
    l->signal_fd = signalfd(l->signal_fd, &l->signals, SFD_NONBLOCK | SFD_CLOEXEC);
    must(l->signal_fd >= 0);
    if (l->signal_watch == NULL)
        l->signal_watch = loop_watch(l, l->signal_fd, EPOLLIN, on_signal_ready, l);
}

static int wait_ms(const struct loop *l, int max_wait_ms)
{
    uint64_t next = timers_next(&l->timers), now, ms;

    if (next == UINT64_MAX)
        return max_wait_ms;
    now = clock_ns();
    ms = next <= now ? 0 : (next - now + NS_PER_MS - 1) / NS_PER_MS;
    if (max_wait_ms >= 0 && ms > (uint64_t)max_wait_ms)
        return max_wait_ms;
    return ms > 3600000 ? 3600000 : (int)ms;
}

void loop_turn(struct loop *l, int max_wait_ms)
{
    struct epoll_event events[EVENTS_PER_TURN];
    int n, i;
    unsigned k;

    n = epoll_wait(l->epoll_fd, events, EVENTS_PER_TURN, wait_ms(l, max_wait_ms));
    must(n >= 0 || errno == EINTR);
    l->in_turn = true;
    for (i = 0; i < n; i++) {
        struct watch *w = events[i].data.ptr;

        if (w->on_ready != NULL)
            w->on_ready(w->arg, events[i].events);
    }
    if (timers_next(&l->timers) != UINT64_MAX)
        timers_run(&l->timers, clock_ns());
    for (k = 0; k < l->turn_end_count; k++)
        l->turn_ends[k].fn(l->turn_ends[k].arg);
    l->in_turn = false;
    free_all(&l->dead);
}

void loop_run(struct loop *l)
{
    while (!l->stopped)
        loop_turn(l, -1);
    l->stopped = false;
}

void loop_stop(struct loop *l)
{
    l->stopped = true;
}

int loop_fd(const struct loop *l)
{
    return l->epoll_fd;
}

int loop_wait_ms(const struct loop *l)
{
    return wait_ms(l, -1);
}
