/* device_region.h - what the files of devices' stable memory share.
 * May call: core.h. */
#ifndef TERRACE_LIB_DEVICE_REGION_H
#define TERRACE_LIB_DEVICE_REGION_H

#include "core.h"

/* Where a block is: in the device's memory, or in the host's, from where the device
 * uses it at the same address. */
enum { BLOCK_NOWHERE, BLOCK_NEAR, BLOCK_FAR };

/* A granule of the tier. */
struct device_block {
    uint64_t stamp;     /* when it was last allocated or advised to be needed; 0: it will not be */
    uint32_t pins;
    unsigned char at;   /* BLOCK_... */
    bool unsure;        /* moving it has failed: it is to be placed again, wherever it is */
};

struct device_region {
    LIST_ENTRY(device_region) link;
    struct tier *tier;
    uint64_t base;
    size_t bytes;       /* as asked for */
    size_t blocks;
    char *label;
    int role;
    struct placement *placement;
    unsigned sinking;   /* how often blocks of it are on their way to be far */
    struct extent *plain; /* memory that does not move, and then there are no blocks; or NULL */
    struct device_block block[];
};

/* Under manager.lock. */
struct device_stable {
    LIST_HEAD(, device_region) regions;
    uint64_t stamp;     /* the latest given */
    struct device_tier {
        bool busy;      /* a safepoint has blocks of it in its hands */
        bool changed;   /* since they were last sorted: blocks, or what is said of them */
        uint64_t room;  /* blocks that could have been near when that ended */
        uint64_t near, far; /* blocks */
        char refused[200];  /* why no block can be far; "": it can */
        char engine[300];
    } tier[MAX_TIERS];
};

static inline struct device_tier *device_tier_of(const struct tier *tier)
{
    return &tier->manager->device_stable->tier[tier - tier->manager->tier];
}

/* "the memory of terrace_malloc() labelled so" */
static inline const char *device_region_label(const struct device_region *r)
{
    return r->label ? r->label : "(stable memory)";
}

/* ---- device_blocks.c ---- */

/* The host tier that has the blocks of this one that are far; NULL: there is none, or it
 * cannot be, and `why` says so. */
struct tier *device_far_tier(const struct device_region *r, const char **why);
/* Puts blocks from i on where nothing of them is, or from the other place; `n` is how
 * many at most, and then how many were. `evict`: others leave for them; else as many as
 * there is room for. Gives up the lock. Errors: as room_charge_locked() and the backend's
 * place; 0 also where there was no room. */
int device_put_locked(struct device_region *r, size_t i, size_t *n, int where, bool evict);
/* Places again those that a failure has left unsure. */
int device_put_right_locked(struct device_region *r);
/* Gives all memory of a region back, which nobody uses or knows any more. */
void device_empty_locked(struct device_region *r);

#endif
