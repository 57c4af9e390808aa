/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs every file of the folders given through the harness; an empty or missing corpus is a
 * failure. */
static int replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = NULL;
    size_t len = 0, cap = 0;

    if (f == NULL)
        return -1;
    for (;;) {
        if (cap - len < 65536)
            data = realloc(data, cap += 1 << 20);
        if (data == NULL)
            abort();
        size_t n = fread(data + len, 1, cap - len, f);
        len += n;
        if (n == 0)
            break;
    }
    fclose(f);
    /* An exact copy, so that a sanitizer sees a read one byte behind. */
    uint8_t *exact = malloc(len + (len == 0));
    if (exact == NULL)
        abort();
    for (size_t i = 0; i < len; i++)
        exact[i] = data[i];
    LLVMFuzzerTestOneInput(exact, len);
    free(exact);
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    unsigned ran = 0;

    for (int i = 1; i < argc; i++) {
        DIR *d = opendir(argv[i]);
        struct dirent *e;
        char path[4096];

        while (d != NULL && (e = readdir(d)) != NULL) {
            if (e->d_name[0] == '.')
                continue;
            snprintf(path, sizeof(path), "%s/%s", argv[i], e->d_name);
            if (replay_file(path) == 0)
                ran++;
        }
        if (d != NULL)
            closedir(d);
    }
    printf("%u inputs replayed\n", ran);
    return ran > 0 ? 0 : 1;
}
