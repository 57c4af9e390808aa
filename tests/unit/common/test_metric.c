/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/metric.h"
#include "common/metric_layout.h"

enum { ROW_TOTAL, ROW_BY_WORKFLOW, ROW_GAUGE, ROW_SECONDS, ROW_FLOW, ROWS };

static const double bounds[] = {1, 10, 0};
static const struct metric_desc descs[ROWS] = {
    {"t_total", "A counter.", "", METRIC_COUNTER, NULL},
    {"t_requests_total", "By workflow.", "workflow_id", METRIC_COUNTER, NULL},
    {"t_level", "A gauge.", "", METRIC_GAUGE, NULL},
    {"t_seconds", "A histogram\nof \\ things.", "workflow_id", METRIC_HISTOGRAM, bounds},
    {"t_flow_total", "Edges.", "workflow_id,source,target", METRIC_COUNTER, NULL},
};

static char run_dir[64];

static int setup(void **state)
{
    (void)state;
    snprintf(run_dir, sizeof(run_dir), "/tmp/slip-metric-XXXXXX");
    clock_set(1000 * NS_PER_S);
    return mkdtemp(run_dir) != NULL ? 0 : -1;
}

static int teardown(void **state)
{
    char path[512];
    struct dirent *d;
    DIR *dir;

    (void)state;
    snprintf(path, sizeof(path), "%s/metrics", run_dir);
    dir = opendir(path);
    while (dir != NULL && (d = readdir(dir)) != NULL) {
        snprintf(path, sizeof(path), "%s/metrics/%s", run_dir, d->d_name);
        unlink(path);
    }
    if (dir != NULL)
        closedir(dir);
    snprintf(path, sizeof(path), "%s/metrics", run_dir);
    rmdir(path);
    return rmdir(run_dir);
}

static struct metric *open_as(const char *process, uint32_t series_max)
{
    struct metric *m = NULL;

    assert_int_equal(metric_open(run_dir, process, descs, ROWS, series_max, &m), ERR_OK);
    return m;
}

static struct metric_series *by_workflow(struct metric *m, unsigned row, const char *id)
{
    return metric_get(m, row, &id);
}

/* The exposition, good until the next call. */
static const char *exposed(const char *skip)
{
    static struct buf text;

    buf_fini(&text);
    assert_int_equal(metric_expose(run_dir, skip, &text), ERR_OK);
    return buf_cstr(&text);
}

#define assert_has(text, part)                                 \
    do {                                                       \
        if (strstr((text), (part)) == NULL)                    \
            fail_msg("\"%s\" is not in:\n%s", (part), (text)); \
    } while (0)
#define assert_lacks(text, part)                           \
    do {                                                   \
        if (strstr((text), (part)) != NULL)                \
            fail_msg("\"%s\" is in:\n%s", (part), (text)); \
    } while (0)

static void counters_of_all_processes_are_added_by_name_and_labels(void **state)
{
    struct metric *a = open_as("a", 16), *b = open_as("b", 32);
    const char *text;

    (void)state;
    metric_add(metric_get(a, ROW_TOTAL, NULL), 2);
    metric_add(metric_get(b, ROW_TOTAL, NULL), 3);
    metric_add(by_workflow(a, ROW_BY_WORKFLOW, "w1"), 1);
    metric_add(by_workflow(b, ROW_BY_WORKFLOW, "w1"), 1);
    metric_add(by_workflow(b, ROW_BY_WORKFLOW, "w2"), 0.5);
    text = exposed(NULL);
    assert_has(text, "# HELP t_total A counter.\n# TYPE t_total counter\nt_total 5\n");
    assert_has(text, "t_requests_total{workflow_id=\"w1\"} 2\n");
    assert_has(text, "t_requests_total{workflow_id=\"w2\"} 0.5\n");
    metric_close(a);
    metric_close(b);
}

