/* heap.c - terrace's own allocation of addresses, for bench/alloc: thread caches
 * over a heap of groups of 4 MiB, and from one granule on the range allocator over
 * a tier (bench_alloc); that by itself (bench_range_alloc); and how much memory a
 * trace of large tensors takes. */
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "arena.h"
#include "heap_cache.h"

#define EXPORT __attribute__((visibility("default")))

enum { GROUP = 4 << 20, GROUPS = 4096, GRANULE = 2 << 20 };

static struct heap *heap;
static struct heap_cache *cache;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t base, next_group, given_back[GROUPS];
static size_t spare;

static uint64_t more(void *context, size_t bytes)
{
    (void)context;
    pthread_mutex_lock(&lock);
    uint64_t address = spare ? given_back[--spare]
                     : next_group < GROUPS ? base + bytes * next_group++ : 0;
    pthread_mutex_unlock(&lock);
    return address;
}

static void less(void *context, uint64_t address, size_t bytes)
{
    (void)context, (void)bytes;
    pthread_mutex_lock(&lock);
    given_back[spare++] = address;
    pthread_mutex_unlock(&lock);
}

/* ---- a tier of which only the addresses are real --------------------------- */

static int no_commit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address, (void)bytes;
    return 0;
}

static void no_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address, (void)bytes;
}

static int numbers_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *out)
{
    static uint64_t next_base = UINT64_C(1) << 40;
    (void)unit, (void)flags;
    *out = next_base;
    next_base += round_up(bytes, UINT64_C(1) << 40);
    return 0;
}

static void no_release(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address, (void)bytes;
}

static const terrace_backend numbers = {
    .reserve = numbers_reserve, .release = no_release, .commit = no_commit, .decommit = no_decommit};
static const terrace_unit_info pages_and_granules = {.page = 4096, .granule = GRANULE};
static struct arena range;

static void must(bool well)
{
    if (!well) {
        fputs("bench/alloc: terrace's allocator does not open\n", stderr);
        exit(1);
    }
}

EXPORT void bench_open(void)
{
    char *map = mmap(NULL, (size_t)GROUP * (GROUPS + 1), PROT_NONE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    struct heap_source source = {.more = more, .less = less};
    must(map != MAP_FAILED);
    base = round_up((uintptr_t)map, GROUP);
    must(heap_open(&heap, &source, GROUP) == 0 && heap_cache_open(&cache, heap) == 0);
    must(arena_open(&range, &numbers, NULL, &pages_and_granules, UINT64_C(64) << 30) == 0);
}

EXPORT void *bench_range_alloc(size_t bytes)
{
    struct grant grant;
    pthread_mutex_lock(&lock);
    must(arena_take(&range, bytes, 64, &grant) == 0);
    struct extent *e = arena_settle(&range, &grant, arena_fulfil(&range, &grant));
    pthread_mutex_unlock(&lock);
    return e;
}

EXPORT void bench_range_free(void *p, size_t bytes)
{
    (void)bytes;
    pthread_mutex_lock(&lock);
    arena_free(&range, p);
    pthread_mutex_unlock(&lock);
}

EXPORT void *bench_alloc(size_t bytes)
{
    if (bytes >= GRANULE)
        return bench_range_alloc(bytes);
    return (void *)(uintptr_t)heap_cache_alloc(cache, bytes, 16);
}

EXPORT void bench_free(void *p, size_t bytes)
{
    if (bytes >= GRANULE)
        bench_range_free(p, bytes);
    else
        heap_cache_free(cache, (uintptr_t)p, bytes, 16);
}

/* ---- fragmentation --------------------------------------------------------- */

static uint64_t random_next(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    return *x ^= *x << 17;
}

/* Tensors of 3 MiB to 8 GiB, evenly over the magnitudes, come and go at random
 * until `live` bytes are alive, `ops` times; once in a while half of them go, as
 * at the end of a phase. Gives the most that was committed against the most that
 * was alive, the mean of both's ratio (with a decay now and then, as a manager
 * does it), and the largest excess of one tensor. False: an allocation failed
 * although less than the limit, 1.02 times `live`, was wanted. */
EXPORT bool bench_fragmentation(uint64_t live, int ops, double *peak, double *mean, double *worst)
{
    enum { MOST = 4096 };
    static struct extent *held[MOST];
    static uint64_t asked[MOST];
    struct arena a;
    struct grant grant;
    uint64_t seed = 42, now = 0, most_alive = 0, limit = live + live / 50;
    size_t n = 0;
    bool well = true;
    double sum = 0;
    must(arena_open(&a, &numbers, NULL, &pages_and_granules, limit) == 0);
    *worst = 1;
    for (int op = 0; well && op < ops; op++) {
        unsigned bits = (unsigned)(random_next(&seed) % 12);
        uint64_t bytes = ((UINT64_C(2) << 20 << bits) + random_next(&seed) % (UINT64_C(2) << 20 << bits));
        bytes = bytes < (3 << 20) ? 3 << 20 : bytes;
        size_t go = op % 1000 == 999 ? n / 2 : 0;
        while (go || n == MOST || (n && now + bytes > live)) {
            size_t i = random_next(&seed) % n;
            arena_free(&a, held[i]);
            now -= asked[i];
            held[i] = held[--n];
            asked[i] = asked[n];
            go -= go != 0;
        }
        well = arena_take(&a, bytes, 64, &grant) == 0;
        if (!well)
            break;
        held[n] = arena_settle(&a, &grant, arena_fulfil(&a, &grant));
        double excess = (double)held[n]->bytes / (double)bytes;
        *worst = excess > *worst ? excess : *worst;
        asked[n++] = bytes;
        now += bytes;
        most_alive = now > most_alive ? now : most_alive;
        arena_decay(&a, &grant);
        arena_fulfil(&a, &grant);
        arena_settle(&a, &grant, 0);
        sum += (double)a.committed / (double)now;
    }
    *peak = (double)a.peak / (double)most_alive;
    *mean = sum / ops;
    while (n)
        arena_free(&a, held[--n]);
    arena_close(&a);
    return well;
}
