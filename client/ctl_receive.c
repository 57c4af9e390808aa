/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>

#include "client/ctl_messages.h"

/* receive, peek */
#define FOLLOW_MAX 10u
#define RECEIVE_MAX 1000u

static const struct argp_option receive_options[] = {
    MAIL_BOX_OPTIONS,
    {"wait", OPT_WAIT, "SECONDS", 0, "Wait so long for the first message (default 0)", 1},
    {"max", OPT_MAX, "N", 0,
     "At most so many (default 10); with --follow: end after so many (default: never)", 1},
    {"count", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"type", OPT_TYPE, "TYPE", 0, "Only messages of this type; may be repeated", 1},
    {"lease", OPT_LEASE, "SECONDS", 0,
     "They stay the mailbox's, and come again after this time unless they are acknowledged", 1},
    {"ack", OPT_ACK, NULL, 0, "With --lease: acknowledge each when it has been printed", 1},
    {"peek", OPT_PEEK, NULL, 0, "Look, and leave them there", 1},
    {"follow", OPT_FOLLOW, NULL, 0, "Go on until interrupted", 1},
    {0},
};

static const struct argp_option peek_options[] = {
    MAIL_BOX_OPTIONS,
    {"max", OPT_MAX, "N", 0, "At most so many (default 10)", 1},
    {"count", 0, NULL, OPTION_ALIAS, NULL, 1},
    {"type", OPT_TYPE, "TYPE", 0, "Only messages of this type; may be repeated", 1},
    {0},
};

static struct slipstream_receive_options options_of(const struct mail_arguments *a)
{
    return (struct slipstream_receive_options){
        .workflow = a->workflow,
        .agent = a->agent,
        .max = a->max < RECEIVE_MAX ? a->max : RECEIVE_MAX,
        .wait_ms = a->wait_ms,
        .types = a->types,
        .type_count = a->type_count,
        .peek = a->peek,
        .lease_ms = a->lease_ms,
    };
}

static enum ctl_exit receive_once(const struct mail_arguments *a)
{
    struct slipstream_receive_options o = options_of(a);
    struct slipstream_messages *list;
    size_t i;
    int e = slipstream_receive(a->ctl->s, &o, &list);

    if (e != 0)
        return ctl_fail(a->ctl, e, "receive");
    mail_print(a->ctl, list);
    for (i = 0; i < list->count && a->ack && !ferror(stdout) && e == 0; i++)
        e = slipstream_ack(a->ctl->s, a->workflow, &list->items[i]);
    slipstream_free(list);
    return e == 0 ? CTL_OK : ctl_fail(a->ctl, e, "ack");
}

/* ---- follow ---- */

struct following {
    const struct mail_arguments *a;
    uint32_t left; /* 0: no end */
};

static enum slipstream_next on_message(void *arg, const struct slipstream_message *m)
{
    struct following *f = arg;

    mail_print_one(f->a->ctl, m);
    if (ferror(stdout))
        return SLIPSTREAM_STOP_RETURN;
    return f->left != 0 && --f->left == 0 ? SLIPSTREAM_STOP : SLIPSTREAM_NEXT;
}

static enum ctl_exit follow(const struct mail_arguments *a)
{
    struct slipstream_receive_options o = options_of(a);
    struct following f = {a, a->max};
    int e;

    o.max = a->max != 0 || a->lease_ms != 0 ? 1 : FOLLOW_MAX;
    e = slipstream_follow(a->ctl->s, &o, on_message, &f);
    if (ferror(stdout))
        return CTL_FAILED;
    return e == 0 ? CTL_OK : ctl_fail(a->ctl, e, "receive");
}

enum ctl_exit ctl_receive(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl};

    if (!mail_open(&a, receive_options, "[WORKFLOW [AGENT]]",
                   "Receives an agent's messages: they leave the mailbox, or are leased.", argc,
                   argv))
        return CTL_FAILED;
    return a.follow ? follow(&a) : receive_once(&a);
}

enum ctl_exit ctl_peek(struct ctl *ctl, int argc, char **argv)
{
    struct mail_arguments a = {.ctl = ctl, .peek = true};

    if (!mail_open(&a, peek_options, "[WORKFLOW [AGENT]]",
                   "Looks at an agent's messages, and leaves them there.", argc, argv))
        return CTL_FAILED;
    return receive_once(&a);
}
