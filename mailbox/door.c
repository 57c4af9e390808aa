/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/door.h"

#include <string.h>

#include "common/id.h"
#include "common/json.h"

struct wire {
    const uint8_t *p, *end;
};

static bool take_varint(struct wire *w, uint64_t *out)
{
    unsigned shift;

    *out = 0;
    for (shift = 0; shift < 64; shift += 7) {
        if (w->p == w->end)
            return false;
        *out |= (uint64_t)(*w->p & 0x7f) << shift;
        if ((*w->p++ & 0x80) == 0)
            return true;
    }
    return false;
}

/* One field; body is the inside of a length-delimited one, else empty. */
static bool take_field(struct wire *w, uint32_t *field, struct wire *body)
{
    uint64_t tag, len = 0;

    *body = (struct wire){w->p, w->p};
    if (!take_varint(w, &tag) || tag > UINT32_MAX)
        return false;
    *field = (uint32_t)tag >> 3;
    switch (tag & 7) {
    case 0:
        return take_varint(w, &len);
    case 1:
        len = 8;
        break;
    case 2:
        if (!take_varint(w, &len))
            return false;
        break;
    case 5:
        len = 4;
        break;
    default:
        return false;
    }
    if (len > (uint64_t)(w->end - w->p))
        return false;
    if ((tag & 7) == 2)
        *body = (struct wire){w->p, w->p + len};
    w->p += len;
    return true;
}

bool door_is_bounded(const uint8_t *bytes, size_t len, uint32_t nested, size_t max)
{
    struct wire w, body, inner;
    uint32_t field, inside;
    size_t count = 0;

    if (len == 0)
        return true;
    w = (struct wire){bytes, bytes + len};
    while (w.p < w.end) {
        if (!take_field(&w, &field, &body) || ++count > max)
            return false;
        while (nested != 0 && field == nested && body.p < body.end)
            if (!take_field(&body, &inside, &inner) || ++count > max)
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
    size_t at;

    if (!is_agent(m->source_agent) || !is_id(m->target_agent) || !is_id(m->message_type))
        return ERR_ID;
    if (!is_optional_id(m->message_id) || !is_optional_id(m->correlation_id) ||
        !is_optional_id(m->reply_to) || !is_optional_id(m->group))
        return ERR_ID;
    /* Payloads are embedded raw in answers: strictness is what keeps them apart. */
    return json_verify((const char *)m->payload.data, m->payload.len, &at) == ERR_OK ? ERR_OK
                                                                                     : ERR_JSON;
}

enum err door_check_send(const Slipstream__V1__SendRequest *r)
{
    size_t i;

    if (r->n_messages == 0 || r->n_messages > DOOR_MESSAGES || r->n_agents > DOOR_AGENTS)
        return ERR_INVALID;
    for (i = 0; i < r->n_agents; i++)
        if (!is_id(r->agents[i]))
            return ERR_ID;
    return door_check_ids(r->tenant, r->workflow_id, NULL);
}

enum err door_check_receive(const Slipstream__V1__ReceiveRequest *r)
{
    size_t i;

    if (r->n_types > DOOR_TYPES)
        return ERR_INVALID;
    for (i = 0; i < r->n_types; i++)
        if (!is_id(r->types[i]))
            return ERR_ID;
    if (r->wait_ms != 0 && r->poll == 0 && !r->peek)
        return ERR_INVALID;
    return door_check_ids(r->tenant, r->workflow_id, r->agent_id);
}
