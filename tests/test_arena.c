/* test_arena.c - the range allocator against a model, over a backend that
 * records which pages it was asked to put memory behind. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "arena.h"

enum { KIB = 1 << 10, MIB = 1 << 20, PAGE = 4 * KIB, GRANULE = 2 * MIB };

/* ---- the recording backend ----------------------------------------------- */

enum { PAGES = 1 << 18 };
#define BASE (UINT64_C(1) << 40)

static struct {
    uint64_t next;       /* page of the next reservation */
    uint64_t reserved;   /* bytes */
    uint64_t largest;    /* a longer reservation is refused; 0: none is */
    uint64_t bytes;      /* committed now */
    uint64_t most;       /* committed at most, ever */
    uint64_t limit;      /* and never more than this */
    unsigned calls;      /* of commit and decommit */
    int fail;            /* so many commits fail from now on */
    bool page[PAGES];    /* has memory behind it */
} fake;

static int fake_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    (void)unit, (void)flags;
    cr_assert_eq(bytes % GRANULE, 0);
    if (fake.largest && bytes > fake.largest)
        return -TERRACE_ENOTSUP;
    cr_assert_lt(fake.next + bytes / PAGE, PAGES);
    *base = BASE + fake.next * PAGE;
    fake.next += (bytes + GRANULE) / PAGE; /* zones never touch */
    fake.reserved += bytes;
    return 0;
}

static void fake_release(void *unit, uint64_t base, uint64_t bytes)
{
    (void)unit, (void)base;
    fake.reserved -= bytes;
}

static void fake_mark(uint64_t address, uint64_t bytes, bool committed)
{
    cr_assert(address % PAGE == 0 && bytes % PAGE == 0 && bytes > 0);
    for (uint64_t i = (address - BASE) / PAGE; i < (address - BASE + bytes) / PAGE; i++) {
        cr_assert_neq(fake.page[i], committed, "a page was %s twice",
                      committed ? "committed" : "decommitted");
        fake.page[i] = committed;
    }
}

static int fake_commit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    fake.calls++;
    if (fake.fail > 0) {
        fake.fail--;
        return -TERRACE_ENOSPC;
    }
    fake_mark(address, bytes, true);
    fake.bytes += bytes;
    fake.most = fake.bytes > fake.most ? fake.bytes : fake.most;
    cr_assert_leq(fake.bytes, fake.limit, "more was committed than the limit");
    return 0;
}

static void fake_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    fake.calls++;
    fake_mark(address, bytes, false);
    fake.bytes -= bytes;
}

static const terrace_backend backend = {.reserve = fake_reserve, .release = fake_release,
                                        .commit = fake_commit, .decommit = fake_decommit};

/* ---- what tests do with an arena ----------------------------------------- */

static struct arena open_arena(uint64_t limit)
{
    static const terrace_unit_info info = {.page = PAGE, .granule = GRANULE};
    struct arena a;
    fake.limit = limit;
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, limit), 0);
    return a;
}

static int allocate_row(struct arena *a, uint64_t bytes, size_t alignment, uint64_t row, struct extent **out)
{
    struct grant grant;
    int r = arena_take_row(a, bytes, alignment, row, &grant);
    if (r)
        return r;
    r = arena_fulfil(a, &grant);
    *out = arena_settle(a, &grant, r);
    cr_assert_eq(*out == NULL, r != 0);
    return r;
}

static int allocate(struct arena *a, uint64_t bytes, size_t alignment, struct extent **out)
{
    return allocate_row(a, bytes, alignment, 0, out);
}

static struct extent *get(struct arena *a, uint64_t bytes)
{
    struct extent *e;
    cr_assert_eq(allocate(a, bytes, 0, &e), 0);
    return e;
}

static void purge(struct arena *a)
{
    struct grant grant;
    arena_purge(a, &grant);
    cr_assert_eq(arena_fulfil(a, &grant), 0);
    cr_assert_null(arena_settle(a, &grant, 0));
}

