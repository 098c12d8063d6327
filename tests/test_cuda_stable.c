/* test_cuda_stable.c - terrace_malloc() on the NVIDIA tier, on a simulated driver: device
 * addresses stay while blocks move between the device's memory and the host's, inside
 * safepoints only; more memory than the device has; whatever fails, every byte is there. */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { BLOCK = 2 * MIB };
#define ALL "cuda:0,numa:0,simdisk:0"

static struct {
    terrace *m;
    terrace_tier dev, host;
    cuda_context context;
    cuda_stream stream;
    size_t device_limit, host_limit;
} d;

static void open_device(size_t device, size_t host, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_cuda=%zu;%s", device, more ? more : "");
    d.device_limit = device;
    d.host_limit = host;
    d.m = open_with(ALL, host, conf);
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    d.host = host_of(d.m);
    cr_assert_eq(cuda.context_retain(&d.context, 0), 0);
    cr_assert_eq(cuda.context_set(d.context), 0);
    cr_assert_eq(cuda.stream_create(&d.stream, CUDA_STREAM_NON_BLOCKING), 0);
}

static uint64_t near(void)
{
    return tier_stats_of(d.m, d.dev).stable_bytes;
}

static uint64_t far(void)
{
    return tier_stats_of(d.m, 1).stable_bytes;
}

/* Budgets hold at every moment. */
static void within_budgets(void)
{
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, d.device_limit);
    cr_assert_leq(tier_stats_of(d.m, 1).peak, d.host_limit);
}

/* The device and the host give what is counted. */
static void books_are_right(void)
{
    struct sim_counts c;
    sim_count(&c);
    cr_assert_eq(c.used[0], near(), "%llu bytes of the device for %llu", (unsigned long long)c.used[0],
                 (unsigned long long)near());
}

