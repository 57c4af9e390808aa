/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl_messages.h"

/* Arguments and output of the commands of ctl_send.c, ctl_receive.c and ctl_settle.c, and the
 * command that gathers them. */
#define SECONDS_MAX 4000000

static void on_argument(struct mail_arguments *a, char *arg, struct argp_state *state)
{
    if (a->workflow == NULL)
        a->workflow = arg;
    else if (a->agent == NULL)
        a->agent = arg;
    else if (a->takes_payload && a->payload == NULL)
        a->payload = arg;
    else if (!a->takes_rest)
        argp_error(state, "too many arguments: %s", arg);
    else if (a->rest_count++ == 0)
        a->rest = &state->argv[state->next - 1]; /* argp has moved all arguments to the end */
}

static void on_type(struct mail_arguments *a, char *arg, struct argp_state *state)
{
    a->type = arg;
    if (a->type_count == sizeof(a->types) / sizeof(a->types[0]))
        argp_error(state, "too many types");
    a->types[a->type_count++] = arg;
}

static uint32_t seconds(struct argp_state *state, const char *arg, const char *what)
{
    return (uint32_t)(ctl_number(state, arg, what, SECONDS_MAX) * 1000 + 0.5);
}

static void check(const struct mail_arguments *a, struct argp_state *state)
{
    if (a->workflow == NULL || a->agent == NULL)
        argp_error(state, "a workflow and an agent are needed");
    if (a->takes_payload && a->payload == NULL && !a->lines)
        argp_error(state, "a payload is needed");
    if (a->lines && a->payload != NULL && a->payload[0] != '@' && strcmp(a->payload, "-") != 0)
        argp_error(state, "--lines reads standard input or @FILE");
    if (a->peek && (a->follow || a->lease_ms != 0))
        argp_error(state, "--peek only looks: no --follow, no --lease");
    if (a->ack && a->lease_ms == 0)
        argp_error(state, "--ack needs --lease");
    if (a->follow && a->lease_ms != 0 && !a->ack)
        argp_error(state, "--follow with --lease needs --ack");
}

static error_t on_text_option(int key, char *arg, struct argp_state *state)
{
    struct mail_arguments *a = state->input;

    switch (key) {
    case OPT_WORKFLOW:
        a->workflow = arg;
        return 0;
    case OPT_TO:
    case OPT_AGENT:
        a->agent = arg;
        return 0;
    case OPT_FROM:
        a->from = arg;
        return 0;
    case OPT_TYPE:
        on_type(a, arg, state);
        return 0;
    case OPT_PAYLOAD:
        a->payload = arg;
        return 0;
    case OPT_CORRELATION:
        a->correlation_id = arg;
        return 0;
    case OPT_REPLY_TO:
        a->reply_to = arg;
        return 0;
    case OPT_GROUP:
        a->group = arg;
        return 0;
    case OPT_KEY:
        a->key = arg;
        return 0;
    case OPT_AFTER:
        a->after = arg;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t on_number_option(int key, char *arg, struct argp_state *state)
{
    struct mail_arguments *a = state->input;

    switch (key) {
    case OPT_TTL:
        a->ttl_ms = seconds(state, arg, "--ttl");
        return 0;
    case OPT_DELAY:
        a->delay_ms = seconds(state, arg, "--delay");
        return 0;
    case OPT_WAIT:
        a->wait_ms = seconds(state, arg, "--wait");
        return 0;
    case OPT_LEASE:
        a->lease_ms = seconds(state, arg, "--lease");
        return 0;
    case OPT_MAX:
        a->max = (uint32_t)ctl_number(state, arg, "--max", UINT32_MAX);
        return 0;
    case OPT_PRIORITY:
        a->priority = (uint32_t)ctl_number(state, arg, "--priority", 9);
        return 0;
    default:
        return on_text_option(key, arg, state);
    }
}

static error_t on_option(int key, char *arg, struct argp_state *state)
{
    struct mail_arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, a->ctl);
        break;
    case OPT_PEEK:
        a->peek = true;
        break;
    case OPT_FOLLOW:
        a->follow = true;
        break;
    case OPT_LINES:
        a->lines = true;
        break;
    case OPT_ACK:
        a->ack = true;
        break;
    case OPT_ALL:
        a->all = true;
        break;
    case ARGP_KEY_ARG:
        on_argument(a, arg, state);
        break;
    case ARGP_KEY_END:
        check(a, state);
        break;
    default:
        return on_number_option(key, arg, state);
    }
    return 0;
}

bool mail_open(struct mail_arguments *a, const struct argp_option *options, const char *args,
               const char *doc, int argc, char **argv)
{
    const struct argp argp = {options, on_option, args, doc, NULL, NULL, NULL};

    ctl_parse(&argp, argc, argv, a);
    return ctl_open(a->ctl);
}

/* ---- output ---- */

static void optional_text(struct json *j, const char *key, const char *s)
{
    if (s[0] != '\0')
        json_text(j, key, s);
}

