/* test_acquire.c - acquire, release and their rules, on a simulated disk. */
#include <pthread.h>
#include <stdatomic.h>

#include "core.h"
#include "manager.h"
#include "simdisk.h"

enum { SIZE = 1 * MIB };

Test(acquire, bytes_survive_eviction)
{
    enum { N = 32 };
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tier host = host_of(m);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host, SIZE, (uint64_t)i);
    }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], host, SIZE, (uint64_t)i);
    for (int i = N; i-- > 0;)
        expect_pattern(t[i], host, SIZE, (uint64_t)i);
    cr_assert(stats_of(m).writeback_bytes > 0);
    cr_assert(tier_stats_of(m, 0).peak <= 4 * MIB);
    terrace_close(m);
}

Test(acquire, odd_sizes_survive_eviction)
{
    static const size_t sizes[] = {1, 63, 64, 4095, 4096, 4097, 65536, 65537, 131071, 1000003,
                                   2097152, 2097153, 3000000};
    enum { N = sizeof sizes / sizeof sizes[0] };
    for (int striped = 0; striped < 2; striped++) {
        simdisk.boundary = striped ? 128 * KIB : 0;
        terrace *m = open_sim(4 * MIB, NULL);
        terrace_tensor *t[N];
        for (int i = 0; i < N; i++) {
            t[i] = tensor_of(m, sizes[i], "odd");
            write_pattern(t[i], host_of(m), sizes[i], (uint64_t)i);
        }
        for (int i = 0; i < N; i++)
            push_down(t[i], m);
        for (int i = 0; i < N; i++)
            expect_pattern(t[i], host_of(m), sizes[i], (uint64_t)i);
        terrace_close(m);
    }
}

Test(acquire, to_write_what_was_evicted_and_sealed, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "verify=spill");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    push_down(t, m);
    void *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_WRITE, NULL, &p, NULL));
    cr_assert(pattern_is(p, SIZE, 1));
    assert_ok(terrace_release(t, p, NULL));
    terrace_close(m);
}

Test(acquire, a_new_tensor_reads_as_zeros)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *old = tensor_of(m, SIZE, "old");
    write_pattern(old, host_of(m), SIZE, 1);
    terrace_tensor_destroy(old); /* its memory is used again */
    terrace_tensor *t = tensor_of(m, SIZE, "new");
    unsigned char *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_WRITE, NULL, (void **)&p, NULL));
    for (size_t i = 0; i < SIZE; i++)
        cr_assert(p[i] == 0);
    p[5] = 7;
    assert_ok(terrace_release(t, p, NULL));
    push_down(t, m);
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, (void **)&p, NULL));
    cr_assert(p[5] == 7 && p[4] == 0);
    terrace_close(m);
}

Test(acquire, write_keeps_the_bytes_not_written)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 3);
    push_down(t, m);
    unsigned char *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_WRITE, NULL, (void **)&p, NULL));
    unsigned char changed = p[SIZE - 1] ^= 0xff;
    assert_ok(terrace_release(t, p, NULL));
    push_down(t, m);
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, (void **)&p, NULL));
    cr_assert(p[SIZE - 1] == changed);
    p[SIZE - 1] ^= 0xff;
    cr_assert(pattern_is(p, SIZE, 3));
    terrace_close(m);
}

Test(acquire, overwrite_never_reads)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    push_down(t, m);
    write_pattern(t, host_of(m), SIZE, 2);
    cr_assert_eq(simdisk.reads, 0);
    push_down(t, m);
    expect_pattern(t, host_of(m), SIZE, 2);
    cr_assert_gt(simdisk.reads, 0);
    terrace_close(m);
}

Test(acquire, a_clean_copy_leaves_without_a_write)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    push_down(t, m);
    unsigned writes = simdisk.writes;
    for (int i = 0; i < 3; i++) {
        expect_pattern(t, host_of(m), SIZE, 1);
        push_down(t, m);
    }
    cr_assert_eq(simdisk.writes, writes);
    cr_assert_eq(simdisk.read_bytes, 3 * SIZE);
    terrace_close(m);
}

