/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "common/clock.h"
#include "gateway/api_mailbox.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/mailbox_link.h"
#include "gateway/worker.h"

/*
 * GET .../messages with Accept: text/event-stream
 *
 * A reader that asks again as soon as what it got has been written: one batch is under way at a
 * time, so a client that reads slowly leaves its messages in the mailbox. What was written is
 * settled but kept for a while, because bytes that the kernel took may never reach the client:
 * Last-Event-ID says what did.
 */
#define ASK_AGAIN_NS (1 * NS_PER_S) /* after an error, or where long polls are forbidden */
#define OUT_KEPT_BYTES 65536u       /* a bigger buffer is not kept for the next batch */

static const char first_words[] = "retry: 2000\n\n";
static const char sign_of_life[] = ": keep-alive\n\n";

/* Where something is being written the timer stands at the end of its time. */
static void timer_set(struct gw_request *r)
{
    const struct gw_mail *m = r->mail;
    uint64_t at = m->beat_ns < r->total_ns ? m->beat_ns : r->total_ns;

    if (m->ask_ns != 0 && m->ask_ns < at)
        at = m->ask_ns;
    if (!r->sending && !m->confirming)
        timer_start(&r->gw->timers, &r->timer, at);
}

static void stream_write(struct gw_request *r, h2o_iovec_t *bufs, size_t count)
{
    const struct conf_gateway *conf = &r->gw->conf->gateway;
    uint64_t now = clock_ns();
    size_t i;

    for (i = 0; i < count; i++)
        r->sent_bytes += bufs[i].len;
    r->sending = true;
    r->sending_since_ns = now;
    r->mail->beat_ns = now + conf->push_beat_ms * NS_PER_MS;
    timer_start(&r->gw->timers, &r->timer, now + conf->write_timeout_ms * NS_PER_MS);
    h2o_send(r->req, bufs, count, H2O_SEND_STATE_IN_PROGRESS);
}

/* r may be gone afterwards. */
static void stream_end(struct gw_request *r)
{
    h2o_iovec_t nothing = {NULL, 0};

    gw_goto(r, GW_CLOSING, "the stream ends");
    r->finished = true;
    if (r->gw->draining)
        r->req->http1_is_persistent = 0;
    client_before_final(r);
    h2o_send(r->req, &nothing, 0, H2O_SEND_STATE_FINAL);
}

static void on_pushed(void *arg, uint64_t handle, enum err status, const uint8_t *body, size_t len);

static void stream_ask(struct gw_request *r)
{
    struct gw_mail *m = r->mail;
    enum err e = ERR_GONE;

    m->ask_ns = 0;
    m->in_doubt = false;
    if (mailbox_is_up(r->gw))
        e = mail_receive_call(r, on_pushed, mail_received_late);
    if (e == ERR_OK)
        m->calling = true;
    else if (e == ERR_GONE)
        m->in_doubt = true; /* until the link is up */
    else
        m->ask_ns = clock_ns() + ASK_AGAIN_NS;
    timer_set(r);
}

/* False: one of them is damaged, so all go back, to be asked for again. */
static bool events_show(struct gw_request *r, struct mail_reply *reply)
{
    bool is_whole = true;
    struct mail_view m;

    buf_clear(&r->out);
    r->mail->id_count = 0;
    while (mail_reply_next(reply, &m))
        is_whole = mail_message_add(r, &m, true) && is_whole;
    r->delivery = reply->delivery;
    if (is_whole)
        return true;
    mailbox_avoid_blocks(r->gw);
    mail_settle(r, false, 0);
    buf_clear(&r->out);
    r->mail->id_count = 0;
    r->mail->ask_ns = clock_ns() + ASK_AGAIN_NS;
    return false;
}

static void batch_write(struct gw_request *r)
{
    h2o_iovec_t out = h2o_iovec_init(r->out.base, r->out.len);

    r->mail->pending = false;
    r->mail->writing = true;
    stream_write(r, &out, 1);
}

void mail_stream_delivered(struct gw_request *r, struct mail_reply *reply)
{
    if (reply->count == 0) {
        stream_ask(r);
        return;
    }
    if (!events_show(r, reply))
        timer_set(r);
    else if (r->sending)
        r->mail->pending = true;
    else
        batch_write(r);
}

static void reply_take(struct gw_request *r, struct mail_reply *reply)
{
    if (reply->parked) {
        r->polling = true;
    } else if (reply->count == 0) {
        r->mail->ask_ns = clock_ns() + ASK_AGAIN_NS;
        timer_set(r);
    } else {
        mail_stream_delivered(r, reply);
    }
}

