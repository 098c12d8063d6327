/* runtime_stream.c - the users' streams of a vendor's runtime: what is before a point
 * in one, and after it.
 *
 * A mark is an event without time. A stream is a handle of the unit's device; NULL is
 * its default stream. A stream that is being captured into a graph is refused where
 * that can be told: the graph would run again and again, and nothing of ours with it.
 *
 * May call: runtime.h. */
#include <unistd.h>

#include "runtime.h"

/* ---- events -------------------------------------------------------------- */

static int event_take(struct runtime_unit *u, void **event)
{
    *event = NULL;
    pthread_mutex_lock(&u->lock);
    if (u->spares)
        *event = u->spare[--u->spares];
    pthread_mutex_unlock(&u->lock);
    int code = *event ? 0 : u->rt->call->event_create(u->rt, event);
    if (code)
        *event = NULL;
    return code;
}

/* Keeps it for the next; false: there are enough. */
static bool event_give(struct runtime_unit *u, void *event)
{
    pthread_mutex_lock(&u->lock);
    bool kept = u->spares < RUNTIME_SPARE_EVENTS;
    if (kept)
        u->spare[u->spares++] = event;
    pthread_mutex_unlock(&u->lock);
    return kept;
}

void runtime_streams_close(struct runtime_unit *u)
{
    while (u->spares && u->pid == getpid()) {
        void *event = u->spare[--u->spares];
        (void)RUNTIME_UNDO(u->rt->call->event_destroy(u->rt, event));
    }
}

void runtime_forget(void *unit, void *event)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    if (event_give(u, event) || runtime_enter_again(u, &scope))
        return;
    (void)RUNTIME_UNDO(u->rt->call->event_destroy(u->rt, event));
    runtime_leave(u, &scope);
}

/* ---- streams ------------------------------------------------------------- */

static int stream_fail(const struct runtime_unit *u, int code, const char *what)
{
    if (runtime_error(u, code) == -TERRACE_EBUSY)
        return u->host->fail(u->host->context, -TERRACE_EBUSY, "%s: the stream is being captured into a graph; acquire "
                             "before the capture begins, and release after it has ended (the graph may be run while "
                             "tensors with TERRACE_ATTR_UNMOVABLE stay on the device)", u->name);
    return runtime_fail(u, code, "%s a stream, which has to be one of the device", what);
}

int runtime_record(void *unit, void *stream, void **event)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    bool copies = stream == TERRACE_STREAM_COPIES;
    void *mark = NULL;
    int code = runtime_enter(u, &scope);
    if (code)
        return stream_fail(u, code, "looking at");
    if (!copies)
        code = u->rt->call->stream_check(u->rt, stream);
    if (code == 0)
        code = event_take(u, &mark);
    if (code == 0)
        code = u->rt->call->event_record(u->rt, mark, copies ? u->queue[RUNTIME_IN].stream : stream);
    runtime_leave(u, &scope);
    if (code && mark)
        runtime_forget(u, mark);
    if (code)
        return stream_fail(u, code, "marking the end of");
    *event = mark;
    return 0;
}

int runtime_passed(void *unit, void *event)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    bool passed = false;
    int code = runtime_enter(u, &scope);
    if (code == 0) {
        code = u->rt->call->event_query(u->rt, event, &passed);
        runtime_leave(u, &scope);
    }
    return code ? runtime_fail(u, code, "waiting for what is in a stream") : passed;
}

int runtime_follow(void *unit, void *stream, void *event)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    int code = runtime_enter(u, &scope);
    if (code == 0) {
        code = u->rt->call->stream_check(u->rt, stream);
        if (code == 0 && event)
            code = u->rt->call->stream_follow(u->rt, stream, event);
        runtime_leave(u, &scope);
    }
    return code ? stream_fail(u, code, "adding to") : 0;
}
