/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CONF_TABLE_H
#define SLIP_CONF_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include "common/conf.h"

/*
 * The rows of conf_<section>.def as data, for the files conf*.c alone. Everybody else reads the
 * struct fields.
 */
enum conf_type {
    CONF_IS_u32,
    CONF_IS_u64,
    CONF_IS_ms,
    CONF_IS_f64,
    CONF_IS_flag,
    CONF_IS_str,
    CONF_IS_list,
    CONF_IS_channel,
    CONF_IS_level,
    CONF_IS_usage,
    CONF_IS_overflow,
    CONF_IS_store
};

/* min, max: of the value, of a string's length, of a list's count; max 0: as much as the type
 * holds. */
struct conf_row {
    const char *name, *dflt, *help;
    enum conf_type type;
    size_t offset;
    double min, max;
};

struct conf_section {
    const char *name, *help;
    const struct conf_row *rows;
    size_t row_count;
    size_t bytes;  /* of the section's struct */
    size_t offset; /* in struct conf: of the struct, or of the pointer to the array */
    size_t count_offset, count_max; /* lists only; count_max 0: not a list */
};

#define CONF_ROWS_MAX 64
#define CONF_SECTIONS 8
extern const struct conf_section conf_sections[CONF_SECTIONS];

const struct conf_row *conf_row_find(const struct conf_section *s, const char *name);
bool conf_row_is_bytes(const struct conf_row *row);    /* takes K, M, G */
bool conf_row_is_required(const struct conf_row *row); /* in a list: has no usable default */

/* The i-th struct of a section (0 for those that are no list). */
void *conf_section_at(const struct conf *c, const struct conf_section *s, size_t i);
size_t conf_section_count(const struct conf *c, const struct conf_section *s);
void *conf_section_grow(struct conf *c, const struct conf_section *s); /* one more, zeroed */

/* Converts text and checks its range; on ERR_CONF *why says what is wrong and nothing has changed.
 * A list takes one more item with each call, without a look at their number. */
enum err conf_value_set(const struct conf_row *row, void *base, const char *text, size_t len,
                        struct buf *why);
/* The row's default; needed once before a struct is used. */
void conf_value_default(const struct conf_row *row, void *base);
void conf_value_free(const struct conf_row *row, void *base);
void conf_value_print(const struct conf_row *row, const void *base, struct buf *out); /* YAML */
void conf_range_print(const struct conf_row *row, struct buf *out); /* "1K to 1G"; may be empty */
/* "auto, nng, shm or none": the words of an enumeration; nothing for other types. */
void conf_words_print(const struct conf_row *row, struct buf *out);
void conf_default_print(const struct conf_row *row, struct buf *out); /* YAML */

/* Checks of more than one value. line_of answers the file's line of a setting, 0 if it was not
 * given. */
struct conf_finder {
    void *ctx;
    unsigned (*line_of)(void *ctx, const struct conf_section *s, size_t i, const char *name);
    void (*complain)(void *ctx, unsigned line, const struct conf_section *s, size_t i,
                     const char *name, const char *text);
};
void conf_check(const struct conf *c, const struct conf_finder *f);

#endif
