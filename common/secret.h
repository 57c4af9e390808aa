/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_SECRET_H
#define SLIP_SECRET_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Secrets in files that a setting names: API keys, private keys. A name without a slash is a
 * systemd credential where the unit has any ($CREDENTIALS_DIRECTORY). Only regular files are read,
 * and none that everybody may write.
 *
 * note gets "NAME: what is wrong" added, "; " before it where it is not empty: on failure, and on
 * success where everybody may read the file. Any thread.
 */
#define SECRET_KEY_MAX 511         /* bytes of a key */
#define SECRET_FILE_MAX (1u << 20) /* bytes of a whole file; a system's CAs have a quarter */

/* The first line without white space around it, 1 to SECRET_KEY_MAX bytes. *out belongs to the
 * caller (secret_free). ERR_CONF: unreadable, empty, too long. */
enum err secret_key_read(const char *name, char **out, struct buf *note);

/* The whole file, which must be text without NUL. Otherwise as above. */
enum err secret_file_read(const char *name, char **out, struct buf *note);

/* In a time that does not tell how much of given was right. false for an empty or NULL secret. */
bool secret_is_same(const char *given, const char *secret);

void secret_free(char *secret); /* overwrites it first; takes NULL */

#endif
