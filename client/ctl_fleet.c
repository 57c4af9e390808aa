/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl.h"
#include "common/conf.h"

/* status, engines, check */

static error_t on_plain(int key, char *arg, struct argp_state *state)
{
    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, state->input);
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is taken: %s", arg);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void plain_parse(struct ctl *ctl, int argc, char **argv, const char *doc)
{
    const struct argp argp = {NULL, on_plain, "", doc, NULL, NULL, NULL};

    ctl_parse(&argp, argc, argv, ctl);
}

/* ---- status ---- */

static void scheduler_json(struct json *j, const struct slipstream_scheduler_status *s)
{
    json_begin(j, "scheduler", '{');
    json_text(j, "version", s->version);
    json_text(j, "policy", s->policy);
    json_count(j, "uptime_ms", s->uptime_ms);
    json_count(j, "engines", s->engines);
    json_count(j, "engines_healthy", s->engines_healthy);
    json_count(j, "workflows", s->workflows);
    json_count(j, "leases", s->leases);
    json_count(j, "waiting", s->waiting);
    json_count(j, "peers", s->clients);
    json_count(j, "decisions", s->decisions);
    json_count(j, "waits", s->waits);
    if (s->gate > 0)
        json_number(j, "gate", s->gate);
    else
        json_raw(j, "gate", "null", 4);
    json_number(j, "waste", s->waste);
    json_number(j, "credit", s->credit);
    json_end(j, '}');
}

static void mailbox_json(struct json *j, const struct slipstream_mailbox_status *m)
{
    json_begin(j, "mailbox", '{');
    json_text(j, "version", m->version);
    json_count(j, "uptime_ms", m->uptime_ms);
    json_count(j, "boxes", m->boxes);
    json_count(j, "workflows", m->workflows);
    json_count(j, "messages", m->messages);
    json_count(j, "bytes", m->bytes);
    json_count(j, "waiting", m->waiting);
    json_count(j, "leased", m->leased);
    json_count(j, "delayed", m->delayed);
    json_count(j, "dead", m->dead);
    json_text(j, "store", m->store);
    json_count(j, "store_bytes", m->store_bytes);
    json_flag(j, "store_failing", m->store_failing);
    json_end(j, '}');
}

static void mailbox_print(const struct slipstream_mailbox_status *m)
{
    char span[24];

    printf("mailbox    up %s, version %s\n", span_text(m->uptime_ms, span), m->version);
    printf("  messages   %llu in %u mailboxes of %u workflows, %llu bytes\n",
           (unsigned long long)m->messages, m->boxes, m->workflows, (unsigned long long)m->bytes);
    printf("  held       %llu leased, %llu delayed; %llu dead\n", (unsigned long long)m->leased,
           (unsigned long long)m->delayed, (unsigned long long)m->dead);
    printf("  readers    %u waiting\n", m->waiting);
    if (m->store[0] != '\0')
        printf("  store      %s, %llu bytes%s\n", m->store, (unsigned long long)m->store_bytes,
               m->store_failing ? ", CANNOT BE WRITTEN: sends are refused" : "");
}

static void status_print(const struct slipstream_scheduler_status *s,
                         const struct slipstream_mailbox_status *m)
{
    char span[24];

    if (s != NULL) {
        printf("scheduler  up %s, version %s, policy %s\n", span_text(s->uptime_ms, span),
               s->version, s->policy);
        printf("  engines    %u of %u healthy\n", s->engines_healthy, s->engines);
        printf("  workflows  %u\n", s->workflows);
        printf("  requests   %u running, %u waiting, %llu placed so far\n", s->leases, s->waiting,
               (unsigned long long)s->decisions);
        if (s->gate > 0)
            printf("  door       %.0f%% of the KV memory may be claimed, %.0f%% of the time is "
                   "recomputing, %llu waited so far\n",
                   100 * s->gate, 100 * s->waste, (unsigned long long)s->waits);
        else
            printf("  door       open, %.0f%% of the time is recomputing, %llu waited so far\n",
                   100 * s->waste, (unsigned long long)s->waits);
        printf("  clients    %u\n", s->clients);
    }
    if (m != NULL)
        mailbox_print(m);
}

enum ctl_exit ctl_status(struct ctl *ctl, int argc, char **argv)
{
    struct slipstream_scheduler_status s = {0};
    struct slipstream_mailbox_status m = {0};
    enum ctl_exit rc = CTL_OK, rc_mailbox = CTL_OK;
    struct json j = {0};
    int es, em;

    plain_parse(ctl, argc, argv, "Scheduler and mailbox at a glance.");
    if (!ctl_open(ctl))
        return CTL_FAILED;
    es = slipstream_scheduler_status(ctl->s, &s);
    if (es != 0)
        rc = ctl_fail(ctl, es, "status of the scheduler");
    em = slipstream_mailbox_status(ctl->s, &m);
    if (em != 0)
        rc_mailbox = ctl_fail(ctl, em, "status of the mailbox");
    if (ctl->json) {
        json_begin(&j, NULL, '{');
        if (es == 0)
            scheduler_json(&j, &s);
        else
            json_raw(&j, "scheduler", "null", 4);
        if (em == 0)
            mailbox_json(&j, &m);
        else
            json_raw(&j, "mailbox", "null", 4);
        json_end(&j, '}');
        json_print(&j);
    } else {
        status_print(es == 0 ? &s : NULL, em == 0 ? &m : NULL);
    }
    return rc != CTL_OK ? rc : rc_mailbox;
}

/* ---- engines ---- */

