/* test_gates.c - streams that wait for bytes which are still on a disk: the acquire
 * returns, and the work behind it finds them. Device, streams and disk are simulated:
 * a stream's work is done when the test, in the device's place, runs it, and the disk
 * is held for as long as the test wants. */
#include <stdatomic.h>

#include "gate.h"
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { SIZE = MIB };

static struct {
    terrace *m;
    terrace_tier dev, host;
} d;
static struct simstream one = {.known = true}, two = {.known = true};

static void open_device(size_t device, size_t host, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_simdev=%zu;%s", device, more ? more : "");
    d.m = open_with("simdev:0,numa:0,simdisk:0", host, conf);
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    d.host = host_of(d.m);
}

static void close_device(void)
{
    terrace_close(d.m);
    cr_assert_eq(simgates_kept, 0, "%u gates were not forgotten", simgates_kept);
    cr_assert_eq(simgates_barred, 0, "memory was changed %u times while a stream waited", simgates_barred);
    cr_assert_eq(simstream_events_now(), 0);
}

/* Work on the device. */
struct kernel {
    void *at;
    size_t bytes;
    uint64_t seed;
    bool right;
};

static void kernel_write(void *arg)
{
    struct kernel *k = arg;
    pattern_fill(simnode_at(&simdev, (uintptr_t)k->at), k->bytes, k->seed);
}

static void kernel_check(void *arg)
{
    struct kernel *k = arg;
    k->right = pattern_is(simnode_at(&simdev, (uintptr_t)k->at), k->bytes, k->seed);
}

/* A tensor whose bytes are on the disk alone. */
static terrace_tensor *on_disk(size_t bytes, const char *label, uint64_t seed)
{
    terrace_tensor *t = tensor_of(d.m, bytes, label);
    write_pattern(t, d.host, bytes, seed);
    push_down(t, d.m);
    eventually(tier_stats_of(d.m, 1).tensors == 0);
    return t;
}

/* Acquires in a stream and puts work into it. */
static struct kernel *begin(terrace_tensor *t, size_t bytes, struct simstream *s, unsigned mode, uint64_t seed)
{
    struct kernel *k = calloc(1, sizeof *k);
    k->seed = seed;
    k->bytes = bytes;
    assert_ok(terrace_acquire(t, d.dev, mode, s, &k->at, NULL));
    simstream_launch(s, mode == TERRACE_READ ? kernel_check : kernel_write, k);
    return k;
}

static struct kernel *launch(terrace_tensor *t, struct simstream *s, unsigned mode, uint64_t seed)
{
    struct kernel *k = begin(t, SIZE, s, mode, seed);
    assert_ok(terrace_release(t, k->at, s));
    return k;
}

static void run_all(struct simstream *s)
{
    eventually(simstream_run(s));
}

static void stands(struct simstream *s)
{
    for (int i = 0; i < 20; i++) {
        cr_assert_not(simstream_run(s), "the work did not wait for its bytes");
        usleep(1000);
    }
}

/* An acquire by another thread. */
struct other {
    pthread_t thread;
    terrace_tensor *t;
    terrace_tier tier;
    unsigned mode;
    void *stream;
    int result;
    atomic_bool there;
};

static void *other_main(void *arg)
{
    struct other *o = arg;
    void *p;
    o->result = terrace_acquire(o->t, o->tier, o->mode, o->stream, &p, NULL);
    if (o->result == 0)
        o->result = terrace_release(o->t, p, o->stream);
    atomic_store(&o->there, true);
    return NULL;
}

static void other_starts(struct other *o, terrace_tensor *t, terrace_tier tier, unsigned mode, void *stream)
{
    *o = (struct other){.t = t, .tier = tier, .mode = mode, .stream = stream};
    cr_assert_eq(pthread_create(&o->thread, NULL, other_main, o), 0);
}

static bool other_waits(struct other *o)
{
    usleep(50000);
    return !atomic_load(&o->there);
}

static void other_ends(struct other *o, int result)
{
    pthread_join(o->thread, NULL);
    cr_assert_eq(o->result, result, "%s", terrace_strerror(o->result));
}

