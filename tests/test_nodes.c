/* test_nodes.c - several memory tiers: bytes move between them, and down to disk
 * when they are all full. The second node and the disk are simulated. */
#include <pthread.h>
#include <time.h>

#include "core.h"
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"
#include "staging.h"

enum { SIZE = MIB, NEAR = 0, FAR = 1, DISK = 2 };

static terrace *open_nodes(size_t near, size_t far, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_simnode=%zu;%s", far, more);
    return open_with("numa:0,simnode:0,simdisk:0", near, conf);
}

static terrace_tier where_is(terrace_tensor *t, terrace_tier which, unsigned mode)
{
    void *p;
    terrace_tier where;
    assert_ok(terrace_acquire(t, which, mode, NULL, &p, &where));
    assert_ok(terrace_release(t, p, NULL));
    return where;
}

Test(nodes, bytes_come_to_the_tier_that_asks, .timeout = 60)
{
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, NEAR, SIZE, 1);
    expect_pattern(t, FAR, SIZE, 1);
    expect_pattern(t, NEAR, SIZE, 1);
    cr_assert_eq(tier_stats_of(m, NEAR).tensors, 1);
    cr_assert_eq(tier_stats_of(m, FAR).tensors, 1, "readers may have it on both");
    write_pattern(t, FAR, SIZE, 2);
    cr_assert_eq(tier_stats_of(m, NEAR).tensors, 0, "what is out of date does not stay");
    expect_pattern(t, NEAR, SIZE, 2);
    cr_assert_eq(simdisk_pieces(), 0, "the disk has nothing to do with it");
    terrace_close(m);
}

Test(nodes, a_writer_elsewhere_excludes, .timeout = 60)
{
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p, *q;
    assert_ok(terrace_acquire(t, NEAR, TERRACE_WRITE, NULL, &p, NULL));
    assert_fails(terrace_acquire(t, FAR, TERRACE_READ, NULL, &q, NULL), TERRACE_EBUSY);
    assert_ok(terrace_prefetch(t, FAR));
    usleep(20000); /* time to bring bytes that are about to change */
    memset(p, 7, SIZE);
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_wait(t));
    assert_ok(terrace_acquire(t, FAR, TERRACE_READ, NULL, &q, NULL));
    cr_assert_eq(((char *)q)[0], 7, "a prefetch did not bring what was there before");
    assert_fails(terrace_acquire(t, NEAR, TERRACE_WRITE, NULL, &p, NULL), TERRACE_EBUSY);
    assert_ok(terrace_release(t, q, NULL));
    terrace_close(m);
}

Test(nodes, the_full_near_node_gives_to_the_far_one, .timeout = 60)
{
    enum { N = 12 };
    terrace *m = open_nodes(4 * MIB, 16 * MIB, "");
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    cr_assert_eq(simdisk_pieces(), 0, "there was room in memory");
    cr_assert_geq(tier_stats_of(m, FAR).in_bytes, (N - 4) * SIZE);
    terrace_close(m);
}

Test(nodes, both_full_the_disk_takes_the_rest, .timeout = 60)
{
    enum { N = 24 };
    terrace *m = open_nodes(4 * MIB, 8 * MIB, "");
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    }
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < N; i++)
            expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    cr_assert_gt(simdisk_pieces(), 0);
    cr_assert_leq(tier_stats_of(m, FAR).peak, 8 * MIB);
    cr_assert_leq(tier_stats_of(m, NEAR).peak, 4 * MIB);
    terrace_close(m);
}

Test(nodes, memory_alone_holds_what_fits, .timeout = 60)
{
    enum { N = 8 };
    terrace *m = open_with("numa:0,simnode:0", 4 * MIB, "limit_simnode=4M");
    terrace_tensor *t[N + 1];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    t[N] = tensor_of(m, SIZE, "one too many");
    void *p;
    assert_fails(terrace_acquire(t[N], host_of(m), TERRACE_OVERWRITE, NULL, &p, NULL), TERRACE_EBUDGET);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    terrace_close(m);
}

