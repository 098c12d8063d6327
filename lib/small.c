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
 * heap wants one more, and destroyed when that is empty again.
 *
 * A slice may have been another tensor's, and overwriting one tensor of a blank
 * group leaves all the others' slices undefined: so a tensor that has never
 * been written has its slice cleared when it is acquired, unless the group
 * itself is blank, or somebody holds the tensor and so sees zeros already.
 *
 * Using a tensor means using its group. With several tiers in memory a tensor in
 * use on one would so exclude its neighbours from the others, which callers
 * cannot know of: there, small tensors are ordinary ones. So they are where a
 * group would be a large part of the budget.
 *
 * The heap is never called with the manager's lock held: it calls back.
 *
 * May call: core.h, mover.h, heap.h. */
#include "small.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "heap.h"
#include "mover.h"

enum {
    MOST = 32 << 10,         /* larger ones are ordinary */
    MOST_ALIGNMENT = 4 << 10,
    USUAL_ALIGNMENT = 64,
    PAGE_BYTES = 4096,
    GROUP = 256 << 10,
    LEAST_GROUPS = 64,       /* that the budget must hold */
};

static const size_t MOST_RESERVED = (size_t)1 << 38, LEAST_RESERVED = (size_t)1 << 28;

/* A group's number: in use, or on the list of those that were. */
struct number {
    struct terrace_tensor *group; /* NULL: free */
    size_t next;                  /* free number */
};

struct smalls {
    struct terrace *manager;
    struct heap *heap;
    void *mapping;
    size_t mapped;
    uint64_t base; /* of group 0 */
    size_t most;   /* numbers that the reservation has */
    /* Under manager.lock. */
    struct number *number;
    size_t room;   /* in the array */
    size_t used;   /* numbers that were ever in use */
    size_t free;   /* first of those that are not any more; NONE */
};

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
    struct smalls *a = context;
    struct terrace_tensor *t = NULL;
    manager_lock(a->manager);
    size_t n = number_take_locked(a);
    if (n != NONE) {
        t = tensor_for_group(a->manager, bytes);
        a->number[n].group = t;
        if (t)
            t->index = n;
        else
            number_give_locked(a, n);
    }
    manager_unlock(a->manager);
    return t ? a->base + n * bytes : 0;
}

static void group_less(void *context, uint64_t address, size_t bytes)
{
    struct smalls *a = context;
    manager_lock(a->manager);
    size_t n = (address - a->base) / bytes;
    struct terrace_tensor *t = a->number[n].group;
    number_give_locked(a, n);
    tensor_doom_locked(t);
    manager_unlock(a->manager);
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

static void smalls_free(struct smalls *a)
{
    heap_close(a->heap);
    munmap(a->mapping, a->mapped);
    free(a->number);
    free(a);
}

static struct smalls *smalls_new(struct terrace *m)
{
    struct smalls *a = calloc(1, sizeof *a);
    if (!a)
        return NULL;
    struct heap_source source = {.context = a, .more = group_more, .less = group_less};
    a->manager = m;
    a->free = NONE;
    if (!reserve(a))
        goto free_smalls;
    if (heap_open(&a->heap, &source, GROUP))
        goto unmap;
    return a;

unmap:
    munmap(a->mapping, a->mapped);
free_smalls:
    free(a);
    return NULL;
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
    const struct tier *memory = NULL;
    unsigned n = 0;
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i])) {
            memory = &m->tier[i];
            n++;
        }
    m->grouped = n == 1 && memory->arena.limit / GROUP >= LEAST_GROUPS;
    if (n > 1)
        m->small_engine = "none: with several tiers in memory each tensor moves by itself";
    else if (!m->grouped)
        m->small_engine = "none: the budget is below 16 MiB; each tensor moves by itself";
    else
        m->small_engine = m->small_text;
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
    small_wanted_locked(s);
    s->errors = (uint32_t)g->errors;
    for (unsigned i = 0; i < m->tiers; i++)
        m->tier[i].tensors += g->copy[i].state == COPY_VALID;
    m->stats.tensors++;
    m->stats.tensor_bytes += s->bytes;
}

