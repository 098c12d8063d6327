/* small.c - small tensors: slices of groups that migrate as one.
 *
 * A million tensors of 4 KiB, each with copies, extents and transfers of its
 * own, would cost a million transfers and half a kilobyte of host memory each.
 * So tensors up to MOST are slices of a group: a hidden tensor that has rooms,
 * lanes, seals and a place in the policy like any other. A small tensor is but
 * a lean handle: where its slice is, and what its group cannot know: whether it
 * has ever been written, its pins, the errors that it has reported.
 *
 * A heap deals out the slices, as addresses in a reservation that is never
 * touched. A group's number is its place there; its tensor is made when the
 * heap wants one more, and destroyed when that is empty again. The heap's caches
 * may keep a group whose last tensor is gone: it holds no bytes on any tier.
 *
 * A slice may have been another tensor's, and overwriting one tensor of a blank
 * group leaves all the others' slices undefined: so a tensor that has never
 * been written has its slice cleared when it is acquired, unless the group
 * itself is blank, or somebody holds the tensor and so sees zeros already.
 *
 * Using a tensor means using its group. With several tiers in memory a tensor in
 * use on one would so exclude its neighbours from the others, which callers
 * cannot know of. So each group has a home, the one memory tier on which it is
 * used. A tensor that is wanted on another takes a slice of a group there, if it
 * has never been written; else it gets a group of its own, which may go anywhere,
 * and its bytes are copied there. Where the home has no memory, a group that nobody
 * uses gets another. Who reads it in its old slice meanwhile keeps
 * that until the release; only if two threads acquire one tensor at the very
 * same time is it used where its group is. Where a group would be a large part of
 * the budget, small tensors are ordinary ones.
 *
 * The heap is never called with the manager's lock held: it calls back.
 *
 * May call: core.h, mover.h, heap.h. */
#include "small.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "heap_cache.h"
#include "mover.h"

enum {
    MOST = 32 << 10,         /* larger ones are ordinary */
    MOST_ALIGNMENT = 4 << 10,
    USUAL_ALIGNMENT = 64,
    PAGE_BYTES = 4096,
    GROUP = 256 << 10,
    LEAST_GROUPS = 64,       /* that the budget must hold */
    AHEAD = 16,              /* groups to bring before they are wanted, in a sequence */
};
_Static_assert(MOST <= UINT16_MAX, "struct small has room for its size");

static const size_t MOST_RESERVED = (size_t)1 << 38, LEAST_RESERVED = (size_t)1 << 28;

/* A group's number: in use, or on the list of those that were. */
struct number {
    struct terrace_tensor *group; /* NULL: free */
    size_t next;                  /* free number */
};

/* What deals out the slices of the groups that are used on one memory tier. */
struct home {
    struct smalls *smalls;
    unsigned char tier;
    struct heap *heap;
    struct heap_cache *cache;
};

struct smalls {
    struct terrace *manager;
    struct home *_Atomic home[MAX_TIERS]; /* opened when first needed */
    atomic_uchar latest; /* the tier that a new tensor was last acquired on */
    void *mapping;
    size_t mapped;
    uint64_t base; /* of group 0 */
    size_t most;   /* numbers that the reservation has */
    /* Under manager.lock. */
    struct number *number;
    size_t room;   /* in the array */
    size_t used;   /* numbers that were ever in use */
    size_t free;   /* first of those that are not any more; NONE */
    size_t sought; /* the last that was missed, or found because it was brought ahead */
};

static const size_t NONE = SIZE_MAX;

/* Whether slices can be had for a tier: the CPU clears them, and the budget is
 * to hold many groups. */
static bool home_possible(const struct tier *tier)
{
    return tier_is_memory(tier) && (tier->backend->caps & TERRACE_CAP_CPU) &&
           tier->arena.limit / GROUP >= LEAST_GROUPS;
}

/* ---- groups ------------------------------------------------------------ */

