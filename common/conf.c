/* SPDX-License-Identifier: Apache-2.0 */
#include "common/conf.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <yaml.h>

#include "common/conf_table.h"
#include "common/log.h"
#include "common/must.h"

/*
 * The loader: libyaml's events in, struct conf out, and every mistake of the file in one go.
 *
 * The file has three levels and no more: sections, settings (or items of a list), values. Whatever
 * does not fit is named with its line and skipped as a whole, and reading goes on. Anchors and
 * aliases are refused: they are how a small file becomes a large one.
 *
 * Not here: what a value looks like (conf_value.c), what must agree (conf_check.c).
 */
#define FILE_MAX (4u << 20)
#define ERRORS_MAX 50
#define NAME_MAX_BYTES 64

struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool dead; /* end of the stream, or a syntax error that has been told */
    const char *name;
    struct buf *errors;
    unsigned error_count;
    struct conf *conf;
    unsigned section_line[CONF_SECTIONS];
    bool full_told[CONF_SECTIONS];
    /* Where settings were given, CONF_ROWS_MAX numbers for each struct of a section. */
    unsigned *lines[CONF_SECTIONS];
};

#define LINE_IS_BAD (1u << 31) /* in lines: the value there has been refused */

__attribute__((format(printf, 3, 4))) static void complain(struct reader *r, unsigned line,
                                                           const char *fmt, ...)
{
    va_list ap;

    r->error_count++;
    if (r->error_count == ERRORS_MAX + 1)
        buf_addf(r->errors, "%s: more errors follow\n", r->name);
    if (r->error_count > ERRORS_MAX)
        return;
    if (line > 0)
        buf_addf(r->errors, "%s:%u: ", r->name, line);
    else
        buf_addf(r->errors, "%s: ", r->name);
    va_start(ap, fmt);
    buf_vaddf(r->errors, fmt, ap);
    va_end(ap);
    buf_adds(r->errors, "\n");
}

static unsigned line_of_event(const struct reader *r)
{
    return (unsigned)r->event.start_mark.line + 1;
}

static void complain_syntax(struct reader *r)
{
    char quoted[160];
    const char *what = r->parser.problem != NULL ? r->parser.problem : "cannot be read";
    size_t line = r->parser.problem_mark.line;

    if (r->parser.error == YAML_READER_ERROR)
        line = r->parser.mark.line; /* bytes that are no UTF-8 */
    log_quote(quoted, sizeof(quoted), what, strlen(what));
    complain(r, (unsigned)line + 1, "not YAML: %.*s", (int)strlen(quoted) - 2, quoted + 1);
}

/* Moves to the next event and answers its type; YAML_NO_EVENT once the reader is dead. */
static yaml_event_type_t next(struct reader *r)
{
    if (r->dead)
        return YAML_NO_EVENT;
    yaml_event_delete(&r->event);
    memset(&r->event, 0, sizeof(r->event));
    if (!yaml_parser_parse(&r->parser, &r->event)) {
        complain_syntax(r);
        r->dead = true;
        return YAML_NO_EVENT;
    }
    if (r->event.type == YAML_STREAM_END_EVENT)
        r->dead = true;
    return r->event.type;
}

/* The current event begins a node: moves to the node's last event. */
static void skip_node(struct reader *r)
{
    unsigned depth = 0;
    yaml_event_type_t t = r->event.type;

    for (;;) {
        if (t == YAML_MAPPING_START_EVENT || t == YAML_SEQUENCE_START_EVENT)
            depth++;
        if (t == YAML_MAPPING_END_EVENT || t == YAML_SEQUENCE_END_EVENT)
            depth--;
        if (depth == 0 || r->dead)
            return;
        t = next(r);
    }
}

static bool event_is_nothing(const struct reader *r)
{
    return r->event.type == YAML_SCALAR_EVENT && r->event.data.scalar.length == 0 &&
           r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
}

static bool event_has_anchor(const struct reader *r)
{
    switch (r->event.type) {
    case YAML_ALIAS_EVENT:
        return true;
    case YAML_SCALAR_EVENT:
        return r->event.data.scalar.anchor != NULL;
    case YAML_SEQUENCE_START_EVENT:
        return r->event.data.sequence_start.anchor != NULL;
    case YAML_MAPPING_START_EVENT:
        return r->event.data.mapping_start.anchor != NULL;
    case YAML_NO_EVENT:
    case YAML_STREAM_START_EVENT:
    case YAML_STREAM_END_EVENT:
    case YAML_DOCUMENT_START_EVENT:
    case YAML_DOCUMENT_END_EVENT:
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        break;
    }
    return false;
}

