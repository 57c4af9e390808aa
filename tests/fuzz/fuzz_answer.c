/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "gateway/answer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One head, then what the chunked decoder makes of the rest. First byte: to a HEAD request? */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct answer a, again;
    const char *s = (const char *)data + 1;
    bool to_head;
    enum err e;

    if (size == 0)
        return 0;
    to_head = (data[0] & 1) != 0;
    size--;
    e = answer_parse(s, size, 0, to_head, &a);
    must(e == ERR_OK || e == ERR_BUSY || e == ERR_ENGINE_PROTO);
    if (e != ERR_OK)
        return 0;
    must(a.head_bytes > 0 && a.head_bytes <= size && a.head_bytes <= ANSWER_HEAD_MAX);
    must(a.status >= 100 && a.status <= 599 && a.status != 101);
    must(a.header_count <= ANSWER_HEADERS);
    must(a.framing != ANSWER_LENGTH || a.length > 0);
    must(!to_head || a.status < 200 || a.framing == ANSWER_NO_BODY);
    for (size_t i = 0; i < a.header_count; i++)
        must(a.headers[i].name_len <= size && a.headers[i].value_len <= size);
    /* One byte less is no head yet, and its own bytes alone are the same head. */
    must(answer_parse(s, a.head_bytes, 0, to_head, &again) == ERR_OK);
    must(again.framing == a.framing && again.length == a.length && again.status == a.status);
    if (a.framing == ANSWER_CHUNKED) {
        struct phr_chunked_decoder decoder = {.consume_trailer = 1};
        size_t n = size - a.head_bytes, left = n;
        char *body = malloc(n + 1);

        must(body != NULL);
        memcpy(body, s + a.head_bytes, n);
        phr_decode_chunked(&decoder, body, &left);
        must(left <= n);
        free(body);
    }
    return 0;
}
