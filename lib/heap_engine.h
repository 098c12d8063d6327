/* heap_engine.h - what deals small allocations out of a heap's pages.
 * May call: pages.h, libc. */
#ifndef TERRACE_LIB_HEAP_ENGINE_H
#define TERRACE_LIB_HEAP_ENGINE_H

#include <stdint.h>

#include "heap.h"
#include "pages.h"

/* Takes runs of pages with pages_take and gives them back with pages_give as
 * soon as they are free; has no say in where pages come from. Thread-safe. */
struct heap_engine {
    const char *(*name)(void);
    int (*open)(void **state, struct pages *pages); /* errors: ENOMEM, ENOTSUP */
    void (*close)(void *state); /* with what is allocated; the pages need not be given back */
    uint64_t (*alloc)(void *state, size_t bytes, size_t alignment); /* 0: no pages, or no memory */
    void (*free)(void *state, uint64_t address);
    void (*purge)(void *state); /* gives back pages that frees left behind */
    uint64_t (*allocated)(void *state);
};

extern const struct heap_engine *const heap_jemalloc; /* NULL where built without */
extern const struct heap_engine *const heap_classes;

int heap_open_with(struct heap **out, const struct heap_engine *engine,
                   const struct heap_source *source, size_t group);

#endif
