/* SPDX-License-Identifier: Apache-2.0 */
/*
 * slipstream-engine: a simulated vLLM-like inference engine. A test double; every answer says so.
 */
#include <errno.h>
#include <getopt.h>
#include <malloc.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/engine/server.h"
#include "bench/engine/trouble.h"
#include "common/log.h"

static volatile sig_atomic_t stop_signal;

struct options {
    const char *listen, *control;
    struct server_conf server;
    uint32_t keepalive_ms;
    struct trouble trouble;
};

static const struct option_row {
    char letter;
    const char *name, *argument, *help;
} rows[] = {
#define OPTION(letter, name, argument, help) {letter, name, argument, help},
#include "bench/engine/options.def"
#undef OPTION
};
#define ROWS (sizeof rows / sizeof *rows)

static void print_help(void)
{
    static const struct {
        const char *name, *help;
    } troubles[] = {
#define TROUBLE(name, help) {#name, help},
#include "bench/engine/troubles.def"
#undef TROUBLE
    };
    const struct engine_profile *p;

    printf("slipstream-engine: a simulated inference engine with vLLM's HTTP interface.\n\n");
    for (size_t i = 0; i < ROWS; i++)
        printf("  -%c, --%-15s %-10s %s\n", rows[i].letter, rows[i].name,
               rows[i].argument != NULL ? rows[i].argument : "", rows[i].help);
    printf("\nProfiles:\n");
    for (size_t i = 0; (p = engine_profile_row(i)) != NULL; i++)
        printf("  %-6s %s (%llu tokens of cache)\n", p->name, p->help,
               (unsigned long long)p->cache_tokens);
    printf("\nFaults, for --fault and POST /fault; keys count, after_events, delay_ms, status, "
           "scope=all:\n");
    for (size_t i = 0; i < sizeof troubles / sizeof *troubles; i++)
        printf("  %-12s %s\n", troubles[i].name, troubles[i].help);
}

static _Noreturn void bad_argument(const char *name, const char *value)
{
    fprintf(stderr, "slipstream-engine: bad value for --%s: %s\n", name, value);
    exit(64);
}

static uint64_t number(const char *name, const char *text, uint64_t min, uint64_t max)
{
    char *rest;
    unsigned long long v;

    errno = 0;
    v = strtoull(text, &rest, 10);
    if (errno != 0 || rest == text || *rest != '\0' || *text == '-' || v < min || v > max)
        bad_argument(name, text);
    return v;
}

static void set_model(struct options *o, const char *name)
{
    size_t n = 0;

    while (n < SERVER_MODELS_MAX && o->server.models[n] != NULL)
        n++;
    if (n == SERVER_MODELS_MAX || *name == '\0')
        bad_argument("model", name);
    o->server.models[n] = name;
}

static void set_profile(struct options *o, const char *name)
{
    const struct engine_profile *p = engine_profile_find(name);

    if (p == NULL)
        bad_argument("profile", name);
    o->server.engine.profile = *p;
    o->server.null_profile = strcmp(name, "null") == 0;
}

static void set_scale(struct options *o, const char *text)
{
    char *rest;
    double v = strtod(text, &rest);

    if (*rest != '\0' || !(v > 0) || v > 1e9)
        bad_argument("time-scale", text);
    o->server.time_scale = v;
}

/* How the engine computes. False: not one of these. */
static bool set_engine_option(struct options *o, int letter, const char *name, const char *v)
{
    struct server_conf *s = &o->server;

    switch (letter) {
    case 'p':
        set_profile(o, v);
        return true;
    case 's':
        set_scale(o, v);
        return true;
    case 'C':
        s->engine.cache_tokens = number(name, v, 64, UINT64_C(1) << 33);
        return true;
    case 'L':
        s->max_len = (uint32_t)number(name, v, 2, 1u << 30);
        return true;
    case 'b':
        s->engine.budget_tokens = (uint32_t)number(name, v, 1, 1u << 30);
        return true;
    case 'n':
        s->engine.seqs_max = (uint32_t)number(name, v, 1, 65536);
        return true;
    case 'P':
        s->engine.priority = true;
        return true;
    case 'w':
        s->pace_ms = (uint32_t)number(name, v, 1, 3600000);
        return true;
    case 'I':
        s->stream_interval = (uint32_t)number(name, v, 1, 1u << 20);
        return true;
    default:
        return false;
    }
}

/* What it tells of its cache. False: not one of these. */
static bool set_kv_option(struct kv_feed_conf *kv, int letter, const char *name, const char *v)
{
    switch (letter) {
    case 'K':
        kv->pub.events = v;
        return true;
    case 'R':
        kv->pub.replay = v;
        return true;
    case 'T':
        kv->pub.topic = v;
        return true;
    case 'E':
        if (strcmp(v, "array") != 0 && strcmp(v, "map") != 0)
            bad_argument(name, v);
        kv->form = strcmp(v, "map") == 0 ? KV_FORM_MAP : KV_FORM_ARRAY;
        return true;
    case 'D':
        kv->delay_ms = (double)number(name, v, 0, 3600000);
        return true;
    case 'd':
        kv->content = true;
        kv->digest_seed = number(name, v, 1, UINT64_MAX);
        return true;
    default:
        return false;
    }
}

