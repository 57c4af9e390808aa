/* SPDX-License-Identifier: Apache-2.0 */
#include "scheduler/fit.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"

#define PULL 0.004      /* towards the common factor, in shares of the samples' weight */
#define ROUNDS 4u       /* of reweighting */
#define SWEEPS 32u      /* of solving for one term after another */
#define HUBER 1.5       /* in median residuals, beyond which a sample's pull no longer grows */
#define FLOOR_S 0.02    /* seconds by which any time may be off */
#define GROUP_MIN 512.0 /* tokens that a sample is about, at least */
#define GROUP_MAX_PROMPTS 16u /* after which a group is not worth waiting for */
#define FULL_WEIGHT 0.1F
#define FULL 0.9         /* of the memory; beyond it a request waits for some */
#define TOGETHER_S 0.002 /* first bytes so close belong to one step */
#define TOGETHER 0.05    /* ... or within this share of the later one's own prefill */
#define ANSWER_MIN 16.0

/* What is believed: a factor on what was told beyond `leave`, until it is within `back` again, and
 * a change of what is used by more than `move`. Decisions hang on prefill times; decode times are
 * known less well and matter little. */
struct band {
    double leave, back, move;
};
static const struct band prefill_band = {1.2, 1.1, 1.1}, decode_band = {1.5, 1.25, 1.25};

/* ---- lines ---- */

static void line_init(struct fit_line *l)
{
    for (unsigned j = 0; j < FIT_TERMS; j++)
        l->used[j] = l->found[j] = 1;
}

static unsigned line_count(const struct fit_line *l)
{
    return l->samples < FIT_WINDOW ? (unsigned)l->samples : FIT_WINDOW;
}

static double predict(const struct fit_sample *s, const double *factor)
{
    double sum = 0;

    for (unsigned j = 0; j < FIT_TERMS; j++)
        sum += (double)s->x[j] * factor[j];
    return sum;
}

static double clamp(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v;
}

struct weighed {
    double v, w;
};

static int by_value(const void *a, const void *b)
{
    double x = ((const struct weighed *)a)->v, y = ((const struct weighed *)b)->v;

    return (x > y) - (x < y);
}

static double median(struct weighed *v, unsigned n)
{
    double all = 0, below = 0;

    qsort(v, n, sizeof(*v), by_value);
    for (unsigned i = 0; i < n; i++)
        all += v[i].w;
    for (unsigned i = 0; i < n; i++) {
        below += v[i].w;
        if (2 * below >= all)
            return v[i].v;
    }
    return n > 0 ? v[n - 1].v : 0;
}

/* By which factor the told model is off as a whole; long times say more. */
static double common_factor(const struct fit_line *l, unsigned n)
{
    static const double ones[FIT_TERMS] = {1, 1, 1};
    struct weighed v[FIT_WINDOW];

    for (unsigned i = 0; i < n; i++) {
        double p = predict(&l->at[i], ones);

        v[i] = (struct weighed){.v = l->at[i].y / p, .w = p * (double)l->at[i].weight};
    }
    return clamp(median(v, n), 1 / FIT_FACTOR_MAX, FIT_FACTOR_MAX);
}

/* Relative error, and the weight that a least-squares sum of those gives. */
static double residual(const struct fit_sample *s, const double *factor, double *scale)
{
    double p = predict(s, factor);

    *scale = 1 / (p + FLOOR_S);
    return (s->y - p) * *scale;
}

static double spread(const struct fit_line *l, unsigned n, const double *factor)
{
    struct weighed v[FIT_WINDOW];
    double scale;

    for (unsigned i = 0; i < n; i++)
        v[i] =
            (struct weighed){.v = fabs(residual(&l->at[i], factor, &scale)), .w = l->at[i].weight};
    return fmax(HUBER * median(v, n), .02);
}

/* One round of weighted least squares with a pull to `centre`, solved one term after another so
 * that each stays within its bounds. */
static void solve(const struct fit_line *l, unsigned n, double centre, double *factor)
{
    double a[FIT_TERMS][FIT_TERMS] = {{0}}, b[FIT_TERMS] = {0}, pull = 1e-12, scale;
    double limit = spread(l, n, factor);

    for (unsigned i = 0; i < n; i++) {
        const struct fit_sample *s = &l->at[i];
        double r = fabs(residual(s, factor, &scale)),
               w = (double)s->weight * scale * scale * fmin(1, limit / r);

        for (unsigned j = 0; j < FIT_TERMS; j++) {
            for (unsigned k = 0; k < FIT_TERMS; k++)
                a[j][k] += w * (double)s->x[j] * (double)s->x[k];
            b[j] += w * (double)s->x[j] * (double)s->y;
        }
    }
    for (unsigned j = 0; j < FIT_TERMS; j++)
        pull += PULL * a[j][j];
    for (unsigned j = 0; j < FIT_TERMS; j++) {

        a[j][j] += pull;
        b[j] += pull * centre;
    }
    for (unsigned sweep = 0; sweep < SWEEPS; sweep++) {
        for (unsigned j = 0; j < FIT_TERMS; j++) {
            double rest = b[j];

            for (unsigned k = 0; k < FIT_TERMS; k++)
                rest -= k != j ? a[j][k] * factor[k] : 0;
            factor[j] = clamp(rest / a[j][j], 1 / FIT_FACTOR_MAX, FIT_FACTOR_MAX);
        }
    }
}

