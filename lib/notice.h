/* notice.h - uses of blocks of address-stable memory are noticed.
 * May call: core.h. */
#ifndef TERRACE_LIB_NOTICE_H
#define TERRACE_LIB_NOTICE_H

#include "core.h"

struct stable;

TAILQ_HEAD(notice_list, terrace_tensor);

/* Part of struct stable. */
struct notice {
    struct notice_list shown;  /* mapped of late, the latest last */
    struct notice_list hidden; /* of these, taken back since, and perhaps still in use */
    struct notice_list away;   /* mapped, on a slower node; the latest last */
    unsigned showing, hiding, staying; /* how many they are */
    uint64_t look_away;        /* ns: when the next of those that are away are taken back */
    unsigned keep;             /* so many stay mapped */
    unsigned calm;             /* uses since `keep` was last changed */
    uint64_t uses;             /* of blocks so far */
    unsigned credit;           /* so many may be taken back: blocks that came have paid for that */
    uint64_t paid_until;       /* ns: what was taken back without is paid for then */
    uint64_t waiting_since;    /* ns: somebody has waited for a block since; 0: nobody does */
    uint64_t sought[MAX_TIERS], short_until[MAX_TIERS]; /* tier.sought when last looked at; uses */
};

void notice_init(const struct terrace *m, struct notice *n);
/* Somebody begins to wait for the block: it is used. */
void notice_used_locked(struct stable *s, struct terrace_tensor *t);
/* Somebody touches the block where it is absent, perhaps for a single page: where
 * uses are foreseen, that is one, or shows that they are not. */
void notice_touched_locked(struct terrace_tensor *t);
/* Somebody no longer waits; called after it has left stable.faulted. */
void notice_served_locked(struct stable *s, struct terrace *m);
/* Its pages are at their place. */
void notice_mapped_locked(struct stable *s, struct terrace_tensor *t);
/* It leaves memory, or is gone. */
void notice_forget_locked(struct stable *s, struct terrace_tensor *t);
/* They have been moved to a slower node. */
void notice_away_locked(struct stable *s, struct terrace_tensor *t);
/* Takes blocks back that were mapped some uses ago. By the service thread; gives
 * up the lock. */
void notice_take_back_locked(struct terrace *m);
/* Has the next of those that are away taken back, when it is time for that. Returns in
 * how many ms that is again; -1: there are none. By the service thread. */
int notice_look_away_locked(struct terrace *m);

#endif
