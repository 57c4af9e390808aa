/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/keys.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/sha.h>

#include "common/log.h"
#include "common/must.h"
#include "common/secret.h"
#include "gateway/request.h"

struct gw_key {
    unsigned char hash[SHA256_DIGEST_LENGTH];
    char tenant[201];
    char engine[64]; /* not empty: sent to this engine */
    char *secret;    /* engines only */
    bool is_admin;   /* opens the admin listener, and nothing else */
    uint32_t max_requests, active;
};

enum err keys_secret_read(const char *name, char **out)
{
    struct buf note = {0};
    enum err e = secret_key_read(name, out, &note);

    if (e != ERR_OK)
        log_error("key_unreadable", "reason=\"%s\"", buf_cstr(&note));
    else if (note.len > 0)
        log_warn("key_exposed", "reason=\"%s\"", buf_cstr(&note));
    buf_fini(&note);
    return e;
}

static enum err key_add(struct gw *gw, const char *file, const char *tenant, const char *engine,
                        uint32_t max_requests)
{
    struct gw_key *k;
    char *secret;
    enum err e = keys_secret_read(file, &secret);

    if (e != ERR_OK)
        return e;
    gw->keys = realloc(gw->keys, (gw->key_count + 1) * sizeof(*gw->keys));
    must(gw->keys != NULL);
    k = &gw->keys[gw->key_count++];
    memset(k, 0, sizeof(*k));
    SHA256((const unsigned char *)secret, strlen(secret), k->hash);
    snprintf(k->tenant, sizeof(k->tenant), "%s", tenant);
    snprintf(k->engine, sizeof(k->engine), "%s", engine);
    k->max_requests = max_requests;
    if (engine[0] != '\0')
        k->secret = secret;
    else
        secret_free(secret);
    return ERR_OK;
}

enum err keys_load(struct gw *gw, const struct conf *conf)
{
    enum err e = ERR_OK;
    size_t i;

    for (i = 0; i < conf->key_count && e == ERR_OK; i++)
        e = key_add(gw, conf->keys[i].file, conf->keys[i].tenant, "", conf->keys[i].max_requests);
    for (i = 0; i < conf->engine_count && e == ERR_OK; i++)
        if (conf->engines[i].key_file[0] != '\0')
            e = key_add(gw, conf->engines[i].key_file, "", conf->engines[i].id, 0);
    if (e == ERR_OK && conf->gateway.admin_key_file[0] != '\0') {
        e = key_add(gw, conf->gateway.admin_key_file, "", "", 0);
        if (e == ERR_OK)
            gw->keys[gw->key_count - 1].is_admin = true;
    }
    return e;
}

void keys_free(struct gw *gw)
{
    size_t i;

    for (i = 0; i < gw->key_count; i++)
        secret_free(gw->keys[i].secret);
    free(gw->keys);
    gw->keys = NULL;
    gw->key_count = 0;
}

static struct gw_key *key_find(const struct gw *gw, const unsigned char *hash, bool is_admin)
{
    struct gw_key *found = NULL;
    size_t i;

    for (i = 0; i < gw->key_count; i++)
        if (gw->keys[i].engine[0] == '\0' && gw->keys[i].is_admin == is_admin &&
            CRYPTO_memcmp(gw->keys[i].hash, hash, sizeof(gw->keys[i].hash)) == 0)
            found = &gw->keys[i];
    return found;
}

void keys_replace(struct gw *gw, struct gw *fresh)
{
    uint32_t cursor = 0;
    uint64_t handle;
    struct gw_request *r;

    while ((r = pool_next(&gw->requests, &cursor, &handle)) != NULL) {
        struct gw_key *k = r->key != NULL ? key_find(fresh, r->key->hash, false) : NULL;

        if (k != NULL)
            k->active++;
        r->key = k;
    }
    keys_free(gw);
    gw->keys = fresh->keys;
    gw->key_count = fresh->key_count;
    fresh->keys = NULL;
    fresh->key_count = 0;
}

static bool has_client_keys(const struct gw *gw)
{
    return gw->conf->key_count > 0;
}

/* The key in one Authorization or x-api-key header; empty where it has none. */
static h2o_iovec_t key_in(const h2o_header_t *h)
{
    h2o_iovec_t v = h->value;

    if (h->name != &H2O_TOKEN_AUTHORIZATION->buf)
        return h2o_memis(h->name->base, h->name->len, H2O_STRLIT("x-api-key"))
                   ? v
                   : h2o_iovec_init(NULL, 0);
    return v.len > 7 && h2o_lcstris(v.base, 7, H2O_STRLIT("bearer "))
               ? h2o_iovec_init(v.base + 7, v.len - 7)
               : h2o_iovec_init(NULL, 0);
}

/* The hash of the key that a request shows. ERR_AUTH: it shows none; ERR_TWO_KEYS: it shows two,
 * and whoever looked at the other one would take it for somebody else. */
static enum err shown_hash(const struct gw_request *r, unsigned char hash[SHA256_DIGEST_LENGTH])
{
    const h2o_headers_t *hs = &r->req->headers;
    h2o_iovec_t key = {NULL, 0};
    size_t i;

    for (i = 0; i < hs->size; i++) {
        h2o_iovec_t v = key_in(&hs->entries[i]);

        if (v.len > 0 && key.len > 0 && !h2o_memis(v.base, v.len, key.base, key.len))
            return ERR_TWO_KEYS;
        if (v.len > 0)
            key = v;
    }
    if (key.len == 0)
        return ERR_AUTH;
    SHA256((const unsigned char *)key.base, key.len, hash);
    return ERR_OK;
}

enum err keys_check_admin(const struct gw_request *r)
{
    unsigned char hash[SHA256_DIGEST_LENGTH];
    enum err e = r->listener == LISTENER_ADMIN ? shown_hash(r, hash) : ERR_AUTH;

    if (e != ERR_OK)
        return e;
    return key_find(r->gw, hash, true) != NULL ? ERR_OK : ERR_AUTH;
}

enum err keys_check(struct gw_request *r)
{
    unsigned char hash[SHA256_DIGEST_LENGTH];
    struct gw_key *found;
    enum err e;

    if (!has_client_keys(r->gw) || keys_check_admin(r) == ERR_OK)
        return ERR_OK;
    e = shown_hash(r, hash);
    if (e != ERR_OK)
        return e;
    found = key_find(r->gw, hash, false);
    if (found == NULL)
        return ERR_AUTH;
    if (found->max_requests > 0 && found->active >= found->max_requests)
        return ERR_TOO_MANY;
    found->active++;
    r->key = found;
    r->tenant = request_strdup(r, found->tenant, strlen(found->tenant));
    return ERR_OK;
}

void keys_release(struct gw_request *r)
{
    size_t i;

    for (i = 0; i < r->gw->key_count; i++)
        if (&r->gw->keys[i] == r->key)
            r->gw->keys[i].active--;
    r->key = NULL;
}

const char *keys_of_engine(const struct gw *gw, const char *engine_id)
{
    size_t i;

    for (i = 0; i < gw->key_count; i++)
        if (gw->keys[i].engine[0] != '\0' && strcmp(gw->keys[i].engine, engine_id) == 0)
            return gw->keys[i].secret;
    return NULL;
}
