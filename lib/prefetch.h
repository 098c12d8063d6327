/* prefetch.h - what the schedule expects is carried out.
 * May call: core.h. */
#ifndef TERRACE_LIB_PREFETCH_H
#define TERRACE_LIB_PREFETCH_H

#include "core.h"

struct lane;

/* Starts with what TERRACE_SCHEDULE has, if it is set. A file that is foreign or
 * damaged is reported to the log and ignored. */
void prefetch_open(struct terrace *m);
/* Leaves there what was learned; before the tensors are destroyed. */
void prefetch_save(struct terrace *m);

/* The copy was acquired, or touched. stalled_since: when that began to take waiting, or 0. */
void prefetch_used_locked(struct copy *c, unsigned mode, uint64_t stalled_since);
/* Something can leave that could not before. */
void prefetch_poke_locked(struct terrace *m);
void prefetch_step_locked(struct terrace *m);
/* Something left that may be expected to be used. */
void prefetch_absent_locked(struct terrace *m);

/* Starts the fills that are due. By a lane's thread; gives up the lock. */
void prefetch_follow_locked(struct lane *lane);
/* The copy to be written next, so that something can always leave at once; NULL:
 * there is enough of that, or nothing has to leave. For tiers whose policy
 * foresees. */
struct policy_node *prefetch_dirty_locked(struct tier *tier);

#endif
