/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_PB_H
#define SLIP_PB_H

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/*
 * The wire format of protobuf, below any schema (protobuf.dev/programming-guides/encoding): numbers
 * of seven bits a byte, little-endian words, spans with their length in front, and a tag before
 * each. Pure; readers never leave [at, end) and take nothing on failure that the caller may use.
 */
enum pb_kind { PB_VARINT = 0, PB_64 = 1, PB_BYTES = 2, PB_32 = 5 };

#define PB_VARINT_MAX 10u /* bytes of the longest number */

struct pb_reader {
    const uint8_t *at, *end;
};

struct pb_field {
    uint32_t number; /* 1 .. 2^29 - 1 */
    enum pb_kind kind;
    uint64_t value;        /* PB_VARINT, PB_64, PB_32; else 0 */
    struct pb_reader span; /* PB_BYTES, inside what was read; else empty */
};

bool pb_read_long(struct pb_reader *r, uint64_t *out);

/* False: it ends too early or takes more than ten bytes. */
static inline bool pb_read_varint(struct pb_reader *r, uint64_t *out)
{
    if (r->at < r->end && *r->at < 0x80) {
        *out = *r->at++;
        return true;
    }
    return pb_read_long(r, out);
}

/* n: 4 or 8 bytes. */
static inline bool pb_read_fixed(struct pb_reader *r, size_t n, uint64_t *out)
{
    uint32_t low, high;

    if ((size_t)(r->end - r->at) < n)
        return false;
    memcpy(&low, r->at, sizeof(low));
    *out = le32toh(low);
    if (n == 8) {
        memcpy(&high, r->at + 4, sizeof(high));
        *out |= (uint64_t)le32toh(high) << 32;
    }
    r->at += n;
    return true;
}

static inline bool pb_read_number(struct pb_reader *r, enum pb_kind kind, uint64_t *out)
{
    return kind == PB_VARINT ? pb_read_varint(r, out)
                             : pb_read_fixed(r, kind == PB_64 ? 8 : 4, out);
}

static inline bool pb_read_span(struct pb_reader *r, struct pb_reader *span)
{
    uint64_t len;

    if (!pb_read_varint(r, &len) || len > (uint64_t)(r->end - r->at))
        return false;
    *span = (struct pb_reader){r->at, r->at + len};
    r->at += len;
    return true;
}

/* A tag; the kind is one of the four only where the caller, or what follows, says so. */
static inline bool pb_read_tag(struct pb_reader *r, uint32_t *number, enum pb_kind *kind)
{
    uint64_t tag;

    if (!pb_read_varint(r, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
        return false;
    *number = (uint32_t)tag >> 3;
    *kind = (enum pb_kind)(tag & 7);
    return true;
}

/* The next field whole; false where it is damaged or a group. Not for the end: r->at < r->end. */
static inline bool pb_read_field(struct pb_reader *r, struct pb_field *f)
{
    if (!pb_read_tag(r, &f->number, &f->kind))
        return false;
    f->value = 0;
    f->span = (struct pb_reader){r->at, r->at};
    switch (f->kind) {
    case PB_VARINT:
    case PB_64:
    case PB_32:
        return pb_read_number(r, f->kind, &f->value);
    case PB_BYTES:
        return pb_read_span(r, &f->span);
    }
    return false;
}

/* Writers return the place behind what they wrote: at most PB_VARINT_MAX bytes, or n. */
static inline uint8_t *pb_put_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

/* n: 4 or 8 bytes. */
static inline uint8_t *pb_put_fixed(uint8_t *p, uint64_t v, size_t n)
{
    uint64_t little = htole64(v);

    memcpy(p, &little, n);
    return p + n;
}

static inline uint8_t *pb_put_tag(uint8_t *p, uint32_t number, enum pb_kind kind)
{
    return pb_put_varint(p, (uint64_t)number << 3 | kind);
}

static inline size_t pb_varint_size(uint64_t v)
{
    size_t n = 1;

    while (v >>= 7)
        n++;
    return n;
}

#endif
