/* SPDX-License-Identifier: Apache-2.0 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/conf_table.h"
#include "common/policy_spec.h"

/*
 * What must agree between settings, and the texts that have a form: addresses, names.
 */
enum {
    COMMON,
    GATEWAY,
    SCHEDULER,
    MAILBOX,
    ENGINES,
    KEYS,
    PROFILES,
    POLICIES
}; /* as in conf_sections */

struct check {
    const struct conf *conf;
    const struct conf_finder *finder;
};

static void complain(const struct check *k, int section, size_t i, const char *name,
                     const char *text)
{
    const struct conf_section *s = &conf_sections[section];

    k->finder->complain(k->finder->ctx, k->finder->line_of(k->finder->ctx, s, i, name), s, i, name,
                        text);
}

static bool port_is_valid(const char *s)
{
    size_t digits = strspn(s, "0123456789");

    return digits > 0 && digits < 6 && s[digits] == '\0' && s[0] != '0' && atoi(s) <= 65535;
}

/* Splits "host:port" or "[ip6]:port" and checks the port; host gets no brackets. */
static bool address_split(const char *s, char *host, size_t size, bool *is_ip6)
{
    const char *end, *start = s;

    *is_ip6 = *s == '[';
    if (*is_ip6) {
        start = s + 1;
        end = strchr(start, ']');
        if (end == NULL || end[1] != ':' || !port_is_valid(end + 2))
            return false;
    } else {
        end = strchr(start, ':');
        if (end == NULL || !port_is_valid(end + 1))
            return false;
    }
    if (end == start || (size_t)(end - start) >= size)
        return false;
    memcpy(host, start, (size_t)(end - start));
    host[end - start] = '\0';
    return true;
}

static bool host_is_name(const char *s)
{
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") ==
           strlen(s);
}

static bool address_is_numeric(const char *s)
{
    char host[64];
    struct in6_addr a;
    bool ip6;

    return address_split(s, host, sizeof(host), &ip6) &&
           inet_pton(ip6 ? AF_INET6 : AF_INET, host, &a) == 1;
}

static bool address_is_any(const char *s)
{
    char host[120];
    struct in6_addr a;
    bool ip6;

    if (!address_split(s, host, sizeof(host), &ip6))
        return false;
    return ip6 ? inet_pton(AF_INET6, host, &a) == 1 : host_is_name(host);
}

static bool name_is_plain(const char *s)
{
    return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") ==
           strlen(s);
}

static void check_listen(const struct check *k, const char *name, const struct conf_list *list)
{
    size_t i, j;

    for (i = 0; i < list->count; i++) {
        if (!address_is_numeric(list->items[i]))
            complain(k, GATEWAY, 0, name, "must be ip:port or [ip6]:port");
        for (j = 0; j < i; j++)
            if (strcmp(list->items[i], list->items[j]) == 0)
                complain(k, GATEWAY, 0, name, "has an address twice");
    }
}

static void check_listens(const struct check *k)
{
    const struct conf_gateway *g = &k->conf->gateway;
    size_t i, j;

    check_listen(k, "listen", &g->listen);
    check_listen(k, "admin_listen", &g->admin_listen);
    for (i = 0; i < g->listen.count; i++)
        for (j = 0; j < g->admin_listen.count; j++)
            if (strcmp(g->listen.items[i], g->admin_listen.items[j]) == 0)
                complain(k, GATEWAY, 0, "admin_listen", "has an address of listen, too");
}

static void check_policy(const struct check *k, int section, size_t i, const char *name,
                         const char *text)
{
    struct policy_spec spec;
    char why[400];

    if (spec_parse(text, &spec, why, sizeof(why)) != ERR_OK)
        complain(k, section, i, name, why);
}

/* What it knows of workflows is one body of knowledge. first: what is in force so far, or NULL. */
static const char *single(const struct check *k, int section, size_t i, const char *name,
                          const char *text, const char *first)
{
    struct policy_spec spec;

    if (spec_parse(text, &spec, NULL, 0) != ERR_OK || !spec_is_single(&spec))
        return first;
    if (first != NULL && strcmp(first, text) != 0)
        complain(k, section, i, name,
                 "policy workflow can be in force with one set of options only");
    return first != NULL ? first : text;
}

