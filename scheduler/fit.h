/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SCHED_FIT_H
#define SCHED_FIT_H

#include <stdbool.h>
#include <stdint.h>

#include "scheduler/core.h"

/*
 * What an engine's own reports say about the figures it was described with.
 *
 * Prefill. Engines compute prompts one after another, in chunks. So from the later of its dispatch
 * and the last first byte seen there, until its own first byte, an engine worked on this prompt
 * alone, whatever the queue was. That time is tok * u + attn * u * (n - u / 2) + a constant.
 * Prompts whose first bytes come together shared a step, and make one sample; so do short ones, as
 * many as it takes. What was not cached of them is a guess at first, put right when they end. One
 * that hardly fitted beside those that were running may have waited for memory: it weighs less.
 *
 * Decode. The time between the tokens of an answer, less the prefills that came between them, is
 * kv * X + seq * m + a constant, with X tokens and m requests there.
 *
 * Both are fitted over a window of the latest samples, in units of the model that was told: a
 * median says by which factor that is off as a whole, least squares with clipped outliers (Huber)
 * say how the terms share it, held together by a weak pull to that factor where the samples cannot
 * tell them apart. A factor lies between 1/8 and 8. Nothing is believed before FIT_ENOUGH samples,
 * nor when it is within 20 % of what was told, nor when it moves by less than a tenth.
 *
 * Capacity, where KV events tell how much is resident: an engine removes blocks only when it is
 * full, so the most that was resident while it did so is what it holds; more resident than it was
 * said to hold is proof at once. Where there are no events: the share of the cached tokens that
 * were expected and not there. The router's index loses a little even at the right size; when it
 * loses much, the size shrinks, the more the faster, and comes back slowly while next to nothing is
 * missed.
 *
 * Pure arithmetic: no clock, no allocation, O(1) per report but for a fit every FIT_EVERY samples,
 * O(FIT_WINDOW).
 */
#define FIT_WINDOW 64u
#define FIT_ENOUGH 50u
#define FIT_EVERY 8u
#define FIT_TERMS 3u /* the last one is the constant */
#define FIT_FACTOR_MAX 8.0
#define FIT_TURNS 4u

struct fit_sample {
    float x[FIT_TERMS]; /* seconds by the told model, per term */
    float y;            /* seconds */
    float weight;
    uint32_t serial;
};

struct fit_line {
    struct fit_sample at[FIT_WINDOW];
    uint64_t samples; /* taken, ever */
    uint64_t moves;   /* times that `used` changed */
    float found[FIT_TERMS];
    float used[FIT_TERMS]; /* factors on the told model */
};

struct fit_group { /* prompts that will make one sample */
    double x[FIT_TERMS], y;
    double tokens;
    uint32_t count, serial;
    bool full; /* one may have waited for memory */
};

struct fit_room {
    double peaks[FIT_TURNS]; /* most tokens resident while the cache was full, in each turn */
    double removed;          /* tokens, in this turn */
    double expected, missed, found; /* cached tokens, without KV events: in this turn */
    uint32_t asked;                 /* requests, in this turn */
    uint64_t turns, moves;
    double told, factor; /* capacity, and the factor on it */
};

enum fit_cached { FIT_CACHED_UNKNOWN, FIT_CACHED_TOLD, FIT_CACHED_NEVER };

struct fit {
    struct time_model told;
    struct fit_line prefill, decode;
    struct fit_group group;
    struct fit_room room;
    uint64_t first_ns; /* of the last first byte seen there */
    double held;       /* tokens of requests that had one, then */
    double busy_s;     /* prefill seconds seen, ever */
    uint32_t silent;   /* answers in a row that should have told of cached tokens and did not */
    bool tells;        /* it has told of some */
};

/* Of one request. */
struct fit_run {
    uint64_t sent_ns, first_ns; /* 0: not known */
    double prompt, cached;      /* tokens, as guessed */
    double held;                /* as fit.held, when it was sent */
    double busy_s, x_tokens;    /* at its first byte */
    uint32_t running, serial;
    bool alone; /* nothing was being prefilled at its first byte */
};

void fit_init(struct fit *f, const struct time_model *told);

/* What is there at a moment. */
struct fit_load {
    uint64_t now_ns;
    uint32_t running;    /* requests */
    uint32_t prefilling; /* of these: without a first byte */
    double x_tokens;     /* their prompts and answers */
    double held_tokens;  /* of those with a first byte */
    double room;         /* capacity */
};

/* It goes there now. prompt, cached: its tokens, as guessed. */
void fit_sent(struct fit_run *r, const struct fit_load *now, double prompt, double cached);
/* now: after it. true: the fitted model has changed. */
bool fit_first_byte(struct fit *f, struct fit_run *r, const struct fit_load *now);
/* It answered. prompt, cached, completion: tokens. true: the fitted model has changed. */
bool fit_answered(struct fit *f, const struct fit_run *r, const struct fit_load *now, double prompt,
                  double cached, double completion);
/* The model to use: told, or what was fitted. */
struct time_model fit_time(const struct fit *f);

/* KV events: `tokens` are about to go of `resident`, or resident has grown (tokens 0). told: the
 * capacity that was told. true: the factor changed. */
bool fit_resident(struct fit *f, double resident, double tokens, double told);
/* No KV events: so many tokens were expected to be cached, so many were. */
bool fit_hit(struct fit *f, double expected, double cached, double told);
double fit_room(const struct fit *f); /* factor on the told capacity */

/* An answer with usage: expected_tokens were thought to be cached; does it say how many were? Some
 * engines leave the figure out where it is 0, so only those count that should have hit. */
void fit_usage(struct fit *f, bool has_cached, double expected_tokens);
enum fit_cached fit_cached(const struct fit *f);

/* For people: what is in use against what was told. */
struct fit_report {
    double prefill_s;                         /* of 10,000 tokens, none of them cached */
    double prefill_factor, decode_factor;     /* of that, and of reading KV in a decode step */
    double kv_factor;                         /* of the capacity */
    uint64_t prefill_samples, decode_samples; /* ever */
    enum fit_cached cached;
};
void fit_report(const struct fit *f, const struct time_model *used, double kv_factor,
                struct fit_report *out);

/* Bytes per token of a model, moved by one request: a mean of the logarithm whose steps are
 * clipped, so that no single report moves it by much. seen: requests so far. */
double fit_ratio(double ratio, uint64_t seen, double bytes, double tokens);

#endif
