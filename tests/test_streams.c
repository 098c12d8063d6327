/* test_streams.c - uses of tensors that go on in a device's stream after release.
 * Device, streams and disk are simulated: a stream's work is done when the test, in
 * the device's place, runs it. */
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { SIZE = MIB };

static struct {
    terrace *m;
    terrace_tier dev, host;
} d;
static struct simstream one = {.known = true}, two = {.known = true}, unknown;

static void open_device(size_t device)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_simdev=%zu", device);
    d.m = open_with("simdev:0,numa:0,simdisk:0", 16 * MIB, conf);
    assert_ok(terrace_tier_find(d.m, "simdev:0", &d.dev));
    d.host = host_of(d.m);
}

/* Work on the device. */
struct kernel {
    void *at;
    uint64_t seed;
    bool right;
};

static void kernel_write(void *arg)
{
    struct kernel *k = arg;
    pattern_fill(simnode_at(&simdev, (uintptr_t)k->at), SIZE, k->seed);
}

static void kernel_check(void *arg)
{
    struct kernel *k = arg;
    k->right = pattern_is(simnode_at(&simdev, (uintptr_t)k->at), SIZE, k->seed);
}

/* Puts work on the tensor into the stream. */
static struct kernel *launch(terrace_tensor *t, struct simstream *s, unsigned mode, uint64_t seed)
{
    struct kernel *k = calloc(1, sizeof *k);
    k->seed = seed;
    assert_ok(terrace_acquire(t, d.dev, mode, s, &k->at, NULL));
    simstream_launch(s, mode == TERRACE_READ ? kernel_check : kernel_write, k);
    assert_ok(terrace_release(t, k->at, s));
    return k;
}

/* The device gets to the end, once the bytes it waits for are there. */
static void run_all(struct simstream *s)
{
    eventually(simstream_run(s));
}

/* An acquire by another thread. */
struct other {
    pthread_t thread;
    terrace_tensor *t;
    terrace_tier tier;
    unsigned mode;
    uint64_t seed; /* what a reader on the host expects */
    bool right;
    int result;
    atomic_bool there;
};

static void *other_main(void *arg)
{
    struct other *o = arg;
    void *p;
    o->result = terrace_acquire(o->t, o->tier, o->mode, TERRACE_HOST_SYNC, &p, NULL);
    if (o->result == 0) {
        const void *at = o->tier == d.dev ? simnode_at(&simdev, (uintptr_t)p) : p;
        o->right = !(o->mode & TERRACE_READ) || pattern_is(at, SIZE, o->seed);
        o->result = terrace_release(o->t, p, TERRACE_HOST_SYNC);
    }
    atomic_store(&o->there, true);
    return NULL;
}

static void other_starts(struct other *o, terrace_tensor *t, terrace_tier tier, unsigned mode, uint64_t seed)
{
    *o = (struct other){.t = t, .tier = tier, .mode = mode, .seed = seed};
    cr_assert_eq(pthread_create(&o->thread, NULL, other_main, o), 0);
}

static bool other_waits(struct other *o)
{
    usleep(50000);
    return !atomic_load(&o->there);
}

static void other_succeeds(struct other *o)
{
    pthread_join(o->thread, NULL);
    cr_assert_eq(o->result, 0, "%s", terrace_strerror(o->result));
    cr_assert(o->right, "not the bytes of seed %llu", (unsigned long long)o->seed);
}

Test(streams, the_host_waits_for_what_a_stream_writes, .timeout = 60)
{
    open_device(8 * MIB);
    struct other o;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    launch(t, &one, TERRACE_WRITE, 2);
    other_starts(&o, t, d.host, TERRACE_READ, 2);
    cr_assert(other_waits(&o));
    run_all(&one);
    other_succeeds(&o);
    terrace_close(d.m);
}

Test(streams, the_host_reads_beside_a_stream_that_reads, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    struct kernel *k = launch(t, &one, TERRACE_READ, 1);
    expect_pattern(t, d.host, SIZE, 1);
    run_all(&one);
    cr_assert(k->right);
    terrace_close(d.m);
}

Test(streams, the_host_does_not_write_under_a_stream_that_reads, .timeout = 60)
{
    open_device(8 * MIB);
    struct other o;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    struct kernel *k = launch(t, &one, TERRACE_READ, 1);
    other_starts(&o, t, d.host, TERRACE_OVERWRITE, 0);
    cr_assert(other_waits(&o));
    run_all(&one);
    cr_assert(k->right);
    other_succeeds(&o);
    terrace_close(d.m);
}

Test(streams, host_sync_on_the_device_waits, .timeout = 60)
{
    open_device(8 * MIB);
    struct other o;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    launch(t, &one, TERRACE_OVERWRITE, 3);
    other_starts(&o, t, d.dev, TERRACE_READ, 3);
    cr_assert(other_waits(&o));
    run_all(&one);
    other_succeeds(&o);
    terrace_close(d.m);
}

