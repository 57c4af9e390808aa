/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "mailbox/server.h"

/* What settings mean: limits for the core, and where the store lies. */

struct mbox_limits limits_of(const struct conf_mailbox *c)
{
    return (struct mbox_limits){
        .max_boxes = c->max_boxes,
        .max_agents = c->max_agents,
        .box_messages = c->box_messages,
        .max_waiting = c->max_waiting,
        .box_bytes = c->box_bytes,
        .total_bytes = c->total_bytes,
        .max_payload_bytes = c->max_payload_bytes,
        .ttl_ns = c->ttl_ms * NS_PER_MS,
        .max_wait_ns = c->max_wait_ms * NS_PER_MS,
        .idle_ns = c->workflow_ttl_ms * NS_PER_MS,
        .settle_ns = c->settle_ms * NS_PER_MS,
        .workflow_messages = c->workflow_messages,
        .total_messages = c->total_messages,
        .workflow_bytes = c->workflow_bytes,
        .drop_oldest = c->overflow == CONF_OVERFLOW_DROP_OLDEST,
        .max_deliveries = c->max_deliveries,
        .dead_messages = c->dead_messages,
        .dead_ttl_ns = c->dead_ttl_ms * NS_PER_MS,
        .max_lease_ns = c->max_lease_ms * NS_PER_MS,
        .max_keep_ns = c->keep_ms * NS_PER_MS,
        .key_window_ns = c->key_window_ms * NS_PER_MS,
        .max_keys = c->max_keys,
    };
}

const char *store_path_of(const struct conf *c, char *dst, size_t size)
{
    if (c->mailbox.store_path[0] != '\0')
        snprintf(dst, size, "%s", c->mailbox.store_path);
    else
        snprintf(dst, size, "%s/mailbox/mailbox.db", c->common.run_dir);
    return dst;
}

static void folder_of(const char *path, char *dst, size_t size)
{
    const char *slash = strrchr(path, '/');

    if (slash == NULL)
        snprintf(dst, size, ".");
    else
        snprintf(dst, size, "%.*s", slash == path ? 1 : (int)(slash - path), path);
}

/* The folder of the default path is ours to make; any other is the operator's. */
static bool folder_make(const struct conf *c, const char *folder)
{
    if (c->mailbox.store_path[0] != '\0' || mkdir(folder, 0700) == 0 || errno == EEXIST)
        return true;
    log_error("start_failed", "path=%s reason=\"%s\"", folder, strerror(errno));
    return false;
}

enum err store_open(const struct conf *c, struct mbox_store **out)
{
    char path[512], folder[512];
    const struct store_sqlite_conf sqlite = {
        .path = store_path_of(c, path, sizeof(path)),
        .compress_bytes = c->mailbox.compress_bytes,
        .cache_bytes = c->mailbox.cache_bytes,
        .power_safe = c->mailbox.power_safe,
    };
    enum err e;

    if (c->mailbox.store == CONF_STORE_MEMORY) {
        *out = store_memory_open(c->mailbox.compress_bytes);
        return ERR_OK;
    }
    if (sqlite.power_safe && c->mailbox.store_path[0] == '\0')
        log_warn("store_in_memory", "path=%s reason=\"power_safe needs a store_path on a disk\"",
                 path);
    folder_of(path, folder, sizeof(folder));
    if (!folder_make(c, folder))
        return ERR_IO;
    e = store_sqlite_open(&sqlite, out);
    if (e != ERR_OK)
        log_error("start_failed", "store=sqlite path=%s reason=\"%s\"", path,
                  e == ERR_CONF ? "it was damaged, or is not ours, and was moved aside; the next "
                                  "start begins with an empty one"
                                : err_text(e));
    return e;
}

enum err store_check(const struct conf *c, struct buf *words)
{
    char path[512], folder[512];

    if (c->mailbox.store == CONF_STORE_MEMORY)
        return ERR_OK;
    folder_of(store_path_of(c, path, sizeof(path)), folder, sizeof(folder));
    if (c->mailbox.store_path[0] == '\0') /* made at the start, inside of what is there by then */
        while (access(folder, F_OK) != 0 && errno == ENOENT && strchr(folder + 1, '/') != NULL)
            *strrchr(folder, '/') = '\0';
    if (access(folder, W_OK | X_OK) == 0 && (access(path, F_OK) != 0 || access(path, W_OK) == 0))
        return ERR_OK;
    buf_addf(words, "mailbox.store_path: %s: %s\n",
             access(folder, W_OK | X_OK) != 0 ? folder : path, strerror(errno));
    return ERR_CONF;
}

static void keeps(bool same, const char *setting)
{
    if (!same)
        log_warn("reload_waits", "setting=%s reason=\"takes effect at the next start\"", setting);
}

void reload_compare(const struct conf *old, const struct conf *new)
{
    const struct conf_mailbox *a = &old->mailbox, *b = &new->mailbox;
    char url_a[256], url_b[256];

    keeps(a->store == b->store, "mailbox.store");
    keeps(strcmp(a->store_path, b->store_path) == 0, "mailbox.store_path");
    keeps(a->power_safe == b->power_safe, "mailbox.power_safe");
    keeps(a->cache_bytes == b->cache_bytes, "mailbox.cache_bytes");
    keeps(a->metrics_boxes == b->metrics_boxes, "mailbox.metrics_boxes");
    keeps(strcmp(old->common.run_dir, new->common.run_dir) == 0, "common.run_dir");
    keeps(strcmp(conf_mailbox_url(old, url_a, sizeof(url_a)),
                 conf_mailbox_url(new, url_b, sizeof(url_b))) == 0,
          "common.mailbox_url");
    keeps(strcmp(conf_scheduler_url(old, url_a, sizeof(url_a)),
                 conf_scheduler_url(new, url_b, sizeof(url_b))) == 0,
          "common.scheduler_url");
}
