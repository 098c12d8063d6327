/* simdisk.h - a simulated disk tier for tests of the core, "simdisk:0".
 *
 * Its blocks are host memory. It is a disk whose every move a test controls:
 * it can be held (nothing completes until it is let go), fail the Nth read or
 * write, flip a bit on the way back, be full, and count what it was asked.
 * A test program that includes this file has the tier in every manager it
 * opens; name the tiers wanted in TERRACE_TIERS ("numa:0,simdisk:0").
 * Nothing here is hardware. */
#ifndef TERRACE_TESTS_SIMDISK_H
#define TERRACE_TESTS_SIMDISK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "simwait.h"
#include "terrace_backend.h"

enum { SIMDISK_CHUNK = 64 << 10, SIMDISK_DEPTH = 16, SIMDISK_MOST = 64 };

struct simdisk {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    terrace_io *queue[SIMDISK_MOST];
    unsigned queued;
    unsigned most;          /* io_depth_most to announce */
    int64_t due[SIMDISK_MOST], latency_ns; /* when each is served; how long one takes */
    int64_t page_ns;        /* and each of its pages on top */
    bool one_by_one;        /* each after the one before, not all at once */
    bool crowded;           /* and the longer the more lie in the queue */
    unsigned deepest;       /* most that ever lay in the queue */
    bool woken;
    bool held;              /* nothing completes */
    bool refuse;            /* submit fails */
    int fail_read, fail_write; /* fail the Nth from now (1: the next); 0: none */
    int fail_all_writes, fail_all_reads;
    int flip;               /* flip a bit of the Nth read from now */
    uint64_t blocks;        /* bytes that commit gives at most; 0: no end */
    uint64_t committed;
    uint64_t boundary;      /* io_boundary to announce */
    unsigned reads, writes; /* pieces asked for */
    uint64_t read_bytes, written_bytes;
    char order[4096];       /* 'r' and 'w' in the order of submission */
    const void *host[4096]; /* and the memory each was to or from, */
    uint64_t at[4096], end[4096]; /* the blocks, */
    unsigned call[4096];    /* and with which call it came */
    unsigned calls;
};

static struct simdisk simdisk = {.lock = PTHREAD_MUTEX_INITIALIZER,
                                 .changed = PTHREAD_COND_INITIALIZER};
static const terrace_host *simdisk_host;

static int simdisk_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

static int simdisk_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)index;
    simdisk_host = host;
    info->capacity = 4ull << 30;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "simulated");
    info->page = 4096;
    info->granule = 2 << 20;
    info->io_chunk = SIMDISK_CHUNK;
    info->io_depth = SIMDISK_DEPTH;
    info->io_boundary = simdisk.boundary;
    info->io_depth_most = simdisk.most;
    snprintf(info->location, sizeof info->location, "simulated disk in memory");
    snprintf(info->engine, sizeof info->engine, "simulated");
    *unit = &simdisk;
    return 0;
}

static void simdisk_close(void *unit)
{
    (void)unit;
}

static int simdisk_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    (void)unit, (void)flags;
    void *p = mmap(NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -TERRACE_ENOMEM;
    *base = ((uint64_t)(uintptr_t)p + (2 << 20) - 1) & ~(uint64_t)((2 << 20) - 1);
    return 0;
}

static void simdisk_release(void *unit, uint64_t base, uint64_t bytes)
{
    (void)unit;
    munmap((void *)(uintptr_t)base, bytes);
}

static int simdisk_commit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address;
    pthread_mutex_lock(&simdisk.lock);
    bool full = simdisk.blocks && simdisk.committed + bytes > simdisk.blocks;
    simdisk.committed += full ? 0 : bytes;
    pthread_mutex_unlock(&simdisk.lock);
    return full ? simdisk_host->fail(simdisk_host->context, -TERRACE_ENOSPC, "the simulated disk is full")
                : 0;
}

static void simdisk_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    pthread_mutex_lock(&simdisk.lock);
    simdisk.committed -= bytes;
    pthread_mutex_unlock(&simdisk.lock);
    madvise((void *)(uintptr_t)address, bytes, MADV_DONTNEED);
}

