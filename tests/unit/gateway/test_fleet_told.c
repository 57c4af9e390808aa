/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/scheduler.pb-c.h"

#include "gateway/fleet.h"
#include "gateway/fleet_told.h"

#define ENGINES 300u
#define NOW UINT64_C(5000000000)

/* What the scheduler says, row by row. */
struct words {
    Slipstream__V1__Engine rows[ENGINES], *ptrs[ENGINES];
    char *models[ENGINES][8];
    char ids[ENGINES][16];
    Slipstream__V1__Engines engines;
};

static char *unconst(const char *s)
{
    return (char *)(uintptr_t)s;
}

static Slipstream__V1__Engine *row_add(struct words *w, uint32_t index, uint32_t generation)
{
    size_t n = w->engines.n_engines;
    Slipstream__V1__Engine *e = &w->rows[n];

    slipstream__v1__engine__init(e);
    snprintf(w->ids[n], sizeof(w->ids[n]), "e%u", index);
    e->index = index;
    e->generation = generation;
    e->id = w->ids[n];
    e->address = unconst("engines.example:8000");
    e->ip = unconst("10.0.0.7");
    e->port = 8000 + index % 1000;
    e->healthy = e->probed = true;
    w->models[n][0] = unconst("m");
    e->models = w->models[n];
    e->n_models = 1;
    w->ptrs[n] = e;
    w->engines.n_engines++;
    return e;
}

static void words_init(struct words *w, uint64_t conf_epoch)
{
    memset(w, 0, sizeof(*w));
    slipstream__v1__engines__init(&w->engines);
    w->engines.engines = w->ptrs;
    w->engines.conf_epoch = conf_epoch;
}

static enum err event_take(struct words *w, struct fleet *f)
{
    uint8_t *packed = malloc(slipstream__v1__engines__get_packed_size(&w->engines) + 1);
    size_t len = slipstream__v1__engines__pack(&w->engines, packed);
    enum err e = fleet_take_event(f, packed, len);

    free(packed);
    return e;
}

static enum err info_take(struct words *w, struct fleet *f, uint64_t seed, double scale)
{
    Slipstream__V1__SchedulerInfo info;
    uint8_t *packed;
    size_t len;
    enum err e;

    slipstream__v1__scheduler_info__init(&info);
    info.digest_seed = seed;
    info.time_scale = scale;
    info.priority_now = 77;
    info.conf_epoch = w->engines.conf_epoch;
    info.engines = &w->engines;
    packed = malloc(slipstream__v1__scheduler_info__get_packed_size(&info));
    len = slipstream__v1__scheduler_info__pack(&info, packed);
    e = fleet_take_info(f, packed, len, NOW);
    free(packed);
    return e;
}

static struct fleet *fleet_new(void)
{
    struct fleet *f = malloc(sizeof(*f));

    assert_non_null(f);
    fleet_init(f, NULL);
    return f;
}

static void fleet_free(struct fleet *f)
{
    fleet_fini(f);
    free(f);
}

static int choose(const struct fleet *f, const char *workflow, const char *model, uint64_t turn,
                  bool *known)
{
    struct fleet_wish w = {.tenant = "",
                           .workflow_id = workflow,
                           .workflow_len = strlen(workflow),
                           .model = model,
                           .model_len = strlen(model),
                           .turn = turn};
    const char *reason = "";
    int engine = fleet_choose(f, &w, &reason, known);

    if (engine >= 0)
        assert_string_equal(reason, *workflow != '\0' ? "alone_rendezvous" : "alone_rotation");
    return engine;
}

static struct words w;

