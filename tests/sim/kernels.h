/* kernels.h - CUDA kernels without a device: their source, compiled as C++, runs in
 * the streams of the simulated driver, a thread after the other.
 *
 * A file includes this, then a .cu file that launches its kernels by LAUNCH(). The
 * threads of a block are fibers, which take turns at __syncthreads(). Pointers to
 * the device's memory, which a kernel's arguments are, become pointers to where the
 * simulation has the bytes; device_at() of a struct that has such pointers is for
 * the file to define. Of the runtime there is what examples/gpt_cuda.cu calls. */
#ifndef TERRACE_TESTS_SIM_KERNELS_H
#define TERRACE_TESTS_SIM_KERNELS_H

#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <tuple>
#include <ucontext.h>

extern "C" {
#include "cuda_abi.h"
}
#include "sim.h"

/* ---- what a kernel sees -------------------------------------------------- */

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

static thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __shared__ static thread_local /* one block runs at a time */
#define __launch_bounds__(...)

/* ---- a block of fibers --------------------------------------------------- */

enum { SIM_FIBERS = 1024, SIM_STACK = 65536 };

struct sim_block {
    jmp_buf scheduler, fiber[SIM_FIBERS];
    bool begun[SIM_FIBERS], done[SIM_FIBERS];
    char *stacks;
    void (*body)(void *);
    void *arg;
    unsigned now;
};
static thread_local struct sim_block sim_block;

/* A fiber runs one thread of each block, then waits for the next. */
static void sim_fiber(void)
{
    for (;;) {
        struct sim_block *b = &sim_block;
        b->body(b->arg);
        b->done[b->now] = true;
        if (!_setjmp(b->fiber[b->now]))
            _longjmp(b->scheduler, 1);
    }
}

static void sim_fiber_begin(unsigned i)
{
    static thread_local ucontext_t context;
    struct sim_block *b = &sim_block;
    if (!b->stacks)
        b->stacks = (char *)malloc((size_t)SIM_FIBERS * SIM_STACK);
    getcontext(&context);
    context.uc_stack.ss_sp = b->stacks + (size_t)i * SIM_STACK;
    context.uc_stack.ss_size = SIM_STACK;
    context.uc_link = NULL;
    b->begun[i] = true;
    makecontext(&context, sim_fiber, 0);
    setcontext(&context);
}

static void sim_fiber_resume(unsigned i)
{
    struct sim_block *b = &sim_block;
    b->now = i;
    threadIdx = dim3(i, 0, 0);
    if (_setjmp(b->scheduler))
        return;
    if (b->begun[i])
        _longjmp(b->fiber[i], 1);
    sim_fiber_begin(i);
}

static void __syncthreads(void)
{
    struct sim_block *b = &sim_block;
    if (!_setjmp(b->fiber[b->now]))
        _longjmp(b->scheduler, 1);
}

/* Runs each fiber up to its next __syncthreads() or its end, until all have ended. */
static void sim_block_run(unsigned threads)
{
    struct sim_block *b = &sim_block;
    for (unsigned i = 0; i < threads; i++)
        b->done[i] = false;
    for (bool some = true; some;) {
        some = false;
        for (unsigned i = 0; i < threads; i++)
            if (!b->done[i]) {
                sim_fiber_resume(i);
                some |= !b->done[i];
            }
    }
}

/* ---- launching ----------------------------------------------------------- */

template <class T> static T device_at(T value) { return value; }
template <class T> static T *device_at(T *p) { return p ? (T *)sim_memory((uintptr_t)p, 1) : p; }

template <class Body> struct sim_kernel {
    dim3 blocks;
    unsigned threads;
    Body body;
};

template <class Body> static void sim_kernel_run(void *arg)
{
    sim_kernel<Body> *k = (sim_kernel<Body> *)arg;
    gridDim = k->blocks;
    blockDim = dim3(k->threads);
    auto with_memory = k->body();
    sim_block.arg = &with_memory;
    sim_block.body = [](void *f) { (*(decltype(with_memory) *)f)(); };
    for (unsigned z = 0; z < gridDim.z; z++)
        for (unsigned y = 0; y < gridDim.y; y++)
            for (unsigned x = 0; x < gridDim.x; x++) {
                blockIdx = dim3(x, y, z);
                sim_block_run(k->threads);
            }
    delete k;
}

template <class Kernel, class... Arguments>
static int sim_kernel_launch(void *in, dim3 blocks, unsigned threads, Kernel kernel, Arguments... arguments)
{
    /* Once it runs, where its memory is; then, for each thread, the kernel. */
    auto body = [=]() { return [=, at = std::make_tuple(device_at(arguments)...)]() { std::apply(kernel, at); }; };
    auto *k = new sim_kernel<decltype(body)>{blocks, threads, body};
    return sim_launch(in, sim_kernel_run<decltype(body)>, k, 0);
}

#define LAUNCH(kernel, blocks, threads, ...) \
    must(sim_kernel_launch(stream, blocks, threads, kernel, __VA_ARGS__), #kernel)

/* ---- the runtime --------------------------------------------------------- */

typedef int cudaError_t;
typedef void *cudaStream_t;
enum { cudaSuccess = 0, cudaErrorNoDevice = 100, cudaStreamNonBlocking = 1 };
enum { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };

static const char *cudaGetErrorString(cudaError_t e)
{
    const char *text = NULL;
    return cuGetErrorString(e, &text) ? "unknown" : text;
}

static cudaError_t cudaGetDeviceCount(int *n)
{
    cudaError_t e = cuInit(0);
    return e ? e : cuDeviceGetCount(n);
}

static cudaError_t cudaSetDevice(int device)
{
    CUcontext context;
    cudaError_t e = cuDevicePrimaryCtxRetain(&context, device);
    return e ? e : cuCtxSetCurrent(context);
}

static cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    return cuStreamCreate((CUstream *)out, flags);
}

static cudaError_t cudaStreamDestroy(cudaStream_t s) { return cuStreamDestroy_v2((CUstream)s); }
static cudaError_t cudaStreamSynchronize(cudaStream_t s) { return cuStreamSynchronize((CUstream)s); }

static cudaError_t cudaMalloc(void **out, size_t bytes)
{
    CUdeviceptr p = 0;
    cudaError_t e = cuMemAlloc_v2(&p, bytes);
    *out = (void *)(uintptr_t)p;
    return e;
}

static cudaError_t cudaFree(void *p) { return p ? cuMemFree_v2((uintptr_t)p) : cudaSuccess; }

static cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, cudaStream_t s)
{
    CUstream in = (CUstream)s;
    return kind == cudaMemcpyHostToDevice   ? cuMemcpyHtoDAsync_v2((uintptr_t)to, from, bytes, in)
           : kind == cudaMemcpyDeviceToHost ? cuMemcpyDtoHAsync_v2(to, (uintptr_t)from, bytes, in)
                                            : cuMemcpyDtoDAsync_v2((uintptr_t)to, (uintptr_t)from, bytes, in);
}

static cudaError_t cudaMemsetAsync(void *to, int value, size_t bytes, cudaStream_t s)
{
    return cuMemsetD8Async((uintptr_t)to, (unsigned char)value, bytes, (CUstream)s);
}

#endif /* TERRACE_TESTS_SIM_KERNELS_H */