static void message_json(struct json *j, const struct slipstream_message *m)
{
    json_begin(j, NULL, '{');
    json_text(j, "message_id", m->id);
    json_text(j, "source_agent", m->source);
    json_text(j, "target_agent", m->target);
    json_text(j, "message_type", m->type);
    json_raw(j, "payload", m->payload, m->payload_len);
    json_count(j, "created_ms", m->created_ms);
    json_count(j, "expires_ms", m->expires_ms);
    json_count(j, "attempt", m->attempt);
    if (m->priority != 0)
        json_count(j, "priority", m->priority);
    optional_text(j, "correlation_id", m->correlation_id);
    optional_text(j, "reply_to", m->reply_to);
    optional_text(j, "group", m->group);
    optional_text(j, "receipt", m->receipt);
    if (m->lease_expires_ms != 0)
        json_count(j, "lease_expires_ms", m->lease_expires_ms);
    optional_text(j, "dead_reason", m->dead_reason);
    if (m->dead_ms != 0)
        json_count(j, "dead_ms", m->dead_ms);
    json_end(j, '}');
}

/* what: the receipt, the reason of death, or nothing. */
static void message_row(struct table *t, const struct slipstream_message *m, const char *what)
{
    char *payload = printable(m->payload, m->payload_len);
    char time[24];

    table_add(t, "%s", m->id);
    table_add(t, "%s", m->source);
    table_add(t, "%s", m->type);
    table_add(t, "%s", time_text(m->created_ms, time));
    table_add(t, "%u", m->attempt);
    if (what != NULL)
        table_add(t, "%s", what);
    table_add(t, "%s", payload);
    free(payload);
}

static void messages_table(const struct slipstream_messages *list)
{
    static const char *const plain[] = {"MESSAGE", "FROM", "TYPE", "SENT", ">ATTEMPT", "PAYLOAD"};
    static const char *const leased[] = {"MESSAGE",  "FROM",    "TYPE",   "SENT",
                                         ">ATTEMPT", "RECEIPT", "PAYLOAD"};
    static const char *const dead[] = {"MESSAGE",  "FROM",   "TYPE",   "SENT",
                                       ">ATTEMPT", "REASON", "PAYLOAD"};
    bool is_leased = list->count > 0 && list->items[0].receipt[0] != '\0';
    bool is_dead = list->count > 0 && list->items[0].dead_reason[0] != '\0';
    struct table t;
    size_t i;

    if (is_leased || is_dead)
        table_start(&t, 7, is_leased ? leased : dead);
    else
        table_start(&t, 6, plain);
    for (i = 0; i < list->count; i++) {
        const struct slipstream_message *m = &list->items[i];

        message_row(&t, m, is_leased ? m->receipt : is_dead ? m->dead_reason : NULL);
    }
    table_print(&t);
    if (list->more > 0)
        printf("%u more\n", list->more);
}

void mail_print(const struct ctl *ctl, const struct slipstream_messages *list)
{
    struct json j = {0};
    size_t i;

    if (!ctl->json) {
        messages_table(list);
        return;
    }
    json_begin(&j, NULL, '{');
    json_begin(&j, "messages", '[');
    for (i = 0; i < list->count; i++)
        message_json(&j, &list->items[i]);
    json_end(&j, ']');
    json_count(&j, "more", list->more);
    json_end(&j, '}');
    json_print(&j);
}

void mail_print_one(const struct ctl *ctl, const struct slipstream_message *m)
{
    struct json j = {0};
    char time[24], *payload;

    if (ctl->json) {
        message_json(&j, m);
        json_print(&j);
        return;
    }
    payload = printable(m->payload, m->payload_len);
    printf("%s  %s -> %s  %s  %s\n", time_text(m->created_ms, time), m->source, m->target, m->type,
           payload);
    fflush(stdout);
    free(payload);
}

/* ---- messages VERB: the same commands under one name ---- */

enum ctl_exit ctl_messages(struct ctl *ctl, int argc, char **argv)
{
    static const struct {
        const char *name;
        enum ctl_exit (*run)(struct ctl *ctl, int argc, char **argv);
    } verbs[] = {{"send", ctl_send}, {"receive", ctl_receive}, {"peek", ctl_peek},
                 {"ack", ctl_ack},   {"nack", ctl_nack},       {"extend", ctl_extend},
                 {"dead", ctl_dead}, {"redrive", ctl_redrive}, {"drop", ctl_drop},
                 {"box", ctl_box}};
    const char *verb = argc > 1 ? argv[1] : "";
    char name[64];
    size_t i;

    for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++) {
        if (strcmp(verb, verbs[i].name) != 0)
            continue;
        snprintf(name, sizeof(name), "slipctl messages %s", verb);
        argv[1] = name;
        return verbs[i].run(ctl, argc - 1, argv + 1);
    }
    if (strcmp(verb, "--help") == 0 || strcmp(verb, "-?") == 0) {
        printf("Usage: slipctl messages VERB [ARGUMENT...]\n\nVerbs:");
        for (i = 0; i < sizeof(verbs) / sizeof(verbs[0]); i++)
            printf(" %s", verbs[i].name);
        printf("\n\n\"slipctl VERB --help\" tells about one of them.\n");
        return CTL_OK;
    }
    fprintf(stderr, "slipctl messages: no such verb: \"%s\"; --help lists them\n", verb);
    return CTL_USAGE;
}
