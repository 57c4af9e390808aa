/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/inspect.h"

#include <stdlib.h>
#include <string.h>

#include "common/id.h"
#include "common/json.h"
#include "common/must.h"
#include "gateway/members.h"

/*
 * A stack of open containers and the place between two words of the grammar; common/json.h
 * reads the words. A container whose members mean something to us has a role, all others are only
 * validated.
 *
 * Cutting a member: the comma before it goes with it, or, where only members that we may cut stand
 * before it, all up to the next member. So any selection of cuts leaves valid JSON, though two of
 * them may overlap.
 */
#define ELEMENTS_MAX 262144u /* far beyond what fits into DIGEST_MAX blocks */
#define SKIPS_MAX 65536u
_Static_assert(MEMBER_COUNT <= 32, "seen is a mask of 32 bits");
#define KEEP_CAP 4096u /* larger arrays are given back when the next body begins */

enum place {
    AT_VALUE,
    AT_FIRST_VALUE, /* or ] */
    AT_KEY,
    AT_FIRST_KEY, /* or } */
    AT_COLON,
    AT_AFTER, /* , or the end of the container */
    AT_END,
    IN_KEY,
    IN_STRING,
    IN_NUMBER
};

enum role {
    ROLE_PLAIN = OWNER_NONE,
    ROLE_ROOT = OWNER_ROOT,
    ROLE_METADATA = OWNER_METADATA,
    ROLE_STREAM_OPTIONS = OWNER_STREAM_OPTIONS,
    ROLE_ELEMENTS, /* an array that holds the prompt */
    ROLE_TOKENS    /* the first of several token id prompts */
};

enum cut { CUT_NONE, CUT_SKIP, CUT_METADATA, CUT_PRIORITY };

/* Where the prompt of each dialect is. */
static const struct dialect {
    enum member system, elements;
    bool tools;
} dialects[] = {
    [INSPECT_CHAT] = {MEMBER_OTHER, MEMBER_MESSAGES, true},
    [INSPECT_COMPLETION] = {MEMBER_OTHER, MEMBER_PROMPT, false},
    [INSPECT_INPUT] = {MEMBER_INSTRUCTIONS, MEMBER_INPUT, true},
    [INSPECT_ANTHROPIC] = {MEMBER_SYSTEM, MEMBER_MESSAGES, true},
    [INSPECT_OTHER] = {MEMBER_OTHER, MEMBER_OTHER, false},
};

struct frame {
    uint8_t role, key, cut; /* key, cut: of the current member */
    bool is_object, kept;   /* kept: a member that is never cut has gone before */
    uint32_t begin;         /* of the container */
    uint32_t key_at, member_end;
    uint32_t comma_at; /* before the current member, 0 = it is the first */
    uint32_t count;    /* members or elements that are complete */
};

struct inspect_state {
    enum place place;
    uint32_t depth, value_at, seen;
    bool in_prompt;  /* inside a member that is digested */
    bool escaped;    /* the current string has a backslash */
    bool text;       /* an array of numbers: its text is one element */
    bool last_empty; /* the container that ended last had nothing in it */
    uint8_t number;
    struct span text_span;
    struct frame frames[INSPECT_DEPTH];
};

static bool fail(struct inspection *in, enum err e, uint32_t at)
{
    in->err = e;
    in->err_at = at;
    return false;
}

/* One more span behind an array that grows by doubling. false: max are there already. */
static bool span_add(struct span **array, uint32_t *count, uint32_t *cap, uint32_t max,
                     struct span s)
{
    if (*count == *cap) {
        if (*cap >= max)
            return false;
        *cap = *cap != 0 ? *cap * 2 : 64;
        *array = realloc(*array, *cap * sizeof(**array));
        must(*array != NULL);
    }
    (*array)[(*count)++] = s;
    return true;
}

static bool element_add(struct inspection *in, uint32_t at, uint32_t end)
{
    struct span s = {at, end - at};

    if (at >= end)
        return true;
    if (!span_add(&in->elements, &in->element_count, &in->element_cap, ELEMENTS_MAX, s))
        return fail(in, ERR_TOO_LARGE, at);
    return true;
}

static bool skip_add(struct inspection *in, uint32_t at, uint32_t end)
{
    struct span *last;

    while (in->skip_count > 0 && in->skips[in->skip_count - 1].at >= at)
        in->skip_count--; /* those inside this one */
    if (in->skip_count > 0) {
        last = &in->skips[in->skip_count - 1];
        if (last->at + last->len > at)
            at = last->at + last->len; /* the comma went with the one before */
    }
    if (!span_add(&in->skips, &in->skip_count, &in->skip_cap, SKIPS_MAX,
                  (struct span){at, end - at}))
        return fail(in, ERR_TOO_LARGE, at);
    return true;
}

