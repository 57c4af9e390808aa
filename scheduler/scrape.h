/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_SCRAPE_H
#define SCHED_SCRAPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * What an engine's metrics page says: Prometheus text of vLLM, SGLang, llama.cpp or TGI, of any
 * version (scrape.def has the names). Lines that are not understood are passed over. Pure; reads
 * each byte once.
 */
enum scrape_fact {
    SCRAPE_running,
    SCRAPE_waiting,
    SCRAPE_usage,    /* share of the KV cache that running requests hold, 0 to 1 */
    SCRAPE_used,     /* the same in tokens */
    SCRAPE_capacity, /* of the KV cache, in tokens */
    SCRAPE_start,    /* of the process, Unix seconds */
    SCRAPE_counted,  /* prompt tokens, ever */
    SCRAPE_generated,
    SCRAPE_FACTS
};

struct scrape {
    bool has[SCRAPE_FACTS];
    double value[SCRAPE_FACTS];
};

/* False: nothing that is known here is on the page. */
bool scrape_read(const char *text, size_t len, struct scrape *out);
/* Whether the engine has begun anew in between: another start time, or counters that went back. */
bool scrape_is_restart(const struct scrape *before, const struct scrape *now);
/* Tokens that running requests hold; false: not known. */
bool scrape_used_tokens(const struct scrape *s, uint64_t *tokens);

#endif
