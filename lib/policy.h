/* policy.h - who leaves a tier when room is needed.
 * May call: nothing but libc. No I/O, no locks: pure functions of a tier's
 * lists, so that it can be tested on traces. */
#ifndef TERRACE_LIB_POLICY_H
#define TERRACE_LIB_POLICY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

enum policy_kind { POLICY_AUTO, POLICY_LRU, POLICY_NONE }; /* order of options.def */

/* One evictable copy, embedded in what it stands for. */
struct policy_node {
    TAILQ_ENTRY(policy_node) link;
    uint64_t bytes;
    uint64_t stamp;   /* when it was last used; smaller is older; 0: leaves first */
    uint64_t left_at; /* policy.evicted when it was last evicted, 0 never */
    bool listed;
    bool dirty;       /* leaving costs a write */
    bool hot;         /* has proven that it is used again */
    bool ahead;       /* brought ahead of its use, which has not come yet */
};

TAILQ_HEAD(policy_list, policy_node);

struct policy {
    enum policy_kind kind;
    uint64_t limit;                /* bytes of the tier */
    uint64_t clock;                /* uses so far */
    uint64_t evicted;              /* bytes evicted so far */
    struct policy_list list[2][2]; /* [hot][dirty], least recently used first */
    uint64_t bytes[2][2];
};

void policy_init(struct policy *p, enum policy_kind kind, uint64_t limit);

/* The copy has just come into the tier, on demand or ahead of use. */
void policy_arrived(struct policy *p, struct policy_node *n, bool ahead);
/* The copy is in use: it gets the newest stamp. */
void policy_used(struct policy *p, struct policy_node *n);
/* The copy may be evicted from now on; its place follows from its stamp. */
void policy_add(struct policy *p, struct policy_node *n, bool dirty);
/* The copy may not be evicted (in use, being written), or is gone. */
void policy_remove(struct policy *p, struct policy_node *n);
/* The copy was evicted: remembered for when it comes back. */
void policy_evicted(struct policy *p, struct policy_node *n);
/* The copy will not be used soon. It must not be listed. */
void policy_cool(struct policy_node *n);

/* The copy that should leave next, NULL if there is none. clean_only: one that
 * leaves without a write. */
struct policy_node *policy_victim(struct policy *p, bool clean_only);
/* The dirty copy most worth writing back ahead of its eviction, or NULL. */
struct policy_node *policy_dirty(struct policy *p);
/* Bytes that could leave now without a write. */
uint64_t policy_clean_bytes(const struct policy *p);
uint64_t policy_dirty_bytes(const struct policy *p);

#endif
