/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_METHODS_H
#define SCHED_METHODS_H

#include "scheduler/server.h"

#define METHODS_AGENTS_SHOWN 1000u /* in one answer */

/* One call of the Scheduler service, while it is being handled. */
struct call {
    struct server *server;
    struct rpc_peer *peer;
    const struct peer *who;
    uint64_t token;
    const void *request; /* unpacked, in the server's arena */
};

/* body may lie in the server's arena. */
void call_reply(const struct call *c, enum err status, const ProtobufCMessage *body);
/* Whose workflows it speaks of: a trusted peer says so, another sees its own. */
const char *call_tenant(const struct call *c, const char *said);
struct wire_clock call_clock(const struct call *c);
/* ERR_WORKFLOW: no such; errors of wire_ref(). */
enum err call_workflow(const struct call *c, const Slipstream__V1__WorkflowRef *ref,
                       struct workflow_event *what, struct workflow **out);

/* What asks and changes nothing (methods_look.c). Each has replied when it answers ERR_OK. */
enum err method_list_engines(const struct call *c);
enum err method_get_workflow(const struct call *c);
enum err method_list_workflows(const struct call *c);
enum err method_get_status(const struct call *c);
enum err method_list_agents(const struct call *c);
enum err method_explain(const struct call *c);

/* The engines as rows of the fleet for a gateway on another host, or with what was found out about
 * them for who asks. In the server's arena; false: that is full. */
bool server_engines_message(struct server *s, Slipstream__V1__Engines *out, bool as_rows);

#endif
