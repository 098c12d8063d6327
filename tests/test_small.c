/* test_small.c - small tensors: slices of groups, each of which is to behave as
 * if it had a place of its own. */
#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

#include "core.h"
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"
#include "small.h"

enum { PAGE_BYTES = 4 * KIB, GROUP = 256 * KIB, SLICES = GROUP / PAGE_BYTES, GROUP_PIECES = GROUP / SIMDISK_CHUNK,
       BUDGET = 16 * MIB };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif

static terrace_tensor *create(terrace *m, size_t bytes, const char *label)
{
    terrace_tensor *t = tensor_of(m, bytes, label);
    cr_assert(small_of(t), "%zu bytes are not in a group: %s", bytes, m->small_engine);
    return t;
}

static void *acquire(terrace_tensor *t, unsigned mode)
{
    void *p;
    assert_ok(terrace_acquire(t, 0, mode, NULL, &p, NULL));
    return p;
}

static void release(terrace_tensor *t, void *p)
{
    assert_ok(terrace_release(t, p, NULL));
}

static bool zeros(const void *p, size_t bytes)
{
    const char *b = p;
    for (size_t i = 0; i < bytes; i++)
        if (b[i])
            return false;
    return true;
}

static void expect_zeros(terrace_tensor *t, size_t bytes)
{
    void *p = acquire(t, TERRACE_READ);
    cr_assert(zeros(p, bytes));
    release(t, p);
}

/* Two tensors of one group. */
static void create_pair(terrace *m, terrace_tensor **a, terrace_tensor **b)
{
    *a = create(m, PAGE_BYTES, "a");
    *b = create(m, PAGE_BYTES, "b");
    cr_assert_eq(small_group(*a), small_group(*b));
}

/* Moves a pair's group down. */
static void push_pair_down(terrace *m, terrace_tensor *a, terrace_tensor *b)
{
    assert_ok(terrace_demote(a, disk_of(m)));
    push_down(b, m);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
}

static void forget_pieces(void)
{
    pthread_mutex_lock(&simdisk.lock);
    simdisk.reads = simdisk.writes = 0;
    memset(simdisk.order, 0, sizeof simdisk.order);
    pthread_mutex_unlock(&simdisk.lock);
}

/* Groups may be left, but nothing is on any tier. */
static void expect_no_bytes(terrace *m)
{
    const struct terrace_tensor *t;
    manager_lock(m);
    LIST_FOREACH(t, &m->all, all)
        for (unsigned i = 0; i < m->tiers; i++)
            cr_assert_null(t->copy[i].extent, "a group has bytes on %s", m->tier[i].name);
    cr_assert_eq(m->tier[0].arena.used, 0);
    manager_unlock(m);
}

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

enum { THREADS = 4, MINE = 300, SHARED = 64 };

struct job {
    terrace *m;
    terrace_tensor **shared;
    uint64_t seed;
    pthread_t thread;
};

struct mine {
    terrace_tensor *t;
    size_t bytes;
    uint64_t seed; /* of its pattern; 0: zeros */
};

static uint64_t dice(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static void use(struct mine *x, uint64_t *rng)
{
    bool overwrite = dice(rng) % 3 == 0, write = dice(rng) % 2;
    void *p;
    assert_ok(terrace_acquire(x->t, 0, (overwrite ? TERRACE_OVERWRITE : write ? TERRACE_WRITE : TERRACE_READ) |
                              TERRACE_WAIT, NULL, &p, NULL));
    if (!overwrite)
        cr_assert(x->seed ? pattern_is(p, x->bytes, x->seed) : zeros(p, x->bytes));
    if (overwrite || write)
        pattern_fill(p, x->bytes, x->seed = dice(rng) | 1);
    release(x->t, p);
}

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

/* ---- several tiers in memory ------------------------------------------------ */

static terrace *open_two(const char *more)
{
    char conf[300];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa:0,simnode:0,simdisk:0;limit_numa=%d;limit_simnode=%d;%s", BUDGET, BUDGET,
             more);
    assert_ok(terrace_open(&m, conf));
    return m;
}

