/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "common/must.h"
#include "scheduler/kv_stream.h"
#include "scheduler/scrape.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void batch_check(const struct kv_batch *b, size_t size)
{
    size_t hashes = 0;

    must(b->count + b->unknown <= size);
    for (size_t i = 0; i < b->count; i++) {
        const struct kv_record *r = &b->events[i];

        must(r->kind <= KV_CLEARED && r->medium <= KV_ELSEWHERE && r->group >= -1);
        must(r->block_size <= KV_BLOCK_MAX && r->token_count <= size);
        hashes += r->count;
        must(r->count == 0 || r->hashes[r->count - 1] == r->hashes[r->count - 1]);
    }
    must(hashes <= size);
}

/* One message: read as a batch, and given to a stream on both ways, twice. */
static void message_check(const uint8_t *data, size_t size, struct kv_decoder *d,
                          struct kv_stream *s, uint64_t seq)
{
    struct kv_batch b;
    struct kv_delta delta;
    const char *why = "";

    if (kv_decode(d, data, size, &b, &why) != ERR_OK) {
        must(why != NULL);
        kv_stream_garbage(s, seq, seq, (seq & 1) != 0, why);
    } else {
        batch_check(&b, size);
        (void)kv_stream_batch(s, seq, seq, &b, (seq & 1) != 0, &delta);
    }
    must(s->view.blocks <= KV_VIEW_MAX && (s->view.complete || !s->view.whole));
}

/*
 * The input is read as one batch, as a metrics page, and as a stream of messages: a byte of their
 * number, a byte of their length, and so many bytes.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct kv_decoder *d = kv_decoder_new();
    struct kv_stream s;
    struct scrape page;
    uint64_t used;

    kv_stream_init(&s, size % 2 == 0);
    kv_stream_up(&s, 0);
    message_check(data, size, d, &s, 0);
    message_check(data, size, d, &s, 1);
    for (size_t at = 0; at + 2 < size;) {
        size_t len = data[at + 1] < size - at - 2 ? data[at + 1] : size - at - 2;

        if (data[at] == 0xff)
            kv_stream_replay_end(&s, at);
        else if (data[at] == 0xfe)
            kv_stream_tick(&s, KV_REPLAY_NS * 2);
        else
            message_check(data + at + 2, len, d, &s, data[at]);
        at += 2 + len;
    }
    kv_stream_fini(&s);
    kv_decoder_free(d);
    if (scrape_read((const char *)data, size, &page))
        (void)scrape_used_tokens(&page, &used);
    return 0;
}
