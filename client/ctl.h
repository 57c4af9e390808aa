/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CLIENT_CTL_H
#define SLIP_CLIENT_CTL_H

#include <argp.h>
#include <stdbool.h>

#include "client/slipstream.h"
#include "common/buf.h"

/* What the files of slipctl share. Built on the public library, and on common/ for the settings. */
enum ctl_exit { CTL_OK = 0, CTL_FAILED = 1, CTL_UNREACHABLE = 2, CTL_USAGE = 64 };

struct conf;

/* One run of slipctl. */
struct ctl {
    const char *config, *scheduler, *mailbox, *tenant, *key_file;
    uint32_t timeout_ms;
    bool json;
    struct conf *conf;
    struct slipstream *s;
};

/* Options that every command takes; the input is a struct ctl. */
extern const struct argp ctl_globals;
/* Parses a command's own arguments together with the global ones. Leaves on --help and on errors.
 */
void ctl_parse(const struct argp *own, int argc, char **argv, void *input);
/* For the parser of a command, on ARGP_KEY_INIT. */
void ctl_hand_down(struct argp_state *state, struct ctl *ctl);
/* Reads the settings and opens the handle; says why not on standard error. */
bool ctl_open(struct ctl *ctl);
/* Where the settings are read from; NULL: nowhere, built-in ones hold. */
const char *ctl_config_path(const struct ctl *ctl);
/* Says what went wrong and gives the exit code for it. */
enum ctl_exit ctl_fail(const struct ctl *ctl, int error, const char *doing);
double ctl_number(struct argp_state *state, const char *arg, const char *what, double max);

enum ctl_exit ctl_status(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_engines(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_explain(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_policy(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_check(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_workflows(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_send(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_receive(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_peek(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_ack(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_nack(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_extend(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_dead(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_redrive(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_drop(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_messages(struct ctl *ctl, int argc, char **argv);
enum ctl_exit ctl_box(struct ctl *ctl, int argc, char **argv);

/* ---- output (ctl_out.c) ---- */

/* A JSON text in the making; commas come by themselves. key NULL: inside an array. */
struct json {
    struct buf text;
    bool comma;
};
void json_begin(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_end(struct json *j, char bracket);                    /* '}' or ']' */
void json_text(struct json *j, const char *key, const char *s);
void json_raw(struct json *j, const char *key, const char *s, size_t len);
void json_count(struct json *j, const char *key, uint64_t n);
void json_number(struct json *j, const char *key, double n);
void json_flag(struct json *j, const char *key, bool yes);
void json_print(struct json *j); /* one line; frees it */

/* Rows of cells, printed with aligned columns. A column whose title begins with '>' is set right.
 */
struct table {
    char **cells;
    size_t columns, len, cap;
};
void table_start(struct table *t, size_t columns, const char *const *titles);
void table_add(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(struct table *t); /* frees it */
void table_drop(struct table *t);  /* without printing */

/* "2026-11-23T12:00:00Z" into dst (24 bytes), "-" for 0. */
const char *time_text(uint64_t ms, char *dst);
/* "3d 4h", "12m 5s", "0.8s" into dst (24 bytes). */
const char *span_text(uint64_t ms, char *dst);
/* Without control characters, so that no payload moves the cursor. */
char *printable(const char *s, size_t len);

#endif
