/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include "common/log.h"
#include "common/proc.h"
#include "scheduler/server.h"

int main(int argc, char **argv)
{
    struct proc_args args = {.name = "slipstream-scheduler",
                             .summary = "Decides which inference engine serves which request."};
    struct server *server;
    struct conf *conf;
    enum err err;

    proc_start(&args, argc, argv, &conf);
    err = server_open(conf, args.conf_path, &server);
    if (err != ERR_OK) {
        conf_free(conf);
        return err == ERR_CONF ? 78 : EXIT_FAILURE;
    }
    server_run(server);
    server_close(server);
    return EXIT_SUCCESS;
}