Test(acquire, what_fits_is_never_written)
{
    terrace *m = open_sim(16 * MIB, NULL);
    terrace_tensor *t[8];
    for (int i = 0; i < 8; i++)
        t[i] = tensor_of(m, SIZE, "t");
    for (int round = 0; round < 20; round++)
        for (int i = 0; i < 8; i++)
            write_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    cr_assert_eq(simdisk.writes, 0);
    cr_assert_eq(stats_of(m).hits, 20 * 8);
    terrace_close(m);
}

Test(acquire, address_and_where)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor_attr attr = {.size = sizeof attr, .alignment = 64 * KIB};
    terrace_tensor *t;
    assert_ok(terrace_tensor_create(m, 100 * KIB, &attr, &t));
    void *p;
    terrace_tier where = -1;
    char name[16];
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, &where));
    assert_ok(terrace_tier_name(m, where, name, sizeof name));
    cr_assert_str_eq(name, "numa:0");
    cr_assert_eq((uintptr_t)p % (64 * KIB), 0);
    terrace_close(m);
}

Test(acquire, modes_are_checked)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p = &m;
    assert_fails(terrace_acquire(t, host_of(m), 0, NULL, &p, NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_WAIT, NULL, &p, NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_WRITE | TERRACE_OVERWRITE, NULL, &p, NULL),
                 TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_OVERWRITE, NULL, &p, NULL),
                 TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_WAIT | TERRACE_NOWAIT, NULL, &p,
                                 NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), 64 | TERRACE_READ, NULL, &p, NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(NULL, host_of(m), TERRACE_READ, NULL, &p, NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, NULL, NULL), TERRACE_EINVAL);
    assert_fails(terrace_acquire(t, 77, TERRACE_READ, NULL, &p, NULL), TERRACE_EINVAL);
    cr_assert_eq(p, (void *)&m, "an output was written on failure");
    terrace_close(m);
}

Test(acquire, a_disk_tier_is_refused)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p;
    assert_fails(terrace_acquire(t, disk_of(m), TERRACE_READ, NULL, &p, NULL), TERRACE_ENOTSUP);
    terrace_close(m);
}

Test(acquire, release_wants_the_address)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p;
    assert_fails(terrace_release(t, NULL, NULL), TERRACE_EINVAL);
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, NULL));
    assert_fails(terrace_release(t, (char *)p + 1, NULL), TERRACE_EINVAL);
    assert_ok(terrace_release(t, p, NULL));
    assert_fails(terrace_release(t, p, NULL), TERRACE_EINVAL);
    terrace_close(m);
}

Test(acquire, pins_are_counted)
{
    terrace *m = open_sim(2 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, 2 * MIB, "pinned"), *other = tensor_of(m, 2 * MIB, "other");
    void *p, *q, *r;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, NULL));
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_WRITE, NULL, &q, NULL));
    cr_assert_eq(p, q);
    assert_ok(terrace_release(t, p, NULL));
    assert_fails(terrace_acquire(other, host_of(m), TERRACE_READ, NULL, &r, NULL), TERRACE_EBUDGET);
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_acquire(other, host_of(m), TERRACE_READ, NULL, &r, NULL));
    terrace_close(m);
}

Test(acquire, the_budget_error_names_the_holders)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *a = tensor_of(m, 1 * MIB, "layers/1/w"), *b = tensor_of(m, 2 * MIB, "layers/2/w");
    terrace_tensor *c = tensor_of(m, 3 * MIB, "layers/3/w");
    void *p;
    assert_ok(terrace_acquire(a, host_of(m), TERRACE_READ, NULL, &p, NULL));
    assert_ok(terrace_acquire(b, host_of(m), TERRACE_READ, NULL, &p, NULL));
    assert_fails(terrace_acquire(c, host_of(m), TERRACE_READ, NULL, &p, NULL), TERRACE_EBUDGET);
    const char *text = terrace_last_error();
    cr_assert(strstr(text, "layers/1/w") && strstr(text, "layers/2/w") && strstr(text, "layers/3/w"),
              "%s", text);
    cr_assert(strstr(text, "4.0 MiB") && strstr(text, "numa:0"), "%s", text);
    terrace_close(m);
}

