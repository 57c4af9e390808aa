/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "common/secret.h"
#include "scheduler/methods.h"

/* Who calls: the hello of a peer, its end, and the fleet for gateways without the segment. */

/* Whose word this is. A local peer was let in by the permissions of the socket. */
static bool peer_recognise(const struct server *s, struct peer *p, bool local, const char *key)
{
    p->trusted = key == NULL || *key == '\0' ? local : secret_is_same(key, s->peer_key);
    if (p->trusted)
        return true;
    if (key == NULL)
        return false;
    for (size_t i = 0; i < s->conf->key_count; i++)
        if (secret_is_same(key, s->keys[i])) {
            snprintf(p->tenant, sizeof(p->tenant), "%s", s->conf->keys[i].tenant);
            return true;
        }
    return false;
}

static uint32_t worker_take(struct server *s, struct rpc_peer *peer)
{
    for (uint32_t i = 0; i < SERVER_PEERS; i++)
        if (s->workers[i] == NULL) {
            s->workers[i] = peer;
            return i;
        }
    return UINT32_MAX;
}

static void info_pack(struct server *s, bool is_gateway, uint8_t **info, size_t *len)
{
    Slipstream__V1__SchedulerInfo words;
    Slipstream__V1__Engines engines;

    slipstream__v1__scheduler_info__init(&words);
    arena_clear(&s->arena);
    words.policy = (char *)(uintptr_t)core_policy_name(s->core);
    words.time_scale = s->scale;
    if (is_gateway) {
        words.digest_seed = s->publisher.segment->digest_seed;
        words.conf_epoch = s->conf_epoch;
        words.priority_now = (int64_t)(server_now(s) / NS_PER_MS);
        if (server_engines_message(s, &engines, true))
            words.engines = &engines;
    }
    *len = slipstream__v1__scheduler_info__get_packed_size(&words);
    *info = malloc(*len);
    must(*info != NULL);
    slipstream__v1__scheduler_info__pack(&words, *info);
}

enum err server_on_hello(void *arg, struct rpc_peer *peer, const char *name, const char *key,
                         uint8_t **info, size_t *info_len, const char **reason)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(peer), fresh = {0};
    char quoted[80];

    if (!peer_recognise(s, &fresh, rpc_peer_is_local(peer), key)) {
        *reason = "the key is missing or not known";
        log_warn("peer_refused", "name=%s reason=\"%s\"",
                 log_quote(quoted, sizeof(quoted), name, strlen(name)), *reason);
        return ERR_DENIED;
    }
    if (p == NULL) {
        fresh.worker = worker_take(s, peer);
        if (fresh.worker == UINT32_MAX) {
            *reason = "too many clients";
            return ERR_BUSY;
        }
        p = malloc(sizeof(*p));
        must(p != NULL);
        *p = fresh;
        rpc_peer_set_data(peer, p);
        log_info("peer_up", "name=%s worker=%u trusted=%d",
                 log_quote(quoted, sizeof(quoted), name, strlen(name)), p->worker, p->trusted);
    }
    server_step(s, &(struct event){.type = EV_WORKER_HELLO, .worker = p->worker});
    p->fleet_due = false; /* it is in the answer */
    info_pack(s, p->trusted, info, info_len);
    return ERR_OK;
}

void server_on_gone(void *arg, struct rpc_peer *peer)
{
    struct server *s = arg;
    struct peer *p = rpc_peer_data(peer);
    char quoted[80];

    if (p == NULL)
        return;
    log_info("peer_gone", "name=%s worker=%u",
             log_quote(quoted, sizeof(quoted), rpc_peer_name(peer), strlen(rpc_peer_name(peer))),
             p->worker);
    server_step(s, &(struct event){.type = EV_WORKER_GONE, .worker = p->worker});
    s->workers[p->worker] = NULL;
    rpc_peer_set_data(peer, NULL);
    free(p);
}

void server_tell_fleet(struct server *s)
{
    for (uint32_t i = 0; i < SERVER_PEERS; i++)
        if (s->workers[i] != NULL && !rpc_peer_is_local(s->workers[i])) {
            struct peer *p = rpc_peer_data(s->workers[i]);

            p->fleet_due = p->trusted;
            s->fleet_due |= p->trusted;
        }
    server_retry_fleet(s);
}

void server_retry_fleet(struct server *s)
{
    Slipstream__V1__Engines engines;

    if (!s->fleet_due)
        return;
    arena_clear(&s->arena);
    if (!server_engines_message(s, &engines, true))
        return;
    s->fleet_due = false;
    for (uint32_t i = 0; i < SERVER_PEERS; i++) {
        struct peer *p = s->workers[i] != NULL ? rpc_peer_data(s->workers[i]) : NULL;

        if (p == NULL || !p->fleet_due)
            continue;
        p->fleet_due =
            rpc_event(s->rpc, s->workers[i], SLIPSTREAM__V1__SCHEDULER_EVENT__EVENT_FLEET,
                      &engines.base) != ERR_OK;
        s->fleet_due |= p->fleet_due;
    }
}
