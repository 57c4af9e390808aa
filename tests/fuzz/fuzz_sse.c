/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/must.h"
#include "gateway/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void run(struct tap *t, const uint8_t *data, size_t size, size_t step, bool is_sse,
                bool drop, struct buf *got)
{
    struct buf out = {0};
    bool rewritten;

    tap_start(t, is_sse, drop);
    for (size_t i = 0; i < size; i += step) {
        size_t n = size - i < step ? size - i : step;
        char *piece = malloc(n);

        must(piece != NULL);
        memcpy(piece, data + i, n);
        buf_clear(&out);
        tap_feed(t, piece, n, &out, &rewritten);
        must(rewritten || out.len == 0);
        buf_add(got, rewritten ? out.base : piece, rewritten ? out.len : n);
        free(piece);
    }
    buf_clear(&out);
    tap_end(t, &out);
    buf_add(got, out.base, out.len);
    buf_fini(&out);
}

/* First byte: mode and size of the pieces; the rest: an answer. Pieces must not matter. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct tap whole = {0}, pieces = {0};
    struct buf a = {0}, b = {0};
    bool is_sse, drop;
    size_t step;

    if (size < 2)
        return 0;
    is_sse = (data[0] & 1) != 0;
    drop = (data[0] & 2) != 0;
    step = 1 + data[0] / 4;
    data++;
    size--;
    run(&whole, data, size, size, is_sse, drop, &a);
    run(&pieces, data, size, step, is_sse, drop, &b);
    must(a.len == b.len && (a.len == 0 || memcmp(a.base, b.base, a.len) == 0));
    must(a.len <= size);
    must((is_sse && drop) || (a.len == size && memcmp(a.base, data, size) == 0));
    must(whole.seen_token == pieces.seen_token && whole.seen_done == pieces.seen_done);
    must(whole.seen_error == pieces.seen_error && whole.events == pieces.events);
    must(whole.usage.has_usage == pieces.usage.has_usage);
    must(whole.usage.completion_tokens == pieces.usage.completion_tokens);
    must(pieces.held.cap <= 2 * 65536);
    tap_fini(&whole);
    tap_fini(&pieces);
    buf_fini(&a);
    buf_fini(&b);
    return 0;
}
