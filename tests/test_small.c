/* test_small.c - small tensors: slices of groups, each of which is to behave as
 * if it had a place of its own. */
#include <sys/resource.h>

#include "small_cases.h"

/* ---- bytes ----------------------------------------------------------------- */

static void expect_bytes_survive(const char *conf)
{
    static const size_t sizes[] = {1, 7, 63, 64, 65, 100, 1000, 4095, 4096, 4097, 8192, 10000, 16384, 20000,
                                   32767, 32768};
    enum { SIZES = sizeof sizes / sizeof *sizes, ROUNDS = 160, COUNT = SIZES * ROUNDS };
    terrace *m = open_sim(BUDGET, conf);
    static terrace_tensor *t[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        t[i] = create(m, sizes[i % SIZES], "t");
        write_pattern(t[i], 0, sizes[i % SIZES], i);
    }
    terrace_tensor *big = tensor_of(m, BUDGET - 2 * MIB, "big");
    for (int round = 0; round < 3; round++) {
        write_pattern(big, 0, BUDGET - 2 * MIB, 1); /* everything else has to leave */
        for (size_t i = 0; i < COUNT; i++) {
            void *p = acquire(t[i], round == 1 ? TERRACE_WRITE : TERRACE_READ);
            cr_assert(pattern_is(p, sizes[i % SIZES], i + (size_t)(round == 2 ? COUNT : 0)), "tensor %zu", i);
            cr_assert_eq((uintptr_t)p % (sizes[i % SIZES] < 4096 ? 64 : 4096), 0);
            if (round == 1)
                pattern_fill(p, sizes[i % SIZES], i + COUNT);
            release(t[i], p);
        }
    }
    cr_assert_gt(stats_of(m).evictions, 0);
    cr_assert_eq(stats_of(m).tensors, COUNT + 1);
    for (size_t i = 0; i < COUNT; i++)
        terrace_tensor_destroy(t[i]);
    cr_assert_eq(stats_of(m).tensors, 1);
    cr_assert_eq(stats_of(m).tensor_bytes, BUDGET - 2 * MIB);
    terrace_close(m);
}

Test(small, bytes_survive_eviction, .timeout = 120)
{
    expect_bytes_survive(NULL);
}

Test(small, bytes_survive_eviction_verified, .timeout = 120)
{
    expect_bytes_survive("verify=all");
}

Test(small, bytes_survive_eviction_encrypted, .timeout = 120)
{
    expect_bytes_survive("encrypt=1");
}

Test(small, what_is_one)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor_attr attr = {.size = sizeof attr, .alignment = 4096};
    terrace_tensor *t;
    assert_ok(terrace_tensor_create(m, 100, &attr, &t));
    cr_assert(small_of(t));
    void *p = acquire(t, TERRACE_READ);
    cr_assert_eq((uintptr_t)p % 4096, 0);
    release(t, p);
    attr.alignment = 8192;
    assert_ok(terrace_tensor_create(m, 100, &attr, &t));
    cr_assert_not(small_of(t));
    attr.alignment = 0;
    attr.flags = TERRACE_ATTR_UNMOVABLE;
    assert_ok(terrace_tensor_create(m, 100, &attr, &t));
    cr_assert_not(small_of(t));
    cr_assert_not(small_of(tensor_of(m, 32 * KIB + 1, "t")));
    assert_fails(terrace_tensor_create(m, 0, NULL, &t), TERRACE_EINVAL);
    attr.flags = 99;
    assert_fails(terrace_tensor_create(m, 100, &attr, &t), TERRACE_EINVAL);
    cr_assert(strstr(tier_stats_of(m, 0).small_engine, "groups of 256 KiB"));
    cr_assert_null(tier_stats_of(m, 1).small_engine);
    terrace_close(m);
    m = open_sim(BUDGET - 4096, NULL);
    t = tensor_of(m, 100, "t");
    cr_assert_not(small_of(t));
    cr_assert(strstr(tier_stats_of(m, 0).small_engine, "16 MiB"));
    write_pattern(t, 0, 100, 1);
    push_down(t, m);
    expect_pattern(t, 0, 100, 1);
    terrace_close(m);
}

