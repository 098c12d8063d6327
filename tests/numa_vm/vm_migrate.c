/* vm_migrate.c - tensors that move from node to node, on a real kernel.
 *
 * Runs in the virtual machine of check.sh: numa:0 is the node with CPUs, numa:1
 * the one without. The disk below them is simulated. */
#include "../manager.h"
#include "../simdisk.h"
#include "look.h"

enum { NEAR = 0, FAR = 1, SIZE = 3 * MIB };

static terrace *open_two(size_t near, size_t far)
{
    char conf[200];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa,simdisk;limit_numa_0=%zu;limit_numa_1=%zu", near, far);
    assert_ok(terrace_open(&m, conf));
    return m;
}

static void expect_on(terrace_tensor *t, terrace_tier tier, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, tier, TERRACE_READ, NULL, &p, NULL));
    assert_all_on(tier, p, SIZE);
    cr_assert(pattern_is(p, SIZE, seed));
    assert_ok(terrace_release(t, p, NULL));
}

Test(vm_migrate, acquired_on_either_node, .timeout = 100)
{
    terrace *m = open_two(32 * MIB, 32 * MIB);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, NEAR, SIZE, 1);
    expect_on(t, FAR, 1);
    expect_on(t, NEAR, 1);
    write_pattern(t, FAR, SIZE, 2);
    expect_on(t, NEAR, 2);
    terrace_close(m);
}

Test(vm_migrate, demoted_to_the_node_without_cpus, .timeout = 100)
{
    terrace *m = open_two(32 * MIB, 32 * MIB);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    terrace_tier where;
    void *p;
    write_pattern(t, NEAR, SIZE, 3);
    assert_ok(terrace_demote(t, FAR));
    assert_ok(terrace_wait(t));
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, &where));
    cr_assert_eq(where, FAR, "it is used where it is");
    assert_all_on(FAR, p, SIZE);
    assert_ok(terrace_release(t, p, NULL));
    terrace_close(m);
}

Test(vm_migrate, a_full_node_gives_to_the_next_and_that_to_the_disk, .timeout = 200)
{
    enum { N = 24 };
    terrace *m = open_two(16 * MIB, 32 * MIB);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    }
    cr_assert_gt(tier_stats_of(m, FAR).in_bytes, 0);
    cr_assert_gt(simdisk_pieces(), 0);
    for (int i = 0; i < N; i++)
        expect_on(t[i], NEAR, (uint64_t)i);
    terrace_close(m);
}

/* Whether a page is on a node now; nobody touches it. */
static bool is_on(int node, void *address)
{
    int status = -1;
    cr_assert_eq(move_pages(0, 1, &address, NULL, &status, 0), 0);
    return status == node;
}

/* What does not fit on the near node is on the far one, under the same address; and is
 * used there, until it is found out that it is. */
Test(vm_migrate, stable_memory_goes_to_the_other_node_and_comes_back, .timeout = 200)
{
    enum { BLOCK = 2 * MIB, N = 12 };
    char conf[200];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa,simdisk;limit_numa_0=%d;limit_numa_1=%d;stable=userfaultfd;prefetch=off",
             16 * MIB, 64 * MIB);
    assert_ok(terrace_open(&m, conf));
    unsigned char *p = terrace_malloc(m, (size_t)N * BLOCK, NEAR, NULL);
    size_t far = 0;
    if (!p)
        cr_skip_test("%s", terrace_last_error());
    for (uint64_t i = 0; i < N; i++) {
        pattern_fill(p + i * BLOCK, BLOCK, i);
        for (uint64_t k = 0; k < i; k++)
            far += is_on(FAR, p + k * BLOCK + BLOCK - 1);
    }
    cr_assert_gt(far, 0, "none has been there under its address");
    cr_assert_geq(tier_stats_of(m, FAR).in_bytes, 4ull * BLOCK);
    for (int round = 0; tier_stats_of(m, FAR).out_bytes < 4ull * BLOCK; round++) {
        cr_assert_lt(round, 1000);
        for (uint64_t i = 0; i < N; i++)
            cr_assert(pattern_is(p + i * BLOCK, BLOCK, i));
    }
    cr_assert_eq(simdisk_pieces(), 0, "the disk has nothing to do with it");
    terrace_close(m);
}
