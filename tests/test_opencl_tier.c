/* test_opencl_tier.c - tensors on an OpenCL device, used by kernels in the program's
 * own command queues. The device is whatever is here (PoCL computes on the CPU); the
 * disk is simulated. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "manager.h"

#ifndef WITH_OPENCL

Test(opencl_tier, kernels)
{
    cr_skip_test("not run: built where OpenCL has no headers (Debian's opencl-c-headers and ocl-icd-opencl-dev)");
}

#else

#include "opencl_here.h"
#include "opencl_work.h"
#include "simdisk.h"

enum { SIZE = MIB };

static struct {
    terrace *m;
    terrace_tier dev, host;
    cl_command_queue one, two; /* in order, out of order */
} d;

/* ---- set up -------------------------------------------------------------- */

static terrace *manager_with(size_t device, size_t host, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_opencl=%zu;%s", device, more);
    return open_with("opencl:0,numa:0,simdisk:0", host, conf);
}

static void open_device(size_t device, size_t host, const char *more)
{
    void *p;
    opencl_needed();
    d.m = manager_with(device, host, more);
    assert_ok(terrace_tier_find(d.m, "opencl:0", &d.dev));
    d.host = host_of(d.m);
    terrace_tensor *t = tensor_of(d.m, 4096, "first");
    assert_ok(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
    work_open(p);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    terrace_tensor_destroy(t);
    d.one = work_queue(true);
    d.two = work_queue(false);
}

static void close_device(void)
{
    terrace_close(d.m);
    clReleaseCommandQueue(d.one);
    clReleaseCommandQueue(d.two);
    work_close();
}

/* A kernel on the tensor in the queue; returns before it has run. In a queue that works
 * out of order, what is put there is ordered by whoever does so. */
static void launch(terrace_tensor *t, cl_command_queue q, unsigned mode, const char *kernel, uint64_t a, uint64_t b)
{
    void *p;
    assert_ok(terrace_acquire(t, d.dev, mode, q, &p, NULL));
    if (q != d.one)
        assert_cl(clEnqueueBarrierWithWaitList(q, 0, NULL, NULL));
    work_put(q, kernel, p, SIZE, a, b);
    assert_ok(terrace_release(t, p, q));
}

/* ---- an acquire by another thread ----------------------------------------- */

struct other {
    pthread_t thread;
    terrace_tensor *t;
    uint64_t seed;
    bool right;
    int result;
    atomic_bool there;
};

static void *other_main(void *arg)
{
    struct other *o = arg;
    void *p;
    o->result = terrace_acquire(o->t, d.host, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL);
    if (o->result == 0) {
        o->right = pattern_is(p, SIZE, o->seed);
        o->result = terrace_release(o->t, p, TERRACE_HOST_SYNC);
    }
    atomic_store(&o->there, true);
    return NULL;
}

static void other_starts(struct other *o, terrace_tensor *t, uint64_t seed)
{
    *o = (struct other){.t = t, .seed = seed};
    cr_assert_eq(pthread_create(&o->thread, NULL, other_main, o), 0);
}

static bool other_waits(struct other *o)
{
    usleep(50000);
    return !atomic_load(&o->there);
}

/* ---- order --------------------------------------------------------------- */

Test(opencl_tier, the_host_gets_what_a_kernel_writes, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    for (int i = 1; i < 20; i++) {
        cl_command_queue q = i % 2 ? d.one : d.two;
        launch(t, q, TERRACE_OVERWRITE, "fill", (uint64_t)i, 0);
        expect_pattern(t, d.host, SIZE, (uint64_t)i);
        write_pattern(t, d.host, SIZE, (uint64_t)i + 100);
        launch(t, q, TERRACE_READ, "check", (uint64_t)i + 100, 0);
    }
    clFinish(d.one);
    clFinish(d.two);
    cr_assert_eq(work_wrong(d.one), 0);
    close_device();
}

Test(opencl_tier, the_host_waits_for_the_queue, .timeout = 60)
{
    struct other o;
    open_device(8 * MIB, 16 * MIB, "");
    for (int i = 0; i < 2; i++) {
        cl_command_queue q = i ? d.two : d.one;
        terrace_tensor *t = tensor_of(d.m, SIZE, "t");
        write_pattern(t, d.host, SIZE, 1);
        cl_event held = work_hold(q);
        launch(t, q, TERRACE_WRITE, "fill", 2, 0);
        other_starts(&o, t, 2);
        cr_assert(other_waits(&o), "it did not wait for the kernel");
        work_let_go(held, CL_COMPLETE);
        pthread_join(o.thread, NULL);
        cr_assert(o.result == 0 && o.right, "%d", o.result);
    }
    close_device();
}

Test(opencl_tier, a_queue_follows_another, .timeout = 60)
{
    open_device(8 * MIB, 16 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 3);
    cl_event held = work_hold(d.one);
    launch(t, d.one, TERRACE_WRITE, "add", 7, 0);
    launch(t, d.two, TERRACE_READ, "check", 3, 7);
    launch(t, d.two, TERRACE_WRITE, "add", 4, 0);
    launch(t, d.one, TERRACE_READ, "check", 3, 11);
    usleep(20000);
    work_let_go(held, CL_COMPLETE);
    clFinish(d.one);
    clFinish(d.two);
    cr_assert_eq(work_wrong(d.one), 0);
    close_device();
}

Test(opencl_tier, closing_waits_for_the_queue, .timeout = 60)
{
    pthread_t thread;
    open_device(8 * MIB, 16 * MIB, "");
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    cl_event held = work_hold(d.one);
    launch(t, d.one, TERRACE_OVERWRITE, "fill", 1, 0);
    cr_assert_eq(pthread_create(&thread, NULL, (void *(*)(void *))(void *)terrace_close, d.m), 0);
    usleep(50000);
    cr_assert_eq(pthread_tryjoin_np(thread, NULL), EBUSY);
    work_let_go(held, CL_COMPLETE);
    pthread_join(thread, NULL);
}

/* PoCL 3.1 does not outlive work that fails; so the test says in its place that it has. */
static opencl_int (*true_event_info)(opencl_event, opencl_uint, size_t, void *, size_t *);
static atomic_int work_status;

static opencl_int failed_event_info(opencl_event event, opencl_uint what, size_t size, void *value, size_t *got)
{
    opencl_int r = true_event_info(event, what, size, value, got);
    if (r == 0 && work_status < 0)
        *(opencl_int *)value = work_status;
    return r;
}

Test(opencl_tier, a_kernel_that_fails_is_the_error_of_what_it_was_writing, .timeout = 60)
{
    void *p;
    open_device(8 * MIB, 16 * MIB, "log=off");
    true_event_info = opencl.event_info;
    opencl.event_info = failed_event_info;
    terrace_tensor *read = tensor_of(d.m, SIZE, "read"), *written = tensor_of(d.m, SIZE, "written");
    write_pattern(read, d.host, SIZE, 1);
    write_pattern(written, d.host, SIZE, 2);
    cl_event held = work_hold(d.two);
    launch(read, d.two, TERRACE_READ, "check", 1, 0);
    launch(written, d.two, TERRACE_WRITE, "fill", 3, 0);
    work_status = OPENCL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST;
    int r = 0;
    for (int i = 0; r == 0 && i < 5000; i++, usleep(1000))
        r = terrace_wait(written);
    cr_assert_eq(r, -TERRACE_EDEVICE);
    cr_assert(strstr(terrace_last_error(), "written"), "%s", terrace_last_error());
    work_status = 0;
    work_let_go(held, CL_COMPLETE);
    expect_pattern(read, d.host, SIZE, 1);
    assert_ok(terrace_acquire(read, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    assert_ok(terrace_release(read, p, TERRACE_HOST_SYNC));
    clFinish(d.two);
    close_device();
}

Test(opencl_tier, a_queue_of_another_context, .timeout = 60)
{
    void *p;
    cl_int r;
    open_device(8 * MIB, 16 * MIB, "");
    cl_context other = clCreateContext(NULL, 1, &work.device, NULL, NULL, &r);
    assert_cl(r);
    cl_command_queue q = clCreateCommandQueue(other, work.device, 0, &r);
    assert_cl(r);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    assert_fails(terrace_acquire(t, d.dev, TERRACE_READ, q, &p, NULL), TERRACE_EINVAL);
    cr_assert(strstr(terrace_last_error(), "another context"), "%s", terrace_last_error());
    launch(t, d.one, TERRACE_READ, "check", 1, 0);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, d.one, &p, NULL));
    assert_fails(terrace_release(t, p, q), TERRACE_EINVAL);
    assert_ok(terrace_release(t, p, d.one));
    clReleaseCommandQueue(q);
    clReleaseContext(other);
    close_device();
}

/* ---- room ---------------------------------------------------------------- */

Test(opencl_tier, more_than_device_and_host_hold, .timeout = 120)
{
    enum { N = 40 };
    open_device(4 * MIB, 8 * MIB, "");
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        launch(t[i], i % 2 ? d.one : d.two, TERRACE_OVERWRITE, "fill", (uint64_t)i, 0);
    }
    for (uint64_t round = 0; round < 4; round++)
        for (int i = 0; i < N; i++) {
            cl_command_queue q = (i + (int)round) % 2 ? d.one : d.two;
            launch(t[i], q, TERRACE_READ, "check", (uint64_t)i, 5 * round);
            launch(t[i], q, TERRACE_WRITE, "add", 5, 0);
            terrace_prefetch(t[(i + 2) % N], d.dev);
        }
    clFinish(d.one);
    clFinish(d.two);
    cr_assert_eq(work_wrong(d.one), 0);
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, 4 * MIB);
    cr_assert_gt(stats_of(d.m).evictions, 100);
    close_device();
}

