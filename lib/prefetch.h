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

/* The time of a use for the schedule, 0: it wants none. at: by clock_ns(), when that
 * was or when the caller began to wait for it; 0: now. */
uint64_t prefetch_time_locked(const struct terrace *m, uint64_t at);
/* The tensor was acquired on the tier, or the block touched, at that time, or 0. */
void prefetch_used_locked(struct terrace_tensor *t, unsigned tier, unsigned mode, uint64_t ns);
/* Something can leave that could not before. */
void prefetch_poke_locked(struct terrace *m);
void prefetch_step_locked(struct terrace *m);
/* Something left that may be expected to be used. */
void prefetch_absent_locked(struct terrace *m);

/* Starts the fills that are due. By a lane's thread; gives up the lock. */
void prefetch_follow_locked(struct lane *lane);
/* The copy to be written next, so that something can always leave at once; NULL:
 * there is enough of that, or nothing has to leave. `begun`: others have just been
 * started. For tiers whose policy foresees. */
struct policy_node *prefetch_dirty_locked(struct tier *tier, bool begun);

#endif
