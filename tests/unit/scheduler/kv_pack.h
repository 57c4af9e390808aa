/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KV_PACK_H
#define KV_PACK_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <msgpack.h>

/*
 * Batches of KV events as the releases of vLLM and SGLang wrote them. level tells how many fields a
 * release knows, in the array form; in the map form 0 leaves default values out.
 */
struct pack {
    msgpack_sbuffer buf;
    msgpack_packer to;
};

enum pack_level {
    PACK_2025_05 = 6, /* elements of a BlockStored array: up to lora_id */
    PACK_MEDIUM = 7,
    PACK_LORA_NAME = 8,
    PACK_EXTRA_KEYS = 9,
    PACK_GROUP = 10,
    PACK_SPEC = 12,
    PACK_FUTURE = 14
};

struct pack_stored {
    const uint64_t *hashes;
    uint32_t count, tokens, block;
    uint64_t parent;    /* 0: nil */
    const char *medium; /* NULL: nil */
    int group;          /* -1: nil */
    const char *kind;   /* of layers; NULL: nil */
    bool bytes;         /* hashes as 32 bytes */
    bool is_signed;     /* as SGLang writes them */
};

static inline void pack_init(struct pack *p)
{
    msgpack_sbuffer_init(&p->buf);
    msgpack_packer_init(&p->to, &p->buf, msgpack_sbuffer_write);
}

static inline void pack_fini(struct pack *p)
{
    msgpack_sbuffer_destroy(&p->buf);
}

static inline void pack_text(struct pack *p, const char *s)
{
    if (s == NULL) {
        msgpack_pack_nil(&p->to);
        return;
    }
    msgpack_pack_str(&p->to, strlen(s));
    msgpack_pack_str_body(&p->to, s, strlen(s));
}

static inline void pack_hash(struct pack *p, uint64_t h, const struct pack_stored *how)
{
    unsigned char digest[32] = {0xee};

    if (how->bytes) {
        for (unsigned i = 0; i < 8; i++)
            digest[31 - i] = (unsigned char)(h >> 8 * i);
        msgpack_pack_bin(&p->to, sizeof(digest));
        msgpack_pack_bin_body(&p->to, digest, sizeof(digest));
    } else if (how->is_signed) {
        msgpack_pack_int64(&p->to, (int64_t)h);
    } else {
        msgpack_pack_uint64(&p->to, h);
    }
}

static inline void pack_hashes(struct pack *p, const struct pack_stored *s)
{
    msgpack_pack_array(&p->to, s->count);
    for (uint32_t i = 0; i < s->count; i++)
        pack_hash(p, s->hashes[i], s);
}

static inline void pack_parent(struct pack *p, const struct pack_stored *s)
{
    if (s->parent == 0)
        msgpack_pack_nil(&p->to);
    else
        pack_hash(p, s->parent, s);
}

static inline void pack_tokens(struct pack *p, uint32_t count)
{
    msgpack_pack_array(&p->to, count);
    for (uint32_t i = 0; i < count; i++)
        msgpack_pack_uint32(&p->to, i * 77);
}

static inline void pack_group(struct pack *p, int group)
{
    if (group < 0)
        msgpack_pack_nil(&p->to);
    else
        msgpack_pack_int(&p->to, group);
}

/* The head of a batch; its events follow, and where with_rank its rank. */
static inline void pack_batch(struct pack *p, double ts, unsigned events, bool with_rank)
{
    msgpack_pack_array(&p->to, with_rank ? 3 : 2);
    msgpack_pack_double(&p->to, ts);
    msgpack_pack_array(&p->to, events);
}

static inline void pack_stored_array(struct pack *p, const struct pack_stored *s, unsigned level)
{
    msgpack_pack_array(&p->to, level);
    pack_text(p, "BlockStored");
    pack_hashes(p, s);
    pack_parent(p, s);
    pack_tokens(p, s->tokens);
    msgpack_pack_uint32(&p->to, s->block);
    msgpack_pack_nil(&p->to); /* lora_id */
    if (level > 6)
        pack_text(p, s->medium);
    if (level > 7)
        pack_text(p, "adapter");
    if (level > 8)
        msgpack_pack_nil(&p->to); /* extra_keys */
    if (level > 9)
        pack_group(p, s->group);
    if (level > 10)
        pack_text(p, s->kind);
    if (level > 11)
        msgpack_pack_nil(&p->to); /* sliding window */
    for (unsigned i = 12; i < level; i++)
        pack_text(p, "what comes after us");
}

static inline void pack_stored_map(struct pack *p, const struct pack_stored *s, bool full)
{
    msgpack_pack_map(&p->to, full ? 12 : 8);
    pack_text(p, "type");
    pack_text(p, "BlockStored");
    pack_text(p, "block_hashes");
    pack_hashes(p, s);
    pack_text(p, "parent_block_hash");
    pack_parent(p, s);
    pack_text(p, "token_ids");
    pack_tokens(p, s->tokens);
    pack_text(p, "block_size");
    msgpack_pack_uint32(&p->to, s->block);
    pack_text(p, "lora_id");
    msgpack_pack_nil(&p->to);
    pack_text(p, "medium");
    pack_text(p, s->medium);
    pack_text(p, "lora_name");
    pack_text(p, NULL);
    if (!full)
        return;
    pack_text(p, "group_idx");
    pack_group(p, s->group);
    pack_text(p, "kv_cache_spec_kind");
    pack_text(p, s->kind);
    pack_text(p, "locality");
    pack_text(p, "LOCAL");
    pack_text(p, "of the future");
    msgpack_pack_array(&p->to, 1);
    pack_text(p, NULL);
}

static inline void pack_removed_array(struct pack *p, const struct pack_stored *s, unsigned level)
{
    msgpack_pack_array(&p->to, level);
    pack_text(p, "BlockRemoved");
    pack_hashes(p, s);
    if (level > 2)
        pack_text(p, s->medium);
    if (level > 3)
        pack_group(p, s->group);
}

static inline void pack_removed_map(struct pack *p, const struct pack_stored *s)
{
    msgpack_pack_map(&p->to, 4);
    pack_text(p, "medium");
    pack_text(p, s->medium);
    pack_text(p, "block_hashes");
    pack_hashes(p, s);
    pack_text(p, "group_idx");
    pack_group(p, s->group);
    pack_text(p, "type");
    pack_text(p, "BlockRemoved");
}

static inline void pack_cleared(struct pack *p, bool as_map)
{
    if (as_map) {
        msgpack_pack_map(&p->to, 1);
        pack_text(p, "type");
    } else {
        msgpack_pack_array(&p->to, 1);
    }
    pack_text(p, "AllBlocksCleared");
}

#endif