static opencl_int (*true_device_info)(opencl_device, opencl_uint, size_t, void *, size_t *);
static opencl_memory (*true_buffer_create)(opencl_context, opencl_bits, size_t, void *, opencl_int *);
static int buffers_left; /* that can still be had */

static opencl_int small_buffers_info(opencl_device device, opencl_uint what, size_t size, void *value, size_t *got)
{
    opencl_int r = true_device_info(device, what, size, value, got);
    if (r == 0 && what == OPENCL_DEVICE_MAX_MEM_ALLOC_SIZE)
        *(uint64_t *)value = 8 * MIB;
    return r;
}

static opencl_memory few_buffers(opencl_context c, opencl_bits flags, size_t size, void *host, opencl_int *r)
{
    if (buffers_left-- > 0)
        return true_buffer_create(c, flags, size, host, r);
    *r = OPENCL_MEM_OBJECT_ALLOCATION_FAILURE;
    return NULL;
}

/* Buffers of at most 8 MiB, and so many of them. */
static void open_small_buffers(size_t device, int buffers)
{
    opencl_needed();
    true_device_info = opencl.device_info;
    opencl.device_info = small_buffers_info;
    true_buffer_create = opencl.buffer_create;
    opencl.buffer_create = few_buffers;
    buffers_left = buffers;
    open_device(device, 64 * MIB, "log=off");
}

