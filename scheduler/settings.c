/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/settings.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "common/proc.h"
#include "common/secret.h"

struct core_conf settings_core(const struct server *s, const struct conf_scheduler *conf,
                               const struct rules *rules, struct policy_rule *array)
{
    struct core_conf out = {
        .max_workflows = conf->max_workflows,
        .max_agents = conf->max_agents,
        .max_leases = conf->max_leases,
        .max_workers = SERVER_PEERS,
        .workflow_ttl_ns = conf->workflow_ttl_ms * NS_PER_MS,
        .agent_active_ns = conf->agent_active_ms * NS_PER_MS,
        .lease_slack_ns = server_to_model(s, SERVER_LEASE_SLACK_NS),
        .probe_failures = conf->probe_failures,
        .hash_seed = s->epoch,
        .gate_wait_ns = conf->gate_wait_ms * NS_PER_MS,
        .group_wait_ms = conf->group_wait_ms,
        .fit = true,
        .scaled = s->scale != 1,
    };

    rules_conf(rules, array, &out);
    return out;
}

/* NULL: nobody can show it. */
static char *key_read(const char *file)
{
    struct buf note = {0};
    char *key = NULL;

    if (secret_key_read(file, &key, &note) != ERR_OK)
        log_warn("key_unreadable", "reason=\"%s\"", buf_cstr(&note));
    else if (note.len > 0)
        log_warn("key_exposed", "reason=\"%s\"", buf_cstr(&note));
    buf_fini(&note);
    return key;
}

void settings_keys_drop(struct server *s)
{
    for (size_t i = 0; s->keys != NULL && i < s->conf->key_count; i++)
        secret_free(s->keys[i]);
    free(s->keys);
    secret_free(s->peer_key);
    s->keys = NULL;
    s->peer_key = NULL;
}

void settings_keys_load(struct server *s)
{
    const struct conf *conf = s->conf;

    s->keys = calloc(conf->key_count + 1, sizeof(*s->keys));
    must(s->keys != NULL);
    for (size_t i = 0; i < conf->key_count; i++)
        s->keys[i] = key_read(conf->keys[i].file);
    if (*conf->common.rpc_key_file != '\0')
        s->peer_key = key_read(conf->common.rpc_key_file);
}

static void policy_tell(struct server *s, const char *was)
{
    publish_policy(&s->publisher, core_policy_name(s->core));
    if (strcmp(was, s->rules.general) != 0)
        log_info("policy_changed", "from=%s to=%s", was, s->rules.general);
    s->fleet_changed = true;
}

static enum err rules_apply(struct server *s, const struct rules *rules,
                            const struct conf_scheduler *conf)
{
    struct policy_rule array[POLICY_RULES_MAX];
    struct event ev = {.type = EV_POLICY_SET, .conf = settings_core(s, conf, rules, array)};
    char was[SPEC_MAX + 1];
    enum err err;

    memcpy(was, s->rules.general, sizeof(was));
    err = server_step(s, &ev);
    if (err != ERR_OK)
        return err;
    s->rules = *rules;
    policy_tell(s, was);
    return ERR_OK;
}

static void policy_log(const struct rule_change *change)
{
    char policy[SPEC_MAX + 3], model[120], route[120];

    log_info("policy_set", "policy=%s model=%s route=%s default=%d remove=%d",
             log_quote(policy, sizeof(policy), change->policy, strlen(change->policy)),
             log_quote(model, sizeof(model), change->model, strlen(change->model)),
             log_quote(route, sizeof(route), change->route, strlen(change->route)),
             change->is_default, change->remove);
}

enum err server_policy_set(struct server *s, const struct rule_change *change, char *why,
                           size_t size)
{
    struct rules fresh = s->rules;
    enum err err = rules_change(&fresh, change, why, size);

    if (err == ERR_OK) {
        err = rules_apply(s, &fresh, &s->conf->scheduler);
        if (err == ERR_CONF)
            snprintf(why, size, "policy workflow can be in force with one set of options only");
    }
    if (err == ERR_OK)
        policy_log(change);
    return err;
}

static void conf_swap(struct server *s, struct conf *fresh)
{
    enum fleet_change changes[ENGINES_MAX];
    struct rules rules;

    rules_load(&rules, fresh);
    if (fresh->engine_count > ENGINES_MAX || rules_apply(s, &rules, &fresh->scheduler) != ERR_OK) {
        log_error("reload_refused", "reason=\"%s\"",
                  fresh->engine_count > ENGINES_MAX ? "too many engines" : "unknown policy");
        conf_free(fresh);
        return;
    }
    must(fleet_table_plan(&s->fleet, fresh, false, changes) == ERR_OK);
    server_engines_apply(s, changes);
    settings_keys_drop(s);
    conf_free(s->conf);
    s->conf = fresh;
    settings_keys_load(s);
    log_set_level((enum log_level)fresh->common.log_level);
    server_probes_set(s);
    feeds_set(s);
    s->fleet_changed = true;
}

void settings_on_reload(void *arg, int signo)
{
    struct server *s = arg;
    struct buf errors = {0};
    struct conf *fresh;

    (void)signo;
    proc_reloading();
    if (conf_load(s->conf_path, &fresh, &errors) == ERR_OK)
        conf_swap(s, fresh);
    else
        log_error("reload_refused", "reason=\"%.*s\"", (int)strcspn(buf_cstr(&errors), "\n"),
                  buf_cstr(&errors));
    buf_fini(&errors);
    proc_ready(core_policy_name(s->core));
}
