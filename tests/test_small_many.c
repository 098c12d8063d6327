/* test_small_many.c - many small tensors, and threads that use them. */
#include <malloc.h>

#include "small_cases.h"

/* ---- many ------------------------------------------------------------------ */

Test(small, a_million, .timeout = 250)
{
    const size_t n = SANITIZED ? 50000 : 1000000;
    terrace *m = open_sim(64 * MIB, NULL);
    terrace_tensor **t = malloc(n * sizeof *t);
    terrace_tier disk = disk_of(m);
    cr_assert(t);
    for (size_t i = 0; i < n; i++)
        t[i] = create(m, PAGE_BYTES, NULL);
    for (size_t i = 0; i < n; i++) {
        uint64_t *p = acquire(t[i], TERRACE_OVERWRITE);
        p[0] = i;
        p[PAGE_BYTES / 8 - 1] = ~i;
        release(t[i], p);
        assert_ok(terrace_demote(t[i], disk));
    }
    for (size_t i = 0; i < n; i++)
        assert_ok(terrace_wait(t[i]));
    size_t groups = (n + SLICES - 1) / SLICES;
    for (size_t i = 0; i < n; i++) {
        uint64_t *p = acquire(t[i], TERRACE_READ);
        cr_assert(p[0] == i && p[PAGE_BYTES / 8 - 1] == ~i, "tensor %zu", i);
        release(t[i], p);
    }
    fprintf(stderr, "%zu tensors: %u writes, %u reads\n", n, simdisk.writes, simdisk.reads);
    cr_assert_leq(simdisk.reads, groups * GROUP_PIECES);
    cr_assert_leq(simdisk.writes, (groups + groups / 8) * GROUP_PIECES);
    cr_assert_eq(stats_of(m).tensors, n);
    for (size_t i = 0; i < n; i++)
        terrace_tensor_destroy(t[i]);
    expect_no_bytes(m);
    cr_assert_eq(tier_stats_of(m, 1).tensors, 0);
    smalls_trim(m); /* what was freed is kept for a while */
    smalls_trim(m);
    size_t left = 0;
    struct terrace_tensor *group;
    LIST_FOREACH(group, &m->all, all)
        left++;
    cr_assert_leq(left, 8, "%zu groups are left", left);
    free(t);
    terrace_close(m);
}

static size_t resident(void)
{
    size_t pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%zu %zu", &ignored, &pages) == 2);
    fclose(f);
    return pages * 4096;
}

static size_t allocated(void)
{
    struct mallinfo2 i = mallinfo2();
    return i.uordblks + i.hblkhd;
}

Test(small, take_little_metadata, .timeout = 60)
{
    enum { N = 100000, MOST_EACH = 128 };
    if (SANITIZED)
        cr_skip_test("a sanitizer's allocator is another");
    terrace *m = open_sim(64 * MIB, NULL);
    static terrace_tensor *t[N];
    memset(t, 0, sizeof t);
    create(m, PAGE_BYTES, NULL); /* opens the heap */
    size_t malloced = allocated(), all = resident();
    for (int i = 0; i < N; i++)
        t[i] = create(m, PAGE_BYTES, NULL);
    malloced = allocated() - malloced;
    all = resident() - all;
    fprintf(stderr, "bytes per tensor: %.1f by malloc, %.1f resident\n", (double)malloced / N, (double)all / N);
    cr_assert_leq(malloced / N, MOST_EACH);
    cr_assert_leq(all / N, MOST_EACH); /* jemalloc's own memory is not from malloc */
    terrace_close(m);
}

/* ---- threads --------------------------------------------------------------- */

static void *job_main(void *arg)
{
    struct job *job = arg;
    static _Thread_local struct mine mine[MINE];
    uint64_t rng = job->seed * 0x9e3779b97f4a7c15u;
    terrace_tier disk = disk_of(job->m);
    for (int i = 0; i < (SANITIZED ? 6000 : 40000); i++) {
        struct mine *x = &mine[dice(&rng) % MINE];
        uint64_t what = dice(&rng) % 16;
        if (!x->t) {
            *x = (struct mine){.bytes = 1 + dice(&rng) % (dice(&rng) % 4 ? 9000 : 32768)};
            x->t = create(job->m, x->bytes, "mine");
        } else if (what == 0) {
            terrace_tensor_destroy(x->t);
            x->t = NULL;
        } else if (what < 4) {
            assert_ok(terrace_demote(x->t, disk));
        } else if (what == 4) {
            assert_ok(terrace_prefetch(x->t, 0));
        } else if (what == 5) {
            assert_ok(terrace_wait(x->t));
        } else if (what == 6) { /* one that all threads read */
            uint64_t k = dice(&rng) % SHARED;
            expect_pattern(job->shared[k], 0, 3000, k);
        } else {
            use(x, &rng);
        }
    }
    for (int i = 0; i < MINE; i++)
        if (mine[i].t && i % 2)
            terrace_tensor_destroy(mine[i].t);
    return NULL;
}

static void expect_oracle(const char *conf)
{
    terrace *m = open_sim(BUDGET, conf);
    terrace_tensor *shared[SHARED], *ballast = tensor_of(m, BUDGET - 4 * MIB, "ballast");
    struct job job[THREADS];
    for (uint64_t i = 0; i < SHARED; i++) {
        shared[i] = create(m, 3000, "shared");
        write_pattern(shared[i], 0, 3000, i);
    }
    void *p = acquire(ballast, TERRACE_OVERWRITE); /* leaves room for a part of them only */
    for (int i = 0; i < THREADS; i++) {
        job[i] = (struct job){.m = m, .shared = shared, .seed = (uint64_t)i + 1};
        cr_assert_eq(pthread_create(&job[i].thread, NULL, job_main, &job[i]), 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(job[i].thread, NULL);
    cr_assert_gt(stats_of(m).evictions, 0);
    release(ballast, p);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    terrace_close(m); /* with what is left */
}

Test(small, threads_against_an_oracle, .timeout = 200)
{
    expect_oracle(NULL);
}

Test(small, threads_against_an_oracle_verified, .timeout = 200)
{
    expect_oracle("verify=all");
}

Test(small, threads_against_an_oracle_encrypted, .timeout = 200)
{
    expect_oracle("encrypt=1");
}