static void use_many(terrace_tensor **t, int n)
{
    for (int i = 0; i < n; i++) {
        t[i] = tensor_of(d.m, SIZE, "t");
        launch(t[i], d.one, TERRACE_OVERWRITE, "fill", (uint64_t)i, 0);
    }
    for (int i = 0; i < n; i++) {
        launch(t[i], d.two, TERRACE_WRITE, "add", 1, 0);
        launch(t[i], d.one, TERRACE_READ, "check", (uint64_t)i, 1);
    }
    clFinish(d.one);
    cr_assert_eq(work_wrong(d.one), 0);
}

Test(opencl_tier, a_budget_of_several_buffers, .timeout = 120)
{
    enum { N = 36 };
    terrace_tensor *t[N], *big;
    void *p;
    open_small_buffers(28 * MIB, 1000);
    use_many(t, N);
    big = tensor_of(d.m, 8 * MIB - 4096, "as large as can be");
    assert_ok(terrace_acquire(big, d.dev, TERRACE_OVERWRITE | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
    assert_ok(terrace_release(big, p, TERRACE_HOST_SYNC));
    big = tensor_of(d.m, 8 * MIB, "larger than a buffer");
    assert_fails(terrace_acquire(big, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL), TERRACE_ENOTSUP);
    close_device();
}

/* Others have taken the rest of the device's memory. */
Test(opencl_tier, less_memory_than_the_budget, .timeout = 120)
{
    enum { N = 36 };
    terrace_tensor *t[N];
    open_small_buffers(28 * MIB, 2);
    use_many(t, N);
    close_device();
}

Test(opencl_tier, no_memory_at_all, .timeout = 60)
{
    void *p;
    open_small_buffers(8 * MIB, 1000);
    terrace_close(d.m);
    d.m = manager_with(8 * MIB, 16 * MIB, "log=off");
    buffers_left = 0;
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    assert_fails(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EDEVMEM);
    expect_pattern(t, d.host, SIZE, 1);
    buffers_left = 1;
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    close_device();
}

Test(opencl_tier, small_tensors, .timeout = 60)
{
    enum { N = 200, SMALL = 1000 };
    open_device(2 * MIB, 32 * MIB, "");
    terrace_tensor *t[N];
    void *p;
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, SMALL, "t");
        write_pattern(t[i], d.host, SMALL, (uint64_t)i);
    }
    for (int i = 0; i < N; i++) {
        assert_ok(terrace_acquire(t[i], d.dev, TERRACE_WRITE, d.one, &p, NULL));
        work_put(d.one, "check", p, SMALL, (uint64_t)i, 0);
        work_put(d.one, "fill", p, SMALL, (uint64_t)i + 1000, 0);
        assert_ok(terrace_release(t[i], p, d.one));
    }
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, SMALL, (uint64_t)i + 1000);
    cr_assert_eq(work_wrong(d.one), 0);
    close_device();
}

