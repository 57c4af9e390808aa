/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_SHM_H
#define SLIP_SHM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"

/*
 * Shared-memory segments: files in run_dir (a tmpfs), one writer each, any number of readers that
 * map read-only.
 *
 * A segment is created under a temporary name, filled, and renamed into place, so a reader never
 * sees half a header and a segment of a dead writer stays readable until its successor has replaced
 * it. Readers notice the successor by the generation word (shm_is_current). This is the only file
 * that calls mmap.
 */
#define SHM_MAGIC UINT64_C(0x6d6165727473696c)

struct shm_head { /* first bytes of every segment; written once, beat_ms and retired excepted */
    uint64_t magic;
    uint32_t kind;       /* enum shm_kind */
    uint32_t layout;     /* version of the struct that follows */
    uint64_t bytes;      /* of the whole segment */
    uint64_t generation; /* random, per creation */
    uint32_t writer_pid;
    uint32_t reserved;
    char boot_id[40];
    _Atomic uint64_t beat_ms; /* CLOCK_MONOTONIC of the writer's last sign of life */
    _Atomic uint32_t retired; /* a successor has taken the name */
    uint32_t reserved2[9];
};
_Static_assert(sizeof(struct shm_head) == 128, "shm_head");

enum shm_kind { SHM_FLEET = 1, SHM_METRICS = 2, SHM_RING = 3 };

struct shm {
    struct shm_head *head; /* NULL when closed */
    size_t bytes;
    int fd;
    bool writable;
    char path[200];
};

/* Writer. Makes a zeroed segment that is not visible yet; shm_publish() renames it into place and
 * retires the old one. */
enum err shm_create(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                    struct shm *out);
enum err shm_publish(struct shm *s);
/* Writer that carries on in its predecessor's segment, where kind, layout, size and boot id match;
 * else ERR_LAYOUT / ERR_NOT_FOUND. */
enum err shm_adopt(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                   struct shm *out);
/* Reader. Checks magic, kind, layout, file size and boot id before anything else is looked at.
 * bytes 0: any size that the head states. */
enum err shm_open_ro(const char *path, enum shm_kind kind, uint32_t layout, size_t bytes,
                     struct shm *out);
bool shm_is_current(const struct shm *s); /* false: a successor took the name, open again */
/* false: another file, or none, is under the name that s was opened by. Costs two system calls.
 * Where a stranger removed or replaced the file, its successor could not retire s. */
bool shm_has_its_name(const struct shm *s);
void shm_beat(struct shm *s);
uint64_t shm_beat_age_ms(const struct shm *s);
void shm_close(struct shm *s); /* closed twice is fine */

/* An anonymous sealed segment (memfd; shrink and grow sealed) and the mapping of one that came over
 * a socket. */
enum err shm_memfd(const char *name, size_t bytes, struct shm *out);
enum err
shm_map_fd(int fd, size_t bytes,
           struct shm *out); /* takes fd; ERR_LAYOUT when size or seals are not as they must be */

/* Gives the whole pages inside [at, at + bytes) of a shared mapping back to the system; they read
 * as zeroes then, in every process that maps them. */
void shm_give_back(void *at, size_t bytes);

const char *shm_boot_id(void);
#endif
