/* SPDX-License-Identifier: Apache-2.0 */
#include "common/codec.h"

#include <string.h>

#include "common/must.h"
#include "common/pb.h"

#define SCALAR_MAX 16u /* a tag and a number */

/* ---- out ---- */

static uint8_t *room(struct buf *to, size_t more)
{
    if (to->cap - to->len < more)
        buf_reserve(to, more);
    return (uint8_t *)to->base + to->len;
}

static void end_at(struct buf *to, const uint8_t *p)
{
    to->len = (size_t)(p - (uint8_t *)to->base);
}

static const struct kind {
    uint8_t wire, size; /* enum pb_kind; bytes in memory */
} kinds[] = {
    [PROTOBUF_C_TYPE_INT32] = {PB_VARINT, 4},
    [PROTOBUF_C_TYPE_SINT32] = {PB_VARINT, 4},
    [PROTOBUF_C_TYPE_SFIXED32] = {PB_32, 4},
    [PROTOBUF_C_TYPE_INT64] = {PB_VARINT, 8},
    [PROTOBUF_C_TYPE_SINT64] = {PB_VARINT, 8},
    [PROTOBUF_C_TYPE_SFIXED64] = {PB_64, 8},
    [PROTOBUF_C_TYPE_UINT32] = {PB_VARINT, 4},
    [PROTOBUF_C_TYPE_FIXED32] = {PB_32, 4},
    [PROTOBUF_C_TYPE_UINT64] = {PB_VARINT, 8},
    [PROTOBUF_C_TYPE_FIXED64] = {PB_64, 8},
    [PROTOBUF_C_TYPE_FLOAT] = {PB_32, 4},
    [PROTOBUF_C_TYPE_DOUBLE] = {PB_64, 8},
    [PROTOBUF_C_TYPE_BOOL] = {PB_VARINT, sizeof(protobuf_c_boolean)},
    [PROTOBUF_C_TYPE_ENUM] = {PB_VARINT, 4},
    [PROTOBUF_C_TYPE_STRING] = {PB_BYTES, sizeof(char *)},
    [PROTOBUF_C_TYPE_BYTES] = {PB_BYTES, sizeof(ProtobufCBinaryData)},
    [PROTOBUF_C_TYPE_MESSAGE] = {PB_BYTES, sizeof(void *)},
};

static inline enum pb_kind wire_of(ProtobufCType type)
{
    return (enum pb_kind)kinds[type].wire;
}

static inline size_t size_of(ProtobufCType type)
{
    return kinds[type].size;
}

/* A number in memory as it stands on the wire. */
static uint64_t number_load(ProtobufCType type, const void *at)
{
    uint32_t v32;
    uint64_t v64;

    if (size_of(type) == 8) {
        memcpy(&v64, at, sizeof(v64));
        return type == PROTOBUF_C_TYPE_SINT64 ? v64 << 1 ^ (0 - (v64 >> 63)) : v64;
    }
    memcpy(&v32, at, sizeof(v32));
    switch ((int)type) {
    case PROTOBUF_C_TYPE_BOOL:
        return v32 != 0;
    case PROTOBUF_C_TYPE_SINT32:
        return v32 << 1 ^ (0 - (v32 >> 31));
    case PROTOBUF_C_TYPE_INT32:
    case PROTOBUF_C_TYPE_ENUM:
        return (uint64_t)(int64_t)(int32_t)v32;
    default:
        return v32;
    }
}

static bool is_negative_zero(ProtobufCType type, uint64_t v)
{
    return (type == PROTOBUF_C_TYPE_DOUBLE && v == UINT64_C(1) << 63) ||
           (type == PROTOBUF_C_TYPE_FLOAT && v == UINT64_C(1) << 31);
}

static uint8_t *put_number(uint8_t *p, enum pb_kind wire, uint64_t v)
{
    return wire == PB_VARINT ? pb_put_varint(p, v) : pb_put_fixed(p, v, wire == PB_64 ? 8 : 4);
}

static void pack_bytes(struct buf *to, uint32_t number, const void *bytes, size_t len)
{
    uint8_t *p = pb_put_tag(room(to, SCALAR_MAX + len), number, PB_BYTES);

    p = pb_put_varint(p, len);
    if (len > 0)
        memcpy(p, bytes, len);
    end_at(to, p + len);
}

/* What was packed since start becomes one field: one byte was left for its length. */
static void length_set(struct buf *to, size_t start)
{
    size_t len = to->len - start, more = 0;
    uint8_t bytes[10], *at;

    while (len >> 7 * (more + 1) != 0)
        more++;
    if (more > 0)
        room(to, more);
    at = (uint8_t *)to->base + start;
    if (more > 0)
        memmove(at + more, at, len);
    pb_put_varint(bytes, len);
    memcpy(at - 1, bytes, more + 1);
    to->len += more;
}

static size_t length_leave(struct buf *to, uint32_t number)
{
    uint8_t *p = pb_put_tag(room(to, SCALAR_MAX), number, PB_BYTES);

    end_at(to, p + 1);
    return to->len;
}

