/* lib/depth.c: the depth and the size of pieces that a lane finds, against a model of a
 * device, and against a simulated disk whose pieces take their time. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "depth.h"
#include "manager.h"
#include "simdisk.h"

enum { START = 16, LEAST = 4, MOST = 64, PIECE = 1 << 20 };

/* A device that serves `ways` pieces at a time, each of which takes `latency`;
 * what is in flight beyond that waits in it. */
struct device {
    double latency_ns, ways;
    bool by_size;    /* half a piece takes half as long */
    double noise;    /* a window may be so much slower, by chance */
    double drift;    /* and the whole device, slowly, up and down */
};

/* The depth after so many pieces, where more always waits for room. */
static unsigned settle(const struct device *v, struct depth *d, unsigned pieces)
{
    unsigned random = 12345;
    for (unsigned done = 0; done < pieces; done++) {
        double served = d->now.pieces < v->ways ? d->now.pieces : v->ways;
        uint64_t bytes = PIECE >> d->now.halved;
        double takes = v->latency_ns * (v->by_size ? (double)bytes / PIECE : 1);
        double swing = done / 5000 % 2 ? 1.0 + v->drift : 1.0;
        random = random * 1103515245u + 12345u;
        double slower = 1.0 + v->noise * (random >> 16 & 0xffff) / 65536.0;
        depth_done(d, 1, bytes, (uint64_t)(takes / served * slower * swing), d->now.pieces, true);
        cr_assert(d->now.pieces >= d->least && d->now.pieces <= d->most, "%u", d->now.pieces);
        cr_assert_leq(d->now.halved, d->halved_most);
    }
    return d->settled.pieces;
}

static unsigned found(struct device v)
{
    struct depth d;
    depth_init(&d, START, LEAST, MOST, PIECE, 0);
    return settle(&v, &d, 100000);
}

Test(depth, what_takes_long_and_is_served_at_once_gets_more)
{
    cr_assert_eq(found((struct device){.latency_ns = 20e6, .ways = 1000}), MOST);
    cr_assert_eq(found((struct device){.latency_ns = 20e6, .ways = 32}), 32, "and no more than gains something");
    cr_assert_eq(found((struct device){.latency_ns = 20e6, .ways = 1000, .noise = 0.5, .drift = 1.0}), MOST);
}

Test(depth, where_more_only_waits_in_the_device_there_is_less)
{
    cr_assert_eq(found((struct device){.latency_ns = 1e5, .ways = 1}), LEAST);
    cr_assert_eq(found((struct device){.latency_ns = 1e6, .ways = 8}), 8, "and no less than loses nothing");
}

Test(depth, it_stays_where_it_gains_nothing_and_loses_nothing)
{
    cr_assert_eq(found((struct device){.latency_ns = 1e6, .ways = 16}), 16);
    for (int percent = 5; percent <= 50; percent += 5)
        cr_assert_eq(found((struct device){.latency_ns = 1e6, .ways = 16, .noise = percent / 100.0, .drift = 0.5}), 16,
                     "%d %% noise", percent);
}

Test(depth, it_follows_a_device_that_changes)
{
    struct depth d;
    struct device far = {.latency_ns = 20e6, .ways = 1000}, near = {.latency_ns = 1e5, .ways = 1};
    depth_init(&d, START, LEAST, MOST, PIECE, 0);
    cr_assert_eq(settle(&far, &d, 100000), MOST);
    cr_assert_eq(settle(&near, &d, 200000), LEAST);
    cr_assert_eq(settle(&far, &d, 200000), MOST);
}

Test(depth, trials_become_rare)
{
    struct depth d;
    struct device v = {.latency_ns = 1e6, .ways = 16};
    unsigned tried = 0, all = 200000;
    depth_init(&d, START, LEAST, MOST, PIECE, 0);
    settle(&v, &d, all);
    for (unsigned i = 0; i < all; i++) {
        settle(&v, &d, 1);
        tried += d.now.pieces < d.settled.pieces;
    }
    cr_assert_lt(tried, all / 25, "%u", tried);
    cr_assert_gt(tried, 0u);
}

