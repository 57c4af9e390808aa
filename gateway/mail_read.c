/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/mail_read.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "common/id.h"
#include "gateway/parts.h"

#define MEMBERS_MAX 32u
#define RECEIPT_MAX 256u

typedef Slipstream__V1__Message message_msg;
typedef Slipstream__V1__Ack ack_msg;

enum kind { ID, TEXT, PAYLOAD, SECONDS, PRIORITY, ACTION };

struct field {
    const char *name;
    size_t offset; /* of the message that is being filled */
    double max;    /* SECONDS */
    enum kind kind;
    bool required, positive; /* positive: 0 is none */
};

#define TEXT_ROW(name, kind, required)                               \
    {                                                                \
#name, offsetof(message_msg, name), 0, kind, required, false \
    }
static const struct field message_fields[] = {
    TEXT_ROW(source_agent, ID, true),
    TEXT_ROW(target_agent, ID, true),
    TEXT_ROW(message_type, ID, true),
    {"payload", offsetof(message_msg, payload), 0, PAYLOAD, true, false},
    {"ttl", offsetof(message_msg, ttl_ms), MAIL_TTL_MAX_S, SECONDS, false, true},
    {"delay", offsetof(message_msg, delay_ms), MAIL_TTL_MAX_S, SECONDS, false, false},
    {"priority", offsetof(message_msg, priority), 0, PRIORITY, false, false},
    TEXT_ROW(correlation_id, ID, false),
    TEXT_ROW(reply_to, ID, false),
    TEXT_ROW(group, ID, false),
    {NULL, 0, 0, ID, false, false}};
#undef TEXT_ROW

static const struct field ack_fields[] = {
    {"message_id", offsetof(ack_msg, message_id), 0, ID, true, false},
    {"receipt", offsetof(ack_msg, receipt), 0, TEXT, true, false},
    {"action", offsetof(ack_msg, kind), 0, ACTION, false, false},
    {"delay", offsetof(ack_msg, delay_ms), MAIL_TTL_MAX_S, SECONDS, false, false},
    {"lease", offsetof(ack_msg, lease_ms), MAIL_LEASE_MAX_S, SECONDS, false, true},
    {NULL, 0, 0, ID, false, false}};

static const struct field receipt_fields[] = {
    {"receipt", offsetof(ack_msg, receipt), 0, TEXT, true, false}, {NULL, 0, 0, ID, false, false}};

static void *take(const struct mail_memory *mem, size_t bytes)
{
    return mem->alloc(mem->arg, bytes);
}

static char *text_keep(const struct mail_memory *mem, const char *s, size_t len)
{
    char *out = take(mem, len + 1);

    memcpy(out, s, len);
    out[len] = '\0';
    return out;
}

static bool is_null(const struct member *m)
{
    return m->value_len == 4 && memcmp(m->value, "null", 4) == 0;
}

static enum err text_take(const struct mail_memory *mem, const struct field *f,
                          const struct member *m, char *to)
{
    char text[ID_BYTES_MAX + 1], *kept;
    size_t len;
    enum err e = member_string(m->value, m->value_len, text, sizeof(text));

    if (e != ERR_OK)
        return e;
    len = strlen(text);
    if (len == 0 && !f->required)
        return ERR_OK;
    if (!id_is_valid(text, len))
        return ERR_ID;
    kept = text_keep(mem, text, len);
    memcpy(to, &kept, sizeof(kept));
    return ERR_OK;
}

static enum err number_take(const struct field *f, const struct member *m, char *to)
{
    uint32_t value;
    double v;

    if (member_number(m->value, m->value_len, &v) != ERR_OK)
        return ERR_TYPE;
    if (f->kind == PRIORITY) {
        if (v > 9 || v != (double)(unsigned)v)
            return ERR_VALUE;
        value = (uint32_t)v;
    } else {
        if (v > f->max || (f->positive && v <= 0))
            return ERR_VALUE;
        value = v > 0 && v < 0.001 ? 1 : (uint32_t)(v * 1000);
    }
    memcpy(to, &value, sizeof(value));
    return ERR_OK;
}

