/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SLIP_PROC_H
#define SLIP_PROC_H

#include <stdbool.h>
#include <stdint.h>

#include "common/conf.h"

/*
 * What every process does the same way: arguments, configuration, log, notices to systemd.
 */
struct proc_args {
    const char *name;    /* "slipstream-scheduler" */
    const char *summary; /* one line for --help */
    const char
        *conf_path; /* --config; default $SLIPSTREAM_CONFIG, then /etc/slipstream/slipstream.yaml */
    bool check_only;   /* --check */
    unsigned instance; /* --instance N (gateway only), 1 by default */
    bool has_instance; /* set before the call: the process takes --instance */
    /* What --check looks at beyond the settings, or NULL: adds lines to words; not ERR_OK: they are
     * mistakes. */
    enum err (*check)(const struct conf *conf, struct buf *words);
};

/*
 * Parses arguments; prints --help / --version / --print-config and exits 0; loads the configuration
 * and on errors prints them, one per line, "file:line: message", and exits 78; with --check prints
 * "configuration ok" and exits 0, or what args->check finds, as for errors. Exit code 64: bad
 * arguments. Starts the log. conf belongs to the caller (conf_free). The umask becomes 0027: what a
 * process creates is its own to write, its group's to read.
 */
void proc_start(struct proc_args *args, int argc, char **argv, struct conf **conf);
void proc_ready(const char *status); /* READY=1 */
void proc_stopping(const char *status);
void proc_reloading(void);  /* RELOADING=1 with MONOTONIC_USEC; proc_ready() afterwards */
void proc_alive(void);      /* WATCHDOG=1, at most every 500 ms; call from the loop */
uint64_t proc_random(void); /* 64 random bits, never 0 */

#endif
