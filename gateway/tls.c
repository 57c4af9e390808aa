/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/tls.h"

#include <h2o.h>
#include <openssl/err.h>
#include <openssl/pem.h>

#include "common/must.h"
#include "common/secret.h"

/* A key with a password is refused rather than asked for on the terminal. */
static int no_password(char *text, int size, int writing, void *arg)
{
    (void)text;
    (void)size;
    (void)writing;
    (void)arg;
    return 0;
}

static enum err fail(const char *file, const char *what, struct buf *note)
{
    const char *why = ERR_reason_error_string(ERR_peek_last_error());

    buf_addf(note, "%s%s: %s", note->len > 0 ? "; " : "", file, what);
    if (why != NULL)
        buf_addf(note, " (%s)", why);
    ERR_clear_error();
    return ERR_CONF;
}

static BIO *memory_of(const char *text)
{
    BIO *b = BIO_new_mem_buf(text, -1);

    must(b != NULL);
    return b;
}

/* Everything behind the leaf goes with it; ends where no more comes. */
static bool chain_use(SSL_CTX *ctx, BIO *in)
{
    X509 *ca;

    while ((ca = PEM_read_bio_X509(in, NULL, no_password, NULL)) != NULL) {
        if (SSL_CTX_add0_chain_cert(ctx, ca) != 1) {
            X509_free(ca);
            return false;
        }
    }
    if (ERR_GET_REASON(ERR_peek_last_error()) != PEM_R_NO_START_LINE)
        return false;
    ERR_clear_error();
    return true;
}

static enum err cert_use(SSL_CTX *ctx, const char *file, struct buf *note)
{
    size_t noted = note->len;
    enum err e;
    char *text;
    X509 *leaf;
    BIO *in;

    e = secret_file_read(file, &text, note);
    if (e != ERR_OK)
        return e;
    note->len = noted; /* a certificate is no secret */
    in = memory_of(text);
    leaf = PEM_read_bio_X509_AUX(in, NULL, no_password, NULL);
    if (leaf == NULL)
        e = fail(file, "holds no certificate in PEM form", note);
    else if (SSL_CTX_use_certificate(ctx, leaf) != 1 || !chain_use(ctx, in))
        e = fail(file, "the certificate cannot be used", note);
    else if (X509_cmp_current_time(X509_get0_notAfter(leaf)) < 0)
        buf_addf(note, "%s%s: the certificate has expired", noted > 0 ? "; " : "", file);
    X509_free(leaf);
    BIO_free(in);
    secret_free(text);
    return e;
}

static enum err key_use(SSL_CTX *ctx, const struct conf_gateway *conf, struct buf *note)
{
    const char *file = conf->tls_key_file;
    EVP_PKEY *key;
    enum err e;
    char *text;
    BIO *in;

    e = secret_file_read(file, &text, note);
    if (e != ERR_OK)
        return e;
    in = memory_of(text);
    key = PEM_read_bio_PrivateKey(in, NULL, no_password, NULL);
    if (key == NULL)
        e = fail(file, "holds no private key in PEM form without a password", note);
    else if (X509_check_private_key(SSL_CTX_get0_certificate(ctx), key) != 1)
        e = fail(file, "is not the key of the certificate", note);
    else if (SSL_CTX_use_PrivateKey(ctx, key) != 1)
        e = fail(file, "the key cannot be used", note);
    EVP_PKEY_free(key);
    BIO_free(in);
    secret_free(text);
    return e;
}

enum err tls_open(const struct conf_gateway *conf, bool http2, SSL_CTX **out, struct buf *note)
{
    static const h2o_iovec_t http1_only[] = {{H2O_STRLIT("http/1.1")}, {NULL, 0}};
    SSL_CTX *ctx;
    enum err e;

    if (conf->tls_cert_file[0] == '\0') {
        *out = NULL;
        return ERR_OK;
    }
    ERR_clear_error();
    ctx = SSL_CTX_new(TLS_server_method());
    must(ctx != NULL);
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    e = cert_use(ctx, conf->tls_cert_file, note);
    if (e == ERR_OK)
        e = key_use(ctx, conf, note);
    if (e != ERR_OK) {
        SSL_CTX_free(ctx);
        return e;
    }
    h2o_ssl_register_alpn_protocols(ctx, http2 ? h2o_alpn_protocols : http1_only);
    *out = ctx;
    return ERR_OK;
}

enum err tls_ca_check(const char *file, struct buf *note)
{
    size_t noted = note->len;
    enum err e;
    char *text;
    X509 *ca;
    BIO *in;

    e = secret_file_read(file, &text, note);
    if (e != ERR_OK)
        return e;
    note->len = noted;
    in = memory_of(text);
    ERR_clear_error();
    ca = PEM_read_bio_X509(in, NULL, no_password, NULL);
    if (ca == NULL)
        e = fail(file, "holds no certificate in PEM form", note);
    X509_free(ca);
    BIO_free(in);
    secret_free(text);
    return e;
}
