/* numa.c - the host tier: memory of this machine.
 *
 * One unit covers all the memory the process may use, whatever nodes it lies
 * on; the kernel's placement policy applies. A reservation is an anonymous
 * private mapping without swap reservation, so address space costs nothing
 * until it is touched: commit has nothing to do, and decommit hands pages back
 * with MADV_DONTNEED. Ranges that the core will use in whole granules ask for
 * transparent huge pages; the others refuse them, so that what the core
 * accounts by 4 KiB page is what the kernel really holds.
 *
 * Copies to and from this tier are host to host: submit does the memcpy and
 * queues the result for wait. The core decides the budget (it knows the
 * cgroups), hence capacity 0. */
#define _GNU_SOURCE
#include <numa.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "terrace_backend.h"

enum { PAGE = 4096, GRANULE = 2 << 20, IO_CHUNK = 1 << 20, IO_DEPTH = 4 };

struct numa_unit {
    terrace_io *finished[IO_DEPTH]; /* by the one thread that submits and waits */
    unsigned count;
    pthread_mutex_t lock; /* protects woken */
    pthread_cond_t wakeup;
    bool woken;
};

static int numa_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

/* Only libnuma calls that neither allocate nor warn: those that do may print
 * or end the process. */
static void numa_describe(char *buf, size_t len)
{
    unsigned configured = 1, allowed = 1;

    if (numa_available() >= 0) {
        configured = (unsigned)numa_num_configured_nodes();
        allowed = numa_bitmask_weight(numa_all_nodes_ptr);
    }
    if (configured <= 1)
        snprintf(buf, len, "node 0 of 1");
    else
        snprintf(buf, len, "%u of %u nodes", allowed, configured);
}

static int numa_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    struct numa_unit *u;
    pthread_condattr_t attr;

    if (index != 0)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no numa:%d, only numa:0", index);
    u = calloc(1, sizeof *u);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open numa:0");
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->wakeup, &attr);
    pthread_condattr_destroy(&attr);

    info->granule = GRANULE;
    info->page = PAGE;
    info->io_chunk = IO_CHUNK;
    info->io_depth = IO_DEPTH;
    numa_describe(info->location, sizeof info->location);
    snprintf(info->engine, sizeof info->engine, "memcpy");
    snprintf(info->engine_reason, sizeof info->engine_reason, "host memory is copied by the CPU");
    *unit = u;
    return 0;
}

static void numa_close(void *unit)
{
    struct numa_unit *u = unit;

    pthread_cond_destroy(&u->wakeup);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static int numa_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    uint64_t size = (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
    uint64_t start, end, aligned;
    void *map;

    (void)unit;
    if (size == 0 || size > SIZE_MAX - GRANULE)
        return -TERRACE_ENOMEM;
    map = mmap(NULL, size + GRANULE, PROT_READ | PROT_WRITE,
               MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return -TERRACE_ENOMEM;
    start = (uintptr_t)map;
    end = start + size + GRANULE;
    aligned = (start + GRANULE - 1) & ~(uint64_t)(GRANULE - 1);
    if (aligned > start)
        munmap(map, aligned - start);
    munmap((void *)(uintptr_t)(aligned + size), end - aligned - size);
    /* Refused only where the kernel has no huge pages: then there is nothing to choose. */
    madvise((void *)(uintptr_t)aligned, size,
            flags & TERRACE_RESERVE_HUGE ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    *base = aligned;
    return 0;
}

static void numa_release(void *unit, uint64_t base, uint64_t bytes)
{
    (void)unit;
    munmap((void *)(uintptr_t)base, bytes);
}

static int numa_commit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit, (void)address, (void)bytes;
    return 0;
}

static void numa_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    madvise((void *)(uintptr_t)address, bytes, MADV_DONTNEED);
}

static int numa_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct numa_unit *u = unit;
    unsigned i;

    for (i = 0; i < n && u->count < IO_DEPTH; i++) {
        terrace_io *io = list[i];
        void *tier = (void *)(uintptr_t)io->address;

        if (io->op == TERRACE_IO_READ)
            memcpy(io->host, tier, io->bytes);
        else
            memcpy(tier, io->host, io->bytes);
        io->result = 0;
        io->os_error = 0;
        io->cpu_copied = io->bytes;
        u->finished[u->count++] = io;
    }
    return (int)i;
}

/* Sleeps until wake or the time limit. */
static void numa_sleep(struct numa_unit *u, int64_t timeout_ns)
{
    struct timespec limit;

    clock_gettime(CLOCK_MONOTONIC, &limit);
    if (timeout_ns > 0) {
        limit.tv_sec += timeout_ns / 1000000000;
        limit.tv_nsec += timeout_ns % 1000000000;
        if (limit.tv_nsec >= 1000000000) {
            limit.tv_sec++;
            limit.tv_nsec -= 1000000000;
        }
    }
    pthread_mutex_lock(&u->lock);
    while (!u->woken)
        if (timeout_ns < 0)
            pthread_cond_wait(&u->wakeup, &u->lock);
        else if (pthread_cond_timedwait(&u->wakeup, &u->lock, &limit))
            break;
    u->woken = false;
    pthread_mutex_unlock(&u->lock);
}

static int numa_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct numa_unit *u = unit;
    unsigned n;

    if (u->count == 0)
        numa_sleep(u, timeout_ns);
    n = u->count < max ? u->count : max;
    memcpy(done, u->finished, n * sizeof *done);
    u->count -= n;
    memmove(u->finished, u->finished + n, u->count * sizeof *done);
    return (int)n;
}

static void numa_wake(void *unit)
{
    struct numa_unit *u = unit;

    pthread_mutex_lock(&u->lock);
    u->woken = true;
    pthread_cond_signal(&u->wakeup);
    pthread_mutex_unlock(&u->lock);
}

static void numa_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    (void)unit;
    snprintf(buf, len, "%s %zu bytes of host memory at %#llx: %s",
             io->op == TERRACE_IO_READ ? "reading" : "writing", io->bytes,
             (unsigned long long)io->address, strerrordesc_np(io->os_error));
}

static const terrace_backend numa_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "numa",
    .tier_class = TERRACE_CLASS_HOST,
    .caps = TERRACE_CAP_CPU,
    .count = numa_count,
    .open = numa_open,
    .close = numa_close,
    .reserve = numa_reserve,
    .release = numa_release,
    .commit = numa_commit,
    .decommit = numa_decommit,
    .submit = numa_submit,
    .wait = numa_wait,
    .wake = numa_wake,
    .explain = numa_explain,
};
TERRACE_BACKEND_BUILTIN(numa_backend);
