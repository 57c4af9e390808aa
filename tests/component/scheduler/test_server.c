/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/component/scheduler/world.h"

static void workflow_is_placed_counted_and_listed(void **state)
{
    Slipstream__V1__WorkflowQuery list;
    Slipstream__V1__Workflows *ws;
    Slipstream__V1__Workflow *w;
    char reason[32];
    struct link l;
    int first;

    slipstream__v1__workflow_query__init(&list);
    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    first = place(&l, 1, "w", reason);
    assert_true(first >= 0);
    assert_string_equal(reason, "new");
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_FIRST_BYTE);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 2, "w", reason), first);
    assert_string_equal(reason, "home");
    w = workflow_get(&l, "w");
    assert_non_null(w);
    assert_int_equal(w->total_requests, 2);
    assert_int_equal(w->active_agents, 1);
    assert_float_equal(w->cache_hit_rate, 0.4, 1e-9);
    assert_string_equal(w->assigned_instance, first == 0 ? "e0" : "e1");
    assert_string_equal(w->state, "active");
    assert_true(clock_wall_ms() + 2 - w->created_ms < ANY_MS); /* both are cut to milliseconds */
    assert_float_equal(w->latency_mean, 0.25, 1e-6);
    assert_int_equal(w->n_agents, 1);
    assert_string_equal(w->agents[0]->id, "a");
    slipstream__v1__workflow__free_unpacked(w, NULL);
    assert_null(workflow_get(&l, "unknown"));
    assert_int_equal(l.status, ERR_WORKFLOW);

    place(&l, 3, "x", NULL);
    place(&l, 4, "y", NULL);
    list.limit = 2;
    assert_int_equal(call(&l, LIST, &list.base), ERR_OK);
    ws = slipstream__v1__workflows__unpack(NULL, l.body.len, body_of(&l));
    assert_int_equal(ws->n_workflows, 2);
    assert_string_equal(ws->workflows[0]->workflow_id, "y");
    assert_string_equal(ws->workflows[1]->workflow_id, "x");
    list.cursor = ws->cursor;
    assert_int_equal(call(&l, LIST, &list.base), ERR_OK);
    list.cursor = (char *)(uintptr_t) "zz";
    slipstream__v1__workflows__free_unpacked(ws, NULL);
    ws = slipstream__v1__workflows__unpack(NULL, l.body.len, body_of(&l));
    assert_int_equal(ws->n_workflows, 1);
    assert_string_equal(ws->workflows[0]->workflow_id, "w");
    assert_string_equal(ws->cursor, "");
    slipstream__v1__workflows__free_unpacked(ws, NULL);
    assert_int_equal(call(&l, LIST, &list.base), ERR_VALUE);
    link_close(&l);
}

static void dead_engines_are_found_and_refused_until_they_return(void **state)
{
    char reason[32];
    struct link l;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    atomic_store(&engines[home].dead, true);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 2, "w", reason), 1 - home);
    assert_string_equal(reason, "rehomed");
    atomic_store(&engines[1 - home].dead, true);
    engines_wait(&l, 0);
    assert_int_equal(place(&l, 3, "w", NULL), -(int)ERR_NO_ENGINE);
    atomic_store(&engines[home].dead, false);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 4, "w", NULL), home);
    link_close(&l);
}

static void restart_keeps_totals_and_counts_restated_requests_once(void **state)
{
    Slipstream__V1__InflightItem item, *items = &item;
    Slipstream__V1__Inflight page;
    Slipstream__V1__SchedulerStatus *st;
    Slipstream__V1__Workflow *w;
    query_msg q = query_of(2, "w");
    struct link l;
    int home;

    slipstream__v1__inflight_item__init(&item);
    slipstream__v1__inflight__init(&page);
    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 2, "w", NULL), home);
    assert_true(WIFSIGNALED(scheduler_end(SIGKILL)));
    scheduler = scheduler_spawn();
    link_wait_up(&l, 2);

    item.query = &q;
    item.engine = (uint32_t)home;
    item.dispatched = true;
    page.n_items = 1;
    page.items = &items;
    page.last = true;
    assert_int_equal(call(&l, RESUME, &page.base), ERR_OK);
    st = status_get(&l);
    assert_int_equal(st->leases, 1);
    assert_int_equal(st->workflows, 1);
    slipstream__v1__scheduler_status__free_unpacked(st, NULL);
    w = workflow_get(&l, "w");
    assert_int_equal(w->total_requests, 2);
    assert_int_equal(w->prompt_tokens, 1000);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    report(&l, 2, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(place(&l, 3, "w", NULL), home);
    w = workflow_get(&l, "w");
    assert_int_equal(w->total_requests, 3);
    assert_int_equal(w->prompt_tokens, 2000);
    slipstream__v1__workflow__free_unpacked(w, NULL);
    link_close(&l);
}

