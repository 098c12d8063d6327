/* forked.h - what a forked child finds in address-stable memory.
 * May call: core.h. */
#ifndef TERRACE_LIB_FORKED_H
#define TERRACE_LIB_FORKED_H

#include <sys/types.h>

#include "core.h"

struct fork_plan;

/* From here on the process's forks are looked after, once there is a manager:
 * handlers registered earlier run while locks of managers are held. */
void forks_begin(void);
/* Calls fork_now; fails with ENOMEM where the child would not have all stable memory
 * (unless TERRACE_FORK=allow), also where the kernel would not refuse the fork;
 * terrace_last_error() then says why. */
pid_t forks_try(pid_t (*fork_now)(void));
/* From here on the manager's forks are looked after. Errors: ENOMEM. */
int  forks_open(struct terrace *m);
void forks_close(struct terrace *m); /* before anything else of it is closed */
void forks_free(struct terrace *m);  /* after the tensors, before the tiers */
/* Calls fn for each manager of the process, of which none is closed meanwhile. */
void forks_each(void (*fn)(struct terrace *m));

/* ---- said of each part of a region, in the order of addresses ----
 * A part of which nothing is said is not there in the child. */

/* The child has what is there: pages, and zeros where there is nothing. */
void fork_inherits(struct fork_plan *p, char *at, size_t bytes);
/* The bytes are elsewhere in memory. */
void fork_moves(struct fork_plan *p, char *at, const void *from, size_t bytes);
/* The bytes are those of a VALID copy on disk, from `offset` on. */
void fork_reads_locked(struct fork_plan *p, char *at, struct copy *disk, uint64_t offset, size_t bytes);

/* The bytes cannot be had. */
void fork_lacks(struct fork_plan *p);

/* ---- disk blocks that children may still read ---- */

/* Whether a child may read the copy's blocks: they are to be left as they are. */
bool fork_reads_still_locked(struct copy *disk);
/* If so, takes the copy's extent away from it, to free it when it may. */
bool fork_keeps_locked(struct copy *disk);
/* Frees what no child can read any more. */
void forks_reap_locked(struct terrace *m);

/* A page at `at` is shared with a child: makes it, and those behind it that are
 * there, this process's own. */
void fork_unshare(char *at, size_t bytes);

#endif
