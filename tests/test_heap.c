/* Small allocations over addresses nobody may touch: every test runs over each
 * engine, and what is allocated is checked against a map of the addresses. */
#include "heap_world.h"

/* ---- one thread ---------------------------------------------------------- */

EACH_ENGINE(random_operations_agree_with_a_model)
{
    enum { OPS = 2000000 / SLOWER, BLOCKS = 6000 };
    struct world w;
    world_open(&w, engine, GROUP, 256);
    unsigned char *map = calloc(w.groups * w.group / UNIT, 1);
    struct block *blocks = calloc(BLOCKS, sizeof *blocks);
    uint64_t seed = 1, asked = 0;
    unsigned failed = 0;
    for (int op = 0; op < OPS; op++) {
        struct block *b = &blocks[random_next(&seed) % BLOCKS];
        size_t alignment = random_alignment(&seed);
        if (b->address) {
            mark(&w, map, *b, false);
            heap_free(w.heap, b->address);
            asked -= b->bytes;
            b->address = 0;
            continue;
        }
        b->bytes = random_size(&seed, 512 * KIB);
        b->address = heap_alloc(w.heap, b->bytes, alignment);
        failed += !b->address;
        if (!b->address)
            continue;
        check_block(&w, *b, alignment);
        mark(&w, map, *b, true);
        asked += b->bytes;
    }
    cr_expect_eq(failed, 0);
    struct heap_stats s;
    heap_stats(w.heap, &s);
    fprintf(stderr, "%s: asked %.1f MiB, allocated %.1f, active %.1f, mapped %.1f MiB: %.3f x\n",
            engine->name(), (double)asked / MIB, (double)s.allocated / MIB, (double)s.active / MIB,
            (double)s.mapped / MIB, (double)s.mapped / (double)asked);
    cr_expect(asked <= s.allocated && s.allocated <= s.active && s.active <= s.mapped);
    cr_expect_eq(s.mapped, (uint64_t)w.given * GROUP);
    /* An eighth of the blocks are aligned to 64 KiB, and slabs of 4 to 8 KiB
     * slices are long for the sake of book-keeping: both cost groups. */
    cr_expect_lt((double)s.mapped, 2.0 * (double)asked);
    for (int i = 0; i < BLOCKS; i++)
        heap_free(w.heap, blocks[i].address);
    heap_stats(w.heap, &s);
    cr_expect(s.allocated == 0 && s.active == 0, "%" PRIu64 " %" PRIu64, s.allocated, s.active);
    cr_expect_eq(w.given, 0, "%u groups stay", w.given);
    world_close(&w);
    free(blocks);
    free(map);
}

EACH_ENGINE(speed_of_an_operation)
{
    enum { OPS = 2000000 / SLOWER, BLOCKS = 10000 };
    static const size_t most[] = {1024, 16 * KIB, 512 * KIB};
    for (unsigned n = 0; n < sizeof most / sizeof *most; n++) {
        struct world w;
        world_open(&w, engine, GROUP, 4096);
        uint64_t *blocks = calloc(BLOCKS, sizeof *blocks), seed = 7;
        double start = seconds();
        for (int op = 0; op < OPS; op++) {
            uint64_t *b = &blocks[random_next(&seed) % BLOCKS];
            if (*b) {
                heap_free(w.heap, *b);
                *b = 0;
            } else {
                *b = heap_alloc(w.heap, 64 + random_next(&seed) % most[n], 64);
            }
        }
        fprintf(stderr, "%s: %.0f ns per operation, up to %zu bytes; %u groups at most\n",
                engine->name(), (seconds() - start) * 1e9 / OPS, most[n] + 64, w.peak);
        world_close(&w); /* with what is allocated */
        free(blocks);
    }
}

