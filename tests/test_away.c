/* test_away.c - blocks of address-stable memory that leave a full node for another one
 * without leaving their place. The other node and the disk are simulated. */
#include <sys/wait.h>

#define STABLE_SUITE away
#define STABLE_OPEN(limit) open_with("numa:0,simnode:0,simdisk:0", limit, "limit_simnode=8M")
#include "stable_cases.h"

#include "simdisk.h"
#include "simnode.h"

enum { NEAR = 0, FAR = 1, ROOM = 4 /* blocks on the near node */ };

static terrace *open_nodes(size_t far_blocks)
{
    char conf[100];
    snprintf(conf, sizeof conf, "limit_simnode=%zu;prefetch=off", far_blocks * BLOCK);
    return open_with("numa:0,simnode:0,simdisk:0", (size_t)ROOM * BLOCK, conf);
}

static unsigned char *blocks_of(terrace *m, size_t n)
{
    unsigned char *p = stable_of(m, n * BLOCK);
    if (strstr(tier_stats_of(m, NEAR).stable_engine, "file"))
        cr_skip_test("pages have no node of their own here: %s", tier_stats_of(m, NEAR).stable_engine);
    for (size_t i = 0; i < n; i++)
        pattern_fill(p + i * BLOCK, BLOCK, i);
    return p;
}

static void expect_blocks(const unsigned char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cr_assert(pattern_is(p + i * BLOCK, BLOCK, i), "block %zu", i);
}

static size_t bytes_of(const uint64_t *counter)
{
    pthread_mutex_lock(&simnode.lock);
    size_t bytes = *counter;
    pthread_mutex_unlock(&simnode.lock);
    return bytes;
}

Test(away, pages_move_under_their_addresses, .timeout = 60)
{
    enum { N = 10 };
    terrace *m = open_nodes(16);
    unsigned char *p = blocks_of(m, N);
    size_t moved = atomic_load(&simnode_adopted); /* the others had been taken from their place before */
    cr_assert_geq(moved, 2 * (size_t)BLOCK);
    cr_assert_geq(moved + bytes_of(&simnode.written_bytes), (N - ROOM) * (size_t)BLOCK);
    cr_assert_geq(tier_stats_of(m, FAR).in_bytes, (N - ROOM) * (uint64_t)BLOCK);
    cr_assert_leq(tier_stats_of(m, NEAR).peak, (uint64_t)ROOM * BLOCK);
    expect_blocks(p, N);
    cr_assert_eq(simdisk_pieces(), 0, "the disk has nothing to do with it");
    terrace_free(m, p);
    cr_assert_eq(tier_stats_of(m, FAR).tensors + tier_stats_of(m, NEAR).tensors, 0);
    terrace_close(m);
}

/* Nobody tells that a block is used on the slower node: it is found out. */
Test(away, what_is_used_comes_back, .timeout = 60)
{
    enum { N = 10 };
    terrace *m = open_nodes(16);
    unsigned char *p = blocks_of(m, N);
    for (int round = 0; bytes_of(&simnode.read_bytes) < 3 * (size_t)BLOCK; round++) {
        cr_assert_lt(round, 3000, "%zu bytes came back", bytes_of(&simnode.read_bytes));
        for (size_t i = 0; i < N; i++)
            p[i * BLOCK + 5] ^= 1;
        usleep(10000);
        for (size_t i = 0; i < N; i++)
            p[i * BLOCK + 5] ^= 1;
    }
    expect_blocks(p, N);
    cr_assert_eq(simdisk_pieces(), 0);
    terrace_close(m);
}

Test(away, where_pages_stay_blocks_are_copied, .timeout = 60)
{
    enum { N = 10 };
    atomic_store(&simnode_adopts_refused, 3);
    terrace *m = open_nodes(16);
    unsigned char *p = blocks_of(m, N);
    cr_assert_eq(atomic_load(&simnode_adopts_refused), 0);
    cr_assert_geq(bytes_of(&simnode.written_bytes), 3 * (size_t)BLOCK);
    expect_blocks(p, N);
    terrace_close(m);
}

