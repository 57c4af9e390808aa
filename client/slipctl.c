/* SPDX-License-Identifier: Apache-2.0 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/ctl.h"
#include "common/conf.h"
#include "common/must.h"
#include "common/secret.h"

#define DEFAULT_CONFIG "/etc/slipstream/slipstream.yaml"

static const struct command {
    const char *name;
    enum ctl_exit (*run)(struct ctl *ctl, int argc, char **argv);
    const char *help;
} commands[] = {
    {"status", ctl_status, "scheduler and mailbox at a glance"},
    {"workflows", ctl_workflows, "list, show or end workflows"},
    {"engines", ctl_engines, "the engines and their health"},
    {"explain", ctl_explain, "why requests went where they went"},
    {"policy", ctl_policy, "show or change the placement policy"},
    {"send", ctl_send, "send a message to an agent"},
    {"receive", ctl_receive, "receive an agent's messages"},
    {"peek", ctl_peek, "look at an agent's messages"},
    {"ack", ctl_ack, "acknowledge leased messages"},
    {"nack", ctl_nack, "give leased messages back"},
    {"extend", ctl_extend, "extend the leases of messages"},
    {"dead", ctl_dead, "look at an agent's dead letters"},
    {"redrive", ctl_redrive, "put dead letters back into their mailbox"},
    {"drop", ctl_drop, "throw dead letters away"},
    {"box", ctl_box, "look at an agent's mailbox"},
    {"messages", ctl_messages, "the commands from send to box as verbs: messages send, ..."},
    {"check", ctl_check, "check the settings and reach both processes"},
};
#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

/* ---- options of all commands ---- */

enum { OPT_SCHEDULER = 1000, OPT_MAILBOX, OPT_TIMEOUT, OPT_TENANT, OPT_KEY_FILE, OPT_JSON };

static const struct argp_option global_options[] = {
    {0, 0, 0, 0, "Of all commands:", 100},
    {"config", 'c', "FILE", 0,
     "Settings (default: $SLIPSTREAM_CONFIG, else " DEFAULT_CONFIG ", else built-in ones)", 100},
    {"scheduler", OPT_SCHEDULER, "URL", 0, "The scheduler (default: as in the settings)", 100},
    {"mailbox", OPT_MAILBOX, "URL", 0, "The mailbox (default: as in the settings)", 100},
    {"timeout", OPT_TIMEOUT, "SECONDS", 0, "Patience with each answer (default 5)", 100},
    {"tenant", OPT_TENANT, "NAME", 0, "Whose workflows (default: those of nobody in particular)",
     100},
    {"key-file", OPT_KEY_FILE, "FILE", 0, "File with the API key to show, for tcp addresses", 100},
    {"json", OPT_JSON, NULL, 0, "Print JSON", 100},
    {0},
};

double ctl_number(struct argp_state *state, const char *arg, const char *what, double max)
{
    char *end;
    double n = strtod(arg, &end);

    if (end == arg || *end != '\0' || !isfinite(n) || n < 0 || n > max)
        argp_error(state, "%s takes a number from 0 to %g", what, max);
    return n;
}

