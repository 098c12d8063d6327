/* nvme_threads.c - disk transfers by a pool of threads, where io_uring is refused. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "nvme.h"

struct pool {
    pthread_mutex_t lock; /* protects all of this; never held across I/O */
    pthread_cond_t work, finish;
    struct queue waiting, finished;
    unsigned in_flight; /* copies taken and not handed back */
    bool woken, stop;
    unsigned workers;
    pthread_t worker[WORKERS];
};

static void transfer(terrace_io *io)
{
    struct op *op = op_of(io);
    ssize_t got;
    do {
        char *host = (char *)io->host + op->done;
        off_t offset = (off_t)(op->offset + op->done);
        got = io->op == TERRACE_IO_READ ? pread(op->fd, host, nvme_op_left(io), offset)
                                        : pwrite(op->fd, host, nvme_op_left(io), offset);
    } while (!nvme_op_step(io, got < 0 ? -errno : got));
}

static void *pool_worker(void *argument)
{
    struct pool *p = argument;
    pthread_mutex_lock(&p->lock);
    while (!p->stop) {
        terrace_io *io = queue_pop(&p->waiting);
        if (!io) {
            pthread_cond_wait(&p->work, &p->lock);
            continue;
        }
        pthread_mutex_unlock(&p->lock);
        transfer(io);
        pthread_mutex_lock(&p->lock);
        queue_push(&p->finished, io);
        pthread_cond_signal(&p->finish);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

static int pool_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct nvme *u = unit;
    struct pool *p = u->state;
    unsigned i;
    pthread_mutex_lock(&p->lock);
    unsigned room = IO_DEPTH_MOST - p->in_flight;
    pthread_mutex_unlock(&p->lock);
    for (i = 0; i < n && i < room; i++) {
        bool started = nvme_op_start(u, list[i]);
        pthread_mutex_lock(&p->lock);
        queue_push(started ? &p->waiting : &p->finished, list[i]);
        p->in_flight++;
        pthread_cond_signal(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    return (int)i;
}

static int pool_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct pool *p = ((struct nvme *)unit)->state;
    int64_t deadline = deadline_of(timeout_ns);
    struct timespec limit = {deadline / 1000000000, deadline % 1000000000};
    int expired = 0;
    pthread_mutex_lock(&p->lock);
    while (!p->finished.head && !p->woken && !expired)
        if (deadline < 0)
            pthread_cond_wait(&p->finish, &p->lock);
        else
            expired = pthread_cond_timedwait(&p->finish, &p->lock, &limit);
    unsigned n = queue_take(&p->finished, done, max);
    p->in_flight -= n;
    p->woken = false;
    pthread_mutex_unlock(&p->lock);
    return (int)n;
}

static void pool_wake(void *unit)
{
    struct pool *p = ((struct nvme *)unit)->state;
    pthread_mutex_lock(&p->lock);
    p->woken = true;
    pthread_cond_signal(&p->finish);
    pthread_mutex_unlock(&p->lock);
}

static void pool_close(struct nvme *u)
{
    struct pool *p = u->state;
    if (u->pid != getpid())
        return; /* a forked child has neither the workers nor a usable lock */
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->workers; i++)
        pthread_join(p->worker[i], NULL);
    pthread_cond_destroy(&p->finish);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

/* As many workers as the system grants; they take no signals. */
static int pool_start(struct pool *p)
{
    sigset_t all, before;
    int error = 0;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (p->workers < WORKERS && !error) {
        error = pthread_create(&p->worker[p->workers], NULL, pool_worker, p);
        if (!error)
            pthread_setname_np(p->worker[p->workers++], "terrace-disk");
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return p->workers ? 0 : -error;
}

static int pool_open(struct nvme *u, int probe)
{
    struct pool *p = calloc(1, sizeof *p);
    pthread_condattr_t attr;
    (void)probe;
    if (!p)
        return -ENOMEM;
    u->state = p;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->finish, &attr);
    pthread_condattr_destroy(&attr);
    int error = pool_start(p);
    if (error)
        pool_close(u);
    return error;
}

const struct engine nvme_threads = {
    "threads", pool_open, pool_close, pool_submit, pool_wait, pool_wake, NULL, NULL, NULL,
};

