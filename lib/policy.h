/* policy.h - who leaves a tier when room is needed, and what is brought early.
 * May call: libc, schedule.h. No I/O, no locks: pure functions of a tier's
 * lists and of what the schedule expects, so that it can be tested on traces. */
#ifndef TERRACE_LIB_POLICY_H
#define TERRACE_LIB_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <bsd/sys/tree.h>

#include "schedule.h"

enum policy_kind { POLICY_AUTO, POLICY_LRU, POLICY_NONE, POLICY_BELADY }; /* order of options.def */

/* What is known of a listed copy's next use. */
enum policy_rank { RANK_NONE, RANK_NEW, RANK_EXPECTED, RANK_UNKNOWN };

/* One evictable copy, embedded in what it stands for. */
struct policy_node {
    TAILQ_ENTRY(policy_node) link;
    const struct schedule_item *item; /* what foretells its use, or NULL */
    uint64_t bytes;
    uint64_t stamp;   /* when it was last used; smaller is older; 0: leaves first */
    uint64_t left_at; /* policy.evicted when it was last evicted, 0 never */
    bool listed;
    bool dirty;       /* leaving costs a write */
    bool hot;         /* has proven that it is used again */
    bool current;     /* in use, as far as can be told: the last to leave */
    bool ahead;       /* brought ahead of its use, which has not come yet */
    unsigned char rank;
    bool unread;      /* its bytes will not be read again */
    uint64_t next;    /* RANK_EXPECTED: virtual time of its use */
    union {
        RB_ENTRY(policy_node) by_next;
        TAILQ_ENTRY(policy_node) other;
    };
};

TAILQ_HEAD(policy_list, policy_node);
RB_HEAD(policy_tree, policy_node);

struct policy {
    enum policy_kind kind;
    uint64_t limit;                /* bytes of the tier */
    uint64_t clock;                /* uses so far */
    uint64_t evicted;              /* bytes evicted so far */
    struct policy_list list[2][2]; /* [hot][dirty], least recently used first */
    uint64_t bytes[2][2];
    struct policy_node *added[2][2]; /* last, if it is still listed */
    /* With a schedule, every listed copy is also in one of these: */
    const struct schedule *schedule;
    uint32_t epoch;                   /* of the schedule when they were last sorted */
    struct policy_list fresh;         /* not sorted yet */
    struct policy_list unknown[2];    /* [dirty], in order of use */
    struct policy_tree expected[2][2]; /* [dirty][unread], by next use */
};

void policy_init(struct policy *p, enum policy_kind kind, uint64_t limit);
/* From now on next uses are what the schedule says. */
void policy_follow(struct policy *p, const struct schedule *s);

/* The copy has just come into the tier, on demand or ahead of use. */
void policy_arrived(struct policy *p, struct policy_node *n, bool ahead);
/* The copy is in use: it gets the newest stamp. */
void policy_used(struct policy *p, struct policy_node *n);
/* The copy is in use, or no longer, though it may be evicted. */
void policy_current(struct policy *p, struct policy_node *n, bool current);
/* The copy may be evicted from now on; its place follows from its stamp. */
void policy_add(struct policy *p, struct policy_node *n, bool dirty);
/* The copy may not be evicted (in use, being written), or is gone. */
void policy_remove(struct policy *p, struct policy_node *n);
/* The copy was evicted: remembered for when it comes back. */
void policy_evicted(struct policy *p, struct policy_node *n);
/* The copy will not be used soon. It must not be listed. */
void policy_cool(struct policy_node *n);

/* Whether decisions follow the schedule at present. */
bool policy_foresees(const struct policy *p);
/* The copy that should leave next, NULL if there is none. clean_only: one that
 * leaves without a write. */
struct policy_node *policy_victim(struct policy *p, bool clean_only);
/* The same to bring something ahead of its use at virtual time `when`: NULL
 * where what would leave is needed before that. */
struct policy_node *policy_victim_for(struct policy *p, bool clean_only, uint64_t when);
/* The dirty copy most worth writing back ahead of its eviction, or NULL. */
struct policy_node *policy_dirty(struct policy *p);
/* The same, if it would be among those that leave when `want` more bytes have
 * to; NULL where so much can leave without a write. */
struct policy_node *policy_dirty_within(struct policy *p, uint64_t want);

/* Bytes that could leave now without a write. */
uint64_t policy_clean_bytes(const struct policy *p);
uint64_t policy_dirty_bytes(const struct policy *p);

/* In how many ns a transfer that, with all that must come before it, moves
 * `bytes` at `rate` bytes per second has to start to be done in `ns`; 0: now. */
uint64_t policy_early(uint64_t ns, uint64_t bytes, uint64_t rate);

#endif
