/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/mailbox/mail.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

#include "bench/load/net.h"
#include "common/clock.h"

void mail_payload(char to[MAIL_BYTES], uint64_t serial)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint64_t x = serial * UINT64_C(0x9E3779B97F4A7C15) + 1;

    to[0] = to[MAIL_BYTES - 1] = '"';
    for (unsigned i = 1; i < MAIL_BYTES - 1; i++) {
        x ^= x << 13; /* xorshift64 */
        x ^= x >> 7;
        x ^= x << 17;
        to[i] = letters[x >> 58];
    }
}

void mail_table(char *to, size_t len, uint64_t serial)
{
    static const char *const words[] = {"draft",  "review", "approved", "chapter",
                                        "figure", "table",  "agent",    "deadline"};
    uint64_t x = serial * UINT64_C(0x9E3779B97F4A7C15) + 1;
    size_t at = 1;
    char row[160];

    to[0] = '[';
    for (;;) {
        int n;

        x ^= x << 13; /* xorshift64 */
        x ^= x >> 7;
        x ^= x << 17;
        n = snprintf(row, sizeof(row),
                     "{\"id\":%lu,\"state\":\"%s\",\"title\":\"%s of the %s\",\"score\":%lu.%lu},",
                     (unsigned long)(x >> 40), words[x >> 8 & 7], words[x >> 16 & 7],
                     words[x >> 24 & 7], (unsigned long)(x & 63), (unsigned long)(x >> 30 & 1023));
        if (at + (size_t)n + 4 > len)
            break;
        memcpy(to + at, row, (size_t)n);
        at += (size_t)n;
    }
    memset(to + at, ' ', len - at);
    to[len - 2] = '0';
    to[len - 1] = ']';
}

void mail_mark(char payload[MAIL_BYTES], uint64_t ns)
{
    payload[1] = '@';
    for (unsigned i = MAIL_MARK; i > 1; i--, ns /= 10)
        payload[i] = (char)('0' + ns % 10);
}

bool mail_find_mark(const char *p, size_t len, uint64_t *ns)
{
    const char *at = memchr(p, '@', len);
    uint64_t v = 0;

    if (at == NULL || (size_t)(p + len - at) < MAIL_MARK)
        return false;
    for (unsigned i = 1; i < MAIL_MARK; i++) {
        if (at[i] < '0' || at[i] > '9')
            return false;
        v = v * 10 + (uint64_t)(at[i] - '0');
    }
    *ns = v;
    return true;
}

/* ---- the window ---- */

void mail_window_start(struct mail_window *w, uint64_t now)
{
    w->begin_ns = now + w->warm_ns;
    w->end_ns = w->begin_ns + w->length_ns;
}

static uint64_t own_cpu_us(void)
{
    struct rusage u;

    getrusage(RUSAGE_SELF, &u);
    return (uint64_t)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1000000u +
           (uint64_t)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

void mail_window_turn(struct mail_window *w, uint64_t now)
{
    if (w->begin_ns == 0 || now < w->begin_ns || w->done)
        return;
    if (!w->measuring) {
        w->measuring = true;
        w->begin_ns = now;
        w->end_ns = now + w->length_ns;
        w->cpu_us = own_cpu_us();
        puts("begin");
        fflush(stdout);
    } else if (now >= w->end_ns) {
        w->end_ns = now;
        w->cpu_us = own_cpu_us() - w->cpu_us;
        w->done = true;
    }
}

void mail_window_add(struct mail_window *w, uint64_t since, uint64_t now)
{
    if (!w->measuring || w->done || since < w->begin_ns)
        return;
    w->count++;
    samples_add(&w->times, now - since);
}

void mail_window_report(struct mail_window *w)
{
    double seconds = (double)(w->end_ns - w->begin_ns) / 1e9;

    double each = w->count > 0 ? (double)w->count : 1;

    samples_sort(&w->times);
    printf("{\"count\":%lu,\"errors\":%lu,\"seconds\":%.3f,\"rate\":%.1f,\"p50_us\":%.1f,"
           "\"p99_us\":%.1f,\"max_us\":%.1f,\"wire_bytes\":%.0f,\"own_us\":%.1f}\n",
           w->count, w->errors, seconds, (double)w->count / seconds, samples_us(&w->times, 0.5),
           samples_us(&w->times, 0.99), samples_us(&w->times, 1), (double)w->wire_bytes / each,
           (double)w->cpu_us / each);
    fflush(stdout);
}

bool mail_window_option(struct mail_window *w, int option, const char *value)
{
    if (option == 'w')
        w->warm_ns = net_number("--warm-ms", value, 0, 600000) * NS_PER_MS;
    else if (option == 'd')
        w->length_ns = net_number("--duration-ms", value, 1, 3600000) * NS_PER_MS;
    else
        return false;
    return true;
}

/* ---- arrivals ---- */

static void arrivals_arm(struct mail_arrivals *a)
{
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)(a->next_ns / NS_PER_S),
                                           .tv_nsec = (long)(a->next_ns % NS_PER_S)}};

    if (timerfd_settime(a->fd, TFD_TIMER_ABSTIME, &spec, NULL) != 0)
        net_die("timerfd_settime");
}

void mail_arrivals_start(struct mail_arrivals *a, uint64_t rate, uint64_t now)
{
    a->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    if (a->fd < 0)
        net_die("timerfd_create");
    a->interval_ns = NS_PER_S / rate;
    a->next_ns = now + a->interval_ns;
    arrivals_arm(a);
}

unsigned mail_arrivals_take(struct mail_arrivals *a, uint64_t now)
{
    unsigned due = 0;

    (void)net_ticks(a->fd);
    for (; a->next_ns <= now; due++)
        a->next_ns += (uint64_t)(-log(1 - erand48(a->random)) * (double)a->interval_ns);
    arrivals_arm(a);
    return due;
}
