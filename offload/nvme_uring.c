/* nvme_uring.c - disk transfers through io_uring. */
#define _GNU_SOURCE
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nvme.h"

/* Every copy, the wake-up, and as many withdrawn entries. */
enum { RING_ENTRIES = 4 * IO_DEPTH_MOST };
enum { FIXED = 256 }; /* ranges of host memory that the ring may know */
enum { TAG_NOTHING = 0, TAG_WAKE = 1, TAG_WATCH = 2 }; /* user_data of what is not a copy */

struct uring {
    struct io_uring ring;
    /* Entries the kernel has not taken yet, in order. */
    struct io_uring_sqe *queued[RING_ENTRIES];
    unsigned queued_count;
    bool queued_write;  /* has been among them since they were last empty */
    unsigned in_flight; /* copies taken and not handed back */
    struct queue finished;
    int wake_fd; /* an eventfd; a read of it is always in the ring */
    uint64_t wake_value;
    bool wake_armed;
    int watch_fd; /* or -1; a poll of it is always in the ring */
    bool watch_armed;
    atomic_bool woken;
    /* Memory registered with the ring: its pages need not be looked up, nor held,
     * for each copy. Read without the lock, the base first. */
    struct {
        char *_Atomic base; /* NULL: free */
        size_t bytes;
    } fixed[FIXED];
    atomic_uint fixed_end; /* none is used from there on */
    pthread_mutex_t pinning; /* held by who changes them */
    bool sparse; /* there is a table to register them in */
};

static struct io_uring_sqe *uring_entry(struct uring *r)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    if (sqe)
        r->queued[r->queued_count++] = sqe;
    return sqe;
}

/* The registered range that holds the memory, or -1. */
static int uring_fixed(struct uring *r, const char *host, size_t bytes)
{
    int end = (int)atomic_load_explicit(&r->fixed_end, memory_order_acquire);
    for (int i = 0; i < end; i++) {
        const char *base = atomic_load_explicit(&r->fixed[i].base, memory_order_acquire);
        if (base && host >= base && bytes <= r->fixed[i].bytes &&
            (size_t)(host - base) <= r->fixed[i].bytes - bytes)
            return i;
    }
    return -1;
}

static bool uring_queue(struct uring *r, terrace_io *io)
{
    struct op *op = op_of(io);
    struct io_uring_sqe *sqe = uring_entry(r);
    if (!sqe)
        return false;
    char *host = (char *)io->host + op->done;
    unsigned bytes = (unsigned)nvme_op_left(io);
    r->queued_write |= io->op == TERRACE_IO_WRITE;
    int fixed = uring_fixed(r, host, bytes);
    if (fixed >= 0 && io->op == TERRACE_IO_READ)
        io_uring_prep_read_fixed(sqe, op->fd, host, bytes, op->offset + op->done, fixed);
    else if (fixed >= 0)
        io_uring_prep_write_fixed(sqe, op->fd, host, bytes, op->offset + op->done, fixed);
    else if (io->op == TERRACE_IO_READ)
        io_uring_prep_read(sqe, op->fd, host, bytes, op->offset + op->done);
    else
        io_uring_prep_write(sqe, op->fd, host, bytes, op->offset + op->done);
    if (!op->direct)
        io_uring_sqe_set_flags(sqe, IOSQE_ASYNC); /* copying is not for the submitter */
    sqe->user_data = (uintptr_t)io;
    return true;
}

static void uring_arm_watch(struct uring *r)
{
    struct io_uring_sqe *sqe = r->watch_fd < 0 || r->watch_armed ? NULL : uring_entry(r);
    if (!sqe)
        return;
    io_uring_prep_poll_multishot(sqe, r->watch_fd, POLLIN);
    sqe->user_data = TAG_WATCH;
    r->watch_armed = true;
}

static void uring_arm(struct uring *r)
{
    uring_arm_watch(r);
    struct io_uring_sqe *sqe = r->wake_armed ? NULL : uring_entry(r);
    if (!sqe)
        return;
    io_uring_prep_read(sqe, r->wake_fd, &r->wake_value, sizeof r->wake_value, 0);
    sqe->user_data = TAG_WAKE;
    r->wake_armed = true;
}

/* The kernel refuses what is queued: it goes there as nothing some other time,
 * and the copies have failed. */
static void uring_withdraw(struct uring *r, int error)
{
    for (unsigned i = 0; i < r->queued_count; i++) {
        uint64_t tag = r->queued[i]->user_data;
        io_uring_prep_nop(r->queued[i]);
        r->queued[i]->user_data = TAG_NOTHING;
        if (tag == TAG_WAKE)
            r->wake_armed = false;
        else if (tag == TAG_WATCH)
            r->watch_armed = false;
        else if (tag != TAG_NOTHING) {
            terrace_io *io = (terrace_io *)(uintptr_t)tag;
            nvme_op_end(io, error, nvme_errno(error));
            queue_push(&r->finished, io);
        }
    }
}