static void vanished_worker_gives_its_leases_back(void **state)
{
    Slipstream__V1__SchedulerStatus *st;
    struct link l, doomed;
    uint64_t start;
    uint32_t leases;

    (void)state;
    link_open(&l);
    link_open(&doomed);
    for (uint64_t i = 0; i < 20; i++)
        assert_true(place(&doomed, i, "w", NULL) >= 0);
    link_close(&doomed);
    start = clock_ms();
    do {
        st = status_get(&l);
        leases = st->leases;
        slipstream__v1__scheduler_status__free_unpacked(st, NULL);
        assert_true(clock_ms() - start < ANY_MS);
        loop_turn(l.loop, 10);
    } while (leases > 0);
#ifndef SLIP_SANITIZED
    assert_true(clock_ms() - start < 5000); /* half a second, on a machine that is not busy */
#endif
    link_close(&l);
}

static void only_one_scheduler_runs_in_a_folder(void **state)
{
    struct link l;
    pid_t second;
    int status;

    (void)state;
    link_open(&l);
    second = scheduler_spawn();
    assert_int_equal(waitpid(second, &status, 0), second);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 0 && WEXITSTATUS(status) != 127);
    assert_true(place(&l, 1, "w", NULL) >= 0); /* the first has not noticed */
    link_close(&l);
}

static void reload_adds_and_removes_engines_without_touching_the_rest(void **state)
{
    struct link l;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    conf_write(3, "");
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    engines_wait(&l, 3);
    assert_int_equal(place(&l, 2, "w", NULL), home);
    conf_write(1, "  policy: roundrobin\n");
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    engines_wait(&l, 1);
    assert_int_equal(place(&l, 3, "w", NULL), 0);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    conf_write(1, "  policy: nonsense\n"); /* refused: what was goes on */
    assert_int_equal(kill(scheduler, SIGHUP), 0);
    assert_int_equal(place(&l, 4, "w", NULL), 0);
    link_close(&l);
}

static void nonsense_of_a_peer_is_refused_and_harms_nobody(void **state)
{
    Slipstream__V1__Reports *reports;
    char longest[300] = "";
    query_msg q = query_of(1, longest);
    struct link l;
    uint64_t digests[4200] = {0};
    Slipstream__V1__AgentNote note;

    slipstream__v1__agent_note__init(&note);
    (void)state;
    link_open(&l);
    memset(longest, 'x', sizeof(longest));
    longest[257] = '\0';
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "a\tb");
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "\xff\xfe");
    assert_int_equal(call(&l, PLACE, &q.base), ERR_ID);
    strcpy(longest, "w");
    q.digests = digests;
    q.n_digests = 4200;
    assert_int_equal(call(&l, PLACE, &q.base), ERR_TOO_LARGE);
    q.n_digests = 0;
    q.strategy = (Slipstream__V1__Strategy)77;
    assert_int_equal(call(&l, PLACE, &q.base), ERR_INVALID);
    assert_int_equal(call(&l, NOTE, &note.base), ERR_ID);

    /* Half a million empty items in a megabyte: more memory than one call may take. */
    reports = calloc(1, sizeof(*reports));
    assert_non_null(reports);
    slipstream__v1__reports__init(reports);
    reports->n_items = 100000;
    reports->items = calloc(reports->n_items, sizeof(*reports->items));
    assert_non_null(reports->items);
    for (size_t i = 0; i < reports->n_items; i++) {
        reports->items[i] = calloc(1, sizeof(**reports->items));
        assert_non_null(reports->items[i]);
        slipstream__v1__report_item__init(reports->items[i]);
    }
    assert_int_not_equal(call(&l, REPORT, &reports->base), ERR_OK);
    slipstream__v1__reports__free_unpacked(reports, NULL);

    strcpy(longest, "w");
    assert_true(place(&l, 9, "w", NULL) >= 0);
    link_close(&l);
}