/* ---- what is refused, what is not there ------------------------------------ */

/* Pointers in place of buffers: to the device, to the disk, and back. */
Test(opencl_tier, shared_virtual_memory, .timeout = 60)
{
    enum { N = 20 };
    terrace_tensor_attr attr = {.size = sizeof attr, .flags = TERRACE_ATTR_SVM};
    terrace_tensor *t[N];
    open_device(8 * MIB, 8 * MIB, "");
    work.pointers = true;
    for (int i = 0; i < N; i++) {
        assert_ok(terrace_tensor_create(d.m, SIZE, &attr, &t[i]));
        launch(t[i], d.one, TERRACE_OVERWRITE, "fill", (uint64_t)i, 0);
    }
    for (int i = 0; i < N; i++)
        launch(t[i], d.two, TERRACE_READ | TERRACE_WRITE, "add", 3, 0);
    for (int i = 0; i < N; i++)
        launch(t[i], d.one, TERRACE_READ, "check", (uint64_t)i, 3);
    cr_assert_eq(work_wrong(d.one), 0);
    terrace_tier disk;
    assert_ok(terrace_tier_find(d.m, "simdisk:0", &disk));
    cr_assert_gt(tier_stats_of(d.m, disk).in_bytes, 0);
    close_device();
}

Test(opencl_tier, without_an_implementation, .timeout = 60)
{
    char folder[] = "/tmp/terrace-vendors.XXXXXX";
    terrace *m;
    cr_assert_not_null(mkdtemp(folder));
    setenv("OCL_ICD_VENDORS", folder, 1);
    assert_fails(terrace_open(&m, "tiers=opencl:0,numa:0;limit_numa=8M"), TERRACE_ENOENT);
    cr_assert(strstr(terrace_last_error(), "'opencl:0'") && strstr(terrace_last_error(), "OpenCL implementation"), "%s",
              terrace_last_error());
    assert_ok(terrace_open(&m, "limit_host=64M"));
    cr_assert(strstr(stats_of(m).absent, "opencl: "), "%s", stats_of(m).absent);
    terrace_close(m);
    rmdir(folder);
}

/* ---- at random ------------------------------------------------------------- */

/* Every tensor's words are a pattern and a sum, on whichever tier. Threads agree on
 * the order by its lock; but a kernel may run long after that was given up. */
enum { THREADS = 3, SLOTS = 24 };
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { ROUNDS = 150 };
#else
enum { ROUNDS = 600 };
#endif

