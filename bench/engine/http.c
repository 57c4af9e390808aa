/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/engine/http.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "bench/engine/http_wire.h"
#include "common/must.h"

#define HEAD_MAX (64 * 1024)
#define HEADERS_MAX 100
#define PIPELINED_MAX (1 << 20)

/* picohttpparser, exported by libh2o; its header is not shipped. */
struct phr_header {
    const char *name;
    size_t name_len;
    const char *value;
    size_t value_len;
};
struct phr_chunked_decoder {
    size_t bytes_left_in_chunk;
    char consume_trailer, _hex_count, _state;
};
int phr_parse_request(const char *buf, size_t len, const char **method, size_t *method_len,
                      const char **path, size_t *path_len, int *minor_version,
                      struct phr_header *headers, size_t *num_headers, size_t last_len);
ssize_t phr_decode_chunked(struct phr_chunked_decoder *decoder, char *buf, size_t *bufsz);

static void on_read(h2o_socket_t *sock, const char *err);
static void conn_pump(struct conn *c);

static const char *const trouble_names[] = {
#define TROUBLE(name, help) #name,
#include "bench/engine/troubles.def"
#undef TROUBLE
};

const char *trouble_name(enum trouble_mode m)
{
    return trouble_names[m];
}

bool trouble_find(const char *name, enum trouble_mode *out)
{
    for (size_t i = 0; i < TROUBLE_COUNT; i++) {
        if (strcmp(name, trouble_names[i]) == 0) {
            *out = (enum trouble_mode)i;
            return true;
        }
    }
    return false;
}

/* lifetime */

static struct conn *conn_of_delay(h2o_timeout_entry_t *entry)
{
    return container_of(entry, struct conn, delay_entry);
}

static void on_idle(h2o_timeout_entry_t *entry)
{
    conn_close(container_of(entry, struct conn, idle_entry));
}

static void on_delay(h2o_timeout_entry_t *entry)
{
    struct conn *c = conn_of_delay(entry);

    if (c->state == CONN_DELAY)
        conn_pump(c);
    else if (c->trouble.mode == TROUBLE_dribble)
        conn_flush(c);
    else if (c->state != CONN_HEAD || c->out.len > 0 || h2o_socket_is_writing(c->sock))
        h2o_timeout_link(c->http->loop, &c->http->delay, entry);
    else if (c->state == CONN_HEAD)
        conn_close(c); /* close_idle; a request that was faster is served */
}

static void on_accept(h2o_socket_t *listener, const char *err)
{
    struct http_listener *l = listener->data;
    h2o_socket_t *sock;

    if (err != NULL)
        return;
    for (int i = 0; i < 32 && (sock = h2o_evloop_socket_accept(listener)) != NULL; i++) {
        struct conn *c = calloc(1, sizeof *c);

        must(c != NULL);
        c->http = l->http;
        c->sock = sock;
        c->is_control = l->is_control;
        c->idle_entry.cb = on_idle;
        c->delay_entry.cb = on_delay;
        sock->data = c;
        list_push(&l->http->conns, &c->link);
        l->http->conn_count++;
        l->http->accepted++;
        h2o_timeout_link(l->http->loop, &l->http->keepalive, &c->idle_entry);
        h2o_socket_read_start(sock, on_read);
    }
}

void conn_close(struct conn *c)
{
    if (c->dead)
        return;
    c->dead = true;
    if (c->job != NULL)
        c->http->conf.gone(c);
    h2o_timeout_unlink(&c->idle_entry);
    h2o_timeout_unlink(&c->delay_entry);
    h2o_socket_close(c->sock);
    c->sock = NULL;
    list_remove(&c->link);
    list_push(&c->http->dead, &c->link);
    c->http->conn_count--;
}

void conn_reset(struct conn *c)
{
    if (!c->dead)
        setsockopt(h2o_socket_get_fd(c->sock), SOL_SOCKET, SO_LINGER, &(struct linger){1, 0},
                   sizeof(struct linger));
    conn_close(c);
}

void http_sweep(struct http *h)
{
    struct list *pos;

    while ((pos = list_take(&h->dead)) != NULL) {
        struct conn *c = container_of(pos, struct conn, link);

        buf_fini(&c->out);
        buf_fini(&c->busy);
        free(c);
    }
}

/* reading */

static bool name_is(const struct phr_header *h, const char *name)
{
    return h->name != NULL && h->name_len == strlen(name) &&
           strncasecmp(h->name, name, h->name_len) == 0;
}

