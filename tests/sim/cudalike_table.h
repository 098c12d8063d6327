/* cudalike_table.h - a simulated runtime in the shape of CUDA's runtime library, over
 * the engine. A vendor's file defines, as its sources have them, and then includes this:
 *
 *   F(name)              a function's name, from that without the prefix
 *   what runtime_table.h wants to know
 *   HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE, EITHER    kinds of copies
 *   NON_BLOCKING, BLOCKING_SYNC, WITHOUT_TIMING, PORTABLE, MAPPED    flags
 *   MODEL                a device's name, with %d for its number
 *   PROPERTIES           bytes of the structure that begins with it
 *   CAPTURES             defined where streams can be captured
 *
 * A failure stays the thread's last error until that is asked for. */
#include "runtime_table.h"

/* ---- errors ---------------------------------------------------------------------- */

SIM_EXPORT int F(GetLastError)(void);
int F(GetLastError)(void)
{
    int code = last_error;
    last_error = 0;
    return code;
}

SIM_EXPORT int F(PeekAtLastError)(void);
int F(PeekAtLastError)(void)
{
    return last_error;
}

SIM_EXPORT const char *F(GetErrorName)(int error);
const char *F(GetErrorName)(int error)
{
#define NAME(name, number) \
    if (error == (number)) \
        return #name;
    ERRORS(NAME)
#undef NAME
    return "an error that is not simulated";
}

SIM_EXPORT const char *F(GetErrorString)(int error);
const char *F(GetErrorString)(int error)
{
    return error == NO_MEMORY ? "simulated: out of memory" : F(GetErrorName)(error);
}

/* ---- devices --------------------------------------------------------------------- */

SIM_EXPORT int F(GetDeviceCount)(int *count);
int F(GetDeviceCount)(int *count)
{
    if (count)
        *count = 0;
    ENTER(0);
    if (!count)
        return MISUSED("no place for the count");
    *count = devices_count();
    return chosen(SIM_OK);
}

SIM_EXPORT int F(SetDevice)(int device);
int F(SetDevice)(int device)
{
    ENTER(0);
    return chosen(use_device(device));
}

SIM_EXPORT int F(GetDevice)(int *device);
int F(GetDevice)(int *device)
{
    ENTER(0);
    if (!device)
        return MISUSED("no place for the device");
    *device = context_current()->device->id;
    return chosen(SIM_OK);
}

SIM_EXPORT int F(GetDeviceProperties)(void *properties, int device);
int F(GetDeviceProperties)(void *properties, int device)
{
    ENTER(0);
    struct device *found;
    int r = properties ? devices_get(device, &found) : SIM_EINVAL;
    if (!r) {
        memset(properties, 0xee, PROPERTIES);
        snprintf(properties, 256, MODEL, device);
    }
    return leave(r);
}

SIM_EXPORT int F(DeviceGetPCIBusId)(char *id, int bytes, int device);
int F(DeviceGetPCIBusId)(char *id, int bytes, int device)
{
    ENTER(0);
    struct device *found;
    int r = id && bytes > 12 ? devices_get(device, &found) : SIM_EINVAL;
    if (!r)
        snprintf(id, (size_t)bytes, "0000:%02X:00.0", 0x60 + device);
    return leave(r);
}

/* ---- memory ---------------------------------------------------------------------- */

SIM_EXPORT int F(MemGetInfo)(size_t *available, size_t *total);
int F(MemGetInfo)(size_t *available, size_t *total)
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

SIM_EXPORT int F(Malloc)(void **p, size_t bytes);
int F(Malloc)(void **p, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return p && bytes ? allocate(p, bytes) : MISUSED("no bytes, or no place for the pointer");
}

SIM_EXPORT int F(Free)(void *p);
int F(Free)(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP | ENTRY_UNSAFE);
    return leave(p ? memory_free(number(p)) : SIM_OK);
}

SIM_EXPORT int F(HostRegister)(void *p, size_t bytes, unsigned flags);
int F(HostRegister)(void *p, size_t bytes, unsigned flags)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    if (flags & ~(unsigned)(PORTABLE | MAPPED))
        return MISUSED("an unknown flag");
    if (!(flags & PORTABLE))
        return MISUSED("memory that only one device knows");
    return leave(sim_get("HOST_REGISTER") ? host_register(context_current(), p, bytes) : SIM_ENOTSUP);
}

SIM_EXPORT int F(HostUnregister)(void *p);
int F(HostUnregister)(void *p)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP | ENTRY_UNSAFE);
    return leave(host_unregister(context_current(), p));
}

SIM_EXPORT int F(MemcpyAsync)(void *to, const void *from, size_t bytes, int kind, void *stream);
int F(MemcpyAsync)(void *to, const void *from, size_t bytes, int kind, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    struct copy copy = {.to = number(to), .from = number(from), .bytes = bytes};
    switch (kind) {
    case HOST_TO_DEVICE: copy.to_side = SIDE_DEVICE, copy.from_side = SIDE_HOST; break;
    case DEVICE_TO_HOST: copy.to_side = SIDE_HOST, copy.from_side = SIDE_DEVICE; break;
    case DEVICE_TO_DEVICE: copy.to_side = SIDE_DEVICE, copy.from_side = SIDE_DEVICE; break;
    case EITHER: copy.to_side = SIDE_ANY, copy.from_side = SIDE_ANY; break;
    default: return MISUSED("a kind of copy that there is not");
    }
    return leave(copy_put(context_current(), number(stream), &copy));
}

SIM_EXPORT int F(MemsetAsync)(void *p, int value, size_t bytes, void *stream);
int F(MemsetAsync)(void *p, int value, size_t bytes, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    return leave(fill_put(context_current(), number(stream), number(p), (unsigned char)value, 1, bytes, false));
}

