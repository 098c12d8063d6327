/* relay.h - from one device to another, through staging memory.
 * May call: core.h, mover.h, staging.h. */
#ifndef TERRACE_LIB_RELAY_H
#define TERRACE_LIB_RELAY_H

#include "mover.h"

/* Takes staging memory, where there are two tiers between which no direct route leads
 * and a host tier that has room for it; else such bytes go by way of a host tier. */
void relay_open(struct terrace *m);
void relay_close(struct terrace *m); /* the lanes have stopped */

/* The host tier whose staging memory leads from one to the other; NULL: none does. */
const struct tier *relay_between(const struct tier *from, const struct tier *to);
/* Whether the tensor's bytes may pass from one tier to the other through it. */
bool relay_leads(const struct terrace_tensor *t, const struct tier *from, const struct tier *to);
/* Carries out a transfer that no lane has queued, from `other` to `copy`. */
void relay_start_locked(struct transfer *x);
/* Somebody waits for it now. */
void relay_hurry_locked(struct transfer *x);

#endif