/* Hands queued entries to the kernel. Some may stay where it is short of
 * memory; wait tries again. */
static void uring_flush(struct uring *r)
{
    struct xfsz x;
    int n = 1;
    bool guard = r->queued_write; /* only a write can raise the signal */
    if (guard)
        nvme_xfsz_block(&x);
    while (r->queued_count && n > 0) {
        n = io_uring_submit(&r->ring);
        if (n > 0) {
            r->queued_count -= (unsigned)n;
            memmove(r->queued, r->queued + n, r->queued_count * sizeof *r->queued);
        } else if (n != 0 && n != -EINTR && n != -EAGAIN && n != -EBUSY) {
            uring_withdraw(r, -n);
        }
    }
    r->queued_write &= r->queued_count != 0;
    if (guard)
        nvme_xfsz_restore(&x);
}

static void uring_watched(struct uring *r, const struct io_uring_cqe *cqe)
{
    if (cqe->res < 0)
        r->watch_fd = -1; /* closed, or polls are not possible */
    if (!(cqe->flags & IORING_CQE_F_MORE))
        r->watch_armed = false;
    atomic_store(&r->woken, true);
}

static void uring_harvest(struct uring *r)
{
    struct io_uring_cqe *cqe[RING_ENTRIES];
    unsigned n = io_uring_peek_batch_cqe(&r->ring, cqe, RING_ENTRIES);
    for (unsigned i = 0; i < n; i++) {
        terrace_io *io = (terrace_io *)(uintptr_t)cqe[i]->user_data;
        if (cqe[i]->user_data == TAG_WAKE)
            r->wake_armed = false;
        else if (cqe[i]->user_data == TAG_WATCH)
            uring_watched(r, cqe[i]);
        else if (cqe[i]->user_data != TAG_NOTHING &&
                 (nvme_op_step(io, cqe[i]->res) || (!uring_queue(r, io) && nvme_op_end(io, EBUSY, -TERRACE_EIO))))
            queue_push(&r->finished, io);
    }
    io_uring_cq_advance(&r->ring, n);
}

/* Until something completes or left_ns (negative: no limit) have passed. Where
 * the wake-up is not in the ring or entries are still queued, a millisecond:
 * the caller looks again. */
static void uring_sleep(struct uring *r, int64_t left_ns)
{
    static const struct timespec millisecond = {.tv_nsec = 1000000};
    struct __kernel_timespec ts, *limit = left_ns < 0 ? NULL : &ts;
    struct io_uring_cqe *cqe;
    if (!r->wake_armed || r->queued_count) {
        limit = &ts;
        left_ns = left_ns < 0 || left_ns > 1000000 ? 1000000 : left_ns;
    }
    ts.tv_sec = left_ns / 1000000000;
    ts.tv_nsec = left_ns % 1000000000;
    int error = io_uring_wait_cqe_timeout(&r->ring, &cqe, limit);
    if (error < 0 && error != -ETIME && error != -EINTR)
        nanosleep(&millisecond, NULL); /* completions still arrive in memory */
}

static int uring_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct nvme *u = unit;
    struct uring *r = u->state;
    unsigned i;
    for (i = 0; i < n && r->in_flight < IO_DEPTH_MOST; i++) {
        if (!nvme_op_start(u, list[i]))
            queue_push(&r->finished, list[i]);
        else if (!uring_queue(r, list[i]))
            break;
        r->in_flight++;
    }
    uring_flush(r);
    if (n && !r->in_flight)
        return u->host->fail(u->host->context, -TERRACE_EIO,
                             "io_uring of %s no longer accepts transfers", u->folder[0].path);
    return (int)i;
}

static int uring_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct nvme *u = unit;
    struct uring *r = u->state;
    int64_t deadline = deadline_of(timeout_ns);
    for (;;) {
        uring_harvest(r);
        uring_arm(r);
        uring_flush(r);
        unsigned n = queue_take(&r->finished, done, max);
        r->in_flight -= n;
        int64_t left = deadline < 0 ? -1 : deadline - now_ns();
        if (n || atomic_exchange(&r->woken, false) || (deadline >= 0 && left <= 0))
            return (int)n;
        uring_sleep(r, left);
    }
}

static void uring_wake(void *unit)
{
    struct uring *r = ((struct nvme *)unit)->state;
    atomic_store(&r->woken, true);
    eventfd_write(r->wake_fd, 1);
}