static bool value_has(const struct phr_header *h, const char *word)
{
    size_t n = strlen(word);

    for (size_t i = 0; i + n <= h->value_len; i++) {
        if (strncasecmp(h->value + i, word, n) == 0)
            return true;
    }
    return false;
}

static bool parse_length(const struct phr_header *h, size_t *out)
{
    size_t v = 0;

    if (h->value_len == 0 || h->value_len > 15)
        return false;
    for (size_t i = 0; i < h->value_len; i++) {
        if (h->value[i] < '0' || h->value[i] > '9')
            return false;
        v = v * 10 + (size_t)(h->value[i] - '0');
    }
    *out = v;
    return true;
}

static void split_path(struct phr_span raw, struct http_request *q)
{
    const char *mark = memchr(raw.at, '?', raw.len);

    q->path = raw;
    q->query = (struct phr_span){"", 0};
    if (mark != NULL) {
        q->path.len = (size_t)(mark - raw.at);
        q->query = (struct phr_span){mark + 1, raw.len - q->path.len - 1};
    }
}

/* 0: complete; else an HTTP status, or -2 = not all here yet. */
static int parse_head(struct conn *c, struct http_request *q, bool *expects)
{
    struct phr_header headers[HEADERS_MAX];
    size_t n = HEADERS_MAX, size = c->sock->input->size, lengths = 0;
    struct phr_span path;
    int minor, bytes = phr_parse_request(c->sock->input->bytes, size, &q->method.at, &q->method.len,
                                         &path.at, &path.len, &minor, headers, &n, 0);

    if (bytes == -2)
        return size > HEAD_MAX ? 431 : -2;
    if (bytes < 0)
        return 400;
    c->head_bytes = (size_t)bytes;
    c->http10 = minor == 0;
    c->keep_alive = minor != 0;
    c->chunked = *expects = false;
    c->body_bytes = 0;
    q->request_id = (struct phr_span){"", 0};
    split_path(path, q);
    for (size_t i = 0; i < n; i++) {
        const struct phr_header *h = &headers[i];

        if (name_is(h, "content-length")) {
            if (lengths++ > 0 || !parse_length(h, &c->body_bytes))
                return 400;
        } else if (name_is(h, "transfer-encoding")) {
            c->chunked = true;
            if (h->value_len != 7 || !value_has(h, "chunked"))
                return 501;
        } else if (name_is(h, "connection")) {
            c->keep_alive = c->http10 ? value_has(h, "keep-alive") : !value_has(h, "close");
        } else if (name_is(h, "expect")) {
            *expects = value_has(h, "100-continue");
        } else if (name_is(h, "x-request-id") && h->value_len <= 128) {
            q->request_id = (struct phr_span){h->value, h->value_len};
        }
    }
    if (c->chunked && lengths > 0)
        return 400;
    return c->body_bytes > c->http->conf.body_bytes_max ? 413 : 0;
}

static void refuse(struct conn *c, int status)
{
    char body[160];
    int n = snprintf(body, sizeof body,
                     "{\"error\":{\"message\":\"Malformed or oversize request\",\"type\":"
                     "\"BadRequestError\",\"param\":null,\"code\":%d}}",
                     status);

    c->state = CONN_ANSWER;
    c->close_after = true;
    conn_answer(c, status, "application/json", body, (size_t)n);
}

/* 0: all here; -2: more to come; else a status. */
static int take_body(struct conn *c)
{
    h2o_buffer_t *in = c->sock->input;
    size_t have = in->size - c->head_bytes;
    struct phr_chunked_decoder d = {c->chunks.left, c->chunks.consume_trailer, c->chunks.hex_count,
                                    c->chunks.state};
    size_t fresh = have - c->raw_bytes; /* raw_bytes: decoded so far */
    ssize_t rest;

    if (!c->chunked)
        return have >= c->body_bytes ? 0 : -2;
    rest = phr_decode_chunked(&d, in->bytes + c->head_bytes + c->raw_bytes, &fresh);
    if (rest == -1)
        return 400;
    c->raw_bytes += fresh;
    c->chunks =
        (struct conn_chunks){d.bytes_left_in_chunk, d.consume_trailer, d._hex_count, d._state};
    in->size = c->head_bytes + c->raw_bytes + (rest > 0 ? (size_t)rest : 0);
    if (c->raw_bytes > c->http->conf.body_bytes_max)
        return 413;
    c->body_bytes = c->raw_bytes;
    return rest == -2 ? -2 : 0;
}

