/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_MD5_H
#define SCHED_MD5_H

#include <stddef.h>
#include <stdint.h>

/*
 * MD5 (RFC 1321), for hash rings that others have defined with it; never for secrets. The digest
 * as one big-endian number, which is how uhashring compares them.
 */
struct md5 {
    uint64_t hi, lo;
};

struct md5 md5_of(const void *data, size_t len);

#endif
