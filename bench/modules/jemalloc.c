/* jemalloc.c - the private jemalloc by itself, with its own defaults, for bench/alloc. */
#include <stddef.h>

#ifndef TERRACE_WITHOUT_JEMALLOC

#define JEMALLOC_NO_DEMANGLE
#include <jemalloc/jemalloc.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT void *bench_alloc(size_t bytes)
{
    return je_mallocx(bytes, 0);
}

EXPORT void bench_free(void *p, size_t bytes)
{
    (void)bytes;
    je_dallocx(p, 0);
}

#endif