static void on_pushed(void *arg, uint64_t handle, enum err status, const uint8_t *body, size_t len)
{
    struct gw_request *r = request_find(arg, handle);
    struct mail_reply reply;
    bool missed;

    if (r == NULL || r->state != GW_PUSHING) {
        mail_received_late(arg, handle, status, body, len);
        return;
    }
    missed = r->mail->missed;
    r->mail->calling = r->mail->missed = false;
    if (status == ERR_OK && mail_reply_read(body, len, &reply)) {
        if (reply.parked && missed)
            stream_ask(r);
        else
            reply_take(r, &reply);
        return;
    }
    if (status == ERR_GONE || status == ERR_CANCELLED || status == ERR_HELLO)
        r->mail->in_doubt = true;
    else
        r->mail->ask_ns = clock_ns() + ASK_AGAIN_NS;
    timer_set(r);
}

/* A big batch counts as written when the client's side has confirmed it. */
static bool is_confirmed(struct gw_request *r)
{
    if (r->out.len <= RESPOND_CONFIRM_BYTES || client_unconfirmed(r) == 0)
        return true;
    r->mail->confirming = true;
    timer_start(&r->gw->timers, &r->timer, clock_ns() + RESPOND_CONFIRM_NS);
    return false;
}

/* r may be gone afterwards. */
static void on_written(struct gw_request *r)
{
    struct gw_mail *m = r->mail;

    if (m->writing) {
        if (!is_confirmed(r))
            return;
        m->writing = m->confirming = false;
        mail_settle(r, true, r->gw->conf->mailbox.keep_ms);
        if (r->out.cap > OUT_KEPT_BYTES)
            buf_fini(&r->out);
        m->ask_ns = 1; /* at once */
    }
    if (m->pending)
        batch_write(r);
    else if (m->ending)
        stream_end(r);
    else if (m->ask_ns == 1)
        stream_ask(r);
    else
        timer_set(r);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    struct gw_request *r = container_of(generator, struct gw_request, generator);

    (void)req;
    r->sending = false;
    if (r->client != NULL)
        client_poll_settle(r->client->sock);
    if (r->abort)
        request_fail(r, r->end);
    else
        on_written(r);
}

static void head_send(struct gw_request *r)
{
    h2o_req_t *req = r->req;

    req->res.status = 200;
    req->res.reason = respond_reason(200);
    respond_add_header(r, "content-type", "text/event-stream");
    respond_add_header(r, "cache-control", "no-store");
    respond_add_header(r, "x-accel-buffering", "no");
    respond_standard_headers(r);
    r->started = true;
    worker_status_count(r->gw, 200);
    r->generator.proceed = on_proceed;
    h2o_start_response(req, &r->generator);
}

void mail_stream_start(struct gw_request *r, struct mail_reply *reply)
{
    struct gw_mail *m = r->mail;
    h2o_iovec_t bufs[2] = {h2o_iovec_init(H2O_STRLIT(first_words)), {NULL, 0}};

    m->resume_after = "";
    gw_goto(r, GW_PUSHING, "a stream");
    head_send(r);
    client_shrink(r);
    if (reply->count > 0 && events_show(r, reply)) {
        m->writing = true;
        bufs[1] = h2o_iovec_init(r->out.base, r->out.len);
    }
    stream_write(r, bufs, m->writing ? 2 : 1);
    if (reply->count == 0)
        reply_take(r, reply);
    m->ending = r->gw->draining;
}

void mail_stream_again(struct gw_request *r)
{
    struct gw_mail *m = r->mail;

    if (!m->calling && !m->writing && !m->pending)
        stream_ask(r);
}

void mail_stream_drain(struct gw_request *r)
{
    r->mail->ending = true;
    if (!r->sending && !r->mail->confirming)
        stream_end(r);
}

/* Time for a batch that is being written; true: it is up. */
static bool write_is_over(struct gw_request *r, uint64_t now_ns, enum err *e)
{
    uint64_t limit = r->sending_since_ns + r->gw->conf->gateway.write_timeout_ms * NS_PER_MS;
    bool stuck = r->sending;

    if (now_ns >= limit) {
        mail_settle(r, false, 0); /* others may have it now */
        r->mail->writing = false;
        *e = r->end = ERR_SLOW_CLIENT;
        r->abort = stuck;
        if (!stuck) {
            client_kill(r);
            request_fail(r, ERR_SLOW_CLIENT);
        }
        return stuck;
    }
    if (r->sending)
        timer_start(&r->gw->timers, &r->timer, limit);
    else
        on_written(r);
    return false;
}

bool mail_stream_is_over(struct gw_request *r, uint64_t now_ns, enum err *e)
{
    struct gw_mail *m = r->mail;
    h2o_iovec_t beat = h2o_iovec_init(H2O_STRLIT(sign_of_life));

    if (r->sending || m->confirming)
        return write_is_over(r, now_ns, e);
    if (now_ns >= r->total_ns) {
        stream_end(r);
        return false;
    }
    if (m->ask_ns != 0 && now_ns >= m->ask_ns)
        stream_ask(r);
    if (now_ns >= m->beat_ns)
        stream_write(r, &beat, 1);
    else
        timer_set(r);
    return false;
}