static void *acquire_on(terrace_tensor *t, terrace_tier tier, unsigned mode)
{
    void *p;
    terrace_tier where;
    assert_ok(terrace_acquire(t, tier, mode, NULL, &p, &where));
    cr_assert_eq(where, tier);
    return p;
}

Test(small, each_tier_has_its_groups, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b, *c = create(m, 100, "c");
    create_pair(m, &a, &b);
    void *p = acquire_on(a, 0, TERRACE_WRITE), *q = acquire_on(b, 1, TERRACE_WRITE);
    cr_assert(zeros(p, PAGE_BYTES) && zeros(q, PAGE_BYTES));
    cr_assert_neq(small_group(a), small_group(b));
    cr_assert_not(small_group(b)->alone);
    pattern_fill(p, PAGE_BYTES, 1);
    pattern_fill(q, PAGE_BYTES, 2);
    terrace_tensor *d = create(m, PAGE_BYTES, "d"); /* near what was last used first */
    cr_assert_eq(small_group(d), small_group(b));
    expect_zeros(c, 100);
    release(a, p);
    release(b, q);
    assert_ok(terrace_demote(d, disk_of(m)));
    push_down(a, m);
    push_down(b, m);
    expect_pattern(a, host_of(m), PAGE_BYTES, 1); /* a class: wherever its group is used */
    expect_pattern(b, host_of(m), PAGE_BYTES, 2);
    cr_assert_not(small_group(a)->alone || small_group(b)->alone);
    assert_ok(terrace_prefetch(b, 0)); /* is for acquire to decide */
    cr_assert_eq(small_group(b)->copy[0].state, COPY_ABSENT);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    terrace_tensor_destroy(c);
    terrace_tensor_destroy(d);
    expect_no_bytes(m);
    terrace_close(m);
}

Test(small, neighbours_do_not_exclude_each_other, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    void *q = acquire_on(b, 0, TERRACE_WRITE);
    void *p = acquire_on(a, 1, TERRACE_WRITE); /* leaves the group */
    cr_assert(pattern_is(p, PAGE_BYTES, 1));
    cr_assert(small_of(a) && small_group(a)->alone);
    pattern_fill(p, PAGE_BYTES, 3);
    pattern_fill(q, PAGE_BYTES, 4);
    release(a, p);
    release(b, q);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
    cr_assert_eq(tier_stats_of(m, 1).tensors, 1);
    expect_pattern(a, 0, PAGE_BYTES, 3); /* and goes to any tier from then on */
    expect_pattern(b, 0, PAGE_BYTES, 4);
    cr_assert_eq(stats_of(m).tensors, 2);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    cr_assert_eq(stats_of(m).tensors, 0);
    expect_no_bytes(m);
    terrace_close(m);
}

Test(small, its_own_users_do, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    void *q;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    void *p = acquire_on(a, 0, TERRACE_WRITE);
    assert_fails(terrace_acquire(a, 1, TERRACE_READ, NULL, &q, NULL), TERRACE_EBUSY);
    cr_assert(strstr(terrace_last_error(), "'a' is acquired on numa:0 for writing"), "%s", terrace_last_error());
    assert_fails(terrace_acquire(a, 1, TERRACE_READ | TERRACE_WAIT, NULL, &q, NULL), TERRACE_EBUSY); /* its own pin */
    release(a, p);
    p = acquire_on(a, 0, TERRACE_READ);
    assert_fails(terrace_acquire(a, 1, TERRACE_WRITE, NULL, &q, NULL), TERRACE_EBUSY);
    void *with = acquire_on(b, 0, TERRACE_WRITE);
    q = acquire_on(a, 1, TERRACE_READ); /* readers may be on both, whatever b's does */
    cr_assert(p != q && pattern_is(p, PAGE_BYTES, 1) && pattern_is(q, PAGE_BYTES, 1));
    release(a, q);
    assert_fails(terrace_acquire(a, 1, TERRACE_WRITE, NULL, &q, NULL), TERRACE_EBUSY);
    release(b, with);
    release(a, p);
    assert_fails(terrace_release(a, p, NULL), TERRACE_EINVAL);
    q = acquire_on(a, 1, TERRACE_WRITE);
    release(a, q);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    expect_no_bytes(m);
    terrace_close(m);
}

