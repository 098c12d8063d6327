/* stable.c - address-stable memory: plain pointers whose pages move underneath.
 *
 * A region is a reserved range of addresses without memory, cut into blocks of
 * 2 MiB. Each block is a tensor of its own kind: room, eviction, write-back and
 * fills work on it as on any other, at the addresses the host tier's arena
 * gave it. To be used, its pages are moved (not copied) to the block's place in
 * the region, and moved back before they are written down: UFFDIO_MOVE does
 * either atomically, in microseconds where the block is one huge page. So no
 * write can fall between write-out and removal, and fills and write-backs are
 * O_DIRECT between file and the very pages the program uses.
 *
 * A thread serves the faults of absent pages: it sees to it that the block is
 * filled, then maps it. It also takes pages back when room is needed. Blocks
 * are filled ahead of a sequential or strided walk, but mapped at the fault: so
 * the fault, some microseconds for a block, tells that the walk goes on. Where
 * single pages are touched here and there, a block is held by pages: fine.c. The
 * lane of the spill disk looks for faults itself, where it can wait for them and
 * for transfers at once, and leaves to the service what concerns whole blocks.
 *
 * Whether a program changed a block is found out by comparing checksums (XXH3,
 * 128 bits) before it leaves: that of its bytes now, and that of before, which is
 * kept from the time before or taken when it is mapped. An unchanged block leaves
 * without a write. Where that found a change, the block is taken to change the next
 * time, and no checksum is spent on it then.
 *
 * That blocks in memory are used is seen where they are taken back from time to
 * time: notice.c.
 *
 * What a forked child finds in a region: forked.c.
 *
 * Where the kernel cannot move pages, or TERRACE_STABLE=copy, they are copied to
 * the same effect: uffd_copy.c. Where userfaultfd is refused, or
 * TERRACE_STABLE=file: mapped.c.
 *
 * May call: core.h, fine.h, forked.h, lease.h, mapped.h, mover.h, notice.h,
 * prefetch.h, region.h, uffd.h, libxxhash. */
#include "stable.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "fine.h"
#include "forked.h"
#include "lease.h"
#include "mapped.h"
#include "mover.h"
#include "prefetch.h"
#include "region.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { FAULTS = 16, MOST_AHEAD = 8, PATIENCE_US = 5000, AGAIN_MS = 100, STUCK_MS = 10 };

const char *region_label(const struct region *r)
{
    return r->label ? r->label : "(stable memory)";
}

/* ---- waking the service ------------------------------------------------ */

void stable_changed_locked(struct terrace *m)
{
    struct stable *s = m->stable;
    if (s && (!TAILQ_EMPTY(&s->faulted) || !TAILQ_EMPTY(&s->paged)) && !pthread_equal(pthread_self(), s->thread))
        work_locked(m); /* what the service itself does makes it look anyway */
}

void stable_kick(struct terrace *m)
{
    eventfd_write(m->stable->event, 1);
}

bool stable_kicked_locked(struct terrace *m)
{
    bool kicked = m->stable && m->stable->kicked;
    if (kicked)
        m->stable->kicked = false;
    return kicked;
}

bool stable_work_locked(const struct terrace *m)
{
    return m->stable->kicked;
}

void stable_recall_locked(struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    struct tier *tier = copy_tier(c);
    t->leaving = true;
    tier->draining += c->node.bytes;
    copy_settle_locked(c);
    TAILQ_INSERT_TAIL(&t->manager->stable->leaving, t, work);
    work_locked(t->manager);
}

void stable_stuck_locked(struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    if (t->doomed)
        return;
    t->stuck = true;
    t->stuck_until = clock_ns() + (uint64_t)STUCK_MS * 1000000;
    TAILQ_INSERT_TAIL(&t->manager->stable->stuck, t, work);
    copy_settle_locked(c);
}

void stable_unstuck_locked(struct terrace_tensor *t)
{
    if (t->stuck)
        TAILQ_REMOVE(&t->manager->stable->stuck, t, work);
    t->stuck = false;
}

/* Those that may be asked for again. */
static void unstick_locked(struct terrace *m)
{
    struct terrace_tensor *t;
    uint64_t now = clock_ns();
    while ((t = TAILQ_FIRST(&m->stable->stuck)) != NULL && t->stuck_until <= now) {
        stable_unstuck_locked(t);
        copies_settle_locked(t);
        manager_changed_locked(m);
        lanes_poke_locked(m);
    }
}

/* ---- moving pages ------------------------------------------------------ */

typedef int move_fn(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);

