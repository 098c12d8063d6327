/* opencl_stream.c - OpenCL's command queues as streams: marks in them, and waits.
 *
 * A mark is the event of a marker, which ends after all that was put into its queue
 * before, whether that works in order or not; a wait is a barrier. Queues are flushed
 * behind a mark, so that it comes to pass without the program doing anything more.
 *
 * The program's queues must be of the context that the tier's memory belongs to,
 * which it learns from any cl_mem it was given.
 *
 * May call: opencl_unit.h. */
#include "opencl_unit.h"

/* The queue behind a stream; NULL: none of this unit. */
static opencl_queue queue_of(const struct opencl_unit *u, void *stream, int *error)
{
    opencl_queue queue = stream;
    opencl_context context = NULL;
    opencl_device device = NULL;
    *error = 0;
    if (!stream)
        return u->queue;
    if (stream == TERRACE_STREAM_COPIES)
        return u->into;
    opencl_int r = opencl.queue_info(queue, OPENCL_QUEUE_CONTEXT, sizeof context, &context, NULL);
    if (r == 0)
        r = opencl.queue_info(queue, OPENCL_QUEUE_DEVICE, sizeof device, &device, NULL);
    if (r)
        *error = opencl_fail(u, r, "the stream is no command queue");
    else if (context != u->context || device != u->device)
        *error = u->host->fail(u->host->context, -TERRACE_EINVAL, "%s: the stream is a command queue of another %s; "
                               "create it with what clGetMemObjectInfo(CL_MEM_CONTEXT) says of a cl_mem that "
                               "terrace_acquire() gave", u->name, context == u->context ? "device" : "context");
    return *error ? NULL : queue;
}

int opencl_record(void *unit, void *stream, void **event)
{
    const struct opencl_unit *u = unit;
    opencl_event mark = NULL;
    int error;
    opencl_queue queue = queue_of(u, stream, &error);
    if (!queue)
        return error;
    opencl_int r = opencl.marker(queue, 0, NULL, &mark);
    if (r)
        return opencl_fail(u, r, "marking a command queue");
    r = opencl.flush(queue);
    if (r) {
        (void)opencl.event_release(mark);
        return opencl_fail(u, r, "flushing a command queue");
    }
    *event = mark;
    return 0;
}

/* To know the status is not yet to have waited, on which OpenCL has other queues see
 * what was done; where all is done, that returns at once. */
int opencl_passed(void *unit, void *event)
{
    const struct opencl_unit *u = unit;
    opencl_event mark = event;
    opencl_int status = 0;
    opencl_int r = opencl.event_info(mark, OPENCL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
    if (r == 0 && status > 0)
        return 0;
    if (r == 0)
        r = status < 0 ? status : opencl.event_wait(1, &mark);
    return r == 0 ? 1 : opencl_fail(u, r, "work in a command queue");
}

int opencl_follow(void *unit, void *stream, void *event)
{
    const struct opencl_unit *u = unit;
    opencl_event mark = event;
    int error;
    opencl_queue queue = queue_of(u, stream, &error);
    if (!queue || !event)
        return error;
    opencl_int r = opencl.barrier(queue, 1, &mark, NULL);
    return r ? opencl_fail(u, r, "having a command queue wait") : 0;
}

void opencl_forget(void *unit, void *event)
{
    (void)unit;
    (void)opencl.event_release(event);
}
