/* numa.c - the host tiers: the memory of each NUMA node.
 *
 * Unit N is not node N but the Nth of the nodes that the process may use, nearest
 * first (see numa_nodes.h); its location names the node. So numa:0 is always
 * there and is the fastest, whatever a cpuset leaves of the machine, and ranks
 * that are bound to a socket each can share one configuration. Where processes
 * are not bound and nodes have CPUs and no gaps, both numbers are the same.
 *
 * With one node, or where the system refuses to bind memory, one unit covers
 * all memory, and the core decides the budget (it knows the cgroups), hence
 * capacity 0: the size of a single node may be wrong where memory was added to a
 * running machine. With several, each says what its node can give, and the core
 * divides what the process may take.
 *
 * Copies to and from these tiers are host to host: submit does the memcpy and
 * queues the result for wait. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "numa_memory.h"
#include "sleep.h"
#include "terrace_backend.h"

enum { PAGE = 4096, IO_CHUNK = 1 << 20, IO_DEPTH = 4 };

struct numa_unit {
    struct numa_memory memory;
    terrace_io *finished[IO_DEPTH]; /* by the one thread that submits and waits */
    unsigned count;
    pthread_mutex_t lock; /* protects woken */
    pthread_cond_t wakeup;
    bool woken;
};

static int numa_count(const terrace_host *host)
{
    struct numa_nodes nodes;

    (void)host;
    numa_nodes_find(&nodes);
    return nodes.count;
}

/* Less 5 %, at least 128 MiB, a tenth of little: what the kernel itself needs. */
static void describe_capacity(const struct numa_node *node, terrace_unit_info *info)
{
    uint64_t free, margin;

    if (!numa_nodes_available(node->number, &free))
        return;
    margin = free / 20 > UINT64_C(128) << 20 ? free / 20 : UINT64_C(128) << 20;
    if (margin > free / 2)
        margin = free / 10;
    info->capacity = free - margin;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "node %d: %.1f GiB free or cached "
             "files, less a margin of %.1f GiB", node->number, (double)free / (1 << 30),
             (double)margin / (1 << 30));
}

/* "numa:0 10, numa:1 21" */
static void describe_distances(const struct numa_nodes *nodes, int index, terrace_unit_info *info)
{
    size_t used = 0;
    int i, distance;

    for (i = 0; i < nodes->count && used < sizeof info->distances; i++) {
        distance = numa_nodes_distance(nodes->node[index].number, nodes->node[i].number);
        if (distance > 0)
            used += (size_t)snprintf(info->distances + used, sizeof info->distances - used,
                                     "%snuma:%d %d", used ? ", " : "", i, distance);
    }
}

static void describe(const struct numa_nodes *nodes, int index, terrace_unit_info *info)
{
    const struct numa_node *node = &nodes->node[index];

    info->page = PAGE;
    info->io_chunk = IO_CHUNK;
    info->io_depth = IO_DEPTH;
    info->node = node->number;
    if (node->number < 0 && nodes->allowed > 1)
        snprintf(info->location, sizeof info->location, "%d nodes", nodes->allowed);
    else if (node->number < 0)
        snprintf(info->location, sizeof info->location, "all memory");
    else if (nodes->count == 1)
        snprintf(info->location, sizeof info->location, "node %d", node->number);
    else
        snprintf(info->location, sizeof info->location, "node %d, one of %d%s", node->number,
                 nodes->allowed, node->cpus ? "" : ", without CPUs");
    if (nodes->count > 1) {
        describe_capacity(node, info);
        describe_distances(nodes, index, info);
    }
    snprintf(info->engine, sizeof info->engine, "memcpy");
}

static int numa_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    struct numa_nodes nodes;
    struct numa_unit *u;
    pthread_condattr_t attr;
    char pages[160], bound[128] = "";

    numa_nodes_find(&nodes);
    if (index >= nodes.count)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no numa:%d, only %d", index,
                          nodes.count);
    u = calloc(1, sizeof *u);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open numa:%d", index);
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->wakeup, &attr);
    pthread_condattr_destroy(&attr);

    if (index == 0 && nodes.count > 1 && nodes.count < nodes.allowed)
        host->log(host->context, TERRACE_LOG_WARN, "of %d NUMA nodes only the %d nearest are tiers",
                  nodes.allowed, nodes.count);
    numa_memory_open(&u->memory, host, nodes.count > 1 ? nodes.node[index].number : -1, pages,
                     sizeof pages);
    describe(&nodes, index, info);
    info->granule = u->memory.granule;
    info->flags = u->memory.pool ? TERRACE_UNIT_FIXED : 0;
    if (nodes.count > 1)
        snprintf(bound, sizeof bound, "; bound to node %d", nodes.node[index].number);
    else if (*nodes.unbound)
        snprintf(bound, sizeof bound, "; %s", nodes.unbound);
    snprintf(info->engine_reason, sizeof info->engine_reason, "host memory is copied by the CPU; %.100s%.120s",
             pages, bound);
    *unit = u;
    return 0;
}

static void numa_close(void *unit)
{
    struct numa_unit *u = unit;

    pthread_cond_destroy(&u->wakeup);
    pthread_mutex_destroy(&u->lock);
    numa_memory_close(&u->memory);
    free(u);
}

static int numa_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct numa_unit *u = unit;

    return numa_memory_reserve(&u->memory, bytes, flags, base);
}

static void numa_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct numa_unit *u = unit;

    numa_memory_release(&u->memory, base, bytes);
}

static int numa_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct numa_unit *u = unit;

    return numa_memory_commit(&u->memory, address, bytes);
}

static void numa_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct numa_unit *u = unit;

    numa_memory_decommit(&u->memory, address, bytes);
}

static int numa_adopt(void *unit, uint64_t address, uint64_t bytes)
{
    struct numa_unit *u = unit;

    return numa_memory_adopt(&u->memory, address, bytes);
}

static int numa_available(void *unit, uint64_t *bytes)
{
    struct numa_unit *u = unit;

    return u->memory.node >= 0 && numa_nodes_available(u->memory.node, bytes) ? 0 : -TERRACE_ENOTSUP;
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
    struct timespec limit = sleep_limit(timeout_ns);
    pthread_mutex_lock(&u->lock);
    while (!u->woken && sleep_on(&u->wakeup, &u->lock, timeout_ns, &limit))
        ;
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
    .adopt = numa_adopt,
    .available = numa_available,
};
TERRACE_BACKEND_BUILTIN(numa_backend);
