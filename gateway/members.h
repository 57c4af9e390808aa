/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_MEMBERS_H
#define GW_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "gateway/inspect.h"

/*
 * What the members of a request body mean, apart from where they stand: members.def as code. Used
 * by inspect.c, which knows the grammar, and by identity.c, for the same words in headers. Pure.
 */
enum member_kind { /* of a value; one bit each */
                   KIND_OBJECT = 1,
                   KIND_ARRAY = 2,
                   KIND_STRING = 4,
                   KIND_NUMBER = 8,
                   KIND_TRUE = 16,
                   KIND_FALSE = 32,
                   KIND_NIL = 64,
                   KIND_ANY = 127
};

enum member_owner { OWNER_NONE, OWNER_ROOT, OWNER_METADATA, OWNER_STREAM_OPTIONS };

enum member {
    MEMBER_OTHER,
#define MEMBER(id, owner, name, kinds) MEMBER_##id,
#include "gateway/members.def"
#undef MEMBER
    MEMBER_COUNT
};

/* MEMBER_OTHER: none of ours. */
enum member member_find(enum member_owner owner, const char *name, size_t len);

/* The value of m, raw in [at, end) of the body, is taken into in. Containers are only checked for
 * their kind. Fails with in->err, err_at and err_param set. */
bool member_take(struct inspection *in, enum member m, enum member_kind kind, uint32_t at,
                 uint32_t end);

/* Fails in for m: sets err, err_at and err_param. Always false. */
bool member_fail(struct inspection *in, enum member m, enum err e, uint32_t at);

/* The words of context_sharing_strategy and of a workflow's priority; out is the wire's number. */
bool strategy_find(const char *s, size_t len, uint8_t *out);
bool priority_find(const char *s, size_t len, uint8_t *out);

#endif