/* How many times as long the work in the window takes with one set of factors as with another,
 * constants left out; 1 or more. */
static double apart(const struct fit_line *l, unsigned n, const float *one, const float *other)
{
    double a = 1e-12, b = 1e-12;

    for (unsigned i = 0; i < n; i++) {
        for (unsigned j = 0; j + 1 < FIT_TERMS; j++) {
            a += (double)l->at[i].x[j] * (double)one[j];
            b += (double)l->at[i].x[j] * (double)other[j];
        }
    }
    return a > b ? a / b : b / a;
}

static bool is_as_told(const float *factors)
{
    unsigned i;

    for (i = 0; i < FIT_TERMS; i++)
        if (factors[i] < 1 || factors[i] > 1)
            return false;
    return true;
}

/* Whether other factors are used from now on. */
static bool line_adopt(struct fit_line *l, unsigned n, const struct band *band)
{
    static const float told[FIT_TERMS] = {1, 1, 1};
    const float *to = l->found;
    double off = apart(l, n, l->found, told);
    bool is_told = is_as_told(l->used);

    if (is_told && off < band->leave)
        return false;
    if (!is_told && off < band->back)
        to = told;
    else if (apart(l, n, l->found, l->used) < band->move)
        return false;
    for (unsigned j = 0; j < FIT_TERMS; j++)
        l->used[j] = to[j];
    l->moves++;
    return true;
}

static bool line_fit(struct fit_line *l, const struct band *band)
{
    unsigned n = line_count(l);
    double centre = common_factor(l, n), factor[FIT_TERMS];

    for (unsigned j = 0; j < FIT_TERMS; j++)
        factor[j] = centre;
    for (unsigned round = 0; round < ROUNDS; round++)
        solve(l, n, centre, factor);
    for (unsigned j = 0; j < FIT_TERMS; j++)
        l->found[j] = (float)factor[j];
    return l->samples >= FIT_ENOUGH && line_adopt(l, n, band);
}

static bool line_add(struct fit_line *l, const struct fit_sample *s, const struct band *band)
{
    float x = s->x[0] + s->x[1] + s->x[2];

    if (!(x > 1e-9F) || !(s->y > 1e-9F) || !isfinite(x) || !isfinite(s->y))
        return false;
    l->at[l->samples++ % FIT_WINDOW] = *s;
    return l->samples % FIT_EVERY == 0 && line_fit(l, band);
}

/* ---- time ---- */

void fit_init(struct fit *f, const struct time_model *told)
{
    *f = (struct fit){.told = *told, .room = {.factor = 1}};
    line_init(&f->prefill);
    line_init(&f->decode);
}

void fit_sent(struct fit_run *r, const struct fit_load *now, double prompt, double cached)
{
    *r = (struct fit_run){
        .sent_ns = now->now_ns, .held = now->held_tokens, .prompt = prompt, .cached = cached};
}

static double uncached(double n, double cached)
{
    return n > cached ? n - cached : 0;
}

/* What the told model gives for a prompt. */
static void prompt_terms(const struct fit *f, double n, double cached, double *x)
{
    double u = uncached(n, cached);

    x[0] = f->told.tok * u;
    x[1] = f->told.attn * u * (n - u / 2);
}

static bool group_close(struct fit *f)
{
    struct fit_group *g = &f->group;
    struct fit_sample s = {.x = {(float)g->x[0], (float)g->x[1], (float)g->x[2]},
                           .y = (float)g->y,
                           .weight = g->full ? FULL_WEIGHT : 1,
                           .serial = g->serial};
    bool enough = g->tokens >= GROUP_MIN;

    if (!enough && g->count < GROUP_MAX_PROMPTS)
        return false;
    *g = (struct fit_group){.serial = g->serial + 1};
    return enough && line_add(&f->prefill, &s, &prefill_band);
}

