/* ascend.c - the simulated ACL runtime (Huawei Ascend): names, numbers and orders of
 * arguments, written down from Huawei's documentation of CANN 8 and 9 and from
 * rt_error_codes.h. A thread that has set no device has no context, and events need not
 * be reset. */
#define ERRORS(X)                                     \
    X(ACL_SUCCESS, 0)                                 \
    X(ACL_ERROR_REPEAT_INITIALIZE, 100002)            \
    X(ACL_ERROR_RT_PARAM_INVALID, 107000)             \
    X(ACL_ERROR_RT_INVALID_DEVICEID, 107001)          \
    X(ACL_ERROR_RT_CONTEXT_NULL, 107002)              \
    X(ACL_ERROR_RT_STREAM_CONTEXT, 107003)            \
    X(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, 207000)       \
    X(ACL_ERROR_RT_MEMORY_ALLOCATION, 207001)         \
    X(ACL_ERROR_RT_NO_DEVICE, 207004)                 \
    X(ACL_ERROR_RT_INTERNAL_ERROR, 507000)            \
    X(ACL_ERROR_RT_AICORE_EXCEPTION, 507015)          \
    X(ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED, 507910) \
    X(ACL_ERROR_HOST_MEMORY_NOT_REGISTERED, 507911)

#define CODES                                                           \
    {                                                                   \
        [SIM_EINVAL] = ACL_ERROR_RT_PARAM_INVALID,                      \
        [SIM_ENOMEM] = ACL_ERROR_RT_MEMORY_ALLOCATION,                  \
        [SIM_ENOTINIT] = ACL_ERROR_RT_INTERNAL_ERROR,                   \
        [SIM_ENODEVICE] = ACL_ERROR_RT_NO_DEVICE,                       \
        [SIM_EBADDEVICE] = ACL_ERROR_RT_INVALID_DEVICEID,               \
        [SIM_ENOCONTEXT] = ACL_ERROR_RT_CONTEXT_NULL,                   \
        [SIM_EHANDLE] = ACL_ERROR_RT_STREAM_CONTEXT,                    \
        [SIM_EILLEGAL] = ACL_ERROR_RT_AICORE_EXCEPTION,                 \
        [SIM_EREGISTERED] = ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED,   \
        [SIM_ENOTREGISTERED] = ACL_ERROR_HOST_MEMORY_NOT_REGISTERED,    \
        [SIM_ENOTSUP] = ACL_ERROR_RT_FEATURE_NOT_SUPPORT,               \
    }
#define NO_MEMORY ACL_ERROR_RT_MEMORY_ALLOCATION
#define UNKNOWN ACL_ERROR_RT_INTERNAL_ERROR
#define PREFIX "SIM_ASCEND_"
#define NO_FIRST_DEVICE

#include "runtime_table.h"

enum { ALIGNMENT = 64, PAGE = 4096 };

/* ---- start and devices ----------------------------------------------------------- */

/* For those who ask the runtime for its sentence about the last failure. */
SIM_EXPORT const char *aclGetRecentErrMsg(void);
const char *aclGetRecentErrMsg(void)
{
    int code = last_error;
    last_error = 0;
    return code == NO_MEMORY ? "simulated: out of memory\nfurther lines" : NULL;
}

SIM_EXPORT int aclInit(const char *configuration);
int aclInit(const char *configuration)
{
    static bool done;
    static struct entry entry = {.name = __func__};
    int refused = entry_enter(&entry, ENTRY_ANY);
    if (refused)
        return refused;
    if (configuration)
        return MISUSED("a file of settings");
    if (done)
        return keep(ACL_ERROR_REPEAT_INITIALIZE);
    done = true;
    devices_init();
    return leave(SIM_OK);
}

SIM_EXPORT int aclrtGetDeviceCount(uint32_t *count);
int aclrtGetDeviceCount(uint32_t *count)
{
    if (count)
        *count = 0;
    ENTER(0);
    if (!count)
        return MISUSED("no place for the count");
    *count = (uint32_t)devices_count();
    return chosen(SIM_OK);
}

SIM_EXPORT int aclrtSetDevice(int32_t device);
int aclrtSetDevice(int32_t device)
{
    ENTER(0);
    return chosen(use_device(device));
}

