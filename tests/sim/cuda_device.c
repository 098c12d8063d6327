/* cuda_device.c - the simulated CUDA driver: start, devices and contexts. */
#include <stdio.h>
#include <string.h>

#include "cuda_table.h"

CUresult cuInit(unsigned flags)
{
    static struct entry entry = {.name = __func__};
    int refused = entry_enter(&entry, ENTRY_ANY);
    if (refused)
        return refused;
    return entry_leave(flags ? SIM_EINVAL : devices_init());
}

CUresult cuDriverGetVersion(int *version)
{
    static struct entry entry = {.name = __func__};
    int refused = entry_enter(&entry, ENTRY_ANY);
    if (refused)
        return refused;
    if (!version)
        return MISUSED("no place for the version");
    *version = (int)sim_get("DRIVER_VERSION");
    return entry_leave(SIM_OK);
}

/* ---- devices ------------------------------------------------------------------------- */

CUresult cuDeviceGetCount(int *count)
{
    ENTER(0);
    if (!count)
        return MISUSED("no place for the count");
    *count = devices_count();
    return entry_leave(SIM_OK);
}

CUresult cuDeviceGet(CUdevice *device, int ordinal)
{
    ENTER(0);
    struct device *found;
    int r = device ? devices_get(ordinal, &found) : SIM_EINVAL;
    if (!r)
        *device = ordinal;
    return entry_leave(r);
}

/* Writes a text that must fit. */
static int give_text(char *to, int bytes, const char *format, int number)
{
    int n = to && bytes > 0 ? snprintf(to, (size_t)bytes, format, number) : -1;
    return n >= 0 && n < bytes ? SIM_OK : SIM_EINVAL;
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = devices_get(device, &found);
    return entry_leave(r ? r : give_text(name, bytes, "Simulated GPU %d", device));
}

CUresult cuDeviceGetUuid_v2(CUuuid *uuid, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = uuid ? devices_get(device, &found) : SIM_EINVAL;
    if (!r)
        snprintf(uuid->bytes, sizeof uuid->bytes, "simulated GPU %d", device);
    return entry_leave(r);
}

#define BUS_ID "0000:%02x:00.0"
enum { FIRST_BUS = 0x40 };

CUresult cuDeviceGetPCIBusId(char *id, int bytes, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = devices_get(device, &found);
    return entry_leave(r ? r : give_text(id, bytes, BUS_ID, FIRST_BUS + device));
}

CUresult cuDeviceGetByPCIBusId(CUdevice *device, const char *id)
{
    ENTER(0);
    char text[32];
    int i = 0, n = devices_count();
    for (; id && i < n; i++)
        if (!give_text(text, sizeof text, BUS_ID, FIRST_BUS + i) && !strcasecmp(text, id))
            break;
    if (device && id && i < n)
        *device = i;
    return entry_leave(!device || !id ? SIM_EINVAL : i < n ? SIM_OK : SIM_EBADDEVICE);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = bytes ? devices_get(device, &found) : SIM_EINVAL;
    if (!r)
        *bytes = (size_t)sim_get("CAPACITY");
    return entry_leave(r);
}

static int attribute(const struct settings *s, int attribute, int device, int *value)
{
    switch (attribute) {
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT:
    case CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY:
    case CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING:
    case CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM: *value = 1; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_MODE:
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR:
    case CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID:
    case CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID:
    case CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY:
    case CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES:
    case CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED:
    case CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED: *value = 0; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_GPU_OVERLAP: *value = s->async_engines > 0; break;
    case CU_DEVICE_ATTRIBUTE_INTEGRATED: *value = (int)s->integrated; break;
    case CU_DEVICE_ATTRIBUTE_PCI_BUS_ID: *value = FIRST_BUS + device; break;
    case CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT: *value = (int)s->async_engines; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; break;
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS:
    case CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES:
        *value = (int)s->pageable_access;
        break;
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS:
    case CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR: *value = (int)s->memops; break;
    case CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: *value = (int)s->host_register; break;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = (int)s->vmm; break;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        *value = s->vmm && s->host_numa_vmm;
        break;
    case CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED:
        *value = s->vmm && s->host_vmm;
        break;
    case CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID: *value = (int)s->host_numa_id; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = (int)s->pools; break;
    default: return SIM_EINVAL;
    }
    return SIM_OK;
}

