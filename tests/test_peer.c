/* test_peer.c - between devices of one make: straight from the one's memory to the
 * other's, as long as that works and is not slower. Devices and disk are simulated:
 * "twin:0" and "twin:1" copy from each other by TERRACE_IO_PEER. */
#include "../lib/route.h"
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { SIZE = MIB };

/* ---- the devices ------------------------------------------------------- */

static struct simnode twins[2];
static bool twins_apart;     /* they say that they do not reach each other */
static atomic_uint twins_asked;

static int twin_count(const terrace_host *host)
{
    (void)host;
    return 2;
}

static int twin_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    struct simnode *n = &twins[index];
    (void)host;
    if (!n->shift) {
        pthread_mutex_init(&n->lock, NULL);
        pthread_cond_init(&n->changed, NULL);
    }
    n->shift = 1ull << 60;
    n->committed = 0;
    *unit = n;
    simnode_describe(info);
    info->io_boundary = 256 << 10;
    return 0;
}

static int twin_peer(void *unit, void *from)
{
    cr_assert_neq(unit, from);
    atomic_fetch_add(&twins_asked, 1);
    return twins_apart ? -TERRACE_ENOTSUP : 0;
}

static const terrace_backend twin_backend = {
    .abi = TERRACE_BACKEND_ABI, .size = sizeof(terrace_backend), .name = "twin", .tier_class = TERRACE_CLASS_DEVICE,
    .count = twin_count, .open = twin_open, .close = simnode_close, .reserve = simnode_reserve,
    .release = simnode_release, .commit = simnode_commit, .decommit = simnode_decommit, .submit = simnode_submit,
    .wait = simnode_wait, .wake = simnode_wake, .explain = simnode_explain, .peer = twin_peer,
};
TERRACE_BACKEND_BUILTIN(twin_backend);

/* The same compiled when the table had no such function. */
static int short_count(const terrace_host *host)
{
    (void)host;
    return 2;
}

static const terrace_backend short_backend = {
    .abi = TERRACE_BACKEND_ABI, .size = offsetof(terrace_backend, peer), .name = "short",
    .tier_class = TERRACE_CLASS_DEVICE, .count = short_count, .open = twin_open, .close = simnode_close,
    .reserve = simnode_reserve, .release = simnode_release, .commit = simnode_commit,
    .decommit = simnode_decommit, .submit = simnode_submit, .wait = simnode_wait, .wake = simnode_wake,
    .explain = simnode_explain, .peer = twin_peer, /* beyond its size */
};
TERRACE_BACKEND_BUILTIN(short_backend);

/* ---- tensors ----------------------------------------------------------- */

static struct {
    terrace *m;
    terrace_tier dev[2], host;
} d;

static void open_kind(const char *kind, size_t device, size_t host, const char *more)
{
    char conf[300], tiers[100], name[20];
    snprintf(conf, sizeof conf, "limit_%s=%zu%s", kind, device, more);
    snprintf(tiers, sizeof tiers, "%s:0,%s:1,numa:0,simdisk:0", kind, kind);
    d.m = open_with(tiers, host, conf);
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "%s:%d", kind, i);
        assert_ok(terrace_tier_find(d.m, name, &d.dev[i]));
    }
    assert_ok(terrace_tier_find(d.m, "numa:0", &d.host));
}

static void open_twins(size_t device, size_t host, const char *more)
{
    open_kind("twin", device, host, more);
}

