/* heap_cache.h - thread caches in front of a heap.
 * May call: heap.h, libc. */
#ifndef TERRACE_LIB_HEAP_CACHE_H
#define TERRACE_LIB_HEAP_CACHE_H

#include "heap.h"

struct heap_cache;

enum { HEAP_CACHE_MOST = 1 << 20 }; /* larger allocations pass through */

/* Makes a cache for a heap that outlives it. Errors: ENOMEM. */
int heap_cache_open(struct heap_cache **out, struct heap *heap);
/* Ends it; what it keeps stays allocated in the heap. No other call may be under
 * way. NULL is allowed. */
void heap_cache_close(struct heap_cache *c);

/* As heap_alloc. An allocation takes the next size of four per power of two. */
uint64_t heap_cache_alloc(struct heap_cache *c, size_t bytes, size_t alignment);
/* Frees it, with bytes and alignment as they were asked for. 0 is allowed. */
void heap_cache_free(struct heap_cache *c, uint64_t address, size_t bytes, size_t alignment);

/* Gives back to the heap what has not been needed since the last call. */
void heap_cache_trim(struct heap_cache *c);
/* Gives back all but what other threads keep for themselves. */
void heap_cache_purge(struct heap_cache *c);

#endif
