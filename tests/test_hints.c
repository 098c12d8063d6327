/* test_hints.c - prefetch, demote, and what moves in the background: order,
 * write-back ahead of need, a disk that fails or is full. */
#include <pthread.h>
#include <stdatomic.h>

#include "manager.h"
#include "simdisk.h"

enum { SIZE = 1 * MIB, PIECES = SIZE / SIMDISK_CHUNK, MOST_HINTED = SIMDISK_DEPTH * 3 / 4 };

/* A tensor whose bytes are on the disk alone. */
static terrace_tensor *tensor_below(terrace *m, uint64_t seed)
{
    char label[16];
    snprintf(label, sizeof label, "t%llu", (unsigned long long)seed);
    terrace_tensor *t = tensor_of(m, SIZE, label);
    write_pattern(t, host_of(m), SIZE, seed);
    push_down(t, m);
    return t;
}

static void forget_pieces(void)
{
    pthread_mutex_lock(&simdisk.lock);
    simdisk.reads = simdisk.writes = 0;
    memset(simdisk.order, 0, sizeof simdisk.order);
    pthread_mutex_unlock(&simdisk.lock);
}

static void *acquire(terrace_tensor *t, unsigned mode)
{
    void *p;
    assert_ok(terrace_acquire(t, 0, mode, NULL, &p, NULL));
    return p;
}

static void *address_of(terrace_tensor *t)
{
    void *p = acquire(t, TERRACE_READ);
    assert_ok(terrace_release(t, p, NULL));
    return p;
}

/* Acquires and releases in a thread of its own. */
struct reader {
    terrace_tensor *t;
    pthread_t thread;
    atomic_bool done;
    int result;
};

static void *reader_main(void *arg)
{
    struct reader *r = arg;
    void *p;
    r->result = terrace_acquire(r->t, 0, TERRACE_READ, NULL, &p, NULL);
    if (r->result == 0)
        terrace_release(r->t, p, NULL);
    r->done = true;
    return NULL;
}

static void reader_start(struct reader *r, terrace_tensor *t)
{
    *r = (struct reader){.t = t};
    cr_assert_eq(pthread_create(&r->thread, NULL, reader_main, r), 0);
}

static void reader_join(struct reader *r)
{
    pthread_join(r->thread, NULL);
    cr_assert_eq(r->result, 0);
}

/* ---- prefetch -------------------------------------------------------------- */

Test(prefetch, brings_the_bytes_before_they_are_acquired, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_below(m, 1);
    assert_ok(terrace_prefetch(t, host_of(m)));
    assert_ok(terrace_wait(t));
    simdisk_hold(); /* from here on the disk cannot help */
    expect_pattern(t, 0, SIZE, 1);
    terrace_statistics s = stats_of(m);
    cr_assert_eq(s.prefetches, 1);
    cr_assert_eq(s.prefetch_hits, 1);
    expect_pattern(t, 0, SIZE, 1);
    cr_assert_eq(stats_of(m).prefetch_hits, 1, "it is counted at its first use");
    simdisk_let_go();
    terrace_close(m);
}

Test(prefetch, that_comes_late_is_no_hit, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_below(m, 1);
    struct reader r;
    simdisk_hold();
    assert_ok(terrace_prefetch(t, 0));
    cr_assert(simdisk_await_queued(MOST_HINTED));
    reader_start(&r, t);
    cr_assert(simdisk_await_queued(PIECES), "an acquire did not make it urgent");
    cr_assert_not(r.done);
    simdisk_let_go();
    reader_join(&r);
    cr_assert_eq(stats_of(m).prefetches, 1);
    cr_assert_eq(stats_of(m).prefetch_hits, 0);
    terrace_close(m);
}

Test(prefetch, never_blocks, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t[8];
    for (int i = 0; i < 8; i++)
        t[i] = tensor_below(m, (uint64_t)i);
    simdisk_hold();
    for (int i = 0; i < 8; i++)
        for (int twice = 0; twice < 2; twice++)
            assert_ok(terrace_prefetch(t[i], 0));
    simdisk_let_go();
    for (int i = 0; i < 8; i++)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    terrace_close(m);
}

