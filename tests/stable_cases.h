/* stable_cases.h - what address-stable memory does, whatever serves it.
 *
 * The program that includes this says the suite's name (STABLE_SUITE) and how a
 * manager with a host budget is opened (STABLE_OPEN). */
#ifndef TERRACE_TESTS_STABLE_CASES_H
#define TERRACE_TESTS_STABLE_CASES_H

#include <pthread.h>
#include <signal.h>

#include "manager.h"

#define CASE_OF(suite, ...) Test(suite, __VA_ARGS__)
#define CASE(...) CASE_OF(STABLE_SUITE, __VA_ARGS__)

enum { BLOCK = 2 * MIB };

static unsigned char *stable_of(terrace *m, size_t bytes)
{
    void *p = terrace_malloc(m, bytes, host_of(m), NULL);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error()); /* an older kernel, or not allowed */
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

CASE(what_is_written_is_read, .timeout = 60)
{
    enum { BLOCKS = 32 };
    terrace *m = STABLE_OPEN(16 * MIB);
    unsigned char *p = stable_of(m, (size_t)BLOCKS * BLOCK);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < BLOCKS; i++)
            pattern_fill(p + i * BLOCK, BLOCK, i + (size_t)round * 100);
        for (size_t i = 0; i < BLOCKS; i++)
            cr_assert(pattern_is(p + i * BLOCK, BLOCK, i + (size_t)round * 100));
    }
    cr_assert(tier_stats_of(m, 0).peak <= 16 * MIB);
    terrace_free(m, p);
    terrace_close(m);
}

CASE(new_memory_reads_as_zeros, .timeout = 60)
{
    terrace *m = STABLE_OPEN(8 * MIB);
    unsigned char *p = stable_of(m, 16 * MIB);
    memset(p, 1, 16 * MIB);
    terrace_free(m, p);
    p = stable_of(m, 16 * MIB);
    for (size_t i = 0; i < 16 * MIB; i++)
        cr_assert(p[i] == 0);
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

CASE(no_write_is_lost_while_pages_move, .timeout = 120)
{
    terrace *m = STABLE_OPEN(16 * MIB);
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

CASE(system_calls_reach_evicted_pages, .timeout = 60)
{
    if (geteuid() != 0)
        cr_skip_test("needs userfaultfd for kernel-mode faults");
    terrace *m = STABLE_OPEN(8 * MIB);
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

CASE(small_and_odd_sizes, .timeout = 60)
{
    static const size_t sizes[] = {1, 4095, 4096, 4097, 100000, BLOCK - 1, BLOCK, BLOCK + 1, 5000001};
    enum { N = sizeof sizes / sizeof sizes[0] };
    terrace *m = STABLE_OPEN(8 * MIB);
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

CASE(tensors_and_stable_memory_share_the_budget, .timeout = 60)
{
    terrace *m = STABLE_OPEN(16 * MIB);
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

CASE(lists_and_outputs_may_lie_in_it, .timeout = 60)
{
    terrace *m = STABLE_OPEN(8 * MIB);
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

CASE(allocations_come_and_go_under_pressure, .timeout = 120)
{
    enum { THREADS = 4 };
    terrace *m = STABLE_OPEN(16 * MIB);
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

CASE(advice_does_not_change_bytes, .timeout = 60)
{
    terrace *m = STABLE_OPEN(16 * MIB);
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, 4 * MIB, 1);
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_PIN, host_of(m)));
    memset(p + 4 * MIB, 3, 28 * MIB);
    cr_assert(pattern_is(p, 4 * MIB, 1));
    assert_fails(terrace_advise(m, p, 32 * MIB, TERRACE_ADVISE_PIN, host_of(m)), TERRACE_EBUDGET);
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_UNPIN, host_of(m)));
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)));
    assert_ok(terrace_advise(m, p, 0, TERRACE_ADVISE_PIN, host_of(m)));
    assert_fails(terrace_advise(m, p, 33 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)), TERRACE_EINVAL);
    assert_fails(terrace_advise(m, &m, 8, TERRACE_ADVISE_WILLNEED, host_of(m)), TERRACE_EINVAL);
    assert_fails(terrace_advise(m, p, 8, 99, host_of(m)), TERRACE_EINVAL);
    cr_assert(pattern_is(p, 4 * MIB, 1));
    terrace_close(m);
}

CASE(no_signal_handler_is_installed, .timeout = 60)
{
    struct sigaction before[SIGRTMAX], after;
    for (int i = 1; i < SIGRTMAX; i++)
        if (sigaction(i, NULL, &before[i]))
            before[i].sa_handler = NULL;
    terrace *m = STABLE_OPEN(8 * MIB);
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, 32 * MIB, 1);
    cr_assert(pattern_is(p, 32 * MIB, 1));
    for (int i = 1; i < SIGRTMAX; i++)
        cr_assert(sigaction(i, NULL, &after) || after.sa_handler == before[i].sa_handler, "signal %d", i);
    terrace_close(m);
}

CASE(what_cannot_be_had_is_refused)
{
    terrace *m = STABLE_OPEN(8 * MIB);
    cr_assert_null(terrace_malloc(m, 0, host_of(m), NULL));
    cr_assert_null(terrace_malloc(m, 4096, disk_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "host"), "%s", terrace_last_error());
    cr_assert_null(terrace_malloc(m, 4096, 999, NULL));
    cr_assert_null(terrace_malloc(m, SIZE_MAX, host_of(m), NULL));
    cr_assert_null(terrace_malloc(m, SIZE_MAX / 5, host_of(m), NULL));
    cr_assert_null(terrace_malloc(NULL, 4096, 0, NULL));
    terrace_free(m, NULL);
    terrace_free(m, &m);
    terrace_close(m);
}

#endif
