/* pages.h - runs of pages inside groups of addresses that are never touched.
 * May call: libc. */
#ifndef TERRACE_LIB_PAGES_H
#define TERRACE_LIB_PAGES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <bsd/sys/tree.h>

enum { PAGE = 4096 };

struct group;
RB_HEAD(group_tree, group);
LIST_HEAD(group_list, group);

struct pages {
    pthread_mutex_t lock; /* protects all below; nothing is called under it but libc */
    size_t group;         /* bytes of one, a power of two; constant */
    unsigned per_group;   /* pages of one; constant */
    struct group_tree groups;
    struct group_list *by_longest; /* [n]: the groups whose longest free run has n pages */
    uint64_t *have;                /* bit n: there are such groups */
    uint64_t count;                /* groups */
    uint64_t taken;                /* pages in use */
    atomic_uint empty;             /* groups with nothing in use; may be read without the lock */
};

/* Errors: ENOMEM (without a sentence). */
int pages_open(struct pages *p, size_t group);
void pages_close(struct pages *p);

/* Adds a group. False: no memory for its book-keeping. */
bool pages_add(struct pages *p, uint64_t address);
/* Takes a group out and returns its address; 0: none. Of all groups, or of those
 * with nothing in use. */
uint64_t pages_remove_any(struct pages *p);
uint64_t pages_remove_empty(struct pages *p);

/* A run of `bytes` at an alignment, both multiples of a page and at most a
 * group; 0: no group has one. Never straddles groups. */
uint64_t pages_take(struct pages *p, size_t bytes, size_t alignment);
/* Gives pages back: a run, part of one, or neighbouring ones in one group. */
void pages_give(struct pages *p, uint64_t address, size_t bytes);

#endif