static void check_one_workflow_policy(const struct check *k)
{
    const struct conf_scheduler *s = &k->conf->scheduler;
    const char *first = single(k, SCHEDULER, 0, "policy", s->policy, NULL);

    /* Without options it is meant as it is in force. */
    if (first == NULL || strcmp(s->default_policy, "workflow") != 0)
        first = single(k, SCHEDULER, 0, "default_policy", s->default_policy, first);
    for (size_t i = 0; i < k->conf->policy_count; i++)
        first = single(k, POLICIES, i, "policy", k->conf->policies[i].policy, first);
}

static void check_policies(const struct check *k)
{
    const struct conf_scheduler *s = &k->conf->scheduler;

    check_policy(k, SCHEDULER, 0, "policy", s->policy);
    check_policy(k, SCHEDULER, 0, "default_policy", s->default_policy);
    check_one_workflow_policy(k);
    for (size_t i = 0; i < k->conf->policy_count; i++) {
        const struct conf_policy *p = &k->conf->policies[i];

        if (*p->policy != '\0') /* has been told: it is required */
            check_policy(k, POLICIES, i, "policy", p->policy);
        if (*p->route != '\0' && *p->route != '/')
            complain(k, POLICIES, i, "route", "must begin with a slash");
        for (size_t j = 0; j < i; j++)
            if (strcmp(p->model, k->conf->policies[j].model) == 0 &&
                strcmp(p->route, k->conf->policies[j].route) == 0)
                complain(k, POLICIES, i, "policy",
                         "model and route are those of another item, too");
    }
}

static void check_url(const struct check *k, const char *name, const char *url)
{
    const struct conf_common *c = &k->conf->common;
    bool tls = strncmp(url, "tls+tcp://", 10) == 0, tcp = strncmp(url, "tcp://", 6) == 0;

    if (*url == '\0')
        return;
    if (strncmp(url, "ipc:///", 7) == 0) {
        if (strlen(url) > 100)
            complain(k, COMMON, 0, name, "is too long for a socket's path");
        return;
    }
    if ((!tls && !tcp) || !address_is_any(url + (tls ? 10 : 6))) {
        complain(k, COMMON, 0, name, "must be ipc:///path, tls+tcp://host:port or tcp://host:port");
        return;
    }
    if (tcp && !c->insecure)
        complain(k, COMMON, 0, name, "plain tcp:// needs insecure: true");
    if (tls && c->rpc_tls_cert_file[0] == '\0' && c->rpc_tls_ca_file[0] == '\0')
        complain(k, COMMON, 0, name,
                 "tls+tcp:// needs rpc_tls_cert_file and rpc_tls_key_file, or rpc_tls_ca_file");
}

static void check_pair(const struct check *k, int section, const char *cert_name, const char *cert,
                       const char *key_name, const char *key)
{
    char text[120];

    if ((*cert == '\0') == (*key == '\0'))
        return;
    snprintf(text, sizeof(text), "needs %s, too", *cert == '\0' ? cert_name : key_name);
    complain(k, section, 0, *cert == '\0' ? key_name : cert_name, text);
}

static void check_sizes(const struct check *k)
{
    const struct conf_mailbox *m = &k->conf->mailbox;
    const struct conf_gateway *g = &k->conf->gateway;

    if (m->max_payload_bytes > m->box_bytes)
        complain(k, MAILBOX, 0, "max_payload_bytes", "is more than box_bytes");
    if (m->box_bytes > m->total_bytes)
        complain(k, MAILBOX, 0, "box_bytes", "is more than total_bytes");
    if (g->body_budget_bytes != 0 && g->body_budget_bytes < g->max_body_bytes)
        complain(k, GATEWAY, 0, "body_budget_bytes", "is less than max_body_bytes");
}

static bool kv_endpoint_is_valid(const char *s, bool bind, uint32_t ranks)
{
    if (strncmp(s, "ipc:///", 7) == 0)
        return ranks == 1 && strlen(s) <= 100;
    if (strncmp(s, "tcp://", 6) != 0)
        return false;
    if (bind && strncmp(s + 6, "*:", 2) == 0)
        return port_is_valid(s + 8);
    return address_is_any(s + 6);
}