Test(streams, nothing_leaves_under_a_stream, .timeout = 60)
{
    open_device(2 * MIB); /* one large tensor or two */
    struct other o;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t"), *big = tensor_of(d.m, 2 * MIB, "big");
    struct kernel *k = launch(t, &one, TERRACE_OVERWRITE, 4), *r = launch(t, &one, TERRACE_READ, 4);
    other_starts(&o, big, d.dev, TERRACE_OVERWRITE, 0);
    cr_assert(other_waits(&o));
    run_all(&one);
    other_succeeds(&o);
    cr_assert(r->right);
    expect_pattern(t, d.host, SIZE, k->seed);
    terrace_close(d.m);
}

Test(streams, room_is_not_an_error_while_a_stream_goes_on, .timeout = 60)
{
    open_device(2 * MIB);
    void *p;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t"), *big = tensor_of(d.m, 2 * MIB, "big");
    launch(t, &one, TERRACE_OVERWRITE, 4);
    assert_fails(terrace_acquire(big, d.dev, TERRACE_OVERWRITE | TERRACE_NOWAIT, &two, &p, NULL), TERRACE_EAGAIN);
    run_all(&one);
    int r = -TERRACE_EAGAIN;
    for (int i = 0; i < 5000 && r == -TERRACE_EAGAIN; i++) {
        r = terrace_acquire(big, d.dev, TERRACE_OVERWRITE | TERRACE_NOWAIT, &two, &p, NULL);
        usleep(1000);
    }
    assert_ok(r);
    assert_ok(terrace_release(big, p, &two));
    terrace_close(d.m);
}

Test(streams, a_stream_follows_another_that_writes, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    launch(t, &one, TERRACE_OVERWRITE, 5);
    struct kernel *r = launch(t, &two, TERRACE_READ, 5);
    cr_assert_not(simstream_run(&two), "it read what had not been written");
    run_all(&one);
    run_all(&two);
    cr_assert(r->right);
    terrace_close(d.m);
}

Test(streams, a_writer_follows_readers_and_these_nobody, .timeout = 60)
{
    open_device(8 * MIB);
    static struct simstream three = {.known = true};
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 6);
    struct kernel *a = launch(t, &one, TERRACE_READ, 6), *b = launch(t, &two, TERRACE_READ, 6);
    launch(t, &three, TERRACE_WRITE, 7);
    cr_assert_not(simstream_run(&three));
    run_all(&two); /* a reader does not wait for a reader */
    cr_assert_not(simstream_run(&three), "it has not been read by all");
    run_all(&one);
    run_all(&three);
    cr_assert(a->right && b->right);
    expect_pattern(t, d.host, SIZE, 7);
    terrace_close(d.m);
}

Test(streams, the_memory_of_a_destroyed_tensor_waits_for_the_stream, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    launch(t, &one, TERRACE_OVERWRITE, 8);
    terrace_tensor_destroy(t);
    usleep(20000);
    cr_assert_eq(tier_stats_of(d.m, d.dev).tensors, 1, "it was freed under the device's work");
    run_all(&one);
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    terrace_close(d.m);
    cr_assert_eq(simstream_events_now(), 0);
}

Test(streams, a_demotion_waits_for_the_stream, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    launch(t, &one, TERRACE_OVERWRITE, 9);
    assert_ok(terrace_demote(t, d.host));
    usleep(20000);
    cr_assert_eq(tier_stats_of(d.m, d.dev).tensors, 1);
    run_all(&one);
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    expect_pattern(t, d.host, SIZE, 9);
    terrace_close(d.m);
}

Test(streams, close_waits_for_the_stream, .timeout = 60)
{
    open_device(8 * MIB);
    pthread_t thread;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    struct kernel *k = launch(t, &one, TERRACE_OVERWRITE, 10);
    cr_assert_eq(pthread_create(&thread, NULL, (void *(*)(void *))(void *)terrace_close, d.m), 0);
    usleep(50000);
    run_all(&one);
    pthread_join(thread, NULL);
    cr_assert_eq(simstream_events_now(), 0);
    free(k);
}

Test(streams, one_stream_used_again_and_again, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    for (int i = 0; i < 500; i++)
        launch(t, &simstream_default, TERRACE_READ, 0);
    cr_assert_leq(simstream_events_now(), 2, "events of uses that others come after are kept");
    run_all(&simstream_default);
    eventually(simstream_events_now() == 0);
    terrace_close(d.m);
}

