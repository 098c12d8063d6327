/* transfer.c - one tensor's bytes from tier to tier: route, start and outcome.
 *
 * A tensor has at most one transfer. Anybody starts one, makes it urgent, or
 * marks it stale; only the lane's thread carries it out and finishes it. A
 * write-back whose bytes changed meanwhile, or which failed, leaves the copy it
 * started from as the valid one; a fill that failed leaves the lower one.
 *
 * Between two tiers bytes move directly where one's addresses are plain
 * pointers and the other has a lane; else by way of a host tier. What leaves a
 * memory tier goes to the next slower one that has room, else to disk; where
 * there is no direct route to a disk, it waits for room.
 *
 * May call: core.h, lease.h, moved.h, mover.h. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "lease.h"
#include "moved.h"
#include "mover.h"

/* ---- routes ------------------------------------------------------------ */

struct lane *transfer_lane(const struct tier *a, const struct tier *b)
{
    if ((a->backend->caps & TERRACE_CAP_CPU) && b->lane)
        return b->lane;
    if ((b->backend->caps & TERRACE_CAP_CPU) && a->lane)
        return a->lane;
    return NULL;
}

struct lane *transfer_source_locked(const struct terrace_tensor *t, const struct tier *to,
                                    struct copy **from)
{
    struct terrace *m = t->manager;
    *from = NULL;
    for (unsigned i = 0; i < m->tiers; i++) { /* fastest first */
        struct lane *lane = &m->tier[i] != to ? transfer_lane(to, &m->tier[i]) : NULL;
        if (!lane || t->copy[i].state != COPY_VALID)
            continue;
        *from = (struct copy *)&t->copy[i];
        return lane;
    }
    return t->file_valid ? transfer_lane(to, &m->tier[(unsigned char)t->file_tier]) : NULL;
}

struct copy *transfer_way(struct terrace_tensor *t, const struct tier *to)
{
    struct terrace *m = t->manager;
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *tier = &m->tier[i];
        if (tier != to && (tier->backend->caps & TERRACE_CAP_CPU) && transfer_lane(to, tier) &&
            arena_round(&tier->arena, t->bytes) <= tier->arena.limit)
            return &t->copy[i];
    }
    return NULL;
}

struct tier *spill_tier(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (!tier_is_memory(&m->tier[i]) && m->tier[i].arena.limit)
            return &m->tier[i];
    return NULL;
}

/* The next memory tier after `after` that could take what leaves `tier`. */
static struct tier *next_below(const struct tier *tier, const struct tier *after)
{
    struct terrace *m = tier->manager;
    for (unsigned i = (unsigned)(after - m->tier) + 1; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && m->tier[i].arena.limit && transfer_lane(tier, &m->tier[i]))
            return &m->tier[i];
    return NULL;
}

struct tier *tier_below(const struct tier *tier)
{
    return next_below(tier, tier);
}

/* Whether the tier has room for the copy without a write. */
static bool has_room_locked(struct tier *tier, uint64_t bytes)
{
    const struct arena *a = &tier->arena;
    bytes = arena_round(a, bytes);
    tier_full_locked(tier);
    return bytes <= a->ceiling && a->used + bytes <= a->ceiling + tier_clean_bytes(tier);
}

/* Where the bytes of a copy go; NULL: nowhere. */
static struct tier *goal_locked(const struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    struct terrace *m = t->manager;
    struct tier *disk = spill_tier(m), *full = NULL;
    for (struct tier *b = tier_below(copy_tier(c)); b; b = next_below(copy_tier(c), b)) {
        if (t->copy[b - m->tier].state != COPY_ABSENT)
            continue;
        if (has_room_locked(b, t->bytes))
            return b;
        if (!full && arena_round(&b->arena, t->bytes) <= b->arena.limit)
            full = b;
    }
    return disk && transfer_lane(copy_tier(c), disk) ? disk : full;
}

/* ---- starting a transfer ----------------------------------------------- */

static int transfer_start_locked(struct transfer init)
{
    struct terrace_tensor *t = init.tensor = init.copy->tensor;
    struct transfer *x = malloc(sizeof *x);
    assert(!lease_is_open(t));
    if (!x)
        return error_set(-TERRACE_ENOMEM, "no host memory to move '%s'", tensor_name(t));
    *x = init;
    x->bytes = x->other ? round_up(t->bytes, x->lane->tier->info.page) : t->bytes;
    x->queued = true;
    x->asked = moved_clock(t->manager);
    t->transfer = x;
    TAILQ_INSERT_TAIL(&x->lane->queue[x->priority], x, link);
    manager_kick_locked(t->manager, x->lane->tier);
    copies_settle_locked(t); /* off the lists until it has ended */
    return 0;
}

