/* cuda_stream.c - the users' streams: what is before a point in one, and after it.
 *
 * A mark is an event without time. A stream is a handle of the primary context,
 * which is that of the CUDA runtime and the frameworks; NULL is the legacy default
 * stream. A stream that is being captured into a graph is refused: the graph would
 * run again and again, and nothing of ours with it. */
#include <stdio.h>
#include <unistd.h>

#include "cuda_unit.h"

/* ---- events -------------------------------------------------------------- */

cuda_result cuda_event_take(struct cuda_unit *u, cuda_event *event)
{
    *event = NULL;
    pthread_mutex_lock(&u->lock);
    if (u->spares)
        *event = u->spare[--u->spares];
    pthread_mutex_unlock(&u->lock);
    return *event ? CUDA_OK : cuda.event_create(event, CUDA_EVENT_WITHOUT_TIME);
}

/* Keeps it for the next; false: there are enough. */
static bool event_give(struct cuda_unit *u, cuda_event event)
{
    pthread_mutex_lock(&u->lock);
    bool kept = u->spares < CUDA_SPARE_EVENTS;
    if (kept)
        u->spare[u->spares++] = event;
    pthread_mutex_unlock(&u->lock);
    return kept;
}

void cuda_streams_close(struct cuda_unit *u)
{
    while (u->spares && u->pid == getpid()) {
        cuda_event event = u->spare[--u->spares];
        (void)CUDA_UNDO(cuda.event_destroy(event));
    }
}

void cuda_forget(void *unit, void *event)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    if (event_give(u, event) || cuda_enter_again(u->context, &scope))
        return;
    (void)CUDA_UNDO(cuda.event_destroy(event));
    cuda_leave(&scope);
}

/* ---- streams ------------------------------------------------------------- */

cuda_result cuda_stream_check(cuda_stream stream)
{
    cuda_capture capture = CUDA_NOT_CAPTURED;
    cuda_result r;
    if (!cuda.stream_capturing) { /* a driver that old captures nothing */
        r = cuda.stream_query(stream);
        return r == CUDA_NOT_READY ? CUDA_OK : r;
    }
    r = cuda.stream_capturing(stream, &capture);
    return r ? r : capture == CUDA_NOT_CAPTURED ? CUDA_OK : CUDA_CAPTURE_FIRST;
}

int cuda_stream_fail(const struct cuda_unit *u, cuda_result r, const char *what)
{
    if (cuda_error(r) == -TERRACE_EBUSY)
        return u->host->fail(u->host->context, -TERRACE_EBUSY, "cuda:%d: the stream is being captured into a "
                             "graph; acquire before the capture begins, and release after it has ended (the "
                             "graph may be run while tensors with TERRACE_ATTR_UNMOVABLE stay on the device)",
                             u->index);
    return cuda_fail(u, r, "%s a stream, which has to be one of the device's primary context", what);
}

/* Marks the end of our own copies to the device. Two streams have them: the one
 * waits for the other. */
static cuda_result mark_copies(struct cuda_unit *u, cuda_event mark)
{
    cuda_result r = cuda.event_record(mark, u->queue[1].stream);
    if (r == CUDA_OK)
        r = cuda.stream_wait(u->queue[0].stream, mark, 0);
    return r ? r : cuda.event_record(mark, u->queue[0].stream);
}

int cuda_record(void *unit, void *stream, void **event)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    cuda_event mark = NULL;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return cuda_stream_fail(u, r, "looking at");
    bool copies = stream == TERRACE_STREAM_COPIES;
    r = copies ? CUDA_OK : cuda_stream_check(stream);
    if (r == CUDA_OK)
        r = cuda_event_take(u, &mark);
    if (r == CUDA_OK)
        r = copies ? mark_copies(u, mark) : cuda.event_record(mark, stream);
    cuda_leave(&scope);
    if (r && mark)
        cuda_forget(u, mark);
    if (r)
        return cuda_stream_fail(u, r, "marking the end of");
    *event = mark;
    return 0;
}

int cuda_passed(void *unit, void *event)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        r = cuda.event_query(event);
        cuda_leave(&scope);
    }
    return r == CUDA_OK ? 1 : r == CUDA_NOT_READY ? 0 : cuda_fail(u, r, "waiting for what is in a stream");
}

int cuda_follow(void *unit, void *stream, void *event)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        r = cuda_stream_check(stream);
        if (r == CUDA_OK && event)
            r = cuda.stream_wait(stream, event, 0);
        else if (r == CUDA_OK)
            cuda_gates_meet(u, stream);
        cuda_leave(&scope);
    }
    return r ? cuda_stream_fail(u, r, "adding to") : 0;
}
