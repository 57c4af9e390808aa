/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/sim/sim_policy.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "bench/sim/sim_sched.h"
#include "common/must.h"

struct key {
    const char *name;
    size_t at;    /* in struct sim_policy */
    bool is_flag; /* 0 or 1 */
};

static const struct key KEYS[] = {
    {"lag", offsetof(struct sim_policy, lag), false},
    {"terr", offsetof(struct sim_policy, tok_factor), false},
    {"kerr", offsetof(struct sim_policy, kv_factor), false},
    {"cerr", offsetof(struct sim_policy, size_factor), false},
    {"end", offsetof(struct sim_policy, end), true},
    {"prio", offsetof(struct sim_policy, priority), true},
    {"fit", offsetof(struct sim_policy, fit), true},
    {"ct", offsetof(struct sim_policy, cached_tokens), true},
};

static const struct key *key_find(const char *s, size_t len)
{
    for (size_t i = 0; i < sizeof(KEYS) / sizeof(*KEYS); i++)
        if (strlen(KEYS[i].name) == len && memcmp(KEYS[i].name, s, len) == 0)
            return &KEYS[i];
    return NULL;
}

static bool set(struct sim_policy *p, const struct key *k, const char *value, size_t len)
{
    char text[32], *end;
    double v;

    if (len == 0 || len >= sizeof(text))
        return false;
    memcpy(text, value, len);
    text[len] = '\0';
    v = strtod(text, &end);
    if (*end != '\0' || !isfinite(v) || v < 0 || (k->is_flag && v > 1))
        return false;
    if (k->is_flag)
        *(bool *)((char *)p + k->at) = v > 0;
    else
        *(double *)(void *)((char *)p + k->at) = v;
    return true;
}

enum err sim_policy_parse(const char *text, struct sim_policy *out, struct buf *why)
{
    struct sim_policy p = {.name = text,
                           .tok_factor = 1,
                           .kv_factor = 1,
                           .size_factor = 1,
                           .end = true,
                           .priority = strcspn(text, ":") == 8 && memcmp(text, "workflow", 8) == 0,
                           .cached_tokens = true,
                           .exact = true};
    struct buf spec = {0};
    enum err err;

    for (const char *s = text; s != NULL;) {
        size_t len = strcspn(s, ":");
        const char *eq = s == text ? NULL : memchr(s, '=', len);
        const struct key *k = eq != NULL ? key_find(s, (size_t)(eq - s)) : NULL;

        if (k != NULL && !set(&p, k, eq + 1, len - (size_t)(eq + 1 - s))) {
            buf_addf(why, "%s: %s takes a number%s", text, k->name, k->is_flag ? ", 0 or 1" : "");
            buf_fini(&spec);
            return ERR_INVALID;
        }
        if (k == NULL) {
            if (s != text)
                buf_adds(&spec, ":");
            buf_add(&spec, s, len);
            p.exact = p.exact && !(len == 11 && memcmp(s, "view=approx", 11) == 0);
        }
        s = s[len] == ':' ? s + len + 1 : NULL;
    }
    err = sim_sched_check(buf_cstr(&spec), why);
    if (err == ERR_OK) {
        p.spec = strdup(buf_cstr(&spec));
        must(p.spec != NULL);
        *out = p;
    }
    buf_fini(&spec);
    return err;
}

void sim_policy_fini(struct sim_policy *p)
{
    free(p->spec);
}