Test(streams, a_stream_that_is_none, .timeout = 60)
{
    open_device(8 * MIB);
    void *p;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    launch(t, &one, TERRACE_OVERWRITE, 11);
    run_all(&one);
    cr_assert_eq(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, &unknown, &p, NULL), -TERRACE_EINVAL);
    one.capturing = true;
    cr_assert_eq(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, &one, &p, NULL), -TERRACE_EBUSY);
    one.capturing = false;
    expect_pattern(t, d.host, SIZE, 11);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, &one, &p, NULL));
    cr_assert_eq(terrace_release(t, p, &unknown), -TERRACE_EINVAL);
    assert_ok(terrace_release(t, p, &one)); /* the failed one has not released it */
    terrace_close(d.m);
}

Test(streams, a_list_follows_all_it_needs, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *a = tensor_of(d.m, SIZE, "a"), *b = tensor_of(d.m, SIZE, "b");
    launch(a, &one, TERRACE_OVERWRITE, 12);
    launch(b, &one, TERRACE_OVERWRITE, 13);
    terrace_access list[2] = {
        {.size = sizeof list[0], .tensor = a, .tier = d.dev, .mode = TERRACE_READ},
        {.size = sizeof list[0], .tensor = b, .tier = d.dev, .mode = TERRACE_READ},
    };
    struct kernel k[2] = {{.seed = 12}, {.seed = 13}};
    assert_ok(terrace_acquire_all(list, 2, &two));
    for (int i = 0; i < 2; i++) {
        k[i].at = list[i].address;
        simstream_launch(&two, kernel_check, &k[i]);
        assert_ok(terrace_release(list[i].tensor, list[i].address, &two));
    }
    cr_assert_not(simstream_run(&two));
    run_all(&one);
    run_all(&two);
    cr_assert(k[0].right && k[1].right);
    terrace_close(d.m);
}

Test(streams, a_lost_device_is_the_error_of_what_it_was_writing, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *read = tensor_of(d.m, SIZE, "read"), *written = tensor_of(d.m, SIZE, "written");
    write_pattern(read, d.host, SIZE, 14);
    launch(read, &one, TERRACE_READ, 14);
    launch(written, &one, TERRACE_OVERWRITE, 15);
    simdev_lose();
    eventually(simstream_events_now() == 0);
    cr_assert_eq(terrace_wait(written), -TERRACE_EDEVICE);
    cr_assert(strstr(terrace_last_error(), "written"), "%s", terrace_last_error());
    expect_pattern(read, d.host, SIZE, 14);
    terrace_close(d.m);
}

/* Both streams get on as far as they can; false: one stands before a wait. */
static bool both_run(void)
{
    bool first = simstream_run(&one), second = simstream_run(&two);
    return first && second;
}

Test(streams, threads_and_streams_at_once, .timeout = 120)
{
    enum { TENSORS = 6, ROUNDS = 300 };
    open_device(3 * MIB);
    terrace_tensor *t[TENSORS];
    uint64_t seed[TENSORS];
    unsigned random = 7;
    for (int i = 0; i < TENSORS; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        write_pattern(t[i], d.host, SIZE, seed[i] = (uint64_t)i);
    }
    for (int round = 0; round < ROUNDS; round++) {
        random = random * 1664525 + 1013904223;
        int i = random >> 8 & 0xffff, how = random >> 28;
        struct simstream *s = how & 1 ? &one : &two;
        i %= TENSORS;
        struct kernel *r = launch(t[i], s, TERRACE_READ, seed[i]), *w = NULL;
        if (how & 2)
            w = launch(t[i], s, TERRACE_WRITE, seed[i] = (uint64_t)(round + TENSORS));
        if ((how & 12) == 0 || round % 2) { /* else the device falls behind by one more */
            while (!both_run())
                ;
            cr_assert(r->right);
            free(r);
            free(w);
            expect_pattern(t[i], d.host, SIZE, seed[i]);
        }
    }
    while (!both_run())
        ;
    for (int i = 0; i < TENSORS; i++)
        expect_pattern(t[i], d.host, SIZE, seed[i]);
    terrace_close(d.m);
}

/* ---- promises: bytes that are still on their way ------------------------- */

enum { FEW = 256 << 10 }; /* all of it fits into the device's queue */

static void kernel_check_few(void *arg)
{
    struct kernel *k = arg;
    k->right = pattern_is(simnode_at(&simdev, (uintptr_t)k->at), FEW, k->seed);
}

static void kernel_write_few(void *arg)
{
    struct kernel *k = arg;
    pattern_fill(simnode_at(&simdev, (uintptr_t)k->at), FEW, k->seed);
}

/* Acquires the tensor, whose bytes are still to come, and puts work on it into the
 * stream; it is not released. */
static void begin_few(terrace_tensor *t, struct simstream *s, unsigned mode, struct kernel *k)
{
    assert_ok(terrace_acquire(t, d.dev, mode, s, &k->at, NULL));
    simstream_launch(s, mode == TERRACE_READ ? kernel_check_few : kernel_write_few, k);
}