static enum err action_take(const struct member *m, char *to)
{
    static const struct {
        const char *word;
        Slipstream__V1__AckKind kind;
    } rows[] = {{"\"ack\"", SLIPSTREAM__V1__ACK_KIND__ACK_DONE},
                {"\"nack\"", SLIPSTREAM__V1__ACK_KIND__ACK_RETURN},
                {"\"extend\"", SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND}};
    size_t i;

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
        if (m->value_len == strlen(rows[i].word) &&
            memcmp(m->value, rows[i].word, m->value_len) == 0) {
            memcpy(to, &rows[i].kind, sizeof(rows[i].kind));
            return ERR_OK;
        }
    return m->value[0] == '"' ? ERR_VALUE : ERR_TYPE;
}

static enum err field_take(const struct mail_memory *mem, const struct field *f,
                           const struct member *m, void *out)
{
    char *to = (char *)out + f->offset;
    ProtobufCBinaryData bytes;

    if (f->kind != PAYLOAD && !f->required && is_null(m))
        return ERR_OK;
    switch (f->kind) {
    case ID:
    case TEXT:
        return text_take(mem, f, m, to);
    case SECONDS:
    case PRIORITY:
        return number_take(f, m, to);
    case ACTION:
        return action_take(m, to);
    case PAYLOAD:
        bytes = (ProtobufCBinaryData){m->value_len, (uint8_t *)(uintptr_t)m->value};
        memcpy(to, &bytes, sizeof(bytes));
        return ERR_OK;
    }
    return ERR_BUG;
}

static const struct field *field_find(const struct field *fields, const struct member *m)
{
    const struct field *f = fields;

    while (f->name != NULL &&
           (strlen(f->name) != m->key_len || memcmp(f->name, m->key, m->key_len) != 0))
        f++;
    return f->name != NULL ? f : NULL;
}

/* Fills out from the members of an object; each may be there once, and there is no other. */
static enum err object_take(const struct mail_memory *mem, const struct field *fields,
                            const struct member *members, size_t count, void *out,
                            struct mail_fault *fault)
{
    const struct field *f;
    unsigned seen = 0;
    size_t i;

    for (i = 0; i < count; i++) {
        const struct member *m = &members[i];
        enum err e;

        f = field_find(fields, m);
        if (f == NULL) {
            fault->param = text_keep(mem, m->key, m->key_len < 64 ? m->key_len : 64);
            fault->detail = "There is no such member here.";
            return ERR_VALUE;
        }
        fault->param = f->name;
        if (seen & 1u << (f - fields))
            return ERR_DUPLICATE_KEY;
        seen |= 1u << (f - fields);
        e = field_take(mem, f, m, out);
        if (e != ERR_OK)
            return e;
    }
    for (f = fields; f->name != NULL; f++)
        if (f->required && !(seen & 1u << (f - fields))) {
            fault->param = f->name;
            fault->detail = "This member is missing.";
            return ERR_VALUE;
        }
    *fault = (struct mail_fault){NULL, NULL};
    return ERR_OK;
}

static enum err object_read(const struct mail_memory *mem, const struct field *fields,
                            const char *text, size_t len, void *out, struct mail_fault *fault)
{
    struct member members[MEMBERS_MAX];
    size_t count;
    enum err e = members_split(text, len, members, MEMBERS_MAX, &count);

    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_VALUE : e;
    return object_take(mem, fields, members, count, out, fault);
}

/* "ttl" of the third element of messages is "messages[2].ttl". */
static void fault_place(const struct mail_memory *mem, const char *list, size_t i,
                        struct mail_fault *fault)
{
    char text[160];

    snprintf(text, sizeof(text), "%s[%zu]%s%s", list, i, fault->param != NULL ? "." : "",
             fault->param != NULL ? fault->param : "");
    fault->param = text_keep(mem, text, strlen(text));
}

/* The one member name of an object, an array of at most max elements. */
static enum err list_read(const struct mail_memory *mem, const char *name,
                          const struct member *members, size_t count, size_t max,
                          struct member **rows, size_t *row_count, struct mail_fault *fault)
{
    enum err e;

