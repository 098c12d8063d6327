/* mapped_region.c - mapped memory is had, given back, and advised on.
 *
 * May call: mapped_inside.h, mover.h, rules.h, the backend's table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "mapped_inside.h"
#include "mover.h"
#include "rules.h"

enum { MOST_PIECES = 30000 /* of the 65530 mappings a process may have */ };

static int no_space(const struct tier *disk, uint64_t bytes)
{
    char need[BYTES_TEXT], limit[BYTES_TEXT], variable[NAME_TEXT];
    tier_limit_name(disk, variable);
    return error_set(-TERRACE_ENOSPC, "no room for %s of stable memory: %s has a budget of %s (%s), less "
                     "what is in use; raise %s or add a folder", bytes_text(bytes, need), disk->name,
                     bytes_text(disk->arena.limit, limit), disk->limit_reason, variable);
}

/* Space on the disk, in the budget and for certain. */
static int space_take(struct mapping *r)
{
    struct tier *disk = r->disk;
    manager_lock(disk->manager);
    bool fits = mapped_charge_locked(disk, r->reserved);
    manager_unlock(disk->manager);
    if (!fits)
        return no_space(disk, r->reserved);
    int e = disk->backend->reserve(disk->unit, r->reserved, 0, &r->space);
    if (e)
        goto uncharge;
    e = disk->backend->commit(disk->unit, r->space, r->reserved);
    if (e == 0)
        return 0;
    disk->backend->release(disk->unit, r->space, r->reserved);
uncharge:
    manager_lock(disk->manager);
    arena_uncharge(&disk->arena, r->reserved);
    manager_unlock(disk->manager);
    return e;
}

static void space_free(struct mapping *r)
{
    r->disk->backend->release(r->disk->unit, r->space, r->reserved);
    manager_lock(r->disk->manager);
    arena_uncharge(&r->disk->arena, r->reserved);
    manager_unlock(r->disk->manager);
}

/* Maps the file at r->base, piece by piece where it is striped. */
static int map_pieces(const struct mapping *r)
{
    uint64_t run, offset;
    unsigned pieces = 0;
    int fd;
    for (size_t at = 0; at < r->bytes; at += run) {
        int e = r->disk->backend->file(r->disk->unit, r->space + at, r->bytes - at, TERRACE_IO_WRITE, &fd,
                                       &offset, &run);
        if (e)
            return e;
        if (++pieces > MOST_PIECES)
            return error_set(-TERRACE_ENOTSUP, "%zu bytes of stable memory, striped over several folders, take "
                             "too many mappings: name one folder in TERRACE_NVME_PATH", r->bytes);
        const void *got = mmap(r->base + at, run, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
                               (off_t)offset);
        if (got == MAP_FAILED)
            return error_set(-TERRACE_ENOMEM, "%llu bytes of the spill cannot be mapped: %s",
                             (unsigned long long)run, strerror(errno));
    }
    madvise(r->base, r->bytes, MADV_DONTFORK);
    return 0;
}

/* Addresses, aligned to a block where there is a whole one. */
static char *addresses_take(size_t bytes)
{
    size_t align = bytes < BLOCK ? PAGE : BLOCK;
    void *p = mmap(NULL, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    uintptr_t start = (uintptr_t)p, aligned = round_up(start, align);
    if (aligned > start)
        munmap((void *)start, aligned - start);
    munmap((void *)(aligned + bytes), align - (aligned - start));
    return (char *)aligned;
}

static int backend_check(const struct terrace *m, const struct tier *disk)
{
    if (m->sealer)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping can neither be encrypted "
                         "nor checked: unset TERRACE_ENCRYPT and TERRACE_VERIFY, or allow userfaultfd");
    if (!disk)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping needs a disk tier: "
                         "TERRACE_TIERS names none");
    if (!disk->backend->file)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory by a file mapping is not to be had on %s",
                         disk->name);
    return 0;
}

/* ---- rules -------------------------------------------------------------- */