static size_t number_take_locked(struct smalls *a)
{
    size_t n = a->free;
    if (n != NONE) {
        a->free = a->number[n].next;
        return n;
    }
    if (a->used == a->most)
        return NONE;
    if (a->used == a->room) {
        size_t room = a->room ? 2 * a->room : 64;
        struct number *more = realloc(a->number, room * sizeof *more);
        if (!more)
            return NONE;
        a->number = more;
        a->room = room;
    }
    return a->used++;
}

static void number_give_locked(struct smalls *a, size_t n)
{
    a->number[n] = (struct number){.next = a->free};
    a->free = n;
}

static uint64_t group_more(void *context, size_t bytes)
{
    const struct home *h = context;
    struct smalls *a = h->smalls;
    struct terrace_tensor *t = NULL;
    manager_lock(a->manager);
    size_t n = number_take_locked(a);
    if (n != NONE) {
        t = tensor_for_group(a->manager, bytes);
        a->number[n].group = t;
        if (t)
            t->index = n;
        if (t)
            t->home = t->dealer = h->tier;
        else
            number_give_locked(a, n);
    }
    manager_unlock(a->manager);
    return t ? a->base + n * bytes : 0;
}

static void group_less(void *context, uint64_t address, size_t bytes)
{
    struct smalls *a = ((const struct home *)context)->smalls;
    manager_lock(a->manager);
    size_t n = (address - a->base) / bytes;
    struct terrace_tensor *t = a->number[n].group;
    number_give_locked(a, n);
    tensor_doom_locked(t);
    manager_unlock(a->manager);
}

static bool pinned(const struct terrace_tensor *g)
{
    for (unsigned i = 0; i < g->manager->tiers; i++)
        if (g->copy[i].pins)
            return true;
    return false;
}

/* The heap may keep it for new slices; until then there is nothing to hold. */
void group_idle_locked(struct terrace_tensor *g)
{
    if (g->live || g->doomed || g->busy || pinned(g))
        return;
    if (g->transfer) {
        g->transfer->stale = true; /* and comes here when it has ended */
        return;
    }
    lane_unhint_locked(g);
    for (unsigned i = 0; i < g->manager->tiers; i++)
        copy_drop_locked(&g->copy[i]);
    g->blank = true;
    g->cold = g->demoted = false;
    g->manager->releases++;
}

/* ---- opening and closing ----------------------------------------------- */

static bool reserve_bytes(struct smalls *a, size_t bytes)
{
    a->mapping = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (a->mapping == MAP_FAILED)
        return false;
    a->mapped = bytes;
    a->base = ((uintptr_t)a->mapping + GROUP - 1) & ~(uint64_t)(GROUP - 1);
    a->most = bytes / GROUP - 1;
    return true;
}

/* Where address space is limited, at most a quarter of what is left. */
static bool reserve(struct smalls *a)
{
    size_t bytes = MOST_RESERVED;
    if (reserve_bytes(a, bytes))
        return true;
    do
        bytes /= 2;
    while (bytes >= LEAST_RESERVED && !reserve_bytes(a, bytes));
    if (bytes < LEAST_RESERVED)
        return false;
    munmap(a->mapping, a->mapped);
    return reserve_bytes(a, bytes / 4);
}

static void home_free(struct home *h)
{
    heap_cache_close(h->cache);
    heap_close(h->heap);
    free(h);
}

static void smalls_free(struct smalls *a)
{
    for (unsigned i = 0; i < MAX_TIERS; i++)
        if (a->home[i])
            home_free(a->home[i]);
    munmap(a->mapping, a->mapped);
    free(a->number);
    free(a);
}

static struct smalls *smalls_new(struct terrace *m)
{
    struct smalls *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    a->manager = m;
    a->free = NONE;
    while (a->latest < m->tiers && !home_possible(&m->tier[a->latest]))
        a->latest++;
    if (reserve(a))
        return a;
    free(a);
    return NULL;
}

