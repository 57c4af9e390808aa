/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Markers and filling use bytes that UTF-8 never contains, so no content can imitate them.
 */
#include "bench/engine/text.h"

#include <string.h>
#include <xxhash.h>

#define MARK 0xff
#define FILL 0xfe

void text_role(struct buf *tokens, const char *role, size_t len)
{
    uint64_t h = text_hash(role, len, 0);
    unsigned char mark[TEXT_TOKEN] = {MARK, 1, (unsigned char)h, (unsigned char)(h >> 8)};

    buf_add(tokens, mark, sizeof mark);
}

void text_close(struct buf *tokens)
{
    while (tokens->len % TEXT_TOKEN != 0)
        buf_add(tokens, &(unsigned char){FILL}, 1);
}

void text_end(struct buf *tokens)
{
    text_close(tokens);
    buf_add(tokens, (unsigned char[]){MARK, 2, 0, 0}, TEXT_TOKEN);
}

size_t text_count(const struct buf *tokens)
{
    return tokens->len / TEXT_TOKEN;
}

uint32_t text_token(const struct buf *tokens, size_t i)
{
    uint32_t v;

    memcpy(&v, tokens->base + i * TEXT_TOKEN, sizeof v);
    return v;
}

void text_add_token(struct buf *tokens, uint32_t token)
{
    buf_add(tokens, &token, sizeof token);
}

void text_from_token(uint32_t token, struct buf *bytes)
{
    unsigned char b[TEXT_TOKEN];

    memcpy(b, &token, sizeof b);
    for (size_t i = 0; i < TEXT_TOKEN && b[0] != MARK; i++) {
        if (b[i] != FILL)
            buf_add(bytes, &b[i], 1);
    }
}

uint64_t text_hash(const void *p, size_t n, uint64_t seed)
{
    return XXH3_64bits_withSeed(p, n, seed);
}

uint32_t text_ids(const struct buf *tokens, uint32_t block, uint64_t root, uint64_t *ids)
{
    uint32_t n = (uint32_t)(text_count(tokens) / block);

    for (uint32_t i = 0; i < n; i++) {
        root = text_hash(tokens->base + (size_t)i * block * TEXT_TOKEN, (size_t)block * TEXT_TOKEN,
                         root);
        ids[i] = root;
    }
    return n;
}

void text_make(struct buf *tokens, uint32_t n, uint64_t seed)
{
    static const char heads[] = "bcdfghklmnprstvz", middles[] = "aeiouaei", tails[] = "dklmnrst";
    char *dst = buf_reserve(tokens, (size_t)n * TEXT_TOKEN);
    uint64_t x = seed | 1;

    for (uint32_t i = 0; i < n; i++) {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *dst++ = heads[x & 15];
        *dst++ = middles[x >> 8 & 7];
        *dst++ = tails[x >> 16 & 7];
        *dst++ = ' ';
    }
    tokens->len += (size_t)n * TEXT_TOKEN;
}
