/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_CHECK_H
#define GW_CHECK_H

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"

/*
 * For --check: opens and parses the files that the settings name and this process needs. words gets
 * a line "FILE: what is wrong" for each that cannot be used, and for each that works but should not
 * be as it is. ERR_CONF if a file cannot be used.
 */
enum err check_files(const struct conf *conf, struct buf *words);

#endif
