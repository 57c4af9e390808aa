/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_ROUTES_H
#define GW_ROUTES_H

#include <h2o.h>

#include "gateway/request.h"

struct gw;

/* Registers the one handler of a listener, and the filter that turns h2o's own errors into ours. */
void routes_register(struct gw *gw, h2o_hostconf_t *host, enum listener listener);
/* End of the loop turn: starts the requests that have arrived in it. true: there is more to do at
 * once. */
bool routes_dispatch(struct gw *gw);

/* What the admin listener wants of every request: a Host that is meant, and for changes the admin
 * key. true: it has been refused with an answer. */
bool admin_is_refused(struct gw_request *r, bool changes);

/* Endpoints; routes.def says which. */
void api_generate(struct gw_request *r);
void api_models(struct gw_request *r);
void api_workflow_list(struct gw_request *r);
void api_workflow_status(struct gw_request *r);
void api_workflow_end(struct gw_request *r);
void api_message_send(struct gw_request *r);
void api_message_receive(struct gw_request *r);
void api_message_settle(struct gw_request *r);
void api_message_ack(struct gw_request *r);
void api_message_nack(struct gw_request *r);
void api_message_extend(struct gw_request *r);
void api_message_box(struct gw_request *r);
void api_dead_list(struct gw_request *r);
void api_dead_drop(struct gw_request *r);
void api_dead_redrive(struct gw_request *r);
void api_mcp(struct gw_request *r);
void api_mcp_options(struct gw_request *r);
void api_health(struct gw_request *r);
void api_version(struct gw_request *r);
void api_ready(struct gw_request *r);
void api_metrics(struct gw_request *r);
void api_engines(struct gw_request *r);
void api_config(struct gw_request *r);

#endif
