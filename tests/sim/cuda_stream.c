/* cuda_stream.c - the simulated CUDA driver: streams, events, captures. */
#include <stdlib.h>

#include "cuda_table.h"

static uint64_t number(const void *handle)
{
    return (uintptr_t)handle;
}

static void *handle_of(uint64_t number)
{
    return (void *)(uintptr_t)number;
}

/* ---- streams -------------------------------------------------------------------------- */

uint64_t cuda_stream(CUstream stream)
{
    return stream == CU_STREAM_LEGACY       ? 0
           : stream == CU_STREAM_PER_THREAD ? stream_of_thread(context_current())
                                            : number(stream);
}

static int create(CUstream *stream, unsigned flags, int priority)
{
    uint64_t made;
    int r = stream_create(context_current(), !(flags & CU_STREAM_NON_BLOCKING), priority, &made);
    if (!r)
        *stream = handle_of(made);
    return entry_leave(r);
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    if (!stream || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING))
        return MISUSED("an unknown flag, or no place for the stream");
    return create(stream, flags, 0);
}

CUresult cuStreamCreateWithPriority(CUstream *stream, unsigned flags, int priority)
{
    ENTER(ENTRY_CONTEXT);
    if (!stream || (flags & ~(unsigned)CU_STREAM_NON_BLOCKING))
        return MISUSED("an unknown flag, or no place for the stream");
    return create(stream, flags, priority < -5 ? -5 : priority > 0 ? 0 : priority);
}

/* What a call wants to know of a stream. */
static int look(CUstream handle, int *priority, unsigned *flags, CUcontext *context)
{
    struct stream *stream;
    engine_lock();
    int r = stream_find_locked(context_current(), cuda_stream(handle), &stream);
    if (!r && priority)
        *priority = stream->priority;
    if (!r && flags)
        *flags = stream->blocking ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING;
    if (!r && context)
        *context = context_handle(stream->context);
    engine_unlock();
    return entry_leave(r);
}

CUresult cuStreamGetPriority(CUstream stream, int *priority)
{
    ENTER(ENTRY_CONTEXT);
    return priority ? look(stream, priority, NULL, NULL) : MISUSED("no place for the priority");
}

CUresult cuStreamGetFlags(CUstream stream, unsigned *flags)
{
    ENTER(ENTRY_CONTEXT);
    return flags ? look(stream, NULL, flags, NULL) : MISUSED("no place for the flags");
}

CUresult cuStreamGetCtx(CUstream stream, CUcontext *context)
{
    ENTER(ENTRY_CONTEXT);
    return context ? look(stream, NULL, NULL, context) : MISUSED("no place for the context");
}

/* Handles are given once only, so they serve as numbers; the default stream has one, too. */
CUresult cuStreamGetId(CUstream stream, unsigned long long *id)
{
    ENTER(ENTRY_CONTEXT);
    struct stream *found;
    if (!id)
        return MISUSED("no place for the number");
    engine_lock();
    int r = stream_find_locked(context_current(), cuda_stream(stream), &found);
    if (!r)
        *id = found->handle ? found->handle : 1;
    engine_unlock();
    return entry_leave(r);
}

CUresult cuStreamDestroy_v2(CUstream stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return entry_leave(stream_destroy(number(stream)));
}

CUresult cuStreamQuery(CUstream stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return entry_leave(stream_query(context_current(), cuda_stream(stream)));
}

CUresult cuStreamSynchronize(CUstream stream)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return entry_leave(stream_wait(context_current(), cuda_stream(stream)));
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn fn, void *data)
{
    ENTER(ENTRY_CONTEXT);
    return entry_leave(call_put(context_current(), cuda_stream(stream), SIM_HOST_FUNCTION, fn, data, 0));
}

struct callback {
    CUstream stream;
    CUstreamCallback function;
    void *data;
};

static void call_back(void *arg)
{
    struct callback callback = *(struct callback *)arg;
    free(arg);
    callback.function(callback.stream, CUDA_SUCCESS, callback.data);
}

CUresult cuStreamAddCallback(CUstream stream, CUstreamCallback function, void *data, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    if (!function || flags)
        return MISUSED("no function, or flags");
    struct callback *callback = malloc(sizeof *callback);
    if (!callback)
        return entry_leave(SIM_ENOMEM);
    *callback = (struct callback){stream, function, data};
    int r = call_put(context_current(), cuda_stream(stream), SIM_HOST_FUNCTION, call_back, callback, 0);
    if (r)
        free(callback);
    return entry_leave(r);
}

/* ---- values in memory ----------------------------------------------------------------- */

