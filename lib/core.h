/* core.h - the manager, its tiers, its tensors, and the states they are in.
 *
 * A tensor has one `copy` per tier. A copy is ABSENT (no memory), FILLING (the
 * bytes are on their way in), VALID, or STALE (out of date: on disk the blocks
 * are kept for the next write-back; in memory it goes when the transfer that
 * uses it has ended, or whoever was promised its bytes lets it go). At most one transfer per tensor is under way. A copy in a
 * memory tier is on the policy's lists exactly when it is VALID, not pinned, in no
 * transfer, used by no stream and not open (see lease.h): copy_settle() sees to it.
 *
 * Locking: manager.lock protects everything below but the fields marked
 * otherwise; it is the core's only lock. It is never held across a backend
 * call, an allocation of tier memory, or I/O. A state that must stay put while
 * it is not held is marked by FILLING, by a transfer, or by a pin.
 * manager_unlock() and manager_wait() also wake the lanes that were given work.
 * One thing happens without it: a tensor whose copy is open is acquired and
 * released by its lease's word alone. Whoever is to look at a tensor's pins or to
 * change its state closes it first, and then all is as if it had never been open;
 * whoever asks what could leave a tier, or who holds it, closes all that are there.
 *
 * Functions named _locked want the lock held. */
#ifndef TERRACE_LIB_CORE_H
#define TERRACE_LIB_CORE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/queue.h>
#include <xxhash.h>

#include "arena.h"
#include "error.h"
#include "log.h"
#include "options.h"
#include "policy.h"
#include "schedule.h"
#include "terrace_backend.h"

enum { MAX_TIERS = 16, NAME_TEXT = 40 };
enum { WRITES = TERRACE_WRITE | TERRACE_OVERWRITE }; /* modes that change the bytes */

/* terrace_tier values: a tier's index, or these plus a kind's (the index of a
 * tier of that kind) or a class. */
enum { TIER_KIND = 0x10000, TIER_CLASS = 0x20000 };

enum copy_state { COPY_ABSENT, COPY_FILLING, COPY_VALID, COPY_STALE };

/* One thread's pins on one copy. */
struct pin {
    struct pin *next;
    uint32_t thread;
    uint32_t count;
    uint32_t writes; /* of them for writing */
};

struct seal;
struct small;
struct rules;
struct home;

/* Where bytes of a tensor may be, by the rules that match it. Tensors for which they
 * say the same share one. */
struct placement {
    uint16_t denied;                /* bit per tier */
    unsigned char order[MAX_TIERS]; /* of the tiers, where there is a choice */
    uint16_t by[MAX_TIERS];         /* which rule denies a tier */
    struct rules *rules;
    uint64_t users;                 /* under manager.lock, as the rest of it is constant */
    LIST_ENTRY(placement) all;      /* in rules.placements */
};

/* Acquire and release without the lock, while one copy is open: see lease.c. */
struct lease {
    _Atomic uint64_t word;   /* 0: closed */
    void *_Atomic address;   /* of the open copy */
    uint64_t stamp;          /* policy_node.stamp while open */
    void *_Atomic beside;    /* tensor created after this one: likely the next in use */
};

struct copy {
    struct terrace_tensor *tensor;
    struct extent *extent; /* NULL where ABSENT */
    struct pin *pins;
    struct view *view;      /* what stands for its address, or NULL */
    struct use *uses;       /* by streams that go on; newest first */
    struct policy_node node;
    TAILQ_ENTRY(copy) held; /* in tier.pinned or tier.open */
    struct seal *seals;     /* disk: checksum or authentication of every piece */
    unsigned char tier;
    unsigned char state;
    bool wrote;      /* memory: written back since it came in */
    uint64_t forked; /* disk: number of the last fork whose child reads it; 0: none */
    bool promised;   /* FILLING, and given out: the user's stream waits for the bytes;
                      * or STALE, as they have not come */
    bool will_write; /* and changes them then */
    uint32_t hollow; /* FILLING with nothing, for this thread to overwrite; else 0 */
};

