/* SPDX-License-Identifier: Apache-2.0 */
#include "common/rpc_frame.h"

#include <string.h>

#include "common/codec.h"
#include "common/must.h"
#include "common/pb.h"

#define TAG(field, kind) ((uint8_t)((field) << 3 | (kind)))

static bool parse_call(struct pb_reader r, struct frame_call *call)
{
    struct pb_field f;

    *call = (struct frame_call){.body = r.at};
    while (r.at < r.end) {
        if (!pb_read_field(&r, &f))
            return false;
        if (f.number == 1 && f.kind == PB_32)
            call->id = (uint32_t)f.value;
        else if (f.number == 2 && f.kind == PB_VARINT)
            call->method = (uint32_t)f.value;
        else if (f.number == 3 && f.kind == PB_VARINT)
            call->status = (uint32_t)f.value;
        else if (f.number == 4 && f.kind == PB_VARINT)
            call->timeout_ms = (uint32_t)f.value;
        else if (f.number == 5 && f.kind == PB_BYTES) {
            call->body = f.span.at;
            call->len = (size_t)(f.span.end - f.span.at);
        } else if (f.number == 6 && f.kind == PB_64)
            call->event = f.value;
        else if (f.number <= 6)
            return false; /* a known field of another kind */
    }
    return true;
}

enum err frame_open(struct frame_reader *r, const uint8_t *p, size_t len, struct frame_head *head)
{
    struct pb_reader scan = {p, p + len};
    struct frame_head h = {0};
    struct frame_call call;
    struct pb_field f;
    unsigned calls = 0;

    while (scan.at < scan.end) {
        if (!pb_read_field(&scan, &f))
            return ERR_PROTO;
        if (f.number == 1 && f.kind == PB_VARINT)
            h.proto = (uint32_t)f.value;
        else if (f.number == 2 && f.kind == PB_64)
            h.epoch = f.value;
        else if (f.number == 3 && f.kind == PB_64)
            h.seq = f.value;
        else if (f.number == 4 && f.kind == PB_BYTES) {
            if (++calls > FRAME_CALLS_MAX || !parse_call(f.span, &call))
                return ERR_PROTO;
        } else if (f.number <= 4)
            return ERR_PROTO;
    }
    *head = h;
    *r = (struct frame_reader){{p, p + len}};
    return ERR_OK;
}

bool frame_next(struct frame_reader *r, struct frame_call *call)
{
    struct pb_field f;

    while (r->in.at < r->in.end && pb_read_field(&r->in, &f))
        if (f.number == 4)
            return parse_call(f.span, call);
    return false;
}

static uint8_t *put_field(uint8_t *p, unsigned number, uint64_t v)
{
    if (v == 0)
        return p;
    *p++ = TAG(number, PB_VARINT);
    return pb_put_varint(p, v);
}

void frame_write_head(uint8_t to[FRAME_HEAD_BYTES], const struct frame_head *head)
{
    must(head->proto < 0x80);
    *to++ = TAG(1, PB_VARINT);
    *to++ = (uint8_t)head->proto;
    *to++ = TAG(2, PB_64);
    to = pb_put_fixed(to, head->epoch, 8);
    *to++ = TAG(3, PB_64);
    pb_put_fixed(to, head->seq, 8);
}

static uint8_t *put_call_head(uint8_t *p, const struct frame_call *call)
{
    /* id first, always: frame_peek() and a reader of a dump find it at once. */
    *p++ = TAG(1, PB_32);
    p = pb_put_fixed(p, call->id, 4);
    p = put_field(p, 2, call->method);
    p = put_field(p, 3, call->status);
    p = put_field(p, 4, call->timeout_ms);
    if (call->event != 0) {
        *p++ = TAG(6, PB_64);
        p = pb_put_fixed(p, call->event, 8);
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
    all = fixed + (body > 0 ? 1 + pb_varint_size(body) + body : 0);
    front = 1 + pb_varint_size(all) + all - body;
    buf_reserve(to, FRAME_CALL_HEAD_MAX); /* lengths of more bytes push it back */
    out = (uint8_t *)to->base + start;
    if (front != guess && body > 0)
        memmove(out + front, out + guess, body);
    *out++ = TAG(4, PB_BYTES);
    out = pb_put_varint(out, all);
    memcpy(out, head, fixed);
    out += fixed;
    if (body > 0) {
        *out++ = TAG(5, PB_BYTES);
        pb_put_varint(out, body);
    }
    to->len = start + front + body;
}

static size_t entry_size(const uint8_t *calls, size_t len, struct pb_field *f)
{
    struct pb_reader r = {calls, calls + len};

    must(pb_read_field(&r, f) && f->number == 4 && f->kind == PB_BYTES);
    return (size_t)(r.at - calls);
}

size_t frame_cut(const uint8_t *calls, size_t len, size_t max)
{
    size_t at = 0;
    unsigned count = 0;
    struct pb_field f;

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
    struct pb_field f;
    size_t n = entry_size(calls, len, &f);

    must(parse_call(f.span, call));
    return n;
}
