/* lease.h - tensors that are acquired and released without the lock.
 * May call: core.h. */
#ifndef TERRACE_LIB_LEASE_H
#define TERRACE_LIB_LEASE_H

#include "core.h"

/* ---- without the lock ---- */

/* Acquires or releases, where that can be done without the lock; false: nothing
 * has happened, and nothing is known of why. */
bool lease_acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void **address,
                   terrace_tier *where);
bool lease_release(terrace_tensor *t, void *address);
/* Whether the tensor is there, and nothing is pending on it that a hint could change. */
bool lease_holds(terrace_tensor *t, const struct tier *tier);

/* ---- with it ---- */

static inline bool lease_is_open(const struct terrace_tensor *t)
{
    return atomic_load_explicit(&t->lease.word, memory_order_relaxed) != 0;
}

/* The copy has been released by all: opens it, if nothing is against that. */
void lease_open_locked(struct copy *c);
/* From now on the tensor's pins and state are those that its copies tell, and the
 * schedule knows of all uses so far. */
void lease_close_locked(struct terrace_tensor *t);
/* The same for all tensors with an open copy in the tier. */
void leases_close_locked(struct tier *tier);
/* Has schedule, policies and statistics know of all uses so far. */
void leases_drain_locked(struct terrace *m);
/* The manager is being closed. */
void leases_end(struct terrace *m);

/* What could leave the tier, all of it listed. */
static inline struct policy *tier_policy_locked(struct tier *tier)
{
    leases_close_locked(tier);
    return &tier->policy;
}

/* The tier with all its pinned copies on the list. */
static inline struct tier *tier_pinned_locked(struct tier *tier)
{
    leases_close_locked(tier);
    return tier;
}

static inline uint64_t tier_clean_bytes(const struct tier *tier)
{
    return policy_clean_bytes(&tier->policy) + tier->open_bytes[0];
}

/* Bytes of open copies that are acquired. */
uint64_t lease_pinned_bytes_locked(const struct tier *tier);

#endif
