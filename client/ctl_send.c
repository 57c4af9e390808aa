/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl_messages.h"
#include "common/must.h"

/* send */
#define PAYLOAD_MAX (3u << 20)
#define BATCH_MESSAGES 1000u

static const struct argp_option send_options[] = {
    {"workflow", OPT_WORKFLOW, "ID", 0, "The workflow, where not given as an argument", 1},
    {"to", OPT_TO, "AGENT", 0, "The receiver; * is every agent of the workflow but the sender", 1},
    {"target", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"from", OPT_FROM, "AGENT", 0, "The sender (default operator)", 1},
    {"source", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"type", OPT_TYPE, "TYPE", 0, "Type of the message (default message)", 1},
    {"payload", OPT_PAYLOAD, "JSON", 0,
     "The payload; - reads it from standard input, @FILE from a file", 1},
    {"lines", OPT_LINES, NULL, 0,
     "Each line of standard input, or of @FILE, is the payload of a message", 1},
    {"ttl", OPT_TTL, "SECONDS", 0, "Life of the message", 1},
    {"delay", OPT_DELAY, "SECONDS", 0, "Not handed out earlier", 1},
    {"priority", OPT_PRIORITY, "N", 0, "0 to 9, higher first (default 0)", 1},
    {"group", OPT_GROUP, "ID", 0, "Messages of a group are handed out strictly in order", 1},
    {"correlation-id", OPT_CORRELATION, "ID", 0, "What it belongs to", 1},
    {"reply-to", OPT_REPLY_TO, "AGENT", 0, "Who awaits the answer", 1},
    {"idempotency-key", OPT_KEY, "KEY", 0, "Repeated with the same key, nothing is sent twice", 1},
    {0},
};

/* given: "-" or "@FILE". */
static FILE *input_open(const char *given)
{
    FILE *f = strcmp(given, "-") == 0 ? stdin : fopen(given + 1, "re");

    if (f == NULL)
        fprintf(stderr, "slipctl send: %s: %m\n", given + 1);
    return f;
}

static void input_close(FILE *f)
{
    if (f != NULL && f != stdin)
        fclose(f);
}

static bool payload_read(const char *given, struct buf *out)
{
    FILE *f;
    size_t n;
    bool ok;

    if (strcmp(given, "-") != 0 && given[0] != '@') {
        buf_adds(out, given);
        return true;
    }
    f = input_open(given);
    if (f == NULL)
        return false;
    do {
        n = fread(buf_reserve(out, 65536), 1, 65536, f);
        out->len += n;
    } while (n > 0 && out->len <= PAYLOAD_MAX);
    ok = !ferror(f) && out->len <= PAYLOAD_MAX;
    if (!ok)
        fprintf(stderr, "slipctl send: %s: %s\n", given[0] == '@' ? given + 1 : "standard input",
                ferror(f) ? "cannot be read" : "more than 3 MiB");
    input_close(f);
    return ok;
}

static void sent_json(const struct slipstream_sent *r, bool replayed)
{
    struct json j = {0};
    size_t i;

    json_begin(&j, NULL, '{');
    if (r->error != 0) {
        json_text(&j, "error", slipstream_error_code(r->error));
    } else {
        json_text(&j, "message_id", r->id);
        json_begin(&j, "queued_for", '[');
        for (i = 0; i < r->queued_for_count; i++)
            json_text(&j, NULL, r->queued_for[i]);
        json_end(&j, ']');
        if (replayed)
            json_flag(&j, "replayed", true);
    }
    json_end(&j, '}');
    json_print(&j);
}

static void sent_print(const struct ctl *ctl, const struct slipstream_sent *r, bool replayed)
{
    size_t i;

    if (ctl->json) {
        sent_json(r, replayed);
        return;
    }
    printf("%s  queued for", r->id);
    for (i = 0; i < r->queued_for_count; i++)
        printf("%s %s", i > 0 ? "," : "", r->queued_for[i]);
    printf("%s%s\n", r->queued_for_count == 0 ? " nobody" : "", replayed ? " before" : "");
}

