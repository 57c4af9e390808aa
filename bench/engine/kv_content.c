/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/kv_content.h"

#include <stdlib.h>

#include "common/must.h"

enum key { BY_DIGEST, BY_BLOCK, KEYS };

struct record {
    uint64_t key[KEYS];
    uint32_t next[KEYS]; /* in its chains; BY_DIGEST also of free ones */
};

struct kv_content {
    struct record *records; /* from 1 on */
    uint32_t *heads[KEYS];  /* 0: empty */
    uint32_t mask, room, spare, fresh;
    size_t count;
};

static uint32_t home(const struct kv_content *c, uint64_t key)
{
    key ^= key >> 32;
    key *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint32_t)(key >> 32) & c->mask;
}

static void link_record(struct kv_content *c, uint32_t i)
{
    for (unsigned k = 0; k < KEYS; k++) {
        uint32_t *head = &c->heads[k][home(c, c->records[i].key[k])];

        c->records[i].next[k] = *head;
        *head = i;
    }
}

static void unlink_record(struct kv_content *c, uint32_t i)
{
    for (unsigned k = 0; k < KEYS; k++) {
        uint32_t *at = &c->heads[k][home(c, c->records[i].key[k])];

        while (*at != i)
            at = &c->records[*at].next[k];
        *at = c->records[i].next[k];
    }
}

static uint32_t find(const struct kv_content *c, enum key k, uint64_t key)
{
    uint32_t i = c->heads[k][home(c, key)];

    while (i != 0 && c->records[i].key[k] != key)
        i = c->records[i].next[k];
    return i;
}

/* All records are in use: twice as many, in chains as short as before. */
static void grow(struct kv_content *c)
{
    uint32_t used = c->room;

    c->room = c->room * 2 + 1024;
    c->mask = 1023;
    while (c->mask < c->room)
        c->mask = c->mask * 2 + 1;
    c->records = realloc(c->records, ((size_t)c->room + 1) * sizeof *c->records);
    must(c->records != NULL);
    for (unsigned k = 0; k < KEYS; k++) {
        free(c->heads[k]);
        c->heads[k] = calloc((size_t)c->mask + 1, sizeof *c->heads[k]);
        must(c->heads[k] != NULL);
    }
    for (uint32_t i = 1; i <= used; i++)
        link_record(c, i);
}

struct kv_content *kv_content_new(void)
{
    struct kv_content *c = calloc(1, sizeof *c);

    must(c != NULL);
    c->fresh = 1;
    grow(c);
    return c;
}

void kv_content_free(struct kv_content *c)
{
    if (c == NULL)
        return;
    for (unsigned k = 0; k < KEYS; k++)
        free(c->heads[k]);
    free(c->records);
    free(c);
}

bool kv_content_add(struct kv_content *c, uint64_t digest, uint64_t block)
{
    uint32_t i;

    if (find(c, BY_DIGEST, digest) != 0)
        return false;
    if (c->spare == 0 && c->fresh > c->room)
        grow(c);
    i = c->spare != 0 ? c->spare : c->fresh++;
    if (i == c->spare)
        c->spare = c->records[i].next[BY_DIGEST];
    c->records[i] = (struct record){.key = {digest, block}};
    link_record(c, i);
    c->count++;
    return true;
}

bool kv_content_take(struct kv_content *c, uint64_t block, uint64_t *digest)
{
    uint32_t i = find(c, BY_BLOCK, block);

    if (i == 0)
        return false;
    *digest = c->records[i].key[BY_DIGEST];
    unlink_record(c, i);
    c->records[i].next[BY_DIGEST] = c->spare;
    c->spare = i;
    c->count--;
    return true;
}

size_t kv_content_count(const struct kv_content *c)
{
    return c->count;
}

uint32_t kv_content_block(uint32_t i, uint32_t text_block, uint64_t text_bytes, uint32_t tokens,
                          uint32_t block_tokens)
{
    uint64_t end = ((uint64_t)i + 1) * text_block, at;

    must(text_bytes >= end && block_tokens > 0);
    at = (end * tokens + text_bytes - 1) / text_bytes;
    return at > 0 ? (uint32_t)((at - 1) / block_tokens) : 0;
}
