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
 * How they change groups where several tiers are in memory: small_move.c.
 *
 * Only tensors for which the placement rules say the same share a group.
 *
 * May call: core.h, mover.h, heap.h, rules.h, small_inside.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "heap_cache.h"
#include "mover.h"
#include "rules.h"
#include "small_inside.h"

enum {
    MOST = 32 << 10,         /* larger ones are ordinary */
    MOST_ALIGNMENT = 4 << 10,
    USUAL_ALIGNMENT = 64,
    PAGE_BYTES = 4096,
    AHEAD = 16,              /* groups to bring before they are wanted, in a sequence */
};
_Static_assert(MOST <= UINT16_MAX, "struct small has room for its size");

static const size_t MOST_RESERVED = (size_t)1 << 38, LEAST_RESERVED = (size_t)1 << 28;

static const size_t NONE = SIZE_MAX;

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
    struct home *h = context;
    struct smalls *a = h->smalls;
    struct terrace_tensor *t = NULL;
    manager_lock(a->manager);
    size_t n = number_take_locked(a);
    if (n != NONE) {
        t = tensor_for_group(a->manager, bytes, h->placement);
        a->number[n].group = t;
        if (t)
            t->index = n;
        if (t) {
            t->home = h->tier;
            t->dealer = h;
        } else {
            number_give_locked(a, n);
        }
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
    struct terrace *m = h->smalls->manager;
    heap_cache_close(h->cache);
    heap_close(h->heap);
    placement_put(m, h->placement);
    free(h);
}

