/* test_heap_cache.c - thread caches in front of a heap: every test runs over each engine. */
#include "heap_world.h"

EACH_ENGINE(cached_operations_agree_with_a_model)
{
    enum { OPS = 1000000 / SLOWER, BLOCKS = 3000 };
    struct world w;
    struct heap_cache *c;
    world_open(&w, engine, GROUP, 256);
    cr_assert_eq(heap_cache_open(&c, w.heap), 0);
    unsigned char *map = calloc(w.groups * w.group / UNIT, 1);
    struct block *blocks = calloc(BLOCKS, sizeof *blocks);
    size_t *alignment = calloc(BLOCKS, sizeof *alignment);
    uint64_t seed = 5;
    for (int op = 0; op < OPS; op++) {
        size_t i = random_next(&seed) % BLOCKS;
        struct block *b = &blocks[i];
        if (b->address) {
            mark(&w, map, *b, false);
            heap_cache_free(c, b->address, b->bytes, alignment[i]);
            b->address = 0;
            continue;
        }
        alignment[i] = random_alignment(&seed);
        b->bytes = random_size(&seed, 512 * KIB);
        b->address = heap_cache_alloc(c, b->bytes, alignment[i]);
        cr_assert_neq(b->address, 0);
        check_block(&w, *b, alignment[i]);
        mark(&w, map, *b, true);
        if (op % 50000 == 0)
            heap_cache_trim(c);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        heap_cache_free(c, blocks[i].address, blocks[i].bytes, alignment[i]);
    heap_cache_purge(c);
    cr_expect_eq(w.given, 0, "%u groups stay", w.given);
    heap_cache_close(c);
    world_close(&w);
    free(alignment);
    free(blocks);
    free(map);
}

EACH_ENGINE(what_is_cached_is_used_again_and_goes_back_when_it_is_not)
{
    enum { N = 2000 };
    struct world w;
    struct heap_cache *c;
    struct heap_stats s;
    static uint64_t at[N];
    world_open(&w, engine, GROUP, 64);
    cr_assert_eq(heap_cache_open(&c, w.heap), 0);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < N; i++)
            at[i] = heap_cache_alloc(c, 1000, 16);
        heap_stats(w.heap, &s);
        cr_expect_eq(s.allocated, N * 1024);
        for (int i = 0; i < N; i++)
            heap_cache_free(c, at[i], 1000, 16);
    }
    heap_cache_trim(c); /* it was all in use since the last time */
    heap_stats(w.heap, &s);
    cr_expect_eq(s.allocated, N * 1024);
    heap_cache_trim(c);
    heap_stats(w.heap, &s);
    cr_expect_leq(s.allocated, 60 * 1024, "a thread keeps two magazines at most");
    heap_cache_purge(c);
    cr_expect_eq(w.given, 0);
    heap_cache_free(c, 0, 1000, 16);
    cr_expect_eq(heap_cache_alloc(c, 0, 16), 0);
    cr_expect_eq(heap_cache_alloc(c, GROUP + 1, 16), 0);
    uint64_t whole = heap_cache_alloc(c, GROUP, GROUP);
    cr_expect_neq(whole, 0);
    heap_cache_free(c, whole, GROUP, GROUP);
    heap_cache_close(c);
    heap_cache_close(NULL);
    world_close(&w);
}

EACH_ENGINE(cached_addresses_of_other_sizes_make_room)
{
    struct world w;
    struct heap_cache *c;
    uint64_t at[3 * GROUP / (64 * KIB)];
    size_t n = 0;
    world_open(&w, engine, GROUP, 3);
    cr_assert_eq(heap_cache_open(&c, w.heap), 0);
    while (n < sizeof at / sizeof *at && (at[n] = heap_cache_alloc(c, 60 * KIB, 64)) != 0)
        n++;
    cr_assert_gt(n, 60);
    while (n--)
        heap_cache_free(c, at[n], 60 * KIB, 64);
    cr_expect_neq(heap_cache_alloc(c, MIB, 4096), 0);
    heap_cache_close(c);
    world_close(&w);
}

struct cached_team {
    struct team team;
    struct heap_cache *cache;
    pthread_barrier_t end;
};

