/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/fleet.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/must.h"
#include "common/secret.h"

/* Empty when there is none. */
static void key_read(char *dst, size_t size, const char *path)
{
    struct buf note = {0};
    char *key = NULL;

    *dst = '\0';
    if (*path != '\0' && secret_key_read(path, &key, &note) == ERR_OK)
        snprintf(dst, size, "%s", key);
    secret_free(key);
    buf_fini(&note);
}

static bool host_split(const char *host_port, char *host, size_t size, char *port, size_t port_size)
{
    const char *colon = strrchr(host_port, ':');
    size_t len;

    if (colon == NULL || strchr(colon, ']') != NULL)
        colon = host_port + strlen(host_port);
    len = (size_t)(colon - host_port);
    if (len >= 2 && host_port[0] == '[' && host_port[len - 1] == ']') {
        host_port++;
        len -= 2;
    }
    if (len == 0 || len >= size)
        return false;
    memcpy(host, host_port, len);
    host[len] = '\0';
    snprintf(port, port_size, "%s", *colon == ':' ? colon + 1 : "80");
    return true;
}

static void address_find(struct seat *s, bool may_block)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
    char host[128], port[16];

    s->address[0] = '\0';
    s->port = 0;
    if (!host_split(s->host, host, sizeof(host), port, sizeof(port)))
        return;
    s->port = (uint32_t)strtoul(port, NULL, 10);
    hints.ai_flags = AI_NUMERICSERV | (may_block ? 0 : AI_NUMERICHOST);
    if (getaddrinfo(host, port, &hints, &found) != 0)
        return;
    if (getnameinfo(found->ai_addr, found->ai_addrlen, s->address, sizeof(s->address), NULL, 0,
                    NI_NUMERICHOST) != 0)
        s->address[0] = '\0';
    freeaddrinfo(found);
}

/* What the settings say, in a seat's form. */
static void seat_fill(struct seat *s, const struct conf_engine *e)
{
    const char *host = e->url + strlen("http://");
    size_t len = strlen(e->url);

    must(strncmp(e->url, "http://", 7) == 0);
    s->used = true;
    snprintf(s->id, sizeof(s->id), "%s", e->id);
    snprintf(s->host, sizeof(s->host), "%.*s", (int)strcspn(host, "/"), host);
    while (len > 0 && e->url[len - 1] == '/')
        len--;
    snprintf(s->url, sizeof(s->url), "%.*s", (int)len, e->url);
    key_read(s->key, sizeof(s->key), e->key_file);
    s->usage = e->usage;
    s->priority = e->priority;
    s->drain = e->drain;
    s->late_share = e->late_share;
    s->kv_tokens = e->kv_tokens;
    snprintf(s->kv.events, sizeof(s->kv.events), "%s", e->kv_events);
    snprintf(s->kv.replay, sizeof(s->kv.replay), "%s", e->kv_replay);
    snprintf(s->kv.topic, sizeof(s->kv.topic), "%s", e->kv_topic);
    s->kv.bind = e->kv_bind;
    s->kv.content = e->kv_content;
    s->kv.ranks = e->kv_ranks;
    snprintf(s->metrics_path, sizeof(s->metrics_path), "%s", e->metrics_path);
    s->model_count = 0;
    for (size_t i = 0; i < e->models.count && i < ENGINE_MODELS_MAX; i++)
        s->models[s->model_count++] =
            (struct text){e->models.items[i], (uint32_t)strlen(e->models.items[i])};
}

void fleet_table_remember(struct fleet_table *t, uint32_t index, const struct fleet_engine *row)
{
    struct seat *s = &t->seats[index];

    s->generation = row->generation;
    if ((row->flags & FLEET_USED) == 0)
        return;
    snprintf(s->id, sizeof(s->id), "%.*s", (int)sizeof(row->id) - 1, row->id);
    snprintf(s->host, sizeof(s->host), "%.*s", (int)sizeof(row->host) - 1, row->host);
}

/* Where this engine sits, or sat under the predecessor. */
static uint32_t seat_find(const struct fleet_table *t, const struct seat *s)
{
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        if (strcmp(t->seats[i].id, s->id) == 0 && strcmp(t->seats[i].host, s->host) == 0)
            return i;
    return ENGINE_NONE;
}