Test(nodes, a_class_takes_the_node_with_room, .timeout = 60)
{
    terrace *m = open_nodes(4 * MIB, 4 * MIB, "");
    terrace_tensor *t[6];
    for (int i = 0; i < 6; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        cr_assert_eq(where_is(t[i], host_of(m), TERRACE_OVERWRITE), i < 4 ? NEAR : FAR, "%d", i);
    }
    cr_assert_eq(where_is(t[5], host_of(m), TERRACE_READ), FAR, "used where it is");
    cr_assert_eq(stats_of(m).evictions, 0);
    terrace_close(m);
}

Test(nodes, demotion_to_a_node, .timeout = 60)
{
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, NEAR, SIZE, 3);
    assert_ok(terrace_demote(t, FAR));
    assert_ok(terrace_wait(t));
    cr_assert_eq(tier_stats_of(m, NEAR).tensors, 0);
    cr_assert_eq(where_is(t, host_of(m), TERRACE_READ), FAR);
    assert_ok(terrace_demote(t, NEAR)); /* it is lower already */
    assert_ok(terrace_wait(t));
    cr_assert_eq(where_is(t, host_of(m), TERRACE_READ), FAR);
    expect_pattern(t, NEAR, SIZE, 3); /* on both now */
    push_down(t, m);
    cr_assert_eq(tier_stats_of(m, NEAR).tensors + tier_stats_of(m, FAR).tensors, 0);
    expect_pattern(t, FAR, SIZE, 3);
    terrace_close(m);
}

Test(nodes, a_copy_on_both_is_given_up_on_one_at_a_time, .timeout = 60)
{
    terrace *m = open_nodes(2 * MIB, 2 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t"), *other = tensor_of(m, 2 * MIB, "other");
    write_pattern(t, NEAR, SIZE, 4);
    expect_pattern(t, FAR, SIZE, 4);
    write_pattern(other, FAR, 2 * MIB, 5);
    cr_assert_eq(tier_stats_of(m, FAR).tensors, 1);
    write_pattern(other, NEAR, 2 * MIB, 6);
    expect_pattern(t, FAR, SIZE, 4);
    expect_pattern(other, NEAR, 2 * MIB, 6);
    terrace_close(m);
}

/* The copy that is on its way down is overwritten on the other node. */
Test(nodes, overwritten_elsewhere_while_it_is_copied, .timeout = 60)
{
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p;
    write_pattern(t, FAR, SIZE, 7);
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simdisk_await_queued(1));
    assert_ok(terrace_acquire(t, FAR, TERRACE_WRITE, NULL, &p, NULL));
    pattern_fill(p, SIZE, 8);
    assert_ok(terrace_release(t, p, NULL));
    simdisk_let_go();
    assert_ok(terrace_wait(t));
    expect_pattern(t, NEAR, SIZE, 8);

    simnode_hold(&simnode, true);
    assert_ok(terrace_demote(t, FAR));
    usleep(1000);
    simnode_hold(&simnode, false);
    assert_ok(terrace_wait(t));
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simdisk_await_queued(1));
    terrace_statistics before = stats_of(m);
    cr_assert_eq(terrace_acquire(t, NEAR, TERRACE_OVERWRITE | TERRACE_NOWAIT, NULL, &p, NULL), -TERRACE_EAGAIN,
                 "one transfer at a time");
    cr_assert_eq(stats_of(m).acquires, before.acquires);
    simdisk_let_go();
    write_pattern(t, NEAR, SIZE, 9);
    assert_ok(terrace_wait(t));
    expect_pattern(t, FAR, SIZE, 9);
    terrace_close(m);
}

Test(nodes, a_prefetch_from_node_to_node, .timeout = 60)
{
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, FAR, SIZE, 10);
    simnode_hold(&simnode, true);
    assert_ok(terrace_prefetch(t, NEAR));
    cr_assert(simnode_await_queued(&simnode, 1));
    void *p;
    cr_assert_eq(terrace_acquire(t, NEAR, TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL), -TERRACE_EAGAIN);
    assert_ok(terrace_acquire(t, FAR, TERRACE_WRITE, NULL, &p, NULL)); /* what is coming is out of date */
    pattern_fill(p, SIZE, 11);
    assert_ok(terrace_release(t, p, NULL));
    simnode_hold(&simnode, false);
    assert_ok(terrace_wait(t));
    expect_pattern(t, NEAR, SIZE, 11);
    terrace_close(m);
}

