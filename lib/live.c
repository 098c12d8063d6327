/* live.c - the page by which `terrace top` sees what a manager does.
 *
 * The job does nothing for it: a lane that has work, or wakes up once in a while if
 * it has none, copies the figures there twice a second at most; without a lane the
 * calls that end a step or destroy a tensor do. Which tensors are the biggest is found
 * by looking at some of them each time, so that the lock is never held for long: with
 * very many it takes a while until all have been seen.
 *
 * A child of fork() has the page's file among its own, but not the page: readers tell
 * by the number of the process in it that it is another's.
 *
 * May call: core.h, lease.h, live_page.h, mover.h, region.h, stable.h. */
#include "live.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lease.h"
#include "live_page.h"
#include "mover.h"
#include "region.h"
#include "stable.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010 /* Linux 5.1 */
#endif

enum { LOOKS = 2048 /* tensors looked at each time */ };
static const uint64_t PERIOD_NS = 500000000, IDLE_NS = 1000000000;

_Static_assert((int)LIVE_TIERS == (int)MAX_TIERS, "the page has room for every tier");

struct live {
    struct live_page *page;
    int fd;
    dev_t device;             /* of its file, that it is still the one by that number */
    ino_t inode;
    uint64_t due;
    const struct lane *lane;  /* that sees to it that it is renewed; NULL: none does */
    unsigned pass;            /* over all tensors */
    unsigned found;
    struct live_tensor biggest[LIVE_TENSORS]; /* found in this pass */
};

/* ---- the biggest tensors ------------------------------------------------ */

/* Puts one among the biggest, if it is. */
static void consider(struct live *live, const struct live_tensor *one, const char *label)
{
    unsigned at = live->found;
    while (at && live->biggest[at - 1].bytes < one->bytes)
        at--;
    if (at == LIVE_TENSORS)
        return;
    if (live->found < LIVE_TENSORS)
        live->found++;
    memmove(&live->biggest[at + 1], &live->biggest[at], (live->found - 1 - at) * sizeof live->biggest[0]);
    live->biggest[at] = *one;
    snprintf(live->biggest[at].label, sizeof live->biggest[at].label, "%s", label);
}

static bool is_small_fry(const struct live *live, uint64_t bytes)
{
    return live->found == LIVE_TENSORS && live->biggest[LIVE_TENSORS - 1].bytes >= bytes;
}

/* A block counts for its region, of which it is part. */
static void look_at_block(struct live *live, struct terrace_tensor *t)
{
    struct region *r = t->region;
    const struct terrace *m = t->manager;
    if (r->live_pass != live->pass) {
        r->live_pass = live->pass;
        r->live_memory = 0;
        r->live_tiers = 0;
    }
    for (unsigned i = 0; i < m->tiers; i++)
        if (t->copy[i].state == COPY_VALID) {
            r->live_tiers |= 1u << i;
            r->live_memory += tier_is_memory(&m->tier[i]) ? t->bytes : 0;
        }
}

static void look_at_tensor(struct live *live, struct terrace_tensor *t)
{
    const struct terrace *m = t->manager;
    struct live_tensor one = {.bytes = t->bytes, .role = (uint32_t)t->role};
    if (t->slab || t->doomed || is_small_fry(live, t->bytes))
        return;
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct copy *c = &t->copy[i];
        bool memory = tier_is_memory(&m->tier[i]);
        one.tiers |= c->state == COPY_VALID ? 1u << i : 0;
        one.in_memory = memory && c->state == COPY_VALID ? t->bytes : one.in_memory;
    }
    consider(live, &one, tensor_name(t));
}

static void look_at_regions(struct terrace *m, struct live *live)
{
    const struct region *r;
    unsigned looks = LOOKS;
    if (!m->stable)
        return;
    LIST_FOREACH(r, &m->stable->regions, link) {
        bool seen = r->live_pass == live->pass;
        struct live_tensor one = {.bytes = r->bytes, .role = (uint32_t)r->role, .stable = true,
                                  .in_memory = seen ? r->live_memory : 0, .tiers = seen ? r->live_tiers : 0};
        if (one.in_memory > one.bytes)
            one.in_memory = one.bytes; /* the last block is larger than what is left for it */
        if (!is_small_fry(live, r->bytes))
            consider(live, &one, region_label(r));
        if (!--looks)
            return;
    }
}

/* Goes on with the pass; where it is over, its outcome is shown. */
static void look_locked(struct terrace *m, struct live *live)
{
    struct terrace_tensor *t = m->live_next;
    if (!t) {
        t = LIST_FIRST(&m->all);
        live->pass++;
        live->found = 0;
    }
    for (int i = 0; t && i < LOOKS; i++, t = LIST_NEXT(t, all))
        (t->region ? look_at_block : look_at_tensor)(live, t);
    m->live_next = t;
    if (t)
        return;
    look_at_regions(m, live);
    memcpy(live->page->tensor, live->biggest, sizeof live->biggest);
    live->page->tensors_shown = live->found;
}

/* ---- renewing ----------------------------------------------------------- */

static void show_tier(const struct tier *tier, struct live_tier *to)
{
    to->used = tier->arena.committed;
    to->peak = tier->arena.peak;
    to->dirty = policy_dirty_bytes(&tier->policy) + tier->open_bytes[1] + tier->draining;
    to->tensors = tier->tensors;
    to->in_bytes = tier->in_bytes;
    to->out_bytes = tier->out_bytes;
    to->staging = tier->staging;
    to->byte_seconds = arena_byte_seconds(&tier->arena);
}

