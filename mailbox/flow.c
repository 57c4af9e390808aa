/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/flow.h"

#include <stdlib.h>
#include <string.h>

#include <xxhash.h>

#include "common/list.h"
#include "common/metric.h"
#include "common/must.h"
#include "mailbox/hash.h"

enum { WORKFLOW, SOURCE, TARGET, TENANT, WORDS };

struct flow {
    struct hash_node hash;
    struct list all;
    struct metric_series *series;
    const char *words[WORDS]; /* in the order of the labels; the tenant is none of them */
    char text[];
};

struct flows {
    struct metric *metric;
    unsigned row;
    uint32_t max;
    struct hash named;
    struct list all;
    struct flow other;
};

struct flows *flows_new(struct metric *m, unsigned row, uint32_t max)
{
    static const char *const other[] = {"_other", "_other", "_other"};
    struct flows *f = calloc(1, sizeof(*f));

    must(f != NULL);
    f->metric = m;
    f->row = row;
    f->max = max;
    hash_init(&f->named);
    list_init(&f->all);
    f->other.series = metric_get(m, row, other);
    return f;
}

static void flow_free(struct flows *f, struct flow *w)
{
    hash_remove(&f->named, &w->hash);
    list_remove(&w->all);
    free(w);
}

void flows_free(struct flows *f)
{
    struct list *n;

    if (f == NULL)
        return;
    while ((n = list_first(&f->all)) != NULL)
        flow_free(f, container_of(n, struct flow, all));
    hash_fini(&f->named);
    free(f);
}

static uint64_t key_of(const char *const words[WORDS])
{
    uint64_t key = 0;
    unsigned i;

    for (i = 0; i < WORDS; i++)
        key = XXH3_64bits_withSeed(words[i], strlen(words[i]), key + i);
    return key;
}

static struct flow *flow_new(struct flows *f, const char *const words[WORDS], uint64_t key)
{
    size_t text = 0, i;
    struct flow *w;
    char *at;

    for (i = 0; i < WORDS; i++)
        text += strlen(words[i]) + 1;
    w = calloc(1, sizeof(*w) + text);
    must(w != NULL);
    at = w->text;
    for (i = 0; i < WORDS; i++) {
        size_t len = strlen(words[i]) + 1;

        w->words[i] = memcpy(at, words[i], len);
        at += len;
    }
    w->series = metric_get(f->metric, f->row, words);
    hash_add(&f->named, &w->hash, key);
    list_init(&w->all);
    list_push(&f->all, &w->all);
    return w;
}

struct flow *flow_get(struct flows *f, const char *tenant, const char *workflow, const char *source,
                      const char *target)
{
    const char *const words[WORDS] = {workflow, source, target, tenant};
    uint64_t key = key_of(words);
    struct hash_node *n;
    unsigned i;

    for (n = hash_find(&f->named, key); n != NULL; n = hash_find_next(n)) {
        struct flow *w = container_of(n, struct flow, hash);

        for (i = 0; i < WORDS && strcmp(w->words[i], words[i]) == 0; i++)
            continue;
        if (i == WORDS)
            return w;
    }
    return f->named.count < f->max ? flow_new(f, words, key) : &f->other;
}

void flow_add(struct flow *f)
{
    metric_add(f->series, 1);
}

/* Another tenant's workflow of the same name shares the series. */
static bool is_shared(const struct flows *f, const struct flow *w)
{
    const struct list *n;

    for (n = f->all.next; n != &f->all; n = n->next) {
        const struct flow *o =
            (const struct flow *)(const void *)((const char *)n - offsetof(struct flow, all));

        if (o != w && o->series == w->series)
            return true;
    }
    return false;
}

void flows_sweep(struct flows *f, const struct mbox_core *c)
{
    struct mbox_workflow_info info;

    list_for_safe(n, &f->all)
    {
        struct flow *w = container_of(n, struct flow, all);

        if (mbox_workflow_find(c, w->words[TENANT], w->words[WORKFLOW], &info))
            continue;
        if (!is_shared(f, w))
            metric_drop(f->metric, w->series);
        flow_free(f, w);
    }
}
