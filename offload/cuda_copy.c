/* cuda_copy.c - copies between the device and the host.
 *
 * Each direction has two streams of our own, which take turns: a batch of copies
 * goes to one, and behind it a call of a function on the host, by which the driver
 * tells that the batch is done. Meanwhile the other stream's copies keep the bus
 * busy. The function only counts and wakes who waits: it may not call the driver.
 * A batch is closed at the end of a submit, or when it holds a chunk.
 *
 * Where the context has failed those calls never come, and where a user's function
 * keeps the driver's thread busy they come late. So who waits also asks whether the
 * last batch is done, by an event before the call, every few milliseconds.
 *
 * Copies in a list that continue each other, on both sides, are one to the driver:
 * small ones cost about the same as large ones. One whose host memory is registered in
 * several ranges, or in part, is given to the driver in as many parts. Memory that is not registered is
 * copied, too, but slower, and submit may then wait for it. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cuda_unit.h"

enum { ASK_AGAIN = 10000000 /* ns */ };

struct mark {
    struct cuda_signal *signal;
    uint64_t told; /* batches that are done */
};

/* Outlives its unit where calls are still to come after the device has failed. */
struct cuda_signal {
    struct cuda_signal *next;
    pthread_mutex_t lock; /* protects what follows */
    pthread_cond_t changed;
    struct mark mark[CUDA_QUEUES];
    bool woken;
};

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

