/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_CLIENT_CTL_MESSAGES_H
#define SLIP_CLIENT_CTL_MESSAGES_H

#include "client/ctl.h"

/* What the message commands of slipctl share (ctl_messages.c). */
enum {
    OPT_WORKFLOW = 3000,
    OPT_FROM,
    OPT_TO,
    OPT_TYPE,
    OPT_PAYLOAD,
    OPT_TTL,
    OPT_DELAY,
    OPT_PRIORITY,
    OPT_GROUP,
    OPT_KEY,
    OPT_LINES,
    OPT_CORRELATION,
    OPT_REPLY_TO,
    OPT_AGENT,
    OPT_WAIT,
    OPT_MAX,
    OPT_LEASE,
    OPT_ACK,
    OPT_FOLLOW,
    OPT_PEEK,
    OPT_AFTER,
    OPT_ALL
};

struct mail_arguments {
    struct ctl *ctl;
    const char *workflow, *agent, *from, *payload, *type, *correlation_id, *reply_to, *group, *key;
    const char *after;
    const char *types[32];
    size_t type_count;
    char **rest; /* arguments behind the agent; a part of argv */
    size_t rest_count;
    uint32_t ttl_ms, delay_ms, wait_ms, lease_ms, max, priority;
    bool follow, peek, lines, ack, all;
    bool takes_payload, takes_rest;
};

/* The workflow and the agent, as options for ids that begin with a dash. */
#define MAIL_BOX_OPTIONS                                                                    \
    {"workflow", OPT_WORKFLOW, "ID", 0, "The workflow, where not given as an argument", 1}, \
    {                                                                                       \
        "agent", OPT_AGENT, "AGENT", 0, "The agent, where not given as an argument", 1      \
    }

/* Parses and opens the handle; leaves on bad arguments. False: the handle cannot be, and that was
 * said. */
bool mail_open(struct mail_arguments *a, const struct argp_option *options, const char *args,
               const char *doc, int argc, char **argv);

/* Of a list, as JSON or as a table. */
void mail_print(const struct ctl *ctl, const struct slipstream_messages *list);
/* One line, as they come. */
void mail_print_one(const struct ctl *ctl, const struct slipstream_message *m);

#endif
