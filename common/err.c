/* SPDX-License-Identifier: Apache-2.0 */
#include "common/err.h"

static const struct row {
    const char *code, *type, *text;
    unsigned http;
    int retry_ms;
} rows[] = {
#define ERR(name, code, http, type, retry_ms, text) [name] = {code, type, text, http, retry_ms},
#include "common/err.def"
#undef ERR
};

static const struct row *row_get(enum err e)
{
    return &rows[(unsigned)e < ERR_COUNT ? e : ERR_BUG];
}

const char *err_code(enum err e)
{
    return row_get(e)->code;
}

const char *err_text(enum err e)
{
    return row_get(e)->text;
}

const char *err_type(enum err e)
{
    return row_get(e)->type;
}

unsigned err_http(enum err e)
{
    return row_get(e)->http;
}

int err_retry_ms(enum err e)
{
    return row_get(e)->retry_ms;
}

enum err err_from_wire(unsigned status)
{
    return status < ERR_COUNT ? (enum err)status : ERR_PROTO;
}
