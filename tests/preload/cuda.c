/* cuda.c - a program that uses the CUDA driver: cuda WHAT. It asks for twice the device
 * memory that it may have (32 MiB), and what it was promised holds. */
#include "cuda_job.h"

#include <sys/mman.h>

enum { MIB = 1 << 20, BUDGET = 32 * MIB, BLOCKS = 16, BLOCK = 4 * MIB };

static unsigned char *host;

static void put(CUdeviceptr at, size_t bytes, unsigned seed)
{
    fill(host, bytes, seed);
    ok(cu.cuMemcpyHtoD_v2(at, host, bytes));
}

static bool has(CUdeviceptr at, size_t bytes, unsigned seed)
{
    memset(host, 0, bytes);
    ok(cu.cuMemcpyDtoH_v2(host, at, bytes));
    return holds(host, bytes, seed);
}

/* ---- who stands where ----------------------------------------------------------- */

static bool is_in(void *function, const char *file)
{
    Dl_info info;
    return dladdr(function, &info) && strstr(info.dli_fname, file);
}

static void see(void)
{
#define SEE(symbol, base, version, plain)                                                         \
    if (!is_in((void *)cu.symbol, plain ? "libcuda.so.1" : "libterrace-preload.so"))              \
        printf("%s is not %s\n", #symbol, plain ? "the driver's" : "terrace's"), exit(1);
    FUNCTIONS(SEE)
}

/* ---- memory ------------------------------------------------------------------------ */

/* Twice the budget, each byte as it was written, at an address that stays. */
static void memory(void)
{
    CUdeviceptr at[BLOCKS];
    uint64_t before = device_used();
    for (unsigned i = 0; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK + i));
        put(at[i], BLOCK + i, i);
    }
    expect(sim.sim_calls("cuMemAlloc_v2") == 0);
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < BLOCKS; i++) {
            expect(has(at[i], BLOCK + i, i + round));
            put(at[i], BLOCK + i, i + round + 1);
        }
        ok(cu.cuCtxSynchronize());
        expect(device_used() - before <= BUDGET);
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        ok(cu.cuMemFree_v2(at[i]));
    ok(cu.cuCtxSynchronize());
    for (unsigned i = 0; i < BLOCKS; i++) { /* what was given back can be had again */
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    for (unsigned i = 0; i < BLOCKS; i++) {
        expect(has(at[i], BLOCK, i));
        ok(cu.cuMemFree_v2(at[i]));
    }
    expect(cu.cuMemFree_v2(at[0]) == CUDA_ERROR_INVALID_VALUE); /* and only once */
    expect(sim.sim_misuses() == 1);
    _exit(0);
}

/* Less than what makes a block large, and what the driver knows best. */
static void small(void)
{
    CUdeviceptr at;
    ok(cu.cuMemAlloc_v2(&at, MIB - 1));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    put(at, MIB - 1, 1);
    expect(has(at, MIB - 1, 1));
    ok(cu.cuMemFree_v2(at));
    expect(cu.cuMemAlloc_v2(NULL, MIB) == CUDA_ERROR_INVALID_VALUE);
    expect(cu.cuMemAlloc_v2(&at, (size_t)1 << 60) == CUDA_ERROR_OUT_OF_MEMORY);
    expect(sim.sim_misuses() == 1);
    _exit(0);
}

/* The driver's own memory: as much as there is. */
static void untouched(void)
{
    CUdeviceptr at;
    ok(cu.cuMemAlloc_v2(&at, BLOCK));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    put(at, BLOCK, 3);
    expect(has(at, BLOCK, 3));
    ok(cu.cuMemFree_v2(at));
    expect(sim.sim_calls("cuMemFree_v2") == 1);
}

static void pitch(void)
{
    CUdeviceptr at[8];
    size_t pitch;
    for (unsigned i = 0; i < 8; i++) {
        ok(cu.cuMemAllocPitch_v2(&at[i], &pitch, 5000, 1700, 4));
        expect(pitch >= 5000 && pitch % 512 == 0);
        put(at[i], pitch * 1700, i);
    }
    expect(sim.sim_calls("cuMemAllocPitch_v2") == 0);
    for (unsigned i = 0; i < 8; i++) {
        expect(has(at[i], pitch * 1700, i));
        ok(cu.cuMemFree_v2(at[i]));
    }
    expect(cu.cuMemAllocPitch_v2(&at[0], &pitch, 5000, 1700, 3) == CUDA_ERROR_INVALID_VALUE);
    expect(sim.sim_misuses() == 1);
    _exit(0);
}