/* ---- the books ----------------------------------------------------------- */

enum { OUTSIDE, USED, CACHED, EMPTY };
static unsigned char mark[PAGES];

static void mark_extent(const struct extent *e, unsigned char as)
{
    for (uint64_t i = (e->address - BASE) / PAGE; i < (e->address - BASE + e->bytes) / PAGE; i++) {
        cr_assert_eq(mark[i], OUTSIDE, "two extents overlap");
        mark[i] = as;
    }
}

static void mark_sizes(const struct extent *e, unsigned char as)
{
    if (!e)
        return;
    mark_extent(e, as);
    mark_sizes(RB_LEFT(e, by_size), as);
    mark_sizes(RB_RIGHT(e, by_size), as);
}

/* In order of address; neighbours of a kind are one extent. */
static unsigned walk_addresses(const struct extent *e, const struct extent **last)
{
    if (!e)
        return 0;
    unsigned n = walk_addresses(RB_LEFT(e, by_address), last);
    if (*last) {
        cr_assert_leq((*last)->address + (*last)->bytes, e->address);
        cr_assert((*last)->state != e->state || (*last)->address + (*last)->bytes < e->address,
                  "two free neighbours were not joined");
    }
    *last = e;
    return n + 1 + walk_addresses(RB_RIGHT(e, by_address), last);
}

static unsigned free_extents(const struct zone *z)
{
    const struct extent *last = NULL;
    return walk_addresses(RB_ROOT(&z->free), &last);
}

/* Every page of both zones belongs to exactly one extent, has memory behind it
 * exactly where it should, and the sums agree. No grant may be unsettled. */
static void check_books(struct arena *a, struct extent *const *live, size_t n)
{
    uint64_t used = 0, committed = 0, pages = 0;
    memset(mark, OUTSIDE, sizeof mark);
    for (size_t i = 0; i < n; i++) {
        mark_extent(live[i], USED);
        used += live[i]->bytes;
    }
    for (int i = 0; i < ZONES; i++) {
        mark_sizes(RB_ROOT(&a->zone[i].cached), CACHED);
        mark_sizes(RB_ROOT(&a->zone[i].empty), EMPTY);
        free_extents(&a->zone[i]);
    }
    for (size_t i = 0; i < PAGES; i++) {
        pages += mark[i] != OUTSIDE;
        bool behind = mark[i] == USED || mark[i] == CACHED;
        committed += behind ? PAGE : 0;
        cr_assert_eq(fake.page[i], behind, "memory is not where the books say");
    }
    cr_assert_eq(pages * PAGE, a->zone[0].bytes + a->zone[1].bytes, "address space was lost");
    cr_assert_eq(a->used, used);
    cr_assert_eq(a->committed, committed);
    cr_assert_eq(a->committed, fake.bytes);
    cr_assert_eq(a->pending, 0);
    cr_assert_leq(a->committed, a->limit);
    cr_assert(fake.most <= a->peak && a->peak <= a->limit);
}

/* Nothing is allocated: one free extent a zone, and after a purge nothing committed. */
static void check_whole_again(struct arena *a)
{
    purge(a);
    check_books(a, NULL, 0);
    cr_assert_eq(fake.bytes, 0);
    for (int i = 0; i < ZONES; i++)
        cr_assert_eq(free_extents(&a->zone[i]), a->zone[i].bytes > 0);
    arena_close(a);
    cr_assert_eq(fake.reserved, 0);
}

/* The end of a test: what is live fits the books, and all comes back. */
static void finish(struct arena *a, struct extent *const *live, size_t n)
{
    check_books(a, live, n);
    while (n)
        arena_free(a, live[--n]);
    check_whole_again(a);
}

static uint64_t random_state = 88172645463325252u;

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

