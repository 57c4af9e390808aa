/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_METERS_H
#define SLIP_MAILBOX_METERS_H

#include <stdint.h>

#include "mailbox/core.h"

/* The process's metrics (metrics.def). boxes_max: mailboxes that get a series of their own. */
struct meters;

enum err meters_open(const char *run_dir, uint32_t boxes_max, struct meters **out);
void meters_close(struct meters *m);
/* Takes the changes out of the core; call after each turn, so that a scrape sees what the last
 * answer said. */
void meters_flush(struct meters *m, struct mbox_core *c, uint32_t peers);
void meters_beat(struct meters *m); /* a few times a second */
void meters_delivered(struct meters *m, uint64_t ns);
void meters_waited(struct meters *m, uint64_t ns);

#endif
