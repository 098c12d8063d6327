/* stable.h - address-stable memory: what the rest of the core needs of it.
 * May call: core.h. */
#ifndef TERRACE_LIB_STABLE_H
#define TERRACE_LIB_STABLE_H

#include "core.h"

struct region;
struct fork_plan;

/* State changed: faults that could not be served may be served now. */
void stable_changed_locked(struct terrace *m);
/* Whether the service thread was given work since this was last asked; it is
 * then to be woken with stable_kick(), without the lock. */
bool stable_kicked_locked(struct terrace *m);
bool stable_work_locked(const struct terrace *m); /* it was, and still is to be woken */
void stable_kick(struct terrace *m);
/* The copy's pages are at the block's stable address, or were and may have been changed
 * there: before it can be evicted like any other, it is to be recalled. Counts as
 * draining until then. */
static inline bool stable_is_out(const struct copy *c)
{
    const struct terrace_tensor *t = c->tensor;
    return (t->mapped || t->loose) && t->from == c->tier;
}
void stable_recall_locked(struct copy *c);
/* The block, or slab, could not be taken back: somebody's I/O holds pages of it. For
 * a while nobody asks for it again. And the end of that, if it has begun. */
void stable_stuck_locked(struct copy *c);
void stable_unstuck_locked(struct terrace_tensor *t);
void stable_stop(struct terrace *m);  /* ends the service thread */
void stable_close(struct terrace *m); /* gives all regions back; the lanes have stopped */
/* What the lane of this disk may watch, so that single pages are asked for
 * without a detour by the service's thread; -1: nothing. */
int stable_descriptor_locked(const struct terrace *m, const struct tier *disk);
/* Looks for faults; by the lane that watches. first: it has just begun to. */
void stable_faults_locked(struct terrace *m, bool first);

/* Somebody waits for the whole block. */
struct stable;
/* Takes a mapped block's pages back into the arena, where it stays; by the service
 * thread, which gives up the lock. False: that cannot be done now. */
bool stable_hide_locked(struct stable *s, struct terrace_tensor *t);
void block_fault_locked(struct stable *s, struct terrace_tensor *t);

/* A fork: between begin and end, with the lock held throughout, no page moves. */
bool stable_has_regions_locked(const struct terrace *m);
void stable_fork_begins_locked(struct terrace *m);
void stable_describe_locked(struct terrace *m, struct fork_plan *p); /* says where the bytes are */
void stable_fork_ended_locked(struct terrace *m);

/* The blocks in a part of one allocation, that begins with one, read as zeros from
 * now on, and take no memory. Waits for I/O on them. */
void stable_discard(struct terrace *m, void *p, size_t bytes);

const char *region_label(const struct region *r);

#endif
