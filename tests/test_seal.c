/* test_seal.c - checksums and encryption of what leaves memory: by themselves,
 * through a manager on a simulated disk, and on a real one. */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sodium.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core.h"
#include "manager.h"
#include "seal.h"
#include "simdisk.h"

enum { SIZE = 1 * MIB, LIMIT = 16 * MIB };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { MLOCK_WORKS = false }; /* sanitizers leave memory unlocked */
#else
enum { MLOCK_WORKS = true };
#endif

/* ---- seals by themselves ----------------------------------------------------- */

/* Stands before the library's own, so that both ciphers are tried here. */
static bool without_aes;

int crypto_aead_aes256gcm_is_available(void)
{
    int (*real)(void);
    *(void **)&real = dlsym(RTLD_NEXT, "crypto_aead_aes256gcm_is_available");
    return !without_aes && real && real();
}

enum kind { CHECKSUM, CIPHER, CIPHER_WITHOUT_AES, KINDS };

static struct sealer *sealer_of(enum kind kind)
{
    struct sealer *s;
    without_aes = kind == CIPHER_WITHOUT_AES;
    assert_ok(sealer_open(&s, kind == CHECKSUM ? VERIFY_SPILL : VERIFY_OFF, kind != CHECKSUM));
    cr_assert(!without_aes || strcmp(sealer_cipher(s), "ChaCha20-Poly1305") == 0, "%s", sealer_cipher(s));
    return s;
}

/* What would be written: the ciphertext, or the bytes as they are. */
static void close_into(struct sealer *s, struct seal *seal, const void *in, void *out, size_t n)
{
    if (!sealer_encrypts(s))
        memcpy(out, in, n);
    seal_close(s, seal, in, sealer_encrypts(s) ? out : NULL, n);
}

Test(seal, what_was_sealed_comes_back, .timeout = 60)
{
    static const size_t sizes[] = {1, 15, 16, 17, 64, 511, 4096, 4097, 65536, 1000003, 2 * MIB};
    unsigned char *in = malloc(2 * MIB), *out = malloc(2 * MIB);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct sealer *s = sealer_of(kind);
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            struct seal seal = {0};
            pattern_fill(in, sizes[i], i);
            close_into(s, &seal, in, out, sizes[i]);
            cr_assert(pattern_is(in, sizes[i], i), "sealing changed the bytes");
            if (kind != CHECKSUM && sizes[i] >= 15)
                cr_assert_neq(memcmp(in, out, sizes[i]), 0, "nothing was encrypted");
            cr_assert(seal_open(s, &seal, out, sizes[i]), "%zu bytes", sizes[i]);
            cr_assert(pattern_is(out, sizes[i], i), "%zu bytes came back as others", sizes[i]);
        }
        sealer_close(s);
    }
    free(in);
    free(out);
}

Test(seal, a_flipped_bit_anywhere_is_caught, .timeout = 60)
{
    enum { N = 1024 };
    unsigned char in[N], out[N], back[N];
    pattern_fill(in, N, 1);
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct sealer *s = sealer_of(kind);
        struct seal seal = {0}, bad;
        close_into(s, &seal, in, out, N);
        for (unsigned bit = 0; bit < 8 * N; bit++) {
            memcpy(back, out, N);
            back[bit / 8] ^= (unsigned char)(1 << bit % 8);
            cr_assert_not(seal_open(s, &seal, back, N), "bit %u", bit);
        }
        for (unsigned bit = 0; bit < 64; bit++) {
            memcpy(back, out, N);
            bad = seal;
            bad.number ^= UINT64_C(1) << bit;
            cr_assert_not(seal_open(s, &bad, back, N), "bit %u of the number", bit);
        }
        for (unsigned bit = 0; kind != CHECKSUM && bit < 8 * sizeof seal.tag; bit++) {
            memcpy(back, out, N);
            bad = seal;
            bad.tag[bit / 8] ^= (unsigned char)(1 << bit % 8);
            cr_assert_not(seal_open(s, &bad, back, N), "bit %u of the tag", bit);
        }
        memcpy(back, out, N);
        cr_assert_not(seal_open(s, &seal, back, N - 1), "one byte short");
        cr_assert(seal_open(s, &seal, out, N), "the bytes themselves");
        sealer_close(s);
    }
}

