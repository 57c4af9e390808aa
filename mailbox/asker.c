/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/*
 * Workflows that sent with idempotency keys, and how many of the remembered answers are theirs.
 * When answers have to give way, those of the biggest user do, so that nobody's flood ends the
 * window of another's keys.
 *
 * Biggest to a factor of two: users are on lists by the power of two of what they have, once by
 * number and once by bytes. Of one list the one that has been on it longest gives way.
 */
static unsigned class_of(uint64_t amount)
{
    return amount < 2 ? 0 : 63u - (unsigned)__builtin_clzll(amount);
}

static void rank(struct mbox_core *c, struct asker *a, enum asker_scale scale)
{
    unsigned now = class_of(scale == BY_KEYS ? a->count : a->bytes);

    if (!list_is_empty(&a->in_class[scale]) && now == a->class[scale])
        return;
    list_remove(&a->in_class[scale]);
    a->class[scale] = (uint8_t)now;
    list_push(&c->askers_by[scale][now], &a->in_class[scale]);
}

static uint64_t asker_hash(const struct mbox_core *c, const char *tenant, const char *workflow)
{
    return box_hash(c, tenant, workflow, NULL) ^ 3;
}

struct asker *asker_find(const struct mbox_core *c, const char *tenant, const char *workflow)
{
    struct hash_node *n = hash_find(&c->askers, asker_hash(c, tenant, workflow));

    for (; n != NULL; n = hash_find_next(n)) {
        struct asker *a = container_of(n, struct asker, hash);

        if (strcmp(a->workflow, workflow) == 0 && strcmp(a->tenant, tenant) == 0)
            return a;
    }
    return NULL;
}

struct asker *asker_open(struct mbox_core *c, const char *tenant, const char *workflow)
{
    struct asker *a = asker_find(c, tenant, workflow);
    size_t tenant_len = strlen(tenant) + 1, workflow_len = strlen(workflow) + 1;

    if (a != NULL)
        return a;
    a = calloc(1, sizeof(*a) + tenant_len + workflow_len);
    must(a != NULL);
    a->tenant = memcpy(a->text, tenant, tenant_len);
    a->workflow = memcpy(a->text + tenant_len, workflow, workflow_len);
    a->cost = (uint32_t)(sizeof(*a) + tenant_len + workflow_len);
    list_init(&a->answers);
    list_init(&a->in_class[BY_KEYS]);
    list_init(&a->in_class[BY_BYTES]);
    c->totals.bytes += a->cost;
    c->answer_bytes += a->cost;
    hash_add(&c->askers, &a->hash, asker_hash(c, tenant, workflow));
    return a;
}

void asker_add(struct mbox_core *c, struct asker *a, uint32_t cost)
{
    a->count++;
    a->bytes += cost;
    rank(c, a, BY_KEYS);
    rank(c, a, BY_BYTES);
}

void asker_remove(struct mbox_core *c, struct asker *a, uint32_t cost)
{
    a->bytes -= cost;
    if (--a->count > 0) {
        rank(c, a, BY_KEYS);
        rank(c, a, BY_BYTES);
        return;
    }
    list_remove(&a->in_class[BY_KEYS]);
    list_remove(&a->in_class[BY_BYTES]);
    hash_remove(&c->askers, &a->hash);
    c->totals.bytes -= a->cost;
    c->answer_bytes -= a->cost;
    free(a);
}

struct asker *asker_biggest(const struct mbox_core *c, enum asker_scale scale)
{
    unsigned i;

    for (i = ASKER_CLASSES; i > 0; i--) {
        struct list *n = list_first(&c->askers_by[scale][i - 1]);

        if (n != NULL)
            return container_of(n, struct asker, in_class[scale]);
    }
    return NULL;
}

void askers_init(struct mbox_core *c)
{
    unsigned i, scale;

    hash_init(&c->askers);
    for (scale = 0; scale < ASKER_SCALES; scale++)
        for (i = 0; i < ASKER_CLASSES; i++)
            list_init(&c->askers_by[scale][i]);
}