/* How much address space there may be besides what there is. */
static void limit_address_space(size_t more)
{
    size_t pages;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%zu", &pages) == 1);
    fclose(f);
    struct rlimit limit = {.rlim_cur = pages * 4096 + more, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
}

Test(small, are_ordinary_where_there_is_no_address_space, .timeout = 20)
{
    if (SANITIZED)
        cr_skip_test("a sanitizer wants address space, too");
    terrace *m = open_sim(BUDGET, NULL);
    limit_address_space(64 * MIB);
    for (uint64_t i = 0; i < 3; i++) {
        terrace_tensor *t = tensor_of(m, 100, "t");
        cr_assert_not(small_of(t));
        write_pattern(t, 0, 100, i);
        push_down(t, m);
        expect_pattern(t, 0, 100, i);
    }
    cr_assert(strstr(tier_stats_of(m, 0).small_engine, "no address space"));
    terrace_close(m);
    m = open_sim(BUDGET, NULL);
    limit_address_space((size_t)1 << 30);
    expect_zeros(create(m, 100, "t"), 100); /* a smaller reservation does */
    terrace_close(m);
}

/* ---- zeros ----------------------------------------------------------------- */

Test(small, new_reads_as_zeros, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    expect_zeros(a, PAGE_BYTES);
    push_pair_down(m, a, b);
    cr_assert_eq(simdisk_pieces(), 0, "zeros need no disk");
    write_pattern(b, 0, PAGE_BYTES, 1); /* the whole group would have been undefined */
    expect_zeros(a, PAGE_BYTES);
    push_pair_down(m, a, b);
    expect_zeros(a, PAGE_BYTES);
    expect_pattern(b, 0, PAGE_BYTES, 1);
    terrace_close(m);
}

Test(small, overwritten_memory_of_others_is_not_seen, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *junk = tensor_of(m, BUDGET, "junk"), *t[3 * SLICES];
    write_pattern(junk, 0, BUDGET, 9);
    terrace_tensor_destroy(junk);
    for (int i = 0; i < 3 * SLICES; i++)
        t[i] = create(m, PAGE_BYTES, "t");
    for (int i = 0; i < 3 * SLICES; i += 2)
        write_pattern(t[i], 0, PAGE_BYTES, (uint64_t)i); /* without reading what lies around */
    cr_assert_eq(simdisk.reads, 0);
    for (int i = 1; i < 3 * SLICES; i += 2)
        expect_zeros(t[i], PAGE_BYTES);
    terrace_close(m);
}

Test(small, recycled_reads_as_zeros, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *keep, *t;
    create_pair(m, &keep, &t);
    write_pattern(keep, 0, PAGE_BYTES, 1);
    for (unsigned i = 0; i < 6; i++) {
        write_pattern(t, 0, PAGE_BYTES, 2);
        void *was = acquire(t, TERRACE_READ);
        release(t, was);
        terrace_tensor_destroy(t);
        t = create(m, PAGE_BYTES, "t");
        if (i & 1)
            push_pair_down(m, keep, t);
        void *p = acquire(t, i & 2 ? TERRACE_READ : TERRACE_WRITE);
        cr_assert((i & 1) || p == was, "not recycled");
        cr_assert(zeros(p, PAGE_BYTES));
        release(t, p);
        push_pair_down(m, keep, t);
        expect_zeros(t, PAGE_BYTES);
    }
    expect_pattern(keep, 0, PAGE_BYTES, 1);
    terrace_close(m);
}

Test(small, zeros_with_another_of_the_list_overwritten, .timeout = 20)
{
    for (int order = 0; order < 2; order++) {
        terrace *m = open_sim(BUDGET, NULL);
        terrace_tensor *junk = tensor_of(m, BUDGET, "junk"), *a, *b;
        write_pattern(junk, 0, BUDGET, 9);
        terrace_tensor_destroy(junk);
        create_pair(m, &a, &b);
        terrace_access list[2];
        list[order] = (terrace_access){.size = sizeof list[0], .tensor = a, .mode = TERRACE_OVERWRITE};
        list[1 - order] = (terrace_access){.size = sizeof list[0], .tensor = b, .mode = TERRACE_READ};
        assert_ok(terrace_acquire_all(list, 2, NULL));
        cr_assert(zeros(list[1 - order].address, PAGE_BYTES));
        pattern_fill(list[order].address, PAGE_BYTES, 1);
        for (int i = 0; i < 2; i++)
            release(list[i].tensor, list[i].address);
        push_pair_down(m, a, b);
        expect_pattern(a, 0, PAGE_BYTES, 1);
        expect_zeros(b, PAGE_BYTES);
        terrace_close(m);
    }
}

/* ---- neighbours ------------------------------------------------------------ */

Test(small, neighbours_are_not_affected, .timeout = 60)
{
    terrace *m = open_sim(BUDGET, NULL);
    enum { N = 4 * SLICES };
    terrace_tensor *t[N];
    for (uint64_t i = 0; i < N; i++) {
        t[i] = create(m, PAGE_BYTES, "t");
        write_pattern(t[i], 0, PAGE_BYTES, i);
    }
    for (int i = 0; i < N; i++)
        assert_ok(terrace_demote(t[i], disk_of(m)));
    for (int i = 0; i < N; i++)
        assert_ok(terrace_wait(t[i]));
    terrace_tensor *junk = tensor_of(m, BUDGET, "junk");
    write_pattern(junk, 0, BUDGET, 1); /* where the bytes were */
    terrace_tensor_destroy(junk);
    for (uint64_t i = 0; i < N; i += 4) { /* overwrite keeps what lies around */
        write_pattern(t[i], 0, PAGE_BYTES, i + N);
        void *p = acquire(t[i + 1], TERRACE_WRITE);
        ((unsigned char *)p)[17] ^= 1;
        release(t[i + 1], p);
        terrace_tensor_destroy(t[i + 2]);
    }
    for (int i = 0; i < N; i++)
        if (i % 4 != 2)
            assert_ok(terrace_demote(t[i], disk_of(m)));
    for (uint64_t i = 0; i < N; i += 4) {
        expect_pattern(t[i], 0, PAGE_BYTES, i + N);
        expect_pattern(t[i + 3], 0, PAGE_BYTES, i + 3);
        void *p = acquire(t[i + 1], TERRACE_WRITE);
        ((unsigned char *)p)[17] ^= 1;
        cr_assert(pattern_is(p, PAGE_BYTES, i + 1));
        release(t[i + 1], p);
    }
    terrace_close(m);
}

/* ---- pins ------------------------------------------------------------------ */

Test(small, release_wants_its_own_address, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    void *p = acquire(a, TERRACE_READ), *q = acquire(b, TERRACE_READ);
    cr_assert_neq(p, q);
    assert_fails(terrace_release(a, q, NULL), TERRACE_EINVAL);
    cr_assert(strstr(terrace_last_error(), "'a'"), "%s", terrace_last_error());
    release(a, p);
    assert_fails(terrace_release(a, p, NULL), TERRACE_EINVAL); /* though b pins the group */
    release(b, q);
    assert_fails(terrace_release(b, q, NULL), TERRACE_EINVAL);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    terrace_close(m);
}

Test(small, pins_keep_the_group, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b, *all = tensor_of(m, BUDGET, "all");
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    void *p = acquire(b, TERRACE_WRITE), *q;
    assert_fails(terrace_acquire(all, 0, TERRACE_OVERWRITE, NULL, &q, NULL), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "'b' and 1 more in its group"), "%s", terrace_last_error());
    pattern_fill(p, PAGE_BYTES, 2);
    release(b, p);
    write_pattern(all, 0, BUDGET, 3);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    expect_pattern(b, 0, PAGE_BYTES, 2);
    p = acquire(all, TERRACE_READ);
    assert_fails(terrace_acquire(a, 0, TERRACE_READ, NULL, &q, NULL), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "'a'"), "%s", terrace_last_error());
    release(all, p);
    terrace_close(m);
}