/* ---- bytes that come ------------------------------------------------------ */

Test(gates, the_stream_waits_for_the_disk_and_not_the_host, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 1);
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 1);
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right, "the kernel did not find its bytes");
    cr_assert_eq(stats_of(d.m).stream_waits, 1);
    close_device();
}

Test(gates, also_where_they_are_on_their_way_to_the_host, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 2);
    simdisk_hold();
    assert_ok(terrace_prefetch(t, d.host));
    cr_assert(simdisk_await_queued(1));
    struct kernel *k = launch(t, &one, TERRACE_READ, 2);
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

/* Of a large tensor the device has not taken all, nor even half. */
Test(gates, also_for_what_the_device_has_not_taken_all_of, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 3);
    simnode_hold(&simdev, true);
    struct kernel *k = launch(t, &one, TERRACE_READ, 3);
    stands(&one);
    simnode_hold(&simdev, false);
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

Test(gates, what_a_writer_left_is_what_others_get, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk(SIZE, "t", 4);
    simdisk_hold();
    struct kernel *r = begin(t, SIZE, &one, TERRACE_WRITE, 5), before = *r;
    before.seed = 4;
    one.put--; /* first it is looked at */
    simstream_launch(&one, kernel_check, &before);
    simstream_launch(&one, kernel_write, r);
    assert_ok(terrace_release(t, r->at, &one));
    other_starts(&o, t, d.host, TERRACE_READ, NULL);
    cr_assert(other_waits(&o));
    simdisk_let_go();
    run_all(&one);
    cr_assert(before.right, "the bytes it builds on were not there");
    other_ends(&o, 0);
    expect_pattern(t, d.host, SIZE, 5);
    close_device();
}

Test(gates, two_streams_wait_for_the_same_bytes, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 6);
    simdisk_hold();
    struct kernel *a = launch(t, &one, TERRACE_READ, 6), *b = launch(t, &two, TERRACE_READ, 6);
    stands(&one);
    stands(&two);
    simdisk_let_go();
    run_all(&two);
    run_all(&one);
    cr_assert(a->right && b->right);
    close_device();
}

Test(gates, a_list_of_them, .timeout = 60)
{
    enum { N = 4 };
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_access list[N];
    struct kernel k[N];
    for (int i = 0; i < N; i++)
        list[i] = (terrace_access){.size = sizeof list[0], .tensor = on_disk(SIZE, "t", 10 + (uint64_t)i),
                                   .tier = d.dev, .mode = TERRACE_READ};
    simdisk_hold();
    assert_ok(terrace_acquire_all(list, N, &one));
    for (int i = 0; i < N; i++) {
        k[i] = (struct kernel){list[i].address, SIZE, 10 + (uint64_t)i, false};
        simstream_launch(&one, kernel_check, &k[i]);
        assert_ok(terrace_release(list[i].tensor, list[i].address, &one));
    }
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    for (int i = 0; i < N; i++)
        cr_assert(k[i].right, "tensor %d", i);
    close_device();
}

/* Once they are used on the device. */
Test(gates, small_tensors_wait_for_their_group, .timeout = 60)
{
    enum { FEW = 8 * KIB };
    open_device(16 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, FEW, "small");
    struct kernel *w = begin(t, FEW, &one, TERRACE_OVERWRITE, 7);
    w->seed = 7;
    run_all(&one);
    assert_ok(terrace_release(t, w->at, &one));
    push_down(t, d.m);
    eventually(tier_stats_of(d.m, 0).tensors + tier_stats_of(d.m, 1).tensors == 0);
    simdisk_hold();
    struct kernel *k = begin(t, FEW, &one, TERRACE_READ, 7);
    assert_ok(terrace_release(t, k->at, &one));
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

Test(gates, spill_that_is_encrypted, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, "encrypt=1");
    terrace_tensor *t = on_disk(SIZE, "t", 8);
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 8);
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

/* ---- what stays as it is -------------------------------------------------- */

