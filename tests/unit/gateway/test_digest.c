/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <xxhash.h>

#include "common/buf.h"

static const struct digest_key key = {.seed = 42, .model = "m", .tenant = "t"};

static void digest_of(struct digest *d, enum inspect_shape shape, const struct buf *body,
                      const struct digest_key *k, size_t budget)
{
    struct inspection in = {0};

    inspect_start(&in, shape, body->base, body->len);
    while (!inspect_run(&in, 1000))
        continue;
    assert_int_equal(in.err, ERR_OK);
    digest_start(d, &in, k);
    while (!digest_run(d, budget))
        continue;
    inspect_fini(&in);
}

/* The definition, over the stream in one piece. */
static void assert_is_digest_of(const struct digest *d, const struct buf *stream)
{
    uint64_t h = 42;

    h = XXH3_64bits_withSeed("m", 1, h);
    h = XXH3_64bits_withSeed("", 0, h);
    h = XXH3_64bits_withSeed("", 0, h);
    h = XXH3_64bits_withSeed("t", 1, h);
    assert_int_equal(d->bytes, stream->len);
    assert_int_equal(d->count, stream->len / DIGEST_BLOCK);
    assert_int_equal(d->tail_bytes, stream->len % DIGEST_BLOCK);
    for (uint32_t i = 0; i < d->count; i++) {
        h = XXH3_64bits_withSeed(stream->base + (size_t)i * DIGEST_BLOCK, DIGEST_BLOCK, h);
        assert_int_equal(d->blocks[i], h);
    }
}