SIM_EXPORT int aclrtGetDevice(int32_t *device);
int aclrtGetDevice(int32_t *device)
{
    ENTER(0);
    if (context_current() && device)
        *device = context_current()->device->id;
    return chosen(context_current() ? SIM_OK : SIM_ENOCONTEXT);
}

SIM_EXPORT int aclrtGetCurrentContext(void **context);
int aclrtGetCurrentContext(void **context)
{
    ENTER(0);
    if (!context)
        return MISUSED("no place for the context");
    if (context_current())
        *context = context_handle(context_current());
    return chosen(context_current() ? SIM_OK : SIM_ENOCONTEXT);
}

SIM_EXPORT int aclrtSetCurrentContext(void *context);
int aclrtSetCurrentContext(void *context)
{
    ENTER(0);
    struct context *found = context_of(context);
    return found ? chosen(context_set(found)) : MISUSED("not a context");
}

SIM_EXPORT const char *aclrtGetSocName(void);
const char *aclrtGetSocName(void)
{
    return "Simulated Ascend";
}

SIM_EXPORT int aclrtDeviceGetPCIBusId(int32_t device, char *id, int32_t bytes);
int aclrtDeviceGetPCIBusId(int32_t device, char *id, int32_t bytes)
{
    ENTER(0);
    struct device *found;
    int r = id && bytes > 12 ? devices_get(device, &found) : SIM_EINVAL;
    if (!r)
        snprintf(id, (size_t)bytes, "0000:%02X:00.0", 0x60 + (unsigned)device);
    return leave(r);
}

/* ---- memory ---------------------------------------------------------------------- */

enum { ACL_DDR_MEM = 0, ACL_HBM_MEM = 1 };

SIM_EXPORT int aclrtGetMemInfo(int attribute, size_t *available, size_t *total);
int aclrtGetMemInfo(int attribute, size_t *available, size_t *total)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t bytes, all;
    if (attribute != ACL_DDR_MEM && attribute != ACL_HBM_MEM)
        return MISUSED("a kind of memory that there is not");
    int r = available && total ? memory_info(context_current()->device->id, &bytes, &all) : SIM_EINVAL;
    if (!r) {
        *available = attribute == ACL_HBM_MEM ? bytes : 0;
        *total = attribute == ACL_HBM_MEM ? all : 0;
    }
    return leave(r);
}

enum { ACL_MEM_MALLOC_HUGE_FIRST, ACL_MEM_MALLOC_HUGE_ONLY, ACL_MEM_MALLOC_NORMAL_ONLY };

SIM_EXPORT int aclrtMalloc(void **p, size_t bytes, int policy);
int aclrtMalloc(void **p, size_t bytes, int policy)
{
    ENTER(ENTRY_CONTEXT);
    if (policy != ACL_MEM_MALLOC_HUGE_FIRST)
        return MISUSED("memory in pages of one size only");
    return p && bytes ? allocate(p, bytes) : MISUSED("no bytes, or no place for the pointer");
}

SIM_EXPORT int aclrtFree(void *p);
int aclrtFree(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(memory_free(number(p)));
}

/* ---- addresses and what is behind them -------------------------------------------- */

struct acl_property { /* aclrtPhysicalMemProp */
    int handleType, allocationType, memAttr;
    struct {
        uint32_t id;
        int type;
    } location;
    uint64_t reserve;
};
enum {
    ACL_MEM_HANDLE_TYPE_NONE = 0,
    ACL_MEM_ALLOCATION_TYPE_PINNED = 0,
    ACL_MEM_LOCATION_TYPE_DEVICE = 1,
    ACL_HBM_MEM_HUGE = 4
};

SIM_EXPORT int aclrtReserveMemAddress(void **p, size_t bytes, size_t alignment, void *wanted, uint64_t flags);
int aclrtReserveMemAddress(void **p, size_t bytes, size_t alignment, void *wanted, uint64_t flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t at;
    if (!p || alignment || wanted || flags != 1)
        return MISUSED("an alignment, a place, or addresses for small pages");
    int r = pages_reserve(bytes, 0, 0, &at);
    if (!r)
        *p = (void *)(uintptr_t)at;
    return leave(r);
}

SIM_EXPORT int aclrtReleaseMemAddress(void *p);
int aclrtReleaseMemAddress(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    engine_lock();
    const struct area *area = area_at_locked(number(p));
    uint64_t bytes = area ? area->bytes : 0;
    engine_unlock();
    return leave(pages_unreserve(number(p), bytes));
}