EACH_ENGINE(an_allocation_takes_little_more_than_asked_for)
{
    struct world w;
    world_open(&w, engine, GROUP, 4);
    static const size_t sizes[] = {1,    64,        65,        1000,          4096,    4097,
                                   5000, 14 * KIB,  16 * KIB,  16 * KIB + 1,  100000,  MIB,
                                   GROUP - 4096,    GROUP};
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (size_t alignment = 16; alignment <= GROUP; alignment *= 2) {
            struct heap_stats s;
            struct block b = {heap_alloc(w.heap, sizes[i], alignment), sizes[i]};
            cr_assert_neq(b.address, 0, "%zu at %zu", sizes[i], alignment);
            check_block(&w, b, alignment);
            heap_stats(w.heap, &s);
            size_t size = s.allocated, padded = (sizes[i] + alignment - 1) / alignment * alignment;
            if (sizes[i] >= 64 && alignment <= 4096)
                cr_expect(size >= sizes[i] && size <= padded + padded / 4, "%zu at %zu takes %zu",
                          sizes[i], alignment, size);
            heap_free(w.heap, b.address);
        }
    world_close(&w);
}

EACH_ENGINE(what_cannot_be_is_refused)
{
    struct world w;
    struct heap *other;
    world_open(&w, engine, GROUP, 1);
    struct heap_source source = {&w, world_more, world_less};
    static const size_t groups[] = {0, 4096, HEAP_GROUP_MIN / 2, GROUP + 4096, 2 * HEAP_GROUP_MAX};
    for (unsigned i = 0; i < sizeof groups / sizeof *groups; i++)
        cr_expect_eq(heap_open_with(&other, engine, &source, groups[i]), -TERRACE_EINVAL);
    cr_expect(strstr(terrace_last_error(), "134217728 bytes"), "%s", terrace_last_error());
    cr_expect_eq(heap_alloc(w.heap, 0, 16), 0);
    cr_expect_eq(heap_alloc(w.heap, GROUP + 1, 16), 0);
    cr_expect_eq(heap_alloc(w.heap, 16, 2 * GROUP), 0);
    cr_expect_eq(heap_alloc(w.heap, 16, 0), 0);
    cr_expect_eq(heap_alloc(w.heap, 16, 48), 0);
    heap_free(w.heap, 0);
    cr_expect_eq(w.peak, 0, "groups were asked for");
    world_close(&w);
    heap_close(NULL);
}

EACH_ENGINE(out_of_addresses_and_back)
{
    static const size_t sizes[] = {48, 4096, 20000, 300 * KIB, GROUP};
    struct world w;
    world_open(&w, engine, GROUP, 3);
    uint64_t *blocks = calloc(3 * GROUP / 48 + 1, sizeof *blocks);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t n = 0;
        while ((blocks[n] = heap_alloc(w.heap, sizes[i], 16)) != 0)
            n++;
        cr_expect_eq(w.given, 3);
        cr_expect_geq((double)(n * sizes[i]), 0.7 * 3 * GROUP, "only %zu of %zu", n, sizes[i]);
        cr_expect_eq(heap_alloc(w.heap, GROUP, 16), 0);
        heap_free(w.heap, blocks[n / 2]);
        blocks[n / 2] = heap_alloc(w.heap, sizes[i], 16);
        cr_expect_neq(blocks[n / 2], 0);
        while (n--)
            heap_free(w.heap, blocks[n]);
        cr_expect_eq(w.given, 0);
    }
    world_close(&w);
    free(blocks);
}

EACH_ENGINE(groups_go_back_when_nothing_is_in_them)
{
    enum { N = 4000 };
    struct world w;
    world_open(&w, engine, GROUP, 64);
    uint64_t *blocks = calloc(N, sizeof *blocks), seed = 3;
    for (int i = 0; i < N; i++)
        blocks[i] = heap_alloc(w.heap, random_size(&seed, 64 * KIB), 64);
    unsigned full = w.given;
    cr_expect_gt(full, 10);
    bool used[64] = {false};
    for (int i = 0; i < N; i++) {
        if (i % 100)
            heap_free(w.heap, blocks[i]);
        else
            used[(blocks[i] - w.base) / GROUP] = true;
    }
    for (unsigned g = 0; g < w.groups; g++)
        cr_expect_eq(w.out[g], used[g], "group %u", g);
    for (int i = 0; i < N; i += 100)
        heap_free(w.heap, blocks[i]);
    cr_expect_eq(w.given, 0);
    cr_expect_eq(mapped(&w), 0);
    world_close(&w);
    free(blocks);
}

