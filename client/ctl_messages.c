/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl.h"

/* send, receive, box */
#define PAYLOAD_MAX (3u << 20)
#define FOLLOW_WAIT_MS 30000u

enum {
    OPT_WORKFLOW = 3000,
    OPT_FROM,
    OPT_TO,
    OPT_TYPE,
    OPT_PAYLOAD,
    OPT_TTL,
    OPT_CORRELATION,
    OPT_REPLY_TO,
    OPT_AGENT,
    OPT_WAIT,
    OPT_MAX,
    OPT_FOLLOW,
    OPT_PEEK
};

struct arguments {
    struct ctl *ctl;
    const char *workflow, *agent, *from, *payload, *type, *correlation_id, *reply_to;
    const char *types[32];
    size_t type_count;
    uint32_t ttl_ms, wait_ms, max;
    bool follow, peek, takes_payload;
};

static const struct argp_option send_options[] = {
    {"workflow", OPT_WORKFLOW, "ID", 0, "The workflow, where not given as an argument", 1},
    {"to", OPT_TO, "AGENT", 0, "The receiver; * is every agent of the workflow but the sender", 1},
    {"target", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"from", OPT_FROM, "AGENT", 0, "The sender (default operator)", 1},
    {"source", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"type", OPT_TYPE, "TYPE", 0, "Type of the message (default message)", 1},
    {"payload", OPT_PAYLOAD, "JSON", 0, "The payload; - reads it from standard input", 1},
    {"ttl", OPT_TTL, "SECONDS", 0, "Life of the message", 1},
    {"correlation-id", OPT_CORRELATION, "ID", 0, "What it belongs to", 1},
    {"reply-to", OPT_REPLY_TO, "AGENT", 0, "Who awaits the answer", 1},
    {0},
};

static const struct argp_option receive_options[] = {
    {"workflow", OPT_WORKFLOW, "ID", 0, "The workflow, where not given as an argument", 1},
    {"agent", OPT_AGENT, "AGENT", 0, "The receiver, where not given as an argument", 1},
    {"wait", OPT_WAIT, "SECONDS", 0, "Wait so long for the first message (default 0)", 1},
    {"max", OPT_MAX, "N", 0, "At most so many (default 10)", 1},
    {"type", OPT_TYPE, "TYPE", 0, "Only messages of this type; may be repeated", 1},
    {"peek", OPT_PEEK, NULL, 0, "Look, and leave them there", 1},
    {"follow", OPT_FOLLOW, NULL, 0, "Go on until interrupted", 1},
    {0},
};

static const struct argp_option box_options[] = {
    {"workflow", OPT_WORKFLOW, "ID", 0, "The workflow, where not given as an argument", 1},
    {"agent", OPT_AGENT, "AGENT", 0, "The agent, where not given as an argument", 1},
    {0},
};

static void on_argument(struct arguments *a, char *arg, struct argp_state *state)
{
    if (a->workflow == NULL)
        a->workflow = arg;
    else if (a->agent == NULL)
        a->agent = arg;
    else if (a->takes_payload && a->payload == NULL)
        a->payload = arg;
    else
        argp_error(state, "too many arguments: %s", arg);
}

static void on_type(struct arguments *a, char *arg, struct argp_state *state)
{
    a->type = arg;
    if (a->type_count == sizeof(a->types) / sizeof(a->types[0]))
        argp_error(state, "too many types");
    a->types[a->type_count++] = arg;
}

static error_t on_option(int key, char *arg, struct argp_state *state)
{
    struct arguments *a = state->input;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, a->ctl);
        break;
    case OPT_WORKFLOW:
        a->workflow = arg;
        break;
    case OPT_TO:
    case OPT_AGENT:
        a->agent = arg;
        break;
    case OPT_FROM:
        a->from = arg;
        break;
    case OPT_TYPE:
        on_type(a, arg, state);
        break;
    case OPT_PAYLOAD:
        a->payload = arg;
        break;
    case OPT_TTL:
        a->ttl_ms = (uint32_t)(ctl_number(state, arg, "--ttl", 4000000) * 1000);
        break;
    case OPT_CORRELATION:
        a->correlation_id = arg;
        break;
    case OPT_REPLY_TO:
        a->reply_to = arg;
        break;
    case OPT_WAIT:
        a->wait_ms = (uint32_t)(ctl_number(state, arg, "--wait", 4000000) * 1000);
        break;
    case OPT_MAX:
        a->max = (uint32_t)ctl_number(state, arg, "--max", 1000);
        break;
    case OPT_PEEK:
        a->peek = true;
        break;
    case OPT_FOLLOW:
        a->follow = true;
        break;
    case ARGP_KEY_ARG:
        on_argument(a, arg, state);
        break;
    case ARGP_KEY_END:
        if (a->workflow == NULL || a->agent == NULL)
            argp_error(state, "a workflow and an agent are needed");
        if (a->takes_payload && a->payload == NULL)
            argp_error(state, "a payload is needed");
        if (a->follow && a->peek)
            argp_error(state, "--follow and --peek exclude each other");
        break;
    default:
        return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- send ---- */