Test(seal, nothing_opens_what_was_never_sealed, .timeout = 60)
{
    for (enum kind kind = 0; kind < KINDS; kind++) {
        struct sealer *s = sealer_of(kind);
        struct seal none = {0};
        unsigned char bytes[4096] = {0};
        cr_assert_not(seal_open(s, &none, bytes, sizeof bytes));
        sealer_close(s);
    }
}

Test(seal, old_bytes_do_not_pass_for_new, .timeout = 60)
{
    enum { N = 4096 };
    unsigned char in[N], first[N], second[N];
    pattern_fill(in, N, 1);
    struct sealer *s = sealer_of(CIPHER);
    struct seal seal = {0};
    close_into(s, &seal, in, first, N);
    close_into(s, &seal, in, second, N);
    cr_assert_neq(memcmp(first, second, N), 0, "the same bytes were encrypted alike");
    cr_assert_not(seal_open(s, &seal, first, N));
    cr_assert(seal_open(s, &seal, second, N));
    sealer_close(s);
}

Test(seal, every_sealer_has_its_own_key, .timeout = 60)
{
    enum { N = 4096 };
    unsigned char in[N] = {0}, out[2][N];
    struct sealer *s[2] = {sealer_of(CIPHER), sealer_of(CIPHER)};
    struct seal seal[2] = {{0}};
    for (int i = 0; i < 2; i++)
        close_into(s[i], &seal[i], in, out[i], N);
    cr_assert_eq(seal[0].number, seal[1].number, "the nonces are alike, so only the keys differ");
    cr_assert_neq(memcmp(out[0], out[1], N), 0);
    cr_assert_not(seal_open(s[1], &seal[0], out[0], N));
    for (int i = 0; i < 2; i++)
        sealer_close(s[i]);
}

enum { SEALERS = 4, SEALS = 100000 };

struct sealing {
    struct sealer *s;
    uint64_t *numbers;
};

static void *seal_many(void *arg)
{
    struct sealing *g = arg;
    unsigned char in[16] = {0}, out[16];
    for (int i = 0; i < SEALS; i++) {
        struct seal seal;
        seal_close(g->s, &seal, in, out, sizeof in);
        g->numbers[i] = seal.number;
    }
    return NULL;
}

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

Test(seal, nonces_never_repeat, .timeout = 60)
{
    uint64_t *numbers = calloc(SEALERS * SEALS, sizeof *numbers);
    struct sealer *s = sealer_of(CIPHER);
    struct sealing g[SEALERS];
    pthread_t thread[SEALERS];
    for (int i = 0; i < SEALERS; i++) {
        g[i] = (struct sealing){s, numbers + (size_t)i * SEALS};
        cr_assert_eq(pthread_create(&thread[i], NULL, seal_many, &g[i]), 0);
    }
    for (int i = 0; i < SEALERS; i++)
        pthread_join(thread[i], NULL);
    qsort(numbers, SEALERS * SEALS, sizeof *numbers, by_number);
    cr_assert_neq(numbers[0], 0, "0 stands for what was never sealed");
    for (size_t i = 1; i < SEALERS * SEALS; i++)
        cr_assert_neq(numbers[i], numbers[i - 1], "a nonce was used twice");
    sealer_close(s);
    free(numbers);
}

Test(seal, files_are_compared_with_their_first_reading, .timeout = 60)
{
    unsigned char bytes[5000];
    struct seal seal = {0};
    pattern_fill(bytes, sizeof bytes, 1);
    cr_assert(seal_file(&seal, bytes, sizeof bytes));
    cr_assert(seal_file(&seal, bytes, sizeof bytes));
    bytes[4999] ^= 1;
    cr_assert_not(seal_file(&seal, bytes, sizeof bytes));
    cr_assert_not(seal_file(&seal, bytes, sizeof bytes), "what failed was recorded");
    bytes[4999] ^= 1;
    cr_assert(seal_file(&seal, bytes, sizeof bytes));
}

Test(seal, nothing_is_made_where_nothing_is_asked_for, .timeout = 60)
{
    struct sealer *s = (struct sealer *)&s;
    assert_ok(sealer_open(&s, VERIFY_OFF, false));
    cr_assert_null(s);
    cr_assert_not(sealer_encrypts(s));
    cr_assert_not(sealer_checks_files(s));
    sealer_close(s);
}

/* ---- the key's page ---------------------------------------------------------- */

