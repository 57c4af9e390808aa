/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "client/ctl.h"
#include "common/must.h"

/* ---- JSON ---- */

static void json_key(struct json *j, const char *key)
{
    if (j->comma)
        buf_adds(&j->text, ",");
    j->comma = true;
    if (key == NULL)
        return;
    buf_add_json(&j->text, key, strlen(key));
    buf_adds(&j->text, ":");
}

void json_begin(struct json *j, const char *key, char bracket)
{
    json_key(j, key);
    buf_add(&j->text, &bracket, 1);
    j->comma = false;
}

void json_end(struct json *j, char bracket)
{
    buf_add(&j->text, &bracket, 1);
    j->comma = true;
}

void json_text(struct json *j, const char *key, const char *s)
{
    json_key(j, key);
    buf_add_json(&j->text, s, strlen(s));
}

/* A line break between two tokens of a payload would break "one object a line". */
void json_raw(struct json *j, const char *key, const char *s, size_t len)
{
    size_t i;

    json_key(j, key);
    for (i = 0; i < len; i++)
        buf_add(&j->text, s[i] == '\n' || s[i] == '\r' ? " " : &s[i], 1);
}

void json_count(struct json *j, const char *key, uint64_t n)
{
    json_key(j, key);
    buf_addf(&j->text, "%llu", (unsigned long long)n);
}

void json_number(struct json *j, const char *key, double n)
{
    json_key(j, key);
    if (isfinite(n))
        buf_addf(&j->text, "%.9g", n);
    else
        buf_adds(&j->text, "null");
}

void json_flag(struct json *j, const char *key, bool yes)
{
    json_key(j, key);
    buf_adds(&j->text, yes ? "true" : "false");
}

void json_print(struct json *j)
{
    buf_adds(&j->text, "\n");
    fwrite(j->text.base, 1, j->text.len, stdout);
    fflush(stdout);
    buf_fini(&j->text);
    j->comma = false;
}

/* ---- tables ---- */

static void cell_add(struct table *t, char *cell)
{
    must(cell != NULL);
    if (t->len == t->cap) {
        t->cap = t->cap != 0 ? t->cap * 2 : 64;
        t->cells = realloc(t->cells, t->cap * sizeof(t->cells[0]));
        must(t->cells != NULL);
    }
    t->cells[t->len++] = cell;
}

void table_start(struct table *t, size_t columns, const char *const *titles)
{
    size_t i;

    *t = (struct table){.columns = columns};
    for (i = 0; i < columns; i++)
        cell_add(t, strdup(titles[i]));
}

void table_add(struct table *t, const char *fmt, ...)
{
    char *cell = NULL;
    va_list ap;

    va_start(ap, fmt);
    must(vasprintf(&cell, fmt, ap) >= 0);
    va_end(ap);
    cell_add(t, cell);
}

/* Characters, not bytes; good enough for ids. */
static int width_of(const char *s)
{
    int n = 0;

    for (; *s != '\0'; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void row_print(const struct table *t, size_t row, const int *widths)
{
    size_t i;

    for (i = 0; i < t->columns; i++) {
        const char *cell = t->cells[row * t->columns + i];
        bool right = t->cells[i][0] == '>';
        int pad;

        if (row == 0 && right)
            cell++;
        pad = widths[i] - width_of(cell);
        printf("%s%*s%s", i > 0 ? "  " : "", right ? pad : 0, "", cell);
        if (!right && i + 1 < t->columns)
            printf("%*s", pad, "");
    }
    printf("\n");
}

void table_print(struct table *t)
{
    size_t rows = t->len / t->columns, row, i;
    int *widths = calloc(t->columns, sizeof(*widths));

    must(widths != NULL);
    for (i = 0; i < rows * t->columns; i++) {
        int width = width_of(t->cells[i]) - (t->cells[i][0] == '>' && i < t->columns);

        if (width > widths[i % t->columns])
            widths[i % t->columns] = width;
    }
    for (row = 0; row < rows; row++)
        row_print(t, row, widths);
    free(widths);
    table_drop(t);
    fflush(stdout);
}

void table_drop(struct table *t)
{
    size_t i;

    for (i = 0; i < t->len; i++)
        free(t->cells[i]);
    free(t->cells);
    *t = (struct table){0};
}

/* ---- words ---- */

const char *time_text(uint64_t ms, char *dst)
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm tm;

    if (ms == 0 || gmtime_r(&seconds, &tm) == NULL ||
        strftime(dst, 24, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        strcpy(dst, "-");
    return dst;
}

const char *span_text(uint64_t ms, char *dst)
{
    unsigned long long s = ms / 1000;

    if (ms < 10000)
        snprintf(dst, 24, "%.1fs", (double)ms / 1000);
    else if (s < 60)
        snprintf(dst, 24, "%llus", s);
    else if (s < 3600)
        snprintf(dst, 24, "%llum %llus", s / 60, s % 60);
    else if (s < 86400)
        snprintf(dst, 24, "%lluh %llum", s / 3600, s / 60 % 60);
    else
        snprintf(dst, 24, "%llud %lluh", s / 86400, s / 3600 % 24);
    return dst;
}

char *printable(const char *s, size_t len)
{
    char *copy = malloc(len + 1);
    size_t i;

    must(copy != NULL);
    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        bool is_c1 = c == 0xc2 && i + 1 < len && (unsigned char)s[i + 1] < 0xa0;

        copy[i] = c < 0x20 || c == 0x7f ? ' ' : s[i];
        if (is_c1) {
            copy[i] = copy[i + 1] = ' ';
            i++;
        }
    }
    copy[len] = '\0';
    return copy;
}
