/* space.c - room on the disk for what is written down.
 *
 * Space is taken when a write-back begins, never later: a full disk is an error
 * there, with the bytes still in memory. Before that, blocks go that nobody
 * needs: first contents out of date, then copies of what is in memory anyway.
 *
 * May call: core.h, forked.h, lease.h, mover.h. */
#include "forked.h"
#include "lease.h"
#include "mover.h"

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

int space_take_locked(struct transfer *x)
{
    struct tier *disk = copy_tier(x->other);
    struct grant grant;
    for (int attempt = 0;; attempt++) {
        int r = arena_take(&disk->arena, x->bytes, 0, &grant);
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