static int try_to_move(const struct uffd *u, move_fn *there, move_fn *back, char *to, char *from, size_t bytes)
{
    size_t moved, more = 1;
    int e = there(u, to, from, bytes, &moved);
    while (e == EBUSY && more) { /* perhaps they are shared with a child */
        fork_unshare(from + moved, bytes - moved);
        e = there(u, to + moved, from + moved, bytes - moved, &more);
        moved += more;
    }
    if (e && moved)
        while (back(u, from, to, moved, &more) && more < moved)
            usleep(100); /* pages in use by somebody's I/O for a moment */
    return e;
}

/* Moves a block's pages between arena and region, all or none. Without the lock.
 * The kernel refuses pages of a huge page whose first one was copied away while
 * a child had it: then the block gets a new one. */
static int move_pages(const struct uffd *u, move_fn *there, move_fn *back, char *to, char *from, size_t bytes)
{
    int e = try_to_move(u, there, back, to, from, bytes);
    if (e == EBUSY && madvise(from, bytes, MADV_COLLAPSE) == 0)
        e = try_to_move(u, there, back, to, from, bytes);
    return e;
}

/* Nobody waits for the block any more. */
static void served_locked(struct stable *s, struct terrace_tensor *t)
{
    struct copy *c = block_copy(t);
    if (t->faulted) { /* else its region is being freed */
        TAILQ_REMOVE(&s->faulted, t, fault);
        t->faulted = false;
        notice_served_locked(s, t->manager);
        copy_unpin_locked(c);
    }
    copy_settle_locked(c);
    demote_pending_locked(t);
    t->manager->releases++;
    manager_changed_locked(t->manager);
    lanes_poke_locked(t->manager);
}

/* The bytes are in the arena: puts them at the block's place. */
static void map_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct copy *c = block_copy(t);
    struct policy *policy = &copy_tier(c)->policy;
    if (!fine_fold_locked(s, t)) {
        if (fine_stays_locked(t)) {
            served_locked(s, t);
            uffd_wake(&s->uffd, block_address(t), t->region->block_bytes);
        } else if (!t->raws)
            work_locked(m); /* pages in use by somebody's I/O for a moment: again */
        return;
    }
    bool clean = copy_backed_locked(c) && !t->blank, watch = clean && !t->changes;
    t->busy++;
    moving_locked(m, true);
    manager_unlock(m);
    if (watch && !t->summed)
        t->sum = checksum(copy_address(c), t->bytes);
    int e = move_pages(&s->uffd, uffd_place, uffd_take, block_address(t), copy_address(c), t->region->block_bytes);
    manager_lock(m);
    moving_locked(m, false);
    t->busy--;
    if (e) { /* in use by somebody's I/O, or the address space is changing: again */
        work_locked(m);
        manager_changed_locked(m);
        return;
    }
    t->mapped = true;
    t->summed = t->loose = watch;
    if (clean && !watch)
        copy_written_locked(c); /* taken to change again */
    t->blank = false;
    m->stats.prefetch_hits += c->node.ahead;
    copy_not_ahead_locked(c);
    policy_used(policy, &c->node);
    notice_mapped_locked(s, t);
    served_locked(s, t);
}

/* Moves a block's pages back into the arena. Gives up the lock. */
static int take_back_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct copy *c = block_copy(t);
    t->busy++;
    moving_locked(m, true);
    manager_unlock(m);
    int e = move_pages(&s->uffd, uffd_take, uffd_place, copy_address(c), block_address(t), t->region->block_bytes);
    manager_lock(m);
    moving_locked(m, false);
    t->busy--;
    t->mapped = e != 0;
    return e;
}

bool stable_hide_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    t->leaving = true;
    copy_settle_locked(block_copy(t));
    int e = take_back_locked(s, t);
    t->leaving = false;
    t->changes &= e || t->summed;
    copy_settle_locked(block_copy(t));
    manager_changed_locked(m);
    demote_pending_locked(t);
    return !e && !t->doomed;
}

/* Whether a block that has been taken back is as it was. Gives up the lock. */
static bool same_locked(struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    t->busy++;
    manager_unlock(m);
    XXH128_hash_t now = checksum(copy_address(block_copy(t)), t->bytes);
    manager_lock(m);
    t->busy--;
    bool same = XXH128_isEqual(now, t->sum);
    t->sum = now;
    return same;
}

