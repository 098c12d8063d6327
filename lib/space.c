/* space.c - room on the disk for what is written down.
 *
 * Space is taken when a write-back begins, never later: a full disk is an error
 * there, with the bytes still in memory. Before that, blocks go that nobody
 * needs: first contents out of date, then copies of what is in memory anyway.
 * What is written together lies together, as far as there is room.
 *
 * What is to be written in place, while a forked child reads what is there, is
 * first copied to other blocks: by a buffer, so that it takes none of the budget.
 *
 * May call: core.h, forked.h, lease.h, moved.h, mover.h, rules.h. */
#include <assert.h>
#include <stdlib.h>

#include "forked.h"
#include "lease.h"
#include "moved.h"
#include "mover.h"
#include "rules.h"

enum {
    PIECE = 256 << 10,
    ROW = 64, /* write-backs for whose neighbourhood is cared */
};

/* Frees disk blocks that are not needed: out of date, or of tensors that are
 * in memory anyway (and are dirty again by that). */
static void reclaim_locked(struct tier *disk, bool duplicates)
{
    struct terrace *m = disk->manager;
    unsigned index = (unsigned)(disk - m->tier);
    struct terrace_tensor *t;
    forks_reap_locked(m);
    LIST_FOREACH(t, &m->all, all) {
        struct copy *c = &t->copy[index];
        bool spare = c->state == COPY_STALE;
        for (unsigned i = 0; duplicates && c->state == COPY_VALID && i < m->tiers; i++)
            spare |= tier_is_memory(&m->tier[i]) && t->copy[i].state == COPY_VALID;
        if (!spare || t->transfer || fork_reads_still_locked(c))
            continue;
        lease_close_locked(t);
        copy_drop_locked(c);
    }
}

static int disk_full(const struct transfer *x)
{
    const struct tier *disk = copy_tier(x->other);
    char need[BYTES_TEXT], limit[BYTES_TEXT], used[BYTES_TEXT], variable[NAME_TEXT];
    tier_limit_name(disk, variable);
    return error_set(-TERRACE_ENOSPC,
                     "no room to spill '%s' (%s): %s has a budget of %s (%s), of which %s are in use; "
                     "raise %s or add a folder",
                     tensor_name(x->tensor), bytes_text(x->bytes, need), disk->name,
                     bytes_text(disk->arena.limit, limit), disk->limit_reason,
                     bytes_text(disk->arena.used, used), variable);
}

/* Bytes that will be written right after these and need room, too. */
static uint64_t row_locked(const struct transfer *x)
{
    const struct tier *disk = copy_tier(x->other);
    const struct transfer *y = x->queued ? TAILQ_NEXT(x, link) : NULL;
    uint64_t bytes = 0;
    for (int i = 0; y && i < ROW; i++, y = TAILQ_NEXT(y, link))
        if (y->writeback && y->other && copy_tier(y->other) == disk && !y->other->extent)
            bytes += arena_round(&disk->arena, y->bytes);
    return bytes;
}

int space_take_locked(struct transfer *x)
{
    struct tier *disk = copy_tier(x->other);
    struct grant grant;
    if (!tensor_may(x->tensor, disk))
        return rules_forbid(x->tensor->placement, tensor_name(x->tensor), "where it would be written", disk);
    for (int attempt = 0;; attempt++) {
        int r = arena_take_row(&disk->arena, x->bytes, 0, row_locked(x), &grant);
        if (r == -TERRACE_EBUDGET)
            r = disk_full(x);
        else if (r == 0)
            r = grant_fulfil_locked(disk, &grant, &x->other->extent);
        if (r != -TERRACE_ENOSPC || attempt == 2)
            return r;
        /* First what is out of date, then, but not for a write-back that nobody
         * waits for, what is in memory as well. */
        bool duplicates = attempt == 1;
        if (duplicates && x->priority == PRIORITY_WRITEBACK && !x->drop)
            return r;
        reclaim_locked(disk, duplicates);
        struct extent *none;
        arena_purge(&disk->arena, &grant);
        grant_fulfil_locked(disk, &grant, &none);
    }
}

/* ---- copying on disk ---------------------------------------------------- */

/* A piece on its way. */
struct haul {
    struct raw raw;
    struct terrace *manager;
    bool ended;
};

static void haul_ended_locked(struct raw *raw)
{
    struct haul *h = (struct haul *)raw;
    h->ended = true;
    manager_changed_locked(h->manager);
}

int haul_locked(struct tier *tier, int op, uint64_t address, void *host, size_t bytes, const char *label)
{
    struct haul h = {.manager = tier->manager,
                     .raw = {.address = address, .host = host, .bytes = bytes, .op = op,
                             .done_locked = haul_ended_locked}};
    lane_raw_locked(tier->lane, &h.raw, PRIORITY_DEMAND);
    while (!h.ended)
        manager_wait(tier->manager);
    if (h.raw.error)
        return error_set(h.raw.error, "%s", h.raw.text);
    if (op == TERRACE_IO_WRITE)
        moved_locked(tier, tier, bytes, &(struct move){.label = label, .asked = h.raw.asked, .began = h.raw.began});
    return 0;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static int duplicate_locked(struct tier *disk, uint64_t from, uint64_t to, uint64_t bytes)
{
    static const char label[] = "what a forked child reads";
    size_t chunk = disk->info.io_chunk;
    void *buffer = aligned_alloc(disk->info.page, PIECE);
    int r = buffer ? 0 : error_set(-TERRACE_ENOMEM, "no host memory to copy what a forked child reads");
    for (uint64_t at = 0, n; r == 0 && at < bytes; at += n) {
        n = least(least(PIECE, bytes - at), least(chunk - (from + at) % chunk, chunk - (to + at) % chunk));
        r = haul_locked(disk, TERRACE_IO_READ, from + at, buffer, n, label);
        if (r == 0)
            r = haul_locked(disk, TERRACE_IO_WRITE, to + at, buffer, n, label);
    }
    free(buffer);
    return r;
}

int space_own_locked(struct copy *disk)
{
    struct tier *tier = copy_tier(disk);
    struct copy own = {.tensor = disk->tensor, .tier = disk->tier};
    struct transfer x = {.tensor = disk->tensor, .other = &own,
                         .bytes = round_up(disk->tensor->bytes, tier->info.page)};
    int r = space_take_locked(&x);
    assert(r || own.extent);
    if (r == 0 && disk->state == COPY_VALID)
        r = duplicate_locked(tier, disk->extent->address, own.extent->address, x.bytes);
    if (r == 0 && !fork_keeps_locked(disk)) { /* the child is gone, or there was none */
        struct extent *old = disk->extent;
        disk->extent = NULL;
        if (old)
            arena_free(&tier->arena, old);
    }
    if (r == 0)
        disk->extent = own.extent;
    else if (own.extent)
        arena_free(&tier->arena, own.extent);
    return r;
}
