/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BENCH_NET_H
#define SLIP_BENCH_NET_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/* What the load generators share. Every function ends the program with a line on stderr when the
 * system refuses: a load generator has nobody to return an error to. */

_Noreturn void net_die(const char *what);

/* A non-blocking socket that listens on 127.0.0.1. */
int net_listen(uint16_t port);

/* A non-blocking socket whose connect to 127.0.0.1 has begun; TCP_NODELAY. */
int net_dial(uint16_t port);

/* Descriptors up to the hard limit. */
void net_raise_limit(void);

/* A timer that becomes readable every period_ns, the first time after one period. */
int net_ticker(uint64_t period_ns);

/* How often it fired since the last call; 0 when it did not. */
uint64_t net_ticks(int fd);

/* A whole file. */
void net_read_file(const char *path, struct buf *out);

/* What follows the colon of a header in a head of len bytes, or NULL. */
const char *net_header(const char *head, size_t len, const char *name);

/* Number of an option, between low and high. */
uint64_t net_number(const char *name, const char *text, uint64_t low, uint64_t high);

#endif
