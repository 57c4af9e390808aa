/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/load/net.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"

void net_die(const char *what)
{
    fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(errno));
    exit(1);
}

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

int net_listen(uint16_t port)
{
    struct sockaddr_in a = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        net_die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) != 0 || listen(fd, 4096) != 0)
        net_die("listen");
    return fd;
}

int net_dial(uint16_t port)
{
    struct sockaddr_in a = loopback(port);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0)
        net_die("socket");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (const struct sockaddr *)&a, sizeof(a)) != 0 && errno != EINPROGRESS)
        net_die("connect");
    return fd;
}

void net_raise_limit(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0)
        net_die("getrlimit");
    r.rlim_cur = r.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &r) != 0)
        net_die("setrlimit");
}

int net_ticker(uint64_t period_ns)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct timespec t = {.tv_sec = (time_t)(period_ns / NS_PER_S),
                         .tv_nsec = (long)(period_ns % NS_PER_S)};
    struct itimerspec spec = {.it_interval = t, .it_value = t};

    if (fd < 0 || timerfd_settime(fd, 0, &spec, NULL) != 0)
        net_die("timerfd");
    return fd;
}

uint64_t net_ticks(int fd)
{
    uint64_t n;

    return read(fd, &n, sizeof(n)) == (ssize_t)sizeof(n) ? n : 0;
}

void net_read_file(const char *path, struct buf *out)
{
    char part[65536];
    ssize_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        net_die(path);
    while ((n = read(fd, part, sizeof(part))) > 0)
        buf_add(out, part, (size_t)n);
    if (n < 0)
        net_die(path);
    close(fd);
}

const char *net_header(const char *head, size_t len, const char *name)
{
    size_t n = strlen(name);

    for (const char *p = head, *end = head + len; p != NULL && (size_t)(end - p) > n + 2;) {
        if (p[n] == ':' && strncasecmp(p, name, n) == 0)
            return p + n + 1;
        p = memchr(p, '\n', (size_t)(end - p));
        p = p != NULL ? p + 1 : NULL;
    }
    return NULL;
}

uint64_t net_number(const char *name, const char *text, uint64_t low, uint64_t high)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || n < low || n > high) {
        fprintf(stderr, "%s: %s must be a number from %llu to %llu\n",
                program_invocation_short_name, name, (unsigned long long)low,
                (unsigned long long)high);
        exit(2);
    }
    return n;
}
