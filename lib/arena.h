/* arena.h - the one range allocator, over any tier's address space.
 * May call: the backend's table, account.h, error.h, libc. */
#ifndef TERRACE_LIB_ARENA_H
#define TERRACE_LIB_ARENA_H

#include <stdbool.h>
#include <bsd/sys/tree.h>

#include "terrace_backend.h"

static inline uint64_t round_up(uint64_t n, uint64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* A run of addresses, in use or free. One that is in use belongs to whoever
 * allocated it, so that freeing never needs memory. */
struct extent {
    uint64_t address;
    uint64_t bytes;
    unsigned char zone;
    unsigned char state;
    RB_ENTRY(extent) by_address;
    RB_ENTRY(extent) by_size;
    struct extent *next; /* in a grant's list */
};

RB_HEAD(address_tree, extent);
RB_HEAD(size_tree, extent);

/* Address space that is handed out in multiples of one unit. */
struct zone {
    uint64_t base, bytes;
    size_t unit;
    uint64_t row_end;          /* where what comes next in a row belongs; 0: there is none */
    struct address_tree free;  /* all free extents */
    struct size_tree cached;   /* free, with memory behind them */
    struct size_tree empty;    /* free, nothing behind them */
};

enum { ZONE_PAGES, ZONE_GRANULES, ZONES };

struct account;

struct arena {
    const terrace_backend *backend;
    void *unit;
    struct account *account; /* that committed bytes are charged to, too; or NULL */
    uint64_t limit;     /* the budget; committed never exceeds it */
    uint64_t ceiling;   /* what arena_take keeps committed below: the limit, or less where
                         * memory for that is not to be had; whoever learns of it sets this */
    uint64_t committed; /* bytes with memory behind them: in use or cached */
    uint64_t used;      /* bytes in use */
    uint64_t peak;      /* most ever committed */
    uint64_t pending;   /* committed bytes of unsettled grants, neither in use nor cached */
    uint64_t step;      /* bytes worth committing at once */
    uint64_t boundary;  /* no allocation crosses a multiple of it; 0: none */
    uint64_t idle;      /* least bytes cached since the last decay */
    uint64_t extents;   /* in use */
    unsigned __int128 held; /* committed bytes times nanoseconds, up to `held_to` */
    uint64_t held_to;
    uint64_t (*clock)(void); /* nanoseconds; tests have their own */
    struct zone zone[ZONES];
};

/* Bytes that fit without anything being freed. */
static inline uint64_t arena_room(const struct arena *a)
{
    return a->used < a->ceiling ? a->ceiling - a->used : 0;
}

/* An allocation under way: what arena_fulfil has to do outside the lock. */
struct grant {
    struct extent *extent; /* the allocation */
    struct extent *extra;  /* committed along with it for later, or NULL */
    struct extent *give;   /* cached extents to decommit first */
    uint64_t surplus;      /* bytes that frees beyond what the grant needs */
    bool commit;
};

/* Reserves address space for a budget of `limit` bytes. Errors: as the
 * backend's reserve. */
int arena_open(struct arena *a, const terrace_backend *backend, void *unit,
               const terrace_unit_info *info, uint64_t limit);
/* Ends it; extents still in use are to be freed with free(). */
void arena_close(struct arena *a);

/* The bytes an allocation of `bytes` takes. */
uint64_t arena_round(const struct arena *a, uint64_t bytes);

/* Allocation in three steps, so that no lock is held across a backend call:
 * arena_take (under the caller's lock) picks addresses and accounts for them,
 * arena_fulfil (without it) has the backend commit them, arena_settle (under
 * it again) publishes the outcome and returns the extent, or NULL where
 * `result`, what fulfil returned, is an error. Where grant->commit is false and
 * grant->give NULL, fulfil has nothing to do and may be left out.
 * Errors of take: EBUDGET (make room below the ceiling and come again), EAGAIN (come again when
 * another grant has been settled), ENOMEM (host memory for the book-keeping), ENOTSUP (too much for
 * one piece; sets the sentence). Those of fulfil: as the backend's commit; ENOMEM where the account
 * has no more. */
int arena_take(struct arena *a, uint64_t bytes, size_t alignment, struct grant *grant);
/* The same for one of several allocations that are to lie in a row, if they can: `row`
 * more bytes will follow. */
int arena_take_row(struct arena *a, uint64_t bytes, size_t alignment, uint64_t row, struct grant *grant);
int arena_fulfil(struct arena *a, struct grant *grant);
struct extent *arena_settle(struct arena *a, struct grant *grant, int result);

/* As if nothing had been taken, instead of the latter two. */
void arena_undo(struct arena *a, struct grant *grant);

/* Whether so many bytes are free below the ceiling, but in too small pieces, which
 * may be larger once what is cached has been given back. */
bool arena_scattered(const struct arena *a, uint64_t bytes);

/* A grant that gives back everything cached and allocates nothing. */
void arena_purge(struct arena *a, struct grant *grant);
/* One that gives back what has not been needed since the last decay. */
void arena_decay(struct arena *a, struct grant *grant);

struct arena_stats {
    uint64_t cached;  /* bytes free, with memory behind them */
    uint64_t largest; /* of it in one piece */
    uint64_t pieces;  /* how many there are */
    uint64_t extents; /* in use */
};

void arena_describe(const struct arena *a, struct arena_stats *out);

/* Committed bytes times the seconds they were, since the arena was opened. */
uint64_t arena_byte_seconds(const struct arena *a);

/* Counts bytes as used that are held elsewhere, within the limit; false: they
 * do not fit, caches included. */
bool arena_charge(struct arena *a, uint64_t bytes);
void arena_uncharge(struct arena *a, uint64_t bytes);

/* Frees an extent; its memory stays committed, for the next. Under the lock. */
void arena_free(struct arena *a, struct extent *e);

#endif
