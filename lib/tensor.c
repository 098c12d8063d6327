/* tensor.c - creating, opening, destroying tensors, and waiting for them.
 *
 * May call: core.h, lease.h, live.h, mover.h, region.h, rules.h, small.h, the backend's attach and
 * detach. */
#include <stdlib.h>
#include <string.h>

#include "lease.h"
#include "live.h"
#include "mover.h"
#include "prefetch.h"
#include "region.h"
#include "rules.h"
#include "small.h"
#include "stable.h"

enum { MOST_ALIGNMENT = 2 << 20, LINE = 64 };

const char *tensor_name(const struct terrace_tensor *t)
{
    if (t->region)
        return region_label(t->region);
    if (t->slab)
        return "pages of stable memory";
    if (t->group)
        return "a group of small tensors";
    return t->label ? t->label : "(unnamed)";
}

bool tensor_stored_locked(const struct terrace_tensor *t)
{
    if (t->blank || t->file_valid)
        return true;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (!tier_is_memory(&t->manager->tier[i]) && t->copy[i].state == COPY_VALID)
            return true;
    return false;
}

/* ---- errors of migrations ---------------------------------------------- */

void tensor_failed_locked(struct terrace_tensor *t, int error, const char *text)
{
    struct terrace *m = t->manager;
    m->stats.io_errors++;
    m->stats.corrupt += error == -TERRACE_ECORRUPT;
    t->errors++;
    t->error = error;
    t->unfilled = false;
    free(t->error_text);
    t->error_text = strdup(text);
    log_write(&m->log, TERRACE_LOG_ERROR, "%s", text);
}

int tensor_report_locked(struct terrace_tensor *t)
{
    int error = t->error;
    t->error = 0;
    t->unfilled = false;
    if (error)
        error_set(error, "%s", t->error_text ? t->error_text : terrace_strerror(error));
    return error;
}

/* ---- creating ---------------------------------------------------------- */

int tensor_attr_check(const terrace_tensor_attr *attr)
{
    if (!attr)
        return 0;
    if (attr->size != sizeof *attr)
        return error_set(-TERRACE_EINVAL, "terrace_tensor_attr.size is %zu; set it to "
                         "sizeof(terrace_tensor_attr), %zu", attr->size, sizeof *attr);
    if (attr->alignment & (attr->alignment - 1) || attr->alignment > MOST_ALIGNMENT)
        return error_set(-TERRACE_EINVAL, "an alignment of %zu bytes is not a power of two of at "
                         "most 2 MiB", attr->alignment);
    if (attr->role < TERRACE_ROLE_OTHER || attr->role > TERRACE_ROLE_KVCACHE)
        return error_set(-TERRACE_EINVAL, "%d is not a TERRACE_ROLE_...", attr->role);
    if (attr->flags & ~(unsigned)(TERRACE_ATTR_UNMOVABLE | TERRACE_ATTR_SVM))
        return error_set(-TERRACE_EINVAL, "0x%x has flags that are not TERRACE_ATTR_...", attr->flags);
    return 0;
}

static void tensor_free(struct terrace_tensor *t)
{
    free(t->label);
    free(t->path);
    free(t->error_text);
    free(t->file_seals);
    free(t->slab);
    handle_free(t);
}

static int tensor_new(struct terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                      struct terrace_tensor **out)
{
    if (bytes == 0 || bytes > SIZE_MAX / 4)
        return error_set(-TERRACE_EINVAL, "a tensor of %zu bytes cannot be made", bytes);
    int r = tensor_attr_check(attr);
    if (r)
        return r;
    struct terrace_tensor *t;
    size_t handle = round_up(sizeof *t + m->tiers * sizeof t->copy[0], LINE);
    t = aligned_alloc(LINE, handle); /* what is used most is in its first line */
    if (!t)
        return error_set(-TERRACE_ENOMEM, "no host memory for a tensor's handle");
    memset(t, 0, handle);
    t->manager = m;
    t->bytes = bytes;
    t->file_tier = -1;
    t->blank = true;
    for (unsigned i = 0; i < m->tiers; i++) {
        t->copy[i].tensor = t;
        t->copy[i].tier = (unsigned char)i;
        t->copy[i].node.item = &t->item;
    }
    if (attr) {
        t->role = attr->role;
        t->alignment = attr->alignment;
        t->flags = attr->flags;
    }
    if (attr && attr->label && !(t->label = strdup(attr->label))) {
        tensor_free(t);
        return error_set(-TERRACE_ENOMEM, "no host memory for a tensor's label");
    }
    *out = t;
    return 0;
}

/* Errors: as rules_place_locked. */
static int tensor_publish(struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    manager_lock(m);
    int r = rules_place_locked(t);
    if (r) {
        manager_unlock(m);
        return r;
    }
    leases_drain_locked(m);
    if (!LIST_EMPTY(&m->all))
        atomic_store_explicit(&LIST_FIRST(&m->all)->lease.beside, t, memory_order_relaxed);
    LIST_INSERT_HEAD(&m->all, t, all);
    schedule_created(&m->schedule, &t->item, t->label, t->bytes);
    if (t->file_valid)
        prefetch_absent_locked(m);
    m->stats.tensors++;
    m->stats.tensor_bytes += t->bytes;
    manager_unlock(m);
    return 0;
}

struct terrace_tensor *tensor_for_block(struct terrace *m, struct region *r, size_t index,
                                        size_t bytes)
{
    struct terrace_tensor *t;
    if (tensor_new(m, bytes, NULL, &t))
        return NULL;
    t->region = r;
    t->placement = placement_keep(r ? r->placement : NULL);
    t->index = index;
    LIST_INSERT_HEAD(&m->all, t, all);
    return t;
}

