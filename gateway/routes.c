/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/routes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/must.h"
#include "gateway/client.h"
#include "gateway/finish.h"
#include "gateway/head.h"
#include "gateway/look.h"
#include "gateway/stream.h"
#include "gateway/target.h"
#include "gateway/worker.h"

static const struct route routes[] = {
#define ROUTE(listener, method, path, handle, dialect, shape, help) \
    {LISTENER_##listener, method, path, handle, DIALECT_##dialect, shape},
#include "gateway/routes.def"
#undef ROUTE
};
#define ROUTE_COUNT (sizeof(routes) / sizeof(routes[0]))

/* Errors of requests that match no row still speak the listener's language. */
static const struct route no_route = {LISTENER_BOTH, "", "", NULL, DIALECT_OPENAI, INSPECT_OTHER};
static const struct route no_admin_route = {LISTENER_BOTH,   "",           "", NULL,
                                            DIALECT_PROBLEM, INSPECT_OTHER};

static const struct route no_mcp_route = {LISTENER_BOTH,   "",           "", NULL,
                                          DIALECT_JSONRPC, INSPECT_OTHER};

struct gw_handler {
    h2o_handler_t super;
    struct gw *gw;
    enum listener listener;
};

/* A colon may come percent-encoded: some clients do that to the last part of a path. */
static size_t colon_len(const char *at, const char *end)
{
    if (at < end && *at == ':')
        return 1;
    return end - at >= 3 && h2o_lcstris(at, 3, H2O_STRLIT("%3a")) ? 3 : 0;
}

/* Where the :word begins that ends this segment; NULL: it does not. */
static const char *word_find(const char *from, const char *to, const char *word, size_t len)
{
    const char *at;

    for (at = to; at > from && to - at < 3 + (ptrdiff_t)len; at--) {
        size_t colon = colon_len(at, to);

        if (colon > 0 && (size_t)(to - at) - colon == len - 1 &&
            memcmp(at + colon, word + 1, len - 1) == 0)
            return at;
    }
    return NULL;
}

/* {x} takes a whole segment, {x}:word what stands before :word in it. Moves both behind it. */
static bool segment_take(const char **pattern, const char **path, const char *end,
                         h2o_iovec_t *segment)
{
    const char *from = *path, *to = from, *word = strchr(*pattern, '}') + 1;
    size_t word_len = strcspn(word, "/");

    while (to < end && *to != '/')
        to++;
    *pattern = word + word_len;
    *path = to;
    if (word_len > 0)
        to = word_find(from, to, word, word_len);
    if (to == NULL || to == from)
        return false;
    *segment = h2o_iovec_init(from, (size_t)(to - from));
    return true;
}

static bool path_matches(const char *pattern, const char *path, size_t len, h2o_iovec_t *segments)
{
    const char *end = path + len;
    unsigned n = 0;

    while (*pattern != '\0') {
        size_t step = 1;

        if (pattern[0] == '*')
            return path < end;
        if (pattern[0] == '{') {
            if (n == 3 || !segment_take(&pattern, &path, end, &segments[n++]))
                return false;
            continue;
        }
        if (pattern[0] == ':')
            step = colon_len(path, end);
        else if (path == end || *path != *pattern)
            return false;
        if (step == 0)
            return false;
        path += step;
        pattern++;
    }
    return path == end;
}

/* Paths that only their engine knows go through as they came, so they must mean there what they
 * mean here: no dot segments, no hidden slashes, else /v1/../x reaches what lies beside /v1. */
static bool path_is_plain(const char *path, size_t len)
{
    size_t i = 0, dots = 0, others = 0;

    for (; i <= len; i++) {
        bool end = i == len || path[i] == '/' || path[i] == '?';

        if (end && others == 0 && (dots == 1 || dots == 2))
            return false;
        if (i == len || path[i] == '?')
            return true;
        if (end) {
            dots = others = 0;
        } else if (path[i] == '.') {
            dots++;
        } else if (path[i] == '%' && len - i >= 3) {
            if (h2o_lcstris(path + i, 3, H2O_STRLIT("%2f")) ||
                h2o_lcstris(path + i, 3, H2O_STRLIT("%5c")) ||
                h2o_lcstris(path + i, 3, H2O_STRLIT("%00")))
                return false;
            if (h2o_lcstris(path + i, 3, H2O_STRLIT("%2e")))
                dots++;
            else
                others++;
            i += 2;
        } else {
            others++;
        }
    }
    return true;
}

/* The workflow API is ours alone: nothing under it is passed on, and its errors are problems. */
static bool is_workflow_path(const char *path, size_t len)
{
    static const char own[] = "/v1/workflows";
    size_t n = sizeof(own) - 1;

    return len >= n && memcmp(path, own, n) == 0 && (len == n || path[n] == '/');
}

/* The last three letters tell most rows apart from a path, without a walk. */
static bool tail_fits(const char *pattern, const char *path, size_t len)
{
    const char *tail = pattern + strlen(pattern) - 3;

    return tail[2] == '*' || tail[2] == '}' || (len >= 3 && memcmp(tail, path + len - 3, 3) == 0);
}

/* Finds the row. ERR_METHOD where only the method does not fit. */
static enum err route_find(struct gw_request *r, enum listener listener)
{
    const char *query = memchr(r->path, '?', r->path_len);
    size_t len = query != NULL ? (size_t)(query - r->path) : r->path_len, i;
    h2o_iovec_t method = r->req->method;
    bool other_method = false, is_own = is_workflow_path(r->path, len);
    char allow[64] = "";

    r->route = listener == LISTENER_ADMIN || is_own ? &no_admin_route : &no_route;
    for (i = 0; i < ROUTE_COUNT; i++) {
        const struct route *row = &routes[i];

        if (!tail_fits(row->path, r->path, len))
            continue;
        if (is_own && strchr(row->path, '*') != NULL)
            continue;
        if (!(row->listener & listener) || !path_matches(row->path, r->path, len, r->segments))
            continue;
        if (h2o_memis(method.base, method.len, row->method, strlen(row->method))) {
            r->route = row;
            return strchr(row->path, '*') == NULL || path_is_plain(r->path, len) ? ERR_OK
                                                                                 : ERR_PATH;
        }
        if (strstr(allow, row->method) == NULL &&
            strlen(allow) + strlen(row->method) + 3 <= sizeof(allow)) {
            strcat(allow, other_method ? ", " : "");
            strcat(allow, row->method);
        }
        other_method = true;
        if (row->dialect == DIALECT_PROBLEM)
            r->route = &no_admin_route;
        if (row->dialect == DIALECT_JSONRPC)
            r->route = &no_mcp_route;
    }
    if (!other_method)
        return ERR_PATH;
    respond_add_header(r, "allow", allow);
    return ERR_METHOD;
}

static enum err head_accept(struct gw_request *r, const char **why)
{
    struct head_facts facts = {0};
    h2o_socket_t *s;
    ssize_t at;
    enum err e;

    if (r->req->version < 0x200) {
        s = r->req->conn->callbacks->get_socket(r->req->conn);
        e = head_check(s->input->bytes, s->input->size, (size_t)r->gw->conf->gateway.max_head_bytes,
                       &facts);
        *why = facts.why;
        if (e != ERR_OK)
            return e;
        if (facts.chunked)
            r->req->http1_is_persistent =
                0; /* decoded in place by h2o: bad chunk syntax is invisible by now */
    }
    at = h2o_find_header(&r->req->headers, H2O_TOKEN_CONTENT_ENCODING, -1);
    if (at >= 0 && !h2o_lcstris(r->req->headers.entries[at].value.base,
                                r->req->headers.entries[at].value.len, H2O_STRLIT("identity")))
        return ERR_MEDIA_TYPE;
    return ERR_OK;
}

/* What the request is for: with an absolute target, its authority counts and not the Host. */
static enum err target_take(struct gw_request *r, h2o_iovec_t *raw, const char **why)
{
    bool is_tls = r->req->scheme == &H2O_URL_SCHEME_HTTPS;
    struct target t;
    enum err e;

    if (r->req->version >= 0x200 || !target_is_absolute(raw->base, raw->len))
        return ERR_OK;
    e = target_parse(raw->base, raw->len, is_tls, &t, why);
    if (e != ERR_OK)
        return e;
    r->req->authority = h2o_strdup(&r->req->pool, t.authority, t.authority_len);
    *raw = h2o_iovec_init(t.rest, t.rest_len);
    if (t.rest_len == 0 || t.rest[0] != '/')
        *raw = h2o_concat(&r->req->pool, h2o_iovec_init(H2O_STRLIT("/")), *raw);
    return ERR_OK;
}

static void request_route(struct gw_request *r, enum listener listener)
{
    h2o_iovec_t raw = r->req->input.path;
    const char *why = NULL;
    enum err e;

    r->identity = calloc(1, sizeof(*r->identity));
    must(r->identity != NULL);
    r->route = listener == LISTENER_ADMIN ? &no_admin_route : &no_route;
    e = head_accept(r, &why);
    if (e == ERR_OK)
        e = target_take(r, &raw, &why);
    r->path = raw.base;
    r->path_len = raw.len;
    if (e == ERR_OK && listener == LISTENER_DATA && r->gw->conf->gateway.trust_workflow_path) {
        e = identity_path(raw.base, raw.len, r->identity, &r->path, &r->path_len);
        why = r->identity->err_param;
    }
    if (e == ERR_OK)
        e = route_find(r, listener);
    if (e == ERR_OK && r->req->entity.len > r->gw->conf->gateway.max_body_bytes)
        e = ERR_TOO_LARGE;
    if (e != ERR_OK) {
        if (e == ERR_HEAD || e == ERR_HEAD_TOO_LARGE)
            log_info("request_refused", "id=%s reason=\"%s\" detail=\"%s\"", r->id, err_text(e),
                     why != NULL ? why : "");
        respond_error(r, e, NULL, e == ERR_HEAD ? why : NULL);
        return;
    }
    if (listener == LISTENER_ADMIN && admin_is_refused(r, strcmp(r->route->method, "GET") != 0))
        return;
    r->route->handle(r);
}

/* There is no room for one more request, not even to refuse it as one. */
static void refuse_busy(struct gw *gw, h2o_req_t *req)
{
    struct buf body = {0};
    h2o_iovec_t out;
    char seconds[16];
    int n = snprintf(seconds, sizeof(seconds), "%d", (err_retry_ms(ERR_BUSY) + 999) / 1000);

    respond_error_body(&body, DIALECT_OPENAI, ERR_BUSY, NULL, NULL, "");
    out = h2o_strdup(&req->pool, body.base, body.len);
    buf_fini(&body);
    req->res.status = (int)err_http(ERR_BUSY);
    req->res.reason = respond_reason(err_http(ERR_BUSY));
    h2o_add_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE, NULL,
                   H2O_STRLIT("application/json"));
    h2o_add_header_by_str(&req->pool, &req->res.headers, H2O_STRLIT("retry-after"), 0, NULL,
                          h2o_strdup(&req->pool, seconds, (size_t)n).base, (size_t)n);
    worker_error_count(gw, ERR_BUSY);
    worker_status_count(gw, err_http(ERR_BUSY));
    h2o_send_inline(req, out.base, out.len);
}