/* ---- between devices ------------------------------------------------------------- */

SIM_EXPORT int F(DeviceCanAccessPeer)(int *can, int device, int other);
int F(DeviceCanAccessPeer)(int *can, int device, int other)
{
    ENTER(0);
    bool does = false;
    int r = can ? can_reach(device, other, &does) : SIM_EINVAL;
    if (!r)
        *can = does;
    return leave(r);
}

SIM_EXPORT int F(DeviceEnablePeerAccess)(int other, unsigned flags);
int F(DeviceEnablePeerAccess)(int other, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    return flags ? MISUSED("flags") : leave(reach(other));
}

SIM_EXPORT int F(MemcpyPeerAsync)(void *to, int device, const void *from, int other, size_t bytes, void *stream);
int F(MemcpyPeerAsync)(void *to, int device, const void *from, int other, size_t bytes, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    struct copy copy = {.to = number(to), .from = number(from), .bytes = bytes, .to_side = SIDE_DEVICE,
                        .from_side = SIDE_DEVICE};
    if (!is_reached(to, device) || !is_reached(from, other))
        return MISUSED("an address is not of that device, or goes through the host as access was not enabled");
    return leave(copy_put(context_current(), number(stream), &copy));
}

/* ---- streams --------------------------------------------------------------------- */

SIM_EXPORT int F(StreamCreateWithFlags)(void **stream, unsigned flags);
int F(StreamCreateWithFlags)(void **stream, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!stream || (flags & ~(unsigned)NON_BLOCKING))
        return MISUSED("an unknown flag, or no place for the stream");
    int r = stream_create(context_current(), !(flags & NON_BLOCKING), 0, &made);
    if (!r)
        *stream = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int F(StreamDestroy)(void *stream);
int F(StreamDestroy)(void *stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(stream_destroy(number(stream)));
}

SIM_EXPORT int F(StreamQuery)(void *stream);
int F(StreamQuery)(void *stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return leave(stream_query(context_current(), number(stream)));
}

SIM_EXPORT int F(StreamSynchronize)(void *stream);
int F(StreamSynchronize)(void *stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return leave(stream_wait(context_current(), number(stream)));
}

SIM_EXPORT int F(StreamWaitEvent)(void *stream, void *event, unsigned flags);
int F(StreamWaitEvent)(void *stream, void *event, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    if (flags)
        return MISUSED("flags");
    return leave(event_follow(context_current(), number(stream), number(event)));
}

/* ---- events ---------------------------------------------------------------------- */

SIM_EXPORT int F(EventCreateWithFlags)(void **event, unsigned flags);
int F(EventCreateWithFlags)(void **event, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    if (!event || (flags & ~(unsigned)(BLOCKING_SYNC | WITHOUT_TIMING)))
        return MISUSED("an unknown flag, or no place for the event");
    if (!(flags & WITHOUT_TIMING))
        return MISUSED("an event that takes times nobody asks for");
    int r = event_create(context_current(), false, flags & BLOCKING_SYNC, &made);
    if (!r)
        *event = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int F(EventDestroy)(void *event);
int F(EventDestroy)(void *event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return leave(event_destroy(number(event)));
}

SIM_EXPORT int F(EventRecord)(void *event, void *stream);
int F(EventRecord)(void *event, void *stream)
{
    ENTER(ENTRY_CONTEXT);
    return leave(event_record(context_current(), number(event), number(stream)));
}

SIM_EXPORT int F(EventQuery)(void *event);
int F(EventQuery)(void *event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return leave(event_query(number(event)));
}

/* ---- captures -------------------------------------------------------------------- */

#ifdef CAPTURES
SIM_EXPORT int F(StreamIsCapturing)(void *stream, int *status);
int F(StreamIsCapturing)(void *stream, int *status)
{
    ENTER(ENTRY_CONTEXT);
    int is;
    if (!status)
        return MISUSED("no place for the status");
    int r = capture_status(context_current(), number(stream), &is);
    if (!r)
        *status = is;
    return leave(r);
}

static const int modes[] = {CAPTURE_GLOBAL, CAPTURE_THREAD, CAPTURE_RELAXED};

SIM_EXPORT int F(ThreadExchangeStreamCaptureMode)(int *mode);
int F(ThreadExchangeStreamCaptureMode)(int *mode)
{
    ENTER(0);
    if (!mode || *mode < 0 || *mode > 2)
        return MISUSED("an unknown mode, or none");
    int before = capture_exchange(modes[*mode]);
    for (int i = 0; i <= 2; i++)
        if (modes[i] == before)
            *mode = i;
    return leave(SIM_OK);
}

SIM_EXPORT int F(StreamBeginCapture)(void *stream, int mode);
int F(StreamBeginCapture)(void *stream, int mode)
{
    ENTER(ENTRY_CONTEXT);
    if (mode < 0 || mode > 2)
        return MISUSED("an unknown mode");
    return leave(capture_begin(context_current(), number(stream), modes[mode]));
}

SIM_EXPORT int F(StreamEndCapture)(void *stream, void **graph);
int F(StreamEndCapture)(void *stream, void **graph)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made = 0;
    if (!graph)
        return MISUSED("no place for the graph");
    int r = capture_end(context_current(), number(stream), &made);
    *graph = (void *)(uintptr_t)made;
    return leave(r);
}

SIM_EXPORT int F(GraphDestroy)(void *graph);
int F(GraphDestroy)(void *graph)
{
    ENTER(0);
    return leave(graph_destroy(number(graph)));
}
#endif
