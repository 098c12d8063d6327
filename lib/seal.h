/* seal.h - checksums and encryption of bytes that leave memory.
 * May call: error.h, libxxhash, libsodium. */
#ifndef TERRACE_LIB_SEAL_H
#define TERRACE_LIB_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What proves a piece when it comes back. Kept in host memory, so that neither
 * changed nor old bytes on the disk can pass. */
struct seal {
    uint64_t number;       /* the nonce, or XXH3-64 of the bytes; 0: not sealed yet */
    unsigned char tag[16]; /* encrypted: the authentication tag */
};

enum seal_verify { VERIFY_OFF, VERIFY_SPILL, VERIFY_ALL }; /* order of options.def */

struct sealer;

/* Makes a sealer, with a random key of its own if it encrypts; NULL in *out if
 * there is nothing to do. Errors: ENOMEM, ESYSTEM (the key's page could not be
 * locked or kept out of dumps), ENOTSUP (the library cannot start). */
int  sealer_open(struct sealer **out, enum seal_verify verify, bool encrypt);
void sealer_close(struct sealer *s); /* wipes the key; NULL is allowed */
bool sealer_encrypts(const struct sealer *s);
bool sealer_checks_files(const struct sealer *s);
const char *sealer_cipher(const struct sealer *s); /* "AES-256-GCM" */

/* Seals n bytes for writing. Encrypting: `out` gets the n bytes to write, which
 * may not overlap `in`; else only the checksum is taken and `out` not used.
 * Called by several threads at once. */
void seal_close(struct sealer *s, struct seal *seal, const void *in, void *out, size_t n);

/* Checks n bytes that were read, and decrypts them in place. False: they are
 * not what was sealed; their contents are then undefined. */
bool seal_open(const struct sealer *s, const struct seal *seal, void *bytes, size_t n);

/* Checksums of users' files: records the first time, compares from then on. */
bool seal_file(struct seal *seal, const void *bytes, size_t n);

#endif
