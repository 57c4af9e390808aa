/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_ERR_H
#define SLIP_ERR_H

/* One value for each row of err.def. ERR_OK is 0. The numbers travel in RPC frames: rows are only
 * appended. */
enum err {
#define ERR(name, code, http, type, retry_ms, text) name,
#include "common/err.def"
#undef ERR
    ERR_COUNT
};

/* Never NULL; a number that is no row reads as ERR_BUG. Static strings. */
const char *err_code(enum err e); /* "model_not_found": stable, for programs */
const char *err_text(enum err e); /* one sentence, for people */
const char *err_type(enum err e); /* OpenAI's "type" */
unsigned err_http(enum err e);    /* status of the answer */
int err_retry_ms(enum err e);     /* -1: repeating cannot help; else milliseconds to wait */

/* A status number from another process, made safe: unknown numbers become ERR_PROTO. */
enum err err_from_wire(unsigned status);

#endif