Test(small, destroy_while_acquired_is_deferred, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    void *p = acquire(a, TERRACE_READ), *q;
    acquire(a, TERRACE_READ);
    terrace_tensor_destroy(b);
    terrace_tensor_destroy(a);
    assert_fails(terrace_acquire(a, 0, TERRACE_READ, NULL, &q, NULL), TERRACE_EINVAL);
    cr_assert(strstr(terrace_last_error(), "'a' was destroyed"));
    release(a, p);
    cr_assert_eq(stats_of(m).tensors, 1);
    cr_assert(pattern_is(p, PAGE_BYTES, 1));
    release(a, p);
    cr_assert_eq(stats_of(m).tensors, 0);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    expect_no_bytes(m);
    terrace_close(m);
}

Test(small, lists, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b, *other = tensor_of(m, MIB, "other");
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    write_pattern(other, 0, MIB, 3);
    push_down(other, m);
    push_pair_down(m, a, b);
    forget_pieces();
    terrace_tensor *of[] = {a, b, a, other, b};
    terrace_access list[5];
    for (int i = 0; i < 5; i++)
        list[i] = (terrace_access){.size = sizeof list[i], .tensor = of[i], .mode = TERRACE_READ};
    terrace_statistics before = stats_of(m);
    assert_ok(terrace_acquire_all(list, 5, NULL));
    cr_assert_eq(stats_of(m).acquires, before.acquires + 5);
    cr_assert_eq(simdisk.reads, GROUP_PIECES + MIB / SIMDISK_CHUNK);
    cr_assert_eq(list[0].address, list[2].address);
    cr_assert_eq(list[1].address, list[4].address);
    cr_assert(pattern_is(list[0].address, PAGE_BYTES, 1));
    cr_assert(pattern_is(list[1].address, PAGE_BYTES, 2));
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(list[i].where, 0);
        release(of[i], list[i].address);
    }
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    for (int i = 0; i < 5; i++)
        assert_fails(terrace_release(of[i], list[i].address, NULL), TERRACE_EINVAL);
    terrace_close(m);
}

