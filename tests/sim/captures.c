/* captures.c - streams of the simulated devices that are being captured: work put
 * into them is counted and not done, and what a capture cannot contain is refused
 * and ends it. A graph made so can only be counted and destroyed. */
#include <pthread.h>
#include <stdlib.h>

#include "stream.h"

struct graph {
    uint64_t handle;
    unsigned nodes;
};

static struct capture ended; /* whose events are of a capture that has ended */
static __thread int thread_mode = CAPTURE_GLOBAL;

int capture_begin(struct context *context, uint64_t handle, int mode)
{
    struct stream *stream;
    struct capture *capture = calloc(1, sizeof *capture);
    engine_lock();
    int r = capture ? stream_find_locked(context, handle, &stream) : SIM_ENOMEM;
    if (!r && !handle)
        r = SIM_ECAPTURING; /* a default stream cannot be */
    if (!r && stream->capture)
        r = SIM_ESTATE;
    if (!r) {
        *capture = (struct capture){.thread = (uint64_t)pthread_self(), .mode = mode,
                                    .origin = stream};
        stream->capture = capture;
    } else {
        free(capture);
    }
    engine_unlock();
    return r;
}

static void leave_capture(void *object, void *capture)
{
    struct stream *stream = object;
    if (stream->capture == capture)
        stream->capture = NULL;
}

static void forget_capture(void *object, void *capture)
{
    struct event *event = object;
    if (event->capture == capture)
        event->capture = &ended; /* until it is recorded again */
}

static void see_unjoined(void *object, void *arg)
{
    const struct stream *stream = object;
    struct capture *capture = arg;
    if (stream->capture == capture && stream != capture->origin && !stream->joined)
        capture->joined = false;
}

static void over_locked(struct capture *capture)
{
    object_each_locked(OBJECT_EVENT, forget_capture, capture);
    object_each_locked(OBJECT_STREAM, leave_capture, capture);
    free(capture);
}

void capture_leave_locked(struct stream *stream)
{
    if (stream->capture && stream->capture->origin == stream)
        over_locked(stream->capture);
}

static int end_locked(struct capture *capture, uint64_t *handle)
{
    capture->joined = true;
    object_each_locked(OBJECT_STREAM, see_unjoined, capture);
    int r = capture->invalid ? SIM_EINVALIDATED : capture->joined ? SIM_OK : SIM_EUNJOINED;
    struct graph *graph = r ? NULL : calloc(1, sizeof *graph);
    if (!r && !graph)
        r = SIM_ENOMEM;
    *handle = 0;
    if (graph) {
        graph->nodes = capture->nodes;
        graph->handle = *handle = object_add_locked(OBJECT_GRAPH, graph);
    }
    over_locked(capture);
    return r;
}

int capture_end(struct context *context, uint64_t handle, uint64_t *graph)
{
    struct stream *stream;
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    const struct capture *capture = r ? NULL : stream->capture;
    if (!r && (!capture || capture->origin != stream))
        r = capture ? SIM_EUNMATCHED : SIM_ESTATE;
    else if (!r && capture->mode != CAPTURE_RELAXED && capture->thread != (uint64_t)pthread_self())
        r = SIM_ETHREAD;
    else if (!r)
        r = end_locked(stream->capture, graph);
    engine_unlock();
    return r;
}

int capture_status(struct context *context, uint64_t handle, int *status)
{
    struct stream *stream;
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    if (!r && !handle)
        r = capture_refuse_default_locked(context);
    if (!r)
        *status = !stream->capture ? 0 : stream->capture->invalid ? 2 : 1;
    engine_unlock();
    return r;
}

int graph_destroy(uint64_t handle)
{
    engine_lock();
    struct graph *graph = object_find_locked(OBJECT_GRAPH, handle);
    if (graph) {
        object_remove_locked(handle);
        free(graph);
    }
    engine_unlock();
    return graph ? SIM_OK : SIM_EINVAL;
}

int graph_nodes(uint64_t handle, unsigned *nodes)
{
    engine_lock();
    const struct graph *graph = object_find_locked(OBJECT_GRAPH, handle);
    if (graph)
        *nodes = graph->nodes;
    engine_unlock();
    return graph ? SIM_OK : SIM_EINVAL;
}

int capture_refuse_locked(struct stream *stream)
{
    if (!stream->capture)
        return SIM_OK;
    int r = stream->capture->invalid ? SIM_EINVALIDATED : SIM_ECAPTURING;
    stream->capture->invalid = true;
    return r;
}

static void refuse(void *object, void *arg)
{
    const struct stream *stream = object;
    struct capture *capture = stream->capture;
    if (!capture || capture->mode == CAPTURE_RELAXED)
        return;
    bool own = capture->thread == (uint64_t)pthread_self();
    if (own || (thread_mode == CAPTURE_GLOBAL && capture->mode == CAPTURE_GLOBAL))
        capture->invalid = *(bool *)arg = true;
}

int capture_refuse_unsafe_locked(void)
{
    bool refused = false;
    if (thread_mode != CAPTURE_RELAXED)
        object_each_locked(OBJECT_STREAM, refuse, &refused);
    return refused ? SIM_ECAPTURING : SIM_OK;
}

int capture_exchange(int mode)
{
    int before = thread_mode;
    thread_mode = mode;
    return before;
}

struct seen {
    const struct context *context;
    bool capturing;
};

static void see_capture(void *object, void *arg)
{
    struct stream *stream = object;
    struct seen *seen = arg;
    if (!stream->capture || !stream->blocking || stream->context != seen->context)
        return;
    stream->capture->invalid = true;
    seen->capturing = true;
}

int capture_refuse_default_locked(const struct context *context)
{
    struct seen seen = {context, false};
    object_each_locked(OBJECT_STREAM, see_capture, &seen);
    return seen.capturing ? SIM_EIMPLICIT : SIM_OK;
}

/* What a captured event stands for is all that its stream has put in: so that
 * stream need not be waited for any more. */
int capture_join_locked(struct stream *stream, const struct event *event)
{
    struct stream *recorded = object_find_locked(OBJECT_STREAM, event->mark->stream);
    if (event->capture == &ended || (stream->capture && stream->capture != event->capture))
        return SIM_EMERGE;
    if (recorded && recorded != stream && recorded->nodes == event->mark->nodes)
        recorded->joined = true;
    if (!stream->capture)
        stream->nodes = 0;
    stream->capture = event->capture;
    stream->joined = false;
    return SIM_OK;
}

int capture_put_locked(struct stream *stream, const struct work *work)
{
    struct capture *capture = stream->capture;
    if (capture->invalid)
        return SIM_EINVALIDATED;
    capture->nodes += work->kind != SIM_RECORD && work->kind != SIM_WAIT_EVENT;
    stream->nodes += work->kind != SIM_RECORD;
    stream->joined = stream->joined && work->kind == SIM_RECORD;
    return SIM_OK;
}
