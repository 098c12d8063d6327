/* Every system call and allocation of the disk tier fails once, at each place
 * where it is made: then the operation still gives the right bytes, or fails
 * with a code and a sentence; it never crashes, hangs, or keeps anything. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>

#include "backend_stub.h"
#include "faults.h"

enum { RANGE = 7 << 20, COPY = 1 << 20, COPIES = 7, FILE_BYTES = 200001 };

/* Prepared once, so that no fault strikes here. */
static struct {
    const terrace_backend *b;
    char path[300];        /* a user's file */
    char *host, *file;     /* memory for copies; the file's bytes */
} f;

static void prepare(const char *io)
{
    alarm(200); /* a hang is a failure */
    folders_make(3);
    stub.io = io;
    f.b = backend_named("nvme");
    f.host = pages(RANGE);
    f.file = pages(FILE_BYTES + 7);
    pattern_fill(f.file, FILE_BYTES + 7, 3);
    snprintf(f.path, sizeof f.path, "%s.model", stub_folder[0]);
    int fd = open(f.path, O_CREAT | O_RDWR, 0600);
    cr_assert(fd >= 0 && write(fd, f.file, FILE_BYTES) == FILE_BYTES && fsync(fd) == 0);
    close(fd);
}

static void finish(void)
{
    unlink(f.path);
    folders_remove();
}

/* The error of a call that has to say why. */
static int said(int error)
{
    cr_assert(!error || stub.sentence[0], "error %d without a sentence", error);
    stub.sentence[0] = 0;
    return error;
}

/* All copies of one direction at once; the first error. */
static int copies(void *unit, int op, uint64_t base)
{
    terrace_io io[COPIES], *list[COPIES], *done[COPIES];
    int error = 0;
    unsigned taken = 0, back = 0;
    for (unsigned i = 0; i < COPIES; i++) {
        io[i] = (terrace_io){.address = base + i * COPY, .host = f.host + i * COPY, .bytes = COPY, .op = op};
        list[i] = &io[i];
    }
    while (back < COPIES) {
        int n = f.b->submit(unit, list + taken, COPIES - taken);
        if (n < 0)
            return n;
        taken += (unsigned)n;
        n = f.b->wait(unit, done, COPIES, -1);
        cr_assert(n >= 0 && back + (unsigned)n <= taken);
        for (int i = 0; i < n; i++) {
            cr_assert_not_null(done[i]->host, "a copy came back twice");
            done[i]->host = NULL;
            if (done[i]->result && !error)
                error = done[i]->result;
        }
        back += (unsigned)n;
    }
    return error;
}

static int spill(void *unit)
{
    uint64_t base;
    int error = said(f.b->reserve(unit, RANGE, 0, &base));
    if (error)
        return error;
    long long before = blocks_used();
    error = said(f.b->commit(unit, base, RANGE));
    if (error)
        cr_assert_eq(blocks_used(), before, "a commit that failed leaves nothing allocated");
    if (!error) {
        pattern_fill(f.host, RANGE, 11);
        error = copies(unit, TERRACE_IO_WRITE, base);
    }
    if (!error) {
        memset(f.host, 0, RANGE);
        error = copies(unit, TERRACE_IO_READ, base);
    }
    if (!error)
        cr_assert(pattern_is(f.host, RANGE, 11), "wrong bytes after success");
    f.b->decommit(unit, base, RANGE);
    f.b->release(unit, base, RANGE);
    return error;
}

static int attached(void *unit, uint64_t offset)
{
    uint64_t base;
    size_t bytes = FILE_BYTES - offset;
    int error = said(f.b->attach(unit, f.path, offset, bytes, &base));
    if (error)
        return error;
    terrace_io io = {.address = base, .host = f.host, .bytes = bytes, .op = TERRACE_IO_READ};
    memset(f.host, 0, bytes);
    error = copy_now(f.b, unit, &io);
    if (!error)
        cr_assert_arr_eq(f.host, f.file + offset, bytes, "wrong bytes after success");
    f.b->detach(unit, base, bytes);
    return error;
}

static void *wake_later(void *unit)
{
    usleep(2000);
    f.b->wake(unit);
    return NULL;
}

/* A sleeping wait is woken, whatever failed before. */
static void sleep_and_wake(void *unit)
{
    terrace_io *done[1];
    pthread_t waker;
    bool created = pthread_create(&waker, NULL, wake_later, unit) == 0;
    if (!created)
        f.b->wake(unit);
    cr_assert_eq(f.b->wait(unit, done, 1, -1), 0);
    if (created)
        pthread_join(waker, NULL);
}

