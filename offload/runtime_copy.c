/* runtime_copy.c - copies between a device and the host, by a vendor's runtime.
 *
 * Each direction has a stream of our own, so that both go on at once; copies from another
 * device are in the one to the device. The copies of a submit are a batch, with an event
 * behind it, or several, where they are more than a chunk, so that the first can be used
 * before the last is there. Who waits asks for the oldest event of each stream, at first
 * after some microseconds, then less and less often: a runtime whose callbacks could be
 * trusted in all dialects is not to be had.
 *
 * Memory that is not registered is copied, too, but slower, and submit may then wait
 * for it.
 *
 * May call: runtime.h, sleep.h, libc. */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "runtime.h"
#include "sleep.h"

enum { SOON = 10000, LATE = 1000000 /* ns */ };

/* What io->backend holds while a copy is in flight. */
struct __attribute__((may_alias)) op {
    terrace_io *next;
    uint64_t batch; /* number in its queue */
};
_Static_assert(sizeof(struct op) <= sizeof(((terrace_io *)0)->backend), "op fits");

static struct op *op_of(const terrace_io *io)
{
    return (struct op *)(uintptr_t)io->backend;
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- ends of batches ----------------------------------------------------- */

static void finish(struct runtime_unit *u, terrace_io *io, int result, int code)
{
    io->result = result;
    io->os_error = code;
    op_of(io)->next = NULL;
    *u->finished_end = io;
    u->finished_end = &op_of(io)->next;
    u->pause = SOON;
}

/* Hands on what is done of a queue: all of batches up to one. */
static void finish_until(struct runtime_unit *u, struct runtime_queue *q, uint64_t batch, int code)
{
    terrace_io *io;
    while ((io = q->head) != NULL && op_of(io)->batch <= batch) {
        q->head = op_of(io)->next;
        finish(u, io, runtime_error(u, code), code);
    }
}

/* Waits for all of a queue. An error is believed when it comes twice: memory must not
 * be given back while the device may write to it. */
static void drain(struct runtime_unit *u, struct runtime_queue *q)
{
    int code = u->rt->call->stream_synchronize(u->rt, q->stream);
    if (code)
        code = u->rt->call->stream_synchronize(u->rt, q->stream);
    finish_until(u, q, UINT64_MAX, code);
}

/* Asks a queue for its oldest batches, inside a visit. */
static void ask(struct runtime_unit *u, struct runtime_queue *q)
{
    bool passed = true;
    while (q->head && passed) {
        uint64_t batch = op_of(q->head)->batch;
        int code = u->rt->call->event_query(u->rt, q->end[batch % RUNTIME_IO_DEPTH], &passed);
        if (runtime_error(u, code) == -TERRACE_EBUSY)
            passed = false; /* a capture somewhere forbids the question */
        else if (code)
            drain(u, q);
        else if (passed)
            finish_until(u, q, batch, 0);
    }
}

/* Whether something is under way still. */
static bool gather(struct runtime_unit *u)
{
    struct runtime_scope scope;
    bool some = u->queue[RUNTIME_IN].head || u->queue[RUNTIME_OUT].head;
    if (!some)
        return false;
    int code = runtime_enter_again(u, &scope);
    for (struct runtime_queue *q = u->queue; q < u->queue + 2; q++)
        if (code)
            finish_until(u, q, UINT64_MAX, code);
        else
            ask(u, q);
    if (code == 0)
        runtime_leave(u, &scope);
    return u->queue[RUNTIME_IN].head || u->queue[RUNTIME_OUT].head;
}

/* ---- submitting ---------------------------------------------------------- */

/* Whether there is memory at both ends. */
static bool is_there(struct runtime_unit *u, const terrace_io *io)
{
    return runtime_memory_holds(u, io->address, io->bytes) &&
           (io->op != TERRACE_IO_PEER || runtime_memory_holds(io->peer, io->peer_address, io->bytes));
}

static int enqueue(struct runtime_unit *u, const terrace_io *io, void *stream)
{
    void *there = (void *)(uintptr_t)io->address;
    if (io->op == TERRACE_IO_PEER)
        return runtime_peer_copy(u, io, stream);
    if (io->op == TERRACE_IO_READ)
        return u->rt->call->copy(u->rt, io->host, there, io->bytes, RUNTIME_OUT, stream);
    return u->rt->call->copy(u->rt, there, io->host, io->bytes, RUNTIME_IN, stream);
}

static void batch_close(struct runtime_unit *u, struct runtime_queue *q)
{
    if (!q->bytes)
        return;
    if (u->rt->call->event_record(u->rt, q->end[q->batch % RUNTIME_IO_DEPTH], q->stream))
        drain(u, q);
    q->batch++;
    q->bytes = 0;
}

static void start(struct runtime_unit *u, terrace_io *io)
{
    struct runtime_queue *q = &u->queue[io->op == TERRACE_IO_READ ? RUNTIME_OUT : RUNTIME_IN];
    io->cpu_copied = 0;
    if (!is_there(u, io)) {
        finish(u, io, -TERRACE_EINVAL, 0);
        return;
    }
    int code = enqueue(u, io, q->stream);
    if (code) {
        finish(u, io, runtime_error(u, code), code);
        return;
    }
    *op_of(io) = (struct op){NULL, q->batch};
    if (q->head)
        op_of(q->tail)->next = io;
    else
        q->head = io;
    q->tail = io;
    q->bytes += io->bytes;
    if (q->bytes >= RUNTIME_IO_CHUNK)
        batch_close(u, q);
}

int runtime_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    unsigned room = RUNTIME_IO_DEPTH - u->in_flight;
    if (n > room)
        n = room;
    if (n == 0)
        return 0;
    int code = runtime_enter(u, &scope);
    if (code)
        return runtime_error(u, code);
    for (unsigned i = 0; i < n; i++)
        start(u, list[i]);
    for (unsigned way = RUNTIME_IN; way <= RUNTIME_OUT; way++)
        batch_close(u, &u->queue[way]);
    runtime_leave(u, &scope);
    u->in_flight += n;
    u->pause = SOON;
    return (int)n;
}