/* Takes a block's pages back into the arena, for eviction. */
static void unmap_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    if (t->slab) {
        fine_unmap_slab_locked(s, t);
        return;
    }
    struct copy *c = block_copy(t);
    bool same = false;
    TAILQ_REMOVE(&s->leaving, t, work);
    notice_forget_locked(s, t);
    int e = t->mapped ? take_back_locked(s, t) : 0;
    if (!e && t->loose)
        same = same_locked(t);
    t->leaving = false;
    copy_tier(c)->draining -= c->node.bytes;
    if (e) {
        stable_stuck_locked(c);
    } else {
        t->loose = false;
        t->changes = t->summed && !same;
        if (!same)
            copy_written_locked(c);
    }
    copy_settle_locked(c);
    prefetch_poke_locked(m);
    manager_changed_locked(m);
    demote_pending_locked(t);
    lanes_poke_locked(m);
    tensor_reap_locked(t);
}

/* ---- serving faults ---------------------------------------------------- */

/* The block cannot be read: whoever touches it gets SIGBUS, not wrong bytes. */
static void give_up_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    log_write(&m->log, TERRACE_LOG_ERROR, "stable memory at %p cannot be read back and is poisoned: %s",
              (void *)block_address(t), terrace_last_error());
    served_locked(s, t);
    t->busy++;
    manager_unlock(m);
    uffd_poison(&s->uffd, block_address(t), t->region->block_bytes);
    uffd_wake(&s->uffd, block_address(t), t->region->block_bytes);
    manager_lock(m);
    t->busy--;
    manager_changed_locked(m);
}

/* Brings one faulted block a step further; it stays listed until it is mapped. */
static void serve_locked(struct stable *s, struct terrace_tensor *t)
{
    struct copy *c = block_copy(t);
    for (;;) {
        if (t->leaving)
            return; /* unmapped first, in its turn */
        if (t->transfer) { /* its pages are the kernel's until it ends */
            if (t->transfer->writeback)
                t->transfer->stale = true;
            transfer_hurry_locked(t->transfer);
            return;
        }
        if (c->state == COPY_VALID && t->mapped) { /* it could not be taken back */
            uffd_wake(&s->uffd, block_address(t), t->region->block_bytes);
            served_locked(s, t);
            return;
        }
        if (c->state == COPY_VALID) {
            map_locked(s, t);
            return;
        }
        if (c->state != COPY_ABSENT || t->raws)
            return;
        int r = t->error ? tensor_report_locked(t) : fill_start_locked(c, TERRACE_READ, false, false);
        if (r == -TERRACE_EAGAIN || r == -TERRACE_EBUDGET || r == -TERRACE_ENOMEM)
            return; /* until something is released or written, or others give memory back */
        if (r < 0) {
            if (!fine_spoilt_locked(s, t)) {
                give_up_locked(s, t);
                return;
            }
            served_locked(s, t);
            uffd_wake(&s->uffd, block_address(t), t->region->block_bytes);
            return;
        }
    }
}

static struct region *region_at_locked(const struct stable *s, uint64_t address)
{
    struct region *r;
    LIST_FOREACH(r, &s->regions, link)
        if (address - (uintptr_t)r->base < r->reserved)
            return r->dying ? NULL : r;
    return NULL;
}

static struct terrace_tensor *block_new_locked(struct region *r, size_t i)
{
    struct terrace *m = r->tier->manager;
    struct terrace_tensor *t = tensor_for_block(m, r, i, r->block_bytes);
    char name[256];
    if (r->label)
        snprintf(name, sizeof name, "%.200s/%zu", r->label, i);
    else
        snprintf(name, sizeof name, "stable memory %u/%zu", r->number, i);
    if (t)
        schedule_created(&m->schedule, &t->item, name, r->block_bytes);
    return t;
}

static struct terrace_tensor *block_locked(struct region *r, size_t i)
{
    if (!r->block[i])
        r->block[i] = block_new_locked(r, i);
    return r->block[i];
}

/* The schedule knows better when the block is to come. */
static bool is_foreseen(const struct region *r, const struct terrace_tensor *t)
{
    return policy_foresees(&r->tier->policy) && t->item.next != SCHEDULE_UNKNOWN;
}