static void fleet_segment_says_what_the_scheduler_knows(void **state)
{
    const struct fleet_segment *s;
    struct fleet_engine row;
    char path[120];
    struct link l;
    struct shm shm;
    unsigned homes = 0;
    int home;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    home = place(&l, 1, "w", NULL);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    snprintf(path, sizeof(path), "%s/run/fleet", dir);
    assert_int_equal(shm_open_ro(path, SHM_FLEET, FLEET_LAYOUT, sizeof(*s), &shm), ERR_OK);
    s = (const struct fleet_segment *)(const void *)shm.head;
    assert_int_equal(s->engine_count, 2);
    assert_true(s->epoch == rpc_client_epoch(l.client));
    assert_true(shm_beat_age_ms(&shm) < 10000);
    for (unsigned i = 0; i < 2; i++) {
        assert_true(snapshot_read(&s->engines[i].seq, s->engines[i].words, &row, sizeof(row)));
        assert_int_equal(row.flags, FLEET_USED | FLEET_HEALTHY | FLEET_PROBED);
        assert_string_equal(row.id, i == 0 ? "e0" : "e1");
        assert_string_equal(row.address, "127.0.0.1");
        assert_int_equal(row.port, engines[i].port);
        assert_string_equal(row.models[0], "model-a");
    }
    for (unsigned i = 0; i < FLEET_HOMES; i++) {
        struct fleet_home h;

        assert_true(snapshot_read(&s->homes[i].seq, s->homes[i].words, &h, sizeof(h)));
        if (h.live == 0)
            continue;
        homes++;
        assert_int_equal(h.engine, home);
        assert_int_equal(h.requests, 1);
        assert_int_equal(h.prompt_tokens, 1000);
        assert_int_equal(h.home_tokens, 1020);
    }
    assert_int_equal(homes, 1);
    shm_close(&shm);
    link_close(&l);
}

static void rows_that_the_predecessor_died_in_are_left_out(void **state)
{
    struct fleet_segment *s = malloc(sizeof(*s));
    char path[120], reason[32];
    struct link l;
    uint64_t odd;
    int fd;

    (void)state;
    link_open(&l);
    engines_wait(&l, 2);
    place(&l, 1, "w", NULL);
    place(&l, 2, "x", NULL);
    scheduler_end(SIGKILL);
    snprintf(path, sizeof(path), "%s/run/fleet", dir);
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, s, sizeof(*s), 0), sizeof(*s));
    /* As if it had been killed while it wrote: half of the rows, and an engine's. */
    for (unsigned i = 0; i < FLEET_HOMES; i += 2) {
        odd = s->homes[i].seq | 1;
        if (odd != 1)
            assert_int_equal(
                pwrite(fd, &odd, 8,
                       (off_t)(offsetof(struct fleet_segment, homes) + i * sizeof(s->homes[0]))),
                8);
    }
    odd = s->engines[1].seq | 1;
    assert_int_equal(
        pwrite(fd, &odd, 8,
               (off_t)(offsetof(struct fleet_segment, engines) + sizeof(s->engines[0]))),
        8);
    close(fd);
    free(s);
    scheduler = scheduler_spawn();
    link_wait_up(&l, 2);
    engines_wait(&l, 2);
    assert_true(place(&l, 3, "w", reason) >= 0);
    assert_true(place(&l, 4, "x", reason) >= 0);
    link_close(&l);
}

static void garbage_in_place_of_the_segment_is_replaced(void **state)
{
    struct link l;

    (void)state;
    link_open(&l);
    scheduler_end(SIGKILL);
    file_write("run/fleet", "this is no segment");
    scheduler = scheduler_spawn();
    link_wait_up(&l, 2);
    engines_wait(&l, 2);
    assert_true(place(&l, 1, "w", NULL) >= 0);
    link_close(&l);
}

