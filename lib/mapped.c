/* mapped.c - address-stable memory without userfaultfd: a mapping of the spill.
 *
 * The memory is a shared mapping of a spill file that has all its blocks from
 * the start, so that a full disk is an error of terrace_malloc() and no SIGBUS.
 * The kernel brings and writes the pages. What it does not do is left to a
 * thread here, that looks at blocks of 2 MiB every few milliseconds:
 *
 *   looks     which pages the program has got (/proc/self/pagemap; where that
 *             is refused, what is in memory, by mincore). A block that got some
 *             was touched.
 *   reads     ahead of a walk: a block was touched whose neighbour was just
 *             walked through.
 *   leaves    a block: takes its pages out of the page tables and starts
 *             writing them. They are still in memory; if the program comes back
 *             that is seen.
 *   drops     a block that was left and not come back to.
 *
 * What is resident is charged to the host tier: a quarter of the budget for
 * certain, more while nobody else needs it. A walk over more than fits drops
 * what it has just passed, so that the rest is still there when it comes round;
 * otherwise blocks leave in the order of a clock.
 *
 * A forked child does not have the memory: writes of either would be the
 * other's, too.
 *
 * Locking: mapped.lock protects the list of regions and is taken before the
 * manager's. The thread marks the region it is working on, and holds no lock
 * while it does. What blocks are is the thread's own; pins and wishes of others
 * are atomic.
 *
 * May call: core.h, mover.h, the backend's table. */
#include "mapped.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "mover.h"

enum {
    PAGE = 4096,
    BLOCK = 2 << 20,
    BLOCK_PAGES = BLOCK / PAGE,
    MOST_PIECES = 30000, /* of the 65530 mappings a process may have */
    MOST_AHEAD = 8,      /* blocks */
    RECENT = 8,          /* touched blocks ago */
    WALKED = 32,         /* pages of a block between looks: more than one fault brings */
    REST_NS = 2000000,   /* between looks */
    IDLE_NS = 10000000
};

struct block {
    uint16_t mapped;  /* pages the program had when last looked at */
    uint16_t held;    /* pages in memory, as far as known */
    bool left;
    uint32_t touched; /* the region's clock then */
    _Atomic uint16_t pins;
    _Atomic bool wanted, unwanted;
};

struct mapping {
    LIST_ENTRY(mapping) link;
    struct tier *tier, *disk;
    uint64_t space;   /* in the disk tier */
    char *base;
    size_t bytes;     /* in whole pages */
    size_t reserved;  /* address space, and space on the disk */
    uint32_t clock;   /* blocks touched so far */
    uint32_t walked;  /* when last seen walking */
    bool walking;
    bool random;      /* the kernel was told so */
    int sparse;       /* looks in a row that found touches here and there */
    size_t front, back; /* hands of the clock: next to leave, next to drop */
    uint64_t held;    /* pages */
    size_t blocks;
    struct block block[];
};

struct mapped {
    struct terrace *manager;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t thread;
    bool stop;
    struct mapping *working;
    LIST_HEAD(, mapping) regions;
    int pagemap; /* -1: not to be had */
    long faults; /* of the process when last looked */
    _Atomic bool wishes;
    uint64_t charge[MAX_TIERS]; /* under the manager's lock */
};

static size_t block_bytes(const struct mapping *r, size_t i)
{
    size_t left = r->bytes - i * BLOCK;
    return left < BLOCK ? left : BLOCK;
}

static char *block_at(const struct mapping *r, size_t i)
{
    return r->base + i * BLOCK;
}

/* ---- the charge -------------------------------------------------------- */

/* Gives back what the tier has cached, so that it can be charged. */
static void purge_locked(struct tier *tier)
{
    struct grant grant;
    struct extent *none;
    arena_purge(&tier->arena, &grant);
    grant_fulfil_locked(tier, &grant, &none);
}

static bool charge_locked(struct tier *tier, uint64_t bytes)
{
    struct arena *a = &tier->arena;
    if (bytes > a->limit)
        return false;
    if (a->committed > a->limit - bytes && a->used + a->pending <= a->limit - bytes)
        purge_locked(tier);
    return arena_charge(a, bytes);
}

