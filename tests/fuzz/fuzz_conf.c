/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>
#include <string.h>

#include "common/conf.h"
#include "common/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file is read or refused with a message, and what was read prints as a file that reads back as
 * itself. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf errors = {0}, once = {0}, twice = {0};
    struct conf *c = NULL, *again = NULL;

    if (conf_parse((const char *)data, size, "fuzz", &c, &errors) != ERR_OK) {
        must(c == NULL && errors.len > 0);
    } else {
        must(errors.len == 0);
        conf_print(c, &once);
        must(conf_parse(once.base, once.len, "again", &again, &errors) == ERR_OK);
        conf_print(again, &twice);
        must(once.len == twice.len && memcmp(once.base, twice.base, once.len) == 0);
    }
    conf_free(c);
    conf_free(again);
    buf_fini(&errors);
    buf_fini(&once);
    buf_fini(&twice);
    return 0;
}
