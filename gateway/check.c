/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/check.h"

#include <stdlib.h>
#include <string.h>

#include "common/secret.h"
#include "gateway/tls.h"

/* Ends the line in words. false: it is wrong. */
static bool told(enum err e, struct buf *note, struct buf *words)
{
    if (note->len > 0) {
        buf_add(words, note->base, note->len);
        buf_adds(words, "\n");
    }
    buf_fini(note);
    return e == ERR_OK;
}

/* Outside its unit nobody has a unit's credentials. */
static bool is_out_of_reach(const char *name, struct buf *words)
{
    if (strchr(name, '/') != NULL || getenv("CREDENTIALS_DIRECTORY") != NULL)
        return false;
    buf_addf(words, "%s: a credential of the unit, not checked\n", name);
    return true;
}

static bool key_is_good(const char *name, struct buf *words)
{
    struct buf note = {0};
    char *key = NULL;
    enum err e;

    if (name[0] == '\0' || is_out_of_reach(name, words))
        return true;
    e = secret_key_read(name, &key, &note);
    if (e == ERR_OK)
        secret_free(key);
    return told(e, &note, words);
}

static bool tls_is_good(const struct conf_gateway *conf, struct buf *words)
{
    struct buf note = {0};
    SSL_CTX *ctx = NULL;
    enum err e;

    if (conf->tls_cert_file[0] == '\0' || is_out_of_reach(conf->tls_key_file, words))
        return true;
    e = tls_open(conf, conf->http2, &ctx, &note);
    if (e == ERR_OK)
        SSL_CTX_free(ctx);
    return told(e, &note, words);
}

static bool ca_is_good(const char *file, struct buf *words)
{
    struct buf note = {0};

    return file[0] == '\0' || told(tls_ca_check(file, &note), &note, words);
}

enum err check_files(const struct conf *conf, struct buf *words)
{
    bool good = tls_is_good(&conf->gateway, words);
    size_t i;

    good &= ca_is_good(conf->common.rpc_tls_ca_file, words);
    good &= key_is_good(conf->common.rpc_key_file, words);
    good &= key_is_good(conf->gateway.admin_key_file, words);
    for (i = 0; i < conf->key_count; i++)
        good &= key_is_good(conf->keys[i].file, words);
    for (i = 0; i < conf->engine_count; i++)
        good &= key_is_good(conf->engines[i].key_file, words);
    return good ? ERR_OK : ERR_CONF;
}