Test(prefetch, off_brings_nothing, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "prefetch=off");
    terrace_tensor *t = tensor_below(m, 1);
    assert_ok(terrace_prefetch(t, 0));
    assert_ok(terrace_wait(t));
    cr_assert_eq(simdisk.reads, 0);
    cr_assert_eq(stats_of(m).prefetches, 0);
    expect_pattern(t, 0, SIZE, 1);
    terrace_close(m);
}

static void expect_bounded(const char *conf, unsigned most)
{
    terrace *m = open_sim(16 * MIB, conf);
    terrace_tensor *t[12];
    for (int i = 0; i < 12; i++)
        t[i] = tensor_below(m, (uint64_t)i);
    for (int i = 0; i < 12; i++)
        assert_ok(terrace_prefetch(t[i], 0));
    for (unsigned i = 0; i + most <= 12; i++) {
        eventually(stats_of(m).prefetches == most + i);
        usleep(5000); /* for more than there should be to show */
        cr_assert_eq(stats_of(m).prefetches, most + i);
        expect_pattern(t[i], 0, SIZE, i); /* using one makes room for the next */
    }
    for (unsigned i = 0; i < 12; i++)
        expect_pattern(t[i], 0, SIZE, i);
    cr_assert_eq(stats_of(m).prefetches, 12);
    terrace_close(m);
}

Test(prefetch, stays_within_its_bytes, .timeout = 60)
{
    expect_bounded("prefetch=3M", 3);
}

Test(prefetch, stays_within_half_a_tier_by_itself, .timeout = 60)
{
    expect_bounded(NULL, 8);
}

Test(prefetch, does_not_push_out_what_was_prefetched, .timeout = 60)
{
    terrace *m = open_sim(4 * MIB, "prefetch=64M");
    terrace_tensor *t[6];
    for (int i = 0; i < 6; i++)
        t[i] = tensor_below(m, (uint64_t)i);
    for (int i = 0; i < 6; i++)
        assert_ok(terrace_prefetch(t[i], 0));
    for (int i = 0; i < 4; i++)
        assert_ok(terrace_wait(t[i]));
    cr_assert_eq(stats_of(m).prefetches, 4);
    cr_assert_eq(stats_of(m).evictions, 0);
    for (int i = 0; i < 4; i++)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    eventually(stats_of(m).prefetches == 6); /* these may take the place of what was used */
    for (int i = 4; i < 6; i++) {
        assert_ok(terrace_wait(t[i]));
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    }
    cr_assert_eq(stats_of(m).prefetch_hits, 6);
    terrace_close(m);
}

Test(prefetch, of_what_needs_none_does_nothing, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *blank = tensor_of(m, SIZE, "blank"), *here = tensor_of(m, SIZE, "here");
    write_pattern(here, 0, SIZE, 1);
    assert_ok(terrace_prefetch(blank, 0));
    assert_ok(terrace_prefetch(here, 0));
    assert_ok(terrace_wait(blank));
    assert_ok(terrace_wait(here));
    cr_assert_eq(simdisk_pieces(), 0);
    cr_assert_eq(stats_of(m).prefetches, 0);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
    terrace_close(m);
}

Test(prefetch, of_the_destroyed_is_forgotten, .timeout = 40)
{
    terrace *m = open_sim(4 * MIB, "prefetch=1M");
    terrace_tensor *flying = tensor_below(m, 1), *waiting = tensor_below(m, 2), *held = tensor_below(m, 3);
    acquire(held, TERRACE_READ);
    terrace_tensor_destroy(held);
    assert_ok(terrace_prefetch(held, 0));
    simdisk_hold();
    assert_ok(terrace_prefetch(flying, 0));
    assert_ok(terrace_prefetch(waiting, 0)); /* until the first is used */
    cr_assert(simdisk_await_queued(MOST_HINTED));
    terrace_tensor_destroy(waiting);
    terrace_tensor_destroy(flying);
    simdisk_let_go();
    eventually(stats_of(m).tensors == 1);
    terrace_tensor *t = tensor_below(m, 4);
    assert_ok(terrace_prefetch(t, 0));
    assert_ok(terrace_wait(t));
    cr_assert_eq(stats_of(m).prefetches, 2);
    terrace_close(m);
}

