/* frame.h - single pages of address-stable memory: the frames that hold them.
 * May call: mover.h, region.h. */
#ifndef TERRACE_LIB_FRAME_H
#define TERRACE_LIB_FRAME_H

#include "mover.h"
#include "region.h"

enum { SLAB_PAGES = 64 };

enum frame_state {
    FRAME_DEAD,    /* belongs to no page */
    FRAME_READING,
    FRAME_HELD,    /* has the bytes, which are not at their place */
    FRAME_MAPPED,  /* the page is at its place */
    FRAME_MOVING,  /* being moved or looked at without the lock */
    FRAME_WRITING, /* has bytes that are being written down */
    FRAME_BAD      /* the page cannot be read */
};

struct frame {
    struct terrace_tensor *block;
    XXH128_hash_t sum;   /* of what is below it, where `summed` */
    uint16_t page;
    unsigned char index; /* in its slab */
    unsigned char state;
    bool summed;
    bool behind;         /* an older frame of this page is still being written */
    bool same;           /* outcome of the last comparison */
};

struct slab {
    LIST_ENTRY(slab) link;
    struct terrace_tensor *tensor;
    struct tier *tier;
    unsigned used, live; /* frames given out; of them not dead */
    uint64_t placed;     /* a bit per frame: its page has been at its place, also while READING; under stable.landing */
    bool recalled;       /* its pages have been taken back, as far as that could be done */
    struct frame frame[SLAB_PAGES];
};

struct fine {
    TAILQ_ENTRY(fine) link;     /* in stable.paged */
    struct terrace_tensor *block;
    bool listed;
    bool leaving;               /* all its pages are to leave */
    bool bad;                   /* has pages that cannot be read: comes by pages */
    bool used;                  /* has pages in use by somebody's I/O: comes by pages until these have left */
    bool parted;                /* from its blocks on disk: none of it is read or written */
    unsigned pages;             /* that have frames */
    int stride, window, end;    /* the walk: distance, pages at once, last page asked for */
    uint64_t wanted[BLOCK_PAGES / 64]; /* somebody waits for these */
    uint64_t hole[BLOCK_PAGES / 64];   /* these are zeros, whatever the base has */
    struct frame *frame[BLOCK_PAGES];
};

/* I/O of frames that are adjacent in slab and block. */
struct frame_io {
    struct raw raw;
    struct terrace_tensor *block;
    struct frame *first;
    unsigned n, moved;
};

static inline bool bit(const uint64_t *set, unsigned i)
{
    return set[i / 64] >> i % 64 & 1;
}

static inline void bit_set(uint64_t *set, unsigned i, bool value)
{
    uint64_t mask = UINT64_C(1) << i % 64;
    set[i / 64] = value ? set[i / 64] | mask : set[i / 64] & ~mask;
}

static inline bool by_pages(const struct fine *fine)
{
    return fine->bad || fine->used;
}

static inline char *page_address(const struct terrace_tensor *t, unsigned page)
{
    return block_address(t) + (size_t)page * PAGE;
}

static inline struct slab *slab_of(struct frame *f)
{
    return (struct slab *)((char *)(f - f->index) - offsetof(struct slab, frame));
}

static inline struct copy *slab_copy(struct slab *slab)
{
    return &slab->tensor->copy[slab->tier - slab->tensor->manager->tier];
}

static inline char *frame_address(struct frame *f)
{
    return (char *)copy_address(slab_copy(slab_of(f))) + (size_t)f->index * PAGE;
}

static inline char *base_address(struct terrace_tensor *t, unsigned page)
{
    return (char *)copy_address(block_copy(t)) + (size_t)page * PAGE;
}

static inline struct copy *disk_copy(struct terrace_tensor *t)
{
    const struct tier *disk = tensor_spill_tier(t);
    return disk ? &t->copy[disk - t->manager->tier] : NULL;
}

/* ---- frame.c ---- */

/* The block's, made where there is none; NULL: no host memory. */
struct fine *fine_of(struct terrace_tensor *t);
/* The service goes on with it. */
void fine_list_locked(struct stable *s, struct fine *fine);
/* The block is not needed by a call any more, of which its region's end may wait. */
void block_rest_locked(struct terrace_tensor *t);

void slab_free_locked(struct stable *s, struct slab *slab);
/* A frame of it is dead, or its I/O has ended. */
void slab_check_locked(struct stable *s, struct slab *slab);
/* Sees to it that there are frames for the faults to come. Gives up the lock. */
void slab_stock_locked(struct stable *s, struct tier *tier);
/* A frame for a page; NULL: there is none now. */
struct frame *frame_take_locked(struct stable *s, struct terrace_tensor *t, unsigned page, unsigned state);
/* Its memory stays with the slab until that leaves. */
void frame_drop_locked(struct stable *s, struct frame *f);
/* Puts the page of a frame that has its bytes at its place. Gives up the lock. */
void frame_map_locked(struct stable *s, struct frame *f);

/* Transfers of frames adjacent in slab and block. */
void frame_io_start_locked(struct frame_io *io, struct frame *first, unsigned n, int op);
void frame_io_end_locked(struct frame_io *io);
/* How many of n pages from this one a single transfer may have. */
unsigned frame_io_most(struct terrace_tensor *t, unsigned page, unsigned n);
/* Reads up to n adjacent pages that have no frame. Returns how many; 0: later. */
unsigned frame_read_locked(struct stable *s, struct terrace_tensor *t, unsigned page, unsigned n);

/* ---- fine_leave.c ---- */

/* The frames of the list that may be taken back are, and those that must not be
 * lost are then HELD. Returns whether all could. Gives up the lock. */
bool frames_recall_locked(struct stable *s, struct terrace *m, struct frame **list, unsigned n);
/* The block's frames from page `*from` on, as many as are handled at once. Lets a
 * fork go first. */
unsigned frames_of_locked(const struct fine *fine, unsigned *from, struct frame **list);
/* The block's single pages leave. */
void fine_leave_locked(struct stable *s, struct terrace_tensor *t);

#endif
