/* opencl_copy.c - copies between the host's memory and an OpenCL device.
 *
 * There is a queue for each direction, which may work out of order, so that several
 * copies go on at once. A copy is put there with an event; when it has ended, a
 * thread of OpenCL's calls `completed`, which notes it and wakes who waits. What
 * waits then also waits for the event: that returns at once, and is what makes the
 * bytes known to the work of other queues.
 *
 * May call: opencl_unit.h, libc. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "opencl_unit.h"
#include "sleep.h"

enum { EVENT, UNIT }; /* of terrace_io.backend */

/* ---- opening ------------------------------------------------------------- */

static opencl_queue queue_open(struct opencl_unit *u, opencl_bits properties, opencl_int *r)
{
    const opencl_bits list[] = {OPENCL_QUEUE_PROPERTIES, properties, 0};
    if (opencl.queue_create_with)
        return opencl.queue_create_with(u->context, u->device, list, r);
    return opencl.queue_create(u->context, u->device, properties, r);
}

opencl_int opencl_copies_open(struct opencl_unit *u, terrace_unit_info *info)
{
    opencl_bits offered = opencl_number(u->device, OPENCL_DEVICE_QUEUE_PROPERTIES);
    opencl_bits properties = offered & OPENCL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE;
    opencl_int r = 0;
    u->queue = queue_open(u, 0, &r);
    if (r == 0)
        u->into = queue_open(u, properties, &r);
    if (r == 0)
        u->from = queue_open(u, properties, &r);
    if (r == 0)
        snprintf(info->engine_reason, sizeof info->engine_reason, "copies by a queue for each direction, %s",
                 properties ? "out of order" : "in order: the device offers nothing else");
    info->io_chunk = OPENCL_IO_CHUNK;
    info->io_depth = OPENCL_IO_DEPTH;
    return r;
}

void opencl_copies_close(struct opencl_unit *u)
{
    opencl_queue queue[] = {u->queue, u->into, u->from};
    for (size_t i = 0; i < sizeof queue / sizeof *queue; i++)
        if (queue[i])
            (void)opencl.queue_release(queue[i]);
}

/* ---- starting ------------------------------------------------------------ */

/* By whichever thread has learned of it. */
static void finish(struct opencl_unit *u, terrace_io *io, int result, opencl_int code)
{
    pthread_mutex_lock(&u->lock);
    io->result = result;
    io->os_error = code;
    u->finished[u->count++] = io;
    pthread_cond_signal(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

static void completed(opencl_event event, opencl_int status, void *user)
{
    terrace_io *io = user;
    struct opencl_unit *u = (struct opencl_unit *)(uintptr_t)io->backend[UNIT];
    (void)event;
    status = status < 0 ? status : 0;
    finish(u, io, opencl_error(status), status);
}

static opencl_int put(struct opencl_unit *u, const terrace_io *io, opencl_memory part, opencl_event *event)
{
    if (io->op == TERRACE_IO_READ)
        return opencl.read(u->from, part, 0, 0, io->bytes, io->host, 0, NULL, event);
    return opencl.write(u->into, part, 0, 0, io->bytes, io->host, 0, NULL, event);
}

static void start(struct opencl_unit *u, terrace_io *io)
{
    opencl_event event = NULL;
    opencl_int r;
    opencl_memory part = opencl_part(u, io->address, io->bytes, &r);
    io->cpu_copied = 0;
    io->backend[EVENT] = 0;
    io->backend[UNIT] = (uintptr_t)u;
    if (!part) {
        finish(u, io, r ? opencl_error(r) : -TERRACE_EINVAL, r);
        return;
    }
    r = put(u, io, part, &event);
    (void)opencl.memory_release(part); /* the copy keeps it */
    if (r) {
        finish(u, io, opencl_error(r), r);
        return;
    }
    io->backend[EVENT] = (uintptr_t)event;
    r = opencl.event_callback(event, OPENCL_COMPLETE, completed, io);
    if (r) { /* nobody will tell: it has to be waited for */
        r = opencl.event_wait(1, &event);
        finish(u, io, opencl_error(r), r);
    }
}

int opencl_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct opencl_unit *u = unit;
    unsigned i, read = 0;
    for (i = 0; i < n && u->taken < OPENCL_IO_DEPTH; i++) {
        u->taken++;
        read += list[i]->op == TERRACE_IO_READ;
        start(u, list[i]);
    }
    if (read)
        (void)opencl.flush(u->from);
    if (read < i)
        (void)opencl.flush(u->into);
    return (int)i;
}

/* ---- waiting ------------------------------------------------------------- */

/* Until something has finished, wake, or the time limit. */
static void sleep_locked(struct opencl_unit *u, int64_t timeout_ns)
{
    struct timespec limit = sleep_limit(timeout_ns);
    while (!u->woken && u->count == 0 && sleep_on(&u->changed, &u->lock, timeout_ns, &limit))
        ;
}

/* The event of a copy that has ended. */
static void settle(terrace_io *io)
{
    opencl_event event = (opencl_event)(uintptr_t)io->backend[EVENT];
    if (!event)
        return;
    if (io->result == 0)
        (void)opencl.event_wait(1, &event);
    (void)opencl.event_release(event);
}

int opencl_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct opencl_unit *u = unit;
    pthread_mutex_lock(&u->lock);
    if (u->count == 0)
        sleep_locked(u, timeout_ns);
    u->woken = false;
    unsigned n = u->count < max ? u->count : max;
    memcpy(done, u->finished, n * sizeof(terrace_io *));
    u->count -= n;
    memmove(u->finished, u->finished + n, u->count * sizeof(terrace_io *));
    pthread_mutex_unlock(&u->lock);
    for (unsigned i = 0; i < n; i++)
        settle(done[i]);
    u->taken -= n;
    return (int)n;
}

void opencl_wake(void *unit)
{
    struct opencl_unit *u = unit;
    pthread_mutex_lock(&u->lock);
    u->woken = true;
    pthread_cond_signal(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

void opencl_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    const struct opencl_unit *u = unit;
    char why[80] = "no memory is committed there";
    if (io->os_error)
        opencl_text(io->os_error, why, sizeof why);
    snprintf(buf, len, "%s %zu bytes of %s at %#llx: %s", io->op == TERRACE_IO_READ ? "reading" : "writing", io->bytes,
             u->name, (unsigned long long)io->address, why);
}