Test(depth, nothing_is_tried_while_nothing_waits_or_little_is_in_flight)
{
    struct depth d;
    depth_init(&d, START, LEAST, MOST, PIECE, 0);
    for (int i = 0; i < 100000; i++) {
        depth_done(&d, 1, PIECE, 1000, START, false);
        cr_assert_eq(d.now.pieces, START);
    }
    for (int i = 0; i < 100000; i++)
        depth_done(&d, 1, PIECE, 1000, 2, true);
    cr_assert_eq(d.settled.pieces, START);
}

Test(depth, without_room_it_stays)
{
    struct depth d;
    struct device far = {.latency_ns = 20e6, .ways = 1000};
    depth_init(&d, START, START, START, PIECE, 0);
    cr_assert_eq(settle(&far, &d, 100000), START);
}

/* ---- how large pieces are ------------------------------------------------- */

enum { HALVED = 2 };

/* How often pieces are halved in the end. */
static unsigned halved(struct device v, struct depth *d)
{
    depth_init(d, START, LEAST, MOST, PIECE, HALVED);
    settle(&v, d, 200000);
    return d->settled.halved;
}

Test(depth, where_each_piece_takes_its_time_they_stay_large)
{
    struct depth d;
    cr_assert_eq(halved((struct device){.latency_ns = 20e6, .ways = 1000}, &d), 0);
    cr_assert_eq(d.settled.pieces, MOST);
    cr_assert_eq(halved((struct device){.latency_ns = 1e6, .ways = 1, .noise = 0.3}, &d), 0);
}

Test(depth, where_small_pieces_are_as_fast_they_are_small)
{
    struct depth d;
    cr_assert_eq(halved((struct device){.latency_ns = 1e6, .ways = 1, .by_size = true}, &d), HALVED);
    cr_assert_eq(d.settled.pieces, LEAST, "and few");
}

Test(depth, pieces_become_large_again_where_that_gains_something)
{
    struct depth d;
    struct device near = {.latency_ns = 1e6, .ways = 1, .by_size = true}, far = {.latency_ns = 20e6, .ways = 1000};
    halved(near, &d);
    settle(&far, &d, 400000);
    cr_assert_eq(d.settled.halved, 0);
    cr_assert_eq(d.settled.pieces, MOST);
}

Test(depth, the_size_is_tried_while_nothing_waits_and_says_nothing_of_small_tensors)
{
    struct depth d;
    depth_init(&d, START, LEAST, MOST, PIECE, HALVED);
    for (int i = 0; i < 100000; i++) /* tensors of a page */
        depth_done(&d, 1, 4096, 1000, 1, false);
    cr_assert_eq(d.settled.halved, 0);
    for (int i = 0; i < 100000; i++) /* what nobody cuts */
        depth_done(&d, 1, PIECE, 1000, 1, false);
    cr_assert_eq(d.settled.halved, 0);
    for (int i = 0; i < 100000; i++) { /* one tensor at a time, its pieces all at once */
        uint64_t bytes = PIECE >> d.now.halved;
        depth_done(&d, 1, bytes, bytes >> d.now.halved, 1u << d.now.halved, false);
    }
    cr_assert_eq(d.settled.halved, HALVED);
    cr_assert_eq(d.settled.pieces, START);
}

/* ---- the whole way -------------------------------------------------------- */

enum { TENSORS = 16, PASSES = 400 };

/* Where everything else is slowed down ten times, what is fast is no longer the disk's doing. */
#ifdef __SANITIZE_THREAD__
enum { SLOWED = 1 };
#else
enum { SLOWED = 0 };
#endif

struct many {
    terrace *m;
    terrace_tier host;
    size_t bytes;
    terrace_tensor *t[TENSORS];
};

/* Tensors that never fit, on the simulated disk. */
static void many_open(struct many *a, unsigned most, size_t bytes, const char *more)
{
    simdisk.most = most;
    simdisk.deepest = 0;
    a->bytes = bytes;
    a->m = open_sim(4 * bytes, more);
    a->host = host_of(a->m);
    for (int i = 0; i < TENSORS; i++) {
        assert_ok(terrace_tensor_create(a->m, bytes, NULL, &a->t[i]));
        void *p;
        assert_ok(terrace_acquire(a->t[i], a->host, TERRACE_OVERWRITE, NULL, &p, NULL));
        memset(p, i, bytes);
        assert_ok(terrace_release(a->t[i], p, NULL));
    }
}