static void *cached_member(void *context)
{
    struct cached_team *t = context;
    uint64_t seed = 100 + t->team.ids++;
    for (int op = 0; op < t->team.ops; op++) {
        struct block *_Atomic *slot = &t->team.slot[random_next(&seed) % SHARED];
        struct block *b = atomic_exchange(slot, NULL);
        if (b) {
            team_mark(&t->team, b, false);
            heap_cache_free(t->cache, b->address, b->bytes, 64);
            free(b);
            continue;
        }
        b = malloc(sizeof *b);
        b->bytes = random_size(&seed, 64 * KIB);
        b->address = heap_cache_alloc(t->cache, b->bytes, 64);
        cr_assert_neq(b->address, 0);
        team_mark(&t->team, b, true);
        b = atomic_exchange(slot, b);
        if (b) {
            team_mark(&t->team, b, false);
            heap_cache_free(t->cache, b->address, b->bytes, 64);
            free(b);
        }
        if (op % 10000 == 0)
            heap_cache_trim(t->cache);
        if (op % 30000 == 0)
            heap_cache_purge(t->cache);
    }
    pthread_barrier_wait(&t->end);
    return NULL;
}

EACH_ENGINE(threads_share_a_cache)
{
    struct world w;
    struct cached_team *t = calloc(1, sizeof *t);
    pthread_t threads[THREADS];
    world_open(&w, engine, GROUP, 256);
    cr_assert_eq(heap_cache_open(&t->cache, w.heap), 0);
    t->team.world = &w;
    t->team.map = calloc(w.groups * GROUP / UNIT, 1);
    t->team.ops = 60000 / SLOWER;
    pthread_barrier_init(&t->end, NULL, THREADS + 1);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, cached_member, t), 0);
    pthread_barrier_wait(&t->end);
    cr_expect_eq(t->team.overlaps, 0);
    for (int i = 0; i < SHARED; i++) {
        struct block *b = t->team.slot[i];
        if (b)
            heap_cache_free(t->cache, b->address, b->bytes, 64);
        free(b);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    heap_cache_purge(t->cache);
    cr_expect_eq(w.given, 0, "%u groups stay though all threads have ended", w.given);
    heap_cache_close(t->cache);
    world_close(&w);
    free(t->team.map);
    free(t);
}

struct outliving {
    struct heap_cache *cache;
    pthread_barrier_t turn;
};

static void *outlives_the_cache(void *context)
{
    struct outliving *o = context;
    for (int i = 0; i < 3; i++) {
        uint64_t at = heap_cache_alloc(o->cache, 100, 16);
        cr_assert_neq(at, 0);
        heap_cache_free(o->cache, at, 100, 16);
        pthread_barrier_wait(&o->turn);
        pthread_barrier_wait(&o->turn); /* there is another now */
    }
    return NULL;
}

EACH_ENGINE(threads_outlive_caches)
{
    struct world w;
    struct outliving o;
    pthread_t thread;
    world_open(&w, engine, GROUP, 8);
    pthread_barrier_init(&o.turn, NULL, 2);
    cr_assert_eq(heap_cache_open(&o.cache, w.heap), 0);
    cr_assert_eq(pthread_create(&thread, NULL, outlives_the_cache, &o), 0);
    for (int i = 0; i < 3; i++) {
        pthread_barrier_wait(&o.turn);
        heap_cache_close(o.cache);
        cr_assert_eq(heap_cache_open(&o.cache, w.heap), 0);
        pthread_barrier_wait(&o.turn);
    }
    pthread_join(thread, NULL);
    heap_cache_close(o.cache);
    world_close(&w);
}

enum { HANDED = 2000 };

static void *takes_and_gives(void *context)
{
    struct heap_cache *c = context;
    uint64_t at[HANDED];
    for (int i = 0; i < HANDED; i++)
        cr_assert_neq(at[i] = heap_cache_alloc(c, 1000, 16), 0);
    for (int i = 0; i < HANDED; i++)
        heap_cache_free(c, at[i], 1000, 16);
    return NULL;
}

EACH_ENGINE(what_one_thread_frees_the_others_take)
{
    struct world w;
    struct heap_cache *c;
    struct heap_stats s;
    pthread_t thread;
    world_open(&w, engine, GROUP, 8);
    cr_assert_eq(heap_cache_open(&c, w.heap), 0);
    takes_and_gives(c);
    for (int i = 0; i < 6; i++) {
        cr_assert_eq(pthread_create(&thread, NULL, takes_and_gives, c), 0);
        pthread_join(thread, NULL);
    }
    heap_stats(w.heap, &s);
    cr_expect_leq(s.allocated, (HANDED + 60) * 1024, "but for what the first thread keeps");
    heap_cache_close(c);
    world_close(&w);
}
