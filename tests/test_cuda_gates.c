/* test_cuda_gates.c - streams of the NVIDIA tier that wait for bytes which are still on
 * a disk, on a simulated driver: kernels find them, the host goes on, and no call that
 * could wait for such a stream is made meanwhile. */
#include <pthread.h>
#include <stdatomic.h>

#include "../offload/cuda_driver.h"
#include "gate.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { SIZE = MIB };
#define ALL "cuda:0,numa:0,simdisk:0"

static struct {
    terrace *m;
    terrace_tier dev, host;
    cuda_context context;
    cuda_stream stream, second;
} d;

static cuda_stream stream_new(void)
{
    cuda_stream stream;
    cr_assert_eq(cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), 0);
    return stream;
}

static void open_device(size_t device, size_t host, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_cuda=%zu;%s", device, more ? more : "");
    d.m = open_with(ALL, host, conf);
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    d.host = host_of(d.m);
    cr_assert_eq(cuda.context_retain(&d.context, 0), 0);
    cr_assert_eq(cuda.context_set(d.context), 0);
    d.stream = stream_new();
    d.second = stream_new();
}

static void close_device(void)
{
    cr_assert_eq(cuda.stream_synchronize(d.stream), 0);
    cr_assert_eq(cuda.stream_synchronize(d.second), 0);
    terrace_close(d.m);
    cr_assert_eq(cuda.stream_destroy(d.stream), 0);
    cr_assert_eq(cuda.stream_destroy(d.second), 0);
    cr_assert_eq(cuda.context_set(NULL), 0);
    cr_assert_eq(cuda.context_release(0), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

/* ---- kernels -------------------------------------------------------------- */

struct kernel {
    struct kernel *next; /* in the list of all, for the end */
    uint64_t at;
    uint64_t before, after; /* seeds; 0: not looked at, not written */
    atomic_bool ran;
    bool right;
};

static struct kernel *kernels;

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory(k->at, SIZE);
    k->right = p && (!k->before || pattern_is(p, SIZE, k->before));
    if (p && k->after)
        pattern_fill(p, SIZE, k->after);
    atomic_store(&k->ran, true);
}

static struct kernel *begin(terrace_tensor *t, void *stream, uint64_t before, uint64_t after)
{
    struct kernel *k = calloc(1, sizeof *k);
    void *p;
    k->next = kernels;
    kernels = k;
    k->before = before;
    k->after = after;
    assert_ok(terrace_acquire(t, d.dev, after ? TERRACE_WRITE : TERRACE_READ, stream, &p, NULL));
    k->at = (uintptr_t)p;
    cr_assert_eq(sim_launch(stream, kernel_run, k, 0), 0);
    return k;
}

static struct kernel *launch(terrace_tensor *t, void *stream, uint64_t before, uint64_t after)
{
    struct kernel *k = begin(t, stream, before, after);
    assert_ok(terrace_release(t, (void *)(uintptr_t)k->at, stream));
    return k;
}

static bool stands(struct kernel *k)
{
    usleep(50000);
    return !atomic_load(&k->ran);
}

static void ends_right(struct kernel *k)
{
    eventually(atomic_load(&k->ran));
    cr_assert(k->right, "the kernel did not find its bytes");
}

static terrace_tensor *on_disk(const char *label, uint64_t seed)
{
    terrace_tensor *t = tensor_of(d.m, SIZE, label);
    write_pattern(t, d.host, SIZE, seed);
    push_down(t, d.m);
    eventually(tier_stats_of(d.m, 1).tensors == 0);
    return t;
}

/* Memory of the device that is there for what comes next: while a stream waits, none is
 * taken. */
static void warm(size_t bytes)
{
    terrace_tensor *t = tensor_of(d.m, bytes, "warm");
    void *p;
    assert_ok(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    terrace_tensor_destroy(t);
}

/* ---- acquires by another thread -------------------------------------------- */

struct other {
    pthread_t thread;
    terrace_tensor *t;
    void *stream;
    atomic_bool there;
    int result;
};

static void *other_main(void *arg)
{
    struct other *o = arg;
    void *p;
    cr_assert_eq(cuda.context_set(d.context), 0);
    o->result = terrace_acquire(o->t, d.dev, TERRACE_WRITE, o->stream, &p, NULL);
    if (o->result == 0)
        o->result = terrace_release(o->t, p, o->stream);
    cr_assert_eq(cuda.context_set(NULL), 0);
    atomic_store(&o->there, true);
    return NULL;
}

static void other_starts(struct other *o, terrace_tensor *t, void *stream)
{
    *o = (struct other){.t = t, .stream = stream};
    cr_assert_eq(pthread_create(&o->thread, NULL, other_main, o), 0);
}

static bool other_waits(struct other *o)
{
    usleep(50000);
    return !atomic_load(&o->there);
}

static void other_ends(struct other *o)
{
    pthread_join(o->thread, NULL);
    cr_assert_eq(o->result, 0, "%s", terrace_strerror(o->result));
}

/* ---- bytes that come ------------------------------------------------------ */

static void from_disk(void *stream)
{
    terrace_tensor *t = on_disk("t", 1);
    simdisk_hold();
    struct kernel *k = launch(t, stream, 1, 2);
    cr_assert(stands(k), "it did not wait for the disk");
    simdisk_let_go();
    ends_right(k);
    expect_pattern(t, d.host, SIZE, 2);
    cr_assert_eq(stats_of(d.m).stream_waits, 1);
    close_device();
}

Test(cuda_gates, a_kernel_waits_for_the_disk_and_not_the_host, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    from_disk(d.stream);
}

Test(cuda_gates, in_the_default_stream, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    from_disk(NULL);
}

Test(cuda_gates, with_streams_that_have_no_number, .timeout = 60)
{
    sim_fail("cuStreamGetId", 1, 0, 801);
    open_device(8 * MIB, 16 * MIB, NULL);
    from_disk(d.stream);
}

/* The device opens the gate itself: the host is not told of the copies' end. */
Test(cuda_gates, the_device_opens_it, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk("t", 3);
    simdisk_hold();
    struct kernel *k = launch(t, d.stream, 3, 0);
    sim_hold(1u << SIM_HOST_FUNCTION);
    cr_assert(stands(k));
    simdisk_let_go();
    ends_right(k);
    cr_assert_geq(sim_calls("cuStreamWriteValue64_v2"), 6, "one in each of ours to find out, and one to open it");
    sim_let_go();
    close_device();
}

Test(cuda_gates, while_copies_are_held_up, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk("t", 4);
    sim_hold(1u << SIM_COPY);
    struct kernel *k = launch(t, d.stream, 4, 0);
    cr_assert(stands(k), "it did not wait for the copy");
    sim_let_go();
    ends_right(k);
    close_device();
}

/* Then the host waits. */
Test(cuda_gates, more_than_there_are_words, .timeout = 60)
{
    enum { N = 80 };
    struct kernel *k[N];
    struct other o;
    open_device(100 * MIB, 200 * MIB, NULL);
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++)
        t[i] = on_disk("t", 1000 + (uint64_t)i);
    for (int i = 0; i < N; i++) { /* all have memory that they can come to */
        void *p;
        assert_ok(terrace_acquire(t[i], d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
        assert_ok(terrace_release(t[i], p, TERRACE_HOST_SYNC));
    }
    for (int i = 0; i < N; i++)
        push_down(t[i], d.m);
    eventually(tier_stats_of(d.m, 1).tensors == 0 && tier_stats_of(d.m, d.dev).tensors == 0);
    simdisk_hold();
    int n = 0;
    for (; n < 63; n++)
        k[n] = launch(t[n], d.stream, 1000 + (uint64_t)n, 0);
    other_starts(&o, t[n], d.second);
    bool waits = other_waits(&o);
    simdisk_let_go();
    other_ends(&o);
    for (int i = 0; i < n; i++)
        ends_right(k[i]);
    cr_assert(waits, "there are as many gates as anybody wants");
    close_device();
}

/* ---- bytes that do not come ----------------------------------------------- */

Test(cuda_gates, a_disk_that_fails_before_the_release, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk("t", 5);
    simdisk_hold();
    struct kernel *k = begin(t, d.stream, 0, 6);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(&simdisk.fail_read, 1);
    cr_assert(stands(k));
    simdisk_let_go();
    eventually(atomic_load(&k->ran));
    cr_assert_eq(terrace_release(t, (void *)(uintptr_t)k->at, d.stream), -TERRACE_EIO);
    expect_pattern(t, d.host, SIZE, 5);
    ends_right(launch(t, d.stream, 5, 0));
    close_device();
}

Test(cuda_gates, a_disk_that_fails_after_the_release, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk("t", 7);
    simdisk_hold();
    struct kernel *k = launch(t, d.stream, 0, 8);
    cr_assert(simdisk_await_queued(1));
    simdisk_fault(&simdisk.fail_read, 1);
    simdisk_let_go();
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    eventually(atomic_load(&k->ran));
    expect_pattern(t, d.host, SIZE, 7);
    close_device();
}

Test(cuda_gates, a_device_that_is_lost_meanwhile, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    terrace_tensor *t = on_disk("t", 9), *u = on_disk("u", 10);
    warm(3 * MIB);
    simdisk_hold();
    struct kernel *k = begin(t, d.stream, 0, 11);
    launch(u, d.second, 10, 12);
    sim_lose(0, 0, 700);
    simdisk_let_go();
    int r = terrace_wait(t);
    cr_assert_eq(r, -TERRACE_EDEVICE, "%d: %s", r, terrace_last_error());
    cr_assert_eq(terrace_release(t, (void *)(uintptr_t)k->at, d.stream), -TERRACE_EDEVICE);
    expect_pattern(t, d.host, SIZE, 9);
    expect_pattern(u, d.host, SIZE, 10);
    terrace_close(d.m);
}

/* ---- memory meanwhile ------------------------------------------------------ */

/* Every call that may wait for a stream does, and says so when it has waited for long:
 * none is made, by whoever it is. */
Test(cuda_gates, no_call_waits_for_a_stream_that_waits, .timeout = 60)
{
    sim_set("SYNC", SIM_SYNC_ALL);
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk("t", 13), *u = tensor_of(d.m, SIZE, "u"), *v = tensor_of(d.m, SIZE, "v"),
                   *gone = tensor_of(d.m, 4 * MIB, "gone");
    void *p;
    write_pattern(u, d.host, SIZE, 14);
    write_pattern(v, d.host, SIZE, 15);
    assert_ok(terrace_acquire(gone, d.dev, TERRACE_OVERWRITE, d.stream, &p, NULL));
    assert_ok(terrace_release(gone, p, d.stream));
    cr_assert_eq(cuda.stream_synchronize(d.stream), 0);
    simdisk_hold();
    struct kernel *k = launch(t, d.stream, 13, 0);
    unsigned maps = sim_calls("cuMemMap"), unmaps = sim_calls("cuMemUnmap");
    sim_set("STALL_MS", 100);
    assert_ok(terrace_prefetch(u, d.dev));
    terrace_tensor_destroy(gone);
    usleep(1100000);
    assert_ok(terrace_step(d.m)); /* what is not needed for a second goes back */
    other_starts(&o, v, d.second);
    cr_assert(other_waits(&o));
    usleep(300000);
    cr_assert(sim_calls("cuMemMap") == maps && sim_calls("cuMemUnmap") == unmaps);
    sim_set("STALL_MS", 10000);
    simdisk_let_go();
    other_ends(&o);
    ends_right(k);
    close_device();
}

/* The device is full, and to make room takes memory of the host that is full, too. */
Test(cuda_gates, memory_is_short_everywhere, .timeout = 120)
{
    enum { N = 30 };
    sim_set("SYNC", SIM_SYNC_ALL);
    terrace_tensor *t[N];
    open_device(4 * MIB, 4 * MIB, NULL);
    for (int i = 0; i < N; i++)
        t[i] = on_disk("t", 100 + (uint64_t)i);
    for (uint64_t round = 0; round < 3; round++)
        for (int i = 0; i < N; i++)
            ends_right(launch(t[i], i % 2 ? d.stream : d.second, (uint64_t)i + 100 * (round + 1),
                              (uint64_t)i + 100 * (round + 2)));
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, SIZE, (uint64_t)i + 400);
    close_device();
}

/* ---- queues of the hardware ------------------------------------------------ */

/* All streams share one: a wait would keep our own copies from being done. */
Test(cuda_gates, one_queue_for_all, .timeout = 60)
{
    sim_set("QUEUES", 1);
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk("t", 16), *u = on_disk("u", 17);
    simdisk_hold();
    other_starts(&o, t, d.stream);
    cr_assert(other_waits(&o), "the host has to wait");
    simdisk_let_go();
    other_ends(&o);
    unsigned waits = sim_calls("cuStreamWaitValue64_v2");
    ends_right(launch(u, d.stream, 17, 0));
    cr_assert_eq(sim_calls("cuStreamWaitValue64_v2"), waits, "what was found out is forgotten");
    close_device();
}

/* Ours have five of six; the first stream has the sixth for itself, the second not. */
Test(cuda_gates, some_streams_share_a_queue_with_copies, .timeout = 60)
{
    sim_set("QUEUES", 6);
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk("t", 18), *u = on_disk("u", 19);
    warm(3 * MIB);
    simdisk_hold();
    struct kernel *k = launch(t, d.stream, 18, 0);
    other_starts(&o, u, d.second);
    cr_assert(stands(k));
    cr_assert(other_waits(&o));
    simdisk_let_go();
    other_ends(&o);
    ends_right(k);
    close_device();
}

/* Work of other streams that wait for ours stands before our copies in both of their
 * queues: streams get these by turns, and there are six. */
Test(cuda_gates, copies_behind_work_that_waits_for_the_stream, .timeout = 60)
{
    sim_set("QUEUES", 6);
    gate_patience_ns = 200 * 1000000;
    open_device(8 * MIB, 16 * MIB, NULL);
    cuda_event event;
    cuda_stream behind[2] = {stream_new(), stream_new()};
    terrace_tensor *t = on_disk("t", 20);
    cr_assert_eq(cuda.event_create(&event, CUDA_EVENT_WITHOUT_TIME), 0);
    simdisk_hold();
    struct kernel *k = begin(t, d.stream, 0, 21);
    cr_assert_eq(cuda.event_record(event, d.stream), 0);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(cuda.stream_wait(behind[i], event, 0), 0);
    cr_assert(stands(k));
    simdisk_let_go();
    eventually(atomic_load(&k->ran));
    cr_assert_eq(terrace_wait(t), -TERRACE_EIO);
    cr_assert_not_null(strstr(terrace_last_error(), "have not moved"), "%s", terrace_last_error());
    cr_assert_eq(terrace_release(t, (void *)(uintptr_t)k->at, d.stream), -TERRACE_EIO);
    expect_pattern(t, d.host, SIZE, 20);
    cr_assert_eq(cuda.event_destroy(event), 0);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(cuda.stream_synchronize(behind[i]), 0);
        cr_assert_eq(cuda.stream_destroy(behind[i]), 0);
    }
    close_device();
}

/* The same before nothing but the stream that is to open the gate. */
Test(cuda_gates, what_is_to_open_it_is_held_up, .timeout = 60)
{
    sim_set("QUEUES", 6);
    open_device(8 * MIB, 16 * MIB, NULL);
    cuda_event event;
    terrace_tensor *t = on_disk("t", 30);
    cr_assert_eq(cuda.event_create(&event, CUDA_EVENT_WITHOUT_TIME), 0);
    simdisk_hold();
    struct kernel *k = begin(t, d.stream, 30, 31);
    cr_assert_eq(cuda.event_record(event, d.stream), 0);
    cr_assert_eq(cuda.stream_wait(d.second, event, 0), 0);
    simdisk_let_go();
    ends_right(k);
    assert_ok(terrace_release(t, (void *)(uintptr_t)k->at, d.stream));
    for (uint64_t i = 31; i < 200; i++) /* words are used again and again */
        ends_right(launch(t, d.stream, i, i + 1));
    cr_assert_eq(cuda.event_destroy(event), 0);
    close_device();
}

/* ---- without ---------------------------------------------------------------- */

static void without(const char *says)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    struct other o;
    terrace_tensor *t = on_disk("t", 22);
    cr_assert_not_null(strstr(tier_stats_of(d.m, d.dev).engine_reason, says), "%s",
                       tier_stats_of(d.m, d.dev).engine_reason);
    simdisk_hold();
    other_starts(&o, t, d.stream);
    cr_assert(other_waits(&o));
    simdisk_let_go();
    other_ends(&o);
    close_device();
}

Test(cuda_gates, a_device_that_does_not_wait_for_values, .timeout = 60)
{
    sim_set("MEMOPS", 0);
    without("the host waits for disks (the device cannot)");
}

Test(cuda_gates, no_memory_for_words, .timeout = 60)
{
    sim_fail("cuMemHostAlloc", 1, 0, 2);
    without("the host waits for disks (no stream or page-locked memory for that)");
}

Test(cuda_gates, what_people_are_told, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, NULL);
    cr_assert_not_null(strstr(tier_stats_of(d.m, d.dev).engine_reason, "streams wait for disks"), "%s",
                       tier_stats_of(d.m, d.dev).engine_reason);
    close_device();
}
