/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/must.h"
#include "mailbox/store.h"

/*
 * The file of the sqlite store, good but for some bytes: every four bytes of the input are a place
 * and what stands there. Whatever that makes of it, opening, scanning, reading and writing end with
 * an answer, what the scan gives holds together, and payloads are those that went in or ERR_IO.
 */
#define PAYLOAD 3000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64], path[96];
static char *good; /* the file as it should be */
static size_t good_len;
static char payload[PAYLOAD];

static void files_remove(void)
{
    DIR *d = opendir(dir);
    struct dirent *e;
    char name[512];

    must(d != NULL);
    while ((e = readdir(d)) != NULL) {
        snprintf(name, sizeof(name), "%s/%s", dir, e->d_name);
        if (e->d_name[0] != '.')
            must(unlink(name) == 0);
    }
    closedir(d);
}

static void leave(void)
{
    files_remove();
    rmdir(dir);
    free(good);
}

static enum err append(struct mbox_store *s, uint64_t id, size_t copies, uint64_t *ref)
{
    const struct mbox_copy_record c[2] = {{.id = id, .agent = "ann"},
                                          {.id = id + 1, .agent = "bob"}};
    struct mbox_record r = {"t", "w", "m",         "s",    "y", "c",    "r",  "g", 1,
                            2,   3,   payload + 8, id * 7, c,   copies, NULL, 0};
    size_t stored;

    return s->ops->append(s, &r, ref, &stored);
}

static struct mbox_store *store_open(void)
{
    const struct store_sqlite_conf conf = {
        .path = path, .compress_bytes = 200, .cache_bytes = 4000};
    struct mbox_store *s = NULL;

    return store_sqlite_open(&conf, &s) == ERR_OK ? s : NULL;
}

static void make_good(void)
{
    const struct mbox_answer_record a = {
        .id = 300, .tenant = "t", .workflow = "w", .key = "k", .answer = "an", .answer_len = 2};
    struct mbox_copy_record change = {.id = 1, .agent = "ann", .attempts = 1};
    struct mbox_store *s;
    uint64_t ref, i;
    int fd;

    log_init("fuzz", LOG_LEVEL_ERROR);
    snprintf(dir, sizeof(dir), "%s/fuzz_store.XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    must(mkdtemp(dir) != NULL && atexit(leave) == 0);
    snprintf(path, sizeof(path), "%s/s.db", dir);
    for (i = 0; i < PAYLOAD; i++)
        payload[i] = (char)(i * i >> 5);
    s = store_open();
    must(s != NULL);
    for (i = 1; i < 100; i += 2) {
        must(append(s, i, 1 + i % 3 / 2, &ref) == ERR_OK);
        change.id = i;
        s->ops->mark(s, ref, &change);
    }
    s->ops->remember(s, &a);
    must(s->ops->commit(s) == ERR_OK);
    s->ops->close(s);
    good = malloc(1u << 20);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    must(good != NULL && fd >= 0);
    good_len = (size_t)read(fd, good, 1u << 20);
    close(fd);
    must(good_len > 8192 && good_len < 1u << 20);
}

struct found {
    uint64_t refs[256], ids[256], last;
    size_t count;
};

static void on_message(void *arg, uint64_t ref, size_t stored, const struct mbox_record *r)
{
    struct found *f = arg;
    size_t i;

    must(stored <= MBOX_PAYLOAD_MAX && r->payload_len <= MBOX_PAYLOAD_MAX);
    must(r->copy_count > 0 && r->copies[0].id > f->last);
    for (i = 0; i < r->copy_count; i++)
        must(strlen(r->copies[i].agent) == 3 && r->copies[i].dead <= MBOX_DEAD_OVERFLOW);
    f->last = r->copies[0].id;
    must(strcmp(r->workflow, "w") == 0 && strcmp(r->group, "g") == 0);
    if (f->count == 256)
        return;
    f->refs[f->count] = ref;
    f->ids[f->count++] = r->copies[0].id;
}

static void on_answer(void *arg, const struct mbox_answer_record *a)
{
    (void)arg;
    must(strcmp(a->key, "k") == 0 && a->answer_len == 2);
}

static void use(struct mbox_store *s)
{
    struct found f = {0};
    const struct mbox_scan calls = {.arg = &f, .message = on_message, .answer = on_answer};
    struct buf b = {0};
    uint64_t ref;
    size_t i;

    if (s->ops->scan(s, &calls) != ERR_OK)
        return;
    for (i = 0; i < f.count; i++) {
        b.len = 0;
        if (s->ops->get(s, f.refs[i], &b) == ERR_OK)
            must(b.len % 7 == 0 && (b.len == 0 || memcmp(b.base, payload + 8, b.len) == 0));
        if (i % 2 == 0)
            s->ops->remove(s, f.refs[i], f.ids[i], true);
    }
    buf_fini(&b);
    if (append(s, 400, 2, &ref) != ERR_OK)
        return;
    (void)s->ops->commit(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct mbox_store *s;
    size_t at, n = 0;
    uint8_t was[64];
    int fd;

    if (good == NULL)
        make_good();
    for (at = 0; at + 4 <= size && n < 64; at += 4, n++) {
        size_t place = ((size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2]);

        was[n] = (uint8_t)good[place % good_len];
        good[place % good_len] = (char)data[at + 3];
    }
    files_remove();
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    must(fd >= 0 && write(fd, good, good_len) == (ssize_t)good_len);
    close(fd);
    while (n-- > 0) {
        at -= 4;
        good[((size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2]) % good_len] =
            (char)was[n];
    }
    s = store_open();
    if (s == NULL)
        return 0;
    use(s);
    s->ops->close(s);
    return 0;
}
