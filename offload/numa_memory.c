/* numa_memory.c - ranges of host memory: on which node, in pages of which size.
 *
 * A reservation is an anonymous private mapping without swap reservation, so
 * address space costs nothing until it is touched. With one node and ordinary
 * or transparent huge pages, commit has nothing to do.
 *
 * With several nodes a tier's memory is strictly its node's. A policy that
 * forbids all other nodes (MPOL_BIND) would have the kernel kill the process
 * when the node is full, even where its pages are only populated. So a
 * reservation merely prefers its node, commit populates the pages, and asks
 * whether all of them are there (MPOL_MF_STRICT, which does not look at pages one
 * by one). Where some are not, moving them may still help, as that drops cached
 * files; else commit fails for want of memory.
 *
 * Ranges that the core uses in whole granules want huge pages. The others refuse
 * transparent ones but where a whole huge page lies within what is committed at
 * once: so what the core accounts by 4 KiB page is what the kernel really holds.
 * Pages of the system's pool (hugetlb) are populated
 * at commit, too: touching one when the pool is empty would be a SIGBUS, and
 * populating it is an error. The range then becomes ordinary memory with
 * transparent huge pages. A forked child does not get ranges of the pool, as
 * the copy of a page that is written would have to come from there as well. */
#define _GNU_SOURCE
#include "numa_memory.h"

#include <errno.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

enum { PAGE = 4096, BATCH = 512, MAP_SIZE_SHIFT = 26 };
#define GRANULE (UINT64_C(2) << 20)
#define GIB (UINT64_C(1) << 30)
#define THP "/sys/kernel/mm/transparent_hugepage/enabled"

static uint64_t round_to(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static void *pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

/* ---- pages of the system's pool ------------------------------------------ */

static void *map_pool(uint64_t page, uint64_t bytes, int flags)
{
    int size = __builtin_ctzll(page);
    return mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | size << MAP_SIZE_SHIFT | flags, -1, 0);
}

/* NULL if the pool can serve, else why not. */
static const char *pool_trouble(uint64_t page)
{
    void *one = map_pool(page, page, 0); /* counts, as it is to be had for sure */
    if (one == MAP_FAILED)
        return errno == ENOMEM ? "the pool is empty: raise its nr_hugepages" : strerrordesc_np(errno);
    int e = madvise(one, page, MADV_DONTNEED);
    munmap(one, page);
    return e ? "giving such pages back needs Linux 5.18" : NULL;
}

static bool is_pooled(struct numa_memory *m, uint64_t address)
{
    pthread_mutex_lock(&m->lock);
    const struct numa_range *r = m->pooled;
    while (r && address - r->base >= r->bytes)
        r = r->next;
    pthread_mutex_unlock(&m->lock);
    return r != NULL;
}

static bool remember_pooled(struct numa_memory *m, uint64_t base, uint64_t bytes)
{
    struct numa_range *r = malloc(sizeof *r);
    if (!r)
        return false;
    pthread_mutex_lock(&m->lock);
    *r = (struct numa_range){m->pooled, base, bytes};
    m->pooled = r;
    pthread_mutex_unlock(&m->lock);
    return true;
}

static void forget_pooled(struct numa_memory *m, uint64_t base)
{
    pthread_mutex_lock(&m->lock);
    struct numa_range **at = &m->pooled;
    while (*at && (*at)->base != base)
        at = &(*at)->next;
    struct numa_range *r = *at;
    if (r)
        *at = r->next;
    pthread_mutex_unlock(&m->lock);
    free(r);
}

/* ---- opening ------------------------------------------------------------- */

static void open_pool(struct numa_memory *m, uint64_t page, char *reason, size_t len)
{
    const char *size = page == GIB ? "1 GiB" : "2 MiB", *trouble = pool_trouble(page);
    m->pool = !trouble;
    if (trouble) {
        snprintf(reason, len, "transparent huge pages, as there are none of %s: %s", size, trouble);
        m->host->log(m->host->context, TERRACE_LOG_WARN, "TERRACE_HUGEPAGES: %s", reason);
        return;
    }
    m->granule = page;
    snprintf(reason, len, "pages of %s from the system's pool", size);
}

