/* SPDX-License-Identifier: Apache-2.0 */
#include "common/proc.h"
#include "mailbox/server.h"

int main(int argc, char **argv)
{
    struct proc_args args = {
        .name = "slipstream-mailbox",
        .summary = "Messages between the agents of a workflow.",
        .check = store_check,
    };
    struct conf *conf = NULL;
    int rc;

    proc_start(&args, argc, argv, &conf);
    rc = server_run(&conf, args.conf_path);
    conf_free(conf);
    return rc;
}