/* The node that begins here is unwanted for a reason of form; says so and skips it. */
static bool refuse_anchor(struct reader *r, const char *where)
{
    if (!event_has_anchor(r))
        return false;
    complain(r, line_of_event(r), "%s: anchors and aliases are not taken", where);
    skip_node(r);
    return true;
}

/* "gateway.listen", "engines[2].url"; name "" for the struct itself. */
static void place_print(char *dst, size_t size, const struct conf_section *s, size_t i,
                        const char *name)
{
    if (s->count_max > 0)
        snprintf(dst, size, "%s[%zu]%s%s", s->name, i, *name != '\0' ? "." : "", name);
    else
        snprintf(dst, size, "%s%s%s", s->name, *name != '\0' ? "." : "", name);
}

/* ---- nearest names ---- */

/* Edit distance with neighbours swapped counted once; names are at most NAME_MAX_BYTES. */
static unsigned distance(const char *a, const char *b)
{
    unsigned rows[3][NAME_MAX_BYTES + 1];
    size_t n = strlen(a), m = strlen(b), i, j;

    if (n > NAME_MAX_BYTES || m > NAME_MAX_BYTES)
        return UINT32_MAX;
    for (j = 0; j <= m; j++)
        rows[0][j] = (unsigned)j;
    for (i = 1; i <= n; i++) {
        unsigned *now = rows[i % 3], *up = rows[(i + 2) % 3], *upup = rows[(i + 1) % 3];

        now[0] = (unsigned)i;
        for (j = 1; j <= m; j++) {
            unsigned best = up[j - 1] + (a[i - 1] != b[j - 1]);

            best = up[j] + 1 < best ? up[j] + 1 : best;
            best = now[j - 1] + 1 < best ? now[j - 1] + 1 : best;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                upup[j - 2] + 1 < best)
                best = upup[j - 2] + 1;
            now[j] = best;
        }
    }
    return rows[n % 3][m];
}

/* Keeps name in *best if it is nearer to key than what was there, and near enough to be meant. */
static void consider(const char *key, const char *name, const char **best, unsigned *best_distance)
{
    unsigned d = distance(key, name);
    size_t shorter = strlen(name) < strlen(key) ? strlen(name) : strlen(key);
    bool inside = strlen(key) >= 4 && (strstr(name, key) != NULL || strstr(key, name) != NULL);

    if (d > 1 + shorter / 3 && !inside)
        return;
    if (*best == NULL || d < *best_distance) {
        *best = name;
        *best_distance = d;
    }
}

/* The nearest name of this section, else one of that name or the nearest in another section. */
static void complain_unknown(struct reader *r, const struct conf_section *s, const char *place,
                             const char *key)
{
    const char *near = NULL, *home = "";
    unsigned near_distance = 0;
    size_t i, j;

    for (i = 0; i < s->row_count; i++)
        consider(key, s->rows[i].name, &near, &near_distance);
    for (i = 0; i < CONF_SECTIONS && (near == NULL || near_distance > 0); i++) {
        const struct conf_section *other = &conf_sections[i];
        const char *before = near;

        if (*home == '\0' && near != NULL && conf_row_find(other, key) == NULL)
            continue; /* a slip in this section is likelier than one of section and letters */
        for (j = 0; j < other->row_count; j++)
            consider(key, other->rows[j].name, &near, &near_distance);
        if (near != before)
            home = other->name;
    }
    if (near == NULL)
        complain(r, line_of_event(r), "%s: no such setting", place);
    else
        complain(r, line_of_event(r), "%s: no such setting; did you mean \"%s%s%s\"?", place, home,
                 *home != '\0' ? "." : "", near);
}

/* ---- values ---- */

/* One struct of a section while it is read. */
struct scope {
    const struct conf_section *section;
    size_t index; /* in its list, else 0 */
    void *base;
    unsigned *lines; /* CONF_ROWS_MAX, 0: not given yet */
};

static void value_take(struct reader *r, struct scope *s, const struct conf_row *row,
                       const char *place)
{
    struct buf why = {0};

    if (conf_value_set(row, s->base, (const char *)r->event.data.scalar.value,
                       r->event.data.scalar.length, &why) != ERR_OK) {
        complain(r, line_of_event(r), "%s: %s", place, buf_cstr(&why));
        s->lines[row - s->section->rows] |= LINE_IS_BAD;
    }
    buf_fini(&why);
}

