/* test_cuda_torch.c - what PyTorch's pluggable allocator calls, on a simulated driver:
 * blocks in several streams, beside tensors of the program, under captured graphs. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { BUDGET = 8 * MIB, STREAMS = 4 };

unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode);
unsigned cuStreamEndCapture(cuda_stream stream, void **graph);
unsigned cuGraphDestroy(void *graph);

static cuda_context context;
static atomic_uint unmapped, wrong;

static cuda_stream stream_new(void)
{
    cuda_stream s;
    cr_assert_eq(cuda.stream_create(&s, CUDA_STREAM_NON_BLOCKING), 0);
    return s;
}

/* The manager is opened by the first block that is asked for, or by init(). */
static void begin(void)
{
    setenv("TERRACE_TIERS", "cuda:0,numa:0,simdisk:0", 1);
    setenv("TERRACE_LIMIT_CUDA", "8M", 1);
    setenv("TERRACE_LIMIT_NUMA", "16M", 1);
    terrace_torch_init(1);
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda.context_set(context), 0);
}

static terrace *shared_manager(void)
{
    terrace *m;
    assert_ok(terrace_open(&m, NULL));
    return m;
}

static uint64_t used(void)
{
    terrace *m = shared_manager();
    terrace_tier_statistics s = tier_stats_of(m, 0);
    terrace_close(m);
    return s.used - s.cached;
}

static void end(void)
{
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
    cr_assert_eq(unmapped, 0);
    cr_assert_eq(wrong, 0);
}

static void *block(size_t bytes, void *stream)
{
    void *p = terrace_torch_alloc(bytes, 0, stream);
    cr_assert_not_null(p, "%zu bytes: %s", bytes, terrace_last_error());
    return p;
}

/* ---- kernels --------------------------------------------------------------- */

struct kernel {
    void *at;
    size_t bytes;
    uint64_t before, after; /* seeds; 0: not looked at, not written */
};

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory((uintptr_t)k->at, k->bytes);
    if (!p)
        atomic_fetch_add(&unmapped, 1);
    else if (k->before && !pattern_is(p, k->bytes, k->before))
        atomic_fetch_add(&wrong, 1);
    if (p && k->after)
        pattern_fill(p, k->bytes, k->after);
    free(k);
}

static void launch(void *stream, void *at, size_t bytes, uint64_t before, uint64_t after, uint64_t ns)
{
    struct kernel *k = malloc(sizeof *k);
    *k = (struct kernel){at, bytes, before, after};
    cr_assert_eq(sim_launch(stream, kernel_run, k, ns), 0);
}

/* ---- blocks ------------------------------------------------------------------ */

Test(cuda_torch, blocks_are_apart_and_found_again, .timeout = 60)
{
    enum { N = 50 };
    static const size_t sizes[] = {1, 100, 512, 5000, 40 * KIB, 300 * KIB};
    void *p[N];
    begin();
    for (int i = 0; i < N; i++) {
        size_t bytes = sizes[i % 6], said = 0;
        p[i] = block(bytes, NULL);
        cr_assert_eq((uintptr_t)p[i] % 512, 0);
        cr_assert_eq(terrace_torch_base_alloc((char *)p[i] + bytes - 1, &said), p[i]);
        cr_assert_eq(said, bytes);
        launch(NULL, p[i], bytes, 0, (uint64_t)i + 1, 0);
    }
    for (int i = 0; i < N; i++)
        launch(NULL, p[i], sizes[i % 6], (uint64_t)i + 1, 0, 0);
    for (int i = 0; i < N; i++)
        terrace_torch_free(p[i], sizes[i % 6], 0, NULL);
    cr_assert_eq(cuda.stream_synchronize(NULL), 0);
    eventually(used() == 0);
    size_t said = 1;
    cr_assert_eq(terrace_torch_base_alloc(p[0], &said), p[0]);
    cr_assert_eq(said, 0);
    end();
}

