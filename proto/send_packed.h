/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_SEND_PACKED_H
#define SLIP_SEND_PACKED_H

#include <stddef.h>

#include "proto/mailbox.pb-c.h"

/*
 * A send as it travels: a shallow copy of r in which payloads from compress_from bytes on are one
 * lz4 block each, where that is smaller (Message.raw_len). compress_from: what the mailbox told
 * (MailboxInfo.compress_bytes), 0: it takes none. NULL: r is to be sent as it is. One allocation,
 * freed with free(); r must outlive it.
 */
Slipstream__V1__SendRequest *send_packed(const Slipstream__V1__SendRequest *r,
                                         size_t compress_from);

#endif