Test(acquire, larger_than_the_budget)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, 5 * MIB, "huge");
    void *p;
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL),
                 TERRACE_EBUDGET);
    terrace_close(m);
}

Test(acquire, wait_does_not_wait_for_its_own_pins)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *a = tensor_of(m, 3 * MIB, "a"), *b = tensor_of(m, 2 * MIB, "b");
    void *p;
    assert_ok(terrace_acquire(a, host_of(m), TERRACE_READ, NULL, &p, NULL));
    assert_fails(terrace_acquire(b, host_of(m), TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL),
                 TERRACE_EBUDGET);
    terrace_close(m);
}

struct waiter {
    terrace_tensor *t;
    terrace_tier host;
    atomic_bool done;
    int result;
};

static void *acquire_waiting(void *arg)
{
    struct waiter *w = arg;
    void *p;
    w->result = terrace_acquire(w->t, w->host, TERRACE_WRITE | TERRACE_WAIT, NULL, &p, NULL);
    w->done = true;
    if (w->result == 0)
        terrace_release(w->t, p, NULL);
    return NULL;
}

Test(acquire, wait_waits_for_a_release, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *a = tensor_of(m, 3 * MIB, "a"), *b = tensor_of(m, 2 * MIB, "b");
    void *p;
    assert_ok(terrace_acquire(a, host_of(m), TERRACE_READ, NULL, &p, NULL));
    struct waiter w = {.t = b, .host = host_of(m)};
    pthread_t thread;
    pthread_create(&thread, NULL, acquire_waiting, &w);
    usleep(50000);
    cr_assert_not(w.done);
    assert_ok(terrace_release(a, p, NULL));
    pthread_join(thread, NULL);
    cr_assert_eq(w.result, 0);
    terrace_close(m);
}

Test(acquire, nowait_starts_the_migration, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 9);
    push_down(t, m);
    simdisk_hold();
    void *p;
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL),
                 TERRACE_EAGAIN);
    cr_assert(simdisk_await_queued(SIZE / SIMDISK_CHUNK));
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL),
                 TERRACE_EAGAIN);
    simdisk_let_go();
    assert_ok(terrace_wait(t));
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL));
    cr_assert(pattern_is(p, SIZE, 9));
    cr_assert_eq(simdisk.read_bytes, SIZE);
    terrace_close(m);
}

Test(acquire, a_failed_read_is_reported_once_and_loses_nothing, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *t = tensor_of(m, SIZE, "layers/0/w"), *other = tensor_of(m, SIZE, "other");
    write_pattern(t, host_of(m), SIZE, 9);
    write_pattern(other, host_of(m), SIZE, 10);
    push_down(t, m);
    push_down(other, m);
    simdisk.fail_read = 3;
    void *p;
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, NULL), TERRACE_EIO);
    cr_assert(strstr(terrace_last_error(), "layers/0/w") && strstr(terrace_last_error(), "simulated disk"),
              "%s", terrace_last_error());
    cr_assert_eq(terrace_wait(t), 0, "it was reported already");
    expect_pattern(other, host_of(m), SIZE, 10);
    expect_pattern(t, host_of(m), SIZE, 9);
    cr_assert_eq(stats_of(m).io_errors, 1);
    terrace_close(m);
}

Test(acquire, a_read_that_fails_after_acquire_returned, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 9);
    push_down(t, m);
    void *p;
    for (int by_wait = 0; by_wait < 2; by_wait++) {
        simdisk.fail_read = 1;
        assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p, NULL),
                     TERRACE_EAGAIN);
        if (by_wait) {
            assert_fails(terrace_wait(t), TERRACE_EIO);
        } else {
            int r;
            while ((r = terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_NOWAIT, NULL, &p,
                                        NULL)) == -TERRACE_EAGAIN)
                usleep(1000);
            cr_assert_eq(r, -TERRACE_EIO);
        }
        cr_assert_eq(terrace_wait(t), 0);
    }
    expect_pattern(t, host_of(m), SIZE, 9);
    terrace_close(m);
}