/* ---- waiting ------------------------------------------------------------- */

/* Sleeps until wake() or for so long (negative: without limit); true: woken. */
static bool sleep_for(struct runtime_unit *u, int64_t ns)
{
    struct timespec limit = sleep_limit(ns);
    pthread_mutex_lock(&u->waking);
    while (!u->wake && ns != 0 && sleep_on(&u->woken, &u->waking, ns, &limit))
        ;
    bool woken = u->wake;
    u->wake = false;
    pthread_mutex_unlock(&u->waking);
    return woken;
}

/* Until something is done, wake, or the end (negative: none). */
static void sleep_until(struct runtime_unit *u, int64_t end)
{
    bool woken = false;
    while (!woken) {
        bool more = gather(u);
        if (u->finished)
            break;
        int64_t left = end < 0 ? -1 : end - now_ns();
        if (end >= 0 && left <= 0) {
            (void)sleep_for(u, 0);
            break;
        }
        if (more && (left < 0 || left > u->pause))
            left = u->pause;
        woken = sleep_for(u, left);
        u->pause = u->pause < LATE / 2 ? 2 * u->pause : LATE;
    }
}

int runtime_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct runtime_unit *u = unit;
    int64_t now = now_ns();
    unsigned n = 0;
    sleep_until(u, timeout_ns < 0 || timeout_ns > INT64_MAX - now ? -1 : now + timeout_ns);
    while (n < max && u->finished) {
        done[n] = u->finished;
        u->finished = op_of(done[n++])->next;
    }
    if (!u->finished)
        u->finished_end = &u->finished;
    u->in_flight -= n;
    return (int)n;
}

void runtime_wake(void *unit)
{
    struct runtime_unit *u = unit;
    pthread_mutex_lock(&u->waking);
    u->wake = true;
    pthread_cond_signal(&u->woken);
    pthread_mutex_unlock(&u->waking);
}

void runtime_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    const struct runtime_unit *u = unit;
    char text[160] = "there is no such memory";
    if (io->os_error == RUNTIME_FORKED)
        snprintf(text, sizeof text, "in a forked child");
    else if (io->os_error)
        u->rt->call->text(u->rt, io->os_error, text, sizeof text);
    snprintf(buf, len, "%s %zu bytes at %#llx of %s: %s", io->op == TERRACE_IO_READ ? "reading" : "writing",
             io->bytes, (unsigned long long)io->address, u->name, text);
}

/* ---- opening and closing ------------------------------------------------- */

static int queue_open(struct runtime_unit *u, struct runtime_queue *q)
{
    const struct runtime_calls *call = u->rt->call;
    int code = call->stream_create(u->rt, &q->stream);
    if (code)
        q->stream = NULL;
    for (unsigned i = 0; i < RUNTIME_IO_DEPTH && code == 0; i++) {
        code = call->event_create(u->rt, &q->end[i]);
        if (code)
            q->end[i] = NULL;
    }
    return code;
}

int runtime_copies_open(struct runtime_unit *u)
{
    u->finished_end = &u->finished;
    u->pause = SOON;
    int code = queue_open(u, &u->queue[RUNTIME_IN]);
    return code ? code : queue_open(u, &u->queue[RUNTIME_OUT]);
}

void runtime_copies_close(struct runtime_unit *u)
{
    const struct runtime_calls *call = u->rt->call;
    if (u->pid != getpid())
        return;
    for (struct runtime_queue *q = u->queue; q < u->queue + 2; q++) {
        if (!q->stream)
            continue;
        (void)RUNTIME_UNDO(call->stream_synchronize(u->rt, q->stream));
        (void)RUNTIME_UNDO(call->stream_destroy(u->rt, q->stream));
        for (unsigned i = 0; i < RUNTIME_IO_DEPTH && q->end[i]; i++)
            (void)RUNTIME_UNDO(call->event_destroy(u->rt, q->end[i]));
    }
}
