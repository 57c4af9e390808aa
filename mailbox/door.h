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
 * payloads that are JSON.
 */
#define DOOR_MESSAGES 1000u /* of one send */
#define DOOR_AGENTS 4096u
#define DOOR_TYPES 32u

/* At most max fields in all, those inside of the submessages in field nested (0: none) included;
 * and whole. */
bool door_is_bounded(const uint8_t *body, size_t len, uint32_t nested, size_t max);

enum err door_check_send(const Slipstream__V1__SendRequest *r);
enum err door_check_message(const Slipstream__V1__Message *m);
enum err door_check_receive(const Slipstream__V1__ReceiveRequest *r);
/* agent NULL: not part of the request. */
enum err door_check_ids(const char *tenant, const char *workflow, const char *agent);

#endif