int transfer_fill_locked(struct copy *c, bool ahead)
{
    struct terrace_tensor *t = c->tensor;
    struct transfer init = {.copy = c, .ahead = ahead,
                            .priority = ahead ? PRIORITY_PREFETCH : PRIORITY_DEMAND};
    init.lane = transfer_source_locked(t, copy_tier(c), &init.other);
    if (!init.lane)
        return error_set(-TERRACE_ENOTSUP, "no route to %s for the bytes of '%s'",
                         copy_tier(c)->name, tensor_name(t));
    int r = transfer_start_locked(init);
    if (r)
        return r;
    c->node.ahead = ahead;
    if (ahead) {
        struct tier *tier = copy_tier(c);
        tier->ahead += c->node.bytes;
        tier->coming++;
        t->manager->stats.prefetches++;
    }
    return 0;
}

int transfer_writeback_locked(struct copy *c, struct tier *to, enum priority priority, bool drop)
{
    struct terrace_tensor *t = c->tensor;
    if (!to)
        to = goal_locked(c);
    if (to ? !tier_is_memory(to) && tensor_stored_locked(t) : tensor_stored_locked(t))
        return 1;
    if (!to)
        return error_set(-TERRACE_EBUDGET, "there is no disk tier to move '%s' to: "
                         "TERRACE_TIERS names none", tensor_name(t));
    struct lane *lane = transfer_lane(copy_tier(c), to);
    if (!lane)
        return error_set(-TERRACE_ENOTSUP, "no route from %s to %s for the bytes of '%s'", copy_tier(c)->name,
                         to->name, tensor_name(t));
    int r = transfer_start_locked((struct transfer){.copy = c, .other = &t->copy[to - t->manager->tier],
                                                    .lane = lane, .writeback = true, .priority = priority,
                                                    .drop = drop});
    if (r == 0)
        copy_tier(c)->draining += c->node.bytes;
    return r;
}

bool transfer_redirect_locked(struct transfer *x)
{
    struct tier *disk = spill_tier(x->tensor->manager);
    if (tensor_stored_locked(x->tensor)) {
        x->other = NULL;
        x->bytes = 0;
        return true;
    }
    if (!disk || !transfer_lane(copy_tier(x->copy), disk))
        return false;
    if (disk->lane->stop) {
        x->stale = true;
        return true;
    }
    TAILQ_REMOVE(&x->lane->queue[x->priority], x, link);
    x->lane = disk->lane;
    x->other = &x->tensor->copy[disk - disk->manager->tier];
    x->bytes = round_up(x->tensor->bytes, disk->info.page);
    TAILQ_INSERT_TAIL(&x->lane->queue[x->priority], x, link);
    manager_kick_locked(disk->manager, disk);
    return true;
}

void transfer_hurry_locked(struct transfer *x)
{
    if (!x || x->priority == PRIORITY_DEMAND)
        return;
    if (x->queued && !x->parked) {
        TAILQ_REMOVE(&x->lane->queue[x->priority], x, link);
        TAILQ_INSERT_TAIL(&x->lane->queue[PRIORITY_DEMAND], x, link);
        manager_kick_locked(x->tensor->manager, x->lane->tier);
    }
    x->priority = PRIORITY_DEMAND;
}

void writebacks_hurry_locked(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++) {
        struct lane *lane = m->tier[i].lane;
        while (lane && !TAILQ_EMPTY(&lane->queue[PRIORITY_WRITEBACK]))
            transfer_hurry_locked(TAILQ_FIRST(&lane->queue[PRIORITY_WRITEBACK]));
        if (lane)
            TAILQ_CONCAT(&lane->raws[PRIORITY_DEMAND], &lane->raws[PRIORITY_WRITEBACK], link);
    }
}

/* ---- finishing a transfer ---------------------------------------------- */

void transfer_fail(struct transfer *x, int error, const char *text)
{
    if (x->error)
        return;
    x->error = error;
    snprintf(x->text, sizeof x->text, "%s", text);
}

bool transfer_is_taken(const struct transfer *x)
{
    return !x->writeback && !x->error && !x->stale && x->bytes && x->taken == x->bytes;
}

static struct move move_of(const struct transfer *x)
{
    return (struct move){.label = tensor_name(x->tensor), .asked = x->asked, .began = x->began,
                         .priority = (unsigned char)x->priority, .spoiled = x->error || x->stale};
}

