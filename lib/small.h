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
    uint32_t bytes;  /* as asked for */
    char *label;
    struct terrace_tensor *group; /* constant */
    LIST_ENTRY(small) of_group;   /* in group.smalls */
    uint32_t offset; /* in the group; constant */
    uint32_t pins;
    uint32_t busy;   /* calls inside the library that need the handle */
    uint32_t errors; /* of the group's errors, those that this one need not report */
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

/* Makes a small tensor. 1: it is to be an ordinary one. Errors: ENOMEM. */
int small_create(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                 terrace_tensor **out);
void small_destroy_locked(struct small *s);
/* Frees it if it is doomed and nothing uses it any more. May give up the lock;
 * then its group may be gone, too. */
void small_reap_locked(struct small *s);

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
