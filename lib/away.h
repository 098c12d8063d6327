/* away.h - blocks of address-stable memory that are used on a slower node.
 * May call: core.h. */
#ifndef TERRACE_LIB_AWAY_H
#define TERRACE_LIB_AWAY_H

#include "core.h"

struct stable;

/* A mapped block that has been recalled to make room: has the kernel move its pages to
 * the next node that has room, under their addresses. By the service thread, which
 * gives up the lock. False: that cannot be done, and it leaves in the usual way. */
bool away_go_locked(struct stable *s, struct terrace_tensor *t);
/* Has a block that is away taken back, and waits for a step of that. It then comes to
 * its own tier when it is touched. Not by the service thread; gives up the lock. */
void away_return_locked(struct terrace_tensor *t);
/* What comes to its place is on its own tier's node again. Without the lock. */
void away_settle(const struct terrace_tensor *t);

#endif
