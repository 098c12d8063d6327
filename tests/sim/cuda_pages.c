/* cuda_pages.c - the simulated CUDA driver: virtual memory management. */
#include "cuda_table.h"

CUresult cuMemAddressReserve(CUdeviceptr *address, size_t bytes, size_t align, CUdeviceptr hint,
                             unsigned long long flags)
{
    ENTER(0);
    uint64_t at;
    if (flags || !address)
        return MISUSED("flags must be zero, or no place for the address");
    int r = pages_reserve(bytes, align, hint, &at);
    if (!r)
        *address = at;
    return entry_leave(r);
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes)
{
    ENTER(0);
    return entry_leave(pages_unreserve(address, bytes));
}

static int place_of(const CUmemLocation *location, enum place *place)
{
    switch (location->type) {
    case CU_MEM_LOCATION_TYPE_DEVICE: *place = PLACE_DEVICE; return SIM_OK;
    case CU_MEM_LOCATION_TYPE_HOST: *place = PLACE_HOST; return SIM_OK;
    case CU_MEM_LOCATION_TYPE_HOST_NUMA: *place = PLACE_NODE; return SIM_OK;
    default: return SIM_EINVAL;
    }
}

static int prop_check(const CUmemAllocationProp *prop, enum place *place)
{
    if (!prop || prop->type != CU_MEM_ALLOCATION_TYPE_PINNED || prop->win32HandleMetaData)
        return SIM_EINVAL;
    if (prop->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE || prop->allocFlags.compressionType)
        return SIM_ENOTSUP;
    return place_of(&prop->location, place);
}

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop,
                     unsigned long long flags)
{
    ENTER(ENTRY_UNSAFE);
    uint64_t made;
    enum place place;
    int r = handle && !flags ? prop_check(prop, &place) : SIM_EINVAL;
    if (r == SIM_EINVAL)
        return MISUSED("properties that make no sense, or flags");
    if (!r && !(r = pages_create(place, prop->location.id, bytes, &made)))
        *handle = made;
    return entry_leave(r);
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle)
{
    ENTER(0);
    return entry_leave(pages_release(handle));
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,
                  unsigned long long flags)
{
    ENTER(ENTRY_UNSAFE);
    if (offset || flags)
        return MISUSED("offset and flags must be zero");
    return entry_leave(pages_map(context_current(), address, bytes, handle));
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes)
{
    ENTER(ENTRY_UNSAFE);
    return entry_leave(pages_unmap(context_current(), address, bytes));
}

static int set_access(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *desc)
{
    enum place place;
    if (desc->flags != CU_MEM_ACCESS_FLAGS_PROT_NONE && desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READ &&
        desc->flags != CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
        return SIM_EINVAL;
    int r = place_of(&desc->location, &place);
    return r ? r : pages_set_access(address, bytes, desc->location.id, place != PLACE_DEVICE,
                                    (unsigned)desc->flags);
}

CUresult cuMemSetAccess(CUdeviceptr address, size_t bytes, const CUmemAccessDesc *desc, size_t count)
{
    ENTER(ENTRY_UNSAFE);
    if (!desc || !count)
        return MISUSED("no description of the access");
    int r = SIM_OK;
    for (size_t i = 0; !r && i < count; i++)
        r = set_access(address, bytes, desc + i);
    return entry_leave(r);
}

CUresult cuMemGetAccess(unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address)
{
    ENTER(0);
    unsigned access;
    if (!flags || !location || location->type != CU_MEM_LOCATION_TYPE_DEVICE)
        return entry_leave(SIM_EINVAL);
    int r = pages_get_access(address, location->id, &access);
    if (!r)
        *flags = access;
    return entry_leave(r);
}

CUresult cuMemGetAllocationGranularity(size_t *granularity, const CUmemAllocationProp *prop,
                                       CUmemAllocationGranularity_flags option)
{
    ENTER(0);
    enum place place;
    int r = granularity && option >= 0 && option <= 1 ? prop_check(prop, &place) : SIM_EINVAL;
    if (r == SIM_EINVAL)
        return MISUSED("properties that make no sense, or an unknown option");
    if (!r && !sim_get("VMM"))
        r = SIM_ENOTSUP;
    if (!r)
        *granularity = (size_t)sim_get("GRANULARITY");
    return entry_leave(r);
}