static void metrics_name_a_workflow_until_it_ends(void **state)
{
    Slipstream__V1__WorkflowRef ref;
    struct buf text = {0};
    char run[100];
    struct link l;
    uint64_t end = clock_ms() + ANY_MS;

    (void)state;
    slipstream__v1__workflow_ref__init(&ref);
    snprintf(run, sizeof(run), "%s/run", dir);
    link_open(&l);
    engines_wait(&l, 2);
    place(&l, 1, "w\"x", NULL);
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    assert_int_equal(metric_expose(run, NULL, &text), ERR_OK);
    assert_non_null(strstr(
        buf_cstr(&text), "\nvllm_workflow_requests_total{workflow_id=\"w\\\"x\",tenant=\"\"} 1\n"));
    assert_non_null(
        strstr(buf_cstr(&text),
               "\nvllm_workflow_cache_hit_rate{workflow_id=\"w\\\"x\",tenant=\"\"} 0.4\n"));
    while (strstr(buf_cstr(&text), "\nslipstream_scheduler_decisions_total{reason=\"new\"} 1\n") ==
           NULL) {
        assert_true(clock_ms() < end);
        loop_turn(l.loop, 20);
        buf_clear(&text);
        assert_int_equal(metric_expose(run, NULL, &text), ERR_OK);
    }
    ref.workflow_id = (char *)(uintptr_t) "w\"x";
    assert_int_equal(call(&l, END, &ref.base), ERR_OK);
    assert_int_equal(call(&l, END, &ref.base), ERR_WORKFLOW);
    buf_clear(&text);
    assert_int_equal(metric_expose(run, NULL, &text), ERR_OK);
    assert_null(strstr(buf_cstr(&text), "w\\\"x"));
    buf_fini(&text);
    link_close(&l);
}

static void mail_is_counted_and_only_trusted_peers_tell_of_it(void **state)
{
    Slipstream__V1__MailNote items[2], *notes[2] = {&items[0], &items[1]};
    Slipstream__V1__MailNotes mail;
    struct buf text = {0};
    char run[100];
    struct link l, other;

    (void)state;
    slipstream__v1__mail_notes__init(&mail);
    mail.notes = notes;
    mail.n_notes = 2;
    for (int i = 0; i < 2; i++) {
        slipstream__v1__mail_note__init(&items[i]);
        items[i].workflow_id = items[i].agent_id = (char *)(uintptr_t) "w";
        items[i].messages = 3;
    }
    snprintf(run, sizeof(run), "%s/run", dir);
    link_open(&l);
    link_start(&other, "sesame");
    link_wait_up(&other, 1);
    assert_int_equal(call(&other, NOTE_MAIL, &mail.base), ERR_DENIED);
    assert_int_equal(call(&l, NOTE_MAIL, &mail.base), ERR_OK);
    items[0].workflow_id = (char *)(uintptr_t) ""; /* the other one counts all the same */
    assert_int_equal(call(&l, NOTE_MAIL, &mail.base), ERR_ID);
    assert_null(workflow_get(&l, "w")); /* mail alone makes no workflow */
    assert_int_equal(metric_expose(run, NULL, &text), ERR_OK);
    assert_non_null(strstr(buf_cstr(&text), "\nslipstream_scheduler_mail_total 9\n"));
    buf_fini(&text);
    link_close(&other);
    link_close(&l);
}

static void time_scale_is_undone_on_the_way_out(void **state)
{
    Slipstream__V1__Workflow *w;
    struct link l;
    query_msg q;
    Slipstream__V1__Decision *d;

    (void)state;
    scheduler_end(SIGTERM);
    scale = 20;
    conf_write(2, "");
    scheduler = scheduler_spawn();
    link_open(&l);
    engines_wait(&l, 2);
    assert_true(place(&l, 1, "w", NULL) >= 0); /* checks the deadline, which is real time */
    report(&l, 1, SLIPSTREAM__V1__REPORT_KIND__REPORT_DONE);
    w = workflow_get(&l, "w");
    assert_float_equal(w->latency_mean, 5, 1e-6); /* a quarter of a second is five, modelled */
    assert_true(clock_wall_ms() + 2 - w->created_ms < ANY_MS); /* both are cut to milliseconds */
    slipstream__v1__workflow__free_unpacked(w, NULL);
    atomic_store(&engines[0].dead, true);
    atomic_store(&engines[1].dead, true);
    engines_wait(&l, 0);
    q = query_of(2, "w");
    assert_int_equal(call(&l, PLACE, &q.base), ERR_OK);
    d = slipstream__v1__decision__unpack(NULL, l.body.len, body_of(&l));
    assert_int_equal(d->err, ERR_NO_ENGINE);
    assert_int_equal(d->retry_ms, 100);
    slipstream__v1__decision__free_unpacked(d, NULL);
    link_close(&l);
}

