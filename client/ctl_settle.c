/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/ctl_messages.h"
#include "common/must.h"

/* ack, nack, extend, dead, redrive, drop, box */
#define SETTLE_MAX 1000u

/* ---- ack, nack, extend ---- */

static const struct argp_option ack_options[] = {MAIL_BOX_OPTIONS, {0}};
static const struct argp_option nack_options[] = {
    MAIL_BOX_OPTIONS,
    {"delay", OPT_DELAY, "SECONDS", 0, "Not handed out again earlier", 1},
    {0},
};
static const struct argp_option extend_options[] = {
    MAIL_BOX_OPTIONS,
    {"lease", OPT_LEASE, "SECONDS", 0, "From now on (default: as long as it was given)", 1},
    {0},
};

struct pairs {
    struct slipstream_settling *items;
    char **words; /* what items point to */
    size_t count, word_count;
};

static void pairs_free(struct pairs *p)
{
    size_t i;

    for (i = 0; i < p->word_count; i++)
        free(p->words[i]);
    free(p->words);
    free(p->items);
}

static void word_add(struct pairs *p, const char *word)
{
    p->words = realloc(p->words, (p->word_count + 1) * sizeof(p->words[0]));
    must(p->words != NULL);
    p->words[p->word_count] = strdup(word);
    must(p->words[p->word_count] != NULL);
    p->word_count++;
}

/* Of the arguments, or with a single "-" of standard input. */
static bool pairs_read(const struct mail_arguments *a, enum slipstream_action action,
                       struct pairs *p)
{
    char word[700];
    size_t i;

    if (a->rest_count == 1 && strcmp(a->rest[0], "-") == 0)
        while (p->word_count < 2 * SETTLE_MAX + 1 && scanf("%699s", word) == 1)
            word_add(p, word);
    else
        for (i = 0; i < a->rest_count; i++)
            word_add(p, a->rest[i]);
    if (p->word_count == 0 || p->word_count % 2 != 0 || p->word_count > 2 * SETTLE_MAX)
        return false;
    p->count = p->word_count / 2;
    p->items = calloc(p->count, sizeof(p->items[0]));
    must(p->items != NULL);
    for (i = 0; i < p->count; i++)
        p->items[i] = (struct slipstream_settling){.message_id = p->words[2 * i],
                                                   .receipt = p->words[2 * i + 1],
                                                   .action = action,
                                                   .delay_ms = a->delay_ms,
                                                   .lease_ms = a->lease_ms};
    return true;
}

static void settled_json(const struct pairs *p, const struct slipstream_settled_list *list)
{
    struct json j = {0};
    size_t i;

    json_begin(&j, NULL, '{');
    json_begin(&j, "results", '[');
    for (i = 0; i < list->count; i++) {
        json_begin(&j, NULL, '{');
        json_text(&j, "message_id", p->items[i].message_id);
        if (list->items[i].error != 0)
            json_text(&j, "error", slipstream_error_code(list->items[i].error));
        else if (list->items[i].lease_expires_ms != 0)
            json_count(&j, "lease_expires_ms", list->items[i].lease_expires_ms);
        json_end(&j, '}');
    }
    json_end(&j, ']');
    json_end(&j, '}');
    json_print(&j);
}

static enum ctl_exit settled_print(const struct ctl *ctl, const struct pairs *p,
                                   const struct slipstream_settled_list *list)
{
    enum ctl_exit rc = CTL_OK;
    char time[24];
    size_t i;

    if (ctl->json)
        settled_json(p, list);
    for (i = 0; i < list->count; i++) {
        int e = list->items[i].error;

        if (e != 0) {
            fprintf(stderr, "slipctl: %s: %s (%s)\n", p->items[i].message_id,
                    slipstream_error_text(e), slipstream_error_code(e));
            rc = CTL_FAILED;
        } else if (!ctl->json && list->items[i].lease_expires_ms != 0) {
            printf("%s  leased until %s\n", p->items[i].message_id,
                   time_text(list->items[i].lease_expires_ms, time));
        } else if (!ctl->json) {
            printf("%s  done\n", p->items[i].message_id);
        }
    }
    return rc;
}

static enum ctl_exit settle(struct ctl *ctl, int argc, char **argv, enum slipstream_action action,
                            const struct argp_option *options, const char *doc)
{
    struct mail_arguments a = {.ctl = ctl, .takes_rest = true};
    struct slipstream_settled_list *list;
    struct pairs p = {0};
    enum ctl_exit rc;
    int e;

    if (!mail_open(&a, options, "[WORKFLOW [AGENT]] {MESSAGE RECEIPT}... | -", doc, argc, argv))
        return CTL_FAILED;
    if (!pairs_read(&a, action, &p)) {
        fprintf(stderr, "slipctl: 1 to %u pairs of a message and its receipt are needed\n",
                SETTLE_MAX);
        pairs_free(&p);
        return CTL_USAGE;
    }
    e = slipstream_settle(ctl->s, a.workflow, a.agent, p.items, p.count, &list);
    if (e == 0) {
        rc = settled_print(ctl, &p, list);
        slipstream_free(list);
    } else {
        rc = ctl_fail(ctl, e, "settle");
    }
    pairs_free(&p);
    return rc;
}

enum ctl_exit ctl_ack(struct ctl *ctl, int argc, char **argv)
{
    return settle(ctl, argc, argv, SLIPSTREAM_ACK, ack_options,
                  "Acknowledges messages that were received under a lease. - reads the pairs from "
                  "standard input.");
}

enum ctl_exit ctl_nack(struct ctl *ctl, int argc, char **argv)
{
    return settle(ctl, argc, argv, SLIPSTREAM_NACK, nack_options,
                  "Gives messages that were received under a lease back to their mailbox. - reads "
                  "the pairs from standard input.");
}