bool mapped_yield_locked(struct tier *tier, uint64_t bytes)
{
    struct mapped *e = tier->manager->mapped;
    uint64_t least = tier->arena.limit / 4, *charge = e ? &e->charge[tier - tier->manager->tier] : NULL;
    if (!e || *charge <= least)
        return false;
    uint64_t give = bytes < *charge - least ? bytes : *charge - least;
    *charge -= give;
    arena_uncharge(&tier->arena, give);
    atomic_store(&e->wishes, true);
    return true;
}

/* Has others leave the tier until `bytes` can be charged to it. */
static int charge_for_certain(struct tier *tier, uint64_t bytes)
{
    struct terrace *m = tier->manager;
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "the window of stable memory"};
    terrace_tier index = (terrace_tier)(tier - m->tier);
    for (int attempt = 0;; attempt++) {
        terrace_tensor *t;
        manager_lock(m);
        bool done = charge_locked(tier, bytes);
        manager_unlock(m);
        if (done)
            return 0;
        void *p;
        int r = attempt == 10 ? error_set(-TERRACE_EBUDGET, "no room in %s for %llu bytes of stable memory",
                                          tier->name, (unsigned long long)bytes)
                              : terrace_tensor_create(m, bytes, &attr, &t);
        if (r)
            return r;
        r = terrace_acquire(t, index, TERRACE_OVERWRITE, NULL, &p, NULL);
        if (r == 0)
            terrace_release(t, p, NULL);
        terrace_tensor_destroy(t);
        if (r)
            return r;
    }
}

/* What the tier is to hold in all: the regions, but leaving others a sixteenth. */
static uint64_t charge_wanted(const struct mapped *e, const struct tier *tier)
{
    uint64_t sum = 0, most = tier->arena.limit - tier->arena.limit / 16;
    struct mapping *r;
    LIST_FOREACH(r, &e->regions, link)
        sum += r->tier == tier ? r->bytes : 0;
    return (sum < most ? sum : most) / PAGE * PAGE;
}

/* Follows what there is to hold, as far as nobody else has the memory. */
static uint64_t charge_adjust(struct mapped *e, struct tier *tier)
{
    uint64_t want = charge_wanted(e, tier), *charge = &e->charge[tier - tier->manager->tier], have;
    manager_lock(tier->manager);
    if (*charge > want) {
        arena_uncharge(&tier->arena, *charge - want);
        *charge = want;
    } else if (*charge < want && tier->wanted == 0) {
        uint64_t used = tier->arena.used + tier->arena.pending, more = want - *charge;
        uint64_t room = used < tier->arena.limit ? tier->arena.limit - used : 0;
        room = room > tier->arena.limit / 16 ? room - tier->arena.limit / 16 : 0;
        more = (more < room ? more : room) / PAGE * PAGE;
        if (more && charge_locked(tier, more))
            *charge += more;
    }
    have = *charge;
    manager_unlock(tier->manager);
    return have;
}

/* ---- what is done with a block ------------------------------------------- */

enum what { READ, WRITE, WRITE_AND_WAIT };

struct part {
    int fd;
    uint64_t offset, bytes;
};

/* The file behind pages of a block, which lies in one piece as stripes do. */
static bool file_behind(const struct mapping *r, size_t i, size_t page, size_t pages, struct part *p)
{
    uint64_t address = r->space + (uint64_t)i * BLOCK + page * PAGE;
    return r->disk->backend->file(r->disk->unit, address, pages * PAGE, TERRACE_IO_READ, &p->fd, &p->offset,
                                  &p->bytes) == 0;
}

