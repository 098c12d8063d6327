/* test_cuda_shared.c - several processes on one device of the NVIDIA tier, each with a
 * budget that counts on memory the others take: on a simulated driver, whose memory the
 * processes share as they would a device's. What is not to be had is made room for among
 * one's own; no bytes are lost, and where nothing of one's own is left, that is an error
 * which passes when others give something back. */
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { TENSORS = 40 };

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { OPERATIONS = 150 };
#else
enum { OPERATIONS = 800 };
#endif

static char account[64];

/* The processes find each other by a name; none has used the driver before. */
static void share(const char *capacity)
{
    snprintf(account, sizeof account, "/terrace-shared-%d", (int)getpid());
    setenv("SIM_CUDA_ACCOUNT", account, 1);
    setenv("SIM_CUDA_CAPACITY", capacity, 1);
}

/* What processes tell each other. */
struct board {
    int ready, opened, go, evictions[4];
};

static struct board *board_new(void)
{
    struct board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(b, MAP_FAILED);
    return b;
}

static void await(const int *number, int value)
{
    while (__atomic_load_n(number, __ATOMIC_ACQUIRE) < value)
        usleep(1000);
}

static uint64_t draw(uint64_t *random, uint64_t below)
{
    *random = *random * 6364136223846793005u + 1442695040888963407u;
    return (*random >> 33) % below;
}

/* ---- one process ----------------------------------------------------------- */

struct work {
    terrace *m;
    terrace_tier dev;
    cuda_stream stream;
    terrace_tensor *t[TENSORS];
    size_t bytes[TENSORS];
    uint64_t seed[TENSORS];
};

struct kernel {
    uint64_t address;
    size_t bytes;
    uint64_t before, after;
};
static unsigned wrong;

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory(k->address, k->bytes);
    if (!p || (k->before && !pattern_is(p, k->bytes, k->before)))
        __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
    if (p && k->after)
        pattern_fill(p, k->bytes, k->after);
    free(k);
}

static int says(const char *what)
{
    fprintf(stderr, "process %d: %s: %s\n", (int)getpid(), what, terrace_last_error());
    return -1;
}

static int opens(struct work *w, const char *limit)
{
    char conf[200];
    cuda_context context;
    snprintf(conf, sizeof conf, "tiers=cuda:0,numa:0,simdisk:0;limit_numa=24M;limit_cuda=%s;log=off", limit);
    if (terrace_open(&w->m, conf) || terrace_tier_find(w->m, "cuda:0", &w->dev))
        return says("opening");
    if (cuda.context_retain(&context, 0) || cuda.context_set(context) ||
        cuda.stream_create(&w->stream, CUDA_STREAM_NON_BLOCKING))
        return says("a stream");
    for (int i = 0; i < TENSORS; i++) {
        w->bytes[i] = (size_t)(i % 5 + 1) * 700 * KIB;
        w->seed[i] = 0;
        w->t[i] = tensor_of(w->m, w->bytes[i], "t");
    }
    return 0;
}

static int operate(struct work *w, uint64_t *random)
{
    int i = (int)draw(random, TENSORS);
    bool writes = !w->seed[i] || draw(random, 3) == 0;
    void *p;
    if (draw(random, 8) == 0)
        terrace_prefetch(w->t[draw(random, TENSORS)], w->dev);
    unsigned mode = !w->seed[i] ? TERRACE_OVERWRITE : writes ? TERRACE_WRITE : TERRACE_READ;
    int r;
    while ((r = terrace_acquire(w->t[i], w->dev, mode, w->stream, &p, NULL)) == -TERRACE_EDEVMEM)
        usleep(1000); /* what was ours the others have taken, until they give some of it back */
    if (r)
        return says("acquire");
    struct kernel *k = malloc(sizeof *k);
    *k = (struct kernel){(uintptr_t)p, w->bytes[i], w->seed[i], writes ? 1 + draw(random, 1000000) : 0};
    w->seed[i] = writes ? k->after : w->seed[i];
    if (sim_launch(w->stream, kernel_run, k, 0))
        return says("launch");
    return terrace_release(w->t[i], p, w->stream) ? says("release") : 0;
}

static int is_right(const struct work *w)
{
    terrace_tier host;
    void *p;
    if (cuda.stream_synchronize(w->stream) || wrong || terrace_tier_find(w->m, "host", &host))
        return says("kernels");
    for (int i = 0; i < TENSORS; i++) {
        if (!w->seed[i])
            continue;
        if (terrace_acquire(w->t[i], host, TERRACE_READ, NULL, &p, NULL) || !pattern_is(p, w->bytes[i], w->seed[i]))
            return says("the bytes");
        terrace_release(w->t[i], p, NULL);
    }
    return 0;
}

