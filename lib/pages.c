/* pages.c - runs of pages inside groups of addresses that are never touched.
 *
 * Every group has a bitmap of its pages, in ordinary memory, and stands on the
 * list of groups whose longest free run is as long as its own. A run is taken
 * from the group whose longest run is the shortest that suffices, so that full
 * groups fill up and others become empty. Giving back needs no memory.
 *
 * May call: libc. */
#include "pages.h"

#include <limits.h>
#include <stdlib.h>

#include "error.h"

enum { WORD = 64 };

struct group {
    uint64_t address;
    unsigned longest; /* free run, in pages */
    LIST_ENTRY(group) alike;
    RB_ENTRY(group) by_address;
    uint64_t used[]; /* bit per page */
};

static int address_compare(const struct group *a, const struct group *b)
{
    return a->address < b->address ? -1 : a->address > b->address;
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(group_tree, group, by_address, address_compare, UNUSED_STATIC)

static size_t words(size_t bits)
{
    return (bits + WORD - 1) / WORD;
}

int pages_open(struct pages *p, size_t group)
{
    *p = (struct pages){.group = group, .per_group = (unsigned)(group / PAGE)};
    p->by_longest = calloc(p->per_group + 1, sizeof *p->by_longest);
    p->have = calloc(words(p->per_group + 1), sizeof *p->have);
    if (!p->by_longest || !p->have) {
        free(p->by_longest);
        free(p->have);
        return -TERRACE_ENOMEM;
    }
    RB_INIT(&p->groups);
    pthread_mutex_init(&p->lock, NULL);
    return 0;
}

void pages_close(struct pages *p)
{
    while (pages_remove_any(p))
        ;
    pthread_mutex_destroy(&p->lock);
    free(p->by_longest);
    free(p->have);
}

/* ---- bitmaps ----------------------------------------------------------- */

/* The first index from `from` on whose bit is (not) set; `bits` if none is. */
static unsigned next(const uint64_t *map, unsigned bits, unsigned from, bool set)
{
    uint64_t flip = set ? 0 : ~UINT64_C(0), mask = ~UINT64_C(0) << from % WORD;
    for (unsigned i = from / WORD; i < words(bits); i++, mask = ~UINT64_C(0)) {
        uint64_t found = (map[i] ^ flip) & mask;
        if (found) {
            unsigned at = i * WORD + (unsigned)__builtin_ctzll(found);
            return at < bits ? at : bits;
        }
    }
    return bits;
}

static void mark(uint64_t *map, unsigned from, unsigned n, bool set)
{
    while (n) {
        unsigned bit = from % WORD, here = n < WORD - bit ? n : WORD - bit;
        uint64_t mask = ~UINT64_C(0) >> (WORD - here) << bit;
        if (set)
            map[from / WORD] |= mask;
        else
            map[from / WORD] &= ~mask;
        from += here;
        n -= here;
    }
}

/* ---- groups ------------------------------------------------------------ */

static void list_locked(struct pages *p, struct group *g)
{
    LIST_INSERT_HEAD(&p->by_longest[g->longest], g, alike);
    mark(p->have, g->longest, 1, true);
    if (g->longest == p->per_group)
        p->empty++;
}

static void unlist_locked(struct pages *p, struct group *g)
{
    LIST_REMOVE(g, alike);
    if (LIST_EMPTY(&p->by_longest[g->longest]))
        mark(p->have, g->longest, 1, false);
    if (g->longest == p->per_group)
        p->empty--;
}

bool pages_add(struct pages *p, uint64_t address)
{
    struct group *g = calloc(1, sizeof *g + words(p->per_group) * sizeof *g->used);
    if (!g)
        return false;
    g->address = address;
    g->longest = p->per_group;
    pthread_mutex_lock(&p->lock);
    RB_INSERT(group_tree, &p->groups, g);
    list_locked(p, g);
    p->count++;
    pthread_mutex_unlock(&p->lock);
    return true;
}

static uint64_t remove_locked(struct pages *p, struct group *g)
{
    if (!g)
        return 0;
    uint64_t address = g->address;
    RB_REMOVE(group_tree, &p->groups, g);
    unlist_locked(p, g);
    p->count--;
    free(g);
    return address;
}

uint64_t pages_remove_any(struct pages *p)
{
    return remove_locked(p, RB_ROOT(&p->groups));
}

uint64_t pages_remove_empty(struct pages *p)
{
    pthread_mutex_lock(&p->lock);
    uint64_t address = remove_locked(p, LIST_FIRST(&p->by_longest[p->per_group]));
    pthread_mutex_unlock(&p->lock);
    return address;
}

/* ---- runs -------------------------------------------------------------- */

static void relist_locked(struct pages *p, struct group *g)
{
    unsigned longest = 0;
    for (unsigned at = 0; at < p->per_group;) {
        unsigned start = next(g->used, p->per_group, at, false);
        at = next(g->used, p->per_group, start, true);
        if (at - start > longest)
            longest = at - start;
    }
    if (longest == g->longest)
        return;
    unlist_locked(p, g);
    g->longest = longest;
    list_locked(p, g);
}

/* The start of the smallest free run that holds n pages at an alignment. */
static unsigned best_fit(const struct pages *p, const struct group *g, unsigned n,
                         unsigned alignment)
{
    unsigned best = p->per_group, least = UINT_MAX;
    for (unsigned at = 0; at < p->per_group;) {
        unsigned start = next(g->used, p->per_group, at, false);
        at = next(g->used, p->per_group, start, true);
        unsigned aligned = (start + alignment - 1) / alignment * alignment;
        if (aligned + n <= at && at - start < least) {
            best = aligned;
            least = at - start;
        }
    }
    return best;
}

uint64_t pages_take(struct pages *p, size_t bytes, size_t alignment)
{
    unsigned n = (unsigned)(bytes / PAGE), step = (unsigned)(alignment / PAGE);
    uint64_t address = 0;
    if (n > p->per_group)
        return 0;
    /* With the alignment's slack it fits wherever the run begins; the start of
     * an empty group needs none. */
    unsigned enough = n + step - 1 < p->per_group ? n + step - 1 : p->per_group;
    pthread_mutex_lock(&p->lock);
    unsigned longest = next(p->have, p->per_group + 1, enough, true);
    if (longest <= p->per_group) {
        struct group *g = LIST_FIRST(&p->by_longest[longest]);
        unsigned start = best_fit(p, g, n, step);
        mark(g->used, start, n, true);
        relist_locked(p, g);
        p->taken += n;
        address = g->address + (uint64_t)start * PAGE;
    }
    pthread_mutex_unlock(&p->lock);
    return address;
}

void pages_give(struct pages *p, uint64_t address, size_t bytes)
{
    struct group key = {.address = address & ~(uint64_t)(p->group - 1)};
    unsigned n = (unsigned)(bytes / PAGE), start = (unsigned)((address - key.address) / PAGE);
    pthread_mutex_lock(&p->lock);
    struct group *g = RB_FIND(group_tree, &p->groups, &key);
    if (g) {
        mark(g->used, start, n, false);
        relist_locked(p, g);
        p->taken -= n;
    }
    pthread_mutex_unlock(&p->lock);
}
