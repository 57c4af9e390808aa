/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/json.h"
#include "common/lz4_payload.h"
#include "common/must.h"
#include "mailbox/core.h"
#include "mailbox/door.h"

/*
 * A body as a client may send it, to any method: what is found bounded must unpack within those
 * bounds, and what the checks let through is what they promise.
 */
#define FIELDS_MAX 500u
#define LEASE_MAX_MS 60000u
#define PAYLOAD_LIMIT (1u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* As a send takes it: nothing is allocated for a claim beyond the limit, and what was unpacked is
 * as long as it was said to be. */
static void try_payload(const Slipstream__V1__Message *m)
{
    struct packed p;
    struct buf raw = {0};
    enum err e = payload_claim(m->payload.data, m->payload.len, m->raw_len, PAYLOAD_LIMIT, &p);

    must(e == ERR_OK || e == ERR_TOO_LARGE || e == ERR_PACKED);
    if (e != ERR_OK)
        return;
    must(p.raw_len <= PAYLOAD_LIMIT && p.is_packed == (m->raw_len != 0));
    if (payload_unpack(&p, &raw) == ERR_OK) {
        must(raw.len == p.raw_len);
        (void)door_check_payload(raw.base, raw.len);
    } else {
        must(raw.len == 0);
    }
    buf_fini(&raw);
}

static void try_send(const uint8_t *data, size_t size)
{
    Slipstream__V1__SendRequest *r = slipstream__v1__send_request__unpack(NULL, size, data);
    size_t i;

    if (r == NULL)
        return;
    must(r->n_messages + r->n_agents <= FIELDS_MAX);
    if (door_check_send(r) == ERR_OK)
        for (i = 0; i < r->n_messages; i++)
            if (door_check_message(r->messages[i]) == ERR_OK)
                must(r->messages[i]->priority <= DOOR_PRIORITY_MAX);
    for (i = 0; i < r->n_messages; i++)
        try_payload(r->messages[i]);
    slipstream__v1__send_request__free_unpacked(r, NULL);
}

static void try_acks(const uint8_t *data, size_t size)
{
    Slipstream__V1__AckRequest *r = slipstream__v1__ack_request__unpack(NULL, size, data);
    size_t i;

    if (r == NULL)
        return;
    must(r->n_acks <= FIELDS_MAX);
    if (door_check_acks(r) == ERR_OK)
        for (i = 0; i < r->n_acks; i++)
            if (door_check_ack(r->acks[i], LEASE_MAX_MS) == ERR_OK)
                must(r->acks[i]->kind <= SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND &&
                     r->acks[i]->lease_ms <= LEASE_MAX_MS &&
                     strlen(r->acks[i]->receipt) < MBOX_RECEIPT_MAX);
    slipstream__v1__ack_request__free_unpacked(r, NULL);
}

static void try_taking(const uint8_t *data, size_t size)
{
    Slipstream__V1__ReceiveRequest *r = slipstream__v1__receive_request__unpack(NULL, size, data);
    Slipstream__V1__HoldRequest *h = slipstream__v1__hold_request__unpack(NULL, size, data);

    if (r != NULL && door_check_receive(r, LEASE_MAX_MS) == ERR_OK)
        must(r->n_types <= DOOR_TYPES && r->lease_ms <= LEASE_MAX_MS);
    slipstream__v1__receive_request__free_unpacked(r, NULL);
    if (h != NULL && door_check_hold(h) == ERR_OK)
        must(h->n_message_ids > 0 && h->n_message_ids <= DOOR_MESSAGES);
    slipstream__v1__hold_request__free_unpacked(h, NULL);
}

static void try_dead(const uint8_t *data, size_t size)
{
    Slipstream__V1__DeadRequest *l = slipstream__v1__dead_request__unpack(NULL, size, data);
    Slipstream__V1__RedriveRequest *r = slipstream__v1__redrive_request__unpack(NULL, size, data);
    Slipstream__V1__SettleRequest *s = slipstream__v1__settle_request__unpack(NULL, size, data);

    if (l != NULL)
        (void)door_check_dead(l);
    slipstream__v1__dead_request__free_unpacked(l, NULL);
    if (r != NULL && door_check_redrive(r) == ERR_OK)
        must(r->n_message_ids <= DOOR_MESSAGES);
    slipstream__v1__redrive_request__free_unpacked(r, NULL);
    if (s != NULL && door_check_settle(s) == ERR_OK)
        must(s->done || s->keep_ms == 0);
    slipstream__v1__settle_request__free_unpacked(s, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t at;

    (void)json_verify((const char *)data, size, &at);
    if (door_is_bounded(data, size, 3, FIELDS_MAX))
        try_send(data, size);
    if (door_is_bounded(data, size, 4, FIELDS_MAX))
        try_acks(data, size);
    if (door_is_bounded(data, size, 0, FIELDS_MAX)) {
        try_taking(data, size);
        try_dead(data, size);
    }
    return 0;
}
