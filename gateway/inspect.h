/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_INSPECT_H
#define GW_INSPECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/id.h"
#include "common/json.h"

/*
 * One validating pass over a request body: strict RFC 8259 (UTF-8 included), iterative, at most 128
 * levels, no DOM, no copy. It records byte spans of what the gateway needs; digest.c hashes them in
 * a second pass. Pure.
 *
 * Resumable, so that no body holds the event loop: call inspect_run() with a byte budget until it
 * says done.
 */
#define INSPECT_DEPTH JSON_DEPTH
#define INSPECT_ID_MAX ID_BYTES_MAX

struct span {
    uint32_t at, len; /* bytes of the body */
};

enum inspect_shape {               /* which dialect the endpoint speaks; says where the prompt is */
                     INSPECT_CHAT, /* tools, messages: /v1/chat/completions */
                     INSPECT_COMPLETION, /* prompt */
                     INSPECT_INPUT, /* input (string or array), instructions, tools: /v1/embeddings,
                                       /v1/responses */
                     INSPECT_ANTHROPIC, /* tools, system, messages: /v1/messages */
                     INSPECT_OTHER      /* model and identity only */
};

struct inspect_id { /* unescaped; len 0 = absent */
    uint16_t len;
    char bytes[INSPECT_ID_MAX + 1]; /* NUL-terminated; has no control characters */
};

enum inspect_tristate { INSPECT_ABSENT, INSPECT_FALSE, INSPECT_TRUE };

/* The seed's workflow_metadata object, validated: wrong types, oversize ids and unknown enum words
 * are errors naming the member. */
struct inspect_metadata {
    bool present;    /* false for null, which is cut all the same */
    struct span cut; /* what to cut from the body, with the comma that goes with it; len 0 = none */
    struct inspect_id workflow_id, agent_id, parent_request_id, group_id, profile, tool;
    uint8_t strategy; /* proto enum Strategy: auto strict spread isolated */
    uint8_t priority; /* proto enum Priority: default interactive batch */
    uint32_t group_size;
    bool final;
    bool has_strategy, has_priority, has_final; /* named at all: a default given wins, too */
};

struct inspection {
    /* results, valid when inspect_run() has returned true with err ERR_OK */
    enum err err;            /* ERR_JSON, ERR_DEPTH, ERR_DUPLICATE_KEY, ERR_TYPE, ERR_ID, ERR_VALUE,
                                ERR_TOO_LARGE */
    uint32_t err_at;         /* byte offset of the error */
    char err_param[64];      /* member that is wrong: "workflow_metadata.agent_id"; empty for syntax
                                errors */
    struct span model_value; /* with its quotes, for replacing */
    struct inspect_id model; /* unescaped; longer ones are ERR_VALUE */
    enum inspect_tristate stream;
    enum inspect_tristate include_usage; /* stream_options.include_usage */
    struct span stream_options;          /* the object with its braces; len 0 = absent */
    bool stream_options_empty;
    bool stream_options_null; /* "stream_options": null; stream_options spans the null */
    uint32_t max_tokens;  /* max_tokens or max_completion_tokens or max_output_tokens; 0 = absent or
                             no integer */
    struct span priority; /* member "priority" with its comma, to cut; len 0 = absent */
    int64_t priority_value;
    struct inspect_id cache_salt; /* string of the body */
    struct inspect_metadata metadata;
    uint32_t object_open; /* offset just behind the top-level '{': where members may be inserted */
    bool object_empty;
    /* digest order is: tools, system (or instructions), then elements of messages / input / prompt
     */
    struct span tools, system; /* raw value; len 0 = absent */
    struct span
        *elements; /* in body order: message objects, or one string without its quotes for prompt */
    uint32_t element_count, element_cap;
    struct span *skips; /* cache_control members with their commas, ascending, anywhere */
    uint32_t skip_count, skip_cap;
    uint32_t messages; /* number of elements of messages */

    /* state of the pass */
    const char *body;
    uint32_t len, pos;
    enum inspect_shape shape;
    struct inspect_state *state; /* kept from body to body */
};

/* Zeroed struct first time. Reusable: inspect_start() forgets the last body but keeps memory.
 * Bodies are at most UINT32_MAX - 64 bytes. */
void inspect_start(struct inspection *in, enum inspect_shape shape, const char *body, size_t len);
/* Looks at about budget more bytes. true: done, see err. body must stay in place until then. */
bool inspect_run(struct inspection *in, size_t budget);
void inspect_fini(struct inspection *in);

/* Takes a valid id (common/id.h) only. */
bool inspect_id_set(struct inspect_id *id, const char *s, size_t len);

#endif
