/* small.h - the allocator of all blocks that are not large: jemalloc, or where that
 * could not be had the C library's.
 * May call: jemalloc, libc. */
#ifndef TERRACE_PRELOAD_SMALL_H
#define TERRACE_PRELOAD_SMALL_H

#include <stddef.h>

#ifdef TERRACE_WITHOUT_JEMALLOC

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t), __libc_free(void *);
size_t small_usable(void *p);

#define small_malloc __libc_malloc
#define small_calloc __libc_calloc
#define small_realloc __libc_realloc
#define small_aligned __libc_memalign
#define small_free __libc_free

#else

#define JEMALLOC_NO_DEMANGLE /* je_... names, whatever prefix it was built with */
#include <jemalloc/jemalloc.h>

#define small_malloc je_malloc
#define small_calloc je_calloc
#define small_realloc je_realloc
#define small_aligned je_aligned_alloc
#define small_free je_free
#define small_usable je_malloc_usable_size

#endif
#endif