Test(acquire, a_failed_overwrite_keeps_the_old_bytes)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *a = tensor_of(m, 2 * MIB, "a"), *b = tensor_of(m, 4 * MIB, "b");
    write_pattern(a, host_of(m), 2 * MIB, 1);
    push_down(a, m);
    terrace_access list[] = {
        {.size = sizeof list[0], .tensor = a, .tier = host_of(m), .mode = TERRACE_OVERWRITE},
        {.size = sizeof list[0], .tensor = b, .tier = host_of(m), .mode = TERRACE_READ},
    };
    assert_fails(terrace_acquire_all(list, 2, NULL), TERRACE_EBUDGET);
    expect_pattern(a, host_of(m), 2 * MIB, 1);
    terrace_close(m);
}

Test(acquire, all_or_none)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t[5];
    terrace_access list[5];
    for (int i = 0; i < 5; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
        list[i] = (terrace_access){.size = sizeof list[i], .tensor = t[i], .tier = host_of(m),
                                   .mode = TERRACE_READ, .address = &list};
    }
    assert_fails(terrace_acquire_all(list, 5, NULL), TERRACE_EBUDGET);
    cr_assert_eq(list[0].address, (void *)&list, "an output was written on failure");
    cr_assert_eq(tier_stats_of(m, 0).pinned, 0);
    assert_ok(terrace_acquire_all(list, 4, NULL));
    for (int i = 0; i < 4; i++) {
        cr_assert(pattern_is(list[i].address, SIZE, (uint64_t)i));
        cr_assert_eq(list[i].where, 0);
        assert_ok(terrace_release(t[i], list[i].address, NULL));
    }
    assert_ok(terrace_acquire_all(NULL, 0, NULL));
    list[1].size = 3;
    assert_fails(terrace_acquire_all(list, 2, NULL), TERRACE_EINVAL);
    terrace_close(m);
}

Test(acquire, a_list_may_name_a_tensor_twice, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    for (unsigned mode = TERRACE_READ; mode <= TERRACE_OVERWRITE; mode *= 2) {
        terrace_access list[2];
        for (int i = 0; i < 2; i++)
            list[i] = (terrace_access){.size = sizeof list[i], .tensor = t, .tier = host_of(m),
                                       .mode = mode};
        push_down(t, m);
        assert_ok(terrace_acquire_all(list, 2, NULL));
        cr_assert_eq(list[0].address, list[1].address);
        assert_ok(terrace_release(t, list[0].address, NULL));
        assert_ok(terrace_release(t, list[0].address, NULL));
        assert_fails(terrace_release(t, list[0].address, NULL), TERRACE_EINVAL);
    }
    terrace_close(m);
}

/* Threads that each want three of four tensors where only four fit by halves:
 * a thread that held one while it waited for others would block them all. */
struct grabber {
    terrace_tensor **t;
    terrace_tier host;
    int first;
};

static void *grab_lists(void *arg)
{
    struct grabber *g = arg;
    for (int round = 0; round < 200; round++) {
        terrace_access list[3];
        for (int i = 0; i < 3; i++)
            list[i] = (terrace_access){.size = sizeof list[i], .tensor = g->t[(g->first + i * 2) % 8],
                                       .tier = g->host, .mode = TERRACE_READ | TERRACE_WAIT};
        int r = terrace_acquire_all(list, 3, NULL);
        if (r)
            return (void *)terrace_last_error();
        for (int i = 0; i < 3; i++)
            if (!pattern_is(list[i].address, SIZE, (uint64_t)((g->first + i * 2) % 8)))
                return (void *)"wrong bytes";
        for (int i = 0; i < 3; i++)
            terrace_release(list[i].tensor, list[i].address, NULL);
    }
    return NULL;
}

Test(acquire, lists_do_not_deadlock, .timeout = 60)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t[8];
    for (int i = 0; i < 8; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        write_pattern(t[i], host_of(m), SIZE, (uint64_t)i);
    }
    struct grabber g[4];
    pthread_t thread[4];
    for (int i = 0; i < 4; i++) {
        g[i] = (struct grabber){t, host_of(m), i};
        pthread_create(&thread[i], NULL, grab_lists, &g[i]);
    }
    for (int i = 0; i < 4; i++) {
        void *failure;
        pthread_join(thread[i], &failure);
        cr_assert_null(failure, "%s", (char *)failure);
    }
    cr_assert(tier_stats_of(m, 0).peak <= 4 * MIB);
    terrace_close(m);
}