Test(streams, the_stream_waits_for_the_bytes_and_not_the_host, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel k = {.seed = 20};
    write_pattern(t, d.host, FEW, 20);
    simnode_hold(&simdev, true);
    begin_few(t, &one, TERRACE_READ, &k);
    cr_assert_not(simstream_run(&one), "the work did not wait for its bytes");
    assert_ok(terrace_release(t, k.at, &one));
    simnode_hold(&simdev, false);
    run_all(&one);
    cr_assert(k.right);
    terrace_close(d.m);
}

Test(streams, a_writer_before_its_bytes_are_there, .timeout = 60)
{
    open_device(8 * MIB);
    struct other o;
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel r = {.seed = 21}, w = {.seed = 22};
    write_pattern(t, d.host, FEW, 21);
    simnode_hold(&simdev, true);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_WRITE, &one, &r.at, NULL));
    w.at = r.at;
    simstream_launch(&one, kernel_check_few, &r);
    simstream_launch(&one, kernel_write_few, &w);
    assert_ok(terrace_release(t, r.at, &one));
    other_starts(&o, t, d.host, TERRACE_OVERWRITE, 0);
    cr_assert(other_waits(&o));
    simnode_hold(&simdev, false);
    run_all(&one);
    cr_assert(r.right, "the bytes it builds on were lost");
    other_succeeds(&o);
    write_pattern(t, d.host, FEW, 23);
    expect_pattern(t, d.host, FEW, 23);
    terrace_close(d.m);
}

Test(streams, what_a_writer_left_is_what_others_get, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel w = {.seed = 25};
    write_pattern(t, d.host, FEW, 24);
    simnode_hold(&simdev, true);
    begin_few(t, &one, TERRACE_WRITE, &w);
    assert_ok(terrace_release(t, w.at, &one));
    simnode_hold(&simdev, false);
    run_all(&one);
    expect_pattern(t, d.host, FEW, 25);
    terrace_close(d.m);
}

Test(streams, a_promise_that_is_broken_before_the_release, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel w = {.seed = 27};
    void *p;
    write_pattern(t, d.host, FEW, 26);
    simnode_hold(&simdev, true);
    begin_few(t, &one, TERRACE_WRITE, &w);
    simdev.fail = true;
    simnode_hold(&simdev, false);
    run_all(&one); /* its memory is still there */
    eventually(terrace_acquire(t, d.dev, TERRACE_READ | TERRACE_NOWAIT, &two, &p, NULL) == -TERRACE_EBUSY);
    cr_assert_eq(terrace_release(t, w.at, &one), -TERRACE_EIO);
    simdev.fail = false;
    expect_pattern(t, d.host, FEW, 26);
    struct kernel k = {.seed = 26};
    begin_few(t, &two, TERRACE_READ, &k);
    assert_ok(terrace_release(t, k.at, &two));
    run_all(&one);
    run_all(&two);
    cr_assert(k.right);
    terrace_close(d.m);
}

Test(streams, a_promise_that_is_broken_after_the_release, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel w = {.seed = 29};
    write_pattern(t, d.host, FEW, 28);
    simnode_hold(&simdev, true);
    begin_few(t, &one, TERRACE_WRITE, &w);
    assert_ok(terrace_release(t, w.at, &one));
    simdev.fail = true;
    simnode_hold(&simdev, false);
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    run_all(&one);
    expect_pattern(t, d.host, FEW, 28);
    terrace_close(d.m);
    cr_assert_eq(simdev_views, 0);
    cr_assert_eq(simstream_events_now(), 0);
}

Test(streams, the_host_waits_for_promised_bytes, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    struct other o;
    void *p;
    write_pattern(t, d.host, SIZE, 30);
    simnode_hold(&simdev, true);
    other_starts(&o, t, d.dev, TERRACE_READ, 30);
    cr_assert(other_waits(&o));
    cr_assert_eq(terrace_acquire(t, d.dev, TERRACE_READ | TERRACE_NOWAIT, &one, &p, NULL), -TERRACE_EAGAIN);
    simnode_hold(&simdev, false);
    other_succeeds(&o);
    terrace_close(d.m);
}

Test(streams, a_tensor_destroyed_before_its_bytes_are_there, .timeout = 60)
{
    open_device(8 * MIB);
    terrace_tensor *t = tensor_of(d.m, FEW, "t");
    struct kernel k = {.seed = 31};
    write_pattern(t, d.host, FEW, 31);
    simnode_hold(&simdev, true);
    begin_few(t, &one, TERRACE_READ, &k);
    assert_ok(terrace_release(t, k.at, &one));
    terrace_tensor_destroy(t);
    simnode_hold(&simdev, false);
    usleep(20000);
    run_all(&one);
    eventually(tier_stats_of(d.m, d.dev).tensors == 0 && stats_of(d.m).tensors == 0);
    terrace_close(d.m);
}