static void set_option(struct options *o, int letter, const char *name, const char *v)
{
    struct server_conf *s = &o->server;

    if (set_engine_option(o, letter, name, v) || set_kv_option(&s->kv, letter, name, v))
        return;
    switch (letter) {
    case 'l':
        o->listen = v;
        break;
    case 'c':
        o->control = v;
        break;
    case 'i':
        s->id = v;
        break;
    case 'm':
        set_model(o, v);
        break;
    case 'k':
        o->keepalive_ms = (uint32_t)number(name, v, 1, 86400000);
        break;
    case 'S':
        s->seed = number(name, v, 0, UINT64_MAX);
        break;
    case 'f':
        if (!trouble_from_text(v, &o->trouble))
            bad_argument(name, v);
        break;
    case 't':
        s->late_head = true;
        break;
    case 'e':
        s->lenient = true;
        break;
    case 'h':
        print_help();
        exit(0);
    case 'V':
        printf("slipstream-engine %s\n", SLIP_VERSION);
        exit(0);
    default:
        exit(64);
    }
}

static void parse(struct options *o, int argc, char **argv)
{
    struct option table[ROWS + 1] = {0};
    char letters[2 * ROWS + 1], *p = letters;
    int letter, index;

    for (size_t i = 0; i < ROWS; i++) {
        table[i] = (struct option){rows[i].name,
                                   rows[i].argument != NULL ? required_argument : no_argument, NULL,
                                   rows[i].letter};
        *p++ = rows[i].letter;
        if (rows[i].argument != NULL)
            *p++ = ':';
    }
    *p = '\0';
    while ((letter = getopt_long(argc, argv, letters, table, &index)) != -1) {
        const char *name = "";

        for (size_t i = 0; i < ROWS; i++) {
            if (rows[i].letter == letter)
                name = rows[i].name;
        }
        set_option(o, letter, name, optarg);
    }
    if (optind < argc)
        bad_argument("argument", argv[optind]);
}

static void complete(struct options *o)
{
    struct server_conf *s = &o->server;
    uint64_t cache;

    if (s->models[0] == NULL)
        s->models[0] = "sim";
    cache = s->engine.cache_tokens > 0 ? s->engine.cache_tokens : s->engine.profile.cache_tokens;
    s->engine.block_tokens = 16;
    s->engine.stream_tokens = true;
    if (s->stream_interval == 0)
        s->stream_interval = 1;
    if (s->max_len == 0)
        s->max_len = cache < UINT32_MAX ? (uint32_t)cache : UINT32_MAX;
}

static void on_signal(int signo)
{
    stop_signal = signo;
}

static void run(struct options *o)
{
    h2o_loop_t *loop = h2o_evloop_create();
    struct server s;

    if (!server_init(&s, loop, &o->server, o->keepalive_ms)) {
        log_error("kv_events_failed", "events=%s replay=%s error=\"%s\"", o->server.kv.pub.events,
                  o->server.kv.pub.replay != NULL ? o->server.kv.pub.replay : "-", strerror(errno));
        exit(1);
    }
    if (http_listen(&s.http, o->listen, false) != ERR_OK ||
        (o->control != NULL && http_listen(&s.http, o->control, true) != ERR_OK)) {
        log_error("listen_failed", "address=%s error=\"%s\"", o->listen, strerror(errno));
        exit(1);
    }
    if (o->trouble.mode != TROUBLE_none)
        http_set_trouble(&s.http, &o->trouble);
    log_info("listening",
             "address=%s control=%s model=%s profile=%s time_scale=%g cache_tokens=%llu",
             s.http.listeners[0].address, o->control != NULL ? s.http.listeners[1].address : "-",
             o->server.models[0], o->server.engine.profile.name, o->server.time_scale,
             (unsigned long long)(o->server.engine.cache_tokens > 0
                                      ? o->server.engine.cache_tokens
                                      : o->server.engine.profile.cache_tokens));
    while (!stop_signal) {
        h2o_evloop_run(loop, 1000);
        http_sweep(&s.http);
    }
    log_info("stopping", "signal=%d jobs=%u", (int)stop_signal, s.job_count);
    server_fini(&s);
    h2o_evloop_run(loop, 0); /* frees what was closed */
    h2o_evloop_destroy(loop);
}

int main(int argc, char **argv)
{
    struct options o = {.listen = "127.0.0.1:8001",
                        .keepalive_ms = 5000,
                        .server = {.id = "engine", .time_scale = 1, .kv.form = KV_FORM_MAP}};
    struct sigaction sa = {.sa_handler = on_signal};

    set_profile(&o, "70b");
    parse(&o, argc, argv);
    complete(&o);
    log_init(o.server.id, LOG_LEVEL_INFO);
    signal(SIGPIPE, SIG_IGN);
    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    /* Bodies of hundreds of kilobytes come and go: keep their memory mapped. */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 256 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
    h2o_socket_buffer_mmap_settings.threshold = SIZE_MAX;
    run(&o);
    return 0;
}
