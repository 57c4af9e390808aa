/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_KV_PUB_H
#define ENGINE_KV_PUB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Publishes batches of KV events as vLLM does: a PUB socket, numbers from 0, and a ROUTER socket
 * that repeats what it was asked for. On a thread of its own.
 */
#define KV_PUB_KEEP 10000u /* batches that can be had again */

struct kv_pub_conf {
    const char *events; /* bound if it has a * or ::, or is ipc://; else connected to */
    const char *replay; /* NULL: none */
    const char *topic;  /* NULL: empty */
    uint64_t delay_ns;  /* how much later than they happen events are sent */
};

struct kv_pub;
/* NULL: an endpoint is no good; errno tells. conf's texts are borrowed as long. */
struct kv_pub *kv_pub_start(const struct kv_pub_conf *conf);
void kv_pub_send(struct kv_pub *p, void *payload, size_t len); /* takes payload over */
void kv_pub_stop(struct kv_pub *p); /* what is due later is dropped. NULL is fine */

#endif
