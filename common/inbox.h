/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_INBOX_H
#define SLIP_INBOX_H

#include <stdbool.h>

#include "common/list.h"

/*
 * The one place where threads meet: many writers, one reader, an eventfd as the bell.
 *
 * A writer hands an item over (it belongs to the reader then) and rings only when the reader
 * sleeps. The reader's loop polls inbox_fd() for reading and calls inbox_run(); items come in
 * the order of their puts.
 */
struct inbox;

struct inbox_item {
    struct inbox_item *next;
    void (*handle)(struct inbox_item *item); /* called by inbox_run() on the reader's thread */
};

struct inbox *inbox_new(void);
void inbox_free(struct inbox *in); /* must be empty */
int inbox_fd(const struct inbox *in);
void inbox_put(struct inbox *in, struct inbox_item *item); /* any thread */
unsigned inbox_run(struct inbox *in); /* reader: handles all that is there; returns how many */

#endif
