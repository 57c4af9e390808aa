/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/keys.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "common/secret.h"

#define KEY_MAX (SECRET_KEY_MAX + 1)

struct key {
    char text[KEY_MAX]; /* zero padded */
    char *tenant;       /* NULL: a worker's */
};

struct keys {
    size_t count;
    bool open;
    struct key items[];
};

static enum err key_read(const char *name, struct key *k, struct buf *error)
{
    size_t noted = error->len;
    char *text;
    enum err e = secret_key_read(name, &text, error);

    if (e != ERR_OK)
        return e;
    if (error->len > noted)
        log_warn("key_exposed", "reason=\"%s\"", buf_cstr(error));
    error->len = noted;
    memcpy(k->text, text, strlen(text));
    secret_free(text);
    return ERR_OK;
}

enum err keys_load(const struct conf *c, struct keys **out, struct buf *error)
{
    struct keys *k = calloc(1, sizeof(*k) + (c->key_count + 1) * sizeof(k->items[0]));
    enum err e = ERR_OK;
    size_t i;

    must(k != NULL);
    if (c->common.rpc_key_file[0] != '\0')
        e = key_read(c->common.rpc_key_file, &k->items[k->count++], error);
    for (i = 0; i < c->key_count && e == ERR_OK; i++) {
        k->items[k->count].tenant = strdup(c->keys[i].tenant);
        must(k->items[k->count].tenant != NULL);
        e = key_read(c->keys[i].file, &k->items[k->count++], error);
    }
    if (e != ERR_OK) {
        keys_free(k);
        return e;
    }
    k->open = k->count == 0 && c->common.insecure;
    *out = k;
    return ERR_OK;
}

void keys_free(struct keys *k)
{
    size_t i;

    if (k == NULL)
        return;
    for (i = 0; i < k->count; i++)
        free(k->items[i].tenant);
    explicit_bzero(k, sizeof(*k) + k->count * sizeof(k->items[0]));
    free(k);
}

static bool is_same(const char *a, const char *b)
{
    unsigned char differ = 0;
    size_t i;

    for (i = 0; i < KEY_MAX; i++)
        differ |= (unsigned char)(a[i] ^ b[i]);
    return differ == 0;
}

enum err keys_check(const struct keys *k, bool local, const char *key, bool *worker,
                    const char **tenant)
{
    char given[KEY_MAX] = {0};
    const struct key *found = NULL;
    size_t i;

    if (key != NULL && strlen(key) < KEY_MAX)
        memcpy(given, key, strlen(key));
    for (i = 0; i < k->count; i++)
        if (is_same(given, k->items[i].text))
            found = &k->items[i];
    explicit_bzero(given, sizeof(given));
    if (found != NULL) {
        *worker = found->tenant == NULL;
        *tenant = found->tenant;
        return ERR_OK;
    }
    if ((key != NULL && key[0] != '\0') || !(local || k->open))
        return ERR_DENIED;
    *worker = true;
    *tenant = NULL;
    return ERR_OK;
}
