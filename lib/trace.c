/* trace.c - the timeline of migrations: what happens is noted in a ring, and a thread
 * of its own writes it down.
 *
 * Noting an event is a copy of 128 bytes by who holds the manager's lock; no lane and
 * no thread of the program ever waits for the file. Where events come faster than they
 * are written the ring is full, and those that do not fit are counted. Without
 * TERRACE_TRACE there is neither ring nor thread.
 *
 * May call: core.h, output.h, trace_write.h. */
#include "trace.h"

#include <errno.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "output.h"
#include "trace_write.h"

enum { EVENTS = 8192 };
static const long GATHER_NS = 20000000; /* from the first event until they are written */

struct trace {
    struct terrace *m;
    pthread_t thread;
    sem_t wake;        /* the ring was empty, or it is to end */
    atomic_bool stop;
    struct trace_event *ring;
    _Atomic uint64_t head, tail; /* noted; written */
    _Atomic uint64_t lost, lost_bytes;
    uint64_t lost_told, lost_bytes_told;
    pthread_mutex_t writing; /* protects all below and is taken before the manager's lock */
    bool failed, missed;     /* that has been said; that some are missing, too */
    struct trace_writer writer;
};

/* ---- noting ------------------------------------------------------------ */

void trace_note_locked(struct trace *t, const struct trace_event *e, const char *label)
{
    uint64_t head = atomic_load_explicit(&t->head, memory_order_relaxed);
    if (head - atomic_load(&t->tail) == EVENTS) {
        t->lost++;
        t->lost_bytes += e->bytes;
        return;
    }
    struct trace_event *slot = &t->ring[head % EVENTS];
    size_t length = label ? strnlen(label, sizeof slot->label - 1) : 0;
    *slot = *e;
    memcpy(slot->label, label ? label : "", length);
    slot->label[length] = 0;
    atomic_store(&t->head, head + 1); /* before the tail is read: who empties the ring looks the other way round */
    if (atomic_load(&t->tail) == head)
        sem_post(&t->wake);
}

void trace_step_locked(struct terrace *m)
{
    if (!m->trace)
        return;
    struct trace_event e = {.kind = TRACE_STEP, .ended = clock_ns(), .bytes = m->stats.steps};
    trace_note_locked(m->trace, &e, NULL);
}

uint64_t trace_lost(const struct trace *t)
{
    return t->lost;
}

uint64_t trace_written(const struct trace *t)
{
    return t->writer.written;
}

/* ---- writing ----------------------------------------------------------- */

static void tell_of_failure(struct trace *t, int error)
{
    if (!t->failed)
        log_write(&t->m->log, TERRACE_LOG_ERROR, "TERRACE_TRACE=%s: the timeline cannot be written: %s; the job goes "
                  "on without it", t->m->options.value[OPT_TRACE].text, strerror(error));
    t->failed = true;
}

static void write_lost(struct trace *t)
{
    uint64_t lost = t->lost - t->lost_told, bytes = t->lost_bytes - t->lost_bytes_told;
    if (!lost)
        return;
    trace_writer_lost(&t->writer, lost, bytes);
    t->lost_told += lost;
    t->lost_bytes_told += bytes;
}

static void drain(struct trace *t, bool last)
{
    pthread_mutex_lock(&t->writing);
    uint64_t tail = t->tail;
    while (tail != atomic_load(&t->head)) {
        trace_writer_event(&t->writer, &t->ring[tail % EVENTS]);
        atomic_store(&t->tail, ++tail);
    }
    write_lost(t);
    trace_writer_tiers(&t->writer);
    if (last)
        trace_writer_end(&t->writer);
    else
        trace_writer_flush(&t->writer);
    if (t->writer.error)
        tell_of_failure(t, t->writer.error);
    pthread_mutex_unlock(&t->writing);
}

static void *trace_main(void *arg)
{
    struct trace *t = arg;
    while (!t->stop) {
        struct timespec until;
        if (sem_wait(&t->wake))
            continue;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += GATHER_NS;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (!t->stop)
            sem_clockwait(&t->wake, CLOCK_MONOTONIC, &until);
        drain(t, false);
    }
    return NULL;
}

/* ---- opening and closing ----------------------------------------------- */

static void trace_free(struct trace *t)
{
    for (unsigned i = 0; i < MAX_TIERS; i++)
        for (unsigned j = 0; j < MAX_TIERS; j++)
            free(t->writer.track[i][j]);
    pthread_mutex_destroy(&t->writing);
    sem_destroy(&t->wake);
    free(t->ring);
    free(t);
}

static int trace_start(struct trace *t)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&t->thread, NULL, trace_main, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e;
}

void trace_open(struct terrace *m)
{
    const char *given = m->options.value[OPT_TRACE].text;
    if (!given || !*given)
        return;
    char *path = output_path(given);
    struct trace *t = calloc(1, sizeof *t);
    int e = ENOMEM;
    if (t) {
        t->m = m;
        t->writer.fd = -1;
        pthread_mutex_init(&t->writing, NULL);
        sem_init(&t->wake, 0, 0);
        t->ring = calloc(EVENTS, sizeof *t->ring);
        if (path && t->ring)
            e = trace_writer_open(&t->writer, m, path) ? trace_start(t) : errno;
    }
    free(path);
    if (t && e == 0) {
        m->trace = t;
        return;
    }
    log_write(&m->log, TERRACE_LOG_ERROR, "TERRACE_TRACE=%s: the timeline cannot be written: %s; the job goes on "
              "without it", given, strerror(e));
    if (t) {
        trace_writer_end(&t->writer);
        trace_free(t);
    }
}

void trace_end(struct terrace *m)
{
    struct trace *t = m->trace;
    if (!t)
        return;
    drain(t, true);
    if (t->lost && !t->missed)
        log_write(&m->log, TERRACE_LOG_WARN, "TERRACE_TRACE=%s: %llu events came faster than they could be written, "
                  "and are missing", m->options.value[OPT_TRACE].text, (unsigned long long)t->lost);
    t->missed = t->lost > 0;
}

void trace_close(struct terrace *m)
{
    struct trace *t = m->trace;
    if (!t)
        return;
    t->stop = true;
    sem_post(&t->wake);
    pthread_join(t->thread, NULL);
    trace_end(m);
    m->trace = NULL;
    trace_free(t);
}
