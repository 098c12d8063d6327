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

static unsigned unsafe;       /* captures in global mode that go on */
static struct capture ended; /* whose events are of a capture that has ended */

int capture_begin(struct context *context, uint64_t handle, int mode)
{
    struct stream *stream;
    struct capture *capture = calloc(1, sizeof *capture);
    engine_lock();
    int r = capture ? stream_find_locked(context, handle, &stream) : SIM_ENOMEM;
    if (!r && !handle)
        r = SIM_ECAPTURING; /* a default stream cannot be */
    if (!r && (stream->capture || mode < CAPTURE_GLOBAL || mode > CAPTURE_RELAXED))
        r = SIM_EINVAL;
    if (!r) {
        *capture = (struct capture){.thread = (uint64_t)pthread_self(), .mode = mode,
                                    .origin = stream};
        stream->capture = capture;
        unsafe += mode == CAPTURE_GLOBAL;
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

static void over_locked(struct capture *capture)
{
    unsafe -= capture->mode == CAPTURE_GLOBAL;
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
    struct graph *graph = capture->invalid ? NULL : calloc(1, sizeof *graph);
    int r = capture->invalid ? SIM_EINVALIDATED : graph ? SIM_OK : SIM_ENOMEM;
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
        r = SIM_ENOTCAPTURING;
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

static void invalidate(void *object, void *arg)
{
    struct stream *stream = object;
    (void)arg;
    if (stream->capture && stream->capture->mode == CAPTURE_GLOBAL)
        stream->capture->invalid = true;
}

int capture_refuse_unsafe_locked(void)
{
    if (!unsafe)
        return SIM_OK;
    object_each_locked(OBJECT_STREAM, invalidate, NULL);
    return SIM_ECAPTURING;
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

bool capture_joined_locked(struct stream *stream, struct capture *capture)
{
    if (capture == &ended || (stream->capture && stream->capture != capture))
        return false;
    stream->capture = capture;
    return true;
}