/* Has the kernel do something with the file behind a block. */
static void block_file(const struct mapping *r, size_t i, enum what what)
{
    struct part p;
    if (!file_behind(r, i, 0, block_bytes(r, i) / PAGE, &p))
        return;
    if (what == READ)
        posix_fadvise(p.fd, (off_t)p.offset, (off_t)p.bytes, POSIX_FADV_WILLNEED);
    else
        sync_file_range(p.fd, (off_t)p.offset, (off_t)p.bytes, what == WRITE ? SYNC_FILE_RANGE_WRITE :
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

static void block_holds(struct mapping *r, size_t i, size_t pages)
{
    r->held += pages;
    r->held -= r->block[i].held;
    r->block[i].held = (uint16_t)pages;
}

/* Of the kernel's cachestat(), Linux 6.5, which headers may not have yet. */
enum { SYSCALL_CACHESTAT = 451 };
struct cache_range {
    uint64_t offset, bytes;
};
struct cache_state {
    uint64_t cached, dirty, writing, evicted, recently;
};

/* How many pages are in memory, and how many of these are not yet written, as
 * far as the kernel tells. */
static size_t in_memory(const struct mapping *r, size_t i, size_t page, size_t pages, size_t *unwritten)
{
    unsigned char there[BLOCK_PAGES];
    struct cache_state state;
    struct part p;
    size_t n = 0;
    *unwritten = 0;
    if (file_behind(r, i, page, pages, &p) &&
        syscall(SYSCALL_CACHESTAT, p.fd, &(struct cache_range){p.offset, p.bytes}, &state, 0) == 0) {
        *unwritten = state.dirty + state.writing;
        return state.cached < pages ? state.cached : pages;
    }
    if (mincore(block_at(r, i) + page * PAGE, pages * PAGE, there))
        return 0;
    for (size_t k = 0; k < pages; k++)
        n += there[k] & 1;
    return n;
}

static void block_look(struct mapping *r, size_t i)
{
    size_t unwritten;
    block_holds(r, i, in_memory(r, i, 0, block_bytes(r, i) / PAGE, &unwritten));
}

/* Which pages of up to LOOK blocks from i on the program has; false: unknown. */
enum { LOOK = 8 };
static bool pages_mapped(const struct mapped *e, const struct mapping *r, size_t i, size_t n, uint64_t *entry)
{
    size_t pages = (n - 1) * BLOCK_PAGES + block_bytes(r, i + n - 1) / PAGE;
    off_t at = (off_t)((uintptr_t)block_at(r, i) / PAGE * sizeof *entry);
    if (e->pagemap < 0 ||
        pread(e->pagemap, entry, pages * sizeof *entry, at) != (ssize_t)(pages * sizeof *entry))
        return false;
    for (size_t k = 0; k < pages; k++)
        entry[k] >>= 63;
    return true;
}

static void block_leave(struct mapping *r, size_t i)
{
    struct block *b = &r->block[i];
    madvise(block_at(r, i), block_bytes(r, i), MADV_DONTNEED);
    block_file(r, i, WRITE);
    b->mapped = 0;
    b->left = true;
}

/* Not before they are written: the kernel would wait for its own queues. */
static void pages_drop(struct mapping *r, size_t i, size_t page, size_t pages)
{
    size_t unwritten;
    struct part p;
    if (in_memory(r, i, page, pages, &unwritten) && !unwritten && file_behind(r, i, page, pages, &p))
        posix_fadvise(p.fd, (off_t)p.offset, (off_t)p.bytes, POSIX_FADV_DONTNEED);
}

/* Drops what the program has not come back to since the block was left. */
static void block_drop(const struct mapped *e, struct mapping *r, size_t i)
{
    uint64_t mapped[BLOCK_PAGES];
    size_t pages = block_bytes(r, i) / PAGE;
    if (!pages_mapped(e, r, i, 1, mapped)) {
        pages_drop(r, i, 0, pages);
    } else {
        for (size_t from = 0, to; from < pages; from = to) {
            for (to = from + 1; to < pages && mapped[to] == mapped[from];)
                to++;
            if (!mapped[from])
                pages_drop(r, i, from, to - from);
        }
    }
    block_look(r, i);
}

static void block_read(struct mapping *r, size_t i)
{
    struct terrace *m = r->tier->manager;
    block_file(r, i, READ);
    block_holds(r, i, block_bytes(r, i) / PAGE);
    r->block[i].touched = r->clock;
    r->block[i].left = false;
    manager_lock(m);
    m->stats.prefetches++;
    manager_unlock(m);
}

static bool block_may_go(const struct block *b)
{
    return b->held && atomic_load(&b->pins) == 0;
}

/* ---- looking ------------------------------------------------------------- */

/* Counts the pages the program has; or, where that is unknown, those in memory. */
static void count_mapped(const struct mapped *e, const struct mapping *r, size_t i, size_t n, uint16_t *count)
{
    uint64_t mapped[LOOK * BLOCK_PAGES];
    bool known = pages_mapped(e, r, i, n, mapped);
    for (size_t k = 0; k < n; k++) {
        size_t pages = block_bytes(r, i + k) / PAGE, sum = 0, unwritten;
        for (size_t p = 0; known && p < pages; p++)
            sum += mapped[k * BLOCK_PAGES + p];
        count[k] = (uint16_t)(known ? sum : in_memory(r, i + k, 0, pages, &unwritten));
    }
}

static bool just_walked(const struct mapping *r, size_t i)
{
    const struct block *b = &r->block[i];
    return b->mapped >= block_bytes(r, i) / PAGE / 4 * 3 && r->clock - b->touched <= RECENT;
}

/* A block was touched: does a walk come through it, and what is next? */
static void follow(const struct mapped *e, struct mapping *r, size_t i, unsigned most)
{
    int step = i > 0 && just_walked(r, i - 1) ? 1 : i + 1 < r->blocks && just_walked(r, i + 1) ? -1 : 0;
    if (step == 0)
        return;
    r->walked = r->clock;
    r->walking = true;
    if (e->pagemap < 0)
        return; /* what is read ahead would look like touched */
    for (unsigned k = 1; k <= most; k++) {
        size_t next = i + (size_t)(step * (int)k);
        if (next >= r->blocks)
            return;
        if (r->block[next].held == 0)
            block_read(r, next);
    }
}

/* Tells the kernel not to read around where single pages are wanted. */
static void vote(struct mapping *r, unsigned blocks, uint64_t pages)
{
    bool sparse = blocks >= 4 && pages < (uint64_t)blocks * (BLOCK_PAGES / 4);
    bool dense = blocks && pages >= (uint64_t)blocks * (BLOCK_PAGES / 2);
    r->sparse = sparse ? r->sparse + 1 : dense ? 0 : r->sparse;
    if (r->random != (r->sparse >= 3)) {
        r->random = r->sparse >= 3;
        madvise(r->base, r->bytes, r->random ? MADV_RANDOM : MADV_NORMAL);
    }
}

/* Finds out which blocks were touched and does what was wished of others. */
static unsigned look(struct mapped *e, struct mapping *r, unsigned ahead)
{
    unsigned touched = 0;
    uint64_t pages = 0;
    for (size_t i = 0; i < r->blocks; i += LOOK) {
        size_t n = r->blocks - i < LOOK ? r->blocks - i : LOOK;
        uint16_t count[LOOK];
        count_mapped(e, r, i, n, count);
        for (size_t k = 0; k < n; k++) {
            struct block *b = &r->block[i + k];
            if (atomic_exchange(&b->wanted, false) && b->held == 0)
                block_read(r, i + k);
            unsigned more = count[k] > b->mapped ? count[k] - b->mapped : 0;
            b->mapped = count[k];
            if (!more)
                continue;
            block_look(r, i + k);
            b->touched = ++r->clock;
            touched++;
            pages += more;
            if (more >= WALKED)
                follow(e, r, i + k, ahead);
        }
    }
    if (r->clock - r->walked > 2 * RECENT)
        r->walking = false;
    vote(r, touched, pages);
    return touched;
}

/* ---- making room ----------------------------------------------------------- */

/* A walk: what it has passed leaves, then goes. */
static void make_room_behind(const struct mapped *e, struct mapping *r, uint64_t window, uint64_t pages)
{
    uint64_t until = r->held > pages ? r->held - pages : 0;
    for (size_t i = 0; i < r->blocks; i++) {
        struct block *b = &r->block[i];
        uint32_t age = r->clock - b->touched;
        if (block_may_go(b) && (!b->left || b->mapped) && age >= window / 2 && age < window + 64)
            block_leave(r, i);
    }
    for (size_t i = 0; i < r->blocks && r->held > until; i++) {
        struct block *b = &r->block[i];
        if (block_may_go(b) && b->left && !b->mapped && r->clock - b->touched >= window)
            block_drop(e, r, i);
    }
}

/* Otherwise: one hand leaves blocks, the other follows and drops of them what
 * was not come back to. */
static void make_room_around(const struct mapped *e, struct mapping *r, uint64_t spread, uint64_t pages)
{
    uint64_t until = r->held > pages ? r->held - pages : 0, left = 0;
    for (size_t i = 0; i < r->blocks; i++)
        left += r->block[i].left ? r->block[i].held : 0;
    for (size_t n = 0; n < r->blocks && left < pages + spread; n++) {
        size_t i = r->front;
        r->front = (i + 1) % r->blocks;
        if (!block_may_go(&r->block[i]) || r->block[i].left)
            continue;
        block_leave(r, i);
        left += r->block[i].held;
    }
    for (size_t n = 0; n < r->blocks && r->held > until; n++) {
        size_t i = r->back;
        r->back = (i + 1) % r->blocks;
        if (!block_may_go(&r->block[i]) || !r->block[i].left)
            continue;
        block_drop(e, r, i);
        r->block[i].left = false;
    }
}

/* Waits for one block to be written: all that is over the budget is dirty. */
static void make_room_for_certain(const struct mapped *e, struct mapping *r)
{
    for (size_t n = 0; n < r->blocks; n++) {
        size_t i = r->back;
        r->back = (i + 1) % r->blocks;
        if (!block_may_go(&r->block[i]) || !r->block[i].left)
            continue;
        block_file(r, i, WRITE_AND_WAIT);
        block_drop(e, r, i);
        return;
    }
}

/* True: there is more to do, though nobody may touch anything. */
static bool make_room(const struct mapped *e, struct mapping *r, uint64_t charge, uint64_t held)
{
    bool more = false;
    uint64_t high = charge - charge / 32, window = charge / BLOCK / 4;
    for (size_t i = 0; i < r->blocks; i++)
        if (atomic_load(&r->block[i].unwanted)) {
            if (!r->block[i].left || r->block[i].mapped)
                block_leave(r, i);
            else
                block_drop(e, r, i);
            atomic_store(&r->block[i].unwanted, block_may_go(&r->block[i]));
            more |= block_may_go(&r->block[i]);
        }
    if (held * PAGE <= high || held == 0)
        return more;
    uint64_t pages = (held - (high - charge / 32) / PAGE) * r->held / held + 1, before = r->held;
    if (r->walking)
        make_room_behind(e, r, window > 4 ? window : 4, pages);
    uint64_t gone = before - r->held;
    if (gone < pages && (!r->walking || (held - gone) * PAGE > charge))
        make_room_around(e, r, charge / 16 / PAGE, pages - gone);
    if ((held - (before - r->held)) * PAGE > charge + charge / 4)
        make_room_for_certain(e, r);
    return more || (held - (before - r->held)) * PAGE > high;
}

/* ---- the thread -------------------------------------------------------------- */

static uint64_t held_in(const struct mapped *e, const struct tier *tier)
{
    uint64_t sum = 0;
    struct mapping *r;
    LIST_FOREACH(r, &e->regions, link)
        sum += r->tier == tier ? r->held : 0;
    return sum;
}

/* One look at everything; holds the lock but while it works on a region. */
static unsigned round_locked(struct mapped *e)
{
    struct terrace *m = e->manager;
    unsigned touched = 0;
    struct mapping *r;
    atomic_store(&e->wishes, false);
    for (r = LIST_FIRST(&e->regions); r && !e->stop; r = LIST_NEXT(r, link)) {
        uint64_t charge = charge_adjust(e, r->tier);
        unsigned ahead = (unsigned)(charge / BLOCK / 8);
        ahead = m->prefetch_limit == 0 ? 0 : ahead < MOST_AHEAD ? ahead : MOST_AHEAD;
        e->working = r;
        pthread_mutex_unlock(&e->lock);
        touched += look(e, r, ahead);
        pthread_mutex_lock(&e->lock);
        uint64_t held = held_in(e, r->tier);
        pthread_mutex_unlock(&e->lock);
        if (make_room(e, r, charge, held))
            atomic_store(&e->wishes, true);
        pthread_mutex_lock(&e->lock);
        e->working = NULL;
        pthread_cond_broadcast(&e->changed);
    }
    return touched;
}

/* Pages may have been mapped only if the process has had faults. */
static bool something_new(struct mapped *e)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    long faults = u.ru_minflt + u.ru_majflt;
    bool new = faults != e->faults || atomic_load(&e->wishes);
    e->faults = faults;
    return new;
}

static void sleep_locked(struct mapped *e, uint64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    ns += (uint64_t)until.tv_nsec;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    while (!e->stop && pthread_cond_timedwait(&e->changed, &e->lock, &until) == 0)
        ;
}

static void *service(void *arg)
{
    struct mapped *e = arg;
    uint64_t rest = REST_NS;
    pthread_mutex_lock(&e->lock);
    while (!e->stop) {
        sleep_locked(e, rest);
        rest = IDLE_NS;
        if (e->stop || !something_new(e))
            continue;
        uint64_t begun = clock_ns();
        if (round_locked(e))
            rest = REST_NS;
        uint64_t took = clock_ns() - begun; /* looking is to cost a fraction of a CPU */
        rest = rest > 2 * took ? rest : 2 * took < 10 * IDLE_NS ? 2 * took : 10 * IDLE_NS;
    }
    pthread_mutex_unlock(&e->lock);
    return NULL;
}

/* ---- opening and closing ------------------------------------------------------ */

static struct mapped *mapped_new(struct terrace *m)
{
    struct mapped *e = calloc(1, sizeof *e);
    if (!e) {
        error_set(-TERRACE_ENOMEM, "no host memory");
        return NULL;
    }
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&e->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_mutex_init(&e->lock, NULL);
    LIST_INIT(&e->regions);
    e->manager = m;
    e->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = pthread_create(&e->thread, NULL, service, e);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error == 0)
        return e;
    error_set(-TERRACE_ESYSTEM, "no thread to serve stable memory: %s", strerror(error));
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    if (e->pagemap >= 0)
        close(e->pagemap);
    free(e);
    return NULL;
}

