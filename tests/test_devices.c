/* test_devices.c - a tier whose memory the CPU cannot touch: what goes there and
 * comes back passes through the host. Device, node and disk are simulated. */
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { SIZE = MIB };

static struct {
    terrace *m;
    terrace_tier dev, host, disk;
} d;

static void open_device(size_t device, size_t host, const char *tiers)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_simdev=%zu", device);
    d.m = open_with(tiers, host, conf);
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    d.host = host_of(d.m);
    d.disk = disk_of(d.m);
}

#define ALL "simdev:0,numa:0,simdisk:0"

/* What a kernel on the device would do. */
static void device_write(terrace_tensor *t, size_t bytes, uint64_t seed, unsigned mode)
{
    void *p;
    assert_ok(terrace_acquire(t, d.dev, mode, TERRACE_HOST_SYNC, &p, NULL));
    pattern_fill(simnode_at(&simdev, (uintptr_t)p), bytes, seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

static void device_expect(terrace_tensor *t, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(pattern_is(simnode_at(&simdev, (uintptr_t)p), bytes, seed), "not the bytes of seed %llu",
              (unsigned long long)seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

Test(devices, there_and_back, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    device_expect(t, SIZE, 1);
    device_write(t, SIZE, 2, TERRACE_WRITE);
    expect_pattern(t, d.host, SIZE, 2);
    device_expect(t, SIZE, 2);
    terrace_close(d.m);
}

Test(devices, what_was_never_written_is_zeros, .timeout = 60)
{
    static const char zeros[SIZE];
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    void *p;
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert_eq(memcmp(simnode_at(&simdev, (uintptr_t)p), zeros, SIZE), 0);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    terrace_close(d.m);
}

Test(devices, from_the_disk_by_way_of_the_host, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    device_write(t, SIZE, 3, TERRACE_OVERWRITE);
    assert_ok(terrace_demote(t, d.disk));
    assert_ok(terrace_wait(t));
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    assert_ok(terrace_wait(t));
    expect_pattern(t, d.host, SIZE, 3);
    push_down(t, d.m);
    device_expect(t, SIZE, 3);
    terrace_close(d.m);
}

Test(devices, more_than_device_and_host_hold, .timeout = 120)
{
    enum { N = 40 };
    open_device(4 * MIB, 6 * MIB, ALL);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        device_write(t[i], SIZE, (uint64_t)i, TERRACE_OVERWRITE);
    }
    for (int round = 1; round < 4; round++)
        for (int i = 0; i < N; i++) {
            device_expect(t[i], SIZE, (uint64_t)(i + (round - 1) * N));
            device_write(t[i], SIZE, (uint64_t)(i + round * N), TERRACE_WRITE);
        }
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, 4 * MIB);
    cr_assert_leq(tier_stats_of(d.m, 1).peak, 6 * MIB);
    terrace_close(d.m);
}

Test(devices, prefetch_from_the_disk, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 5);
    push_down(t, d.m);
    assert_ok(terrace_prefetch(t, d.dev));
    eventually(tier_stats_of(d.m, d.dev).tensors == 1);
    terrace_statistics before = stats_of(d.m);
    device_expect(t, SIZE, 5);
    cr_assert_eq(stats_of(d.m).hits, before.hits + 1);
    terrace_close(d.m);
}

Test(devices, nowait_gets_there, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 6);
    push_down(t, d.m);
    void *p;
    int r = 0;
    for (int i = 0; i < 5000; i++) {
        r = terrace_acquire(t, d.dev, TERRACE_READ | TERRACE_NOWAIT, TERRACE_HOST_SYNC, &p, NULL);
        if (r != -TERRACE_EAGAIN)
            break;
        usleep(1000);
    }
    assert_ok(r);
    cr_assert(pattern_is(simnode_at(&simdev, (uintptr_t)p), SIZE, 6));
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    terrace_close(d.m);
}

Test(devices, a_read_that_fails_on_the_way, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, ALL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 7);
    push_down(t, d.m);
    simdisk_fault(&simdisk.fail_read, 1);
    void *p;
    assert_fails(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EIO);
    device_expect(t, SIZE, 7);
    terrace_close(d.m);
}