/* A list acquired, and released where that went well, in a thread of its own. */
struct lister {
    terrace_access list[3];
    size_t n;
    int result;
    pthread_t thread;
};

static void lister_add(struct lister *l, terrace_tensor *t, unsigned mode)
{
    l->list[l->n++] = (terrace_access){.size = sizeof l->list[0], .tensor = t, .mode = mode};
}

static void *lister_main(void *arg)
{
    struct lister *l = arg;
    l->result = terrace_acquire_all(l->list, l->n, NULL);
    for (size_t i = 0; l->result == 0 && i < l->n; i++)
        terrace_release(l->list[i].tensor, l->list[i].address, NULL);
    return NULL;
}

static void lister_start(struct lister *l)
{
    cr_assert_eq(pthread_create(&l->thread, NULL, lister_main, l), 0);
}

static void *expect_first_pattern(void *t)
{
    expect_pattern(t, 0, SIZE, 1);
    return NULL;
}

/* A reader waits for a tensor that a list is about to overwrite; then the list
 * fails on its other entry. */
Test(acquire, a_reader_outlives_a_list_that_fails, .timeout = 20)
{
    terrace *m = open_sim(8 * MIB, "log=off");
    terrace_tensor *x = tensor_of(m, SIZE, "x"), *y = tensor_of(m, SIZE, "y");
    write_pattern(x, 0, SIZE, 1);
    write_pattern(y, 0, SIZE, 2);
    push_down(x, m);
    push_down(y, m);
    terrace_tensor *z = tensor_of(m, 8 * MIB, "z");
    write_pattern(z, 0, 8 * MIB, 3); /* what was in memory is gone */
    terrace_tensor_destroy(z);
    struct lister l = {.n = 0};
    lister_add(&l, x, TERRACE_OVERWRITE);
    lister_add(&l, y, TERRACE_READ);
    pthread_t reader;
    simdisk_hold();
    simdisk.fail_read = 1;
    lister_start(&l);
    cr_assert(simdisk_await_queued(1));
    pthread_create(&reader, NULL, expect_first_pattern, x);
    usleep(50000);
    simdisk_let_go();
    pthread_join(l.thread, NULL);
    cr_assert_eq(l.result, -TERRACE_EIO);
    pthread_join(reader, NULL);
    expect_pattern(y, 0, SIZE, 2);
    terrace_close(m);
}

/* Each of two lists has got one tensor to overwrite when it finds the other's
 * in its way. The first is kept busy meanwhile by zeroing a large tensor. */
Test(acquire, crossed_lists_do_not_deadlock, .timeout = 30)
{
    terrace *m = open_sim(128 * MIB, NULL);
    terrace_tensor *x = tensor_of(m, SIZE, "x"), *y = tensor_of(m, SIZE, "y");
    struct lister a = {.n = 0}, b = {.n = 0};
    lister_add(&a, x, TERRACE_OVERWRITE);
    lister_add(&a, tensor_of(m, 96 * MIB, "large"), TERRACE_READ);
    lister_add(&a, y, TERRACE_OVERWRITE);
    lister_add(&b, y, TERRACE_OVERWRITE);
    lister_add(&b, x, TERRACE_OVERWRITE);
    lister_start(&a);
    for (bool begun = false; !begun;) {
        manager_lock(m);
        begun = x->copy[0].state != COPY_ABSENT;
        manager_unlock(m);
    }
    lister_start(&b);
    pthread_join(a.thread, NULL);
    pthread_join(b.thread, NULL);
    cr_assert(a.result == 0 && b.result == 0);
    terrace_close(m);
}

/* Two threads take pairs of new tensors in opposite order at the same moment. */
enum { PAIRS = 1000 };

struct pairer {
    terrace_tensor **t;
    int first;
    unsigned mode;
    pthread_barrier_t *barrier;
};

static void *take_pairs(void *arg)
{
    struct pairer *g = arg;
    for (int i = 0; i < PAIRS; i++) {
        struct lister l = {.n = 0};
        lister_add(&l, g->t[2 * i + g->first], TERRACE_OVERWRITE);
        lister_add(&l, g->t[2 * i + !g->first], g->mode);
        pthread_barrier_wait(g->barrier);
        lister_main(&l);
        assert_ok(l.result);
    }
    return NULL;
}

