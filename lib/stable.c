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
 * Where room is made by giving to a slower node, a block need not leave its place:
 * away.c.
 *
 * What a forked child finds in a region: forked.c.
 *
 * Where the kernel cannot move pages, or TERRACE_STABLE=copy, they are copied to
 * the same effect: uffd_copy.c. Where userfaultfd is refused, or
 * TERRACE_STABLE=file: mapped.c.
 *
 * May call: core.h, away.h, fine.h, forked.h, mover.h, notice.h, registered.h,
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

#include "away.h"
#include "fine.h"
#include "forked.h"
#include "mover.h"
#include "prefetch.h"
#include "region.h"
#include "registered.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

enum { FAULTS = 16, MOST_AHEAD = 8, PATIENCE_US = 5000, AGAIN_MS = 100, STUCK_MS = 10 };

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
    t->from = c->tier;
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

/* Moves a block's pages back into their arena. Gives up the lock. */
static int take_back_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct copy *c = &t->copy[t->from];
    t->busy++;
    moving_locked(m, true);
    manager_unlock(m);
    int e = move_pages(&s->uffd, uffd_take, uffd_place, copy_address(c), block_address(t), t->region->block_bytes);
    if (!e && block_is_away(t))
        away_settle(t);
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
    XXH128_hash_t now = checksum(copy_address(&t->copy[t->from]), t->bytes);
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
    struct copy *c = &t->copy[t->from];
    bool same = false;
    TAILQ_REMOVE(&s->leaving, t, work);
    notice_forget_locked(s, t);
    if (away_go_locked(s, t))
        return;
    int e = t->mapped ? take_back_locked(s, t) : 0;
    if (!e && t->loose)
        same = same_locked(t);
    t->leaving = false;
    copy_tier(c)->draining -= c->node.bytes;
    if (e) {
        stable_stuck_locked(c);
        if (block_is_away(t) && !t->doomed)
            notice_away_locked(s, t);
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
        if (t->mapped) { /* it could not be taken back */
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
        if (r == -TERRACE_EAGAIN || r == -TERRACE_EBUDGET || r == -TERRACE_ERULE || r == -TERRACE_ENOMEM)
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
        if (t && !t->blank && !t->mapped && block_copy(t)->state == COPY_ABSENT && !is_foreseen(r, t))
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
        int away = notice_look_away_locked(m);
        int most = !TAILQ_EMPTY(&s->stuck) ? STUCK_MS : TAILQ_EMPTY(&s->faulted) ? away : AGAIN_MS;
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

bool stable_movable(const struct tier *tier)
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

void stable_serves_locked(struct terrace *m, const char *what, const char *reason)
{
    snprintf(m->stable_text, sizeof m->stable_text, "%s%s", what, reason);
    m->stable_engine = m->stable_text;
    log_write(&m->log, TERRACE_LOG_INFO, "stable memory by %s", m->stable_text);
}

int stable_open_locked(struct terrace *m)
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
        if (stable_movable(&m->tier[i]))
            r = accept_zones(s, &m->tier[i]);
    m->stable = s;
    if (r == 0)
        r = service_start(m, s);
    for (unsigned i = 0; r == 0 && i < m->tiers; i++)
        manager_kick_locked(m, &m->tier[i]); /* lanes may look for faults */
    if (r == 0) {
        stable_serves_locked(m, "", reason);
        registered_forgo_locked(m);
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