static int64_t simdisk_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static bool simdisk_takes_time(void)
{
    return simdisk.latency_ns || simdisk.page_ns;
}

static void simdisk_take(terrace_io *io)
{
    unsigned i = simdisk.queued++;
    int64_t takes = simdisk.latency_ns + simdisk.page_ns * (int64_t)(io->bytes / 4096);
    int64_t begin = takes ? simdisk_now() : 0;
    if (simdisk.one_by_one && i && simdisk.due[i - 1] > begin)
        begin = simdisk.due[i - 1];
    simdisk.queue[i] = io;
    simdisk.due[i] = begin + takes * (simdisk.crowded ? i + 1 : 1);
    simdisk.deepest = simdisk.queued > simdisk.deepest ? simdisk.queued : simdisk.deepest;
}

/* Waits until the first in the queue is served, or the time is over. */
static void simdisk_serve(int64_t timeout_ns)
{
    int64_t left;
    int64_t end = timeout_ns < 0 ? INT64_MAX : simdisk_now() + timeout_ns;
    while (simdisk_takes_time() && !simdisk.woken && !simdisk.held && simdisk.queued &&
           (left = (simdisk.due[0] < end ? simdisk.due[0] : end) - simdisk_now()) > 0) {
        struct timespec until = simwait_until(left);
        simwait_sleep(&simdisk.changed, &simdisk.lock, left, &until);
    }
}

static bool simdisk_is_served(void)
{
    return !simdisk.held && simdisk.queued && (!simdisk_takes_time() || simdisk.due[0] <= simdisk_now());
}

static int simdisk_submit(void *unit, terrace_io *const *list, unsigned n)
{
    (void)unit;
    unsigned i;
    pthread_mutex_lock(&simdisk.lock);
    bool refuse = simdisk.refuse;
    simdisk.calls++;
    for (i = 0; !refuse && i < n && simdisk.queued < (simdisk.most ? simdisk.most : SIMDISK_DEPTH); i++) {
        unsigned at = simdisk.reads + simdisk.writes;
        bool read = list[i]->op == TERRACE_IO_READ;
        simdisk_take(list[i]);
        if (at < sizeof simdisk.order - 1) {
            simdisk.order[at] = read ? 'r' : 'w';
            simdisk.host[at] = list[i]->host;
            simdisk.at[at] = list[i]->address;
            simdisk.end[at] = list[i]->address + list[i]->bytes;
            simdisk.call[at] = simdisk.calls;
        }
        simdisk.reads += read;
        simdisk.writes += !read;
    }
    pthread_mutex_unlock(&simdisk.lock);
    return refuse ? -TERRACE_EDEVICE : (int)i;
}

static bool simdisk_nth(int *counter)
{
    return *counter > 0 && --*counter == 0;
}

/* Stands for the device reading memory by itself: what is written meanwhile is
 * the core's to notice, and no race between threads. */
__attribute__((noinline, no_sanitize("thread"))) static void simdisk_store(void *block,
                                                                           const terrace_io *io)
{
    const volatile uint64_t *from = io->host; /* whole pages */
    for (size_t i = 0; i < io->bytes / sizeof *from; i++)
        ((uint64_t *)block)[i] = from[i];
}

static void simdisk_copy(terrace_io *io)
{
    void *block = (void *)(uintptr_t)io->address;
    io->result = 0;
    if (io->op == TERRACE_IO_WRITE) {
        if (simdisk_nth(&simdisk.fail_write) || simdisk.fail_all_writes)
            io->result = simdisk.fail_all_writes ? simdisk.fail_all_writes : -TERRACE_EIO;
        else
            simdisk_store(block, io);
        simdisk.written_bytes += io->bytes;
    } else {
        memcpy(io->host, block, io->bytes);
        if (simdisk_nth(&simdisk.flip))
            ((unsigned char *)io->host)[io->bytes / 2] ^= 1;
        if (simdisk_nth(&simdisk.fail_read) || simdisk.fail_all_reads)
            io->result = -TERRACE_EIO;
        simdisk.read_bytes += io->bytes;
    }
}