static void list_read(struct reader *r, struct scope *s, const struct conf_row *row,
                      const char *place)
{
    struct conf_list *list = (void *)((char *)s->base + row->offset);
    unsigned line = line_of_event(r);

    conf_value_free(row, s->base); /* the default */
    if (r->event.type == YAML_SCALAR_EVENT) {
        if (r->event.data.scalar.length > 0)
            value_take(r, s, row, place);
    } else if (r->event.type == YAML_SEQUENCE_START_EVENT) {
        while (next(r) != YAML_SEQUENCE_END_EVENT && !r->dead) {
            if (refuse_anchor(r, place))
                continue;
            if (r->event.type != YAML_SCALAR_EVENT) {
                complain(r, line_of_event(r), "%s: an item must be plain text", place);
                skip_node(r);
            } else if (list->count <= (size_t)row->max) {
                value_take(r, s, row, place);
            }
        }
    } else {
        complain(r, line, "%s: must be a list of texts", place);
        skip_node(r);
        return;
    }
    if ((double)list->count < row->min || (double)list->count > row->max)
        complain(r, line, "%s: takes %.0f to %.0f items", place, row->min, row->max);
}

static void value_read(struct reader *r, struct scope *s, const struct conf_row *row)
{
    char place[160];

    place_print(place, sizeof(place), s->section, s->index, row->name);
    if (refuse_anchor(r, place))
        return;
    if (event_is_nothing(r)) {
        complain(r, line_of_event(r), "%s: has no value; leave the line out for the default",
                 place);
    } else if (row->type == CONF_IS_list) {
        list_read(r, s, row, place);
    } else if (r->event.type == YAML_SCALAR_EVENT) {
        value_take(r, s, row, place);
    } else {
        complain(r, line_of_event(r), "%s: must be a single value", place);
        skip_node(r);
    }
}

/* ---- structure ---- */

/* The current event is a key: copies it, or complains and answers false. Both leave the reader at
 * the key's last event. */
static bool key_read(struct reader *r, const char *where, char *dst, size_t size)
{
    char quoted[NAME_MAX_BYTES + 8];

    if (refuse_anchor(r, where))
        return false;
    if (r->event.type != YAML_SCALAR_EVENT) {
        complain(r, line_of_event(r), "%s: a name must be plain text", where);
        skip_node(r);
        return false;
    }
    /* Quoted and cut: names come out in messages. */
    log_quote(quoted, sizeof(quoted), (const char *)r->event.data.scalar.value,
              r->event.data.scalar.length);
    snprintf(dst, size, "%.*s", (int)strlen(quoted) - 2, quoted + 1);
    return true;
}

static const struct conf_row *row_choose(struct reader *r, struct scope *s, const char *key)
{
    const struct conf_row *row = conf_row_find(s->section, key);
    char place[160];
    unsigned *line;

    place_print(place, sizeof(place), s->section, s->index, key);
    if (row == NULL) {
        complain_unknown(r, s->section, place, key);
        return NULL;
    }
    line = &s->lines[row - s->section->rows];
    if (*line != 0) {
        complain(r, line_of_event(r), "%s: given twice, first on line %u", place,
                 *line & ~LINE_IS_BAD);
        return NULL;
    }
    *line = line_of_event(r);
    return row;
}

/* Reads the settings of one struct; the current event is the start of its mapping. */
static void scope_read(struct reader *r, struct scope *s)
{
    char key[NAME_MAX_BYTES + 8], place[160];
    unsigned line = line_of_event(r);
    size_t i;

    place_print(place, sizeof(place), s->section, s->index, "");
    while (next(r) != YAML_MAPPING_END_EVENT && !r->dead) {
        const struct conf_row *row = NULL;

        if (key_read(r, place, key, sizeof(key)))
            row = row_choose(r, s, key);
        next(r);
        if (r->dead)
            return;
        if (row != NULL)
            value_read(r, s, row);
        else
            skip_node(r);
    }
    for (i = 0; i < s->section->row_count && !r->dead; i++)
        if (conf_row_is_required(&s->section->rows[i]) && s->lines[i] == 0)
            complain(r, line, "%s.%s: is required", place, s->section->rows[i].name);
}