/* ---- streams ------------------------------------------------------------------------ */

static unsigned missed; /* kernels whose memory was not there */

struct step {
    CUdeviceptr at;
    size_t bytes;
    unsigned add;
};

static void run_step(void *arg)
{
    const struct step *s = arg;
    unsigned char *p = sim.sim_memory(s->at, s->bytes);
    if (!p)
        __atomic_add_fetch(&missed, 1, __ATOMIC_RELAXED);
    for (size_t i = 0; p && i < s->bytes; i++)
        p[i] = (unsigned char)(p[i] + s->add);
}

static void launch(CUstream stream, CUdeviceptr at, size_t bytes, unsigned add)
{
    static const struct sim_function step = {run_step, sizeof(struct step)};
    struct step s = {at, bytes, add};
    ok(cu.cuLaunchKernel((CUfunction)&step, 1, 1, 1, 1, 1, 1, 0, stream, (void *[]){&s}, NULL));
}

static bool all_are(CUdeviceptr at, size_t bytes, unsigned value)
{
    ok(cu.cuMemcpyDtoH_v2(host, at, bytes));
    for (size_t i = 0; i < bytes; i++)
        if (host[i] != (unsigned char)value)
            return false;
    return true;
}

/* Kernels and fills in several streams, some of which are never waited for. */
static void kernels(void)
{
    CUdeviceptr at[BLOCKS];
    CUstream stream[4];
    for (unsigned i = 0; i < 4; i++)
        ok(cu.cuStreamCreate(&stream[i], CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        ok(cu.cuMemsetD8Async(at[i], 0, BLOCK, stream[i % 4]));
    }
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < BLOCKS; i++)
            launch(stream[i % 4], at[i], BLOCK, i + 1);
        ok(cu.cuStreamSynchronize(stream[round % 3]));
    }
    for (unsigned i = 0; i < 4; i++)
        ok(cu.cuStreamDestroy_v2(stream[i])); /* with work in them */
    ok(cu.cuCtxSynchronize());
    for (unsigned i = 0; i < BLOCKS; i++) {
        expect(all_are(at[i], BLOCK, 20 * (i + 1)));
        ok(cu.cuMemFree_v2(at[i]));
    }
}

/* While a stream has work that cannot end, others wait, allocate and free. */
static void held_up(void)
{
    CUdeviceptr at[BLOCKS], more;
    CUstream stuck, other;
    ok(cu.cuStreamCreate(&stuck, CU_STREAM_NON_BLOCKING));
    ok(cu.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < BLOCKS - 1; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    sim.sim_hold(1u << SIM_KERNEL);
    for (unsigned i = 0; i < BLOCKS - 1; i++)
        launch(stuck, at[i], BLOCK, 1);
    struct sim_counts before, after;
    sim.sim_count(&before);
    for (unsigned i = 0; i < 50; i++) {
        ok(cu.cuStreamSynchronize(other));
        expect(cu.cuMemAlloc_v2(&more, BLOCK) == CUDA_SUCCESS);
        ok(cu.cuMemFreeAsync(more, other));
    }
    sim.sim_count(&after);
    expect(after.copies[SIM_DTOH] == before.copies[SIM_DTOH] && after.copies[SIM_DTOD] == before.copies[SIM_DTOD]);
    sim.sim_let_go();
    ok(cu.cuCtxSynchronize());
    for (unsigned i = 0; i < BLOCKS - 1; i++) {
        ok(cu.cuMemcpyDtoH_v2(host, at[i], BLOCK));
        for (size_t k = 0; k < BLOCK; k++)
            host[k]--;
        expect(holds(host, BLOCK, i));
        ok(cu.cuMemFree_v2(at[i]));
    }
}

static void *let_go(void *arg)
{
    usleep(200000);
    sim.sim_let_go();
    return arg;
}

/* What is freed is there until the kernels that use it have ended. */
static void freed(void)
{
    CUdeviceptr at[4];
    CUstream stream;
    pthread_t other;
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < 4; i++)
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
    sim.sim_hold(1u << SIM_KERNEL);
    for (unsigned i = 0; i < 4; i++)
        launch(stream, at[i], BLOCK, 1);
    ok(pthread_create(&other, NULL, let_go, NULL));
    ok(cu.cuMemFreeAsync(at[0], stream));
    for (unsigned i = 1; i < 4; i++)
        ok(cu.cuMemFree_v2(at[i]));
    ok(pthread_join(other, NULL));
    ok(cu.cuCtxSynchronize());
}

