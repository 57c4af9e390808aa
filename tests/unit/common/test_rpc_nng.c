/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <nng/nng.h>

#include "common/clock.h"
#include "common/loop.h"
#include "common/rpc.h"
#include "common/rpc_nng.h"

/* The client's end of the nng carrier alone, against a server that is not there. */

static char dir[] = "/tmp/slip-nng-XXXXXX";

static void on_done(void *arg, enum nngc_slot slot, enum err e, const uint8_t *p, size_t len)
{
    (void)arg, (void)slot, (void)e, (void)p, (void)len;
}

static void on_pipe(void *arg, bool is_up)
{
    (void)arg, (void)is_up;
}

/* Dialers that nng knows, closed ones included until it has put them away, and their attempts. */
struct dials {
    unsigned dialers;
    uint64_t refused;
};

static void dials_add(nng_stat *st, struct dials *d)
{
    d->dialers += strcmp(nng_stat_name(st), "dialer") == 0;
    if (strcmp(nng_stat_name(st), "refused") == 0)
        d->refused += nng_stat_value(st);
    for (st = nng_stat_child(st); st != NULL; st = nng_stat_next(st))
        dials_add(st, d);
}

static struct dials dials_now(void)
{
    struct dials d = {0};
    nng_stat *all;

    assert_int_equal(nng_stats_get(&all), 0);
    dials_add(all, &d);
    nng_stats_free(all);
    return d;
}

/* So many attempts more of the one dialer. */
static uint64_t attempts_take_ms(struct loop *loop, uint64_t more)
{
    uint64_t start = clock_ms(), from;
    struct dials d;

    while (d = dials_now(), d.dialers != 1) {
        assert_true(clock_ms() - start < 20000);
        loop_turn(loop, 5);
    }
    start = clock_ms();
    from = d.refused;
    while (dials_now().refused < from + more) {
        assert_true(clock_ms() - start < 20000);
        loop_turn(loop, 5);
    }
    return clock_ms() - start;
}

static void a_server_that_stays_away_is_asked_for_seldom(void **state)
{
    const struct nng_security sec = {0};
    const struct nngc_calls calls = {.on_done = on_done, .on_pipe = on_pipe};
    struct loop *loop = loop_new();
    const char *why = NULL;
    char url[100];
    struct nngc *c;
    unsigned i;

    (void)state;
    snprintf(url, sizeof(url), "ipc://%s/nobody", dir);
    assert_int_equal(nngc_open(url, &sec, rpc_host_loop(loop), &calls, &c, &why), ERR_OK);
    /* Pauses are drawn, each from up to twice as much as the one before, and about half of them are
     * none at all. At first from 20 ms on, up to 100: twenty attempts hardly ever take 800 ms.
     * Later from 250 on, up to 1000: 4500 on average, and hardly ever less than 800. */
    assert_in_range(attempts_take_ms(loop, 3), 0, 2000);
    for (i = 0; i < 5; i++)
        nngc_redial(c);
    assert_true(attempts_take_ms(loop, 20) > 800);
    nngc_close(c);
    loop_free(loop);
}

static int group_setup(void **state)
{
    (void)state;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int group_teardown(void **state)
{
    (void)state;
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_server_that_stays_away_is_asked_for_seldom),
    };

    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
