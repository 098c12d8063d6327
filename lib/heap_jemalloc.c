/* heap_jemalloc.c - small allocations by a private jemalloc.
 *
 * Each heap is one jemalloc arena whose extents come from the heap's pages.
 * jemalloc never touches them: its own book-keeping (metadata_use_hooks=false)
 * is in ordinary memory, filling and zeroing are off, and the hooks that would
 * commit or purge are absent. What it frees it hands on at once (no decay),
 * for pages.c to see when a group is empty: heap_cache.c, and not jemalloc's
 * thread caches, keeps what may soon be needed again.
 *
 * The hooks call pages.c only; jemalloc holds no lock of its own around them.
 *
 * May call: jemalloc, pages.h, error.h, libc. */
#include "heap_engine.h"

#ifdef TERRACE_WITHOUT_JEMALLOC

const struct heap_engine *const heap_jemalloc = NULL;

#else

#define JEMALLOC_NO_DEMANGLE /* je_... names, whatever prefix it was built with */
#include <jemalloc/jemalloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "error.h"

/* Read by jemalloc when it starts. `retain` would keep freed addresses for
 * ever; a thread cache would cost each thread of the process memory for nothing,
 * as would an arena per CPU for book-keeping; sbrk belongs to the process. Runs
 * of 16 pages for what takes one or two: each run costs 128 bytes. */
const char *je_malloc_conf = "retain:false,slab_sizes:4096-8192:16,tcache:false,narenas:1,dss:disabled,background_thread:false";

struct jemalloc_heap {
    extent_hooks_t hooks; /* first: jemalloc passes its address */
    struct pages *pages;
    unsigned arena;
    int flags;
    bool closing; /* pages need not be given back, and no lock taken */
};

static struct jemalloc_heap *of_hooks(extent_hooks_t *hooks)
{
    return (struct jemalloc_heap *)hooks;
}

/* ---- hooks: true is failure ---------------------------------------------- */

static void *hook_alloc(extent_hooks_t *hooks, void *at, size_t bytes, size_t alignment, bool *zero,
                        bool *commit, unsigned arena)
{
    (void)arena;
    if (at || *zero)
        return NULL;
    *commit = true;
    return (void *)(uintptr_t)pages_take(of_hooks(hooks)->pages, bytes, alignment);
}

static bool hook_dalloc(extent_hooks_t *hooks, void *address, size_t bytes, bool committed,
                        unsigned arena)
{
    struct jemalloc_heap *h = of_hooks(hooks);
    (void)committed;
    (void)arena;
    if (!h->closing)
        pages_give(h->pages, (uintptr_t)address, bytes);
    return false;
}

static bool hook_split(extent_hooks_t *hooks, void *address, size_t bytes, size_t left,
                       size_t right, bool committed, unsigned arena)
{
    (void)hooks, (void)address, (void)bytes, (void)left, (void)right, (void)committed, (void)arena;
    return false;
}

static bool hook_merge(extent_hooks_t *hooks, void *left, size_t left_bytes, void *right,
                       size_t right_bytes, bool committed, unsigned arena)
{
    (void)left_bytes, (void)right_bytes, (void)committed, (void)arena;
    return ((uintptr_t)left ^ (uintptr_t)right) >= of_hooks(hooks)->pages->group;
}

static const extent_hooks_t HOOKS = {
    .alloc = hook_alloc,
    .dalloc = hook_dalloc,
    .split = hook_split,
    .merge = hook_merge,
};

/* ---- mallctl ------------------------------------------------------------- */

/* Calls "arena.<n>.<what>" or the like. */
static int control(const char *group, unsigned arena, const char *what, void *old, size_t *old_size,
                   void *new, size_t new_size)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%u.%s", group, arena, what);
    return je_mallctl(name, old, old_size, new, new_size);
}

static size_t counter(unsigned arena, const char *what)
{
    size_t value = 0, size = sizeof value;
    control("stats.arenas", arena, what, &value, &size, NULL, 0);
    return value;
}

/* ---- the engine ---------------------------------------------------------- */

#define TEXT(x) #x
#define NUMBER(x) TEXT(x)

static const char *jemalloc_name(void)
{
    return "jemalloc " NUMBER(JEMALLOC_VERSION_MAJOR) "." NUMBER(JEMALLOC_VERSION_MINOR) "." NUMBER(
        JEMALLOC_VERSION_BUGFIX);
}

static int jemalloc_open(void **state, struct pages *pages)
{
    struct jemalloc_heap *h = calloc(1, sizeof *h);
    if (!h)
        return -TERRACE_ENOMEM;
    h->hooks = HOOKS;
    h->pages = pages;
    struct { /* as jemalloc's documentation of experimental.arenas_create_ext has it */
        extent_hooks_t *hooks;
        bool metadata_use_hooks;
    } config = {&h->hooks, false};
    size_t size = sizeof h->arena;
    ssize_t at_once = 0;
    if (je_mallctl("experimental.arenas_create_ext", &h->arena, &size, &config, sizeof config)) {
        free(h);
        return -TERRACE_ENOMEM;
    }
    h->flags = MALLOCX_ARENA(h->arena) | MALLOCX_TCACHE_NONE;
    control("arena", h->arena, "dirty_decay_ms", NULL, NULL, &at_once, sizeof at_once);
    control("arena", h->arena, "muzzy_decay_ms", NULL, NULL, &at_once, sizeof at_once);
    *state = h;
    return 0;
}

static void jemalloc_close(void *state)
{
    struct jemalloc_heap *h = state;
    h->closing = true;
    control("arena", h->arena, "destroy", NULL, NULL, NULL, 0);
    free(h);
}

static uint64_t jemalloc_alloc(void *state, size_t bytes, size_t alignment)
{
    const struct jemalloc_heap *h = state;
    return (uintptr_t)je_mallocx(bytes, h->flags | MALLOCX_ALIGN(alignment));
}

static void jemalloc_free(void *state, uint64_t address)
{
    const struct jemalloc_heap *h = state;
    je_dallocx((void *)(uintptr_t)address, h->flags);
}

static void jemalloc_purge(void *state)
{
    const struct jemalloc_heap *h = state;
    control("arena", h->arena, "purge", NULL, NULL, NULL, 0);
}

static uint64_t jemalloc_allocated(void *state)
{
    const struct jemalloc_heap *h = state;
    uint64_t now = 1;
    je_mallctl("epoch", NULL, NULL, &now, sizeof now); /* brings the counters up to date */
    return counter(h->arena, "small.allocated") + counter(h->arena, "large.allocated");
}

static const struct heap_engine ENGINE = {
    .name = jemalloc_name,
    .open = jemalloc_open,
    .close = jemalloc_close,
    .alloc = jemalloc_alloc,
    .free = jemalloc_free,
    .purge = jemalloc_purge,
    .allocated = jemalloc_allocated,
};

const struct heap_engine *const heap_jemalloc = &ENGINE;

#endif
