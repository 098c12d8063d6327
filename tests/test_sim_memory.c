/* test_sim_memory.c - memory of the simulated CUDA driver: capacity, mapping,
 * page-locked host memory, pools, several devices, and what a call may know. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "sim/session.h"

static const CUmemAllocationProp on_device = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                              .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
static const CUmemAllocationProp on_host = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                            .location = {CU_MEM_LOCATION_TYPE_HOST, 0}};
static const CUmemAllocationProp on_node = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                            .location = {CU_MEM_LOCATION_TYPE_HOST_NUMA, 0}};
static const CUmemAccessDesc device_access = {{CU_MEM_LOCATION_TYPE_DEVICE, 0},
                                              CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
static const CUmemAccessDesc host_access = {{CU_MEM_LOCATION_TYPE_HOST, 0},
                                            CU_MEM_ACCESS_FLAGS_PROT_READWRITE};

enum { GRANULE = 2 * MIB };

static size_t available(void)
{
    size_t bytes, total;
    ok(cuMemGetInfo_v2(&bytes, &total));
    return bytes;
}

static CUmemGenericAllocationHandle created(size_t bytes, const CUmemAllocationProp *prop)
{
    CUmemGenericAllocationHandle handle;
    ok(cuMemCreate(&handle, bytes, prop, 0));
    return handle;
}

static CUdeviceptr reserved(size_t bytes)
{
    CUdeviceptr address;
    ok(cuMemAddressReserve(&address, bytes, 0, 0, 0));
    return address;
}

/* Reserved, mapped, accessible; the handle is released already. */
static CUdeviceptr mapped(size_t bytes, const CUmemAllocationProp *prop)
{
    CUdeviceptr address = reserved(bytes);
    CUmemGenericAllocationHandle handle = created(bytes, prop);
    ok(cuMemMap(address, bytes, 0, handle, 0));
    ok(cuMemRelease(handle));
    ok(cuMemSetAccess(address, bytes, &device_access, 1));
    return address;
}

static void unmapped(CUdeviceptr address, size_t bytes)
{
    ok(cuMemUnmap(address, bytes));
    ok(cuMemAddressFree(address, bytes));
}

/* Whether the process itself can read a byte there. */
static bool touchable(CUdeviceptr address)
{
    int pipe_ends[2];
    cr_assert_eq(pipe(pipe_ends), 0);
    bool can = write(pipe_ends[1], (const void *)(uintptr_t)address, 1) == 1;
    cr_assert(can || errno == EFAULT);
    close(pipe_ends[0]);
    close(pipe_ends[1]);
    return can;
}

/* ---- capacity --------------------------------------------------------------------------- */