static bool trouble_applies(const struct conn *c, const struct http_request *q)
{
    const struct trouble *t = &c->http->trouble;
    bool works = q->method.len == 4 && memcmp(q->method.at, "POST", 4) == 0 && q->path.len > 4 &&
                 memcmp(q->path.at, "/v1/", 4) == 0;

    if (t->mode == TROUBLE_none || t->mode == TROUBLE_refuse || c->is_control)
        return false;
    if (t->mode == TROUBLE_stale && c->served == 0)
        return false;
    if (q->path.len == 6 && memcmp(q->path.at, "/fault", 6) == 0)
        return false;
    return works || t->everywhere;
}

static void trouble_take(struct conn *c, const struct http_request *q)
{
    struct trouble *t = &c->http->trouble;

    c->trouble = (struct trouble){0};
    if (!trouble_applies(c, q))
        return;
    c->trouble = *t;
    c->http->troubled++;
    if (t->count > 0 && --t->count == 0)
        *t = (struct trouble){0};
}

/* A head is here: what has to be known or done before the body. False: nothing more to do now. */
static bool on_head(struct conn *c)
{
    static const char proceed[] = "HTTP/1.1 100 Continue\r\n\r\n";
    struct http_request q;
    bool expects;
    int status = parse_head(c, &q, &expects);

    if (status == -2)
        return false;
    h2o_timeout_unlink(&c->idle_entry);
    c->http->requests++;
    c->raw_bytes = 0;
    c->chunks = (struct conn_chunks){.consume_trailer = 1};
    c->events = 0;
    c->streaming = c->close_after = false;
    c->trouble = (struct trouble){0};
    if (status != 0) {
        refuse(c, status);
        return false;
    }
    trouble_take(c, &q);
    c->served++;
    c->state = CONN_BODY;
    if (c->trouble.mode == TROUBLE_stale) {
        conn_close(c);
        return false;
    }
    if (c->trouble.mode == TROUBLE_early) {
        refuse(c, 413);
        return false;
    }
    if (expects && c->sock->input->size < c->head_bytes + c->body_bytes) {
        buf_adds(&c->out, proceed);
        conn_flush(c);
    }
    if (!c->chunked && c->head_bytes + c->body_bytes > c->sock->input->size)
        h2o_buffer_reserve(&c->sock->input, c->head_bytes + c->body_bytes - c->sock->input->size);
    return true;
}

static void dispatch(struct conn *c)
{
    struct http_request q;
    bool expects;
    size_t used = c->head_bytes + c->body_bytes, body = c->body_bytes;
    bool chunked = c->chunked;

    must(parse_head(c, &q, &expects) == 0);
    c->chunked = chunked;
    q.body = (struct phr_span){c->sock->input->bytes + c->head_bytes, body};
    c->state = CONN_ANSWER;
    if (!conn_trouble_instead(c))
        c->http->conf.serve(c, &q);
    if (!c->dead)
        h2o_buffer_consume(&c->sock->input, used);
}

/* Goes as far as the bytes at hand allow. */
static void conn_pump(struct conn *c)
{
    int status;

    while (!c->dead && c->sock->input->size > 0) {
        switch (c->state) {
        case CONN_HEAD:
            if (!on_head(c))
                return;
            break;
        case CONN_BODY:
            status = take_body(c);
            if (status == -2)
                return;
            if (status != 0) {
                refuse(c, status);
                return;
            }
            if (c->trouble.mode == TROUBLE_slow && c->trouble.delay_ms > 0) {
                c->state = CONN_DELAY;
                h2o_timeout_link(c->http->loop, &c->http->delay, &c->delay_entry);
                return;
            }
            dispatch(c);
            break;
        case CONN_DELAY:
            if (h2o_timeout_is_linked(&c->delay_entry))
                return;
            dispatch(c);
            break;
        case CONN_STUCK:
        case CONN_DRAIN:
            h2o_buffer_consume(&c->sock->input, c->sock->input->size);
            return;
        case CONN_ANSWER:
            if (c->sock->input->size > PIPELINED_MAX)
                conn_close(c);
            return;
        }
    }
}

static void on_read(h2o_socket_t *sock, const char *err)
{
    struct conn *c = sock->data;

    if (err != NULL)
        conn_close(c);
    else
        conn_pump(c);
}

/* The answer is out: next request, or the end. */
void conn_after_write(struct conn *c)
{
    if (c->dead || c->state != CONN_HEAD)
        return;
    conn_pump(c);
}

/* listening */

