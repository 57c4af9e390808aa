/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_SETTINGS_H
#define SCHED_SETTINGS_H

#include "scheduler/server.h"

/*
 * The configuration while the server runs: what of it the core wants, keys, the reload, and the
 * policies that operators change in between.
 */

/* rules and array (POLICY_RULES_MAX) are borrowed by the result. */
struct core_conf settings_core(const struct server *s, const struct conf_scheduler *conf,
                               const struct rules *rules, struct policy_rule *array);
void settings_keys_load(struct server *s);
void settings_keys_drop(struct server *s);
void settings_on_reload(void *arg, int signo); /* SIGHUP; arg: the server */

#endif
