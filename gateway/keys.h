/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_KEYS_H
#define GW_KEYS_H

#include "common/err.h"
#include "gateway/worker.h"

/*
 * API keys: whose request is this, and which key does an engine want. Keys live in files; only
 * their SHA-256 is kept, and comparing takes the same time for every key.
 */
struct gw_request;

enum err keys_load(struct gw *gw, const struct conf *conf); /* logs what is wrong with which file */
void keys_free(struct gw *gw);
/* The keys that fresh has loaded take the place of gw's, also for requests that run: what these
 * hold of a key's limit they hold of the same key afterwards. fresh is left without any. */
void keys_replace(struct gw *gw, struct gw *fresh);
/* secret_key_read(), with what is wrong in the log. */
enum err keys_secret_read(const char *name, char **out);
/* Sets r->tenant and r->key from "Authorization: Bearer" or "x-api-key"; ERR_AUTH, ERR_TOO_MANY.
 * ERR_TWO_KEYS: such headers, together, name different keys; the same one twice is as good as once.
 * Everybody is welcome while no key is configured. */
enum err keys_check(struct gw_request *r);
/* Does it show the key of gateway.admin_key_file? Such a request needs no other. ERR_AUTH,
 * ERR_TWO_KEYS. */
enum err keys_check_admin(const struct gw_request *r);
void keys_release(struct gw_request *r);
const char *keys_of_engine(const struct gw *gw,
                           const char *engine_id); /* NULL: the client's own goes through */

#endif
