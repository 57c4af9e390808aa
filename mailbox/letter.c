/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "mailbox/box.h"

/* Messages apart from where they lie: packed texts, life and cost. */

const char *letter_get(const struct letter *l, enum letter_text which)
{
    const char *at = l->text;
    unsigned i;

    for (i = 0; i < (unsigned)which; i++)
        at += strlen(at) + 1;
    return at;
}

struct letter *letter_new(struct mbox_core *c, const struct mbox_record *r, bool single)
{
    const char *texts[LETTER_TEXTS] = {r->message_id,     r->source,   r->type,
                                       r->correlation_id, r->reply_to, r->group};
    size_t len[LETTER_TEXTS], bytes = offsetof(struct letter, text), i;
    size_t ahead = single ? sizeof(struct copy) : 0;
    struct letter *l;
    uint64_t bits;
    char *at;

    for (i = 0; i < LETTER_TEXTS; i++) {
        len[i] = strlen(texts[i]) + 1;
        bytes += len[i];
    }
    at = malloc(ahead + bytes);
    must(at != NULL);
    l = (struct letter *)(void *)(at + ahead);
    memset(l, 0, sizeof(*l));
    l->single = single;
    l->refs = 1;
    l->cost = (uint32_t)bytes;
    l->created_ns = c->now_ns;
    l->created_ms = r->created_ms;
    l->ttl_ms = (uint32_t)r->ttl_ms;
    l->payload_len = (uint32_t)r->payload_len;
    l->priority = (uint8_t)r->priority;
    l->grouped = r->group[0] != '\0';
    bits = type_mask(r->type);
    l->type_bits = (uint16_t)(__builtin_ctzll(bits) | (63 - __builtin_clzll(bits)) << 6);
    for (i = 0, at = l->text; i < LETTER_TEXTS; at += len[i], i++)
        memcpy(at, texts[i], len[i]);
    return l;
}

static void letter_free(struct letter *l)
{
    free(l->single ? (void *)((struct copy *)(void *)l - 1) : (void *)l);
}

void letter_release(struct mbox_core *c, struct letter *l)
{
    if (--l->refs > 0)
        return;
    c->totals.bytes -= l->cost;
    letter_free(l);
}

/* The copy is the letter's last. */
void letter_remove(struct mbox_core *c, struct letter *l, uint64_t copy)
{
    c->totals.bytes -= l->cost;
    if (l->viewed == c->steps && !c->freeing) {
        l->next_dead = c->dead_letters;
        l->created_ms = copy;
        c->dead_letters = l;
        return;
    }
    if (!c->freeing)
        c->store->ops->remove(c->store, l->payload, copy, true);
    letter_free(l);
}

void reap(struct mbox_core *c)
{
    struct letter *l;
    struct list *n;

    while ((l = c->dead_letters) != NULL) {
        c->dead_letters = l->next_dead;
        if (!c->freeing) {
            c->store->ops->remove(c->store, l->payload, l->created_ms, true);
            c->dirty = true;
        }
        letter_free(l);
    }
    while ((n = list_take(&c->dead_boxes)) != NULL)
        free(container_of(n, struct box, idle));
}

/* ---- people's time ---- */

void wall_set(struct mbox_core *c, uint64_t wall_ms)
{
    if (wall_ms == 0)
        return;
    c->wall_ms = wall_ms;
    c->wall_at_ns = c->now_ns;
}

uint64_t wall_of(const struct mbox_core *c, uint64_t ns)
{
    uint64_t ago_ms;

    if (ns >= c->wall_at_ns)
        return c->wall_ms + (ns - c->wall_at_ns) / 1000000u;
    ago_ms = (c->wall_at_ns - ns) / 1000000u;
    return c->wall_ms > ago_ms ? c->wall_ms - ago_ms : 0;
}

uint64_t ns_of(const struct mbox_core *c, uint64_t wall_ms)
{
    uint64_t ago_ns;

    if (wall_ms >= c->wall_ms)
        return c->wall_at_ns + (wall_ms - c->wall_ms) * 1000000u;
    ago_ns = (c->wall_ms - wall_ms) * 1000000u;
    return c->wall_at_ns > ago_ns ? c->wall_at_ns - ago_ns : 0;
}
