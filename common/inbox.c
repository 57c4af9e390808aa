/* SPDX-License-Identifier: Apache-2.0 */
#include "common/inbox.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/must.h"

/*
 * head is a stack that writers push on; the reader takes the whole stack and turns it round, which
 * gives the order of the puts. The writer that found the stack empty rings: until the reader has
 * taken that item nobody else needs to.
 */
struct inbox {
    _Atomic(struct inbox_item *) head;
    int fd;
};

struct inbox *inbox_new(void)
{
    struct inbox *in = calloc(1, sizeof(*in));

    must(in != NULL);
    atomic_init(&in->head, NULL);
    in->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    must(in->fd >= 0);
    return in;
}

void inbox_free(struct inbox *in)
{
    if (in == NULL)
        return;
    must(atomic_load(&in->head) == NULL);
    close(in->fd);
    free(in);
}

int inbox_fd(const struct inbox *in)
{
    return in->fd;
}

void inbox_put(struct inbox *in, struct inbox_item *item)
{
    struct inbox_item *old = atomic_load_explicit(&in->head, memory_order_relaxed);
    uint64_t one = 1;

    do
        item->next = old;
    while (!atomic_compare_exchange_weak_explicit(&in->head, &old, item, memory_order_release,
                                                  memory_order_relaxed));
    if (old == NULL)
        while (write(in->fd, &one, sizeof(one)) < 0)
            must(errno == EINTR);
}

unsigned inbox_run(struct inbox *in)
{
    struct inbox_item *item, *next, *ordered = NULL;
    unsigned count = 0;
    uint64_t rings;

    /* The bell first, then the items: a put in between rings again. */
    while (read(in->fd, &rings, sizeof(rings)) < 0 && errno == EINTR)
        ;
    item = atomic_exchange_explicit(&in->head, NULL, memory_order_acquire);
    for (; item != NULL; item = next) {
        next = item->next;
        item->next = ordered;
        ordered = item;
    }
    for (item = ordered; item != NULL; item = next) {
        next = item->next;
        item->next = NULL;
        item->handle(item);
        count++;
    }
    return count;
}
