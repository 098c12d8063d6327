/* lib/depth.c: the depth that a lane finds, against a model of a device, and
 * against a simulated disk whose pieces take their time. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <time.h>

#include "depth.h"
#include "manager.h"
#include "simdisk.h"

enum { START = 16, LEAST = 4, MOST = 64, PIECE = 1 << 20 };

/* A device that serves `ways` pieces at a time, each of which takes `latency`;
 * what is in flight beyond that waits in it. */
struct device {
    double latency_ns, ways;
    double noise;    /* a window may be so much slower, by chance */
    double drift;    /* and the whole device, slowly, up and down */
};

/* The depth after so many pieces, where more always waits for room. */
static unsigned settle(const struct device *v, struct depth *d, unsigned pieces)
{
    unsigned random = 12345;
    for (unsigned done = 0; done < pieces; done++) {
        double served = d->now < v->ways ? d->now : v->ways;
        double swing = done / 5000 % 2 ? 1.0 + v->drift : 1.0;
        random = random * 1103515245u + 12345u;
        double slower = 1.0 + v->noise * (random >> 16 & 0xffff) / 65536.0;
        depth_done(d, 1, PIECE, (uint64_t)(v->latency_ns / served * slower * swing), d->now, true);
        cr_assert(d->now >= d->least && d->now <= d->most, "%u", d->now);
    }
    return d->settled;
}

static unsigned found(struct device v)
{
    struct depth d;
    depth_init(&d, START, LEAST, MOST);
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
    depth_init(&d, START, LEAST, MOST);
    cr_assert_eq(settle(&far, &d, 100000), MOST);
    cr_assert_eq(settle(&near, &d, 200000), LEAST);
    cr_assert_eq(settle(&far, &d, 200000), MOST);
}

Test(depth, trials_become_rare)
{
    struct depth d;
    struct device v = {.latency_ns = 1e6, .ways = 16};
    unsigned tried = 0, all = 200000;
    depth_init(&d, START, LEAST, MOST);
    settle(&v, &d, all);
    for (unsigned i = 0; i < all; i++) {
        settle(&v, &d, 1);
        tried += d.now < d.settled;
    }
    cr_assert_lt(tried, all / 25, "%u", tried);
    cr_assert_gt(tried, 0u);
}

Test(depth, nothing_is_tried_while_nothing_waits_or_little_is_in_flight)
{
    struct depth d;
    depth_init(&d, START, LEAST, MOST);
    for (int i = 0; i < 100000; i++) {
        depth_done(&d, 1, PIECE, 1000, START, false);
        cr_assert_eq(d.now, START);
    }
    for (int i = 0; i < 100000; i++)
        depth_done(&d, 1, PIECE, 1000, 2, true);
    cr_assert_eq(d.settled, START);
}

Test(depth, without_room_it_stays)
{
    struct depth d;
    struct device far = {.latency_ns = 20e6, .ways = 1000};
    depth_init(&d, START, START, START);
    cr_assert_eq(settle(&far, &d, 100000), START);
}

/* ---- the whole way -------------------------------------------------------- */

enum { TENSORS = 16, BYTES = 8 * MIB };

/* Where everything else is slowed down ten times, what is fast is no longer the disk's doing. */
#ifdef __SANITIZE_THREAD__
enum { SLOWED = 1 };
#else
enum { SLOWED = 0 };
#endif

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

struct many {
    terrace *m;
    terrace_tier host;
    terrace_tensor *t[TENSORS];
};

/* Tensors that never fit, on a simulated disk of that kind. */
static void many_open(struct many *a, unsigned most, int64_t latency_ns, bool one_by_one)
{
    simdisk.most = most;
    simdisk.latency_ns = latency_ns;
    simdisk.one_by_one = one_by_one;
    a->m = open_sim(4 * BYTES, "policy=lru");
    a->host = host_of(a->m);
    for (int i = 0; i < TENSORS; i++) {
        assert_ok(terrace_tensor_create(a->m, BYTES, NULL, &a->t[i]));
        void *p;
        assert_ok(terrace_acquire(a->t[i], a->host, TERRACE_OVERWRITE, NULL, &p, NULL));
        memset(p, i, BYTES);
        assert_ok(terrace_release(a->t[i], p, NULL));
    }
}

/* Reads all of them; the seconds it took. */
static double pass(struct many *a)
{
    uint64_t start = now_ns();
    for (int i = 0; i < TENSORS; i++) {
        unsigned char *p;
        assert_ok(terrace_acquire(a->t[i], a->host, TERRACE_READ, NULL, (void **)&p, NULL));
        cr_assert(p[0] == i && p[BYTES - 1] == i);
        assert_ok(terrace_release(a->t[i], p, NULL));
    }
    return (double)(now_ns() - start) * 1e-9;
}

static uint64_t depth_of(struct many *a)
{
    terrace_tier_statistics s = {.size = sizeof s};
    assert_ok(terrace_tier_stats(a->m, 1, &s));
    return s.io_depth;
}

static void many_close(struct many *a)
{
    for (int i = 0; i < TENSORS; i++)
        terrace_tensor_destroy(a->t[i]);
    terrace_close(a->m);
}

/* Passes until the depth is within these. */
static void settle_within(struct many *a, uint64_t least, uint64_t most)
{
    for (double passed = 0; passed < (SLOWED ? 10 : 60) && (depth_of(a) < least || depth_of(a) > most);)
        passed += pass(a);
    cr_assert(SLOWED || (depth_of(a) >= least && depth_of(a) <= most), "%lu", (unsigned long)depth_of(a));
}

/* The fastest of three passes with that depth. */
static double settled_pass(struct many *a, uint64_t depth)
{
    double best = 1e9;
    settle_within(a, depth, depth);
    for (int i = 0; i < 3; i++) {
        double seconds = pass(a);
        best = seconds < best ? seconds : best;
    }
    return best;
}

Test(depth, a_far_disk_is_kept_busy, .timeout = 240)
{
    struct many a;
    many_open(&a, 0, 4000000, false);
    double fixed = settled_pass(&a, SIMDISK_DEPTH);
    many_close(&a);
    many_open(&a, SIMDISK_MOST, 4000000, false);
    double found = settled_pass(&a, SIMDISK_MOST);
    many_close(&a);
    cr_assert(SLOWED || found < fixed / 1.5, "%.3f s, %.3f s with a fixed depth", found, fixed);
}

Test(depth, a_near_disk_is_not_flooded, .timeout = 240)
{
    struct many a;
    many_open(&a, SIMDISK_MOST, 3000000, true);
    settle_within(&a, 1, SIMDISK_DEPTH - 1);
    many_close(&a);
}