void numa_memory_open(struct numa_memory *m, const terrace_host *host, int node, char *reason, size_t len)
{
    const char *pages = host->option(host->context, "HUGEPAGES");
    char thp[64] = "";
    *m = (struct numa_memory){.host = host, .node = node, .granule = GRANULE, .advice = MADV_HUGEPAGE};
    pthread_mutex_init(&m->lock, NULL);
    pages = pages ? pages : "auto";
    bool never = !numa_read(THP, "", thp, sizeof thp) || strstr(thp, "[never]");
    snprintf(reason, len, "%s", never ? "no huge pages, as " THP " says never" : "transparent huge pages");
    if (!strcmp(pages, "off")) {
        m->advice = MADV_NOHUGEPAGE;
        snprintf(reason, len, "no huge pages, as TERRACE_HUGEPAGES=off");
    } else if (!strcmp(pages, "2m") || !strcmp(pages, "1g")) {
        open_pool(m, *pages == '1' ? GIB : GRANULE, reason, len);
    } else if (!strcmp(pages, "thp") && never) {
        host->log(host->context, TERRACE_LOG_WARN, "TERRACE_HUGEPAGES=thp: %s", reason);
    }
}

void numa_memory_close(struct numa_memory *m)
{
    while (m->pooled)
        forget_pooled(m, m->pooled->base);
    pthread_mutex_destroy(&m->lock);
}

/* ---- address space ------------------------------------------------------- */

