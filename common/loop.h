/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_LOOP_H
#define SLIP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "common/timers.h"

/*
 * The small epoll loop of scheduler, mailbox and the command line tools (gateways run on h2o's
 * loop). One thread. Descriptors, timers and signals call back; nothing is called from inside the
 * call that registered it.
 */
struct loop;
struct watch;

struct loop *loop_new(void);
void loop_free(struct loop *l);

/* Level-triggered. events: EPOLLIN | EPOLLOUT. The watch ends with unwatch, also from inside any
 * callback. */
struct watch *loop_watch(struct loop *l, int fd, uint32_t events,
                         void (*on_ready)(void *arg, uint32_t events), void *arg);
void loop_rewatch(struct watch *w, uint32_t events);
void loop_unwatch(struct watch *w);

struct timers *loop_timers(struct loop *l);
/* Called at the end of each turn, before sleeping (flushes of batched work). At most 8. */
void loop_at_turn_end(struct loop *l, void (*fn)(void *arg), void *arg);
/* Signals are blocked and read from a signalfd. Call before any thread starts. */
void loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg);
void loop_run(struct loop *l);                   /* until loop_stop() */
void loop_turn(struct loop *l, int max_wait_ms); /* one turn; tests */
void loop_stop(struct loop *l);
/* For owners whose own loop says when to turn: readable when a turn has something to do, and the
 * time until a timer is due (-1: none, never more than an hour). */
int loop_fd(const struct loop *l);
int loop_wait_ms(const struct loop *l);

#endif