/* What serves slices for use on a tier; NULL: nothing does. */
static struct home *home_get(struct smalls *a, unsigned tier)
{
    struct home *h = a->home[tier], *none = NULL;
    if (h || !home_possible(&a->manager->tier[tier]))
        return h;
    h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->smalls = a;
    h->tier = (unsigned char)tier;
    struct heap_source source = {.context = h, .more = group_more, .less = group_less};
    if (heap_open(&h->heap, &source, GROUP) || heap_cache_open(&h->cache, h->heap)) {
        home_free(h);
        return NULL;
    }
    if (atomic_compare_exchange_strong(&a->home[tier], &none, h))
        return h;
    home_free(h); /* another thread was first */
    return none;
}

/* What serves small tensors, opened at the first; NULL: nothing does. */
static struct smalls *smalls_get(struct terrace *m)
{
    manager_lock(m);
    struct smalls *a = m->smalls;
    bool wanted = m->grouped && !a;
    manager_unlock(m);
    if (!wanted)
        return a;
    struct smalls *mine = smalls_new(m);
    manager_lock(m);
    if (!m->smalls && mine) {
        m->smalls = mine;
        mine = NULL;
    }
    if (!m->smalls) {
        m->grouped = false;
        m->small_engine = "none: there is no address space for groups; each tensor moves by itself";
    }
    a = m->smalls;
    manager_unlock(m);
    if (mine) /* another thread was first */
        smalls_free(mine);
    return a;
}

void smalls_open(struct terrace *m)
{
    unsigned n = 0;
    for (unsigned i = 0; i < m->tiers; i++) {
        n += tier_is_memory(&m->tier[i]);
        m->grouped |= home_possible(&m->tier[i]);
    }
    m->several = n > 1;
    m->small_engine = m->grouped ? m->small_text
                    : "none: the budget is below 16 MiB; each tensor moves by itself";
    snprintf(m->small_text, sizeof m->small_text, "groups of 256 KiB by %s", heap_name());
}

/* ---- creating and destroying ------------------------------------------- */

const char *small_name(const struct small *s)
{
    return s->label ? s->label : "(unnamed)";
}

static void link_locked(struct small *s)
{
    struct terrace *m = s->manager;
    struct terrace_tensor *g = s->group;
    LIST_INSERT_HEAD(&g->smalls, s, of_group);
    g->live++;
    s->hot = false;
    small_wanted_locked(s);
    s->errors = (uint16_t)g->errors;
    for (unsigned i = 0; i < m->tiers; i++)
        m->tier[i].tensors += g->copy[i].state == COPY_VALID;
    m->stats.tensors++;
    m->stats.tensor_bytes += s->bytes;
}

static void unlink_locked(struct small *s)
{
    struct terrace *m = s->manager;
    struct terrace_tensor *g = s->group;
    LIST_REMOVE(s, of_group);
    g->live--;
    g->hot -= s->hot;
    for (unsigned i = 0; i < m->tiers; i++)
        m->tier[i].tensors -= g->copy[i].state == COPY_VALID;
    m->stats.tensors--;
    m->stats.tensor_bytes -= s->bytes;
}

static void small_free(struct small *s)
{
    free(s->label);
    free(s->left);
    handle_free(s);
}

static struct small *small_new(struct terrace *m, size_t bytes, size_t alignment, const char *label)
{
    struct small *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->manager = m;
    s->small = s->blank = true;
    s->bytes = (uint16_t)bytes;
    s->align = (unsigned char)__builtin_ctzl(alignment);
    if (label && !(s->label = strdup(label))) {
        free(s);
        return NULL;
    }
    return s;
}