static struct mapped *mapped_open(struct terrace *m)
{
    manager_lock(m);
    struct mapped *e = m->mapped;
    if (!e)
        e = m->mapped = mapped_new(m);
    manager_unlock(m);
    return e;
}

static int no_space(const struct tier *disk, uint64_t bytes)
{
    char need[BYTES_TEXT], limit[BYTES_TEXT], variable[NAME_TEXT];
    tier_limit_name(disk, variable);
    return error_set(-TERRACE_ENOSPC, "no room for %s of stable memory: %s has a budget of %s (%s), less "
                     "what is in use; raise %s or add a folder", bytes_text(bytes, need), disk->name,
                     bytes_text(disk->arena.limit, limit), disk->limit_reason, variable);
}

/* Space on the disk, in the budget and for certain. */
static int space_take(struct mapping *r)
{
    struct tier *disk = r->disk;
    manager_lock(disk->manager);
    bool fits = charge_locked(disk, r->reserved);
    manager_unlock(disk->manager);
    if (!fits)
        return no_space(disk, r->reserved);
    int e = disk->backend->reserve(disk->unit, r->reserved, 0, &r->space);
    if (e)
        goto uncharge;
    e = disk->backend->commit(disk->unit, r->space, r->reserved);
    if (e == 0)
        return 0;
    disk->backend->release(disk->unit, r->space, r->reserved);
uncharge:
    manager_lock(disk->manager);
    arena_uncharge(&disk->arena, r->reserved);
    manager_unlock(disk->manager);
    return e;
}