static bool cut_finish(struct inspection *in, struct frame *f, uint32_t at, uint32_t end)
{
    enum cut cut = (enum cut)f->cut;

    f->cut = CUT_NONE;
    switch (cut) {
    case CUT_SKIP:
        return skip_add(in, at, end);
    case CUT_METADATA:
        in->metadata.cut = (struct span){at, end - at};
        break;
    case CUT_PRIORITY:
        in->priority = (struct span){at, end - at};
        break;
    case CUT_NONE:
        break;
    }
    return true;
}

/* ---- what values mean, where it depends on their place ---- */

static bool prompt_value(struct inspection *in, enum member m, enum member_kind kind, uint32_t at)
{
    const struct dialect *d = &dialects[in->shape];

    if (m == MEMBER_OTHER || kind == KIND_NIL)
        return true;
    if (m == MEMBER_TOOLS && d->tools)
        in->tools = (struct span){at, in->pos - at};
    if (m == d->system)
        in->system = (struct span){at, in->pos - at};
    if (m == d->elements && kind == KIND_STRING)
        return element_add(in, at + 1, in->pos - 1);
    return true;
}

static bool root_value(struct inspection *in, struct frame *f, enum member_kind kind, uint32_t at)
{
    enum member m = (enum member)f->key;

    if (!member_take(in, m, kind, at, in->pos))
        return false;
    if (m == MEMBER_STREAM_OPTIONS) {
        in->stream_options = (struct span){at, in->pos - at};
        in->stream_options_null = kind == KIND_NIL;
        in->stream_options_empty = kind == KIND_OBJECT && in->state->last_empty;
    } else if (m == MEMBER_METADATA) {
        in->metadata.present = kind == KIND_OBJECT;
        f->cut = CUT_METADATA;
    } else if (m == MEMBER_PRIORITY) {
        f->cut = CUT_PRIORITY;
    } else {
        return prompt_value(in, m, kind, at);
    }
    return true;
}

/* An element of messages, input or prompt is complete. */
static bool element_value(struct inspection *in, struct frame *f, enum member_kind kind,
                          uint32_t at)
{
    struct inspect_state *st = in->state;

    if (f->count == 0 && (kind == KIND_NUMBER || f->role == ROLE_TOKENS)) {
        st->text = true;
        st->text_span.at = at;
    }
    if (st->text) {
        st->text_span.len = in->pos - st->text_span.at;
        return true;
    }
    if (in->shape != INSPECT_COMPLETION)
        return element_add(in, at, in->pos);
    if (f->count > 0 || kind == KIND_ARRAY) /* of several prompts the first */
        return true;
    return kind == KIND_STRING ? element_add(in, at + 1, in->pos - 1)
                               : element_add(in, at, in->pos);
}

/* ---- the grammar ---- */

/* The value from st->value_at to in->pos is complete. */
static bool value_end(struct inspection *in, enum member_kind kind)
{
    struct inspect_state *st = in->state;
    struct frame *f;
    bool ok = true;

    if (st->depth == 0) {
        st->place = AT_END;
        return true;
    }
    st->place = AT_AFTER;
    f = &st->frames[st->depth - 1];
    f->member_end = in->pos;
    switch ((enum role)f->role) {
    case ROLE_PLAIN:
        break;
    case ROLE_ROOT:
        st->in_prompt = false;
        ok = root_value(in, f, kind, st->value_at);
        break;
    case ROLE_METADATA:
    case ROLE_STREAM_OPTIONS:
        ok = member_take(in, (enum member)f->key, kind, st->value_at, in->pos);
        break;
    case ROLE_ELEMENTS:
    case ROLE_TOKENS:
        ok = element_value(in, f, kind, st->value_at);
        break;
    }
    f->count++;
    return ok;
}

static enum role role_of(const struct inspection *in, bool is_object)
{
    const struct inspect_state *st = in->state;
    const struct frame *up;

    if (st->depth == 0)
        return ROLE_ROOT;
    up = &st->frames[st->depth - 1];
    if (up->role == ROLE_ROOT) {
        if (is_object)
            return up->key == MEMBER_METADATA         ? ROLE_METADATA
                   : up->key == MEMBER_STREAM_OPTIONS ? ROLE_STREAM_OPTIONS
                                                      : ROLE_PLAIN;
        return up->key != MEMBER_OTHER && up->key == dialects[in->shape].elements ? ROLE_ELEMENTS
                                                                                  : ROLE_PLAIN;
    }
    if (up->role == ROLE_ELEMENTS && in->shape == INSPECT_COMPLETION && !is_object &&
        up->count == 0)
        return ROLE_TOKENS;
    return ROLE_PLAIN;
}