/* What a slice takes: whole pages where there is one. */
static size_t slice_bytes(size_t bytes)
{
    return bytes < PAGE_BYTES ? bytes : (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
}

static size_t slice_alignment(size_t bytes, size_t alignment)
{
    return bytes >= PAGE_BYTES ? PAGE_BYTES : alignment ? alignment : USUAL_ALIGNMENT;
}

static uint64_t slice_take(struct home *h, size_t bytes, size_t alignment)
{
    return heap_cache_alloc(h->cache, slice_bytes(bytes), alignment);
}

static void slice_give(struct home *h, uint64_t address, size_t bytes, size_t alignment)
{
    heap_cache_free(h->cache, address, slice_bytes(bytes), alignment);
}

/* The slice's group and offset become the tensor's. */
static void place_locked(struct smalls *a, struct small *s, uint64_t address)
{
    s->group = a->number[(address - a->base) / GROUP].group;
    s->offset = (uint32_t)((address - a->base) % GROUP);
    link_locked(s);
}

int small_create(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                 terrace_tensor **out)
{
    size_t alignment = attr ? attr->alignment : 0;
    if (!bytes || bytes > MOST || alignment > MOST_ALIGNMENT || (attr && attr->flags))
        return 1;
    struct smalls *a = smalls_get(m);
    struct home *h = a ? home_get(a, a->latest) : NULL;
    if (!h)
        return 1;
    alignment = slice_alignment(bytes, alignment);
    uint64_t address = slice_take(h, bytes, alignment);
    if (!address)
        return 1;
    struct small *s = small_new(m, bytes, alignment, attr ? attr->label : NULL);
    if (!s) {
        slice_give(h, address, bytes, alignment);
        return error_set(-TERRACE_ENOMEM, "no host memory for a tensor's handle");
    }
    manager_lock(m);
    place_locked(a, s, address);
    manager_unlock(m);
    *out = (terrace_tensor *)s;
    return 0;
}

/* The tensor, off its list, does not use its slice of a group any more. Gives up
 * the lock, but not for a group of one. */
static void slice_leave_locked(const struct small *s, struct terrace_tensor *g, uint32_t offset)
{
    struct terrace *m = s->manager;
    struct smalls *a = m->smalls;
    if (g->alone) {
        tensor_doom_locked(g);
        return;
    }
    struct home *h = a->home[g->dealer];
    uint64_t address = a->base + g->index * GROUP + offset;
    size_t bytes = s->bytes, alignment = (size_t)1 << s->align;
    if (g->live && !g->hot && g->cold) /* it was the last not to be demoted */
        demote_ask_locked(g, NULL);
    group_idle_locked(g);
    manager_unlock(m);
    slice_give(h, address, bytes, alignment);
    manager_lock(m);
}

void small_reap_locked(struct small *s)
{
    if (!s->doomed || s->busy || s->pins || s->left)
        return;
    unlink_locked(s);
    slice_leave_locked(s, s->group, s->offset);
    small_free(s);
}

void small_destroy_locked(struct small *s)
{
    s->doomed = true;
    manager_changed_locked(s->manager); /* who waits for it learns that it is gone */
    small_reap_locked(s);
}

static void slices_free_locked(struct terrace_tensor *g)
{
    struct small *next;
    for (struct small *s = LIST_FIRST(&g->smalls); s; s = next) {
        next = LIST_NEXT(s, of_group);
        unlink_locked(s);
        small_free(s);
    }
}

void smalls_close(struct terrace *m)
{
    struct smalls *a = m->smalls;
    if (!a)
        return;
    struct terrace_tensor *t;
    manager_lock(m);
    LIST_FOREACH(t, &m->all, all)
        if (t->group)
            slices_free_locked(t);
    manager_unlock(m);
    smalls_free(a);
    m->smalls = NULL;
}

void smalls_trim(struct terrace *m)
{
    manager_lock(m);
    struct smalls *a = m->smalls;
    manager_unlock(m);
    for (unsigned i = 0; a && i < MAX_TIERS; i++)
        if (a->home[i])
            heap_cache_trim(a->home[i]->cache);
}

void smalls_stats(struct terrace *m, uint64_t *slices, uint64_t *groups)
{
    *slices = *groups = 0;
    manager_lock(m);
    struct smalls *a = m->smalls;
    manager_unlock(m);
    for (unsigned i = 0; a && i < MAX_TIERS; i++)
        if (a->home[i]) {
            struct heap_stats s;
            heap_stats(a->home[i]->heap, &s);
            *slices += s.allocated;
            *groups += s.mapped;
        }
}

/* ---- read-ahead ---------------------------------------------------------- */

void group_sought_locked(struct terrace_tensor *g, struct tier *tier)
{
    struct smalls *a = g->manager->smalls;
    if (g->alone)
        return;
    bool in_order = g->index == a->sought + 1;
    a->sought = g->index;
    for (size_t n = g->index + 1; in_order && n <= g->index + AHEAD && n < a->used; n++) {
        struct terrace_tensor *next = a->number[n].group;
        if (next && next->home == g->home && next->live && !next->blank && !next->doomed &&
            next->copy[tier - g->manager->tier].state == COPY_ABSENT && g->manager->prefetch_limit)
            lane_hint_locked(next, tier);
    }
}

/* ---- several tiers in memory ------------------------------------------- */

terrace_tier small_tier_locked(const struct small *s, terrace_tier which)
{
    const struct terrace_tensor *g = s->group;
    return !g->alone && tier_matches(s->manager, g->home, which) ? g->home : which;
}

bool small_rehome_locked(const struct small *s, unsigned tier, uint32_t uses)
{
    struct terrace_tensor *g = s->group;
    struct terrace *m = s->manager;
    const struct small *other;
    uint32_t busy = 0;
    if (g->alone || g->home == tier)
        return true;
    for (unsigned i = 0; i < m->tiers; i++)
        if (g->copy[i].pins)
            return false;
    LIST_FOREACH(other, &g->smalls, of_group) {
        if (other->moving)
            return false;
        busy += other->busy;
    }
    if (busy != uses || g->busy != uses || !home_possible(&m->tier[tier]))
        return false;
    g->home = (unsigned char)tier;
    m->smalls->latest = (unsigned char)tier;
    return true;
}

/* The tier on which its group cannot serve it; -1: it can, or nothing does. */
static int elsewhere_locked(const struct small *s, terrace_tier which)
{
    const struct terrace *m = s->manager;
    if (s->group->alone || tier_matches(m, s->group->home, which))
        return -1;
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && tier_matches(m, (int)i, which))
            return (int)i;
    return -1;
}

