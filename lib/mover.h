/* mover.h - transfers between tiers.
 * May call: core.h, depth.h, seal.h, the backend's table. */
#ifndef TERRACE_LIB_MOVER_H
#define TERRACE_LIB_MOVER_H

#include "core.h"
#include "depth.h"

/* Order of service. */
enum priority { PRIORITY_DEMAND, PRIORITY_PREFETCH, PRIORITY_WRITEBACK, PRIORITIES };

/* One tensor's bytes on their way, cut into pieces of the lane's liking: a fill,
 * or a write-back to a lower tier. */
struct transfer {
    TAILQ_ENTRY(transfer) link; /* in a lane's queue while pieces are left to start */
    struct terrace_tensor *tensor;
    struct copy *copy;    /* what is filled or written back */
    struct copy *other;   /* where its bytes come from or go to, NULL: the user's file */
    struct lane *lane;    /* that carries it */
    bool writeback;
    bool relayed;         /* from device to device: relay.c carries it, `lane` is the goal's */
    bool peered;          /* the same, straight from the other's memory */
    enum priority priority;
    bool queued;
    bool parked;          /* in lane.parked instead */
    bool tried;           /* to have room where it goes to, when there were */
    uint64_t failures;    /* so many: victims that failed since then have been tried */
    bool drop;            /* write-back: drop the copy in memory afterwards */
    bool stale;           /* the bytes changed meanwhile, discard the result */
    bool stuck;           /* a stream has waited for it too long */
    bool ahead;           /* fill: started ahead of use */
    struct copy *copies;  /* in a host tier whose memory is in use by a device for it, or NULL */
    unsigned kept;        /* bit per tier with a copy that cannot leave until this has ended */
    uint64_t bytes;
    uint64_t next;        /* first byte not started yet */
    unsigned piece;       /* number of the next piece */
    unsigned in_flight;   /* pieces */
    uint64_t taken;       /* bytes of those that the backend has taken */
    uint64_t asked, began; /* for the timeline, where there is one: queued; first piece */
    bool started;         /* between devices: it is on its way */
    int error;            /* first failure */
    char text[ERROR_TEXT];
};

/* Pages on their way that no transfer stands for, in the order they are asked
 * for. When it has ended, `landed` is called without the lock, then done_locked
 * with it, both by the lane's thread, or only the latter when the manager closes. */
struct raw {
    TAILQ_ENTRY(raw) link;
    uint64_t address; /* on the disk */
    void *host;
    size_t bytes;     /* within one multiple of io_chunk */
    uint64_t asked, began; /* as those of a transfer */
    int op;
    int error;
    void (*landed)(struct raw *r); /* or NULL */
    void (*done_locked)(struct raw *r);
    char text[ERROR_TEXT]; /* where there was an error */
};

/* A thread that feeds one backend's queue: every tier has one but the first whose
 * addresses are plain pointers. Everything from `pieces` on is the thread's own. */
struct lane {
    struct tier *tier;
    pthread_t thread;
    bool running, sleeping, stop;
    bool watching;        /* faults of stable memory, too */
    bool again;           /* kicked since it last looked for work */
    TAILQ_HEAD(transfer_list, transfer) queue[PRIORITIES];
    TAILQ_HEAD(raws, raw) raws[PRIORITIES];
    struct transfer_list parked;   /* wait for room where they go to */
    uint64_t parked_at;   /* manager.releases when that was last looked for */
    TAILQ_HEAD(, terrace_tensor) hints;
    struct piece *pieces, *free_pieces;
    terrace_io **batch;  /* picked, not yet taken by the backend */
    terrace_io **done;
    struct transfer **taken; /* whose pieces the backend has just taken */
    struct depth depth;
    unsigned most, in_flight, batched; /* most: pieces there are */
    uint64_t rate;        /* bytes per second while busy, 0: not known yet */
    int64_t patience;     /* ns until it is to look again by itself, -1: it need not */
    uint64_t busy_since, busy_ns, busy_bytes; /* of the measurement under way */
    void *staging; /* for ciphertext, or NULL */
};

int  lane_open(struct tier *tier);  /* creates it and starts the thread */
void lane_stop(struct tier *tier);  /* finishes what is in flight, forgets the rest */
void lane_close(struct tier *tier); /* frees it; after all tensors are gone */

void lane_raw_locked(struct lane *lane, struct raw *r, enum priority priority);

/* Notes the first failure of a transfer under way; the lane's thread. */
void transfer_fail(struct transfer *x, int error, const char *text);
/* Its first piece starts. */
void transfer_begins_locked(struct transfer *x);
/* Publishes the outcome and frees it; the lane's thread. Where a way straight from device
 * to device has failed, it is begun again through staging memory instead. */
