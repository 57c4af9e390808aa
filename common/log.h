/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_LOG_H
#define SLIP_LOG_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Structured lines on stderr, one write(2) each:
 *
 *   2026-11-23T12:00:00.123Z info gateway-1 request_end id=... status=200 reason="..."
 *
 * event is a fixed word; the rest is key=value, made by a printf format. Any thread may log. Values
 * that came from outside go through log_quote(). Libraries do not log; the place that decides what
 * to do does, once.
 */
enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };

void log_init(const char *process, enum log_level level);
void log_set_level(enum log_level level);
bool log_is_on(enum log_level level);
void log_line(enum log_level level, const char *event, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Copies s (len bytes) into dst as a quoted, escaped, cut-to-fit word; returns dst. */
const char *log_quote(char *dst, size_t dst_size, const char *s, size_t len);

#define log_error(event, ...) log_line(LOG_LEVEL_ERROR, event, __VA_ARGS__)
#define log_warn(event, ...) log_line(LOG_LEVEL_WARN, event, __VA_ARGS__)
#define log_info(event, ...) log_line(LOG_LEVEL_INFO, event, __VA_ARGS__)
#define log_debug(event, ...)                              \
    do {                                                   \
        if (log_is_on(LOG_LEVEL_DEBUG))                    \
            log_line(LOG_LEVEL_DEBUG, event, __VA_ARGS__); \
    } while (0)

#endif