EACH_ENGINE(closing_gives_back_what_is_allocated)
{
    for (int round = 0; round < 50; round++) {
        struct world w;
        uint64_t seed = (uint64_t)round + 1;
        world_open(&w, engine, GROUP, 64);
        for (int i = 0; i < 1000; i++)
            cr_assert_neq(heap_alloc(w.heap, random_size(&seed, 64 * KIB), 64), 0);
        cr_expect_gt(w.given, 1);
        world_close(&w);
    }
}

static long resident_pages(void)
{
    long size = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    cr_assert(f && fscanf(f, "%ld %ld", &size, &resident) == 2);
    fclose(f);
    return resident;
}

EACH_ENGINE(opening_and_closing_leaks_nothing)
{
    struct world w;
    long before = 0;
    world_open(&w, engine, GROUP, 8);
    struct heap_source source = {&w, world_more, world_less};
    for (int round = 0; round < 200 + 2000 / SLOWER; round++) {
        struct heap *h;
        if (round == 200)
            before = resident_pages();
        cr_assert_eq(heap_open_with(&h, engine, &source, GROUP), 0);
        for (int i = 0; i < 20; i++)
            cr_assert_neq(heap_alloc(h, 1000 * (size_t)(i + 1), 64), 0);
        heap_close(h);
    }
    long more = resident_pages() - before;
    cr_expect(more < 300 || SLOWER > 1, "%ld pages more", more);
    world_close(&w);
}

EACH_ENGINE(groups_of_other_sizes)
{
    for (size_t group = HEAP_GROUP_MIN; group <= HEAP_GROUP_MAX; group *= 4) {
        struct world w;
        uint64_t seed = group, blocks[200];
        world_open(&w, engine, group, 16);
        for (int i = 0; i < 200; i++) {
            size_t bytes = 1 + random_next(&seed) % (group / 20);
            blocks[i] = heap_alloc(w.heap, bytes, 16);
            cr_assert_neq(blocks[i], 0);
            check_block(&w, (struct block){blocks[i], bytes}, 16);
        }
        uint64_t whole = heap_alloc(w.heap, group, group);
        cr_expect_neq(whole, 0);
        heap_free(w.heap, whole);
        for (int i = 0; i < 200; i++)
            heap_free(w.heap, blocks[i]);
        cr_expect_eq(w.given, 0);
        world_close(&w);
    }
}

/* ---- sources ------------------------------------------------------------- */

static uint64_t odd_addresses[] = {0, GROUP / 2, (UINT64_C(1) << 47) - GROUP / 2, UINT64_C(1) << 47,
                                   UINT64_MAX - GROUP + 1};
static unsigned odd, odd_back;

static uint64_t odd_more(void *context, size_t bytes)
{
    (void)context, (void)bytes;
    return odd_addresses[odd];
}

static void odd_less(void *context, uint64_t address, size_t bytes)
{
    (void)context, (void)bytes;
    odd_back += address == odd_addresses[odd];
}

EACH_ENGINE(odd_addresses_are_not_used)
{
    struct heap *h;
    struct heap_source source = {NULL, odd_more, odd_less};
    cr_assert_eq(heap_open_with(&h, engine, &source, GROUP), 0);
    for (odd = 0; odd < sizeof odd_addresses / sizeof *odd_addresses; odd++) {
        odd_back = 0;
        cr_expect_eq(heap_alloc(h, 100, 16), 0);
        cr_expect_eq(odd_back, odd > 0, "%#" PRIx64, odd_addresses[odd]);
    }
    heap_close(h);
}