static void space_free(struct mapping *r)
{
    r->disk->backend->release(r->disk->unit, r->space, r->reserved);
    manager_lock(r->disk->manager);
    arena_uncharge(&r->disk->arena, r->reserved);
    manager_unlock(r->disk->manager);
}

/* Maps the file at r->base, piece by piece where it is striped. */
static int map_pieces(const struct mapping *r)
{
    uint64_t run, offset;
    unsigned pieces = 0;
    int fd;
    for (size_t at = 0; at < r->bytes; at += run) {
        int e = r->disk->backend->file(r->disk->unit, r->space + at, r->bytes - at, TERRACE_IO_WRITE, &fd,
                                       &offset, &run);
        if (e)
            return e;
        if (++pieces > MOST_PIECES)
            return error_set(-TERRACE_ENOTSUP, "%zu bytes of stable memory, striped over several folders, take "
                             "too many mappings: name one folder in TERRACE_NVME_PATH", r->bytes);
        const void *got = mmap(r->base + at, run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                               (off_t)offset);
        if (got == MAP_FAILED)
            return error_set(-TERRACE_ENOMEM, "%llu bytes of the spill cannot be mapped: %s",
                             (unsigned long long)run, strerror(errno));
    }
    madvise(r->base, r->bytes, MADV_DONTFORK);
    return 0;
}

