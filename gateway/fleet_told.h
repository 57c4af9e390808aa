/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_FLEET_TOLD_H
#define GW_FLEET_TOLD_H

#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/*
 * The fleet in the scheduler's words, for a worker on another host. Both replace all rows. A
 * message that cannot be read is ERR_PROTO and changes nothing; a row that cannot be is left out.
 */
struct fleet;

/* SchedulerInfo, of the hello's answer: the digest seed and the scheduler's clock, too. */
enum err fleet_take_info(struct fleet *f, const uint8_t *info, size_t len, uint64_t now_ns);
/* Engines, of an EVENT_FLEET. ERR_INVALID: older than what is known; nothing changes. */
enum err fleet_take_event(struct fleet *f, const uint8_t *body, size_t len);

#endif
