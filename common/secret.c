/* SPDX-License-Identifier: Apache-2.0 */
#include "common/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/must.h"

static const char *path_of(const char *name, char *text, size_t size)
{
    const char *folder = getenv("CREDENTIALS_DIRECTORY");

    if (folder == NULL || strchr(name, '/') != NULL ||
        snprintf(text, size, "%s/%s", folder, name) >= (int)size)
        return name;
    return text;
}

static void say(struct buf *note, const char *name, const char *words)
{
    buf_addf(note, "%s%s: %s", note->len > 0 ? "; " : "", name, words);
}

/* Not blocking: what is opened may be a pipe. -1: note says why. */
static int file_open(const char *name, struct buf *note)
{
    char text[PATH_MAX];
    int fd = open(path_of(name, text, sizeof(text)), O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    struct stat st;

    if (fd < 0) {
        say(note, name, strerror(errno));
        return -1;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        say(note, name, "no regular file");
        close(fd);
        return -1;
    }
    if ((st.st_mode & S_IWOTH) != 0) {
        say(note, name, "everybody may write it");
        close(fd);
        return -1;
    }
    if ((st.st_mode & S_IROTH) != 0)
        say(note, name, "everybody may read it");
    return fd;
}

/* Replaces a warning that file_open() may have left. */
static enum err fail(const char *name, const char *why, struct buf *note, size_t noted)
{
    note->len = noted;
    say(note, name, why);
    return ERR_CONF;
}

/* Up to size - 1 bytes, NUL-terminated. */
static bool file_fill(int fd, char *text, size_t size, size_t *len)
{
    ssize_t n = 0;

    *len = 0;
    do {
        *len += (size_t)n;
        n = read(fd, text + *len, size - 1 - *len);
    } while (n > 0 || (n < 0 && errno == EINTR && (n = 0) == 0));
    text[*len] = '\0';
    return n == 0;
}

enum err secret_file_read(const char *name, char **out, struct buf *note)
{
    size_t noted = note->len, n;
    int fd = file_open(name, note);
    const char *why = NULL;
    char *text;

    if (fd < 0)
        return ERR_CONF;
    text = malloc(SECRET_FILE_MAX + 2);
    must(text != NULL);
    if (!file_fill(fd, text, SECRET_FILE_MAX + 2, &n))
        why = "cannot be read";
    else if (n == 0)
        why = "is empty";
    else if (n > SECRET_FILE_MAX)
        why = "is too long";
    else if (memchr(text, '\0', n) != NULL)
        why = "is no text";
    close(fd);
    if (why == NULL) {
        *out = text;
        return ERR_OK;
    }
    explicit_bzero(text, n);
    free(text);
    return fail(name, why, note, noted);
}

enum err secret_key_read(const char *name, char **out, struct buf *note)
{
    static const char white[] = " \t\r\v\f";
    size_t noted = note->len, len;
    char *text, *from;
    enum err e = secret_file_read(name, &text, note);

    if (e != ERR_OK)
        return e;
    from = text + strspn(text, white);
    len = strcspn(from, "\n");
    while (len > 0 && strchr(white, from[len - 1]) != NULL)
        len--;
    if (len == 0 || len > SECRET_KEY_MAX) {
        e = fail(name, len == 0 ? "holds no key in its first line" : "the key is too long", note,
                 noted);
    } else {
        *out = strndup(from, len);
        must(*out != NULL);
    }
    secret_free(text);
    return e;
}

bool secret_is_same(const char *given, const char *secret)
{
    volatile unsigned char differs = 0;
    size_t len = strlen(given), i;

    if (secret == NULL || len == 0 || strlen(secret) != len)
        return false;
    for (i = 0; i < len; i++)
        differs |= (unsigned char)(given[i] ^ secret[i]);
    return differs == 0;
}

void secret_free(char *secret)
{
    if (secret == NULL)
        return;
    explicit_bzero(secret, strlen(secret));
    free(secret);
}
