/* test_relay.c - between devices of two makes: through staging memory, piece by piece,
 * with nothing of the tensor in a host tier. Devices, node and disk are simulated. */
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { SIZE = MIB };

static struct {
    terrace *m;
    terrace_tier dev, acc, host; /* numa:0 */
} d;

#define ALL "simdev:0,simacc:0,numa:0,simdisk:0"

static void open_both(size_t device, size_t host, const char *more)
{
    char conf[400];
    snprintf(conf, sizeof conf, "limit_simdev=%zu;limit_simacc=%zu%s", device, device, more);
    d.m = open_with(ALL, host, conf);
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    assert_ok(terrace_tier_find(d.m, "simacc:0", &d.acc));
    assert_ok(terrace_tier_find(d.m, "numa:0", &d.host));
}

static struct simnode *sim_of(terrace_tier tier)
{
    return tier == d.dev ? &simdev : &simacc;
}

static void on_write(terrace_tensor *t, terrace_tier tier, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, tier, TERRACE_OVERWRITE | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    pattern_fill(simnode_at(sim_of(tier), (uintptr_t)p), bytes, seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

static void on_expect(terrace_tensor *t, terrace_tier tier, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, tier, TERRACE_READ | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(pattern_is(simnode_at(sim_of(tier), (uintptr_t)p), bytes, seed), "not the bytes of seed %llu",
              (unsigned long long)seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

Test(relay, from_one_to_the_other_and_back, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    uint64_t staging = tier_stats_of(d.m, d.host).peak;
    cr_assert(staging > 0 && staging <= 2 * MIB);
    for (size_t bytes = 4096; bytes < 8 * MIB; bytes = bytes * 3 + 40) {
        terrace_tensor *t = tensor_of(d.m, bytes, "t");
        on_write(t, d.dev, bytes, bytes);
        on_expect(t, d.acc, bytes, bytes);
        on_write(t, d.acc, bytes, bytes + 1);
        on_expect(t, d.dev, bytes, bytes + 1);
        if (bytes >= 32768) /* smaller ones are moved in groups */
            cr_assert_eq(tier_stats_of(d.m, d.host).tensors, 0, "it passed through the host as a whole");
        terrace_tensor_destroy(t);
    }
    cr_assert_leq(tier_stats_of(d.m, d.host).peak, staging + MIB);
    terrace_close(d.m);
}

Test(relay, pieces_are_read_while_others_are_written, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, 4 * MIB, "t");
    on_write(t, d.dev, 4 * MIB, 1);
    uint64_t before = simdev.read_bytes;
    simnode_hold(&simacc, true);
    assert_ok(terrace_prefetch(t, d.acc));
    cr_assert(simnode_await_queued(&simacc, 2), "only one piece at a time is on its way");
    cr_assert_lt(simdev.read_bytes - before, 4 * MIB, "more was read than there are buffers");
    simnode_hold(&simacc, false);
    on_expect(t, d.acc, 4 * MIB, 1);
    terrace_close(d.m);
}

Test(relay, a_write_that_fails, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    void *p;
    on_write(t, d.dev, SIZE, 1);
    simacc.fail = true;
    assert_fails(terrace_acquire(t, d.acc, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EIO);
    cr_assert(strstr(terrace_last_error(), "'t' on the way from simdev:0 to simacc:0"), "%s", terrace_last_error());
    simacc.fail = false;
    on_expect(t, d.dev, SIZE, 1);
    on_expect(t, d.acc, SIZE, 1);
    terrace_close(d.m);
}

Test(relay, what_is_written_meanwhile, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, d.dev, SIZE, 1);
    simnode_hold(&simacc, true);
    assert_ok(terrace_prefetch(t, d.acc));
    cr_assert(simnode_await_queued(&simacc, 1));
    on_write(t, d.dev, SIZE, 2);
    simnode_hold(&simacc, false);
    on_expect(t, d.acc, SIZE, 2);
    terrace_close(d.m);
}

Test(relay, destroyed_meanwhile, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, d.dev, SIZE, 1);
    simnode_hold(&simacc, true);
    assert_ok(terrace_prefetch(t, d.acc));
    cr_assert(simnode_await_queued(&simacc, 1));
    terrace_tensor_destroy(t);
    simnode_hold(&simacc, false);
    eventually(tier_stats_of(d.m, d.dev).tensors == 0 && tier_stats_of(d.m, d.acc).tensors == 0);
    terrace_close(d.m);
}

static void *let_go_soon(void *unused)
{
    usleep(50000);
    simnode_hold(&simacc, false);
    return unused;
}

Test(relay, closed_meanwhile, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, 8 * MIB, "t");
    pthread_t thread;
    on_write(t, d.dev, 8 * MIB, 1);
    simnode_hold(&simacc, true);
    assert_ok(terrace_prefetch(t, d.acc));
    cr_assert(simnode_await_queued(&simacc, 1));
    cr_assert_eq(pthread_create(&thread, NULL, let_go_soon, NULL), 0);
    terrace_close(d.m);
    pthread_join(thread, NULL);
}

Test(relay, ways_are_told, .timeout = 60)
{
    char way[80];
    terrace_tier disk;
    open_both(4 * MIB, 32 * MIB, "");
    assert_ok(terrace_tier_find(d.m, "simdisk:0", &disk));
    assert_ok(terrace_route(d.m, d.dev, d.host, way, sizeof way));
    cr_assert_str_eq(way, "direct");
    assert_ok(terrace_route(d.m, d.dev, d.acc, way, sizeof way));
    cr_assert_str_eq(way, "through staging memory of numa:0");
    assert_ok(terrace_route(d.m, disk, d.acc, way, sizeof way));
    cr_assert_str_eq(way, "by way of numa:0");
    assert_fails(terrace_route(d.m, d.dev, d.dev, way, sizeof way), TERRACE_EINVAL);
    assert_fails(terrace_route(d.m, d.dev, 99, way, sizeof way), TERRACE_EINVAL);
    assert_fails(terrace_route(d.m, d.dev, d.acc, NULL, 0), TERRACE_EINVAL);
    terrace_close(d.m);
}

Test(relay, without_a_host_tier, .timeout = 60)
{
    void *p;
    d.m = open_with("simdev:0,simacc:0,simdisk:0", 4 * MIB, "limit_simdev=4M;limit_simacc=4M");
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    assert_ok(terrace_tier_find(d.m, "simacc:0", &d.acc));
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, d.dev, SIZE, 1);
    assert_fails(terrace_acquire(t, d.acc, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ENOTSUP);
    assert_fails(terrace_route(d.m, d.dev, d.acc, (char[80]){0}, 80), TERRACE_ENOTSUP);
    on_expect(t, d.dev, SIZE, 1);
    terrace_close(d.m);
}

Test(relay, where_a_rule_keeps_it_from_the_host, .timeout = 60)
{
    open_both(16 * MIB, 32 * MIB, ";rules=\"label=secret: !host\"");
    terrace_tensor *t = tensor_of(d.m, SIZE, "secret");
    void *p;
    on_write(t, d.dev, SIZE, 1);
    assert_fails(terrace_acquire(t, d.acc, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ERULE);
    on_expect(t, d.dev, SIZE, 1);
    terrace_close(d.m);
}

/* Everywhere at random, with less room than there are bytes. */
static void shuffled(uint64_t seed, const char *more)
{
    enum { N = 40, STEPS = 1500 };
    terrace_tensor *t[N];
    uint64_t is[N], random = seed;
    open_both(8 * MIB, 12 * MIB, more);
    terrace_tier on[] = {d.dev, d.acc};
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        on_write(t[i], on[i % 2], SIZE, is[i] = (uint64_t)i);
    }
    for (int step = 0; step < STEPS; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned i = (unsigned)(random >> 33) % N, what = (unsigned)(random >> 50) % 8;
        if (what < 4)
            on_expect(t[i], on[what % 2], SIZE, is[i]);
        else if (what < 6)
            on_write(t[i], on[what % 2], SIZE, is[i] = 1000 + (uint64_t)step);
        else if (what == 6)
            assert_ok(terrace_prefetch(t[i], on[random >> 60 & 1]));
        else
            expect_pattern(t[i], d.host, SIZE, is[i]);
    }
    for (int i = 0; i < N; i++)
        on_expect(t[i], on[i % 2], SIZE, is[i]);
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, 8 * MIB);
    cr_assert_leq(tier_stats_of(d.m, d.acc).peak, 8 * MIB);
    cr_assert_leq(tier_stats_of(d.m, d.host).peak, 12 * MIB);
    terrace_close(d.m);
}

Test(relay, at_random, .timeout = 120)
{
    shuffled(1, "");
}

Test(relay, at_random_encrypted, .timeout = 120)
{
    shuffled(2, ";encrypt=1");
}
