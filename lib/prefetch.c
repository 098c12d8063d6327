/* prefetch.c - what the schedule expects is carried out: bytes are brought ahead
 * of their use, and what will have to leave is written before that.
 *
 * Every acquire is a use in the schedule, and so is the fault of a block of stable
 * memory. While its expectations come true, a lane brings what is absent in the
 * order of use, as soon as what leaves for it is used later (see policy.c), and
 * writes down what leaves next, so that there is always some room that costs
 * nothing. How early it begins follows from the lane's measured rate and from the
 * computing time until the use.
 *
 * What is there ahead of its use takes room from what could have stayed. While
 * computing takes longer than moving that pays: it covers for phases that need
 * much at once. Where the program mostly waits for the disk anyway, only as much
 * comes ahead, and is kept ready to leave, as keeps that busy: every byte more
 * is one that could have stayed, and is read and written once more in each step.
 *
 * May call: core.h, lease.h, mover.h, region.h. */
#include "prefetch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lease.h"
#include "mover.h"
#include "region.h"

enum {
    LOOKS = 512,       /* uses ahead that are looked at */
    SHARE = 16,        /* the part of a tier that is kept ready to leave */
    LEAST_SHARE = 64,  /* the same where the disk is the bound, but at least */
    QUEUE = 16 << 20,  /* what keeps a disk busy in one direction, in bytes */
};
static const uint64_t WINDOW_NS = 500000000; /* over which stalls are looked at */
static const uint64_t RATE = 500000000; /* bytes per second, until a lane's is measured */
static const uint64_t FILE_MOST = 256 << 20;

/* ---- what happens ------------------------------------------------------- */

/* A clock that stands still while bytes are waited for. */
static uint64_t computing_ns(const struct terrace *m, uint64_t stalled_since)
{
    return (stalled_since ? stalled_since : clock_ns()) - m->stats.stall_ns;
}

uint64_t prefetch_time_locked(const struct terrace *m, uint64_t at)
{
    return schedule_wants_time(&m->schedule) ? computing_ns(m, at) : 0;
}

/* What is expected may have to be brought. */
static void look_locked(struct terrace *m)
{
    m->look_again = m->there_until = m->there_since = 0;
    m->there_epoch = m->schedule.epoch;
}

/* Whether there is something to look for. */
static bool follows(const struct terrace *m)
{
    bool foresees = false;
    if (!m->absent || m->schedule.now < m->look_again)
        return false;
    for (unsigned i = 0; i < m->tiers; i++)
        foresees |= policy_foresees(&m->tier[i].policy);
    return foresees;
}

void prefetch_poke_locked(struct terrace *m)
{
    if (m->looking || !follows(m))
        return;
    m->looking = true;
    for (unsigned i = 0; i < m->tiers; i++)
        manager_kick_locked(m, &m->tier[i]);
}

void prefetch_used_locked(struct terrace_tensor *t, unsigned tier, unsigned mode, uint64_t ns)
{
    struct terrace *m = t->manager;
    struct schedule *s = &m->schedule;
    if (atomic_load_explicit(&m->unheeded, memory_order_relaxed))
        return;
    m->used_ns = ns ? ns : m->used_ns;
    schedule_use(s, &t->item, tier, mode, ns);
    if (m->there_epoch != s->epoch)
        look_locked(m); /* something else is expected */
    prefetch_poke_locked(m);
}

void prefetch_step_locked(struct terrace *m)
{
    m->used_ns = computing_ns(m, 0);
    schedule_step(&m->schedule, m->used_ns);
    if (!m->there_since || m->there_epoch != m->schedule.epoch)
        look_locked(m);
}

void prefetch_absent_locked(struct terrace *m)
{
    m->absent = true;
    atomic_store_explicit(&m->unheeded, false, memory_order_relaxed);
    look_locked(m);
}

/* ---- bringing ahead ----------------------------------------------------- */

static struct terrace_tensor *tensor_of_item(struct schedule_item *item)
{
    return (struct terrace_tensor *)(void *)((char *)item - offsetof(struct terrace_tensor, item));
}

