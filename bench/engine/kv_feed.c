/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/kv_feed.h"

#include <stdlib.h>
#include <time.h>

#include "bench/engine/kv_content.h"
#include "bench/engine/text.h"
#include "common/must.h"
#include "gateway/digest.h"
#include "gateway/inspect.h"

struct kv_feed {
    struct kv_feed_conf conf;
    struct kv_pub *pub;
    struct kv_encode *encode;
    struct kv_content *content; /* NULL: is not told */
    uint32_t block_tokens;
    struct inspection in;
    struct digest digest;
};

struct kv_feed *kv_feed_open(const struct kv_feed_conf *conf, uint32_t block_tokens,
                             double time_scale)
{
    struct kv_feed *f = calloc(1, sizeof *f);
    struct kv_pub_conf pub = conf->pub;

    must(f != NULL);
    f->conf = *conf;
    f->block_tokens = block_tokens;
    pub.delay_ns = (uint64_t)(conf->delay_ms * 1e6 / time_scale);
    f->pub = kv_pub_start(&pub);
    if (f->pub == NULL) {
        free(f);
        return NULL;
    }
    f->encode = kv_encode_new(conf->form, block_tokens);
    if (conf->content)
        f->content = kv_content_new();
    return f;
}

void kv_feed_close(struct kv_feed *f)
{
    if (f == NULL)
        return;
    kv_pub_stop(f->pub);
    kv_encode_free(f->encode);
    kv_content_free(f->content);
    inspect_fini(&f->in);
    digest_fini(&f->digest);
    free(f);
}

/* As the gateway's worker does, but for tenants, which an engine does not know. */
static void prompt_digest(struct kv_feed *f, struct kv_prompt *p, enum ask_kind kind,
                          const char *body, size_t len, const char *model)
{
    enum inspect_shape shape = kind == ASK_CHAT       ? INSPECT_CHAT
                               : kind == ASK_MESSAGES ? INSPECT_ANTHROPIC
                                                      : INSPECT_COMPLETION;
    struct digest_key key = {.seed = f->conf.digest_seed, .model = model};

    inspect_start(&f->in, shape, body, len);
    while (!inspect_run(&f->in, SIZE_MAX))
        ;
    if (f->in.err != ERR_OK)
        return;
    if (f->in.cache_salt.len > 0)
        key.salt = f->in.cache_salt.bytes;
    digest_start(&f->digest, &f->in, &key);
    while (!digest_run(&f->digest, SIZE_MAX))
        ;
    p->bytes = f->digest.bytes;
    p->digest_count = f->digest.count;
    p->digests = calloc((size_t)p->digest_count + 1, sizeof *p->digests);
    must(p->digests != NULL);
    for (uint32_t i = 0; i < p->digest_count; i++)
        p->digests[i] = f->digest.blocks[i];
}

void kv_feed_prompt(struct kv_feed *f, struct kv_prompt *p, enum ask_kind kind, const char *body,
                    size_t len, const char *model, const struct buf *text)
{
    size_t count = text_count(text);

    p->tokens = calloc(count + 1, sizeof *p->tokens);
    must(p->tokens != NULL);
    for (size_t i = 0; i < count; i++)
        p->tokens[i] = text_token(text, i);
    if (f->content != NULL && (kind == ASK_CHAT || kind == ASK_MESSAGES || kind == ASK_COMPLETION))
        prompt_digest(f, p, kind, body, len, model);
}

void kv_prompt_fini(struct kv_prompt *p)
{
    free(p->tokens);
    free(p->digests);
    *p = (struct kv_prompt){0};
}

void kv_feed_block(struct kv_feed *f, const struct engine_block *b, const struct kv_prompt *prompt)
{
    uint64_t digest;

    if (b->host)
        return;
    if (b->stored) {
        kv_encode_stored(f->encode, b->id, b->parent,
                         prompt->tokens + (size_t)b->index * f->block_tokens);
        return;
    }
    kv_encode_removed(f->encode, b->id);
    while (f->content != NULL && kv_content_take(f->content, b->id, &digest))
        kv_encode_digest(f->encode, digest, 0, false);
}

void kv_feed_content(struct kv_feed *f, const struct engine_req *req, uint32_t blocks,
                     const struct kv_prompt *p)
{
    for (uint32_t i = 0; f->content != NULL && i < p->digest_count; i++) {
        uint32_t block = kv_content_block(i, DIGEST_BLOCK, p->bytes, req->nin, f->block_tokens);

        if (block >= blocks)
            break;
        if (kv_content_add(f->content, p->digests[i], req->ids[block]))
            kv_encode_digest(f->encode, p->digests[i], i > 0 ? p->digests[i - 1] : 0, true);
    }
}

void kv_feed_flush(struct kv_feed *f)
{
    struct timespec now;
    void *payload;
    size_t len;

    clock_gettime(CLOCK_REALTIME, &now);
    payload = kv_encode_batch(f->encode, (double)now.tv_sec + (double)now.tv_nsec / 1e9, &len);
    if (payload != NULL)
        kv_pub_send(f->pub, payload, len);
}
