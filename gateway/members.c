/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/members.h"

#include <string.h>

#include "common/json.h"
#include "common/must.h"

enum {
    OBJECT = KIND_OBJECT,
    STRING = KIND_STRING,
    NUMBER = KIND_NUMBER,
    TRUE = KIND_TRUE,
    FALSE = KIND_FALSE,
    NIL = KIND_NIL,
    ANY = KIND_ANY
};

static const struct row {
    const char *name;
    uint8_t len, owner, kinds;
} rows[MEMBER_COUNT] = {
    [MEMBER_OTHER] = {"", 0, OWNER_NONE, ANY},
#define MEMBER(id, own, text, allowed) \
    [MEMBER_##id] = {.name = text, .len = sizeof(text) - 1, .owner = OWNER_##own, .kinds = allowed},
#include "gateway/members.def"
#undef MEMBER
};

/* In the order of the wire's enums (scheduler.proto); a unit test compares them. */
static const char *const strategies[] = {"auto", "strict", "spread", "isolated"};
static const char *const priorities[] = {"default", "interactive", "batch"};

enum member member_find(enum member_owner owner, const char *name, size_t len)
{
    for (enum member m = MEMBER_OTHER + 1; m < MEMBER_COUNT; m++) {
        if (rows[m].owner == owner && rows[m].len == len && memcmp(rows[m].name, name, len) == 0)
            return m;
    }
    return MEMBER_OTHER;
}

bool member_fail(struct inspection *in, enum member m, enum err e, uint32_t at)
{
    static const char *const prefix[] = {
        [OWNER_NONE] = "",
        [OWNER_ROOT] = "",
        [OWNER_METADATA] = "workflow_metadata.",
        [OWNER_STREAM_OPTIONS] = "stream_options.",
    };
    const char *front = prefix[rows[m].owner];

    must(strlen(front) + rows[m].len < sizeof(in->err_param));
    memcpy(in->err_param, front, strlen(front) + 1);
    memcpy(in->err_param + strlen(front), rows[m].name, rows[m].len + 1u);
    in->err = e;
    in->err_at = at;
    return false;
}

static bool word_find(const char *const *words, size_t count, const char *s, size_t len,
                      uint8_t *out)
{
    for (size_t i = 0; i < count; i++) {
        if (strlen(words[i]) == len && memcmp(words[i], s, len) == 0) {
            *out = (uint8_t)i;
            return true;
        }
    }
    return false;
}

bool strategy_find(const char *s, size_t len, uint8_t *out)
{
    return word_find(strategies, sizeof(strategies) / sizeof(strategies[0]), s, len, out);
}

bool priority_find(const char *s, size_t len, uint8_t *out)
{
    return word_find(priorities, sizeof(priorities) / sizeof(priorities[0]), s, len, out);
}

/* ---- one function for each sort of value ---- */

struct value {
    const char *raw; /* with the quotes of a string */
    size_t len;
    enum member_kind kind;
    uint32_t at;
};

static bool id_take(struct inspection *in, enum member m, const struct value *v, enum err e,
                    struct inspect_id *id)
{
    char bytes[INSPECT_ID_MAX];
    size_t n;

    if (json_unescape(v->raw + 1, v->len - 2, bytes, sizeof(bytes), &n) &&
        inspect_id_set(id, bytes, n))
        return true;
    return member_fail(in, m, e, v->at);
}

/* model and cache_salt: an empty one counts as absent, the engine has its own view of it. */
static bool text_take(struct inspection *in, enum member m, const struct value *v,
                      struct inspect_id *id)
{
    return v->len == 2 || id_take(in, m, v, ERR_VALUE, id);
}

static bool word_take(struct inspection *in, enum member m, const struct value *v)
{
    struct inspect_metadata *md = &in->metadata;
    char word[16];
    size_t n;
    bool ok = json_unescape(v->raw + 1, v->len - 2, word, sizeof(word), &n);

    if (m == MEMBER_STRATEGY)
        ok = md->has_strategy = ok && strategy_find(word, n, &md->strategy);
    else
        ok = md->has_priority = ok && priority_find(word, n, &md->priority);
    return ok || member_fail(in, m, ERR_VALUE, v->at);
}

static bool group_size_take(struct inspection *in, enum member m, const struct value *v)
{
    int64_t n;

    if (!json_integer(v->raw, v->len, &n))
        return member_fail(in, m, ERR_TYPE, v->at);
    if (n < 1 || n > 100000)
        return member_fail(in, m, ERR_VALUE, v->at);
    in->metadata.group_size = (uint32_t)n;
    return true;
}

static bool max_tokens_take(struct inspection *in, enum member m, const struct value *v)
{
    int64_t n;

    /* max_completion_tokens replaces the older max_tokens, as in the engines. */
    if (m == MEMBER_MAX_TOKENS && in->max_tokens != 0)
        return true;
    if (v->kind == KIND_NUMBER && json_integer(v->raw, v->len, &n) && n > 0)
        in->max_tokens = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
    return true;
}

static bool metadata_take(struct inspection *in, enum member m, const struct value *v)
{
    struct inspect_metadata *md = &in->metadata;

    if (m == MEMBER_WORKFLOW_ID)
        return id_take(in, m, v, ERR_ID, &md->workflow_id);
    if (m == MEMBER_AGENT_ID)
        return id_take(in, m, v, ERR_ID, &md->agent_id);
    if (m == MEMBER_PARENT_REQUEST_ID)
        return id_take(in, m, v, ERR_ID, &md->parent_request_id);
    if (m == MEMBER_GROUP_ID)
        return id_take(in, m, v, ERR_ID, &md->group_id);
    if (m == MEMBER_PROFILE)
        return id_take(in, m, v, ERR_ID, &md->profile);
    if (m == MEMBER_TOOL)
        return id_take(in, m, v, ERR_ID, &md->tool);
    if (m == MEMBER_STRATEGY || m == MEMBER_WF_PRIORITY)
        return word_take(in, m, v);
    if (m == MEMBER_GROUP_SIZE)
        return group_size_take(in, m, v);
    md->has_final = true;
    md->final = v->kind == KIND_TRUE;
    return true;
}

bool member_take(struct inspection *in, enum member m, enum member_kind kind, uint32_t at,
                 uint32_t end)
{
    struct value v = {in->body + at, end - at, kind, at};

    if ((rows[m].kinds & kind) == 0)
        return member_fail(in, m, ERR_TYPE, at);
    if (kind == KIND_NIL)
        return true; /* as if it were absent */
    if (rows[m].owner == OWNER_METADATA)
        return metadata_take(in, m, &v);
    if (m == MEMBER_MODEL) {
        in->model_value = (struct span){at, end - at};
        return text_take(in, m, &v, &in->model);
    }
    if (m == MEMBER_CACHE_SALT)
        return text_take(in, m, &v, &in->cache_salt);
    if (m == MEMBER_STREAM)
        in->stream = kind == KIND_TRUE ? INSPECT_TRUE : INSPECT_FALSE;
    else if (m == MEMBER_INCLUDE_USAGE)
        in->include_usage = kind == KIND_TRUE ? INSPECT_TRUE : INSPECT_FALSE;
    else if (m == MEMBER_MAX_TOKENS || m == MEMBER_MAX_COMPLETION_TOKENS ||
             m == MEMBER_MAX_OUTPUT_TOKENS)
        return max_tokens_take(in, m, &v);
    else if (m == MEMBER_PRIORITY &&
             (kind != KIND_NUMBER || !json_integer(v.raw, v.len, &in->priority_value)))
        in->priority_value = 0;
    return true;
}