/* The lane that would bring the copy, NULL: it is not to be brought. */
static struct lane *lane_for(const struct copy *c)
{
    struct copy *from;
    struct terrace_tensor *t = c->tensor;
    if (t->region && t->region->paged)
        return NULL;
    if (c->state != COPY_ABSENT || t->mapped || t->transfer || t->doomed || t->blank || t->raws ||
        t->hinted || being_written(t) || !tensor_may(t, copy_tier(c)))
        return NULL;
    return transfer_source_locked(t, copy_tier(c), &from);
}

static void look_at_stalls(struct terrace *m)
{
    uint64_t now = clock_ns(), passed = now - m->window_ns;
    if (passed < WINDOW_NS)
        return;
    m->disk_bound = m->window_ns && 2 * (m->stats.stall_ns - m->window_stall_ns) > passed;
    m->window_ns = now;
    m->window_stall_ns = m->stats.stall_ns;
}

/* A part of the tier, less where all that pays is to keep the disk busy. */
static uint64_t share_of(const struct tier *tier, uint64_t share)
{
    uint64_t least = tier->arena.limit / LEAST_SHARE;
    if (!tier->manager->disk_bound)
        return share;
    least = least > QUEUE ? least : QUEUE;
    return least < tier->arena.limit / SHARE ? least : tier->arena.limit / SHARE;
}

/* Bytes that may be there ahead of their use. */
static uint64_t ahead_most(const struct tier *tier)
{
    const struct terrace *m = tier->manager;
    if (m->prefetch_limit != UINT64_MAX)
        return m->prefetch_limit;
    return share_of(tier, tier->arena.limit / 4);
}

/* Nothing that was looked at is to be brought. Where all was there for whole steps,
 * and nothing has left since, it will be so for a while. */
static void there_locked(struct terrace *m, bool blind, bool to_the_end)
{
    const struct schedule *s = &m->schedule;
    const struct schedule_line *lines[] = {s->line, s->then, s->later};
    uint64_t length = 0;
    for (int i = 0; i < 3; i++)
        length += lines[i] ? lines[i]->length : 0;
    if (!m->there_since)
        m->there_since = s->now;
    bool all = !blind && (to_the_end || s->now - m->there_since > length);
    m->look_again = s->now + (all ? LOOKS * 8 : LOOKS / 2);
    m->there_until = all ? m->look_again + LOOKS * 8 : m->look_again;
    if (blind)
        m->there_since = 0;
}

/* The next copy that the lane should bring now, and when it is used. */
static struct copy *next_locked(struct lane *lane, uint64_t *when)
{
    struct terrace *m = lane->tier->manager;
    struct schedule_cursor cursor;
    struct schedule_coming use;
    struct copy *first = NULL;
    uint64_t bytes = 0, clock = computing_ns(m, 0);
    uint64_t passed = clock > m->used_ns ? clock - m->used_ns : 0;
    uint64_t rate = lane->rate ? lane->rate : RATE;
    int looks = 0;
    bool blind = false, others = false; /* uses that are not trusted; that other lanes are to see to */
    schedule_coming(&m->schedule, &cursor);
    for (; looks < LOOKS && schedule_coming_next(&cursor, &use); looks++) {
        struct terrace_tensor *t = tensor_of_item(use.item);
        if (use.tier >= m->tiers || use.when != use.item->next || (use.mode & TERRACE_OVERWRITE))
            continue;
        struct copy *c = &t->copy[use.tier];
        struct tier *tier = copy_tier(c);
        if (!tier_is_memory(tier))
            continue;
        bool foresees = policy_foresees(&tier->policy);
        const struct lane *by = foresees ? lane_for(c) : NULL;
        blind |= !foresees;
        others |= by && by != lane;
        if (by != lane)
            continue;
        bytes += arena_round(&tier->arena, t->bytes);
        if (tier->ahead && tier->ahead + bytes > ahead_most(tier))
            return NULL;
        if (!first) {
            first = c;
            *when = use.when;
        }
        uint64_t ns = use.ns > passed ? use.ns - passed : 0, early = policy_early(ns, bytes, rate);
        if (!early)
            return first;
        if (lane->patience < 0 || (int64_t)early < lane->patience)
            lane->patience = (int64_t)early;
    }
    if (first || others)
        m->there_since = 0;
    else
        there_locked(m, blind, looks < LOOKS);
    return NULL;
}