static void the_hello_brings_rows_seed_scale_and_clock(void **state)
{
    struct fleet *f = fleet_new();
    Slipstream__V1__Engine *e;

    (void)state;
    words_init(&w, 5);
    row_add(&w, 0, 3);
    e = row_add(&w, 2, 9);
    e->draining = e->priority = true;
    e->usage = SLIPSTREAM__V1__ENGINE_USAGE__USAGE_ALWAYS;
    e->running = 4;
    assert_int_equal(fleet_digest_seed(f), 0);
    assert_int_equal(info_take(&w, f, UINT64_C(0xfeedfacefeedface), 20), ERR_OK);
    assert_true(fleet_digest_seed(f) == UINT64_C(0xfeedfacefeedface));
    assert_true(f->told_scale == 20.0 && f->told_now == 77 && f->told_ns == NOW);
    assert_int_equal(f->count, 3);
    assert_non_null(fleet_engine_get(f, 0, 3));
    assert_null(fleet_engine_get(f, 0, 4));
    assert_null(fleet_engine_get(f, 1, 0));
    assert_string_equal(fleet_engine_get(f, 2, 9)->id, "e2");
    assert_string_equal(f->engines[2].host, "engines.example:8000");
    assert_string_equal(f->engines[2].address, "10.0.0.7");
    assert_int_equal(f->engines[2].port, 8002);
    assert_int_equal(f->engines[2].running, 4);
    assert_true(fleet_serves(&f->engines[2], "m", 1));
    assert_int_equal(f->engines[2].flags, FLEET_USED | FLEET_HEALTHY | FLEET_PROBED |
                                              FLEET_DRAINING | FLEET_PRIORITY | FLEET_USAGE_ALWAYS);
    fleet_free(f);
}

static void an_event_replaces_all_rows(void **state)
{
    struct fleet *f = fleet_new();

    (void)state;
    words_init(&w, 5);
    row_add(&w, 0, 1);
    row_add(&w, 1, 1);
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    words_init(&w, 6);
    row_add(&w, 1, 2)->healthy = false;
    assert_int_equal(event_take(&w, f), ERR_OK);
    assert_null(fleet_engine_get(f, 0, 1));
    assert_null(fleet_engine_get(f, 1, 1));
    assert_false(fleet_engine_get(f, 1, 2)->flags & FLEET_HEALTHY);
    words_init(&w, 7);
    assert_int_equal(event_take(&w, f), ERR_OK);
    assert_int_equal(f->count, 0);
    fleet_free(f);
}

/* After a reconnect unconfirmed events come again, behind a hello that knew more. */
static void an_event_that_is_older_than_the_hello_changes_nothing(void **state)
{
    struct fleet *f = fleet_new();

    (void)state;
    words_init(&w, 8);
    row_add(&w, 0, 1);
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    words_init(&w, 7);
    assert_int_equal(event_take(&w, f), ERR_INVALID);
    assert_non_null(fleet_engine_get(f, 0, 1));
    words_init(&w, 2); /* a hello is of the scheduler that is there, whatever it counts from */
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    assert_null(fleet_engine_get(f, 0, 1));
    fleet_free(f);
}

static void rows_that_cannot_be_are_left_out(void **state)
{
    static char long_text[200];
    struct fleet *f = fleet_new();
    uint32_t i;

    (void)state;
    memset(long_text, 'x', sizeof(long_text) - 1);
    words_init(&w, 1);
    row_add(&w, 0, 1)->id = long_text;
    row_add(&w, 1, 1)->address = long_text;
    row_add(&w, 2, 1)->ip = unconst("engines.example");
    row_add(&w, 3, 1)->ip = unconst("");
    row_add(&w, 4, 1)->port = 0;
    row_add(&w, 5, 1)->port = 65536;
    row_add(&w, 6, 1)->id = unconst("two words");
    row_add(&w, 7, 1)->address = unconst("h\r\nX-Evil: 1");
    row_add(&w, FLEET_ENGINES, 1);
    row_add(&w, UINT32_MAX, 1);
    row_add(&w, 9, 1);
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    assert_int_equal(f->count, 10);
    for (i = 0; i < 9; i++)
        assert_null(fleet_engine_get(f, i, 1));
    assert_non_null(fleet_engine_get(f, 9, 1));
    fleet_free(f);
}

