/* live.h - the page by which `terrace top` sees what a manager does.
 * May call: core.h. */
#ifndef TERRACE_LIB_LIVE_H
#define TERRACE_LIB_LIVE_H

#include "core.h"

/* Makes the page, unless TERRACE_TOP=0. Where the system refuses it there is none. */
void live_open(struct terrace *m);
void live_close(struct terrace *m);

/* Renews it where that is due. By lanes, and by whoever comes along. */
void live_renew_locked(struct terrace *m);
/* How long the lane may sleep before it is to do that, nanoseconds; -1: as it likes. */
int64_t live_patience_locked(const struct tier *tier);

/* The tensor is going. */
static inline void live_forget_locked(struct terrace *m, const struct terrace_tensor *t)
{
    if (m->live_next == t)
        m->live_next = LIST_NEXT(t, all);
}

#endif