static void engine_json(struct json *j, const struct slipstream_engine *e)
{
    size_t i;

    json_begin(j, NULL, '{');
    json_text(j, "id", e->id);
    json_text(j, "address", e->address);
    json_flag(j, "healthy", e->healthy);
    json_flag(j, "draining", e->draining);
    json_text(j, "health_reason", e->health_reason);
    json_begin(j, "models", '[');
    for (i = 0; i < e->model_count; i++)
        json_text(j, NULL, e->models[i]);
    json_end(j, ']');
    json_count(j, "running", e->running);
    json_count(j, "homed_workflows", e->homed_workflows);
    json_count(j, "home_tokens", e->home_tokens);
    json_count(j, "requests", e->requests);
    json_count(j, "failures", e->failures);
    json_flag(j, "priority", e->priority);
    json_count(j, "kv_tokens", e->kv_tokens);
    json_count(j, "claimed_tokens", e->claimed_tokens);
    json_number(j, "queue_seconds", e->queue_seconds);
    json_number(j, "prefill_seconds", e->prefill_seconds);
    json_number(j, "prefill_factor", e->prefill_factor);
    json_number(j, "decode_factor", e->decode_factor);
    json_number(j, "kv_factor", e->kv_factor);
    json_count(j, "prefill_samples", e->prefill_samples);
    json_count(j, "decode_samples", e->decode_samples);
    json_text(j, "cached_tokens", e->cached_tokens);
    json_end(j, '}');
}

static void engines_print(const struct slipstream_engines *list)
{
    static const char *const titles[] = {"ENGINE",     "STATE",     ">RUNNING",
                                         ">WORKFLOWS", ">REQUESTS", ">FAILURES",
                                         "MODEL",      "ADDRESS",   "REASON"};
    struct table t;
    size_t i;

    table_start(&t, 9, titles);
    for (i = 0; i < list->count; i++) {
        const struct slipstream_engine *e = &list->items[i];

        table_add(&t, "%s", e->id);
        table_add(&t, "%s", e->draining ? "draining" : e->healthy ? "healthy" : "down");
        table_add(&t, "%u", e->running);
        table_add(&t, "%u", e->homed_workflows);
        table_add(&t, "%llu", (unsigned long long)e->requests);
        table_add(&t, "%llu", (unsigned long long)e->failures);
        table_add(&t, "%s%s", e->model_count > 0 ? e->models[0] : "-",
                  e->model_count > 1 ? ", ..." : "");
        table_add(&t, "%s", e->address);
        table_add(&t, "%s", e->healthy ? "" : e->health_reason);
    }
    table_print(&t);
}

enum ctl_exit ctl_engines(struct ctl *ctl, int argc, char **argv)
{
    struct slipstream_engines *list;
    struct json j = {0};
    size_t i;
    int e;

    plain_parse(ctl, argc, argv, "The engines and their health.");
    if (!ctl_open(ctl))
        return CTL_FAILED;
    e = slipstream_engines_list(ctl->s, &list);
    if (e != 0)
        return ctl_fail(ctl, e, "engines");
    if (ctl->json) {
        json_begin(&j, NULL, '{');
        json_begin(&j, "engines", '[');
        for (i = 0; i < list->count; i++)
            engine_json(&j, &list->items[i]);
        json_end(&j, ']');
        json_end(&j, '}');
        json_print(&j);
    } else {
        engines_print(list);
    }
    slipstream_free(list);
    return CTL_OK;
}

/* ---- check ---- */

static void check_line(struct ctl *ctl, struct json *j, const char *what, bool ok,
                       const char *words)
{
    if (!ctl->json) {
        printf("%-13s  %-6s  %s\n", what, ok ? "ok" : "FAILED", words);
        return;
    }
    json_begin(j, what, '{');
    json_flag(j, "ok", ok);
    json_text(j, "text", words);
    json_end(j, '}');
}

static enum ctl_exit check_reach(struct ctl *ctl, struct json *j)
{
    struct slipstream_scheduler_status s;
    struct slipstream_mailbox_status m;
    char words[200];
    int es = slipstream_scheduler_status(ctl->s, &s), em;

    if (es == 0)
        snprintf(words, sizeof(words), "version %s, %u of %u engines healthy", s.version,
                 s.engines_healthy, s.engines);
    check_line(ctl, j, "scheduler", es == 0, es == 0 ? words : slipstream_last_error(ctl->s));
    em = slipstream_mailbox_status(ctl->s, &m);
    if (em == 0)
        snprintf(words, sizeof(words), "version %s, %llu messages", m.version,
                 (unsigned long long)m.messages);
    check_line(ctl, j, "mailbox", em == 0, em == 0 ? words : slipstream_last_error(ctl->s));
    return es == 0 && em == 0 ? CTL_OK : CTL_UNREACHABLE;
}

enum ctl_exit ctl_check(struct ctl *ctl, int argc, char **argv)
{
    struct json j = {0};
    const char *path;
    enum ctl_exit rc = CTL_FAILED;
    bool ok;

    plain_parse(ctl, argc, argv,
                "Checks the settings and reaches both processes. Exit code: 0 all well, 1 the "
                "settings are wrong, 2 a process is not reachable.");
    json_begin(&j, NULL, '{');
    path = ctl_config_path(ctl);
    ok = ctl_open(ctl);
    check_line(ctl, &j, "configuration", ok, path != NULL ? path : "built-in settings");
    if (ok)
        rc = check_reach(ctl, &j);
    json_end(&j, '}');
    if (ctl->json)
        json_print(&j);
    buf_fini(&j.text);
    return rc;
}