static void closes(struct work *w)
{
    terrace_close(w->m);
    (void)cuda.stream_destroy(w->stream);
    (void)cuda.context_set(NULL);
    (void)cuda.context_release(0);
}

static void worker(int number, struct board *b)
{
    struct work w;
    uint64_t random = (uint64_t)number + 1;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (opens(&w, "40M"))
        _exit(1);
    __atomic_fetch_add(&b->ready, 1, __ATOMIC_RELEASE);
    await(&b->go, 1);
    for (int i = 0; i < OPERATIONS; i++)
        if (operate(&w, &random))
            _exit(2);
    if (is_right(&w))
        _exit(3);
    b->evictions[number] = (int)stats_of(w.m).evictions;
    closes(&w);
    _exit(sim_leaks(stderr) ? 4 : sim_complaint() ? 5 : 0);
}

static void all_end_well(const pid_t *child, int n)
{
    for (int i = 0; i < n; i++) {
        int status;
        cr_assert_eq(waitpid(child[i], &status, 0), child[i]);
        cr_assert_eq(status, 0, "process %d ended with wait status %#x", i, (unsigned)status);
    }
}

/* ---- several ---------------------------------------------------------------- */

/* Each may have 40 of 64 MiB. */
Test(cuda_shared, two_processes, .timeout = 240)
{
    pid_t child[2];
    share("64M");
    struct board *b = board_new();
    for (int i = 0; i < 2; i++)
        if (!(child[i] = fork()))
            worker(i, b);
    await(&b->ready, 2);
    __atomic_store_n(&b->go, 1, __ATOMIC_RELEASE);
    all_end_well(child, 2);
    cr_assert(b->evictions[0] && b->evictions[1], "nobody was short of memory");
    shm_unlink(account);
}

/* The same while a third takes and gives back what it can get. */
Test(cuda_shared, beside_one_that_comes_and_goes, .timeout = 240)
{
    pid_t child[2];
    uint64_t random = 5;
    int64_t taken = 0;
    int status, left = 2;
    share("80M");
    struct board *b = board_new();
    for (int i = 0; i < 2; i++)
        if (!(child[i] = fork()))
            worker(i, b);
    await(&b->ready, 2);
    __atomic_store_n(&b->go, 1, __ATOMIC_RELEASE);
    while (left) {
        int64_t bytes = (int64_t)draw(&random, 16) * MIB;
        if (taken)
            sim_occupy(0, -taken);
        taken = sim_occupy(0, bytes) ? bytes : 0;
        usleep(2000);
        for (int i = 0; i < 2; i++)
            if (child[i] && waitpid(child[i], &status, WNOHANG) == child[i]) {
                cr_assert_eq(status, 0, "process %d ended with wait status %#x", i, (unsigned)status);
                child[i] = 0;
                left--;
            }
    }
    shm_unlink(account);
}

/* Takes all there is, until it is told to go. */
static void taker(struct board *b)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int64_t bytes = 64 * MIB;
    await(&b->opened, 1);
    while (bytes && !sim_occupy(0, bytes))
        bytes -= 2 * MIB;
    __atomic_fetch_add(&b->ready, 1, __ATOMIC_RELEASE);
    await(&b->go, 1);
    _exit(bytes < 60 * MIB);
}

/* Another has all of it: that is said, and is over when the other is. */
Test(cuda_shared, nothing_of_ones_own_is_left, .timeout = 120)
{
    struct work w;
    uint64_t random = 9;
    void *p;
    share("64M");
    struct board *b = board_new();
    pid_t child = fork();
    if (!child)
        taker(b);
    cr_assert_eq(opens(&w, "32M"), 0);
    write_pattern(w.t[0], host_of(w.m), w.bytes[0], w.seed[0] = 7);
    __atomic_store_n(&b->opened, 1, __ATOMIC_RELEASE);
    await(&b->ready, 1);
    int r = terrace_acquire(w.t[0], w.dev, TERRACE_READ, w.stream, &p, NULL);
    cr_assert_eq(r, -TERRACE_EDEVMEM, "%d: %s", r, terrace_last_error());
    cr_assert_not_null(strstr(terrace_last_error(), "others leave"), "%s", terrace_last_error());
    expect_pattern(w.t[0], host_of(w.m), w.bytes[0], 7);
    __atomic_store_n(&b->go, 1, __ATOMIC_RELEASE);
    all_end_well(&child, 1);
    for (int i = 0; i < 50; i++)
        cr_assert_eq(operate(&w, &random), 0);
    cr_assert_eq(is_right(&w), 0);
    closes(&w);
    cr_assert_eq(sim_leaks(stderr), 0);
    shm_unlink(account);
}
