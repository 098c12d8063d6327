/* test_stable.c - address-stable memory: pointers that stay while pages move. */
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manager.h"
#include "simdisk.h"
#include "stable.h"

#define STABLE_SUITE stable
#define STABLE_OPEN(limit) open_sim(limit, NULL)
#include "stable_cases.h"

Test(stable, bytes_survive_eviction, .timeout = 60)
{
    enum { BLOCKS = 32 };
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < BLOCKS; i++)
            pattern_fill(p + i * BLOCK, BLOCK, i + (size_t)round * 100);
        for (size_t i = 0; i < BLOCKS; i++)
            cr_assert(pattern_is(p + i * BLOCK, BLOCK, i + (size_t)round * 100));
    }
    cr_assert(tier_stats_of(m, 0).peak <= 16 * MIB);
    cr_assert_gt(stats_of(m).faults, BLOCKS);
    cr_assert_gt(stats_of(m).writeback_bytes, 0);
    terrace_free(m, p);
    terrace_close(m);
}

Test(stable, what_is_only_read_is_not_written_again, .timeout = 60)
{
    enum { BLOCKS = 16 };
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    for (size_t i = 0; i < BLOCKS; i++)
        pattern_fill(p + i * BLOCK, BLOCK, i);
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < BLOCKS; i++)
            cr_assert(pattern_is(p + i * BLOCK, BLOCK, i));
    uint64_t written = stats_of(m).writeback_bytes;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < BLOCKS; i++)
            cr_assert(pattern_is(p + i * BLOCK, BLOCK, i));
    cr_assert_eq(stats_of(m).writeback_bytes, written);
    p[5 * BLOCK + 17] ^= 1; /* and one changed bit is not lost */
    for (size_t i = 6; i < BLOCKS; i++)
        cr_assert(pattern_is(p + i * BLOCK, BLOCK, i));
    for (size_t i = 0; i < 5; i++)
        cr_assert(pattern_is(p + i * BLOCK, BLOCK, i));
    p[5 * BLOCK + 17] ^= 1;
    cr_assert(pattern_is(p + 5 * BLOCK, BLOCK, 5));
    terrace_close(m);
}

Test(stable, blocks_a_little_smaller_than_a_granule, .timeout = 20)
{
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p[12];
    size_t bytes[] = {BLOCK - 4096, BLOCK - 100, BLOCK / 2 + 1};
    for (size_t i = 0; i < 12; i++) {
        p[i] = stable_of(m, bytes[i % 3]);
        pattern_fill(p[i], bytes[i % 3], i);
    }
    for (size_t i = 0; i < 12; i++) {
        cr_assert(pattern_is(p[i], bytes[i % 3], i));
        terrace_free(m, p[i]);
    }
    terrace_close(m);
}

Test(stable, discarded_blocks_read_as_zeros, .timeout = 60)
{
    enum { BLOCKS = 24 };
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    for (size_t i = 0; i < BLOCKS; i++)
        pattern_fill(p + i * BLOCK, BLOCK, i);
    assert_ok(terrace_advise(m, p + 4 * BLOCK, BLOCK, TERRACE_ADVISE_PIN, host_of(m)));
    stable_discard(m, p + 3 * BLOCK, 18 * BLOCK - 1); /* in memory, on disk, pinned; not the last */
    for (size_t i = 0; i < BLOCKS; i++) {
        bool gone = i >= 3 && i < 20;
        cr_assert(gone || pattern_is(p + i * BLOCK, BLOCK, i), "block %zu", i);
        for (size_t at = 0; gone && at < BLOCK; at += 512)
            cr_assert(p[i * BLOCK + at] == 0, "block %zu", i);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        pattern_fill(p + i * BLOCK, BLOCK, i + 1);
    for (size_t i = 0; i < BLOCKS; i++)
        cr_assert(pattern_is(p + i * BLOCK, BLOCK, i + 1));
    terrace_close(m);
}

Test(stable, advice, .timeout = 60)
{
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, 4 * MIB, 1);
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_PIN, host_of(m)));
    uint64_t faults = stats_of(m).faults;
    memset(p + 4 * MIB, 3, 28 * MIB);
    uint64_t pinned_faults = stats_of(m).faults;
    cr_assert(pattern_is(p, 4 * MIB, 1));
    cr_assert_eq(stats_of(m).faults, pinned_faults, "a pinned block had left");
    cr_assert_gt(pinned_faults, faults);
    assert_fails(terrace_advise(m, p, 32 * MIB, TERRACE_ADVISE_PIN, host_of(m)), TERRACE_EBUDGET);
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_UNPIN, host_of(m)));
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)));
    assert_fails(terrace_advise(m, p, 33 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)), TERRACE_EINVAL);
    assert_fails(terrace_advise(m, &m, 8, TERRACE_ADVISE_WILLNEED, host_of(m)), TERRACE_EINVAL);
    assert_fails(terrace_advise(m, p, 8, 99, host_of(m)), TERRACE_EINVAL);
    cr_assert(pattern_is(p, 4 * MIB, 1));
    terrace_close(m);
}