static void histogram_is_cumulative_and_its_count_is_its_last_bucket(void **state)
{
    struct metric *m = open_as("a", 16);
    struct metric_series *s = by_workflow(m, ROW_SECONDS, "w");

    (void)state;
    metric_observe(s, 0.5);
    metric_observe(s, 1);
    metric_observe(s, 7);
    metric_observe(s, 11);
    metric_observe(s, NAN);
    assert_true(metric_value(s) == 4);
    assert_has(exposed(NULL), "# HELP t_seconds A histogram\\nof \\\\ things.\n"
                              "# TYPE t_seconds histogram\n"
                              "t_seconds_bucket{workflow_id=\"w\",le=\"1\"} 2\n"
                              "t_seconds_bucket{workflow_id=\"w\",le=\"10\"} 3\n"
                              "t_seconds_bucket{workflow_id=\"w\",le=\"+Inf\"} 4\n"
                              "t_seconds_sum{workflow_id=\"w\"} 19.5\n"
                              "t_seconds_count{workflow_id=\"w\"} 4\n");
    metric_close(m);
}

static void restarted_process_carries_on_but_for_gauges(void **state)
{
    struct metric *m = open_as("a", 16);
    struct metric_series *s;

    (void)state;
    metric_add(metric_get(m, ROW_TOTAL, NULL), 7);
    metric_set(metric_get(m, ROW_GAUGE, NULL), 9);
    metric_observe(by_workflow(m, ROW_SECONDS, "w"), 2);
    metric_close(m);
    m = open_as("a", 16);
    metric_add(metric_get(m, ROW_TOTAL, NULL), 1);
    s = by_workflow(m, ROW_SECONDS, "w");
    assert_true(metric_value(s) == 1);
    metric_observe(s, 2);
    assert_has(exposed(NULL), "t_total 8\n");
    assert_has(exposed(NULL), "t_level 0\n");
    assert_has(exposed(NULL), "t_seconds_count{workflow_id=\"w\"} 2\n");
    metric_close(m);
}

static void another_table_starts_a_new_file(void **state)
{
    struct metric *m = open_as("a", 16);

    (void)state;
    metric_add(metric_get(m, ROW_TOTAL, NULL), 7);
    metric_close(m);
    assert_int_equal(metric_open(run_dir, "a", descs, 2, 16, &m), ERR_OK);
    assert_has(exposed(NULL), "t_total 0\n");
    metric_close(m);
    m = open_as("a", 8);
    assert_has(exposed(NULL), "t_total 0\n");
    metric_close(m);
}

static void counters_of_the_dead_count_and_their_gauges_do_not(void **state)
{
    struct metric *a = open_as("a", 16), *b = open_as("b", 16);

    (void)state;
    metric_add(metric_get(a, ROW_TOTAL, NULL), 2);
    metric_set(metric_get(a, ROW_GAUGE, NULL), 10);
    metric_set(metric_get(b, ROW_GAUGE, NULL), 4);
    metric_close(a);
    assert_has(exposed(NULL), "t_level 14\n");
    clock_advance(4 * NS_PER_S);
    metric_beat(b);
    clock_advance(2 * NS_PER_S);
    assert_has(exposed(NULL), "t_level 4\n");
    assert_has(exposed(NULL), "t_total 2\n");
    clock_advance(4 * NS_PER_S);
    assert_lacks(exposed(NULL), "t_level");
    metric_close(b);
}

static void two_writers_of_one_name_get_two_files(void **state)
{
    struct metric *all[9] = {0};
    int i;

    (void)state;
    for (i = 0; i < 8; i++) {
        all[i] = open_as("a", 16);
        metric_add(metric_get(all[i], ROW_TOTAL, NULL), 1);
    }
    assert_int_equal(metric_open(run_dir, "a", descs, ROWS, 16, &all[8]), ERR_BUSY);
    assert_null(all[8]);
    assert_has(exposed(NULL), "t_total 8\n");
    metric_close(all[3]);
    all[3] = open_as("a", 16);
    assert_true(metric_value(metric_get(all[3], ROW_TOTAL, NULL)) == 1);
    for (i = 0; i < 8; i++)
        metric_close(all[i]);
}

