/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_SCAN_H
#define GW_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Picks a few facts out of an engine's JSON while it passes by in pieces of any size, keeping
 * nothing of it. Knows the places where OpenAI's chunks and answers, the Responses API and
 * Anthropic's events have them. The engine's JSON is not validated: broken JSON gives wrong facts,
 * no more. Pure.
 */
struct tap_usage {
    bool has_usage, has_cached;
    uint32_t prompt_tokens, completion_tokens;
    uint32_t cached_tokens; /* prompt_tokens_details.cached_tokens, cache_read_input_tokens */
};

#define SCAN_WORD 48
#define SCAN_LEVELS 6

struct scan {
    /* facts about this document so far */
    bool has_choices; /* a top-level "choices" */
    bool has_choice;  /* with at least one element */
    bool has_usage;   /* a "usage" object */
    bool has_type;    /* a top-level "type": Anthropic's events, the Responses API */
    bool is_token;    /* carries text, a tool call or a finish reason */
    bool is_finished; /* a finish reason, or an event that says so */
    bool is_error;    /* a top-level "error" that is not null */

    /* state */
    uint8_t place, level_count;
    bool expects_key, is_key, after_slash, is_integer;
    char scalar;       /* first byte of a number or literal */
    uint32_t dull;     /* open containers of a part that holds nothing of interest */
    uint64_t number;   /* of a scalar that is an integer */
    uint32_t word_len; /* of the current string, also beyond SCAN_WORD */
    char word[SCAN_WORD];
    struct {
        uint8_t zone, key;
        bool is_object;
    } levels[SCAN_LEVELS];
};

void scan_start(struct scan *s);
/* The next n bytes of the document. Numbers found go into u, later ones over earlier ones. */
void scan_feed(struct scan *s, struct tap_usage *u, const char *p, size_t n);
/*
 * A look at a whole document before it is read: false if it tells no more than that a token came,
 * because none of the keys is there by which it could say otherwise (usage, unless null; error,
 * type, and who holds a usage) and no carriage return either. True means nothing: read it.
 */
bool scan_may_tell(const char *p, size_t n);

#endif
