/* moved.h - what has moved between tiers, and who waited for it.
 * May call: core.h. */
#ifndef TERRACE_LIB_MOVED_H
#define TERRACE_LIB_MOVED_H

#include "core.h"

/* One migration that has ended. */
struct move {
    const char *label;
    uint64_t asked, began; /* when it was wanted; when its first piece was started, 0: never */
    unsigned char priority;
    bool spoiled;          /* it failed, or came to nothing */
};

/* Counts bytes that have moved, for both tiers and their route, and notes the
 * migration in the timeline. The same tier twice: within it. */
void moved_locked(struct tier *from, struct tier *to, uint64_t bytes, const struct move *move);

/* The calling thread, or with `fault` somebody who touched stable memory, waited
 * from `since` until now for that. */
void stalled_locked(struct terrace *m, uint64_t since, const char *label, bool fault);

/* When something begins, where there is a timeline; else 0. */
static inline uint64_t moved_clock(const struct terrace *m)
{
    return m->trace ? clock_ns() : 0;
}

#endif
