/* SPDX-License-Identifier: Apache-2.0 */
#ifndef ENGINE_HTTP_WIRE_H
#define ENGINE_HTTP_WIRE_H

#include "bench/engine/http.h"

/* Between http.c (reading, lifetime) and http_answer.c (writing, troubles). */
void conn_close(struct conn *c);  /* at once; tells gone() if a job is attached */
void conn_reset(struct conn *c);  /* with RST */
void conn_finish(struct conn *c); /* the answer is complete in out */
void conn_shut(struct conn *c);   /* write the rest, half-close, drain */
void conn_after_write(struct conn *c);

/* Acts out what comes instead of an answer. True: the request is dealt with. */
bool conn_trouble_instead(struct conn *c);

#endif
