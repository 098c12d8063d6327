/* heap.c - small allocations out of ranges of addresses that are never touched.
 *
 * Three layers: the source gives groups of addresses; pages.c keeps account of
 * their pages; an engine (jemalloc, or size classes where that could not be
 * had) takes runs of pages and deals them out in small pieces.
 *
 * The source is only ever called from here, never from within the engine: where
 * the engine fails for lack of pages, a group is fetched and it is asked again.
 * So the source may wait, evict, take locks, even call the heap.
 *
 * May call: pages.h, the engines, error.h, libc. */
#include "heap.h"

#include <stdlib.h>

#include "error.h"
#include "heap_engine.h"

struct heap {
    const struct heap_engine *engine;
    void *state; /* the engine's */
    struct heap_source source;
    struct pages pages;
    atomic_uint fetching; /* threads that may have added a group and not used it yet */
};

/* A fetched group can be used up by other threads, again and again in theory.
 * Where even an empty group does not help, there is no host memory. */
enum { MOST_TRIES = 64 };

static const uint64_t ADDRESS_LIMIT = UINT64_C(1) << 47;

static const struct heap_engine *default_engine(void)
{
    return heap_jemalloc ? heap_jemalloc : heap_classes;
}

const char *heap_name(void)
{
    return default_engine()->name();
}

static bool power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

int heap_open_with(struct heap **out, const struct heap_engine *engine,
                   const struct heap_source *source, size_t group)
{
    if (!power_of_two(group) || group < HEAP_GROUP_MIN || group > HEAP_GROUP_MAX)
        return error_set(-TERRACE_EINVAL, "a heap cannot have groups of %zu bytes", group);
    struct heap *h = calloc(1, sizeof *h);
    int r = h ? pages_open(&h->pages, group) : -TERRACE_ENOMEM;
    if (r)
        goto free_heap;
    h->engine = engine;
    h->source = *source;
    r = engine->open(&h->state, &h->pages);
    if (r)
        goto close_pages;
    *out = h;
    return 0;

close_pages:
    pages_close(&h->pages);
free_heap:
    free(h);
    return error_set(r, "no host memory to manage small allocations");
}

int heap_open(struct heap **out, const struct heap_source *source, size_t group)
{
    return heap_open_with(out, default_engine(), source, group);
}

void heap_close(struct heap *h)
{
    uint64_t address;
    if (!h)
        return;
    h->engine->close(h->state);
    while ((address = pages_remove_any(&h->pages)) != 0)
        h->source.less(h->source.context, address, h->pages.group);
    pages_close(&h->pages);
    free(h);
}

/* Gives empty groups back, unless one may just have been fetched. */
static void give_back(struct heap *h)
{
    uint64_t address;
    while (h->pages.empty && !h->fetching && (address = pages_remove_empty(&h->pages)) != 0)
        h->source.less(h->source.context, address, h->pages.group);
}

/* Has the source add a group, which then counts as fetching. */
static bool fetch(struct heap *h)
{
    size_t group = h->pages.group;
    uint64_t address = h->source.more(h->source.context, group);
    if (!address)
        return false;
    h->fetching++;
    if (!(address & (group - 1)) && address <= ADDRESS_LIMIT - group && pages_add(&h->pages, address))
        return true;
    h->fetching--;
    h->source.less(h->source.context, address, group);
    return false;
}

/* Once more even where nothing was fetched: the source may have freed something. */
static uint64_t alloc_with_more(struct heap *h, size_t bytes, size_t alignment)
{
    uint64_t address = 0;
    for (int tries = 0; !address && tries < MOST_TRIES; tries++) {
        bool empty = h->pages.empty, fetched = !empty && fetch(h);
        address = h->engine->alloc(h->state, bytes, alignment);
        if (fetched)
            h->fetching--;
        else if (!empty)
            break;
    }
    give_back(h);
    return address;
}

uint64_t heap_alloc(struct heap *h, size_t bytes, size_t alignment)
{
    if (!bytes || bytes > h->pages.group || !power_of_two(alignment) || alignment > h->pages.group)
        return 0;
    uint64_t address = h->engine->alloc(h->state, bytes, alignment);
    return address ? address : alloc_with_more(h, bytes, alignment);
}

void heap_free(struct heap *h, uint64_t address)
{
    if (!address)
        return;
    h->engine->free(h->state, address);
    give_back(h);
}

void heap_purge(struct heap *h)
{
    h->engine->purge(h->state);
    give_back(h);
}

void heap_stats(struct heap *h, struct heap_stats *out)
{
    uint64_t allocated = h->engine->allocated(h->state);
    pthread_mutex_lock(&h->pages.lock);
    out->allocated = allocated;
    out->active = h->pages.taken * PAGE;
    out->mapped = h->pages.count * h->pages.group;
    pthread_mutex_unlock(&h->pages.lock);
}
