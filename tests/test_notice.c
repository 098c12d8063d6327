/* test_notice.c - what is learned of the uses of address-stable memory: fewer
 * bytes moved where they repeat, no harm where they do not. The disk is simulated. */
#include <pthread.h>

#include "manager.h"
#include "simdisk.h"

enum { BLOCK = 2 * MIB, N = 64, BUDGET = 16 };

static terrace *open_short(size_t blocks, const char *conf)
{
    char all[256];
    snprintf(all, sizeof all, "stable=userfaultfd;%s", conf);
    return open_sim(blocks * BLOCK, all);
}

static unsigned char *stable(terrace *m, size_t blocks, const char *label)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
    unsigned char *p = terrace_malloc(m, blocks * BLOCK, host_of(m), &attr);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error()); /* an older kernel, or not allowed */
    cr_assert_not_null(p, "%s", terrace_last_error());
    for (size_t i = 0; i < blocks; i++)
        pattern_fill(p + i * BLOCK, BLOCK, i);
    return p;
}

/* A walk over a block: of each page a word is checked, and changed with `change`.
 * Adds it up where nothing is to be known of it. */
static void walk(unsigned char *p, size_t block, uint64_t expected, uint64_t change)
{
    for (size_t page = 0; page < BLOCK; page += 4096) {
        volatile uint64_t *word = (volatile uint64_t *)(p + block * BLOCK + page);
        cr_assert_eq(*word, pattern(block, page / 8) + expected, "page %zu of block %zu", page / 4096, block);
        if (change)
            *word += change;
    }
}

static void pass(unsigned char *p, size_t blocks, uint64_t expected, uint64_t change)
{
    for (size_t i = 0; i < blocks; i++)
        walk(p, i, expected, change);
}

struct moved {
    uint64_t read, written; /* blocks in a pass */
};

/* A cyclic pass, again and again: what the last ones move. */
static struct moved cycle(const char *conf, size_t blocks, size_t budget, bool steps, bool change)
{
    enum { LEARNING = 4, MEASURED = 4 };
    terrace *m = open_short(budget, conf);
    unsigned char *p = stable(m, blocks, NULL);
    terrace_statistics before = stats_of(m), after;
    for (unsigned k = 0; k < LEARNING + MEASURED; k++) {
        if (k == LEARNING)
            before = stats_of(m);
        pass(p, blocks, change ? k : 0, change);
        if (steps)
            assert_ok(terrace_step(m));
    }
    after = stats_of(m);
    cr_assert_leq(tier_stats_of(m, 0).peak, budget * BLOCK);
    terrace_close(m);
    return (struct moved){.read = (after.fill_bytes - before.fill_bytes) / MEASURED / BLOCK,
                          .written = (after.writeback_bytes - before.writeback_bytes) / MEASURED / BLOCK};
}

/* Of these the least recently used policy keeps nothing; foresight as much as fits,
 * but for what is in use just now. */
Test(notice, a_cyclic_pass_keeps_what_fits, .timeout = 120)
{
    struct moved lru = cycle("policy=lru", N, BUDGET, false, false), learned = cycle("prefetch=off", N, BUDGET, false, false),
                 ahead = cycle("", N, BUDGET, false, false), marked = cycle("", N, BUDGET, true, false);
    cr_assert_geq(lru.read, N - 1);
    cr_assert_leq(learned.read, N - BUDGET + BUDGET / 2, "%llu blocks", (unsigned long long)learned.read);
    cr_assert_leq(ahead.read, N - BUDGET / 2 + 2, "%llu blocks", (unsigned long long)ahead.read);
    cr_assert_leq(marked.read, N - BUDGET / 2 + 2, "%llu blocks", (unsigned long long)marked.read);
    cr_assert_eq(learned.written, 0, "what is only read was written");
}

/* More stays than a schedule bears of uses that nobody saw. */
Test(notice, much_that_stays_is_seen, .timeout = 120)
{
    enum { MANY = 160, MUCH = 64 };
    struct moved learned = cycle("prefetch=off", MANY, MUCH, false, false);
    cr_assert_leq(learned.read, MANY - MUCH + MUCH / 2, "%llu blocks", (unsigned long long)learned.read);
}

Test(notice, also_one_that_writes, .timeout = 120)
{
    struct moved lru = cycle("policy=lru", N, BUDGET, false, true), learned = cycle("prefetch=off", N, BUDGET, false, true);
    cr_assert_geq(lru.written, N - 1);
    cr_assert_leq(learned.read, N - BUDGET / 2, "%llu blocks", (unsigned long long)learned.read);
    cr_assert_leq(learned.written, N - BUDGET / 2, "%llu blocks", (unsigned long long)learned.written);
}

/* Blocks in another order every time. */
static uint64_t read_at_random(const char *conf)
{
    terrace *m = open_short(BUDGET, conf);
    unsigned char *p = stable(m, N, NULL);
    uint64_t seed = 88172645463325252u, before = stats_of(m).fill_bytes;
    for (int k = 0; k < 8 * N; k++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        walk(p, seed % N, 0, 0);
    }
    uint64_t bytes = stats_of(m).fill_bytes - before;
    terrace_close(m);
    return bytes / BLOCK;
}

Test(notice, where_nothing_repeats_it_does_no_harm, .timeout = 120)
{
    uint64_t lru = read_at_random("policy=lru"), learned = read_at_random("");
    cr_assert_leq(learned, lru + lru / 16, "%llu blocks, the least recently used policy %llu",
                  (unsigned long long)learned, (unsigned long long)lru);
}