static int on_req(h2o_handler_t *self, h2o_req_t *req)
{
    struct gw_handler *h = (struct gw_handler *)self;
    struct gw_request *r = request_new(h->gw, req);

    if (r == NULL) {
        refuse_busy(h->gw, req);
        return 0;
    }
    r->generator.proceed = stream_on_proceed;
    r->generator.stop = stream_on_stop;
    r->listener = h->listener;
    list_push(&h->gw->ready, &r->node);
    worker_dispatch_soon(h->gw);
    return 0;
}

bool routes_dispatch(struct gw *gw)
{
    struct list *n;

    while ((n = list_take(&gw->ready)) != NULL) {
        struct gw_request *r = container_of(n, struct gw_request, node);

        client_watch(r);
        request_route(r, r->listener);
    }
    return look_turn(gw);
}

/*
 * h2o answers some requests before any handler sees them (a body over the limit, a broken chunk):
 * plain text, which SDKs cannot read. This filter sits on the path that such answers take and puts
 * our error object in their place.
 */
struct error_stream {
    h2o_ostream_t super;
    h2o_iovec_t body;
};

static void error_send(h2o_ostream_t *self, h2o_req_t *req, h2o_iovec_t *bufs, size_t count,
                       h2o_send_state_t state)
{
    struct error_stream *s = (struct error_stream *)self;

    (void)bufs;
    (void)count;
    h2o_ostream_send_next(&s->super, req, &s->body, s->body.len > 0, state);
    s->body.len = 0;
}