/* Addresses, aligned to a block where there is a whole one. */
static char *addresses_take(size_t bytes)
{
    size_t align = bytes < BLOCK ? PAGE : BLOCK;
    void *p = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uintptr_t start = (uintptr_t)p, aligned = round_up(start, align);
    if (aligned > start)
        munmap((void *)start, aligned - start);
    munmap((void *)(aligned + bytes), align - (aligned - start));
    return (char *)aligned;
}

static int backend_check(const struct terrace *m, const struct tier *disk)
{
    if (m->sealer)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping can neither be encrypted "
                         "nor checked: unset TERRACE_ENCRYPT and TERRACE_VERIFY, or allow userfaultfd");
    if (!disk)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping needs a disk tier: "
                         "TERRACE_TIERS names none");
    if (!disk->backend->file)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping is not to be had on %s",
                         disk->name);
    return 0;
}

static void region_free(struct mapping *r)
{
    munmap(r->base, r->bytes);
    space_free(r);
    free(r);
}

/* Room for a quarter of the budget, which nobody can have back. */
static int window_take(struct mapped *e, struct tier *tier, size_t bytes)
{
    uint64_t *charge = &e->charge[tier - tier->manager->tier], least = tier->arena.limit / 4;
    manager_lock(tier->manager);
    uint64_t more = *charge < least ? least - *charge : 0;
    manager_unlock(tier->manager);
    more = round_up(more < bytes ? more : bytes, PAGE);
    int r = more ? charge_for_certain(tier, more) : 0;
    if (r)
        return r;
    manager_lock(tier->manager);
    *charge += more;
    manager_unlock(tier->manager);
    return 0;
}

