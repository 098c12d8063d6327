/* small.h - small tensors: slices of groups that migrate as one.
 * May call: core.h. */
#ifndef TERRACE_LIB_SMALL_H
#define TERRACE_LIB_SMALL_H

#include "core.h"

/* A small tensor's handle. All but what is constant is under manager.lock. */
struct small {
    struct terrace *manager; /* these two as in struct terrace_tensor */
    bool small;
    bool blank;    /* never written: reads as zeros, whatever is in the slice */
    bool hot;      /* created, acquired or prefetched since it was last demoted */
    bool doomed;   /* destroyed; freed when the last user is gone */
    bool moving;   /* its bytes are being copied out of the group: no writers */
    unsigned char align : 4; /* log2 of the slice's alignment */
    unsigned char role : 4;
    uint16_t bytes; /* as asked for */
    char *label;
    struct terrace_tensor *group;
    LIST_ENTRY(small) of_group; /* in group.smalls */
    struct small_left *left;    /* the slice it had before, as long as that is pinned */
    uint32_t offset; /* in the group */
    uint32_t pins;   /* of the slice in the group */
    uint32_t writes; /* of them for writing */
    uint16_t busy;   /* calls inside the library that need the handle */
    uint16_t errors; /* of the group's errors, those that this one need not report */
};

/* A slice that its tensor has left while somebody was reading it. */
struct small_left {
    struct terrace_tensor *group;
    uint32_t offset, pins;
};

/* The small tensor that a handle stands for, or NULL. */
static inline struct small *small_of(terrace_tensor *t)
{
    return t->small ? (struct small *)t : NULL;
}

/* The tensor that migrates. */
static inline struct terrace_tensor *small_group(terrace_tensor *t)
{
    return t->small ? ((struct small *)t)->group : t;
}

/* Settles what serves small tensors; the tiers are open. */
void smalls_open(struct terrace *m);
/* Frees small tensors that are left, and dooms all groups; the lanes have stopped. */
void smalls_close(struct terrace *m);

/* Other rules are in force: no group that obeys other ones than its neighbours takes
 * in new tensors. */
void smalls_replaced_locked(struct terrace *m);

/* Gives back what small tensors have not needed for a while. */
void smalls_trim(struct terrace *m);
/* What there is for them: bytes of slices in use or kept for reuse, and of groups. */
void smalls_stats(struct terrace *m, uint64_t *slices, uint64_t *groups);

/* Makes a small tensor. 1: it is to be an ordinary one. Errors: ENOMEM, ERULE. */
int small_create(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                 terrace_tensor **out);
void small_destroy_locked(struct small *s);
/* Frees it if it is doomed and nothing uses it any more. May give up the lock;
 * then its group may be gone, too. */
void small_reap_locked(struct small *s);

/* Where there are several tiers in memory, before it is acquired: sees to it that
 * using it on a tier does not mean using its group on another tier than the
 * group's own. May move it out of the group, and wait as the mode says. Errors:
 * EBUSY, and as terrace_acquire(). */
int small_prepare(terrace_tensor *t, terrace_tier which, unsigned mode);
/* The tier that is meant for it, where a kind or class was named. */
terrace_tier small_tier_locked(const struct small *s, terrace_tier which);
/* Has its group live on another tier, where nobody but the `uses` of the caller, who
 * has no pins, uses any tensor of it. False: it stays. */
bool small_rehome_locked(const struct small *s, unsigned tier, uint32_t uses);
/* The slice that it has left, if that is what is held at the address. */
struct small_left *small_left_at_locked(const struct small *s, const void *address);
/* A pin has been taken back: of a slice that it has left, or of its own. */
void small_released_locked(struct small *s, struct small_left *left);
/* A group is missed, or was not because it had been brought ahead: where groups
 * are used in their order, brings those that follow. */
void group_sought_locked(struct terrace_tensor *group, struct tier *tier);
/* A group that nothing is in needs no memory. */
void group_idle_locked(struct terrace_tensor *group);

/* How its group is used when it is used as `mode` says. */
unsigned small_mode_locked(const struct small *s, const struct copy *c, unsigned mode);
/* Its acquire has succeeded, the copy may still be hollow. Clears the slice if
 * it is to read as zeros; whether the group's bytes change now. */
bool small_acquired_locked(struct small *s, struct copy *c, unsigned mode);
/* Will be used: its group had better stay. */
void small_wanted_locked(struct small *s);
/* Will not be used soon; whether that is so of its whole group now. */
bool small_demoted_locked(struct small *s);

/* Reports, and has as reported, an error of its group's migrations; 0: none. */
int small_report_locked(struct small *s);
bool small_unfilled_locked(const struct small *s); /* there is one, of a fill */
/* Puts the tensor's name in front of the calling thread's sentence. */
int small_failed(const struct small *s, int error);
const char *small_name(const struct small *s); /* its label, or "(unnamed)" */
/* The name of one tensor of a group, rather one in use, and how many others. */
const char *group_example_locked(const struct terrace_tensor *group, unsigned *others);

#endif
