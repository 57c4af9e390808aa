/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "client/client.h"
#include "common/must.h"

/* Hidden in front of each piece; the root's chain holds all others. */
union chunk {
    union chunk *next;
    max_align_t align;
};

void *result_new(size_t bytes)
{
    union chunk *c = calloc(1, sizeof(*c) + bytes);

    must(c != NULL);
    return c + 1;
}

void *result_more(void *root, size_t bytes)
{
    union chunk *r = (union chunk *)root - 1;
    union chunk *c = (union chunk *)result_new(bytes) - 1;

    c->next = r->next;
    r->next = c;
    return c + 1;
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

void slipstream_free(void *result)
{
    union chunk *c, *next;

    if (result == NULL)
        return;
    for (c = (union chunk *)result - 1; c != NULL; c = next) {
        next = c->next;
        free(c);
    }
}