Test(stable, a_sequential_walk_is_read_ahead, .timeout = 60)
{
    terrace *m = open_sim(32 * MIB, NULL);
    unsigned char *p = stable_of(m, 128 * MIB);
    memset(p, 1, 128 * MIB);
    terrace_statistics before = stats_of(m);
    unsigned long sum = 0;
    for (size_t i = 0; i < 128 * MIB; i += 4096)
        sum += p[i];
    cr_assert_eq(sum, 128 * MIB / 4096);
    terrace_statistics after = stats_of(m);
    cr_assert_gt(after.prefetches - before.prefetches, 16);
    terrace_close(m);
}

Test(stable, the_child_of_a_fork_never_reads_wrong_bytes, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 16 * MIB);
    memset(p, 7, 16 * MIB);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL); /* not a sanitizer's */
        _exit(*(volatile unsigned char *)p == 7 ? 0 : 1);
    }
    int status;
    waitpid(child, &status, 0);
    cr_assert((WIFEXITED(status) && WEXITSTATUS(status) == 0) || WIFSIGNALED(status));
    cr_assert_eq(p[0], 7);
    cr_assert_eq(p[16 * MIB - 1], 7);
    terrace_close(m);
}

Test(stable, refusals)
{
    terrace *m = open_sim(8 * MIB, NULL);
    cr_assert_null(terrace_malloc(m, 0, host_of(m), NULL));
    cr_assert_null(terrace_malloc(m, 4096, disk_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "host"), "%s", terrace_last_error());
    cr_assert_null(terrace_malloc(m, 4096, 999, NULL));
    cr_assert_null(terrace_malloc(NULL, 4096, 0, NULL));
    terrace_free(m, NULL);
    terrace_close(m);
    m = open_sim(8 * MIB, "policy=none");
    cr_assert_null(terrace_malloc(m, 16 * MIB, host_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "TERRACE_POLICY"), "%s", terrace_last_error());
    terrace_close(m);
}

static sigjmp_buf bus;

static void on_bus(int signal)
{
    siglongjmp(bus, signal);
}

Test(stable, what_cannot_be_read_back_is_a_sigbus_never_wrong_bytes, .timeout = 60)
{
    char path[] = "/var/tmp/terrace-test-XXXXXX", conf[80], text[512] = "";
    int log = mkstemp(path);
    snprintf(conf, sizeof conf, "log_file=%s", path);
    terrace *m = open_sim(8 * MIB, conf);
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, BLOCK, 1);
    memset(p + BLOCK, 2, 30 * MIB);
    eventually(tier_stats_of(m, 0).tensors <= 4);
    simdisk_fault(&simdisk.fail_all_reads, 1);
    struct sigaction action = {.sa_handler = on_bus}, old;
    sigaction(SIGBUS, &action, &old);
    volatile bool read_something = false;
    int got = sigsetjmp(bus, 1);
    if (got == 0) {
        (void)*(volatile unsigned char *)p;
        read_something = true;
    }
    sigaction(SIGBUS, &old, NULL);
    cr_assert_not(read_something);
    cr_assert_eq(got, SIGBUS);
    cr_assert_gt(pread(log, text, sizeof text - 1, 0), 0);
    cr_assert(strstr(text, "poisoned") && strstr(text, "simulated disk"), "%s", text);
    simdisk_fault(&simdisk.fail_all_reads, 0);
    cr_assert_eq(p[20 * MIB], 2, "the others go on");
    terrace_free(m, p);
    terrace_close(m);
    close(log);
    unlink(path);
}