SIM_EXPORT int aclrtMallocPhysical(void **memory, size_t bytes, const struct acl_property *property, uint64_t flags);
int aclrtMallocPhysical(void **memory, size_t bytes, const struct acl_property *property, uint64_t flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!memory || !property || flags || property->handleType != ACL_MEM_HANDLE_TYPE_NONE ||
        property->allocationType != ACL_MEM_ALLOCATION_TYPE_PINNED || property->memAttr != ACL_HBM_MEM_HUGE ||
        property->location.type != ACL_MEM_LOCATION_TYPE_DEVICE || property->reserve)
        return MISUSED("properties or flags that make no sense");
    int r = pages_create(PLACE_DEVICE, (int)property->location.id, bytes, &made);
    if (!r)
        *memory = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int aclrtFreePhysical(void *memory);
int aclrtFreePhysical(void *memory)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    engine_lock();
    const struct physical *physical = object_find_locked(OBJECT_PHYSICAL, number(memory));
    bool mapped = physical && physical->mappings;
    engine_unlock();
    return mapped ? MISUSED("memory that is mapped still") : leave(pages_release(number(memory)));
}

SIM_EXPORT int aclrtMapMem(void *p, size_t bytes, size_t offset, void *memory, uint64_t flags);
int aclrtMapMem(void *p, size_t bytes, size_t offset, void *memory, uint64_t flags)
{
    ENTER(ENTRY_CONTEXT);
    if (offset || flags)
        return MISUSED("an offset, or flags");
    int r = pages_map(context_current(), number(p), bytes, number(memory));
    if (!r)
        r = pages_set_access(number(p), bytes, context_current()->device->id, false, ACCESS_BOTH);
    return leave(r);
}

/* All that one call has mapped there. */
SIM_EXPORT int aclrtUnmapMem(void *p);
int aclrtUnmapMem(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    engine_lock();
    const struct area *area = area_at_locked(number(p));
    unsigned i = area ? area_map_after(area, number(p)) : 0;
    uint64_t bytes = area && i < area->n_maps && area->maps[i].base == number(p) ? area->maps[i].bytes : 0;
    engine_unlock();
    return bytes ? leave(pages_unmap(context_current(), number(p), bytes)) : MISUSED("nothing that was mapped there");
}

/* ---- host memory ------------------------------------------------------------------ */

enum { ACL_HOST_REG_PINNED = 0x10000000 };

SIM_EXPORT int aclrtHostRegisterV2(void *p, uint64_t bytes, uint32_t flag);
int aclrtHostRegisterV2(void *p, uint64_t bytes, uint32_t flag)
{
    ENTER(ENTRY_CONTEXT);
    if (flag != ACL_HOST_REG_PINNED || number(p) % PAGE)
        return MISUSED("memory that is not to be locked, or no pages");
    return leave(sim_get("HOST_REGISTER") ? host_register(context_current(), p, bytes) : SIM_ENOTSUP);
}

SIM_EXPORT int aclrtHostUnregister(void *p);
int aclrtHostUnregister(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(host_unregister(context_current(), p));
}

/* ---- copies ---------------------------------------------------------------------- */

enum { ACL_MEMCPY_HOST_TO_HOST, ACL_MEMCPY_HOST_TO_DEVICE, ACL_MEMCPY_DEVICE_TO_HOST, ACL_MEMCPY_DEVICE_TO_DEVICE };

SIM_EXPORT int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream);
int aclrtMemcpyAsync(void *to, size_t room, const void *from, size_t bytes, int kind, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    struct copy copy = {.to = number(to), .from = number(from), .bytes = bytes};
    if (room < bytes)
        return MISUSED("more bytes than there is room");
    if (kind == ACL_MEMCPY_HOST_TO_HOST)
        return leave(SIM_ENOTSUP);
    if (kind < ACL_MEMCPY_HOST_TO_HOST || kind > ACL_MEMCPY_DEVICE_TO_DEVICE)
        return MISUSED("a kind of copy that there is not");
    copy.to_side = kind == ACL_MEMCPY_DEVICE_TO_HOST ? SIDE_HOST : SIDE_DEVICE;
    copy.from_side = kind == ACL_MEMCPY_HOST_TO_DEVICE ? SIDE_HOST : SIDE_DEVICE;
    int device;
    if (copy.from_side == SIDE_DEVICE && memory_kind(copy.from, &device) == MEMORY_DEVICE && !is_reached(from, device))
        return MISUSED("memory of a device that was not let access");
    if ((copy.to_side == SIDE_DEVICE && copy.to % ALIGNMENT) || (copy.from_side == SIDE_DEVICE && copy.from % ALIGNMENT))
        return MISUSED("memory of the device that is not aligned");
    return leave(copy_put(context_current(), number(stream), &copy));
}