/* Waits until nobody's use of the slice that is, or will be, left excludes this
 * one, and no other thread moves it. */
static int exclusion_wait_locked(const struct small *s, terrace_tier which, unsigned mode)
{
    struct terrace *m = s->manager;
    for (;;) {
        int to = elsewhere_locked(s, which);
        bool writes = mode & (TERRACE_WRITE | TERRACE_OVERWRITE);
        bool excluded = (to >= 0 && s->pins && (writes || s->writes)) || (s->left && writes);
        if (s->doomed || (!excluded && (to < 0 || !s->moving)))
            return 0;
        const struct terrace_tensor *g = s->left ? s->left->group : s->group;
        bool own = excluded && copy_pinned_by_caller(&g->copy[g->home]);
        if (excluded && (own || !(mode & TERRACE_WAIT)))
            return error_set(-TERRACE_EBUSY, "'%s' is acquired on %s%s, which excludes this use elsewhere",
                             small_name(s), m->tier[g->home].name, s->writes ? " for writing" : "");
        if (mode & TERRACE_NOWAIT)
            return error_set(-TERRACE_EAGAIN, "'%s' is on its way; ask again", small_name(s));
        manager_wait(m);
    }
}

/* A group of its own for one tensor. NULL: no host memory. */
static struct terrace_tensor *alone_new_locked(const struct small *s)
{
    struct terrace_tensor *g = tensor_for_group(s->manager, s->bytes);
    if (g) {
        g->alone = true;
        g->home = s->group->home;
        g->busy++; /* nothing is in it yet */
    }
    return g;
}

