/* transfer.c - one tensor's bytes from tier to tier: route, start and outcome.
 *
 * A tensor has at most one transfer. Anybody starts one, makes it urgent, or
 * marks it stale; only the lane's thread carries it out and finishes it. A
 * write-back whose bytes changed meanwhile, or which failed, leaves the copy it
 * started from as the valid one; a fill that failed leaves the lower one.
 *
 * Between two tiers bytes move directly where one's addresses are plain
 * pointers and the other has a lane; between devices straight or through staging memory
 * (see route.c, relay.c); else by way of a host tier. What leaves a memory tier goes to the next
 * slower one that has room, else to disk; where there is no direct route to a disk, it waits for room.
 *
 * Where rules forbid a tier, no route leads to it or by way of it, be it only through
 * the staging memory of a lane.
 *
 * May call: core.h, gate.h, lease.h, moved.h, mover.h, registered.h, relay.h, route.h,
 * rules.h, staging.h. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "gate.h"
#include "lease.h"
#include "moved.h"
#include "mover.h"
#include "registered.h"
#include "relay.h"
#include "route.h"
#include "rules.h"
#include "staging.h"

/* ---- routes ------------------------------------------------------------ */

struct lane *transfer_lane(const struct tier *a, const struct tier *b)
{
    if ((a->backend->caps & TERRACE_CAP_CPU) && b->lane)
        return b->lane;
    if ((b->backend->caps & TERRACE_CAP_CPU) && a->lane)
        return a->lane;
    return NULL;
}

/* By what has been measured; without a clear difference the faster tier is taken. */
static bool much_faster(uint64_t a, uint64_t b)
{
    return a && b && a > b + b / 4;
}

struct lane *transfer_source_locked(const struct terrace_tensor *t, const struct tier *to,
                                    struct copy **from)
{
    struct terrace *m = t->manager;
    struct lane *best = NULL;
    uint64_t best_rate = 0;
    *from = NULL;
    for (unsigned i = 0; i < m->tiers; i++) { /* fastest first */
        const struct tier *tier = &m->tier[i];
        struct lane *lane = tier != to ? transfer_lane(to, tier) : NULL;
        bool peer = !lane && route_reaches(tier, to);
        uint64_t rate = peer ? route_rate(tier, to) : lane ? lane->rate : 0;
        if ((!lane && !peer) || t->copy[i].state != COPY_VALID || (best && !much_faster(rate, best_rate)))
            continue;
        *from = (struct copy *)&t->copy[i];
        best = peer ? to->lane : lane;
        best_rate = rate;
    }
    for (unsigned i = 0; !best && i < m->tiers; i++)
        if (t->copy[i].state == COPY_VALID && relay_leads(t, &m->tier[i], to)) {
            *from = (struct copy *)&t->copy[i];
            best = to->lane;
        }
    if (best)
        return best;
    return t->file_valid ? transfer_lane(to, &m->tier[(unsigned char)t->file_tier]) : NULL;
}

struct copy *transfer_way(struct terrace_tensor *t, const struct tier *to)
{
    struct terrace *m = t->manager;
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *tier = &m->tier[i];
        if (tier != to && (tier->backend->caps & TERRACE_CAP_CPU) && transfer_lane(to, tier) && tensor_may(t, tier) &&
            arena_round(&tier->arena, t->bytes) <= tier->arena.limit)
            return &t->copy[i];
    }
    return NULL;
}

int way_forbidden(struct terrace_tensor *t, const struct tier *to)
{
    struct terrace *m = t->manager;
    char what[160];
    snprintf(what, sizeof what, "by way of which it would get to %s%s", to->name,
             t->blank ? "; acquire it there with TERRACE_OVERWRITE first, for which nothing has to come" : "");
    for (unsigned i = 0; t->placement && i < m->tiers; i++)
        if (&m->tier[i] != to && (m->tier[i].backend->caps & TERRACE_CAP_CPU) && !tensor_may(t, &m->tier[i]))
            return rules_forbid(t->placement, tensor_name(t), what, &m->tier[i]);
    return 0;
}

