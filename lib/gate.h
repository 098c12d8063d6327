/* gate.h - streams that wait for bytes whose last copy has not even begun.
 * May call: core.h, registered.h, the backend's table. */
#ifndef TERRACE_LIB_GATE_H
#define TERRACE_LIB_GATE_H

#include "core.h"
#include "mover.h"
#include "registered.h"

/* Whether the stream can be told to wait for what is on its way to the copy. */
bool gate_serves_locked(const struct copy *c, const void *stream);
/* Has the stream wait for it. Gives up the lock. Errors: as terrace_backend.gate_follow,
 * most of all EAGAIN (this stream cannot, or not now: the host is to wait). */
int  gate_follow_locked(struct copy *c, void *stream);
/* All of the fill is with the backend: the device is to open the gate of its copy. Gives
 * up the lock. */
void gate_taken_locked(struct transfer *x);
/* What the copy's streams wait for has come, or will never: they are to go on. */
void gate_over_locked(struct copy *c);
/* Sees to it; by the thread of the tier's lane, or when that has ended. Gives up the lock. */
void gates_end_locked(struct tier *tier);

/* Whether a driver with streams that wait learns of a change of the tier's memory: that
 * it is allocated, mapped, freed, or not registered any more. */
static inline bool gates_concern(const struct tier *tier)
{
    return tier->backend->gate || registered_bytes(tier);
}
/* Whether there is such a stream, for which the driver might wait. */
static inline bool gates_bar_locked(const struct tier *tier)
{
    return tier->manager->gates && gates_concern(tier);
}
/* Changes of the memory of a tier go between these: none is made while a stream waits,
 * and none begins to wait meanwhile. By no lane's thread, as streams wait for those. Gives
 * up the lock. What the former returns is for the latter. */
bool gates_change_begins_locked(struct tier *tier);
void gates_change_ended_locked(struct terrace *m, bool begun);
/* Until no stream waits any more. */
void gates_settle_locked(struct terrace *m);

/* Breaks the gates of tiers whose copies have not moved for too long: see gate.c. By the
 * thread of any lane; gives up the lock. In how many nanoseconds it is to be looked at
 * again, -1: it need not be. */
int64_t gates_watch_locked(struct terrace *m);
/* The fill has ended; if its gate was broken, that is its failure. */
void gate_stuck_locked(struct transfer *x);
extern uint64_t gate_patience_ns; /* too long; tests shorten it */

#endif
