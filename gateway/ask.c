/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/ask.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/id.h"
#include "gateway/finish.h"
#include "gateway/worker.h"

#define ASK_TIMEOUT_MS 5000u

bool ask_answer(struct gw *gw, uint64_t handle, enum err status, const uint8_t *body, size_t len)
{
    struct gw_request *r = request_find(gw, handle);
    ask_done_fn *done;

    if (r == NULL || r->state != GW_ASKING || r->asked == NULL)
        return false;
    done = r->asked;
    r->asked = NULL;
    if (status == ERR_GONE || status == ERR_CANCELLED || status == ERR_HELLO)
        status = r->asked_down;
    done(r, status, body, len);
    return true;
}

static void on_answer(void *arg, uint64_t handle, enum err status, const uint8_t *body, size_t len)
{
    ask_answer(arg, handle, status, body, len);
}

struct way { /* how a call's answer comes back */
    struct rpc_client *client;
    enum err down;
    rpc_done_fn *answer, *late;
};

static void ask(struct gw_request *r, struct way w, unsigned method,
                const ProtobufCMessage *request, ask_done_fn *done)
{
    enum err e;

    if (r->state != GW_ASKING)
        gw_goto(r, GW_ASKING, "a call");
    r->asked = done;
    r->asked_down = w.down;
    if (w.client == NULL || !rpc_client_is_up(w.client)) {
        r->asked = NULL;
        done(r, w.down, NULL, 0);
        return;
    }
    e = rpc_call(w.client, method, request, ASK_TIMEOUT_MS, w.answer, r->gw, r->handle, w.late);
    if (e != ERR_OK) {
        r->asked = NULL;
        done(r, e == ERR_GONE ? w.down : e, NULL, 0);
    }
}

void ask_scheduler(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                   ask_done_fn *done)
{
    ask(r, (struct way){r->gw->scheduler, ERR_SCHEDULER_DOWN, on_answer, NULL}, method, request,
        done);
}

void ask_mailbox(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                 ask_done_fn *done)
{
    ask_mailbox_keep(r, method, request, done, on_answer, NULL);
}

void ask_mailbox_keep(struct gw_request *r, unsigned method, const ProtobufCMessage *request,
                      ask_done_fn *done, rpc_done_fn *answer, rpc_done_fn *late)
{
    ask(r, (struct way){r->gw->mailbox, ERR_MAILBOX_DOWN, answer, late}, method, request, done);
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Percent-decodes once into the request's memory; NULL for %00 and broken escapes. */
static char *decode(struct gw_request *r, const char *s, size_t len)
{
    char *out = request_alloc(r, len + 1);
    size_t i, o = 0;

    for (i = 0; i < len; i++) {
        char c = s[i];

        if (c == '%') {
            int hi = i + 2 < len ? hex(s[i + 1]) : -1;
            int lo = i + 2 < len ? hex(s[i + 2]) : -1;

            if (hi < 0 || lo < 0 || (hi == 0 && lo == 0))
                return NULL;
            c = (char)(hi * 16 + lo);
            i += 2;
        } else if (c == '+') {
            c = ' ';
        }
        out[o++] = c;
    }
    out[o] = '\0';
    return out;
}

const char *ask_bad_param(const struct gw_request *r)
{
    return r->bad_param;
}

#define NAME_SHOWN_BYTES 64u

/* What an answer may repeat of a name: its beginning, whole characters. NULL: it is no text. */
static const char *name_show(struct gw_request *r, const char *s, size_t len)
{
    size_t n = len < NAME_SHOWN_BYTES ? len : NAME_SHOWN_BYTES;

    while (n < len && n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80)
        n--;
    return id_is_valid(s, n) ? request_strdup(r, s, n) : NULL;
}

static enum err pair_take(struct gw_request *r, const char *s, size_t len,
                          const char *const *params, const char **values)
{
    const char *eq = memchr(s, '=', len);
    size_t name_len = eq != NULL ? (size_t)(eq - s) : len, i;

    for (i = 0; params[i] != NULL; i++)
        if (strlen(params[i]) == name_len && memcmp(params[i], s, name_len) == 0) {
            r->bad_param = params[i];
            if (values[i] != NULL)
                return ERR_QUERY_PARAM;
            values[i] = eq != NULL ? decode(r, eq + 1, len - name_len - 1) : "";
            return values[i] != NULL ? ERR_OK : ERR_QUERY_PARAM;
        }
    r->bad_param = name_show(r, s, name_len);
    return ERR_QUERY_PARAM;
}

enum err ask_query(struct gw_request *r, const char *const *params, const char **values)
{
    const char *at = memchr(r->path, '?', r->path_len), *end = r->path + r->path_len;
    enum err e = ERR_OK;

    if (at == NULL)
        return ERR_OK;
    at++;
    while (at < end && e == ERR_OK) {
        const char *amp = memchr(at, '&', (size_t)(end - at));
        size_t n = (size_t)((amp != NULL ? amp : end) - at);

        if (n > 0)
            e = pair_take(r, at, n, params, values);
        at += n + 1;
    }
    return e;
}

const char *ask_time(uint64_t wall_ms, char *dst, size_t size)
{
    time_t s = (time_t)(wall_ms / 1000);
    struct tm tm;
    size_t n;

    gmtime_r(&s, &tm);
    n = strftime(dst, size, "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(dst + n, size - n, ".%03uZ", (unsigned)(wall_ms % 1000));
    return dst;
}
