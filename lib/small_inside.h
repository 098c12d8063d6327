/* small_inside.h - what the files of small tensors share.
 * May call: small.h. */
#ifndef TERRACE_LIB_SMALL_INSIDE_H
#define TERRACE_LIB_SMALL_INSIDE_H

#include "small.h"

struct heap;
struct heap_cache;

enum {
    GROUP = 256 << 10,
    LEAST_GROUPS = 64,       /* that the budget must hold */
    MOST_HOMES = 32,         /* on a tier */
};

/* A group's number: in use, or on the list of those that were. */
struct number {
    struct terrace_tensor *group; /* NULL: free */
    size_t next;                  /* free number */
};

/* What deals out the slices of the groups that are used on one memory tier, to tensors
 * for which the rules say the same. */
struct home {
    struct home *next; /* on that tier */
    struct smalls *smalls;
    struct placement *placement;
    atomic_bool retired; /* takes slices back, but deals out no more */
    unsigned char tier;
    struct heap *heap;
    struct heap_cache *cache;
};

struct smalls {
    struct terrace *manager;
    struct home *_Atomic home[MAX_TIERS]; /* opened when first needed, the last first */
    atomic_uchar latest; /* the tier that a new tensor was last acquired on */
    void *mapping;
    size_t mapped;
    uint64_t base; /* of group 0 */
    size_t most;   /* numbers that the reservation has */
    /* Under manager.lock. */
    struct number *number;
    size_t room;   /* in the array */
    size_t used;   /* numbers that were ever in use */
    size_t free;   /* first of those that are not any more; NONE */
    size_t sought; /* the last that was missed, or found because it was brought ahead */
};

/* Whether slices can be had for a tier: the CPU clears them, and the budget is
 * to hold many groups. */
static inline bool home_possible(const struct tier *tier)
{
    return tier_is_memory(tier) && (tier->backend->caps & TERRACE_CAP_CPU) &&
           tier->arena.limit / GROUP >= LEAST_GROUPS;
}

/* ---- small.c ---- */

/* What serves slices for use on a tier, to tensors of that placement, which the caller
 * keeps; NULL: nothing does. */
struct home *small_home_get(struct smalls *a, unsigned tier, struct placement *placement);
void small_link_locked(struct small *s);
void small_unlink_locked(struct small *s);
uint64_t small_slice_take(struct home *h, size_t bytes, size_t alignment);
void small_slice_give(struct home *h, uint64_t address, size_t bytes, size_t alignment);
/* The slice's group and offset become the tensor's. */
void small_place_locked(struct smalls *a, struct small *s, uint64_t address);
/* The tensor, off its list, does not use its slice of a group any more. Gives up
 * the lock, but not for a group of one. */
void small_slice_leave_locked(const struct small *s, struct terrace_tensor *g, uint32_t offset);

#endif
