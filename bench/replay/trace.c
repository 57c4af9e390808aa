/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/trace.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "common/must.h"

#define TRACE_MAX_LINE (64U << 20)
#define TRACE_MAX_TOKENS (1U << 24)

static void *grown(void *p, size_t count, size_t *room, size_t size)
{
    if (count < *room)
        return p;
    *room = *room == 0 ? 64 : *room * 2;
    p = realloc(p, *room * size);
    must(p != NULL);
    return p;
}

struct trace *trace_new(const char *name, uint32_t block, enum trace_mode mode)
{
    struct trace *t = calloc(1, sizeof(*t));

    must(t != NULL);
    t->name = strdup(name);
    must(t->name != NULL);
    t->block = block;
    t->mode = mode;
    return t;
}

void trace_free(struct trace *t)
{
    if (t == NULL)
        return;
    free(t->name);
    free(t->calls);
    free(t->deps);
    free(t->launch);
    free(t);
}

uint32_t trace_add(struct trace *t, const struct trace_call *call, const uint32_t *deps,
                   uint32_t dep_count)
{
    struct trace_call *c;

    t->calls = grown(t->calls, t->call_count, &t->call_room, sizeof(*t->calls));
    c = &t->calls[t->call_count];
    *c = *call;
    c->dep_at = (uint32_t)t->dep_count;
    c->dep_count = dep_count;
    for (uint32_t i = 0; i < dep_count; i++) {
        t->deps = grown(t->deps, t->dep_count, &t->dep_room, sizeof(*t->deps));
        t->deps[t->dep_count++] = deps[i];
    }
    return (uint32_t)t->call_count++;
}

static bool read_u32(const json_t *row, size_t i, uint32_t max, uint32_t *out)
{
    const json_t *v = json_array_get(row, i);
    json_int_t n;

    if (!json_is_integer(v))
        return false;
    n = json_integer_value(v);
    if (n < 0 || n > (json_int_t)max)
        return false;
    *out = (uint32_t)n;
    return true;
}

static bool read_seconds(const json_t *v, double *out)
{
    double d = json_number_value(v);

    if (!json_is_number(v) || !isfinite(d) || d < 0)
        return false;
    *out = d;
    return true;
}

/* False: the row is not a call. */
static bool add_row(struct trace *t, const json_t *row)
{
    struct trace_call c = {.ref = -1};
    const json_t *deps = json_array_get(row, 3), *ref = json_array_get(row, 7);
    uint32_t *list, n;
    bool ok = true;

    if (json_array_size(row) != 9 || !json_is_array(deps) || !json_is_integer(ref))
        return false;
    if (!read_u32(row, 0, UINT32_MAX - 1, &c.workflow) || !read_u32(row, 1, UINT32_MAX, &c.agent) ||
        !read_seconds(json_array_get(row, 2), &c.t) ||
        !read_seconds(json_array_get(row, 4), &c.gap) ||
        !read_u32(row, 5, TRACE_MAX_TOKENS, &c.in) || !read_u32(row, 6, TRACE_MAX_TOKENS, &c.out) ||
        !read_u32(row, 8, TRACE_MAX_TOKENS, &c.shared))
        return false;
    if (json_integer_value(ref) < -1 || json_integer_value(ref) >= (json_int_t)t->call_count)
        return false;
    c.ref = (int32_t)json_integer_value(ref);
    if (c.out == 0)
        c.out = 1;
    n = (uint32_t)json_array_size(deps);
    list = calloc(n + 1, sizeof(*list));
    must(list != NULL);
    for (uint32_t i = 0; i < n && ok; i++)
        ok = t->call_count > 0 && read_u32(deps, i, (uint32_t)t->call_count - 1, &list[i]);
    if (ok)
        trace_add(t, &c, list, n);
    free(list);
    return ok;
}

static bool add_launch(struct trace *t, const json_t *list)
{
    size_t n = json_array_size(list);

    t->launch = calloc(n + 1, sizeof(*t->launch));
    must(t->launch != NULL);
    for (size_t i = 0; i < n; i++) {
        const json_t *row = json_array_get(list, i);
        const json_t *start = json_array_get(row, 1);

        if (!read_u32(row, 0, UINT32_MAX, &t->launch[i].workflow))
            return false;
        t->launch[i].start = -1;
        if (!json_is_null(start) && !read_seconds(start, &t->launch[i].start))
            return false;
    }
    t->launch_count = n;
    return true;
}

static struct trace *from_metadata(const json_t *meta)
{
    const char *name = json_string_value(json_object_get(meta, "trace"));
    const char *mode = json_string_value(json_object_get(meta, "mode"));
    json_int_t block = json_integer_value(json_object_get(meta, "block"));
    const json_t *launch = json_object_get(meta, "launch");
    struct trace *t;

    if (block < 1 || block > 65536 || mode == NULL ||
        (strcmp(mode, "open") != 0 && strcmp(mode, "closed") != 0))
        return NULL;
    t = trace_new(name != NULL ? name : "", (uint32_t)block,
                  strcmp(mode, "open") == 0 ? TRACE_OPEN : TRACE_CLOSED);
    if (json_is_array(launch) && !add_launch(t, launch)) {
        trace_free(t);
        return NULL;
    }
    return t;
}

/* One line, without its end; *t is made by the first. */
static bool take_line(struct trace **t, const char *line, size_t len)
{
    json_t *v = json_loadb(line, len, 0, NULL);
    bool ok = true;

    if (*t == NULL) {
        *t = from_metadata(v);
        ok = *t != NULL;
    } else {
        ok = add_row(*t, v);
    }
    json_decref(v);
    return ok;
}

enum err trace_parse(const char *text, size_t len, struct trace **out, struct buf *why)
{
    struct trace *t = NULL;
    size_t at = 0, line = 1;

    for (; at < len; line++) {
        const char *end = memchr(text + at, '\n', len - at);
        size_t n = end != NULL ? (size_t)(end - text) - at : len - at;

        if (n > 0 && !take_line(&t, text + at, n)) {
            buf_addf(why, "line %zu is not %s", line, line == 1 ? "trace metadata" : "a call");
            trace_free(t);
            return ERR_INVALID;
        }
        at += n + 1;
    }
    if (t == NULL || t->call_count == 0) {
        buf_adds(why, "no calls in it");
        trace_free(t);
        return ERR_INVALID;
    }
    *out = t;
    return ERR_OK;
}

enum err trace_load(const char *path, struct trace **out, struct buf *why)
{
    gzFile f = gzopen(path, "rb");
    struct buf text = {0};
    enum err e = ERR_OK;
    int n = 0;

    if (f == NULL) {
        buf_adds(why, "cannot be opened");
        return ERR_NOT_FOUND;
    }
    do {
        char *room = buf_reserve(&text, 1U << 20);

        n = gzread(f, room, 1U << 20);
        if (n > 0)
            text.len += (size_t)n;
    } while (n > 0 && text.len < TRACE_MAX_LINE * 16UL);
    gzclose(f);
    if (n != 0) {
        buf_adds(why, "cannot be read");
        e = ERR_IO;
    } else {
        e = trace_parse(text.base, text.len, out, why);
    }
    buf_fini(&text);
    return e;
}
