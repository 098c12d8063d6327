/* cnrt.c - the simulated CNRT runtime (Cambricon): names, numbers and orders of
 * arguments, written down from cnrt.h of version 6.14.1 and an earlier one, and from
 * Cambricon's guide. The default queue is one of each thread's own. */
#define ERRORS(X)                            \
    X(cnrtSuccess, 0)                        \
    X(cnrtErrorNotReady, 1)                  \
    X(cnrtErrorInit, 100002)                 \
    X(cnrtErrorNoDevice, 100004)             \
    X(cnrtErrorDeviceInvalid, 100005)        \
    X(cnrtErrorArgsInvalid, 100006)          \
    X(cnrtErrorInvalidResourceHandle, 100014) \
    X(cnrtErrorNotSupport, 100050)           \
    X(cnrtErrorOpsNotPermitted, 100051)      \
    X(cnrtErrorNoMem, 100100)                \
    X(cnrtErrorKernelTrap, 100132)           \
    X(cnrtErrorNoCnrtContext, 632019)        \
    X(cnrtErrorUnknown, 999991)

#define CODES                                             \
    {                                                     \
        [SIM_EINVAL] = cnrtErrorArgsInvalid,              \
        [SIM_ENOMEM] = cnrtErrorNoMem,                    \
        [SIM_ENOTINIT] = cnrtErrorInit,                   \
        [SIM_ENODEVICE] = cnrtErrorNoDevice,              \
        [SIM_EBADDEVICE] = cnrtErrorDeviceInvalid,        \
        [SIM_ENOCONTEXT] = cnrtErrorNoCnrtContext,        \
        [SIM_EHANDLE] = cnrtErrorInvalidResourceHandle,   \
        [SIM_ENOTREADY] = cnrtErrorNotReady,              \
        [SIM_EILLEGAL] = cnrtErrorKernelTrap,             \
        [SIM_ENOTPERMITTED] = cnrtErrorOpsNotPermitted,   \
        [SIM_ENOTSUP] = cnrtErrorNotSupport,              \
    }
#define NO_MEMORY cnrtErrorNoMem
#define UNKNOWN cnrtErrorUnknown
#define PREFIX "SIM_CNRT_"
#define STREAM(handle) ((handle) ? number(handle) : stream_of_thread(context_current()))

#include "runtime_table.h"

/* ---- errors and devices ---------------------------------------------------------- */

SIM_EXPORT int cnrtGetLastError(void);
int cnrtGetLastError(void)
{
    int code = last_error;
    last_error = 0;
    return code;
}

SIM_EXPORT int cnrtPeekAtLastError(void);
int cnrtPeekAtLastError(void)
{
    return last_error;
}

SIM_EXPORT const char *cnrtGetErrorName(int error);
const char *cnrtGetErrorName(int error)
{
#define NAME(name, number) \
    if (error == (number)) \
        return #name;
    ERRORS(NAME)
#undef NAME
    return "an error that is not simulated";
}

SIM_EXPORT const char *cnrtGetErrorStr(int error);
const char *cnrtGetErrorStr(int error)
{
    return error == NO_MEMORY ? "simulated: out of memory" : "simulated";
}

SIM_EXPORT int cnrtGetDeviceCount(unsigned *count);
int cnrtGetDeviceCount(unsigned *count)
{
    if (count)
        *count = 0;
    ENTER(0);
    if (!count)
        return MISUSED("no place for the count");
    *count = (unsigned)devices_count();
    return chosen(SIM_OK);
}

SIM_EXPORT int cnrtSetDevice(int device);
int cnrtSetDevice(int device)
{
    ENTER(0);
    return chosen(use_device(device));
}

SIM_EXPORT int cnrtGetDevice(int *device);
int cnrtGetDevice(int *device)
{
    ENTER(0);
    if (!device)
        return MISUSED("no place for the device");
    *device = context_current()->device->id;
    return chosen(SIM_OK);
}

SIM_EXPORT int cnrtGetDeviceProperties_V3(void *properties, int device);
int cnrtGetDeviceProperties_V3(void *properties, int device)
{
    ENTER(0);
    struct device *found;
    int r = properties ? devices_get(device, &found) : SIM_EINVAL;
    if (!r) {
        memset(properties, 0xee, 1024);
        snprintf(properties, 256, "Simulated MLU %d", device);
    }
    return leave(r);
}

/* ---- memory ---------------------------------------------------------------------- */

SIM_EXPORT int cnrtMemGetInfo(size_t *available, size_t *total);
int cnrtMemGetInfo(size_t *available, size_t *total)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t bytes, all;
    int r = available && total ? memory_info(context_current()->device->id, &bytes, &all) : SIM_EINVAL;
    if (!r) {
        *available = bytes;
        *total = all;
    }
    return leave(r);
}

SIM_EXPORT int cnrtMalloc(void **p, size_t bytes);
int cnrtMalloc(void **p, size_t bytes)
{
    ENTER(ENTRY_CONTEXT);
    return p && bytes ? allocate(p, bytes) : MISUSED("no bytes, or no place for the pointer");
}

SIM_EXPORT int cnrtFree(void *p);
int cnrtFree(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(memory_free(number(p)));
}