static uint64_t random_size(void)
{
    static const uint64_t sizes[] = {1, PAGE, 64 * KIB, 1 * MIB, GRANULE, 5 * MIB};
    uint64_t size = sizes[random_below(6)];
    return random_below(3) ? size : 1 + random_below(2 * size);
}

/* ---- against the model --------------------------------------------------- */

static void random_run(uint64_t step)
{
    enum { MOST = 256, ROUNDS = 6000 };
    static const size_t alignments[] = {0, 64, PAGE, 64 * KIB, GRANULE};
    struct arena a = open_arena(48 * MIB);
    struct extent *live[MOST];
    size_t n = 0;
    unsigned full = 0;
    a.step = step;
    for (int i = 0; i < ROUNDS; i++) {
        uint64_t bytes = random_size();
        size_t alignment = alignments[random_below(5)];
        struct extent *e;
        if (n == MOST || (n && random_below(100) < 40)) {
            size_t k = random_below(n);
            arena_free(&a, live[k]);
            live[k] = live[--n];
        } else if (allocate_row(&a, bytes, alignment, random_below(2) ? random_size() : 0, &e) == 0) {
            cr_assert_eq(e->bytes, arena_round(&a, bytes));
            cr_assert_eq(e->address % (alignment ? alignment : 1), 0, "alignment %zu was not kept",
                         alignment);
            live[n++] = e;
        } else {
            full++;
            cr_assert_gt(a.used + arena_round(&a, bytes), a.limit, "room was refused that was there");
        }
        if (i % 64 == 0)
            check_books(&a, live, n);
    }
    cr_assert(full > 10, "the limit was hardly met");
    finish(&a, live, n);
}

Test(arena, random_operations_match_a_model, .timeout = 60)
{
    random_run(0);
}

Test(arena, random_operations_match_a_model_with_a_step, .timeout = 60)
{
    random_run(8 * MIB);
}

/* Grants are taken, carried out and settled in any order: commit() in the
 * backend checks that the limit holds at every moment. */
Test(arena, unsettled_grants_never_pass_the_limit, .timeout = 60)
{
    enum { MOST = 64, PARTS = 5, ROUNDS = 20000 };
    struct arena a = open_arena(15 * MIB);
    struct extent *live[MOST];
    struct grant grant[PARTS];
    int result[PARTS];
    enum { IDLE, TAKEN, FULFILLED } state[PARTS] = {IDLE};
    size_t n = 0;
    unsigned again = 0;
    for (int i = 0; i < ROUNDS; i++) {
        size_t k = random_below(PARTS);
        a.step = random_below(2) ? 3 * MIB : 0;
        if (state[k] == IDLE && n + PARTS < MOST) {
            int r = arena_take(&a, random_size(), 0, &grant[k]);
            again += r == -TERRACE_EAGAIN;
            state[k] = r ? IDLE : TAKEN;
            if (r == -TERRACE_EBUDGET && n)
                arena_free(&a, live[--n]);
        } else if (state[k] == TAKEN && random_below(8) == 0) {
            arena_undo(&a, &grant[k]);
            state[k] = IDLE;
        } else if (state[k] == TAKEN) {
            fake.fail = random_below(20) == 0;
            result[k] = arena_fulfil(&a, &grant[k]);
            fake.fail = 0;
            state[k] = FULFILLED;
        } else if (state[k] == FULFILLED) {
            live[n] = arena_settle(&a, &grant[k], result[k]);
            n += live[n] != NULL;
            state[k] = IDLE;
        }
        while (n + PARTS >= MOST || (n && random_below(4) == 0))
            arena_free(&a, live[--n]);
        cr_assert_leq(a.committed, a.limit);
    }
    for (size_t k = 0; k < PARTS; k++) {
        if (state[k] == TAKEN)
            result[k] = arena_fulfil(&a, &grant[k]);
        if (state[k] != IDLE && (live[n] = arena_settle(&a, &grant[k], result[k])) != NULL)
            n++;
    }
    cr_assert(again > 10, "grants were hardly ever in each other's way");
    finish(&a, live, n);
}