enum ctl_exit ctl_extend(struct ctl *ctl, int argc, char **argv)
{
    return settle(ctl, argc, argv, SLIPSTREAM_EXTEND, extend_options,
                  "Extends the leases of messages. - reads the pairs from standard input.");
}

/* ---- dead letters ---- */

static const struct argp_option dead_options[] = {
    MAIL_BOX_OPTIONS,
    {"max", OPT_MAX, "N", 0, "At most so many (default 10)", 1},
    {"count", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"after", OPT_AFTER, "MESSAGE", 0, "Those behind this one: the next page", 1},
    {0},
};
static const struct argp_option redrive_options[] = {MAIL_BOX_OPTIONS, {0}};
static const struct argp_option drop_options[] = {
    MAIL_BOX_OPTIONS,
    {"all", OPT_ALL, NULL, 0, "All of them", 1},
    {0},
};

enum ctl_exit ctl_dead(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl};
    struct slipstream_messages *list;
    int e;

    if (!mail_open(&a, dead_options, "[WORKFLOW [AGENT]]",
                   "Looks at an agent's dead letters, oldest first.", argc, argv))
        return CTL_FAILED;
    e = slipstream_dead_letters(ctl->s, a.workflow, a.agent, a.max, a.after, &list);
    if (e != 0)
        return ctl_fail(ctl, e, "dead");
    mail_print(ctl, list);
    slipstream_free(list);
    return CTL_OK;
}

static enum ctl_exit redriven(const struct mail_arguments *a, bool drop)
{
    struct slipstream_redriven r;
    struct json j = {0};
    const char *const *ids = a->rest_count > 0 ? (const char *const *)a->rest : NULL;
    int e = slipstream_redrive(a->ctl->s, a->workflow, a->agent, ids, a->rest_count, drop, &r);

    if (e != 0)
        return ctl_fail(a->ctl, e, drop ? "drop" : "redrive");
    if (!a->ctl->json) {
        printf("%u %s, %u left\n", r.moved, drop ? "dropped" : "back in the mailbox", r.left);
        return CTL_OK;
    }
    json_begin(&j, NULL, '{');
    json_count(&j, drop ? "dropped" : "moved", r.moved);
    json_count(&j, "left", r.left);
    json_end(&j, '}');
    json_print(&j);
    return CTL_OK;
}

enum ctl_exit ctl_redrive(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl, .takes_rest = true};

    if (!mail_open(&a, redrive_options, "[WORKFLOW [AGENT]] [MESSAGE...]",
                   "Puts dead letters, or all of them, back into their mailbox.", argc, argv))
        return CTL_FAILED;
    return redriven(&a, false);
}

enum ctl_exit ctl_drop(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl, .takes_rest = true};

    if (!mail_open(&a, drop_options, "[WORKFLOW [AGENT]] MESSAGE... | --all",
                   "Throws dead letters away.", argc, argv))
        return CTL_FAILED;
    if ((a.rest_count == 0) != a.all) {
        fprintf(stderr, "slipctl drop: name the messages, or say --all\n");
        return CTL_USAGE;
    }
    return redriven(&a, true);
}

/* ---- box ---- */

static const struct argp_option box_options[] = {MAIL_BOX_OPTIONS, {0}};

static void box_json(const struct mail_arguments *a, const struct slipstream_box *b)
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
    json_count(&j, "unsettled", b->unsettled);
    json_count(&j, "leased", b->leased);
    json_count(&j, "delayed", b->delayed);
    json_count(&j, "dead", b->dead);
    json_count(&j, "kept", b->kept);
    json_count(&j, "sent", b->sent);
    json_count(&j, "delivered", b->delivered);
    json_count(&j, "redelivered", b->redelivered);
    json_count(&j, "expired", b->expired);
    json_count(&j, "rejected", b->rejected);
    json_count(&j, "max_deliveries", b->max_deliveries);
    json_text(&j, "overflow", b->drop_oldest ? "drop_oldest" : "reject");
    json_end(&j, '}');
    json_print(&j);
}

static void box_print(const struct slipstream_box *b)
{
    char span[24];

    printf("queued     %u of %u messages, %llu of %llu bytes%s\n", b->depth, b->limit_messages,
           (unsigned long long)b->bytes, (unsigned long long)b->limit_bytes,
           b->drop_oldest ? "; beyond: the oldest is dropped" : "");
    printf("oldest     %s\n", b->depth > 0 ? span_text(b->oldest_ms, span) : "-");
    printf("readers    %u waiting\n", b->waiting);
    printf("held       %u leased, %u on their way, %u delayed, %u kept for a stream\n", b->leased,
           b->unsettled, b->delayed, b->kept);
    printf("dead       %u", b->dead);
    if (b->max_deliveries > 0)
        printf(" (after %u deliveries)", b->max_deliveries);
    printf("\nso far     %llu sent, %llu delivered, %llu redelivered, %llu expired, "
           "%llu rejected\n",
           (unsigned long long)b->sent, (unsigned long long)b->delivered,
           (unsigned long long)b->redelivered, (unsigned long long)b->expired,
           (unsigned long long)b->rejected);
}

enum ctl_exit ctl_box(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl};
    struct slipstream_box b;
    int e;

    if (!mail_open(&a, box_options, "[WORKFLOW [AGENT]]", "Looks at an agent's mailbox.", argc,
                   argv))
        return CTL_FAILED;
    e = slipstream_box_get(ctl->s, a.workflow, a.agent, &b);
    if (e != 0)
        return ctl_fail(ctl, e, "box");
    if (ctl->json)
        box_json(&a, &b);
    else
        box_print(&b);
    return CTL_OK;
}