Test(cuda_torch, what_is_not_there_does_no_harm, .timeout = 60)
{
    int local;
    terrace_torch_free(&local, 4, 0, NULL); /* before there is a manager */
    terrace_torch_record_stream(&local, NULL);
    terrace_torch_reset();
    begin();
    cr_assert_null(terrace_torch_alloc(0, 0, NULL));
    cr_assert_null(terrace_torch_alloc(MIB, 1, NULL));
    cr_assert_not_null(strstr(terrace_last_error(), "cuda:1"), "%s", terrace_last_error());
    cr_assert_null(terrace_torch_alloc(MIB, -1, NULL));
    char *p = block(MIB, NULL);
    terrace_torch_free(NULL, 0, 0, NULL);
    terrace_torch_free(p + 512, 0, 0, NULL);
    terrace_torch_free(&local, 0, 0, NULL);
    cr_assert_eq(terrace_torch_base_alloc(p, NULL), p);
    cr_assert_eq(used(), MIB);
    terrace_torch_free(p, MIB, 0, NULL);
    end();
}

Test(cuda_torch, exhaustion_is_told_and_passes, .timeout = 60)
{
    begin();
    void *a = block(4 * MIB, NULL), *b = block(4 * MIB, NULL);
    cr_assert_null(terrace_torch_alloc(4 * MIB, 0, NULL)); /* there is no torch here to raise its exception */
    cr_assert_not_null(strstr(terrace_last_error(), "8.0 MiB"), "%s", terrace_last_error());
    cr_assert_null(terrace_torch_alloc_or_null(4 * MIB, 0, NULL));
    terrace_torch_free(a, 4 * MIB, 0, NULL);
    a = block(4 * MIB, NULL);
    terrace_torch_free(a, 4 * MIB, 0, NULL);
    terrace_torch_free(b, 4 * MIB, 0, NULL);
    end();
}

/* The memory of a block goes to another stream behind what is still to be done with it. */
Test(cuda_torch, another_stream_comes_after, .timeout = 60)
{
    begin();
    cuda_stream one = stream_new(), two = stream_new();
    for (uint64_t i = 1; i < 20; i++) {
        void *p = block(6 * MIB, one);
        launch(one, p, 6 * MIB, 0, i, 20000000);
        terrace_torch_free(p, 6 * MIB, 0, one);
        void *q = block(6 * MIB, two);
        launch(two, q, 6 * MIB, 0, i + 100, 0);
        cr_assert_eq(cuda.stream_synchronize(one), 0);
        launch(two, q, 6 * MIB, i + 100, 0, 0);
        cr_assert_eq(cuda.stream_synchronize(two), 0);
        terrace_torch_free(q, 6 * MIB, 0, two);
    }
    end();
}

/* Also behind streams that were recorded for it. */
Test(cuda_torch, recorded_streams_are_waited_for, .timeout = 60)
{
    begin();
    cuda_stream one = stream_new(), two = stream_new();
    for (uint64_t i = 1; i < 20; i++) {
        void *p = block(6 * MIB, one);
        terrace_torch_record_stream(p, two);
        terrace_torch_record_stream(p, two);
        launch(two, p, 6 * MIB, 0, i, 20000000);
        terrace_torch_free(p, 6 * MIB, 0, one);
        void *q = block(6 * MIB, one);
        launch(one, q, 6 * MIB, 0, i + 100, 0);
        cr_assert_eq(cuda.stream_synchronize(two), 0);
        launch(one, q, 6 * MIB, i + 100, 0, 0);
        cr_assert_eq(cuda.stream_synchronize(one), 0);
        terrace_torch_free(q, 6 * MIB, 0, one);
    }
    end();
}

static void *work(void *number)
{
    enum { SLOTS = 8, ROUNDS = 400 };
    struct {
        void *p;
        size_t bytes;
        uint64_t seed;
    } slot[SLOTS] = {{0}};
    uint64_t random = (uintptr_t)number + 1;
    cr_assert_eq(cuda.context_set(context), 0);
    cuda_stream s = stream_new();
    for (int i = 0; i < ROUNDS; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned k = random >> 33 & (SLOTS - 1);
        if (slot[k].p) {
            launch(s, slot[k].p, slot[k].bytes, slot[k].seed, 0, random >> 40 & 65535);
            terrace_torch_free(slot[k].p, slot[k].bytes, 0, s);
            slot[k].p = NULL;
        } else {
            slot[k].bytes = 1 + (random >> 36) % (120 * KIB);
            slot[k].seed = random | 1;
            slot[k].p = block(slot[k].bytes, s);
            launch(s, slot[k].p, slot[k].bytes, 0, slot[k].seed, random >> 40 & 65535);
        }
    }
    for (int k = 0; k < SLOTS; k++)
        terrace_torch_free(slot[k].p, slot[k].bytes, 0, s);
    cr_assert_eq(cuda.stream_synchronize(s), 0);
    return NULL;
}