void prefetch_follow_locked(struct lane *lane)
{
    struct terrace *m = lane->tier->manager;
    struct copy *c;
    uint64_t when = 0;
    leases_drain_locked(m);
    m->looking = false;
    if (!m->prefetch_limit || !follows(m))
        return;
    look_at_stalls(m);
    while ((c = next_locked(lane, &when)) != NULL)
        if (fill_ahead_locked(c, when) < 0)
            return; /* until something is released or written */
}

/* ---- writing ahead ------------------------------------------------------ */

/* It begins late enough to write several at once. */
struct policy_node *prefetch_dirty_locked(struct tier *tier, bool begun)
{
    uint64_t want = share_of(tier, tier->arena.limit / SHARE);
    want -= begun ? 0 : want / 2;
    if (!tier->manager->absent || tier->manager->schedule.now < tier->manager->there_until)
        return NULL; /* nothing has to leave */
    uint64_t ready = arena_room(&tier->arena) + tier->draining;
    return want > ready ? policy_dirty_within(tier_policy_locked(tier), want - ready) : NULL;
}

/* ---- from one run of a program to the next ------------------------------ */

static void *file_read(const char *path, size_t *bytes, char *why, size_t len)
{
    struct stat is;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        snprintf(why, len, "%s", errno == ENOENT ? "" : strerror(errno)); /* the first run has none */
        return NULL;
    }
    void *data = NULL;
    snprintf(why, len, "it is no file of a schedule");
    if (fstat(fd, &is) == 0 && S_ISREG(is.st_mode) && (uint64_t)is.st_size <= FILE_MOST &&
        (data = malloc((size_t)is.st_size + 1)) != NULL) {
        ssize_t n = read(fd, data, (size_t)is.st_size);
        *bytes = n > 0 ? (size_t)n : 0; /* a short one is found to be damaged */
    }
    close(fd);
    return data;
}

void prefetch_open(struct terrace *m)
{
    const char *path = options_text(&m->options, "SCHEDULE");
    char why[200];
    size_t bytes;
    manager_lock(m); /* the lanes have started */
    schedule_init(&m->schedule);
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]))
            policy_follow(&m->tier[i].policy, &m->schedule);
    manager_unlock(m);
    if (!path || !*path)
        return;
    void *data = file_read(path, &bytes, why, sizeof why);
    manager_lock(m);
    bool good = data && schedule_load(&m->schedule, data, bytes, why, sizeof why);
    manager_unlock(m);
    if (good)
        log_write(&m->log, TERRACE_LOG_INFO, "TERRACE_SCHEDULE=%s: taken over", path);
    else if (*why)
        log_write(&m->log, TERRACE_LOG_WARN, "TERRACE_SCHEDULE=%s is ignored: %s", path, why);
    free(data);
}

/* All or nothing: a reader never sees half a file. */
static bool file_write(const char *path, const void *data, size_t bytes)
{
    char temporary[4096];
    if (snprintf(temporary, sizeof temporary, "%s.%ld", path, (long)getpid()) >= (int)sizeof temporary) {
        errno = ENAMETOOLONG;
        return false;
    }
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return false;
    size_t done = 0;
    while (done < bytes) {
        ssize_t n = write(fd, (const char *)data + done, bytes - done);
        if (n < 0 && errno != EINTR)
            break;
        done += n > 0 ? (size_t)n : 0;
    }
    int e = errno;
    if (close(fd) || done < bytes || rename(temporary, path)) {
        e = done < bytes ? e : errno;
        unlink(temporary);
        errno = e;
        return false;
    }
    return true;
}

void prefetch_save(struct terrace *m)
{
    const char *path = options_text(&m->options, "SCHEDULE");
    size_t bytes;
    if (!path || !*path)
        return;
    void *data = schedule_save(&m->schedule, &bytes);
    if (!data || !file_write(path, data, bytes))
        log_write(&m->log, TERRACE_LOG_ERROR, "TERRACE_SCHEDULE=%s is not written: %s", path,
                  data ? strerror(errno) : "no host memory");
    free(data);
}