Test(acquire, pairs_in_opposite_order_do_not_deadlock, .timeout = 30)
{
    static terrace_tensor *t[2 * PAIRS];
    static const unsigned modes[] = {TERRACE_OVERWRITE, TERRACE_READ};
    for (int k = 0; k < 2; k++) {
        terrace *m = open_sim(64 * MIB, NULL);
        for (int i = 0; i < 2 * PAIRS; i++)
            t[i] = tensor_of(m, 4 * KIB, "t");
        pthread_barrier_t barrier;
        pthread_barrier_init(&barrier, NULL, 2);
        pthread_t thread;
        struct pairer g[2] = {{t, 0, modes[k], &barrier}, {t, 1, modes[k], &barrier}};
        pthread_create(&thread, NULL, take_pairs, &g[0]);
        take_pairs(&g[1]);
        pthread_join(thread, NULL);
        pthread_barrier_destroy(&barrier);
        terrace_close(m);
    }
}

Test(acquire, destroy_while_acquired_is_deferred)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    unsigned char *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_OVERWRITE, NULL, (void **)&p, NULL));
    terrace_tensor_destroy(t);
    memset(p, 1, SIZE);
    cr_assert_eq(stats_of(m).tensors, 1);
    assert_ok(terrace_release(t, p, NULL));
    cr_assert_eq(stats_of(m).tensors, 0);
    cr_assert_eq(stats_of(m).tensor_bytes, 0);
    terrace_tensor_destroy(NULL);
    terrace_close(m);
}

Test(acquire, destroy_while_moving_is_deferred, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simdisk_await_queued(1));
    terrace_tensor_destroy(t);
    cr_assert_eq(stats_of(m).tensors, 1);
    simdisk_let_go();
    for (int i = 0; i < 5000 && stats_of(m).tensors; i++)
        usleep(1000);
    cr_assert_eq(stats_of(m).tensors, 0);
    terrace_close(m);
}

Test(acquire, a_write_during_write_back_wins, .timeout = 20)
{
    for (int verified = 0; verified < 2; verified++) {
        terrace *m = open_sim(4 * MIB, verified ? "verify=spill" : NULL);
        terrace_tensor *t = tensor_of(m, SIZE, "t");
        write_pattern(t, host_of(m), SIZE, 1);
        simdisk_hold();
        assert_ok(terrace_demote(t, disk_of(m)));
        cr_assert(simdisk_await_queued(1));
        struct waiter w = {.t = t, .host = host_of(m)};
        pthread_t thread;
        pthread_create(&thread, NULL, acquire_waiting, &w);
        if (verified) { /* bytes being sealed may not change */
            usleep(20000);
            cr_assert_not(w.done);
        } else {
            eventually(w.done);
        }
        simdisk_let_go();
        pthread_join(thread, NULL);
        write_pattern(t, host_of(m), SIZE, 2);
        push_down(t, m);
        expect_pattern(t, host_of(m), SIZE, 2);
        cr_assert_gt(stats_of(m).wasted_bytes, 0);
        terrace_close(m);
    }
}

Test(acquire, readers_do_not_stop_write_back, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simdisk_await_queued(1));
    void *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &p, NULL));
    simdisk_let_go();
    assert_ok(terrace_wait(t));
    cr_assert(pattern_is(p, SIZE, 1));
    assert_ok(terrace_release(t, p, NULL));
    cr_assert_eq(tier_stats_of(m, 0).dirty, 0);
    cr_assert_eq(stats_of(m).wasted_bytes, 0);
    terrace_close(m);
}

static void *let_go_soon(void *unused)
{
    usleep(50000);
    simdisk_let_go();
    return unused;
}

Test(acquire, waiting_for_a_sealed_write_back_is_a_stall, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "verify=spill");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    simdisk_hold();
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simdisk_await_queued(1));
    uint64_t before = stats_of(m).stall_ns;
    pthread_t thread;
    pthread_create(&thread, NULL, let_go_soon, NULL);
    void *p;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_WRITE, NULL, &p, NULL));
    pthread_join(thread, NULL);
    cr_assert_gt(stats_of(m).stall_ns, before + 1000000);
    terrace_close(m);
}