static void join_alone_locked(struct small *s, struct terrace_tensor *g)
{
    g->busy--;
    s->group = g;
    s->offset = 0;
    link_locked(s);
}

/* One that was never written takes another slice, where the tier has groups. */
static int move_blank(struct small *s, unsigned tier)
{
    struct terrace *m = s->manager;
    struct smalls *a = m->smalls;
    struct home *h = home_get(a, tier);
    size_t alignment = (size_t)1 << s->align;
    uint64_t address = h ? slice_take(h, s->bytes, alignment) : 0;
    int r = 0;
    manager_lock(m);
    bool still = s->blank && !s->pins && !s->left && s->busy == 1 && !s->doomed && !s->group->alone;
    bool fits = address && a->number[(address - a->base) / GROUP].group->home == tier;
    struct terrace_tensor *was = s->group, *g = fits || !still ? NULL : alone_new_locked(s);
    if (still && !fits && !g)
        r = error_set(-TERRACE_ENOMEM, "no host memory to use '%s' on %s", small_name(s), m->tier[tier].name);
    if (still && r == 0) {
        uint32_t offset = s->offset;
        unlink_locked(s);
        if (g) {
            join_alone_locked(s, g);
        } else {
            place_locked(a, s, address);
            address = 0;
        }
        if (h)
            a->latest = (unsigned char)tier;
        slice_leave_locked(s, was, offset);
    }
    manager_unlock(m);
    if (address)
        slice_give(h, address, s->bytes, alignment);
    return r;
}

/* Copies the bytes, which are pinned at `from`, into a group of its own. */
static int copy_out(const struct small *s, struct terrace_tensor *g, const void *from, unsigned tier,
                    unsigned how)
{
    void *to;
    if (!(s->manager->tier[tier].backend->caps & TERRACE_CAP_CPU))
        tier = g->home; /* from where it goes on like any other */
    int r = terrace_acquire(g, (terrace_tier)tier, TERRACE_OVERWRITE | how, TERRACE_HOST_SYNC, &to, NULL);
    if (r)
        return r;
    memcpy(to, from, s->bytes);
    return terrace_release(g, to, TERRACE_HOST_SYNC);
}

/* Has the tensor leave its group for one of its own. Who reads it where it was
 * goes on to do so. */
static int move_out(struct small *s, unsigned tier, unsigned how)
{
    struct terrace *m = s->manager;
    struct small_left *left = calloc(1, sizeof *left);
    void *from;
    int r = terrace_acquire((terrace_tensor *)s, s->group->home, TERRACE_READ | how, TERRACE_HOST_SYNC,
                            &from, NULL);
    if (r)
        goto free_left;
    manager_lock(m);
    struct terrace_tensor *g = left ? alone_new_locked(s) : NULL;
    manager_unlock(m);
    r = g ? copy_out(s, g, from, tier, how)
          : error_set(-TERRACE_ENOMEM, "no host memory to use '%s' on two tiers", small_name(s));
    manager_lock(m);
    if (r == 0 && left && s->busy == 1) { /* no other call counts on where it is */
        unlink_locked(s);
        *left = (struct small_left){s->group, s->offset, s->pins};
        s->left = left;
        s->pins = 0;
        left = NULL;
        join_alone_locked(s, g);
    } else if (g) {
        g->busy--;
        tensor_doom_locked(g);
    }
    manager_unlock(m);
    terrace_release((terrace_tensor *)s, from, TERRACE_HOST_SYNC);
free_left:
    free(left);
    return r;
}