static void on_write(terrace_tensor *t, unsigned on, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, d.dev[on], TERRACE_OVERWRITE | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    pattern_fill(simnode_at(&twins[on], (uintptr_t)p), bytes, seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

static void on_expect(terrace_tensor *t, unsigned on, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, d.dev[on], TERRACE_READ | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(pattern_is(simnode_at(&twins[on], (uintptr_t)p), bytes, seed), "not the bytes of seed %llu",
              (unsigned long long)seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
}

static void expect_way(const char *expected)
{
    char way[80];
    assert_ok(terrace_route(d.m, d.dev[0], d.dev[1], way, sizeof way));
    cr_assert_str_eq(way, expected);
}

Test(peer, straight_to_the_other_and_back, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, "");
    expect_way("direct, device to device");
    cr_assert_eq(twins_asked, 2);
    for (size_t bytes = 4096; bytes < MIB; bytes = bytes * 3 + 40) { /* less than what is measured */
        terrace_tensor *t = tensor_of(d.m, bytes, "t");
        uint64_t out[2] = {twins[0].read_bytes, twins[1].read_bytes};
        on_write(t, 0, bytes, bytes);
        on_expect(t, 1, bytes, bytes);
        on_write(t, 1, bytes, bytes + 1);
        on_expect(t, 0, bytes, bytes + 1);
        if (bytes >= 32768) { /* smaller ones are moved in groups */
            cr_assert_geq(twins[0].peer_bytes, bytes);
            cr_assert(out[0] == twins[0].read_bytes && out[1] == twins[1].read_bytes, "it was read by the host");
        }
        terrace_tensor_destroy(t);
    }
    terrace_close(d.m);
}

Test(peer, a_table_without_it_goes_through_the_host, .timeout = 60)
{
    open_kind("short", 16 * MIB, 32 * MIB, "");
    expect_way("through staging memory of numa:0");
    cr_assert_eq(twins_asked, 0);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    on_expect(t, 1, SIZE, 1);
    cr_assert_eq(twins[1].peer_bytes, 0);
    terrace_close(d.m);
}

Test(peer, that_do_not_reach_each_other, .timeout = 60)
{
    twins_apart = true;
    open_twins(16 * MIB, 32 * MIB, "");
    expect_way("through staging memory of numa:0");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    on_expect(t, 1, SIZE, 1);
    terrace_close(d.m);
}

Test(peer, that_are_not_to_be_asked, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, ";peer=off");
    expect_way("through staging memory of numa:0");
    cr_assert_eq(twins_asked, 0);
    terrace_close(d.m);
}

Test(peer, where_a_rule_keeps_it_from_the_host, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, ";rules=\"label=secret: !host\"");
    terrace_tensor *t = tensor_of(d.m, 3 * SIZE, "secret");
    for (uint64_t i = 0; i < 6; i++) { /* also when the other way has its turn */
        on_write(t, i % 2, 3 * SIZE, i);
        on_expect(t, !(i % 2), 3 * SIZE, i);
    }
    cr_assert_eq(twins[0].peer_bytes + twins[1].peer_bytes, 18 * SIZE);
    cr_assert_eq(twins[0].read_bytes + twins[1].read_bytes, 0);
    terrace_close(d.m);
}

Test(peer, without_a_host_tier, .timeout = 60)
{
    char conf[60];
    snprintf(conf, sizeof conf, "limit_twin=%d", 8 * MIB);
    d.m = open_with("twin:0,twin:1", 4 * MIB, conf);
    assert_ok(terrace_tier_find(d.m, "twin:0", &d.dev[0]));
    assert_ok(terrace_tier_find(d.m, "twin:1", &d.dev[1]));
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    on_expect(t, 1, SIZE, 1);
    terrace_close(d.m);
}

/* It is as if nothing had been tried; and nothing is tried any more. */
Test(peer, that_fails_goes_on_through_the_host, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, ";log=off");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    twins[1].peers_fail = true;
    on_expect(t, 1, SIZE, 1);
    expect_way("through staging memory of numa:0");
    uint64_t tried = twins[1].peer_bytes;
    on_write(t, 0, SIZE, 2);
    on_expect(t, 1, SIZE, 2);
    cr_assert_eq(twins[1].peer_bytes, tried);
    cr_assert_eq(stats_of(d.m).io_errors, 0);
    terrace_close(d.m);
}

