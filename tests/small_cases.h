/* small_cases.h - what the tests of small tensors share. */
#ifndef TERRACE_TESTS_SMALL_CASES_H
#define TERRACE_TESTS_SMALL_CASES_H

#include <pthread.h>

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

static inline terrace_tensor *create(terrace *m, size_t bytes, const char *label)
{
    terrace_tensor *t = tensor_of(m, bytes, label);
    cr_assert(small_of(t), "%zu bytes are not in a group: %s", bytes, m->small_engine);
    return t;
}

static inline void *acquire(terrace_tensor *t, unsigned mode)
{
    void *p;
    assert_ok(terrace_acquire(t, 0, mode, NULL, &p, NULL));
    return p;
}

static inline void release(terrace_tensor *t, void *p)
{
    assert_ok(terrace_release(t, p, NULL));
}

static inline bool zeros(const void *p, size_t bytes)
{
    const char *b = p;
    for (size_t i = 0; i < bytes; i++)
        if (b[i])
            return false;
    return true;
}

static inline void expect_zeros(terrace_tensor *t, size_t bytes)
{
    void *p = acquire(t, TERRACE_READ);
    cr_assert(zeros(p, bytes));
    release(t, p);
}

/* Two tensors of one group. */
static inline void create_pair(terrace *m, terrace_tensor **a, terrace_tensor **b)
{
    *a = create(m, PAGE_BYTES, "a");
    *b = create(m, PAGE_BYTES, "b");
    cr_assert_eq(small_group(*a), small_group(*b));
}

/* Moves a pair's group down. */
static inline void push_pair_down(terrace *m, terrace_tensor *a, terrace_tensor *b)
{
    assert_ok(terrace_demote(a, disk_of(m)));
    push_down(b, m);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
}

static inline void forget_pieces(void)
{
    pthread_mutex_lock(&simdisk.lock);
    simdisk.reads = simdisk.writes = 0;
    memset(simdisk.order, 0, sizeof simdisk.order);
    pthread_mutex_unlock(&simdisk.lock);
}

/* Groups may be left, but nothing is on any tier. */
static inline void expect_no_bytes(terrace *m)
{
    const struct terrace_tensor *t;
    manager_lock(m);
    LIST_FOREACH(t, &m->all, all)
        for (unsigned i = 0; i < m->tiers; i++)
            cr_assert_null(t->copy[i].extent, "a group has bytes on %s", m->tier[i].name);
    cr_assert_eq(m->tier[0].arena.used, 0);
    manager_unlock(m);
}

/* ---- for threads --------------------------------------------------------- */

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

static inline uint64_t dice(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

static inline void use(struct mine *x, uint64_t *rng)
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

#endif