/* Ordinary memory at a multiple of the granule; 0: none. */
static uint64_t map_aligned(uint64_t bytes, uint64_t granule)
{
    void *map = mmap(NULL, bytes + granule, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return 0;
    uint64_t start = (uintptr_t)map, aligned = round_to(start, granule);
    if (aligned > start)
        munmap(map, aligned - start);
    if (aligned < start + granule)
        munmap(pointer(aligned + bytes), start + granule - aligned);
    return aligned;
}

/* Which pages a range is made of, once any are there. */
static int settle_range(struct numa_memory *m, uint64_t base, uint64_t bytes, int advice)
{
    /* Refused only where the kernel has no huge pages: then there is nothing to choose. */
    if (advice)
        madvise(pointer(base), bytes, advice);
    int e = m->node < 0 ? 0 : numa_nodes_bind(m->node, base, bytes, MPOL_PREFERRED, 0);
    if (e)
        return m->host->fail(m->host->context, -TERRACE_ESYSTEM, "memory cannot be bound to node %d "
                             "(mbind: %s); the process's cpuset may have changed", m->node, strerrordesc_np(e));
    return 0;
}

static int reserve_pooled(struct numa_memory *m, uint64_t bytes, uint64_t *base)
{
    void *map = map_pool(m->granule, bytes, MAP_NORESERVE);
    if (map == MAP_FAILED)
        return -TERRACE_ENOMEM;
    if (!remember_pooled(m, (uintptr_t)map, bytes)) {
        munmap(map, bytes);
        return -TERRACE_ENOMEM;
    }
    madvise(map, bytes, MADV_DONTFORK);
    *base = (uintptr_t)map;
    return 0;
}

int numa_memory_reserve(struct numa_memory *m, uint64_t bytes, unsigned flags, uint64_t *base)
{
    bool whole = flags & TERRACE_RESERVE_HUGE, pooled = whole && m->pool;
    uint64_t address = 0, size = round_to(bytes, m->granule);
    int r = 0;
    if (bytes == 0 || bytes > SIZE_MAX - 2 * m->granule)
        return -TERRACE_ENOMEM;
    if (pooled)
        r = reserve_pooled(m, size, &address);
    else if ((address = map_aligned(size, m->granule)) == 0)
        r = -TERRACE_ENOMEM;
    if (r)
        return r;
    r = settle_range(m, address, size, pooled ? 0 : whole ? m->advice : MADV_NOHUGEPAGE);
    if (r)
        numa_memory_release(m, address, bytes);
    else
        *base = address;
    return r;
}

void numa_memory_release(struct numa_memory *m, uint64_t base, uint64_t bytes)
{
    forget_pooled(m, base);
    munmap(pointer(base), round_to(bytes, m->granule));
}

/* ---- moving pages under their addresses ---------------------------------- */

/* Whether all pages of a range are on the node; its policy becomes to prefer it. */
static bool all_here(const struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    return numa_nodes_bind(m->node, address, bytes, MPOL_PREFERRED, MPOL_MF_STRICT) == 0;
}

/* Moves pages one by one, dropping cached files to make room; what it could
 * not move is to be found out by all_here(). A huge page moves with its first
 * part. 0 or an errno. */
static int pull(const struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    void *page[BATCH];
    int node[BATCH], status[BATCH], e = 0;
    for (unsigned i = 0; i < BATCH; i++)
        node[i] = m->node;
    for (uint64_t at = 0; at < bytes && e != ENOMEM; at += (uint64_t)BATCH * PAGE) {
        unsigned n = 0;
        for (; n < BATCH && at + (uint64_t)n * PAGE < bytes; n++)
            page[n] = pointer(address + at + (uint64_t)n * PAGE);
        if (numa_system->move_pages(0, n, page, node, status, MPOL_MF_MOVE) < 0)
            e = errno;
    }
    return e;
}

/* mbind moves what NUMA balancing hides from move_pages (before Linux 6.6), but
 * drops no cached files, and may move a page from one wrong node to another. */
int numa_memory_adopt(struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    uint64_t from = address / PAGE * PAGE;
    bytes = round_to(address + bytes, PAGE) - from;
    if (m->node < 0)
        return 0; /* all memory is this tier's */
    int e = numa_nodes_bind(m->node, from, bytes, MPOL_PREFERRED, MPOL_MF_MOVE);
    if (e)
        return e == ENOMEM ? -TERRACE_ENOMEM : -TERRACE_ESYSTEM;
    if (all_here(m, from, bytes))
        return 0;
    e = pull(m, from, bytes);
    if (all_here(m, from, bytes))
        return 0;
    return e == ENOMEM ? -TERRACE_ENOMEM : -TERRACE_EBUSY;
}

/* ---- memory -------------------------------------------------------------- */

/* Puts pages behind a range. 0 or an errno; none kills the process. */
static int populate(uint64_t address, uint64_t bytes)
{
    if (madvise(pointer(address), bytes, MADV_POPULATE_WRITE) == 0)
        return 0;
    if (errno != EINVAL)
        return errno;
    for (uint64_t at = 0; at < bytes; at += PAGE) /* before Linux 5.14 */
        *(volatile char *)pointer(address + at) = 0;
    return 0;
}

/* Populates a range on the node, and only there. */
static int fill(struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    int e = populate(address, bytes);
    if (e || m->node < 0 || all_here(m, address, bytes))
        return e;
    pull(m, address, bytes);
    return all_here(m, address, bytes) ? 0 : ENOMEM;
}

/* The pool is empty: makes a part of it ordinary memory. */
static int leave_pool(struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&m->lock);
    bool said = m->said;
    m->said = true;
    pthread_mutex_unlock(&m->lock);
    if (!said)
        m->host->log(m->host->context, TERRACE_LOG_WARN, "the pool of huge pages is exhausted: what does "
                     "not fit gets transparent ones; raise nr_hugepages, or lower TERRACE_LIMIT_NUMA");
    void *map = mmap(pointer(address), bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (map == MAP_FAILED)
        return -TERRACE_ENOMEM;
    madvise(map, bytes, MADV_DONTFORK);
    return settle_range(m, (uintptr_t)map, bytes, m->advice);
}

/* Huge pages for the part of a range that they fill, small ones for the rest.
 * Refused only where there are too many mappings: then it stays as it was. Where
 * there have been small pages, their table would have the kernel put small ones
 * again; it goes when a whole one is given back at once (Linux 6.14). */
static void advise_whole(const struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    uint64_t end = address + bytes, from = round_to(address, GRANULE), to = end / GRANULE * GRANULE;
    if (from >= to) {
        madvise(pointer(address), bytes, MADV_NOHUGEPAGE);
        return;
    }
    madvise(pointer(from), to - from, MADV_DONTNEED);
    if (madvise(pointer(from), to - from, m->advice))
        return;
    if (address < from)
        madvise(pointer(address), from - address, MADV_NOHUGEPAGE);
    if (to < end)
        madvise(pointer(to), end - to, MADV_NOHUGEPAGE);
}

int numa_memory_commit(struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    bool pooled = m->pool && is_pooled(m, address);
    if (!pooled)
        advise_whole(m, address, bytes);
    if (m->node < 0 && !pooled)
        return 0; /* touching it is enough */
    int e = fill(m, address, bytes), r = 0;
    if (e && pooled) {
        r = leave_pool(m, address, bytes);
        e = r || m->node < 0 ? 0 : fill(m, address, bytes);
    }
    if (e || r)
        numa_memory_decommit(m, address, bytes);
    if (e)
        r = m->host->fail(m->host->context, -TERRACE_ENOMEM, "no %llu bytes of memory are free on node %d "
                          "(%s); lower TERRACE_LIMIT_NUMA", (unsigned long long)bytes, m->node,
                          strerrordesc_np(e));
    return r;
}

void numa_memory_decommit(struct numa_memory *m, uint64_t address, uint64_t bytes)
{
    madvise(pointer(address), bytes, MADV_DONTNEED);
    /* What stays of a huge page must not be made one again. */
    if ((address | bytes) % GRANULE && !(m->pool && is_pooled(m, address)))
        madvise(pointer(address), bytes, MADV_NOHUGEPAGE);
}