static bool group_add(struct fit *f, struct fit_run *r, double seconds, bool full)
{
    struct fit_group *g = &f->group;
    double x[2];
    bool moved = false;

    prompt_terms(f, r->prompt, r->cached, x);
    if (seconds > TOGETHER_S && seconds > TOGETHER * (x[0] + x[1])) {
        moved = group_close(f);
        g->x[2] += f->told.base;
    }
    g->x[0] += x[0];
    g->x[1] += x[1];
    g->y += seconds;
    g->tokens += uncached(r->prompt, r->cached);
    g->count++;
    g->full |= full;
    r->serial = g->serial;
    return moved;
}

/* What was computed of its prompt is known by now. */
static void group_correct(struct fit *f, const struct fit_run *r, double n, double cached)
{
    struct fit_group *g = &f->group;
    double was[2], is[2];

    prompt_terms(f, r->prompt, r->cached, was);
    prompt_terms(f, n, cached, is);
    if (r->serial == g->serial) {
        g->tokens += uncached(n, cached) - uncached(r->prompt, r->cached);
        for (unsigned j = 0; j < 2; j++)
            g->x[j] = fmax(0, g->x[j] + is[j] - was[j]);
        return;
    }
    for (unsigned i = 0; i < line_count(&f->prefill); i++) {
        struct fit_sample *s = &f->prefill.at[i];

        for (unsigned j = 0; s->serial == r->serial && j < 2; j++)
            s->x[j] = (float)fmax(0, (double)s->x[j] + is[j] - was[j]);
    }
}

bool fit_first_byte(struct fit *f, struct fit_run *r, const struct fit_load *now)
{
    bool waited = f->first_ns > r->sent_ns;
    uint64_t from = waited ? f->first_ns : r->sent_ns;
    double seconds, held = waited ? f->held : r->held;

    if (r->first_ns != 0 || r->sent_ns == 0)
        return false;
    seconds = now->now_ns > from ? (double)(now->now_ns - from) / NS_PER_S : 0;
    f->busy_s += seconds;
    f->held = now->held_tokens;
    f->first_ns = r->first_ns = now->now_ns;
    r->busy_s = f->busy_s;
    r->x_tokens = now->x_tokens;
    r->running = now->running;
    r->alone = now->prefilling == 0;
    return group_add(f, r, seconds, held + r->prompt > FULL * now->room);
}

static bool decode_seen(struct fit *f, const struct fit_run *r, const struct fit_load *now,
                        double completion)
{
    double all = (double)(now->now_ns - r->first_ns) / NS_PER_S, stalled = f->busy_s - r->busy_s;

    struct fit_sample s;

    if (!(completion >= ANSWER_MIN) || stalled > all / 2)
        return false;
    s = (struct fit_sample){.x = {(float)(f->told.kv * (now->x_tokens + r->x_tokens) / 2),
                                  (float)(f->told.seq * ((double)now->running + r->running) / 2),
                                  (float)f->told.base},
                            .weight = 1,
                            .y = (float)((all - stalled) / (completion - 1))};
    return line_add(&f->decode, &s, &decode_band);
}

bool fit_answered(struct fit *f, const struct fit_run *r, const struct fit_load *now, double prompt,
                  double cached, double completion)
{
    if (r->first_ns == 0 || now->now_ns < r->first_ns)
        return false;
    group_correct(f, r, prompt, cached);
    return r->alone && now->prefilling == 0 && decode_seen(f, r, now, completion);
}

struct time_model fit_time(const struct fit *f)
{
    const float *p = f->prefill.used, *d = f->decode.used;

    return (struct time_model){.base = f->told.base * (double)d[2],
                               .tok = f->told.tok * (double)p[0],
                               .attn = f->told.attn * (double)p[1],
                               .kv = f->told.kv * (double)d[0],
                               .seq = f->told.seq * (double)d[1]};
}

/* ---- room ---- */

#define ROOM_TURN 0.25   /* capacities that must go until a turn is over */
#define ROOM_LEAVE 0.92  /* what is found is believed below this, */
#define ROOM_RETURN 0.96 /* and what was told is as good above this */
#define ROOM_MOVE 0.03
#define ROOM_PROOF 1.02
#define ASKED_TURN 32u /* requests */
#define MISSED_HIGH 0.15
#define MISSED_LOW 0.04
#define SHRINK 4.0 /* by the share that was missed, over this */
#define GROW 1.02
#define FOUND_HIGH 0.05 /* more is cached than the index said */
#define GROWN 1.25

double fit_room(const struct fit *f)
{
    return f->room.factor;
}

static bool room_set(struct fit_room *r, double factor)
{
    factor = clamp(factor, 1 / FIT_FACTOR_MAX, FIT_FACTOR_MAX);
    if (factor == r->factor)
        return false;
    r->factor = factor;
    r->moves++;
    return true;
}

