/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/splice.h"

bool splice_add(struct splice_list *l, uint32_t at, uint32_t cut, const char *insert,
                size_t insert_len)
{
    unsigned i = l->count, k;

    if (l->count == SPLICE_MAX)
        return false;
    /* What is only put in comes before a cut at the same place. */
    while (i > 0 && (l->rows[i - 1].at > at ||
                     (l->rows[i - 1].at == at && cut == 0 && l->rows[i - 1].cut > 0)))
        i--;
    if (i > 0 && l->rows[i - 1].at + l->rows[i - 1].cut > at)
        return false;
    if (i < l->count && at + cut > l->rows[i].at)
        return false;
    for (k = l->count; k > i; k--)
        l->rows[k] = l->rows[k - 1];
    l->rows[i] = (struct splice){.at = at, .cut = cut, .insert = insert, .insert_len = insert_len};
    l->count++;
    return true;
}

size_t splice_length(const struct splice_list *l, size_t body_len)
{
    size_t n = body_len;
    unsigned i;

    for (i = 0; i < l->count; i++)
        n = n - l->rows[i].cut + l->rows[i].insert_len;
    return n;
}

size_t splice_apply(const struct splice_list *l, char *body, size_t body_len, struct iovec *pieces)
{
    size_t n = 0, at = 0;
    unsigned i;

    for (i = 0; i < l->count; i++) {
        const struct splice *s = &l->rows[i];

        if (s->at > at)
            pieces[n++] = (struct iovec){body + at, s->at - at};
        if (s->insert_len > 0)
            pieces[n++] = (struct iovec){(void *)(uintptr_t)s->insert, s->insert_len};
        at = s->at + s->cut;
    }
    if (at < body_len)
        pieces[n++] = (struct iovec){body + at, body_len - at};
    return n;
}
