/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How long one pass over a big body takes: the median of many runs, in microseconds. One JSON
 * object a line, so that a report can collect them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/buf.h"
#include "gateway/digest.h"
#include "gateway/inspect.h"

#define RUNS 201

static double now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
    double x, y;

    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return (x > y) - (x < y);
}

/* A chat body of about bytes bytes, in messages of 8 KB that repeat unit. */
static void body_make(struct buf *b, size_t bytes, const char *unit)
{
    buf_clear(b);
    buf_adds(b, "{\"model\":\"m\",\"stream\":true,\"messages\":[");
    for (unsigned i = 0; b->len < bytes; i++) {
        size_t start = b->len;

        buf_addf(b, "%s{\"role\":\"%s\",\"content\":\"", i != 0 ? "," : "",
                 i % 2 != 0 ? "assistant" : "user");
        while (b->len - start < 8192 && b->len < bytes)
            buf_adds(b, unit);
        buf_adds(b, "\"}");
    }
    buf_adds(b, "],\"workflow_metadata\":{\"workflow_id\":\"w\",\"agent_id\":\"a\"}}");
}

static void measure(const char *name, const struct buf *b)
{
    static struct inspection in;
    static struct digest d;
    const struct digest_key key = {.seed = 1, .model = "m"};
    double inspect_us[RUNS], digest_us[RUNS];

    for (int i = 0; i < RUNS; i++) {
        double t0 = now_us(), t1;

        inspect_start(&in, INSPECT_CHAT, b->base, b->len);
        while (!inspect_run(&in, 65536))
            continue;
        t1 = now_us();
        digest_start(&d, &in, &key);
        while (!digest_run(&d, 65536))
            continue;
        digest_us[i] = now_us() - t1;
        inspect_us[i] = t1 - t0;
    }
    if (in.err != ERR_OK)
        fprintf(stderr, "%s: %s at %u\n", name, err_text(in.err), in.err_at);
    qsort(inspect_us, RUNS, sizeof(double), compare);
    qsort(digest_us, RUNS, sizeof(double), compare);
    printf("{\"name\":\"micro_inspect_%s\",\"bytes\":%zu,\"inspect_us\":%.1f,\"digest_us\":%.1f,"
           "\"blocks\":%u}\n",
           name, b->len, inspect_us[RUNS / 2], digest_us[RUNS / 2], d.count);
    inspect_fini(&in);
    digest_fini(&d);
}

int main(void)
{
    struct buf b = {0};

    body_make(&b, 400000, "thirty-eight plain bytes and then a ..\\n");
    measure("400k_escape_40", &b);
    body_make(&b, 780000, "thirty-eight plain bytes and then a ..\\n");
    measure("780k_escape_40", &b);
    body_make(&b, 400000, "\xe4\xb8\xad\xe6\x96\x87\xe5\xad\x97\xe7\xac\xa6\xe3\x80\x82");
    measure("400k_cjk", &b);
    body_make(&b, 400000, "\xd0\xbf\xd1\x80\xd0\xb8\xd0\xb2\xd0\xb5\xd1\x82 ");
    measure("400k_cyrillic", &b);
    buf_fini(&b);
    return 0;
}
