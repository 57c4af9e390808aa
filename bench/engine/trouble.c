/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/trouble.h"

#include <stdlib.h>
#include <string.h>

#include "bench/engine/json.h"

static bool set_number(struct trouble *t, const char *name, int64_t v)
{
    if (v < 0 || v > INT32_MAX)
        return false;
    if (strcmp(name, "count") == 0)
        t->count = (uint32_t)v;
    else if (strcmp(name, "after_events") == 0)
        t->after_events = (uint32_t)v;
    else if (strcmp(name, "delay_ms") == 0)
        t->delay_ms = (uint32_t)v;
    else if (strcmp(name, "status") == 0 && v >= 300 && v < 600)
        t->status = (int)v;
    else
        return false;
    return true;
}

static bool set_word(struct trouble *t, const char *name, const char *word)
{
    if (strcmp(name, "mode") == 0)
        return trouble_find(word, &t->mode);
    if (strcmp(name, "scope") != 0)
        return false;
    t->everywhere = strcmp(word, "all") == 0;
    return t->everywhere || strcmp(word, "generation") == 0;
}

bool trouble_from_json(const char *text, size_t len, struct trouble *out)
{
    struct trouble t = {.status = 500};
    struct json root = {0}, key, value;
    struct buf name = {0}, word = {0};
    size_t at;
    bool good = json_check(text, len, &root, &at) && root.type == JSON_OBJECT;

    for (size_t pos = 0; good && json_next_member(&root, &pos, &key, &value);) {
        int64_t v;

        buf_clear(&name);
        buf_clear(&word);
        json_text(&key, &name);
        if (value.type == JSON_STRING) {
            json_text(&value, &word);
            good = set_word(&t, buf_cstr(&name), buf_cstr(&word));
        } else {
            good = json_int(&value, &v) && set_number(&t, buf_cstr(&name), v);
        }
    }
    buf_fini(&name);
    buf_fini(&word);
    if (good)
        *out = t;
    return good;
}

bool trouble_from_text(const char *text, struct trouble *out)
{
    struct trouble t = {.status = 500};
    char copy[256], *rest, *word, *value;

    if (strlen(text) >= sizeof copy)
        return false;
    strcpy(copy, text);
    word = strtok_r(copy, ":", &rest);
    if (word == NULL || !trouble_find(word, &t.mode))
        return false;
    while ((word = strtok_r(NULL, ",", &rest)) != NULL) {
        value = strchr(word, '=');
        if (value == NULL)
            return false;
        *value++ = '\0';
        if (!set_word(&t, word, value) && !set_number(&t, word, strtoll(value, NULL, 10)))
            return false;
    }
    *out = t;
    return true;
}

void trouble_print(const struct trouble *t, uint64_t hit, struct buf *out)
{
    buf_addf(out,
             "{\"mode\":\"%s\",\"count\":%u,\"after_events\":%u,\"delay_ms\":%u,\"status\":%d,"
             "\"scope\":\"%s\",\"hit\":%llu}",
             trouble_name(t->mode), t->count, t->after_events, t->delay_ms, t->status,
             t->everywhere ? "all" : "generation", (unsigned long long)hit);
}
