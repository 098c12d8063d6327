/* staging.h - pinned host memory that bytes pass through on their way.
 * May call: core.h, the backends' tables. */
#ifndef TERRACE_LIB_STAGING_H
#define TERRACE_LIB_STAGING_H

#include "core.h"

/* Takes exactly `bytes`, rounded up to pages, from the pool, which grows by them
 * where it has no such piece left: memory of the host tier next to `user`, in its
 * budget, locked and made known to the backends that want that. Where it may not
 * grow, `wait` waits for a piece that is given back. May block; without the lock.
 * Errors: ENOTSUP (there is no host tier), EBUDGET (no room in its budget, or
 * less than `most` says: bytes of the pool there may be), ENOMEM. */
int staging_take(struct tier *user, uint64_t bytes, uint64_t most, bool wait, void **out);
void staging_give(struct terrace *m, void *address);
/* The host tier that it comes from; NULL: there is none. */
struct tier *staging_host(struct tier *user);
/* Gives the memory back; nothing of it is in use any more. */
void staging_close(struct terrace *m);
/* Whether it is pinned, and with whom it is registered, or why not; NULL: there
 * is none on this tier. */
const char *staging_state_locked(const struct tier *host);

/* How much of it is registered with anybody. */
uint64_t staging_registered_locked(const struct tier *host);

#endif