/* Mappings that are locked, not dumped and wiped in children; the last one's
 * address in *page. */
static unsigned key_pages(unsigned char **page)
{
    unsigned long start = 0, end = 0, from, to;
    unsigned n = 0;
    char line[512];
    FILE *f = fopen("/proc/self/smaps", "r");
    while (f && fgets(line, sizeof line, f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            start = from, end = to;
        bool flags = strncmp(line, "VmFlags:", 8) == 0 && strstr(line, " dd") && strstr(line, " wf");
        if (flags && (!MLOCK_WORKS || strstr(line, " lo"))) {
            cr_assert_eq(end - start, 4096);
            *page = (unsigned char *)start;
            n++;
        }
    }
    if (f)
        fclose(f);
    return n;
}

static bool all_zero(const volatile unsigned char *page)
{
    unsigned char any = 0;
    for (int i = 0; i < 4096; i++)
        any |= page[i];
    return any == 0;
}

Test(seal_key, is_locked_not_dumped_and_not_inherited, .timeout = 60)
{
    unsigned char *page = NULL;
    cr_assert_eq(key_pages(&page), 0);
    terrace *m = open_sim(LIMIT, "encrypt=1");
    cr_assert_eq(key_pages(&page), 1);
    cr_assert_not(all_zero(page));
    int status;
    pid_t pid = fork();
    if (pid == 0)
        _exit(all_zero(page) ? 7 : 8);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 7, "a child can read the key");
    terrace_close(m);
    cr_assert(msync(page, 4096, MS_ASYNC) == -1 && errno == ENOMEM, "the page is still there");
}

/* Runs in a child that may lock nothing. */
static int open_unlocked(void)
{
    terrace *m = NULL;
    if (setrlimit(RLIMIT_MEMLOCK, &(struct rlimit){0, 0}) || (geteuid() == 0 && setuid(65534)))
        return 2;
    if (terrace_open(&m, "tiers=numa:0,simdisk:0;limit_numa=16M;encrypt=1") != -TERRACE_ESYSTEM || m)
        return 3;
    const char *text = terrace_last_error();
    if (!strstr(text, "TERRACE_ENCRYPT") || !strstr(text, "ulimit -l"))
        return 4;
    if (terrace_open(&m, "tiers=numa:0,simdisk:0;limit_numa=16M;verify=all"))
        return 5; /* checksums have no key */
    terrace_close(m);
    return 0;
}

Test(seal_key, that_cannot_be_locked_is_an_error, .timeout = 60)
{
    int status;
    if (!MLOCK_WORKS)
        cr_skip_test("sanitizers leave memory unlocked");
    pid_t pid = fork();
    if (pid == 0)
        _exit(open_unlocked());
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x", (unsigned)status);
}

/* ---- through a manager ------------------------------------------------------- */

static const char *const sealed[] = {"log=off;verify=spill", "log=off;verify=all", "log=off;encrypt=1",
                                     "log=off;encrypt=1;verify=all"};
#define EACH_SEALED(i) (unsigned i = 0; i < sizeof sealed / sizeof sealed[0]; i++)

static unsigned char *blocks_of(const terrace_tensor *t)
{
    cr_assert_not_null(t->copy[1].extent);
    return (unsigned char *)(uintptr_t)t->copy[1].extent->address;
}

static terrace_tensor *tensor_below(terrace *m, size_t bytes, const char *label, uint64_t seed)
{
    terrace_tensor *t = tensor_of(m, bytes, label);
    write_pattern(t, 0, bytes, seed);
    push_down(t, m);
    return t;
}

/* What an acquire for reading fails with; the sentence has tensor and tier. */
static void expect_corrupt(terrace_tensor *t, const char *tier)
{
    void *p = &t;
    assert_fails(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_ECORRUPT);
    cr_assert(strstr(terrace_last_error(), "layers/0/w") && strstr(terrace_last_error(), tier), "%s",
              terrace_last_error());
    cr_assert_eq(p, (void *)&t, "an output was written on failure");
    assert_ok(terrace_wait(t)); /* it was reported already */
}