Test(prefetch, is_done_with_by_wait, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "prefetch=1M");
    terrace_tensor *first = tensor_below(m, 1), *waiting = tensor_below(m, 2);
    assert_ok(terrace_prefetch(first, 0));
    assert_ok(terrace_prefetch(waiting, 0)); /* until the first is used */
    assert_ok(terrace_wait(first));
    cr_assert_eq(stats_of(m).prefetches, 1);
    assert_ok(terrace_wait(waiting));
    cr_assert_eq(stats_of(m).prefetches, 2);
    simdisk_hold();
    expect_pattern(waiting, 0, SIZE, 2);
    simdisk_let_go();
    terrace_close(m);
}

Test(prefetch, waits_for_room, .timeout = 40)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *a = tensor_below(m, 1), *b = tensor_of(m, 4 * MIB, "b");
    void *p = acquire(b, TERRACE_OVERWRITE);
    assert_ok(terrace_prefetch(a, 0));
    usleep(20000); /* it is tried, and finds no room */
    cr_assert_eq(stats_of(m).prefetches, 0);
    assert_ok(terrace_release(b, p, NULL));
    eventually(stats_of(m).prefetches == 1);
    assert_ok(terrace_wait(a));
    expect_pattern(a, 0, SIZE, 1);
    cr_assert_eq(stats_of(m).prefetch_hits, 1);
    terrace_close(m);
}

Test(prefetch, that_fails_is_told_by_wait, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *t = tensor_below(m, 1);
    simdisk_fault(&simdisk.fail_read, 2);
    assert_ok(terrace_prefetch(t, 0));
    assert_fails(terrace_wait(t), TERRACE_EIO);
    cr_assert(strstr(terrace_last_error(), "'t1'"), "%s", terrace_last_error());
    cr_assert_eq(terrace_wait(t), 0);
    expect_pattern(t, 0, SIZE, 1);
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    terrace_close(m);
}

Test(prefetch, checks_its_arguments)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    assert_fails(terrace_prefetch(NULL, 0), TERRACE_EINVAL);
    assert_fails(terrace_prefetch(t, 77), TERRACE_EINVAL);
    assert_fails(terrace_prefetch(t, disk_of(m)), TERRACE_ENOTSUP);
    assert_fails(terrace_demote(NULL, 0), TERRACE_EINVAL);
    assert_fails(terrace_demote(t, 77), TERRACE_EINVAL);
    terrace_close(m);
}

/* ---- who goes first -------------------------------------------------------- */

Test(order, demand_overtakes_prefetches, .timeout = 40)
{
    terrace *m = open_sim(16 * MIB, NULL);
    terrace_tensor *t[3];
    int first[3], last[3];
    struct reader r;
    for (int i = 0; i < 3; i++)
        t[i] = tensor_below(m, (uint64_t)i);
    forget_pieces();
    simdisk_hold();
    assert_ok(terrace_prefetch(t[0], 0));
    assert_ok(terrace_prefetch(t[1], 0));
    cr_assert(simdisk_await_queued(MOST_HINTED));
    reader_start(&r, t[2]);
    cr_assert(simdisk_await_queued(SIMDISK_DEPTH), "a place in the queue is kept for it");
    simdisk_let_go();
    reader_join(&r);
    for (int i = 0; i < 3; i++) {
        assert_ok(terrace_wait(t[i]));
        simdisk_places(address_of(t[i]), SIZE, &first[i], &last[i]);
    }
    cr_assert_eq(first[2], MOST_HINTED);
    cr_assert_lt(last[2], last[0]);
    cr_assert_lt(last[2], first[1]);
    cr_assert_lt(first[0], first[1], "prefetches keep their order");
    cr_assert_eq(stats_of(m).prefetch_hits, 2);
    terrace_close(m);
}