Test(nodes, unmovable_stays_where_it_is, .timeout = 60)
{
    terrace *m = open_nodes(4 * MIB, 4 * MIB, "");
    terrace_tensor_attr attr = {.size = sizeof attr, .flags = TERRACE_ATTR_UNMOVABLE};
    terrace_tensor *t, *other = tensor_of(m, 4 * MIB, "other");
    assert_ok(terrace_tensor_create(m, SIZE, &attr, &t));
    write_pattern(t, NEAR, SIZE, 12);
    void *p;
    assert_fails(terrace_acquire(other, NEAR, TERRACE_OVERWRITE, NULL, &p, NULL), TERRACE_EBUDGET);
    assert_ok(terrace_demote(t, FAR));
    cr_assert_eq(where_is(t, NEAR, TERRACE_READ), NEAR);
    cr_assert_eq(tier_stats_of(m, FAR).tensors, 0);
    terrace_close(m);
}

/* Memory that bytes pass through on their way to and from a disk or device. */
Test(nodes, staging_is_on_the_node_next_to_its_user, .timeout = 20)
{
    static const struct {
        int near, far, user;
        unsigned host;
    } cases[] = {{0, 1, 0, NEAR}, {0, 1, 1, FAR}, {1, 0, 0, FAR}, {0, 1, -1, NEAR}, {0, 1, 7, NEAR}, {-1, -1, -1, NEAR}};
    terrace *m = open_nodes(8 * MIB, 8 * MIB, "");
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        m->tier[NEAR].info.node = cases[i].near;
        m->tier[FAR].info.node = cases[i].far;
        m->tier[DISK].info.node = cases[i].user;
        uint64_t before = tier_stats_of(m, cases[i].host).staging, sum = m->tier[NEAR].staging + m->tier[FAR].staging;
        void *p;
        cr_assert_eq(staging_host(&m->tier[DISK]), &m->tier[cases[i].host], "case %u", i);
        assert_ok(staging_take(&m->tier[DISK], 64 * KIB, UINT64_MAX, false, &p));
        cr_assert_eq(tier_stats_of(m, cases[i].host).staging, before + 64 * KIB, "case %u", i);
        cr_assert_eq(m->tier[NEAR].staging + m->tier[FAR].staging, sum + 64 * KIB);
    }
    terrace_close(m);
}

/* ---- a node whose memory others use ------------------------------------- */

enum { FULL = 0, ROOMY = 1 };

/* The simulated node comes first, and has less memory than its budget of 32 MiB. */
static terrace *open_full(size_t room)
{
    terrace *m = open_with("simnode:0,numa:0,simdisk:0", 32 * MIB, "limit_simnode=32M;log=error");
    simnode_leave(&simnode, room);
    return m;
}

static void expect_named(const char *what)
{
    cr_assert(strstr(terrace_last_error(), what), "no '%s' in: %s", what, terrace_last_error());
}

Test(full, a_class_goes_on_to_the_next_node, .timeout = 60)
{
    terrace *m = open_full(2 * MIB);
    for (int i = 0; i < 8; i++) {
        terrace_tensor *t = tensor_of(m, SIZE, "t");
        cr_assert_eq(where_is(t, host_of(m), TERRACE_OVERWRITE), i < 2 ? FULL : ROOMY, "%d", i);
    }
    cr_assert_eq(stats_of(m).evictions, 0);
    cr_assert_eq(simnode_refused(&simnode), 1, "the full node is not asked again and again");
    terrace_close(m);
}

Test(full, a_list_goes_on_to_the_next_node, .timeout = 60)
{
    enum { N = 5 };
    terrace *m = open_full(2 * MIB);
    terrace_access list[N];
    unsigned there[2] = {0};
    for (int i = 0; i < N; i++)
        list[i] = (terrace_access){.size = sizeof list[i], .tensor = tensor_of(m, SIZE, "t"), .tier = host_of(m),
                                   .mode = TERRACE_OVERWRITE};
    assert_ok(terrace_acquire_all(list, N, NULL));
    for (int i = 0; i < N; i++) {
        there[list[i].where]++;
        pattern_fill(list[i].address, SIZE, (uint64_t)i);
        assert_ok(terrace_release(list[i].tensor, list[i].address, NULL));
    }
    cr_assert_eq(there[FULL], 2);
    cr_assert_eq(there[ROOMY], N - 2);
    for (int i = 0; i < N; i++)
        expect_pattern(list[i].tensor, host_of(m), SIZE, (uint64_t)i);
    terrace_close(m);
}