/* ---- sizes and the limit ------------------------------------------------- */

Test(arena, sizes_round_to_granules_where_little_is_wasted)
{
    struct arena a = open_arena(15 * MIB);
    cr_assert_eq(arena_round(&a, 1), PAGE);
    cr_assert_eq(arena_round(&a, PAGE + 1), 2 * PAGE);
    cr_assert_eq(arena_round(&a, 1 * MIB), 1 * MIB);
    cr_assert_eq(arena_round(&a, GRANULE), GRANULE);
    cr_assert_eq(arena_round(&a, GRANULE - 1), GRANULE);
    cr_assert_eq(arena_round(&a, GRANULE + 1), GRANULE + PAGE, "half of it would be wasted");
    cr_assert_eq(arena_round(&a, 15 * MIB), 15 * MIB, "a granule more would pass the limit");
    arena_close(&a);
}

Test(arena, the_whole_limit_can_be_allocated)
{
    struct arena a = open_arena(15 * MIB);
    struct extent *e = get(&a, 15 * MIB), *other;
    cr_assert_eq(allocate(&a, 1, 0, &other), -TERRACE_EBUDGET);
    check_books(&a, &e, 1);
    arena_free(&a, e);
    cr_assert_eq(allocate(&a, 15 * MIB + 1, 0, &other), -TERRACE_EBUDGET);
    cr_assert_eq(allocate(&a, UINT64_MAX / 2, 0, &other), -TERRACE_EBUDGET);
    e = get(&a, 14 * MIB); /* granules; what was cached in pages makes room */
    other = get(&a, 1 * MIB);
    cr_assert_eq(a.peak, 15 * MIB);
    finish(&a, (struct extent *[]){e, other}, 2);
}

Test(arena, a_limit_is_whole_pages)
{
    struct arena a = open_arena(1 * MIB + 100);
    struct extent *e = get(&a, 1 * MIB), *other;
    cr_assert_eq(a.limit, 1 * MIB);
    cr_assert_eq(allocate(&a, 1, 0, &other), -TERRACE_EBUDGET);
    arena_free(&a, e);
    check_whole_again(&a);
}

Test(arena, a_limit_of_nothing_gives_nothing)
{
    struct arena a = open_arena(0);
    struct extent *e;
    cr_assert_eq(allocate(&a, 1, 0, &e), -TERRACE_EBUDGET);
    arena_close(&a);
    cr_assert_eq(fake.reserved, 0);
}

/* ---- recycling ----------------------------------------------------------- */

Test(arena, equal_sizes_recycle_without_backend_calls)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *e[16];
    for (int i = 0; i < 16; i++)
        e[i] = get(&a, 1 * MIB);
    cr_assert_eq(fake.calls, 16);
    for (int i = 0; i < 1000; i++) {
        int k = (int)random_below(16);
        arena_free(&a, e[k]);
        e[k] = get(&a, 1 * MIB);
    }
    cr_assert_eq(fake.calls, 16);
    finish(&a, e, 16);
}

Test(arena, a_cached_extent_serves_smaller_sizes)
{
    struct arena a = open_arena(16 * MIB);
    arena_free(&a, get(&a, 1 * MIB));
    unsigned calls = fake.calls;
    struct extent *e[2] = {get(&a, 300 * KIB), get(&a, 700 * KIB)};
    cr_assert_eq(fake.calls, calls);
    finish(&a, e, 2);
}

