/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_MAILBOX_NOTES_H
#define SLIP_MAILBOX_NOTES_H

#include "common/conf.h"
#include "common/loop.h"
#include "mailbox/core.h"

/*
 * Words to the scheduler: messages wait for this agent, so its next request is near. One-way, 64 of
 * them or those of 5 ms at a time. Nobody waits for the scheduler: without it, or while it reads
 * too slowly, notes are dropped and counted. One thread.
 */
struct notes;
struct meters;

/* key: as to all peers of ours on other hosts; NULL: none. borrowed: loop, m. */
enum err notes_open(const struct conf *c, const char *key, struct loop *loop, struct meters *m,
                    struct notes **out);
void notes_close(struct notes *n);
void notes_add(struct notes *n, const struct mbox_change *change);
void notes_flush(struct notes *n); /* at the end of each turn */

#endif