/* Another figure was told: what was learned about the last one is void. */
static bool room_retold(struct fit_room *r, double told)
{
    bool moved = r->factor != 1;

    if (r->told == told)
        return false;
    *r = (struct fit_room){.told = told, .factor = 1, .moves = r->moves + moved};
    return moved;
}

static bool room_adopt(struct fit_room *r, double found)
{
    if (found >= ROOM_RETURN && found <= ROOM_PROOF)
        return room_set(r, 1);
    if (found > ROOM_LEAVE && found < 1)
        return false;
    return fabs(found / r->factor - 1) > ROOM_MOVE && room_set(r, found);
}

static bool room_full(struct fit_room *r, double resident, double tokens)
{
    double found = 0;

    if (resident > ROOM_PROOF * r->factor * r->told)
        return room_set(r, resident / r->told);
    r->peaks[r->turns % FIT_TURNS] = fmax(resident, r->peaks[r->turns % FIT_TURNS]);
    r->removed += tokens;
    if (tokens <= 0 || r->removed < ROOM_TURN * r->factor * r->told)
        return false;
    for (unsigned i = 0; i < FIT_TURNS; i++)
        found = fmax(found, r->peaks[i] / r->told);
    r->removed = 0;
    r->peaks[++r->turns % FIT_TURNS] = 0;
    return r->turns > 1 && room_adopt(r, found);
}

bool fit_resident(struct fit *f, double resident, double tokens, double told)
{
    bool moved;

    if (!(told > 0) || !(resident >= 0) || !(tokens >= 0))
        return false;
    moved = room_retold(&f->room, told);
    return room_full(&f->room, resident, tokens) || moved;
}

static bool room_missed(struct fit_room *r, double expected, double cached)
{
    double missed, found;

    r->expected += expected;
    r->missed += cached < expected ? expected - cached : 0;
    r->found += cached > expected ? cached - expected : 0;
    if (++r->asked < ASKED_TURN)
        return false;
    missed = r->missed / r->expected;
    found = r->found / r->expected;
    r->asked = 0;
    r->expected = r->missed = r->found = 0;
    r->turns++;
    if (missed > MISSED_HIGH)
        return room_set(r, r->factor * (1 - fmin(missed, .6) / SHRINK));
    if (missed < MISSED_LOW && (r->factor < 1 || found > FOUND_HIGH))
        return room_set(r, fmin(r->factor < 1 ? 1 : GROWN, GROW * r->factor));
    return false;
}

bool fit_hit(struct fit *f, double expected, double cached, double told)
{
    bool moved;

    if (!(expected > 0) || !(cached >= 0) || !(told > 0))
        return false;
    moved = room_retold(&f->room, told);
    return room_missed(&f->room, expected, cached) || moved;
}

/* ---- words about caches, words into tokens ---- */

#define SILENT_ENOUGH 8u
#define EXPECTED_MIN 512.0

void fit_usage(struct fit *f, bool has_cached, double expected_tokens)
{
    if (has_cached) {
        f->tells = true;
        f->silent = 0;
    } else if (expected_tokens >= EXPECTED_MIN && f->silent < UINT32_MAX) {
        f->silent++;
    }
}

enum fit_cached fit_cached(const struct fit *f)
{
    return f->silent >= SILENT_ENOUGH ? FIT_CACHED_NEVER
           : f->tells                 ? FIT_CACHED_TOLD
                                      : FIT_CACHED_UNKNOWN;
}

/* ---- for people ---- */

static double prefill_s(const struct time_model *t, double n)
{
    return t->tok * n + t->attn * n * n / 2;
}

void fit_report(const struct fit *f, const struct time_model *used, double kv_factor,
                struct fit_report *out)
{
    double s = prefill_s(used, 10000), was = prefill_s(&f->told, 10000);

    *out = (struct fit_report){.prefill_s = s,
                               .prefill_factor = was > 0 ? s / was : 1,
                               .decode_factor = f->told.kv > 0 ? used->kv / f->told.kv : 1,
                               .kv_factor = kv_factor > 0 ? kv_factor : 1,
                               .prefill_samples = f->prefill.samples,
                               .decode_samples = f->decode.samples,
                               .cached = fit_cached(f)};
}

#define RATIO_MIN 0.5
#define RATIO_MAX 32.0
#define RATIO_STEP 0.4 /* of the logarithm */
#define RATIO_GAIN 0.05

double fit_ratio(double ratio, uint64_t seen, double bytes, double tokens)
{
    double gain = fmax(RATIO_GAIN, 1 / ((double)seen + 4)), step;

    if (!(bytes > 0) || !(tokens > 0))
        return ratio;
    step = clamp(log(bytes / tokens / ratio), -RATIO_STEP, RATIO_STEP);
    return clamp(ratio * exp(gain * step), RATIO_MIN, RATIO_MAX);
}
