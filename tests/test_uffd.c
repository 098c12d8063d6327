/* test_uffd.c - pages that change places between arena and region: the same
 * whether the kernel moves them or they are copied. */
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "../lib/uffd.h"
#include "manager.h"

enum { PAGE = 4 * KIB, BLOCK = 2 * MIB, PAGES = BLOCK / PAGE };

/* A region and an arena of one block each, without pages. */
struct place {
    struct uffd u;
    unsigned char *region, *arena, *mapping;
};

static struct place place_of(bool copy)
{
    struct place p;
    char reason[400];
    if (uffd_open(&p.u, copy, reason, sizeof reason))
        cr_skip_test("%s", terrace_last_error());
    cr_assert_eq(p.u.copies, copy || strstr(reason, "copying"));
    p.mapping = mmap(NULL, (size_t)3 * BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(p.mapping, MAP_FAILED);
    p.region = (unsigned char *)(((uintptr_t)p.mapping + BLOCK - 1) / BLOCK * BLOCK);
    p.arena = p.region + BLOCK;
    madvise(p.arena, BLOCK, MADV_HUGEPAGE);
    assert_ok(uffd_watch(&p.u, p.region, BLOCK));
    assert_ok(uffd_accept(&p.u, p.arena, BLOCK));
    return p;
}

static void place_end(struct place *p)
{
    munmap(p->mapping, (size_t)3 * BLOCK);
    uffd_close(&p->u);
}

static bool is_there(unsigned char *at)
{
    unsigned char there;
    cr_assert_eq(mincore(at, PAGE, &there), 0);
    return there & 1;
}

static void place_all(struct place *p)
{
    size_t moved;
    cr_assert_eq(uffd_place(&p->u, p->region, p->arena, BLOCK, &moved), 0);
    cr_assert_eq(moved, BLOCK);
}

static void take_all(struct place *p)
{
    size_t moved;
    cr_assert_eq(uffd_take(&p->u, p->arena, p->region, BLOCK, &moved), 0);
    cr_assert_eq(moved, BLOCK);
}

static void there_and_back(bool copy)
{
    struct place p = place_of(copy);
    for (uint64_t round = 0; round < 3; round++) {
        pattern_fill(p.arena, BLOCK, round);
        place_all(&p);
        cr_assert(pattern_is(p.region, BLOCK, round));
        cr_assert_not(is_there(p.arena) || is_there(p.arena + BLOCK - PAGE), "it is held twice");
        memset(p.region, 7, PAGE);
        take_all(&p);
        cr_assert_not(is_there(p.region) || is_there(p.region + BLOCK - PAGE), "it is held twice");
        cr_assert(p.arena[0] == 7 && p.arena[PAGE - 1] == 7);
        pattern_fill(p.arena, PAGE, round);
        cr_assert(pattern_is(p.arena, BLOCK, round));
    }
    place_end(&p);
}

Test(uffd, moved_there_and_back, .timeout = 60)
{
    there_and_back(false);
}

Test(uffd, copied_there_and_back, .timeout = 60)
{
    there_and_back(true);
}

/* Whichever pages are there: those, and only those, arrive. */
static void holes(bool copy)
{
    struct place p = place_of(copy);
    bool has[PAGES];
    uint64_t x = 12345;
    madvise(p.arena, BLOCK, MADV_NOHUGEPAGE);
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < PAGES; i++) {
            x = x * 6364136223846793005u + 1442695040888963407u;
            has[i] = x >> 33 & 1 && i / 64 != 3; /* a long one, too */
            if (has[i])
                pattern_fill(p.arena + i * PAGE, PAGE, i);
        }
        place_all(&p);
        for (size_t i = 0; i < PAGES; i++)
            cr_assert_eq(is_there(p.region + i * PAGE), has[i], "page %zu", i);
        take_all(&p);
        for (size_t i = 0; i < PAGES; i++) {
            static const unsigned char zeros[PAGE];
            cr_assert_eq(is_there(p.arena + i * PAGE), has[i], "page %zu", i);
            cr_assert(has[i] ? pattern_is(p.arena + i * PAGE, PAGE, i) : !memcmp(p.arena + i * PAGE, zeros, PAGE));
        }
        madvise(p.arena, BLOCK, MADV_DONTNEED);
    }
    place_end(&p);
}

Test(uffd, holes_stay_holes_when_moved, .timeout = 60)
{
    holes(false);
}

Test(uffd, holes_stay_holes_when_copied, .timeout = 60)
{
    holes(true);
}

/* ---- who uses the region meanwhile ----------------------------------------- */

struct counter {
    unsigned char *p;
    atomic_bool stop;
    uint64_t rounds;
};