Test(peer, that_fails_where_there_is_no_other_way, .timeout = 60)
{
    void *p;
    open_twins(16 * MIB, 32 * MIB, ";log=off;rules=\"label=secret: !host\"");
    terrace_tensor *t = tensor_of(d.m, SIZE, "secret");
    on_write(t, 0, SIZE, 1);
    twins[1].peers_fail = true;
    assert_fails(terrace_acquire(t, d.dev[1], TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EIO);
    on_expect(t, 0, SIZE, 1);
    assert_fails(terrace_acquire(t, d.dev[1], TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ERULE);
    on_expect(t, 0, SIZE, 1);
    terrace_close(d.m);
}

Test(peer, what_is_written_meanwhile, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    simnode_hold(&twins[1], true);
    assert_ok(terrace_prefetch(t, d.dev[1]));
    cr_assert(simnode_await_queued(&twins[1], 1));
    on_write(t, 0, SIZE, 2);
    simnode_hold(&twins[1], false);
    on_expect(t, 1, SIZE, 2);
    terrace_close(d.m);
}

Test(peer, destroyed_meanwhile, .timeout = 60)
{
    open_twins(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    on_write(t, 0, SIZE, 1);
    simnode_hold(&twins[1], true);
    assert_ok(terrace_prefetch(t, d.dev[1]));
    cr_assert(simnode_await_queued(&twins[1], 1));
    terrace_tensor_destroy(t);
    simnode_hold(&twins[1], false);
    eventually(tier_stats_of(d.m, d.dev[0]).tensors == 0 && tier_stats_of(d.m, d.dev[1]).tensors == 0);
    terrace_close(d.m);
}

/* ---- which way --------------------------------------------------------- */

Test(peer, each_way_is_tried_then_the_faster_is_taken)
{
    cr_assert_eq(route_faster(0, 0, 1), WAY_PEER);
    cr_assert_eq(route_faster(5, 0, 2), WAY_RELAY);
    cr_assert_eq(route_faster(0, 5, 2), WAY_PEER);
    for (uint64_t n = 3; n < 200; n++) {
        cr_assert_eq(route_faster(100, 20, n), WAY_PEER);
        cr_assert_eq(route_faster(100, 120, n), WAY_PEER, "the difference is not clear");
        cr_assert_eq(route_faster(100, 200, n), WAY_RELAY);
    }
    unsigned other = 0;
    for (uint64_t n = 3; n < 3000; n++)
        other += route_faster(100, 20, n) == WAY_RELAY;
    cr_assert(other > 20 && other < 200, "%u", other);
}

/* A copy straight that takes 20 ms for each piece. */
static atomic_bool slow;
static void *slowly(void *unused)
{
    while (slow) {
        simnode_hold(&twins[1], true);
        usleep(20000);
        simnode_hold(&twins[1], false);
        usleep(100);
    }
    return unused;
}

Test(peer, that_is_slower_than_through_the_host, .timeout = 60)
{
    pthread_t thread;
    open_twins(16 * MIB, 32 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, 2 * SIZE, "t");
    slow = true;
    cr_assert_eq(pthread_create(&thread, NULL, slowly, NULL), 0);
    usleep(1000);
    on_write(t, 0, 2 * SIZE, 1);
    on_expect(t, 1, 2 * SIZE, 1);
    slow = false;
    pthread_join(thread, NULL);
    cr_assert_eq(twins[1].peer_bytes, 2 * SIZE);
    on_write(t, 0, 2 * SIZE, 2); /* the other way's turn */
    on_expect(t, 1, 2 * SIZE, 2);
    expect_way("through staging memory of numa:0");
    on_write(t, 0, 2 * SIZE, 3);
    on_expect(t, 1, 2 * SIZE, 3);
    cr_assert_eq(twins[1].peer_bytes, 2 * SIZE);
    terrace_close(d.m);
}

/* ---- at random --------------------------------------------------------- */

/* Everywhere, with less room than there are bytes; copies straight begin to fail in the
 * middle. */
static void shuffled(uint64_t random, const char *more)
{
    enum { N = 40, STEPS = 1500 };
    terrace_tensor *t[N];
    uint64_t is[N];
    open_twins(8 * MIB, 12 * MIB, more);
    for (unsigned i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        on_write(t[i], i % 2, SIZE, is[i] = i);
    }
    for (unsigned step = 0; step < STEPS; step++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned i = (unsigned)(random >> 33) % N, what = (unsigned)(random >> 50) % 8;
        if (step == STEPS * 2 / 3)
            twins[0].peers_fail = true;
        if (what < 4)
            on_expect(t[i], what % 2, SIZE, is[i]);
        else if (what < 6)
            on_write(t[i], what % 2, SIZE, is[i] = 1000 + step);
        else if (what == 6)
            assert_ok(terrace_prefetch(t[i], d.dev[random >> 60 & 1]));
        else
            expect_pattern(t[i], d.host, SIZE, is[i]);
    }
    for (unsigned i = 0; i < N; i++)
        on_expect(t[i], i % 2, SIZE, is[i]);
    cr_assert_gt(twins[0].peer_bytes, 0);
    cr_assert_gt(twins[1].peer_bytes, 0);
    for (int i = 0; i < 2; i++)
        cr_assert_leq(tier_stats_of(d.m, d.dev[i]).peak, 8 * MIB);
    cr_assert_leq(tier_stats_of(d.m, d.host).peak, 12 * MIB);
    terrace_close(d.m);
}

Test(peer, at_random, .timeout = 120)
{
    shuffled(1, ";log=off");
}

Test(peer, at_random_encrypted, .timeout = 120)
{
    shuffled(2, ";log=off;encrypt=1");
}