/* Follows the pattern of faults; fills ahead of a walk that keeps its stride. */
static void look_ahead_locked(struct region *r, size_t i)
{
    struct terrace *m = r->tier->manager;
    long stride = (long)i - (long)r->last;
    if (stride == 0)
        return;
    r->run = stride == r->stride ? r->run + 1 : 0;
    r->stride = stride;
    r->last = i;
    unsigned most = r->run < 2 ? 0 : r->run < MOST_AHEAD ? r->run : MOST_AHEAD;
    if (!m->prefetch_limit)
        return;
    for (unsigned k = 1; k <= most; k++) {
        long next = (long)i + stride * (long)k;
        if (next < 0 || (size_t)next >= r->blocks)
            return;
        struct terrace_tensor *t = r->block[next];
        if (t && !t->blank && block_copy(t)->state == COPY_ABSENT && !is_foreseen(r, t))
            lane_hint_locked(t, r->tier);
    }
}

static void fault_locked(struct terrace *m, uint64_t address)
{
    struct stable *s = m->stable;
    fork_gate_locked(m);
    struct region *r = region_at_locked(s, address);
    if (!r)
        return;
    size_t i = (address - (uintptr_t)r->base) / r->block_bytes;
    struct terrace_tensor *t = block_locked(r, i);
    m->stats.faults++;
    if (t && t->doomed)
        return; /* being discarded: woken after that */
    if (t && !t->faulted)
        notice_touched_locked(t);
    if (t && t->faulted)
        return;
    if (t && fine_fault_locked(s, t, (unsigned)((address - (uintptr_t)block_address(t)) / PAGE))) {
        r->paged = true;
        return;
    }
    if (t) {
        r->paged &= block_copy(t)->state != COPY_ABSENT;
        look_ahead_locked(r, i);
        block_fault_locked(s, t);
    } else {
        uffd_wake(&s->uffd, r->base + i * r->block_bytes, r->block_bytes);
    }
}

void block_fault_locked(struct stable *s, struct terrace_tensor *t)
{
    /* Mapped since the fault was raised; or no memory: woken, it faults again. */
    if ((t->mapped && !t->leaving) || (!t->faulted && copy_pin_locked(block_copy(t), false))) {
        uffd_wake(&s->uffd, block_address(t), t->region->block_bytes);
        return;
    }
    if (t->faulted)
        return;
    lane_unhint_locked(t);
    t->error = 0; /* an old one says nothing about the fill to come */
    t->faulted = true;
    TAILQ_INSERT_TAIL(&s->faulted, t, fault);
    notice_used_locked(s, t);
    work_locked(t->manager);
}

/* Each once; the list may change while one is served. */
static void serve_all_locked(struct terrace *m, struct stable *s)
{
    struct terrace_tensor *t;
    unsigned n = 0;
    TAILQ_FOREACH(t, &s->faulted, fault)
        n++;
    while (n-- && (fork_gate_locked(m), t = TAILQ_FIRST(&s->faulted)) != NULL) {
        TAILQ_REMOVE(&s->faulted, t, fault);
        TAILQ_INSERT_TAIL(&s->faulted, t, fault);
        serve_locked(s, t);
    }
}

int stable_descriptor_locked(const struct terrace *m, const struct tier *disk)
{
    return m->stable && disk->backend->watch && spill_tier((struct terrace *)m) == disk ? m->stable->uffd.fd : -1;
}

void stable_faults_locked(struct terrace *m, bool first)
{
    struct stable *s = m->stable;
    uint64_t address[FAULTS];
    int n;
    if (first) {
        s->watched = true;
        work_locked(m); /* the service leaves it to the lane */
    }
    do {
        n = uffd_faults(&s->uffd, address, FAULTS);
        for (int i = 0; i < n; i++)
            fault_locked(m, address[i]);
    } while (n == FAULTS);
}

static void *service(void *arg)
{
    struct terrace *m = arg;
    struct stable *s = m->stable;
    struct pollfd fds[] = {{.fd = s->uffd.fd, .events = POLLIN}, {.fd = s->event, .events = POLLIN}};
    uint64_t failures = 0;
    manager_lock(m);
    while (!s->stop) {
        uint64_t address[FAULTS];
        bool failing = m->failures != failures;
        failures = m->failures;
        fds[0].fd = s->watched ? -1 : s->uffd.fd;
        int most = !TAILQ_EMPTY(&s->stuck) ? STUCK_MS : TAILQ_EMPTY(&s->faulted) ? -1 : AGAIN_MS;
        manager_unlock(m);
        if (failing)
            usleep(PATIENCE_US); /* who waits for room asks again: not without end at full speed */
        poll(fds, 2, most);
        eventfd_t count;
        if (fds[1].revents)
            (void)eventfd_read(s->event, &count);
        int n = fds[0].fd >= 0 && fds[0].revents ? uffd_faults(&s->uffd, address, FAULTS) : 0;
        manager_lock(m);
        unstick_locked(m);
        for (int i = 0; i < n; i++)
            fault_locked(m, address[i]);
        while (fork_gate_locked(m), !TAILQ_EMPTY(&s->leaving))
            unmap_locked(s, TAILQ_FIRST(&s->leaving));
        serve_all_locked(m, s);
        fine_serve_all_locked(s);
        notice_take_back_locked(m);
    }
    manager_unlock(m);
    return NULL;
}