static void scope_default(const struct scope *s)
{
    size_t i;

    for (i = 0; i < s->section->row_count; i++)
        conf_value_default(&s->section->rows[i], s->base);
}

static unsigned *lines_grow(struct reader *r, size_t section, size_t count)
{
    size_t bytes = CONF_ROWS_MAX * sizeof(unsigned);

    r->lines[section] = realloc(r->lines[section], count * bytes);
    must(r->lines[section] != NULL);
    memset((char *)r->lines[section] + (count - 1) * bytes, 0, bytes);
    return r->lines[section] + (count - 1) * CONF_ROWS_MAX;
}

static void item_read(struct reader *r, size_t section)
{
    struct scope s = {.section = &conf_sections[section]};

    if (refuse_anchor(r, s.section->name))
        return;
    if (r->event.type != YAML_MAPPING_START_EVENT) {
        complain(r, line_of_event(r), "%s: an item must be a group of settings", s.section->name);
        skip_node(r);
        return;
    }
    s.index = conf_section_count(r->conf, s.section);
    if (s.index >= s.section->count_max) {
        if (!r->full_told[section])
            complain(r, line_of_event(r), "%s: takes at most %zu items", s.section->name,
                     s.section->count_max);
        r->full_told[section] = true;
        skip_node(r);
        return;
    }
    s.base = conf_section_grow(r->conf, s.section);
    s.lines = lines_grow(r, section, s.index + 1);
    scope_default(&s);
    scope_read(r, &s);
}

static void section_read(struct reader *r, size_t section)
{
    struct scope s = {.section = &conf_sections[section], .lines = r->lines[section]};
    bool is_list = s.section->count_max > 0;

    if (refuse_anchor(r, s.section->name) || event_is_nothing(r))
        return;
    if (!is_list && r->event.type == YAML_MAPPING_START_EVENT) {
        s.base = conf_section_at(r->conf, s.section, 0);
        scope_read(r, &s);
    } else if (is_list && r->event.type == YAML_SEQUENCE_START_EVENT) {
        while (next(r) != YAML_SEQUENCE_END_EVENT && !r->dead)
            item_read(r, section);
    } else {
        complain(r, line_of_event(r), "%s: must be %s", s.section->name,
                 is_list ? "a list" : "a group of settings");
        skip_node(r);
    }
}

/* Answers CONF_SECTIONS for a name that is none, or was there already; says so. */
static size_t section_choose(struct reader *r, const char *key)
{
    const char *near = NULL;
    unsigned near_distance = 0;
    size_t i;

    for (i = 0; i < CONF_SECTIONS && strcmp(conf_sections[i].name, key) != 0; i++)
        consider(key, conf_sections[i].name, &near, &near_distance);
    if (i < CONF_SECTIONS && r->section_line[i] != 0) {
        complain(r, line_of_event(r), "%s: given twice, first on line %u", key, r->section_line[i]);
        return CONF_SECTIONS;
    }
    if (i < CONF_SECTIONS)
        r->section_line[i] = line_of_event(r);
    else if (near != NULL)
        complain(r, line_of_event(r), "%s: no such section; did you mean \"%s\"?", key, near);
    else
        complain(r, line_of_event(r), "%s: no such section", key);
    return i;
}

static void root_read(struct reader *r)
{
    char key[NAME_MAX_BYTES + 8];

    if (event_is_nothing(r))
        return;
    if (r->event.type != YAML_MAPPING_START_EVENT) {
        complain(r, line_of_event(r), "the file must consist of sections (common:, gateway:, ...)");
        skip_node(r);
        return;
    }
    while (next(r) != YAML_MAPPING_END_EVENT && !r->dead) {
        size_t section = CONF_SECTIONS;

        if (key_read(r, "the file", key, sizeof(key)))
            section = section_choose(r, key);
        next(r);
        if (r->dead)
            return;
        if (section < CONF_SECTIONS)
            section_read(r, section);
        else
            skip_node(r);
    }
}

static void stream_read(struct reader *r)
{
    bool seen = false;

    while (!r->dead) {
        yaml_event_type_t t = next(r);

        if (t != YAML_DOCUMENT_START_EVENT)
            continue;
        if (seen) {
            complain(r, line_of_event(r), "only one YAML document is taken");
            return;
        }
        seen = true;
        next(r);
        if (!r->dead)
            root_read(r);
    }
}

/* ---- for conf_check.c ---- */