static void pack_message(struct buf *to, uint32_t number, const ProtobufCMessage *m)
{
    size_t start = length_leave(to, number);

    codec_pack(to, m);
    length_set(to, start);
}

static void pack_packed(struct buf *to, const ProtobufCFieldDescriptor *f, const uint8_t *items,
                        size_t count)
{
    enum pb_kind wire = wire_of(f->type);
    size_t start = length_leave(to, f->id), size = size_of(f->type);
    uint8_t *p = room(to, count * SCALAR_MAX);

    for (size_t i = 0; i < count; i++)
        p = put_number(p, wire, number_load(f->type, items + i * size));
    end_at(to, p);
    length_set(to, start);
}

static void pack_repeated(struct buf *to, const ProtobufCFieldDescriptor *f,
                          const ProtobufCMessage *m)
{
    const uint8_t *base = (const uint8_t *)m, *items;
    const ProtobufCBinaryData *data;
    size_t count;

    memcpy(&count, base + f->quantifier_offset, sizeof(count));
    if (count == 0)
        return;
    memcpy(&items, base + f->offset, sizeof(items));
    if ((f->flags & PROTOBUF_C_FIELD_FLAG_PACKED) != 0) {
        pack_packed(to, f, items, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const void *item = items + i * size_of(f->type);

        if (f->type == PROTOBUF_C_TYPE_STRING) {
            const char *s = *(const char *const *)item;

            pack_bytes(to, f->id, s, s != NULL ? strlen(s) : 0);
        } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
            pack_message(to, f->id, *(const ProtobufCMessage *const *)item);
        } else if (f->type == PROTOBUF_C_TYPE_BYTES) {
            data = item;
            pack_bytes(to, f->id, data->data, data->len);
        } else {
            uint8_t *p = pb_put_tag(room(to, SCALAR_MAX), f->id, wire_of(f->type));

            end_at(to, put_number(p, wire_of(f->type), number_load(f->type, item)));
        }
    }
}

static void pack_single(struct buf *to, const ProtobufCFieldDescriptor *f, const void *at)
{
    const ProtobufCMessage *sub;
    const ProtobufCBinaryData *data;
    const char *s;
    uint64_t v;

    if (f->type == PROTOBUF_C_TYPE_STRING) {
        s = *(const char *const *)at;
        if (s != NULL && *s != '\0')
            pack_bytes(to, f->id, s, strlen(s));
    } else if (f->type == PROTOBUF_C_TYPE_MESSAGE) {
        sub = *(const ProtobufCMessage *const *)at;
        if (sub != NULL)
            pack_message(to, f->id, sub);
    } else if (f->type == PROTOBUF_C_TYPE_BYTES) {
        data = at;
        if (data->len > 0)
            pack_bytes(to, f->id, data->data, data->len);
    } else {
        v = number_load(f->type, at);
        if (v != 0 && !is_negative_zero(f->type, v)) {
            uint8_t *p = pb_put_tag(room(to, SCALAR_MAX), f->id, wire_of(f->type));

            end_at(to, put_number(p, wire_of(f->type), v));
        }
    }
}

void codec_pack(struct buf *to, const ProtobufCMessage *m)
{
    const ProtobufCMessageDescriptor *type = m->descriptor;

    for (unsigned i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &type->fields[i];

        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            pack_repeated(to, f, m);
        } else {
            must(f->label == PROTOBUF_C_LABEL_NONE || f->type == PROTOBUF_C_TYPE_MESSAGE);
            pack_single(to, f, (const uint8_t *)m + f->offset);
        }
    }
}

/* ---- in ---- */

static void number_store(ProtobufCType type, void *at, uint64_t v)
{
    uint32_t v32 = (uint32_t)v;

    if (type == PROTOBUF_C_TYPE_SINT64)
        v = v >> 1 ^ (0 - (v & 1));
    if (type == PROTOBUF_C_TYPE_SINT32)
        v32 = v32 >> 1 ^ (0 - (v32 & 1));
    if (type == PROTOBUF_C_TYPE_BOOL)
        v32 = v != 0;
    if (size_of(type) == 8)
        memcpy(at, &v, sizeof(v));
    else
        memcpy(at, &v32, sizeof(v32));
}

static size_t power_from(size_t n) /* the first power of two that is not smaller */
{
    size_t p = 1;

    while (p < n)
        p *= 2;
    return p;
}

/* More places at the end of a repeated field, whose room is always a power of two; NULL: the arena
 * is full. */
static void *place_add(const ProtobufCFieldDescriptor *f, ProtobufCMessage *m, struct arena *memory,
                       size_t more)
{
    uint8_t *base = (uint8_t *)m, *items, *bigger;
    size_t count, cap, size = size_of(f->type);

    memcpy(&count, base + f->quantifier_offset, sizeof(count));
    memcpy(&items, base + f->offset, sizeof(items));
    if (more > memory->size)
        return NULL;
    cap = power_from(count + more);
    if (count == 0 || cap > power_from(count)) {
        bigger = arena_room(memory, cap * size);
        if (bigger == NULL)
            return NULL;
        if (count > 0)
            memcpy(bigger, items, count * size);
        items = bigger;
        memcpy(base + f->offset, &items, sizeof(items));
    }
    count += more;
    memcpy(base + f->quantifier_offset, &count, sizeof(count));
    return items + (count - more) * size;
}