/* All the disk tier does, as far as it gets; the first error. */
static int everything(void)
{
    terrace_unit_info info = {.size = sizeof info};
    void *unit;
    unsigned fds = fds_open();
    int error = said(f.b->open(&stub_host, 0, &info, &unit));
    if (!error) {
        sleep_and_wake(unit);
        int part[] = {spill(unit), attached(unit, 4096), attached(unit, 33)};
        for (int i = 0; i < 3 && !error; i++)
            error = part[i];
        sleep_and_wake(unit);
        f.b->close(unit);
    }
    cr_assert_eq(fds_open(), fds, "descriptors leaked");
    for (unsigned i = 0; i < STUB_FOLDERS; i++)
        cr_assert_eq(entries_in(stub_folder[i]), 0, "files left");
    return error;
}

/* Sweeps one call with one error. A round that was struck must succeed or give
 * the one code that is allowed besides; the last round must succeed. */
static void sweep(const char *io, enum fault_call call, int error, int allowed)
{
    bool fired;
    unsigned n = 0;
    prepare(io);
    do {
        fault_arm(call, ++n, error);
        int result = everything();
        fired = fault_disarm();
        cr_assert(!result || (fired && result == allowed), "call %u: error %d", n, result);
        cr_assert_lt(n, 1000);
    } while (fired);
    cr_assert_gt(n, 1, "nothing was struck");
    finish();
}

#define SWEEP(name, io, call, error, allowed)                                              \
    Test(faults, name, .timeout = 240) { sweep(io, call, error, allowed); }

SWEEP(allocation_uring, "auto", FAULT_ALLOCATE, ENOMEM, -TERRACE_ENOMEM)
SWEEP(allocation_threads, "threads", FAULT_ALLOCATE, ENOMEM, -TERRACE_ENOMEM)
SWEEP(mmap_uring, "auto", FAULT_MMAP, ENOMEM, 0)
SWEEP(open_limit, "auto", FAULT_OPEN, EMFILE, -TERRACE_ESYSTEM)
SWEEP(open_unnamed, "auto", FAULT_OPEN, EOPNOTSUPP, -TERRACE_ENOTSUP)
SWEEP(disk_full, "auto", FAULT_FALLOCATE, ENOSPC, -TERRACE_ENOSPC)
SWEEP(quota, "auto", FAULT_FALLOCATE, EDQUOT, -TERRACE_ENOSPC)
SWEEP(allocate_interrupted, "auto", FAULT_FALLOCATE, EINTR, 0)
SWEEP(allocate_unsupported, "auto", FAULT_FALLOCATE, EOPNOTSUPP, 0)
SWEEP(allocate_broken, "auto", FAULT_FALLOCATE, EIO, -TERRACE_EIO)
SWEEP(eventfd, "auto", FAULT_EVENTFD, EMFILE, 0)
SWEEP(thread, "threads", FAULT_THREAD, EAGAIN, -TERRACE_ESYSTEM)

SWEEP(read_broken, "threads", FAULT_PREAD, EIO, -TERRACE_EIO)
SWEEP(read_interrupted, "threads", FAULT_PREAD, EINTR, 0)
SWEEP(read_again, "threads", FAULT_PREAD, EAGAIN, 0)
SWEEP(read_short, "threads", FAULT_PREAD, FAULT_SHORT, 0)
SWEEP(write_broken, "threads", FAULT_PWRITE, EIO, -TERRACE_EIO)
SWEEP(write_full, "threads", FAULT_PWRITE, ENOSPC, -TERRACE_ENOSPC)
SWEEP(write_interrupted, "threads", FAULT_PWRITE, EINTR, -TERRACE_EIO)
SWEEP(write_short, "threads", FAULT_PWRITE, FAULT_SHORT, -TERRACE_ENOSPC)

SWEEP(ring_refused, "auto", FAULT_URING_INIT, EPERM, 0)
SWEEP(ring_old_kernel, "auto", FAULT_URING_INIT, EINVAL, 0)
SWEEP(submit_again, "auto", FAULT_URING_SUBMIT, EAGAIN, 0)
SWEEP(submit_busy, "auto", FAULT_URING_SUBMIT, EBUSY, 0)
SWEEP(submit_interrupted, "auto", FAULT_URING_SUBMIT, EINTR, 0)
SWEEP(submit_refused, "auto", FAULT_URING_SUBMIT, EPERM, -TERRACE_EPERM)
SWEEP(wait_interrupted, "auto", FAULT_URING_WAIT, EINTR, 0)
SWEEP(wait_again, "auto", FAULT_URING_WAIT, EAGAIN, 0)
SWEEP(wait_broken, "auto", FAULT_URING_WAIT, EBADF, 0)
SWEEP(result_broken, "auto", FAULT_URING_RESULT, EIO, -TERRACE_EIO)
SWEEP(result_canceled, "auto", FAULT_URING_RESULT, ECANCELED, 0)
SWEEP(result_interrupted, "auto", FAULT_URING_RESULT, EINTR, 0)
SWEEP(result_again, "auto", FAULT_URING_RESULT, EAGAIN, 0)
SWEEP(result_short, "auto", FAULT_URING_RESULT, FAULT_SHORT, 0)
