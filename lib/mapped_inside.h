/* mapped_inside.h - what the files of mapped memory share: its regions and blocks.
 * May call: mapped.h. */
#ifndef TERRACE_LIB_MAPPED_INSIDE_H
#define TERRACE_LIB_MAPPED_INSIDE_H

#include "mapped.h"

enum { PAGE = 4096, BLOCK = 2 << 20, BLOCK_PAGES = BLOCK / PAGE };

struct block {
    uint16_t mapped;  /* pages the program had when last looked at */
    uint16_t held;    /* pages in memory, as far as known */
    bool left;
    uint32_t touched; /* the region's clock then */
    _Atomic uint16_t pins;
    _Atomic bool wanted, unwanted;
};

struct mapping {
    LIST_ENTRY(mapping) link;
    LIST_ENTRY(mapping) claim; /* under the manager's lock */
    char *label;
    int role;
    struct tier *tier, *disk;
    uint64_t space;   /* in the disk tier */
    char *base;
    size_t asked;
    size_t bytes;     /* in whole pages */
    size_t reserved;  /* address space, and space on the disk */
    uint32_t clock;   /* blocks touched so far */
    uint32_t walked;  /* when last seen walking */
    bool walking;
    bool random;      /* the kernel was told so */
    int sparse;       /* looks in a row that found touches here and there */
    size_t front, back; /* hands of the clock: next to leave, next to drop */
    uint64_t held;    /* pages */
    size_t blocks;
    struct block block[];
};

struct mapped {
    struct terrace *manager;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool stop;
    struct mapping *working;
    LIST_HEAD(, mapping) regions;
    int pagemap; /* -1: not to be had */
    long faults; /* of the process when last looked */
    _Atomic bool wishes;
    uint64_t charge[MAX_TIERS]; /* under the manager's lock */
    LIST_HEAD(, mapping) claims; /* the same: all regions, also those being made */
};

static inline size_t block_bytes(const struct mapping *r, size_t i)
{
    size_t left = r->bytes - i * BLOCK;
    return left < BLOCK ? left : BLOCK;
}

static inline char *block_at(const struct mapping *r, size_t i)
{
    return r->base + i * BLOCK;
}

static inline bool block_may_go(const struct block *b)
{
    return b->held && atomic_load(&b->pins) == 0;
}

/* ---- mapped_charge.c ---- */

/* Counts bytes as used, if they fit. */
bool mapped_charge_locked(struct tier *tier, uint64_t bytes);
/* Has others leave the tier until `bytes` can be charged to it. */
int mapped_charge_for_certain(struct tier *tier, uint64_t bytes);
/* Follows what there is to hold, as far as nobody else has the memory. */
uint64_t mapped_charge_adjust(struct mapped *e, struct tier *tier);

/* ---- mapped_block.c ---- */

enum what { READ, WRITE, WRITE_AND_WAIT };
enum { LOOK = 8 };

/* Has the kernel do something with the file behind a block. */
void mapping_file(const struct mapping *r, size_t i, enum what what);
/* How many pages are in memory, and how many of these are not yet written, as
 * far as the kernel tells. */
size_t mapping_in_memory(const struct mapping *r, size_t i, size_t page, size_t pages, size_t *unwritten);
/* Notes how many pages are in memory. */
void mapping_look(struct mapping *r, size_t i);
/* Which pages of up to LOOK blocks from i on the program has; false: unknown. */
bool mapping_pages(const struct mapped *e, const struct mapping *r, size_t i, size_t n, uint64_t *entry);
/* Takes its pages out of the page tables and starts writing them. */
void mapping_leave(struct mapping *r, size_t i);
/* Drops what the program has not come back to since the block was left. */
void mapping_drop(const struct mapped *e, struct mapping *r, size_t i);
/* Starts reading it. */
void mapping_read(struct mapping *r, size_t i);

/* ---- mapped_region.c ---- */

void mapping_free(struct mapping *r);

/* ---- mapped.c ---- */

/* The manager's, begun with the first region; NULL: it cannot be had. */
struct mapped *mapped_open(struct terrace *m);

#endif
