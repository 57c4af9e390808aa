/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/conf_table.h"

/* The configuration as text for people: what is in effect, the reference, the example. */

static void print_struct(const struct conf_section *s, const void *base, const char *first,
                         struct buf *out)
{
    size_t i;

    for (i = 0; i < s->row_count; i++) {
        buf_addf(out, "%s%s: ",
                 i == 0                             ? first
                 : *first == ' ' && first[2] == '-' ? "    "
                                                    : "  ",
                 s->rows[i].name);
        conf_value_print(&s->rows[i], base, out);
        buf_adds(out, "\n");
    }
}

void conf_print(const struct conf *c, struct buf *out)
{
    size_t i, j;

    for (i = 0; i < CONF_SECTIONS; i++) {
        const struct conf_section *s = &conf_sections[i];
        bool is_list = s->count_max > 0;

        buf_addf(out, "%s:%s\n", s->name, is_list && conf_section_count(c, s) == 0 ? " []" : "");
        for (j = 0; j < conf_section_count(c, s); j++)
            print_struct(s, conf_section_at(c, s, j), is_list ? "  - " : "  ", out);
    }
}

static const char *type_name(const struct conf_row *row)
{
    switch (row->type) {
    case CONF_IS_u32:
    case CONF_IS_u64:
        return conf_row_is_bytes(row) ? "bytes" : "number";
    case CONF_IS_ms:
        return "time";
    case CONF_IS_f64:
        return "decimal";
    case CONF_IS_flag:
        return "true or false";
    case CONF_IS_str:
        return "text";
    case CONF_IS_list:
        return "list of texts";
    case CONF_IS_channel:
    case CONF_IS_level:
    case CONF_IS_usage:
    case CONF_IS_overflow:
    case CONF_IS_store:
        return "word";
    }
    return "";
}

static void reference_row(const struct conf_row *row, struct buf *out)
{
    buf_addf(out, "| `%s` | %s | ", row->name, type_name(row));
    if (conf_row_is_required(row)) {
        buf_adds(out, "required");
    } else {
        buf_adds(out, "`");
        conf_default_print(row, out);
        buf_adds(out, "`");
    }
    buf_adds(out, " | ");
    conf_range_print(row, out);
    conf_words_print(row, out);
    buf_addf(out, " | %s |\n", row->help);
}

void conf_reference(struct buf *out)
{
    size_t i, j;

    buf_adds(out, "# Settings\n\n"
                  "One YAML file for all processes: `--config FILE`, else `$SLIPSTREAM_CONFIG`, "
                  "else `/etc/slipstream/slipstream.yaml`.\n"
                  "Each process reads its own section and checks all of them; `--check` does only "
                  "that, `--print-config` prints what is in effect.\n\n"
                  "- An unknown name, a name given twice and a value out of range are errors; all "
                  "of them are told at once, with their lines.\n"
                  "- A *time* is `250ms`, `5s`, `1.5m` or `1h`; a bare number is milliseconds.\n"
                  "- *Bytes* are `4096`, `64K`, `32M` or `1G`, in powers of 1024.\n"
                  "- Secrets are never in this file, only the names of files that hold them.\n"
                  "- Anchors and aliases are not taken.\n\n"
                  "Printed from the tables `common/conf_*.def`.\n");
    for (i = 0; i < CONF_SECTIONS; i++) {
        const struct conf_section *s = &conf_sections[i];

        buf_addf(out, "\n## %s\n\n%s", s->name, s->help);
        if (s->count_max > 0)
            buf_addf(out, " A list of at most %zu.", s->count_max);
        buf_adds(out,
                 "\n\n| setting | type | default | range | meaning |\n|---|---|---|---|---|\n");
        for (j = 0; j < s->row_count; j++)
            reference_row(&s->rows[j], out);
    }
}

/* What the example shows for settings without a default. */
static const char *sample_get(const struct conf_row *row)
{
    static const char *const samples[][2] = {
        {"id", "e1"},
        {"url", "http://127.0.0.1:8000"},
        {"file", "/etc/slipstream/keys/first"},
        {"name", "nightly"},
        {"policy", "least"},
    };
    size_t i;

    for (i = 0; i < sizeof(samples) / sizeof(samples[0]); i++)
        if (strcmp(samples[i][0], row->name) == 0)
            return samples[i][1];
    return "";
}

static void example_help(const char *help, const char *indent, struct buf *out)
{
    size_t width = 96 - strlen(indent);

    while (*help != '\0') {
        size_t n = strlen(help);

        if (n > width) {
            for (n = width; n > 0 && help[n] != ' '; n--)
                ;
            n = n > 0 ? n : strlen(help);
        }
        buf_addf(out, "%s# %.*s\n", indent, (int)n, help);
        help += n;
        help += *help == ' ';
    }
}

static void example_row(const struct conf_section *s, size_t i, bool live, struct buf *out)
{
    const struct conf_row *row = &s->rows[i];
    bool is_list = s->count_max > 0;

    example_help(row->help, is_list ? "    " : "  ", out);
    if (is_list && i == 0)
        buf_addf(out, "  %s- %s: ", live ? "" : "#", row->name);
    else
        buf_addf(out, "%s%s%s: ", is_list ? "    " : "  ",
                 live && conf_row_is_required(row) ? "" : "#", row->name);
    if (conf_row_is_required(row))
        buf_addf(out, "%s", sample_get(row));
    else
        conf_default_print(row, out);
    buf_adds(out, "\n");
}

void conf_example(struct buf *out)
{
    size_t i, j;

    buf_adds(out,
             "# Settings of Slipstream. Every setting is here; a line that begins with # and no "
             "space shows its default.\n"
             "# Check a changed file with: slipstream-scheduler --config FILE --check\n");
    for (i = 0; i < CONF_SECTIONS; i++) {
        const struct conf_section *s = &conf_sections[i];

        buf_addf(out, "\n# %s\n%s:\n", s->help, s->name);
        for (j = 0; j < s->row_count; j++)
            example_row(s, j, strcmp(s->name, "engines") == 0, out);
    }
}