static void fill_finish_locked(struct transfer *x)
{
    struct copy *c = x->copy;
    struct tier *tier = copy_tier(c);
    terrace_statistics *stats = &tier->manager->stats;
    tier->coming -= x->ahead;
    if (x->error) {
        tensor_failed_locked(x->tensor, x->error, x->text);
        x->tensor->unfilled = true;
    }
    struct move move = move_of(x);
    struct tier *from = x->other ? copy_tier(x->other) : x->lane->tier;
    bool wrote = c->will_write;
    c->will_write = false;
    if (x->error || x->stale)
        moved_locked(from, tier, 0, &move);
    if ((x->error || x->stale) && c->promised) {
        copy_set_locked(c, COPY_STALE); /* a stream may be at work on it */
        copy_stale_locked(c);
        return;
    }
    if (x->error || x->stale) {
        copy_drop_locked(c);
        return;
    }
    copy_set_locked(c, COPY_VALID);
    c->promised = c->wrote = false;
    policy_arrived(&tier->policy, &c->node, c->node.ahead);
    if (wrote)
        copy_written_locked(c); /* may put it on the policy's lists */
    stats->fill_bytes += x->bytes;
    stats->file_bytes += x->other ? 0 : x->bytes;
    moved_locked(from, tier, x->bytes, &move);
    if (x->other)
        copy_not_ahead_locked(x->other); /* it was brought there for this */
}

/* What a write-back that came to nothing leaves of its goal. */
static void goal_spoiled_locked(struct copy *c)
{
    if (c->extent && !tier_is_memory(copy_tier(c)))
        copy_set_locked(c, COPY_STALE); /* its blocks serve the next write-back */
    else
        copy_drop_locked(c);
}

static void goal_reached_locked(struct copy *c)
{
    copy_set_locked(c, COPY_VALID);
    if (tier_is_memory(copy_tier(c)))
        policy_arrived(&copy_tier(c)->policy, &c->node, false);
}

static void writeback_failed_locked(struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    x->tensor->failed_at = ++m->failures;
    m->failure = x->error;
    snprintf(m->failure_text, sizeof m->failure_text, "%s", x->text);
    if (x->error != -TERRACE_EBUDGET) /* then nothing is wrong with this one */
        tensor_failed_locked(x->tensor, x->error, x->text);
    policy_used(&copy_tier(x->copy)->policy, &x->copy->node); /* others are tried before it */
    copy_tier(x->copy)->credit = 0; /* and nothing ahead of need for a while */
    x->tensor->demoted = false; /* it would fail again */
}

static void writeback_finish_locked(struct transfer *x)
{
    struct copy *c = x->copy;
    struct tier *tier = copy_tier(c);
    terrace_statistics *stats = &tier->manager->stats;
    tier->draining -= c->node.bytes;
    if (x->error || x->stale) {
        if (x->other)
            goal_spoiled_locked(x->other);
        if (x->error)
            writeback_failed_locked(x);
        else
            stats->wasted_bytes += x->next;
    } else {
        if (x->other)
            goal_reached_locked(x->other);
        c->wrote = true;
        /* Who waits for room gets it here: on a full disk the next write-back may
         * take the blocks of what is still in memory, which is then dirty again. */
        bool wanted = arena_room(&tier->arena) < tier->wanted;
        if ((x->drop || wanted) && !c->pins && !c->uses && !(x->tensor->flags & TERRACE_ATTR_UNMOVABLE)) {
            if (!x->drop) {
                stats->evictions++;
                policy_evicted(&tier->policy, &c->node);
            }
            copy_drop_locked(c);
        }
    }
    stats->writeback_bytes += x->next;
    if (!x->other) /* its bytes turned out to be elsewhere */
        return;
    struct move move = move_of(x);
    moved_locked(tier, copy_tier(x->other), x->next, &move);
}

void transfer_finish_locked(struct transfer *x)
{
    struct terrace_tensor *t = x->tensor;
    struct terrace *m = t->manager;
    t->transfer = NULL;
    if (x->writeback)
        writeback_finish_locked(x);
    else
        fill_finish_locked(x);
    for (unsigned i = 0; i < m->tiers; i++) /* written elsewhere while this transfer used it */
        copy_stale_locked(&t->copy[i]);
    copies_settle_locked(t);
    free(x);
    m->releases++; /* what was written may leave now */
    demote_pending_locked(t);
    tensor_reap_locked(t);
    lanes_poke_locked(m);
    manager_changed_locked(m);
}

void transfer_forget_locked(struct lane *lane, struct transfer *x)
{
    if (x->parked)
        TAILQ_REMOVE(&lane->parked, x, link);
    else
        TAILQ_REMOVE(&lane->queue[x->priority], x, link);
    x->queued = x->parked = false;
    x->stale = true;
    transfer_finish_locked(x);
}