Test(gates, host_sync_and_nowait_are_as_ever, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    void *p;
    terrace_tensor *t = on_disk(SIZE, "t", 9);
    simdisk_hold();
    assert_fails(terrace_acquire(t, d.dev, TERRACE_READ | TERRACE_NOWAIT, &one, &p, NULL), TERRACE_EAGAIN);
    other_starts(&o, t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC);
    cr_assert(other_waits(&o));
    simdisk_let_go();
    other_ends(&o, 0);
    cr_assert_eq(stats_of(d.m).stream_waits, 0);
    close_device();
}

/* The backend has no more gates, or the stream cannot follow any: the host waits. */
static void without(bool *why)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk(SIZE, "t", 10);
    *why = true;
    simdisk_hold();
    other_starts(&o, t, d.dev, TERRACE_READ, &one);
    cr_assert(other_waits(&o));
    simdisk_let_go();
    other_ends(&o, 0);
    run_all(&one);
    struct kernel *k = launch(t, &one, TERRACE_READ, 10);
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

Test(gates, there_are_no_more, .timeout = 60) { without(&simgates_none); }
Test(gates, a_stream_that_cannot_wait, .timeout = 60) { without(&simgates_refused); }

/* And is told by the release that they have not come. */
Test(gates, a_stream_that_cannot_wait_and_bytes_that_do_not_come, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk(SIZE, "t", 11);
    simgates_refused = true;
    simdisk_hold();
    other_starts(&o, t, d.dev, TERRACE_READ, &one);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(&simdisk.fail_read, 1);
    simdisk_let_go();
    other_ends(&o, -TERRACE_EIO);
    run_all(&one);
    expect_pattern(t, d.host, SIZE, 11);
    close_device();
}

/* ---- bytes that do not come ----------------------------------------------- */

/* The stream goes on, the release says why, what was written is discarded. */
static void broken_before_the_release(int *counter, int error)
{
    terrace_tensor *t = on_disk(SIZE, "t", 20);
    simdisk_hold();
    struct kernel *k = begin(t, SIZE, &one, TERRACE_WRITE, 21);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(counter, 1);
    simdisk_let_go();
    run_all(&one);
    cr_assert_eq(terrace_release(t, k->at, &one), -error);
    cr_assert_not_null(strstr(terrace_last_error(), "'t'"), "%s", terrace_last_error());
    run_all(&one);
    expect_pattern(t, d.host, SIZE, 20);
    struct kernel *r = launch(t, &two, TERRACE_READ, 20);
    run_all(&two);
    cr_assert(r->right);
    close_device();
}

Test(gates, a_disk_that_fails_before_the_release, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    broken_before_the_release(&simdisk.fail_read, TERRACE_EIO);
}

Test(gates, bytes_that_are_not_those_written, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, "verify=spill");
    broken_before_the_release(&simdisk.flip, TERRACE_ECORRUPT);
}

Test(gates, a_disk_that_fails_after_the_release, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 22);
    simdisk_hold();
    launch(t, &one, TERRACE_WRITE, 23);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(&simdisk.fail_read, 1);
    simdisk_let_go();
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    run_all(&one);
    expect_pattern(t, d.host, SIZE, 22);
    close_device();
}

Test(gates, a_device_that_fails_the_second_half, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 24);
    simdisk_hold();
    struct kernel *k = begin(t, SIZE, &one, TERRACE_WRITE, 25);
    simnode_hold(&simdev, true);
    simdev.fail = true;
    simnode_hold(&simdev, false);
    simdisk_let_go();
    run_all(&one);
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    simdev.fail = false;
    cr_assert_eq(terrace_release(t, k->at, &one), -TERRACE_EIO);
    run_all(&one);
    expect_pattern(t, d.host, SIZE, 24);
    close_device();
}

Test(gates, two_streams_that_wait_in_vain, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 26);
    simdisk_hold();
    struct kernel *a = begin(t, SIZE, &one, TERRACE_READ, 26), *b = begin(t, SIZE, &two, TERRACE_READ, 26);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(&simdisk.fail_read, 1);
    simdisk_let_go();
    run_all(&one);
    run_all(&two);
    cr_assert_eq(terrace_release(t, a->at, &one), -TERRACE_EIO);
    cr_assert_eq(terrace_release(t, b->at, &two), -TERRACE_EIO, "each is told of it");
    run_all(&one);
    run_all(&two);
    expect_pattern(t, d.host, SIZE, 26);
    close_device();
}