static bool payload_read(const char *given, struct buf *out)
{
    size_t n;

    if (strcmp(given, "-") != 0) {
        buf_adds(out, given);
        return true;
    }
    do {
        n = fread(buf_reserve(out, 65536), 1, 65536, stdin);
        out->len += n;
    } while (n > 0 && out->len <= PAYLOAD_MAX);
    if (ferror(stdin) || out->len > PAYLOAD_MAX) {
        fprintf(stderr, "slipctl send: standard input: %s\n",
                ferror(stdin) ? "cannot be read" : "more than 3 MiB");
        return false;
    }
    return true;
}

static void sent_print(const struct ctl *ctl, const struct slipstream_sent *r)
{
    struct json j = {0};
    size_t i;

    if (!ctl->json) {
        printf("%s  queued for", r->id);
        for (i = 0; i < r->queued_for_count; i++)
            printf("%s %s", i > 0 ? "," : "", r->queued_for[i]);
        printf("%s\n", r->queued_for_count == 0 ? " nobody" : "");
        return;
    }
    json_begin(&j, NULL, '{');
    json_text(&j, "message_id", r->id);
    json_begin(&j, "queued_for", '[');
    for (i = 0; i < r->queued_for_count; i++)
        json_text(&j, NULL, r->queued_for[i]);
    json_end(&j, ']');
    json_end(&j, '}');
    json_print(&j);
}

enum ctl_exit ctl_send(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {send_options,
                                     on_option,
                                     "[WORKFLOW [AGENT [PAYLOAD]]]",
                                     "Sends a message to an agent. The payload is JSON.",
                                     NULL,
                                     NULL,
                                     NULL};
    struct arguments a = {.ctl = ctl, .from = "operator", .type = "message", .takes_payload = true};
    struct slipstream_message m = {0};
    struct slipstream_sent_list *list = NULL;
    struct buf payload = {0};
    enum ctl_exit rc = CTL_FAILED;
    int e;

    ctl_parse(&argp, argc, argv, &a);
    if (!payload_read(a.payload, &payload) || !ctl_open(ctl))
        goto done;
    m.source = a.from;
    m.target = a.agent;
    m.type = a.type;
    m.payload = payload.base;
    m.payload_len = payload.len;
    m.ttl_ms = a.ttl_ms;
    m.correlation_id = a.correlation_id;
    m.reply_to = a.reply_to;
    e = slipstream_send(ctl->s, &(struct slipstream_send_options){.workflow = a.workflow}, &m, 1,
                        &list);
    if (e == 0)
        e = list->items[0].error;
    if (e != 0) {
        rc = ctl_fail(ctl, e, "send");
        goto done;
    }
    sent_print(ctl, &list->items[0]);
    rc = CTL_OK;
done:
    slipstream_free(list);
    buf_fini(&payload);
    return rc;
}

/* ---- receive ---- */

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
    json_end(j, '}');
}

static void message_row(struct table *t, const struct slipstream_message *m)
{
    char *payload = printable(m->payload, m->payload_len);
    char time[24];

    table_add(t, "%s", m->id);
    table_add(t, "%s", m->source);
    table_add(t, "%s", m->type);
    table_add(t, "%s", time_text(m->created_ms, time));
    table_add(t, "%u", m->attempt);
    table_add(t, "%s", payload);
    free(payload);
}

