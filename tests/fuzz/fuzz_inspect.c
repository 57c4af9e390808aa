/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/buf.h"
#include "common/must.h"
#include "gateway/digest.h"
#include "gateway/inspect.h"
#include "gateway/splice.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void spans_check(const struct inspection *in, const struct span *s, uint32_t count)
{
    uint32_t at = 0;

    for (uint32_t i = 0; i < count; i++) {
        must(s[i].at >= at && s[i].len > 0 && s[i].len <= in->len - s[i].at);
        at = s[i].at + s[i].len;
    }
}

/* What is left after one cut must be a body again, without the member that was cut. */
static void cut_check(const struct inspection *in, char *body, struct span cut, bool is_metadata)
{
    static struct inspection again;
    struct splice_list list = {0};
    struct iovec pieces[SPLICE_PIECES];
    struct buf b = {0};
    size_t n;

    if (cut.len == 0)
        return;
    must(splice_add(&list, cut.at, cut.len, NULL, 0));
    n = splice_apply(&list, body, in->len, pieces);
    for (size_t i = 0; i < n; i++)
        buf_add(&b, pieces[i].iov_base, pieces[i].iov_len);
    inspect_start(&again, in->shape, b.base, b.len);
    must(inspect_run(&again, b.len + 1));
    must(again.err == ERR_OK);
    must(is_metadata ? again.metadata.cut.len == 0 : again.priority.len == 0);
    must(again.element_count == in->element_count && again.skip_count == in->skip_count);
    must(again.model.len == in->model.len && again.stream == in->stream);
    buf_fini(&b);
}

static void same_check(const struct inspection *a, const struct inspection *b)
{
    must(a->err == b->err && a->err_at == b->err_at && strcmp(a->err_param, b->err_param) == 0);
    if (a->err != ERR_OK)
        return;
    must(a->element_count == b->element_count && a->skip_count == b->skip_count);
    must(a->element_count == 0 ||
         memcmp(a->elements, b->elements, a->element_count * sizeof(*a->elements)) == 0);
    must(a->skip_count == 0 || memcmp(a->skips, b->skips, a->skip_count * sizeof(*a->skips)) == 0);
    must(memcmp(&a->metadata.cut, &b->metadata.cut, sizeof(struct span)) == 0);
    must(memcmp(&a->priority, &b->priority, sizeof(struct span)) == 0);
    must(a->model.len == b->model.len && memcmp(a->model.bytes, b->model.bytes, a->model.len) == 0);
}

/* First byte: the dialect and the budget; the rest: a body. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct inspection whole, pieces;
    static struct digest d, e;
    const struct digest_key key = {.seed = 1, .model = "m"};
    char *body;
    size_t budget, at;
    enum inspect_shape shape;

    if (size == 0)
        return 0;
    shape = (enum inspect_shape)(data[0] % 5);
    budget = 1 + data[0] / 5;
    struct buf copy = {0};
    buf_add(&copy, data + 1, size - 1);
    body = copy.base;
    size--;
    inspect_start(&whole, shape, body, size);
    must(inspect_run(&whole, size + 1));
    inspect_start(&pieces, shape, body, size);
    while (!inspect_run(&pieces, budget))
        continue;
    same_check(&whole, &pieces);
    if (whole.err == ERR_OK) {
        must(json_verify(body, size, &at) == ERR_OK);
        spans_check(&whole, whole.elements, whole.element_count);
        spans_check(&whole, whole.skips, whole.skip_count);
        cut_check(&whole, body, whole.metadata.cut, true);
        cut_check(&whole, body, whole.priority, false);
        digest_start(&d, &whole, &key);
        must(digest_run(&d, SIZE_MAX));
        digest_start(&e, &pieces, &key);
        while (!digest_run(&e, budget))
            continue;
        must(d.count == e.count && d.bytes == e.bytes && d.tail_bytes == e.tail_bytes);
        must(d.count == 0 || memcmp(d.blocks, e.blocks, d.count * sizeof(*d.blocks)) == 0);
        must(d.bytes == (uint64_t)d.count * DIGEST_BLOCK + d.tail_bytes || d.count == DIGEST_MAX);
    } else if (whole.err == ERR_JSON) {
        must(json_verify(body, size, &at) == ERR_JSON && at == whole.err_at);
    }
    if (json_verify(body, size, &at) == ERR_OK)
        must(whole.err != ERR_JSON && whole.err != ERR_DEPTH);
    buf_fini(&copy);
    return 0;
}
