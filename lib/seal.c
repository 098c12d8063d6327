/* seal.c - checksums and encryption of bytes that leave memory.
 *
 * Without encryption a seal is XXH3-64 of a piece. With it, a piece is sealed
 * by AES-256-GCM where the CPU has it, else by ChaCha20-Poly1305 (both from
 * libsodium), under a random key made for this manager alone. The 96-bit nonce
 * is a counter that never repeats in the life of the key: 2^64 pieces are more
 * than any run writes. The nonce and the tag stay in memory.
 *
 * The key and everything derived from it live in one page that is locked
 * (never swapped), left out of core dumps, and zeroed in forked children.
 *
 * May call: error.h, libxxhash, libsodium, libc. */
#include "seal.h"

#include <errno.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xxhash.h>

#include "error.h"
#include "terrace.h"

/* Lives in the locked page. */
struct key {
    crypto_aead_aes256gcm_state aes; /* the expanded key; aligned to 16 */
    unsigned char chacha[crypto_aead_chacha20poly1305_ietf_KEYBYTES];
};

enum { KEY_PAGE = 4096 };
_Static_assert(sizeof(struct key) <= KEY_PAGE, "the key fits its page");
_Static_assert(crypto_aead_aes256gcm_ABYTES == 16, "tag size");
_Static_assert(crypto_aead_chacha20poly1305_ietf_ABYTES == 16, "tag size");

struct sealer {
    enum seal_verify verify;
    bool encrypt;
    bool aes;
    struct key *key;
    atomic_uint_fast64_t nonce; /* the last one used */
};

static int key_open(struct sealer *s)
{
    void *page = mmap(NULL, KEY_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return error_set(-TERRACE_ENOMEM, "TERRACE_ENCRYPT: no memory for the key");
    if (mlock(page, KEY_PAGE) || madvise(page, KEY_PAGE, MADV_DONTDUMP) ||
        madvise(page, KEY_PAGE, MADV_WIPEONFORK)) {
        int e = errno;
        munmap(page, KEY_PAGE);
        return error_set(-TERRACE_ESYSTEM,
                         "TERRACE_ENCRYPT: the key's page cannot be locked in memory (%s); "
                         "raise the locked-memory limit (ulimit -l) by 4 KiB", strerror(e));
    }
    s->key = page;
    s->aes = crypto_aead_aes256gcm_is_available();
    unsigned char *raw = s->key->chacha;
    crypto_aead_chacha20poly1305_ietf_keygen(raw); /* both ciphers take 32 random bytes */
    if (s->aes) {
        crypto_aead_aes256gcm_beforenm(&s->key->aes, raw);
        sodium_memzero(raw, sizeof s->key->chacha);
    }
    return 0;
}

int sealer_open(struct sealer **out, enum seal_verify verify, bool encrypt)
{
    *out = NULL;
    if (verify == VERIFY_OFF && !encrypt)
        return 0;
    if (encrypt && sodium_init() < 0)
        return error_set(-TERRACE_ENOTSUP, "TERRACE_ENCRYPT: libsodium cannot start "
                         "(no source of random numbers?)");
    struct sealer *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    s->verify = verify;
    s->encrypt = encrypt;
    int r = encrypt ? key_open(s) : 0;
    if (r) {
        free(s);
        return r;
    }
    *out = s;
    return 0;
}

void sealer_close(struct sealer *s)
{
    if (!s)
        return;
    if (s->key) {
        sodium_memzero(s->key, KEY_PAGE);
        munlock(s->key, KEY_PAGE);
        munmap(s->key, KEY_PAGE);
    }
    free(s);
}

bool sealer_encrypts(const struct sealer *s)
{
    return s && s->encrypt;
}

bool sealer_checks_files(const struct sealer *s)
{
    return s && s->verify == VERIFY_ALL;
}

const char *sealer_cipher(const struct sealer *s)
{
    return !s->encrypt ? "none" : s->aes ? "AES-256-GCM" : "ChaCha20-Poly1305";
}

/* XXH3, moved off 0, which stands for "not sealed yet". */
static uint64_t checksum(const void *bytes, size_t n)
{
    uint64_t h = XXH3_64bits(bytes, n);
    return h ? h : 1;
}

static void nonce_bytes(uint64_t number, unsigned char nonce[12])
{
    memset(nonce, 0, 12);
    memcpy(nonce + 4, &number, sizeof number);
}

void seal_close(struct sealer *s, struct seal *seal, const void *in, void *out, size_t n)
{
    if (!s->encrypt) {
        seal->number = checksum(in, n);
        return;
    }
    unsigned char nonce[12];
    seal->number = atomic_fetch_add(&s->nonce, 1) + 1;
    nonce_bytes(seal->number, nonce);
    if (s->aes)
        crypto_aead_aes256gcm_encrypt_detached_afternm(out, seal->tag, NULL, in, n, NULL, 0, NULL,
                                                       nonce, &s->key->aes);
    else
        crypto_aead_chacha20poly1305_ietf_encrypt_detached(out, seal->tag, NULL, in, n, NULL, 0,
                                                           NULL, nonce, s->key->chacha);
}

bool seal_open(const struct sealer *s, const struct seal *seal, void *bytes, size_t n)
{
    if (!s->encrypt)
        return seal->number == checksum(bytes, n);
    unsigned char nonce[12];
    nonce_bytes(seal->number, nonce);
    if (s->aes)
        return crypto_aead_aes256gcm_decrypt_detached_afternm(
                   bytes, NULL, bytes, n, seal->tag, NULL, 0, nonce, &s->key->aes) == 0;
    return crypto_aead_chacha20poly1305_ietf_decrypt_detached(bytes, NULL, bytes, n, seal->tag, NULL,
                                                              0, nonce, s->key->chacha) == 0;
}

bool seal_file(struct seal *seal, const void *bytes, size_t n)
{
    uint64_t now = checksum(bytes, n);
    if (seal->number == 0)
        seal->number = now;
    return seal->number == now;
}