Test(full, small_tensors_go_on_to_the_next_node, .timeout = 60)
{
    enum { N = 500, BYTES = 4096 };
    terrace *m = open_full(MIB / 2);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++)
        t[i] = tensor_of(m, BYTES, "t");
    for (int i = 0; i < N; i++)
        write_pattern(t[i], host_of(m), BYTES, (uint64_t)i);
    cr_assert_eq(tier_stats_of(m, FULL).tensors + tier_stats_of(m, ROOMY).tensors, N);
    cr_assert_eq(stats_of(m).evictions, 0);
    for (int i = 0; i < N; i += 2)
        terrace_tensor_destroy(t[i]);
    for (int i = 1; i < N; i += 2)
        expect_pattern(t[i], host_of(m), BYTES, (uint64_t)i);
    for (int i = 1; i < N; i += 2)
        expect_pattern(t[i], ROOMY, BYTES, (uint64_t)i);
    terrace_tensor *near = tensor_of(m, BYTES, "near");
    write_pattern(near, FULL, BYTES, N);
    expect_pattern(near, FULL, BYTES, N);
    expect_pattern(t[1], host_of(m), BYTES, 1);
    terrace_close(m);
}

/* Round after round through the two tensors' worth that is there: what is changed
 * is written down, what is not is dropped, and its pages are used again. */
Test(full, ours_leave_for_what_must_be_there, .timeout = 60)
{
    enum { N = 8 };
    terrace *m = open_full(2 * MIB);
    terrace_tensor *t[N];
    uint64_t start = (uint64_t)time(NULL);
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], FULL, SIZE, (uint64_t)i);
    }
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < N; i++)
            expect_pattern(t[i], FULL, SIZE, (uint64_t)i);
    uint64_t seconds = (uint64_t)time(NULL) - start;
    cr_assert_gt(stats_of(m).evictions, 2 * N);
    cr_assert_leq(tier_stats_of(m, FULL).used, 2 * MIB);
    cr_assert_leq(simnode_refused(&simnode), 2 + seconds);
    terrace_close(m);
}

Test(full, of_another_size_than_what_leaves, .timeout = 60)
{
    terrace *m = open_full(4 * MIB);
    terrace_tensor *small[4], *large = tensor_of(m, 3 * MIB, "large");
    for (int i = 0; i < 4; i++) {
        small[i] = tensor_of(m, SIZE, "small");
        write_pattern(small[i], FULL, SIZE, (uint64_t)i);
    }
    write_pattern(large, FULL, 3 * MIB, 9);
    for (int i = 0; i < 4; i++)
        expect_pattern(small[i], FULL, SIZE, (uint64_t)i);
    expect_pattern(large, FULL, 3 * MIB, 9);
    terrace_close(m);
}

/* What left is not there any more when its memory is asked for: more has to leave. */
Test(full, others_may_take_what_left, .timeout = 60)
{
    terrace *m = open_full(4 * MIB);
    terrace_tensor *t[4], *large = tensor_of(m, 2 * MIB, "large"); /* of another zone than the others */
    for (int i = 0; i < 4; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], FULL, SIZE, (uint64_t)i);
    }
    simnode.steals = 2 * MIB;
    write_pattern(large, FULL, 2 * MIB, 9);
    cr_assert_eq(tier_stats_of(m, FULL).tensors, 1);
    for (int i = 0; i < 4; i++)
        expect_pattern(t[i], ROOMY, SIZE, (uint64_t)i);
    expect_pattern(large, FULL, 2 * MIB, 9);
    terrace_close(m);
}

Test(full, when_nothing_can_leave_the_sentence_says_so, .timeout = 60)
{
    terrace *m = open_full(SIZE + SIZE / 2);
    terrace_tensor *held = tensor_of(m, SIZE, "held"), *t = tensor_of(m, SIZE, "t");
    void *p, *q;
    assert_ok(terrace_acquire(held, FULL, TERRACE_OVERWRITE, NULL, &p, NULL));
    assert_fails(terrace_acquire(t, FULL, TERRACE_OVERWRITE, NULL, &q, NULL), TERRACE_ENOMEM);
    expect_named("simnode:0");
    expect_named("512.0 KiB");
    expect_named("TERRACE_LIMIT_SIMNODE_0");
    assert_fails(terrace_acquire(t, FULL, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &q, NULL), TERRACE_ENOMEM);
    assert_ok(terrace_release(held, p, NULL));
    write_pattern(t, FULL, SIZE, 1);
    expect_pattern(t, FULL, SIZE, 1);
    terrace_close(m);
}

