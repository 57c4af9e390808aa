/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mail_show.h"

#include <string.h>
#include <time.h>

#include "common/lz4_payload.h"
#include "common/pb.h"

bool mail_reply_read(const uint8_t *body, size_t len, struct mail_reply *out)
{
    struct pb_reader r = {body, len > 0 ? body + len : body};
    struct pb_field f;

    *out = (struct mail_reply){.at = r.at, .end = r.end};
    while (r.at < r.end) {
        if (!pb_read_field(&r, &f))
            return false;
        if (f.number == 1 && f.kind == PB_BYTES)
            out->count++;
        else if (f.number == 2)
            out->parked = f.value != 0;
        else if (f.number == 3)
            out->poll = f.value;
        else if (f.number == 4)
            out->delivery = f.value;
        else if (f.number == 5)
            out->more = (uint32_t)f.value;
    }
    return true;
}

static void field_note(const struct pb_field *f, struct mail_view *m)
{
    struct mail_text *const texts[] = {[1] = &m->message_id,
                                       [2] = &m->source_agent,
                                       [3] = &m->target_agent,
                                       [4] = &m->message_type,
                                       [5] = &m->payload,
                                       [9] = &m->correlation_id,
                                       [10] = &m->reply_to,
                                       [11] = &m->group,
                                       [15] = &m->receipt,
                                       [17] = &m->dead_reason,
                                       [18] = NULL};

    if (f->kind == PB_BYTES) {
        if (f->number < sizeof(texts) / sizeof(texts[0]) && texts[f->number] != NULL)
            *texts[f->number] =
                (struct mail_text){(const char *)f->span.at, (size_t)(f->span.end - f->span.at)};
        return;
    }
    switch (f->number) {
    case 6:
        m->created_ms = f->value;
        break;
    case 7:
        m->attempt = (uint32_t)f->value;
        break;
    case 8:
        m->expires_ms = f->value;
        break;
    case 12:
        m->priority = (uint32_t)f->value;
        break;
    case 16:
        m->lease_expires_ms = f->value;
        break;
    case 18:
        m->dead_ms = f->value;
        break;
    case 19:
        m->raw_len = f->value < UINT32_MAX ? (uint32_t)f->value : UINT32_MAX;
        break;
    default:
        break;
    }
}

bool mail_reply_next(struct mail_reply *r, struct mail_view *out)
{
    static const struct mail_text none = {"", 0};
    struct pb_reader rest = {r->at, r->end}, span;
    struct pb_field f;

    while (rest.at < rest.end && pb_read_field(&rest, &f)) {
        r->at = rest.at;
        span = f.span;
        if (f.number != 1 || f.kind != PB_BYTES)
            continue;
        *out = (struct mail_view){none, none, none, none, none, none, none, none, none,
                                  none, 0,    0,    0,    0,    0,    0,    0};
        while (span.at < span.end) {
            if (!pb_read_field(&span, &f))
                return false;
            field_note(&f, out);
        }
        return true;
    }
    return false;
}

static char *digits_put(char *o, unsigned v, unsigned count)
{
    unsigned i;

    for (i = count; i > 0; i--) {
        o[i - 1] = (char)('0' + v % 10);
        v /= 10;
    }
    return o + count;
}

void mail_show_time(struct buf *b, uint64_t wall_ms)
{
    time_t s = (time_t)(wall_ms / 1000);
    char text[32], *o = text;
    struct tm tm;

    gmtime_r(&s, &tm);
    *o++ = '"';
    o = digits_put(o, (unsigned)tm.tm_year + 1900, 4);
    *o++ = '-';
    o = digits_put(o, (unsigned)tm.tm_mon + 1, 2);
    *o++ = '-';
    o = digits_put(o, (unsigned)tm.tm_mday, 2);
    *o++ = 'T';
    o = digits_put(o, (unsigned)tm.tm_hour, 2);
    *o++ = ':';
    o = digits_put(o, (unsigned)tm.tm_min, 2);
    *o++ = ':';
    o = digits_put(o, (unsigned)tm.tm_sec, 2);
    *o++ = '.';
    o = digits_put(o, (unsigned)(wall_ms % 1000), 3);
    *o++ = 'Z';
    *o++ = '"';
    buf_add(b, text, (size_t)(o - text));
}

static void text_show(struct buf *b, const char *lead, const struct mail_text *t)
{
    buf_adds(b, lead);
    buf_add_json(b, t->at, t->len);
}

static void text_maybe(struct buf *b, const char *lead, const struct mail_text *t)
{
    if (t->len > 0)
        text_show(b, lead, t);
}

static void time_maybe(struct buf *b, const char *lead, uint64_t wall_ms)
{
    if (wall_ms == 0)
        return;
    buf_adds(b, lead);
    mail_show_time(b, wall_ms);
}

static void lines_join(struct buf *b, size_t from)
{
    size_t len = b->len - from, i, to = from;

    if (memchr(b->base + from, '\n', len) == NULL && memchr(b->base + from, '\r', len) == NULL)
        return;
    for (i = from; i < b->len; i++)
        if (b->base[i] != '\n' && b->base[i] != '\r')
            b->base[to++] = b->base[i];
    b->len = to;
}

static bool payload_show(struct buf *b, const struct mail_view *m, bool one_line)
{
    bool is_none = m->payload.len == 0 && m->raw_len == 0;
    size_t from = b->len;
    struct packed p;

    if (is_none ||
        payload_claim(m->payload.at, m->payload.len, m->raw_len, PAYLOAD_MAX, &p) != ERR_OK ||
        payload_unpack(&p, b) != ERR_OK) {
        buf_adds(b, "null");
        return is_none;
    }
    if (one_line)
        lines_join(b, from);
    return true;
}

bool mail_show(struct buf *b, const struct mail_view *m, bool one_line)
{
    bool is_whole;

    text_show(b, "{\"message_id\":", &m->message_id);
    text_show(b, ",\"source_agent\":", &m->source_agent);
    text_show(b, ",\"target_agent\":", &m->target_agent);
    text_show(b, ",\"message_type\":", &m->message_type);
    text_maybe(b, ",\"correlation_id\":", &m->correlation_id);
    text_maybe(b, ",\"reply_to\":", &m->reply_to);
    text_maybe(b, ",\"group\":", &m->group);
    if (m->priority > 0) {
        buf_adds(b, ",\"priority\":");
        buf_add_number(b, m->priority);
    }
    buf_adds(b, ",\"created_at\":");
    mail_show_time(b, m->created_ms);
    time_maybe(b, ",\"expires_at\":", m->expires_ms);
    buf_adds(b, ",\"attempt\":");
    buf_add_number(b, m->attempt);
    text_maybe(b, ",\"receipt\":", &m->receipt);
    time_maybe(b, ",\"lease_expires_at\":", m->lease_expires_ms);
    text_maybe(b, ",\"dead_reason\":", &m->dead_reason);
    time_maybe(b, ",\"dead_at\":", m->dead_ms);
    buf_adds(b, ",\"payload\":");
    is_whole = payload_show(b, m, one_line);
    buf_add(b, "}", 1);
    return is_whole;
}

bool mail_show_event(struct buf *b, const struct mail_view *m, size_t *at)
{
    bool is_whole;

    buf_adds(b, "id: ");
    buf_add(b, m->message_id.at, m->message_id.len);
    buf_adds(b, "\nevent: message\ndata: ");
    *at = b->len;
    is_whole = mail_show(b, m, true);
    buf_adds(b, "\n\n");
    return is_whole;
}