static void close_device(void)
{
    within_budgets();
    terrace_close(d.m);
    cr_assert_eq(cuda.stream_destroy(d.stream), 0);
    cr_assert_eq(cuda.context_set(NULL), 0);
    cr_assert_eq(cuda.context_release(0), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

static char *stable(size_t bytes, const char *label)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
    char *p = terrace_malloc(d.m, bytes, d.dev, label ? &attr : NULL);
    cr_assert_not_null(p, "%s", terrace_last_error());
    return p;
}

static void put(const char *p, size_t bytes, uint64_t seed)
{
    void *there = malloc(bytes);
    cr_assert_not_null(there);
    pattern_fill(there, bytes, seed);
    cr_assert(sim_write((uintptr_t)p, there, bytes), "the device cannot use %p", p);
    free(there);
}

static bool has(const char *p, size_t bytes, uint64_t seed)
{
    void *there = malloc(bytes);
    cr_assert_not_null(there);
    bool right = sim_read(there, (uintptr_t)p, bytes) && pattern_is(there, bytes, seed);
    free(there);
    return right;
}

#define expect(p, bytes, seed) cr_assert(has(p, bytes, seed), "not the bytes of seed %d", (int)(seed))

static void advise(char *p, size_t bytes, int advice)
{
    assert_ok(terrace_advise(d.m, p, bytes, advice, d.dev));
}

static void safepoint(void)
{
    assert_ok(terrace_safepoint(d.m, d.dev, TERRACE_HOST_SYNC));
}

/* Calls of the driver by which memory changes places. */
static unsigned moves(void)
{
    return sim_calls("cuMemMap") + sim_calls("cuMemUnmap");
}

/* ---- down and up ----------------------------------------------------------- */

Test(cuda_stable, reads_as_zeros, .timeout = 60)
{
    static char there[6 * MIB], zeros[6 * MIB];
    open_device(4 * MIB, 16 * MIB, NULL);
    char *p = stable(5 * MIB + 1, NULL); /* two blocks are near, one far */
    cr_assert_eq((uintptr_t)p % BLOCK, 0);
    memset(there, 1, sizeof there);
    cr_assert(sim_read(there, (uintptr_t)p, sizeof there));
    cr_assert_eq(memcmp(there, zeros, sizeof there), 0);
    cr_assert(near() == 4 * MIB && far() == 2 * MIB);
    close_device();
}

Test(cuda_stable, the_address_stays, .timeout = 60)
{
    open_device(16 * MIB, 32 * MIB, NULL);
    char *p = stable(8 * MIB, NULL);
    cr_assert(near() == 8 * MIB && far() == 0);
    for (uint64_t i = 0; i < 4; i++) {
        put(p, 8 * MIB, i);
        advise(p, 8 * MIB, TERRACE_ADVISE_DONTNEED);
        safepoint();
        cr_assert(near() == 0 && far() == 8 * MIB, "%llu near", (unsigned long long)near());
        expect(p, 8 * MIB, i);
        put(p + BLOCK, BLOCK, i + 100); /* used where it is */
        advise(p, 8 * MIB, TERRACE_ADVISE_WILLNEED);
        safepoint();
        cr_assert(near() == 8 * MIB && far() == 0, "%llu near", (unsigned long long)near());
        expect(p, BLOCK, i);
        expect(p + BLOCK, BLOCK, i + 100);
    }
    terrace_free(d.m, p);
    cr_assert(near() == 0 && far() == 0);
    close_device();
}

Test(cuda_stable, a_part_of_it_moves, .timeout = 60)
{
    open_device(32 * MIB, 32 * MIB, NULL);
    char *p = stable(20 * MIB, NULL);
    put(p, 20 * MIB, 1);
    advise(p + 3 * BLOCK, 1, TERRACE_ADVISE_DONTNEED);
    advise(p + 5 * BLOCK + 7, 2 * BLOCK, TERRACE_ADVISE_DONTNEED);
    safepoint();
    cr_assert_eq(far(), 4 * BLOCK);
    expect(p, 20 * MIB, 1);
    close_device();
}

Test(cuda_stable, more_than_the_device_holds, .timeout = 120)
{
    enum { N = 5, SIZE = 14 * MIB };
    char *p[N];
    uint64_t seed[N];
    open_device(16 * MIB, 96 * MIB, NULL);
    for (int i = 0; i < N; i++) {
        p[i] = stable(SIZE, NULL);
        put(p[i], SIZE, seed[i] = (uint64_t)i);
    }
    for (int round = N; round < 3 * N; round++) {
        int k = round % N;
        advise(p[k], SIZE, TERRACE_ADVISE_WILLNEED);
        safepoint();
        cr_assert_eq(near(), 16 * MIB);
        cr_assert_eq(near() + far(), N * SIZE);
        for (int i = 0; i < N; i++)
            expect(p[i], SIZE, seed[i]);
        put(p[k], SIZE, seed[k] = (uint64_t)round);
    }
    for (int i = 0; i < N; i++)
        terrace_free(d.m, p[i]);
    cr_assert(near() == 0 && far() == 0);
    close_device();
}

/* Every mapping and unmapping on the way, too: another thread looks all the time. */
static atomic_bool over;

static void *watch(void *most)
{
    uint64_t *highest = most;
    while (!atomic_load(&over)) {
        struct sim_counts c;
        sim_count(&c);
        *highest = c.used[0] > *highest ? c.used[0] : *highest;
    }
    return NULL;
}

Test(cuda_stable, the_device_never_has_more, .timeout = 60)
{
    pthread_t thread;
    uint64_t highest = 0;
    open_device(8 * BLOCK, 64 * MIB, NULL);
    cr_assert_eq(pthread_create(&thread, NULL, watch, &highest), 0);
    char *a = stable(8 * BLOCK, NULL), *b = stable(8 * BLOCK, NULL);
    for (int i = 0; i < 20; i++) {
        advise(i % 2 ? a : b, 8 * BLOCK, TERRACE_ADVISE_WILLNEED);
        safepoint();
        books_are_right();
    }
    atomic_store(&over, true);
    pthread_join(thread, NULL);
    cr_assert_eq(highest, 8 * BLOCK, "%llu bytes", (unsigned long long)highest);
    close_device();
}

Test(cuda_stable, what_was_allocated_last_is_hotter, .timeout = 60)
{
    open_device(8 * MIB, 32 * MIB, NULL);
    char *old = stable(8 * MIB, NULL), *new = stable(8 * MIB, NULL);
    put(old, 8 * MIB, 1);
    put(new, 8 * MIB, 2);
    unsigned before = moves();
    safepoint(); /* new comes, old leaves */
    cr_assert_gt(moves(), before);
    before = moves();
    safepoint();
    cr_assert_eq(moves(), before, "blocks change places without need");
    terrace_free(d.m, new); /* and there is room again */
    safepoint();
    cr_assert(near() == 8 * MIB && far() == 0);
    expect(old, 8 * MIB, 1);
    close_device();
}

/* ---- when ------------------------------------------------------------------- */

Test(cuda_stable, nothing_moves_outside_a_safepoint, .timeout = 60)
{
    open_device(16 * MIB, 64 * MIB, NULL);
    char *a = stable(16 * MIB, NULL), *b = stable(16 * MIB, NULL);
    put(a, 16 * MIB, 1);
    put(b, 16 * MIB, 2);
    unsigned before = moves();
    advise(a, 16 * MIB, TERRACE_ADVISE_DONTNEED);
    advise(b, 16 * MIB, TERRACE_ADVISE_WILLNEED);
    advise(b, BLOCK, TERRACE_ADVISE_PIN);
    terrace_tensor *t = tensor_of(d.m, BLOCK, "t");
    void *p;
    assert_fails(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EBUDGET);
    cr_assert_not_null(strstr(terrace_last_error(), "terrace_safepoint()"), "%s", terrace_last_error());
    usleep(100000);
    cr_assert_eq(moves(), before);
    expect(a, 16 * MIB, 1);
    expect(b, 16 * MIB, 2);
    safepoint();
    cr_assert_gt(moves(), before);
    expect(a, 16 * MIB, 1);
    expect(b, 16 * MIB, 2);
    close_device();
}

struct kernel {
    const char *p;
    size_t bytes;
    uint64_t before, after;
    atomic_int ran, right;
};

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory((uintptr_t)k->p, k->bytes);
    atomic_store(&k->right, p && pattern_is(p, k->bytes, k->before));
    if (p)
        pattern_fill(p, k->bytes, k->after);
    atomic_store(&k->ran, 1);
}

