/* SPDX-License-Identifier: Apache-2.0 */
#include "common/shm.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"

static char boot_id[40];
static pthread_once_t boot_id_once = PTHREAD_ONCE_INIT;

static void boot_id_read(void)
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, boot_id, sizeof(boot_id) - 1) : -1;

    if (fd >= 0)
        close(fd);
    if (n <= 0)
        snprintf(boot_id, sizeof(boot_id), "unknown");
    else
        boot_id[strcspn(boot_id, "\n")] = '\0';
}

const char *shm_boot_id(void)
{
    pthread_once(&boot_id_once, boot_id_read);
    return boot_id;
}

static struct shm closed_shm(void)
{
    return (struct shm){.fd = -1};
}

static enum err map(struct shm *s, int fd, size_t bytes, bool writable)
{
    void *p = mmap(NULL, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        return errno == ENOMEM ? ERR_NOMEM : ERR_IO;
    s->head = p;
    s->bytes = bytes;
    s->fd = fd;
    s->writable = writable;
    return ERR_OK;
}

static uint64_t draw_generation(void)
{
    uint64_t g = 0;

    while (g == 0)
        must(getrandom(&g, sizeof(g), 0) == (ssize_t)sizeof(g));
    return g;
}

static void head_fill(struct shm_head *h, enum shm_kind kind, uint32_t layout, size_t bytes)
{
    h->kind = kind;
    h->layout = layout;
    h->bytes = bytes;
    h->generation = draw_generation();
    h->writer_pid = (uint32_t)getpid();
    snprintf(h->boot_id, sizeof(h->boot_id), "%s", shm_boot_id());
    atomic_store(&h->beat_ms, clock_ms());
    h->magic = SHM_MAGIC;
}

static bool temporary_name(char *to, size_t size, const char *path)
{
    int n = snprintf(to, size, "%s.%d.new", path, (int)getpid());

    return n > 0 && (size_t)n < size;
}

enum err shm_create(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                    struct shm *out)
{
    struct shm s = closed_shm();
    char name[sizeof(s.path) + 24];
    enum err e = ERR_IO;
    int fd;

    must(bytes >= sizeof(struct shm_head));
    if (strlen(path) >= sizeof(s.path) || !temporary_name(name, sizeof(name), path))
        return ERR_CONF;
    if (fault_hits(FAULT_shm_create_fails))
        return ERR_IO;
    unlink(name); /* of a dead process that had our pid */
    fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0640);
    if (fd < 0) {
        log_error("segment_failed", "path=%s error=\"%s\"", path, strerror(errno));
        return ERR_IO;
    }
    /* Room is taken now: a full tmpfs is an error here, not a SIGBUS later. */
    errno = posix_fallocate(fd, 0, (off_t)bytes);
    if (errno == 0)
        e = map(&s, fd, bytes, true);
    if (e != ERR_OK) {
        log_error("segment_failed", "path=%s bytes=%zu error=\"%s\"", path, bytes, strerror(errno));
        close(fd);
        unlink(name);
        return e;
    }
    head_fill(s.head, kind, layout, bytes);
    memcpy(s.path, path, strlen(path) + 1);
    *out = s;
    return ERR_OK;
}

/* Readers of what is under the name now learn that they must look again. Before the rename: a
 * writer that dies between the two leaves readers who ask once too often, not readers of a ghost.
 */
static void retire(const char *path)
{
    struct shm old = closed_shm();
    struct stat st;
    int fd = open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (fd < 0)
        return;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        st.st_size < (off_t)sizeof(struct shm_head) ||
        map(&old, fd, sizeof(struct shm_head), true) != ERR_OK) {
        close(fd);
        return;
    }
    if (old.head->magic == SHM_MAGIC)
        atomic_store_explicit(&old.head->retired, 1, memory_order_release);
    shm_close(&old);
}

enum err shm_publish(struct shm *s)
{
    char name[sizeof(s->path) + 24];

    must(s->head != NULL && s->writable && temporary_name(name, sizeof(name), s->path));
    retire(s->path);
    return rename(name, s->path) == 0 ? ERR_OK : ERR_IO;
}