struct holder {
    terrace_tensor *tensor;
    void *address;
};

static void *release_later(void *arg)
{
    struct holder *h = arg;
    void *p;
    assert_ok(terrace_acquire(h->tensor, FULL, TERRACE_OVERWRITE, NULL, &p, NULL));
    __atomic_store_n(&h->address, p, __ATOMIC_RELEASE);
    usleep(50000);
    assert_ok(terrace_release(h->tensor, p, NULL));
    return NULL;
}

Test(full, whoever_waits_gets_what_others_release, .timeout = 60)
{
    terrace *m = open_full(SIZE);
    struct holder h = {.tensor = tensor_of(m, SIZE, "held")};
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    pthread_t thread;
    void *p;
    cr_assert_eq(pthread_create(&thread, NULL, release_later, &h), 0);
    eventually(__atomic_load_n(&h.address, __ATOMIC_ACQUIRE));
    assert_ok(terrace_acquire(t, FULL, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &p, NULL));
    assert_ok(terrace_release(t, p, NULL));
    pthread_join(thread, NULL);
    terrace_close(m);
}

Test(full, prefetches_do_not_ask_again_and_again, .timeout = 60)
{
    enum { N = 16 };
    terrace *m = open_full(SIZE);
    terrace_tensor *held = tensor_of(m, SIZE, "held"), *t[N];
    void *p;
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], ROOMY, SIZE, (uint64_t)i);
        push_down(t[i], m);
    }
    assert_ok(terrace_acquire(held, FULL, TERRACE_OVERWRITE, NULL, &p, NULL));
    for (int round = 0; round < 4; round++)
        for (int i = 0; i < N; i++) {
            assert_ok(terrace_prefetch(t[i], FULL));
            usleep(1000);
        }
    cr_assert_leq(simnode_refused(&simnode), 2);
    assert_ok(terrace_release(held, p, NULL));
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], FULL, SIZE, (uint64_t)i);
    terrace_close(m);
}

Test(full, what_leaves_goes_past_a_full_node, .timeout = 60)
{
    enum { N = 12 };
    terrace *m = open_nodes(2 * MIB, 32 * MIB, "log=error");
    terrace_tensor *t[N];
    simnode_leave(&simnode, 3 * MIB);
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    cr_assert_gt(simdisk_pieces(), 0);
    cr_assert_eq(stats_of(m).io_errors, 0);
    terrace_close(m);
}

Test(full, a_node_that_has_memory_again_is_used_again, .timeout = 60)
{
    terrace *m = open_full(SIZE);
    cr_assert_eq(where_is(tensor_of(m, SIZE, "t"), host_of(m), TERRACE_OVERWRITE), FULL);
    cr_assert_eq(where_is(tensor_of(m, SIZE, "t"), host_of(m), TERRACE_OVERWRITE), ROOMY);
    simnode_leave(&simnode, 0);
    terrace_tier where = ROOMY;
    for (int i = 0; i < 20 && where != FULL; i++) {
        usleep(200000);
        where = where_is(tensor_of(m, SIZE, "t"), host_of(m), TERRACE_OVERWRITE);
    }
    cr_assert_eq(where, FULL);
    terrace_close(m);
}

Test(full, a_device_without_memory_says_so, .timeout = 60)
{
    terrace *m = open_with("simdev:0,numa:0,simdisk:0", 32 * MIB, "limit_simdev=32M;log=error");
    terrace_tensor *t[2] = {tensor_of(m, SIZE, "t"), tensor_of(m, SIZE, "u")};
    void *p, *q;
    simnode_leave(&simdev, SIZE);
    assert_ok(terrace_acquire(t[0], 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    assert_fails(terrace_acquire(t[1], 0, TERRACE_OVERWRITE, NULL, &q, NULL), TERRACE_EDEVMEM);
    expect_named("TERRACE_LIMIT_SIMDEV_0");
    assert_ok(terrace_release(t[0], p, NULL));
    cr_assert_eq(where_is(t[1], 0, TERRACE_OVERWRITE), 0);
    terrace_close(m);
}