/* The safepoint comes after what is in the stream. */
static void under_a_kernel(cuda_stream stream)
{
    open_device(16 * MIB, 64 * MIB, NULL);
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    for (uint64_t i = 1; i < 5; i++) {
        struct kernel k = {.p = p, .bytes = 8 * MIB, .before = i, .after = i + 1};
        cr_assert_eq(sim_launch(stream ? d.stream : NULL, kernel_run, &k, 30000000), 0);
        advise(p, 8 * MIB, i % 2 ? TERRACE_ADVISE_DONTNEED : TERRACE_ADVISE_WILLNEED);
        assert_ok(terrace_safepoint(d.m, d.dev, stream ? d.stream : NULL));
        cr_assert(atomic_load(&k.ran), "the safepoint has not waited");
        cr_assert(atomic_load(&k.right));
        expect(p, 8 * MIB, i + 1);
        cr_assert_eq(far(), i % 2 ? 8 * MIB : 0);
    }
    close_device();
}

Test(cuda_stable, not_under_a_kernel, .timeout = 60) { under_a_kernel((cuda_stream)1); }
Test(cuda_stable, not_under_a_kernel_of_the_default_stream, .timeout = 60) { under_a_kernel(NULL); }

Test(cuda_stable, a_safepoint_without_need_does_not_wait, .timeout = 60)
{
    open_device(16 * MIB, 64 * MIB, NULL);
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    safepoint();
    struct kernel k = {.p = p, .bytes = 8 * MIB, .before = 1, .after = 2};
    sim_hold(1u << SIM_KERNEL);
    cr_assert_eq(sim_launch(d.stream, kernel_run, &k, 0), 0);
    unsigned records = sim_calls("cuEventRecord");
    assert_ok(terrace_safepoint(d.m, d.dev, d.stream));
    cr_assert_eq(atomic_load(&k.ran), 0);
    cr_assert_eq(sim_calls("cuEventRecord"), records);
    sim_let_go();
    cr_assert_eq(cuda.stream_synchronize(d.stream), 0);
    expect(p, 8 * MIB, 2);
    close_device();
}

unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode);
unsigned cuStreamEndCapture(cuda_stream stream, void **graph);
unsigned cuGraphDestroy(void *graph);

Test(cuda_stable, a_captured_stream_is_refused, .timeout = 60)
{
    void *graph;
    open_device(16 * MIB, 64 * MIB, NULL);
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    advise(p, 8 * MIB, TERRACE_ADVISE_DONTNEED);
    cr_assert_eq(cuStreamBeginCapture_v2(d.stream, 0), 0);
    assert_fails(terrace_safepoint(d.m, d.dev, d.stream), TERRACE_EBUSY);
    cr_assert_eq(near(), 8 * MIB);
    cr_assert_eq(cuStreamEndCapture(d.stream, &graph), 0);
    cr_assert_eq(cuGraphDestroy(graph), 0);
    assert_ok(terrace_safepoint(d.m, d.dev, d.stream));
    cr_assert_eq(far(), 8 * MIB);
    expect(p, 8 * MIB, 1);
    close_device();
}