/* An engine that has no host memory. */
static uint64_t no_alloc(void *state, size_t bytes, size_t alignment)
{
    (void)state, (void)bytes, (void)alignment;
    return 0;
}

EACH_ENGINE(no_host_memory_does_not_use_up_the_source)
{
    struct world w;
    struct heap_engine starved = *engine;
    starved.alloc = no_alloc;
    world_open(&w, &starved, GROUP, 4);
    cr_expect_eq(heap_alloc(w.heap, 100, 16), 0);
    cr_expect_eq(w.peak, 1, "%u groups were fetched", w.peak);
    cr_expect_eq(w.given, 0);
    world_close(&w);
}

/* A source that makes room by freeing, and needs small memory itself. */
static struct world *inner;
static uint64_t victims[64], own;
static unsigned victims_left;

static uint64_t evicting_more(void *context, size_t bytes)
{
    uint64_t address = world_more(context, bytes);
    if (!own)
        own = heap_alloc(inner->heap, 100, 64);
    while (!address && victims_left) {
        heap_free(((struct world *)context)->heap, victims[--victims_left]);
        address = world_more(context, bytes);
    }
    return address;
}

EACH_ENGINE(a_source_may_use_heaps_itself)
{
    struct world w, other;
    world_open(&w, engine, GROUP, 4);
    world_open(&other, engine, GROUP, 1);
    inner = &other;
    struct heap_source source = {&w, evicting_more, world_less};
    heap_close(w.heap);
    cr_assert_eq(heap_open_with(&w.heap, engine, &source, GROUP), 0);
    for (victims_left = 0; w.given < 4; victims_left++)
        cr_assert_neq(victims[victims_left] = heap_alloc(w.heap, 300 * KIB, 64), 0);
    cr_assert(own >= other.base && own < other.base + GROUP, "it came from elsewhere");
    struct block b = {heap_alloc(w.heap, GROUP, 64), GROUP};
    cr_assert_neq(b.address, 0, "evicting made no room");
    check_block(&w, b, GROUP);
    world_close(&w);
    world_close(&other);
}

/* ---- several ------------------------------------------------------------- */

EACH_ENGINE(heaps_do_not_mix)
{
    enum { HEAPS = 8, OPS = 20000, BLOCKS = 500 };
    struct world w[HEAPS];
    struct block blocks[HEAPS][BLOCKS] = {{{0, 0}}};
    uint64_t seed = 11;
    for (int i = 0; i < HEAPS; i++)
        world_open(&w[i], engine, GROUP, 64);
    for (int op = 0; op < HEAPS * OPS; op++) {
        unsigned h = (unsigned)(random_next(&seed) % HEAPS);
        struct block *b = &blocks[h][random_next(&seed) % BLOCKS];
        if (b->address) {
            heap_free(w[h].heap, b->address);
            b->address = 0;
        } else {
            b->bytes = random_size(&seed, 128 * KIB);
            b->address = heap_alloc(w[h].heap, b->bytes, 64);
            cr_assert_neq(b->address, 0);
            check_block(&w[h], *b, 64);
        }
    }
    for (int i = 0; i < HEAPS; i += 2) /* every other first, with what it has */
        world_close(&w[i]);
    for (int i = 1; i < HEAPS; i += 2) {
        for (int n = 0; n < BLOCKS; n++)
            heap_free(w[i].heap, blocks[i][n].address);
        cr_expect_eq(w[i].given, 0);
        world_close(&w[i]);
    }
}

static void *team_member(void *context)
{
    struct team *t = context;
    uint64_t seed = 100 + t->ids++;
    for (int op = 0; op < t->ops; op++) {
        struct block *_Atomic *slot = &t->slot[random_next(&seed) % SHARED];
        struct block *was = atomic_exchange(slot, NULL);
        if (was)
            team_free(t, was);
        else
            team_alloc(t, slot, random_size(&seed, 64 * KIB));
        if (op % 5000 == 0)
            heap_purge(t->world->heap);
    }
    return NULL;
}

