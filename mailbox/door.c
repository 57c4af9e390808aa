/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/door.h"

#include <string.h>

#include "common/id.h"
#include "common/json.h"
#include "common/pb.h"
#include "mailbox/core.h"

bool door_is_bounded(const uint8_t *bytes, size_t len, uint32_t nested, size_t max)
{
    struct pb_reader r;
    struct pb_field f, inside;
    size_t count = 0;

    if (len == 0)
        return true;
    r = (struct pb_reader){bytes, bytes + len};
    while (r.at < r.end) {
        if (!pb_read_field(&r, &f) || ++count > max)
            return false;
        while (nested != 0 && f.number == nested && f.span.at < f.span.end)
            if (!pb_read_field(&f.span, &inside) || ++count > max)
                return false;
    }
    return true;
}

static bool is_given(const char *s)
{
    return s != NULL && s[0] != '\0';
}

static bool is_id(const char *s)
{
    return s != NULL && id_is_valid(s, strnlen(s, ID_BYTES_MAX + 1));
}

/* "*" means everybody, so nobody can be called that. */
static bool is_agent(const char *s)
{
    return is_id(s) && strcmp(s, "*") != 0;
}

enum err door_check_ids(const char *tenant, const char *workflow, const char *agent)
{
    if (is_given(tenant) && !is_id(tenant))
        return ERR_ID;
    if (!is_id(workflow))
        return ERR_ID;
    return agent == NULL || is_agent(agent) ? ERR_OK : ERR_ID;
}

static bool is_optional_id(const char *s)
{
    return !is_given(s) || is_id(s);
}

enum err door_check_message(const Slipstream__V1__Message *m)
{
    if (!is_agent(m->source_agent) || !is_id(m->target_agent) || !is_id(m->message_type))
        return ERR_ID;
    if (!is_optional_id(m->message_id) || !is_optional_id(m->correlation_id) ||
        !is_optional_id(m->reply_to) || !is_optional_id(m->group))
        return ERR_ID;
    if (m->priority > DOOR_PRIORITY_MAX || m->ttl_ms > DOOR_MS_MAX || m->delay_ms > DOOR_MS_MAX)
        return ERR_VALUE;
    return ERR_OK;
}

enum err door_check_payload(const char *json, size_t len)
{
    size_t at;

    return json_verify(json, len, &at) == ERR_OK ? ERR_OK : ERR_JSON;
}

static enum err check_list(char *const *ids, size_t count, size_t max)
{
    size_t i;

    if (count > max)
        return ERR_INVALID;
    for (i = 0; i < count; i++)
        if (!is_id(ids[i]))
            return ERR_ID;
    return ERR_OK;
}

enum err door_check_send(const Slipstream__V1__SendRequest *r)
{
    enum err e = check_list(r->agents, r->n_agents, DOOR_AGENTS);

    if (r->n_messages == 0 || r->n_messages > DOOR_MESSAGES)
        return ERR_INVALID;
    if (e != ERR_OK)
        return e;
    if (!is_optional_id(r->idempotency_key))
        return ERR_ID;
    if (r->ttl_ms > DOOR_MS_MAX)
        return ERR_VALUE;
    return door_check_ids(r->tenant, r->workflow_id, NULL);
}

enum err door_check_receive(const Slipstream__V1__ReceiveRequest *r, uint64_t max_lease_ms)
{
    enum err e = check_list(r->types, r->n_types, DOOR_TYPES);

    if (e != ERR_OK)
        return e;
    if (r->wait_ms != 0 && r->poll == 0 && !r->peek)
        return ERR_INVALID;
    if (r->peek && (r->lease_ms != 0 || is_given(r->resume_after)))
        return ERR_INVALID;
    if (!is_optional_id(r->resume_after))
        return ERR_ID;
    if (r->lease_ms > max_lease_ms)
        return ERR_VALUE;
    return door_check_ids(r->tenant, r->workflow_id, r->agent_id);
}

enum err door_check_settle(const Slipstream__V1__SettleRequest *r)
{
    return r->keep_ms != 0 && !r->done ? ERR_INVALID : ERR_OK;
}

enum err door_check_acks(const Slipstream__V1__AckRequest *r)
{
    if (r->n_acks == 0 || r->n_acks > DOOR_MESSAGES)
        return ERR_INVALID;
    return door_check_ids(r->tenant, r->workflow_id, r->agent_id);
}

static bool is_receipt(const char *s)
{
    size_t n = 0;

    while (n < MBOX_RECEIPT_MAX &&
           ((s[n] >= '0' && s[n] <= '9') || ((s[n] | 0x20) >= 'a' && (s[n] | 0x20) <= 'z')))
        n++;
    return n > 0 && n < MBOX_RECEIPT_MAX && s[n] == '\0';
}

enum err door_check_ack(const Slipstream__V1__Ack *a, uint64_t max_lease_ms)
{
    if (!is_id(a->message_id))
        return ERR_ID;
    if (!is_receipt(a->receipt))
        return ERR_INVALID;
    switch (a->kind) {
    case SLIPSTREAM__V1__ACK_KIND__ACK_DONE:
        return a->delay_ms == 0 && a->lease_ms == 0 ? ERR_OK : ERR_INVALID;
    case SLIPSTREAM__V1__ACK_KIND__ACK_RETURN:
        if (a->lease_ms != 0)
            return ERR_INVALID;
        return a->delay_ms <= DOOR_MS_MAX ? ERR_OK : ERR_VALUE;
    case SLIPSTREAM__V1__ACK_KIND__ACK_EXTEND:
        if (a->delay_ms != 0)
            return ERR_INVALID;
        return a->lease_ms <= max_lease_ms ? ERR_OK : ERR_VALUE;
    case _SLIPSTREAM__V1__ACK_KIND_IS_INT_SIZE:
        break;
    }
    return ERR_VALUE;
}

enum err door_check_hold(const Slipstream__V1__HoldRequest *r)
{
    enum err e = check_list(r->message_ids, r->n_message_ids, DOOR_MESSAGES);

    if (r->n_message_ids == 0)
        return ERR_INVALID;
    return e != ERR_OK ? e : door_check_ids(r->tenant, r->workflow_id, r->agent_id);
}

enum err door_check_dead(const Slipstream__V1__DeadRequest *r)
{
    return is_optional_id(r->after) ? door_check_ids(r->tenant, r->workflow_id, r->agent_id)
                                    : ERR_ID;
}

enum err door_check_redrive(const Slipstream__V1__RedriveRequest *r)
{
    enum err e = check_list(r->message_ids, r->n_message_ids, DOOR_MESSAGES);

    return e != ERR_OK ? e : door_check_ids(r->tenant, r->workflow_id, r->agent_id);
}