struct terrace_tensor {
    struct terrace *manager;
    bool small;         /* this is a struct small, which begins alike */
    unsigned char leased; /* the tier whose copy is open, or was last */
    bool open_dirty;      /* the open copy is dirty, which does not change while it is open */
    struct lease lease;
    struct schedule_item item; /* what foretells its uses */
    LIST_ENTRY(terrace_tensor) all;
    TAILQ_ENTRY(terrace_tensor) hint; /* in lane.hints */
    size_t bytes;                     /* as asked for */
    size_t alignment;
    char *label;
    int role;
    unsigned flags;
    struct placement *placement; /* NULL: no rule says anything of it */
    bool blank;         /* never written: reads as zeros */
    bool hinted;        /* in lane.hints */
    bool doomed;        /* destroyed; freed when the last user is gone */
    unsigned char hint_tier, hint_lane;
    bool demoted;       /* asked to leave for a lower tier while that could not be done */
    unsigned char demote_to;
    uint32_t busy;      /* calls inside the library that need the handle */
    uint32_t passing;   /* of these, that bring it by way of another tier: no copy of it leaves */
    struct pin *open_pin; /* for the lease's pins when it is closed */
    struct transfer *transfer; /* under way, or NULL */
    /* A block of stable memory. */
    struct region *region; /* NULL: not one */
    TAILQ_ENTRY(terrace_tensor) work, fault; /* in stable.leaving, stable.faulted */
    size_t index;       /* in region.block, or a group's number */
    TAILQ_ENTRY(terrace_tensor) noticed; /* in notice.shown or notice.hidden */
    unsigned char notice;
    XXH128_hash_t sum;  /* of its bytes when that was last looked at */
    bool summed;        /* there is one */
    bool loose;         /* it was mapped since then, and may have been changed */
    bool changes;       /* it had been changed when that was last looked at: it will be */
    bool mapped;        /* its pages are at its stable address */
    bool leaving;       /* and are to be taken back */
    bool faulted;       /* somebody waits for it */
    bool stuck;         /* it could not be taken back: not asked for it again until then */
    uint64_t stuck_until;
    struct fine *fine;  /* its single pages, or NULL */
    struct slab *slab;  /* it holds single pages of blocks; or NULL */
    uint32_t raws;      /* transfers of single pages under way */
    /* A group of small tensors. */
    bool group;
    bool alone;         /* of one, which had to leave another: goes to any tier */
    unsigned char home; /* the memory tier that it is used on, unless alone */
    struct home *dealer; /* whose heap its slices are from */
    bool cold;          /* some of them have been demoted */
    uint32_t live, hot; /* how many there are; that were used since last demoted */
    LIST_HEAD(, small) smalls;
    uint64_t failed_at; /* manager.failures when its last write-back failed */
    bool unfilled;      /* the error is of a fill */
    int error;          /* of a migration that failed, not reported yet */
    uint64_t errors;    /* how many have failed */
    char *error_text;
    /* A user's file as the origin of the bytes. */
    char *path;
    uint64_t file_base;
    struct seal *file_seals;
    signed char file_tier; /* the disk tier that reads it, -1: no file */
    bool file_valid;       /* the file still has the current bytes */
    struct copy copy[];    /* one per tier */
};

/* terrace_tensor.notice */
enum { NOTICE_NONE, NOTICE_SHOWN, NOTICE_HIDDEN };

struct lane;
struct use;
struct view;
struct lease_log;
struct stable;
struct smalls;
struct forks;
struct mapped;
struct staging;
struct relay;
struct trace;
struct live;

struct tier {
    struct terrace *manager;
    const terrace_backend *backend; /* the manager's own copy of the table */
    void *unit;                     /* constant after open */
    terrace_unit_info info;
    bool memory; /* its bytes have addresses to acquire; else a disk */
    char name[NAME_TEXT];
    char limit_reason[320];
    struct arena arena;
    struct policy policy;
    TAILQ_HEAD(, copy) pinned; /* for others: tier_pinned_locked() */
    struct view *views;        /* dropped, to be ended */
    TAILQ_HEAD(, use) uses;    /* by streams; oldest first */
    bool uses_sought;          /* somebody waits for one to end */
    bool uses_more;            /* all that were asked for had ended: others may have, too */
    TAILQ_HEAD(, copy) open;   /* those that are acquired without the lock */
    uint64_t opened;           /* how many these are */
    uint64_t open_bytes[2];    /* clean, dirty */
    uint64_t open_rest;        /* releases until copies are opened again */
    uint64_t staging;   /* bytes of the staging pool */
    uint64_t stable;    /* bytes of devices' stable memory, which move at safepoints only */
    uint64_t lacked;    /* of these, what an acquire would have needed since the last one */
    uint16_t tainted;   /* bit per tier where bytes may not be that tensors have left in free memory */
    uint64_t tensors;   /* valid copies */
    uint64_t in_bytes, out_bytes;
    uint64_t draining;  /* memory tiers: bytes being written down */
    uint64_t wanted;    /* memory tiers: bytes that acquires are waiting for */
    uint64_t sought;    /* memory tiers: how often something had to leave */
    uint64_t ahead;     /* memory tiers: bytes brought, or coming, ahead of use */
    unsigned moving;    /* memory tiers: transfers under way whose end may leave a copy here to evict */
    uint64_t credit;    /* memory tiers: bytes that may be written back ahead */
    uint64_t full_until; /* memory tiers: when more may be asked for again, see tier_full_locked() */
    bool full_said;
    struct lane *lane;  /* moves its bytes, or NULL */
};