Test(devices, a_host_that_is_all_in_use, .timeout = 60)
{
    open_device(2 * MIB, 2 * MIB, ALL);
    terrace_tensor *held = tensor_of(d.m, 2 * MIB, "held"), *a = tensor_of(d.m, SIZE, "a"),
                   *b = tensor_of(d.m, 2 * MIB, "b");
    void *p, *q;
    device_write(a, SIZE, 8, TERRACE_OVERWRITE);
    assert_ok(terrace_acquire(held, d.host, TERRACE_OVERWRITE, NULL, &p, NULL));
    assert_fails(terrace_acquire(b, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &q, NULL), TERRACE_EBUDGET);
    assert_ok(terrace_release(held, p, NULL));
    device_write(b, 2 * MIB, 9, TERRACE_OVERWRITE);
    device_expect(a, SIZE, 8);
    device_expect(b, 2 * MIB, 9);
    terrace_close(d.m);
}

static void *let_go_soon(void *unused)
{
    usleep(100000);
    simnode_hold(&simdev, false);
    return unused;
}

Test(devices, room_that_is_being_read_is_waited_for, .timeout = 60)
{
    open_device(2 * MIB, 8 * MIB, ALL);
    terrace_tensor *a = tensor_of(d.m, 2 * MIB, "a"), *b = tensor_of(d.m, 2 * MIB, "b");
    pthread_t thread;
    device_write(a, 2 * MIB, 1, TERRACE_OVERWRITE);
    simnode_hold(&simdev, true);
    assert_ok(terrace_prefetch(a, d.host)); /* until it has been read it cannot leave */
    cr_assert(simnode_await_queued(&simdev, 1));
    cr_assert_eq(pthread_create(&thread, NULL, let_go_soon, NULL), 0);
    device_write(b, 2 * MIB, 2, TERRACE_OVERWRITE);
    pthread_join(thread, NULL);
    expect_pattern(a, d.host, 2 * MIB, 1);
    device_expect(b, 2 * MIB, 2);
    terrace_close(d.m);
}

Test(devices, handles_stand_for_addresses, .timeout = 60)
{
    enum { N = 12 };
    open_device(4 * MIB, 16 * MIB, ALL);
    terrace_tensor *t[N];
    void *first, *p;
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        device_write(t[i], SIZE, (uint64_t)i, TERRACE_OVERWRITE);
    }
    cr_assert_leq(simdev_views, 8, "handles of copies that have left");
    assert_ok(terrace_acquire(t[0], d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &first, NULL));
    assert_ok(terrace_acquire(t[0], d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert_eq(first, p, "one copy has two handles");
    cr_assert((uintptr_t)p & 1ull << 61);
    assert_ok(terrace_release(t[0], p, TERRACE_HOST_SYNC));
    assert_ok(terrace_release(t[0], p, TERRACE_HOST_SYNC));
    for (int i = 0; i < N; i++)
        device_expect(t[i], SIZE, (uint64_t)i);
    terrace_close(d.m);
    cr_assert_eq(simdev_views, 0);
}

Test(devices, small_tensors, .timeout = 60)
{
    enum { N = 300, SMALL = 1000 };
    open_device(MIB, 32 * MIB, ALL);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SMALL, "t");
        if (i % 2)
            write_pattern(t[i], d.host, SMALL, (uint64_t)i);
        else
            device_write(t[i], SMALL, (uint64_t)i, TERRACE_OVERWRITE);
    }
    for (int i = 0; i < N; i++)
        device_expect(t[i], SMALL, (uint64_t)i);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, SMALL, (uint64_t)i);
    terrace_close(d.m);
}

Test(devices, without_a_host_tier, .timeout = 60)
{
    char conf[64];
    snprintf(conf, sizeof conf, "limit_simdev=%d", 4 * MIB);
    d.m = open_with("simdev:0,simdisk:0", 4 * MIB, conf);
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    void *p;
    device_write(t, SIZE, 10, TERRACE_OVERWRITE);
    device_expect(t, SIZE, 10);
    terrace_tensor *u = tensor_of(d.m, SIZE, "u");
    assert_fails(terrace_acquire(u, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ENOTSUP);
    terrace_close(d.m);
}