/* Called by the driver. */
static void batch_done(void *mark)
{
    struct mark *m = mark;
    struct cuda_signal *s = m->signal;
    pthread_mutex_lock(&s->lock);
    m->told++;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void finish(struct cuda_unit *u, terrace_io *io, cuda_result r)
{
    io->result = cuda_error(r);
    io->os_error = (int)r;
    op_of(io)->next = NULL;
    *u->finished_end = io;
    u->finished_end = &op_of(io)->next;
}

/* Hands on what is done of a queue: all of batches up to one. */
static void finish_until(struct cuda_unit *u, struct cuda_queue *q, uint64_t batch, cuda_result r)
{
    terrace_io *io;
    while ((io = q->head) != NULL && op_of(io)->batch <= batch) {
        q->head = op_of(io)->next;
        finish(u, io, r);
    }
}

/* Waits for all of a queue. An error is believed when it comes twice: memory must
 * not be given back while the device may write to it. */
static void drain(struct cuda_unit *u, struct cuda_queue *q)
{
    cuda_result r = cuda.stream_synchronize(q->stream);
    if (r)
        r = cuda.stream_synchronize(q->stream);
    finish_until(u, q, UINT64_MAX, r);
    q->open = false;
}

static void batch_close(struct cuda_unit *u, struct cuda_queue *q)
{
    if (!q->open)
        return;
    if (cuda.event_record(q->end, q->stream) == CUDA_OK &&
        cuda.stream_call(q->stream, batch_done, &u->signal->mark[q - u->queue]) == CUDA_OK)
        q->sent++;
    else
        drain(u, q);
    q->open = false;
    q->bytes = 0;
}

/* Asks the queues that have something to do whether they have done it. */
static void ask(struct cuda_unit *u)
{
    struct cuda_scope scope;
    cuda_result r = cuda_enter_again(u->context, &scope);
    for (unsigned i = 0; i < CUDA_QUEUES; i++) {
        struct cuda_queue *q = &u->queue[i];
        cuda_result is = r == CUDA_OK && q->head ? cuda.event_query(q->end) : r;
        if (is == CUDA_OK || r)
            finish_until(u, q, UINT64_MAX, is);
        else if (is != CUDA_NOT_READY)
            drain(u, q);
    }
    if (r == CUDA_OK)
        cuda_leave(&scope);
}

/* ---- submitting ---------------------------------------------------------- */

/* How many copies from the first on are one to the driver. */
static unsigned run_of(struct cuda_unit *u, terrace_io *const *list, unsigned n)
{
    const terrace_io *first = list[0];
    uint64_t bytes = first->bytes;
    unsigned i = 1;
    for (; i < n; i++) {
        const terrace_io *io = list[i];
        if (io->op != first->op || io->address != first->address + bytes ||
            (char *)io->host != (char *)first->host + bytes || bytes + io->bytes > CUDA_IO_CHUNK ||
            !cuda_memory_holds(u, first->address, bytes + io->bytes))
            break;
        bytes += io->bytes;
    }
    return i;
}

/* Gives the driver a copy, in parts where the host's memory is known to it in parts. What
 * it has taken of one that fails is done before this returns. */
static cuda_result copy(struct cuda_queue *q, bool back, uint64_t address, char *host, uint64_t bytes)
{
    cuda_result r = CUDA_OK;
    uint64_t at = 0, part;
    cuda_pins_hold();
    for (; r == CUDA_OK && at < bytes; at += part) {
        part = cuda_pins_run(host + at, bytes - at);
        r = back ? cuda.copy_out(host + at, address + at, part, q->stream)
                 : cuda.copy_in(address + at, host + at, part, q->stream);
    }
    cuda_pins_let_go();
    if (r && at > part && cuda.stream_synchronize(q->stream))
        (void)cuda.stream_synchronize(q->stream);
    return r;
}

static void run_start(struct cuda_unit *u, terrace_io *const *list, unsigned n)
{
    const terrace_io *first = list[0];
    unsigned back = first->op == TERRACE_IO_READ;
    struct cuda_queue *q = &u->queue[2 * back + u->turn[back]];
    const terrace_io *last = list[n - 1];
    uint64_t bytes = last->address + last->bytes - first->address;
    cuda_result r = CUDA_INVALID_VALUE;
    if (first->op == TERRACE_IO_PEER && cuda_memory_holds(u, first->address, bytes) &&
        cuda_memory_holds(first->peer, first->peer_address, bytes))
        r = cuda_peer_copy(u, first, bytes, q->stream);
    else if (first->op != TERRACE_IO_PEER && cuda_memory_holds(u, first->address, bytes))
        r = copy(q, back, first->address, first->host, bytes);
    for (unsigned i = 0; i < n; i++) {
        terrace_io *io = list[i];
        io->cpu_copied = 0;
        *op_of(io) = (struct op){NULL, q->sent + 1};
        if (r) {
            finish(u, io, r);
            continue;
        }
        if (q->head)
            op_of(q->tail)->next = io;
        else
            q->head = io;
        q->tail = io;
    }
    q->open |= r == CUDA_OK;
    q->bytes += r ? 0 : bytes;
    if (q->bytes >= CUDA_IO_CHUNK) {
        batch_close(u, q);
        u->turn[back] ^= 1;
    }
}

int cuda_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    unsigned taken = 0, room = CUDA_IO_DEPTH - u->in_flight;
    if (n > room)
        n = room;
    if (n == 0)
        return 0;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return cuda_error(r);
    while (taken < n) {
        unsigned run = run_of(u, list + taken, n - taken);
        run_start(u, list + taken, run);
        taken += run;
    }
    u->in_flight += taken;
    for (unsigned i = 0; i < CUDA_QUEUES; i++)
        if (u->queue[i].open) {
            batch_close(u, &u->queue[i]);
            u->turn[i / 2] ^= 1;
        }
    cuda_leave(&scope);
    return (int)taken;
}

/* ---- waiting ------------------------------------------------------------- */

/* Hands on what the driver has told of. */
static void gather_locked(struct cuda_unit *u)
{
    for (unsigned i = 0; i < CUDA_QUEUES; i++)
        finish_until(u, &u->queue[i], u->signal->mark[i].told, CUDA_OK);
}

static bool under_way(const struct cuda_unit *u)
{
    bool some = false;
    for (unsigned i = 0; i < CUDA_QUEUES; i++)
        some |= u->queue[i].head != NULL;
    return some;
}