/* ---- forks -------------------------------------------------------------- */

bool stable_has_regions_locked(const struct terrace *m)
{
    return m->stable && !LIST_EMPTY(&m->stable->regions);
}

void stable_fork_begins_locked(struct terrace *m)
{
    struct stable *s = m->stable;
    s->forking = true;
    while (s->moving)
        manager_wait(m);
    pthread_mutex_lock(&s->landing);
}

void stable_fork_ended_locked(struct terrace *m)
{
    pthread_mutex_unlock(&m->stable->landing);
    m->stable->forking = false;
    manager_changed_locked(m);
}

static void block_describe_locked(struct region *r, size_t i, struct fork_plan *p)
{
    struct terrace_tensor *t = r->block[i];
    char *at = r->base + i * r->block_bytes;
    if (t && t->fine && !fine_rests_locked(r->tier->manager->stable, t)) {
        fine_describe_locked(t, p);
        return;
    }
    if (!t || t->mapped || t->blank) {
        fork_inherits(p, at, r->block_bytes);
        return;
    }
    for (unsigned k = 0; k < t->manager->tiers; k++) { /* fastest first */
        struct copy *c = &t->copy[k];
        if (c->state != COPY_VALID)
            continue;
        if (copy_tier(c)->backend->caps & TERRACE_CAP_CPU)
            fork_moves(p, at, copy_address(c), r->block_bytes);
        else if (!tier_is_memory(copy_tier(c)))
            fork_reads_locked(p, at, c, 0, r->block_bytes);
        else
            continue;
        return;
    }
}

void stable_describe_locked(struct terrace *m, struct fork_plan *p)
{
    struct region *r;
    LIST_FOREACH(r, &m->stable->regions, link)
        for (size_t i = 0; !r->dying && i < r->blocks; i++)
            block_describe_locked(r, i, p);
}

/* ---- opening and closing ----------------------------------------------- */

static int service_start(struct terrace *m, struct stable *s)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&s->thread, NULL, service, m);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return e ? error_set(-TERRACE_ESYSTEM, "no thread to serve stable memory: %s", strerror(e)) : 0;
}

/* Whether a tier's pages can be moved to other addresses of the CPU. */
static bool movable(const struct tier *tier)
{
    return tier->backend->caps & TERRACE_CAP_CPU && !(tier->info.flags & TERRACE_UNIT_FIXED);
}

static int accept_zones(const struct stable *s, const struct tier *tier)
{
    int r = 0;
    for (unsigned z = 0; r == 0 && z < ZONES; z++)
        r = uffd_accept(&s->uffd, (void *)(uintptr_t)tier->arena.zone[z].base, tier->arena.zone[z].bytes);
    return r;
}

/* The values of TERRACE_STABLE, in the order of options.def. */
enum { STABLE_AUTO, STABLE_USERFAULTFD, STABLE_COPY, STABLE_FILE };

/* Notes and logs what serves stable memory, and why. */
static void serves_locked(struct terrace *m, const char *what, const char *reason)
{
    snprintf(m->stable_text, sizeof m->stable_text, "%s%s", what, reason);
    m->stable_engine = m->stable_text;
    log_write(&m->log, TERRACE_LOG_INFO, "stable memory by %s", m->stable_text);
}

static int stable_open_locked(struct terrace *m)
{
    if (m->stable)
        return 0;
    struct stable *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    LIST_INIT(&s->regions);
    TAILQ_INIT(&s->faulted);
    TAILQ_INIT(&s->leaving);
    TAILQ_INIT(&s->stuck);
    TAILQ_INIT(&s->paged);
    LIST_INIT(&s->slabs);
    notice_init(m, &s->notice);
    pthread_mutex_init(&s->landing, NULL);
    char reason[400];
    static const enum uffd_how how[] = {[STABLE_AUTO] = UFFD_MOVES, [STABLE_USERFAULTFD] = UFFD_MOVES_OR_COPIES,
                                        [STABLE_COPY] = UFFD_COPIES};
    int r = uffd_open(&s->uffd, how[m->options.value[OPT_STABLE].number], reason, sizeof reason);
    if (r)
        goto free_state;
    s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->event < 0) {
        r = error_set(-TERRACE_ESYSTEM, "no eventfd: %s", strerror(errno));
        goto close_uffd;
    }
    for (unsigned i = 0; r == 0 && i < m->tiers; i++)
        if (movable(&m->tier[i]))
            r = accept_zones(s, &m->tier[i]);
    m->stable = s;
    if (r == 0)
        r = service_start(m, s);
    for (unsigned i = 0; r == 0 && i < m->tiers; i++)
        manager_kick_locked(m, &m->tier[i]); /* lanes may look for faults */
    if (r == 0) {
        serves_locked(m, "", reason);
        return 0;
    }
    m->stable = NULL;
    close(s->event);