/* Reads all of them. */
static void pass(struct many *a)
{
    for (int i = 0; i < TENSORS; i++) {
        unsigned char *p;
        assert_ok(terrace_acquire(a->t[i], a->host, TERRACE_READ, NULL, (void **)&p, NULL));
        cr_assert(p[0] == i && p[a->bytes - 1] == i);
        assert_ok(terrace_release(a->t[i], p, NULL));
    }
}

static terrace_tier_statistics disk_stats(struct many *a)
{
    terrace_tier_statistics s = {.size = sizeof s};
    assert_ok(terrace_tier_stats(a->m, 1, &s));
    return s;
}

static void many_close(struct many *a)
{
    for (int i = 0; i < TENSORS; i++)
        terrace_tensor_destroy(a->t[i]);
    terrace_close(a->m);
}

/* Passes until that many pieces, of so many bytes at most, are in flight; the passes. */
static int settle_within(struct many *a, uint64_t least, uint64_t most, uint64_t chunk)
{
    for (int passes = 0; passes < (SLOWED ? 10 : PASSES); passes++) {
        terrace_tier_statistics s = disk_stats(a);
        if (s.io_depth >= least && s.io_depth <= most && s.io_chunk <= chunk)
            return passes;
        pass(a);
    }
    cr_assert(SLOWED, "%lu pieces of %lu bytes", (unsigned long)disk_stats(a).io_depth,
              (unsigned long)disk_stats(a).io_chunk);
    return 0;
}

/* Where each piece takes 4 ms, however many there are. */
Test(depth, a_far_disk_is_kept_busy, .timeout = 240)
{
    struct many a;
    simdisk.latency_ns = 4000000;
    many_open(&a, 0, 8 * MIB, "policy=lru");
    pass(&a);
    cr_assert_eq(simdisk.deepest, SIMDISK_DEPTH, "nothing can be tried");
    many_close(&a);
    many_open(&a, SIMDISK_MOST, 8 * MIB, "policy=lru");
    settle_within(&a, SIMDISK_MOST, SIMDISK_MOST, SIMDISK_CHUNK);
    cr_assert(SLOWED || simdisk.deepest == SIMDISK_MOST, "%u", simdisk.deepest);
    cr_assert(SLOWED || disk_stats(&a).io_chunk == SIMDISK_CHUNK, "smaller ones would be half as fast");
    many_close(&a);
}

/* Where each takes the longer the more there are. */
Test(depth, a_near_disk_is_not_flooded, .timeout = 240)
{
    struct many a;
    simdisk.latency_ns = 30000;
    simdisk.one_by_one = simdisk.crowded = true;
    many_open(&a, SIMDISK_MOST, 8 * MIB, "policy=lru");
    settle_within(&a, 1, SIMDISK_DEPTH / 2, SIMDISK_CHUNK);
    many_close(&a);
}

/* Where half a piece takes half as long, and several are served at once, a tensor that
 * somebody waits for is there after a quarter of the time. */
Test(depth, a_tensor_is_cut_into_more_pieces_where_it_comes_sooner, .timeout = 240)
{
    struct many a;
    simdisk.page_ns = 250000;
    many_open(&a, SIMDISK_MOST, 4 * SIMDISK_CHUNK, "policy=lru");
    unsigned before = simdisk.reads;
    pass(&a);
    cr_assert_leq(simdisk.reads - before, TENSORS * 4);
    settle_within(&a, 1, SIMDISK_MOST, SIMDISK_CHUNK / 4);
    cr_assert(SLOWED || simdisk.deepest >= 16, "%u", simdisk.deepest);
    many_close(&a);
}

/* Each piece has its seal: written and read they are cut alike. */
Test(depth, pieces_that_are_sealed_are_not_cut_anew, .timeout = 240)
{
    struct many a;
    simdisk.page_ns = 50000;
    many_open(&a, SIMDISK_MOST, 4 * SIMDISK_CHUNK, "policy=lru;verify=spill");
    for (int i = 0; i < 40; i++)
        pass(&a);
    cr_assert_eq(disk_stats(&a).io_chunk, SIMDISK_CHUNK);
    many_close(&a);
}