static void *hold_a_while(void *arg)
{
    terrace_tensor *t = arg;
    void *p = acquire_on(t, 0, TERRACE_WRITE);
    usleep(100000);
    pattern_fill(p, PAGE_BYTES, 9);
    release(t, p);
    return NULL;
}

Test(small, wait_waits_for_them, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    pthread_t thread;
    void *p;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    cr_assert_eq(pthread_create(&thread, NULL, hold_a_while, a), 0);
    eventually(tier_stats_of(m, 0).pinned);
    assert_ok(terrace_acquire(a, 1, TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL));
    cr_assert(pattern_is(p, PAGE_BYTES, 9));
    release(a, p);
    pthread_join(thread, NULL);
    terrace_close(m);
}

Test(small, lists_over_two_tiers, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    terrace_access list[] = {{.size = sizeof list[0], .tensor = a, .tier = 0, .mode = TERRACE_WRITE},
                             {.size = sizeof list[0], .tensor = b, .tier = 1, .mode = TERRACE_WRITE}};
    assert_ok(terrace_acquire_all(list, 2, NULL));
    cr_assert(pattern_is(list[0].address, PAGE_BYTES, 1) && pattern_is(list[1].address, PAGE_BYTES, 2));
    cr_assert(list[0].where == 0 && list[1].where == 1);
    release(a, list[0].address);
    release(b, list[1].address);
    terrace_close(m);
}

static void *two_tiers_main(void *arg)
{
    struct job *job = arg;
    enum { OWN = 100 };
    struct mine own[OWN] = {{0}};
    uint64_t rng = job->seed * 0x9e3779b97f4a7c15u;
    terrace_tier disk = disk_of(job->m);
    for (int i = 0; i < (SANITIZED ? 3000 : 15000); i++) {
        struct mine *x = &own[dice(&rng) % OWN];
        terrace_tier tier = (terrace_tier)(dice(&rng) % 8 == 0);
        void *p;
        if (!x->t) {
            *x = (struct mine){.bytes = 1 + dice(&rng) % 9000};
            x->t = create(job->m, x->bytes, "mine");
        } else if (dice(&rng) % 16 == 0) {
            terrace_tensor_destroy(x->t);
            x->t = NULL;
            continue;
        }
        bool write = dice(&rng) % 2;
        if (dice(&rng) % 16 == 0)
            assert_ok(terrace_demote(x->t, disk));
        assert_ok(terrace_acquire(x->t, tier, (write ? TERRACE_WRITE : TERRACE_READ) | TERRACE_WAIT, NULL, &p, NULL));
        cr_assert(x->seed ? pattern_is(p, x->bytes, x->seed) : zeros(p, x->bytes));
        if (write)
            pattern_fill(p, x->bytes, x->seed = dice(&rng) | 1);
        release(x->t, p);
    }
    for (int i = 0; i < OWN; i++)
        terrace_tensor_destroy(own[i].t);
    return NULL;
}

Test(small, threads_on_two_tiers, .timeout = 100)
{
    terrace *m = open_two("");
    struct job job[2];
    for (int i = 0; i < 2; i++) {
        job[i] = (struct job){.m = m, .seed = (uint64_t)i + 1};
        cr_assert_eq(pthread_create(&job[i].thread, NULL, two_tiers_main, &job[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(job[i].thread, NULL);
    eventually(tier_stats_of(m, 2).tensors == 0);
    expect_no_bytes(m);
    terrace_close(m);
}


Test(small, close_with_all_of_it_alive, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    for (int i = 0; i < 1000; i++) {
        terrace_tensor *t = create(m, (size_t)(i * 33 % 32768 + 1), "left");
        if (i % 3 == 0)
            write_pattern(t, 0, (size_t)(i * 33 % 32768 + 1), 1);
        if (i % 50 == 0)
            acquire(t, TERRACE_READ); /* and acquired */
        if (i % 100 == 0)
            terrace_tensor_destroy(t); /* and destroyed */
        if (i % 7 == 0)
            assert_ok(terrace_demote(t, disk_of(m)));
    }
    terrace_close(m);
}