struct terrace_tensor *tensor_for_group(struct terrace *m, size_t bytes, struct placement *placement)
{
    struct terrace_tensor *t;
    if (tensor_new(m, bytes, NULL, &t))
        return NULL;
    t->group = true;
    t->placement = placement_keep(placement);
    LIST_INIT(&t->smalls);
    LIST_INSERT_HEAD(&m->all, t, all);
    schedule_created(&m->schedule, &t->item, NULL, bytes);
    return t;
}

int terrace_tensor_create(terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                          terrace_tensor **out)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (!out)
        return error_set(-TERRACE_EINVAL, "terrace_tensor_create: out is NULL");
    r = tensor_attr_check(attr);
    if (r)
        return r;
    r = small_create(m, bytes, attr, out);
    if (r <= 0)
        return r;
    struct terrace_tensor *t;
    r = tensor_new(m, bytes, attr, &t);
    if (r)
        return r;
    r = tensor_publish(t);
    if (r)
        tensor_free(t);
    else
        *out = t;
    return r;
}

static struct tier *file_tier(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (m->tier[i].lane && m->tier[i].backend->attach)
            return &m->tier[i];
    return NULL;
}

int terrace_tensor_open(terrace *m, const char *path, uint64_t offset, size_t bytes,
                        const terrace_tensor_attr *attr, terrace_tensor **out)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (!out || !path)
        return error_set(-TERRACE_EINVAL, "terrace_tensor_open: path or out is NULL");
    struct tier *disk = file_tier(m);
    if (!disk)
        return error_set(-TERRACE_ENOTSUP, "'%s' cannot be opened as a tensor: no tier reads files; "
                         "have a disk tier in TERRACE_TIERS", path);
    struct terrace_tensor *t = NULL;
    r = tensor_new(m, bytes, attr, &t);
    if (r || !t)
        return r;
    t->path = strdup(path);
    r = t->path ? disk->backend->attach(disk->unit, path, offset, bytes, &t->file_base)
                : error_set(-TERRACE_ENOMEM, "no host memory for a tensor's path");
    if (r) {
        tensor_free(t);
        return r;
    }
    t->blank = false;
    t->file_valid = true;
    t->file_tier = (signed char)(disk - m->tier);
    r = tensor_publish(t);
    if (r) {
        disk->backend->detach(disk->unit, t->file_base, t->bytes);
        tensor_free(t);
        return r;
    }
    *out = t;
    return 0;
}

/* ---- destroying -------------------------------------------------------- */

static bool pinned(const struct terrace_tensor *t)
{
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (t->copy[i].pins)
            return true;
    return false;
}

void tensor_reap_locked(struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    if (t->group)
        group_idle_locked(t);
    if (!t->doomed || t->busy || t->transfer || t->leaving || t->faulted || pinned(t))
        return;
    lane_unhint_locked(t);
    leases_drain_locked(m); /* no log speaks of it any more */
    for (unsigned i = 0; i < m->tiers; i++)
        copy_drop_locked(&t->copy[i]);
    live_forget_locked(m, t);
    LIST_REMOVE(t, all);
    if (!t->slab)
        schedule_gone(&m->schedule, &t->item);
    if (!t->region && !t->group && !t->slab) {
        m->stats.tensors--;
        m->stats.tensor_bytes -= t->bytes;
    }
    if (t->file_tier >= 0) {
        struct tier *disk = &m->tier[(unsigned char)t->file_tier];
        manager_unlock(m);
        disk->backend->detach(disk->unit, t->file_base, t->bytes);
        manager_lock(m);
    }
    placement_drop_locked(t->placement);
    tensor_free(t);
    m->releases++;
    lanes_poke_locked(m);
    manager_changed_locked(m);
}

/* Whether a stream, which may go on for long, waits for the bytes that are on their way. */
static bool awaited(const struct terrace_tensor *t)
{
    const struct copy *c = t->onward ? t->onward : t->transfer->writeback ? NULL : t->transfer->copy;
    return c && c->promised;
}

void tensor_doom_locked(struct terrace_tensor *t)
{
    t->doomed = true;
    lease_close_locked(t);
    if (t->transfer && !awaited(t))
        t->transfer->stale = true; /* a write-back need not be finished */
    t->manager->releases++;
    manager_changed_locked(t->manager); /* who waits for it learns that it is gone */
    tensor_reap_locked(t);
}

void terrace_tensor_destroy(terrace_tensor *t)
{
    if (!t || manager_check(t->manager))
        return;
    struct terrace *m = t->manager;
    manager_lock(m);
    if (t->small)
        small_destroy_locked(small_of(t));
    else
        tensor_doom_locked(t);
    manager_unlock(m);
    manager_decay(m);
}

int terrace_wait(terrace_tensor *t)
{
    if (!t)
        return error_set(-TERRACE_EINVAL, "terrace_wait: the tensor is NULL");
    int r = manager_check(t->manager);
    if (r)
        return r;
    struct terrace *m = t->manager;
    struct small *s = small_of(t);
    manager_lock(m);
    t = small_group(t);
    lease_close_locked(t);
    t->busy++;
    if (s)
        s->busy++;
    if (t->hinted) { /* a hint that waited for its turn */
        lane_unhint_locked(t);
        struct copy *c = &t->copy[t->hint_tier];
        if (c->state == COPY_ABSENT && !t->transfer)
            fill_start_locked(c, TERRACE_READ, true, true);
    }
    transfer_hurry_locked(t->transfer);
    while (t->transfer)
        manager_wait(m);
    t->busy--;
    r = s ? small_report_locked(s) : tensor_report_locked(t);
    tensor_reap_locked(t);
    if (s) {
        r = r ? small_failed(s, r) : r;
        s->busy--;
        small_reap_locked(s);
    }
    manager_unlock(m);
    return r;
}