/* Where nobody holds anything no release can come, and WAIT must not wait for one. */
static void wait_alone(const char *tiers, const char *more, unsigned flags)
{
    terrace *m = open_with(tiers, 2 * MIB, more);
    terrace_tensor_attr attr = {.size = sizeof attr, .flags = flags};
    terrace_tensor *t;
    void *p;
    for (uint64_t i = 0; i < 2; i++) {
        assert_ok(terrace_tensor_create(m, SIZE, &attr, &t));
        write_pattern(t, host_of(m), SIZE, i);
    }
    t = tensor_of(m, SIZE, "one more");
    assert_fails(terrace_acquire(t, host_of(m), TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL),
                 TERRACE_EBUDGET);
    terrace_close(m);
}

Test(acquire, wait_does_not_wait_without_a_disk, .timeout = 10)
{
    wait_alone("numa:0", NULL, 0);
}

Test(acquire, wait_does_not_wait_without_a_policy, .timeout = 10)
{
    wait_alone("numa:0,simdisk:0", "policy=none", 0);
}

Test(acquire, wait_does_not_wait_for_what_never_moves, .timeout = 10)
{
    wait_alone("numa:0,simdisk:0", NULL, TERRACE_ATTR_UNMOVABLE);
}

static void *acquire_reading(void *arg)
{
    struct waiter *w = arg;
    void *p;
    w->result = terrace_acquire(w->t, w->host, TERRACE_READ, NULL, &p, NULL);
    return NULL;
}

Test(acquire, wait_goes_on_when_the_acquire_before_it_fails, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "log=off");
    struct waiter x = {.t = tensor_of(m, 3 * MIB, "x"), .host = host_of(m)};
    struct waiter y = {.t = tensor_of(m, 2 * MIB, "y"), .host = host_of(m)};
    pthread_t x_thread, y_thread;
    write_pattern(x.t, host_of(m), 3 * MIB, 1);
    push_down(x.t, m);
    simdisk_hold();
    simdisk_fault(&simdisk.fail_read, 1);
    pthread_create(&x_thread, NULL, acquire_reading, &x);
    cr_assert(simdisk_await_queued(1));
    pthread_create(&y_thread, NULL, acquire_waiting, &y);
    usleep(50000);
    simdisk_let_go();
    pthread_join(x_thread, NULL);
    cr_assert_eq(x.result, -TERRACE_EIO);
    pthread_join(y_thread, NULL);
    cr_assert_eq(y.result, 0);
    terrace_close(m);
}

Test(acquire, a_checked_tensor_that_was_evicted_can_be_written, .timeout = 20)
{
    terrace *m = open_sim(4 * MIB, "verify=spill");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p;
    write_pattern(t, host_of(m), SIZE, 1);
    push_down(t, m);
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_WRITE, NULL, &p, NULL));
    cr_assert(pattern_is(p, SIZE, 1));
    terrace_close(m);
}

Test(acquire, one_failed_read_with_several_readers, .timeout = 20)
{
    enum { READERS = 4 };
    terrace *m = open_sim(4 * MIB, "log=off");
    struct waiter w[READERS];
    pthread_t thread[READERS];
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, host_of(m), SIZE, 1);
    push_down(t, m);
    simdisk_hold();
    simdisk_fault(&simdisk.fail_read, 1);
    for (int i = 0; i < READERS; i++) {
        w[i] = (struct waiter){.t = t, .host = host_of(m)};
        pthread_create(&thread[i], NULL, acquire_reading, &w[i]);
    }
    cr_assert(simdisk_await_queued(1));
    usleep(50000);
    simdisk_let_go();
    int failed = 0;
    for (int i = 0; i < READERS; i++) {
        pthread_join(thread[i], NULL);
        cr_assert(w[i].result == 0 || w[i].result == -TERRACE_EIO);
        failed += w[i].result != 0;
    }
    cr_assert_eq(failed, 1, "the failure is told once, and the others read again");
    terrace_close(m);
}