static int wait_value(CUstream stream, CUdeviceptr address, uint64_t value, unsigned width, unsigned flags)
{
    static const int how[] = {WAIT_REACHED, WAIT_EQUAL, WAIT_AND, WAIT_NOR};
    if (flags & CU_STREAM_WAIT_VALUE_FLUSH)
        return entry_leave(SIM_ENOTSUP); /* as the attribute says */
    if (flags > CU_STREAM_WAIT_VALUE_NOR)
        return cuda_misused("cuStreamWaitValue", "an unknown flag");
    return entry_leave(value_put(context_current(), cuda_stream(stream), SIM_WAIT_VALUE, address, value,
                                 width, how[flags]));
}

static int write_value(CUstream stream, CUdeviceptr address, uint64_t value, unsigned width, unsigned flags)
{
    if (flags & ~(unsigned)CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER)
        return cuda_misused("cuStreamWriteValue", "an unknown flag");
    return entry_leave(value_put(context_current(), cuda_stream(stream), SIM_WRITE_VALUE, address, value,
                                 width, 0));
}

CUresult cuStreamWaitValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    return wait_value(stream, address, value, 4, flags);
}

CUresult cuStreamWaitValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    return wait_value(stream, address, value, 8, flags);
}

CUresult cuStreamWriteValue32_v2(CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    return write_value(stream, address, value, 4, flags);
}

CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    return write_value(stream, address, value, 8, flags);
}

/* ---- events ------------------------------------------------------------------------------ */

CUresult cuEventCreate(CUevent *event, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made;
    unsigned known = CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING;
    if (!event || (flags & ~known))
        return MISUSED("an unknown flag, or no place for the event");
    int r = event_create(context_current(), !(flags & CU_EVENT_DISABLE_TIMING),
                         flags & CU_EVENT_BLOCKING_SYNC, &made);
    if (!r)
        *event = handle_of(made);
    return entry_leave(r);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_CLEANUP);
    return entry_leave(event_destroy(number(event)));
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return entry_leave(event_record(context_current(), number(event), cuda_stream(stream)));
}

CUresult cuEventQuery(CUevent event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return entry_leave(event_query(number(event)));
}

CUresult cuEventSynchronize(CUevent event)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return entry_leave(event_wait(number(event)));
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
    ENTER(ENTRY_CONTEXT);
    if (flags)
        return MISUSED("flags outside of a capture");
    return entry_leave(event_follow(context_current(), cuda_stream(stream), number(event)));
}

CUresult cuEventElapsedTime_v2(float *ms, CUevent from, CUevent to)
{
    ENTER(ENTRY_CONTEXT);
    return ms ? entry_leave(event_elapsed(ms, number(from), number(to))) : MISUSED("no place for the time");
}

CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
    ENTER(ENTRY_CONTEXT);
    return ms ? entry_leave(event_elapsed(ms, number(from), number(to))) : MISUSED("no place for the time");
}

/* ---- captures ------------------------------------------------------------------------------- */

static const int modes[] = {
    [CU_STREAM_CAPTURE_MODE_GLOBAL] = CAPTURE_GLOBAL,
    [CU_STREAM_CAPTURE_MODE_THREAD_LOCAL] = CAPTURE_THREAD,
    [CU_STREAM_CAPTURE_MODE_RELAXED] = CAPTURE_RELAXED,
};

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode)
{
    ENTER(0);
    if (!mode || *mode < 0 || *mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return MISUSED("an unknown mode, or none");
    int before = capture_exchange(modes[*mode]);
    for (int i = 0; i <= CU_STREAM_CAPTURE_MODE_RELAXED; i++)
        if (modes[i] == before)
            *mode = i;
    return entry_leave(SIM_OK);
}

CUresult cuStreamBeginCapture_v2(CUstream stream, CUstreamCaptureMode mode)
{
    ENTER(ENTRY_CONTEXT);
    if (mode < 0 || mode > CU_STREAM_CAPTURE_MODE_RELAXED)
        return MISUSED("an unknown mode");
    return entry_leave(capture_begin(context_current(), cuda_stream(stream), modes[mode]));
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t made = 0;
    if (!graph)
        return MISUSED("no place for the graph");
    int r = capture_end(context_current(), cuda_stream(stream), &made);
    *graph = handle_of(made);
    return entry_leave(r);
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus *status)
{
    ENTER(ENTRY_CONTEXT);
    static const int known[] = {CU_STREAM_CAPTURE_STATUS_NONE, CU_STREAM_CAPTURE_STATUS_ACTIVE,
                                CU_STREAM_CAPTURE_STATUS_INVALIDATED};
    int is;
    if (!status)
        return MISUSED("no place for the status");
    int r = capture_status(context_current(), cuda_stream(stream), &is);
    if (!r)
        *status = known[is];
    return entry_leave(r);
}

CUresult cuGraphDestroy(CUgraph graph)
{
    ENTER(0);
    return entry_leave(graph_destroy(number(graph)));
}
