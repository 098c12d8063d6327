/* gate.h - streams that wait for bytes whose last copy has not even begun.
 * May call: core.h, the backend's table. */
#ifndef TERRACE_LIB_GATE_H
#define TERRACE_LIB_GATE_H

#include "core.h"
#include "mover.h"

/* Whether the stream can be told to wait for what is on its way to the copy. */
bool gate_serves_locked(const struct copy *c, const void *stream);
/* Has the stream wait for it. Gives up the lock. Errors: as terrace_backend.gate_follow,
 * most of all EAGAIN (this stream cannot, or not now: the host is to wait). */
int  gate_follow_locked(struct copy *c, void *stream);
/* All of the fill is with the backend: the device is to open the gate of its copy. Gives
 * up the lock. */
void gate_taken_locked(struct transfer *x);
/* What the copy's streams wait for has come, or will never: they are to go on. */
void gate_over_locked(struct copy *c, bool broken);
/* Sees to it; by the thread of the tier's lane, or when that has ended. Gives up the lock. */
void gates_end_locked(struct tier *tier);

/* Whether streams wait just now, so that the tier's driver may not be asked to allocate,
 * map, free or register anything: it might wait for one of them. */
static inline bool gates_bar_locked(const struct tier *tier)
{
    return tier->backend->gate && tier->manager->gates;
}
/* Such calls go between these: none is made while a stream waits, and none begins to
 * wait meanwhile. By no lane's thread, as streams wait for those. Gives up the lock. */
void gates_change_begins_locked(struct tier *tier);
void gates_change_ended_locked(struct tier *tier);
/* Until no stream waits any more. */
void gates_settle_locked(struct terrace *m);

/* Breaks the gates of a tier whose copies have not moved for too long: see gate.c. In
 * how many nanoseconds it is to be looked at again, -1: it need not be. */
int64_t gates_watch_locked(struct lane *lane);
extern uint64_t gate_patience_ns; /* too long; tests shorten it */

#endif