static bool container_begin(struct inspection *in, bool is_object)
{
    struct inspect_state *st = in->state;
    enum role role = role_of(in, is_object);

    if (st->depth == INSPECT_DEPTH)
        return fail(in, ERR_DEPTH, in->pos);
    st->frames[st->depth++] =
        (struct frame){.role = (uint8_t)role, .is_object = is_object, .begin = in->pos};
    in->pos++;
    if (role == ROLE_ROOT)
        in->object_open = in->pos;
    st->place = is_object ? AT_FIRST_KEY : AT_FIRST_VALUE;
    return true;
}

static bool container_end(struct inspection *in)
{
    struct inspect_state *st = in->state;
    struct frame *f = &st->frames[st->depth - 1];

    if (f->cut != CUT_NONE &&
        !cut_finish(in, f, f->comma_at != 0 ? f->comma_at : f->key_at, f->member_end))
        return false;
    in->pos++;
    if (f->role == ROLE_ROOT)
        in->object_empty = f->count == 0;
    if (f->role == ROLE_ELEMENTS && st->frames[0].key == MEMBER_MESSAGES)
        in->messages = f->count;
    if (f->role >= ROLE_ELEMENTS && st->text) {
        st->text = false;
        if (!element_add(in, st->text_span.at, st->text_span.at + st->text_span.len))
            return false;
    }
    st->last_empty = f->count == 0;
    st->value_at = f->begin;
    st->depth--;
    return value_end(in, f->is_object ? KIND_OBJECT : KIND_ARRAY);
}

/* Which of our keys is the one from f->key_at to in->pos? */
static bool key_known(struct inspection *in, struct frame *f)
{
    static const char cache_control[] = "cache_control";
    struct inspect_state *st = in->state;
    const struct dialect *d = &dialects[in->shape];
    const char *name = in->body + f->key_at + 1;
    size_t len = in->pos - f->key_at - 2;
    char plain[64];
    enum member m;

    f->key = MEMBER_OTHER;
    if (f->role == ROLE_PLAIN && !st->in_prompt)
        return true;
    if (st->escaped) {
        if (!json_unescape(name, len, plain, sizeof(plain), &len))
            return true;
        name = plain;
    }
    if (f->role == ROLE_PLAIN) {
        if (len == sizeof(cache_control) - 1 && memcmp(name, cache_control, len) == 0)
            f->cut = CUT_SKIP;
        return true;
    }
    m = member_find((enum member_owner)f->role, name, len);
    if (m == MEMBER_OTHER)
        return true;
    if ((st->seen & 1u << m) != 0)
        return member_fail(in, m, ERR_DUPLICATE_KEY, f->key_at);
    st->seen |= 1u << m;
    f->key = (uint8_t)m;
    if (f->role == ROLE_ROOT)
        st->in_prompt = m == d->system || m == d->elements || (m == MEMBER_TOOLS && d->tools);
    return true;
}

static bool string_run(struct inspection *in, uint32_t stop)
{
    struct inspect_state *st = in->state;
    const char *p = in->body + in->pos;
    enum json_scan r = json_string(&p, in->body + stop, in->body + in->len, &st->escaped);

    in->pos = (uint32_t)(p - in->body);
    if (r == JSON_MORE)
        return true;
    if (r == JSON_BAD)
        return fail(in, ERR_JSON, in->pos);
    if (st->place == IN_STRING)
        return value_end(in, KIND_STRING);
    st->place = AT_COLON;
    return key_known(in, &st->frames[st->depth - 1]);
}

static bool number_run(struct inspection *in, uint32_t stop)
{
    struct inspect_state *st = in->state;
    const char *p = in->body + in->pos;
    enum json_scan r = json_number(&p, in->body + stop, in->body + in->len, &st->number);

    in->pos = (uint32_t)(p - in->body);
    if (r == JSON_MORE)
        return true;
    return r == JSON_BAD ? fail(in, ERR_JSON, in->pos) : value_end(in, KIND_NUMBER);
}

static bool value_begin(struct inspection *in, uint32_t stop)
{
    struct inspect_state *st = in->state;
    const char *p = in->body + in->pos;
    size_t n;

    st->value_at = in->pos;
    if (*p == '"') {
        in->pos++;
        st->escaped = false;
        st->place = IN_STRING;
        return string_run(in, stop);
    }
    if (*p == '{' || *p == '[')
        return container_begin(in, *p == '{');
    if (*p == '-' || (*p >= '0' && *p <= '9')) {
        st->number = 0;
        st->place = IN_NUMBER;
        return number_run(in, stop);
    }
    n = json_literal(p, in->body + in->len);
    if (n == 0)
        return fail(in, ERR_JSON, in->pos);
    in->pos += (uint32_t)n;
    return value_end(in, *p == 't' ? KIND_TRUE : *p == 'f' ? KIND_FALSE : KIND_NIL);
}

