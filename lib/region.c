/* region.c - regions of address-stable memory: made, given back, advised on, and
 * described to a fork. What serves them: stable.c, mapped.c.
 * Memory of devices is device_stable.c's.
 *
 * May call: core.h, device_stable.h, fine.h, forked.h, lease.h, mapped.h, mover.h, notice.h, region.h,
 * rules.h, stable.h, uffd.h. */
#include "region.h"

#include <stdlib.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "device_stable.h"
#include "fine.h"
#include "forked.h"
#include "lease.h"
#include "mapped.h"
#include "mover.h"
#include "rules.h"
#include "stable.h"

const char *region_label(const struct region *r)
{
    return r->label ? r->label : "(stable memory)";
}

struct region *region_at_locked(const struct stable *s, uint64_t address)
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

struct terrace_tensor *block_locked(struct region *r, size_t i)
{
    if (!r->block[i])
        r->block[i] = block_new_locked(r, i);
    return r->block[i];
}

/* ---- rules -------------------------------------------------------------- */

/* What rules say of it, and whether they keep it in its tier. Where that is more than
 * half of the tier, a part that is touched might be waited for, for ever. */
static int place_locked(const struct region *r, struct rules *rules, struct placement **out, bool *kept)
{
    const struct terrace *m = r->tier->manager;
    struct subject s = {r->label, r->role, r->bytes, -1};
    char need[BYTES_TEXT], limit[BYTES_TEXT];
    uint64_t sum = r->reserved;
    const struct region *other;
    int e = placement_find_locked(r->tier->manager, rules, &s, region_label(r), out);
    if (e)
        return e;
    const struct placement *p = *out;
    if (p && p->denied >> (r->tier - m->tier) & 1)
        return rules_forbid(p, region_label(r), "where its pages would be", r->tier);
    *kept = p && !placement_may_leave(r->tier, p);
    LIST_FOREACH(other, &m->stable->regions, link)
        sum += other != r && other->kept && other->tier == r->tier ? other->reserved : 0;
    if (!*kept || sum <= r->tier->arena.limit / 2)
        return 0;
    return error_set(-TERRACE_ERULE, "rules keep '%.60s' in %s, where %s of stable memory would have to stay then, more "
                     "than half the budget of %s", region_label(r), r->tier->name, bytes_text(sum, need),
                     bytes_text(r->tier->arena.limit, limit));
}

int stable_rules_fit_locked(struct terrace *m, struct rules *rules)
{
    const struct region *r;
    struct placement *p;
    bool kept;
    int e = 0;
    if (m->stable)
        LIST_FOREACH(r, &m->stable->regions, link)
            e = e ? e : place_locked(r, rules, &p, &kept);
    return e;
}

void stable_rules_adopt_locked(struct terrace *m, struct rules *rules)
{
    struct region *r;
    if (m->stable)
        LIST_FOREACH(r, &m->stable->regions, link) {
            struct placement *p = NULL;
            place_locked(r, rules, &p, &r->kept);
            placement_keep(p);
            placement_drop_locked(r->placement);
            r->placement = p;
        }
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
    fork_lacks(p);
}

void stable_describe_locked(struct terrace *m, struct fork_plan *p)
{
    struct region *r;
    LIST_FOREACH(r, &m->stable->regions, link)
        for (size_t i = 0; !r->dying && i < r->blocks; i++)
            block_describe_locked(r, i, p);
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

void region_free_locked(struct region *r)
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
    placement_drop_locked(r->placement);
    free(r->label);
    free(r);
}

/* ---- the public functions ---------------------------------------------- */

/* The tier that is meant: of several, the first choice that the rules allow. */
static struct tier *stable_tier(struct terrace *m, terrace_tier which, const struct placement *p)
{
    struct tier *forbidden = NULL;
    bool device = false;
    for (unsigned k = 0; k < m->tiers; k++) {
        unsigned i = p ? p->order[k] : k;
        bool can = stable_movable(&m->tier[i]) || device_stable_can(&m->tier[i]);
        if (!tier_matches(m, (int)i, which))
            continue;
        device |= m->tier[i].backend->tier_class == TERRACE_CLASS_DEVICE;
        if (can && (!p || !(p->denied >> i & 1)))
            return &m->tier[i];
        forbidden = can && !forbidden ? &m->tier[i] : forbidden;
    }
    if (forbidden)
        return forbidden; /* which placing it there will say */
    if (device)
        error_set(-TERRACE_ENOTSUP, "terrace_malloc: the backend of this device cannot move what is behind an address; "
                  "use tensors and terrace_acquire() there");
    else
        error_set(-TERRACE_ENOTSUP, "terrace_malloc: stable memory is to be had on host tiers and some devices only, and "
                  "not from the system's pool of huge pages (TERRACE_HUGEPAGES=2m or 1g)");
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
        stable_serves_locked(m, "file mapping: TERRACE_STABLE=file", "");
    else if (!m->stable_engine && asked == STABLE_AUTO && stable_open_locked(m) == -TERRACE_ENOTSUP)
        stable_serves_locked(m, "file mapping: ", terrace_last_error());
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
    struct placement *p = NULL;
    uint64_t changes;
    if (m->rules && placement_for_new(m, attr, bytes, &p, &changes))
        return NULL;
    struct tier *tier = stable_tier(m, which, p);
    placement_put(m, p);
    if (tier && device_stable_can(tier))
        return device_alloc(tier, bytes, attr);
    if (!tier || evictable_check(tier, bytes))
        return NULL;
    if (by_file(m))
        return mapped_alloc(tier, bytes, attr);
    struct region *r = region_new(tier, bytes, attr);
    if (!r)
        return NULL;
    manager_lock(m);
    int e = stable_open_locked(m);
    if (e == 0 && m->rules)
        e = place_locked(r, m->rules, &r->placement, &r->kept);
    placement_keep(r->placement);
    if (e == 0)
        e = uffd_watch(&m->stable->uffd, r->base, r->reserved);
    if (e == 0) {
        LIST_INSERT_HEAD(&m->stable->regions, r, link);
        r->number = m->stable->regions_made++;
    } else {
        placement_drop_locked(r->placement);
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
    if (!p || manager_check(m) || mapped_free(m, p) || device_free(m, p))
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
    if (device_has(m, p))
        return device_advise(m, p, bytes, advice, which);
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

int terrace_safepoint(terrace *m, terrace_tier which, void *stream)
{
    int e = manager_check(m), first = 0;
    if (e == 0)
        e = tier_check(m, which);
    for (unsigned i = 0; e == 0 && i < m->tiers; i++) /* pages of host tiers may move at any time */
        if (tier_matches(m, (int)i, which) && device_stable_can(&m->tier[i])) {
            int r = device_safepoint(&m->tier[i], stream);
            first = first ? first : r;
        }
    return e ? e : first;
}
