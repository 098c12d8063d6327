/* simnode.h - a simulated memory tier for tests of the core, "simnode:0".
 *
 * It stands for the memory of another node: a slower host tier, whose addresses
 * are plain pointers, copied to and from by its own queue. It can be held
 * (nothing completes until it is let go) and counts what it was asked. A test
 * program that includes this file has the tier in every manager it opens; name
 * the tiers wanted in TERRACE_TIERS ("numa:0,simnode:0,simdisk:0").
 * Nothing here is hardware. */
#ifndef TERRACE_TESTS_SIMNODE_H
#define TERRACE_TESTS_SIMNODE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "terrace_backend.h"

enum { SIMNODE_CHUNK = 64 << 10, SIMNODE_DEPTH = 8 };

static struct simnode {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    terrace_io *queue[SIMNODE_DEPTH];
    unsigned queued;
    bool woken;
    bool held;                        /* nothing completes */
    uint64_t read_bytes, written_bytes; /* from the node, to it */
} simnode = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static int simnode_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

static int simnode_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)host, (void)index;
    info->capacity = 1ull << 30;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "simulated");
    info->page = 4096;
    info->granule = 2 << 20;
    info->io_chunk = SIMNODE_CHUNK;
    info->io_depth = SIMNODE_DEPTH;
    snprintf(info->location, sizeof info->location, "simulated node");
    snprintf(info->engine, sizeof info->engine, "simulated");
    *unit = &simnode;
    return 0;
}

static void simnode_close(void *unit)
{
    (void)unit;
}

static int simnode_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    (void)unit, (void)flags;
    void *p = mmap(NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -TERRACE_ENOMEM;
    *base = ((uint64_t)(uintptr_t)p + (2 << 20) - 1) & ~(uint64_t)((2 << 20) - 1);
    return 0;
}

static void simnode_release(void *unit, uint64_t base, uint64_t bytes)
{
    (void)unit;
    munmap((void *)(uintptr_t)base, bytes);
}

static int simnode_commit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address, (void)bytes;
    return 0;
}

static void simnode_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    madvise((void *)(uintptr_t)address, bytes, MADV_DONTNEED);
}

static int simnode_submit(void *unit, terrace_io *const *list, unsigned n)
{
    (void)unit;
    unsigned i;
    pthread_mutex_lock(&simnode.lock);
    for (i = 0; i < n && simnode.queued < SIMNODE_DEPTH; i++)
        simnode.queue[simnode.queued++] = list[i];
    pthread_mutex_unlock(&simnode.lock);
    return (int)i;
}

/* The copy of bytes that change meanwhile is discarded by the core. */
__attribute__((noinline, no_sanitize("thread"))) static void simnode_copy(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        ((volatile uint64_t *)to)[i] = ((const volatile uint64_t *)from)[i];
}

static int simnode_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    (void)unit;
    unsigned n = 0;
    pthread_mutex_lock(&simnode.lock);
    while (timeout_ns && !simnode.woken && (simnode.held || simnode.queued == 0))
        pthread_cond_wait(&simnode.changed, &simnode.lock);
    simnode.woken = false;
    while (!simnode.held && simnode.queued && n < max) {
        terrace_io *io = simnode.queue[0];
        void *tier = (void *)(uintptr_t)io->address;
        bool into = io->op == TERRACE_IO_WRITE;
        simnode_copy(into ? tier : io->host, into ? io->host : tier, io->bytes);
        *(into ? &simnode.written_bytes : &simnode.read_bytes) += io->bytes;
        io->result = 0;
        done[n++] = io;
        memmove(simnode.queue, simnode.queue + 1, --simnode.queued * sizeof simnode.queue[0]);
    }
    pthread_mutex_unlock(&simnode.lock);
    return (int)n;
}

static void simnode_wake(void *unit)
{
    (void)unit;
    pthread_mutex_lock(&simnode.lock);
    simnode.woken = true;
    pthread_cond_signal(&simnode.changed);
    pthread_mutex_unlock(&simnode.lock);
}

static void simnode_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    (void)unit;
    snprintf(buf, len, "copying %zu bytes of the simulated node", io->bytes);
}

static const terrace_backend simnode_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "simnode",
    .tier_class = TERRACE_CLASS_HOST,
    .caps = TERRACE_CAP_CPU,
    .count = simnode_count,
    .open = simnode_open,
    .close = simnode_close,
    .reserve = simnode_reserve,
    .release = simnode_release,
    .commit = simnode_commit,
    .decommit = simnode_decommit,
    .submit = simnode_submit,
    .wait = simnode_wait,
    .wake = simnode_wake,
    .explain = simnode_explain,
};
/* As TERRACE_BACKEND_BUILTIN, which may stand once in a file: the disk's is there. */
__attribute__((used, section("terrace_backends"))) static const terrace_backend
    *const simnode_entry = &simnode_backend;

static inline void simnode_hold(bool held)
{
    pthread_mutex_lock(&simnode.lock);
    simnode.held = held;
    pthread_cond_signal(&simnode.changed);
    pthread_mutex_unlock(&simnode.lock);
}

/* Waits until `n` copies lie in the queue of the held node; false after 5 s. */
static inline bool simnode_await_queued(unsigned n)
{
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&simnode.lock);
        bool there = simnode.queued >= n;
        pthread_mutex_unlock(&simnode.lock);
        if (there)
            return true;
        usleep(1000);
    }
    return false;
}

#endif