static void show_counters(const terrace_statistics *s, struct live_page *to)
{
    to->tensors = s->tensors;
    to->tensor_bytes = s->tensor_bytes;
    to->steps = s->steps;
    to->acquires = s->acquires;
    to->hits = s->hits;
    to->stalls = s->stalls;
    to->stall_ns = s->stall_ns;
    to->prefetches = s->prefetches;
    to->prefetch_hits = s->prefetch_hits;
    to->evictions = s->evictions;
    to->clean_evictions = s->clean_evictions;
    to->writeback_bytes = s->writeback_bytes;
    to->fill_bytes = s->fill_bytes;
    to->file_bytes = s->file_bytes;
    to->cpu_copy_bytes = s->cpu_copy_bytes;
    to->wasted_bytes = s->wasted_bytes;
    to->io_errors = s->io_errors;
    to->corrupt = s->corrupt;
    to->faults = s->faults;
}

static void renew_locked(struct terrace *m, uint64_t now)
{
    struct live *live = m->live;
    struct live_page *p = live->page;
    live->due = now + PERIOD_NS;
    leases_drain_locked(m);
    uint32_t sequence = atomic_load_explicit(&p->sequence, memory_order_relaxed);
    atomic_store_explicit(&p->sequence, sequence + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    p->updated = now;
    show_counters(&m->stats, p);
    for (unsigned i = 0; i < m->tiers; i++) {
        show_tier(&m->tier[i], &p->tier[i]);
        for (unsigned k = 0; k < m->tiers; k++)
            p->route[i][k] = m->route[i][k].bytes;
    }
    look_locked(m, live);
    atomic_store_explicit(&p->sequence, sequence + 2, memory_order_release);
}

void live_renew_locked(struct terrace *m)
{
    uint64_t now = m->live ? clock_ns() : 0;
    if (m->live && now >= m->live->due)
        renew_locked(m, now);
}

int64_t live_patience_locked(const struct tier *tier)
{
    const struct live *live = tier->manager->live;
    return live && live->lane == tier->lane ? (int64_t)IDLE_NS : -1;
}

/* ---- opening ------------------------------------------------------------ */

static void text_set(char *to, size_t room, const char *from)
{
    snprintf(to, room, "%.*s", (int)room - 1, from ? from : "");
}

/* What does not change. */
static void show_constants(const struct terrace *m, struct live_page *p)
{
    static atomic_uint managers;
    memcpy(p->magic, LIVE_MAGIC, sizeof p->magic);
    p->version = LIVE_VERSION;
    p->bytes = sizeof *p;
    p->process = getpid();
    p->manager = atomic_fetch_add(&managers, 1);
    p->tiers = m->tiers;
    p->opened = m->opened_ns;
    text_set(p->library, sizeof p->library, terrace_version());
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *tier = &m->tier[i];
        struct live_tier *to = &p->tier[i];
        text_set(to->name, sizeof to->name, tier->name);
        text_set(to->kind, sizeof to->kind, tier->backend->name);
        text_set(to->vendor, sizeof to->vendor, tier_vendor(tier));
        text_set(to->tier_class, sizeof to->tier_class, tier_class_name(tier));
        text_set(to->engine, sizeof to->engine, tier->info.engine);
        text_set(to->engine_reason, sizeof to->engine_reason, tier->info.engine_reason);
        text_set(to->location, sizeof to->location, tier->info.location);
        text_set(to->limit_reason, sizeof to->limit_reason, tier->limit_reason);
        to->limit = tier->arena.limit;
    }
}

/* The spill's lane, which has most to do, else any. */
static const struct lane *lane_for(struct terrace *m)
{
    const struct tier *spill = spill_tier(m);
    const struct lane *lane = spill ? spill->lane : NULL;
    for (unsigned i = 0; !lane && i < m->tiers; i++)
        lane = m->tier[i].lane;
    return lane;
}

/* A file that keeps its size, and that nobody but this process can write. */
static int file_open(struct live_page **page)
{
    int fd = memfd_create(LIVE_FILE, MFD_CLOEXEC | MFD_ALLOW_SEALING), high;
    if (fd < 0)
        return -1;
    *page = ftruncate(fd, sizeof **page) || fchmod(fd, 0400)
                ? MAP_FAILED : mmap(NULL, sizeof **page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*page == MAP_FAILED) {
        close(fd);
        return -1;
    }
    madvise(*page, sizeof **page, MADV_DONTFORK);
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW);
    fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL);
    high = fcntl(fd, F_DUPFD_CLOEXEC, 100); /* out of the way of programs that count on small numbers */
    if (high >= 0)
        close(fd);
    return high >= 0 ? high : fd;
}

void live_open(struct terrace *m)
{
    struct live *live = m->options.value[OPT_TOP].number ? calloc(1, sizeof *live) : NULL;
    if (!live)
        return;
    live->fd = file_open(&live->page);
    if (live->fd < 0) {
        log_write(&m->log, TERRACE_LOG_INFO, "`terrace top` cannot look at this process: the system gives no memory "
                  "file");
        free(live);
        return;
    }
    struct stat st = {0};
    fstat(live->fd, &st);
    live->device = st.st_dev;
    live->inode = st.st_ino;
    show_constants(m, live->page);
    live->lane = lane_for(m);
    manager_lock(m);
    m->live = live;
    renew_locked(m, clock_ns());
    if (live->lane)
        manager_kick_locked(m, live->lane->tier);
    manager_unlock(m);
}

void live_close(struct terrace *m)
{
    struct live *live = m->live;
    m->live = NULL;
    if (!live)
        return;
    struct stat st;
    munmap(live->page, sizeof *live->page);
    if (fstat(live->fd, &st) == 0 && st.st_dev == live->device && st.st_ino == live->inode)
        close(live->fd); /* else the program has closed it, and has another by that number */
    free(live);
}