Test(order, demand_and_prefetch_overtake_write_backs, .timeout = 40)
{
    terrace *m = open_sim(16 * MIB, NULL);
    terrace_tensor *down[2] = {tensor_of(m, SIZE, "d0"), tensor_of(m, SIZE, "d1")};
    terrace_tensor *ahead = tensor_below(m, 3), *now = tensor_below(m, 4);
    const void *p[2];
    int first[4], last[4];
    struct reader r;
    for (int i = 0; i < 2; i++) {
        write_pattern(down[i], 0, SIZE, (uint64_t)i);
        p[i] = address_of(down[i]);
    }
    forget_pieces();
    simdisk_hold();
    for (int i = 0; i < 2; i++)
        assert_ok(terrace_demote(down[i], disk_of(m)));
    cr_assert(simdisk_await_queued(MOST_HINTED));
    assert_ok(terrace_prefetch(ahead, 0));
    reader_start(&r, now);
    cr_assert(simdisk_await_queued(SIMDISK_DEPTH));
    simdisk_let_go();
    reader_join(&r);
    assert_ok(terrace_wait(ahead));
    for (int i = 0; i < 2; i++)
        assert_ok(terrace_wait(down[i]));
    for (int i = 0; i < 2; i++)
        simdisk_places(p[i], SIZE, &first[i], &last[i]);
    simdisk_places(address_of(ahead), SIZE, &first[2], &last[2]);
    simdisk_places(address_of(now), SIZE, &first[3], &last[3]);
    cr_assert_lt(last[3], first[2], "demand goes before prefetch");
    cr_assert_lt(last[2], last[0], "prefetch before what is left of a write-back");
    cr_assert_lt(last[2], first[1]);
    for (int i = 0; i < 2; i++)
        expect_pattern(down[i], 0, SIZE, (uint64_t)i);
    terrace_close(m);
}

/* ---- demote ---------------------------------------------------------------- */

Test(demote, while_acquired_takes_effect_at_the_last_release, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, 0, SIZE, 1);
    void *p = acquire(t, TERRACE_READ);
    acquire(t, TERRACE_READ);
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_ok(terrace_wait(t));
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_wait(t));
    cr_assert(pattern_is(p, SIZE, 1));
    cr_assert_eq(simdisk_pieces(), 0);
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_wait(t));
    cr_assert_eq(simdisk.writes, PIECES);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    expect_pattern(t, 0, SIZE, 1);
    terrace_close(m);
}

Test(demote, then_acquire_keeps, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, 0, SIZE, 1);
    void *p = acquire(t, TERRACE_READ);
    assert_ok(terrace_demote(t, disk_of(m)));
    acquire(t, TERRACE_READ); /* so it is used after all */
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_wait(t));
    cr_assert_eq(simdisk_pieces(), 0);
    terrace_close(m);
}

Test(demote, then_acquire_or_prefetch_during_the_write_keeps, .timeout = 20)
{
    for (int hint = 0; hint < 2; hint++) {
        terrace *m = open_sim(4 * MIB, NULL);
        terrace_tensor *t = tensor_of(m, SIZE, "t");
        write_pattern(t, 0, SIZE, 1);
        simdisk_hold();
        assert_ok(terrace_demote(t, disk_of(m)));
        cr_assert(simdisk_await_queued(1));
        if (hint)
            assert_ok(terrace_prefetch(t, 0));
        else
            expect_pattern(t, 0, SIZE, 1);
        simdisk_let_go();
        assert_ok(terrace_wait(t));
        cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
        cr_assert_eq(tier_stats_of(m, 0).dirty, 0);
        expect_pattern(t, 0, SIZE, 1);
        cr_assert_eq(simdisk.reads, 0);
        terrace_close(m);
    }
}