/* ---- hints and failures ---------------------------------------------------- */

Test(small, nowait_asks_again, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, "log=off");
    terrace_tensor *a, *b;
    void *p;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    push_pair_down(m, a, b);
    simdisk_hold();
    assert_fails(terrace_acquire(a, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL), TERRACE_EAGAIN);
    cr_assert(strstr(terrace_last_error(), "'a' is on its way"), "%s", terrace_last_error());
    simdisk_let_go();
    assert_ok(terrace_wait(a));
    assert_ok(terrace_acquire(a, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL));
    cr_assert(pattern_is(p, PAGE_BYTES, 1));
    release(a, p);
    push_pair_down(m, a, b);
    simdisk_fault(&simdisk.fail_read, 1);
    assert_fails(terrace_acquire(a, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL), TERRACE_EAGAIN);
    eventually(stats_of(m).io_errors == 1);
    usleep(20000); /* it is told from the end of the transfer on */
    assert_fails(terrace_acquire(a, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL), TERRACE_EIO);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    terrace_close(m);
}

Test(small, a_failed_read_is_told_and_others_go_on, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, "log=off");
    terrace_tensor *a, *b;
    void *p;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    push_pair_down(m, a, b);
    simdisk_fault(&simdisk.fail_read, 2);
    assert_fails(terrace_acquire(a, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EIO);
    cr_assert(strstr(terrace_last_error(), "'a'"), "%s", terrace_last_error());
    expect_pattern(b, 0, PAGE_BYTES, 2);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    cr_assert_eq(terrace_wait(a), 0);
    push_pair_down(m, a, b);
    simdisk_fault(&simdisk.fail_read, 1);
    assert_ok(terrace_prefetch(a, 0));
    assert_fails(terrace_wait(a), TERRACE_EIO);
    cr_assert_eq(terrace_wait(a), 0);
    assert_fails(terrace_wait(b), TERRACE_EIO); /* its bytes were to come with them */
    cr_assert_eq(terrace_wait(b), 0);
    terrace_tensor *later = create(m, PAGE_BYTES, "later");
    cr_assert_eq(terrace_wait(later), 0);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    terrace_close(m);
}

