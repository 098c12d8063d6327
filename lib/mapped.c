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
 * A forked child cannot have the memory: writes of either would be the other's,
 * too. So there is none: forked.c.
 *
 * Locking: mapped.lock protects the list of regions and is taken before the
 * manager's. The thread marks the region it is working on, and holds no lock
 * while it does. What blocks are is the thread's own; pins and wishes of others
 * are atomic.
 *
 * Blocks: mapped_block.c. The charge: mapped_charge.c. Regions: mapped_region.c.
 *
 * May call: core.h, mapped_inside.h. */
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "mapped_inside.h"

enum {
    MOST_AHEAD = 8,      /* blocks */
    RECENT = 8,          /* touched blocks ago */
    WALKED = 32,         /* pages of a block between looks: more than one fault brings */
    REST_NS = 2000000,   /* between looks */
    IDLE_NS = 10000000
};

/* ---- looking ------------------------------------------------------------- */

/* Counts the pages the program has; or, where that is unknown, those in memory. */
static void count_mapped(const struct mapped *e, const struct mapping *r, size_t i, size_t n, uint16_t *count)
{
    uint64_t mapped[LOOK * BLOCK_PAGES];
    bool known = mapping_pages(e, r, i, n, mapped);
    for (size_t k = 0; k < n; k++) {
        size_t pages = block_bytes(r, i + k) / PAGE, sum = 0, unwritten;
        for (size_t p = 0; known && p < pages; p++)
            sum += mapped[k * BLOCK_PAGES + p];
        count[k] = (uint16_t)(known ? sum : mapping_in_memory(r, i + k, 0, pages, &unwritten));
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
            mapping_read(r, next);
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
                mapping_read(r, i + k);
            unsigned more = count[k] > b->mapped ? count[k] - b->mapped : 0;
            b->mapped = count[k];
            if (!more)
                continue;
            mapping_look(r, i + k);
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
            mapping_leave(r, i);
    }
    for (size_t i = 0; i < r->blocks && r->held > until; i++) {
        struct block *b = &r->block[i];
        if (block_may_go(b) && b->left && !b->mapped && r->clock - b->touched >= window)
            mapping_drop(e, r, i);
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
        mapping_leave(r, i);
        left += r->block[i].held;
    }
    for (size_t n = 0; n < r->blocks && r->held > until; n++) {
        size_t i = r->back;
        r->back = (i + 1) % r->blocks;
        if (!block_may_go(&r->block[i]) || !r->block[i].left)
            continue;
        mapping_drop(e, r, i);
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
        mapping_file(r, i, WRITE_AND_WAIT);
        mapping_drop(e, r, i);
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
                mapping_leave(r, i);
            else
                mapping_drop(e, r, i);
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
        uint64_t charge = mapped_charge_adjust(e, r->tier);
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
    LIST_INIT(&e->claims);
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

struct mapped *mapped_open(struct terrace *m)
{
    manager_lock(m);
    struct mapped *e = m->mapped;
    if (!e)
        e = m->mapped = mapped_new(m);
    manager_unlock(m);
    return e;
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
        mapping_free(r);
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

