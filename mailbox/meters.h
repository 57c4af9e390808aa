/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_METERS_H
#define SLIP_MAILBOX_METERS_H

#include <stdint.h>

#include "mailbox/core.h"
#include "mailbox/flow.h"

/* The process's metrics (metrics.def). boxes_max: mailboxes that get a series of their own, and
 * pairs of agents that do. */
struct meters;

enum err meters_open(const char *run_dir, uint32_t boxes_max, struct meters **out);
void meters_close(struct meters *m);
void meters_change(struct meters *m, const struct mbox_change *change);
/* After all changes of a turn, so that a scrape sees what the last answer said. */
void meters_flush(struct meters *m, const struct mbox_core *c, const struct mbox_store *store,
                  uint32_t peers);
void meters_beat(struct meters *m, const struct mbox_core *c); /* a few times a second */
void meters_delivered(struct meters *m, uint64_t ns);
void meters_waited(struct meters *m, uint64_t ns);
void meters_committed(struct meters *m, uint64_t ns, bool ok);
/* Payloads on the wire as lz4 blocks. */
enum packed_event { PACKED_TAKEN, PACKED_GIVEN, PACKED_REFUSED, PACKED_EVENTS };
void meters_packed(struct meters *m, enum packed_event event);
void meters_noted(struct meters *m, uint32_t messages, bool told);
/* Counted with flow_add; good until the next meters_beat. */
struct flow *meters_flow(struct meters *m, const char *tenant, const char *workflow,
                         const char *source, const char *target);

#endif
