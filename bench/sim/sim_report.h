/* SPDX-License-Identifier: Apache-2.0 */
#ifndef SIM_REPORT_H
#define SIM_REPORT_H

#include "bench/sim/sim.h"

/* One JSON object and a newline. Names as in docs; tokens in tokens, times in model seconds. */
void sim_report_add_json(const struct sim_result *r, const char *policy, struct buf *out);
void sim_report_add_head(struct buf *out);
void sim_report_add_row(const struct sim_result *r, const char *policy, struct buf *out);

#endif