Test(cuda_torch, many_threads_and_streams, .timeout = 120)
{
    pthread_t thread[STREAMS];
    begin();
    for (size_t i = 0; i < STREAMS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, work, (void *)i), 0);
    for (size_t i = 0; i < STREAMS; i++)
        pthread_join(thread[i], NULL);
    eventually(used() == 0);
    end();
}

Test(cuda_torch, a_share_of_the_device, .timeout = 60)
{
    begin();
    terrace_torch_memory_fraction(0.5, 0);
    void *p = block(3 * MIB, NULL);
    cr_assert_null(terrace_torch_alloc_or_null(2 * MIB, 0, NULL));
    cr_assert_not_null(strstr(terrace_last_error(), "set_per_process_memory_fraction"), "%s", terrace_last_error());
    terrace_torch_memory_fraction(1, 0);
    void *q = block(2 * MIB, NULL);
    terrace_torch_free(p, 3 * MIB, 0, NULL);
    terrace_torch_free(q, 2 * MIB, 0, NULL);
    end();
}

Test(cuda_torch, reset_gives_memory_back, .timeout = 60)
{
    begin();
    terrace *m = shared_manager();
    terrace_torch_free(block(4 * MIB, NULL), 4 * MIB, 0, NULL);
    eventually(used() == 0);
    cr_assert_geq(tier_stats_of(m, 0).used, 4 * MIB);
    terrace_torch_reset();
    cr_assert_eq(tier_stats_of(m, 0).used, 0);
    terrace_close(m);
    end();
}

/* ---- one manager --------------------------------------------------------------- */