/* Whether the bytes, in memory and on the disk at once, may be there. */
static int fits_locked(const struct mapping *r, struct rules *rules)
{
    struct terrace *m = r->tier->manager;
    struct subject s = {r->label, r->role, r->asked, -1};
    const char *name = r->label ? r->label : "(stable memory)";
    struct placement *p = NULL;
    int e = rules ? placement_find_locked(m, rules, &s, name, &p) : 0;
    const struct tier *forbidden = !placement_allows(p, r->tier)   ? r->tier
                                   : !placement_allows(p, r->disk) ? r->disk
                                                                   : NULL;
    return e || !forbidden ? e : rules_forbid(p, name, "where a file mapping has its bytes", forbidden);
}

int mapped_rules_fit_locked(struct terrace *m, struct rules *rules)
{
    const struct mapping *r;
    int e = 0;
    if (m->mapped)
        LIST_FOREACH(r, &m->mapped->claims, claim)
            e = e ? e : fits_locked(r, rules);
    return e;
}

/* From here on rules that do not allow it are refused, if those in force do. */
static int claim_take(struct mapped *e, struct mapping *r, const terrace_tensor_attr *attr)
{
    r->role = attr ? attr->role : 0;
    if (attr && attr->label && !(r->label = strdup(attr->label)))
        return error_set(-TERRACE_ENOMEM, "no host memory for a label");
    manager_lock(e->manager);
    int error = fits_locked(r, e->manager->rules);
    if (error == 0)
        LIST_INSERT_HEAD(&e->claims, r, claim);
    manager_unlock(e->manager);
    return error;
}

static void claim_give(struct mapping *r)
{
    manager_lock(r->tier->manager);
    LIST_REMOVE(r, claim);
    manager_unlock(r->tier->manager);
}

/* ---- making and giving back --------------------------------------------- */

static void mapping_end(struct mapping *r)
{
    free(r->label);
    free(r);
}

void mapping_free(struct mapping *r)
{
    munmap(r->base, r->bytes);
    space_free(r);
    claim_give(r);
    mapping_end(r);
}

/* Room for a quarter of the budget, which nobody can have back. */
static int window_take(struct mapped *e, struct tier *tier, size_t bytes)
{
    uint64_t *charge = &e->charge[tier - tier->manager->tier], least = tier->arena.limit / 4;
    manager_lock(tier->manager);
    uint64_t more = *charge < least ? least - *charge : 0;
    manager_unlock(tier->manager);
    more = round_up(more < bytes ? more : bytes, PAGE);
    int r = more ? mapped_charge_for_certain(tier, more) : 0;
    if (r)
        return r;
    manager_lock(tier->manager);
    *charge += more;
    manager_unlock(tier->manager);
    return 0;
}

void *mapped_alloc(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr)
{
    struct terrace *m = tier->manager;
    struct tier *disk = spill_tier(m);
    if (backend_check(m, disk) || (bytes > disk->arena.limit && no_space(disk, bytes)))
        return NULL;
    struct mapped *e = mapped_open(m);
    if (!e || window_take(e, tier, bytes))
        return NULL;
    size_t blocks = (bytes + BLOCK - 1) / BLOCK;
    struct mapping *r = calloc(1, sizeof *r + blocks * sizeof r->block[0]);
    if (!r) {
        error_set(-TERRACE_ENOMEM, "no host memory");
        return NULL;
    }
    r->tier = tier;
    r->disk = disk;
    r->asked = bytes;
    r->bytes = round_up(bytes, PAGE);
    r->reserved = round_up(bytes, bytes < BLOCK ? disk->info.page : disk->info.granule);
    r->blocks = blocks;
    if (claim_take(e, r, attr))
        goto free_region;
    if (space_take(r))
        goto give_claim;
    r->base = addresses_take(r->bytes);
    if (!r->base) {
        error_set(-TERRACE_ENOMEM, "no address space for %zu bytes of stable memory", bytes);
        goto give_space;
    }
    if (map_pieces(r))
        goto unmap;
    pthread_mutex_lock(&e->lock);
    LIST_INSERT_HEAD(&e->regions, r, link);
    pthread_mutex_unlock(&e->lock);
    return r->base;
unmap:
    munmap(r->base, r->bytes);
give_space:
    space_free(r);
give_claim:
    claim_give(r);
free_region:
    mapping_end(r);
    return NULL;
}

