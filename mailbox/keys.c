/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/keys.h"

#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "common/secret.h"

struct key {
    char *text;
    char *tenant; /* NULL: a worker's */
};

struct keys {
    size_t count;
    bool open;
    struct key items[];
};

static enum err key_read(const char *name, struct key *k, struct buf *error)
{
    struct buf note = {0};
    enum err e = secret_key_read(name, &k->text, &note);

    if (e != ERR_OK)
        buf_add(error, note.base, note.len);
    else if (note.len > 0)
        log_warn("key_exposed", "reason=\"%s\"", buf_cstr(&note));
    buf_fini(&note);
    return e;
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
    for (i = 0; i < k->count; i++) {
        secret_free(k->items[i].text);
        free(k->items[i].tenant);
    }
    free(k);
}

enum err keys_check(const struct keys *k, bool local, const char *key, bool *worker,
                    const char **tenant)
{
    const struct key *found = NULL;
    size_t i;

    for (i = 0; i < k->count && key != NULL; i++)
        if (secret_is_same(key, k->items[i].text))
            found = &k->items[i];
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

const char *keys_own(const struct keys *k)
{
    return k->count > 0 && k->items[0].tenant == NULL ? k->items[0].text : NULL;
}