/* The head is copied out before it is looked at. */
static bool head_matches(const struct shm_head *h, enum shm_kind kind, uint32_t layout,
                         uint64_t bytes)
{
    return h->magic == SHM_MAGIC && h->kind == kind && h->layout == layout && h->bytes == bytes &&
           strncmp(h->boot_id, shm_boot_id(), sizeof(h->boot_id)) == 0;
}

static enum err open_existing(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                              bool writable, struct shm *out)
{
    struct shm s = closed_shm();
    struct shm_head head;
    struct stat st;
    enum err e = ERR_LAYOUT;
    int fd;

    if (strlen(path) >= sizeof(s.path))
        return ERR_CONF;
    /* Without O_NONBLOCK the opening of a pipe under that name would wait for its writer. */
    fd = open(path, (writable ? O_RDWR : O_RDONLY) | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? ERR_NOT_FOUND : ERR_IO;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode) ||
        pread(fd, &head, sizeof(head), 0) != (ssize_t)sizeof(head))
        goto fail;
    if (bytes == 0)
        bytes = head.bytes;
    if (bytes < sizeof(head) || (uint64_t)st.st_size != bytes ||
        !head_matches(&head, kind, layout, bytes))
        goto fail;
    e = map(&s, fd, bytes, writable);
    if (e != ERR_OK)
        goto fail;
    memcpy(s.path, path, strlen(path) + 1);
    *out = s;
    return ERR_OK;
fail:
    close(fd);
    return e;
}

enum err shm_adopt(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                   struct shm *out)
{
    struct shm s = closed_shm();
    enum err e = open_existing(path, kind, layout, bytes, true, &s);

    if (e != ERR_OK)
        return e;
    s.head->writer_pid = (uint32_t)getpid();
    atomic_store(&s.head->retired, 0);
    shm_beat(&s);
    *out = s;
    return ERR_OK;
}

enum err shm_open_ro(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                     struct shm *out)
{
    return open_existing(path, kind, layout, bytes, false, out);
}

bool shm_is_current(const struct shm *s)
{
    return s->head != NULL && atomic_load_explicit(&s->head->retired, memory_order_acquire) == 0;
}

bool shm_has_its_name(const struct shm *s)
{
    struct stat named, mine;

    return s->head != NULL && stat(s->path, &named) == 0 && fstat(s->fd, &mine) == 0 &&
           named.st_ino == mine.st_ino && named.st_dev == mine.st_dev;
}

void shm_beat(struct shm *s)
{
    atomic_store_explicit(&s->head->beat_ms, clock_ms(), memory_order_release);
}

uint64_t shm_beat_age_ms(const struct shm *s)
{
    uint64_t beat = atomic_load_explicit(&s->head->beat_ms, memory_order_acquire), now = clock_ms();

    return beat < now ? now - beat : 0;
}

void shm_close(struct shm *s)
{
    if (s->head != NULL) {
        munmap(s->head, s->bytes);
        close(s->fd);
    }
    *s = closed_shm();
}

enum err shm_memfd(const char *name, size_t bytes, struct shm *out)
{
    struct shm s = closed_shm();
    enum err e = ERR_IO;
    int fd;

    must(bytes >= sizeof(struct shm_head));
    if (fault_hits(FAULT_shm_create_fails))
        return ERR_IO;
    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return ERR_IO;
    if (ftruncate(fd, (off_t)bytes) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        e = map(&s, fd, bytes, true);
    if (e != ERR_OK) {
        close(fd);
        return e;
    }
    head_fill(s.head, SHM_RING, 0, bytes);
    *out = s;
    return ERR_OK;
}

enum err shm_map_fd(int fd, size_t bytes, struct shm *out)
{
    const int needed = F_SEAL_SHRINK | F_SEAL_GROW;
    struct shm s = closed_shm();
    enum err e = ERR_LAYOUT;
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;

    if (seals >= 0 && (seals & needed) == needed && fstat(fd, &st) == 0 &&
        (uint64_t)st.st_size == bytes)
        e = map(&s, fd, bytes, true);
    if (e != ERR_OK) {
        close(fd);
        return e;
    }
    *out = s;
    return ERR_OK;
}

void shm_give_back(void *at, size_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)at + page - 1) & ~(page - 1);
    uintptr_t end = ((uintptr_t)at + bytes) & ~(page - 1);

    if (from < end)
        (void)!madvise((uint8_t *)at + (from - (uintptr_t)at), end - from, MADV_REMOVE);
}
