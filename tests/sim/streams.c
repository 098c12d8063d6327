/* streams.c - streams of the simulated devices, each with a queue and its thread,
 * or several with one, as hardware has it. A piece of work that waits holds up
 * all that is behind it in its queue. May call work.c, captures.c. */
#include "stream.h"

#include <stdlib.h>

enum { MAX_QUEUES = 64 };

static struct queue *shared[MAX_DEVICES][MAX_QUEUES];
static unsigned next_queue[MAX_DEVICES];
static struct queue *queues; /* all */

/* ---- queues --------------------------------------------------------------------- */

static bool before_is_done(const struct work *work)
{
    for (unsigned i = 0; i < work->n_before; i++)
        if (work->before[i].stream->done < work->before[i].done)
            return false;
    return true;
}

static void run_locked(struct work *work)
{
    const struct device *device = work->stream->context->device;
    work->waiting = "work in another stream";
    while (!before_is_done(work))
        engine_wait_locked(UINT64_MAX);
    work->waiting = "being let go";
    while ((engine.held & 1u << work->kind) && !device->failed)
        engine_wait_locked(UINT64_MAX);
    work->waiting = "its end";
    work_do_locked(work);
}

static void finish_locked(struct queue *queue, struct work *work)
{
    struct stream *stream = work->stream;
    queue->running = NULL;
    stream->done++;
    engine.pending--;
    stream->context->device->pending--;
    work_clear_locked(work);
    for (unsigned i = 0; i < work->n_before; i++)
        stream_drop_locked(work->before[i].stream);
    free(work->before);
    free(work);
    stream_drop_locked(stream);
    engine_moved_locked();
}

static void *serve(void *arg)
{
    struct queue *queue = arg;
    engine_lock();
    while (queue->first || queue->streams || queue->shared) {
        if (!queue->first) {
            pthread_cond_wait(&queue->more, &engine.lock);
            continue;
        }
        struct work *work = queue->running = queue->first;
        if (!(queue->first = work->next))
            queue->last = &queue->first;
        run_locked(work);
        finish_locked(queue, work);
    }
    struct queue **at = &queues;
    while (*at != queue)
        at = &(*at)->next;
    *at = queue->next;
    engine_unlock();
    pthread_cond_destroy(&queue->more);
    free(queue);
    return NULL;
}

static struct queue *queue_new(bool is_shared)
{
    pthread_t thread;
    struct queue *queue = calloc(1, sizeof *queue);
    if (!queue)
        return NULL;
    pthread_cond_init(&queue->more, NULL);
    queue->last = &queue->first;
    queue->shared = is_shared;
    queue->streams = 1;
    if (pthread_create(&thread, NULL, serve, queue)) {
        free(queue);
        return NULL;
    }
    pthread_detach(thread);
    queue->next = queues;
    return queues = queue;
}

static struct queue *queue_get_locked(int device)
{
    unsigned n = engine.settings.queues > MAX_QUEUES ? MAX_QUEUES : (unsigned)engine.settings.queues;
    if (!n)
        return queue_new(false);
    struct queue **at = &shared[device][next_queue[device]++ % n];
    if (!*at)
        return *at = queue_new(true);
    (*at)->streams++;
    return *at;
}

const char *stream_stuck_locked(void)
{
    static char text[512];
    size_t n = 0;
    text[0] = 0;
    for (const struct queue *queue = queues; queue && n < sizeof text; queue = queue->next)
        if (queue->running)
            n += (size_t)snprintf(text + n, sizeof text - n, "%sstream %#llx waits for %s", n ? ", " : "",
                                  (unsigned long long)queue->running->stream->handle,
                                  queue->running->waiting);
    return text;
}

/* ---- streams ------------------------------------------------------------------------ */

static struct stream *stream_new_locked(struct context *context, bool blocking, int priority)
{
    struct stream *stream = calloc(1, sizeof *stream);
    struct queue *queue = stream ? queue_get_locked(context->device->id) : NULL;
    if (!queue) {
        free(stream);
        return NULL;
    }
    *stream = (struct stream){.refs = 1, .context = context, .blocking = blocking,
                              .priority = priority, .queue = queue};
    return stream;
}

void stream_drop_locked(struct stream *stream)
{
    if (--stream->refs)
        return;
    stream->queue->streams--;
    pthread_cond_signal(&stream->queue->more);
    free(stream);
}

int stream_create(struct context *context, bool blocking, int priority, uint64_t *handle)
{
    engine_lock();
    struct stream *stream = stream_new_locked(context, blocking, priority);
    if (stream) {
        *handle = stream->handle = object_add_locked(OBJECT_STREAM, stream);
        engine.counts.streams++;
    }
    engine_unlock();
    return stream ? SIM_OK : SIM_ENOMEM;
}

static void leave_locked(struct stream *stream)
{
    capture_leave_locked(stream);
    object_remove_locked(stream->handle);
    stream->destroyed = true;
    engine.counts.streams--;
    stream_drop_locked(stream);
}

int stream_destroy(uint64_t handle)
{
    engine_lock();
    struct stream *stream = object_find_locked(OBJECT_STREAM, handle);
    if (stream)
        leave_locked(stream);
    else
        misuse_locked("destroying stream %#llx, which is none, or no more", (unsigned long long)handle);
    engine_unlock();
    return stream ? SIM_OK : SIM_EHANDLE;
}

struct leaving {
    const struct context *context;
    unsigned n;
};

static void leave_if_of(void *object, void *arg)
{
    struct stream *stream = object;
    struct leaving *leaving = arg;
    if (stream->context != leaving->context)
        return;
    leave_locked(stream);
    leaving->n++;
}