close_uffd:
    uffd_close(&s->uffd);
free_state:
    pthread_mutex_destroy(&s->landing);
    free(s);
    return r;
}

void stable_stop(struct terrace *m)
{
    if (!m->stable)
        return;
    manager_lock(m);
    m->stable->stop = true;
    work_locked(m);
    manager_unlock(m);
    pthread_join(m->stable->thread, NULL);
}

static struct region *region_new(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr)
{
    size_t granule = tier->info.granule;
    size_t block = bytes < granule ? (bytes + PAGE - 1) / PAGE * PAGE : granule;
    size_t blocks = (bytes + block - 1) / block;
    size_t mapped = block * blocks + granule;
    void *mapping = mmap(NULL, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        goto no_memory;
    struct region *r = calloc(1, sizeof *r + blocks * sizeof r->block[0]);
    if (!r)
        goto unmap;
    *r = (struct region){.tier = tier, .bytes = bytes, .block_bytes = block, .blocks = blocks, .mapping = mapping,
                         .reserved = block * blocks, .role = attr ? attr->role : 0};
    if (attr && attr->label && !(r->label = strdup(attr->label)))
        goto free_region;
    r->base = (char *)(((uintptr_t)mapping + granule - 1) / granule * granule);
    madvise(mapping, mapped, MADV_DONTFORK);
    madvise(mapping, mapped, MADV_HUGEPAGE); /* else a fault leaves a page table in the huge page's place */
    return r;
free_region:
    free(r);
unmap:
    munmap(mapping, mapped);
no_memory:
    error_set(-TERRACE_ENOMEM, "no host memory or address space for %zu bytes of stable memory", bytes);
    return NULL;
}

/* From here on nothing is begun with the block; it stays until region_free. */
static void block_retire_locked(struct stable *s, struct terrace_tensor *t)
{
    t->busy++;
    t->doomed = true;
    stable_unstuck_locked(t);
    lane_unhint_locked(t);
    if (t->faulted) {
        TAILQ_REMOVE(&s->faulted, t, fault);
        notice_served_locked(s, t->manager);
    }
    t->faulted = false;
    notice_forget_locked(s, t);
    fine_retire_locked(s, t);
    if (t->transfer)
        t->transfer->stale = true;
    while (copy_unpin_locked(block_copy(t)))
        ;
    copy_settle_locked(block_copy(t));
}

static bool block_rests(const struct terrace_tensor *t)
{
    return t->busy == 1 && !t->transfer && !t->leaving;
}

/* The block is as if it had never been touched. Gives up the lock; who touches it
 * meanwhile waits, unless its pages are there. */
static void block_discard_locked(struct region *r, size_t i)
{
    struct terrace *m = r->tier->manager;
    struct stable *s = m->stable;
    struct terrace_tensor *t = r->block[i];
    if (!t)
        return;
    block_retire_locked(s, t);
    while (!s->stop && !block_rests(t))
        manager_wait(m);
    madvise(block_address(t), r->block_bytes, MADV_DONTNEED);
    r->block[i] = NULL;
    fine_free_locked(s, t);
    t->busy--;
    tensor_reap_locked(t);
    uffd_wake(&s->uffd, r->base + i * r->block_bytes, r->block_bytes);
}

/* Gives a region back: first the pages at its addresses, then its blocks. */
static void region_free_locked(struct region *r)
{
    struct terrace *m = r->tier->manager;
    struct stable *s = m->stable;
    r->dying = true;
    for (size_t i = 0; i < r->blocks; i++)
        if (r->block[i])
            block_retire_locked(s, r->block[i]);
    for (size_t i = 0; i < r->blocks; i++)
        while (r->block[i] && !s->stop && !block_rests(r->block[i]))
            manager_wait(m);
    LIST_REMOVE(r, link);
    manager_unlock(m);
    munmap(r->mapping, r->reserved + r->tier->info.granule);
    manager_lock(m);
    for (size_t i = 0; i < r->blocks; i++)
        if (r->block[i]) {
            r->block[i]->leaving = false;
            fine_free_locked(s, r->block[i]);
            r->block[i]->busy--;
            tensor_reap_locked(r->block[i]);
        }
    if (LIST_EMPTY(&s->regions))
        fine_trim_locked(s);
    free(r->label);
    free(r);
}

void stable_close(struct terrace *m)
{
    struct stable *s = m->stable;
    if (!s)
        return;
    manager_lock(m);
    while (!LIST_EMPTY(&s->regions))
        region_free_locked(LIST_FIRST(&s->regions));
    fine_close_locked(s);
    m->stable = NULL;
    manager_unlock(m);
    uffd_close(&s->uffd);
    close(s->event);
    pthread_mutex_destroy(&s->landing);
    free(s);
}

/* ---- the public functions ---------------------------------------------- */

static struct tier *cpu_tier(struct terrace *m, terrace_tier which)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_matches(m, (int)i, which) && movable(&m->tier[i]))
            return &m->tier[i];
    error_set(-TERRACE_ENOTSUP, "terrace_malloc: stable memory is to be had on host tiers only, and not "
              "from the system's pool of huge pages (TERRACE_HUGEPAGES=2m or 1g)");
    return NULL;
}

