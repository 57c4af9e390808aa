/* SPDX-License-Identifier: Apache-2.0 */
#include "common/proc.h"

#include <argp.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sysexits.h>
#include <time.h>

#include <systemd/sd-daemon.h>

#include "common/clock.h"
#include "common/fault.h"
#include "common/log.h"
#include "common/must.h"

#define DEFAULT_CONFIG "/etc/slipstream/slipstream.yaml"
#define INSTANCE_MAX 1024
#define ALIVE_EVERY_MS 500

enum { OPT_CHECK = 256, OPT_PRINT_CONFIG, OPT_INSTANCE };

struct parse {
    struct proc_args *args;
    bool print_config;
};

static const struct argp_option options[] = {
    {"config", 'c', "FILE", 0, "Settings (default: $SLIPSTREAM_CONFIG, else " DEFAULT_CONFIG ")",
     0},
    {"check", OPT_CHECK, NULL, 0, "Check the settings and exit", 0},
    {"print-config", OPT_PRINT_CONFIG, NULL, 0, "Print the settings in effect and exit", 0},
    {0},
};

static const struct argp_option options_with_instance[] = {
    {"config", 'c', "FILE", 0, "Settings (default: $SLIPSTREAM_CONFIG, else " DEFAULT_CONFIG ")",
     0},
    {"check", OPT_CHECK, NULL, 0, "Check the settings and exit", 0},
    {"print-config", OPT_PRINT_CONFIG, NULL, 0, "Print the settings in effect and exit", 0},
    {"instance", OPT_INSTANCE, "N", 0, "Number of this worker, from 1 (default 1)", 0},
    {0},
};

static error_t on_option(int key, char *arg, struct argp_state *state)
{
    struct parse *p = state->input;
    unsigned long n;
    char *end;

    switch (key) {
    case 'c':
        p->args->conf_path = arg;
        return 0;
    case OPT_CHECK:
        p->args->check_only = true;
        return 0;
    case OPT_PRINT_CONFIG:
        p->print_config = true;
        return 0;
    case OPT_INSTANCE:
        errno = 0;
        n = strtoul(arg, &end, 10);
        if (errno != 0 || *arg < '0' || *arg > '9' || *end != '\0' || n < 1 || n > INSTANCE_MAX)
            argp_error(state, "--instance takes a number from 1 to %d", INSTANCE_MAX);
        p->args->instance = (unsigned)n;
        return 0;
    case ARGP_KEY_ARG:
        argp_error(state, "no argument is taken: %s", arg);
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static void arguments_parse(struct parse *p, int argc, char **argv)
{
    static char version[80];
    struct argp argp = {p->args->has_instance ? options_with_instance : options,
                        on_option,
                        NULL,
                        p->args->summary,
                        NULL,
                        NULL,
                        NULL};

    snprintf(version, sizeof(version), "%s %s", p->args->name, SLIP_VERSION);
    argp_program_version = version;
    argp_err_exit_status = EX_USAGE;
    if (argp_parse(&argp, argc, argv, 0, NULL, p) != 0)
        exit(EX_USAGE);
}

static void conf_check_more(const struct proc_args *args, struct conf *conf, struct buf *text)
{
    struct buf words = {0};
    enum err e = args->check != NULL ? args->check(conf, &words) : ERR_OK;

    fwrite(words.base, 1, words.len, stderr);
    buf_fini(&words);
    if (e != ERR_OK) {
        conf_free(conf);
        exit(EX_CONFIG);
    }
    buf_adds(text, "configuration ok\n");
}

static void conf_read(struct parse *p, struct conf **conf)
{
    struct buf text = {0};

    if (conf_load(p->args->conf_path, conf, &text) != ERR_OK) {
        fwrite(text.base, 1, text.len, stderr);
        buf_fini(&text);
        exit(EX_CONFIG);
    }
    if (p->args->check_only || p->print_config) {
        if (p->print_config)
            conf_print(*conf, &text);
        else
            conf_check_more(p->args, *conf, &text);
        fwrite(text.base, 1, text.len, stdout);
        conf_free(*conf);
        buf_fini(&text);
        exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EX_IOERR);
    }
    buf_fini(&text);
}

static void log_start(const struct proc_args *args, enum log_level level)
{
    const char *dash = strchr(args->name, '-');
    char name[64];

    if (args->has_instance)
        snprintf(name, sizeof(name), "%s-%u", dash != NULL ? dash + 1 : args->name, args->instance);
    else
        snprintf(name, sizeof(name), "%s", dash != NULL ? dash + 1 : args->name);
    log_init(name, level);
}

/* Connections are limited by settings, not by what a shell allows by default. */
static void files_allow(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        (void)!setrlimit(RLIMIT_NOFILE, &l);
    }
}

void proc_start(struct proc_args *args, int argc, char **argv, struct conf **conf)
{
    struct parse p = {.args = args};

    args->instance = args->instance != 0 ? args->instance : 1;
    arguments_parse(&p, argc, argv);
    if (args->conf_path == NULL)
        args->conf_path = getenv("SLIPSTREAM_CONFIG");
    if (args->conf_path == NULL || *args->conf_path == '\0')
        args->conf_path = DEFAULT_CONFIG;
    conf_read(&p, conf);
    log_start(args, (enum log_level)(*conf)->common.log_level);
    signal(SIGPIPE, SIG_IGN);
    umask(0027);
    files_allow();
    fault_init();
}

void proc_ready(const char *status)
{
    sd_notifyf(0, "READY=1\nSTATUS=%s", status);
}

void proc_stopping(const char *status)
{
    sd_notifyf(0, "STOPPING=1\nSTATUS=%s", status);
}

void proc_reloading(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts); /* systemd's clock, also where a test moves ours */
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%llu",
               (unsigned long long)ts.tv_sec * 1000000 + (unsigned long long)ts.tv_nsec / 1000);
}

void proc_alive(void)
{
    static uint64_t last_ms;
    uint64_t now_ms = clock_ms();

    if (last_ms != 0 && now_ms - last_ms < ALIVE_EVERY_MS)
        return;
    last_ms = now_ms;
    sd_notify(0, "WATCHDOG=1");
}

uint64_t proc_random(void)
{
    uint64_t bits = 0;

    while (bits == 0)
        must(getrandom(&bits, sizeof(bits), 0) == (ssize_t)sizeof(bits));
    return bits;
}
