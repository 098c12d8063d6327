/* test_stable.c - address-stable memory: pointers that stay while pages move. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "manager.h"
#include "simdisk.h"

enum { BLOCK = 2 * MIB };

static unsigned char *stable_of(terrace *m, size_t bytes)
{
    void *p = terrace_malloc(m, bytes, host_of(m), NULL);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error()); /* an older kernel, or not allowed */
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

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

Test(stable, new_memory_reads_as_zeros, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 16 * MIB);
    memset(p, 1, 16 * MIB);
    terrace_free(m, p);
    p = stable_of(m, 16 * MIB);
    for (size_t i = 0; i < 16 * MIB; i++)
        cr_assert(p[i] == 0);
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

struct walker {
    unsigned char *p;
    size_t words;
    unsigned seed;
    unsigned long sum;
};

/* Adds to words of its own, spread over all the memory. */
static void *walk(void *arg)
{
    struct walker *w = arg;
    unsigned x = w->seed * 2654435761u + 1;
    for (int i = 0; i < 3000; i++) {
        x = x * 1664525u + 1013904223u;
        size_t at = (x >> 8) % (w->words / 8) * 8 + w->seed;
        ((uint64_t *)w->p)[at]++;
        w->sum++;
    }
    return NULL;
}

Test(stable, no_write_is_lost_while_pages_move, .timeout = 120)
{
    terrace *m = open_sim(16 * MIB, NULL);
    size_t bytes = 48 * MIB;
    unsigned char *p = stable_of(m, bytes);
    struct walker w[4];
    pthread_t thread[4];
    unsigned long sum = 0, found = 0;
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct walker){.p = p, .words = bytes / 8, .seed = i};
        pthread_create(&thread[i], NULL, walk, &w[i]);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        sum += w[i].sum;
    }
    for (size_t i = 0; i < bytes / 8; i++)
        found += ((uint64_t *)p)[i];
    cr_assert_eq(found, sum);
    terrace_close(m);
}

Test(stable, system_calls_reach_evicted_pages, .timeout = 60)
{
    if (geteuid() != 0)
        cr_skip_test("needs userfaultfd for kernel-mode faults");
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, BLOCK, 1);
    memset(p + BLOCK, 2, 30 * MIB);
    int ends[2];
    char back[4096];
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(write(ends[1], p, sizeof back), sizeof back);
    cr_assert_eq(read(ends[0], back, sizeof back), sizeof back);
    cr_assert_eq(memcmp(back, p, sizeof back), 0);
    cr_assert(pattern_is(p, BLOCK, 1));
    terrace_close(m);
}

Test(stable, small_and_odd_sizes, .timeout = 60)
{
    static const size_t sizes[] = {1, 4095, 4096, 4097, 100000, BLOCK - 1, BLOCK, BLOCK + 1, 5000001};
    enum { N = sizeof sizes / sizeof sizes[0] };
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p[N];
    for (size_t i = 0; i < N; i++) {
        p[i] = stable_of(m, sizes[i]);
        pattern_fill(p[i], sizes[i], i);
    }
    for (size_t i = 0; i < N; i++)
        assert_ok(terrace_advise(m, p[i], sizes[i], TERRACE_ADVISE_DONTNEED, host_of(m)));
    for (size_t i = 0; i < N; i++)
        cr_assert(pattern_is(p[i], sizes[i], i));
    for (size_t i = 0; i < N; i++)
        terrace_free(m, p[i]);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
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

Test(stable, tensors_and_stable_memory_share_the_budget, .timeout = 60)
{
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 32 * MIB);
    terrace_tensor *t[16];
    for (int i = 0; i < 16; i++) {
        t[i] = tensor_of(m, BLOCK, "t");
        write_pattern(t[i], host_of(m), BLOCK, (uint64_t)i);
        pattern_fill(p + (size_t)i * BLOCK, BLOCK, (uint64_t)i + 100);
    }
    for (int i = 0; i < 16; i++) {
        expect_pattern(t[i], host_of(m), BLOCK, (uint64_t)i);
        cr_assert(pattern_is(p + (size_t)i * BLOCK, BLOCK, (uint64_t)i + 100));
    }
    cr_assert(tier_stats_of(m, 0).peak <= 16 * MIB);
    terrace_close(m);
}

Test(stable, lists_and_outputs_may_lie_in_it, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 32 * MIB);
    terrace_tensor *t = tensor_of(m, 64 * KIB, "t");
    for (int i = 0; i < 8; i++) {
        terrace_access *list = (terrace_access *)(p + (size_t)i * 4 * MIB);
        *list = (terrace_access){.size = sizeof *list, .tensor = t, .tier = host_of(m),
                                 .mode = TERRACE_READ};
        memset(p + (size_t)(i + 4) % 8 * 4 * MIB, 1, 4 * MIB); /* pushes the list out */
        memset(p + (size_t)(i + 5) % 8 * 4 * MIB, 1, 4 * MIB);
        assert_ok(terrace_acquire_all(list, 1, NULL));
        void **address = (void **)(p + (size_t)(i + 2) % 8 * 4 * MIB);
        assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, address, NULL));
        assert_ok(terrace_release(t, *address, NULL));
        assert_ok(terrace_release(t, list->address, NULL));
    }
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

struct churner {
    terrace *m;
    unsigned seed;
    bool wrong;
};

static void *churn(void *arg)
{
    struct churner *c = arg;
    for (unsigned i = 0; i < 40; i++) {
        size_t bytes = (size_t)(1 + (c->seed + i) % 7) * BLOCK;
        unsigned char *p = terrace_malloc(c->m, bytes, host_of(c->m), NULL);
        if (!p)
            return NULL;
        for (size_t at = 0; at < bytes; at += BLOCK / 2) {
            c->wrong |= p[at] != 0;
            p[at] = (unsigned char)(c->seed + at / BLOCK);
        }
        for (size_t at = 0; at < bytes; at += BLOCK / 2)
            c->wrong |= p[at] != (unsigned char)(c->seed + at / BLOCK);
        terrace_free(c->m, p);
    }
    return NULL;
}

Test(stable, allocations_come_and_go_under_pressure, .timeout = 120)
{
    enum { THREADS = 4 };
    terrace *m = open_sim(16 * MIB, NULL);
    struct churner c[THREADS];
    pthread_t thread[THREADS];
    terrace_free(m, stable_of(m, BLOCK));
    for (unsigned i = 0; i < THREADS; i++) {
        c[i] = (struct churner){.m = m, .seed = i + 1};
        pthread_create(&thread[i], NULL, churn, &c[i]);
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(thread[i], NULL);
        cr_assert_not(c[i].wrong);
    }
    eventually(tier_stats_of(m, 0).tensors == 0);
    cr_assert(tier_stats_of(m, 0).peak <= 16 * MIB);
    terrace_close(m);
}