static bool key_begin(struct inspection *in, uint32_t stop)
{
    struct inspect_state *st = in->state;
    struct frame *f = &st->frames[st->depth - 1];

    if (in->body[in->pos] != '"')
        return fail(in, ERR_JSON, in->pos);
    if (f->cut != CUT_NONE && !cut_finish(in, f, f->key_at, in->pos))
        return false;
    f->key_at = in->pos++;
    st->escaped = false;
    st->place = IN_KEY;
    return string_run(in, stop);
}

static bool comma(struct inspection *in)
{
    struct inspect_state *st = in->state;
    struct frame *f = &st->frames[st->depth - 1];

    if (f->is_object) {
        /* With nothing before it that stays, the cut goes on to the next key. */
        if (f->cut == CUT_NONE)
            f->kept = true;
        else if (f->kept && !cut_finish(in, f, f->comma_at, f->member_end))
            return false;
    }
    f->comma_at = in->pos++;
    st->place = f->is_object ? AT_KEY : AT_VALUE;
    return true;
}

/* One word, or a piece of one. false: an error. */
static bool word(struct inspection *in, uint32_t stop)
{
    struct inspect_state *st = in->state;
    char c;

    if (st->place == IN_STRING || st->place == IN_KEY)
        return string_run(in, stop);
    if (st->place == IN_NUMBER)
        return number_run(in, stop);
    while (json_is_space(in->body[in->pos])) {
        if (++in->pos == stop)
            return true;
    }
    c = in->body[in->pos];
    switch (st->place) {
    case AT_FIRST_KEY:
        return c == '}' ? container_end(in) : key_begin(in, stop);
    case AT_KEY:
        return key_begin(in, stop);
    case AT_COLON:
        if (c != ':')
            break;
        in->pos++;
        st->place = AT_VALUE;
        return true;
    case AT_FIRST_VALUE:
        return c == ']' ? container_end(in) : value_begin(in, stop);
    case AT_VALUE:
        if (st->depth == 0 && c != '{' && c != '\0' && strchr("[\"-0123456789tfn", c) != NULL)
            return fail(in, ERR_TYPE, in->pos);
        return value_begin(in, stop);
    case AT_AFTER:
        if (c == ',')
            return comma(in);
        if (c == (st->frames[st->depth - 1].is_object ? '}' : ']'))
            return container_end(in);
        break;
    case AT_END:
    case IN_KEY:
    case IN_STRING:
    case IN_NUMBER:
        break;
    }
    return fail(in, ERR_JSON, in->pos);
}

bool inspect_run(struct inspection *in, size_t budget)
{
    uint32_t stop = in->len;

    if (in->err != ERR_OK)
        return true;
    budget += budget == 0;
    if (budget < in->len - in->pos)
        stop = in->pos + (uint32_t)budget;
    while (in->pos < stop) {
        if (!word(in, stop))
            return true;
    }
    if (in->pos < in->len)
        return false;
    if (in->state->place != AT_END)
        fail(in, ERR_JSON, in->len);
    return true;
}

static void span_array_trim(struct span **array, uint32_t *count, uint32_t *cap)
{
    *count = 0;
    if (*cap > KEEP_CAP) {
        free(*array);
        *array = NULL;
        *cap = 0;
    }
}

void inspect_start(struct inspection *in, enum inspect_shape shape, const char *body, size_t len)
{
    struct inspection kept = *in;

    span_array_trim(&kept.elements, &kept.element_count, &kept.element_cap);
    span_array_trim(&kept.skips, &kept.skip_count, &kept.skip_cap);
    if (kept.state == NULL) {
        kept.state = malloc(sizeof(*kept.state));
        must(kept.state != NULL);
    }
    memset(in, 0, sizeof(*in));
    in->elements = kept.elements;
    in->element_cap = kept.element_cap;
    in->skips = kept.skips;
    in->skip_cap = kept.skip_cap;
    in->state = kept.state;
    memset(in->state, 0, offsetof(struct inspect_state, frames));
    in->shape = shape;
    in->body = body;
    in->len = (uint32_t)len;
    if (len > UINT32_MAX - 64)
        fail(in, ERR_TOO_LARGE, 0);
}

void inspect_fini(struct inspection *in)
{
    free(in->elements);
    free(in->skips);
    free(in->state);
    memset(in, 0, sizeof(*in));
}

bool inspect_id_set(struct inspect_id *id, const char *s, size_t len)
{
    if (!id_is_valid(s, len))
        return false;
    memcpy(id->bytes, s, len);
    id->bytes[len] = '\0';
    id->len = (uint16_t)len;
    return true;
}