CUresult cuDeviceGetAttribute(int *value, CUdevice_attribute which, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = value ? devices_get(device, &found) : SIM_EINVAL;
    if (!r) {
        engine_lock();
        r = attribute(&engine.settings, which, device, value);
        engine_unlock();
    }
    return r == SIM_EINVAL ? MISUSED("an attribute that is not simulated, or no place for it") : entry_leave(r);
}

CUresult cuDeviceCanAccessPeer(int *can, CUdevice device, CUdevice peer)
{
    ENTER(0);
    struct device *found;
    int r = can ? devices_get(device, &found) : SIM_EINVAL;
    if (!r && !(r = devices_get(peer, &found)))
        *can = device != peer && sim_get("PEER");
    return entry_leave(r);
}

/* ---- contexts ------------------------------------------------------------------------- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device)
{
    ENTER(0);
    struct device *found;
    struct context *retained;
    int r = context ? devices_get(device, &found) : SIM_EINVAL;
    if (!r && !(r = context_retain(found, &retained)))
        *context = context_handle(retained);
    return entry_leave(r);
}

CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = devices_get(device, &found);
    return entry_leave(r ? r : context_release(found));
}

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned *flags, int *active)
{
    ENTER(0);
    struct device *found;
    int r = flags && active ? devices_get(device, &found) : SIM_EINVAL;
    if (!r) {
        engine_lock();
        *flags = 0;
        *active = found->context.retained > 0;
        engine_unlock();
    }
    return entry_leave(r);
}

/* Calls that choose a context succeed also where its device has failed. */
static int chosen(int r)
{
    entry_leave(SIM_OK);
    return r ? entry_leave(r) : CUDA_SUCCESS;
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    ENTER(0);
    struct context *found = context_of(context);
    return chosen(context && !found ? SIM_ENOCONTEXT : context_set(found));
}

CUresult cuCtxGetCurrent(CUcontext *context)
{
    ENTER(0);
    if (!context)
        return MISUSED("no place for the context");
    *context = context_handle(context_current());
    return chosen(SIM_OK);
}

CUresult cuCtxPushCurrent_v2(CUcontext context)
{
    ENTER(0);
    struct context *found = context_of(context);
    return chosen(found ? context_push(found) : SIM_ENOCONTEXT);
}

CUresult cuCtxPopCurrent_v2(CUcontext *context)
{
    ENTER(0);
    struct context *popped;
    int r = context_pop(&popped);
    if (!r && context)
        *context = context_handle(popped);
    return chosen(r);
}

CUresult cuCtxGetDevice(CUdevice *device)
{
    ENTER(0);
    const struct context *context = context_current();
    if (device && context)
        *device = context->device->id;
    return chosen(!context ? SIM_ENOCONTEXT : device ? SIM_OK : SIM_EINVAL);
}

CUresult cuCtxSynchronize(void)
{
    ENTER(ENTRY_CONTEXT);
    return entry_leave(stream_wait_all(context_current()));
}

CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER(ENTRY_CONTEXT);
    if (least)
        *least = 0;
    if (greatest)
        *greatest = -5;
    return entry_leave(SIM_OK);
}

CUresult cuCtxEnablePeerAccess(CUcontext peer, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    struct context *found = context_of(peer);
    int r = flags ? SIM_EINVAL : found ? SIM_OK : SIM_ENOCONTEXT;
    return entry_leave(r ? r : context_enable_peer(context_current(), found, true));
}

CUresult cuCtxDisablePeerAccess(CUcontext peer)
{
    ENTER(ENTRY_CONTEXT);
    struct context *found = context_of(peer);
    return entry_leave(found ? context_enable_peer(context_current(), found, false) : SIM_ENOCONTEXT);
}
