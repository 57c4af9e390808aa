/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_PHR_H
#define GW_PHR_H

#include <stddef.h>
#include <sys/types.h>

/* picohttpparser's interface, unchanged since 2014. libh2o exports the functions but ships no
 * header for them. */
struct phr_header {
    const char *name; /* NULL: continues the line before (folding) */
    size_t name_len;
    const char *value;
    size_t value_len;
};

struct phr_chunked_decoder {
    size_t bytes_left_in_chunk;
    char consume_trailer;
    char _hex_count;
    char _state;
};

/* Bytes of the head, -1 malformed, -2 incomplete. last_len: length at the last, incomplete try. */
int phr_parse_request(const char *buf, size_t len, const char **method, size_t *method_len,
                      const char **path, size_t *path_len, int *minor_version,
                      struct phr_header *headers, size_t *num_headers, size_t last_len);
int phr_parse_response(const char *buf, size_t len, int *minor_version, int *status,
                       const char **msg, size_t *msg_len, struct phr_header *headers,
                       size_t *num_headers, size_t last_len);
/* Decodes in place; *bufsz becomes the number of decoded bytes. -2 more to come, -1 malformed, else
 * bytes behind the end. */
ssize_t phr_decode_chunked(struct phr_chunked_decoder *decoder, char *buf, size_t *bufsz);

#endif
