/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_ANSWER_H
#define GW_ANSWER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "gateway/phr.h"

/*
 * The head of an engine's answer, read strictly. An answer whose end cannot be told for sure is
 * refused: two different lengths, a length with a transfer coding, a coding other than "chunked".
 * Pure.
 */
#define ANSWER_HEADERS 100
#define ANSWER_HEAD_MAX 65536

enum answer_framing { ANSWER_NO_BODY, ANSWER_LENGTH, ANSWER_CHUNKED, ANSWER_UNTIL_CLOSE };

struct answer {
    int status;
    const char *reason; /* not terminated */
    size_t reason_len, head_bytes;
    enum answer_framing framing;
    uint64_t length; /* ANSWER_LENGTH */
    bool keep_alive, is_event_stream, is_json;
    struct phr_header headers[ANSWER_HEADERS];
    size_t header_count;
};

/*
 * ERR_OK (interim answers 100, 102 and 103 too: look at status, and parse again behind head_bytes),
 * ERR_BUSY: needs more bytes, ERR_ENGINE_PROTO: not an answer that we can trust. to_head: the
 * request was a HEAD. last_len: as in phr_parse_response.
 */
enum err answer_parse(const char *buf, size_t len, size_t last_len, bool to_head, struct answer *a);

#endif