static void *count(void *arg)
{
    struct counter *c = arg;
    while (!atomic_load(&c->stop)) {
        c->rounds++;
        for (size_t i = 0; i < PAGES; i++) {
            volatile uint64_t *word = (volatile uint64_t *)(c->p + i * PAGE + i % 500 * 8);
            ++*word;
        }
    }
    return NULL;
}

/* One thread counts in every page while all pages come and go. */
static void counted(bool copy)
{
    struct place p = place_of(copy);
    struct counter c = {.p = p.region};
    pthread_t thread;
    uint64_t address[4];
    memset(p.arena, 0, BLOCK);
    place_all(&p);
    cr_assert_eq(pthread_create(&thread, NULL, count, &c), 0);
    for (int round = 0; round < 300; round++) {
        take_all(&p);
        uint64_t before = *(volatile uint64_t *)p.arena; /* nobody has it now */
        usleep(round % 7 * 50);
        cr_assert_eq(*(volatile uint64_t *)p.arena, before);
        (void)uffd_faults(&p.u, address, 4);
        place_all(&p); /* wakes whoever waits */
        usleep(round % 5 * 100);
    }
    atomic_store(&c.stop, true);
    while (pthread_tryjoin_np(thread, NULL)) { /* what came to wait after it was woken */
        (void)uffd_faults(&p.u, address, 4);
        uffd_wake(&p.u, p.region, BLOCK);
    }
    cr_assert_gt(c.rounds, 10);
    for (size_t i = 0; i < PAGES; i++)
        cr_assert_eq(*(uint64_t *)(p.region + i * PAGE + i % 500 * 8), c.rounds, "page %zu", i);
    place_end(&p);
}

Test(uffd, no_count_is_lost_when_moved, .timeout = 60)
{
    counted(false);
}

Test(uffd, no_count_is_lost_when_copied, .timeout = 60)
{
    counted(true);
}

static void *write_one(void *arg)
{
    *(volatile unsigned char *)arg = 9;
    return NULL;
}

/* What a writer waits for may end just before it begins to, and nobody wakes it. */
Test(uffd, a_writer_that_was_held_back_tries_again, .timeout = 60)
{
    struct place p = place_of(true);
    pthread_t thread;
    uint64_t address[4];
    memset(p.arena, 1, BLOCK);
    place_all(&p);
    struct uffdio_writeprotect w = {.range = {(uintptr_t)p.region, PAGE}, .mode = UFFDIO_WRITEPROTECT_MODE_WP};
    cr_assert_eq(ioctl(p.u.fd, UFFDIO_WRITEPROTECT, &w), 0);
    cr_assert_eq(pthread_create(&thread, NULL, write_one, p.region + 5), 0);
    struct pollfd fd = {.fd = p.u.fd, .events = POLLIN};
    cr_assert_eq(poll(&fd, 1, 20000), 1);
    cr_assert_eq(uffd_faults(&p.u, address, 4), 0, "nothing is absent");
    cr_assert_eq(poll(&fd, 1, 20000), 1, "it was not woken");
    cr_assert_eq(madvise(p.region, PAGE, MADV_DONTNEED), 0);
    int n = 0;
    eventually((n += uffd_faults(&p.u, address, 4)) == 1);
    cr_assert_eq(address[0] / PAGE, (uintptr_t)p.region / PAGE);
    memset(p.arena, 1, PAGE);
    size_t moved;
    cr_assert_eq(uffd_place(&p.u, p.region, p.arena, PAGE, &moved), 0);
    pthread_join(thread, NULL);
    cr_assert(p.region[5] == 9 && p.region[6] == 1);
    place_end(&p);
}

/* ---- pages that are given up ------------------------------------------------ */

static sigjmp_buf bus;

static void on_bus(int signal)
{
    siglongjmp(bus, signal);
}

static void poisoned(bool copy)
{
    struct place p = place_of(copy);
    pattern_fill(p.arena, PAGE, 1);
    size_t moved;
    cr_assert_eq(uffd_place(&p.u, p.region, p.arena, PAGE, &moved), 0);
    if (!uffd_poison(&p.u, p.region + PAGE, PAGE))
        cr_skip_test("this kernel has nothing for it");
    struct sigaction action = {.sa_handler = on_bus}, old;
    sigaction(SIGBUS, &action, &old);
    int got = sigsetjmp(bus, 1);
    if (got == 0)
        (void)*(volatile unsigned char *)(p.region + PAGE);
    sigaction(SIGBUS, &old, NULL);
    cr_assert_eq(got, SIGBUS);
    cr_assert(pattern_is(p.region, PAGE, 1));
    place_end(&p);
}

Test(uffd, poisoned_by_the_kernel, .timeout = 60)
{
    poisoned(false);
}

Test(uffd, poisoned_where_pages_are_copied, .timeout = 60)
{
    poisoned(true);
}