static enum err err_of_status(int status)
{
    switch (status) {
    case 413:
        return ERR_TOO_LARGE;
    case 503:
        return ERR_BUSY;
    case 404:
        return ERR_PATH;
    default:
        return status < 500 ? ERR_HEAD : ERR_BUG;
    }
}

static void on_setup_error(h2o_filter_t *self, h2o_req_t *req, h2o_ostream_t **slot)
{
    struct gw *gw = *(struct gw **)(void *)(self + 1);
    struct error_stream *s = (struct error_stream *)h2o_add_ostream(req, sizeof(*s), slot);
    enum err e = err_of_status(req->res.status);
    struct buf body = {0};

    respond_error_body(&body, DIALECT_OPENAI, e, NULL, NULL, "");
    s->super.do_send = error_send;
    s->body = h2o_strdup(&req->pool, body.base, body.len);
    buf_fini(&body);
    req->res.content_length = s->body.len;
    h2o_set_header(&req->pool, &req->res.headers, H2O_TOKEN_CONTENT_TYPE,
                   H2O_STRLIT("application/json"), 1);
    req->http1_is_persistent = 0;
    worker_error_count(gw, e);
    worker_status_count(gw, (unsigned)req->res.status);
    h2o_setup_next_ostream(req, &s->super.next);
}

void routes_register(struct gw *gw, h2o_hostconf_t *host, enum listener listener)
{
    h2o_pathconf_t *path = h2o_config_register_path(host, "/", 0);
    struct gw_handler *h = (struct gw_handler *)h2o_create_handler(path, sizeof(*h));
    h2o_filter_t *f = h2o_create_filter(&host->fallback_path, sizeof(*f) + sizeof(gw));

    h->super.on_req = on_req;
    h->gw = gw;
    h->listener = listener;
    f->on_setup_ostream = on_setup_error;
    *(struct gw **)(void *)(f + 1) = gw;
}
