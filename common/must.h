/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MUST_H
#define SLIP_MUST_H

#include <stdbool.h>

/*
 * Three grades of "this cannot be".
 *
 * must(x):   we are wrong and nothing can be trusted. Logs and aborts; the supervisor starts a
 * fresh process. broken(x): we are wrong about one request. Counts, logs, and is true, so that the
 * caller can fail that one request: if (broken(r->lease == 0)) return ERR_BUG;   Aborts in builds
 * with sanitizers or faults. debug_must(x): a check too dear for release builds.
 */
#define must(x) ((x) ? (void)0 : must_failed(#x, __FILE__, __LINE__))
#define broken(x) (__builtin_expect(!!(x), 0) ? broken_found(#x, __FILE__, __LINE__) : false)
#if defined(SLIP_FAULTS) || defined(SLIP_SANITIZED)
#define debug_must(x) must(x)
#else
#define debug_must(x) ((void)sizeof(x))
#endif

_Noreturn void must_failed(const char *expr, const char *file, int line);
bool broken_found(const char *expr, const char *file, int line);

/* How often broken() was true in this process. */
unsigned long broken_count(void);

#endif
