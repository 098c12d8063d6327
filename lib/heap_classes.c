/* heap_classes.c - small allocations by size classes, where there is no jemalloc.
 *
 * Four classes per power of two. Up to 14 KiB an allocation is one slot of a
 * slab: a run of pages all of whose slots are of one class. Above, it is a run
 * of pages of its own. Every run is described by a `run` in ordinary memory,
 * found by address; slabs with free slots stand on the list of their class.
 *
 * Simple rather than fast: one lock, and a tree search for every free.
 *
 * May call: pages.h, error.h, libc. */
#include <stdlib.h>

#include "error.h"
#include "heap_engine.h"

enum {
    CLASSES = 35, /* 16, 32, 48, 64, 80 ... 14336 */
    SLOTS = PAGE / 16,
    SLAB_PAGES = 16,
    WORD = 64,
};

struct run {
    uint64_t address;
    size_t bytes, slot;   /* of the run, of one slot */
    unsigned slots, free; /* how many, how many free */
    LIST_ENTRY(run) alike;
    RB_ENTRY(run) by_address;
    uint64_t used[SLOTS / WORD]; /* bit per slot */
};

RB_HEAD(run_tree, run);
LIST_HEAD(run_list, run);

struct classes {
    pthread_mutex_t lock; /* before that of the pages; protects all below */
    struct pages *pages;
    struct run_tree runs;
    struct run_list open[CLASSES]; /* slabs with free slots */
    uint64_t allocated;
};

static int address_compare(const struct run *a, const struct run *b)
{
    return a->address < b->address ? -1 : a->address > b->address;
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(run_tree, run, by_address, address_compare, UNUSED_STATIC)

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

static size_t class_size(unsigned class)
{
    return class < 4 ? 16 * (class + 1) : (size_t)(class % 4 + 5) << (class / 4 + 3);
}

/* The smallest class for an allocation; CLASSES: it takes a run of its own. */
static unsigned class_of(size_t bytes, size_t alignment)
{
    unsigned class = 0;
    if (alignment > PAGE)
        return CLASSES;
    while (class < CLASSES && (class_size(class) < bytes || class_size(class) % alignment))
        class++;
    return class;
}

/* The bytes of a slab that wastes a sixteenth at most. */
static size_t slab_bytes(size_t slot)
{
    size_t pages = (slot + PAGE - 1) / PAGE;
    while (pages < SLAB_PAGES && pages * PAGE % slot > pages * PAGE / 16)
        pages++;
    return pages * PAGE;
}

/* ---- runs ---------------------------------------------------------------- */

static struct run *run_new_locked(struct classes *c, size_t bytes, size_t alignment, size_t slot)
{
    struct run *run = calloc(1, sizeof *run);
    if (!run)
        return NULL;
    run->address = pages_take(c->pages, bytes, alignment);
    if (!run->address) {
        free(run);
        return NULL;
    }
    run->bytes = bytes;
    run->slot = slot;
    run->slots = run->free = (unsigned)(bytes / slot);
    RB_INSERT(run_tree, &c->runs, run);
    return run;
}

static void run_end_locked(struct classes *c, struct run *run)
{
    RB_REMOVE(run_tree, &c->runs, run);
    pages_give(c->pages, run->address, run->bytes);
    free(run);
}

static struct run *slab_locked(struct classes *c, unsigned class)
{
    size_t slot = class_size(class);
    struct run *run = LIST_FIRST(&c->open[class]);
    if (!run && (run = run_new_locked(c, slab_bytes(slot), PAGE, slot)) != NULL)
        LIST_INSERT_HEAD(&c->open[class], run, alike);
    return run;
}

/* Takes a slot of a run that has one. */
static uint64_t slot_take(struct run *run)
{
    unsigned word = 0;
    while (!~run->used[word])
        word++;
    unsigned bit = (unsigned)__builtin_ctzll(~run->used[word]);
    run->used[word] |= UINT64_C(1) << bit;
    run->free--;
    return run->address + (word * WORD + bit) * (uint64_t)run->slot;
}

/* ---- the engine ---------------------------------------------------------- */

static const char *classes_name(void)
{
    return "built-in size classes (jemalloc was not available when this was built)";
}

static int classes_open(void **state, struct pages *pages)
{
    struct classes *c = calloc(1, sizeof *c);
    if (!c)
        return -TERRACE_ENOMEM;
    c->pages = pages;
    RB_INIT(&c->runs);
    pthread_mutex_init(&c->lock, NULL);
    *state = c;
    return 0;
}

static void classes_close(void *state)
{
    struct classes *c = state;
    struct run *run;
    while ((run = RB_ROOT(&c->runs)) != NULL) {
        RB_REMOVE(run_tree, &c->runs, run);
        free(run);
    }
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static uint64_t alloc_locked(struct classes *c, size_t bytes, size_t alignment)
{
    unsigned class = class_of(bytes, alignment);
    struct run *run;
    if (class < CLASSES) {
        run = slab_locked(c, class);
    } else {
        bytes = round_up(bytes, PAGE);
        run = run_new_locked(c, bytes, alignment > PAGE ? alignment : PAGE, bytes);
    }
    if (!run)
        return 0;
    uint64_t address = slot_take(run);
    if (class < CLASSES && !run->free)
        LIST_REMOVE(run, alike);
    /* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): the tree has the run */
    c->allocated += run->slot;
    return address;
}

static uint64_t classes_alloc(void *state, size_t bytes, size_t alignment)
{
    struct classes *c = state;
    pthread_mutex_lock(&c->lock);
    uint64_t address = alloc_locked(c, bytes, alignment);
    pthread_mutex_unlock(&c->lock);
    return address;
}

static void free_locked(struct classes *c, uint64_t address)
{
    struct run key = {.address = address};
    struct run *run = RB_NFIND(run_tree, &c->runs, &key); /* the first at or after it */
    if (!run || run->address != address)
        run = run ? RB_PREV(run_tree, &c->runs, run) : RB_MAX(run_tree, &c->runs);
    unsigned slot = (unsigned)((address - run->address) / run->slot);
    bool listed = run->free;
    run->used[slot / WORD] &= ~(UINT64_C(1) << slot % WORD);
    run->free++;
    c->allocated -= run->slot;
    if (run->free == run->slots) {
        if (listed)
            LIST_REMOVE(run, alike);
        run_end_locked(c, run);
    } else if (!listed) {
        LIST_INSERT_HEAD(&c->open[class_of(run->slot, 1)], run, alike);
    }
}

static void classes_free(void *state, uint64_t address)
{
    struct classes *c = state;
    pthread_mutex_lock(&c->lock);
    free_locked(c, address);
    pthread_mutex_unlock(&c->lock);
}

static void classes_purge(void *state)
{
    (void)state; /* nothing is ever left behind */
}

static uint64_t classes_allocated(void *state)
{
    struct classes *c = state;
    pthread_mutex_lock(&c->lock);
    uint64_t allocated = c->allocated;
    pthread_mutex_unlock(&c->lock);
    return allocated;
}

static const struct heap_engine ENGINE = {
    .name = classes_name,
    .open = classes_open,
    .close = classes_close,
    .alloc = classes_alloc,
    .free = classes_free,
    .purge = classes_purge,
    .allocated = classes_allocated,
};

const struct heap_engine *const heap_classes = &ENGINE;