/* Free pieces of the very size are not what a row is to be scattered over. */
Test(arena, a_row_lies_in_a_row)
{
    enum { N = 8 };
    struct arena a = open_arena(16 * MIB);
    struct extent *hole[2 * N], *e[2 * N], *large = get(&a, 1 * MIB);
    for (int i = 0; i < 2 * N; i++)
        hole[i] = get(&a, 64 * KIB);
    arena_free(&a, large);
    for (int i = 0; i < 2 * N; i += 2)
        arena_free(&a, hole[i]);
    for (int i = 0; i < N; i++) {
        cr_assert_eq(allocate_row(&a, 64 * KIB, 0, (uint64_t)(N - 1 - i) * 64 * KIB, &e[i]), 0);
        cr_assert(i == 0 || e[i]->address == e[i - 1]->address + 64 * KIB, "%d", i);
    }
    for (int i = 0; i < N; i++)
        e[N + i] = hole[2 * i + 1];
    struct extent *alone = get(&a, 64 * KIB);
    cr_assert_lt(alone->address, hole[2 * N - 1]->address, "what comes alone fills a hole");
    cr_assert_neq(alone->address, e[N - 1]->address + 64 * KIB);
    arena_free(&a, alone);
    finish(&a, e, 2 * N);
}

/* Where there is no room for all of a row, the largest piece takes what it can. */
Test(arena, a_row_that_is_too_long_begins_in_the_largest_piece)
{
    struct arena a = open_arena(8 * MIB);
    struct extent *e[4], *small = get(&a, 64 * KIB), *wall = get(&a, 4 * KIB), *large = get(&a, 512 * KIB);
    e[0] = wall;
    e[1] = get(&a, 4 * KIB);
    uint64_t begin = large->address;
    arena_free(&a, small);
    arena_free(&a, large);
    cr_assert_eq(allocate_row(&a, 64 * KIB, 0, 100 * MIB, &e[2]), 0);
    cr_assert_eq(e[2]->address, begin);
    cr_assert_eq(allocate_row(&a, 64 * KIB, 0, 0, &e[3]), 0);
    cr_assert_eq(e[3]->address, begin + 64 * KIB, "the last of a row belongs to it, too");
    finish(&a, e, 4);
}

Test(arena, a_purge_gives_back_what_is_cached_and_no_more)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *kept[2] = {get(&a, 1 * MIB), get(&a, 4 * MIB)};
    struct extent *freed[2] = {get(&a, 3 * MIB), get(&a, 2 * MIB)};
    arena_free(&a, freed[0]);
    arena_free(&a, freed[1]);
    cr_assert_eq(fake.bytes, 10 * MIB);
    purge(&a);
    cr_assert_eq(fake.bytes, 5 * MIB);
    cr_assert_eq(a.peak, 10 * MIB);
    finish(&a, kept, 2);
}

static void decay(struct arena *a)
{
    struct grant grant;
    arena_decay(a, &grant);
    cr_assert_null(arena_settle(a, &grant, arena_fulfil(a, &grant)));
}

Test(arena, what_is_not_needed_goes_back)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *e = get(&a, 8 * MIB), *kept = get(&a, 1 * MIB);
    struct arena_stats s;
    arena_free(&a, e);
    decay(&a);
    cr_assert_eq(fake.bytes, 9 * MIB, "it was needed since the last decay");
    e = get(&a, 6 * MIB);
    arena_free(&a, e);
    arena_describe(&a, &s);
    cr_assert(s.cached == 8 * MIB && s.extents == 1 && s.pieces >= 1 && s.largest <= s.cached);
    decay(&a);
    cr_assert_eq(fake.bytes, 7 * MIB, "2 MiB were never needed");
    e = get(&a, 2 * MIB);
    decay(&a);
    cr_assert_eq(fake.bytes, 3 * MIB);
    decay(&a);
    cr_assert_eq(fake.bytes, 3 * MIB, "what is in use stays");
    arena_describe(&a, &s);
    cr_assert(s.cached == 0 && s.extents == 2 && s.pieces == 0 && s.largest == 0);
    finish(&a, (struct extent *[]){e, kept}, 2);
}