Test(demote, while_the_bytes_come_drops_them_then, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_below(m, 1);
    void *p;
    simdisk_hold();
    assert_fails(terrace_acquire(t, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL), TERRACE_EAGAIN);
    cr_assert(simdisk_await_queued(PIECES));
    assert_ok(terrace_demote(t, disk_of(m)));
    simdisk_let_go();
    assert_ok(terrace_wait(t));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    expect_pattern(t, 0, SIZE, 1);
    terrace_close(m);
}

Test(demote, of_clean_bytes_drops_at_once, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_below(m, 1), *blank = tensor_of(m, SIZE, "blank");
    expect_pattern(t, 0, SIZE, 1);
    acquire(blank, TERRACE_READ);
    assert_ok(terrace_release(blank, address_of(blank), NULL));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 2);
    forget_pieces();
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_ok(terrace_demote(blank, disk_of(m)));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    cr_assert_eq(simdisk_pieces(), 0);
    simdisk_let_go();
    expect_pattern(t, 0, SIZE, 1);
    terrace_close(m);
}

Test(demote, to_a_host_tier_has_nothing_to_do, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, 0, SIZE, 1);
    assert_ok(terrace_demote(t, host_of(m)));
    assert_ok(terrace_wait(t));
    cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
    cr_assert_eq(simdisk_pieces(), 0);
    terrace_close(m);
}

Test(demote, that_fails_keeps_the_bytes, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, 0, SIZE, 1);
    simdisk_fault(&simdisk.fail_write, 3);
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_fails(terrace_wait(t), TERRACE_EIO);
    cr_assert_eq(terrace_wait(t), 0, "it was told already");
    cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
    expect_pattern(t, 0, SIZE, 1);
    push_down(t, m);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    expect_pattern(t, 0, SIZE, 1);
    terrace_close(m);
}

Test(demote, and_eviction_leave_the_unmovable_alone, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "fixed", .flags = TERRACE_ATTR_UNMOVABLE};
    terrace_tensor *fixed, *all = tensor_of(m, 4 * MIB, "all");
    void *p;
    assert_ok(terrace_tensor_create(m, 2 * MIB, &attr, &fixed));
    write_pattern(fixed, 0, 2 * MIB, 1);
    const void *where = address_of(fixed);
    for (uint64_t i = 0; i < 12; i++)
        write_pattern(tensor_of(m, SIZE, "passing"), 0, SIZE, i);
    assert_ok(terrace_demote(fixed, disk_of(m)));
    assert_ok(terrace_wait(fixed));
    assert_fails(terrace_acquire(all, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EBUDGET);
    simdisk_hold();
    cr_assert_eq(address_of(fixed), where);
    expect_pattern(fixed, 0, 2 * MIB, 1);
    simdisk_let_go();
    int first, last;
    simdisk_places(where, 2 * MIB, &first, &last);
    cr_assert_eq(first, -1, "it was written");
    terrace_close(m);
}

