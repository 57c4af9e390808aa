/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_frame.h"

#include <endian.h>
#include <string.h>

#include "common/codec.h"
#include "common/must.h"

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

#define TAG(field, wire) ((uint8_t)((field) << 3 | (wire)))

struct field {
    uint32_t number;
    enum wire wire;
    uint64_t value; /* of the three fixed kinds */
    const uint8_t *bytes;
    size_t len;
};

static bool read_long_varint(struct frame_reader *r, uint64_t *out)
{
    uint64_t v = 0;
    unsigned shift;

    for (shift = 0; shift < 64 && r->at < r->end; shift += 7) {
        uint8_t b = *r->at++;

        v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) {
            *out = v;
            return true;
        }
    }
    return false;
}

static inline bool read_varint(struct frame_reader *r, uint64_t *out)
{
    if (r->at < r->end && *r->at < 0x80) {
        *out = *r->at++;
        return true;
    }
    return read_long_varint(r, out);
}

static inline bool read_fixed(struct frame_reader *r, size_t n, uint64_t *out)
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

static inline bool read_bytes(struct frame_reader *r, struct field *f)
{
    uint64_t len;

    if (!read_varint(r, &len) || len > (uint64_t)(r->end - r->at))
        return false;
    f->bytes = r->at;
    f->len = (size_t)len;
    r->at += len;
    return true;
}

