/* registered.h - hot memory of host tiers, made known to those who copy to and from it.
 * May call: core.h, gate.h, the backends' tables. */
#ifndef TERRACE_LIB_REGISTERED_H
#define TERRACE_LIB_REGISTERED_H

#include "core.h"

/* Begins to count, where there is a device that gains from it. Without one, or without
 * memory to count in, nothing of the rest does anything. */
void registered_open(struct terrace *m);
void registered_close(struct terrace *m); /* the lanes have stopped */
/* Nothing of the host tiers any more: their pages are to be moved. Gives up the lock. */
void registered_forgo_locked(struct terrace *m);

/* Whether it is the tier of a device that gains from it. */
static inline bool registered_gains(const struct tier *tier)
{
    return tier_is_memory(tier) && tier->info.flags & TERRACE_UNIT_RANGES && tier->backend->pin && tier->backend->unpin;
}
/* A device begins to copy to or from that memory, and has ended. Meanwhile it stays as it
 * is. */
void registered_copies_locked(const struct copy *host);
void registered_copied_locked(const struct copy *host);
/* Memory has been committed. */
void registered_grows_locked(struct tier *tier, const struct extent *e);
/* Whether that would have to wait for a copy: memory, a list of it, is about to be
 * decommitted, and who knows of it forgets it. Gives up the lock. */
bool registered_waits_locked(const struct tier *tier, const struct extent *list);
void registered_leaves_locked(struct tier *tier, const struct extent *list);

/* By the thread of a device's lane: makes one granule known, if this is the time for it.
 * 0: there may be more to do; else in how many nanoseconds that is so, -1: there is
 * nothing. Gives up the lock. */
int64_t registered_renew_locked(struct lane *lane);

/* How much of the tier is known, beside staging. */
uint64_t registered_bytes(const struct tier *tier);
/* Why not more of it; NULL: nothing was refused. */
const char *registered_refused(const struct tier *tier);

#endif