/* What has gone from one tier to another. */
struct route {
    uint64_t bytes, moves;
};

struct terrace {
    const unsigned char *alive; /* reads 0 in a forked child */
    struct options options;     /* constant after open */
    pthread_mutex_t lock;
    pthread_cond_t changed; /* any state others may wait for */
    struct log log;
    terrace_host host;
    terrace_backend *backend; /* checked copies of the tables */
    size_t backends;
    char kinds_absent[2000]; /* kinds of tiers that are not here, each with the reason on a line */
    unsigned tiers;
    struct tier tier[MAX_TIERS];
    LIST_HEAD(, terrace_tensor) all; /* latest first */
    struct pin *spare_pins;
    LIST_HEAD(, lease_log) logs; /* of threads that acquire without the lock */
    unsigned waiting;  /* acquires that wait for a release */
    bool awaited;      /* one waits for a copy that another is just making */
    uint64_t releases; /* goes up with every release that may let a waiter go on */
    uint64_t failures; /* write-backs that failed */
    int failure;       /* the last one's error */
    char failure_text[ERROR_TEXT];
    uint64_t prefetch_limit; /* per memory tier; UINT64_MAX: automatic */
    struct rules *_Atomic rules; /* in force, NULL: none; changes under the lock, */
    _Atomic uint64_t rule_changes; /* so many times so far */
    struct schedule schedule;
    uint64_t used_ns;        /* when that was last told the time */
    uint64_t window_ns, window_stall_ns; /* when the stalls were last looked at */
    bool disk_bound;         /* most of the time is spent waiting for bytes */
    bool absent;             /* there have been bytes that were not in memory */
    atomic_bool unheeded;    /* there have been none for so long that uses are only counted */
    uint64_t there_until;    /* until then, in virtual time, all that is expected is there */
    uint64_t there_since;    /* since then it was, whenever looked at; 0: it was not */
    uint32_t there_epoch;    /* schedule.epoch in all that time */
    uint64_t look_again;     /* when that is looked at again */
    bool looking;            /* lanes have been told to */
    struct stable *stable;   /* NULL until the first terrace_malloc() */
    struct mapped *mapped;   /* NULL until memory of it is a file mapping */
    struct device_stable *device_stable; /* NULL until the first of a device */
    const char *stable_engine; /* what serves it; NULL until the first terrace_malloc() */
    char stable_text[600];
    struct forks *forks;     /* children, and what they read */
    struct smalls *smalls;   /* NULL until the first small tensor */
    bool grouped;            /* small tensors are to be slices of groups */
    bool several;            /* tiers are in memory */
    struct staging *staging; /* NULL until somebody needs it */
    struct relay *relay;     /* NULL: bytes between devices go by way of a host tier */
    char small_text[120];
    const char *small_engine; /* what serves small tensors: that text or another */
    struct sealer *sealer;   /* NULL where neither VERIFY nor ENCRYPT is on */
    unsigned kick;           /* bit per tier whose lane is to be woken on unlock */
    _Atomic uint64_t decay_at; /* when unused memory is next given back */
    terrace_statistics stats;
    struct route route[MAX_TIERS][MAX_TIERS]; /* from, to */
    uint64_t opened_ns;
    char *report;            /* where it goes: "1" or an absolute path; NULL: nowhere */
    struct trace *trace;     /* the timeline, or NULL */
    struct live *live;       /* the page that others read, or NULL */
    struct terrace_tensor *live_next; /* to be looked at for that, or NULL */
};

/* ---- manager.c ---- */

/* What terrace_open() and terrace_close() do, unless process.c shares one. */
int  manager_open(struct terrace **out, const char *conf);
void manager_close(struct terrace *m);
/* The failure where the manager cannot be used: NULL, a forked child, or that of a
 * tensor which has been destroyed. */
int manager_refuse(const struct terrace *m);
/* Frees a tensor's handle. Where assertions are on, not at once: for a while any
 * use of it is an error with a sentence, instead of undefined. */