static struct slot {
    pthread_mutex_t lock;
    terrace_tensor *t;
    uint64_t seed, more;
} slot[SLOTS];

static atomic_uint host_wrong;

static void slot_on_host(struct slot *s, unsigned kind)
{
    uint64_t *p;
    void *at;
    unsigned mode = kind == 0 ? TERRACE_READ : kind == 1 ? TERRACE_WRITE : TERRACE_OVERWRITE;
    assert_ok(terrace_acquire(s->t, d.host, mode | TERRACE_WAIT, TERRACE_HOST_SYNC, &at, NULL));
    p = at;
    if (mode != TERRACE_OVERWRITE)
        for (size_t i = 0; i < SIZE / sizeof *p; i += 7)
            host_wrong += p[i] != pattern(s->seed, i) + s->more;
    if (mode == TERRACE_OVERWRITE) {
        pattern_fill(p, SIZE, ++s->seed);
        s->more = 0;
    } else if (mode == TERRACE_WRITE) {
        for (size_t i = 0; i < SIZE / sizeof *p; i++)
            p[i] += 3;
        s->more += 3;
    }
    assert_ok(terrace_release(s->t, at, TERRACE_HOST_SYNC));
}

static void slot_on_device(struct slot *s, cl_command_queue q, unsigned kind)
{
    if (kind == 0) {
        launch(s->t, q, TERRACE_READ | TERRACE_WAIT, "check", s->seed, s->more);
    } else if (kind == 1) {
        launch(s->t, q, TERRACE_WRITE | TERRACE_WAIT, "add", 5, 0);
        s->more += 5;
    } else {
        launch(s->t, q, TERRACE_OVERWRITE | TERRACE_WAIT, "fill", ++s->seed, 0);
        s->more = 0;
    }
}

static void slot_renew(struct slot *s)
{
    terrace_tensor_destroy(s->t);
    s->t = tensor_of(d.m, SIZE, "slot");
    slot_on_host(s, 2);
}

static void *random_main(void *arg)
{
    uint32_t random = (uint32_t)(uintptr_t)arg * 977 + 1;
    cl_command_queue q = work_queue((uintptr_t)arg % 2);
    for (int i = 0; i < ROUNDS; i++) {
        random = random * 1664525 + 1013904223;
        struct slot *s = &slot[(random >> 8) % SLOTS];
        unsigned what = random >> 28, kind = (random >> 20) % 3;
        pthread_mutex_lock(&s->lock);
        if (what < 9)
            slot_on_device(s, q, kind);
        else if (what < 12)
            slot_on_host(s, kind);
        else if (what < 14)
            terrace_prefetch(s->t, d.dev);
        else if (what < 15)
            terrace_demote(s->t, kind ? disk_of(d.m) : d.host);
        else
            slot_renew(s);
        pthread_mutex_unlock(&s->lock);
        if (random % 16 == 0)
            terrace_step(d.m);
    }
    clFinish(q);
    clReleaseCommandQueue(q);
    return NULL;
}

static void random_run(const char *conf)
{
    pthread_t thread[THREADS];
    open_device(7 * MIB, 12 * MIB, conf);
    for (int i = 0; i < SLOTS; i++) {
        pthread_mutex_init(&slot[i].lock, NULL);
        slot_renew(&slot[i]);
    }
    for (uintptr_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, random_main, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(work_wrong(d.one), 0, "kernels found words that were never written");
    for (int i = 0; i < SLOTS; i++)
        slot_on_host(&slot[i], 0);
    cr_assert_eq(host_wrong, 0);
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, 7 * MIB);
    cr_assert_gt(stats_of(d.m).evictions, 20);
    close_device();
}

Test(opencl_random, kernels_and_host, .timeout = 240) { random_run(""); }
Test(opencl_random, in_several_buffers, .timeout = 240)
{
    opencl_needed();
    true_device_info = opencl.device_info;
    opencl.device_info = small_buffers_info;
    random_run("policy=lru");
}
Test(opencl_random, encrypted, .timeout = 240) { random_run("encrypt=1"); }

#endif
