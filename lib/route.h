/* route.h - by which way bytes get from one device to another.
 * May call: core.h, the backends' tables. */
#ifndef TERRACE_LIB_ROUTE_H
#define TERRACE_LIB_ROUTE_H

#include "core.h"

enum way { WAY_NONE, WAY_PEER /* straight from the other's memory */, WAY_RELAY /* through staging memory */ };

/* Asks the backends which of their devices reach each other; before the relay's is there. */
void routes_open(struct terrace *m);
void routes_close(struct terrace *m);
/* Whether there is a way straight from one to the other. */
bool route_reaches(const struct tier *from, const struct tier *to);
/* What that way was measured to do, in bytes per second; 0: not known. */
uint64_t route_rate(const struct tier *from, const struct tier *to);
/* The way of the tensor's next transfer. */
enum way route_choose_locked(const struct terrace_tensor *t, const struct tier *from, const struct tier *to);
/* A transfer begins on its way, and has ended; bytes: that have come. */
void route_begins_locked(const struct tier *from, const struct tier *to, enum way way);
void route_ends_locked(const struct tier *from, const struct tier *to, enum way way, uint64_t bytes);
/* The way straight has failed, and is not gone again. */
void route_fails_locked(const struct tier *from, const struct tier *to);

/* Which of two ways to go for the nth time, where they were measured to have such rates,
 * 0: not known yet. Each is tried; then the faster is taken, without a clear difference
 * the one straight; now and then the other one is looked at again, with some of them. */
enum way route_faster(uint64_t peer, uint64_t relay, uint64_t nth);

#endif
