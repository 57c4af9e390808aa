/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_DOOR_H
#define SLIP_MAILBOX_DOOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "proto/mailbox.pb-c.h"

/*
 * What a caller sent, before anybody believes it. First the number of elements, then unpacking
 * (protobuf-c makes a struct of 150 bytes out of a submessage of 2), then the meaning: ids, types,
 * ranges, receipts, payloads that are JSON.
 */
#define DOOR_MESSAGES 1000u /* of one send; acks, holds and redrives alike */
#define DOOR_AGENTS 4096u
#define DOOR_TYPES 32u
#define DOOR_PRIORITY_MAX 9u
#define DOOR_MS_MAX 2592000000u /* 30 days: of a TTL or a delay */

/* At most max fields in all, those inside of the submessages in field nested (0: none) included;
 * and whole. */
bool door_is_bounded(const uint8_t *body, size_t len, uint32_t nested, size_t max);

/* ERR_INVALID: counts, or members that contradict each other; ERR_ID; ERR_VALUE: out of range. */
enum err door_check_send(const Slipstream__V1__SendRequest *r);
enum err door_check_message(const Slipstream__V1__Message *m); /* one of a send; not its payload */
/* Payloads are embedded raw in answers: strictness is what keeps them apart. ERR_JSON */
enum err door_check_payload(const char *json, size_t len);
enum err door_check_receive(const Slipstream__V1__ReceiveRequest *r, uint64_t max_lease_ms);
enum err door_check_settle(const Slipstream__V1__SettleRequest *r);
enum err door_check_acks(const Slipstream__V1__AckRequest *r);
/* One of those; ERR_INVALID: a receipt that none of ours can be. */
enum err door_check_ack(const Slipstream__V1__Ack *a, uint64_t max_lease_ms);
enum err door_check_hold(const Slipstream__V1__HoldRequest *r);
enum err door_check_dead(const Slipstream__V1__DeadRequest *r);
enum err door_check_redrive(const Slipstream__V1__RedriveRequest *r);
/* agent NULL: not part of the request. */
enum err door_check_ids(const char *tenant, const char *workflow, const char *agent);

#endif
