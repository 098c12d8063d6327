/* process.c - fork and pthread_create, in place of the C library's.
 *
 * A child that would not have all of its parent's large blocks is not made: fork
 * fails with ENOMEM instead (unless TERRACE_FORK=allow). Threads that terrace starts are marked as its own.
 *
 * May call: process.h, table.c, guard.c. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <unistd.h>

#include "preload.h"
#include "small.h"

#define CALLER __builtin_return_address(0)

/* The C library's own, behind this library's. */
static void *next(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

typedef pid_t fork_fn(void);

/* Signals wait, in this thread: a handler may touch memory that cannot come as
 * long as terrace's locks are held for the fork. */
static pid_t fork_with_blocks(fork_fn *fork_now)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t child = terrace_process_fork(fork_now);
    int error = errno;
    if (child < 0 && error == ENOMEM)
        say("%s", terrace_last_error());
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    errno = error;
    return child;
}

static pid_t do_fork(void)
{
    static _Atomic(fork_fn *) found;
    if (!found)
        found = (fork_fn *)(uintptr_t)next("fork");
    fork_fn *fork_now = found;
    return table_count ? fork_with_blocks(fork_now) : fork_now();
}

HOOK pid_t fork(void)
{
    return do_fork();
}

HOOK pid_t __fork(void)
{
    return do_fork();
}

/* ---- threads ------------------------------------------------------------- */

typedef void *start_fn(void *);
typedef int create_fn(pthread_t *, const pthread_attr_t *, start_fn *, void *);

struct start {
    start_fn *fn;
    void *arg;
};

static void *begin_inside(void *arg)
{
    struct start start = *(struct start *)arg;
    small_free(arg);
    inside = true;
    return start.fn(start.arg);
}

HOOK int pthread_create(pthread_t *thread, const pthread_attr_t *attr, start_fn *fn, void *arg)
{
    static _Atomic(create_fn *) found;
    if (!found)
        found = (create_fn *)(uintptr_t)next("pthread_create");
    create_fn *create = found;
    if (LIKELY(!inside && !guard_is_library(CALLER)))
        return create(thread, attr, fn, arg);
    struct start *start = small_malloc(sizeof *start);
    if (!start)
        return EAGAIN;
    *start = (struct start){fn, arg};
    int e = create(thread, attr, begin_inside, start);
    if (e)
        small_free(start);
    return e;
}
