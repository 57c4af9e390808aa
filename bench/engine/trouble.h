/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_TROUBLE_H
#define ENGINE_TROUBLE_H

#include "bench/engine/http.h"

/* {"mode":"reset","count":1,"after_events":3,"delay_ms":0,"status":500,"scope":"all"} */
bool trouble_from_json(const char *text, size_t len, struct trouble *out);
/* "reset:count=1,after_events=3,scope=all" */
bool trouble_from_text(const char *text, struct trouble *out);
void trouble_print(const struct trouble *t, uint64_t hit, struct buf *out);

#endif
