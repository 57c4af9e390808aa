/* SPDX-License-Identifier: Apache-2.0 */
#ifndef REPLAY_COMPARE_H
#define REPLAY_COMPARE_H

#include "common/buf.h"
#include "common/err.h"

/*
 * Reports of several runs side by side. in: lines of JSON as written by --json, two or more.
 * table: for people, with the last run over the first in words. wrapped: {"policies":[...]}, or
 * NULL if not wanted. ERR_INVALID: a line is no report.
 */
enum err compare_reports(const char *in, size_t len, struct buf *table, struct buf *wrapped);

#endif