Test(sealed, sizes_survive, .timeout = 60)
{
    static const size_t sizes[] = {1, 4095, 4096, 4097, 65536, 65537, 1000003, 2097152, 3000000};
    enum { N = sizeof sizes / sizeof sizes[0] };
    for EACH_SEALED (i)
        for (int striped = 0; striped < 2; striped++) {
            simdisk.boundary = striped ? 128 * KIB : 0;
            terrace *m = open_sim(LIMIT, sealed[i]);
            terrace_tensor *t[N];
            for (size_t k = 0; k < N; k++)
                t[k] = tensor_below(m, sizes[k], "t", k);
            for (size_t k = 0; k < N; k++)
                expect_pattern(t[k], 0, sizes[k], k);
            cr_assert_eq(stats_of(m).corrupt, 0);
            terrace_close(m);
        }
}

Test(sealed, a_bit_flipped_on_the_way_back_is_caught, .timeout = 60)
{
    for EACH_SEALED (i) {
        terrace *m = open_sim(LIMIT, sealed[i]);
        terrace_tensor *t = tensor_below(m, SIZE, "layers/0/w", 1), *other = tensor_below(m, SIZE, "other", 2);
        for (int nth = 1; nth <= SIZE / SIMDISK_CHUNK; nth++) {
            simdisk_fault(&simdisk.flip, nth);
            expect_corrupt(t, "simdisk:0");
            cr_assert_eq(simdisk.flip, 0);
        }
        cr_assert_eq(stats_of(m).corrupt, SIZE / SIMDISK_CHUNK);
        cr_assert_eq(stats_of(m).io_errors, SIZE / SIMDISK_CHUNK);
        expect_pattern(other, 0, SIZE, 2);
        expect_pattern(t, 0, SIZE, 1); /* on the disk they are as they were */
        terrace_close(m);
    }
}

Test(sealed, without_checks_a_flipped_bit_passes, .timeout = 60)
{
    terrace *m = open_sim(LIMIT, "verify=off");
    terrace_tensor *t = tensor_below(m, SIZE, "t", 1);
    simdisk.flip = 1;
    void *p;
    assert_ok(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL));
    cr_assert_not(pattern_is(p, SIZE, 1), "the simulated disk flips nothing");
    terrace_close(m);
}

Test(sealed, a_byte_changed_on_the_disk_is_caught, .timeout = 60)
{
    for EACH_SEALED (i) {
        terrace *m = open_sim(LIMIT, sealed[i]);
        terrace_tensor *t = tensor_below(m, SIZE - 100, "layers/0/w", 1);
        static const size_t places[] = {0, SIMDISK_CHUNK - 1, SIMDISK_CHUNK, SIZE / 2 + 77, SIZE - 101};
        for (size_t k = 0; k < sizeof places / sizeof places[0]; k++) {
            blocks_of(t)[places[k]] ^= 0x10;
            expect_corrupt(t, "simdisk:0");
            expect_corrupt(t, "simdisk:0");
            blocks_of(t)[places[k]] ^= 0x10;
            expect_pattern(t, 0, SIZE - 100, 1);
            push_down(t, m);
        }
        blocks_of(t)[5] ^= 0x10;
        write_pattern(t, 0, SIZE - 100, 3); /* the handle is as good as before */
        push_down(t, m);
        expect_pattern(t, 0, SIZE - 100, 3);
        terrace_close(m);
    }
}

Test(sealed, old_and_exchanged_blocks_are_caught, .timeout = 60)
{
    static unsigned char old[SIZE];
    for EACH_SEALED (i) {
        terrace *m = open_sim(LIMIT, sealed[i]);
        terrace_tensor *t = tensor_below(m, SIZE, "layers/0/w", 1), *other = tensor_below(m, SIZE, "other", 2);
        memcpy(old, blocks_of(t), SIZE);
        write_pattern(t, 0, SIZE, 3);
        push_down(t, m);
        memcpy(blocks_of(t), old, SIZE);
        expect_corrupt(t, "simdisk:0");
        memcpy(blocks_of(t), blocks_of(other), SIZE);
        expect_corrupt(t, "simdisk:0");
        expect_pattern(other, 0, SIZE, 2);
        terrace_close(m);
    }
}

/* Words of the pattern that stand on the disk where they would without a cipher. */
static size_t words_in_clear(const terrace_tensor *t, uint64_t seed)
{
    const uint64_t *words = (const uint64_t *)(const void *)blocks_of(t);
    size_t n = 0;
    for (size_t i = 0; i < SIZE / sizeof *words; i++)
        n += words[i] == pattern(seed, i);
    return n;
}