static void check_engine_kv(const struct check *k, size_t i)
{
    const struct conf_engine *e = &k->conf->engines[i];
    static const char form[] = "must be tcp://host:port, or ipc:///path where kv_ranks is 1";

    if (*e->metrics_path != '\0' && *e->metrics_path != '/')
        complain(k, ENGINES, i, "metrics_path", "must begin with a slash");
    if (*e->kv_events != '\0' && !kv_endpoint_is_valid(e->kv_events, e->kv_bind, e->kv_ranks))
        complain(k, ENGINES, i, "kv_events", form);
    if (*e->kv_replay != '\0' && !kv_endpoint_is_valid(e->kv_replay, false, e->kv_ranks))
        complain(k, ENGINES, i, "kv_replay", form);
    if (*e->kv_events == '\0' && (*e->kv_replay != '\0' || e->kv_content))
        complain(k, ENGINES, i, *e->kv_replay != '\0' ? "kv_replay" : "kv_content",
                 "needs kv_events, too");
    if (e->kv_content && e->kv_ranks > 1)
        complain(k, ENGINES, i, "kv_content", "goes with one rank only");
    for (size_t j = 0; e->kv_bind && j < i; j++)
        if (k->conf->engines[j].kv_bind && strcmp(e->kv_events, k->conf->engines[j].kv_events) == 0)
            complain(k, ENGINES, i, "kv_events", "is opened for another engine, too");
}

static void check_engines(const struct check *k)
{
    size_t i, j;

    for (i = 0; i < k->conf->engine_count; i++) {
        const struct conf_engine *e = &k->conf->engines[i];

        if (!name_is_plain(e->id))
            complain(k, ENGINES, i, "id", "takes letters, digits, '.', '_' and '-' only");
        check_engine_kv(k, i);
        if (*e->id == '\0' || *e->url == '\0')
            continue; /* has been told: they are required */
        if (strncmp(e->url, "http://", 7) != 0 || !address_is_any(e->url + 7))
            complain(k, ENGINES, i, "url", "must be http://host:port");
        for (j = 0; j < e->models.count; j++)
            if (strlen(e->models.items[j]) > 95)
                complain(k, ENGINES, i, "models", "has a name of more than 95 bytes");
        for (j = 0; j < i; j++)
            if (strcmp(e->id, k->conf->engines[j].id) == 0)
                complain(k, ENGINES, i, "id", "is the id of another engine, too");
    }
}

static void check_names(const struct check *k)
{
    size_t i, j;

    for (i = 0; i < k->conf->key_count; i++)
        for (j = 0; j < i; j++)
            if (*k->conf->keys[i].file != '\0' &&
                strcmp(k->conf->keys[i].file, k->conf->keys[j].file) == 0)
                complain(k, KEYS, i, "file", "is the file of another key, too");
    for (i = 0; i < k->conf->profile_count; i++)
        for (j = 0; j < i; j++)
            if (*k->conf->profiles[i].name != '\0' &&
                strcmp(k->conf->profiles[i].name, k->conf->profiles[j].name) == 0)
                complain(k, PROFILES, i, "name", "is the name of another profile, too");
}

void conf_check(const struct conf *c, const struct conf_finder *f)
{
    struct check k = {c, f};

    if (c->common.run_dir[0] != '/')
        complain(&k, COMMON, 0, "run_dir", "must be an absolute path");
    check_url(&k, "scheduler_url", c->common.scheduler_url);
    check_url(&k, "mailbox_url", c->common.mailbox_url);
    check_pair(&k, COMMON, "rpc_tls_cert_file", c->common.rpc_tls_cert_file, "rpc_tls_key_file",
               c->common.rpc_tls_key_file);
    check_listens(&k);
    check_policies(&k);
    check_pair(&k, GATEWAY, "tls_cert_file", c->gateway.tls_cert_file, "tls_key_file",
               c->gateway.tls_key_file);
    check_sizes(&k);
    check_engines(&k);
    check_names(&k);
}