static void hostile_label_values_are_escaped_replaced_and_cut(void **state)
{
    struct metric *m = open_as("a", 16);
    static char longer[601], longest[601];
    const char *three[] = {longer, "b", longest};
    char line[1024];
    const char *text, *at;

    (void)state;
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "a\"b\\c\nd"), 1);
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "\x01\xff\xc3\x28\xed\xa0\x80"), 1);
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"), 1);
    memset(longer, 'x', 600);
    memset(longest, 'x', 600);
    longest[599] = 'y';
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, longer), 1);
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, longest), 2);
    memset(longest, '"', 600);
    metric_add(metric_get(m, ROW_FLOW, three), 3);
    text = exposed(NULL);
    assert_has(text, "t_requests_total{workflow_id=\"a\\\"b\\\\c\\nd\"} 1\n");
    assert_has(text, "t_requests_total{workflow_id=\"___(___\"} 1\n");
    assert_has(text, "t_requests_total{workflow_id=\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\"} 1\n");
    /* Both long ones are there, each on its own. */
    at = strstr(text, "xxxx~");
    assert_non_null(at);
    assert_has(at + 1, "xxxx~");
    assert_has(text, "\\\"~");
    for (; *text != '\0'; text += strcspn(text, "\n") + 1) {
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(text, "\n"), text);
        assert_true(strlen(line) < 600);
    }
    metric_close(m);
}

static void dropped_series_vanish_and_their_room_is_used_again(void **state)
{
    struct metric *m = open_as("a", 3); /* t_total, t_level and one more */
    char id[16];
    int i;

    (void)state;
    for (i = 0; i < 1000; i++) {
        struct metric_series *s;

        snprintf(id, sizeof(id), "w%d", i);
        s = by_workflow(m, ROW_BY_WORKFLOW, id);
        assert_true(metric_value(s) == 0);
        metric_add(s, 1);
        assert_has(exposed(NULL), id);
        metric_drop(m, s);
        assert_lacks(exposed(NULL), "workflow_id");
    }
    assert_has(exposed(NULL), "slipstream_metric_series_dropped_total 0\n");
    metric_close(m);
}

static void series_without_room_go_nowhere_and_are_counted(void **state)
{
    struct metric *m = open_as("a", 3);
    struct metric_series *s;

    (void)state;
    by_workflow(m, ROW_BY_WORKFLOW, "first");
    s = by_workflow(m, ROW_SECONDS, "second");
    metric_observe(s, 5);
    metric_add(s, 5);
    metric_drop(m, s);
    assert_lacks(exposed(NULL), "second");
    assert_has(exposed(NULL), "slipstream_metric_series_dropped_total 1\n");
    metric_close(m);
}

static void unclaimed_series_of_a_predecessor_can_be_dropped(void **state)
{
    struct metric *m = open_as("a", 16);

    (void)state;
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "old"), 1);
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "alive"), 1);
    metric_close(m);
    m = open_as("a", 16);
    by_workflow(m, ROW_BY_WORKFLOW, "alive");
    assert_has(exposed(NULL), "\"old\"");
    metric_drop_unclaimed(m, "workflow_id");
    assert_lacks(exposed(NULL), "\"old\"");
    assert_has(exposed(NULL), "t_requests_total{workflow_id=\"alive\"} 1\n");
    assert_has(exposed(NULL), "t_total 0\n");
    metric_close(m);
}

static void skipped_label_keeps_a_whole_family_out(void **state)
{
    struct metric *m = open_as("a", 16);
    const char *edge[] = {"w", "a", "b"};

    (void)state;
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "w"), 1);
    metric_add(metric_get(m, ROW_FLOW, edge), 1);
    assert_has(exposed("workflow"), "workflow_id");
    assert_lacks(exposed("workflow_id"), "workflow_id");
    assert_lacks(exposed("workflow_id"), "t_flow_total");
    assert_has(exposed("workflow_id"), "t_total 0\n");
    metric_close(m);
}

static void counters_never_fall(void **state)
{
    struct metric *m = open_as("a", 16);
    struct metric_series *s = metric_get(m, ROW_TOTAL, NULL);

    (void)state;
    metric_add(s, 2);
    metric_add(s, -1);
    metric_add(s, NAN);
    assert_true(metric_value(s) == 2);
    metric_close(m);
}

