/* region.h - what the files of address-stable memory share: its regions, the
 * state of the service, and the lists that connect the two.
 * May call: core.h, notice.h, uffd.h. */
#ifndef TERRACE_LIB_REGION_H
#define TERRACE_LIB_REGION_H

#include "core.h"
#include "notice.h"
#include "uffd.h"

enum { PAGE = 4096, BLOCK_PAGES = 512 };

struct region {
    LIST_ENTRY(region) link;
    struct tier *tier;
    void *mapping;    /* a granule more than `reserved`, for the alignment */
    char *base;
    size_t bytes;     /* as asked for */
    size_t reserved;  /* blocks * block_bytes, from base */
    size_t block_bytes;
    size_t blocks;
    char *label;
    unsigned number;  /* in the order of creation */
    int role;
    struct placement *placement; /* of its blocks */
    bool kept;        /* which may not leave the tier */
    unsigned live_pass;   /* for live.c: when its blocks were last looked at, */
    uint32_t live_tiers;  /* and where they are */
    uint64_t live_memory;
    bool dying;
    bool paged;       /* of late, single pages were touched: no whole blocks come ahead as foreseen */
    size_t last;      /* block of the last fault */
    long stride;      /* from the one before it, in blocks */
    unsigned run;     /* faults at this stride so far */
    struct terrace_tensor *block[]; /* NULL: never touched */
};

struct fine;
struct slab;

struct stable {
    struct uffd uffd;
    int event;
    pthread_t thread;
    bool stop;
    bool kicked;
    bool watched;     /* a lane looks for faults */
    unsigned moving;  /* how often pages are being moved without the lock */
    bool forking;     /* somebody wants to, and nothing to move */
    pthread_mutex_t landing; /* the lane puts pages that it has read in place; or a fork is
                              * under way. Taken after manager.lock */
    LIST_HEAD(, region) regions;
    unsigned regions_made;
    struct notice notice;
    TAILQ_HEAD(, terrace_tensor) faulted; /* somebody waits for the block */
    TAILQ_HEAD(, terrace_tensor) leaving; /* to be taken back: blocks and slabs */
    TAILQ_HEAD(, terrace_tensor) stuck;   /* could not be, for a while; linked by `work` */
    TAILQ_HEAD(, fine) paged;             /* somebody waits for single pages */
    LIST_HEAD(, slab) slabs;
    struct slab *open[MAX_TIERS];         /* gives out frames */
    struct slab *spare[MAX_TIERS];        /* the next to */
};

/* Its copy in the tier that it is brought to where it is touched. */
static inline struct copy *block_copy(struct terrace_tensor *t)
{
    return &t->copy[t->region->tier - t->manager->tier];
}

/* Its pages are at its place, and of another, slower tier. */
static inline bool block_is_away(const struct terrace_tensor *t)
{
    return t->mapped && t->region && t->from != t->region->tier - t->manager->tier;
}

static inline char *block_address(const struct terrace_tensor *t)
{
    return t->region->base + t->index * t->region->block_bytes;
}

static inline XXH128_hash_t checksum(const void *p, size_t bytes)
{
    return XXH3_128bits(p, bytes);
}

/* Around moving pages without the lock: a fork waits until that has ended. */
static inline void moving_locked(struct terrace *m, bool begins)
{
    m->stable->moving += begins ? 1 : -1u;
    if (m->stable->forking)
        manager_changed_locked(m);
}

/* Lets a fork go first. */
static inline void fork_gate_locked(struct terrace *m)
{
    while (m->stable->forking)
        manager_wait(m);
}

/* There is something for the service thread to do. */
static inline void work_locked(struct terrace *m)
{
    m->stable->kicked = true;
}

/* The values of TERRACE_STABLE, in the order of options.def. */
enum { STABLE_AUTO, STABLE_USERFAULTFD, STABLE_COPY, STABLE_FILE };

/* ---- stable.c ---- */

/* Has the service run. Errors: ENOMEM, ENOTSUP, ESYSTEM. */
int stable_open_locked(struct terrace *m);
/* Whether a tier's pages can be moved to other addresses of the CPU. */
bool stable_movable(const struct tier *tier);
/* Notes and logs what serves stable memory, and why. */
void stable_serves_locked(struct terrace *m, const char *what, const char *reason);

/* ---- region.c ---- */

/* The region that has the address, NULL: none, or it is being freed. */
struct region *region_at_locked(const struct stable *s, uint64_t address);
/* The block's tensor, made where there is none; NULL: no host memory. */
struct terrace_tensor *block_locked(struct region *r, size_t i);
/* Whether other rules allow the regions that there are where they are. Errors: ERULE, ENOMEM. */
int stable_rules_fit_locked(struct terrace *m, struct rules *rules);
/* And has them obey these, which has been found possible; blocks apart. */
void stable_rules_adopt_locked(struct terrace *m, struct rules *rules);
/* Gives a region back: first the pages at its addresses, then its blocks. */
void region_free_locked(struct region *r);

#endif
