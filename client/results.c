/* SPDX-License-Identifier: Apache-2.0 */
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/must.h"

/*
 * A result is a chain of chunks that are filled from the front. The root is the first piece of the
 * first chunk; that chunk's head knows the chunk that is being filled.
 *
 * Answers are unpacked into the same memory, so a result of many strings costs one allocation or
 * two, and a received payload is copied once.
 */
#define CHUNK_MIN 1024u

struct chunk {
    alignas(max_align_t) struct chunk *next; /* newest first, behind the root's own */
    size_t used, size;                       /* of the bytes behind the head */
};

static struct chunk *chunk_new(size_t bytes)
{
    struct chunk *c = calloc(1, sizeof(*c) + bytes);

    must(c != NULL);
    c->size = bytes;
    return c;
}

static size_t rounded(size_t bytes)
{
    return (bytes + alignof(max_align_t) - 1) / alignof(max_align_t) * alignof(max_align_t);
}

static void *take(struct chunk *c, size_t bytes)
{
    void *p = (char *)(c + 1) + c->used;

    c->used += bytes;
    return p;
}

static void *root_new(size_t bytes, size_t room)
{
    bytes = rounded(bytes);
    return take(chunk_new(bytes + room), bytes);
}

void *result_new(size_t bytes)
{
    return root_new(bytes, CHUNK_MIN);
}

void *result_more(void *root, size_t bytes)
{
    struct chunk *r = (struct chunk *)root - 1, *c = r->next != NULL ? r->next : r;

    bytes = rounded(bytes);
    if (c->size - c->used < bytes) {
        c = chunk_new(bytes > c->size ? bytes : 2 * c->size);
        c->next = r->next;
        r->next = c;
    }
    return take(c, bytes);
}

const char *result_text(void *root, const char *s)
{
    size_t len = s != NULL ? strlen(s) : 0;

    if (len == 0)
        return "";
    return memcpy(result_more(root, len + 1), s, len);
}

const char *const *result_texts(void *root, char *const *items, size_t count)
{
    const char **out = result_more(root, (count + 1) * sizeof(*out));
    size_t i;

    for (i = 0; i < count; i++)
        out[i] = result_text(root, items[i]);
    return out;
}

/* One byte more: what protobuf-c calls bytes has none behind it. */
static void *answer_alloc(void *root, size_t size)
{
    return result_more(root, size + 1);
}

static void answer_free(void *root, void *pointer)
{
    (void)root, (void)pointer;
}

void *result_for_answer(const ProtobufCMessageDescriptor *type, const uint8_t *body, size_t len,
                        ProtobufCMessage **answer)
{
    union {
        struct slipstream_sent_list sent;
        struct slipstream_messages messages;
        struct slipstream_settled_list settled;
    } *root = root_new(sizeof(*root), 2 * len + CHUNK_MIN);
    ProtobufCAllocator allocator = {answer_alloc, answer_free, root};

    *answer = protobuf_c_message_unpack(type, &allocator, len, body);
    if (*answer != NULL)
        return root;
    slipstream_free(root);
    return NULL;
}

void slipstream_free(void *result)
{
    struct chunk *c, *next;

    if (result == NULL)
        return;
    for (c = (struct chunk *)result - 1; c != NULL; c = next) {
        next = c->next;
        free(c);
    }
}