/* ---- pins, tensors, budgets --------------------------------------------------- */

Test(cuda_stable, pins_stay, .timeout = 60)
{
    open_device(16 * MIB, 64 * MIB, NULL);
    char *a = stable(8 * MIB, NULL), *b = stable(16 * MIB, NULL);
    put(a, 8 * MIB, 1);
    put(b, 16 * MIB, 2);
    advise(a, 8 * MIB, TERRACE_ADVISE_PIN);
    advise(a, 8 * MIB, TERRACE_ADVISE_DONTNEED);
    advise(b, 16 * MIB, TERRACE_ADVISE_WILLNEED);
    unsigned before = sim_calls("cuMemUnmap");
    for (int i = 0; i < 3; i++)
        safepoint();
    cr_assert_eq(sim_calls("cuMemUnmap"), before, "with half of it pinned, the rest is where it should be");
    assert_fails(terrace_advise(d.m, b, 8 * MIB, TERRACE_ADVISE_PIN, d.dev), TERRACE_EBUDGET);
    cr_assert_not_null(strstr(terrace_last_error(), "an eighth of the budget"), "%s", terrace_last_error());
    assert_fails(terrace_advise(d.m, b, BLOCK, TERRACE_ADVISE_PIN, d.host), TERRACE_ENOTSUP);
    advise(b + 7 * BLOCK, BLOCK, TERRACE_ADVISE_PIN); /* that is far */
    advise(b, 7 * BLOCK, TERRACE_ADVISE_DONTNEED);
    safepoint();
    cr_assert_eq(near(), 5 * BLOCK);
    advise(a, 8 * MIB, TERRACE_ADVISE_UNPIN);
    safepoint();
    cr_assert_eq(near(), BLOCK);
    expect(a, 8 * MIB, 1);
    expect(b, 16 * MIB, 2);
    close_device();
}

Test(cuda_stable, tensors_leave_for_pins_only, .timeout = 60)
{
    enum { N = 6 };
    terrace_tensor *t[N];
    open_device(16 * MIB, 64 * MIB, NULL);
    for (int i = 0; i < N; i++) {
        void *p, *there = malloc(BLOCK);
        t[i] = tensor_of(d.m, BLOCK, "t");
        pattern_fill(there, BLOCK, (uint64_t)i);
        assert_ok(terrace_acquire(t[i], d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
        cr_assert(sim_write((uintptr_t)p, there, BLOCK));
        assert_ok(terrace_release(t[i], p, TERRACE_HOST_SYNC));
        free(there);
    }
    char *p = stable(4 * BLOCK, NULL);
    put(p, 4 * BLOCK, 9);
    cr_assert_eq(near(), 2 * BLOCK);
    advise(p, 4 * BLOCK, TERRACE_ADVISE_WILLNEED);
    safepoint();
    cr_assert_eq(near(), 2 * BLOCK);
    advise(p, 4 * BLOCK, TERRACE_ADVISE_PIN);
    safepoint();
    cr_assert_eq(near(), 4 * BLOCK);
    expect(p, 4 * BLOCK, 9);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, BLOCK, (uint64_t)i);
    close_device();
}

Test(cuda_stable, tensors_find_room_after_a_safepoint, .timeout = 60)
{
    void *p;
    open_device(16 * MIB, 64 * MIB, NULL);
    char *a = stable(16 * MIB, NULL);
    put(a, 16 * MIB, 1);
    terrace_tensor *t = tensor_of(d.m, 3 * BLOCK, "t");
    assert_fails(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EBUDGET);
    safepoint();
    cr_assert_eq(far(), 3 * BLOCK);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
    safepoint();
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    terrace_tensor_destroy(t);
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    safepoint();
    cr_assert_eq(far(), 0, "what there is room for again has not come");
    expect(a, 16 * MIB, 1);
    close_device();
}

static void fails_to_allocate(size_t bytes, const char *label)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
    uint64_t n = near(), f = far();
    cr_assert_null(terrace_malloc(d.m, bytes, d.dev, label ? &attr : NULL));
    cr_assert(*terrace_last_error());
    cr_assert_eq(near(), n);
    cr_assert_eq(far(), f);
}