/* What is used between all others stays, since its uses are seen. */
Test(notice, uses_of_what_is_in_memory_are_seen, .timeout = 120)
{
    enum { HOT = 4, EVERY = 3 };
    terrace *m = open_short(BUDGET, "");
    unsigned char *p = stable(m, N, NULL);
    uint64_t before = 0, seed = 88172645463325252u, uses = 0;
    for (int k = 0; k < 12 * N; k++) {
        if (k == 4 * N)
            before = stats_of(m).fill_bytes;
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        walk(p, k % EVERY ? seed % HOT : HOT + seed % (N - HOT), 0, 0);
        uses += k >= 4 * N && k % EVERY == 0;
    }
    uint64_t blocks = (stats_of(m).fill_bytes - before) / BLOCK;
    cr_assert_leq(blocks, uses, "%llu blocks read for %llu uses of others than the hot ones",
                  (unsigned long long)blocks, (unsigned long long)uses);
    terrace_close(m);
}

Test(notice, what_fits_is_left_alone, .timeout = 60)
{
    terrace *m = open_short(N + 2, "");
    unsigned char *p = stable(m, N, NULL);
    uint64_t faults = stats_of(m).faults;
    for (uint64_t k = 0; k < 8; k++)
        pass(p, N, k, 1);
    cr_assert_eq(stats_of(m).faults, faults);
    cr_assert_eq(simdisk_pieces(), 0);
    terrace_close(m);
}

/* A loop over what fits, after a pass over more than does: its faults. */
static uint64_t faults_of_a_loop(const char *conf, unsigned loops)
{
    terrace *m = open_short(BUDGET, conf);
    unsigned char *p = stable(m, N, NULL);
    pass(p, N, 0, 0);
    pass(p, BUDGET / 2, 0, 0);
    uint64_t faults = stats_of(m).faults;
    for (unsigned k = 0; k < loops; k++)
        pass(p, BUDGET / 2, 0, 0);
    faults = stats_of(m).faults - faults;
    terrace_close(m);
    return faults;
}

Test(notice, it_ends_when_memory_suffices_again, .timeout = 60)
{
    cr_assert_eq(faults_of_a_loop("policy=lru", 8), 0);
    uint64_t some = faults_of_a_loop("", 8), more = faults_of_a_loop("", 64);
    cr_assert_gt(some, 0, "uses were not noticed");
    cr_assert_leq(more, 5 * BUDGET, "%llu faults", (unsigned long long)more);
}

/* Blocks that are seldom changed: no change is lost, whichever way they go. */
Test(notice, no_change_is_lost, .timeout = 120)
{
    enum { PASSES = 24 };
    terrace *m = open_short(BUDGET, "");
    unsigned char *p = stable(m, N, NULL);
    uint64_t seed = 88172645463325252u, changed[N] = {0};
    for (int k = 0; k < PASSES; k++)
        for (size_t i = 0; i < N; i++) {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            bool change = seed % 5 == 0;
            walk(p, i, changed[i], change);
            changed[i] += change;
            size_t again = i >= 3 ? i - 3 : 0; /* one that may have been taken back just now */
            if (seed % 3 == 0) {
                walk(p, again, changed[again], 1);
                changed[again]++;
            }
        }
    for (size_t i = 0; i < N; i++)
        walk(p, i, changed[i], 0);
    terrace_close(m);
}

struct walker {
    unsigned char *p;
    size_t from, to;
};

static void *walk_share(void *arg)
{
    const struct walker *w = arg;
    for (uint64_t k = 0; k < 6; k++)
        for (size_t i = w->from; i < w->to; i++)
            walk(w->p, i, k, 1);
    return NULL;
}

Test(notice, several_threads, .timeout = 180)
{
    enum { THREADS = 4 };
    terrace *m = open_short(BUDGET, "");
    struct walker w[THREADS];
    pthread_t thread[THREADS];
    unsigned char *p = stable(m, N, NULL);
    for (size_t i = 0; i < THREADS; i++) {
        w[i] = (struct walker){.p = p, .from = N / THREADS * i, .to = N / THREADS * (i + 1)};
        pthread_create(&thread[i], NULL, walk_share, &w[i]);
    }
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    pass(p, N, 6, 0);
    cr_assert_leq(tier_stats_of(m, 0).peak, (size_t)BUDGET * BLOCK);
    terrace_close(m);
}

Test(notice, what_was_learned_serves_the_next_run, .timeout = 120)
{
    char path[] = "/var/tmp/terrace-schedule.XXXXXX", conf[128];
    close(mkstemp(path));
    unlink(path);
    snprintf(conf, sizeof conf, "schedule=%s;prefetch=off", path);
    uint64_t first[2];
    for (int run = 0; run < 2; run++) {
        terrace *m = open_short(BUDGET, conf);
        unsigned char *p = stable(m, N, "weights");
        assert_ok(terrace_step(m));
        uint64_t before = stats_of(m).fill_bytes;
        pass(p, N, 0, 0);
        first[run] = stats_of(m).fill_bytes - before;
        for (int k = 0; k < 2; k++) {
            assert_ok(terrace_step(m));
            pass(p, N, 0, 0);
        }
        terrace_close(m);
    }
    unlink(path);
    cr_assert_lt(first[1], first[0]);
}