/* Without eviction, what cannot all be resident would wait for ever. */
static int evictable_check(const struct tier *tier, size_t bytes)
{
    char need[BYTES_TEXT], limit[BYTES_TEXT];
    if (bytes <= tier->arena.limit / 2 || (tier->policy.kind != POLICY_NONE && spill_tier(tier->manager)))
        return 0;
    return error_set(-TERRACE_EBUDGET, "terrace_malloc: %s do not fit in half the budget of %s, %s, and "
                     "nothing may be evicted (TERRACE_POLICY=none, or no disk tier)",
                     bytes_text(bytes, need), tier->name, bytes_text(tier->arena.limit, limit));
}

/* Finds out, the first time, what is to serve it. */
static bool by_file(struct terrace *m)
{
    uint64_t asked = m->options.value[OPT_STABLE].number;
    manager_lock(m);
    if (!m->stable_engine && asked == STABLE_FILE)
        serves_locked(m, "file mapping: TERRACE_STABLE=file", "");
    else if (!m->stable_engine && asked == STABLE_AUTO && stable_open_locked(m) == -TERRACE_ENOTSUP)
        serves_locked(m, "file mapping: ", terrace_last_error());
    bool file = m->stable_engine && !m->stable;
    manager_unlock(m);
    return file;
}

void *terrace_malloc(terrace *m, size_t bytes, terrace_tier which, const terrace_tensor_attr *attr)
{
    if (manager_check(m) || tier_check(m, which) || tensor_attr_check(attr))
        return NULL;
    if (bytes == 0 || bytes > SIZE_MAX / 4) {
        error_set(-TERRACE_EINVAL, "terrace_malloc: %zu bytes cannot be had", bytes);
        return NULL;
    }
    struct tier *tier = cpu_tier(m, which);
    if (!tier || evictable_check(tier, bytes))
        return NULL;
    if (by_file(m))
        return mapped_alloc(tier, bytes);
    struct region *r = region_new(tier, bytes, attr);
    if (!r)
        return NULL;
    manager_lock(m);
    int e = stable_open_locked(m);
    if (e == 0)
        e = uffd_watch(&m->stable->uffd, r->base, r->reserved);
    if (e == 0) {
        LIST_INSERT_HEAD(&m->stable->regions, r, link);
        r->number = m->stable->regions_made++;
    }
    manager_unlock(m);
    if (e) {
        munmap(r->mapping, r->reserved + tier->info.granule);
        free(r->label);
        free(r);
        return NULL;
    }
    if (m->stable->uffd.copies && tier->backend->adopt) /* its pages are new ones: on the tier's node */
        (void)tier->backend->adopt(tier->unit, (uintptr_t)r->base, r->reserved);
    return r->base;
}

static struct region *region_of_locked(const struct terrace *m, const void *p)
{
    struct region *r = m->stable ? region_at_locked(m->stable, (uintptr_t)p) : NULL;
    if (!r)
        error_set(-TERRACE_EINVAL, "%p is not in memory of terrace_malloc()", p);
    return r;
}