void handle_free(void *handle);
static inline int manager_check(const struct terrace *m)
{
    if (m && *m->alive)
        return 0;
    int r = manager_refuse(m);
    return r < 0 ? r : -TERRACE_EINVAL; /* never 0, as static analysis must know */
}
void manager_lock(struct terrace *m);
void manager_unlock(struct terrace *m);
/* Waits for `changed`; may return without reason. */
void manager_wait(struct terrace *m);
/* State changed that somebody may wait for. */
void manager_changed_locked(struct terrace *m);
/* Has the tier's lane look for work once the lock is given up. */
void manager_kick_locked(struct terrace *m, const struct tier *tier);
uint64_t clock_ns(void);

/* ---- decay.c ---- */

/* Once in a second, gives back memory that was not needed for the last. Without
 * the lock. */
void manager_decay(struct terrace *m);

/* ---- tiers.c ---- */

int  tiers_open(struct terrace *m);
void tiers_close(struct terrace *m);
static inline bool tier_is_memory(const struct tier *tier)
{
    return tier->memory;
}
const char *tier_class_name(const struct tier *tier);
/* Whose hardware it is. */
static inline const char *tier_vendor(const struct tier *tier)
{
    return *tier->info.vendor ? tier->info.vendor : tier->backend->name;
}
/* The variable that sets the tier's budget: "TERRACE_LIMIT_NUMA". */
void tier_limit_name(const struct tier *tier, char name[NAME_TEXT]);
/* The one that sets it alone: "TERRACE_LIMIT_NUMA_1". */
void tier_own_limit_name(const struct tier *tier, char name[NAME_TEXT]);
/* Checks a backend's table and copies as much of it as there is. */
int  backend_copy(const terrace_backend *from, terrace_backend *to);
/* Whether tier `index` is, or is one of, what `which` names. */
bool tier_matches(const struct terrace *m, int index, terrace_tier which);
/* Checks that `which` names something; sets the failure. */
int tier_check(const struct terrace *m, terrace_tier which);

/* Whether bytes may be on the tier. */
static inline bool placement_allows(const struct placement *p, const struct tier *tier)
{
    return !p || !(p->denied >> (tier - tier->manager->tier) & 1);
}

static inline bool tensor_may(const struct terrace_tensor *t, const struct tier *tier)
{
    return placement_allows(t->placement, tier);
}

/* The tier with that place in the order in which one is chosen. */
static inline struct tier *placement_choice(struct terrace *m, const struct placement *p, unsigned place)
{
    return &m->tier[p ? p->order[place] : place];
}

static inline struct tier *tensor_choice(const struct terrace_tensor *t, unsigned place)
{
    return placement_choice(t->manager, t->placement, place);
}

/* ---- tensor.c ---- */

bool tensor_stored_locked(const struct terrace_tensor *t); /* a disk has the bytes, or they are zeros */
/* Frees the tensor if it is doomed and nothing uses it any more. */
void tensor_reap_locked(struct terrace_tensor *t);
void tensor_failed_locked(struct terrace_tensor *t, int error, const char *text);
/* Reports the pending error (sets the sentence) and clears it; 0: none. */
int tensor_report_locked(struct terrace_tensor *t);
int tensor_attr_check(const terrace_tensor_attr *attr); /* sets the sentence */
/* A tensor that stands for a block of stable memory; NULL: no host memory. */
struct terrace_tensor *tensor_for_block(struct terrace *m, struct region *r, size_t index,
                                        size_t bytes);
/* A tensor that small ones are slices of; NULL: no host memory. */
struct terrace_tensor *tensor_for_group(struct terrace *m, size_t bytes, struct placement *placement);
/* Destroys the tensor, now or when the last user is gone. */
void tensor_doom_locked(struct terrace_tensor *t);
const char *tensor_name(const struct terrace_tensor *t); /* its label, or "(unnamed)" */

/* ---- copy.c ---- */