SIM_EXPORT int aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t other);
int aclrtDeviceCanAccessPeer(int32_t *can, int32_t device, int32_t other)
{
    ENTER(0);
    bool does = false;
    int r = can ? can_reach(device, other, &does) : SIM_EINVAL;
    if (!r)
        *can = does;
    return leave(r);
}

SIM_EXPORT int aclrtDeviceEnablePeerAccess(int32_t other, uint32_t flags);
int aclrtDeviceEnablePeerAccess(int32_t other, uint32_t flags)
{
    ENTER(ENTRY_CONTEXT);
    int r = flags ? SIM_EINVAL : reach(other);
    return leave(r == SIM_EPEERS ? SIM_OK : r);
}

SIM_EXPORT int aclrtMemsetAsync(void *p, size_t room, int32_t value, size_t bytes, void *stream);
int aclrtMemsetAsync(void *p, size_t room, int32_t value, size_t bytes, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    if (room < bytes)
        return MISUSED("more bytes than there is room");
    return leave(fill_put(context_current(), number(stream), number(p), (unsigned char)value, 1, bytes, false));
}

/* ---- streams and events ---------------------------------------------------------- */

SIM_EXPORT int aclrtCreateStream(void **stream);
int aclrtCreateStream(void **stream)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!stream)
        return MISUSED("no place for the stream");
    int r = stream_create(context_current(), false, 0, &made);
    if (!r)
        *stream = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int aclrtDestroyStream(void *stream);
int aclrtDestroyStream(void *stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(stream_destroy(number(stream)));
}

SIM_EXPORT int aclrtSynchronizeStream(void *stream);
int aclrtSynchronizeStream(void *stream)
{
    ENTER(ENTRY_CONTEXT);
    return leave(stream_wait(context_current(), number(stream)));
}

/* 0: all is done, 1: not yet. */
SIM_EXPORT int aclrtStreamQuery(void *stream, int *status);
int aclrtStreamQuery(void *stream, int *status)
{
    ENTER(ENTRY_CONTEXT);
    if (!status)
        return MISUSED("no place for the status");
    int r = stream_query(context_current(), number(stream));
    *status = r == SIM_ENOTREADY;
    return leave(r == SIM_ENOTREADY ? SIM_OK : r);
}

SIM_EXPORT int aclrtStreamWaitEvent(void *stream, void *event);
int aclrtStreamWaitEvent(void *stream, void *event)
{
    ENTER(ENTRY_CONTEXT);
    return leave(event_follow(context_current(), number(stream), number(event)));
}

enum { ACL_EVENT_SYNC = 0x1 };

SIM_EXPORT int aclrtCreateEventExWithFlag(void **event, uint32_t flag);
int aclrtCreateEventExWithFlag(void **event, uint32_t flag)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!event || flag != ACL_EVENT_SYNC)
        return MISUSED("an event that streams cannot wait for, or no place for it");
    int r = event_create(context_current(), false, false, &made);
    if (!r)
        *event = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int aclrtDestroyEvent(void *event);
int aclrtDestroyEvent(void *event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(event_destroy(number(event)));
}

SIM_EXPORT int aclrtRecordEvent(void *event, void *stream);
int aclrtRecordEvent(void *event, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    return leave(event_record(context_current(), number(event), number(stream)));
}

/* 0: not yet, 1: it has passed. */
SIM_EXPORT int aclrtQueryEventStatus(void *event, int *status);
int aclrtQueryEventStatus(void *event, int *status)
{
    ENTER(ENTRY_CONTEXT);
    if (!status)
        return MISUSED("no place for the status");
    int r = event_query(number(event));
    *status = r == SIM_OK;
    return leave(r == SIM_ENOTREADY ? SIM_OK : r);
}
