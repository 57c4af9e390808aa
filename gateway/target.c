/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/target.h"

#include <string.h>
#include <strings.h>

static bool is_scheme_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '+' ||
           c == '-' || c == '.';
}

static size_t scheme_len(const char *raw, size_t len)
{
    size_t n = 0;

    while (n < len && is_scheme_char(raw[n]))
        n++;
    return n > 0 && len - n >= 3 && memcmp(raw + n, "://", 3) == 0 ? n : 0;
}

bool target_is_absolute(const char *raw, size_t len)
{
    return scheme_len(raw, len) > 0;
}

static bool is_authority(const char *s, size_t len)
{
    size_t i;

    for (i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c <= 0x20 || c >= 0x7f || strchr("#@\\,<>\"", c) != NULL)
            return false;
    }
    return len > 0 && s[0] != ':';
}

enum err target_parse(const char *raw, size_t len, bool is_tls, struct target *out,
                      const char **why)
{
    const char *scheme = is_tls ? "https" : "http", *host;
    size_t n = scheme_len(raw, len), left, host_len = 0;

    if (n != strlen(scheme) || strncasecmp(raw, scheme, n) != 0) {
        *why = "the target's scheme is not the connection's";
        return ERR_HEAD;
    }
    host = raw + n + 3;
    left = len - n - 3;
    while (host_len < left && host[host_len] != '/' && host[host_len] != '?')
        host_len++;
    if (!is_authority(host, host_len)) {
        *why = "the target's host is not valid";
        return ERR_HEAD;
    }
    *out = (struct target){.authority = host,
                           .authority_len = host_len,
                           .rest = host + host_len,
                           .rest_len = left - host_len};
    return ERR_OK;
}