/* Sleeps until something is done, wake, or the end (negative: none). */
static void sleep_until(struct cuda_unit *u, int64_t end)
{
    struct cuda_signal *s = u->signal;
    pthread_mutex_lock(&s->lock);
    for (gather_locked(u); !u->finished && !s->woken; gather_locked(u)) {
        int64_t now = now_ns(), until = end;
        bool asks = under_way(u);
        if (end >= 0 && now >= end)
            break;
        if (asks && (end < 0 || end > now + ASK_AGAIN))
            until = now + ASK_AGAIN;
        struct timespec limit = {until / 1000000000, until % 1000000000};
        int late = until < 0 ? pthread_cond_wait(&s->changed, &s->lock)
                             : pthread_cond_timedwait(&s->changed, &s->lock, &limit);
        if (late == ETIMEDOUT && asks) {
            pthread_mutex_unlock(&s->lock);
            ask(u);
            pthread_mutex_lock(&s->lock);
        }
    }
    s->woken = false;
    pthread_mutex_unlock(&s->lock);
}

int cuda_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct cuda_unit *u = unit;
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

void cuda_wake(void *unit)
{
    struct cuda_signal *s = ((struct cuda_unit *)unit)->signal;
    pthread_mutex_lock(&s->lock);
    s->woken = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

void cuda_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    const struct cuda_unit *u = unit;
    char text[160];
    cuda_text((cuda_result)io->os_error, text, sizeof text);
    snprintf(buf, len, "%s %zu bytes at %#llx of %s: %s", io->op == TERRACE_IO_READ ? "reading" : "writing",
             io->bytes, (unsigned long long)io->address, u->name, text);
}

/* ---- opening and closing ------------------------------------------------- */

static struct cuda_signal *signal_new(void)
{
    struct cuda_signal *s = calloc(1, sizeof *s);
    pthread_condattr_t attr;
    if (!s)
        return NULL;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
    for (unsigned i = 0; i < CUDA_QUEUES; i++)
        s->mark[i].signal = s;
    return s;
}

cuda_result cuda_copies_open(struct cuda_unit *u)
{
    cuda_result r = CUDA_OK;
    u->finished_end = &u->finished;
    u->signal = signal_new();
    if (!u->signal)
        return CUDA_OUT_OF_MEMORY;
    for (struct cuda_queue *q = u->queue; q < u->queue + CUDA_QUEUES && r == CUDA_OK; q++) {
        r = cuda.stream_create(&q->stream, CUDA_STREAM_NON_BLOCKING);
        if (r)
            q->stream = NULL;
        else
            r = cuda.event_create(&q->end, CUDA_EVENT_WITHOUT_TIME);
        if (r)
            q->end = NULL;
    }
    return r;
}

/* Frees it, if all calls have come. */
static void signal_free(struct cuda_unit *u, bool child)
{
    static struct cuda_signal *kept;
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    struct cuda_signal *s = u->signal;
    bool quiet = true;
    if (!child) {
        pthread_mutex_lock(&s->lock);
        for (unsigned i = 0; i < CUDA_QUEUES; i++)
            quiet &= s->mark[i].told == u->queue[i].sent;
        pthread_mutex_unlock(&s->lock);
        pthread_mutex_lock(&lock);
        if (!quiet) {
            s->next = kept;
            kept = s;
        }
        pthread_mutex_unlock(&lock);
    }
    if (!quiet)
        return;
    if (!child) {
        pthread_cond_destroy(&s->changed);
        pthread_mutex_destroy(&s->lock);
    }
    free(s);
}

void cuda_copies_close(struct cuda_unit *u)
{
    bool child = u->pid != getpid();
    for (unsigned i = 0; i < CUDA_QUEUES; i++) {
        struct cuda_queue *q = &u->queue[i];
        if (!q->stream || child)
            continue;
        (void)CUDA_UNDO(cuda.stream_synchronize(q->stream));
        (void)CUDA_UNDO(cuda.stream_destroy(q->stream));
        if (q->end)
            (void)CUDA_UNDO(cuda.event_destroy(q->end));
    }
    if (u->signal)
        signal_free(u, child);
}
