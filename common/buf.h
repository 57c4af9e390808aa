/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_BUF_H
#define SLIP_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

/* Growing bytes. Zeroed is a valid empty one. Out of memory is must(). base is not NUL-terminated
 * except after buf_cstr(). */
struct buf {
    char *base;
    size_t len, cap;
};

void buf_fini(struct buf *b);  /* back to empty, memory freed */
void buf_clear(struct buf *b); /* length 0, memory kept */
char *buf_reserve(struct buf *b,
                  size_t more); /* room for more bytes behind len; returns where they go */
void buf_add(struct buf *b, const void *p, size_t n);
void buf_adds(struct buf *b, const char *s);
void buf_add_number(struct buf *b, uint64_t v); /* decimal, without printf */
void buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vaddf(struct buf *b, const char *fmt, va_list ap) __attribute__((format(printf, 2, 0)));
void buf_add_json(struct buf *b, const char *s,
                  size_t n);               /* a quoted, escaped JSON string of n bytes of UTF-8 */
void buf_consume(struct buf *b, size_t n); /* drops the first n bytes */
const char *buf_cstr(struct buf *b);       /* NUL-terminated view, valid until the next change */

#endif