unsigned streams_leave_locked(const struct context *context)
{
    struct leaving leaving = {context, 0};
    object_each_locked(OBJECT_STREAM, leave_if_of, &leaving);
    return leaving.n;
}

int stream_find_locked(struct context *context, uint64_t handle, struct stream **out)
{
    if (handle) {
        *out = object_find_locked(OBJECT_STREAM, handle);
        if (!*out)
            misuse_locked("stream %#llx is none, or no more", (unsigned long long)handle);
        return *out ? SIM_OK : SIM_EHANDLE;
    }
    if (!context->null)
        context->null = stream_new_locked(context, true, 0);
    *out = context->null;
    return *out ? SIM_OK : SIM_ENOMEM;
}

/* ---- putting work in ------------------------------------------------------------------- */

struct others {
    struct stream *stream;
    struct before *list;
    unsigned n, room;
    bool failed;
};

static void add_before(struct others *others, struct stream *stream)
{
    if (stream->done == stream->asked || others->failed)
        return;
    if (others->n == others->room) {
        unsigned room = others->room ? others->room * 2 : 4;
        struct before *list = realloc(others->list, room * sizeof *list);
        others->failed = !list;
        if (!list)
            return;
        others->list = list;
        others->room = room;
    }
    others->list[others->n++] = (struct before){stream, stream->asked};
    stream->refs++;
}

static void add_if_blocking(void *object, void *arg)
{
    struct others *others = arg;
    struct stream *stream = object;
    if (stream->blocking && stream->context == others->stream->context)
        add_before(others, stream);
}

/* The default stream waits for all blocking ones, and they for it. */
static struct others others_locked(struct stream *stream)
{
    struct others others = {.stream = stream};
    if (!stream->handle)
        object_each_locked(OBJECT_STREAM, add_if_blocking, &others);
    else if (stream->blocking && stream->context->null)
        add_before(&others, stream->context->null);
    return others;
}

static void append_locked(struct stream *stream, struct work *work, struct others *others)
{
    work->next = NULL;
    work->stream = stream;
    work->before = others->list;
    work->n_before = others->n;
    stream->refs++;
    stream->asked++;
    engine.pending++;
    stream->context->device->pending++;
    *stream->queue->last = work;
    stream->queue->last = &work->next;
    pthread_cond_signal(&stream->queue->more);
}

int stream_put_locked(struct stream *stream, const struct work *work)
{
    struct work *copy = malloc(sizeof *copy);
    struct others others = {0};
    int r = !copy ? SIM_ENOMEM : stream->handle ? SIM_OK : capture_refuse_default_locked(stream->context);
    if (!r && !stream->capture) {
        others = others_locked(stream);
        r = others.failed ? SIM_ENOMEM : SIM_OK;
    }
    if (copy)
        *copy = *work;
    if (!r && !stream->capture) {
        append_locked(stream, copy, &others);
        return SIM_OK;
    }
    for (unsigned i = 0; i < others.n; i++)
        stream_drop_locked(others.list[i].stream);
    free(others.list);
    if (copy)
        work_clear_locked(copy);
    free(copy);
    return r ? r : capture_put_locked(stream, work);
}

/* ---- waiting ------------------------------------------------------------------------------ */

/* Waits until so much of the stream's work is done. */
static int reached_locked(struct stream *stream, uint64_t done)
{
    const struct device *device = stream->context->device;
    stream->refs++;
    while (stream->done < done && !engine_failed_locked(device))
        engine_wait_locked(UINT64_MAX);
    int r = device->failed;
    stream_drop_locked(stream);
    return r;
}

int stream_do_locked(struct stream *stream, const struct work *work)
{
    int r = stream_put_locked(stream, work);
    return r ? r : reached_locked(stream, stream->asked);
}

struct idle {
    const struct context *context;
    bool idle;
};

static void see_whether_idle(void *object, void *arg)
{
    const struct stream *stream = object;
    struct idle *idle = arg;
    if (stream->context == idle->context && stream->blocking)
        idle->idle = idle->idle && stream->done == stream->asked;
}

/* The default stream is as far as all that are ordered with it. */
static bool default_idle_locked(const struct context *context)
{
    const struct stream *null = context->null;
    struct idle idle = {context, null->done == null->asked};
    object_each_locked(OBJECT_STREAM, see_whether_idle, &idle);
    return idle.idle;
}

int stream_query(struct context *context, uint64_t handle)
{
    struct stream *stream;
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    if (!r)
        r = capture_refuse_locked(stream);
    if (!r && !handle)
        r = capture_refuse_default_locked(context);
    if (!r && !(handle ? stream->done == stream->asked : default_idle_locked(context)))
        r = SIM_ENOTREADY;
    engine_unlock();
    return r;
}

int stream_wait(struct context *context, uint64_t handle)
{
    static const struct work barrier = {.kind = SIM_BARRIER};
    struct stream *stream;
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    if (!r)
        r = capture_refuse_locked(stream);
    if (!r)
        r = handle ? reached_locked(stream, stream->asked) : stream_do_locked(stream, &barrier);
    engine_unlock();
    return r;
}

int stream_drain_locked(struct context *context)
{
    const struct device *device = context->device;
    while (device->pending && !engine_failed_locked(device))
        engine_wait_locked(UINT64_MAX);
    return device->failed;
}

int stream_wait_all(struct context *context)
{
    engine_lock();
    int r = capture_refuse_unsafe_locked();
    if (!r)
        r = stream_drain_locked(context);
    engine_unlock();
    return r;
}

void stream_settle_locked(struct context *context, int64_t bit)
{
    for (int i = 0; (engine.settings.sync & bit) && i < MAX_DEVICES; i++)
        if (!context || context->device->id == i)
            stream_drain_locked(&engine.devices[i].context);
}
