/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listening sockets: handed in by systemd, or opened here. Accepting.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <systemd/sd-daemon.h>

#include "common/clock.h"
#include "common/log.h"
#include "gateway/client.h"
#include "gateway/worker.h"

#define ACCEPT_BATCH 32
#define ACCEPT_WARN_NS (10 * NS_PER_S)

struct gw_listener {
    h2o_socket_t *sock;
    h2o_accept_ctx_t *accept;
    struct gw *gw;
};

/* The next sweep looks again: until a descriptor is free the waiting connection would wake us
 * without end. */
static void accept_failed(struct gw *gw)
{
    uint64_t now = clock_ns();

    if (gw->accept_warned_ns == 0 || now - gw->accept_warned_ns > ACCEPT_WARN_NS) {
        gw->accept_warned_ns = now;
        log_warn("accept_failed", "connections=%u error=\"%s\"", gw->client_count, strerror(errno));
    }
    listeners_pause(gw, true);
}

static void on_acceptable(h2o_socket_t *sock, const char *err)
{
    struct gw_listener *l = sock->data;
    int n;

    if (err != NULL)
        return;
    for (n = 0; n < ACCEPT_BATCH && l->gw->accepting; n++) {
        h2o_socket_t *s = h2o_evloop_socket_accept(sock);

        if (s == NULL) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                accept_failed(l->gw);
            return;
        }
        client_accepted(l->gw, s, l->accept->ssl_ctx);
        h2o_accept(l->accept, s);
    }
}

static enum err listener_add(struct gw *gw, int fd, h2o_accept_ctx_t *accept)
{
    struct gw_listener *l;

    gw->listeners = realloc(gw->listeners, (gw->listener_count + 1) * sizeof(*gw->listeners));
    if (gw->listeners == NULL)
        return ERR_NOMEM;
    l = &gw->listeners[gw->listener_count++];
    *l = (struct gw_listener){.accept = accept, .gw = gw};
    l->sock = h2o_evloop_socket_create(gw->ctx.loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    return ERR_OK;
}

/* "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:80". plus: added to the port. */
static enum err address_open(struct gw *gw, const char *text, unsigned plus,
                             h2o_accept_ctx_t *accept)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE | AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_socktype = SOCK_STREAM},
                    *ai = NULL;
    const char *colon = strrchr(text, ':');
    char host[64], port[16];
    int fd = -1, on = 1;
    unsigned long number;
    char *end;
    size_t n;

    if (colon == NULL || (size_t)(colon - text) >= sizeof(host))
        goto bad;
    n = (size_t)(colon - text);
    memcpy(host, text, n);
    host[n] = '\0';
    if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
        host[n - 1] = '\0';
        memmove(host, host + 1, n - 1);
    }
    number = strtoul(colon + 1, &end, 10);
    if (end == colon + 1 || *end != '\0' || number + plus > 65535)
        goto bad;
    snprintf(port, sizeof(port), "%u", (unsigned)number + plus);
    if (getaddrinfo(host, port, &hints, &ai) != 0)
        goto bad;
    fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        goto failed;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (gw->conf->gateway.reuse_port && accept == &gw->accept_data)
        setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, SOMAXCONN) != 0)
        goto failed;
    freeaddrinfo(ai);
    return listener_add(gw, fd, accept);
failed:
    log_error("listen_failed", "address=%s port=%s error=\"%s\"", text, port, strerror(errno));
    freeaddrinfo(ai);
    if (fd >= 0)
        close(fd);
    return ERR_IO;
bad:
    log_error("listen_failed", "address=%s error=\"not an ip:port\"", text);
    return ERR_CONF;
}

/* Sockets named "admin" in their unit are the admin listener's, all others the data plane's. A kind
 * that systemd hands none of is opened here, by the settings. */
static enum err from_systemd(struct gw *gw, bool *has_data, bool *has_admin)
{
    char **names = NULL;
    int n = sd_listen_fds_with_names(1, &names), i;
    enum err e = ERR_OK;

    for (i = 0; i < n; i++) {
        bool admin = names != NULL && names[i] != NULL && strstr(names[i], "admin") != NULL;

        *(admin ? has_admin : has_data) = true;
        if (e == ERR_OK)
            e = listener_add(gw, SD_LISTEN_FDS_START + i,
                             admin ? &gw->accept_admin : &gw->accept_data);
    }
    for (i = 0; names != NULL && names[i] != NULL; i++)
        free(names[i]);
    free(names);
    return e;
}

enum err listeners_open(struct gw *gw)
{
    const struct conf_gateway *conf = &gw->conf->gateway;
    bool has_data = false, has_admin = false;
    size_t i;
    enum err e = from_systemd(gw, &has_data, &has_admin);

    for (i = 0; e == ERR_OK && !has_data && i < conf->listen.count; i++)
        e = address_open(gw, conf->listen.items[i], 0, &gw->accept_data);
    for (i = 0; e == ERR_OK && !has_admin && i < conf->admin_listen.count; i++)
        e = address_open(gw, conf->admin_listen.items[i], gw->instance - 1, &gw->accept_admin);
    if (e == ERR_OK) {
        for (i = 0; i < gw->listener_count; i++)
            gw->listeners[i].sock->data = &gw->listeners[i];
        listeners_pause(gw, false);
    }
    return e;
}

void listeners_pause(struct gw *gw, bool pause)
{
    size_t i;

    gw->accepting = !pause;
    for (i = 0; i < gw->listener_count; i++) {
        if (pause)
            h2o_socket_read_stop(gw->listeners[i].sock);
        else
            h2o_socket_read_start(gw->listeners[i].sock, on_acceptable);
    }
}

void listeners_stop(struct gw *gw)
{
    size_t i;

    gw->accepting = false;
    for (i = 0; i < gw->listener_count; i++)
        h2o_socket_close(gw->listeners[i].sock);
    free(gw->listeners);
    gw->listeners = NULL;
    gw->listener_count = 0;
}