static void messages_print(const struct ctl *ctl, const struct slipstream_messages *list)
{
    static const char *const titles[] = {"MESSAGE", "FROM", "TYPE", "SENT", ">ATTEMPT", "PAYLOAD"};
    struct json j = {0};
    struct table t;
    size_t i;

    if (ctl->json) {
        json_begin(&j, NULL, '{');
        json_begin(&j, "messages", '[');
        for (i = 0; i < list->count; i++)
            message_json(&j, &list->items[i]);
        json_end(&j, ']');
        json_count(&j, "more", list->more);
        json_end(&j, '}');
        json_print(&j);
        return;
    }
    table_start(&t, 6, titles);
    for (i = 0; i < list->count; i++)
        message_row(&t, &list->items[i]);
    table_print(&t);
    if (list->more > 0)
        printf("%u more\n", list->more);
}

/* One line each, as they come. */
static void message_follow(const struct ctl *ctl, const struct slipstream_message *m)
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

static enum ctl_exit follow(struct ctl *ctl, struct slipstream_receive_options *o)
{
    struct slipstream_messages *list;
    size_t i;
    int e;

    o->wait_ms = FOLLOW_WAIT_MS;
    while ((e = slipstream_receive(ctl->s, o, &list)) == 0) {
        for (i = 0; i < list->count; i++)
            message_follow(ctl, &list->items[i]);
        slipstream_free(list);
        if (ferror(stdout))
            return CTL_FAILED;
    }
    return ctl_fail(ctl, e, "receive");
}

enum ctl_exit ctl_receive(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {receive_options,
                                     on_option,
                                     "[WORKFLOW [AGENT]]",
                                     "Receives an agent's messages: they leave the mailbox.",
                                     NULL,
                                     NULL,
                                     NULL};
    struct arguments a = {.ctl = ctl};
    struct slipstream_receive_options o = {0};
    struct slipstream_messages *list;
    int e;

    ctl_parse(&argp, argc, argv, &a);
    if (!ctl_open(ctl))
        return CTL_FAILED;
    o.workflow = a.workflow;
    o.agent = a.agent;
    o.max = a.max;
    o.wait_ms = a.wait_ms;
    o.types = a.types;
    o.type_count = a.type_count;
    o.peek = a.peek;
    if (a.follow)
        return follow(ctl, &o);
    e = slipstream_receive(ctl->s, &o, &list);
    if (e != 0)
        return ctl_fail(ctl, e, "receive");
    messages_print(ctl, list);
    slipstream_free(list);
    return CTL_OK;
}

/* ---- box ---- */

static void box_json(const struct arguments *a, const struct slipstream_box *b)
{
    struct json j = {0};

    json_begin(&j, NULL, '{');
    json_text(&j, "workflow_id", a->workflow);
    json_text(&j, "agent_id", a->agent);
    json_count(&j, "depth", b->depth);
    json_count(&j, "limit_messages", b->limit_messages);
    json_count(&j, "bytes", b->bytes);
    json_count(&j, "limit_bytes", b->limit_bytes);
    json_count(&j, "oldest_ms", b->oldest_ms);
    json_count(&j, "waiting", b->waiting);
    json_count(&j, "sent", b->sent);
    json_count(&j, "delivered", b->delivered);
    json_count(&j, "expired", b->expired);
    json_count(&j, "rejected", b->rejected);
    json_end(&j, '}');
    json_print(&j);
}

enum ctl_exit ctl_box(struct ctl *ctl, int argc, char **argv)
{
    static const struct argp argp = {
        box_options, on_option, "[WORKFLOW [AGENT]]", "Looks at an agent's mailbox.", NULL,
        NULL,        NULL};
    struct arguments a = {.ctl = ctl};
    struct slipstream_box b;
    char span[24];
    int e;

    ctl_parse(&argp, argc, argv, &a);
    if (!ctl_open(ctl))
        return CTL_FAILED;
    e = slipstream_box_get(ctl->s, a.workflow, a.agent, &b);
    if (e != 0)
        return ctl_fail(ctl, e, "box");
    if (ctl->json) {
        box_json(&a, &b);
        return CTL_OK;
    }
    printf("queued     %u of %u messages, %llu of %llu bytes\n", b.depth, b.limit_messages,
           (unsigned long long)b.bytes, (unsigned long long)b.limit_bytes);
    printf("oldest     %s\n", b.depth > 0 ? span_text(b.oldest_ms, span) : "-");
    printf("readers    %u waiting\n", b.waiting);
    printf("so far     %llu sent, %llu delivered, %llu expired, %llu rejected\n",
           (unsigned long long)b.sent, (unsigned long long)b.delivered,
           (unsigned long long)b.expired, (unsigned long long)b.rejected);
    return CTL_OK;
}
