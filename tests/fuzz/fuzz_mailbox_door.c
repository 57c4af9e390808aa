/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>
#include <stdint.h>

#include "common/json.h"
#include "common/must.h"
#include "mailbox/door.h"

/* A body as a client may send it: what is found bounded must unpack within those bounds. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    Slipstream__V1__SendRequest *s;
    Slipstream__V1__ReceiveRequest *r;
    size_t i, at;

    (void)json_verify((const char *)data, size, &at);
    if (!door_is_bounded(data, size, 3, 500))
        return 0;
    s = slipstream__v1__send_request__unpack(NULL, size, data);
    if (s != NULL) {
        must(s->n_messages + s->n_agents <= 500);
        if (door_check_send(s) == ERR_OK)
            for (i = 0; i < s->n_messages; i++)
                (void)door_check_message(s->messages[i]);
        slipstream__v1__send_request__free_unpacked(s, NULL);
    }
    r = slipstream__v1__receive_request__unpack(NULL, size, data);
    if (r != NULL) {
        (void)door_check_receive(r);
        slipstream__v1__receive_request__free_unpacked(r, NULL);
    }
    return 0;
}