int small_prepare(terrace_tensor *t, terrace_tier which, unsigned mode)
{
    struct small *s = small_of(t);
    struct terrace *m = t->manager;
    if (!s || !m->several)
        return 0;
    manager_lock(m);
    s->busy++;
    int r = exclusion_wait_locked(s, which, mode);
    int to = r ? -1 : elsewhere_locked(s, which);
    bool blank = s->blank && !s->pins && !s->left, move = to >= 0 && !s->doomed;
    s->moving |= move && !blank;
    manager_unlock(m);
    if (move)
        r = blank ? move_blank(s, (unsigned)to) : move_out(s, (unsigned)to, mode & (TERRACE_WAIT | TERRACE_NOWAIT));
    manager_lock(m);
    if (move && !blank) {
        s->moving = false;
        m->releases++;
        manager_changed_locked(m);
    }
    if (s->doomed)
        r = error_set(-TERRACE_EINVAL, "'%s' was destroyed", small_name(s));
    s->busy--;
    small_reap_locked(s);
    manager_unlock(m);
    return r;
}

struct small_left *small_left_at_locked(const struct small *s, const void *address)
{
    struct small_left *left = s->left;
    if (!left)
        return NULL;
    const struct copy *c = &left->group->copy[left->group->home];
    return c->extent && (const char *)copy_address(c) + left->offset == address ? left : NULL;
}

void small_released_locked(struct small *s, struct small_left *left)
{
    if (!left) {
        s->writes -= s->writes == s->pins; /* readers go first, as in copy_unpin_locked() */
        s->pins--;
    } else if (--left->pins == 0) {
        s->left = NULL;
        s->busy++;
        slice_leave_locked(s, left->group, left->offset);
        s->busy--;
        free(left);
    }
    small_reap_locked(s);
}

/* ---- using ------------------------------------------------------------- */

/* Whether the slice holds anything but the zeros that it is to read as. */
static bool to_clear_locked(const struct small *s, const struct copy *c)
{
    return s->blank && !s->pins && (!s->group->blank || c->hollow);
}

unsigned small_mode_locked(const struct small *s, const struct copy *c, unsigned mode)
{
    if (mode & TERRACE_OVERWRITE)
        return s->group->blank ? TERRACE_OVERWRITE : TERRACE_WRITE; /* keeps the others' bytes */
    return to_clear_locked(s, c) ? mode | TERRACE_WRITE : mode;
}

bool small_acquired_locked(struct small *s, struct copy *c, unsigned mode)
{
    bool writes = mode & (TERRACE_WRITE | TERRACE_OVERWRITE);
    bool clear = !(mode & TERRACE_OVERWRITE) && to_clear_locked(s, c);
    if (clear)
        memset((char *)copy_address(c) + s->offset, 0, s->bytes);
    if (clear || writes)
        s->blank = false;
    s->pins++;
    s->writes += writes;
    s->errors = (uint16_t)s->group->errors;
    small_wanted_locked(s);
    return clear || writes;
}

void small_wanted_locked(struct small *s)
{
    s->group->hot += !s->hot;
    s->hot = true;
}

bool small_demoted_locked(struct small *s)
{
    s->group->hot -= s->hot;
    s->hot = false;
    s->group->cold = true;
    return s->group->hot == 0;
}

/* ---- naming ------------------------------------------------------------ */

int small_report_locked(struct small *s)
{
    struct terrace_tensor *g = s->group;
    if (s->errors == (uint16_t)g->errors)
        return 0;
    s->errors = (uint16_t)g->errors;
    return error_set(g->error, "%s", g->error_text ? g->error_text : terrace_strerror(g->error));
}

bool small_unfilled_locked(const struct small *s)
{
    return s->errors != (uint16_t)s->group->errors && s->group->unfilled;
}

int small_failed(const struct small *s, int error)
{
    char why[ERROR_TEXT];
    snprintf(why, sizeof why, "%s", terrace_last_error());
    return error_set(error, "'%.60s': %s", small_name(s), why);
}

const char *group_example_locked(const struct terrace_tensor *group, unsigned *others)
{
    const struct small *s = LIST_FIRST(&group->smalls), *used = s;
    while (used && !used->pins)
        used = LIST_NEXT(used, of_group);
    *others = group->live ? group->live - 1 : 0;
    return used ? small_name(used) : s ? small_name(s) : "(none)";
}
