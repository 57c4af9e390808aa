/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_STORE_H
#define SLIP_MAILBOX_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"

/*
 * Where messages rest: their payloads always, and everything else about them where the store
 * outlives the process. The core decides, the store remembers; it never judges what it is given.
 * One thread. Strings and bytes of a record are borrowed during the call.
 *
 * What append, mark, remove, remember and forget say becomes lasting with the next commit, all of
 * it at once. A commit that fails drops what was appended and remembered since the last good one
 * (the core forgets those too); marks, removes and forgets are kept and go with the next.
 */
struct mbox_store {
    const struct mbox_store_ops *ops;
};

enum mbox_dead { MBOX_ALIVE, MBOX_DEAD_EXPIRED, MBOX_DEAD_ATTEMPTS, MBOX_DEAD_OVERFLOW };

/* A message in one mailbox. Times are wall clock, milliseconds. */
struct mbox_copy_record {
    uint64_t id; /* drawn by the core, ascending, never used again */
    const char *agent;
    uint64_t expires_ms;
    uint64_t due_ms; /* not handed out earlier; 0: at once */
    uint32_t attempts;
    enum mbox_dead dead;
    uint64_t dead_ms;
    /* Handed out, and kept until then for a stream that comes again; 0: it is not. By mark only. */
    uint64_t kept_ms;
    uint64_t kept_order; /* of two kept ones the smaller was handed out first */
};

struct mbox_record {
    const char *tenant, *workflow, *message_id, *source, *type;
    const char *correlation_id, *reply_to, *group; /* "" where not given */
    uint32_t priority;
    uint64_t created_ms, ttl_ms;
    const void *payload;
    size_t payload_len;
    const struct mbox_copy_record *copies; /* at least one */
    size_t copy_count;
    /* The payload as one lz4 block that is smaller, as it came: a store that would compress it
     * keeps that. NULL: none came. */
    const void *block;
    size_t block_len;
};

/* The answer to a request with an idempotency key. answer: the core's own bytes. */
struct mbox_answer_record {
    uint64_t id; /* drawn by the core from the same numbers as copies */
    const char *tenant, *workflow, *key;
    uint64_t body_hash[2];
    uint64_t expires_ms;
    const void *answer;
    size_t answer_len;
};

/* What a store holds at its start. Messages come by ascending id of their first copy. */
struct mbox_scan {
    void *arg;
    void (*message)(void *arg, uint64_t ref, size_t stored, const struct mbox_record *r);
    void (*answer)(void *arg, const struct mbox_answer_record *a);
};

struct mbox_store_stats {
    uint64_t payload_bytes; /* of all payloads, as stored */
    uint64_t disk_bytes;
    uint64_t commits, failed_commits;
    bool failing; /* the last commit failed */
};

struct mbox_store_ops {
    const char *name;
    /* ref: the store's name for the message from now on, never 0. stored: bytes that the payload
     * takes, after compression. ERR_TOO_LARGE; ERR_STORE: no room, or it cannot be written. */
    enum err (*append)(struct mbox_store *s, const struct mbox_record *r, uint64_t *ref,
                       size_t *stored);
    /* Appends the payload as it came. ERR_NOT_FOUND: no such ref; ERR_IO: it is damaged. */
    enum err (*get)(struct mbox_store *s, uint64_t ref, struct buf *out);
    /* The same as it is stored: raw_len 0: the payload; else an lz4 block of so many bytes. */
    enum err (*get_stored)(struct mbox_store *s, uint64_t ref, struct buf *out, uint32_t *raw_len);
    /* Attempts, due time, death or keeping of one copy have changed. */
    void (*mark)(struct mbox_store *s, uint64_t ref, const struct mbox_copy_record *copy);
    /* One copy has left; with the last one the message goes, and ref with it. */
    void (*remove)(struct mbox_store *s, uint64_t ref, uint64_t copy, bool last);
    void (*remember)(struct mbox_store *s, const struct mbox_answer_record *a);
    void (*forget)(struct mbox_store *s, uint64_t answer);
    /* ERR_STORE: see above; the log says why. */
    enum err (*commit)(struct mbox_store *s);
    /* Once, before anything else. ERR_IO: what is there cannot be read. ERR_CONF: it is damaged and
     * was moved aside, as at open; close the store. */
    enum err (*scan)(struct mbox_store *s, const struct mbox_scan *calls);
    void (*stats)(const struct mbox_store *s, struct mbox_store_stats *out);
    void (*compress_from)(struct mbox_store *s, size_t bytes); /* from the next append on */
    void (*close)(struct mbox_store *s); /* a store that does not last takes everything with it */
};

#define MBOX_PAYLOAD_MAX (3u << 20) /* no payload is larger; get allocates no more */

/*
 * In memory; 32 bytes for each payload beside its own. Payloads from compress_bytes on are
 * compressed with lz4 and kept raw where that does not make them smaller.
 */
struct mbox_store *store_memory_open(size_t compress_bytes);

struct store_sqlite_conf {
    const char *path;
    size_t compress_bytes;
    uint64_t cache_bytes; /* payloads kept in memory as well, newest first to go */
    bool power_safe;      /* a commit is on the disk before it is answered */
};
/*
 * In one SQLite file (WAL), of one process. ERR_IO: it cannot be opened or created, another process
 * has it open, a newer version wrote it, or it is another program's database; it is left as it is,
 * and the log says why. A damaged file is moved aside with its log (PATH.damaged-TIME) and ERR_CONF
 * returned: whoever starts again begins with an empty one, knowingly.
 */
enum err store_sqlite_open(const struct store_sqlite_conf *conf, struct mbox_store **out);

#endif
