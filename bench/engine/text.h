/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_TEXT_H
#define ENGINE_TEXT_H

#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"

/*
 * What a token is here: 4 bytes of decoded content, counted afresh in each message, the last one
 * filled up; plus one token for the role and one for the end of each message. So a prompt with its
 * output is an exact token prefix of the next turn, when the client sends the text back. Pure.
 */
#define TEXT_TOKEN 4 /* bytes of a token, in a struct buf of tokens as well */

void text_role(struct buf *tokens, const char *role, size_t len); /* marker of a message's role */
void text_close(struct buf *tokens);                              /* fills the last token up */
void text_end(struct buf *tokens);                                /* text_close and an end marker */
size_t text_count(const struct buf *tokens);

/* Tokens as numbers, and back to bytes (markers and filling vanish). */
uint32_t text_token(const struct buf *tokens, size_t i);
void text_from_token(uint32_t token, struct buf *bytes);
void text_add_token(struct buf *tokens, uint32_t token);

/* Chained block ids of all full blocks: ids must have room for count / block. root: whatever
 * separates caches (model, salt). Returns how many. */
uint32_t text_ids(const struct buf *tokens, uint32_t block, uint64_t root, uint64_t *ids);

uint64_t text_hash(const void *p, size_t n, uint64_t seed);

/* Appends n tokens of deterministic ASCII words: three letters and a space each. */
void text_make(struct buf *tokens, uint32_t n, uint64_t seed);

#endif