Test(arena, no_tensor_takes_a_fiftieth_more)
{
    struct arena a = open_arena(16 * MIB);
    for (uint64_t bytes = 3 * MIB; bytes < 14 * MIB; bytes += 100001)
        cr_assert_leq((double)arena_round(&a, bytes), 1.02 * (double)bytes);
    arena_close(&a);
}

/* ---- committing more than asked for -------------------------------------- */

Test(arena, a_step_commits_ahead_within_the_limit)
{
    struct arena a = open_arena(1 * MIB + 512 * KIB);
    struct extent *e[24];
    a.step = 1 * MIB;
    for (int i = 0; i < 16; i++)
        e[i] = get(&a, 64 * KIB);
    cr_assert_eq(fake.calls, 1);
    cr_assert_eq(fake.bytes, 1 * MIB);
    for (int i = 16; i < 24; i++)
        e[i] = get(&a, 64 * KIB); /* no room for a whole step any more */
    cr_assert_eq(fake.bytes, a.limit);
    finish(&a, e, 24);
}

Test(arena, a_commit_that_fails_leaves_everything_as_it_was)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *kept = get(&a, 1 * MIB), *e;
    arena_free(&a, get(&a, 14 * MIB)); /* cached, and given up for the next */
    for (int step = 0; step < 2; step++) {
        if (step)
            purge(&a); /* a step is taken only where nothing has to be given up for it */
        a.step = step ? 4 * MIB : 0;
        fake.fail = 1 + step;
        cr_assert_eq(allocate(&a, 3 * MIB, 0, &e), -TERRACE_ENOSPC);
        cr_assert_eq(fake.fail, 0);
        check_books(&a, &kept, 1);
    }
    struct extent *now[2] = {kept, get(&a, 3 * MIB)};
    finish(&a, now, 2);
}

Test(arena, where_the_step_fails_the_need_alone_is_tried)
{
    struct arena a = open_arena(16 * MIB);
    a.step = 4 * MIB;
    fake.fail = 1;
    struct extent *e = get(&a, 1 * MIB);
    cr_assert_eq(fake.calls, 2);
    cr_assert_eq(fake.bytes, 1 * MIB);
    finish(&a, &e, 1);
}

Test(arena, under_a_ceiling_what_is_cached_is_used_again)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *e[2] = {get(&a, 1 * MIB), get(&a, 1 * MIB)};
    struct grant grant;
    a.ceiling = a.committed;
    cr_assert_eq(arena_take(&a, PAGE, 0, &grant), -TERRACE_EBUDGET);
    arena_free(&a, e[1]);
    e[1] = get(&a, MIB / 2 + PAGE);
    cr_assert_eq(a.committed, 2 * MIB);
    arena_free(&a, e[0]);
    e[0] = get(&a, MIB + MIB / 4); /* nothing cached is that long */
    cr_assert_leq(a.committed, 2 * MIB);
    cr_assert_eq(arena_room(&a), 2 * MIB - a.used);
    a.ceiling = a.limit;
    finish(&a, e, 2);
}

/* ---- grants under way ---------------------------------------------------- */

Test(arena, again_while_another_grant_holds_the_room)
{
    struct arena a = open_arena(4 * MIB);
    struct grant first, second, third;
    arena_free(&a, get(&a, 4 * MIB)); /* two granules, cached as one extent */
    cr_assert_eq(arena_take(&a, PAGE, 0, &first), 0);  /* gives up one for a page */
    cr_assert_eq(arena_take(&a, PAGE, 0, &second), 0); /* gives up the other */
    cr_assert_eq(arena_take(&a, PAGE, 0, &third), -TERRACE_EAGAIN);
    cr_assert_eq(arena_take(&a, 4 * MIB, 0, &third), -TERRACE_EBUDGET, "settling cannot help that");
    struct extent *e[3];
    cr_assert_eq(arena_fulfil(&a, &second), 0);
    e[1] = arena_settle(&a, &second, 0);
    cr_assert_eq(arena_take(&a, PAGE, 0, &third), 0);
    cr_assert_eq(arena_fulfil(&a, &third), 0);
    cr_assert_eq(arena_fulfil(&a, &first), 0);
    e[0] = arena_settle(&a, &first, 0);
    e[2] = arena_settle(&a, &third, 0);
    finish(&a, e, 3);
}