/* Stream-ordered allocation: also from the pool by name. */
static void ordered(void)
{
    CUstream stream;
    CUmemoryPool pool;
    CUdeviceptr at, next;
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    ok(cu.cuDeviceGetDefaultMemPool(&pool, 0));
    for (unsigned i = 0; i < 40; i++) {
        if (i % 2)
            ok(cu.cuMemAllocAsync(&at, BLOCK, stream));
        else
            ok(cu.cuMemAllocFromPoolAsync(&at, BLOCK, pool, stream));
        ok(cu.cuMemsetD8Async(at, (unsigned char)i, BLOCK, stream));
        launch(stream, at, BLOCK, 1);
        ok(cu.cuMemAllocAsync(&next, BLOCK, stream));
        ok(cu.cuMemcpyDtoDAsync_v2(next, at, BLOCK, stream));
        ok(cu.cuMemFreeAsync(at, stream));
        ok(cu.cuMemcpyDtoHAsync_v2(host, next, BLOCK, stream));
        ok(cu.cuStreamSynchronize(stream));
        expect(host[0] == (unsigned char)(i + 1) && host[BLOCK - 1] == (unsigned char)(i + 1));
        ok(cu.cuMemFreeAsync(next, stream));
    }
    expect(sim.sim_calls("cuMemAllocAsync") == 0 && sim.sim_calls("cuMemFreeAsync") == 0);
    ok(cu.cuStreamSynchronize(stream));
    ok(cu.cuCtxSynchronize());
    ok(cu.cuMemAllocAsync(&at, BLOCK, stream)); /* one as other memory, freed as other memory */
    ok(cu.cuMemFree_v2(at));
    ok(cu.cuMemAlloc_v2(&at, BLOCK));
    ok(cu.cuMemFreeAsync(at, stream));
    ok(cu.cuStreamSynchronize(stream));
}

/* Threads of which each has streams, memory, and kernels in them. */
static void *thread(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    CUstream stream;
    CUdeviceptr at[4];
    unsigned char *mine = malloc(BLOCK);
    ok(cu.cuCtxSetCurrent(context));
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (unsigned round = 0; round < 6; round++) {
        for (unsigned i = 0; i < 4; i++) {
            ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
            ok(cu.cuMemsetD8Async(at[i], (unsigned char)seed, BLOCK, stream));
        }
        for (unsigned k = 0; k < 5; k++)
            for (unsigned i = 0; i < 4; i++)
                launch(stream, at[i], BLOCK, i);
        ok(cu.cuStreamSynchronize(stream));
        for (unsigned i = 0; i < 4; i++) {
            ok(cu.cuMemcpyDtoHAsync_v2(mine, at[i], BLOCK, stream));
            ok(cu.cuStreamSynchronize(stream));
            for (size_t k = 0; k < BLOCK; k += 4095)
                expect(mine[k] == (unsigned char)(seed + 5 * i));
            ok(cu.cuMemFree_v2(at[i]));
        }
    }
    ok(cu.cuStreamDestroy_v2(stream));
    free(mine);
    return NULL;
}

static void threads(void)
{
    pthread_t all[4];
    for (uintptr_t i = 0; i < 4; i++)
        ok(pthread_create(&all[i], NULL, thread, (void *)(i + 1)));
    for (unsigned i = 0; i < 4; i++)
        ok(pthread_join(all[i], NULL));
}

static bool is_near(CUdeviceptr at)
{
    return sim.sim_on_device(at) && sim.sim_on_device(at + BLOCK - 1);
}

/* What kernels use comes to the device's memory, and the rest leaves. */
static void heat(void)
{
    CUdeviceptr at[BLOCKS];
    CUstream stream;
    bool all = false;
    unsigned rounds = 0;
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        ok(cu.cuMemsetD8Async(at[i], (unsigned char)i, BLOCK, stream));
    }
    for (int first = BLOCKS / 2; first >= 0; first -= BLOCKS / 2) /* last those that were made first */
        for (all = false; !all && rounds < 200; rounds++) {
            all = true;
            for (int i = first; i < first + 4; i++) {
                launch(stream, at[i] + 100, BLOCK - 100, 0);
                all &= is_near(at[i]);
            }
            ok(cu.cuStreamSynchronize(stream));
            usleep(20000);
        }
    expect(all);
    for (unsigned i = 0; i < BLOCKS; i++) {
        expect(all_are(at[i], BLOCK, i));
        ok(cu.cuMemFree_v2(at[i]));
    }
}

