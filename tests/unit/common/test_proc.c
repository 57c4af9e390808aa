/* SPDX-License-Identifier: Apache-2.0 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/proc.h"

static char folder[] = "/tmp/slip-proc-XXXXXX";
static char good_path[64], bad_path[64];

static void file_write(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int setup(void **state)
{
    (void)state;
    if (mkdtemp(folder) == NULL)
        return -1;
    snprintf(good_path, sizeof(good_path), "%s/good.yaml", folder);
    snprintf(bad_path, sizeof(bad_path), "%s/bad.yaml", folder);
    file_write(good_path, "mailbox: {max_boxes: 7}\n");
    file_write(bad_path, "mailbox: {max_boxs: 7}\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(good_path);
    unlink(bad_path);
    return rmdir(folder);
}

/* Runs proc_start in a child; answers its exit status, 200 + instance where it came back, and what
 * it printed (both streams). */
static int start_in_child(bool has_instance, char **argv, char *text, size_t size)
{
    int argc = 0, out[2], status;
    size_t len = 0;
    ssize_t n;
    pid_t pid;

    while (argv[argc] != NULL)
        argc++;
    assert_int_equal(pipe(out), 0);
    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct proc_args args = {
            .name = "slipstream-demo", .summary = "A demo.", .has_instance = has_instance};
        struct conf *conf = NULL;

        dup2(out[1], 1);
        dup2(out[1], 2);
        close(out[0]);
        close(out[1]);
        proc_start(&args, argc, argv, &conf);
        raise(SIGPIPE); /* ignored by now */
        if (conf->mailbox.max_boxes != 7)
            _exit(1);
        conf_free(conf);
        _exit(200 + (int)args.instance);
    }
    close(out[1]);
    while (len + 1 < size && (n = read(out[0], text + len, size - 1 - len)) > 0)
        len += (size_t)n;
    text[len] = '\0';
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define RUN(has_instance, ...) \
    start_in_child(has_instance, (char *[]){"demo", __VA_ARGS__, NULL}, text, sizeof(text))

static void good_file_starts(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(RUN(false, "--config", good_path), 201);
    assert_int_equal(RUN(true, "--config", good_path, "--instance", "3"), 203);
    setenv("SLIPSTREAM_CONFIG", good_path, 1);
    assert_int_equal(start_in_child(false, (char *[]){"demo", NULL}, text, sizeof(text)), 201);
    unsetenv("SLIPSTREAM_CONFIG");
}

static void bad_arguments_are_64(void **state)
{
    char text[4096];

    (void)state;
    assert_int_equal(RUN(false, "--nonsense"), 64);
    assert_int_equal(RUN(false, "argument"), 64);
    assert_int_equal(RUN(false, "--config", good_path, "--instance", "3"), 64);
    assert_int_equal(RUN(true, "--config", good_path, "--instance", "0"), 64);
    assert_int_equal(RUN(true, "--config", good_path, "--instance", "1x"), 64);
    assert_int_equal(RUN(true, "--config", good_path, "--instance", "-1"), 64);
    assert_int_equal(RUN(true, "--config", good_path, "--instance"), 64);
}

static void bad_configuration_is_78_and_tells_all(void **state)
{
    char text[4096], want[200];

    (void)state;
    assert_int_equal(RUN(false, "--config", bad_path), 78);
    snprintf(want, sizeof(want),
             "%s:1: mailbox.max_boxs: no such setting; did you mean \"max_boxes\"?\n", bad_path);
    assert_string_equal(text, want);
    assert_int_equal(RUN(false, "--config", bad_path, "--check"), 78);
    assert_string_equal(text, want);
    assert_int_equal(RUN(false, "--config", "/nonexistent/file"), 78);
}

static void questions_are_answered_without_a_start(void **state)
{
    static char text[16384];

    (void)state;
    assert_int_equal(RUN(false, "--config", good_path, "--check"), 0);
    assert_string_equal(text, "configuration ok\n");
    assert_int_equal(RUN(false, "--config", good_path, "--print-config"), 0);
    assert_non_null(strstr(text, "  max_boxes: 7\n"));
    assert_int_equal(RUN(false, "--version"), 0);
    assert_string_equal(text, "slipstream-demo " SLIP_VERSION "\n");
    assert_int_equal(RUN(false, "--help"), 0);
    assert_non_null(strstr(text, "A demo."));
    assert_null(strstr(text, "--instance"));
    assert_int_equal(RUN(true, "--help"), 0);
    assert_non_null(strstr(text, "--instance"));
}

static void notices_reach_the_service_manager(void **state)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    char text[200];
    ssize_t n;

    (void)state;
    snprintf(to.sun_path, sizeof(to.sun_path), "%s/notify", folder);
    assert_int_equal(bind(fd, (struct sockaddr *)&to, sizeof(to)), 0);
    setenv("NOTIFY_SOCKET", to.sun_path, 1);
    clock_set(1000 * NS_PER_MS);
    proc_ready("serving");
    proc_alive();
    clock_advance(499 * NS_PER_MS);
    proc_alive(); /* too early for another */
    proc_reloading();
    clock_advance(NS_PER_MS);
    proc_alive();
    proc_stopping("draining");
#define NEXT(want)                                          \
    do {                                                    \
        n = recv(fd, text, sizeof(text) - 1, MSG_DONTWAIT); \
        assert_true(n > 0);                                 \
        text[n] = '\0';                                     \
        assert_memory_equal(text, (want), strlen(want));    \
    } while (0)
    NEXT("READY=1\nSTATUS=serving");
    NEXT("WATCHDOG=1");
    NEXT("RELOADING=1\nMONOTONIC_USEC=");
    NEXT("WATCHDOG=1");
    NEXT("STOPPING=1\nSTATUS=draining");
    assert_true(recv(fd, text, sizeof(text), MSG_DONTWAIT) < 0);
    unsetenv("NOTIFY_SOCKET");
    close(fd);
    unlink(to.sun_path);
}

static void random_numbers_differ_and_are_never_zero(void **state)
{
    uint64_t last = 0;
    int i;

    (void)state;
    for (i = 0; i < 1000; i++) {
        uint64_t now = proc_random();

        assert_true(now != 0 && now != last);
        last = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(good_file_starts),
        cmocka_unit_test(bad_arguments_are_64),
        cmocka_unit_test(bad_configuration_is_78_and_tells_all),
        cmocka_unit_test(questions_are_answered_without_a_start),
        cmocka_unit_test(notices_reach_the_service_manager),
        cmocka_unit_test(random_numbers_differ_and_are_never_zero),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