void *mapped_alloc(struct tier *tier, size_t bytes)
{
    struct terrace *m = tier->manager;
    struct tier *disk = spill_tier(m);
    if (backend_check(m, disk) || (bytes > disk->arena.limit && no_space(disk, bytes)))
        return NULL;
    struct mapped *e = mapped_open(m);
    if (!e || window_take(e, tier, bytes))
        return NULL;
    size_t blocks = (bytes + BLOCK - 1) / BLOCK;
    struct mapping *r = calloc(1, sizeof *r + blocks * sizeof r->block[0]);
    if (!r) {
        error_set(-TERRACE_ENOMEM, "no host memory");
        return NULL;
    }
    r->tier = tier;
    r->disk = disk;
    r->bytes = round_up(bytes, PAGE);
    r->reserved = round_up(bytes, bytes < BLOCK ? disk->info.page : disk->info.granule);
    r->blocks = blocks;
    if (space_take(r))
        goto free_region;
    r->base = addresses_take(r->bytes);
    if (!r->base) {
        error_set(-TERRACE_ENOMEM, "no address space for %zu bytes of stable memory", bytes);
        goto give_space;
    }
    if (map_pieces(r))
        goto unmap;
    pthread_mutex_lock(&e->lock);
    LIST_INSERT_HEAD(&e->regions, r, link);
    pthread_mutex_unlock(&e->lock);
    return r->base;
unmap:
    munmap(r->base, r->bytes);
give_space:
    space_free(r);
free_region:
    free(r);
    return NULL;
}

static struct mapping *region_at_locked(const struct mapped *e, const void *p)
{
    struct mapping *r;
    LIST_FOREACH(r, &e->regions, link)
        if ((uintptr_t)p - (uintptr_t)r->base < r->bytes)
            return r;
    return NULL;
}

static struct mapped *engine(struct terrace *m)
{
    manager_lock(m);
    struct mapped *e = m->mapped;
    manager_unlock(m);
    return e;
}