Test(sealed, the_disk_sees_ciphertext_alone, .timeout = 60)
{
    for EACH_SEALED (i) {
        bool encrypts = strstr(sealed[i], "encrypt") != NULL;
        terrace *m = open_sim(LIMIT, sealed[i]);
        terrace_tensor *t = tensor_below(m, SIZE, "t", 1), *twin = tensor_below(m, SIZE, "twin", 1);
        size_t clear = words_in_clear(t, 1);
        cr_assert_eq(clear, encrypts ? 0 : SIZE / 8, "%zu words with %s", clear, sealed[i]);
        cr_assert_eq(memcmp(blocks_of(t), blocks_of(twin), SIZE) != 0, encrypts);
        terrace_close(m);
    }
}

/* ---- staging ----------------------------------------------------------------- */

Test(sealed, staging_is_within_the_budget, .timeout = 60)
{
    enum { N = 24, SMALL = 2 * MIB };
    terrace *m = open_sim(SMALL, "encrypt=1");
    terrace_tensor *t[N];
    cr_assert_geq(tier_stats_of(m, 0).used, SIMDISK_CHUNK, "staging is not counted");
    for (uint64_t i = 0; i < N; i++) {
        t[i] = tensor_of(m, 300 * KIB, "t");
        write_pattern(t[i], 0, 300 * KIB, i);
    }
    for (uint64_t i = 0; i < N; i++)
        expect_pattern(t[i], 0, 300 * KIB, i);
    cr_assert_leq(tier_stats_of(m, 0).peak, SMALL);
    terrace_close(m);
}

static void *acquire_more_than_there_can_be(void *arg)
{
    void *p;
    assert_fails(terrace_acquire(arg, 0, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &p, NULL), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "'all'") && strstr(terrace_last_error(), "numa:0"), "%s",
              terrace_last_error());
    return NULL;
}

/* A tensor that would fit without it is not waited for, whoever holds a pin. */
Test(sealed, staging_is_never_given_up, .timeout = 60)
{
    terrace *m = open_sim(2 * MIB, "encrypt=1");
    terrace_tensor *all = tensor_of(m, 2 * MIB, "all"), *held = tensor_of(m, 4096, "held");
    pthread_t thread;
    void *p;
    assert_ok(terrace_acquire(held, 0, TERRACE_READ, NULL, &p, NULL));
    cr_assert_eq(pthread_create(&thread, NULL, acquire_more_than_there_can_be, all), 0);
    pthread_join(thread, NULL);
    assert_ok(terrace_release(held, p, NULL));
    acquire_more_than_there_can_be(all);
    terrace_close(m);
}

Test(sealed, a_budget_without_room_for_staging, .timeout = 60)
{
    terrace *m = (terrace *)&m;
    assert_fails(terrace_open(&m, "tiers=numa:0,simdisk:0;limit_numa=32K;encrypt=1"), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "TERRACE_ENCRYPT") && strstr(terrace_last_error(), "numa:0") &&
              strstr(terrace_last_error(), "staging"), "%s", terrace_last_error());
    cr_assert_eq(m, (terrace *)&m, "an output was written on failure");
    assert_fails(terrace_open(&m, "tiers=simdisk:0;encrypt=1"), TERRACE_ENOTSUP);
    terrace_close(open_sim(32 * KIB, "verify=all")); /* checksums need none */
}

/* ---- on a real disk ---------------------------------------------------------- */

static char folder[64], path[96];
static const char *const engines[] = {"uring", "threads"};
#define EACH_ENGINE(e) (unsigned e = 0; e < sizeof engines / sizeof engines[0]; e++)

static void make_folder(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/weights", folder);
}

static void remove_folder(void)
{
    unlink(path);
    rmdir(folder);
}

TestSuite(sealed_disk, .init = make_folder, .fini = remove_folder, .timeout = 60);

static terrace *open_disk(unsigned engine, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "log=off;io=%s;nvme_path=%s;%s", engines[engine], folder, more);
    return open_with("numa:0,nvme:0", LIMIT, conf);
}