struct tier *spill_tier(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (!tier_is_memory(&m->tier[i]) && m->tier[i].arena.limit)
            return &m->tier[i];
    return NULL;
}

/* Whether bytes may be written there: also those in the lane's staging memory,
 * encrypted as they are, are bytes of the tensor. */
static bool may_spill(const struct placement *p, struct tier *disk)
{
    bool staged = disk->lane && disk->lane->staging;
    return !p || (placement_allows(p, disk) && (!staged || placement_allows(p, staging_host(disk))));
}

static struct tier *placement_spill_tier(struct terrace *m, const struct placement *p)
{
    if (!p)
        return spill_tier(m);
    for (unsigned k = 0; k < m->tiers; k++) {
        struct tier *tier = placement_choice(m, p, k);
        if (!tier_is_memory(tier) && tier->arena.limit && may_spill(p, tier))
            return tier;
    }
    return NULL;
}

struct tier *tensor_spill_tier(const struct terrace_tensor *t)
{
    return placement_spill_tier(t->manager, t->placement);
}

/* The memory tier with that place in the order of choice, or a later one, that could
 * take what leaves `tier`; *place is then the next. NULL: there is none. */
static struct tier *next_below(const struct tier *tier, const struct placement *p, unsigned *place)
{
    struct terrace *m = tier->manager;
    while (*place < m->tiers) {
        struct tier *b = placement_choice(m, p, (*place)++);
        if (b > tier && tier_is_memory(b) && b->arena.limit && placement_allows(p, b) && transfer_lane(tier, b))
            return b;
    }
    return NULL;
}

struct tier *tier_below(const struct tier *tier)
{
    unsigned place = 0;
    return next_below(tier, NULL, &place);
}

struct tier *copy_below(const struct copy *c)
{
    unsigned place = 0;
    return next_below(copy_tier(c), c->tensor->placement, &place);
}

bool placement_may_leave(const struct tier *tier, const struct placement *p)
{
    unsigned place = 0;
    const struct tier *disk = placement_spill_tier(tier->manager, p);
    return next_below(tier, p, &place) || (disk && transfer_lane(tier, disk));
}

/* Whether the tier has room for the copy without a write. */
static bool has_room_locked(struct tier *tier, uint64_t bytes)
{
    const struct arena *a = &tier->arena;
    bytes = arena_round(a, bytes);
    tier_full_locked(tier);
    return bytes <= a->ceiling && a->used + bytes <= a->ceiling + tier_clean_bytes(tier) &&
           !rules_keep_locked(tier, bytes);
}

