/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_SPLICE_H
#define GW_SPLICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/*
 * What changes in a body: at most SPLICE_MAX places where bytes are cut and others put in. A body
 * is never serialised again; everything else goes upstream byte for byte. Pure.
 */
#define SPLICE_MAX 8
#define SPLICE_PIECES (2 * SPLICE_MAX + 1)

struct splice {
    uint32_t at, cut;
    const char *insert; /* borrowed */
    size_t insert_len;
};

struct splice_list {
    struct splice rows[SPLICE_MAX]; /* ascending, not overlapping */
    unsigned count;
};

/* Keeps the list in order. false: full, or it overlaps another row. */
bool splice_add(struct splice_list *l, uint32_t at, uint32_t cut, const char *insert,
                size_t insert_len);
size_t splice_length(const struct splice_list *l, size_t body_len);
/* Fills pieces (SPLICE_PIECES are always enough) with the changed body; returns how many. */
size_t splice_apply(const struct splice_list *l, char *body, size_t body_len, struct iovec *pieces);

#endif
