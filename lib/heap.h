/* heap.h - small allocations out of ranges of addresses that are never touched.
 * May call: pages.h, jemalloc, error.h, libc.
 *
 * A heap asks its source for groups of addresses, one at a time, and gives each
 * back as soon as nothing in it is allocated. Addresses are numbers to it: there
 * may be device memory, or nothing at all, behind them. All book-keeping is in
 * ordinary host memory. No allocation straddles a multiple of the group. */
#ifndef TERRACE_LIB_HEAP_H
#define TERRACE_LIB_HEAP_H

#include <stddef.h>
#include <stdint.h>

struct heap;

/* Where addresses come from and go to. Both are called in heap_alloc, heap_free,
 * heap_purge and heap_close, by the thread that called these, while no lock of
 * the heap's nor of jemalloc's is held: they may take any lock that the caller
 * of the heap does not hold, and may call the heap itself (but in heap_close).
 *
 * Groups of all heaps of a process must be addresses that nothing else in it
 * uses, below 2^47: reserve them, if with PROT_NONE. An address that breaks
 * this or is not aligned is given back at once, and counts as none. Where there is
 * none, the allocation is tried once more: `more` may have freed something. */
struct heap_source {
    void *context;
    uint64_t (*more)(void *context, size_t bytes); /* one group, aligned to it; 0: none */
    void (*less)(void *context, uint64_t address, size_t bytes); /* one group */
};

enum { HEAP_GROUP_MIN = 64 << 10, HEAP_GROUP_MAX = 64 << 20 };

/* Makes a heap of groups of `group` bytes, a power of two between the limits
 * above. Errors: EINVAL, ENOMEM. */
int heap_open(struct heap **out, const struct heap_source *source, size_t group);
/* Ends it, with whatever is still allocated: every group goes back. No other
 * call may be under way. In a forked child it is the only call allowed. NULL is
 * allowed. */
void heap_close(struct heap *h);

/* Allocates `bytes`, 1 to `group`, at an alignment, a power of two up to
 * `group`. From 64 bytes on, at an alignment up to 4 KiB, that takes at most a
 * quarter more than `bytes` rounded up to a multiple of it. 0: the source has no more, or no host memory for book-keeping. */
uint64_t heap_alloc(struct heap *h, size_t bytes, size_t alignment);
/* Frees what heap_alloc returned. Never fails; 0 is allowed. */
void heap_free(struct heap *h, uint64_t address);
/* Gives back groups that are free but stayed because frees coincided. */
void heap_purge(struct heap *h);

struct heap_stats {
    uint64_t allocated; /* bytes that allocations take */
    uint64_t active;    /* of the pages they lie in */
    uint64_t mapped;    /* of the groups these lie in */
};

void heap_stats(struct heap *h, struct heap_stats *out);

/* What serves the allocations: "jemalloc 5.3.0", or "built-in size classes
 * (jemalloc was not available when this was built)". */
const char *heap_name(void);

#endif
