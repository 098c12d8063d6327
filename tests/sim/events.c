/* events.c - events of the simulated devices. An event stands for what was in a
 * stream when it was last recorded, nothing before the first time: to wait for
 * that is no wait at all. May call streams.c, captures.c. */
#include <stdlib.h>

#include "stream.h"

void mark_drop_locked(struct mark *mark)
{
    if (mark && !--mark->refs)
        free(mark);
}

int event_create(struct context *context, bool timing, bool blocking, uint64_t *handle)
{
    struct event *event = calloc(1, sizeof *event);
    if (!event)
        return SIM_ENOMEM;
    *event = (struct event){.context = context, .timing = timing, .blocking = blocking};
    engine_lock();
    event->handle = *handle = object_add_locked(OBJECT_EVENT, event);
    engine.counts.events++;
    engine_unlock();
    return SIM_OK;
}

static void leave_locked(struct event *event)
{
    object_remove_locked(event->handle);
    mark_drop_locked(event->mark);
    free(event);
    engine.counts.events--;
}

static struct event *find_locked(uint64_t handle)
{
    struct event *event = object_find_locked(OBJECT_EVENT, handle);
    if (!event)
        misuse_locked("event %#llx is none, or no more", (unsigned long long)handle);
    return event;
}

int event_destroy(uint64_t handle)
{
    engine_lock();
    struct event *event = find_locked(handle);
    if (event)
        leave_locked(event);
    engine_unlock();
    return event ? SIM_OK : SIM_EHANDLE;
}

struct leaving {
    const struct context *context;
    unsigned n;
};

static void leave_if_of(void *object, void *arg)
{
    struct event *event = object;
    struct leaving *leaving = arg;
    if (event->context != leaving->context)
        return;
    leave_locked(event);
    leaving->n++;
}

unsigned events_leave_locked(const struct context *context)
{
    struct leaving leaving = {context, 0};
    object_each_locked(OBJECT_EVENT, leave_if_of, &leaving);
    return leaving.n;
}

static int record_locked(struct event *event, struct stream *stream)
{
    if (event->context != stream->context) {
        misuse_locked("an event is recorded in a stream of another context");
        return SIM_EHANDLE;
    }
    struct mark *mark = calloc(1, sizeof *mark);
    if (!mark)
        return SIM_ENOMEM;
    mark->refs = 2; /* the event's, and the work's */
    mark->stream = stream->handle;
    mark->nodes = stream->nodes;
    int r = stream_put_locked(stream, &(struct work){.kind = SIM_RECORD, .mark = mark});
    if (r) {
        mark_drop_locked(mark);
        return r;
    }
    mark_drop_locked(event->mark);
    event->mark = mark;
    event->capture = stream->capture;
    return SIM_OK;
}

int event_record(struct context *context, uint64_t handle, uint64_t stream_handle)
{
    struct stream *stream;
    engine_lock();
    struct event *event = find_locked(handle);
    int r = event ? stream_find_locked(context, stream_handle, &stream) : SIM_EHANDLE;
    if (!r)
        r = record_locked(event, stream);
    engine_unlock();
    return r;
}

static int reached_locked(const struct event *event)
{
    const struct device *device = event->context->device;
    if (event->capture)
        return SIM_ECAPTURED;
    if (device->failed)
        return device->failed;
    return !event->mark || event->mark->done ? SIM_OK : SIM_ENOTREADY;
}

int event_query(uint64_t handle)
{
    engine_lock();
    const struct event *event = find_locked(handle);
    int r = event ? reached_locked(event) : SIM_EHANDLE;
    engine_unlock();
    return r;
}

int event_wait(uint64_t handle)
{
    engine_lock();
    const struct event *event = find_locked(handle);
    int r = event ? reached_locked(event) : SIM_EHANDLE;
    if (r == SIM_ENOTREADY) {
        struct mark *mark = event->mark; /* a later record makes no difference */
        const struct device *device = event->context->device;
        mark->refs++;
        while (!mark->done && !engine_failed_locked(device))
            engine_wait_locked(UINT64_MAX);
        r = device->failed;
        mark_drop_locked(mark);
    }
    engine_unlock();
    return r;
}

static int follow_locked(struct stream *stream, struct event *event)
{
    if (event->capture)
        return capture_join_locked(stream, event);
    if (stream->capture) {
        stream->capture->invalid |= event->mark != NULL;
        return event->mark ? SIM_EISOLATION : SIM_OK;
    }
    if (!event->mark)
        return SIM_OK;
    event->mark->refs++;
    return stream_put_locked(stream, &(struct work){.kind = SIM_WAIT_EVENT, .mark = event->mark});
}

int event_follow(struct context *context, uint64_t stream_handle, uint64_t handle)
{
    struct stream *stream;
    engine_lock();
    struct event *event = find_locked(handle);
    int r = event ? stream_find_locked(context, stream_handle, &stream) : SIM_EHANDLE;
    if (!r)
        r = follow_locked(stream, event);
    engine_unlock();
    return r;
}

int event_elapsed(float *ms, uint64_t from_handle, uint64_t to_handle)
{
    engine_lock();
    const struct event *from = find_locked(from_handle), *to = find_locked(to_handle);
    int r = !from || !to || !from->timing || !to->timing || !from->mark || !to->mark ? SIM_EHANDLE
                                                                                     : SIM_OK;
    if (!r && (!from->mark->done || !to->mark->done))
        r = SIM_ENOTREADY;
    if (!r)
        *ms = (float)((double)(int64_t)(to->mark->at - from->mark->at) / 1e6);
    engine_unlock();
    return r;
}