/* The reverse, but for the list. */
static void uncount_locked(struct small *s)
{
    struct terrace *m = s->manager;
    struct terrace_tensor *g = s->group;
    g->live--;
    g->hot -= s->hot;
    for (unsigned i = 0; i < m->tiers; i++)
        m->tier[i].tensors -= g->copy[i].state == COPY_VALID;
    m->stats.tensors--;
    m->stats.tensor_bytes -= s->bytes;
}

static void handle_free(struct small *s)
{
    free(s->label);
    free(s);
}

static struct small *handle_new(struct terrace *m, size_t bytes, const char *label)
{
    struct small *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->manager = m;
    s->small = s->blank = true;
    s->bytes = (uint32_t)bytes;
    if (label && !(s->label = strdup(label))) {
        free(s);
        return NULL;
    }
    return s;
}

static uint64_t slice_take(struct smalls *a, size_t bytes, size_t alignment)
{
    if (!alignment)
        alignment = USUAL_ALIGNMENT;
    if (bytes >= PAGE_BYTES) { /* has its pages to itself */
        alignment = PAGE_BYTES;
        bytes = (bytes + PAGE_BYTES - 1) & ~(size_t)(PAGE_BYTES - 1);
    }
    return heap_alloc(a->heap, bytes, alignment);
}

int small_create(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                 terrace_tensor **out)
{
    size_t alignment = attr ? attr->alignment : 0;
    if (!bytes || bytes > MOST || alignment > MOST_ALIGNMENT || (attr && attr->flags))
        return 1;
    struct smalls *a = smalls_get(m);
    if (!a)
        return 1;
    uint64_t address = slice_take(a, bytes, alignment);
    if (!address)
        return 1;
    struct small *s = handle_new(m, bytes, attr ? attr->label : NULL);
    if (!s) {
        heap_free(a->heap, address);
        return error_set(-TERRACE_ENOMEM, "no host memory for a tensor's handle");
    }
    manager_lock(m);
    s->group = a->number[(address - a->base) / GROUP].group;
    s->offset = (uint32_t)((address - a->base) % GROUP);
    link_locked(s);
    manager_unlock(m);
    *out = (terrace_tensor *)s;
    return 0;
}

/* The slice's address in the heap. */
static uint64_t address_locked(const struct smalls *a, const struct small *s)
{
    return a->base + s->group->index * GROUP + s->offset;
}

void small_reap_locked(struct small *s)
{
    struct terrace *m = s->manager;
    struct terrace_tensor *g = s->group;
    if (!s->doomed || s->busy || s->pins)
        return;
    uint64_t address = address_locked(m->smalls, s);
    uncount_locked(s);
    LIST_REMOVE(s, of_group);
    if (g->live && !g->hot && g->cold) /* it was the last not to be demoted */
        demote_ask_locked(g, NULL);
    manager_unlock(m);
    heap_free(m->smalls->heap, address);
    handle_free(s);
    manager_lock(m);
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
        uncount_locked(s);
        handle_free(s);
    }
    LIST_INIT(&g->smalls);
}

void smalls_close(struct terrace *m)
{
    struct smalls *a = m->smalls;
    if (!a)
        return;
    manager_lock(m);
    for (size_t i = 0; i < a->used; i++)
        if (a->number[i].group)
            slices_free_locked(a->number[i].group);
    manager_unlock(m);
    smalls_free(a);
    m->smalls = NULL;
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
    s->errors = (uint32_t)s->group->errors;
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
    if (s->errors == (uint32_t)g->errors)
        return 0;
    s->errors = (uint32_t)g->errors;
    return error_set(g->error, "%s", g->error_text ? g->error_text : terrace_strerror(g->error));
}

bool small_unfilled_locked(const struct small *s)
{
    return s->errors != (uint32_t)s->group->errors && s->group->unfilled;
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
