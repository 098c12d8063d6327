/* cuda_job.h - what programs share that use the CUDA driver and know nothing of terrace.
 * Each gets at the driver in the way that REACH says. Include it once. */
#ifndef CUDA_JOB_H
#define CUDA_JOB_H

#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_abi.h"
#include "sim.h"

/* REACH: linked with libcuda.so.1; by dlsym(); by cuGetProcAddress() of 11.3, and of 12.0. */
#define LINKED_WAY 0
#define SEARCHED_WAY 1
#define OLD_TABLE_WAY 2
#define TABLE_WAY 3

/* Exported name, name without the version, version, whether the driver alone has it. */
#define FUNCTIONS(X)                                                  \
    X(cuInit, cuInit, 2000, 1)                                        \
    X(cuDeviceGet, cuDeviceGet, 2000, 1)                              \
    X(cuDevicePrimaryCtxRetain, cuDevicePrimaryCtxRetain, 7000, 1)    \
    X(cuCtxSetCurrent, cuCtxSetCurrent, 4000, 1)                      \
    X(cuMemAlloc_v2, cuMemAlloc, 3020, 0)                             \
    X(cuMemAllocPitch_v2, cuMemAllocPitch, 3020, 0)                   \
    X(cuMemFree_v2, cuMemFree, 3020, 0)                               \
    X(cuMemAllocAsync, cuMemAllocAsync, 11020, 0)                     \
    X(cuMemAllocFromPoolAsync, cuMemAllocFromPoolAsync, 11020, 0)     \
    X(cuMemFreeAsync, cuMemFreeAsync, 11020, 0)                       \
    X(cuDeviceGetDefaultMemPool, cuDeviceGetDefaultMemPool, 11020, 1) \
    X(cuMemGetInfo_v2, cuMemGetInfo, 3020, 0)                         \
    X(cuMemGetAddressRange_v2, cuMemGetAddressRange, 3020, 0)         \
    X(cuPointerGetAttribute, cuPointerGetAttribute, 4000, 0)          \
    X(cuPointerGetAttributes, cuPointerGetAttributes, 7000, 0)        \
    X(cuIpcGetMemHandle, cuIpcGetMemHandle, 4010, 0)                  \
    X(cuMemHostRegister_v2, cuMemHostRegister, 6050, 0)               \
    X(cuMemHostUnregister, cuMemHostUnregister, 4000, 0)              \
    X(cuMemAllocHost_v2, cuMemAllocHost, 3020, 1)                     \
    X(cuMemFreeHost, cuMemFreeHost, 2000, 1)                          \
    X(cuMemcpyHtoD_v2, cuMemcpyHtoD, 3020, 0)                         \
    X(cuMemcpyDtoH_v2, cuMemcpyDtoH, 3020, 0)                         \
    X(cuMemcpyHtoDAsync_v2, cuMemcpyHtoDAsync, 3020, 0)               \
    X(cuMemcpyDtoHAsync_v2, cuMemcpyDtoHAsync, 3020, 0)               \
    X(cuMemcpyDtoDAsync_v2, cuMemcpyDtoDAsync, 3020, 0)               \
    X(cuMemsetD8Async, cuMemsetD8Async, 3020, 0)                      \
    X(cuLaunchKernel, cuLaunchKernel, 4000, 0)                        \
    X(cuStreamCreate, cuStreamCreate, 2000, 1)                        \
    X(cuStreamDestroy_v2, cuStreamDestroy, 4000, 0)                   \
    X(cuStreamSynchronize, cuStreamSynchronize, 2000, 0)              \
    X(cuStreamBeginCapture_v2, cuStreamBeginCapture, 10010, 0)        \
    X(cuStreamEndCapture, cuStreamEndCapture, 10000, 0)               \
    X(cuGraphDestroy, cuGraphDestroy, 10000, 1)                       \
    X(cuCtxSynchronize, cuCtxSynchronize, 2000, 0)                    \
    X(cuDeviceCanAccessPeer, cuDeviceCanAccessPeer, 4000, 0)          \
    X(cuCtxEnablePeerAccess, cuCtxEnablePeerAccess, 4000, 0)

