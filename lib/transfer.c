/* transfer.c - one tensor's bytes between memory and a disk: start and outcome.
 *
 * A tensor has at most one transfer. Anybody starts one, makes it urgent, or
 * marks a write-back stale; only the lane's thread carries it out and finishes
 * it. A write-back whose bytes changed meanwhile, or which failed, leaves the
 * copy in memory as the valid one; a fill that failed leaves the one on disk.
 *
 * May call: core.h, mover.h. */
#include <stdio.h>
#include <stdlib.h>

#include "mover.h"

/* ---- starting a transfer ----------------------------------------------- */

struct tier *transfer_source_locked(const struct terrace_tensor *t, struct copy **disk)
{
    struct terrace *m = t->manager;
    *disk = NULL;
    for (unsigned i = 0; i < m->tiers; i++)
        if (!tier_is_memory(&m->tier[i]) && t->copy[i].state == COPY_VALID) {
            *disk = (struct copy *)&t->copy[i];
            return &m->tier[i];
        }
    return t->file_valid ? &m->tier[(unsigned char)t->file_tier] : NULL;
}

struct tier *spill_tier(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (!tier_is_memory(&m->tier[i]) && m->tier[i].arena.limit)
            return &m->tier[i];
    return NULL;
}

static struct transfer *transfer_start_locked(struct copy *memory, struct tier *disk,
                                              struct transfer init)
{
    struct transfer *x = malloc(sizeof *x);
    if (!x) {
        error_set(-TERRACE_ENOMEM, "no host memory to move '%s'", tensor_name(memory->tensor));
        return NULL;
    }
    *x = init;
    x->tensor = memory->tensor;
    x->memory = memory;
    x->queued = true;
    x->tensor->transfer = x;
    TAILQ_INSERT_TAIL(&disk->lane->queue[x->priority], x, link);
    manager_kick_locked(memory->tensor->manager, disk);
    return x;
}

int transfer_fill_locked(struct copy *memory, bool ahead)
{
    struct terrace_tensor *t = memory->tensor;
    struct copy *from;
    struct tier *disk = transfer_source_locked(t, &from);
    struct transfer init = {.op = TERRACE_IO_READ, .disk = from, .ahead = ahead,
                            .priority = ahead ? PRIORITY_PREFETCH : PRIORITY_DEMAND};
    if (!disk)
        return error_set(-TERRACE_ENOTSUP, "no route to %s for the bytes of '%s'",
                         copy_tier(memory)->name, tensor_name(t));
    init.bytes = from ? round_up(t->bytes, disk->info.page) : t->bytes;
    if (!transfer_start_locked(memory, disk, init))
        return -TERRACE_ENOMEM;
    memory->node.ahead = ahead;
    if (ahead) {
        struct tier *tier = copy_tier(memory);
        tier->ahead += memory->node.bytes;
        tier->coming++;
        t->manager->stats.prefetches++;
    }
    return 0;
}

int transfer_writeback_locked(struct copy *memory, enum priority priority, bool drop)
{
    struct terrace_tensor *t = memory->tensor;
    struct tier *disk = spill_tier(t->manager);
    if (!disk)
        return error_set(-TERRACE_EBUDGET, "there is no disk tier to move '%s' to: "
                         "TERRACE_TIERS names none", tensor_name(t));
    struct transfer init = {.op = TERRACE_IO_WRITE, .disk = &t->copy[disk - t->manager->tier],
                            .priority = priority, .drop = drop};
    init.bytes = round_up(t->bytes, disk->info.page);
    if (!transfer_start_locked(memory, disk, init))
        return -TERRACE_ENOMEM;
    copy_tier(memory)->draining += memory->node.bytes;
    copy_settle_locked(memory); /* off the lists until it is written */
    return 0;
}

struct lane *transfer_lane(const struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    return x->disk ? copy_tier(x->disk)->lane : m->tier[(unsigned char)x->tensor->file_tier].lane;
}

void transfer_hurry_locked(struct transfer *x)
{
    if (!x || x->priority == PRIORITY_DEMAND)
        return;
    struct lane *lane = transfer_lane(x);
    if (x->queued) {
        TAILQ_REMOVE(&lane->queue[x->priority], x, link);
        TAILQ_INSERT_TAIL(&lane->queue[PRIORITY_DEMAND], x, link);
        manager_kick_locked(x->tensor->manager, lane->disk);
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

static void fill_finish_locked(struct transfer *x)
{
    struct copy *c = x->memory;
    struct tier *tier = copy_tier(c);
    terrace_statistics *stats = &tier->manager->stats;
    tier->coming -= x->ahead;
    if (x->error) {
        tensor_failed_locked(x->tensor, x->error, x->text);
        x->tensor->unfilled = true;
    }
    if (x->error || x->stale) {
        copy_drop_locked(c);
        return;
    }
    copy_set_locked(c, COPY_VALID);
    c->wrote = false;
    policy_arrived(&tier->policy, &c->node, c->node.ahead);
    stats->fill_bytes += x->bytes;
    stats->file_bytes += x->disk ? 0 : x->bytes;
    tier->in_bytes += x->bytes;
    transfer_lane(x)->disk->out_bytes += x->bytes;
}

static void writeback_failed_locked(struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    x->tensor->failed_at = ++m->failures;
    m->failure = x->error;
    snprintf(m->failure_text, sizeof m->failure_text, "%s", x->text);
    tensor_failed_locked(x->tensor, x->error, x->text);
    policy_used(&copy_tier(x->memory)->policy, &x->memory->node); /* others are tried before it */
    copy_tier(x->memory)->credit = 0; /* and nothing ahead of need for a while */
}

static void writeback_finish_locked(struct transfer *x)
{
    struct copy *c = x->memory;
    struct tier *tier = copy_tier(c);
    terrace_statistics *stats = &tier->manager->stats;
    tier->draining -= c->node.bytes;
    if (x->error || x->stale) {
        if (x->disk->extent)
            copy_set_locked(x->disk, COPY_STALE);
        else
            copy_set_locked(x->disk, COPY_ABSENT);
        if (x->error)
            writeback_failed_locked(x);
        else
            stats->wasted_bytes += x->next;
    } else {
        copy_set_locked(x->disk, COPY_VALID);
        c->wrote = true;
        /* Who waits for room gets it here: on a full disk the next write-back may
         * take the blocks of what is still in memory, which is then dirty again. */
        bool wanted = tier->arena.limit - tier->arena.used < tier->wanted;
        if ((x->drop || wanted) && !c->pins && !(x->tensor->flags & TERRACE_ATTR_UNMOVABLE)) {
            if (!x->drop) {
                stats->evictions++;
                policy_evicted(&tier->policy, &c->node);
            }
            copy_drop_locked(c);
        }
    }
    stats->writeback_bytes += x->next;
    tier->out_bytes += x->next;
    copy_tier(x->disk)->in_bytes += x->next;
}

void transfer_finish_locked(struct transfer *x)
{
    struct terrace_tensor *t = x->tensor;
    struct terrace *m = t->manager;
    struct copy *c = x->memory;
    t->transfer = NULL;
    if (x->op == TERRACE_IO_READ)
        fill_finish_locked(x);
    else
        writeback_finish_locked(x);
    if (c->state == COPY_VALID)
        copy_settle_locked(c);
    free(x);
    demote_pending_locked(t);
    tensor_reap_locked(t);
    manager_changed_locked(m);
}

void transfer_forget_locked(struct lane *lane, struct transfer *x)
{
    TAILQ_REMOVE(&lane->queue[x->priority], x, link);
    x->queued = false;
    x->stale = true;
    transfer_finish_locked(x);
}