static struct mapping *region_at_locked(const struct mapped *e, const void *p)
{
    struct mapping *r;
    LIST_FOREACH(r, &e->regions, link)
        if ((uintptr_t)p - (uintptr_t)r->base < r->bytes)
            return r;
    return NULL;
}

static struct mapped *engine(struct terrace *m)
{
    manager_lock(m);
    struct mapped *e = m->mapped;
    manager_unlock(m);
    return e;
}

bool mapped_has(struct terrace *m, const void *p)
{
    struct mapped *e = engine(m);
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    bool has = region_at_locked(e, p);
    pthread_mutex_unlock(&e->lock);
    return has;
}

bool mapped_serves(struct terrace *m)
{
    struct mapped *e = engine(m);
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    bool serves = !LIST_EMPTY(&e->regions);
    pthread_mutex_unlock(&e->lock);
    return serves;
}

bool mapped_free(struct terrace *m, void *p)
{
    struct mapped *e = engine(m);
    if (!e)
        return false;
    pthread_mutex_lock(&e->lock);
    struct mapping *r = region_at_locked(e, p);
    if (r && r->base != p)
        r = NULL;
    while (r && e->working == r)
        pthread_cond_wait(&e->changed, &e->lock);
    if (r) {
        LIST_REMOVE(r, link);
        mapped_charge_adjust(e, r->tier);
    }
    pthread_mutex_unlock(&e->lock);
    if (r)
        mapping_free(r);
    return r;
}

static int pin_locked(struct mapped *e, struct mapping *r, size_t from, size_t to)
{
    uint64_t pinned = to - from, most = (r->tier->arena.limit - r->tier->arena.limit / 8) / BLOCK;
    struct mapping *other;
    LIST_FOREACH(other, &e->regions, link)
        for (size_t i = 0; other->tier == r->tier && i < other->blocks; i++)
            pinned += atomic_load(&other->block[i].pins) > 0;
    if (pinned > most)
        return error_set(-TERRACE_EBUDGET, "terrace_advise: pinning this would leave less than an eighth "
                         "of the budget of %s", r->tier->name);
    for (size_t i = from; i < to; i++)
        atomic_fetch_add(&r->block[i].pins, 1);
    while (e->working == r) /* perhaps on these, taken for unpinned */
        pthread_cond_wait(&e->changed, &e->lock);
    return 0;
}

int mapped_advise(struct terrace *m, void *p, size_t bytes, int advice)
{
    struct mapped *e = engine(m);
    int error = 0;
    pthread_mutex_lock(&e->lock);
    struct mapping *r = region_at_locked(e, p);
    size_t at = r ? (size_t)((char *)p - r->base) : 0;
    if (!r || bytes > r->bytes - at)
        error = error_set(-TERRACE_EINVAL, "terrace_advise: %zu bytes at %p reach past their allocation", bytes, p);
    size_t from = at / BLOCK, to = error || bytes == 0 ? from : (at + bytes - 1) / BLOCK + 1;
    if (to > from && advice == TERRACE_ADVISE_PIN)
        error = pin_locked(e, r, from, to);
    for (size_t i = from; i < to; i++) {
        struct block *b = &r->block[i];
        uint16_t pins = atomic_load(&b->pins);
        if (advice == TERRACE_ADVISE_WILLNEED)
            atomic_store(&b->wanted, true);
        else if (advice == TERRACE_ADVISE_DONTNEED)
            atomic_store(&b->unwanted, pins == 0);
        else if (advice == TERRACE_ADVISE_UNPIN && pins && atomic_fetch_sub(&b->pins, 1) == 1)
            munlock(block_at(r, i), block_bytes(r, i));
    }
    if (to > from)
        atomic_store(&e->wishes, true);
    pthread_mutex_unlock(&e->lock);
    if (error == 0 && advice == TERRACE_ADVISE_PIN && to > from) {
        char *start = block_at(r, from);
        size_t length = (size_t)(block_at(r, to - 1) + block_bytes(r, to - 1) - start);
        if (mlock(start, length)) /* past RLIMIT_MEMLOCK: the thread here leaves them alone at least */
            for (size_t k = 0; k < length; k += PAGE)
                (void)*(volatile char *)(start + k);
    }
    return error;
}