Test(demote, alone_makes_room_with_policy_none, .timeout = 20)
{
    terrace *m = open_sim(2 * MIB, "policy=none");
    terrace_tensor *t[3];
    void *p;
    for (int i = 0; i < 3; i++)
        t[i] = tensor_of(m, SIZE, "t");
    write_pattern(t[0], 0, SIZE, 0);
    write_pattern(t[1], 0, SIZE, 1);
    assert_fails(terrace_acquire(t[2], 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EBUDGET);
    cr_assert_eq(simdisk_pieces(), 0);
    push_down(t[0], m);
    write_pattern(t[2], 0, SIZE, 2);
    assert_fails(terrace_acquire(t[0], 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EBUDGET);
    push_down(t[1], m);
    for (int i = 0; i < 3; i += 2)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    cr_assert_eq(stats_of(m).evictions, 0);
    terrace_close(m);
}

/* ---- wait and step --------------------------------------------------------- */

static void *wait_main(void *arg)
{
    struct reader *r = arg;
    r->result = terrace_wait(r->t);
    r->done = true;
    return NULL;
}

Test(wait, returns_when_all_has_settled, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    struct reader r = {.t = tensor_of(m, SIZE, "t")};
    assert_ok(terrace_wait(r.t));
    write_pattern(r.t, 0, SIZE, 1);
    simdisk_hold();
    assert_ok(terrace_demote(r.t, disk_of(m)));
    pthread_create(&r.thread, NULL, wait_main, &r);
    cr_assert(simdisk_await_queued(PIECES), "it is urgent now");
    usleep(20000);
    cr_assert_not(r.done);
    simdisk_let_go();
    pthread_join(r.thread, NULL);
    cr_assert_eq(r.result, 0);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
    assert_fails(terrace_wait(NULL), TERRACE_EINVAL);
    terrace_close(m);
}

Test(step, is_counted)
{
    terrace *m = open_sim(4 * MIB, NULL);
    for (int i = 0; i < 3; i++)
        assert_ok(terrace_step(m));
    cr_assert_eq(stats_of(m).steps, 3);
    assert_fails(terrace_step(NULL), TERRACE_EINVAL);
    terrace_close(m);
}

/* ---- write-back ahead of need ---------------------------------------------- */

Test(ahead, a_streaming_writer_finds_room_made, .timeout = 60)
{
    enum { FIT = 8, N = 48 };
    terrace *m = open_sim(FIT * MIB, NULL);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], 0, SIZE, (uint64_t)i);
        cr_assert(i >= FIT || simdisk_pieces() == 0, "what fits is not written");
        if (i >= FIT) /* computing takes longer than the disk does */
            eventually(tier_stats_of(m, 0).dirty <= (FIT - 1) * MIB);
    }
    terrace_statistics s = stats_of(m);
    cr_assert_eq(s.hits, N - 1, "only the first that did not fit had to wait");
    cr_assert_eq(s.evictions, N - FIT);
    cr_assert_leq(s.writeback_bytes, (uint64_t)N * SIZE, "nothing was written twice");
    cr_assert_eq(s.wasted_bytes, 0);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    terrace_close(m);
}

Test(ahead, it_ends_with_the_pressure, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, NULL);
    terrace_tensor *t[8];
    for (int i = 0; i < 8; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], 0, SIZE, (uint64_t)i);
    }
    terrace_tensor *once = tensor_of(m, 2 * MIB, "once");
    write_pattern(once, 0, 2 * MIB, 9);
    terrace_tensor_destroy(once);
    for (int i = 0; i < 8; i++) /* all are back */
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < 8; i++)
            write_pattern(t[i], 0, SIZE, (uint64_t)(round + i));
        usleep(1000);
    }
    cr_assert_leq(stats_of(m).writeback_bytes, 8 * MIB, "it goes on without need");
    terrace_close(m);
}

/* ---- a disk that fails ----------------------------------------------------- */

