/* SPDX-License-Identifier: Apache-2.0 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/must.h"
#include "gateway/mail_read.h"
#include "gateway/mail_show.h"

/*
 * What clients send to mailboxes, and what the mailbox process answers. The first byte chooses the
 * reader. A message that is taken is valid JSON whose payload stands in it byte for byte.
 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct block {
    struct block *next;
};

static void *take(void *arg, size_t bytes)
{
    struct block **list = arg, *b = malloc(sizeof(*b) + bytes);

    must(b != NULL);
    b->next = *list;
    *list = b;
    return b + 1;
}

static void post_check(const char *text, size_t len, const struct mail_post *p)
{
    size_t i, at;

    must(json_verify(text, len, &at) == ERR_OK);
    for (i = 0; i < p->count; i++) {
        const Slipstream__V1__Message *m = p->messages[i];
        const char *payload = (const char *)m->payload.data;

        must(payload > text && payload + m->payload.len < text + len);
        must(json_verify(payload, m->payload.len, &at) == ERR_OK);
        must(m->priority <= 9);
    }
}

static void reply_show(const uint8_t *data, size_t size)
{
    struct mail_reply reply;
    struct mail_view m;
    struct buf b = {0};
    size_t at;

    if (mail_reply_read(data, size, &reply))
        while (mail_reply_next(&reply, &m)) {
            buf_clear(&b);
            must(mail_show_event(&b, &m, &at) == mail_show(&b, &m, false));
        }
    buf_fini(&b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct block *list = NULL;
    const struct mail_memory mem = {take, &list};
    struct mail_fault fault;
    struct mail_post post;
    Slipstream__V1__Ack **acks;
    const char *text;
    char **ids, *receipt;
    uint32_t ms;
    size_t count;

    if (size == 0)
        return 0;
    text = (const char *)data + 1;
    size--;
    switch (data[0] % 6) {
    case 0:
        if (mail_post_read(&mem, text, size, 1000, &post, &fault) == ERR_OK)
            post_check(text, size, &post);
        break;
    case 1:
        mail_acks_read(&mem, text, size, &acks, &count, &fault);
        break;
    case 2:
        mail_ids_read(&mem, text, size, &ids, &count, &fault);
        break;
    case 3:
        mail_receipt_read(&mem, text, size, &receipt, &fault);
        break;
    case 4:
        mail_prefer_wait(text, size, &ms);
        mail_wants_stream(text, size);
        break;
    default:
        reply_show(data + 1, size);
        break;
    }
    while (list != NULL) {
        struct block *next = list->next;

        free(list);
        list = next;
    }
    return 0;
}
