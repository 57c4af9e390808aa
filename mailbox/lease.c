/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "mailbox/box.h"

/*
 * Leases: a message that its reader has until it says what became of it, or until a deadline.
 *
 * A receipt names the start of this core, the copy and the number of the hand-out, so that of all
 * receipts that were ever given for a message only the last one counts. One of an earlier start
 * still says that the work is done, unless somebody took the message since.
 */
#define DIGITS 13u /* of 64 bits in base 32 */
#define RECEIPT_LEN (2 * DIGITS + 7u)

static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";

void lease_begin(struct copy *k, uint32_t lease_ms)
{
    struct mbox_core *c = k->box->core;
    uint64_t ns = lease_ms * UINT64_C(1000000);

    if (ns > c->limits.max_lease_ns)
        ns = c->limits.max_lease_ns;
    k->lease_ms = lease_ms;
    due_set(k, c->now_ns + ns);
}

static char *print(uint64_t n, unsigned len, char *dst)
{
    unsigned i;

    for (i = len; i > 0; i--, n >>= 5)
        dst[i - 1] = digits[n & 31u];
    return dst + len;
}

/* Attempts begin anew when a dead letter is driven back; the number of the hand-out does not. */
static uint64_t number_of(const struct copy *k)
{
    return (uint64_t)(k->driven & 7u) << 32 | k->attempts;
}

void receipt_print(const struct mbox_core *c, const struct copy *k, char *dst)
{
    dst = print(c->epoch, DIGITS, dst);
    dst = print(k->id, DIGITS, dst);
    dst = print(number_of(k), RECEIPT_LEN - 2 * DIGITS, dst);
    *dst = '\0';
}

/* The value of a digit as above; 32 and more: it is none. */
static unsigned value_of(char digit)
{
    static const char letters[] = {10, 11, 12, 13, 14, 15, 16, 17, 99, 18, 19, 99, 20,
                                   21, 99, 22, 23, 24, 25, 26, 99, 27, 28, 29, 30, 31};

    if (digit >= '0' && digit <= '9')
        return (unsigned)(digit - '0');
    return digit >= 'a' && digit <= 'z' ? (unsigned)letters[digit - 'a'] : 99;
}

static bool scan(const char *src, unsigned len, uint64_t *out)
{
    uint64_t n = 0;
    unsigned i;

    for (i = 0; i < len; i++) {
        unsigned value = value_of(src[i]);

        if (value > 31)
            return false;
        n = n << 5 | value;
    }
    *out = n;
    return true;
}

struct receipt {
    uint64_t epoch, copy, number;
};

static bool receipt_scan(const char *text, struct receipt *out)
{
    return text != NULL && strlen(text) == RECEIPT_LEN && scan(text, DIGITS, &out->epoch) &&
           scan(text + DIGITS, DIGITS, &out->copy) &&
           scan(text + 2 * DIGITS, RECEIPT_LEN - 2 * DIGITS, &out->number);
}

/* Nobody had the message since this receipt was given: its work may be called done. */
static bool is_last(const struct mbox_core *c, const struct copy *k, const struct receipt *r)
{
    uint32_t attempts;

    if (r->epoch == c->epoch)
        return k->taken && !k->returned && r->number == number_of(k);
    attempts = (uint32_t)r->number;
    return k->restored && !k->taken && (attempts == k->attempts || attempts == k->attempts + 1);
}

static enum err ack_one(struct box *b, const struct mbox_ack *a, uint64_t *lease_end_ns)
{
    const unsigned any = 1u << COPY_READY | 1u << COPY_WAITING | 1u << COPY_DELAYED |
                         1u << COPY_HELD | 1u << COPY_LEASED | 1u << COPY_DEAD;
    struct receipt r;
    struct copy *k;
    bool leased;

    if (!receipt_scan(a->receipt, &r) || a->message_id == NULL)
        return ERR_INVALID;
    k = b != NULL && r.copy != 0 ? index_find(b, a->message_id, any, r.copy) : NULL;
    if (k == NULL || !is_last(b->core, k, &r))
        return ERR_RECEIPT;
    leased = (k->state == COPY_HELD || k->state == COPY_LEASED) && k->lease_ms != 0;
    if (k->state == COPY_HELD && !leased)
        return ERR_RECEIPT;
    switch (a->kind) {
    case MBOX_ACK_DONE:
        copy_done(k);
        return ERR_OK;
    case MBOX_ACK_RETURN:
        if (!leased)
            return ERR_RECEIPT;
        copy_return(k, a->delay_ms, true);
        return ERR_OK;
    case MBOX_ACK_EXTEND:
        if (!leased)
            return ERR_RECEIPT;
        lease_begin(k, a->lease_ms != 0 ? a->lease_ms : k->lease_ms);
        *lease_end_ns = due_of(k);
        return ERR_OK;
    }
    return ERR_INVALID;
}

void on_ack(struct mbox_core *c, const struct mbox_event *e)
{
    struct box *b = box_find(c, e->ack.box);
    size_t i;

    wall_set(c, e->ack.wall_ms);
    for (i = 0; i < e->ack.ack_count; i++) {
        struct mbox_action *a = action_new(c, MBOX_ACKED);

        a->err = ack_one(b, &e->ack.acks[i], &a->lease_end_ns);
    }
    if (b != NULL)
        box_rest(b);
}
