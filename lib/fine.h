/* fine.h - blocks of address-stable memory held page by page.
 * May call: core.h, region.h. */
#ifndef TERRACE_LIB_FINE_H
#define TERRACE_LIB_FINE_H

#include "region.h"

/* All but the last four are the service thread's. */

/* A fault on a page of a block that is not mapped. True: the page is on its
 * way; false: the whole block is to come. */
bool fine_fault_locked(struct stable *s, struct terrace_tensor *t, unsigned page);
/* Goes on with what could not be done when it was asked for. */
void fine_serve_all_locked(struct stable *s);
/* The whole block is in the arena and about to be mapped: takes its single
 * pages back and puts them there. Gives up the lock. False: not now. */
bool fine_fold_locked(struct stable *s, struct terrace_tensor *t);
/* Pages of the block are in use by I/O, which may wait for others of them: after
 * folding failed. It comes by pages then. */
bool fine_stays_locked(const struct terrace_tensor *t);
/* Takes a slab's pages back, and writes down those that were changed. */
void fine_unmap_slab_locked(struct stable *s, struct terrace_tensor *t);
/* Has the block's single pages leave memory; any thread. */
void fine_expel_locked(struct stable *s, struct terrace_tensor *t);
/* The block cannot be read as a whole. True: its pages will be, one by one. */
bool fine_spoilt_locked(struct stable *s, struct terrace_tensor *t);

/* The block's region is being freed: nobody waits any more; later, nothing of
 * it is left at its addresses. */
void fine_retire_locked(struct stable *s, struct terrace_tensor *t);
void fine_free_locked(struct stable *s, struct terrace_tensor *t);
/* Whether nothing distinguishes the block from a whole one; then it is one. */
bool fine_rests_locked(struct stable *s, struct terrace_tensor *t);
/* Says where a forked child finds the block's pages. */
struct fork_plan;
void fine_describe_locked(struct terrace_tensor *t, struct fork_plan *p);

/* Frees the slabs that nothing is in. */
void fine_trim_locked(struct stable *s);
/* Frees all slabs; there are no regions left. */
void fine_close_locked(struct stable *s);

#endif