struct reader {
    terrace_tensor *t;
    pthread_t thread;
    int result;
};

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    void *p;
    r->result = terrace_acquire(r->t, 0, TERRACE_READ, NULL, &p, NULL);
    if (r->result == 0)
        terrace_release(r->t, p, NULL);
    return NULL;
}

/* Those who wait for the same bytes, of a small tensor or an ordinary one. */
static void expect_all_are_told(terrace *m, terrace_tensor **t, int n)
{
    struct reader r[8];
    simdisk_hold();
    simdisk_fault(&simdisk.fail_read, 1);
    for (int i = 0; i < n; i++) {
        r[i] = (struct reader){.t = t[i]};
        cr_assert_eq(pthread_create(&r[i].thread, NULL, reader_main, &r[i]), 0);
    }
    cr_assert(simdisk_await_queued(1));
    usleep(50000); /* for all to wait */
    simdisk_let_go();
    int failed = 0;
    for (int i = 0; i < n; i++) {
        pthread_join(r[i].thread, NULL);
        cr_assert(r[i].result == 0 || r[i].result == -TERRACE_EIO, "%d", r[i].result);
        failed += r[i].result != 0;
    }
    cr_assert_geq(failed, 1);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
}

Test(small, a_failed_read_that_several_wait_for, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, "log=off");
    terrace_tensor *a, *b, *big = tensor_of(m, MIB, "big");
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    push_pair_down(m, a, b);
    expect_all_are_told(m, (terrace_tensor *[]){a, b, a, b, a, b}, 6);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    expect_pattern(b, 0, PAGE_BYTES, 2);
    write_pattern(big, 0, MIB, 3);
    push_down(big, m);
    expect_all_are_told(m, (terrace_tensor *[]){big, big, big, big}, 4);
    expect_pattern(big, 0, MIB, 3);
    terrace_close(m);
}

Test(small, demote_waits_for_the_others, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b, *never;
    create_pair(m, &a, &b);
    never = create(m, PAGE_BYTES, "never acquired");
    assert_ok(terrace_demote(never, disk_of(m)));
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    push_down(a, m);
    push_down(a, m);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 3);
    push_down(b, m);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    cr_assert_eq(tier_stats_of(m, 1).tensors, 3);
    cr_assert_eq(simdisk.writes, GROUP_PIECES);
    void *p = acquire(a, TERRACE_WRITE);
    push_down(b, m);
    push_down(a, m); /* at its release */
    cr_assert_eq(tier_stats_of(m, 0).tensors, 3);
    cr_assert(pattern_is(p, PAGE_BYTES, 1));
    release(a, p);
    assert_ok(terrace_wait(a));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    expect_pattern(b, 0, PAGE_BYTES, 2);
    assert_ok(terrace_demote(a, disk_of(m)));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 3);
    terrace_tensor_destroy(b); /* the last that was not demoted */
    assert_ok(terrace_wait(a));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    expect_zeros(never, PAGE_BYTES);
    terrace_close(m);
}

Test(small, prefetch_brings_the_group, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    push_pair_down(m, a, b);
    assert_ok(terrace_prefetch(a, 0));
    assert_ok(terrace_wait(a));
    simdisk_hold();
    expect_pattern(b, 0, PAGE_BYTES, 2);
    expect_pattern(a, 0, PAGE_BYTES, 1);
    simdisk_let_go();
    cr_assert_eq(stats_of(m).prefetches, 1);
    cr_assert_eq(stats_of(m).prefetch_hits, 1);
    assert_fails(terrace_prefetch(a, disk_of(m)), TERRACE_ENOTSUP);
    cr_assert(strstr(terrace_last_error(), "'a'"));
    terrace_close(m);
}