static void models_that_do_not_fit_are_left_out_whole(void **state)
{
    static char long_name[97];
    struct fleet *f = fleet_new();
    Slipstream__V1__Engine *e;

    (void)state;
    memset(long_name, 'm', sizeof(long_name) - 1);
    words_init(&w, 1);
    e = row_add(&w, 0, 1);
    e->models[0] = long_name;
    for (e->n_models = 1; e->n_models < 8; e->n_models++)
        e->models[e->n_models] = unconst(e->n_models % 2 ? "odd" : "even");
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    assert_false(fleet_serves(&f->engines[0], long_name, 95));
    assert_true(fleet_serves(&f->engines[0], "odd", 3));
    assert_string_equal(f->engines[0].models[FLEET_ENGINE_MODELS - 1], "even");
    fleet_free(f);
}

static void garbage_and_odd_clocks_change_nothing_that_is_known(void **state)
{
    const uint8_t garbage[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    struct fleet *f = fleet_new();

    (void)state;
    words_init(&w, 1);
    row_add(&w, 0, 1);
    assert_int_equal(info_take(&w, f, 5, -1), ERR_OK);
    assert_true(f->told_scale == 0.0);
    assert_int_equal(fleet_take_info(f, garbage, sizeof(garbage), NOW), ERR_PROTO);
    assert_int_equal(fleet_take_event(f, garbage, sizeof(garbage)), ERR_PROTO);
    assert_non_null(fleet_engine_get(f, 0, 1));
    assert_int_equal(fleet_digest_seed(f), 5);
    fleet_free(f);
}

static void the_link_stands_for_the_heartbeat(void **state)
{
    struct fleet *f = fleet_new();

    (void)state;
    assert_false(fleet_is_fresh(f));
    fleet_set_linked(f, true);
    assert_true(fleet_is_fresh(f));
    fleet_refresh(f, NOW); /* there is no segment to look for */
    fleet_reread(f, NOW);
    assert_true(fleet_is_fresh(f));
    fleet_set_linked(f, false);
    assert_false(fleet_is_fresh(f));
    fleet_free(f);
}

static void alone_a_workflow_stays_and_moves_only_with_its_engine(void **state)
{
    struct fleet *f = fleet_new();
    int first[100];
    unsigned moved = 0, i, on[4] = {0};
    char id[16];
    bool known;

    (void)state;
    words_init(&w, 1);
    for (i = 0; i < 4; i++)
        row_add(&w, i, 1);
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    for (i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "w%u", i);
        first[i] = choose(f, id, "m", i, &known);
        assert_in_range(first[i], 0, 3);
        on[first[i]]++;
    }
    for (i = 0; i < 4; i++)
        assert_in_range(on[i], 10, 45);
    w.engines.conf_epoch = 2;
    w.rows[1].healthy = false;
    assert_int_equal(event_take(&w, f), ERR_OK);
    for (i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "w%u", i);
        int now = choose(f, id, "m", i, &known);

        assert_int_not_equal(now, 1);
        moved += now != first[i];
    }
    assert_int_equal(moved, on[1]);
    fleet_free(f);
}

static void alone_requests_without_a_workflow_go_round(void **state)
{
    struct fleet *f = fleet_new();
    bool known;

    (void)state;
    assert_int_equal(choose(f, "", "m", 0, &known), -1);
    assert_false(known);
    words_init(&w, 1);
    row_add(&w, 0, 1);
    row_add(&w, 1, 1);
    row_add(&w, 2, 1)->healthy = false;
    assert_int_equal(info_take(&w, f, 1, 1), ERR_OK);
    for (uint64_t turn = 0; turn < 6; turn++)
        assert_int_equal(choose(f, "", "m", turn, &known), (int)(turn % 2));
    assert_int_equal(choose(f, "", "another", 0, &known), -1);
    assert_false(known);
    fleet_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_hello_brings_rows_seed_scale_and_clock),
        cmocka_unit_test(an_event_replaces_all_rows),
        cmocka_unit_test(an_event_that_is_older_than_the_hello_changes_nothing),
        cmocka_unit_test(rows_that_cannot_be_are_left_out),
        cmocka_unit_test(models_that_do_not_fit_are_left_out_whole),
        cmocka_unit_test(garbage_and_odd_clocks_change_nothing_that_is_known),
        cmocka_unit_test(the_link_stands_for_the_heartbeat),
        cmocka_unit_test(alone_a_workflow_stays_and_moves_only_with_its_engine),
        cmocka_unit_test(alone_requests_without_a_workflow_go_round),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