    if (count != 1 || members[0].key_len != strlen(name) ||
        memcmp(members[0].key, name, members[0].key_len) != 0) {
        fault->param = name;
        fault->detail = "The body has this one member, an array.";
        return ERR_VALUE;
    }
    fault->param = name;
    *rows = take(mem, max * sizeof(**rows));
    e = elements_split(members[0].value, members[0].value_len, *rows, max, row_count);
    if (e == ERR_BUSY) {
        fault->detail = "Too many elements.";
        return ERR_TOO_LARGE;
    }
    return e;
}

static enum err bulk_read(const struct mail_memory *mem, const struct member *members,
                          struct mail_post *out, struct mail_fault *fault)
{
    struct member *rows;
    message_msg *messages;
    size_t i;
    enum err e = list_read(mem, "messages", members, 1, MAIL_BULK_MAX, &rows, &out->count, fault);

    if (e == ERR_OK && out->count == 0)
        e = ERR_VALUE;
    if (e != ERR_OK)
        return e;
    *fault = (struct mail_fault){NULL, NULL};
    messages = take(mem, out->count * sizeof(*messages));
    out->messages = take(mem, out->count * sizeof(out->messages[0]));
    for (i = 0; i < out->count; i++) {
        slipstream__v1__message__init(&messages[i]);
        out->messages[i] = &messages[i];
        e = object_read(mem, message_fields, rows[i].value, rows[i].value_len, &messages[i], fault);
        if (e != ERR_OK) {
            fault_place(mem, "messages", i, fault);
            return e;
        }
    }
    return ERR_OK;
}

enum err mail_post_read(const struct mail_memory *mem, const char *body, size_t len,
                        uint64_t max_payload, struct mail_post *out, struct mail_fault *fault)
{
    struct member members[MEMBERS_MAX];
    message_msg *m;
    size_t count;
    enum err e;

    *fault = (struct mail_fault){NULL, NULL};
    *out = (struct mail_post){.count = 1};
    if (len > MAIL_BULK_BYTES + MAIL_ROOM_BYTES)
        return ERR_TOO_LARGE;
    e = members_split(body, len, members, MEMBERS_MAX, &count);
    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_VALUE : e;
    out->bulk = count == 1 && members[0].key_len == 8 && memcmp(members[0].key, "messages", 8) == 0;
    if (out->bulk)
        return bulk_read(mem, members, out, fault);
    m = take(mem, sizeof(*m));
    slipstream__v1__message__init(m);
    out->messages = take(mem, sizeof(out->messages[0]));
    out->messages[0] = m;
    e = object_take(mem, message_fields, members, count, m, fault);
    if (e == ERR_OK && m->payload.len > max_payload) {
        fault->param = "payload";
        e = ERR_TOO_LARGE;
    }
    return e;
}

enum err mail_receipt_read(const struct mail_memory *mem, const char *body, size_t len,
                           char **receipt, struct mail_fault *fault)
{
    ack_msg ack;
    enum err e;

    slipstream__v1__ack__init(&ack);
    *fault = (struct mail_fault){NULL, NULL};
    e = object_read(mem, receipt_fields, body, len, &ack, fault);
    *receipt = ack.receipt;
    return e;
}

enum err mail_acks_read(const struct mail_memory *mem, const char *body, size_t len,
                        ack_msg ***acks, size_t *count, struct mail_fault *fault)
{
    struct member members[MEMBERS_MAX], *rows = NULL;
    ack_msg *all;
    size_t i;
    enum err e = members_split(body, len, members, MEMBERS_MAX, count);

    *fault = (struct mail_fault){NULL, NULL};
    if (e == ERR_OK)
        e = list_read(mem, "acks", members, *count, MAIL_ACKS_MAX, &rows, count, fault);
    if (e != ERR_OK)
        return e == ERR_BUSY ? ERR_VALUE : e;
    if (*count == 0)
        return ERR_VALUE;
    all = take(mem, *count * sizeof(*all));
    *acks = take(mem, *count * sizeof((*acks)[0]));
    for (i = 0; i < *count; i++) {
        slipstream__v1__ack__init(&all[i]);
        (*acks)[i] = &all[i];
        *fault = (struct mail_fault){NULL, NULL};
        e = object_read(mem, ack_fields, rows[i].value, rows[i].value_len, &all[i], fault);
        if (e != ERR_OK) {
            fault_place(mem, "acks", i, fault);
            return e;
        }
    }
    return ERR_OK;
}