static int uring_watch(void *unit, int fd)
{
    struct uring *r = ((struct nvme *)unit)->state;
    r->watch_fd = fd;
    return 0;
}

static int uring_register(struct uring *r, unsigned index, struct iovec range)
{
    __u64 tag = 0;
    int n = io_uring_register_buffers_update_tag(&r->ring, index, &range, &tag, 1);
    return n < 0 ? n : n == 1 ? 0 : -EIO;
}

static int pin_locked(struct uring *r, void *address, uint64_t bytes)
{
    unsigned i = 0;
    int error = r->sparse ? 0 : io_uring_register_buffers_sparse(&r->ring, FIXED); /* Linux 5.19 */
    if (error)
        return error;
    r->sparse = true;
    while (i < FIXED && r->fixed[i].base)
        i++;
    if (i == FIXED)
        return -ENOMEM;
    error = uring_register(r, i, (struct iovec){address, bytes});
    if (error)
        return error;
    r->fixed[i].bytes = bytes;
    atomic_store_explicit(&r->fixed[i].base, address, memory_order_release);
    if (i >= atomic_load_explicit(&r->fixed_end, memory_order_relaxed))
        atomic_store_explicit(&r->fixed_end, i + 1, memory_order_release);
    return 0;
}

static int uring_pin(void *unit, void *address, uint64_t bytes)
{
    struct uring *r = ((struct nvme *)unit)->state;
    pthread_mutex_lock(&r->pinning);
    int error = pin_locked(r, address, bytes);
    pthread_mutex_unlock(&r->pinning);
    return error;
}

static void uring_unpin(void *unit, void *address, uint64_t bytes)
{
    struct uring *r = ((struct nvme *)unit)->state;
    (void)bytes;
    pthread_mutex_lock(&r->pinning);
    for (unsigned i = 0; i < FIXED; i++)
        if (r->fixed[i].base == address) {
            r->fixed[i].base = NULL;
            uring_register(r, i, (struct iovec){NULL, 0});
        }
    pthread_mutex_unlock(&r->pinning);
}

/* Reads the probe file through the ring: setting one up may be allowed where
 * using it is not. */
static int uring_try(struct uring *r, int probe)
{
    static const int64_t patience_ns = 10000000000;
    struct __kernel_timespec limit = {.tv_sec = patience_ns / 1000000000};
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    struct io_uring_cqe *cqe;
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return -ENOMEM;
    io_uring_prep_read(sqe, probe, page, PAGE, 0);
    sqe->user_data = TAG_NOTHING;
    int error = io_uring_submit(&r->ring);
    if (error == 1)
        error = io_uring_wait_cqe_timeout(&r->ring, &cqe, &limit);
    else if (error >= 0)
        error = -EAGAIN;
    if (error == 0) {
        error = cqe->res < 0 ? cqe->res : cqe->res != PAGE || memcmp(page, nvme_probe_page, PAGE) != 0 ? -EIO : 0;
        io_uring_cqe_seen(&r->ring, cqe);
    }
    munmap(page, PAGE);
    return error;
}

static int uring_setup(struct uring *r)
{
    int error = io_uring_queue_init(RING_ENTRIES, &r->ring,
                                    IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG);
    if (error == -EINVAL) /* before Linux 5.19 */
        error = io_uring_queue_init(RING_ENTRIES, &r->ring, 0);
    if (error < 0)
        return error;
    if (r->ring.features & IORING_FEAT_EXT_ARG)
        return 0;
    io_uring_queue_exit(&r->ring); /* before Linux 5.11: a wait with a time limit is a request */
    return -ENOSYS;
}

static void uring_close(struct nvme *u)
{
    struct uring *r = u->state;
    io_uring_queue_exit(&r->ring);
    close(r->wake_fd);
    pthread_mutex_destroy(&r->pinning);
    free(r);
}

static int uring_open(struct nvme *u, int probe)
{
    struct uring *r = calloc(1, sizeof *r);
    if (!r)
        return -ENOMEM;
    r->watch_fd = -1;
    int error = uring_setup(r);
    if (error)
        goto free_state;
    r->wake_fd = eventfd(0, EFD_CLOEXEC);
    error = r->wake_fd < 0 ? -errno : uring_try(r, probe);
    u->state = r;
    pthread_mutex_init(&r->pinning, NULL);
    if (!error)
        return 0;
    if (r->wake_fd >= 0)
        close(r->wake_fd);
    io_uring_queue_exit(&r->ring);
free_state:
    free(r);
    return error;
}

const struct engine nvme_uring = {
    "io_uring", uring_open, uring_close, uring_submit, uring_wait, uring_wake, uring_pin, uring_unpin,
    uring_watch,
};