Test(gates, a_device_that_is_lost_meanwhile, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 27);
    simdisk_hold();
    struct kernel *k = begin(t, SIZE, &one, TERRACE_WRITE, 28);
    simdev_lose();
    simnode_hold(&simdev, true);
    simdev.fail = true;
    simnode_hold(&simdev, false);
    simdisk_let_go();
    eventually(simgates_now() == 0);
    cr_assert_lt(terrace_release(t, k->at, &one), 0);
    expect_pattern(t, d.host, SIZE, 27);
    close_device();
}

Test(gates, copies_that_do_not_move, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 29);
    gate_patience_ns = 100 * 1000000;
    simdisk_hold();
    simnode_hold(&simdev, true);
    struct kernel *k = begin(t, SIZE, &one, TERRACE_WRITE, 30);
    simdisk_let_go();
    run_all(&one); /* now what was in the way is not any more */
    simnode_hold(&simdev, false);
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    cr_assert_not_null(strstr(terrace_last_error(), "have not moved"), "%s", terrace_last_error());
    cr_assert_eq(terrace_release(t, k->at, &one), -TERRACE_EIO);
    run_all(&one);
    expect_pattern(t, d.host, SIZE, 29);
    close_device();
}

/* ---- memory meanwhile ------------------------------------------------------ */

/* Memory for others is taken when the streams have their bytes, not before. */
Test(gates, others_who_need_memory_wait, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk(SIZE, "t", 31), *u = tensor_of(d.m, SIZE, "u");
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 31);
    other_starts(&o, u, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC);
    cr_assert(other_waits(&o), "memory was taken while a stream waited");
    simdisk_let_go();
    other_ends(&o, 0);
    run_all(&one);
    cr_assert(k->right);
    close_device();
}

Test(gates, nobody_begins_to_wait_while_others_need_memory, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o, p;
    terrace_tensor *t = on_disk(SIZE, "t", 32), *v = on_disk(SIZE, "v", 33), *u = tensor_of(d.m, SIZE, "u");
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 32);
    other_starts(&o, u, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC);
    cr_assert(other_waits(&o));
    other_starts(&p, v, d.dev, TERRACE_READ, &two);
    cr_assert(other_waits(&p), "it would be put off for ever");
    simdisk_let_go();
    other_ends(&o, 0);
    other_ends(&p, 0);
    run_all(&one);
    run_all(&two);
    cr_assert(k->right);
    close_device();
}

/* A lane takes none at all: it has gates to open. */
Test(gates, prefetches_wait_for_their_memory, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 35), *u = tensor_of(d.m, SIZE, "u");
    write_pattern(u, d.host, SIZE, 36);
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 35);
    assert_ok(terrace_prefetch(u, d.dev));
    stands(&one);
    cr_assert_eq(tier_stats_of(d.m, d.dev).tensors, 0);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right);
    eventually(tier_stats_of(d.m, d.dev).tensors == 2);
    close_device();
}

/* The device is full of what has to leave, by way of the host, whose memory has to be
 * made room in, too. */
Test(gates, memory_is_short_everywhere, .timeout = 120)
{
    enum { N = 40 };
    terrace_tensor *t[N];
    struct kernel *k[N];
    open_device(3 * MIB, 4 * MIB, NULL);
    for (int i = 0; i < N; i++)
        t[i] = on_disk(SIZE, "t", 100 + (uint64_t)i);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < N; i++) {
            k[i] = launch(t[i], &one, round == 1 ? TERRACE_WRITE : TERRACE_READ,
                          (uint64_t)(i + (round > 0 ? 200 : 100)));
            while (!simstream_run(&one))
                usleep(100);
            cr_assert(round == 1 || k[i]->right, "tensor %d in round %d", i, round);
        }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, SIZE, (uint64_t)(i + 200));
    close_device();
}

/* ---- the end of things ----------------------------------------------------- */

