/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>
#include <strings.h>

#include "gateway/mcp_era.h"

static bool is_word(const char *s, size_t len, const char *word)
{
    return strlen(word) == len && strncasecmp(s, word, len) == 0;
}

/* Behind "http://" or "https://"; 0: another scheme, "null", nonsense. */
static size_t scheme_skip(const char *s, size_t len)
{
    if (len > 7 && strncasecmp(s, "http://", 7) == 0)
        return 7;
    return len > 8 && strncasecmp(s, "https://", 8) == 0 ? 8 : 0;
}

/* The host in "host:port" and "[ip6]:port"; 0: not well formed. */
static size_t host_len_of(const char *s, size_t len)
{
    size_t n = 0, i;

    if (len > 0 && s[0] == '[') {
        const char *end = memchr(s, ']', len);

        n = end != NULL ? (size_t)(end - s) + 1 : 0;
    } else {
        while (n < len && s[n] != ':')
            n++;
    }
    if (n == 0 || (n < len && s[n] != ':'))
        return 0;
    for (i = n + 1; i < len; i++)
        if (s[i] < '0' || s[i] > '9')
            return 0;
    return memchr(s, '/', n) == NULL && memchr(s, '@', n) == NULL ? n : 0;
}

static bool is_ip4(const char *s, size_t len)
{
    unsigned dots = 0, digits = 0;

    for (size_t i = 0; i < len; i++) {
        if (s[i] == '.' && digits > 0) {
            dots++;
            digits = 0;
        } else if (s[i] >= '0' && s[i] <= '9' && digits < 3) {
            digits++;
        } else {
            return false;
        }
    }
    return dots == 3 && digits > 0;
}

static bool is_loopback(const char *s, size_t len)
{
    return is_word(s, len, "localhost") || is_word(s, len, "[::1]") ||
           (is_ip4(s, len) && strncmp(s, "127.", 4) == 0);
}

bool mcp_origin_is_allowed(const char *origin, size_t len, const char *host, size_t host_len,
                           bool is_tls, char *const *allowed, size_t allowed_count)
{
    size_t at = scheme_skip(origin, len), n;

    for (size_t i = 0; i < allowed_count; i++)
        if (strcmp(allowed[i], "*") == 0 || is_word(origin, len, allowed[i]))
            return true;
    n = at > 0 ? host_len_of(origin + at, len - at) : 0;
    if (n == 0)
        return false;
    if (is_loopback(origin + at, n))
        return true;
    if (host_len != len - at || strncasecmp(host, origin + at, host_len) != 0)
        return false;
    return is_tls ? at == 8 : origin[at] == '[' || is_ip4(origin + at, n);
}

/* "q=0", "q=0.0" and so on among the parameters. */
static bool is_refused(const char *s, size_t len)
{
    for (size_t i = 0; i + 2 < len; i++) {
        size_t k = i + 3;

        if ((s[i] != 'q' && s[i] != 'Q') || s[i + 1] != '=' || s[i + 2] != '0')
            continue;
        while (k < len && (s[k] == '.' || s[k] == '0'))
            k++;
        return k == len || s[k] == ' ' || s[k] == ';';
    }
    return false;
}

bool mcp_accepts(const char *accept, size_t len, const char *type)
{
    const char *end = accept + len, *p = accept;
    size_t main_len = (size_t)(strchr(type, '/') - type);

    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma != NULL ? comma : end, *semi;
        size_t n;

        while (p < stop && (*p == ' ' || *p == '\t'))
            p++;
        semi = memchr(p, ';', (size_t)(stop - p));
        n = (size_t)((semi != NULL ? semi : stop) - p);
        while (n > 0 && (p[n - 1] == ' ' || p[n - 1] == '\t'))
            n--;
        if ((is_word(p, n, "*/*") || is_word(p, n, type) ||
             (n == main_len + 2 && strncasecmp(p, type, main_len + 1) == 0 && p[n - 1] == '*')) &&
            (semi == NULL || !is_refused(semi, (size_t)(stop - semi))))
            return true;
        p = stop + 1;
    }
    return false;
}
