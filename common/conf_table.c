/* SPDX-License-Identifier: Apache-2.0 */
#include "common/conf_table.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

#define ROW(owner, kind, field, dflt, min, max, help) \
    {#field, #dflt, help, CONF_IS_##kind, offsetof(struct owner, field), min, max},

#define CONF(type, name, dflt, min, max, help) ROW(conf_common, type, name, dflt, min, max, help)
static const struct conf_row common_rows[] = {
#include "common/conf_common.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_gateway, type, name, dflt, min, max, help)
static const struct conf_row gateway_rows[] = {
#include "common/conf_gateway.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_scheduler, type, name, dflt, min, max, help)
static const struct conf_row scheduler_rows[] = {
#include "common/conf_scheduler.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_mailbox, type, name, dflt, min, max, help)
static const struct conf_row mailbox_rows[] = {
#include "common/conf_mailbox.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_engine, type, name, dflt, min, max, help)
static const struct conf_row engine_rows[] = {
#include "common/conf_engine.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_key, type, name, dflt, min, max, help)
static const struct conf_row key_rows[] = {
#include "common/conf_key.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_profile, type, name, dflt, min, max, help)
static const struct conf_row profile_rows[] = {
#include "common/conf_profile.def"
};
#undef CONF
#define CONF(type, name, dflt, min, max, help) ROW(conf_policy, type, name, dflt, min, max, help)
static const struct conf_row policy_rows[] = {
#include "common/conf_policy.def"
};
#undef CONF

#define COUNT(rows) (sizeof(rows) / sizeof((rows)[0]))
#define ONE(field, help)                                                              \
    {                                                                                 \
#field, help, field##_rows, COUNT(field##_rows), sizeof(struct conf_##field), \
            offsetof(struct conf, field), 0, 0                                        \
    }
#define MANY(field, list, max, help)                                                 \
    {                                                                                \
#list, help, field##_rows, COUNT(field##_rows), sizeof(struct conf_##field), \
            offsetof(struct conf, list), offsetof(struct conf, field##_count), max   \
    }

const struct conf_section conf_sections[CONF_SECTIONS] = {
    ONE(common, "Settings of all processes."),
    ONE(gateway, "Gateway workers."),
    ONE(scheduler, "The scheduler."),
    ONE(mailbox, "The mailbox."),
    MANY(engine, engines, 256, "Inference engines, one item each."),
    MANY(key, keys, 4096, "API keys, one item each; none: the data plane takes every request."),
    MANY(profile, profiles, 1000, "Named kinds of workflows, one item each."),
    MANY(policy, policies, 64,
         "Placement of some models and routes, one item each; the first that fits counts."),
};

_Static_assert(COUNT(common_rows) <= CONF_ROWS_MAX && COUNT(gateway_rows) <= CONF_ROWS_MAX &&
                   COUNT(scheduler_rows) <= CONF_ROWS_MAX && COUNT(mailbox_rows) <= CONF_ROWS_MAX &&
                   COUNT(engine_rows) <= CONF_ROWS_MAX && COUNT(key_rows) <= CONF_ROWS_MAX &&
                   COUNT(profile_rows) <= CONF_ROWS_MAX && COUNT(policy_rows) <= CONF_ROWS_MAX,
               "CONF_ROWS_MAX");

const struct conf_row *conf_row_find(const struct conf_section *s, const char *name)
{
    size_t i;

    for (i = 0; i < s->row_count; i++)
        if (strcmp(s->rows[i].name, name) == 0)
            return &s->rows[i];
    return NULL;
}

bool conf_row_is_bytes(const struct conf_row *row)
{
    size_t n = strlen(row->name);

    return (row->type == CONF_IS_u32 || row->type == CONF_IS_u64) && n > 6 &&
           strcmp(row->name + n - 6, "_bytes") == 0;
}

bool conf_row_is_required(const struct conf_row *row)
{
    return row->type == CONF_IS_str && row->min > 0 && strcmp(row->dflt, "\"\"") == 0;
}

static char *array_get(const struct conf *c, const struct conf_section *s)
{
    char *array;

    memcpy(&array, (const char *)c + s->offset, sizeof(array));
    return array;
}

size_t conf_section_count(const struct conf *c, const struct conf_section *s)
{
    size_t n = 1;

    if (s->count_max > 0)
        memcpy(&n, (const char *)c + s->count_offset, sizeof(n));
    return n;
}

void *conf_section_at(const struct conf *c, const struct conf_section *s, size_t i)
{
    must(i < conf_section_count(c, s));
    if (s->count_max > 0)
        return array_get(c, s) + i * s->bytes;
    return (char *)(uintptr_t)c + s->offset;
}

void *conf_section_grow(struct conf *c, const struct conf_section *s)
{
    size_t n = conf_section_count(c, s);
    char *array = realloc(array_get(c, s), (n + 1) * s->bytes);

    must(array != NULL && s->count_max > 0);
    memset(array + n * s->bytes, 0, s->bytes);
    n++;
    memcpy((char *)c + s->offset, &array, sizeof(array));
    memcpy((char *)c + s->count_offset, &n, sizeof(n));
    return array + (n - 1) * s->bytes;
}