static error_t on_global(int key, char *arg, struct argp_state *state)
{
    struct ctl *ctl = state->input;

    switch (key) {
    case 'c':
        ctl->config = arg;
        return 0;
    case OPT_SCHEDULER:
        ctl->scheduler = arg;
        return 0;
    case OPT_MAILBOX:
        ctl->mailbox = arg;
        return 0;
    case OPT_TIMEOUT:
        ctl->timeout_ms = (uint32_t)(ctl_number(state, arg, "--timeout", 3600) * 1000);
        if (ctl->timeout_ms == 0)
            ctl->timeout_ms = 1;
        return 0;
    case OPT_TENANT:
        ctl->tenant = arg;
        return 0;
    case OPT_KEY_FILE:
        ctl->key_file = arg;
        return 0;
    case OPT_JSON:
        ctl->json = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

const struct argp ctl_globals = {global_options, on_global, NULL, NULL, NULL, NULL, NULL};

void ctl_hand_down(struct argp_state *state, struct ctl *ctl)
{
    state->child_inputs[0] = ctl;
}

void ctl_parse(const struct argp *own, int argc, char **argv, void *input)
{
    const struct argp_child children[] = {{&ctl_globals, 0, NULL, 0}, {0}};
    struct argp argp = *own;

    argp.children = children;
    if (argp_parse(&argp, argc, argv, 0, NULL, input) != 0)
        exit(CTL_USAGE);
}

/* ---- the handle ---- */

const char *ctl_config_path(const struct ctl *ctl)
{
    const char *path = ctl->config;

    if (path == NULL)
        path = getenv("SLIPSTREAM_CONFIG");
    if (path != NULL && *path != '\0')
        return path;
    return access(DEFAULT_CONFIG, F_OK) == 0 ? DEFAULT_CONFIG : NULL;
}

static bool conf_open(struct ctl *ctl)
{
    const char *path = ctl_config_path(ctl);
    struct buf errors = {0};
    enum err e;

    if (path != NULL)
        e = conf_load(path, &ctl->conf, &errors);
    else
        e = conf_parse("", 0, "built-in", &ctl->conf, &errors);
    if (e != ERR_OK)
        fwrite(errors.base, 1, errors.len, stderr);
    buf_fini(&errors);
    return e == ERR_OK;
}

/* *key stays NULL where none is wanted. */
static bool key_read(const char *path, char **key)
{
    struct buf note = {0};
    bool ok = path == NULL || *path == '\0' || secret_key_read(path, key, &note) == ERR_OK;

    if (!ok)
        fprintf(stderr, "slipctl: %s\n", buf_cstr(&note));
    buf_fini(&note);
    return ok;
}

bool ctl_open(struct ctl *ctl)
{
    struct slipstream_options o = {.name = "slipctl", .tenant = ctl->tenant};
    char scheduler[256], mailbox[256], *key = NULL;
    bool is_tcp;
    int e;

    if (!conf_open(ctl))
        return false;
    o.scheduler_url = ctl->scheduler != NULL
                          ? ctl->scheduler
                          : conf_scheduler_url(ctl->conf, scheduler, sizeof(scheduler));
    o.mailbox_url =
        ctl->mailbox != NULL ? ctl->mailbox : conf_mailbox_url(ctl->conf, mailbox, sizeof(mailbox));
    is_tcp = strncmp(o.scheduler_url, "ipc", 3) != 0 || strncmp(o.mailbox_url, "ipc", 3) != 0;
    if (!key_read(ctl->key_file != NULL ? ctl->key_file
                  : is_tcp              ? ctl->conf->common.rpc_key_file
                                        : NULL,
                  &key))
        return false;
    o.key = key;
    o.tls_ca_file =
        ctl->conf->common.rpc_tls_ca_file[0] != '\0' ? ctl->conf->common.rpc_tls_ca_file : NULL;
    o.allow_plain_tcp = ctl->conf->common.insecure;
    o.timeout_ms = ctl->timeout_ms;
    e = slipstream_open(&o, &ctl->s);
    secret_free(key);
    if (e != 0)
        fprintf(stderr, "slipctl: an address must begin with ipc://, tcp:// or tls+tcp://\n");
    return e == 0;
}

static enum ctl_exit exit_of(int error)
{
    switch (error) {
    case SLIPSTREAM_OK:
        return CTL_OK;
    case SLIPSTREAM_MAILBOX_DOWN:
    case SLIPSTREAM_SCHEDULER_DOWN:
    case SLIPSTREAM_TIMEOUT:
    case SLIPSTREAM_GONE:
        return CTL_UNREACHABLE;
    default:
        return CTL_FAILED;
    }
}

enum ctl_exit ctl_fail(const struct ctl *ctl, int error, const char *doing)
{
    const char *words = ctl->s != NULL ? slipstream_last_error(ctl->s) : "";

    if (words[0] == '\0')
        words = slipstream_error_text(error);
    fprintf(stderr, "slipctl: %s: %s (%s)\n", doing, words, slipstream_error_code(error));
    return exit_of(error);
}

/* ---- the command line ---- */

struct top {
    struct ctl *ctl;
    const struct command *command;
    int at; /* of its name in argv */
};

static error_t on_top(int key, char *arg, struct argp_state *state)
{
    struct top *top = state->input;
    size_t i;

    switch (key) {
    case ARGP_KEY_INIT:
        ctl_hand_down(state, top->ctl);
        return 0;
    case ARGP_KEY_ARG:
        for (i = 0; i < COMMANDS; i++)
            if (strcmp(arg, commands[i].name) == 0)
                top->command = &commands[i];
        if (top->command == NULL)
            argp_error(state, "no such command: %s", arg);
        top->at = state->next - 1;
        state->next = state->argc; /* the rest is the command's */
        return 0;
    case ARGP_KEY_NO_ARGS:
        argp_error(state, "a command is needed");
        return EINVAL;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static char *top_doc(void)
{
    struct buf b = {0};
    size_t i;

    buf_adds(&b, "Talks to Slipstream's scheduler and mailbox.\vCommands:\n");
    for (i = 0; i < COMMANDS; i++)
        buf_addf(&b, "  %-10s %s\n", commands[i].name, commands[i].help);
    buf_adds(&b, "\n\"slipctl COMMAND --help\" tells about one of them.\n"
                 "Exit code: 0 done, 1 refused or failed, 2 not reachable, 64 bad arguments.");
    buf_cstr(&b);
    return b.base;
}

int main(int argc, char **argv)
{
    struct ctl ctl = {.timeout_ms = 5000};
    struct top top = {.ctl = &ctl};
    const struct argp_child children[] = {{&ctl_globals, 0, NULL, 0}, {0}};
    char *doc = top_doc();
    const struct argp argp = {NULL, on_top, "COMMAND [ARGUMENT...]", doc, children, NULL, NULL};
    char name[64];
    enum ctl_exit rc;

    argp_program_version = "slipctl " SLIP_VERSION;
    argp_err_exit_status = CTL_USAGE;
    if (argp_parse(&argp, argc, argv, ARGP_IN_ORDER, NULL, &top) != 0)
        return CTL_USAGE;
    free(doc);
    snprintf(name, sizeof(name), "slipctl %s", top.command->name);
    argv[top.at] = name;
    rc = top.command->run(&ctl, argc - top.at, argv + top.at);
    slipstream_close(ctl.s);
    conf_free(ctl.conf);
    return fflush(stdout) == 0 ? (int)rc : CTL_FAILED;
}