Test(failing, write_backs_lose_nothing, .timeout = 40)
{
    static const char *const confs[] = {"log=off", "log=off;verify=spill", "log=off;policy=lru"};
    for (int c = 0; c < 3; c++) {
        terrace *m = open_sim(4 * MIB, confs[c]);
        terrace_tensor *t[6];
        void *p;
        for (uint64_t i = 0; i < 6; i++)
            t[i] = tensor_of(m, SIZE, "layers/0/w");
        for (uint64_t i = 0; i < 4; i++)
            write_pattern(t[i], 0, SIZE, i);
        simdisk_fault(&simdisk.fail_all_writes, -TERRACE_EIO);
        for (int mode = TERRACE_READ; mode <= TERRACE_READ + TERRACE_WAIT; mode += TERRACE_WAIT) {
            assert_fails(terrace_acquire(t[4], 0, (unsigned)mode, NULL, &p, NULL), TERRACE_EIO);
            cr_assert(strstr(terrace_last_error(), "simulated failure"), "%s", terrace_last_error());
        }
        cr_assert_gt(stats_of(m).io_errors, 0);
        cr_assert_eq(tier_stats_of(m, 0).tensors, 4);
        int told = 0;
        for (int i = 0; i < 4; i++)
            told += terrace_wait(t[i]) == -TERRACE_EIO;
        cr_assert_gt(told, 0);
        for (uint64_t i = 0; i < 4; i++)
            expect_pattern(t[i], 0, SIZE, i);
        simdisk_fault(&simdisk.fail_all_writes, 0);
        for (uint64_t i = 4; i < 6; i++)
            write_pattern(t[i], 0, SIZE, i);
        for (uint64_t i = 0; i < 6; i++)
            expect_pattern(t[i], 0, SIZE, i);
        terrace_close(m);
    }
}

Test(failing, a_clean_victim_is_still_found, .timeout = 40)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *clean = tensor_below(m, 9), *t[4];
    for (uint64_t i = 0; i < 4; i++)
        t[i] = tensor_of(m, SIZE, "t");
    for (uint64_t i = 0; i < 3; i++)
        write_pattern(t[i], 0, SIZE, i);
    expect_pattern(clean, 0, SIZE, 9); /* the last to leave by order of use */
    simdisk_fault(&simdisk.fail_all_writes, -TERRACE_EIO);
    write_pattern(t[3], 0, SIZE, 3);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 4);
    for (uint64_t i = 0; i < 4; i++)
        expect_pattern(t[i], 0, SIZE, i);
    simdisk_fault(&simdisk.fail_all_writes, 0);
    expect_pattern(clean, 0, SIZE, 9);
    terrace_close(m);
}

/* ---- a disk that is full --------------------------------------------------- */

/* Room for two tensors on the disk, by its budget or by its blocks. */
static terrace *open_small(bool by_budget, size_t limit)
{
    simdisk.blocks = by_budget ? 0 : 2 * SIZE;
    simdisk.committed = 0;
    return open_sim(limit, by_budget ? "log=off;limit_simdisk=2M" : "log=off");
}

Test(full, the_error_names_what_is_full, .timeout = 40)
{
    for (int by_budget = 0; by_budget < 2; by_budget++) {
        terrace *m = open_small(by_budget, 4 * MIB);
        terrace_tensor *t[7];
        void *p;
        for (uint64_t i = 0; i < 6; i++) {
            t[i] = tensor_of(m, SIZE, "layers/0/w");
            write_pattern(t[i], 0, SIZE, i);
        }
        t[6] = tensor_of(m, SIZE, "one too many");
        assert_fails(terrace_acquire(t[6], 0, TERRACE_WRITE, NULL, &p, NULL), TERRACE_ENOSPC);
        const char *text = terrace_last_error();
        cr_assert(strstr(text, "one too many") && strstr(text, "numa:0"), "%s", text);
        cr_assert(strstr(text, by_budget ? "TERRACE_LIMIT" : "simulated disk is full"), "%s", text);
        terrace_tensor_destroy(t[6]);
        terrace_tensor_destroy(t[5]);
        for (int round = 0; round < 2; round++)
            for (uint64_t i = 0; i < 5; i++)
                expect_pattern(t[i], 0, SIZE, i);
        cr_assert_leq(tier_stats_of(m, 1).peak, by_budget ? 2 * MIB : UINT64_MAX);
        terrace_close(m);
    }
}

