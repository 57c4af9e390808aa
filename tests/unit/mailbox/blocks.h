/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_TESTS_MAILBOX_BLOCKS_H
#define SLIP_TESTS_MAILBOX_BLOCKS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "common/lz4_payload.h"
#include "mailbox/store.h"

/* len times x, in a way that no compressor chooses: 100 of them are written out. */
static inline size_t odd_block(char *to, size_t len)
{
    size_t match = len - 100 - 12 - 4 - 15;
    char *at = to;

    *at++ = (char)0xff;
    *at++ = 100 - 15;
    memset(at, 'x', 100);
    at += 100;
    *at++ = 1;
    *at++ = 0;
    for (; match >= 255; match -= 255)
        *at++ = (char)0xff;
    *at++ = (char)match;
    *at++ = (char)(12 << 4);
    memset(at, 'x', 12);
    return (size_t)(at + 12 - to);
}

/* A store keeps the block that came where it would make one itself, and gives it as it is. */
static inline void check_blocks(struct mbox_store *s, uint64_t id, uint64_t refs[4])
{
    static char text[9000], block[9000], noise[5000];
    struct mbox_copy_record copy = {.id = id, .agent = "a"};
    struct mbox_record r = {.tenant = "t",
                            .workflow = "w",
                            .message_id = "m",
                            .source = "s",
                            .type = "t",
                            .correlation_id = "",
                            .reply_to = "",
                            .group = "",
                            .payload = text,
                            .copies = &copy,
                            .copy_count = 1,
                            .block = block};
    uint64_t random = 1;
    size_t stored, i;

    memset(text, 'x', sizeof(text));
    for (i = 0; i < sizeof(noise); i++) {
        random = random * UINT64_C(6364136223846793005) + 1442695040888963407u;
        noise[i] = (char)(random >> 56);
    }
    r.payload_len = 9000;
    r.block_len = odd_block(block, 9000);
    assert_int_equal(s->ops->append(s, &r, &refs[0], &stored), ERR_OK);
    assert_int_equal(stored, r.block_len);
    copy.id++;
    r.payload_len = 4095; /* below the threshold of this store: raw */
    r.block_len = odd_block(block, 4095);
    assert_int_equal(s->ops->append(s, &r, &refs[1], &stored), ERR_OK);
    assert_int_equal(stored, 4095);
    copy.id++;
    r.block = NULL; /* came raw */
    r.payload_len = 9000;
    assert_int_equal(s->ops->append(s, &r, &refs[2], &stored), ERR_OK);
    assert_true(stored < 100);
    copy.id++;
    r.payload = noise;
    r.payload_len = sizeof(noise);
    assert_int_equal(s->ops->append(s, &r, &refs[3], &stored), ERR_OK);
    assert_int_equal(stored, sizeof(noise));
}

static inline void check_stored(struct mbox_store *s, const uint64_t refs[4])
{
    static const uint32_t raw_lens[4] = {9000, 0, 9000, 0}, lens[4] = {9000, 4095, 9000, 5000};
    struct buf b = {0}, raw = {0};
    uint32_t raw_len;
    size_t i;

    for (i = 0; i < 4; i++) {
        struct packed p;

        buf_clear(&b);
        buf_clear(&raw);
        buf_adds(&b, "before");
        assert_int_equal(s->ops->get_stored(s, refs[i], &b, &raw_len), ERR_OK);
        assert_int_equal(raw_len, raw_lens[i]);
        assert_int_equal(payload_claim(b.base + 6, b.len - 6, raw_len, 9000, &p), ERR_OK);
        assert_int_equal(payload_unpack(&p, &raw), ERR_OK);
        assert_int_equal(raw.len, lens[i]);
        assert_int_equal(s->ops->get(s, refs[i], &b), ERR_OK);
        assert_memory_equal(b.base + b.len - raw.len, raw.base, raw.len);
    }
    assert_int_equal(s->ops->get_stored(s, 12345, &b, &raw_len), ERR_NOT_FOUND);
    buf_fini(&b);
    buf_fini(&raw);
}

#endif