/* Tensors leave the device for torch's blocks, and come back. */
Test(cuda_torch, tensors_make_room, .timeout = 60)
{
    begin();
    terrace *m = shared_manager();
    terrace_tier dev;
    void *p, *there = malloc(MIB);
    assert_ok(terrace_tier_find(m, "cuda:0", &dev));
    terrace_tensor *t[6];
    for (unsigned i = 0; i < 6; i++) {
        t[i] = tensor_of(m, MIB, "t");
        write_pattern(t[i], host_of(m), MIB, i + 1);
        assert_ok(terrace_acquire(t[i], dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
        assert_ok(terrace_release(t[i], p, TERRACE_HOST_SYNC));
    }
    void *b = block(7 * MIB, NULL);
    cr_assert_geq(stats_of(m).evictions, 5);
    terrace_torch_free(b, 7 * MIB, 0, NULL);
    for (unsigned i = 0; i < 6; i++) {
        assert_ok(terrace_acquire(t[i], dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
        cr_assert(sim_read(there, (uintptr_t)p, MIB) && pattern_is(there, MIB, i + 1));
        assert_ok(terrace_release(t[i], p, TERRACE_HOST_SYNC));
        terrace_tensor_destroy(t[i]);
    }
    free(there);
    terrace_close(m);
    end();
}

Test(cuda_torch, the_program_s_manager_is_taken, .timeout = 60)
{
    terrace *m, *other;
    setenv("TERRACE_TIERS", "cuda:0,numa:0,simdisk:0", 1);
    setenv("TERRACE_LIMIT_CUDA", "8M", 1);
    setenv("TERRACE_LIMIT_NUMA", "16M", 1);
    assert_ok(terrace_open(&other, "limit_cuda=4M"));
    assert_ok(terrace_open(&m, NULL));
    begin();
    void *p = block(MIB, NULL);
    cr_assert_geq(tier_stats_of(m, 0).pinned, MIB);
    cr_assert_eq(tier_stats_of(other, 0).pinned, 0);
    terrace_close(other);
    terrace_close(m); /* torch still has it */
    void *q = block(MIB, NULL);
    launch(NULL, p, MIB, 0, 1, 0);
    launch(NULL, q, MIB, 0, 2, 0);
    launch(NULL, p, MIB, 1, 0, 0);
    terrace_torch_free(p, MIB, 0, NULL);
    terrace_torch_free(q, MIB, 0, NULL);
    cr_assert_eq(cuda.stream_synchronize(NULL), 0);
    cr_assert_eq(shared_manager(), m);
    end();
}

/* ---- graphs ---------------------------------------------------------------------- */

static const terrace_torch_pool pool = {0, 7};

static void capture_begin(cuda_stream s)
{
    cr_assert_eq(cuStreamBeginCapture_v2(s, 0), 0);
}

static void capture_end(cuda_stream s)
{
    void *graph;
    cr_assert_eq(cuStreamEndCapture(s, &graph), 0, "the capture was spoilt");
    cr_assert_eq(cuGraphDestroy(graph), 0);
}

/* What a graph uses is kept for it, and given to nobody else. */
Test(cuda_torch, graphs_keep_their_blocks, .timeout = 60)
{
    begin();
    cuda_stream s = stream_new();
    terrace_torch_begin_allocate_to_pool(0, pool, NULL);
    capture_begin(s);
    void *p = block(3 * MIB, s);
    terrace_torch_free(p, 3 * MIB, 0, s);
    cr_assert_eq(block(3 * MIB, s), p, "the same capture may have it again");
    void *q = block(3 * MIB, s);
    cr_assert_neq(p, q);
    terrace_torch_free(p, 3 * MIB, 0, s);
    capture_end(s);
    terrace_torch_end_allocate_to_pool(0, pool);
    terrace_torch_free(q, 3 * MIB, 0, s);
    cr_assert_eq(used(), 6 * MIB);
    cr_assert_null(terrace_torch_alloc_or_null(3 * MIB, 0, s), "a graph may write there");
    terrace_torch_reset();
    cr_assert_eq(used(), 6 * MIB);
    terrace_torch_release_pool(0, pool);
    void *r = block(7 * MIB, s);
    terrace_torch_free(r, 7 * MIB, 0, s);
    end();
}

/* Torch may hold a block when the graphs of its pool are gone. */
Test(cuda_torch, blocks_outlive_their_graphs, .timeout = 60)
{
    begin();
    cuda_stream s = stream_new();
    terrace_torch_begin_allocate_to_pool(0, pool, NULL);
    capture_begin(s);
    void *p = block(6 * MIB, s);
    capture_end(s);
    terrace_torch_end_allocate_to_pool(0, pool);
    terrace_torch_release_pool(0, pool);
    cr_assert_null(terrace_torch_alloc_or_null(6 * MIB, 0, s));
    terrace_torch_free(p, 6 * MIB, 0, s);
    terrace_torch_free(block(6 * MIB, s), 6 * MIB, 0, s);
    end();
}

/* Where torch says nothing of pools, nobody knows when the graph is gone. */
Test(cuda_torch, graphs_of_no_pool_keep_theirs_for_good, .timeout = 60)
{
    begin();
    cuda_stream s = stream_new();
    capture_begin(s);
    void *p = block(6 * MIB, s);
    terrace_torch_free(p, 6 * MIB, 0, s);
    capture_end(s);
    terrace_torch_reset();
    cr_assert_null(terrace_torch_alloc_or_null(6 * MIB, 0, s));
    end();
}

/* A block from before, freed while its stream is captured: nothing can be recorded there. */
Test(cuda_torch, freed_during_a_capture, .timeout = 60)
{
    begin();
    cuda_stream s = stream_new();
    void *p = block(6 * MIB, s);
    launch(s, p, 6 * MIB, 0, 1, 20000000);
    terrace_torch_begin_allocate_to_pool(0, pool, NULL);
    capture_begin(s);
    terrace_torch_free(p, 6 * MIB, 0, s);
    cr_assert_null(terrace_torch_alloc_or_null(6 * MIB, 0, NULL));
    capture_end(s);
    terrace_torch_end_allocate_to_pool(0, pool);
    p = block(6 * MIB, s);
    launch(s, p, 6 * MIB, 0, 2, 0);
    launch(s, p, 6 * MIB, 2, 0, 0);
    cr_assert_eq(cuda.stream_synchronize(s), 0);
    terrace_torch_free(p, 6 * MIB, 0, s);
    end();
}

/* ---- children ---------------------------------------------------------------------- */

Test(cuda_torch, a_child_has_no_device, .timeout = 60)
{
    begin();
    void *p = block(MIB, NULL);
    pid_t child = fork();
    if (child == 0) {
        bool refused = !terrace_torch_alloc(MIB, 0, NULL) && strstr(terrace_last_error(), "parent");
        terrace_torch_free(p, MIB, 0, NULL);
        terrace_torch_reset();
        _exit(refused ? 0 : 1);
    }
    int status = 1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    launch(NULL, p, MIB, 0, 1, 0);
    terrace_torch_free(p, MIB, 0, NULL);
    cr_assert_eq(cuda.stream_synchronize(NULL), 0);
    end();
}