static void client_with_a_key_sees_its_own_tenant_only(void **state)
{
    Slipstream__V1__AgentNote note;
    Slipstream__V1__Workflow *w;
    struct link l, other;
    query_msg q = query_of(1, "w");

    (void)state;
    slipstream__v1__agent_note__init(&note);
    link_open(&l);
    place(&l, 1, "w", NULL); /* of the tenant "" */
    link_start(&other, "sesame");
    link_wait_up(&other, 1);
    assert_true(l.was_told);
    assert_false(other.was_told);
    assert_null(workflow_get(&other, "w"));
    assert_int_equal(other.status, ERR_WORKFLOW);
    assert_int_equal(call(&other, PLACE, &q.base), ERR_DENIED);
    note.tenant = (char *)(uintptr_t) "somebody else";
    note.workflow_id = (char *)(uintptr_t) "v";
    note.agent_id = (char *)(uintptr_t) "b";
    assert_int_equal(call(&other, NOTE, &note.base), ERR_OK);
    w = workflow_get(&other, "v");
    assert_string_equal(w->tenant, "acme");
    slipstream__v1__workflow__free_unpacked(w, NULL);
    assert_null(workflow_get(&l, "v"));
    link_close(&other);
    link_start(&other, "guess"); /* never comes up */
    for (int i = 0; i < 20; i++)
        link_turn(&other);
    assert_int_equal(other.ups, 0);
    link_close(&other);
    link_close(&l);
}

static void revoked_requests_are_told_to_their_worker(void **state)
{
    Slipstream__V1__WorkflowRef ref;
    Slipstream__V1__SchedulerStatus *st;
    uint64_t end = clock_ms() + ANY_MS;
    struct link l;

    (void)state;
    slipstream__v1__workflow_ref__init(&ref);
    link_open(&l);
    engines_wait(&l, 2);
    place(&l, 1, "w", NULL);
    place(&l, 2, "w", NULL);
    ref.workflow_id = (char *)(uintptr_t) "w";
    ref.purge = true;
    assert_int_equal(call(&l, END, &ref.base), ERR_OK);
    while (l.revokes < 2) {
        assert_true(clock_ms() < end);
        link_turn(&l);
    }
    st = status_get(&l);
    assert_int_equal(st->leases, 0);
    slipstream__v1__scheduler_status__free_unpacked(st, NULL);
    link_close(&l);
}

#define BOTH(test)                                         \
    {#test " (nng)", test, open_nng, world_close, NULL},   \
    {                                                      \
#test " (ring)", test, open_shm, world_close, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        BOTH(workflow_is_placed_counted_and_listed),
        BOTH(dead_engines_are_found_and_refused_until_they_return),
        BOTH(restart_keeps_totals_and_counts_restated_requests_once),
        BOTH(vanished_worker_gives_its_leases_back),
        BOTH(only_one_scheduler_runs_in_a_folder),
        BOTH(reload_adds_and_removes_engines_without_touching_the_rest),
        BOTH(nonsense_of_a_peer_is_refused_and_harms_nobody),
        BOTH(fleet_segment_says_what_the_scheduler_knows),
        BOTH(rows_that_the_predecessor_died_in_are_left_out),
        BOTH(garbage_in_place_of_the_segment_is_replaced),
        BOTH(metrics_name_a_workflow_until_it_ends),
        BOTH(mail_is_counted_and_only_trusted_peers_tell_of_it),
        BOTH(time_scale_is_undone_on_the_way_out),
        BOTH(client_with_a_key_sees_its_own_tenant_only),
        BOTH(revoked_requests_are_told_to_their_worker),
    };

    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
