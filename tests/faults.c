/* faults.c - makes the Nth call of a kind fail. See faults.h. */
#define _GNU_SOURCE
#include "faults.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/types.h>

#include <linux/userfaultfd.h>

#include "../lib/uffd.h"

static atomic_int armed_call, armed_error;
static atomic_uint calls_left; /* until it strikes; 0: it has */

void fault_arm(enum fault_call call, unsigned nth, int error)
{
    atomic_store(&armed_error, error);
    atomic_store(&calls_left, nth);
    atomic_store(&armed_call, call);
}

bool fault_disarm(void)
{
    atomic_store(&armed_call, FAULT_NONE);
    return atomic_load(&calls_left) == 0;
}

/* Counts a call; 0, or what it is to fail with (errno or FAULT_SHORT). */
static int strikes(enum fault_call call)
{
    unsigned left = atomic_load(&calls_left);
    if ((int)call != atomic_load(&armed_call))
        return 0;
    while (left && !atomic_compare_exchange_weak(&calls_left, &left, left - 1))
        ;
    return left == 1 ? atomic_load(&armed_error) : 0;
}

/* The same for calls that report by errno; true: it is set. */
static bool fails(enum fault_call call)
{
    int error = strikes(call);
    if (error)
        errno = error;
    return error;
}

static ssize_t shortened(ssize_t bytes)
{
    return bytes > 1 ? bytes / 2 + 1 : bytes;
}

#define REAL(result, name, ...)                                                            \
    result __real_##name(__VA_ARGS__);                                                     \
    result __wrap_##name(__VA_ARGS__);                                                     \
    result __wrap_##name(__VA_ARGS__)

REAL(void *, malloc, size_t bytes)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_malloc(bytes);
}

REAL(void *, calloc, size_t n, size_t bytes)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_calloc(n, bytes);
}

REAL(void *, aligned_alloc, size_t alignment, size_t bytes)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_aligned_alloc(alignment, bytes);
}

REAL(void *, realloc, void *old, size_t bytes)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_realloc(old, bytes);
}

REAL(char *, strdup, const char *text)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_strdup(text);
}

REAL(char *, strndup, const char *text, size_t n)
{
    return fails(FAULT_ALLOCATE) ? NULL : __real_strndup(text, n);
}

REAL(void *, mmap, void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    return fails(FAULT_MMAP) ? (void *)-1 : __real_mmap(at, bytes, protection, flags, fd, offset);
}

REAL(int, open, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails(FAULT_OPEN) ? -1 : __real_open(path, flags, mode);
}

REAL(int, openat, int folder, const char *path, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    mode_t mode = flags & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY)) ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails(FAULT_OPEN) ? -1 : __real_openat(folder, path, flags, mode);
}

REAL(int, fallocate, int fd, int mode, off_t offset, off_t bytes)
{
    return fails(FAULT_FALLOCATE) ? -1 : __real_fallocate(fd, mode, offset, bytes);
}

REAL(ssize_t, pread, int fd, void *to, size_t bytes, off_t offset)
{
    int error = strikes(FAULT_PREAD);
    if (error > 0)
        return errno = error, -1;
    ssize_t got = __real_pread(fd, to, bytes, offset);
    return error ? shortened(got) : got;
}

REAL(ssize_t, pwrite, int fd, const void *from, size_t bytes, off_t offset)
{
    int error = strikes(FAULT_PWRITE);
    if (error > 0)
        return errno = error, -1;
    ssize_t got = __real_pwrite(fd, from, bytes, offset);
    return error ? shortened(got) : got;
}

REAL(int, eventfd, unsigned value, int flags)
{
    return fails(FAULT_EVENTFD) ? -1 : __real_eventfd(value, flags);
}

REAL(int, pthread_create, pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *argument)
{
    int error = strikes(FAULT_THREAD);
    return error ? error : __real_pthread_create(thread, attr, run, argument);
}

REAL(int, io_uring_queue_init, unsigned entries, struct io_uring *ring, unsigned flags)
{
    int error = strikes(FAULT_URING_INIT);
    return error ? -error : __real_io_uring_queue_init(entries, ring, flags);
}

REAL(int, io_uring_submit, struct io_uring *ring)
{
    int error = strikes(FAULT_URING_SUBMIT);
    return error ? -error : __real_io_uring_submit(ring);
}

REAL(int, io_uring_wait_cqe_timeout, struct io_uring *ring, struct io_uring_cqe **cqe,
     struct __kernel_timespec *limit)
{
    int error = strikes(FAULT_URING_WAIT);
    return error ? -error : __real_io_uring_wait_cqe_timeout(ring, cqe, limit);
}

REAL(unsigned, io_uring_peek_batch_cqe, struct io_uring *ring, struct io_uring_cqe **cqe, unsigned most)
{
    unsigned n = __real_io_uring_peek_batch_cqe(ring, cqe, most);
    for (unsigned i = 0; i < n; i++) {
        int error = strikes(FAULT_URING_RESULT);
        if (error == FAULT_SHORT)
            cqe[i]->res = (int)shortened(cqe[i]->res);
        else if (error)
            cqe[i]->res = -error;
    }
    return n;
}

static _Atomic uint64_t features_missing;

void fault_kernel_lacks(uint64_t features)
{
    atomic_store(&features_missing, features);
}

REAL(int, ioctl, int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    void *argument = va_arg(args, void *);
    va_end(args);
    if (request == UFFDIO_API && ((struct uffdio_api *)argument)->features & atomic_load(&features_missing))
        return errno = EINVAL, -1;
    return __real_ioctl(fd, request, argument);
}

static atomic_bool copying;

void fault_copy_then_drop(bool on)
{
    atomic_store(&copying, on);
}

/* Out of a region its pages are ordinary memory to the arena, where UFFDIO_COPY
 * puts them. */
REAL(int, uffd_take, const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    struct uffdio_copy c = {.dst = (uintptr_t)to, .src = (uintptr_t)from, .len = bytes};
    if (!atomic_load(&copying))
        return __real_uffd_take(u, to, from, bytes, moved);
    *moved = 0;
    if (__real_ioctl(u->fd, UFFDIO_COPY, &c))
        return errno;
    madvise(from, bytes, MADV_DONTNEED);
    *moved = bytes;
    return 0;
}