static enum err bind_to(const char *address, int *out)
{
    char host[64];
    const char *colon = strrchr(address, ':');
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *ai = NULL;
    size_t n = colon != NULL ? (size_t)(colon - address) : sizeof host;
    enum err e = ERR_IO;
    int fd = -1;

    if (n >= sizeof host)
        return ERR_INVALID;
    snprintf(host, sizeof host, "%.*s", (int)n, address);
    if (n > 1 && host[0] == '[' && host[n - 1] == ']')
        snprintf(host, sizeof host, "%.*s", (int)n - 2, address + 1);
    if (getaddrinfo(n > 0 ? host : NULL, colon + 1, &hints, &ai) != 0)
        return ERR_INVALID;
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
        if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, 1024) == 0)
            e = ERR_OK;
        else
            close(fd);
    }
    freeaddrinfo(ai);
    if (e == ERR_OK)
        *out = fd;
    return e;
}

static enum err listener_open(struct http_listener *l)
{
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } sa = {.v6 = {0}};
    socklen_t len = sizeof sa;
    char *colon;
    int fd = -1;
    enum err e = bind_to(l->address, &fd);

    if (e != ERR_OK)
        return e;
    if (getsockname(fd, &sa.any, &len) == 0) { /* port 0: say which it became */
        unsigned port = ntohs(sa.any.sa_family == AF_INET6 ? sa.v6.sin6_port : sa.v4.sin_port);

        colon = strrchr(l->address, ':');
        snprintf(colon + 1, sizeof l->address - (size_t)(colon + 1 - l->address), "%u", port);
    }
    l->sock = h2o_evloop_socket_create(l->http->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    l->sock->data = l;
    h2o_socket_read_start(l->sock, on_accept);
    return ERR_OK;
}

enum err http_listen(struct http *h, const char *address, bool is_control)
{
    struct http_listener *l = &h->listeners[h->listener_count];

    must(h->listener_count < sizeof h->listeners / sizeof *h->listeners);
    if (strrchr(address, ':') == NULL || strlen(address) + 6 >= sizeof l->address)
        return ERR_INVALID;
    *l = (struct http_listener){.http = h, .is_control = is_control};
    snprintf(l->address, sizeof l->address, "%s", address);
    h->listener_count++;
    return listener_open(l);
}

void http_stop_listening(struct http *h)
{
    for (size_t i = 0; i < h->listener_count; i++) {
        if (h->listeners[i].sock != NULL)
            h2o_socket_close(h->listeners[i].sock);
        h->listeners[i].sock = NULL;
    }
}

static void reopen(struct http *h)
{
    for (size_t i = 0; i < h->listener_count; i++) {
        if (h->listeners[i].sock == NULL)
            (void)listener_open(&h->listeners[i]);
    }
}

static void on_reopen(h2o_timeout_entry_t *entry)
{
    struct http *h = container_of(entry, struct http, reopen_entry);

    h->trouble = (struct trouble){0};
    reopen(h);
}

void http_set_trouble(struct http *h, const struct trouble *t)
{
    h->trouble = *t;
    h->delay.timeout = t->delay_ms;
    h2o_timeout_unlink(&h->reopen_entry);
    if (t->mode != TROUBLE_refuse) {
        reopen(h);
        return;
    }
    for (size_t i = 0; i < h->listener_count; i++) {
        if (!h->listeners[i].is_control && h->listeners[i].sock != NULL) {
            h2o_socket_close(h->listeners[i].sock);
            h->listeners[i].sock = NULL;
        }
    }
    h->reopen.timeout = t->delay_ms;
    if (t->delay_ms > 0)
        h2o_timeout_link(h->loop, &h->reopen, &h->reopen_entry);
}

void http_init(struct http *h, h2o_loop_t *loop, const struct http_conf *conf)
{
    *h = (struct http){.conf = *conf, .loop = loop, .reopen_entry = {.cb = on_reopen}};
    list_init(&h->conns);
    list_init(&h->dead);
    h2o_timeout_init(loop, &h->keepalive, conf->keepalive_ms);
    h2o_timeout_init(loop, &h->delay, 1);
    h2o_timeout_init(loop, &h->reopen, 1);
}

void http_fini(struct http *h)
{
    http_stop_listening(h);
    while (!list_is_empty(&h->conns))
        conn_close(container_of(list_first(&h->conns), struct conn, link));
    http_sweep(h);
    h2o_timeout_unlink(&h->reopen_entry);
    h2o_timeout_dispose(h->loop, &h->keepalive);
    h2o_timeout_dispose(h->loop, &h->delay);
    h2o_timeout_dispose(h->loop, &h->reopen);
}