bool mapped_has(struct terrace *m, const void *p)
{
    struct mapped *e = engine(m);
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    bool has = region_at_locked(e, p);
    pthread_mutex_unlock(&e->lock);
    return has;
}

bool mapped_free(struct terrace *m, void *p)
{
    struct mapped *e = engine(m);
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    struct mapping *r = region_at_locked(e, p);
    if (r && r->base != p)
        r = NULL;
    while (r && e->working == r)
        pthread_cond_wait(&e->changed, &e->lock);
    if (r) {
        LIST_REMOVE(r, link);
        charge_adjust(e, r->tier);
    }
    pthread_mutex_unlock(&e->lock);
    if (r)
        region_free(r);
    return r;
}

void mapped_close(struct terrace *m)
{
    struct mapped *e = m->mapped;
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->stop = true;
    pthread_cond_broadcast(&e->changed);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    struct mapping *r;
    while ((r = LIST_FIRST(&e->regions)) != NULL) {
        LIST_REMOVE(r, link);
        region_free(r);
    }
    manager_lock(m);
    for (unsigned i = 0; i < m->tiers; i++)
        arena_uncharge(&m->tier[i].arena, e->charge[i]);
    m->mapped = NULL;
    manager_unlock(m);
    pthread_cond_destroy(&e->changed);
    pthread_mutex_destroy(&e->lock);
    if (e->pagemap >= 0)
        close(e->pagemap);
    free(e);
}

/* ---- advice -------------------------------------------------------------------- */

static int pin_locked(struct mapped *e, struct mapping *r, size_t from, size_t to)
{
    uint64_t pinned = to - from, most = (r->tier->arena.limit - r->tier->arena.limit / 8) / BLOCK;
    struct mapping *other;
    LIST_FOREACH(other, &e->regions, link)
        for (size_t i = 0; other->tier == r->tier && i < other->blocks; i++)
            pinned += atomic_load(&other->block[i].pins) > 0;
    if (pinned > most)
        return error_set(-TERRACE_EBUDGET, "terrace_advise: pinning this would leave less than an eighth "
                         "of the budget of %s", r->tier->name);
    for (size_t i = from; i < to; i++)
        atomic_fetch_add(&r->block[i].pins, 1);
    while (e->working == r) /* perhaps on these, taken for unpinned */
        pthread_cond_wait(&e->changed, &e->lock);
    return 0;
}

int mapped_advise(struct terrace *m, void *p, size_t bytes, int advice)
{
    struct mapped *e = engine(m);
    int error = 0;
    pthread_mutex_lock(&e->lock);
    struct mapping *r = region_at_locked(e, p);
    size_t at = r ? (size_t)((char *)p - r->base) : 0;
    if (!r || bytes > r->bytes - at)
        error = error_set(-TERRACE_EINVAL, "terrace_advise: %zu bytes at %p reach past their allocation", bytes, p);
    size_t from = at / BLOCK, to = error || bytes == 0 ? from : (at + bytes - 1) / BLOCK + 1;
    if (to > from && advice == TERRACE_ADVISE_PIN)
        error = pin_locked(e, r, from, to);
    for (size_t i = from; i < to; i++) {
        struct block *b = &r->block[i];
        uint16_t pins = atomic_load(&b->pins);
        if (advice == TERRACE_ADVISE_WILLNEED)
            atomic_store(&b->wanted, true);
        else if (advice == TERRACE_ADVISE_DONTNEED)
            atomic_store(&b->unwanted, pins == 0);
        else if (advice == TERRACE_ADVISE_UNPIN && pins && atomic_fetch_sub(&b->pins, 1) == 1)
            munlock(block_at(r, i), block_bytes(r, i));
    }
    if (to > from)
        atomic_store(&e->wishes, true);
    pthread_mutex_unlock(&e->lock);
    if (error == 0 && advice == TERRACE_ADVISE_PIN && to > from) {
        char *start = block_at(r, from);
        size_t length = (size_t)(block_at(r, to - 1) + block_bytes(r, to - 1) - start);
        if (mlock(start, length)) /* past RLIMIT_MEMLOCK: the thread here leaves them alone at least */
            for (size_t k = 0; k < length; k += PAGE)
                (void)*(volatile char *)(start + k);
    }
    return error;
}
