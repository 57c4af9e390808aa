/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CONF_H
#define SLIP_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * The one configuration file. Settings are rows of conf_<section>.def; a row becomes the struct
 * field, the parser entry, the range check, the default and the line of docs/reference/config.md.
 * Every process reads its section and checks all of them.
 *
 *   CONF(type, name, default, min, max, help)
 *
 * Types: u32, u64 (with K M G for bytes where the name ends in _bytes), ms (u32 of milliseconds;
 * the file says 250, 250ms, 5s, 2m or 1h), f64, flag (bool), str, list (strings), and the enums of
 * conf_enums.def.
 */
struct conf_list {
    char **items;
    size_t count;
};

#define CONF_TYPE_u32 uint32_t
#define CONF_TYPE_u64 uint64_t
#define CONF_TYPE_ms uint32_t
#define CONF_TYPE_f64 double
#define CONF_TYPE_flag bool
#define CONF_TYPE_str char *
#define CONF_TYPE_list struct conf_list
#define CONF_TYPE_channel int  /* enum rpc_channel: auto nng shm none */
#define CONF_TYPE_level int    /* enum log_level: error warn info debug */
#define CONF_TYPE_usage int    /* enum conf_usage */
#define CONF_TYPE_overflow int /* enum conf_overflow */
#define CONF_TYPE_store int    /* enum conf_store */

enum conf_usage { CONF_USAGE_WORKFLOW, CONF_USAGE_ALWAYS, CONF_USAGE_NEVER };
enum conf_overflow { CONF_OVERFLOW_REJECT, CONF_OVERFLOW_DROP_OLDEST };
enum conf_store { CONF_STORE_SQLITE, CONF_STORE_MEMORY };

#define CONF(type, name, dflt, min, max, help) CONF_TYPE_##type name;
struct conf_common {
#include "common/conf_common.def"
};
struct conf_gateway {
#include "common/conf_gateway.def"
};
struct conf_scheduler {
#include "common/conf_scheduler.def"
};
struct conf_mailbox {
#include "common/conf_mailbox.def"
};
struct conf_engine { /* a row of the list "engines" */
#include "common/conf_engine.def"
};
struct conf_key { /* a row of the list "keys" */
#include "common/conf_key.def"
};
struct conf_profile { /* a row of the list "profiles" */
#include "common/conf_profile.def"
};
struct conf_policy { /* a row of the list "policies" */
#include "common/conf_policy.def"
};
#undef CONF

struct conf {
    struct conf_common common;
    struct conf_gateway gateway;
    struct conf_scheduler scheduler;
    struct conf_mailbox mailbox;
    struct conf_engine *engines;
    size_t engine_count;
    struct conf_key *keys;
    size_t key_count;
    struct conf_profile *profiles;
    size_t profile_count;
    struct conf_policy *policies;
    size_t policy_count;
    char *path;
};

/* All errors are gathered, one per line: "file:line: scheduler.polcy: no such setting; did you mean
 * \"policy\"?" */
enum err conf_load(const char *path, struct conf **out, struct buf *errors);
enum err conf_parse(const char *text, size_t len, const char *name, struct conf **out,
                    struct buf *errors); /* the same from memory */
void conf_free(struct conf *c);

void conf_print(const struct conf *c,
                struct buf *out);     /* effective configuration as YAML, secrets masked */
void conf_reference(struct buf *out); /* docs/reference/config.md */
void conf_example(struct buf *out);   /* a commented file with every setting and its default */

/* run_dir/sock/scheduler and so on where a url setting is empty; buf holds the result. */
const char *conf_scheduler_url(const struct conf *c, char *dst, size_t size);
const char *conf_mailbox_url(const struct conf *c, char *dst, size_t size);

#endif