/* ---- address space ------------------------------------------------------- */

Test(arena, less_address_space_will_do)
{
    fake.largest = 24 * MIB;
    struct arena a = open_arena(16 * MIB);
    for (int i = 0; i < ZONES; i++)
        cr_assert(a.zone[i].bytes >= a.limit && a.zone[i].bytes <= fake.largest);
    struct extent *e = get(&a, 16 * MIB);
    finish(&a, &e, 1);
}

/* Memory in pieces that are not one: what is allocated lies in one of them. */
Test(arena, nothing_crosses_a_boundary)
{
    static const terrace_unit_info info = {.page = PAGE, .granule = GRANULE, .flags = TERRACE_UNIT_WHOLE,
                                           .boundary = 8 * MIB};
    enum { LIMIT = 28 * MIB, N = 28 };
    struct arena a;
    struct extent *e[N];
    struct grant grant;
    uint64_t got = 0;
    fake.limit = LIMIT;
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, LIMIT), 0);
    cr_assert_eq(arena_take(&a, 8 * MIB, 0, &grant), -TERRACE_ENOTSUP);
    for (int round = 0; round < 2; round++) {
        int n = 0;
        for (uint64_t bytes = 3 * MIB - PAGE; bytes >= MIB; bytes -= MIB)
            while (n < N && arena_take(&a, bytes, 0, &grant) == 0) {
                int r = arena_fulfil(&a, &grant);
                e[n] = arena_settle(&a, &grant, r);
                cr_assert_eq(e[n]->address / info.boundary, (e[n]->address + bytes - 1) / info.boundary);
                n++;
            }
        for (int i = n; i-- > 0; arena_free(&a, e[i]))
            got += e[i]->bytes;
    }
    cr_assert_gt(got, 2 * 20 * MIB);
    cr_assert_eq(arena_take(&a, 8 * MIB - PAGE, 0, &grant), -TERRACE_EBUDGET, "parts of it are cached, others empty");
    cr_assert(arena_scattered(&a, 8 * MIB - PAGE));
    purge(&a);
    cr_assert_not(arena_scattered(&a, 8 * MIB - PAGE));
    cr_assert_eq(fake.bytes, 0);
    arena_free(&a, get(&a, 8 * MIB - PAGE));
    purge(&a);
    arena_close(&a);
    cr_assert_eq(fake.reserved, 0);
}

Test(arena, without_enough_address_space_it_does_not_open)
{
    static const terrace_unit_info info = {.page = PAGE, .granule = GRANULE};
    struct arena a;
    fake.largest = 14 * MIB;
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, 16 * MIB), -TERRACE_ENOTSUP);
    cr_assert_eq(fake.reserved, 0);
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, UINT64_MAX), -TERRACE_ENOMEM);
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, UINT64_MAX / 4), -TERRACE_ENOMEM);
    cr_assert_eq(fake.reserved, 0);
}

/* Where a reservation takes memory: the budget once, and all of it for use. */
Test(arena, address_space_that_is_memory_is_taken_once)
{
    static const terrace_unit_info info = {.page = PAGE, .granule = GRANULE, .flags = TERRACE_UNIT_WHOLE};
    enum { LIMIT = 15 * MIB };
    struct arena a;
    fake.limit = LIMIT;
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, LIMIT), 0);
    cr_assert_eq(fake.reserved, 16 * MIB);
    struct extent *e[3] = {get(&a, 4 * MIB), get(&a, 10 * MIB), get(&a, MIB - PAGE)};
    struct extent *last = get(&a, PAGE);
    cr_assert_eq(arena_round(&a, 2 * MIB - PAGE), 2 * MIB - PAGE);
    arena_free(&a, last);
    finish(&a, e, 3);
    fake.largest = 15 * MIB;
    cr_assert_eq(arena_open(&a, &backend, NULL, &info, LIMIT), -TERRACE_ENOTSUP);
    cr_assert_eq(fake.reserved, 0);
}