EACH_ENGINE(threads_share_a_heap)
{
    struct world w;
    struct team *t = calloc(1, sizeof *t);
    pthread_t threads[THREADS];
    world_open(&w, engine, GROUP, 128);
    t->world = &w;
    t->map = calloc(w.groups * GROUP / UNIT, 1);
    t->ops = 100000 / SLOWER;
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, team_member, t), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(t->overlaps, 0);
    cr_expect_eq(t->failed, 0);
    for (int i = 0; i < SHARED; i++)
        team_free(t, t->slot[i]);
    heap_purge(w.heap);
    cr_expect_eq(w.given, 0, "%u groups stay after the purge", w.given);
    cr_expect_eq(mapped(&w), 0);
    world_close(&w);
    free(t->map);
    free(t);
}

static void *end_of_the_addresses(void *context)
{
    struct team *t = context;
    uint64_t blocks[40];
    for (int op = 0; op < t->ops; op++) {
        int n = 0;
        while (n < 40 && (blocks[n] = heap_alloc(t->world->heap, 100 * KIB, 64)) != 0)
            n++;
        t->failed += n < 40;
        while (n--)
            heap_free(t->world->heap, blocks[n]);
    }
    return NULL;
}

EACH_ENGINE(threads_meet_at_the_end_of_the_addresses)
{
    struct world w;
    struct team *t = calloc(1, sizeof *t);
    pthread_t threads[THREADS];
    world_open(&w, engine, GROUP, 5);
    t->world = &w;
    t->ops = 500 / SLOWER;
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, end_of_the_addresses, t), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    heap_purge(w.heap);
    cr_expect_eq(w.given, 0, "%u groups stay after the purge", w.given);
    struct block b = {heap_alloc(w.heap, GROUP, 64), GROUP};
    cr_expect_neq(b.address, 0);
    world_close(&w);
    free(t);
}

/* ---- fork, name ---------------------------------------------------------- */

static void *busy(void *context)
{
    struct team *t = context;
    while (!t->failed)
        heap_free(t->world->heap, heap_alloc(t->world->heap, 100 * KIB, 64));
    return NULL;
}

EACH_ENGINE(a_forked_child_may_close)
{
    struct world w;
    struct team *t = calloc(1, sizeof *t);
    pthread_t thread;
    world_open(&w, engine, GROUP, 16);
    t->world = &w;
    cr_assert_neq(heap_alloc(w.heap, 1000, 64), 0);
    cr_assert_eq(pthread_create(&thread, NULL, busy, t), 0);
    for (int i = 0; i < 100 / SLOWER; i++) {
        pthread_mutex_lock(&w.lock); /* the source's own lock is its own affair */
        pid_t pid = fork();
        pthread_mutex_unlock(&w.lock);
        if (pid == 0) {
            alarm(20);
            heap_close(w.heap);
            _exit(w.given ? 1 : 0);
        }
        int status;
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0, "fork %d: wait status %#x", i, (unsigned)status);
    }
    t->failed = 1;
    pthread_join(thread, NULL);
    world_close(&w);
    free(t);
}

Test(heap, the_name_says_what_serves)
{
    if (heap_jemalloc)
        cr_expect(!strncmp(heap_name(), "jemalloc 5.", 11), "%s", heap_name());
    else
        cr_expect_str_eq(heap_name(), heap_classes->name());
    cr_expect(strstr(heap_classes->name(), "not available when this was built"));
}

Test(heap, opens_with_what_there_is)
{
    struct heap *h;
    struct heap_source source = {NULL, odd_more, odd_less};
    cr_assert_eq(heap_open(&h, &source, GROUP), 0);
    heap_close(h);
}