enum err mail_ids_read(const struct mail_memory *mem, const char *body, size_t len, char ***ids,
                       size_t *count, struct mail_fault *fault)
{
    static const struct field id = {"message_ids", 0, 0, ID, true, false};
    struct member members[MEMBERS_MAX], *rows = NULL;
    size_t n, i;
    enum err e;

    *fault = (struct mail_fault){NULL, NULL};
    *ids = NULL;
    *count = 0;
    if (len == 0)
        return ERR_OK;
    e = members_split(body, len, members, MEMBERS_MAX, &n);
    if (e != ERR_OK || n == 0)
        return e == ERR_BUSY ? ERR_VALUE : e;
    e = list_read(mem, "message_ids", members, n, MAIL_ACKS_MAX, &rows, count, fault);
    if (e != ERR_OK)
        return e;
    if (*count == 0) { /* a list that was computed, and not "all" */
        fault->detail = "An empty list names none; leave message_ids out to mean all.";
        return ERR_VALUE;
    }
    *ids = take(mem, (*count + 1) * sizeof((*ids)[0]));
    for (i = 0; i < *count; i++) {
        e = text_take(mem, &id, &rows[i], (char *)&(*ids)[i]);
        if (e != ERR_OK) {
            fault->param = NULL;
            fault_place(mem, "message_ids", i, fault);
            return e;
        }
    }
    *fault = (struct mail_fault){NULL, NULL};
    return ERR_OK;
}

bool mail_seconds_read(const char *text, double max, uint32_t *ms)
{
    size_t len = strlen(text);
    double v;

    if (member_number(text, len, &v) != ERR_OK || strpbrk(text, "xX") != NULL || v > max)
        return false;
    *ms = v > 0 && v < 0.001 ? 1 : (uint32_t)(v * 1000);
    return true;
}

/* The next of the words that sep keeps apart, without the blanks around it; false at the end. */
static bool word_next(const char **at, const char *end, char sep, const char **word, size_t *len)
{
    const char *from = *at, *to;

    if (from >= end)
        return false;
    to = memchr(from, sep, (size_t)(end - from));
    if (to == NULL)
        to = end;
    *at = to + 1;
    while (from < to && (*from == ' ' || *from == '\t'))
        from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t'))
        to--;
    *word = from;
    *len = (size_t)(to - from);
    return true;
}

bool mail_prefer_wait(const char *value, size_t len, uint32_t *ms)
{
    const char *end = value + len, *word;
    size_t n, i;

    while (word_next(&value, end, ',', &word, &n)) {
        uint32_t seconds = 0;

        if (n < 6 || n > 10 || strncasecmp(word, "wait=", 5) != 0)
            continue;
        for (i = 5; i < n && word[i] >= '0' && word[i] <= '9'; i++)
            seconds = seconds * 10 + (uint32_t)(word[i] - '0');
        if (i < n)
            return false;
        *ms = seconds * 1000;
        return true;
    }
    return false;
}

/* "text/event-stream; q=0" asks not to get one. */
static bool is_refused(const char *params, const char *end)
{
    const char *word;
    size_t n, i;

    while (word_next(&params, end, ';', &word, &n)) {
        if (n < 3 || strncasecmp(word, "q=0", 3) != 0)
            continue;
        for (i = 3; i < n && (word[i] == '0' || word[i] == '.'); i++)
            ;
        return i == n;
    }
    return false;
}

bool mail_wants_stream(const char *accept, size_t len)
{
    const char *end = accept + len, *range, *type, *params;
    size_t n, type_len;
    bool wants = false;

    while (word_next(&accept, end, ',', &range, &n)) {
        params = range;
        if (!word_next(&params, range + n, ';', &type, &type_len) ||
            (params < range + n && is_refused(params, range + n)))
            continue;
        if (type_len == 17 && strncasecmp(type, "text/event-stream", 17) == 0)
            wants = true;
        if (type_len == 16 && strncasecmp(type, "application/json", 16) == 0)
            return false;
    }
    return wants;
}
