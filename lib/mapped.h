/* mapped.h - address-stable memory without userfaultfd: a mapping of the spill.
 * May call: core.h. */
#ifndef TERRACE_LIB_MAPPED_H
#define TERRACE_LIB_MAPPED_H

#include "core.h"

/* Memory that a file on the spill disk stands behind, resident in `tier`; freed
 * with mapped_free(). NULL, with the sentence: EINVAL, ENOMEM, ENOTSUP (no disk
 * tier, one that is no file, or sealed spill), EBUDGET, ENOSPC, ESYSTEM, ERULE. */
void *mapped_alloc(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr);
/* Whether other rules allow all that there is of it where it is. Errors: ERULE, ENOMEM. */
int mapped_rules_fit_locked(struct terrace *m, struct rules *rules);
/* False: p is not the start of such memory. Waits for I/O on it. */
bool mapped_free(struct terrace *m, void *p);
/* Whether p lies in such memory. */
bool mapped_has(struct terrace *m, const void *p);
/* Whether there is any. */
bool mapped_serves(struct terrace *m);
int  mapped_advise(struct terrace *m, void *p, size_t bytes, int advice);

/* Somebody needs room in the tier: gives back some of what it has. */
bool mapped_yield_locked(struct tier *tier, uint64_t bytes);

void mapped_close(struct terrace *m);

#endif