void terrace_free(terrace *m, void *p)
{
    if (!p || manager_check(m) || mapped_free(m, p))
        return;
    manager_lock(m);
    struct region *r = region_of_locked(m, p);
    if (r && r->base == p)
        region_free_locked(r);
    else
        log_write(&m->log, TERRACE_LOG_ERROR, "terrace_free(%p): terrace_malloc() did not give this", p);
    manager_unlock(m);
}

static void advise_block_locked(struct region *r, size_t i, int advice)
{
    struct terrace_tensor *t = r->block[i];
    if (!t)
        return;
    if (advice == TERRACE_ADVISE_WILLNEED && block_copy(t)->state == COPY_ABSENT && !t->blank) {
        lane_hint_locked(t, r->tier);
    } else if (advice == TERRACE_ADVISE_DONTNEED) {
        fine_expel_locked(r->tier->manager->stable, t);
        demote_ask_locked(t, NULL);
    } else if (advice == TERRACE_ADVISE_UNPIN) {
        copy_unpin_locked(block_copy(t));
        copy_settle_locked(block_copy(t));
    }
}

void stable_discard(struct terrace *m, void *p, size_t bytes)
{
    manager_lock(m);
    struct region *r = m->stable ? region_at_locked(m->stable, (uintptr_t)p) : NULL;
    size_t at = r ? (size_t)((char *)p - r->base) : 0;
    for (size_t i = r ? at / r->block_bytes : 0; r && i < r->blocks && (i + 1) * r->block_bytes <= at + bytes; i++)
        block_discard_locked(r, i);
    manager_unlock(m);
}

/* Pins the blocks, then touches each, which brings it in. */
static int pin_range_locked(struct region *r, size_t from, size_t to)
{
    struct terrace *m = r->tier->manager;
    uint64_t held = (to - from) * r->block_bytes;
    struct copy *c;
    TAILQ_FOREACH(c, &tier_pinned_locked(r->tier)->pinned, held)
        held += c->extent ? c->extent->bytes : 0;
    if (held + r->tier->staging > r->tier->arena.limit - r->tier->arena.limit / 8)
        return error_set(-TERRACE_EBUDGET, "terrace_advise: pinning this would leave less than an eighth "
                         "of the budget of %s", r->tier->name);
    for (size_t i = from; i < to; i++) {
        struct terrace_tensor *t = block_locked(r, i);
        int e = t ? copy_pin_locked(block_copy(t), false) : -TERRACE_ENOMEM;
        if (e) {
            while (i-- > from)
                advise_block_locked(r, i, TERRACE_ADVISE_UNPIN);
            return e;
        }
    }
    for (size_t i = from; i < to; i++) { /* single pages of it would not be held by the pin */
        struct terrace_tensor *t = r->block[i];
        if (t->fine && !t->mapped)
            block_fault_locked(m->stable, t);
        while (t->faulted)
            manager_wait(m);
    }
    manager_unlock(m);
    for (size_t i = from; i < to; i++)
        (void)*(volatile char *)(r->base + i * r->block_bytes);
    manager_lock(m);
    return 0;
}

int terrace_advise(terrace *m, void *p, size_t bytes, int advice, terrace_tier which)
{
    int e = manager_check(m);
    if (e == 0 && (advice < TERRACE_ADVISE_WILLNEED || advice > TERRACE_ADVISE_UNPIN))
        e = error_set(-TERRACE_EINVAL, "%d is not a TERRACE_ADVISE_...", advice);
    if (e == 0)
        e = tier_check(m, which);
    if (e)
        return e;
    if (mapped_has(m, p))
        return mapped_advise(m, p, bytes, advice);
    manager_lock(m);
    struct region *r = region_of_locked(m, p);
    size_t at = r ? (size_t)((char *)p - r->base) : 0;
    if (!r)
        e = -TERRACE_EINVAL;
    else if (bytes > r->reserved - at)
        e = error_set(-TERRACE_EINVAL, "terrace_advise: %zu bytes at %p reach past their allocation", bytes, p);
    else if (bytes) {
        size_t from = at / r->block_bytes, to = (at + bytes - 1) / r->block_bytes + 1;
        if (advice == TERRACE_ADVISE_PIN)
            e = pin_range_locked(r, from, to);
        for (size_t i = from; advice != TERRACE_ADVISE_PIN && i < to; i++)
            advise_block_locked(r, i, advice);
    }
    manager_unlock(m);
    return e;
}

int terrace_safepoint(terrace *m, terrace_tier tier, void *stream)
{
    (void)stream;
    int e = manager_check(m);
    return e ? e : tier_check(m, tier); /* pages of host tiers may move at any time */
}
