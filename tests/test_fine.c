/* test_fine.c - address-stable memory whose pages come and go one by one. */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

#include "manager.h"
#include "simdisk.h"
#include "writers.h"

enum { BLOCK = 2 * MIB, PAGE = 4 * KIB };

static unsigned char *stable_of(terrace *m, size_t bytes)
{
    void *p = terrace_malloc(m, bytes, host_of(m), NULL);
    if (!p && strstr(terrace_last_error(), "address-stable memory needs"))
        cr_skip_test("%s", terrace_last_error());
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

static uint64_t random_of(uint64_t *x)
{
    return writers_random(x);
}

static uint64_t *word(unsigned char *p, size_t page)
{
    return (uint64_t *)(p + page * PAGE + page % 500 * 8);
}

/* Every page's word is its number, and everything has left memory. */
static void fill_and_leave(terrace *m, unsigned char *p, size_t bytes)
{
    for (size_t i = 0; i < bytes / PAGE; i++)
        *word(p, i) = i;
    assert_ok(terrace_advise(m, p, bytes, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(tier_stats_of(m, 0).tensors == 0);
}

Test(fine, a_random_touch_costs_a_page, .timeout = 60)
{
    enum { TOUCHES = 300 };
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    fill_and_leave(m, p, 64 * MIB);
    terrace_statistics before = stats_of(m);
    uint64_t x = 1;
    for (int i = 0; i < TOUCHES; i++) {
        size_t page = random_of(&x) % (64 * MIB / PAGE);
        cr_assert_eq(*word(p, page), page);
    }
    terrace_statistics after = stats_of(m);
    uint64_t in = after.fill_bytes - before.fill_bytes;
    cr_assert_leq(in, TOUCHES * PAGE * 5 / 4, "%llu bytes", (unsigned long long)in);
    cr_assert_gt(in, TOUCHES * PAGE / 2);
    cr_assert_eq(after.writeback_bytes, before.writeback_bytes, "nothing was changed");
    cr_assert_leq(tier_stats_of(m, 0).dirty, 0);
    cr_assert_leq(tier_stats_of(m, 0).tensors, TOUCHES / 64 + 3);
    terrace_free(m, p);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    terrace_close(m);
}

Test(fine, a_random_write_costs_a_page, .timeout = 60)
{
    enum { PAGES = 64 * MIB / PAGE, TOUCHES = 12000 };
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    fill_and_leave(m, p, 64 * MIB);
    uint64_t *now = malloc(PAGES * sizeof *now), x = 7;
    for (size_t i = 0; i < PAGES; i++)
        now[i] = i;
    terrace_statistics before = stats_of(m);
    for (int i = 0; i < TOUCHES; i++) {
        size_t page = random_of(&x) % PAGES;
        cr_assert_eq(*word(p, page), now[page], "page %zu at touch %d", page, i);
        *word(p, page) = now[page] = x;
    }
    terrace_statistics after = stats_of(m);
    cr_assert_gt(after.writeback_bytes - before.writeback_bytes, 0);
    cr_assert_leq(after.writeback_bytes - before.writeback_bytes, TOUCHES * (uint64_t)PAGE);
    for (size_t i = 0; i < PAGES; i++)
        cr_assert_eq(*word(p, i), now[i], "page %zu", i);
    cr_assert_leq(tier_stats_of(m, 0).peak, 8 * MIB);
    free(now);
    terrace_close(m);
}

Test(fine, new_memory_costs_the_pages_that_are_touched, .timeout = 60)
{
    enum { PAGES = 256 * MIB / PAGE, TOUCHES = 400 };
    terrace *m = open_sim(64 * MIB, NULL);
    unsigned char *p = stable_of(m, 256 * MIB);
    uint64_t x = 3;
    for (int i = 0; i < TOUCHES; i++) {
        size_t page = random_of(&x) % PAGES;
        cr_assert_eq(*word(p, page) | p[page * PAGE] | p[page * PAGE + PAGE - 1], 0);
        *word(p, page) = 0; /* and stays zero */
    }
    cr_assert_leq(tier_stats_of(m, 0).peak, TOUCHES * PAGE + 2 * MIB);
    cr_assert_eq(stats_of(m).fill_bytes, 0);
    terrace_close(m);
}

/* Pages written at random, all over memory that was never written before: the
 * others are zeros, also when their block comes as a whole. */
Test(fine, new_memory_written_here_and_there, .timeout = 60)
{
    enum { PAGES = 64 * MIB / PAGE, TOUCHES = 4000 };
    terrace *m = open_sim(4 * MIB, NULL);
    for (int again = 0; again < 2; again++) { /* the second time on used disk space */
        unsigned char *p = stable_of(m, 64 * MIB);
        uint64_t *now = calloc(PAGES, sizeof *now), x = 11;
        for (int i = 0; i < TOUCHES; i++) {
            size_t page = random_of(&x) % PAGES;
            *word(p, page) = now[page] = x | 1;
        }
        assert_ok(terrace_advise(m, p, 16 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)));
        for (size_t i = 0; i < PAGES; i++) {
            cr_assert_eq(*word(p, i), now[i], "page %zu", i);
            cr_assert_eq(p[i * PAGE + PAGE - 1], 0);
        }
        memset(p, 0xa5, 64 * MIB);
        free(now);
        terrace_free(m, p);
    }
    terrace_close(m);
}

Test(fine, a_sequential_walk_turns_to_whole_blocks, .timeout = 60)
{
    terrace *m = open_sim(32 * MIB, NULL);
    unsigned char *p = stable_of(m, 128 * MIB);
    fill_and_leave(m, p, 128 * MIB);
    terrace_statistics before = stats_of(m);
    for (size_t i = 0; i < 128 * MIB / PAGE; i++)
        cr_assert_eq(*word(p, i), i);
    terrace_statistics after = stats_of(m);
    cr_assert_leq(after.faults - before.faults, 64 * 4);
    cr_assert_leq(after.fill_bytes - before.fill_bytes, 129 * MIB);
    assert_ok(terrace_advise(m, p, 128 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    before = stats_of(m);
    for (size_t i = 128 * MIB / PAGE; i-- > 0;) /* and backwards */
        cr_assert_eq(*word(p, i), i);
    cr_assert_leq(stats_of(m).faults - before.faults, 64 * 4);
    terrace_close(m);
}

Test(fine, a_walk_in_strides_is_read_ahead, .timeout = 60)
{
    enum { STRIDE = 16, VISITS = 64 * MIB / PAGE / STRIDE };
    terrace *m = open_sim(32 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    fill_and_leave(m, p, 64 * MIB);
    terrace_statistics before = stats_of(m);
    for (size_t i = 0; i < 6; i++)
        cr_assert_eq(*word(p, i * STRIDE), i * STRIDE);
    eventually(stats_of(m).fill_bytes - before.fill_bytes >= 8 * PAGE);
    for (size_t i = 6; i < VISITS; i++)
        cr_assert_eq(*word(p, i * STRIDE), i * STRIDE);
    terrace_statistics after = stats_of(m);
    cr_assert_leq(after.fill_bytes - before.fill_bytes, VISITS * PAGE * 5 / 4, "%llu faults, %llu bytes",
                  (unsigned long long)(after.faults - before.faults),
                  (unsigned long long)(after.fill_bytes - before.fill_bytes));
    terrace_close(m);
}

Test(fine, pinned_blocks_are_whole, .timeout = 60)
{
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    fill_and_leave(m, p, 64 * MIB);
    for (size_t i = 0; i < 4 * MIB / PAGE; i += 37)
        *word(p, i) = i + 1; /* its first page, too */
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_PIN, host_of(m)));
    uint64_t faults = stats_of(m).faults;
    for (size_t i = 0; i < 4 * MIB / PAGE; i++)
        cr_assert_eq(*word(p, i), i % 37 ? i : i + 1);
    cr_assert_eq(stats_of(m).faults, faults, "a page of a pinned block was not there");
    uint64_t x = 9;
    for (int i = 0; i < 4000; i++)
        (void)*(volatile uint64_t *)word(p, 4 * MIB / PAGE + random_of(&x) % (60 * MIB / PAGE));
    faults = stats_of(m).faults;
    for (size_t i = 0; i < 4 * MIB / PAGE; i++)
        cr_assert_eq(*word(p, i), i % 37 ? i : i + 1);
    cr_assert_eq(stats_of(m).faults, faults, "a page of a pinned block had left");
    terrace_close(m);
}

/* ---- a fault while the disk is at work ---------------------------------- */

struct toucher {
    volatile unsigned char *p;
    size_t from, to;
    bool write;
    atomic_bool done;
    unsigned long sum;
};

static void *touch(void *arg)
{
    struct toucher *t = arg;
    for (size_t i = t->from; i < t->to; i += PAGE) {
        t->sum += t->p[i];
        if (t->write)
            t->p[i] = (unsigned char)(t->p[i] + 1);
    }
    atomic_store(&t->done, true);
    return NULL;
}

Test(fine, a_fault_during_eviction_is_served_at_once, .timeout = 60)
{
    terrace *m = open_sim(16 * MIB, "prefetch=off");
    unsigned char *p = stable_of(m, 32 * MIB);
    memset(p, 1, BLOCK);
    simdisk_hold();
    assert_ok(terrace_advise(m, p, BLOCK, TERRACE_ADVISE_DONTNEED, host_of(m)));
    cr_assert(simdisk_await_queued(8), "the block is being written");
    struct toucher t = {.p = p, .to = BLOCK / 2, .write = true};
    pthread_t thread;
    pthread_create(&thread, NULL, touch, &t);
    eventually(atomic_load(&t.done)); /* while the disk stands still */
    pthread_join(thread, NULL);
    cr_assert_eq(t.sum, BLOCK / 2 / PAGE);
    simdisk_let_go();
    eventually(stats_of(m).writeback_bytes >= BLOCK);
    for (size_t i = 0; i < BLOCK; i += PAGE) {
        cr_assert_eq(p[i], i < BLOCK / 2 ? 2 : 1, "byte %zu", i);
        cr_assert_eq(p[i + 1], 1);
    }
    memset(p + BLOCK, 3, 30 * MIB);
    for (size_t i = 0; i < BLOCK; i += PAGE)
        cr_assert_eq(p[i], i < BLOCK / 2 ? 2 : 1, "byte %zu, after it left", i);
    terrace_close(m);
}

Test(fine, a_fault_on_a_page_being_written_is_served_at_once, .timeout = 60)
{
    enum { PAGES = 40 };
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    memset(p, 1, 64 * MIB);
    assert_ok(terrace_advise(m, p, 64 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(tier_stats_of(m, 0).tensors == 0);
    for (int i = 0; i < PAGES; i++)
        p[(size_t)(i * 37 % 400) * PAGE] = 5;
    uint64_t written = stats_of(m).writeback_bytes;
    for (int round = 0; round < 3; round++) {
        simdisk_hold();
        assert_ok(terrace_advise(m, p, BLOCK, TERRACE_ADVISE_DONTNEED, host_of(m)));
        cr_assert(simdisk_await_queued(1), "pages are being written");
        struct toucher t = {.p = p, .to = PAGE, .write = true};
        pthread_t thread;
        pthread_create(&thread, NULL, touch, &t);
        eventually(atomic_load(&t.done));
        pthread_join(thread, NULL);
        simdisk_let_go();
        cr_assert_eq(t.sum, 5ul + (unsigned)round);
    }
    eventually(stats_of(m).writeback_bytes >= written + PAGES * PAGE);
    cr_assert_eq(p[0], 8);
    assert_ok(terrace_advise(m, p, BLOCK, TERRACE_ADVISE_DONTNEED, host_of(m)));
    for (int i = 1; i < PAGES; i++)
        cr_assert_eq(p[(size_t)(i * 37 % 400) * PAGE], 5);
    cr_assert_eq(p[0], 8);
    terrace_close(m);
}

Test(fine, faults_of_many_threads_are_in_flight_together, .timeout = 60)
{
    enum { THREADS = 8 };
    terrace *m = open_sim(16 * MIB, NULL);
    unsigned char *p = stable_of(m, 64 * MIB);
    fill_and_leave(m, p, 64 * MIB);
    struct toucher t[THREADS];
    pthread_t thread[THREADS];
    simdisk_hold();
    for (int i = 0; i < THREADS; i++) {
        size_t at = (size_t)(i * 6 + 1) * MIB;
        t[i] = (struct toucher){.p = p, .from = at, .to = at + PAGE};
        pthread_create(&thread[i], NULL, touch, &t[i]);
    }
    cr_assert(simdisk_await_queued(THREADS));
    simdisk_let_go();
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    terrace_close(m);
}

/* ---- failures ----------------------------------------------------------- */

Test(fine, a_page_that_cannot_be_written_is_kept, .timeout = 60)
{
    enum { PAGES = 32 * MIB / PAGE };
    terrace *m = open_sim(8 * MIB, NULL);
    unsigned char *p = stable_of(m, 32 * MIB);
    fill_and_leave(m, p, 32 * MIB);
    for (size_t i = 0; i < 500; i++)
        *word(p, i * 61 % PAGES) = i + 100000;
    simdisk_fault(&simdisk.fail_all_writes, -TERRACE_ENOSPC);
    for (int round = 0; round < 3; round++)
        assert_ok(terrace_advise(m, p, 32 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(stats_of(m).io_errors > 0);
    for (size_t i = 0; i < 500; i++)
        cr_assert_eq(*word(p, i * 61 % PAGES), i + 100000);
    simdisk_fault(&simdisk.fail_all_writes, 0);
    assert_ok(terrace_advise(m, p, 32 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    for (size_t i = 0; i < PAGES; i++)
        (void)*(volatile uint64_t *)word(p, i * 7 % PAGES);
    for (size_t i = 0; i < 500; i++)
        cr_assert_eq(*word(p, i * 61 % PAGES), i + 100000);
    terrace_close(m);
}

static sigjmp_buf bus;

static void on_bus(int signal)
{
    siglongjmp(bus, signal);
}

static int touch_expecting_bus(volatile unsigned char *p)
{
    struct sigaction action = {.sa_handler = on_bus}, old;
    sigaction(SIGBUS, &action, &old);
    int got = sigsetjmp(bus, 1);
    if (got == 0)
        (void)*p;
    sigaction(SIGBUS, &old, NULL);
    return got;
}

Test(fine, only_the_page_that_cannot_be_read_is_poisoned, .timeout = 60)
{
    char path[] = "/var/tmp/terrace-test-XXXXXX", conf[80], text[1024] = "";
    int log = mkstemp(path);
    snprintf(conf, sizeof conf, "log_file=%s", path);
    terrace *m = open_sim(8 * MIB, conf);
    unsigned char *p = stable_of(m, 32 * MIB);
    fill_and_leave(m, p, 32 * MIB);
    simdisk_fault(&simdisk.fail_all_reads, 1);
    cr_assert_eq(touch_expecting_bus(p + 5 * MIB), SIGBUS);
    cr_assert_gt(pread(log, text, sizeof text - 1, 0), 0);
    cr_assert(strstr(text, "poisoned") && strstr(text, "reading 4096 bytes of the simulated disk"), "%s", text);
    simdisk_fault(&simdisk.fail_all_reads, 0);
    for (size_t i = 0; i < 32 * MIB / PAGE; i++)
        if (i != 5 * MIB / PAGE)
            cr_assert_eq(*word(p, i), i, "the others are there");
    cr_assert_eq(touch_expecting_bus(p + 5 * MIB), SIGBUS);
    terrace_free(m, p);
    terrace_close(m);
    close(log);
    unlink(path);
}

/* ---- all at once -------------------------------------------------------- */

Test(fine, no_write_is_lost_at_full_speed, .timeout = 3600)
{
    unsigned seconds = writers_seconds(4);
    for (uint64_t seed = 1; seed <= 2; seed++) {
        terrace *m = open_sim(16 * MIB, NULL);
        unsigned char *p = stable_of(m, 48 * MIB);
        unsigned long writes, lost = writers_run(m, host_of(m), p, 48 * MIB, seed, seconds / 2.0, &writes);
        cr_assert_eq(lost, 0, "seed %llu: %lu of %lu writes lost", (unsigned long long)seed, lost, writes);
        cr_assert_gt(stats_of(m).evictions, 10);
        cr_assert_leq(tier_stats_of(m, 0).peak, 16 * MIB);
        terrace_free(m, p);
        terrace_close(m);
    }
}
