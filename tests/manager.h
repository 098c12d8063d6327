/* manager.h - what tests of the core share: managers, patterns, assertions. */
#ifndef TERRACE_TESTS_MANAGER_H
#define TERRACE_TESTS_MANAGER_H

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "terrace.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

#define assert_ok(call)                                                                    \
    do {                                                                                   \
        int assert_ok_r = (call);                                                          \
        cr_assert(assert_ok_r == 0, "%s: %s: %s", #call, terrace_strerror(assert_ok_r),    \
                  terrace_last_error());                                                   \
    } while (0)

#define assert_fails(call, error)                                                          \
    do {                                                                                   \
        int assert_fails_r = (call);                                                       \
        cr_assert(assert_fails_r == -(error), "%s gave %d (%s), wanted %s", #call,         \
                  assert_fails_r, terrace_strerror(assert_fails_r), terrace_strerror(-(error))); \
        cr_assert(*terrace_last_error(), "%s left no sentence", #call);                    \
    } while (0)

/* Waits for a condition that others bring about; fails after 20 s. */
#define eventually(condition)                                                              \
    do {                                                                                   \
        int eventually_n = 0;                                                              \
        while (!(condition) && eventually_n++ < 20000)                                     \
            usleep(1000);                                                                  \
        cr_assert(condition);                                                              \
    } while (0)

/* A manager over the simulated disk, or the real one, with a host budget. */
static inline terrace *open_with(const char *tiers, size_t limit, const char *more)
{
    char conf[512];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=%s;limit_numa=%zu;%s", tiers, limit, more ? more : "");
    assert_ok(terrace_open(&m, conf));
    return m;
}

static inline terrace *open_sim(size_t limit, const char *more)
{
    return open_with("numa:0,simdisk:0", limit, more);
}

static inline terrace_tier host_of(terrace *m)
{
    terrace_tier host;
    assert_ok(terrace_tier_find(m, "host", &host));
    return host;
}

static inline terrace_tier disk_of(terrace *m)
{
    terrace_tier disk;
    assert_ok(terrace_tier_find(m, "disk", &disk));
    return disk;
}

static inline terrace_tensor *tensor_of(terrace *m, size_t bytes, const char *label)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
    terrace_tensor *t;
    assert_ok(terrace_tensor_create(m, bytes, &attr, &t));
    return t;
}

/* Bytes that differ by seed and place, so that swapped pages are noticed. */
static inline uint64_t pattern(uint64_t seed, uint64_t i)
{
    uint64_t x = (seed << 32) ^ i;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

static inline void pattern_fill(void *p, size_t bytes, uint64_t seed)
{
    unsigned char *b = p;
    for (size_t i = 0; i < bytes / 8; i++)
        ((uint64_t *)p)[i] = pattern(seed, i);
    for (size_t i = bytes / 8 * 8; i < bytes; i++)
        b[i] = (unsigned char)pattern(seed, i);
}

static inline bool pattern_is(const void *p, size_t bytes, uint64_t seed)
{
    const unsigned char *b = p;
    for (size_t i = 0; i < bytes / 8; i++)
        if (((const uint64_t *)p)[i] != pattern(seed, i))
            return false;
    for (size_t i = bytes / 8 * 8; i < bytes; i++)
        if (b[i] != (unsigned char)pattern(seed, i))
            return false;
    return true;
}

static inline void write_pattern(terrace_tensor *t, terrace_tier host, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL));
    pattern_fill(p, bytes, seed);
    assert_ok(terrace_release(t, p, NULL));
}

static inline void expect_pattern(terrace_tensor *t, terrace_tier host, size_t bytes, uint64_t seed)
{
    void *p;
    assert_ok(terrace_acquire(t, host, TERRACE_READ, NULL, &p, NULL));
    cr_assert(pattern_is(p, bytes, seed), "the bytes are not those of seed %llu",
              (unsigned long long)seed);
    assert_ok(terrace_release(t, p, NULL));
}

/* Moves a tensor's bytes down and waits until they are there. */
static inline void push_down(terrace_tensor *t, terrace *m)
{
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_ok(terrace_wait(t));
}

static inline terrace_statistics stats_of(terrace *m)
{
    terrace_statistics s = {.size = sizeof s};
    assert_ok(terrace_stats(m, &s));
    return s;
}

static inline terrace_tier_statistics tier_stats_of(terrace *m, terrace_tier tier)
{
    terrace_tier_statistics s = {.size = sizeof s};
    assert_ok(terrace_tier_stats(m, tier, &s));
    return s;
}

#endif