enum { cnrtMemcpyHostToDev, cnrtMemcpyDevToDev, cnrtMemcpyDevToHost, cnrtMemcpyHostToHost, cnrtMemcpyPeerToPeer,
       cnrtMemcpyNoDirection };

SIM_EXPORT int cnrtMemcpyAsync_V3(void *to, void *from, size_t bytes, void *queue, int direction);
int cnrtMemcpyAsync_V3(void *to, void *from, size_t bytes, void *queue, int direction)
{
    ENTER(ENTRY_CONTEXT);
    struct copy copy = {.to = number(to), .from = number(from), .bytes = bytes};
    switch (direction) {
    case cnrtMemcpyHostToDev: copy.to_side = SIDE_DEVICE, copy.from_side = SIDE_HOST; break;
    case cnrtMemcpyDevToHost: copy.to_side = SIDE_HOST, copy.from_side = SIDE_DEVICE; break;
    case cnrtMemcpyDevToDev: copy.to_side = SIDE_DEVICE, copy.from_side = SIDE_DEVICE; break;
    case cnrtMemcpyNoDirection: copy.to_side = SIDE_ANY, copy.from_side = SIDE_ANY; break;
    default: return MISUSED("a direction that is not simulated");
    }
    return leave(copy_put(context_current(), STREAM(queue), &copy));
}

/* They reach each other from the start. */
SIM_EXPORT int cnrtGetPeerAccessibility(unsigned *can, int device, int other);
int cnrtGetPeerAccessibility(unsigned *can, int device, int other)
{
    ENTER(0);
    bool does = false;
    int r = can ? can_reach(device, other, &does) : SIM_EINVAL;
    if (!r) {
        *can = does;
        if (does && context_current() && context_current()->device->id == device)
            (void)reach(other);
    }
    return leave(r);
}

SIM_EXPORT int cnrtMemcpyPeerAsync(void *to, int device, void *from, int other, size_t bytes, void *queue);
int cnrtMemcpyPeerAsync(void *to, int device, void *from, int other, size_t bytes, void *queue)
{
    ENTER(ENTRY_CONTEXT);
    struct copy copy = {.to = number(to), .from = number(from), .bytes = bytes, .to_side = SIDE_DEVICE,
                        .from_side = SIDE_DEVICE};
    if (!is_reached(to, device) || !is_reached(from, other))
        return MISUSED("an address is not of that device");
    return leave(copy_put(context_current(), STREAM(queue), &copy));
}

SIM_EXPORT int cnrtMemsetAsync(void *p, int value, size_t bytes, void *queue);
int cnrtMemsetAsync(void *p, int value, size_t bytes, void *queue)
{
    ENTER(ENTRY_CONTEXT);
    return leave(fill_put(context_current(), STREAM(queue), number(p), (unsigned char)value, 1, bytes, false));
}

/* ---- queues and notifiers -------------------------------------------------------- */

SIM_EXPORT int cnrtQueueCreate(void **queue);
int cnrtQueueCreate(void **queue)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!queue)
        return MISUSED("no place for the queue");
    int r = stream_create(context_current(), false, 0, &made);
    if (!r)
        *queue = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int cnrtQueueDestroy(void *queue);
int cnrtQueueDestroy(void *queue)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(stream_destroy(number(queue)));
}

SIM_EXPORT int cnrtQueueSync(void *queue);
int cnrtQueueSync(void *queue)
{
    ENTER(ENTRY_CONTEXT);
    return leave(stream_wait(context_current(), STREAM(queue)));
}

SIM_EXPORT int cnrtQueueQuery(void *queue);
int cnrtQueueQuery(void *queue)
{
    ENTER(ENTRY_CONTEXT);
    return leave(stream_query(context_current(), STREAM(queue)));
}

SIM_EXPORT int cnrtQueueWaitNotifier(void *notifier, void *queue, unsigned flag);
int cnrtQueueWaitNotifier(void *notifier, void *queue, unsigned flag)
{
    ENTER(ENTRY_CONTEXT);
    if (flag)
        return MISUSED("flags");
    return leave(event_follow(context_current(), STREAM(queue), number(notifier)));
}

enum { CNRT_NOTIFIER_DISABLE_TIMING_ALL = 0x4 };

SIM_EXPORT int cnrtNotifierCreateWithFlags(void **notifier, unsigned flags);
int cnrtNotifierCreateWithFlags(void **notifier, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!notifier || flags != CNRT_NOTIFIER_DISABLE_TIMING_ALL)
        return MISUSED("a notifier that takes times nobody asks for, or no place for it");
    int r = event_create(context_current(), false, false, &made);
    if (!r)
        *notifier = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int cnrtNotifierDestroy(void *notifier);
int cnrtNotifierDestroy(void *notifier)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(event_destroy(number(notifier)));
}

SIM_EXPORT int cnrtPlaceNotifier(void *notifier, void *queue);
int cnrtPlaceNotifier(void *notifier, void *queue)
{
    ENTER(ENTRY_CONTEXT);
    return leave(event_record(context_current(), number(notifier), STREAM(queue)));
}

SIM_EXPORT int cnrtQueryNotifier(void *notifier);
int cnrtQueryNotifier(void *notifier)
{
    ENTER(ENTRY_CONTEXT);
    return leave(event_query(number(notifier)));
}