Test(cuda_stable, neither_has_room, .timeout = 60)
{
    open_device(16 * MIB, 32 * MIB, NULL);
    safepoint();
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    fails_to_allocate(64 * MIB, NULL);
    cr_assert(strstr(terrace_last_error(), "64.0 MiB are more than the budget of cuda:0 and that of numa:0, 48.0 MiB"), "%s",
              terrace_last_error());
    fails_to_allocate(44 * MIB, NULL);
    cr_assert(strstr(terrace_last_error(), "terrace_malloc: no room for all of 44.0 MiB") &&
              strstr(terrace_last_error(), "And in the host's memory: no room for"), "%s", terrace_last_error());
    char *q = stable(20 * MIB, NULL);
    put(q, 20 * MIB, 2);
    expect(p, 8 * MIB, 1);
    expect(q, 20 * MIB, 2);
    close_device();
}

/* Tensors in the host's memory make room for what is far. */
Test(cuda_stable, host_tensors_go_to_disk, .timeout = 60)
{
    enum { N = 12 };
    terrace_tensor *t[N];
    open_device(8 * MIB, 32 * MIB, NULL);
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, BLOCK, "t");
        write_pattern(t[i], d.host, BLOCK, (uint64_t)i);
    }
    char *p = stable(30 * MIB, NULL);
    put(p, 30 * MIB, 99);
    cr_assert_eq(far(), 22 * MIB);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, BLOCK, (uint64_t)i);
    advise(p, 8 * MIB, TERRACE_ADVISE_DONTNEED);
    advise(p + 22 * MIB, 8 * MIB, TERRACE_ADVISE_WILLNEED);
    safepoint();
    cr_assert_eq(near(), 8 * MIB);
    expect(p, 30 * MIB, 99);
    close_device();
}

/* ---- what there is to work with ------------------------------------------------ */

Test(cuda_stable, any_host_memory_where_a_nodes_cannot_be, .timeout = 60)
{
    sim_set("HOST_NUMA_VMM", 0);
    open_device(8 * MIB, 32 * MIB, NULL);
    char *p = stable(16 * MIB, NULL);
    put(p, 16 * MIB, 1);
    cr_assert_eq(far(), 8 * MIB);
    expect(p, 16 * MIB, 1);
    close_device();
}

Test(cuda_stable, without_host_memory_for_devices, .timeout = 60)
{
    sim_set("HOST_NUMA_VMM", 0);
    sim_set("HOST_VMM", 0);
    open_device(8 * MIB, 32 * MIB, NULL);
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    fails_to_allocate(BLOCK, NULL);
    cr_assert(strstr(terrace_last_error(), "device and driver do not map it"), "%s", terrace_last_error());
    advise(p, 8 * MIB, TERRACE_ADVISE_DONTNEED);
    unsigned before = moves();
    safepoint();
    cr_assert_eq(moves(), before);
    cr_assert_eq(near(), 8 * MIB);
    expect(p, 8 * MIB, 1);
    close_device();
}

Test(cuda_stable, without_virtual_memory_it_does_not_move, .timeout = 60)
{
    sim_set("VMM", 0);
    open_device(16 * MIB, 32 * MIB, NULL);
    d.device_limit += BLOCK; /* for the alignment */
    char *p = stable(5 * MIB, NULL), *q = stable(3000, NULL);
    static char there[6 * MIB], zeros[6 * MIB];
    cr_assert(sim_read(there, (uintptr_t)p, 5 * MIB));
    cr_assert_eq(memcmp(there, zeros, 5 * MIB), 0);
    put(p, 5 * MIB, 1);
    put(q, 3000, 2);
    cr_assert_not_null(strstr(tier_stats_of(d.m, d.dev).stable_engine, "does not move"), "%s",
                       tier_stats_of(d.m, d.dev).stable_engine);
    advise(p, 5 * MIB, TERRACE_ADVISE_DONTNEED);
    assert_ok(terrace_safepoint(d.m, d.dev, d.stream));
    expect(p, 5 * MIB, 1);
    expect(q, 3000, 2);
    fails_to_allocate(16 * MIB, NULL);
    terrace_free(d.m, p);
    p = stable(8 * MIB, NULL);
    expect(q, 3000, 2);
    terrace_free(d.m, q);
    terrace_free(d.m, p);
    cr_assert_eq(near(), 0);
    close_device();
}

Test(cuda_stable, says_what_serves_it, .timeout = 60)
{
    open_device(8 * MIB, 32 * MIB, NULL);
    cr_assert_null(tier_stats_of(d.m, d.dev).stable_engine);
    terrace_free(d.m, stable(BLOCK, NULL));
    cr_assert_str_eq(tier_stats_of(d.m, d.dev).stable_engine,
                     "pages that move at safepoints; what does not fit is in numa:0");
    close_device();
}

