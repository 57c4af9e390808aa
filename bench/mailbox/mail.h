/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BENCH_MAIL_H
#define SLIP_BENCH_MAIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bench/load/samples.h"

/* What the drivers of mailboxes and of their peers share: the same payloads, the same window, the
 * same instants of sending for everybody. */

#define MAIL_BYTES 1024u /* of a payload */
#define MAIL_MARK 21u    /* @ and 20 digits */

/* A JSON string of MAIL_BYTES bytes, quotes included, that no compressor makes smaller. */
void mail_payload(char to[MAIL_BYTES], uint64_t serial);
/* Writes the time into a payload, and finds it in whatever it was packed into. */
void mail_mark(char payload[MAIL_BYTES], uint64_t ns);
bool mail_find_mark(const char *p, size_t len, uint64_t *ns);

/* JSON of len bytes in rows, as agents hand tables to each other, that lz4 makes a third. */
void mail_table(char *to, size_t len, uint64_t serial);

/* The measured part of a run. "begin" is printed when it opens. */
struct mail_window {
    uint64_t warm_ns, length_ns;
    uint64_t begin_ns, end_ns;
    bool measuring, done;
    unsigned long count, errors;
    uint64_t
        wire_bytes;  /* of what was counted: bodies of calls and answers, where a driver knows */
    uint64_t cpu_us; /* of this process, when it opened; later: since */
    struct samples times;
};

void mail_window_start(struct mail_window *w, uint64_t now);
void mail_window_turn(struct mail_window *w, uint64_t now);
/* Something that began at since came to its end. Counts only what began inside the window. */
void mail_window_add(struct mail_window *w, uint64_t since, uint64_t now);
void mail_window_report(struct mail_window *w); /* one JSON object */
/* Options that every driver has: --warm-ms, --duration-ms. False: not one of them. */
bool mail_window_option(struct mail_window *w, int option, const char *value);
#define MAIL_WINDOW_OPTIONS                         \
    {"warm-ms", required_argument, NULL, 'w'},      \
    {                                               \
        "duration-ms", required_argument, NULL, 'd' \
    }

/* Poisson arrivals of a fixed seed. The descriptor is readable when something is due. */
struct mail_arrivals {
    int fd;
    uint64_t interval_ns, next_ns;
    unsigned short random[3];
};

void mail_arrivals_start(struct mail_arrivals *a, uint64_t rate, uint64_t now);
unsigned mail_arrivals_take(struct mail_arrivals *a, uint64_t now);

#endif