static size_t numbers_in(struct pb_reader r, enum pb_kind wire)
{
    size_t n = 0;

    if (wire != PB_VARINT)
        return (size_t)(r.end - r.at) / (wire == PB_64 ? 8 : 4);
    for (; r.at < r.end; r.at++)
        n += *r.at < 0x80;
    return n;
}

static bool take_packed(struct pb_reader span, const ProtobufCFieldDescriptor *f,
                        ProtobufCMessage *m, struct arena *memory)
{
    enum pb_kind wire = wire_of(f->type);
    size_t n = numbers_in(span, wire), size = size_of(f->type);
    uint8_t *at = n > 0 ? place_add(f, m, memory, n) : NULL;
    uint64_t v;

    if (n > 0 && at == NULL)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!pb_read_number(&span, wire, &v))
            return false;
        number_store(f->type, at + i * size, v);
    }
    return span.at == span.end;
}

static bool take_message(ProtobufCMessage *m, struct pb_reader r, struct arena *memory);

static bool take_text(struct pb_reader span, char **out, struct arena *memory)
{
    size_t len = (size_t)(span.end - span.at);
    char *s = arena_room(memory, len + 1);

    if (s == NULL)
        return false;
    memcpy(s, span.at, len);
    s[len] = '\0';
    *out = s;
    return true;
}

static bool take_data(struct pb_reader span, ProtobufCBinaryData *out, struct arena *memory)
{
    size_t len = (size_t)(span.end - span.at);

    *out = (ProtobufCBinaryData){.len = len, .data = len > 0 ? arena_room(memory, len) : NULL};
    if (len > 0 && out->data == NULL)
        return false;
    if (len > 0)
        memcpy(out->data, span.at, len);
    return true;
}

static bool take_sub(struct pb_reader span, const ProtobufCFieldDescriptor *f, void *at,
                     bool is_new, struct arena *memory)
{
    const ProtobufCMessageDescriptor *type = f->descriptor;
    ProtobufCMessage *sub = is_new ? NULL : *(ProtobufCMessage **)at;

    if (sub == NULL) {
        sub = arena_room(memory, type->sizeof_message);
        if (sub == NULL)
            return false;
        type->message_init(sub);
        *(ProtobufCMessage **)at = sub;
    }
    return take_message(sub, span, memory);
}

static bool take_field(struct pb_reader *r, const ProtobufCFieldDescriptor *f, enum pb_kind wire,
                       ProtobufCMessage *m, struct arena *memory)
{
    bool is_repeated = f->label == PROTOBUF_C_LABEL_REPEATED;
    void *at = (uint8_t *)m + f->offset;
    enum pb_kind own = wire_of(f->type);
    struct pb_reader span;
    uint64_t v;

    if (wire == PB_BYTES && own != PB_BYTES)
        return is_repeated && pb_read_span(r, &span) && take_packed(span, f, m, memory);
    if (wire != own)
        return false;
    if (is_repeated && (at = place_add(f, m, memory, 1)) == NULL)
        return false;
    if (own != PB_BYTES) {
        if (!pb_read_number(r, own, &v))
            return false;
        number_store(f->type, at, v);
        return true;
    }
    if (!pb_read_span(r, &span))
        return false;
    if (f->type == PROTOBUF_C_TYPE_STRING)
        return take_text(span, at, memory);
    if (f->type == PROTOBUF_C_TYPE_BYTES)
        return take_data(span, at, memory);
    return take_sub(span, f, at, is_repeated, memory);
}

static bool pass_over(struct pb_reader *r, enum pb_kind wire)
{
    struct pb_reader span;
    uint64_t v;

    switch (wire) {
    case PB_VARINT:
    case PB_64:
    case PB_32:
        return pb_read_number(r, wire, &v);
    case PB_BYTES:
        return pb_read_span(r, &span);
    }
    return false;
}

static bool take_message(ProtobufCMessage *m, struct pb_reader r, struct arena *memory)
{
    const ProtobufCMessageDescriptor *type = m->descriptor;

    while (r.at < r.end) {
        const ProtobufCFieldDescriptor *f;
        enum pb_kind kind;
        uint32_t number;

        if (!pb_read_tag(&r, &number, &kind))
            return false;
        f = number <= type->n_fields && type->fields[number - 1].id == number
                ? &type->fields[number - 1]
                : protobuf_c_message_descriptor_get_field(type, number);
        if (!(f != NULL ? take_field(&r, f, kind, m, memory) : pass_over(&r, kind)))
            return false;
    }
    return true;
}

void *codec_unpack(const ProtobufCMessageDescriptor *type, struct arena *memory, const uint8_t *p,
                   size_t len)
{
    ProtobufCMessage *m = arena_room(memory, type->sizeof_message);

    if (m == NULL)
        return NULL;
    type->message_init(m);
    return take_message(m, (struct pb_reader){p, p + len}, memory) ? m : NULL;
}
