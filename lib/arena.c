/* arena.c - the one range allocator, over any tier's address space.
 *
 * A tier's addresses lie in two zones: one served in granules (2 MiB), where
 * large pages are welcome, and one in pages (4 KiB). An allocation goes to the
 * granules if rounding it up wastes at most a fiftieth, else to the pages. Both
 * zones are several times larger than the budget, since address space costs
 * nothing, so fragmentation of addresses never stands for lack of memory. Where
 * they do cost memory, there is one zone, of pages, as large as the budget.
 *
 * What costs is the memory behind the addresses. A free extent is either
 * cached (memory still behind it) or empty. An allocation takes, in this order:
 * the best fitting cached extent, for free; or an empty one, which is committed,
 * after as many cached bytes as needed are decommitted elsewhere so that the
 * sum of committed bytes never passes the limit, nor the ceiling where that is
 * lower for a while. Hence tensors of equal size,
 * the usual case, hand memory to each other without a system call. What has
 * stayed cached from one decay to the next is given back.
 *
 * What is said to belong in a row is put behind what came before it, else where
 * all of the row has room, else into the largest piece.
 *
 * All book-keeping lives in ordinary host memory, never in the tier. Calls
 * that change the trees are made under the manager's lock.
 *
 * May call: the backend's table, account.h, error.h, libc. */
#include "arena.h"

#include <assert.h>
#include <stdlib.h>
#include <time.h>

#include "account.h"
#include "error.h"

enum { IN_USE, CACHED, EMPTY };

static int address_compare(const struct extent *a, const struct extent *b)
{
    return a->address < b->address ? -1 : a->address > b->address;
}