Test(full, blocks_out_of_date_go_before_duplicates, .timeout = 40)
{
    for (int by_budget = 0; by_budget < 2; by_budget++) {
        terrace *m = open_small(by_budget, 8 * MIB);
        terrace_tensor *stale = tensor_below(m, 1), *twice = tensor_below(m, 2);
        write_pattern(stale, 0, SIZE, 11);
        expect_pattern(twice, 0, SIZE, 2);
        terrace_tensor *t[2] = {tensor_below(m, 3), NULL};
        cr_assert_eq(tier_stats_of(m, 1).tensors, 2, "the duplicate stays");
        t[1] = tensor_below(m, 4);
        cr_assert_eq(tier_stats_of(m, 1).tensors, 2);
        simdisk_hold(); /* these are in memory */
        expect_pattern(stale, 0, SIZE, 11);
        expect_pattern(twice, 0, SIZE, 2);
        cr_assert_eq(tier_stats_of(m, 0).dirty, 2 * SIZE, "the duplicate is the only copy now");
        simdisk_let_go();
        expect_pattern(t[0], 0, SIZE, 3);
        expect_pattern(t[1], 0, SIZE, 4);
        terrace_close(m);
    }
}

Test(full, a_demote_that_finds_no_space_says_so, .timeout = 20)
{
    for (int by_budget = 0; by_budget < 2; by_budget++) {
        terrace *m = open_small(by_budget, 8 * MIB);
        tensor_below(m, 1);
        terrace_tensor *other = tensor_below(m, 2), *t = tensor_of(m, SIZE, "t");
        write_pattern(t, 0, SIZE, 3);
        assert_ok(terrace_demote(t, disk_of(m)));
        assert_fails(terrace_wait(t), TERRACE_ENOSPC);
        expect_pattern(t, 0, SIZE, 3);
        terrace_tensor_destroy(other);
        push_down(t, m);
        expect_pattern(t, 0, SIZE, 3);
        terrace_close(m);
    }
}

Test(hints, bytes_written_ahead_and_changed_are_wasted, .timeout = 20)
{
    terrace *m = open_sim(8 * MIB, NULL);
    terrace_tensor *t[9];
    for (uint64_t i = 0; i < 9; i++) {
        t[i] = tensor_of(m, 1 * MIB, "t");
        write_pattern(t[i], host_of(m), 1 * MIB, i);
    }
    eventually(tier_stats_of(m, 0).dirty <= 7 * MIB);
    for (uint64_t i = 1; i < 9; i++)
        write_pattern(t[i], host_of(m), 1 * MIB, i);
    cr_assert_gt(stats_of(m).wasted_bytes, 0);
    terrace_close(m);
}

Test(hints, an_old_write_error_does_not_fail_a_read, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *t = tensor_of(m, 1 * MIB, "t");
    write_pattern(t, host_of(m), 1 * MIB, 1);
    simdisk_fault(&simdisk.fail_write, 1);
    assert_ok(terrace_demote(t, disk_of(m)));
    eventually(stats_of(m).io_errors == 1);
    assert_ok(terrace_demote(t, disk_of(m)));
    eventually(tier_stats_of(m, 0).tensors == 0);
    void *p;
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL),
                 TERRACE_EAGAIN);
    terrace_close(m);
}

Test(hints, a_prefetched_copy_that_is_evicted_lets_the_next_hint_in, .timeout = 20)
{
    enum { PART = 400 * KIB };
    terrace *m = open_sim(4 * MIB, "prefetch=1M");
    terrace_tensor *big = tensor_of(m, 3 * MIB + 512 * KIB, "big");
    terrace_tensor *first = tensor_of(m, 1 * MIB, "first"), *next = tensor_of(m, PART, "next");
    void *p;
    write_pattern(first, host_of(m), 1 * MIB, 1);
    write_pattern(next, host_of(m), PART, 2);
    push_down(first, m);
    push_down(next, m);
    assert_ok(terrace_prefetch(first, host_of(m)));
    assert_ok(terrace_wait(first));
    assert_ok(terrace_prefetch(next, host_of(m)));
    cr_assert_eq(stats_of(m).prefetches, 1);
    assert_ok(terrace_acquire(big, host_of(m), TERRACE_OVERWRITE, NULL, &p, NULL));
    eventually(stats_of(m).prefetches == 2);
    terrace_close(m);
}
