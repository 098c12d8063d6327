/* test_cuda_streams.c - tensors used by kernels in streams of the NVIDIA tier, on a
 * simulated driver: nobody waits for a kernel on the host, the device has a fraction
 * of the memory, and every kernel finds what the one before it wrote. */
#include <pthread.h>
#include <stdatomic.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { THREADS = 4, TENSORS = 40 };

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { OPERATIONS = 250 };
#else
enum { OPERATIONS = 2000 };
#endif

#ifdef __SANITIZE_THREAD__
/* A write-back of bytes that a kernel then changes is under way: what it copied is
 * discarded, here as on a device. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^move_bytes$\n";
}
#endif

static struct slot {
    pthread_mutex_t lock; /* the order of uses that terrace leaves to the caller */
    terrace_tensor *tensor;
    size_t bytes;
    uint64_t seed; /* of the last kernel's bytes; 0: none yet */
} slots[TENSORS];

static struct {
    terrace *m;
    terrace_tier dev, host;
    cuda_context context;
    atomic_uint wrong, unmapped, ran;
} d;

struct kernel {
    uint64_t address;
    size_t bytes;
    uint64_t before, after; /* seeds; 0: not looked at, not written */
};

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory(k->address, k->bytes);
    if (!p)
        atomic_fetch_add(&d.unmapped, 1);
    else if (k->before && !pattern_is(p, k->bytes, k->before))
        atomic_fetch_add(&d.wrong, 1);
    if (p && k->after)
        pattern_fill(p, k->bytes, k->after);
    atomic_fetch_add(&d.ran, 1);
    free(k);
}

static uint64_t draw(uint64_t *random, uint64_t below)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (*random >> 33) % below;
}

/* One use: on the device in a stream, seldom on the host. */
static void use(struct slot *s, void *stream, uint64_t *random)
{
    bool writes = s->seed == 0 || draw(random, 3) == 0, all = s->seed == 0 || draw(random, 2);
    unsigned mode = !writes ? TERRACE_READ : all ? TERRACE_OVERWRITE : TERRACE_WRITE;
    void *p;
    if (s->seed && draw(random, 16) == 0) {
        expect_pattern(s->tensor, d.host, s->bytes, s->seed);
        return;
    }
    assert_ok(terrace_acquire(s->tensor, d.dev, mode | TERRACE_WAIT, stream, &p, NULL));
    struct kernel *k = malloc(sizeof *k);
    *k = (struct kernel){(uintptr_t)p, s->bytes, mode == TERRACE_OVERWRITE ? 0 : s->seed,
                         writes ? 1 + draw(random, 1000000) : 0};
    s->seed = writes ? k->after : s->seed;
    cr_assert_eq(sim_launch(stream, kernel_run, k, draw(random, 200000)), 0);
    assert_ok(terrace_release(s->tensor, p, stream));
}

static void *work(void *number)
{
    uint64_t random = (uintptr_t)number * 77 + 1;
    cuda_stream stream = NULL;
    cr_assert_eq(cuda.context_set(d.context), 0);
    if (number) /* one works in the default stream */
        cr_assert_eq(cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), 0);
    for (int i = 0; i < OPERATIONS; i++) {
        struct slot *s = &slots[draw(&random, TENSORS)];
        if (draw(&random, 8) == 0)
            terrace_prefetch(slots[draw(&random, TENSORS)].tensor, d.dev);
        pthread_mutex_lock(&s->lock);
        use(s, stream, &random);
        pthread_mutex_unlock(&s->lock);
    }
    cr_assert_eq(cuda.stream_synchronize(stream), 0);
    if (stream)
        cr_assert_eq(cuda.stream_destroy(stream), 0);
    cr_assert_eq(cuda.context_set(NULL), 0);
    return NULL;
}

static void kernels(const char *more)
{
    pthread_t thread[THREADS];
    char conf[200];
    snprintf(conf, sizeof conf, "limit_cuda=8M;%s", more);
    d.m = open_with("cuda:0,numa:0,simdisk:0", 12 * MIB, conf);
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    d.host = host_of(d.m);
    cr_assert_eq(cuda.context_retain(&d.context, 0), 0);
    for (size_t i = 0; i < TENSORS; i++) {
        pthread_mutex_init(&slots[i].lock, NULL);
        slots[i].bytes = (i % 4 + 1) * 200 * KIB + i * 8;
        slots[i].tensor = tensor_of(d.m, slots[i].bytes, "t");
    }
    for (size_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, work, (void *)i), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(d.unmapped, 0, "memory was taken away under %u kernels", d.unmapped);
    cr_assert_eq(d.wrong, 0, "%u of %u kernels did not find what was there before", d.wrong, d.ran);
    for (size_t i = 0; i < TENSORS; i++)
        if (slots[i].seed)
            expect_pattern(slots[i].tensor, d.host, slots[i].bytes, slots[i].seed);
    cr_assert_gt(stats_of(d.m).evictions, TENSORS);
    terrace_close(d.m);
    cr_assert_eq(cuda.context_release(0), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

Test(cuda_streams, kernels_find_what_was_there, .timeout = 120) { kernels(""); }
Test(cuda_streams, kernels_on_encrypted_spill, .timeout = 120) { kernels("encrypt=1"); }

Test(cuda_streams, kernels_with_slow_copies, .timeout = 120)
{
    sim_set("HTOD_NS", 50000);
    sim_set("DTOH_NS", 50000);
    kernels("policy=lru");
}

Test(cuda_streams, kernels_without_virtual_memory, .timeout = 120)
{
    sim_set("VMM", 0);
    kernels("");
}

/* A stream that is being captured is refused, and the tensor left as it was. */
unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode);
unsigned cuStreamEndCapture(cuda_stream stream, void **graph);
unsigned cuGraphDestroy(void *graph);

Test(cuda_streams, a_captured_one_is_refused, .timeout = 60)
{
    cuda_stream stream;
    void *p, *graph;
    d.m = open_with("cuda:0,numa:0,simdisk:0", 12 * MIB, "limit_cuda=8M");
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    cr_assert_eq(cuda.context_retain(&d.context, 0), 0);
    cr_assert_eq(cuda.context_set(d.context), 0);
    cr_assert_eq(cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), 0);
    terrace_tensor *t = tensor_of(d.m, MIB, "t");
    write_pattern(t, host_of(d.m), MIB, 1);
    cr_assert_eq(cuStreamBeginCapture_v2(stream, 0), 0);
    assert_fails(terrace_acquire(t, d.dev, TERRACE_READ, stream, &p, NULL), TERRACE_EBUSY);
    cr_assert_not_null(strstr(terrace_last_error(), "acquire before the capture begins"), "%s", terrace_last_error());
    cr_assert_eq(cuStreamEndCapture(stream, &graph), 0);
    cr_assert_eq(cuGraphDestroy(graph), 0);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, stream, &p, NULL));
    assert_ok(terrace_release(t, p, stream));
    expect_pattern(t, host_of(d.m), MIB, 1);
    cr_assert_eq(cuda.stream_destroy(stream), 0);
    cr_assert_eq(cuda.context_set(NULL), 0);
    terrace_close(d.m);
    cr_assert_eq(cuda.context_release(0), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
}