Test(away, from_the_full_node_they_go_to_disk, .timeout = 120)
{
    enum { N = 24 };
    terrace *m = open_nodes(6);
    unsigned char *p = blocks_of(m, N);
    for (int round = 0; round < 3; round++) {
        expect_blocks(p, N);
        p[3 * BLOCK + 1] ^= 1;
        usleep(120000);
        p[3 * BLOCK + 1] ^= 1;
    }
    cr_assert_gt(simdisk_pieces(), 0);
    cr_assert_gt(atomic_load(&simnode_adopted), 0);
    cr_assert_leq(tier_stats_of(m, NEAR).peak, (uint64_t)ROOM * BLOCK);
    cr_assert_leq(tier_stats_of(m, FAR).peak, 6ull * BLOCK);
    terrace_close(m);
}

/* A change that is made while the pages move, or after that, is not lost. */
struct counting {
    unsigned char *p;
    size_t blocks;
    atomic_bool stop;
    uint64_t rounds;
};

static void *count(void *arg)
{
    struct counting *c = arg;
    while (!atomic_load(&c->stop)) {
        for (size_t i = 0; i < c->blocks; i++)
            ++*(uint64_t *)(void *)(c->p + i * BLOCK + 4096 * (i + 1));
        c->rounds++;
    }
    return NULL;
}

Test(away, no_write_is_lost, .timeout = 120)
{
    enum { N = 6, OTHERS = 12 };
    terrace *m = open_nodes(8);
    unsigned char *p = blocks_of(m, N), *others = blocks_of(m, OTHERS);
    struct counting c = {.p = p, .blocks = N};
    pthread_t thread;
    for (size_t i = 0; i < N; i++)
        *(uint64_t *)(void *)(p + i * BLOCK + 4096 * (i + 1)) = 0;
    cr_assert_eq(pthread_create(&thread, NULL, count, &c), 0);
    for (int round = 0; round < 20; round++) {
        expect_blocks(others, OTHERS);
        others[round % OTHERS * (size_t)BLOCK] ^= 255;
        others[round % OTHERS * (size_t)BLOCK] ^= 255;
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    for (size_t i = 0; i < N; i++)
        cr_assert_eq(*(uint64_t *)(void *)(p + i * BLOCK + 4096 * (i + 1)), c.rounds, "block %zu", i);
    terrace_close(m);
}

Test(away, advice_reaches_them, .timeout = 60)
{
    enum { N = 10 };
    terrace *m = open_nodes(16);
    unsigned char *p = blocks_of(m, N);
    uint64_t far = tier_stats_of(m, FAR).tensors;
    cr_assert_geq(far, 1);
    assert_ok(terrace_advise(m, p, 2 * (size_t)BLOCK, TERRACE_ADVISE_PIN, host_of(m)));
    cr_assert_geq(bytes_of(&simnode.read_bytes), BLOCK, "what is pinned is on its own node");
    assert_ok(terrace_advise(m, p, 2 * (size_t)BLOCK, TERRACE_ADVISE_UNPIN, host_of(m)));
    assert_ok(terrace_advise(m, p, (size_t)N * BLOCK, TERRACE_ADVISE_WILLNEED, host_of(m)));
    assert_ok(terrace_advise(m, p, (size_t)N * BLOCK, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(tier_stats_of(m, FAR).tensors + tier_stats_of(m, NEAR).tensors == 0);
    expect_blocks(p, N);
    terrace_close(m);
}

Test(away, a_child_finds_them, .timeout = 60)
{
    enum { N = 10 };
    terrace *m = open_nodes(16);
    unsigned char *p = blocks_of(m, N);
    pid_t pid = fork();
    if (pid == 0) {
        for (size_t i = 0; i < N; i++)
            if (!pattern_is(p + i * BLOCK, BLOCK, i))
                _exit(1);
        _exit(0);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    expect_blocks(p, N);
    terrace_close(m);
}

Test(away, rules_are_obeyed, .timeout = 60)
{
    enum { N = 10 };
    terrace *m = open_with("numa:0,simnode:0,simdisk:0", (size_t)ROOM * BLOCK,
                           "limit_simnode=32M;prefetch=off;rules=\"*:!simnode\"");
    unsigned char *p = blocks_of(m, N);
    expect_blocks(p, N);
    cr_assert_eq(atomic_load(&simnode_adopted), 0);
    cr_assert_eq(tier_stats_of(m, FAR).in_bytes, 0);
    terrace_close(m);
}
