/* SPDX-License-Identifier: Apache-2.0 */
#include "mailbox/notes.h"

#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/list.h"
#include "common/log.h"
#include "common/must.h"
#include "common/rpc.h"
#include "proto/scheduler.pb-c.h"
#include "mailbox/meters.h"
#include "mailbox/methods.h"

#define NOTES_MAX 64u
#define NOTE_NS (5 * NS_PER_MS)
#define METHOD_NOTE_MAIL 13u /* its place in scheduler.proto, which only grows */

struct notes {
    struct rpc_client *rpc;
    struct loop *loop;
    struct meters *meters;
    char url[256];
    struct timer due;
    struct region words;
    Slipstream__V1__MailNote items[NOTES_MAX];
    Slipstream__V1__MailNote *pointers[NOTES_MAX];
    uint32_t count;
    bool told_down;
};

static void batch_send(struct notes *n)
{
    Slipstream__V1__MailNotes batch;
    uint32_t messages = 0, i;

    if (n->count == 0)
        return;
    slipstream__v1__mail_notes__init(&batch);
    batch.notes = n->pointers;
    batch.n_notes = n->count;
    for (i = 0; i < n->count; i++)
        messages += n->items[i].messages;
    meters_noted(n->meters, messages, rpc_send(n->rpc, METHOD_NOTE_MAIL, &batch.base) == ERR_OK);
    n->count = 0;
    region_clear(&n->words);
    timer_stop(loop_timers(n->loop), &n->due);
}

static void on_due(struct timer *t)
{
    batch_send(container_of(t, struct notes, due));
}

static void on_up(void *arg, uint64_t epoch, const uint8_t *info, size_t len)
{
    struct notes *n = arg;

    (void)info;
    (void)len;
    n->told_down = false;
    log_info("scheduler_up", "epoch=%016llx", (unsigned long long)epoch);
}

static void on_down(void *arg, const char *reason)
{
    struct notes *n = arg;

    if (!n->told_down)
        log_warn("scheduler_down", "reason=\"%s\"", reason);
    n->told_down = true;
}

enum err notes_open(const struct conf *c, const char *key, struct loop *loop, struct meters *m,
                    struct notes **out)
{
    struct notes *n = calloc(1, sizeof(*n));
    struct rpc_client_conf conf = {.name = "mailbox",
                                   .key = key,
                                   .channel = (enum rpc_channel)c->common.channel,
                                   .tls_ca_file = c->common.rpc_tls_ca_file,
                                   .allow_plain_tcp = c->common.insecure,
                                   .arg = n,
                                   .on_up = on_up,
                                   .on_down = on_down};
    uint32_t i;
    enum err e;

    must(n != NULL);
    if (conf.channel == RPC_NONE) /* placing is what that leaves out */
        conf.channel = RPC_NNG;
    conf.url = conf_scheduler_url(c, n->url, sizeof(n->url));
    n->loop = loop;
    n->meters = m;
    n->due.fire = on_due;
    for (i = 0; i < NOTES_MAX; i++)
        n->pointers[i] = &n->items[i];
    e = rpc_client_open(&conf, rpc_host_loop(loop), &n->rpc);
    if (e != ERR_OK) {
        free(n);
        return e;
    }
    region_init(&n->words, 16u << 10, SIZE_MAX / 2);
    *out = n;
    return ERR_OK;
}

void notes_close(struct notes *n)
{
    if (n == NULL)
        return;
    batch_send(n);
    rpc_client_flush(n->rpc);
    rpc_client_close(n->rpc);
    region_fini(&n->words);
    free(n);
}

static uint32_t sum(uint32_t a, uint32_t b)
{
    return a > UINT32_MAX - b ? UINT32_MAX : a + b;
}

/* A busy agent's messages come again and again: one note says them all. */
static Slipstream__V1__MailNote *note_find(struct notes *n, const struct mbox_key *key)
{
    uint32_t i;

    for (i = n->count; i > 0; i--) {
        Slipstream__V1__MailNote *m = &n->items[i - 1];

        if (strcmp(m->agent_id, key->agent) == 0 && strcmp(m->workflow_id, key->workflow) == 0 &&
            strcmp(m->tenant, key->tenant) == 0)
            return m;
    }
    return NULL;
}

void notes_add(struct notes *n, const struct mbox_change *change)
{
    Slipstream__V1__MailNote *m;

    if (n == NULL)
        return;
    if (!rpc_client_is_up(n->rpc)) {
        meters_noted(n->meters, change->arrived, false);
        return;
    }
    m = note_find(n, &change->key);
    if (m != NULL) {
        m->messages = sum(m->messages, change->arrived);
        m->bytes += change->arrived_bytes;
        return;
    }
    m = &n->items[n->count++];
    slipstream__v1__mail_note__init(m);
    m->tenant = region_text(&n->words, change->key.tenant);
    m->workflow_id = region_text(&n->words, change->key.workflow);
    m->agent_id = region_text(&n->words, change->key.agent);
    m->messages = change->arrived;
    m->bytes = change->arrived_bytes;
    if (n->count == NOTES_MAX)
        batch_send(n);
    else if (n->count == 1)
        timer_start(loop_timers(n->loop), &n->due, clock_ns() + NOTE_NS);
}

void notes_flush(struct notes *n)
{
    if (n != NULL)
        rpc_client_flush(n->rpc);
}