void copy_set_locked(struct copy *c, enum copy_state state);
/* Puts the copy on the policy's lists, or takes it off, as its state wants. */
void copy_settle_locked(struct copy *c);
/* Every copy of the tensor. */
void copies_settle_locked(struct terrace_tensor *t);
/* The bytes are somewhere else, too. */
bool copy_backed_locked(const struct copy *c);
/* Before it leaves, the bytes are to be copied to where such copies go next. */
bool copy_dirty_locked(const struct copy *c);
/* Frees the copy's memory; its bytes are elsewhere or not wanted any more. */
void copy_drop_locked(struct copy *c);
/* A STALE copy in memory goes as soon as nothing holds it. */
void copy_stale_locked(struct copy *c);
/* The copy, brought ahead, is used or gone. */
void copy_not_ahead_locked(struct copy *c);
/* The bytes in this copy are about to change: no other copy is valid now. */
void copy_written_locked(struct copy *c);
/* Pins by the calling thread. Errors: ENOMEM. */
int  copy_pin_locked(struct copy *c, bool write);
/* Memory for one, or NULL; and back. */
struct pin *pin_take_locked(struct terrace *m);
void pin_give_locked(struct terrace *m, struct pin *p);
/* Takes one pin back, the calling thread's if it has one. False: none there. */
bool copy_unpin_locked(struct copy *c);
bool copy_pinned_to_write(const struct copy *c);
bool copy_pinned_by_caller(const struct copy *c);
uint32_t thread_token(void); /* a number for the calling thread, never 0 */

static inline struct copy *copy_of(struct policy_node *n)
{
    return (struct copy *)((char *)n - offsetof(struct copy, node));
}

static inline struct terrace *copy_manager(const struct copy *c)
{
    return c->tensor->manager;
}

static inline struct tier *copy_tier(const struct copy *c)
{
    return &copy_manager(c)->tier[c->tier];
}

static inline void *copy_address(const struct copy *c)
{
    return (void *)(uintptr_t)c->extent->address; /* a CPU pointer with TERRACE_CAP_CPU */
}

/* ---- room.c ---- */

struct room {
    struct terrace_tensor *tensor; /* whose bytes need room */
    bool wait;                     /* for write-backs that make room */
    bool ahead;                    /* ahead of use: nothing else brought ahead leaves for it */
    bool once;                     /* another tier may do: ENOMEM before anything leaves for want of memory */
    uint64_t when;                 /* virtual time of that use, 0: not known */
    const uint64_t *failures;      /* manager.failures when it was first asked for, NULL: now */
    bool waited;                   /* out: it took waiting */
};

/* Takes memory for a tensor from a memory tier, evicting as the policy says.
 * Gives up the lock to commit it, and while it waits. Errors: EAGAIN (room is
 * being made, but not to be waited for), EBUDGET (all is in use; the sentence
 * names the holders), ENOMEM and EDEVMEM (the budget has room, but the memory is
 * not to be had, and nothing of ours there could leave), what write-backs failed
 * with. */
int room_take_locked(struct tier *tier, struct room *want, struct extent **out);

/* Memory that is not at the arena's addresses, but counts. Bytes of a tier that are free,
 * and could be charged as they are; charges some, false: they are not free, or rules want
 * them left so; the same, but makes room as room_take_locked() does; gives back what was
 * charged. Charging may give up the lock. */
uint64_t room_free_locked(struct tier *tier);
bool room_charge_free_locked(struct tier *tier, uint64_t bytes);
int  room_charge_locked(struct tier *tier, struct room *want);
void room_uncharge_locked(struct tier *tier, uint64_t bytes);

/* Whether the tier has less memory than its budget, as a commit has failed not
 * long ago: what was committed then is its ceiling for a while. */
bool tier_full_locked(struct tier *tier);
/* A commit that began at that time has failed so. */
void tier_filled_locked(struct tier *tier, uint64_t began);
static inline bool no_memory(int r)
{
    return r == -TERRACE_ENOMEM || r == -TERRACE_EDEVMEM;
}

/* ---- fill.c ---- */

/* Carries out a grant, giving up the lock where there is something to do. */
int grant_fulfil_locked(struct tier *tier, struct grant *grant, struct extent **out);
/* Gives all of the tier's free memory, or blocks, back to the system. Gives up the lock. */
void tier_purge_locked(struct tier *tier);

/* Gives the ABSENT copy memory and starts bringing the bytes; the copy is then
 * FILLING or VALID; for OVERWRITE it is FILLING and hollow, until the caller
 * has the whole acquire. May give up the lock. 1 where room took waiting, else
 * 0. Errors: as room_take_locked. */
int fill_start_locked(struct copy *c, unsigned mode, bool wait, bool ahead);
/* The same, but where the tier's memory turns out not to be had, that is the
 * error (no_memory), and nothing leaves: for callers that can take another tier. */
int fill_try_locked(struct copy *c, unsigned mode, bool wait);
/* The same ahead of a use that is expected, at that virtual time, for which
 * nothing leaves that is used before it. */
int fill_ahead_locked(struct copy *c, uint64_t when);

#endif
