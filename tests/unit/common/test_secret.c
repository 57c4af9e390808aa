/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/must.h"
#include "common/secret.h"

static char folder[] = "/tmp/slip-secret-XXXXXX";
static char path[128];
static struct buf note;

static void file_write(const void *bytes, size_t len, mode_t mode)
{
    FILE *f;

    unlink(path);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, len, f), len);
    fclose(f);
    assert_int_equal(chmod(path, mode), 0);
    buf_clear(&note);
}

/* What the note says behind the file's name. */
static const char *said(void)
{
    const char *s = buf_cstr(&note);

    return strncmp(s, path, strlen(path)) == 0 ? s + strlen(path) + 2 : s;
}

static void check_key(const char *text, const char *key)
{
    char *got = NULL;

    file_write(text, strlen(text), 0600);
    assert_int_equal(secret_key_read(path, &got, &note), ERR_OK);
    assert_string_equal(got, key);
    assert_int_equal(note.len, 0);
    secret_free(got);
}

static void check_refused(const void *bytes, size_t len, mode_t mode, const char *why)
{
    char untouched[] = "x", *got = untouched;

    file_write(bytes, len, mode);
    assert_int_equal(secret_key_read(path, &got, &note), ERR_CONF);
    assert_ptr_equal(got, untouched);
    assert_string_equal(said(), why);
}

static void a_key_is_the_first_line_without_white_space_around_it(void **state)
{
    char longest[SECRET_KEY_MAX + 2];

    (void)state;
    check_key("k", "k");
    check_key("k\n", "k");
    check_key("  two words \t\r\nsecond line\n", "two words");
    memset(longest, 'a', sizeof(longest));
    longest[SECRET_KEY_MAX] = '\0';
    check_key(longest, longest);
}

static void what_is_no_key_is_refused_and_named(void **state)
{
    static char big[SECRET_FILE_MAX + 1];
    char *got;

    (void)state;
    memset(big, 'a', sizeof(big));
    check_refused("", 0, 0600, "is empty");
    check_refused("\nk\n", 3, 0600, "holds no key in its first line");
    check_refused(" \r\n", 3, 0644, "holds no key in its first line");
    check_refused("a\0b\n", 4, 0600, "is no text");
    check_refused(big, SECRET_KEY_MAX + 1, 0600, "the key is too long");
    check_refused(big, SECRET_FILE_MAX + 1, 0600, "is too long");
    check_refused("k\n", 2, 0602, "everybody may write it");
    unlink(path);
    buf_clear(&note);
    assert_int_equal(secret_key_read(path, &got, &note), ERR_CONF);
    assert_string_equal(said(), "No such file or directory");
    buf_clear(&note);
    assert_int_equal(secret_key_read(folder, &got, &note), ERR_CONF);
    assert_non_null(strstr(buf_cstr(&note), ": no regular file"));
    assert_int_equal(mkfifo(path, 0600), 0); /* must not hang */
    buf_clear(&note);
    assert_int_equal(secret_key_read(path, &got, &note), ERR_CONF);
    assert_string_equal(said(), "no regular file");
}

static void a_file_that_everybody_may_read_is_told(void **state)
{
    char *got = NULL;

    (void)state;
    file_write("k\n", 2, 0644);
    assert_int_equal(secret_key_read(path, &got, &note), ERR_OK);
    assert_string_equal(got, "k");
    assert_string_equal(said(), "everybody may read it");
    secret_free(got);
}

static void a_name_without_slash_is_a_credential(void **state)
{
    char *got = NULL;

    (void)state;
    file_write("k\n", 2, 0600);
    setenv("CREDENTIALS_DIRECTORY", folder, 1);
    assert_int_equal(secret_key_read("secret", &got, &note), ERR_OK);
    assert_string_equal(got, "k");
    secret_free(got);
    unsetenv("CREDENTIALS_DIRECTORY");
    assert_int_equal(secret_key_read("secret", &got, &note), ERR_CONF);
    assert_string_equal(buf_cstr(&note), "secret: No such file or directory");
}

static void a_whole_file_comes_as_it_is(void **state)
{
    char *got = NULL;

    (void)state;
    file_write(" a\nb\n", 5, 0600);
    assert_int_equal(secret_file_read(path, &got, &note), ERR_OK);
    assert_string_equal(got, " a\nb\n");
    secret_free(got);
}

static void only_the_same_secret_is_the_same(void **state)
{
    (void)state;
    assert_true(secret_is_same("abc", "abc"));
    assert_false(secret_is_same("abd", "abc"));
    assert_false(secret_is_same("ab", "abc"));
    assert_false(secret_is_same("abcd", "abc"));
    assert_false(secret_is_same("", ""));
    assert_false(secret_is_same("abc", NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_is_the_first_line_without_white_space_around_it),
        cmocka_unit_test(what_is_no_key_is_refused_and_named),
        cmocka_unit_test(a_file_that_everybody_may_read_is_told),
        cmocka_unit_test(a_name_without_slash_is_a_credential),
        cmocka_unit_test(only_the_same_secret_is_the_same),
        cmocka_unit_test(a_whole_file_comes_as_it_is),
    };
    int failed;

    must(mkdtemp(folder) != NULL);
    snprintf(path, sizeof(path), "%s/secret", folder);
    unsetenv("CREDENTIALS_DIRECTORY");
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    rmdir(folder);
    buf_fini(&note);
    return failed;
}
