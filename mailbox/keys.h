/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_KEYS_H
#define SLIP_MAILBOX_KEYS_H

#include <stdbool.h>

#include "common/buf.h"
#include "common/conf.h"

/*
 * Who may speak to the mailbox from another host: whoever shows the key of rpc_key_file (a gateway
 * worker: it names the tenant in each call) or one of keys[] (that key's tenant, always). Local
 * peers are guarded by the permissions of the socket. Without rpc_key_file and keys[] an insecure
 * tcp:// address is open to everybody, as its setting says.
 */
struct keys;

/* error: one line when a file cannot be read. */
enum err keys_load(const struct conf *c, struct keys **out, struct buf *error);
void keys_free(struct keys *k);
/* ERR_DENIED, or ERR_OK with worker and tenant (borrowed, NULL for workers). Takes the same time
 * for all keys. */
enum err keys_check(const struct keys *k, bool local, const char *key, bool *worker,
                    const char **tenant);
/* What we show to other processes of Slipstream; NULL: nothing. Borrowed. */
const char *keys_own(const struct keys *k);

#endif