static unsigned find_line(void *ctx, const struct conf_section *s, size_t i, const char *name)
{
    const struct reader *r = ctx;
    const struct conf_row *row = conf_row_find(s, name);

    must(row != NULL);
    return r->lines[s - conf_sections][i * CONF_ROWS_MAX + (size_t)(row - s->rows)];
}

static void complain_check(void *ctx, unsigned line, const struct conf_section *s, size_t i,
                           const char *name, const char *text)
{
    struct reader *r = ctx;
    char place[160];

    if (line & LINE_IS_BAD)
        return; /* what is checked is the default, which nobody asked for */
    place_print(place, sizeof(place), s, i, name);
    complain(r, line != 0 ? line : r->section_line[s - conf_sections], "%s: %s", place, text);
}

/* ---- the outside ---- */

static struct conf *conf_new(struct reader *r, const char *name)
{
    struct conf *c = calloc(1, sizeof(*c));
    size_t i;

    must(c != NULL);
    c->path = strdup(name);
    must(c->path != NULL);
    for (i = 0; i < CONF_SECTIONS; i++) {
        struct scope s = {.section = &conf_sections[i]};

        if (s.section->count_max > 0)
            continue;
        s.base = conf_section_at(c, s.section, 0);
        s.lines = lines_grow(r, i, 1);
        scope_default(&s);
    }
    return c;
}

enum err conf_parse(const char *text, size_t len, const char *name, struct conf **out,
                    struct buf *errors)
{
    struct reader r = {.name = name, .errors = errors};
    struct conf_finder finder = {&r, find_line, complain_check};
    size_t i;

    must(yaml_parser_initialize(&r.parser) == 1);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r.parser, (const unsigned char *)text, len);
    r.conf = conf_new(&r, name);
    stream_read(&r);
    conf_check(r.conf, &finder);
    yaml_event_delete(&r.event);
    yaml_parser_delete(&r.parser);
    for (i = 0; i < CONF_SECTIONS; i++)
        free(r.lines[i]);
    if (r.error_count > 0) {
        conf_free(r.conf);
        return ERR_CONF;
    }
    *out = r.conf;
    return ERR_OK;
}

static enum err file_read(const char *path, struct buf *text, struct buf *errors)
{
    FILE *f = fopen(path, "re");
    enum err e = ERR_OK;
    size_t n = 1;

    if (f == NULL) {
        buf_addf(errors, "%s: %s\n", path, strerror(errno));
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    }
    while (n > 0 && text->len <= FILE_MAX) {
        n = fread(buf_reserve(text, 65536), 1, 65536, f);
        text->len += n;
    }
    if (ferror(f)) {
        buf_addf(errors, "%s: %s\n", path, strerror(errno));
        e = ERR_IO;
    } else if (text->len > FILE_MAX) {
        buf_addf(errors, "%s: larger than 4 MiB\n", path);
        e = ERR_TOO_LARGE;
    }
    fclose(f);
    return e;
}

enum err conf_load(const char *path, struct conf **out, struct buf *errors)
{
    struct buf text = {0};
    enum err e = file_read(path, &text, errors);

    if (e == ERR_OK)
        e = conf_parse(text.base != NULL ? text.base : "", text.len, path, out, errors);
    buf_fini(&text);
    return e;
}

void conf_free(struct conf *c)
{
    size_t i, j, k;

    if (c == NULL)
        return;
    for (i = 0; i < CONF_SECTIONS; i++) {
        const struct conf_section *s = &conf_sections[i];

        for (j = 0; j < conf_section_count(c, s); j++)
            for (k = 0; k < s->row_count; k++)
                conf_value_free(&s->rows[k], conf_section_at(c, s, j));
    }
    free(c->engines);
    free(c->keys);
    free(c->profiles);
    free(c->policies);
    free(c->path);
    free(c);
}

static const char *url_of(const struct conf *c, const char *set, const char *name, char *dst,
                          size_t size)
{
    if (set[0] != '\0')
        snprintf(dst, size, "%s", set);
    else
        snprintf(dst, size, "ipc://%s/sock/%s", c->common.run_dir, name);
    return dst;
}

const char *conf_scheduler_url(const struct conf *c, char *dst, size_t size)
{
    return url_of(c, c->common.scheduler_url, "scheduler", dst, size);
}

const char *conf_mailbox_url(const struct conf *c, char *dst, size_t size)
{
    return url_of(c, c->common.mailbox_url, "mailbox", dst, size);
}