void transfer_finish_locked(struct transfer *x);
/* Ends a queued transfer that will not be carried out; the lane has stopped. */
void transfer_forget_locked(struct lane *lane, struct transfer *x);
/* The lane that moves bytes between two tiers, NULL: there is no direct route. */
struct lane *transfer_lane(const struct tier *a, const struct tier *b);
/* The write-back's goal, a memory tier, has no room after all: it goes to disk.
 * False: there is no route to one. */
bool transfer_redirect_locked(struct transfer *x);
/* Copies to or from a tier that has a lane, within one multiple of io_chunk, and waits
 * for it; by no lane's thread. Gives up the lock. Errors: of the copy. */
int haul_locked(struct tier *tier, int op, uint64_t address, void *host, size_t bytes, const char *label);
/* Blocks on disk for a write-back. Gives up the lock. Errors: ENOSPC, EIO. */
int space_take_locked(struct transfer *x);
/* Gives a copy on disk, which has no blocks or such as a forked child reads, other
 * blocks, with its bytes where it is VALID; the child keeps the old ones. By no
 * lane's thread. Gives up the lock; meanwhile nothing is read from or written to
 * it. Errors: ENOSPC, EIO, ENOMEM. */
int space_own_locked(struct copy *disk);
/* Where bytes go when they leave memory: the fastest disk, or NULL. */
struct tier *spill_tier(struct terrace *m);
/* The same for a tensor, by the rules that it obeys. */
struct tier *tensor_spill_tier(const struct terrace_tensor *t);
/* The memory tier that takes what leaves this one, NULL: none does, a disk is next. */
struct tier *tier_below(const struct tier *tier);
/* The same for what this copy holds. */
struct tier *copy_below(const struct copy *c);
/* Where what this copy holds goes as things are, preferably to memory with room; NULL:
 * nowhere. */
struct tier *transfer_goal_locked(const struct copy *c);
/* Whether there is a tier, with room or without, that bytes with that placement may go
 * to from this one. */
bool placement_may_leave(const struct tier *tier, const struct placement *p);
/* Records which rule is in the way of bytes that are to get to a tier. Errors: ERULE;
 * 0: none is. */
int  way_forbidden(struct terrace_tensor *t, const struct tier *to);

/* Starts bringing the bytes into a FILLING copy. The tensor must have no other
 * transfer. Errors: ENOMEM, ENOTSUP (no route from where they are). */
int transfer_fill_locked(struct copy *c, bool ahead);
/* Starts copying the bytes of a VALID, dirty copy to a lower tier: `to`, or with
 * NULL to the next that has room. 1: it may be dropped as it is. Errors: EAGAIN (it
 * is just being made there: once something has changed, with no sentence), ENOMEM,
 * EBUDGET (there is no disk tier to write to), ERULE. */
int transfer_writeback_locked(struct copy *c, struct tier *to, enum priority priority, bool drop);
/* One more copy that cannot leave its tier until the transfer has ended; all there are;
 * none any more. Who wants room there waits for that. */
void transfer_keep_locked(struct transfer *x, const struct copy *c);
void transfer_keep_all_locked(struct transfer *x);
void transfer_keeps_no_more_locked(struct transfer *x);
/* Whether the fill is out of our hands: a stream can be told to wait for it. */
bool transfer_is_taken(const struct transfer *x);
/* Somebody waits for it now. */
void transfer_hurry_locked(struct transfer *x);
/* Somebody waits for room: all write-backs are urgent. */
void writebacks_hurry_locked(struct terrace *m);

/* The lane that would bring the tensor's bytes to the tier, and the copy it would
 * take them from, NULL: the user's file. NULL: there is no route. */
struct lane *transfer_source_locked(const struct terrace_tensor *t, const struct tier *to,
                                    struct copy **from);
/* Without one: the copy in a host tier by way of which they get there, or NULL. */
struct copy *transfer_way(struct terrace_tensor *t, const struct tier *to);
/* Whether a copy is being written by its holder: bytes brought now would be old ones. */
bool being_written(struct terrace_tensor *t);
/* Queues a hint for the lane that would carry it out. */
void lane_hint_locked(struct terrace_tensor *t, struct tier *memory);
void lane_unhint_locked(struct terrace_tensor *t);
/* A copy became evictable or was used: lanes with hints or write-back to do look again. */
void lanes_poke_locked(struct terrace *m);
/* Starts write-backs of what will have to leave soon. */
void write_ahead_locked(struct lane *lane);
/* Carries out the demotion that was asked for while it could not be done. */
void demote_pending_locked(struct terrace_tensor *t);
/* Has the tensor leave the tiers above the goal, NULL: memory, now or as soon as
 * that can be done. */
void demote_ask_locked(struct terrace_tensor *t, const struct tier *goal);

#endif