static int size_compare(const struct extent *a, const struct extent *b)
{
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? -1 : 1;
    return address_compare(a, b);
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(address_tree, extent, by_address, address_compare, UNUSED_STATIC)
RB_GENERATE_INTERNAL(size_tree, extent, by_size, size_compare, UNUSED_STATIC)

static struct size_tree *tree_of(struct zone *z, int state)
{
    return state == CACHED ? &z->cached : &z->empty;
}

static void insert(struct arena *a, struct extent *e, int state)
{
    struct zone *z = &a->zone[e->zone];
    e->state = (unsigned char)state;
    RB_INSERT(address_tree, &z->free, e);
    RB_INSERT(size_tree, tree_of(z, state), e);
}

static void detach(struct arena *a, struct extent *e)
{
    struct zone *z = &a->zone[e->zone];
    RB_REMOVE(address_tree, &z->free, e);
    RB_REMOVE(size_tree, tree_of(z, e->state), e);
    e->state = IN_USE;
}

static bool joins(const struct extent *left, const struct extent *right)
{
    return left->state == right->state && left->address + left->bytes == right->address;
}

/* Makes an extent free, joined with free neighbours of the same state. */
static void give_back(struct arena *a, struct extent *e, int state)
{
    struct zone *z = &a->zone[e->zone];
    struct extent *right = RB_NFIND(address_tree, &z->free, e);
    struct extent *left = right ? RB_PREV(address_tree, &z->free, right)
                                : RB_MAX(address_tree, &z->free);
    e->state = (unsigned char)state;
    if (right && joins(e, right)) {
        e->bytes += right->bytes;
        detach(a, right);
        free(right);
    }
    if (left && joins(left, e)) {
        detach(a, left);
        left->bytes += e->bytes;
        free(e);
        e = left;
    }
    insert(a, e, state);
}

static struct extent *extent_new(unsigned zone, uint64_t address, uint64_t bytes)
{
    struct extent *e = calloc(1, sizeof *e);
    if (!e)
        return NULL;
    e->zone = (unsigned char)zone;
    e->address = address;
    e->bytes = bytes;
    return e;
}

/* ---- what is held, and how long ----------------------------------------- */

static uint64_t monotonic_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned __int128 held(const struct arena *a, uint64_t now)
{
    return a->held + (unsigned __int128)a->committed * (now - a->held_to);
}

/* Only here do committed bytes change. */
static void commit_by(struct arena *a, uint64_t more, uint64_t less)
{
    uint64_t now = a->clock();
    a->held = held(a, now);
    a->held_to = now;
    a->committed += more - less;
}

uint64_t arena_byte_seconds(const struct arena *a)
{
    return (uint64_t)(held(a, a->clock()) / 1000000000u);
}

/* ---- opening ----------------------------------------------------------- */

static void zone_init(struct zone *z, size_t unit)
{
    z->unit = unit;
    RB_INIT(&z->free);
    RB_INIT(&z->cached);
    RB_INIT(&z->empty);
}

/* Room for fragmentation: address space is this many times the budget. */
enum { SPREAD = 8 };

/* All of a zone is free. Where no allocation may cross a boundary, the page before
 * each is left out: so nothing ever joins across it. */
static bool zone_fill(struct arena *a, unsigned which)
{
    struct zone *z = &a->zone[which];
    uint64_t end = z->base + z->bytes, next;
    for (uint64_t at = z->base; at < end; at = next) {
        next = a->boundary ? (at / a->boundary + 1) * a->boundary : end;
        struct extent *e = extent_new(which, at, (next < end ? next - z->unit : end) - at);
        if (!e)
            return false;
        insert(a, e, EMPTY);
    }
    return true;
}

static int zone_open(struct arena *a, unsigned which, size_t granule, unsigned spread)
{
    struct zone *z = &a->zone[which];
    unsigned flags = which == ZONE_GRANULES ? TERRACE_RESERVE_HUGE : 0;
    uint64_t least = round_up(a->limit ? a->limit : 1, granule);
    for (uint64_t want = least * spread; want >= least; want = round_up(want / 2, granule)) {
        int r = a->backend->reserve(a->unit, want, flags, &z->base);
        if (r == 0) {
            z->bytes = want;
            break;
        }
        if (want == least)
            return r;
    }
    if (zone_fill(a, which))
        return 0;
    a->backend->release(a->unit, z->base, z->bytes);
    z->bytes = 0;
    return error_set(-TERRACE_ENOMEM, "no host memory to manage a tier's address space");
}

int arena_open(struct arena *a, const terrace_backend *backend, void *unit,
               const terrace_unit_info *info, uint64_t limit)
{
    *a = (struct arena){.backend = backend, .unit = unit, .clock = monotonic_ns, .held_to = monotonic_ns()};
    a->limit = a->ceiling = limit / info->page * info->page;
    a->boundary = info->boundary;
    if (limit > UINT64_MAX / (2 * SPREAD))
        return -TERRACE_ENOMEM; /* more than there are addresses */
    bool whole = info->flags & TERRACE_UNIT_WHOLE;
    zone_init(&a->zone[ZONE_PAGES], info->page);
    zone_init(&a->zone[ZONE_GRANULES], info->granule);
    int r = zone_open(a, ZONE_PAGES, info->granule, whole ? 1 : SPREAD);
    if (r == 0 && !whole)
        r = zone_open(a, ZONE_GRANULES, info->granule, SPREAD);
    if (r)
        arena_close(a);
    return r;
}

static void zone_close(struct arena *a, struct zone *z)
{
    struct extent *e;
    while ((e = RB_ROOT(&z->free)) != NULL) {
        RB_REMOVE(address_tree, &z->free, e);
        free(e);
    }
    if (z->bytes)
        a->backend->release(a->unit, z->base, z->bytes);
    z->bytes = 0;
}

void arena_close(struct arena *a)
{
    for (unsigned i = 0; i < ZONES; i++)
        zone_close(a, &a->zone[i]);
}

/* ---- allocating -------------------------------------------------------- */

static unsigned zone_for(const struct arena *a, uint64_t bytes)
{
    uint64_t whole = round_up(bytes, a->zone[ZONE_GRANULES].unit);
    bool granules = a->zone[ZONE_GRANULES].bytes && whole - bytes <= bytes / 50 && whole <= a->limit;
    return granules ? ZONE_GRANULES : ZONE_PAGES;
}

uint64_t arena_round(const struct arena *a, uint64_t bytes)
{
    return round_up(bytes, a->zone[zone_for(a, bytes)].unit);
}

/* The smallest free extent that holds `bytes` at the alignment. */
static struct extent *best_fit(struct size_tree *tree, uint64_t bytes, size_t alignment, size_t unit)
{
    struct extent key = {.bytes = bytes};
    if (alignment > unit)
        key.bytes += alignment - unit;
    return RB_NFIND(size_tree, tree, &key);
}

/* One that holds `row` bytes more, else the largest. */
static struct extent *row_fit(struct size_tree *tree, uint64_t bytes, size_t alignment, size_t unit, uint64_t row)
{
    struct extent *e = row ? best_fit(tree, bytes + row, alignment, unit) : NULL, *largest;
    if (e || !row || (largest = RB_MAX(size_tree, tree)) == NULL)
        return e ? e : best_fit(tree, bytes, alignment, unit);
    uint64_t lost = alignment > unit ? alignment - unit : 0;
    return largest->bytes >= bytes + lost ? largest : NULL;
}

/* Where memory is behind it already. */
static struct extent *cached_fit(struct zone *z, uint64_t bytes, size_t alignment, uint64_t row)
{
    struct extent key = {.address = z->row_end};
    struct extent *e = z->row_end ? RB_FIND(address_tree, &z->free, &key) : NULL;
    if (e && e->state == CACHED && e->bytes >= bytes && alignment <= z->unit)
        return e;
    return row_fit(&z->cached, bytes, alignment, z->unit, row);
}

/* Cuts [address, address + bytes) out of a detached extent, giving what lies
 * before and after it back in `state`. Spare extents must be at hand. */
static void cut(struct arena *a, struct extent *e, uint64_t address, uint64_t bytes, int state,
                struct extent *spare[2])
{
    uint64_t end = e->address + e->bytes;
    if (address > e->address) {
        spare[0]->zone = e->zone;
        spare[0]->address = e->address;
        spare[0]->bytes = address - e->address;
        give_back(a, spare[0], state);
        spare[0] = NULL;
    }
    if (end > address + bytes) {
        spare[1]->zone = e->zone;
        spare[1]->address = address + bytes;
        spare[1]->bytes = end - address - bytes;
        give_back(a, spare[1], state);
        spare[1] = NULL;
    }
    e->address = address;
    e->bytes = bytes;
}

static uint64_t cached(const struct arena *a)
{
    return a->committed - a->used - a->pending;
}

static struct extent *largest_cached(const struct arena *a)
{
    struct extent *e = NULL;
    for (unsigned i = 0; i < ZONES; i++) {
        struct extent *largest = RB_MAX(size_tree, (struct size_tree *)&a->zone[i].cached);
        if (largest && (!e || largest->bytes > e->bytes))
            e = largest;
    }
    return e;
}

/* Has a grant decommit the largest cached extent, or `excess` bytes of it. */
static void give_largest(struct arena *a, uint64_t excess, struct grant *grant)
{
    struct extent *e = largest_cached(a);
    assert(e); /* the caller has checked */
    excess = round_up(excess, a->zone[e->zone].unit);
    detach(a, e);
    if (e->bytes > excess) { /* keep the rest, where book-keeping can be had */
        struct extent *spare[2] = {NULL, extent_new(e->zone, 0, 0)};
        if (spare[1])
            cut(a, e, e->address, excess, CACHED, spare);
        free(spare[1]);
    }
    commit_by(a, 0, e->bytes);
    e->next = grant->give;
    grant->give = e;
}

/* Takes cached extents out of the trees, from the largest first, until `bytes`
 * more can be committed below the ceiling. The caller has checked that enough
 * is cached. What that frees beyond `bytes` counts as committed until the
 * grant is settled: only then has the backend really given it up. */
static void shed(struct arena *a, uint64_t bytes, struct grant *grant)
{
    while (a->committed + bytes > a->ceiling)
        give_largest(a, a->committed + bytes - a->ceiling, grant);
    if (grant->give) {
        grant->surplus = a->ceiling - a->committed - bytes;
        commit_by(a, grant->surplus, 0);
        a->pending += grant->surplus;
    }
}

/* Allocates from an empty extent: memory has to be put behind it. */
static int take_empty(struct arena *a, struct extent *e, uint64_t bytes, uint64_t address,
                      struct grant *grant, struct extent *spare[2])
{
    uint64_t room = a->committed < a->ceiling ? a->ceiling - a->committed : 0;
    uint64_t extra = a->step > bytes ? a->step - bytes : 0;
    uint64_t behind = e->address + e->bytes - address - bytes;
    if (extra > behind)
        extra = behind;
    if (room < bytes || extra > room - bytes)
        extra = 0;
    if (extra) {
        grant->extra = extent_new(e->zone, address + bytes, extra);
        if (!grant->extra)
            extra = 0;
    }
    detach(a, e);
    cut(a, e, address, bytes + extra, EMPTY, spare);
    e->bytes = bytes;
    shed(a, bytes + extra, grant);
    commit_by(a, bytes + extra, 0);
    a->pending += extra;
    grant->extent = e;
    grant->commit = true;
    return 0;
}

int arena_take(struct arena *a, uint64_t bytes, size_t alignment, struct grant *grant)
{
    return arena_take_row(a, bytes, alignment, 0, grant);
}

int arena_take_row(struct arena *a, uint64_t bytes, size_t alignment, uint64_t row, struct grant *grant)
{
    unsigned which = zone_for(a, bytes);
    struct zone *z = &a->zone[which];
    bytes = round_up(bytes, z->unit);
    *grant = (struct grant){0};
    if (a->boundary && bytes > a->boundary - z->unit)
        return error_set(-TERRACE_ENOTSUP, "%llu bytes are more than the tier takes in one piece, %llu",
                         (unsigned long long)bytes, (unsigned long long)(a->boundary - z->unit));
    if (bytes > a->ceiling || a->used > a->ceiling - bytes)
        return -TERRACE_EBUDGET;
    if (a->used + a->pending > a->ceiling - bytes)
        return -TERRACE_EAGAIN;

    int state = CACHED;
    struct extent *e = cached_fit(z, bytes, alignment, row);
    if (!e) {
        size_t granule = a->zone[ZONE_GRANULES].unit;
        state = EMPTY;
        if (bytes >= granule && alignment < granule && /* large pages fit in best */
            (e = row_fit(&z->empty, bytes, granule, z->unit, row)) != NULL)
            alignment = granule;
        else
            e = row_fit(&z->empty, bytes, alignment, z->unit, row);
    }
    if (!e)
        return -TERRACE_EBUDGET; /* addresses too fragmented: evicting helps */

    struct extent *spare[2] = {extent_new(which, 0, 0), extent_new(which, 0, 0)};
    int r = 0;
    if (!spare[0] || !spare[1]) {
        r = error_set(-TERRACE_ENOMEM, "no host memory for an allocation's book-keeping");
    } else {
        uint64_t address = round_up(e->address, alignment > z->unit ? alignment : z->unit);
        if (state == EMPTY) {
            r = take_empty(a, e, bytes, address, grant, spare);
        } else {
            detach(a, e);
            cut(a, e, address, bytes, CACHED, spare);
            grant->extent = e;
        }
        if (r == 0) {
            a->used += bytes;
            a->extents++;
            z->row_end = row ? grant->extent->address + bytes : 0;
            if (cached(a) < a->idle)
                a->idle = cached(a);
        }
        if (a->committed > a->peak)
            a->peak = a->committed;
    }
    free(spare[0]);
    free(spare[1]);
    return r;
}

static void give_up(const struct arena *a, const struct grant *grant)
{
    uint64_t bytes = 0;
    for (const struct extent *e = grant->give; e; e = e->next) {
        a->backend->decommit(a->unit, e->address, e->bytes);
        bytes += e->bytes;
    }
    if (a->account && bytes)
        account_give(a->account, bytes);
}

static int commit(const struct arena *a, uint64_t address, uint64_t bytes)
{
    if (a->account && !account_take(a->account, bytes))
        return error_set(-TERRACE_ENOMEM, "the processes that share %s have all of it", account_path(a->account));
    int r = a->backend->commit(a->unit, address, bytes);
    if (r && a->account)
        account_give(a->account, bytes);
    return r;
}

int arena_fulfil(struct arena *a, struct grant *grant)
{
    give_up(a, grant);
    if (!grant->commit)
        return 0;
    struct extent *e = grant->extent;
    if (grant->extra) {
        int r = commit(a, e->address, e->bytes + grant->extra->bytes);
        if (r == 0)
            return 0;
        grant->extra->state = EMPTY; /* not to be had: ask for what is needed alone */
    }
    return commit(a, e->address, e->bytes);
}

struct extent *arena_settle(struct arena *a, struct grant *grant, int result)
{
    struct extent *e = grant->extent;
    if (grant->surplus)
        commit_by(a, 0, grant->surplus);
    a->pending -= grant->surplus;
    while (grant->give) {
        struct extent *next = grant->give->next;
        give_back(a, grant->give, EMPTY);
        grant->give = next;
    }
    if (grant->extra) {
        bool kept = grant->extra->state != EMPTY && result == 0;
        a->pending -= grant->extra->bytes;
        if (!kept)
            commit_by(a, 0, grant->extra->bytes);
        give_back(a, grant->extra, kept ? CACHED : EMPTY);
    }
    if (result) {
        a->used -= e->bytes;
        a->extents--;
        if (grant->commit)
            commit_by(a, 0, e->bytes);
        give_back(a, e, grant->commit ? EMPTY : CACHED);
        e = NULL;
    }
    *grant = (struct grant){0};
    return e;
}

void arena_undo(struct arena *a, struct grant *grant)
{
    struct extent *e, *give = grant->give;
    grant->give = NULL;
    (void)arena_settle(a, grant, grant->extent ? -TERRACE_EAGAIN : 0);
    while ((e = give) != NULL) {
        give = e->next;
        commit_by(a, e->bytes, 0);
        give_back(a, e, CACHED);
    }
}

bool arena_scattered(const struct arena *a, uint64_t bytes)
{
    return bytes <= a->ceiling && a->used + a->pending <= a->ceiling - bytes && cached(a) > 0;
}

void arena_purge(struct arena *a, struct grant *grant)
{
    struct extent *e;
    *grant = (struct grant){0};
    for (unsigned i = 0; i < ZONES; i++)
        while ((e = RB_ROOT(&a->zone[i].cached)) != NULL) {
            detach(a, e);
            commit_by(a, 0, e->bytes);
            e->next = grant->give;
            grant->give = e;
        }
}

void arena_decay(struct arena *a, struct grant *grant)
{
    *grant = (struct grant){0};
    uint64_t keep = cached(a) - (a->idle < cached(a) ? a->idle : cached(a));
    while (cached(a) > keep && largest_cached(a))
        give_largest(a, cached(a) - keep, grant);
    a->idle = cached(a);
}

void arena_describe(const struct arena *a, struct arena_stats *out)
{
    struct extent *e = largest_cached(a);
    *out = (struct arena_stats){.cached = cached(a), .largest = e ? e->bytes : 0, .extents = a->extents};
    for (unsigned i = 0; i < ZONES; i++)
        RB_FOREACH(e, size_tree, (struct size_tree *)&a->zone[i].cached)
            out->pieces++;
}

void arena_free(struct arena *a, struct extent *e)
{
    a->used -= e->bytes;
    a->extents--;
    give_back(a, e, CACHED);
}

bool arena_charge(struct arena *a, uint64_t bytes)
{
    if (bytes > a->limit || a->committed > a->limit - bytes || (a->account && !account_try(a->account, bytes)))
        return false;
    a->used += bytes;
    commit_by(a, bytes, 0);
    if (a->committed > a->peak)
        a->peak = a->committed;
    return true;
}

void arena_uncharge(struct arena *a, uint64_t bytes)
{
    a->used -= bytes;
    commit_by(a, 0, bytes);
    if (a->account)
        account_give(a->account, bytes);
}
