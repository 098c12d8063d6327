/* heap_world.h - what the tests of heaps share: a source of addresses that nobody may
 * touch, and a map of them that what is allocated is checked against. */
#ifndef TERRACE_TESTS_HEAP_WORLD_H
#define TERRACE_TESTS_HEAP_WORLD_H

#include <criterion/criterion.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "error.h"
#include "heap.h"
#include "heap_cache.h"
#include "heap_engine.h"

enum { KIB = 1 << 10, MIB = 1 << 20, GROUP = 2 * MIB, UNIT = 16 };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { SLOWER = 20 }; /* under a sanitizer: a twentieth of the operations */
#else
enum { SLOWER = 1 };
#endif

/* A test for each engine there is: its body is a function of the engine. */
#define EACH_ENGINE(name)                                     \
    static void name(const struct heap_engine *engine);       \
    Test(heap_jemalloc, name)                                 \
    {                                                         \
        if (!heap_jemalloc)                                   \
            cr_skip_test("built without jemalloc");           \
        name(heap_jemalloc);                                  \
    }                                                         \
    Test(heap_classes, name)                                  \
    {                                                         \
        name(heap_classes);                                   \
    }                                                         \
    static void name(const struct heap_engine *engine)

/* ---- a source that checks ------------------------------------------------ */

struct world {
    pthread_mutex_t lock; /* a caller's: the source takes it, so the heap may not */
    uint64_t base;
    size_t group;
    unsigned groups, given, peak;
    bool *out; /* which groups the heap has */
    struct heap *heap;
};

static inline uint64_t world_more(void *context, size_t bytes)
{
    struct world *w = context;
    uint64_t address = 0;
    cr_assert_eq(bytes, w->group);
    pthread_mutex_lock(&w->lock);
    for (unsigned i = 0; i < w->groups && !address; i++)
        if (!w->out[i]) {
            w->out[i] = true;
            address = w->base + i * w->group;
            if (++w->given > w->peak)
                w->peak = w->given;
        }
    pthread_mutex_unlock(&w->lock);
    return address;
}

static inline void world_less(void *context, uint64_t address, size_t bytes)
{
    struct world *w = context;
    uint64_t i = (address - w->base) / w->group;
    pthread_mutex_lock(&w->lock);
    cr_assert_eq(bytes, w->group);
    cr_assert_eq(address, w->base + i * w->group);
    cr_assert(i < w->groups && w->out[i], "a group was given back that was not out");
    w->out[i] = false;
    w->given--;
    pthread_mutex_unlock(&w->lock);
}

static inline void world_open(struct world *w, const struct heap_engine *engine, size_t group,
                       unsigned groups)
{
    size_t bytes = (groups + 1) * group;
    char *map = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    cr_assert_neq(map, MAP_FAILED);
    *w = (struct world){.group = group, .groups = groups};
    w->base = ((uintptr_t)map + group - 1) / group * group;
    w->out = calloc(groups, sizeof *w->out);
    pthread_mutex_init(&w->lock, NULL);
    struct heap_source source = {w, world_more, world_less};
    cr_assert_eq(heap_open_with(&w->heap, engine, &source, group), 0);
}

static inline void world_close(struct world *w)
{
    heap_close(w->heap);
    cr_assert_eq(w->given, 0, "%u groups were not given back", w->given);
    free(w->out);
}

static inline uint64_t mapped(struct world *w)
{
    struct heap_stats s;
    heap_stats(w->heap, &s);
    return s.mapped;
}

/* ---- a model ------------------------------------------------------------- */

struct block {
    uint64_t address;
    size_t bytes;
};

/* A unit of 16 bytes is in use or not; ends of allocations are units' ends. */
static inline void mark(struct world *w, unsigned char *map, struct block b, bool use)
{
    uint64_t first = (b.address - w->base) / UNIT, last = (b.address + b.bytes - 1 - w->base) / UNIT;
    for (uint64_t i = first; i <= last; i++) {
        if (map[i] == use)
            cr_assert_fail("%zu bytes at %#" PRIx64 " overlap others", b.bytes, b.address);
        map[i] = use;
    }
}

static inline void check_block(struct world *w, struct block b, size_t alignment)
{
    cr_assert(b.address >= w->base && b.address + b.bytes <= w->base + w->groups * w->group);
    cr_assert_eq(b.address % alignment, 0, "%#" PRIx64 " at %zu", b.address, alignment);
    cr_assert_eq(b.address / w->group, (b.address + b.bytes - 1) / w->group, "it straddles groups");
}

static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Mostly small, as evenly over the magnitudes as can be. */
static inline size_t random_size(uint64_t *seed, size_t most)
{
    unsigned bits = 4 + (unsigned)(random_next(seed) % 15);
    size_t bytes = UNIT + random_next(seed) % ((size_t)1 << bits);
    return bytes > most ? most : bytes;
}

static inline size_t random_alignment(uint64_t *seed)
{
    static const size_t alignments[] = {16, 16, 64, 64, 256, 4096, 8192, 65536};
    return alignments[random_next(seed) % 8];
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- several threads ----------------------------------------------------- */

enum { THREADS = 4, SHARED = 3000 };

/* Threads free what others allocated: who swaps a block out of its slot has it. */
struct team {
    struct world *world;
    struct block *_Atomic slot[SHARED];
    atomic_uchar *map; /* uses of each unit */
    atomic_uint failed, overlaps, ids;
    int ops;
};

static inline void team_mark(struct team *t, const struct block *b, bool use)
{
    struct world *w = t->world;
    uint64_t first = (b->address - w->base) / UNIT, last = (b->address + b->bytes - 1 - w->base) / UNIT;
    for (uint64_t i = first; i <= last; i++)
        if (use ? t->map[i]++ != 0 : --t->map[i] != 0)
            t->overlaps++;
}

static inline void team_free(struct team *t, struct block *b)
{
    if (!b)
        return;
    team_mark(t, b, false);
    heap_free(t->world->heap, b->address);
    free(b);
}

static inline void team_alloc(struct team *t, struct block *_Atomic *slot, size_t bytes)
{
    struct block *b = malloc(sizeof *b);
    *b = (struct block){heap_alloc(t->world->heap, bytes, 64), bytes};
    if (!b->address) {
        t->failed++;
        free(b);
        return;
    }
    team_mark(t, b, true);
    team_free(t, atomic_exchange(slot, b));
}

#endif