static struct {
#define MEMBER(symbol, base, version, plain) __typeof__(symbol) *symbol;
    FUNCTIONS(MEMBER)
} cu;

/* What a test asks of the simulated driver itself. */
static struct {
    __typeof__(sim_misuses) *sim_misuses;
    __typeof__(sim_misuse) *sim_misuse;
    __typeof__(sim_calls) *sim_calls;
    __typeof__(sim_count) *sim_count;
    __typeof__(sim_memory) *sim_memory;
    __typeof__(sim_on_device) *sim_on_device;
    __typeof__(sim_hold) *sim_hold;
    __typeof__(sim_let_go) *sim_let_go;
} sim;

#define expect(...)                                                             \
    do {                                                                        \
        if (!(__VA_ARGS__)) {                                                   \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)
#define ok(call)                                                                                   \
    do {                                                                                           \
        int r_ = (int)(call);                                                                      \
        if (r_) {                                                                                  \
            fprintf(stderr, "%s:%d: %s gives %d\n", __FILE__, __LINE__, #call, r_);                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void *library;

#if REACH == LINKED_WAY
#define FIND(symbol, base, version, plain) cu.symbol = symbol;
#elif REACH == SEARCHED_WAY
#define FIND(symbol, base, version, plain) *(void **)&cu.symbol = dlsym(library, #symbol);
#elif REACH == OLD_TABLE_WAY
static CUresult (*get)(const char *, void **, int, cuuint64_t);
#define FIND(symbol, base, version, plain) ok(get(#base, (void **)&cu.symbol, version, 0));
#else
static CUresult (*get)(const char *, void **, int, cuuint64_t, CUdriverProcAddressQueryResult *);
#define FIND(symbol, base, version, plain)                                             \
    {                                                                                  \
        CUdriverProcAddressQueryResult status = 1;                                     \
        ok(get(#base, (void **)&cu.symbol, 13000, 0, &status));                        \
        expect(status == CU_GET_PROC_ADDRESS_SUCCESS);                                 \
    }
#endif

static void reach(void)
{
    library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    expect(library);
#if REACH == OLD_TABLE_WAY
    *(void **)&get = dlsym(library, "cuGetProcAddress");
#elif REACH == TABLE_WAY
    *(void **)&get = dlsym(library, "cuGetProcAddress_v2");
    void *again;
    ok(get("cuGetProcAddress", &again, 12000, 0, NULL)); /* as the runtime does */
    *(void **)&get = again;
#endif
    FUNCTIONS(FIND)
#define SIM(name) *(void **)&sim.name = dlsym(library, #name);
    SIM(sim_misuses) SIM(sim_misuse) SIM(sim_calls) SIM(sim_count) SIM(sim_memory) SIM(sim_on_device) SIM(sim_hold) SIM(sim_let_go)
}

static CUcontext context;

static void begin(void)
{
    reach();
    ok(cu.cuInit(0));
    ok(cu.cuDevicePrimaryCtxRetain(&context, 0));
    ok(cu.cuCtxSetCurrent(context));
}

static void end(void)
{
    for (unsigned i = 0; i < sim.sim_misuses(); i++)
        fprintf(stderr, "misuse: %s\n", sim.sim_misuse(i));
    expect(sim.sim_misuses() == 0);
}

static uint64_t device_used(void)
{
    struct sim_counts counts;
    sim.sim_count(&counts);
    return counts.used[0];
}

/* Bytes that tell one block from another, and one place in it from another. */
static void fill(unsigned char *to, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(seed * 31 + i * 7 + (i >> 12));
}

static bool holds(const unsigned char *at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != (unsigned char)(seed * 31 + i * 7 + (i >> 12)))
            return false;
    return true;
}

#endif