static uint32_t seat_free(const struct fleet_table *t, const bool taken[ENGINES_MAX])
{
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        if (!taken[i] && t->seats[i].id[0] == '\0')
            return i;
    for (uint32_t i = 0; i < ENGINES_MAX; i++)
        if (!taken[i] && !t->seats[i].used)
            return i;
    return ENGINE_NONE;
}

static bool seat_differs(const struct seat *a, const struct seat *b)
{
    if (a->late_share != b->late_share || a->kv_tokens != b->kv_tokens ||
        a->priority != b->priority || a->drain != b->drain || a->usage != b->usage ||
        a->model_count != b->model_count || strcmp(a->key, b->key) != 0 ||
        strcmp(a->url, b->url) != 0)
        return true;
    for (uint32_t i = 0; i < a->model_count; i++)
        if (a->models[i].len != b->models[i].len ||
            memcmp(a->models[i].p, b->models[i].p, a->models[i].len) != 0)
            return true;
    return false;
}

static void seat_keep(struct fleet_table *t, uint32_t index, struct seat *fresh,
                      enum fleet_change changes[ENGINES_MAX])
{
    struct seat *s = &t->seats[index];

    fresh->generation = s->generation > 0 ? s->generation : 1;
    if (s->used) {
        changes[index] = seat_differs(s, fresh) ? FLEET_CHANGED : FLEET_KEPT;
        memcpy(fresh->address, s->address, sizeof(fresh->address));
        memcpy(fresh->health_reason, s->health_reason, sizeof(fresh->health_reason));
        fresh->port = s->port;
        fresh->kv_exact = s->kv_exact && fresh->kv.content;
    } else {
        changes[index] = FLEET_NEW;
    }
    *s = *fresh;
}

enum err fleet_table_plan(struct fleet_table *t, const struct conf *conf, bool may_block,
                          enum fleet_change changes[ENGINES_MAX])
{
    bool taken[ENGINES_MAX] = {false}, *seated;
    struct seat fresh;
    uint32_t index;
    size_t i;

    if (conf->engine_count > ENGINES_MAX)
        return ERR_BUSY;
    seated = calloc(conf->engine_count + 1, sizeof(*seated));
    must(seated != NULL);
    for (index = 0; index < ENGINES_MAX; index++)
        changes[index] = t->seats[index].used ? FLEET_GONE : FLEET_FREE;
    for (i = 0; i < conf->engine_count; i++) {
        fresh = (struct seat){0};
        seat_fill(&fresh, &conf->engines[i]);
        index = seat_find(t, &fresh);
        if (index == ENGINE_NONE)
            continue;
        seated[i] = taken[index] = true;
        seat_keep(t, index, &fresh, changes);
    }
    for (index = 0; index < ENGINES_MAX; index++)
        if (!taken[index] && t->seats[index].used)
            t->seats[index] = (struct seat){.generation = t->seats[index].generation};
    for (i = 0; i < conf->engine_count; i++) {
        if (seated[i])
            continue;
        index = seat_free(t, taken);
        must(index != ENGINE_NONE);
        taken[index] = true;
        fresh = (struct seat){.generation = t->seats[index].generation + 1};
        seat_fill(&fresh, &conf->engines[i]);
        /* One that leaves and one that comes in the same seat: the core hears of both. */
        changes[index] = FLEET_NEW;
        t->seats[index] = fresh;
    }
    for (index = 0; index < ENGINES_MAX; index++)
        if (changes[index] == FLEET_NEW)
            address_find(&t->seats[index], may_block);
    free(seated);
    return ERR_OK;
}

void fleet_table_event(const struct fleet_table *t, uint32_t index, struct engine_event *out)
{
    const struct seat *s = &t->seats[index];

    *out = (struct engine_event){.index = index,
                                 .generation = s->generation,
                                 .id = {s->id, (uint32_t)strlen(s->id)},
                                 .models = s->models,
                                 .model_count = s->model_count,
                                 .models_known = s->model_count > 0,
                                 .draining = s->drain,
                                 .priority = s->priority,
                                 .late_share = s->late_share,
                                 .kv_tokens = s->kv_tokens,
                                 .content = s->kv_exact,
                                 .unproven = s->address[0] == '\0'};
}
