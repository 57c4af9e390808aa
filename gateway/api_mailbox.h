/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_API_MAILBOX_H
#define GW_API_MAILBOX_H

#include "gateway/request.h"

void message_poll_again(struct gw_request *r); /* after a new hello */
void message_delivered(struct gw *gw, const uint8_t *body,
                       size_t len); /* the event that ends a parked poll */

#endif