/* Overwrites parts of a good file with random bytes: a scrape stays valid text in any case. */
static void damaged_files_never_break_the_exposition(void **state)
{
    struct metric *m = open_as("a", 32);
    char path[128];
    unsigned seed = 1, i, k;
    int fd;

    (void)state;
    for (i = 0; i < 10; i++) {
        char id[8];

        snprintf(id, sizeof(id), "w%u", i);
        metric_observe(by_workflow(m, ROW_SECONDS, id), i);
        metric_add(by_workflow(m, ROW_BY_WORKFLOW, id), i);
    }
    snprintf(path, sizeof(path), "%s/metrics/a", run_dir);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    for (i = 0; i < 400; i++) {
        const char *text, *line;

        for (k = 0; k < 1 + i % 200; k++) {
            long size = (long)metric_segment_bytes(ROWS, 32), at;
            unsigned char byte = (unsigned char)rand_r(&seed);

            at = 128 + rand_r(&seed) % (size - 128);
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        text = exposed(NULL);
        for (line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
            assert_true(strncmp(line, "# HELP ", 7) == 0 || strncmp(line, "# TYPE ", 7) == 0 ||
                        strncmp(line, "slipstream_", 11) == 0 || strchr(line, ' ') != NULL);
            assert_false(*line == '\n');
        }
        assert_lacks(text, "nan");
        assert_has(text, "slipstream_metric_series_dropped_total");
    }
    close(fd);
    metric_close(m);
    /* And its owner starts all the same. */
    m = open_as("a", 32);
    metric_add(by_workflow(m, ROW_BY_WORKFLOW, "new"), 1);
    assert_has(exposed(NULL), "\"new\"");
    metric_close(m);
}

static void strangers_in_the_folder_are_passed_over(void **state)
{
    struct metric *m = open_as("a", 16);
    char path[128];
    FILE *f;
    int i;

    (void)state;
    for (i = 0; i < 3; i++) {
        static const char *const names[] = {"empty", "short", "a.77.new"};

        snprintf(path, sizeof(path), "%s/metrics/%s", run_dir, names[i]);
        f = fopen(path, "w");
        assert_non_null(f);
        if (i > 0)
            fputs("this is not a metrics file, whatever its name says", f);
        fclose(f);
    }
    assert_has(exposed(NULL), "t_total 0\n");
    metric_close(m);
}

static void missing_folder_is_an_error(void **state)
{
    struct buf text = {0};

    (void)state;
    assert_int_equal(metric_expose(run_dir, NULL, &text), ERR_IO);
    buf_fini(&text);
}

/* A child makes and drops series as fast as it can and is killed in the middle of it, many times
 * over; readers and its successor must find whole series only. */
static void killed_writer_leaves_whole_series_only(void **state)
{
    int round;

    (void)state;
    for (round = 0; round < 20; round++) {
        int ready[2];
        char byte = 0;
        pid_t pid;
        struct metric *m;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            m = open_as("a", 8);
            for (unsigned i = 0;; i++) {
                const char *id = i % 2 ? "odd-odd-odd-odd" : "even-even-even-even-even";
                struct metric_series *s = by_workflow(m, ROW_BY_WORKFLOW, id);

                metric_add(s, 1);
                if (i == 1000 && write(ready[1], "x", 1) != 1)
                    _exit(1);
                metric_drop(m, s);
            }
        }
        assert_int_equal(read(ready[0], &byte, 1), 1);
        for (int i = 0; i < 50; i++) {
            const char *at = strstr(exposed(NULL), "workflow_id=\"");

            if (at != NULL)
                assert_true(strncmp(at + 13, "odd-odd-odd-odd\"} ", 18) == 0 ||
                            strncmp(at + 13, "even-even-even-even-even\"} ", 27) == 0);
        }
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        m = open_as("a", 8);
        metric_drop_unclaimed(m, "workflow_id");
        assert_lacks(exposed(NULL), "workflow_id");
        metric_close(m);
        close(ready[0]);
        close(ready[1]);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(counters_of_all_processes_are_added_by_name_and_labels),
        T(histogram_is_cumulative_and_its_count_is_its_last_bucket),
        T(restarted_process_carries_on_but_for_gauges),
        T(another_table_starts_a_new_file),
        T(counters_of_the_dead_count_and_their_gauges_do_not),
        T(two_writers_of_one_name_get_two_files),
        T(hostile_label_values_are_escaped_replaced_and_cut),
        T(dropped_series_vanish_and_their_room_is_used_again),
        T(series_without_room_go_nowhere_and_are_counted),
        T(unclaimed_series_of_a_predecessor_can_be_dropped),
        T(skipped_label_keeps_a_whole_family_out),
        T(counters_never_fall),
        T(damaged_files_never_break_the_exposition),
        T(strangers_in_the_folder_are_passed_over),
        T(missing_folder_is_an_error),
        T(killed_writer_leaves_whole_series_only),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