static struct slipstream_message message_of(const struct mail_arguments *a)
{
    return (struct slipstream_message){
        .source = a->from,
        .target = a->agent,
        .type = a->type,
        .ttl_ms = a->ttl_ms,
        .delay_ms = a->delay_ms,
        .priority = a->priority,
        .group = a->group,
        .correlation_id = a->correlation_id,
        .reply_to = a->reply_to,
    };
}

static enum ctl_exit send_one(const struct mail_arguments *a)
{
    const struct slipstream_send_options o = {.workflow = a->workflow, .idempotency_key = a->key};
    struct slipstream_message m = message_of(a);
    struct slipstream_sent_list *list = NULL;
    struct buf payload = {0};
    int e;

    if (!payload_read(a->payload, &payload)) {
        buf_fini(&payload);
        return CTL_FAILED;
    }
    m.payload = payload.base;
    m.payload_len = payload.len;
    e = slipstream_send(a->ctl->s, &o, &m, 1, &list);
    buf_fini(&payload);
    if (e != 0)
        return ctl_fail(a->ctl, e, "send");
    e = list->items[0].error;
    if (e == 0)
        sent_print(a->ctl, &list->items[0], list->replayed);
    slipstream_free(list);
    return e == 0 ? CTL_OK : ctl_fail(a->ctl, e, "send");
}

/* ---- a message a line ---- */

struct batch {
    struct slipstream_message messages[BATCH_MESSAGES];
    char *lines[BATCH_MESSAGES]; /* their payloads */
    size_t count, bytes;
    unsigned long long sent, refused;
};

/* What the mailbox refused is said, and the rest goes on. */
static enum ctl_exit batch_send(const struct mail_arguments *a, struct batch *b)
{
    const struct slipstream_send_options o = {.workflow = a->workflow};
    struct slipstream_sent_list *list = NULL;
    size_t i;
    int e;

    if (b->count == 0)
        return CTL_OK;
    e = slipstream_send(a->ctl->s, &o, b->messages, b->count, &list);
    if (e != 0 || list == NULL)
        return ctl_fail(a->ctl, e, "send");
    for (i = 0; i < b->count; i++) {
        b->sent++;
        if (list->items[i].error != 0) {
            b->refused++;
            fprintf(stderr, "slipctl: send: line %llu: %s (%s)\n", b->sent,
                    slipstream_error_text(list->items[i].error),
                    slipstream_error_code(list->items[i].error));
        }
        if (a->ctl->json)
            sent_json(&list->items[i], false);
        free(b->lines[i]);
    }
    slipstream_free(list);
    b->count = b->bytes = 0;
    return CTL_OK;
}

static enum ctl_exit send_lines(const struct mail_arguments *a)
{
    struct batch *b = calloc(1, sizeof(*b));
    FILE *f = input_open(a->payload != NULL ? a->payload : "-");
    enum ctl_exit rc = f != NULL ? CTL_OK : CTL_FAILED;
    ssize_t len;

    must(b != NULL);
    while (rc == CTL_OK) {
        char *line = NULL;
        size_t size = 0;

        len = getline(&line, &size, f);
        if (len <= 0) {
            free(line);
            break;
        }
        if (b->count == BATCH_MESSAGES || b->bytes + (size_t)len > PAYLOAD_MAX)
            rc = batch_send(a, b);
        b->messages[b->count] = message_of(a);
        b->messages[b->count].payload = b->lines[b->count] = line;
        b->messages[b->count++].payload_len = (size_t)len - (line[len - 1] == '\n');
        b->bytes += (size_t)len;
    }
    if (rc == CTL_OK)
        rc = batch_send(a, b);
    while (b->count > 0)
        free(b->lines[--b->count]);
    if (rc == CTL_OK && !a->ctl->json)
        printf("%llu sent, %llu refused\n", b->sent - b->refused, b->refused);
    if (rc == CTL_OK && b->refused > 0)
        rc = CTL_FAILED;
    input_close(f);
    free(b);
    return rc;
}

enum ctl_exit ctl_send(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {
        .ctl = ctl, .from = "operator", .type = "message", .takes_payload = true};

    if (!mail_open(&a, send_options, "[WORKFLOW [AGENT [PAYLOAD]]]",
                   "Sends a message to an agent. The payload is JSON.", argc, argv))
        return CTL_FAILED;
    return a.lines ? send_lines(&a) : send_one(&a);
}