/* Whether an open file without a name, in the folder, has these bytes. */
static bool spill_has(const void *bytes, size_t n)
{
    enum { PART = 4 << 20 };
    char name[300], target[300];
    char *part = malloc(PART);
    unsigned files = 0;
    bool found = false;
    DIR *d = opendir("/proc/self/fd");
    for (struct dirent *e; d && (e = readdir(d)) && !found;) {
        snprintf(name, sizeof name, "/proc/self/fd/%s", e->d_name);
        ssize_t len = readlink(name, target, sizeof target - 1), got;
        target[len > 0 ? len : 0] = '\0';
        struct stat is;
        if (strncmp(target, folder, strlen(folder)) || !strstr(target, "(deleted)") || stat(name, &is) ||
            !S_ISREG(is.st_mode))
            continue;
        int fd = open(name, O_RDONLY);
        files++;
        for (off_t at = 0; !found && (got = pread(fd, part, PART, at)) > 0; at += got)
            found = memmem(part, (size_t)got, bytes, n) != NULL;
        close(fd);
    }
    closedir(d);
    free(part);
    cr_assert_gt(files, 0, "there is no spill file to look into");
    return found;
}

Test(sealed_disk, the_spill_has_ciphertext_alone)
{
    uint64_t sample[8];
    for EACH_ENGINE (e)
        for EACH_SEALED (i) {
            bool encrypts = strstr(sealed[i], "encrypt") != NULL;
            terrace *m = open_disk(e, strchr(sealed[i], ';') + 1);
            terrace_tensor *t = tensor_below(m, 3 * MIB, "t", 5);
            for (uint64_t k = 0; k < 2; k++) {
                for (uint64_t w = 0; w < 8; w++)
                    sample[w] = pattern(5, k * MIB / 8 + w);
                cr_assert_eq(spill_has(sample, sizeof sample), !encrypts, "%s, %s", engines[e], sealed[i]);
            }
            expect_pattern(t, 0, 3 * MIB, 5);
            terrace_close(m);
        }
}

/* Changes a byte of the file; its time stays what it was. */
static void change_in_secret(off_t offset)
{
    struct stat was;
    char c;
    int fd = open(path, O_RDWR);
    cr_assert_eq(fstat(fd, &was), 0);
    cr_assert_eq(pread(fd, &c, 1, offset), 1);
    c ^= 4;
    cr_assert_eq(pwrite(fd, &c, 1, offset), 1);
    cr_assert_eq(futimens(fd, (struct timespec[]){was.st_atim, was.st_mtim}), 0);
    close(fd);
}

Test(sealed_disk, files_are_checked_when_read_again)
{
    enum { BYTES = 5 * MIB + 123 };
    static unsigned char data[BYTES];
    static const char *const all[] = {"verify=all", "verify=all;encrypt=1"};
    pattern_fill(data, BYTES, 6);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    cr_assert_eq(write(fd, data, BYTES), BYTES);
    close(fd);
    for EACH_ENGINE (e)
        for (size_t k = 0; k < 4; k++) {
            size_t offset = k % 2 ? 1001 : 4096, bytes = BYTES - offset;
            terrace *m = open_disk(e, all[k / 2]);
            terrace_tensor_attr attr = {.size = sizeof attr, .label = "layers/0/w"};
            terrace_tensor *t;
            void *p;
            assert_ok(terrace_tensor_open(m, path, offset, bytes, &attr, &t));
            for (off_t at = (off_t)offset; at < BYTES; at += MIB + 11) {
                assert_ok(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL));
                cr_assert_eq(memcmp(p, data + offset, bytes), 0);
                assert_ok(terrace_release(t, p, NULL));
                push_down(t, m);
                change_in_secret(at);
                expect_corrupt(t, "nvme:0");
                change_in_secret(at);
            }
            cr_assert_eq(stats_of(m).corrupt, stats_of(m).io_errors);
            terrace_close(m);
        }
}

Test(sealed_disk, files_are_not_checked_unless_asked_for)
{
    unsigned char data[8192] = {0};
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    cr_assert_eq(write(fd, data, sizeof data), (ssize_t)sizeof data);
    close(fd);
    terrace *m = open_disk(1, "verify=spill");
    terrace_tensor *t;
    assert_ok(terrace_tensor_open(m, path, 0, sizeof data, NULL, &t));
    for (int changed = 0; changed < 2; changed++) {
        unsigned char *p;
        assert_ok(terrace_acquire(t, 0, TERRACE_READ, NULL, (void **)&p, NULL));
        cr_assert_eq(p[5000], changed ? 4 : 0);
        assert_ok(terrace_release(t, p, NULL));
        push_down(t, m);
        change_in_secret(5000);
    }
    terrace_close(m);
}