/* Others have the device's memory: what is taken then is far, and comes when they go. */
Test(cuda_stable, others_take_the_devices_memory, .timeout = 60)
{
    open_device(32 * MIB, 64 * MIB, "log=error");
    cr_assert(sim_occupy(0, 240 * MIB));
    char *p = stable(24 * MIB, NULL);
    put(p, 24 * MIB, 1);
    cr_assert_leq(near(), 16 * MIB);
    cr_assert(sim_occupy(0, -240 * MIB));
    for (int i = 0; i < 300 && far(); i++) {
        usleep(100000);
        safepoint();
    }
    cr_assert_eq(far(), 0);
    expect(p, 24 * MIB, 1);
    close_device();
}

Test(cuda_stable, of_two_devices, .timeout = 60)
{
    terrace_tier first, second;
    sim_set("DEVICES", 2);
    d.m = open_with("cuda,numa:0,simdisk:0", 64 * MIB, "limit_cuda=8M");
    assert_ok(terrace_tier_find(d.m, "cuda:0", &first));
    assert_ok(terrace_tier_find(d.m, "cuda:1", &second));
    d.dev = first;
    char *p = stable(12 * MIB, NULL);
    d.dev = second;
    char *q = stable(12 * MIB, NULL);
    put(p, 12 * MIB, 1);
    put(q, 12 * MIB, 2);
    assert_ok(terrace_advise(d.m, p, 12 * MIB, TERRACE_ADVISE_WILLNEED, first));
    assert_ok(terrace_advise(d.m, q, 12 * MIB, TERRACE_ADVISE_DONTNEED, second));
    terrace_tier device;
    assert_ok(terrace_tier_find(d.m, "device", &device));
    assert_ok(terrace_safepoint(d.m, device, TERRACE_HOST_SYNC));
    cr_assert_eq(tier_stats_of(d.m, first).stable_bytes, 8 * MIB);
    cr_assert_eq(tier_stats_of(d.m, second).stable_bytes, 0);
    cr_assert_eq(tier_stats_of(d.m, 2).stable_bytes, 16 * MIB);
    expect(p, 12 * MIB, 1);
    expect(q, 12 * MIB, 2);
    char *r = terrace_malloc(d.m, BLOCK, device, NULL); /* any */
    cr_assert_not_null(r, "%s", terrace_last_error());
    terrace_close(d.m);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

/* ---- misuse ----------------------------------------------------------------- */

Test(cuda_stable, misuse_is_an_error, .timeout = 60)
{
    open_device(8 * MIB, 32 * MIB, "log=off");
    char *p = stable(4 * MIB, NULL);
    put(p, 4 * MIB, 1);
    assert_fails(terrace_advise(d.m, p, 4 * MIB + 1, TERRACE_ADVISE_WILLNEED, d.dev), TERRACE_EINVAL);
    assert_fails(terrace_advise(d.m, p - 1, 1, TERRACE_ADVISE_WILLNEED, d.dev), TERRACE_EINVAL);
    terrace_free(d.m, p + BLOCK);
    expect(p, 4 * MIB, 1);
    fails_to_allocate(0, NULL);
    fails_to_allocate(SIZE_MAX / 8, NULL);
    terrace_free(d.m, p);
    assert_fails(terrace_advise(d.m, p, 1, TERRACE_ADVISE_WILLNEED, d.dev), TERRACE_EINVAL);
    close_device();
}

Test(cuda_stable, freed_while_far, .timeout = 60)
{
    open_device(8 * MIB, 32 * MIB, NULL);
    char *p = stable(8 * MIB, NULL), *q = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    put(q, 8 * MIB, 2);
    advise(p, 6 * MIB, TERRACE_ADVISE_DONTNEED);
    safepoint();
    expect(p, 8 * MIB, 1);
    terrace_free(d.m, p);
    cr_assert_eq(near() + far(), 8 * MIB);
    expect(q, 8 * MIB, 2);
    close_device(); /* with q, which goes then */
}

/* ---- rules ------------------------------------------------------------------ */

Test(cuda_stable, rules_hold, .timeout = 60)
{
    open_device(8 * MIB, 32 * MIB, "rules=\"label=secret/*: !host, label=cpu/*: !device\"");
    char *p = stable(6 * MIB, "secret/a");
    put(p, 6 * MIB, 1);
    fails_to_allocate(4 * MIB, "secret/b");
    fails_to_allocate(4 * MIB, "cpu/a");
    cr_assert_not_null(strstr(terrace_last_error(), "cpu/*"), "%s", terrace_last_error());
    advise(p, 6 * MIB, TERRACE_ADVISE_DONTNEED);
    char *q = stable(8 * MIB, "q");
    put(q, 8 * MIB, 2);
    safepoint();
    cr_assert_eq(near(), 8 * MIB, "a rule keeps it on the device");
    expect(p, 6 * MIB, 1);
    assert_fails(terrace_rules_set(d.m, "label=q: !host"), TERRACE_ERULE);
    assert_ok(terrace_rules_set(d.m, ""));
    safepoint();
    expect(p, 6 * MIB, 1);
    expect(q, 8 * MIB, 2);
    cr_assert_eq(near(), 8 * MIB);
    cr_assert_eq(far(), 6 * MIB);
    close_device();
}

/* ---- failures --------------------------------------------------------------- */

static const char *const failing[] = {"cuMemCreate", "cuMemRelease", "cuMemMap", "cuMemUnmap", "cuMemSetAccess",
                                      "cuMemcpyAsync", "cuMemsetD8Async", "cuStreamSynchronize", "cuStreamCreate",
                                      "cuMemAddressReserve", "cuCtxGetCurrent", "cuCtxSetCurrent", "cuEventCreate",
                                      "cuEventRecord", "cuEventQuery", "cuStreamIsCapturing"};
enum { FAILING = sizeof failing / sizeof failing[0] };

/* Two regions of which half fits, a new order of them in a safepoint where calls fail,
 * and one where they do not. */
static void with_failures(const char *symbol, unsigned nth, unsigned times, int code, bool *struck)
{
    enum { SIZE = 3 * BLOCK };
    char *a = stable(SIZE, NULL), *b = stable(SIZE, NULL);
    put(a, SIZE, 1);
    put(b, SIZE, 2);
    advise(a, BLOCK, TERRACE_ADVISE_DONTNEED);
    advise(b + BLOCK, 2 * BLOCK, TERRACE_ADVISE_WILLNEED);
    unsigned before = sim_calls(symbol);
    sim_fail(symbol, nth, times, code);
    int r = terrace_safepoint(d.m, d.dev, d.stream);
    if (r)
        cr_assert(*terrace_last_error());
    char *c = terrace_malloc(d.m, 2 * BLOCK, d.dev, NULL);
    if (!c)
        cr_assert(*terrace_last_error());
    *struck = sim_calls(symbol) - before >= nth;
    sim_fail(symbol, 0, 0, 0);
    r = terrace_safepoint(d.m, d.dev, d.stream);
    cr_assert_eq(r, 0, "%s (%s, call %u, %u times, code %d)", terrace_last_error(), symbol, nth, times, code);
    cr_assert(has(a, SIZE, 1) && has(b, SIZE, 2), "bytes are lost (%s, call %u, %u times, code %d)", symbol, nth, times,
              code);
    if (c)
        put(c, 2 * BLOCK, 3);
    if (c)
        expect(c, 2 * BLOCK, 3);
    terrace_free(d.m, a);
    terrace_free(d.m, b);
    terrace_free(d.m, c);
    cr_assert(near() == 0 && far() == 0, "(%s, call %u, %u times, code %d)", symbol, nth, times, code);
    if (times == 1)
        cr_assert_null(sim_complaint(), "%s (%s, call %u, code %d)", sim_complaint(), symbol, nth, code);
}

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { EVERY = 6, LEAST = 20 };
#else
enum { EVERY = 1, LEAST = 75 };
#endif

/* Calls fail once; or twice, so that what is tried again fails, too: then some memory may
 * be lost that the driver would not take back, but no bytes. That the device is still
 * busy with what it says has failed is not tried. */
static void sweep(unsigned times, int code)
{
    unsigned tried = 0;
    for (unsigned i = 0; i < FAILING; i++) {
        bool struck = times == 1 || strcmp(failing[i], "cuStreamSynchronize");
        for (unsigned nth = 1; struck; nth += EVERY, tried++) {
            open_device(3 * BLOCK, 64 * MIB, "log=off");
            with_failures(failing[i], nth, times, code, &struck);
            if (times == 1)
                close_device();
            else
                terrace_close(d.m);
            sim_forget_misuses();
        }
    }
    cr_assert_gt(tried, LEAST, "only %u failures", tried);
}

Test(cuda_stable_faults, once_memory, .timeout = 200) { sweep(1, 2); }
Test(cuda_stable_faults, once_unknown, .timeout = 200) { sweep(1, 999); }
Test(cuda_stable_faults, twice, .timeout = 200) { sweep(2, 999); }
Test(cuda_stable_faults, three_times, .timeout = 200) { sweep(3, 1); }

/* The device is lost, at once or while bytes are copied: nothing hangs, and it is said. */
static void lost(unsigned nth)
{
    open_device(8 * MIB, 32 * MIB, "log=off");
    char *p = stable(8 * MIB, NULL);
    put(p, 8 * MIB, 1);
    advise(p, 8 * MIB, TERRACE_ADVISE_DONTNEED);
    sim_lose(0, nth, 700);
    assert_fails(terrace_safepoint(d.m, d.dev, d.stream), TERRACE_EDEVICE);
    assert_fails(terrace_safepoint(d.m, d.dev, d.stream), TERRACE_EDEVICE);
    cr_assert_null(terrace_malloc(d.m, BLOCK, d.dev, NULL));
    terrace_free(d.m, p);
    cr_assert(near() == 0 && far() == 0);
    terrace_close(d.m);
}

Test(cuda_stable_faults, device_lost_at_once, .timeout = 60) { lost(0); }
Test(cuda_stable_faults, device_lost_in_a_copy, .timeout = 60) { lost(3); }

/* ---- threads ---------------------------------------------------------------- */

#ifdef __SANITIZE_THREAD__
enum { THREADS = 4, ROUNDS = 6 };
#else
enum { THREADS = 4, ROUNDS = 40 };
#endif


static pthread_rwlock_t gate = PTHREAD_RWLOCK_WRITER_NONRECURSIVE_INITIALIZER_NP; /* held to read while work is under way */
static atomic_uint wrong, got;

static void use_once(cuda_stream stream, char *p, size_t bytes, uint64_t before, uint64_t after)
{
    struct kernel k = {.p = p, .bytes = bytes, .before = before, .after = after};
    pthread_rwlock_rdlock(&gate);
    cr_assert_eq(sim_launch(stream, kernel_run, &k, 100000), 0);
    cr_assert_eq(cuda.stream_synchronize(stream), 0);
    pthread_rwlock_unlock(&gate);
    atomic_fetch_add(&wrong, !atomic_load(&k.right));
}

static void *work(void *number)
{
    unsigned n = (unsigned)(uintptr_t)number;
    cuda_stream stream;
    cr_assert_eq(cuda.context_set(d.context), 0);
    cr_assert_eq(cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        size_t bytes = (1 + (round + n) % 3) * BLOCK;
        char *p = terrace_malloc(d.m, bytes, d.dev, NULL);
        if (!p)
            continue; /* all is in use */
        atomic_fetch_add(&got, 1);
        pthread_rwlock_rdlock(&gate);
        put(p, bytes, n * 1000);
        pthread_rwlock_unlock(&gate);
        for (unsigned i = 0; i < 4; i++) {
            terrace_advise(d.m, p, bytes, TERRACE_ADVISE_WILLNEED + (int)((i + n) % 2), d.dev);
            use_once(stream, p, bytes, n * 1000 + i, n * 1000 + i + 1);
        }
        terrace_free(d.m, p);
    }
    cr_assert_eq(cuda.stream_destroy(stream), 0);
    cr_assert_eq(cuda.context_set(NULL), 0);
    return NULL;
}

static void *safepoints(void *arg)
{
    (void)arg;
    while (!atomic_load(&over)) {
        pthread_rwlock_wrlock(&gate);
        cr_assert_eq(terrace_safepoint(d.m, d.dev, TERRACE_HOST_SYNC), 0, "%s", terrace_last_error());
        pthread_rwlock_unlock(&gate);
        usleep(200);
    }
    return NULL;
}

Test(cuda_stable, threads, .timeout = 120)
{
    pthread_t thread[THREADS], other;
    open_device(10 * MIB, 20 * MIB, "log=off");
    cr_assert_eq(pthread_create(&other, NULL, safepoints, NULL), 0);
    for (size_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, work, (void *)i), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    atomic_store(&over, true);
    pthread_join(other, NULL);
    cr_assert_eq(wrong, 0);
    cr_assert_gt(got, ROUNDS);
    cr_assert(near() == 0 && far() == 0);
    close_device();
}
