/* Every system call and allocation of a whole manager fails once, at each place
 * where it is made: opening fails with a sentence or works, an acquire gives the
 * right bytes or says why not, and afterwards nothing that was written is lost. */
#include <dirent.h>
#include <errno.h>

#include "faults.h"
#include "manager.h"

enum { TENSORS = 8, BYTES = 512 * KIB, PASSES = 3, MOST_CALLS = 5000 };
/* An encrypting manager keeps 2 MiB of the budget for itself. */
#define PLAIN ";limit_numa=1M"
#define VERIFIED ";limit_numa=1M;verify=spill"
#define ENCRYPTED ";limit_numa=3M;encrypt=1"

/* What is done to one call, and the codes it may end in besides success. */
struct sweep {
    const char *conf;
    enum fault_call call;
    int error;
    int at_open, later;
};

static struct {
    terrace *m;
    terrace_tensor *tensor[TENSORS];
    uint64_t seed[TENSORS]; /* of the bytes it must have; 0: zeros */
} w;

static unsigned fds_open(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    cr_assert_not_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* A call that fails has the code that is allowed, and a sentence. */
static bool refused(int error, int allowed)
{
    if (!error)
        return false;
    cr_assert(error == allowed, "error %d (%s): %s", error, terrace_strerror(error),
              terrace_last_error());
    cr_assert(*terrace_last_error(), "error %d without a sentence", error);
    return true;
}

static bool right(const void *p, unsigned i)
{
    static const unsigned char zeros[BYTES];
    return w.seed[i] ? pattern_is(p, BYTES, w.seed[i]) : memcmp(p, zeros, BYTES) == 0;
}

/* One acquire; what does not overwrite sees the bytes there must be. */
static int use(unsigned i, unsigned mode, uint64_t seed)
{
    void *p;
    int error = terrace_acquire(w.tensor[i], host_of(w.m), mode, NULL, &p, NULL);
    if (error)
        return error;
    if (mode != TERRACE_OVERWRITE)
        cr_assert(right(p, i), "tensor %u has other bytes than those of seed %llu", i,
                  (unsigned long long)w.seed[i]);
    if (mode != TERRACE_READ) {
        pattern_fill(p, BYTES, seed);
        w.seed[i] = seed;
    }
    assert_ok(terrace_release(w.tensor[i], p, NULL));
    return 0;
}

/* Writes all, changes every other one and reads the rest, reads all. */
static void work(const struct sweep *s)
{
    for (unsigned i = 0; i < TENSORS; i++) {
        terrace_tensor_attr attr = {.size = sizeof attr, .label = "swept"};
        if (refused(terrace_tensor_create(w.m, BYTES, &attr, &w.tensor[i]), s->later))
            w.tensor[i] = NULL;
    }
    for (unsigned pass = 0; pass < PASSES; pass++)
        for (unsigned i = 0; i < TENSORS; i++) {
            unsigned mode = pass == 0 ? TERRACE_OVERWRITE : pass == 1 && i % 2 ? TERRACE_WRITE : TERRACE_READ;
            if (w.tensor[i])
                refused(use(i, mode, 1 + pass * TENSORS + i), s->later);
        }
}

/* No call fails any more: everything written is there, and writing goes on. */
static void nothing_is_lost(void)
{
    for (unsigned i = 0; i < TENSORS; i++)
        if (!w.tensor[i])
            w.tensor[i] = tensor_of(w.m, BYTES, "late");
        else
            terrace_wait(w.tensor[i]); /* may still tell of the failure */
    for (unsigned i = 0; i < TENSORS; i++) /* WRITE sees what was there */
        assert_ok(use(i, TERRACE_WRITE, 1000 + i));
    for (unsigned i = 0; i < TENSORS; i++)
        assert_ok(use(i, TERRACE_READ, 0));
}

/* One round; false: the nth call of its kind was not made. */
static bool round_of(const struct sweep *s, unsigned nth, bool while_closing)
{
    unsigned fds = fds_open();
    memset(&w, 0, sizeof w);
    if (!while_closing)
        fault_arm(s->call, nth, s->error);
    int error = terrace_open(&w.m, s->conf);
    if (error) {
        bool fired = fault_disarm();
        cr_assert(fired, "opening failed untouched: %s", terrace_last_error());
        refused(error, error == s->later ? s->later : s->at_open);
        cr_assert_null(w.m, "a manager was given with error %d", error);
        cr_assert_eq(fds_open(), fds, "descriptors leaked by an open that failed at call %u", nth);
        return true;
    }
    work(s);
    bool fired = !while_closing && fault_disarm();
    nothing_is_lost();
    terrace_statistics is = stats_of(w.m);
    cr_assert_gt(is.writeback_bytes, TENSORS * BYTES / 2, "nothing was spilled");
    cr_assert(fired || is.io_errors == 0, "%llu transfers failed untouched",
              (unsigned long long)is.io_errors);
    if (while_closing)
        fault_arm(s->call, nth, s->error);
    for (unsigned i = 0; i < TENSORS / 2; i++) /* close destroys the others */
        terrace_tensor_destroy(w.tensor[i]);
    terrace_close(w.m);
    if (while_closing)
        fired = fault_disarm();
    cr_assert_eq(fds_open(), fds, "descriptors leaked at call %u", nth);
    return fired;
}

static void sweep(const struct sweep *s)
{
    unsigned n = 0;
    alarm(280); /* a hang is a failure */
    while (round_of(s, ++n, false))
        cr_assert_lt(n, MOST_CALLS);
    cr_assert_gt(n, 1, "nothing was struck");
    for (n = 1; round_of(s, n, true); n++)
        cr_assert_lt(n, MOST_CALLS);
}

#define SWEEP(name, io, more, call, error, at_open, later)                                 \
    Test(faults, name, .timeout = 300)                                                     \
    {                                                                                      \
        sweep(&(struct sweep){"tiers=numa:0,nvme:0;log=off;io=" io more, call, error, at_open, later}); \
    }
/* The same on either engine, where what is struck is used by both. */
#define BOTH(name, more, call, error, at_open, later)                                      \
    SWEEP(name##_uring, "auto", more, call, error, at_open, later)                         \
    SWEEP(name##_threads, "threads", more, call, error, at_open, later)

BOTH(allocation, PLAIN, FAULT_ALLOCATE, ENOMEM, -TERRACE_ENOMEM, -TERRACE_ENOMEM)
BOTH(allocation_verified, VERIFIED, FAULT_ALLOCATE, ENOMEM, -TERRACE_ENOMEM, -TERRACE_ENOMEM)
BOTH(allocation_encrypted, ENCRYPTED, FAULT_ALLOCATE, ENOMEM, -TERRACE_ENOMEM, -TERRACE_ENOMEM)
SWEEP(allocation_insisting, "uring", PLAIN, FAULT_ALLOCATE, ENOMEM, -TERRACE_ECONFIG, -TERRACE_ENOMEM)

BOTH(mmap, PLAIN, FAULT_MMAP, ENOMEM, -TERRACE_ENOMEM, -TERRACE_ENOMEM)
BOTH(mmap_encrypted, ENCRYPTED, FAULT_MMAP, ENOMEM, -TERRACE_ENOMEM, -TERRACE_ENOMEM)
BOTH(open_limit, PLAIN, FAULT_OPEN, EMFILE, -TERRACE_ESYSTEM, 0)
BOTH(open_broken, PLAIN, FAULT_OPEN, EIO, -TERRACE_EIO, 0)
BOTH(thread, PLAIN, FAULT_THREAD, EAGAIN, -TERRACE_ESYSTEM, 0)
SWEEP(eventfd, "auto", PLAIN, FAULT_EVENTFD, EMFILE, 0, 0)

/* A full disk makes what is not needed there go, and is tried again. */
BOTH(disk_full, PLAIN, FAULT_FALLOCATE, ENOSPC, 0, -TERRACE_ENOSPC)
BOTH(disk_full_verified, VERIFIED, FAULT_FALLOCATE, ENOSPC, 0, -TERRACE_ENOSPC)
BOTH(disk_full_encrypted, ENCRYPTED, FAULT_FALLOCATE, ENOSPC, 0, -TERRACE_ENOSPC)
BOTH(allocate_interrupted, PLAIN, FAULT_FALLOCATE, EINTR, 0, 0)
BOTH(allocate_broken, PLAIN, FAULT_FALLOCATE, EIO, 0, -TERRACE_EIO)

/* What fails in a checked or encrypted transfer. A read that fails is reported;
 * a write that fails is made again later, for the bytes are in memory. */
#define TRANSFERS(suffix, more)                                                            \
    SWEEP(read_broken##suffix, "threads", more, FAULT_PREAD, EIO, 0, -TERRACE_EIO)         \
    SWEEP(read_short##suffix, "threads", more, FAULT_PREAD, FAULT_SHORT, 0, 0)             \
    SWEEP(write_broken##suffix, "threads", more, FAULT_PWRITE, EIO, -TERRACE_EIO, -TERRACE_EIO) \
    SWEEP(write_full##suffix, "threads", more, FAULT_PWRITE, ENOSPC, -TERRACE_ENOSPC, -TERRACE_ENOSPC) \
    SWEEP(write_short##suffix, "threads", more, FAULT_PWRITE, FAULT_SHORT, -TERRACE_ENOSPC, 0) \
    SWEEP(submit_refused##suffix, "auto", more, FAULT_URING_SUBMIT, EPERM, 0, -TERRACE_EPERM) \
    SWEEP(result_broken##suffix, "auto", more, FAULT_URING_RESULT, EIO, 0, -TERRACE_EIO)   \
    SWEEP(result_full##suffix, "auto", more, FAULT_URING_RESULT, ENOSPC, 0, -TERRACE_ENOSPC) \
    SWEEP(result_short##suffix, "auto", more, FAULT_URING_RESULT, FAULT_SHORT, 0, 0)

TRANSFERS(, PLAIN)
TRANSFERS(_verified, VERIFIED)
TRANSFERS(_encrypted, ENCRYPTED)

/* What only the engine sees. */
SWEEP(read_interrupted, "threads", PLAIN, FAULT_PREAD, EINTR, 0, 0)
SWEEP(read_again, "threads", PLAIN, FAULT_PREAD, EAGAIN, 0, 0)
SWEEP(write_interrupted, "threads", PLAIN, FAULT_PWRITE, EINTR, -TERRACE_EIO, 0)
SWEEP(write_again, "threads", PLAIN, FAULT_PWRITE, EAGAIN, -TERRACE_ESYSTEM, 0)
SWEEP(ring_refused, "auto", PLAIN, FAULT_URING_INIT, EPERM, 0, 0)
SWEEP(ring_refused_insisting, "uring", PLAIN, FAULT_URING_INIT, EPERM, -TERRACE_ECONFIG, 0)
SWEEP(submit_interrupted, "auto", PLAIN, FAULT_URING_SUBMIT, EINTR, 0, 0)
SWEEP(submit_again, "auto", PLAIN, FAULT_URING_SUBMIT, EAGAIN, 0, 0)
SWEEP(submit_busy, "auto", PLAIN, FAULT_URING_SUBMIT, EBUSY, 0, 0)
SWEEP(wait_broken, "auto", PLAIN, FAULT_URING_WAIT, EBADF, 0, 0)
SWEEP(wait_interrupted, "auto", PLAIN, FAULT_URING_WAIT, EINTR, 0, 0)
SWEEP(wait_again, "auto", PLAIN, FAULT_URING_WAIT, EAGAIN, 0, 0)
SWEEP(result_interrupted, "auto", PLAIN, FAULT_URING_RESULT, EINTR, 0, 0)
SWEEP(result_again, "auto", PLAIN, FAULT_URING_RESULT, EAGAIN, 0, 0)
SWEEP(result_canceled, "auto", PLAIN, FAULT_URING_RESULT, ECANCELED, 0, 0)