static void smalls_free(struct smalls *a)
{
    for (unsigned i = 0; i < MAX_TIERS; i++)
        for (struct home *h = a->home[i], *next; h; h = next) {
            next = h->next;
            home_free(h);
        }
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

static struct home *home_new(struct smalls *a, unsigned tier, struct placement *placement)
{
    struct home *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->smalls = a;
    h->tier = (unsigned char)tier;
    manager_lock(a->manager);
    h->placement = placement_keep(placement);
    manager_unlock(a->manager);
    struct heap_source source = {.context = h, .more = group_more, .less = group_less};
    if (heap_open(&h->heap, &source, GROUP) || heap_cache_open(&h->cache, h->heap)) {
        home_free(h);
        return NULL;
    }
    return h;
}

static struct home *home_find(const struct smalls *a, unsigned tier, const struct placement *placement, unsigned *n)
{
    *n = 0;
    for (struct home *h = a->home[tier]; h; h = h->next, ++*n)
        if (placement_same(h->placement, placement) && !h->retired)
            return h;
    return NULL;
}

struct home *small_home_get(struct smalls *a, unsigned tier, struct placement *placement)
{
    unsigned n;
    struct home *h = home_find(a, tier, placement, &n), *mine = NULL;
    bool possible = home_possible(&a->manager->tier[tier]) && n < MOST_HOMES;
    while (!h && possible) {
        mine = mine ? mine : home_new(a, tier, placement);
        if (!mine)
            return NULL;
        mine->next = a->home[tier];
        h = home_find(a, tier, placement, &n);
        if (!h && atomic_compare_exchange_strong(&a->home[tier], &mine->next, mine))
            return mine;
    }
    if (mine) /* another thread was first */
        home_free(mine);
    return h;
}

void smalls_replaced_locked(struct terrace *m)
{
    struct smalls *a = m->smalls;
    for (unsigned i = 0; a && i < MAX_TIERS; i++)
        for (struct home *h = a->home[i]; h; h = h->next)
            h->retired = h->retired || h->placement;
    for (size_t n = 0; a && n < a->used; n++) {
        const struct terrace_tensor *g = a->number[n].group;
        if (g && g->placement)
            g->dealer->retired = true;
    }
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

void small_link_locked(struct small *s)
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

void small_unlink_locked(struct small *s)
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

static struct small *small_new(struct terrace *m, size_t bytes, size_t alignment, const terrace_tensor_attr *attr)
{
    const char *label = attr ? attr->label : NULL;
    struct small *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->manager = m;
    s->small = s->blank = true;
    s->bytes = (uint16_t)bytes;
    s->align = __builtin_ctzl(alignment) & 15;
    s->role = (attr ? attr->role : 0) & 15;
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

uint64_t small_slice_take(struct home *h, size_t bytes, size_t alignment)
{
    return heap_cache_alloc(h->cache, slice_bytes(bytes), alignment);
}

void small_slice_give(struct home *h, uint64_t address, size_t bytes, size_t alignment)
{
    heap_cache_free(h->cache, address, slice_bytes(bytes), alignment);
}

void small_place_locked(struct smalls *a, struct small *s, uint64_t address)
{
    s->group = a->number[(address - a->base) / GROUP].group;
    s->offset = (uint32_t)((address - a->base) % GROUP);
    small_link_locked(s);
}

/* What serves a new tensor: on the tier that the last one was acquired on, unless the
 * rules say otherwise. NULL: nothing does. */
static struct home *home_for_new(struct smalls *a, struct placement *p)
{
    const struct terrace *m = a->manager;
    unsigned latest = a->latest, i = latest;
    for (unsigned k = 0; p && k < m->tiers; k++) {
        i = p->order[k] == k && k == 0 && !(p->denied >> latest & 1) ? latest : p->order[k];
        if (home_possible(&m->tier[i]) && !(p->denied >> i & 1))
            break;
        i = m->tiers;
    }
    return i < m->tiers ? small_home_get(a, i, p) : NULL;
}

/* As small_create(), under the rules that were in force after so many changes of
 * them; EAGAIN: others are. */
static int create_under(struct smalls *a, size_t bytes, const terrace_tensor_attr *attr, struct placement *p,
                        uint64_t changes, terrace_tensor **out)
{
    struct terrace *m = a->manager;
    struct home *h = home_for_new(a, p);
    if (!h)
        return 1;
    size_t alignment = slice_alignment(bytes, attr ? attr->alignment : 0);
    uint64_t address = small_slice_take(h, bytes, alignment);
    if (!address)
        return 1;
    struct small *s = small_new(m, bytes, alignment, attr);
    if (!s) {
        small_slice_give(h, address, bytes, alignment);
        return error_set(-TERRACE_ENOMEM, "no host memory for a tensor's handle");
    }
    manager_lock(m);
    bool good = m->rule_changes == changes;
    if (good)
        small_place_locked(a, s, address);
    manager_unlock(m);
    if (good) {
        *out = (terrace_tensor *)s;
        return 0;
    }
    small_slice_give(h, address, bytes, alignment);
    small_free(s);
    return -TERRACE_EAGAIN;
}

int small_create(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                 terrace_tensor **out)
{
    if (!bytes || bytes > MOST || (attr && (attr->flags || attr->alignment > MOST_ALIGNMENT)))
        return 1;
    struct smalls *a = smalls_get(m);
    int r = a ? -TERRACE_EAGAIN : 1;
    while (r == -TERRACE_EAGAIN) {
        struct placement *p = NULL;
        uint64_t changes = m->rule_changes;
        int e = m->rules ? placement_for_new(m, attr, bytes, &p, &changes) : 0;
        if (e)
            return e;
        r = create_under(a, bytes, attr, p, changes, out);
        placement_put(m, p);
    }
    return r;
}

void small_slice_leave_locked(const struct small *s, struct terrace_tensor *g, uint32_t offset)
{
    struct terrace *m = s->manager;
    struct smalls *a = m->smalls;
    if (g->alone) {
        tensor_doom_locked(g);
        return;
    }
    struct home *h = g->dealer;
    uint64_t address = a->base + g->index * GROUP + offset;
    size_t bytes = s->bytes, alignment = (size_t)1 << s->align;
    if (g->live && !g->hot && g->cold) /* it was the last not to be demoted */
        demote_ask_locked(g, NULL);
    group_idle_locked(g);
    manager_unlock(m);
    small_slice_give(h, address, bytes, alignment);
    manager_lock(m);
}

void small_reap_locked(struct small *s)
{
    if (!s->doomed || s->busy || s->pins || s->left)
        return;
    small_unlink_locked(s);
    small_slice_leave_locked(s, s->group, s->offset);
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
        small_unlink_locked(s);
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
        for (const struct home *h = a->home[i]; h; h = h->next)
            heap_cache_trim(h->cache);
}

void smalls_stats(struct terrace *m, uint64_t *slices, uint64_t *groups)
{
    *slices = *groups = 0;
    manager_lock(m);
    struct smalls *a = m->smalls;
    manager_unlock(m);
    for (unsigned i = 0; a && i < MAX_TIERS; i++)
        for (const struct home *h = a->home[i]; h; h = h->next) {
            struct heap_stats s;
            heap_stats(h->heap, &s);
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
