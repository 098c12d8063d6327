/* cuda_memory.c - the simulated CUDA driver: memory, of devices and of the host. */
#include "cuda_table.h"

CUresult cuMemGetInfo_v2(size_t *available, size_t *total)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t bytes, all;
    int r = available && total ? memory_info(context_current()->device->id, &bytes, &all) : SIM_EINVAL;
    if (!r) {
        *available = bytes;
        *total = all;
    }
    return entry_leave(r);
}

CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    uint64_t at;
    if (!address || !bytes)
        return MISUSED("no bytes, or no place for the address");
    int r = memory_alloc(context_current(), bytes, &at);
    if (!r)
        *address = at;
    return entry_leave(r);
}

CUresult cuMemFree_v2(CUdeviceptr address)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP | ENTRY_UNSAFE);
    return entry_leave(memory_free(address));
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *bytes, CUdeviceptr address)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t start, length;
    int r = memory_range(address, &start, &length);
    if (!r && base)
        *base = start;
    if (!r && bytes)
        *bytes = length;
    return entry_leave(r == SIM_EINVAL ? SIM_ENOTFOUND : r);
}

CUresult cuPointerGetAttribute(void *data, CUpointer_attribute attribute, CUdeviceptr address)
{
    ENTER(0);
    int device = 0;
    enum memory_kind kind = memory_kind(address, &device);
    if (!data || kind == MEMORY_NONE)
        return entry_leave(SIM_EINVAL);
    switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = context_handle(&engine.devices[device].context);
        break;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = kind == MEMORY_HOST ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)data = address; break;
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
        if (kind != MEMORY_HOST)
            return entry_leave(SIM_EINVAL);
        *(void **)data = (void *)(uintptr_t)address;
        break;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)data = device; break;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR: (void)memory_range(address, data, &(uint64_t){0}); break;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE: (void)memory_range(address, &(uint64_t){0}, data); break;
    default: return MISUSED("an attribute that is not simulated");
    }
    return entry_leave(SIM_OK);
}

CUresult cuMemAllocAsync(CUdeviceptr *address, size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t at;
    if (!address || !bytes)
        return MISUSED("no bytes, or no place for the address");
    int r = pool_alloc(context_current(), bytes, cuda_stream(stream), &at);
    if (!r)
        *address = at;
    return entry_leave(r);
}

CUresult cuMemFreeAsync(CUdeviceptr address, CUstream stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return entry_leave(pool_free(context_current(), address, cuda_stream(stream)));
}

/* ---- host memory ------------------------------------------------------------------- */

CUresult cuMemHostAlloc(void **p, size_t bytes, unsigned flags)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    unsigned known = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP | CU_MEMHOSTALLOC_WRITECOMBINED;
    if (!p || (flags & ~known))
        return MISUSED("an unknown flag, or no place for the pointer");
    return entry_leave(host_alloc(context_current(), bytes, p));
}

CUresult cuMemFreeHost(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP | ENTRY_UNSAFE);
    return entry_leave(host_free(context_current(), p));
}

CUresult cuMemHostRegister_v2(void *p, size_t bytes, unsigned flags)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    unsigned known = CU_MEMHOSTREGISTER_PORTABLE | CU_MEMHOSTREGISTER_DEVICEMAP |
                     CU_MEMHOSTREGISTER_IOMEMORY | CU_MEMHOSTREGISTER_READ_ONLY;
    if (flags & ~known)
        return MISUSED("an unknown flag");
    if (!sim_get("HOST_REGISTER") ||
        (flags & (CU_MEMHOSTREGISTER_READ_ONLY | CU_MEMHOSTREGISTER_IOMEMORY)))
        return entry_leave(SIM_ENOTSUP);
    return entry_leave(host_register(context_current(), p, bytes));
}

CUresult cuMemHostUnregister(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP | ENTRY_UNSAFE);
    return entry_leave(host_unregister(context_current(), p));
}

CUresult cuMemHostGetDevicePointer_v2(CUdeviceptr *address, void *p, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    int device;
    if (flags || !address || memory_kind((uintptr_t)p, &device) != MEMORY_HOST)
        return MISUSED("not page-locked host memory, or flags");
    *address = (uintptr_t)p;
    return entry_leave(SIM_OK);
}

CUresult cuMemHostGetFlags(unsigned *flags, void *p)
{
    ENTER(ENTRY_CONTEXT);
    int device;
    if (!flags || memory_kind((uintptr_t)p, &device) != MEMORY_HOST)
        return entry_leave(SIM_EINVAL);
    *flags = CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP;
    return entry_leave(SIM_OK);
}