static inline bool read_field(struct frame_reader *r, struct field *f)
{
    uint64_t tag;

    if (!read_varint(r, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff)
        return false;
    f->number = (uint32_t)(tag >> 3);
    f->wire = (enum wire)(tag & 7);
    switch (f->wire) {
    case WIRE_VARINT:
        return read_varint(r, &f->value);
    case WIRE_64:
        return read_fixed(r, 8, &f->value);
    case WIRE_BYTES:
        return read_bytes(r, f);
    case WIRE_32:
        return read_fixed(r, 4, &f->value);
    }
    return false; /* groups and what is not defined */
}

static bool parse_call(const uint8_t *p, size_t len, struct frame_call *call)
{
    struct frame_reader r = {p, p + len};
    struct field f;

    *call = (struct frame_call){.body = p};
    while (r.at < r.end) {
        if (!read_field(&r, &f))
            return false;
        if (f.number == 1 && f.wire == WIRE_32)
            call->id = (uint32_t)f.value;
        else if (f.number == 2 && f.wire == WIRE_VARINT)
            call->method = (uint32_t)f.value;
        else if (f.number == 3 && f.wire == WIRE_VARINT)
            call->status = (uint32_t)f.value;
        else if (f.number == 4 && f.wire == WIRE_VARINT)
            call->timeout_ms = (uint32_t)f.value;
        else if (f.number == 5 && f.wire == WIRE_BYTES) {
            call->body = f.bytes;
            call->len = f.len;
        } else if (f.number == 6 && f.wire == WIRE_64)
            call->event = f.value;
        else if (f.number <= 6)
            return false; /* a known field of another kind */
    }
    return true;
}

enum err frame_open(struct frame_reader *r, const uint8_t *p, size_t len, struct frame_head *head)
{
    struct frame_reader scan = {p, p + len};
    struct frame_head h = {0};
    struct frame_call call;
    struct field f;
    unsigned calls = 0;

    while (scan.at < scan.end) {
        if (!read_field(&scan, &f))
            return ERR_PROTO;
        if (f.number == 1 && f.wire == WIRE_VARINT)
            h.proto = (uint32_t)f.value;
        else if (f.number == 2 && f.wire == WIRE_64)
            h.epoch = f.value;
        else if (f.number == 3 && f.wire == WIRE_64)
            h.seq = f.value;
        else if (f.number == 4 && f.wire == WIRE_BYTES) {
            if (++calls > FRAME_CALLS_MAX || !parse_call(f.bytes, f.len, &call))
                return ERR_PROTO;
        } else if (f.number <= 4)
            return ERR_PROTO;
    }
    *head = h;
    *r = (struct frame_reader){p, p + len};
    return ERR_OK;
}

bool frame_next(struct frame_reader *r, struct frame_call *call)
{
    struct field f;

    while (r->at < r->end && read_field(r, &f))
        if (f.number == 4)
            return parse_call(f.bytes, f.len, call);
    return false;
}

static uint8_t *put_varint(uint8_t *p, uint64_t v)
{
    while (v >= 0x80) {
        *p++ = (uint8_t)(v | 0x80);
        v >>= 7;
    }
    *p++ = (uint8_t)v;
    return p;
}

static uint8_t *put_fixed(uint8_t *p, uint64_t v, size_t n)
{
    uint64_t little = htole64(v);

    memcpy(p, &little, n);
    return p + n;
}

static uint8_t *put_field(uint8_t *p, unsigned number, uint64_t v)
{
    if (v == 0)
        return p;
    *p++ = TAG(number, WIRE_VARINT);
    return put_varint(p, v);
}

void frame_write_head(uint8_t to[FRAME_HEAD_BYTES], const struct frame_head *head)
{
    must(head->proto < 0x80);
    *to++ = TAG(1, WIRE_VARINT);
    *to++ = (uint8_t)head->proto;
    *to++ = TAG(2, WIRE_64);
    to = put_fixed(to, head->epoch, 8);
    *to++ = TAG(3, WIRE_64);
    put_fixed(to, head->seq, 8);
}

static size_t varint_size(uint64_t v)
{
    size_t n = 1;

    while (v >>= 7)
        n++;
    return n;
}

static uint8_t *put_call_head(uint8_t *p, const struct frame_call *call)
{
    /* id first, always: frame_peek() and a reader of a dump find it at once. */
    *p++ = TAG(1, WIRE_32);
    p = put_fixed(p, call->id, 4);
    p = put_field(p, 2, call->method);
    p = put_field(p, 3, call->status);
    p = put_field(p, 4, call->timeout_ms);
    if (call->event != 0) {
        *p++ = TAG(6, WIRE_64);
        p = put_fixed(p, call->event, 8);
    }
    return p;
}

void frame_add_call(struct buf *to, const struct frame_call *call, const ProtobufCMessage *message)
{
    uint8_t head[FRAME_CALL_HEAD_MAX], *out;
    size_t fixed = (size_t)(put_call_head(head, call) - head), start = to->len, all, body, front;
    /* The body first, where it will lie if its length takes two bytes, as most do. */
    size_t guess = 1 + 2 + fixed + 1 + 2;

    buf_reserve(to, guess + FRAME_CALL_HEAD_MAX + (message != NULL ? 0 : call->len));
    to->len = start + guess;
    if (message != NULL)
        codec_pack(to, message);
    else
        buf_add(to, call->body, call->len);
    body = to->len - start - guess;
    all = fixed + (body > 0 ? 1 + varint_size(body) + body : 0);
    front = 1 + varint_size(all) + all - body;
    buf_reserve(to, FRAME_CALL_HEAD_MAX); /* lengths of more bytes push it back */
    out = (uint8_t *)to->base + start;
    if (front != guess && body > 0)
        memmove(out + front, out + guess, body);
    *out++ = TAG(4, WIRE_BYTES);
    out = put_varint(out, all);
    memcpy(out, head, fixed);
    out += fixed;
    if (body > 0) {
        *out++ = TAG(5, WIRE_BYTES);
        put_varint(out, body);
    }
    to->len = start + front + body;
}

static size_t entry_size(const uint8_t *calls, size_t len, struct field *f)
{
    struct frame_reader r = {calls, calls + len};

    must(read_field(&r, f) && f->number == 4 && f->wire == WIRE_BYTES);
    return (size_t)(r.at - calls);
}

size_t frame_cut(const uint8_t *calls, size_t len, size_t max)
{
    size_t at = 0;
    unsigned count = 0;
    struct field f;

    max -= FRAME_HEAD_BYTES;
    if (len <= max && len / 7 <= FRAME_CALLS_MAX) /* a call takes at least 7 bytes */
        return len;
    while (at < len && count < FRAME_CALLS_MAX) {
        size_t n = entry_size(calls + at, len - at, &f);

        if (at + n > max && at > 0)
            break;
        at += n;
        count++;
    }
    return at;
}

size_t frame_peek(const uint8_t *calls, size_t len, struct frame_call *call)
{
    struct field f;
    size_t n = entry_size(calls, len, &f);

    must(parse_call(f.bytes, f.len, call));
    return n;
}