/* ---- what is said of it ------------------------------------------------------------------ */

static void told(void)
{
    CUdeviceptr at, base;
    size_t bytes;
    int ordinal = -1;
    unsigned type = 0;
    CUcontext of = NULL;
    void *values[] = {&type, &base, &bytes, &of};
    CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                   CU_POINTER_ATTRIBUTE_RANGE_SIZE, CU_POINTER_ATTRIBUTE_CONTEXT};
    ok(cu.cuMemAlloc_v2(&at, 3 * MIB + 5));
    ok(cu.cuMemGetAddressRange_v2(&base, &bytes, at + 2500000));
    expect(base == at && bytes == 3 * MIB + 5);
    ok(cu.cuPointerGetAttribute(&ordinal, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, at + 1));
    expect(ordinal == 0);
    base = bytes = 0;
    ok(cu.cuPointerGetAttributes(4, which, values, at + 3 * MIB));
    expect(type == CU_MEMORYTYPE_DEVICE && base == at && bytes == 3 * MIB + 5 && of == context);
    ok(cu.cuMemFree_v2(at));
    expect(cu.cuMemGetAddressRange_v2(&base, &bytes, at) != CUDA_SUCCESS);
}

static void info(void)
{
    size_t unused, all;
    ok(cu.cuMemGetInfo_v2(&unused, &all));
    printf("%zu of %zu MiB\n", unused / MIB, all / MIB);
}

/* ---- what stays ---------------------------------------------------------------------------- */

/* Another process that has opened a handle sees the same bytes for as long as there is
 * the block: in the device's memory. */