Test(gates, a_tensor_that_is_destroyed_meanwhile, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk(SIZE, "t", 40);
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 40);
    terrace_tensor_destroy(t);
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    cr_assert(k->right, "its last use was not over");
    eventually(stats_of(d.m).tensors == 0 && tier_stats_of(d.m, d.dev).tensors == 0);
    close_device();
}

Test(gates, close_waits_for_the_bytes, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    pthread_t thread;
    terrace_tensor *t = on_disk(SIZE, "t", 41);
    simdisk_hold();
    struct kernel *k = launch(t, &one, TERRACE_READ, 41);
    cr_assert_eq(pthread_create(&thread, NULL, (void *(*)(void *))(void *)terrace_close, d.m), 0);
    stands(&one);
    simdisk_let_go();
    run_all(&one);
    pthread_join(thread, NULL);
    cr_assert(k->right);
    cr_assert_eq(simgates_kept, 0);
}

/* ---- all at once ----------------------------------------------------------- */

enum { THREADS = 3, TENSORS = 10, ROUNDS = 150 };
static struct slot {
    pthread_mutex_t lock;
    terrace_tensor *tensor;
    uint64_t seed;
} slots[TENSORS];
static atomic_bool ended;
static atomic_uint wrong;
static struct simstream streams[THREADS];

static void *device_main(void *arg)
{
    (void)arg;
    while (!atomic_load(&ended)) {
        for (int i = 0; i < THREADS; i++)
            simstream_run(&streams[i]);
        usleep(50);
    }
    return NULL;
}

static void kernel_change(void *arg)
{
    struct kernel *k = arg;
    void *at = simnode_at(&simdev, (uintptr_t)k->at);
    if (!pattern_is(at, SIZE, k->seed))
        atomic_fetch_add(&wrong, 1);
    if (k->right)
        pattern_fill(at, SIZE, k->seed + 1);
    free(k);
}

static void *user_main(void *number)
{
    uint64_t random = (uintptr_t)number + 1;
    struct simstream *s = &streams[(uintptr_t)number];
    for (int i = 0; i < ROUNDS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        struct slot *t = &slots[(random >> 33) % TENSORS];
        unsigned how = random >> 60;
        struct kernel *k = calloc(1, sizeof *k);
        pthread_mutex_lock(&t->lock);
        k->seed = t->seed;
        k->right = how & 1;
        assert_ok(terrace_acquire(t->tensor, d.dev, (k->right ? TERRACE_WRITE : TERRACE_READ) | TERRACE_WAIT, s, &k->at, NULL));
        t->seed += k->right;
        void *at = k->at;
        simstream_launch(s, kernel_change, k);
        assert_ok(terrace_release(t->tensor, at, s));
        if (how >> 2 == 0)
            assert_ok(terrace_demote(t->tensor, disk_of(d.m)));
        pthread_mutex_unlock(&t->lock);
    }
    return NULL;
}

Test(gates, threads_and_streams_at_once, .timeout = 240)
{
    pthread_t device, user[THREADS];
    open_device(4 * MIB, 6 * MIB, NULL);
    for (int i = 0; i < TENSORS; i++) {
        pthread_mutex_init(&slots[i].lock, NULL);
        slots[i].tensor = tensor_of(d.m, SIZE, "t");
        write_pattern(slots[i].tensor, d.host, SIZE, slots[i].seed = 1000 * (uint64_t)i);
        push_down(slots[i].tensor, d.m);
    }
    simdisk.latency_ns = 200000;
    for (int i = 0; i < THREADS; i++)
        streams[i].known = true;
    cr_assert_eq(pthread_create(&device, NULL, device_main, NULL), 0);
    for (int i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&user[i], NULL, user_main, (void *)(uintptr_t)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(user[i], NULL);
    for (int i = 0; i < TENSORS; i++)
        expect_pattern(slots[i].tensor, d.host, SIZE, slots[i].seed);
    cr_assert_eq(wrong, 0, "%u kernels did not find their bytes", wrong);
    cr_assert_gt(stats_of(d.m).stream_waits, 0);
    terrace_close(d.m);
    atomic_store(&ended, true);
    pthread_join(device, NULL);
    cr_assert_eq(simgates_kept, 0);
    cr_assert_eq(simgates_barred, 0);
}
