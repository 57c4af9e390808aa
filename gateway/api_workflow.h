/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_API_WORKFLOW_H
#define GW_API_WORKFLOW_H

#include "common/buf.h"

struct Slipstream__V1__Agent;
struct Slipstream__V1__Workflow;

/* As JSON objects; the workflow's is left open, without its last brace. */
void workflow_agent_write(struct buf *b, const struct Slipstream__V1__Agent *a);
void workflow_write(struct buf *b, const struct Slipstream__V1__Workflow *w);

#endif