Test(sim_memory, there_is_an_end_to_it, .timeout = 60)
{
    CUdeviceptr a, b;
    size_t bytes, total;
    setenv("SIM_CUDA_CAPACITY", "8M", 1);
    session_begin();
    ok(cuMemGetInfo_v2(&bytes, &total));
    cr_assert(bytes == 8 * MIB && total == 8 * MIB);
    ok(cuDeviceTotalMem_v2(&total, 0));
    cr_assert_eq(total, 8 * MIB);
    ok(cuMemAlloc_v2(&a, 6 * MIB));
    cr_assert_eq(available(), 2 * MIB);
    fails(cuMemAlloc_v2(&b, 3 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
    fails(cuMemAlloc_v2(&b, SIZE_MAX), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemAlloc_v2(&b, 2 * MIB));
    ok(cuMemFree_v2(a));
    cr_assert_eq(available(), 6 * MIB);
    cr_assert(sim_occupy(0, 5 * MIB));
    fails(cuMemAlloc_v2(&a, 2 * MIB), CUDA_ERROR_OUT_OF_MEMORY);
    cr_assert(!sim_occupy(0, 2 * MIB));
    cr_assert(sim_occupy(0, -5 * MIB));
    ok(cuMemFree_v2(b));
    cr_assert_eq(available(), 8 * MIB);
    session_end();
}

Test(sim_memory, the_process_cannot_touch_it, .timeout = 60)
{
    session_begin();
    CUdeviceptr d = memory_new(KIB), v = mapped(GRANULE, &on_device);
    char *host = pinned_new(KIB);
    cr_assert(!touchable(d));
    cr_assert(!touchable(v));
    cr_assert(touchable((uintptr_t)host));
    cr_assert_not_null(sim_memory(d, KIB));
    cr_assert_null(sim_memory(d, KIB + 1));
    ok(cuMemFreeHost(host));
    ok(cuMemFree_v2(d));
    unmapped(v, GRANULE);
    session_end();
}

/* ---- mapping -------------------------------------------------------------------------------- */

Test(sim_memory, mapping_and_what_can_be_used, .timeout = 60)
{
    session_begin();
    size_t all = available(), granularity;
    char *host = pinned_new(GRANULE);
    ok(cuMemGetAllocationGranularity(&granularity, &on_device, CU_MEM_ALLOC_GRANULARITY_MINIMUM));
    cr_assert_eq(granularity, GRANULE);
    CUdeviceptr a = reserved(4 * GRANULE);
    cr_assert_eq(available(), all);
    CUmemGenericAllocationHandle first = created(GRANULE, &on_device), second = created(GRANULE, &on_device);
    cr_assert_eq(available(), all - 2 * GRANULE);
    misused(cuMemcpyHtoD_v2(a, host, 16), CUDA_ERROR_INVALID_VALUE); /* nothing there */
    ok(cuMemMap(a, GRANULE, 0, first, 0));
    misused(cuMemcpyHtoD_v2(a, host, 16), CUDA_ERROR_INVALID_VALUE); /* without access */
    ok(cuMemSetAccess(a, GRANULE, &device_access, 1));
    ok(cuMemcpyHtoD_v2(a, host, 16));
    misused(cuMemcpyHtoD_v2(a + GRANULE - 8, host, 16), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemMap(a + GRANULE, GRANULE, 0, second, 0));
    ok(cuMemSetAccess(a, 2 * GRANULE, &device_access, 1));
    memset(host, 5, 16);
    ok(cuMemcpyHtoD_v2(a + GRANULE - 8, host, 16)); /* across both */
    ok(cuMemcpyDtoH_v2(host + 100, a + GRANULE - 8, 16));
    cr_assert_eq(memcmp(host, host + 100, 16), 0);
    ok(cuMemRelease(first));
    cr_assert_eq(available(), all - 2 * GRANULE); /* as it is mapped */
    ok(cuMemUnmap(a, 2 * GRANULE));
    cr_assert_eq(available(), all - GRANULE); /* as there is a handle */
    ok(cuMemMap(a + 2 * GRANULE, GRANULE, 0, second, 0));
    ok(cuMemSetAccess(a + 2 * GRANULE, GRANULE, &device_access, 1));
    ok(cuMemcpyDtoH_v2(host + 200, a + 2 * GRANULE, 8)); /* the same memory elsewhere */
    cr_assert_eq(memcmp(host, host + 200, 8), 0);
    ok(cuMemUnmap(a + 2 * GRANULE, GRANULE));
    ok(cuMemRelease(second));
    cr_assert_eq(available(), all);
    ok(cuMemAddressFree(a, 4 * GRANULE));
    ok(cuMemFreeHost(host));
    sim_forget_misuses();
    session_end();
}

Test(sim_memory, mapping_that_is_refused, .timeout = 60)
{
    CUdeviceptr a, none;
    CUmemGenericAllocationHandle handle, other;
    CUmemAllocationProp current = on_node, no_device = on_device, no_node = on_node;
    CUmemAccessDesc strange = device_access, nowhere = device_access;
    current.location.type = CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT;
    no_device.location.id = 1;
    no_node.location.id = 7;
    strange.flags = 2;
    nowhere.location.id = 3;
    session_begin();
    misused(cuMemAddressReserve(&none, GRANULE + 1, 0, 0, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemAddressReserve(&none, GRANULE, 3 * MIB, 0, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemAddressReserve(&none, GRANULE, 0, 0, 1), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemAddressReserve(&a, 4 * GRANULE, 16 * MIB, 0, 0));
    cr_assert_eq(a % (16 * MIB), 0);
    misused(cuMemCreate(&handle, GRANULE / 2, &on_device, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemCreate(&handle, GRANULE, &current, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemCreate(&handle, GRANULE, &no_node, 0), CUDA_ERROR_INVALID_VALUE);
    fails(cuMemCreate(&handle, GRANULE, &no_device, 0), CUDA_ERROR_INVALID_DEVICE);
    fails(cuMemCreate(&handle, 1ull << 40, &on_device, 0), CUDA_ERROR_OUT_OF_MEMORY);
    handle = created(2 * GRANULE, &on_device);
    other = created(GRANULE, &on_device);
    misused(cuMemMap(a, 2 * GRANULE, GRANULE, handle, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemMap(a, 3 * GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemMap(a + 4096, GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemMap(a + 3 * GRANULE, 2 * GRANULE, 0, handle, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemMap(a, GRANULE, 0, 12345, 0), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemMap(a, 2 * GRANULE, 0, handle, 0));
    misused(cuMemMap(a + GRANULE, GRANULE, 0, other, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemSetAccess(a, GRANULE, &device_access, 1), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemSetAccess(a, 3 * GRANULE, &device_access, 1), CUDA_ERROR_INVALID_VALUE);
    fails(cuMemSetAccess(a, 2 * GRANULE, &strange, 1), CUDA_ERROR_INVALID_VALUE);
    fails(cuMemSetAccess(a, 2 * GRANULE, &nowhere, 1), CUDA_ERROR_INVALID_DEVICE);
    fails(cuMemSetAccess(a, 2 * GRANULE, &host_access, 1), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemUnmap(a, GRANULE), CUDA_ERROR_INVALID_VALUE); /* a part of it */
    misused(cuMemAddressFree(a, 4 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemUnmap(a, 2 * GRANULE));
    misused(cuMemUnmap(a, 2 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemRelease(handle));
    misused(cuMemRelease(handle), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemRelease(other));
    misused(cuMemAddressFree(a, GRANULE), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemAddressFree(a, 4 * GRANULE));
    misused(cuMemAddressFree(a, 4 * GRANULE), CUDA_ERROR_INVALID_VALUE);
    sim_forget_misuses();
    sim_set("HOST_NUMA_VMM", 0);
    fails(cuMemCreate(&handle, GRANULE, &on_node, 0), CUDA_ERROR_NOT_SUPPORTED);
    sim_set("VMM", 0);
    fails(cuMemAddressReserve(&none, GRANULE, 0, 0, 0), CUDA_ERROR_NOT_SUPPORTED);
    session_end();
}

static void host_memory_mapped(const CUmemAllocationProp *prop)
{
    struct sim_counts counts;
    size_t all = available();
    char *host = pinned_new(KIB);
    CUdeviceptr a = mapped(GRANULE, prop);
    cr_assert_eq(available(), all); /* none of the device's */
    sim_count(&counts);
    cr_assert_eq(counts.pinned, GRANULE + KIB);
    cr_assert(!touchable(a));
    ok(cuMemSetAccess(a, GRANULE, &host_access, 1));
    cr_assert(touchable(a));
    memset((char *)(uintptr_t)a + MIB, 3, KIB);
    ok(cuMemcpyDtoH_v2(host, a + MIB, KIB));
    cr_assert_eq(host[KIB - 1], 3);
    unmapped(a, GRANULE);
    cr_assert(!touchable(a));
    ok(cuMemFreeHost(host));
}

Test(sim_memory, memory_of_the_host_and_of_a_node_is_mapped, .timeout = 60)
{
    session_begin();
    host_memory_mapped(&on_host);
    host_memory_mapped(&on_node);
    session_end();
}

/* ---- work that outlives its memory --------------------------------------------------------------- */

Test(sim_memory, a_copy_to_what_is_unmapped_meanwhile_fails_the_device, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new();
    char *host = pinned_new(KIB);
    CUdeviceptr a = mapped(GRANULE, &on_device), d;
    sim_hold(1u << SIM_COPY);
    ok(cuMemcpyHtoDAsync_v2(a, host, KIB, s));
    ok(cuMemUnmap(a, GRANULE));
    sim_let_go();
    fails(cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_ILLEGAL_ADDRESS);
    fails(cuStreamQuery(s), CUDA_ERROR_ILLEGAL_ADDRESS);
    fails(cuMemFreeHost(host), CUDA_ERROR_ILLEGAL_ADDRESS);   /* but it is done */
    fails(cuStreamDestroy_v2(s), CUDA_ERROR_ILLEGAL_ADDRESS); /* too */
    fails(cuMemAddressFree(a, GRANULE), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(sim_misuses(), 1);
    cr_assert(strstr(sim_misuse(0), "where nothing is"));
    sim_forget_misuses();
    fails(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(sim_leaks(stderr), 0);
}

Test(sim_memory, unmapping_under_a_copy_is_noticed, .timeout = 60)
{
    session_begin();
    sim_set("HTOD_NS", 100000000);
    CUstream s = stream_new();
    char *host = pinned_new(KIB);
    CUdeviceptr a = mapped(GRANULE, &on_device);
    ok(cuMemcpyHtoDAsync_v2(a, host, KIB, s));
    usleep(30000); /* it has begun */
    misused(cuMemUnmap(a, GRANULE), CUDA_SUCCESS);
    ok(cuStreamSynchronize(s));
    cr_assert(strstr(sim_misuse(0), "unmapping"));
    sim_forget_misuses();
    ok(cuMemAddressFree(a, GRANULE));
    ok(cuMemFreeHost(host));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim_memory, two_streams_in_the_same_bytes_are_noticed, .timeout = 60)
{
    session_begin();
    sim_set("HTOD_NS", 100000000);
    CUstream a = stream_new(), b = stream_new();
    char *host = pinned_new(KIB);
    CUdeviceptr d = memory_new(KIB);
    ok(cuMemcpyHtoDAsync_v2(d, host, KIB, a));
    usleep(30000);
    ok(cuMemcpyDtoHAsync_v2(host, d + 512, 512, b));
    ok(cuCtxSynchronize());
    cr_assert(sim_misuses() > 0 && strstr(sim_misuse(0), "at the same time"));
    sim_forget_misuses();
    ok(cuMemFree_v2(d));
    ok(cuMemFreeHost(host));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

/* ---- page-locked host memory ------------------------------------------------------------------------ */

Test(sim_memory, registering_host_memory, .timeout = 60)
{
    session_begin();
    CUdeviceptr d;
    unsigned type;
    char *p = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(p, MAP_FAILED);
    ok(cuMemHostRegister_v2(p, 8192, CU_MEMHOSTREGISTER_PORTABLE));
    fails(cuMemHostRegister_v2(p, 8192, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    fails(cuMemHostRegister_v2(p + 4096, 8192, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    ok(cuMemHostRegister_v2(p + 8192, 100, 0));
    fails(cuMemHostRegister_v2(p + 8192 + 200, 100, 0), CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
    ok(cuMemHostGetDevicePointer_v2(&d, p, 0));
    cr_assert_eq(d, (uintptr_t)p);
    ok(cuPointerGetAttribute(&type, CU_POINTER_ATTRIBUTE_MEMORY_TYPE, d));
    cr_assert_eq(type, CU_MEMORYTYPE_HOST);
    misused(cuMemHostUnregister(p + 4096), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    misused(cuMemFreeHost(p), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemHostUnregister(p));
    ok(cuMemHostUnregister(p + 8192));
    misused(cuMemHostUnregister(p), CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
    misused(cuMemHostRegister_v2(p, 8192, 16), CUDA_ERROR_INVALID_VALUE);
    fails(cuMemHostRegister_v2(p, 8192, CU_MEMHOSTREGISTER_READ_ONLY), CUDA_ERROR_NOT_SUPPORTED);
    munmap(p + 4096, 4096);
    fails(cuMemHostRegister_v2(p, 8192, 0), CUDA_ERROR_INVALID_VALUE);
    sim_set("PINNED", 4096);
    fails(cuMemHostRegister_v2(p + 8192, 8192, 0), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemHostRegister_v2(p + 8192, 4096, 0));
    ok(cuMemHostUnregister(p + 8192));
    sim_set("HOST_REGISTER", 0);
    fails(cuMemHostRegister_v2(p + 8192, 4096, 0), CUDA_ERROR_NOT_SUPPORTED);
    sim_forget_misuses();
    session_end();
}

struct call {
    CUdeviceptr d;
    CUstream stream;
    char *host;
    bool to_host, returned;
};

static void *copy_in_thread(void *arg)
{
    struct call *call = arg;
    int r = cuCtxSetCurrent(context);
    r = r ? r : call->to_host ? cuMemcpyDtoHAsync_v2(call->host, call->d, KIB, call->stream)
                              : cuMemcpyHtoDAsync_v2(call->d, call->host, KIB, call->stream);
    __atomic_store_n(&call->returned, r == 0, __ATOMIC_RELEASE);
    return NULL;
}

/* Whether an asynchronous copy returns while it is held up. */
static bool returns_early(CUdeviceptr d, CUstream stream, char *host, bool to_host)
{
    pthread_t thread;
    struct call call = {d, stream, host, to_host, false};
    sim_hold(1u << SIM_COPY);
    cr_assert_eq(pthread_create(&thread, NULL, copy_in_thread, &call), 0);
    a_while();
    bool early = __atomic_load_n(&call.returned, __ATOMIC_ACQUIRE);
    sim_let_go();
    pthread_join(thread, NULL);
    cr_assert(call.returned);
    ok(cuStreamSynchronize(stream));
    return early;
}

Test(sim_memory, copies_of_pageable_memory_wait, .timeout = 60)
{
    static char pageable[KIB];
    struct sim_counts counts;
    char is;
    session_begin();
    CUstream s = stream_new();
    CUdeviceptr d = memory_new(KIB);
    char *pinned = pinned_new(KIB);
    cr_assert(returns_early(d, s, pinned, false));
    cr_assert(returns_early(d, s, pinned, true));
    sim_count(&counts);
    cr_assert_eq(counts.pageable_copies, 0);
    cr_assert(!returns_early(d, s, pageable, false));
    cr_assert(!returns_early(d, s, pageable, true));
    sim_count(&counts);
    cr_assert(counts.pageable_copies == 2 && counts.pageable_bytes == 2 * KIB);
    sim_set("STAGED", KIB);
    cr_assert(!returns_early(d, s, pageable, true));
    sim_hold(1u << SIM_COPY);
    memset(pageable, 1, sizeof pageable);
    ok(cuMemcpyHtoDAsync_v2(d, pageable, KIB, s));
    memset(pageable, 2, sizeof pageable); /* too late to be seen */
    sim_let_go();
    ok(cuStreamSynchronize(s));
    cr_assert(sim_read(&is, d + KIB - 1, 1) && is == 1);
    ok(cuMemFree_v2(d));
    ok(cuMemFreeHost(pinned));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

/* ---- pools -------------------------------------------------------------------------------------------- */

Test(sim_memory, memory_in_a_streams_order, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    CUdeviceptr d;
    size_t all = available();
    ok(cuMemAllocAsync(&d, MIB, a));
    ok(cuMemsetD8Async(d, 1, MIB, a));
    cr_assert_eq(available(), all - MIB);
    wait_for(a, flag, 1);
    ok(cuMemFreeAsync(d, a));
    cr_assert_eq(available(), all - MIB);
    misused(cuMemFreeAsync(d, a), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemsetD8Async(d, 1, MIB, a), CUDA_ERROR_INVALID_VALUE);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(a));
    cr_assert_eq(available(), all);
    sim_forget_misuses();

    wait_for(a, flag, 2);
    ok(cuMemAllocAsync(&d, MIB, a));
    sim_hold(1u << SIM_FILL);
    ok(cuMemsetD8Async(d, 1, MIB, b)); /* not ordered behind it */
    sim_let_go();
    fails(cuStreamSynchronize(b), CUDA_ERROR_ILLEGAL_ADDRESS);
    cr_assert_eq(sim_misuses(), 1);
}

Test(sim_memory, without_pools, .timeout = 60)
{
    CUdeviceptr d;
    int value;
    setenv("SIM_CUDA_POOLS", "0", 1);
    session_begin();
    ok(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 0));
    cr_assert_eq(value, 0);
    fails(cuMemAllocAsync(&d, MIB, NULL), CUDA_ERROR_NOT_SUPPORTED);
    session_end();
}

/* ---- devices and contexts --------------------------------------------------------------------------------- */

static void touch(void *arg)
{
    *(bool *)arg = sim_memory(*(CUdeviceptr *)((char *)arg - sizeof(CUdeviceptr)), KIB) != NULL;
}

Test(sim_memory, two_devices, .timeout = 60)
{
    struct {
        CUdeviceptr at;
        bool could;
    } kernel;
    CUcontext second, is;
    int can, device;
    setenv("SIM_CUDA_DEVICES", "2", 1);
    session_begin();
    ok(cuDevicePrimaryCtxRetain(&second, 1));
    CUdeviceptr here = memory_new(KIB), there;
    ok(cuCtxPushCurrent_v2(second));
    ok(cuMemAlloc_v2(&there, KIB));
    ok(cuCtxPopCurrent_v2(&is));
    cr_assert_eq(is, second);
    ok(cuCtxGetDevice(&device));
    cr_assert_eq(device, 0);
    CUstream s = stream_new();
    ok(cuMemsetD8Async(here, 9, KIB, s));
    ok(cuMemcpyPeerAsync(there, second, here, context, KIB, s));
    misused(cuMemcpyPeerAsync(there, context, here, second, KIB, s), CUDA_ERROR_INVALID_VALUE);
    ok(cuStreamSynchronize(s));
    cr_assert_eq(*(char *)sim_memory(there, KIB), 9);
    ok(cuDeviceCanAccessPeer(&can, 0, 1));
    cr_assert_eq(can, 1);
    ok(cuCtxEnablePeerAccess(second, 0));
    fails(cuCtxEnablePeerAccess(second, 0), CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED);
    kernel.at = there;
    ok(sim_launch(s, touch, &kernel.could, 0));
    ok(cuStreamSynchronize(s));
    cr_assert(kernel.could);
    ok(cuCtxDisablePeerAccess(second));
    fails(cuCtxDisablePeerAccess(second), CUDA_ERROR_PEER_ACCESS_NOT_ENABLED);
    ok(cuPointerGetAttribute(&device, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, there));
    cr_assert_eq(device, 1);
    sim_hold(1u << SIM_KERNEL);
    ok(sim_launch(s, touch, &kernel.could, 0)); /* now it must not */
    sim_let_go();
    fails(cuStreamSynchronize(s), CUDA_ERROR_ILLEGAL_ADDRESS);
    for (int i = 0; i < 1000 && sim_pending(); i++)
        usleep(1000);
    cr_assert(!sim_pending() && !kernel.could);
    ok(cuCtxSetCurrent(second)); /* and this device has nothing to do with that */
    ok(cuMemFree_v2(there));
}

Test(sim_memory, without_a_context, .timeout = 60)
{
    CUdeviceptr d;
    CUstream s;
    CUcontext is;
    int count;
    fails(cuDeviceGetCount(&count), CUDA_ERROR_NOT_INITIALIZED);
    ok(cuInit(0));
    ok(cuDeviceGetCount(&count));
    cr_assert_eq(count, 1);
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_INVALID_CONTEXT);
    fails(cuStreamCreate(&s, 0), CUDA_ERROR_INVALID_CONTEXT);
    fails(cuCtxSynchronize(), CUDA_ERROR_INVALID_CONTEXT);
    ok(cuDevicePrimaryCtxRetain(&context, 0));
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_INVALID_CONTEXT); /* retained, not current */
    ok(cuCtxSetCurrent(context));
    ok(cuMemAlloc_v2(&d, KIB));
    ok(cuMemFree_v2(d));
    ok(cuDevicePrimaryCtxRelease_v2(0));
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_CONTEXT_IS_DESTROYED);
    misused(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_INVALID_CONTEXT);
    ok(cuCtxSetCurrent(NULL));
    ok(cuCtxGetCurrent(&is));
    cr_assert_eq(is, NULL);
    fails(cuDevicePrimaryCtxRetain(&context, 1), CUDA_ERROR_INVALID_DEVICE);
    fails(cuCtxSetCurrent((CUcontext)&d), CUDA_ERROR_INVALID_CONTEXT);
}

Test(sim_memory, without_a_device, .timeout = 60)
{
    setenv("SIM_CUDA_DEVICES", "0", 1);
    fails(cuInit(0), CUDA_ERROR_NO_DEVICE);
}

Test(sim_memory, what_a_device_says_of_itself, .timeout = 60)
{
    char text[64];
    const char *name;
    CUuuid first, second;
    int value, device;
    setenv("SIM_CUDA_DEVICES", "2", 1);
    session_begin();
    ok(cuDeviceGetName(text, sizeof text, 1));
    cr_assert_str_eq(text, "Simulated GPU 1");
    ok(cuDeviceGetPCIBusId(text, sizeof text, 1));
    ok(cuDeviceGetByPCIBusId(&device, text));
    cr_assert_eq(device, 1);
    ok(cuDeviceGetUuid_v2(&first, 0));
    ok(cuDeviceGetUuid_v2(&second, 1));
    cr_assert_neq(memcmp(&first, &second, sizeof first), 0);
    ok(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 0));
    cr_assert_eq(value, 1);
    ok(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 0));
    cr_assert_eq(value, 2);
    sim_set("HOST_NUMA_ID", -1);
    ok(cuDeviceGetAttribute(&value, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, 0));
    cr_assert_eq(value, -1);
    ok(cuGetErrorName(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, &name));
    cr_assert_str_eq(name, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED");
    fails(cuGetErrorName(12345, &name), CUDA_ERROR_INVALID_VALUE);
    ok(cuDriverGetVersion(&value));
    cr_assert_eq(value, 13000);
    session_end();
}

static void *found(const char *name, int version, int expected)
{
    void *function;
    CUdriverProcAddressQueryResult status = -1;
    ok(cuGetProcAddress_v2(name, &function, version, 0, &status));
    cr_assert_eq(status, expected, "%s %d: %d", name, version, status);
    cr_assert_eq(function == NULL, expected != CU_GET_PROC_ADDRESS_SUCCESS);
    return function;
}

Test(sim_memory, functions_by_name_and_version, .timeout = 60)
{
    void *function;
    cr_assert_eq(found("cuMemAlloc", 3020, 0), (void *)cuMemAlloc_v2);
    cr_assert_eq(found("cuMemAlloc", 13000, 0), (void *)cuMemAlloc_v2);
    cr_assert_eq(found("cuEventElapsedTime", 12000, 0), (void *)cuEventElapsedTime);
    cr_assert_eq(found("cuEventElapsedTime", 12080, 0), (void *)cuEventElapsedTime_v2);
    cr_assert_eq(found("cuGetProcAddress", 12000, 0), (void *)cuGetProcAddress_v2);
    cr_assert_neq(found("cuGetProcAddress", 11030, 0), (void *)cuGetProcAddress_v2);
    found("cuStreamWaitValue64", 11060, CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT);
    found("cuMemAlloc_v2", 13000, CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND);
    misused(cuGetProcAddress_v2("cuMemAlloc", &function, 14000, 0, NULL), CUDA_ERROR_INVALID_VALUE);
    sim_set("DRIVER_VERSION", 11040);
    misused(cuGetProcAddress_v2("cuMemAlloc", &function, 12000, 0, NULL), CUDA_ERROR_INVALID_VALUE);
}