/* ---- what is held, and how long --------------------------------------------- */

static uint64_t simulated_ns;

static uint64_t simulated_clock(void)
{
    return simulated_ns;
}

static void seconds_pass(uint64_t n)
{
    simulated_ns += n * 1000000000u;
}

/* 4 MiB for 2 s, 6 for 3 s, still 6 for 5 s though 4 of them are free, 2 for 7 s. */
Test(arena, held_bytes_count_for_every_second)
{
    struct arena a = open_arena(16 * MIB);
    a.clock = simulated_clock;
    simulated_ns = a.held_to;
    cr_assert_eq(arena_byte_seconds(&a), 0);
    seconds_pass(1);
    cr_assert_eq(arena_byte_seconds(&a), 0);
    struct extent *first = get(&a, 4 * MIB);
    seconds_pass(2);
    cr_assert_eq(arena_byte_seconds(&a), 8ull * MIB);
    struct extent *second = get(&a, 2 * MIB);
    seconds_pass(3);
    cr_assert_eq(arena_byte_seconds(&a), 26ull * MIB);
    arena_free(&a, first);
    seconds_pass(5);
    purge(&a);
    cr_assert_eq(arena_byte_seconds(&a), 56ull * MIB);
    seconds_pass(7);
    cr_assert_eq(arena_byte_seconds(&a), 70ull * MIB);
    arena_free(&a, second);
    purge(&a);
    seconds_pass(100);
    cr_assert_eq(arena_byte_seconds(&a), 70ull * MIB);
    arena_close(&a);
}

/* What is charged counts, what failed to be committed does not, and nothing overflows
 * in a century. */
Test(arena, charges_are_held_and_failures_are_not)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *e;
    a.clock = simulated_clock;
    simulated_ns = a.held_to;
    cr_assert(arena_charge(&a, 3 * MIB));
    seconds_pass(2);
    fake.fail = 1;
    cr_assert_eq(allocate(&a, 4 * MIB, 0, &e), -TERRACE_ENOSPC);
    seconds_pass(2);
    cr_assert_eq(arena_byte_seconds(&a), 12ull * MIB);
    seconds_pass(100ull * 365 * 86400);
    cr_assert_eq(arena_byte_seconds(&a), 3ull * MIB * (4 + 100ull * 365 * 86400));
    arena_uncharge(&a, 3 * MIB);
    arena_close(&a);
}

/* Against a model that adds up what the backend was asked for, second by second. */
Test(arena, held_bytes_are_what_was_committed_each_second)
{
    struct arena a = open_arena(16 * MIB);
    struct extent *e[8] = {NULL};
    uint64_t sum = 0;
    a.clock = simulated_clock;
    simulated_ns = a.held_to;
    srandom(7);
    for (int i = 0; i < 4000; i++) {
        int at = (int)(random() % 8);
        if (e[at]) {
            arena_free(&a, e[at]);
            e[at] = NULL;
        } else if (allocate(&a, (uint64_t)(1 + random() % 600) * PAGE, 0, &e[at])) {
            e[at] = NULL;
        }
        if (random() % 50 == 0)
            purge(&a);
        seconds_pass(1);
        sum += fake.bytes;
        cr_assert_eq(arena_byte_seconds(&a), sum);
    }
    for (int i = 0; i < 8; i++)
        if (e[i])
            arena_free(&a, e[i]);
    arena_close(&a);
}