struct tier *transfer_goal_locked(const struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    struct terrace *m = t->manager;
    struct tier *disk = tensor_spill_tier(t), *full = NULL, *b;
    for (unsigned place = 0; (b = next_below(copy_tier(c), t->placement, &place)) != NULL;) {
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

void transfer_keep_locked(struct transfer *x, const struct copy *c)
{
    if (!(x->kept & 1u << c->tier))
        copy_tier(c)->moving++;
    x->kept |= 1u << c->tier;
}

void transfer_keep_all_locked(struct transfer *x)
{
    struct terrace_tensor *t = x->tensor;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (t->copy[i].state == COPY_VALID || (!x->writeback && &t->copy[i] == x->copy))
            transfer_keep_locked(x, &t->copy[i]);
}

void transfer_keeps_no_more_locked(struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    for (unsigned i = 0; i < m->tiers; i++)
        m->tier[i].moving -= x->kept >> i & 1;
    x->kept = 0;
}

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
    transfer_keep_all_locked(x);
    copies_settle_locked(t); /* off the lists until it has ended */
    if (x->relayed) {
        relay_start_locked(x);
        return 0;
    }
    TAILQ_INSERT_TAIL(&x->lane->queue[x->priority], x, link);
    manager_kick_locked(t->manager, x->lane->tier);
    return 0;
}

int transfer_fill_locked(struct copy *c, bool ahead)
{
    struct terrace_tensor *t = c->tensor;
    struct transfer init = {.copy = c, .ahead = ahead,
                            .priority = ahead ? PRIORITY_PREFETCH : PRIORITY_DEMAND};
    init.lane = transfer_source_locked(t, copy_tier(c), &init.other);
    int r = init.lane ? 0 : way_forbidden(t, copy_tier(c));
    if (r)
        return r;
    if (!init.lane)
        return error_set(-TERRACE_ENOTSUP, "no route to %s for the bytes of '%s'",
                         copy_tier(c)->name, tensor_name(t));
    enum way way = init.other && !transfer_lane(copy_tier(c), copy_tier(init.other))
                       ? route_choose_locked(t, copy_tier(init.other), copy_tier(c)) : WAY_NONE;
    init.relayed = way == WAY_RELAY;
    init.peered = way == WAY_PEER;
    r = transfer_start_locked(init);
    if (r)
        return r;
    c->node.ahead = ahead;
    if (ahead) {
        copy_tier(c)->ahead += c->node.bytes;
        t->manager->stats.prefetches++;
    }
    return 0;
}

/* Why the copy's bytes cannot go to a tier, NULL: to any. */
static int nowhere_to_go(const struct copy *c, const struct tier *to)
{
    const struct terrace_tensor *t = c->tensor;
    struct terrace *m = t->manager;
    for (struct tier *b = m->tier; t->placement && b < m->tier + m->tiers; b++)
        if ((to ? b == to : b > copy_tier(c)) && !tensor_may(t, b))
            return rules_forbid(t->placement, tensor_name(t), "where it would move", b);
    if (to)
        return error_set(-TERRACE_ERULE, "'%s' may not pass through the memory in which bytes for %s are encrypted",
                         tensor_name(t), to->name);
    return error_set(-TERRACE_EBUDGET, "there is no disk tier to move '%s' to: "
                     "TERRACE_TIERS names none", tensor_name(t));
}

/* Whether a lower tier is just getting room for a copy: then the bytes may soon be there. */
static bool coming_below_locked(const struct copy *c)
{
    const struct terrace_tensor *t = c->tensor;
    for (unsigned i = c->tier + 1u; i < t->manager->tiers; i++)
        if (t->copy[i].state == COPY_FILLING && !t->copy[i].hollow)
            return true;
    return false;
}

int transfer_writeback_locked(struct copy *c, struct tier *to, enum priority priority, bool drop)
{
    struct terrace_tensor *t = c->tensor;
    if (!to && (to = transfer_goal_locked(c)) == NULL && coming_below_locked(c))
        return -TERRACE_EAGAIN;
    if (to ? !tier_is_memory(to) && tensor_stored_locked(t) : tensor_stored_locked(t))
        return 1;
    if (!to || !(tier_is_memory(to) ? tensor_may(t, to) : may_spill(t->placement, to)))
        return nowhere_to_go(c, to);
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
    struct tier *disk = tensor_spill_tier(x->tensor);
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
    if (x->relayed) {
        relay_hurry_locked(x);
        return;
    }
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

/* The bytes have not come. */
static void fill_broken_locked(struct copy *c, int error)
{
    c->will_write = false;
    c->broken = error ? error : -TERRACE_ESYSTEM;
    if (!c->promised) {
        copy_drop_locked(c);
        return;
    }
    copy_set_locked(c, COPY_STALE); /* a stream may be at work on it */
    gate_over_locked(c);
    copy_stale_locked(c);
}

static void fill_finish_locked(struct transfer *x)
{
    struct copy *c = x->copy;
    struct tier *tier = copy_tier(c);
    terrace_statistics *stats = &tier->manager->stats;
    gate_stuck_locked(x);
    if (x->error) {
        tensor_failed_locked(x->tensor, x->error, x->text);
        x->tensor->unfilled = true;
    }
    struct move move = move_of(x);
    struct tier *from = x->other ? copy_tier(x->other) : x->lane->tier;
    bool wrote = c->will_write;
    if (x->error || x->stale) {
        moved_locked(from, tier, 0, &move);
        fill_broken_locked(c, x->error);
        return;
    }
    copy_set_locked(c, COPY_VALID);
    gate_over_locked(c);
    c->promised = c->wrote = c->will_write = false;
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
    if (x->error != -TERRACE_EBUDGET && x->error != -TERRACE_ERULE) /* then nothing is wrong with this one */
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
        x->tensor->failed_at = 0;
        /* Who waits for room gets it here: on a full disk the next write-back may
         * take the blocks of what is still in memory, which is then dirty again. */
        bool wanted = arena_room(&tier->arena) < tier->wanted || !x->other; /* stored: it need not stay */
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

static enum way way_of(const struct transfer *x)
{
    return x->peered ? WAY_PEER : x->relayed ? WAY_RELAY : WAY_NONE;
}

void transfer_begins_locked(struct transfer *x)
{
    x->began = moved_clock(x->tensor->manager);
    if (way_of(x) == WAY_NONE)
        return;
    route_begins_locked(copy_tier(x->other), copy_tier(x->copy), way_of(x));
    x->started = true;
}

/* Between devices: what that tells of the way. */
static void way_ends_locked(struct transfer *x)
{
    if (x->started)
        route_ends_locked(copy_tier(x->other), copy_tier(x->copy), way_of(x), x->error || x->stale ? 0 : x->bytes);
    x->started = false;
}

/* Whether it goes on through staging memory, as the way straight has failed. */
static bool falls_back_locked(struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    if (!x->peered || !x->error || x->error == -TERRACE_EDEVICE || x->error == -TERRACE_EFORK)
        return false;
    const struct tier *from = copy_tier(x->other), *to = copy_tier(x->copy);
    if (route_reaches(from, to))
        log_write(&m->log, TERRACE_LOG_WARN, "bytes from %s to %s go through the host from now on: %s", from->name,
                  to->name, x->text);
    route_fails_locked(from, to);
    if (x->stale || x->copy->promised || !relay_leads(x->tensor, from, to))
        return false;
    way_ends_locked(x);
    x->peered = false;
    x->relayed = x->queued = true;
    x->error = 0;
    x->next = x->taken = 0;
    relay_start_locked(x);
    return true;
}

/* What has come half the way goes on from there. */
static void goes_on_locked(const struct transfer *x)
{
    struct terrace_tensor *t = x->tensor;
    struct copy *c = t->onward;
    int r = x->error;
    if (!c)
        return;
    t->onward = NULL;
    if (r == 0 && (x->copy->state != COPY_VALID || copy_tier(c)->lane->stop))
        r = error_set(-TERRACE_ESYSTEM, "'%s' is not brought to %s any more", tensor_name(t), copy_tier(c)->name);
    else if (r == 0)
        r = transfer_fill_locked(c, false);
    if (r == 0)
        return;
    if (!x->error) {
        tensor_failed_locked(t, r, terrace_last_error());
        t->unfilled = true;
    }
    fill_broken_locked(c, r);
}

void transfer_finish_locked(struct transfer *x)
{
    struct terrace_tensor *t = x->tensor;
    struct terrace *m = t->manager;
    if (falls_back_locked(x))
        return;
    way_ends_locked(x);
    t->transfer = NULL;
    transfer_keeps_no_more_locked(x);
    if (x->copies)
        registered_copied_locked(x->copies);
    if (x->writeback)
        writeback_finish_locked(x);
    else
        fill_finish_locked(x);
    goes_on_locked(x);
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