static int simdisk_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    (void)unit;
    unsigned n = 0;
    struct timespec until = simwait_until(timeout_ns);
    pthread_mutex_lock(&simdisk.lock);
    while (!simdisk.woken && (simdisk.held || simdisk.queued == 0) &&
           simwait_sleep(&simdisk.changed, &simdisk.lock, timeout_ns, &until))
        ;
    simdisk_serve(timeout_ns);
    simdisk.woken = false;
    while (n < max && simdisk_is_served()) {
        done[n] = simdisk.queue[0];
        simdisk_copy(done[n++]);
        memmove(simdisk.queue, simdisk.queue + 1, --simdisk.queued * sizeof simdisk.queue[0]);
        memmove(simdisk.due, simdisk.due + 1, simdisk.queued * sizeof simdisk.due[0]);
    }
    pthread_mutex_unlock(&simdisk.lock);
    return (int)n;
}

static void simdisk_wake(void *unit)
{
    (void)unit;
    pthread_mutex_lock(&simdisk.lock);
    simdisk.woken = true;
    pthread_cond_signal(&simdisk.changed);
    pthread_mutex_unlock(&simdisk.lock);
}

static void simdisk_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    (void)unit;
    snprintf(buf, len, "%s %zu bytes of the simulated disk%s",
             io->op == TERRACE_IO_READ ? "reading" : "writing", io->bytes,
             io->result ? ": simulated failure" : "");
}

static const terrace_backend simdisk_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "simdisk",
    .tier_class = TERRACE_CLASS_DISK,
    .count = simdisk_count,
    .open = simdisk_open,
    .close = simdisk_close,
    .reserve = simdisk_reserve,
    .release = simdisk_release,
    .commit = simdisk_commit,
    .decommit = simdisk_decommit,
    .submit = simdisk_submit,
    .wait = simdisk_wait,
    .wake = simdisk_wake,
    .explain = simdisk_explain,
};
TERRACE_BACKEND_BUILTIN(simdisk_backend);

/* ---- what tests do with it --------------------------------------------- */

static inline void simdisk_hold(void)
{
    pthread_mutex_lock(&simdisk.lock);
    simdisk.held = true;
    pthread_mutex_unlock(&simdisk.lock);
}

static inline void simdisk_let_go(void)
{
    pthread_mutex_lock(&simdisk.lock);
    simdisk.held = false;
    pthread_cond_signal(&simdisk.changed);
    pthread_mutex_unlock(&simdisk.lock);
}

/* Sets one of the fault counters while transfers may be under way. */
static inline void simdisk_fault(int *counter, int nth)
{
    pthread_mutex_lock(&simdisk.lock);
    *counter = nth;
    pthread_mutex_unlock(&simdisk.lock);
}

/* How many pieces of either kind the disk was asked for, and the place among
 * them of the first and the last that was to or from [p, p + bytes). */
static inline unsigned simdisk_pieces(void)
{
    pthread_mutex_lock(&simdisk.lock);
    unsigned n = simdisk.reads + simdisk.writes;
    pthread_mutex_unlock(&simdisk.lock);
    return n;
}

static inline void simdisk_places(const void *p, size_t bytes, int *first, int *last)
{
    *first = *last = -1;
    pthread_mutex_lock(&simdisk.lock);
    for (int i = 0; i < (int)sizeof simdisk.order - 1 && simdisk.order[i]; i++)
        if ((uintptr_t)simdisk.host[i] - (uintptr_t)p < bytes) {
            *first = *first < 0 ? i : *first;
            *last = i;
        }
    pthread_mutex_unlock(&simdisk.lock);
}

/* Waits until `n` pieces lie in the queue of the held disk; false after 5 s. */
static inline bool simdisk_await_queued(unsigned n)
{
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&simdisk.lock);
        bool there = simdisk.queued >= n;
        pthread_mutex_unlock(&simdisk.lock);
        if (there)
            return true;
        usleep(1000);
    }
    return false;
}

#endif
