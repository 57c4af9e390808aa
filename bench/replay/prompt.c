/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/replay/prompt.h"

#include <stdlib.h>
#include <string.h>

#include "common/must.h"

static const char ALPHABET[65] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .";

static uint64_t mixed(uint64_t x)
{
    x += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static void make_text(const struct plans *p, uint32_t owner, uint32_t at, uint32_t len, char *dst)
{
    uint64_t key = mixed(p->seed ^ mixed(owner));

    for (uint32_t i = 0; i < len; i++) {
        uint64_t r = mixed(key + at + i);

        for (unsigned b = 0; b < PROMPT_TOKEN_BYTES; b++, r >>= 6)
            *dst++ = ALPHABET[r & 63U];
    }
}

/* Where ref's stream (prompt, then output) is left, and how many tokens of new content follow. */
struct cut {
    uint32_t pieces;   /* of ref's prompt, the last maybe in part; count + 1: its output too */
    uint32_t last_len; /* tokens kept of the last one */
    uint32_t at;       /* position of the new content */
    uint32_t len;      /* tokens of it; 0: none fits, nothing is added */
    bool opens;
};

static struct piece stream_piece(const struct plans *p, uint32_t call, uint32_t i)
{
    const struct plan *plan = &p->of[call];

    if (i < plan->count)
        return plan->pieces[i];
    return (struct piece){.owner = call,
                          .at = plan->prompt_tokens,
                          .len = p->trace->calls[call].out,
                          .opens = true,
                          .is_output = true};
}

/* Tries to share `shared` tokens of ref with a prompt of `want`; false: too little room after. */
static bool try_cut(const struct plans *p, uint32_t ref, uint32_t shared, uint32_t want,
                    struct cut *out)
{
    const struct plan *plan = &p->of[ref];
    uint32_t n = plan->count + 1, end, frame;
    struct piece last;

    while (n > 0 && stream_piece(p, ref, n - 1).at >= shared)
        n--;
    if (n == 0) {
        *out = (struct cut){.at = 1, .opens = true, .len = want - 3};
        return true;
    }
    last = stream_piece(p, ref, n - 1);
    if (last.len > shared - last.at)
        last.len = shared - last.at;
    end = last.at + last.len;
    /* A user's message goes on, unless its end was shared as well; an answer ends here. */
    out->opens = last.is_output || shared > end;
    out->pieces = n;
    out->last_len = last.len;
    out->at = out->opens ? end + 2 : end;
    frame = out->at + 2; /* its end, and the marker of the answer */
    if (frame + (out->opens ? 1 : 0) > want)
        return false;
    out->len = want - frame;
    return true;
}

static void plan_make(struct plans *p, uint32_t call)
{
    const struct trace_call *c = &p->trace->calls[call];
    struct plan *plan = &p->of[call];
    uint32_t want = c->in > PROMPT_MIN ? c->in : PROMPT_MIN, shared = 0, n = 0;
    struct cut cut = {.at = 1, .opens = true, .len = want - 3};

    if (c->ref >= 0) {
        uint64_t have = (uint64_t)p->of[c->ref].prompt_tokens + p->trace->calls[c->ref].out;
        uint64_t said = (uint64_t)c->shared * p->trace->block;

        said = said < have ? said : have;
        shared = said < want ? (uint32_t)said : want;
        while (!try_cut(p, (uint32_t)c->ref, shared, want, &cut))
            shared--;
    }
    plan->pieces = calloc(cut.pieces + 1, sizeof(*plan->pieces));
    must(plan->pieces != NULL);
    for (; n < cut.pieces; n++)
        plan->pieces[n] = stream_piece(p, (uint32_t)c->ref, n);
    if (n > 0)
        plan->pieces[n - 1].len = cut.last_len;
    if (cut.len > 0)
        plan->pieces[n++] =
            (struct piece){.owner = call, .at = cut.at, .len = cut.len, .opens = cut.opens};
    plan->count = n;
    plan->prompt_tokens = want;
    plan->shared_tokens = shared;
}

struct plans *plans_new(const struct trace *t, uint64_t seed)
{
    struct plans *p = calloc(1, sizeof(*p));

    must(p != NULL);
    p->trace = t;
    p->of = calloc(t->call_count + 1, sizeof(*p->of));
    must(p->of != NULL);
    p->seed = mixed(seed);
    for (const char *s = t->name; *s != '\0'; s++)
        p->seed = mixed(p->seed ^ (unsigned char)*s);
    for (uint32_t i = 0; i < t->call_count; i++)
        plan_make(p, i);
    return p;
}

void plans_free(struct plans *p)
{
    if (p == NULL)
        return;
    for (size_t i = 0; i < p->trace->call_count; i++)
        free(p->of[i].pieces);
    free(p->of);
    free(p);
}

void prompt_output(const struct plans *p, uint32_t call, const struct answers *known, uint32_t n,
                   char *dst)
{
    size_t want = (size_t)n * PROMPT_TOKEN_BYTES, have = 0;

    if (known != NULL && call < known->count)
        have = known->text[call].len < want ? known->text[call].len : want;
    have -= have % PROMPT_TOKEN_BYTES;
    if (have > 0)
        memcpy(dst, known->text[call].base, have);
    make_text(p, call, p->of[call].prompt_tokens + (uint32_t)(have / PROMPT_TOKEN_BYTES),
              (uint32_t)((want - have) / PROMPT_TOKEN_BYTES), dst + have);
}

static void piece_bytes(const struct plans *p, const struct piece *x, const struct answers *known,
                        char *dst)
{
    if (x->is_output)
        prompt_output(p, x->owner, x->made_up ? NULL : known, x->len, dst);
    else
        make_text(p, x->owner, x->at, x->len, dst);
}

void prompt_settle(struct plans *p, uint32_t call, const struct answers *known)
{
    const struct trace_call *c = &p->trace->calls[call];
    const struct plan *ref = c->ref >= 0 && p->of[c->ref].settled ? &p->of[c->ref] : NULL;
    struct plan *plan = &p->of[call];

    for (uint32_t i = 0; i < plan->count; i++) {
        struct piece *x = &plan->pieces[i];

        if (x->is_output)
            x->made_up = ref != NULL && i < ref->count ? ref->pieces[i].made_up
                                                       : known->text[x->owner].len == 0;
    }
    plan->settled = true;
}

static void add_escaped(struct buf *out, const char *s, size_t n)
{
    size_t from = 0;

    for (size_t i = 0; i < n; i++) {
        unsigned char ch = (unsigned char)s[i];

        if (ch >= 0x20 && ch != '"' && ch != '\\')
            continue;
        buf_add(out, s + from, i - from);
        buf_addf(out, "\\u%04x", ch);
        from = i + 1;
    }
    buf_add(out, s + from, n - from);
}

void prompt_add_messages(const struct plans *p, uint32_t call, const struct answers *known,
                         struct buf *out)
{
    const struct plan *plan = &p->of[call];
    struct buf text = {0};

    buf_adds(out, "[");
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct piece *x = &plan->pieces[i];
        size_t n = (size_t)x->len * PROMPT_TOKEN_BYTES;

        buf_clear(&text);
        piece_bytes(p, x, known, buf_reserve(&text, n));
        if (x->opens)
            buf_addf(out, "%s{\"role\":\"%s\",\"content\":\"", i == 0 ? "" : "\"},",
                     x->is_output ? "assistant" : "user");
        add_escaped(out, text.base, n);
    }
    buf_adds(out, "\"}]");
    buf_fini(&text);
}

uint32_t *prompt_tokens_of(const struct plans *p, uint32_t call, const struct answers *known)
{
    const struct plan *plan = &p->of[call];
    uint32_t *out = calloc((size_t)plan->prompt_tokens + 1, sizeof(*out));

    must(out != NULL);
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct piece *x = &plan->pieces[i];

        if (x->opens)
            out[x->at - 1] = x->is_output ? PROMPT_ASSISTANT : PROMPT_USER;
        if (x->opens && i > 0)
            out[x->at - 2] = PROMPT_END;
        piece_bytes(p, x, known, (char *)&out[x->at]);
    }
    out[plan->prompt_tokens - 2] = PROMPT_END;
    out[plan->prompt_tokens - 1] = PROMPT_ASSISTANT;
    return out;
}
