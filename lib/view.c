/* view.c - handles for tiers whose memory is not used by addresses.
 *
 * Such a tier's backend makes one for a copy's memory when that is first acquired;
 * it lasts as long as the copy has that memory. Backends are called without the
 * lock, so what is dropped under it is ended by the thread of the tier's lane.
 *
 * May call: view.h, mover.h. */
#include "view.h"

#include <stdlib.h>

#include "mover.h"

struct view {
    void *handle;
    struct view *next; /* in tier.views */
};

void *view_address(const struct copy *c)
{
    return c->view ? c->view->handle : copy_address(c);
}

static int make_locked(struct copy *c)
{
    struct tier *tier = copy_tier(c);
    struct terrace *m = tier->manager;
    struct view *v = calloc(1, sizeof *v);
    if (!v)
        return error_set(-TERRACE_ENOMEM, "no host memory for a handle of '%s'", tensor_name(c->tensor));
    uint64_t address = c->extent->address;
    manager_unlock(m); /* the pin keeps the memory */
    int r = tier->backend->view(tier->unit, address, c->tensor->bytes, c->tensor->flags, &v->handle);
    manager_lock(m);
    if (r == 0 && !c->view) {
        c->view = v;
        return 1;
    }
    if (r == 0) { /* another thread was first */
        v->next = tier->views;
        tier->views = v;
        manager_kick_locked(m, tier);
        return 1;
    }
    free(v);
    return r;
}

int view_make_locked(const struct request *q)
{
    int made = 0;
    for (size_t i = 0; i < q->n; i++) {
        struct copy *c = q->entry[i].copy;
        if (!copy_tier(c)->backend->view || c->view)
            continue;
        int r = make_locked(c);
        if (r < 0)
            return r;
        made |= r;
    }
    return made;
}

void view_drop_locked(struct copy *c)
{
    struct tier *tier = copy_tier(c);
    if (!c->view)
        return;
    c->view->next = tier->views;
    tier->views = c->view;
    c->view = NULL;
    manager_kick_locked(tier->manager, tier);
}

struct view *views_dropped_locked(struct tier *tier)
{
    struct view *list = tier->views;
    tier->views = NULL;
    return list;
}

void views_end(struct tier *tier, struct view *list)
{
    while (list) {
        struct view *next = list->next;
        tier->backend->unview(tier->unit, list->handle);
        free(list);
        list = next;
    }
}