static void shared(void)
{
    CUdeviceptr at[BLOCKS];
    CUipcMemHandle handle;
    ok(cu.cuMemAlloc_v2(&at[0], BLOCK));
    put(at[0], BLOCK, 0);
    CUresult r = cu.cuIpcGetMemHandle(&handle, at[0]);
    printf("%d\n", r);
    for (unsigned i = 1; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    for (unsigned i = 0; i < BLOCKS; i++)
        expect(has(at[i], BLOCK, i));
    ok(cu.cuCtxSynchronize());
    expect(is_near(at[0]) == (r == CUDA_SUCCESS));
    for (unsigned i = 0; i < BLOCKS; i++)
        ok(cu.cuMemFree_v2(at[i]));
}

/* What is registered with NCCL stays in the device's memory, what it allocates itself is
 * the driver's. */
static void nccl(void)
{
    CUdeviceptr at[BLOCKS], its;
    void *handle = NULL, *file = dlopen("libnccl.so.2", RTLD_NOW);
    int (*communicate)(void *, void *, size_t, void **);
    int (*allocates)(CUresult (*)(CUdeviceptr *, size_t), CUdeviceptr *);
    expect(file);
    *(void **)&communicate = dlsym(file, "ncclCommRegister");
    *(void **)&allocates = dlsym(file, "nccl_allocates");
    for (unsigned i = 0; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    ok(cu.cuCtxSynchronize());
    expect(!is_near(at[1])); /* of the oldest there is no more than a part */
    ok(communicate(NULL, (void *)(uintptr_t)at[1], BLOCK, &handle));
    expect(handle == (void *)(uintptr_t)at[1] && is_near(at[1]));
    ok(cu.cuCtxSynchronize());
    expect(is_near(at[1]));
    ok(cu.cuMemFree_v2(at[0]));
    expect(sim.sim_calls("cuMemAlloc_v2") == 0);
    ok(allocates(cu.cuMemAlloc_v2, &its));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    ok(cu.cuMemFree_v2(its));
    for (unsigned i = 1; i < BLOCKS; i++) {
        expect(has(at[i], BLOCK, i));
        ok(cu.cuMemFree_v2(at[i]));
    }
}

/* Captures are not spoilt, and what is allocated meanwhile is the driver's affair. */
static void captured(void)
{
    CUdeviceptr at[BLOCKS], more;
    CUstream stream, other;
    CUgraph graph;
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    ok(cu.cuStreamCreate(&other, CU_STREAM_NON_BLOCKING));
    for (unsigned i = 0; i < 4; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    ok(cu.cuStreamBeginCapture_v2(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    for (unsigned i = 0; i < 4; i++)
        launch(stream, at[i], BLOCK, 1);
    launch(other, at[3], BLOCK, 0);
    ok(cu.cuStreamSynchronize(other));
    ok(cu.cuMemAlloc_v2(&more, BLOCK));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    ok(cu.cuMemFree_v2(more));
    ok(cu.cuMemFree_v2(at[2])); /* cannot go yet */
    ok(cu.cuStreamEndCapture(stream, &graph));
    ok(cu.cuStreamSynchronize(other));
    for (unsigned i = 4; i < BLOCKS; i++) {
        ok(cu.cuMemAlloc_v2(&at[i], BLOCK));
        put(at[i], BLOCK, i);
    }
    ok(cu.cuCtxSynchronize());
    for (unsigned i = 0; i < BLOCKS; i++)
        expect(i == 2 || has(at[i], BLOCK, i));
    expect(is_near(at[0]) && is_near(at[1]) && is_near(at[3]) && !is_near(at[4]));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    ok(cu.cuGraphDestroy(graph));
    for (unsigned i = 0; i < BLOCKS; i++)
        if (i != 2)
            ok(cu.cuMemFree_v2(at[i]));
}

/* The program's own host memory, of which pages move otherwise. */
static void registered(void)
{
    enum { HOST = 12 * MIB };
    unsigned char *large[6];
    CUdeviceptr at;
    CUstream stream;
    ok(cu.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    ok(cu.cuMemAlloc_v2(&at, HOST));
    large[0] = malloc(HOST);
    fill(large[0], HOST, 9);
    ok(cu.cuMemHostRegister_v2(large[0], HOST, 0));
    for (int i = 1; i < 6; i++) { /* more than there is */
        large[i] = malloc(HOST);
        fill(large[i], HOST, (unsigned)i);
    }
    ok(cu.cuMemcpyHtoDAsync_v2(at, large[0], HOST, stream));
    ok(cu.cuStreamSynchronize(stream));
    memset(large[0], 0, HOST);
    ok(cu.cuMemcpyDtoHAsync_v2(large[0], at, HOST, stream));
    ok(cu.cuStreamSynchronize(stream));
    expect(holds(large[0], HOST, 9));
    unsigned char there[HOST / 4096];
    ok(mincore(large[0], HOST, there));
    expect(memchr(there, 0, sizeof there) == NULL);
    for (int i = 1; i < 6; i++)
        expect(holds(large[i], HOST, (unsigned)i));
    ok(cu.cuMemHostUnregister(large[0]));
    for (int i = 0; i < 6; i++)
        free(large[i]);
    ok(cu.cuMemFree_v2(at));
}

/* Two devices: what is terrace's is not reached by the other, and that is told. */
static void peers(void)
{
    CUdeviceptr at;
    CUcontext second;
    int can;
    ok(cu.cuDevicePrimaryCtxRetain(&second, 1));
    ok(cu.cuDeviceCanAccessPeer(&can, 1, 0));
    expect(can);
    ok(cu.cuMemAlloc_v2(&at, BLOCK));
    ok(cu.cuDeviceCanAccessPeer(&can, 1, 0));
    expect(!can);
    ok(cu.cuCtxSetCurrent(second));
    expect(cu.cuCtxEnablePeerAccess(context, 0) == CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
    ok(cu.cuCtxSetCurrent(context));
    ok(cu.cuCtxEnablePeerAccess(second, 0)); /* nothing is there yet: from now on it is the driver's */
    ok(cu.cuCtxSetCurrent(second));
    CUdeviceptr there;
    ok(cu.cuMemAlloc_v2(&there, BLOCK));
    expect(sim.sim_calls("cuMemAlloc_v2") == 1);
    ok(cu.cuMemFree_v2(there));
    ok(cu.cuCtxSetCurrent(context));
    ok(cu.cuMemFree_v2(at));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } what[] = {{"see", see}, {"memory", memory}, {"small", small}, {"untouched", untouched}, {"pitch", pitch},
                {"kernels", kernels}, {"held_up", held_up}, {"freed", freed}, {"heat", heat}, {"ordered", ordered}, {"threads", threads}, {"told", told},
                {"info", info}, {"shared", shared}, {"nccl", nccl}, {"captured", captured}, {"registered", registered}, {"peers", peers}};
    begin();
    host = malloc(16 * MIB);
    expect(host);
    for (size_t i = 0; i < sizeof what / sizeof *what; i++)
        if (argc > 1 && strcmp(argv[1], what[i].name) == 0) {
            what[i].run();
            end();
            expect(missed == 0);
            return 0;
        }
    return 2;
}