/* A message of about n bytes; mark puts a cache_control into it. */
static void message_add(struct buf *b, unsigned i, size_t n, const char *mark)
{
    size_t start = b->len;

    buf_addf(b, "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"%u ", i);
    while (b->len - start < n)
        buf_adds(b, "lorem ipsum \\u4e2d \xe4\xb8\xad\\n");
    buf_addf(b, "\"%s}]}", mark);
}

static void conversation(struct buf *b, unsigned turns, unsigned marked, const char *between)
{
    buf_clear(b);
    buf_adds(b, "{\"model\":\"m\",\"messages\":[");
    for (unsigned i = 0; i < turns; i++) {
        buf_adds(b, i != 0 ? between : "");
        message_add(b, i, 100 + i * 37 % 900,
                    i == marked ? ",\"cache_control\":{\"type\":\"ephemeral\"}" : "");
    }
    buf_adds(b, "],\"tools\":[{\"name\":\"bash\"}],\"system\":\"You are.\"}");
}

static void the_stream_is_tools_then_system_then_messages(void **state)
{
    struct buf body = {0}, stream = {0};
    struct digest d = {0};

    (void)state;
    conversation(&body, 12, 99, " ,\n ");
    buf_adds(&stream, "[{\"name\":\"bash\"}]\"You are.\"");
    for (unsigned i = 0; i < 12; i++)
        message_add(&stream, i, 100 + i * 37 % 900, "");
    for (size_t budget = 0; budget < 2000; budget += 1 + budget / 3) {
        digest_of(&d, INSPECT_ANTHROPIC, &body, &key, budget);
        assert_is_digest_of(&d, &stream);
    }
    digest_fini(&d);
    buf_fini(&body);
    buf_fini(&stream);
}

static void a_growing_conversation_gives_a_prefix_of_digests(void **state)
{
    struct digest shorter = {0}, longer = {0};
    struct buf body = {0};

    (void)state;
    for (unsigned turns = 1; turns < 30; turns++) {
        conversation(&body, turns, 99, ",");
        digest_of(&shorter, INSPECT_ANTHROPIC, &body, &key, 333);
        conversation(&body, turns + 1, 99, ", ");
        digest_of(&longer, INSPECT_ANTHROPIC, &body, &key, SIZE_MAX);
        assert_true(longer.count >= shorter.count && longer.bytes > shorter.bytes);
        if (shorter.count > 0)
            assert_memory_equal(shorter.blocks, longer.blocks, shorter.count * sizeof(uint64_t));
    }
    digest_fini(&shorter);
    digest_fini(&longer);
    buf_fini(&body);
}

static void a_moving_cache_control_changes_nothing(void **state)
{
    struct digest plain = {0}, marked = {0};
    struct buf body = {0};

    (void)state;
    conversation(&body, 20, 99, ",");
    digest_of(&plain, INSPECT_ANTHROPIC, &body, &key, SIZE_MAX);
    assert_true(plain.count > 5);
    for (unsigned at = 0; at < 20; at++) {
        conversation(&body, 20, at, ",");
        digest_of(&marked, INSPECT_ANTHROPIC, &body, &key, 100 + at);
        assert_int_equal(marked.bytes, plain.bytes);
        assert_int_equal(marked.count, plain.count);
        assert_memory_equal(marked.blocks, plain.blocks, plain.count * sizeof(uint64_t));
    }
    digest_fini(&plain);
    digest_fini(&marked);
    buf_fini(&body);
}

static void a_mark_in_front_goes_with_its_comma_and_space(void **state)
{
    static const char *const bodies[] = {
        "{\"messages\":[{\"text\": \"%s\"}],\"tools\":[{}]}",
        "{\"messages\":[{\"cache_control\": {\"type\": \"x\"}, \"text\": \"%s\"}],\"tools\":[{}]}",
        "{\"messages\":[{\"text\": \"%s\", \"cache_control\":1}],\"tools\":[{}]}",
    };
    struct digest d[3] = {0};
    struct buf body = {0};
    char text[2000];

    (void)state;
    memset(text, 'x', sizeof(text) - 1);
    text[sizeof(text) - 1] = '\0';
    for (unsigned i = 0; i < 3; i++) {
        const char *mid = strstr(bodies[i], "%s");

        buf_clear(&body);
        buf_add(&body, bodies[i], (size_t)(mid - bodies[i]));
        buf_adds(&body, text);
        buf_adds(&body, mid + 2);
        digest_of(&d[i], INSPECT_CHAT, &body, &key, 7);
        assert_int_equal(d[i].count, 3);
        assert_int_equal(d[i].tail_bytes, d[0].tail_bytes);
        assert_memory_equal(d[i].blocks, d[0].blocks, 3 * sizeof(uint64_t));
    }
    for (unsigned i = 0; i < 3; i++)
        digest_fini(&d[i]);
    buf_fini(&body);
}

static void every_part_of_the_key_gives_another_chain(void **state)
{
    static const struct digest_key others[] = {
        {.seed = 43, .model = "m", .tenant = "t"},
        {.seed = 42, .model = "n", .tenant = "t"},
        {.seed = 42, .model = "m", .tenant = "u"},
        {.seed = 42, .model = "m"},
        {.seed = 42, .model = "m", .lora = "t"},
        {.seed = 42, .model = "m", .salt = "t"},
        {.seed = 42, .model = "m", .lora = "l", .tenant = "t"},
        {.seed = 42, .model = "m", .salt = "l", .tenant = "t"},
    };
    uint64_t first[9];
    struct digest d = {0};
    struct buf body = {0};

    (void)state;
    conversation(&body, 5, 99, ",");
    for (unsigned i = 0; i < 9; i++) {
        digest_of(&d, INSPECT_CHAT, &body, i < 8 ? &others[i] : &key, SIZE_MAX);
        first[i] = d.blocks[0];
        for (unsigned k = 0; k < i; k++)
            assert_int_not_equal(first[i], first[k]);
    }
    digest_fini(&d);
    buf_fini(&body);
}

static void at_most_4096_blocks_are_made_but_all_bytes_counted(void **state)
{
    struct buf body = {0}, tail = {0};
    struct digest d = {0};

    (void)state;
    buf_adds(&body, "{\"prompt\":\"");
    for (unsigned extra = 0; extra < 2; extra++) {
        while (body.len < 11 + DIGEST_MAX * DIGEST_BLOCK + extra * 1000)
            buf_adds(&body, "x");
        buf_clear(&tail);
        buf_add(&tail, body.base, body.len);
        buf_adds(&tail, "\"}");
        digest_of(&d, INSPECT_COMPLETION, &tail, &key, 100000);
        assert_int_equal(d.count, DIGEST_MAX);
        assert_int_equal(d.bytes, DIGEST_MAX * DIGEST_BLOCK + extra * 1000);
        assert_int_equal(d.tail_bytes, 0);
    }
    digest_fini(&d);
    buf_fini(&body);
    buf_fini(&tail);
}

static void no_prompt_has_no_digest(void **state)
{
    struct buf body = {0};
    struct digest d = {0};

    (void)state;
    buf_adds(&body, "{\"messages\":[]}");
    digest_of(&d, INSPECT_CHAT, &body, &key, 1);
    assert_int_equal(d.count + d.tail_bytes + d.bytes, 0);
    digest_fini(&d);
    buf_fini(&body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_stream_is_tools_then_system_then_messages),
        cmocka_unit_test(a_growing_conversation_gives_a_prefix_of_digests),
        cmocka_unit_test(a_moving_cache_control_changes_nothing),
        cmocka_unit_test(a_mark_in_front_goes_with_its_comma_and_space),
        cmocka_unit_test(every_part_of_the_key_gives_another_chain),
        cmocka_unit_test(at_most_4096_blocks_are_made_but_all_bytes_counted),
        cmocka_unit_test(no_prompt_has_no_digest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
