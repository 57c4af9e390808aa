/* SPDX-License-Identifier: Apache-2.0 */
#ifndef GW_TLS_H
#define GW_TLS_H

#include <stdbool.h>

#include <openssl/ssl.h>

#include "common/buf.h"
#include "common/conf.h"
#include "common/err.h"

/*
 * The certificate and key of the data plane. note as in common/secret.h: on success it names a key
 * that everybody may read and a certificate that has expired. *out belongs to the caller
 * (SSL_CTX_free); connections hold it on their own. NULL where the settings name no certificate.
 * ERR_CONF.
 */
enum err tls_open(const struct conf_gateway *conf, bool http2, SSL_CTX **out, struct buf *note);

/* Does it hold certificates (PEM) of CAs? ERR_CONF. */
enum err tls_ca_check(const char *file, struct buf *note);

#endif
