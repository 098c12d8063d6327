/* acquire.c - acquire, acquire_all and release.
 *
 * Every acquire is an acquire of a list, all or none:
 *  1. nothing is touched until no other user excludes any entry;
 *  2. all entries are pinned, which keeps others from excluding or evicting
 *     them from now on;
 *  3. every copy is made present; this waits for I/O, never for other users;
 *  4. the whole has succeeded: what will be written becomes the only valid copy.
 * Failing at 3 for want of room that only a release can give, the pins go back
 * and, with TERRACE_WAIT, it starts over after the next release: so no thread
 * waits for others while it holds a part. A resident tensor takes none of the
 * waiting paths, and most uses of one need not even the lock: see lease.c.
 *
 * The caller's memory may be stable memory, whose faults need the lock: it is
 * neither read nor written while that is held.
 *
 * A small tensor is acquired by pinning its group: there `tensor` is the group.
 *
 * May call: acquire.h, core.h, gate.h, lease.h, moved.h, mover.h, prefetch.h, small.h, stream.h, view.h. */
#include <stdlib.h>

#include "acquire.h"
#include "gate.h"
#include "lease.h"
#include "moved.h"
#include "mover.h"
#include "prefetch.h"
#include "small.h"
#include "stream.h"
#include "view.h"

enum { SHORT_LIST = 16 };

static void stall_begins(struct request *q)
{
    if (!q->start)
        q->start = clock_ns();
}

/* ---- checking ----------------------------------------------------------- */

static int mode_check(unsigned mode)
{
    unsigned use = mode & (TERRACE_READ | WRITES);
    unsigned known = TERRACE_READ | WRITES | TERRACE_WAIT | TERRACE_NOWAIT;
    if ((mode & ~known) || use == 0 || (use & WRITES) == WRITES ||
        use == (TERRACE_READ | TERRACE_OVERWRITE))
        return error_set(-TERRACE_EINVAL, "mode 0x%x is not one of READ, WRITE, READ|WRITE and "
                         "OVERWRITE, with WAIT or NOWAIT", mode);
    if ((mode & TERRACE_WAIT) && (mode & TERRACE_NOWAIT))
        return error_set(-TERRACE_EINVAL, "WAIT and NOWAIT exclude each other");
    return 0;
}

/* Whether another user excludes the entry. Sets the sentence. */
static int excluded_locked(const struct entry *e, bool *by_caller)
{
    struct terrace_tensor *t = e->copy->tensor;
    if (e->small && e->small->moving && (e->mode & WRITES)) {
        *by_caller = false;
        return error_set(-TERRACE_EBUSY, "'%s' is being read on another tier", entry_name(e));
    }
    for (unsigned i = 0; i < t->manager->tiers; i++) {
        const struct copy *other = &t->copy[i];
        if (other == e->copy || !other->pins)
            continue;
        if ((e->mode & WRITES) || copy_pinned_to_write(other)) {
            *by_caller = copy_pinned_by_caller(other);
            return error_set(-TERRACE_EBUSY, "'%s' is acquired on %s%s, which excludes this use on %s",
                             entry_name(e), copy_tier(other)->name,
                             copy_pinned_to_write(other) ? " for writing" : "",
                             copy_tier(e->copy)->name);
        }
    }
    return 0;
}

/* ---- making present ---------------------------------------------------- */

static int not_yet(const struct entry *e)
{
    return error_set(-TERRACE_EAGAIN, "'%s' is on its way; ask again", entry_name(e));
}

static int gone(const struct entry *e)
{
    return error_set(-TERRACE_EINVAL, "'%s' was destroyed", entry_name(e));
}

/* Bytes that were promised have not come, and somebody still holds the memory. */
static int spoiled(const struct entry *e)
{
    return error_set(-TERRACE_EBUSY, "'%s' could not be brought to %s, where an acquire was promised it: release "
                     "that first", entry_name(e), copy_tier(e->copy)->name);
}

static bool doomed_locked(const struct entry *e)
{
    return e->small ? e->small->doomed : e->tensor->doomed;
}

/* How the bytes that migrate are used. */
static unsigned mode_locked(const struct entry *e)
{
    return e->small ? small_mode_locked(e->small, e->copy, e->mode) : e->mode;
}

/* The failure of a migration, if it has not been reported yet. */
static int report_locked(const struct entry *e)
{
    if (!e->small)
        return tensor_report_locked(e->tensor);
    int r = small_report_locked(e->small);
    return r ? small_failed(e->small, r) : 0;
}

static bool unfilled_locked(const struct entry *e)
{
    return e->small ? small_unfilled_locked(e->small) : e->tensor->unfilled;
}

/* Whether the stream may be told to wait until the bytes have come all the way. */
static bool has_gates(const struct request *q, const struct copy *c)
{
    return copy_tier(c)->backend->gate && q->stream != TERRACE_HOST_SYNC && !q->nowait;
}

/* Starts to bring an absent copy in; 1: that took waiting for room. */
static int start_locked(struct request *q, struct entry *e, bool wait)
{
    bool gated = wait && has_gates(q, e->copy);
    if (e->small && !e->tensor->blank)
        group_sought_locked(e->tensor, copy_tier(e->copy));
    int r = gated ? fill_for_stream_locked(e->copy, mode_locked(e), true) : fill_try_locked(e->copy, mode_locked(e), wait);
    if (no_memory(r) && choose_other_locked(e)) {
        q->moves = true;
        return r;
    }
    if (no_memory(r)) /* then something has to leave */
        r = gated ? fill_for_stream_locked(e->copy, mode_locked(e), false)
                  : fill_start_locked(e->copy, mode_locked(e), wait, false);
    if (r == -TERRACE_EAGAIN)
        return not_yet(e);
    return r < 0 && e->small ? small_failed(e->small, r) : r;
}

/* Brings one copy in, or starts to with `wait` false. */
static int present_locked(struct request *q, struct entry *e, bool wait)
{
    struct copy *c = e->copy;
    struct terrace_tensor *t = c->tensor;
    uint64_t errors = t->errors;
    for (;;) {
        if (doomed_locked(e))
            return gone(e);
        /* Bytes being sealed may not change: they would not match their seal. */
        bool sealing = q->m->sealer && t->transfer && t->transfer->writeback &&
                       (mode_locked(e) & WRITES);
        if (stream_excludes_locked(c, mode_locked(e), q->stream)) {
            e->hit = false;
            if (!wait)
                return not_yet(e);
            stall_begins(q);
            manager_wait(q->m);
            continue;
        }
        if (c->state == COPY_VALID && !sealing)
            return 0;
        if (c->state == COPY_FILLING && c->hollow == thread_token())
            return 0;
        bool half = wait && has_gates(q, c) && fill_leads_on(t->transfer, c); /* the other half can be prepared */
        if (c->state == COPY_ABSENT && (!t->transfer || half)) {
            int r = 0;
            if (t->errors != errors || (q->nowait && unfilled_locked(e)))
                r = report_locked(e);
            if (r)
                return r;
            errors = t->errors; /* if another was told of it, this one tries again */
            r = start_locked(q, e, wait);
            if (r < 0)
                return r;
            e->hit &= r == 0;
            continue;
        }
        e->hit = false;
        if (stream_can_wait_locked(c, q->stream) && !q->nowait)
            return 0;
        if (c->state == COPY_STALE && c->promised)
            return spoiled(e);
        if (sealing)
            t->transfer->stale = true;
        transfer_hurry_locked(t->transfer); /* also another copy's: one at a time */
        if (!wait)
            return not_yet(e);
        stall_begins(q);
        if (c->hollow) { /* of a list that may be waiting for one of ours */
            q->hollow = c;
            return not_yet(e);
        }
        manager_wait(q->m);
    }
}

static int present_all_locked(struct request *q)
{
    int r = 0;
    for (size_t i = 0; q->n > 1 && !q->nowait && i < q->n; i++) /* all under way before the first is waited for */
        if (present_locked(q, &q->entry[i], false) < 0 && q->moves)
            return -TERRACE_ENOMEM;
    for (size_t i = 0; r == 0 && i < q->n; i++)
        r = present_locked(q, &q->entry[i], !q->nowait);
    return r;
}

/* ---- pinning ----------------------------------------------------------- */

static int pin_all_locked(struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        e->hit = true;
        int r = copy_pin_locked(e->copy, e->mode & WRITES);
        if (r) {
            while (i--)
                copy_unpin_locked(q->entry[i].copy);
            return r;
        }
    }
    return 0;
}

/* The failed acquire leaves everything as it was. */
static void unpin_all_locked(struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        struct copy *c = q->entry[i].copy;
        copy_unpin_locked(c);
        if (c->hollow == thread_token())
            copy_drop_locked(c); /* whoever else wants it brings the bytes */
        copy_stale_locked(c);
        copy_settle_locked(c);
    }
    manager_changed_locked(q->m);
}

static void succeed_locked(struct request *q)
{
    terrace_statistics *stats = &q->m->stats;
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        struct copy *c = e->copy;
        struct policy *policy = &copy_tier(c)->policy;
        bool writes = e->small ? small_acquired_locked(e->small, c, e->mode) : e->mode & WRITES;
        if (c->hollow) {
            c->hollow = 0;
            copy_set_locked(c, COPY_VALID);
            policy_arrived(policy, &c->node, false);
            manager_changed_locked(q->m);
        }
        prefetch_used_locked(c->tensor, c->tier, e->mode, prefetch_time_locked(q->m, q->start));
        policy_used(policy, &c->node);
        if (c->node.ahead) {
            stats->prefetch_hits += e->hit;
            copy_not_ahead_locked(c);
            if (e->small)
                group_sought_locked(e->tensor, copy_tier(c));
        }
        c->promised = c->state == COPY_FILLING;
        if (writes && c->promised)
            c->will_write = true; /* until then the bytes are needed where they come from */
        else if (writes)
            copy_written_locked(c);
        if (!e->small)
            c->tensor->error = 0;
        c->tensor->unfilled = false;
        c->tensor->demoted = false;
        if (c->tensor->transfer)
            c->tensor->transfer->drop = false;
        e->address = (char *)view_address(c) + (e->small ? e->small->offset : 0);
        stats->acquires++;
        stats->hits += e->hit;
    }
}

/* ---- waiting for others ------------------------------------------------ */

/* Whether the calling thread's own pins leave no room for the list, so that
 * no release by others could help. */
static bool own_pins_exceed_locked(const struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        struct tier *tier = copy_tier(q->entry[i].copy);
        uint64_t own = 0, need = 0;
        struct copy *c;
        TAILQ_FOREACH(c, &tier_pinned_locked(tier)->pinned, held)
            if (copy_pinned_by_caller(c) && c->extent)
                own += c->extent->bytes;
        for (size_t j = 0; j < q->n; j++) {
            const struct copy *x = q->entry[j].copy;
            bool seen = x->pins && copy_pinned_by_caller(x);
            for (size_t k = 0; k < j; k++)
                seen |= q->entry[k].copy == x;
            if (copy_tier(x) == tier && !seen)
                need += arena_round(&tier->arena, x->tensor->bytes);
        }
        uint64_t staging = tier->staging;
        if (own + need + staging > tier->arena.ceiling)
            return true;
    }
    return false;
}

/* Whether another thread has a pin where the list wants room: only its release
 * can make some. */
static bool others_pin_locked(const struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        const struct copy *c;
        TAILQ_FOREACH(c, &tier_pinned_locked(copy_tier(q->entry[i].copy))->pinned, held)
            for (const struct pin *p = c->pins; p; p = p->next)
                if (p->thread != thread_token())
                    return true;
    }
    return false;
}

/* Whether a release could help: all that there is room for is in use. */
static bool no_room_locked(const struct request *q, int r)
{
    for (size_t i = 0; no_memory(r) && i < q->n; i++)
        if (tier_full_locked(copy_tier(q->entry[i].copy)))
            return true;
    return r == -TERRACE_EBUDGET;
}

/* One try at the list. WAIT may help where `retry` comes back true. */
static int try_locked(struct request *q, bool *retry)
{
    bool by_caller = false;
    *retry = false;
    for (size_t i = 0; i < q->n; i++) {
        int r = excluded_locked(&q->entry[i], &by_caller);
        if (r) {
            *retry = !by_caller;
            return r;
        }
    }
    int r = pin_all_locked(q);
    if (r)
        return r;
    r = stream_check_locked(q);
    do { /* until nothing is missing: making a view gives up the lock */
        if (r >= 0)
            r = present_all_locked(q);
        if (r == 0)
            r = view_make_locked(q);
    } while (r > 0);
    if (r == 0) {
        succeed_locked(q);
        r = stream_follow_locked(q);
    }
    if (r == 0)
        return 0;
    unpin_all_locked(q);
    *retry = no_room_locked(q, r) && others_pin_locked(q) && !own_pins_exceed_locked(q);
    return r;
}

static int request_locked(struct request *q)
{
    for (;;) {
        uint64_t releases = q->m->releases;
        bool retry;
        q->hollow = NULL;
        q->moves = false;
        int r = try_locked(q, &retry);
        if (r && q->moves && (r = choose_moved_locked(q)) == 0)
            continue;
        if (r && q->hollow) { /* it will succeed or fail soon */
            while (q->hollow->hollow)
                manager_wait(q->m);
            continue;
        }
        if (r == 0)
            return r;
        if (!q->wait || !retry) {
            q->m->releases++; /* its pins may have been in somebody's way */
            return r;
        }
        stall_begins(q);
        q->m->waiting++; /* so that releases are noticed */
        for (unsigned i = 0; i < q->m->tiers; i++)
            leases_close_locked(&q->m->tier[i]);
        while (q->m->releases == releases)
            manager_wait(q->m);
        q->m->waiting--;
    }
}

/* ---- the public functions ---------------------------------------------- */

/* The usual case: everything is there, nobody else is in the way, and neither
 * waiting nor giving up can come up. */
static bool succeed_at_once_locked(struct request *q)
{
    bool by_caller;
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        if (e->copy->state != COPY_VALID || doomed_locked(e))
            return false;
        if (e->tensor->transfer && (mode_locked(e) & WRITES))
            return false;
        if (excluded_locked(e, &by_caller) || stream_excludes_locked(e->copy, mode_locked(e), q->stream))
            return false;
        if (copy_tier(e->copy)->backend->view && !e->copy->view)
            return false;
        if (tier_has_streams(copy_tier(e->copy)) && q->stream != TERRACE_HOST_SYNC)
            return false;
    }
    if (pin_all_locked(q))
        return false;
    succeed_locked(q);
    return true;
}

/* What of the list was waited for. */
static const char *stalled_for(const struct request *q)
{
    size_t i = 0;
    while (i + 1 < q->n && q->entry[i].hit)
        i++;
    return entry_name(&q->entry[i]);
}

static int request_run_locked(struct request *q)
{
    if (succeed_at_once_locked(q))
        return 0;
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        e->tensor->busy++;
        if (e->small)
            e->small->busy++;
        if (e->copy->state != COPY_VALID)
            stall_begins(q);
    }
    int r = request_locked(q);
    if (q->start)
        stalled_locked(q->m, q->start, stalled_for(q), false);
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        e->tensor->busy--;
        tensor_reap_locked(e->tensor);
        if (e->small) {
            e->small->busy--;
            small_reap_locked(e->small);
        }
    }
    return r;
}

static __attribute__((noinline)) int acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void *stream,
                                             void **address, terrace_tier *where)
{
    struct terrace *m = t->manager;
    int r = manager_check(m);
    if (r == 0)
        r = mode_check(mode);
    if (r == 0)
        r = small_prepare(t, tier, mode);
    if (r)
        return r;
    manager_lock(m);
    struct entry e = {.tensor = small_group(t), .small = small_of(t), .tier = tier, .mode = mode};
    lease_close_locked(e.tensor);
    struct request q = {.m = m, .entry = &e, .n = 1, .stream = stream, .wait = mode & TERRACE_WAIT,
                        .nowait = mode & TERRACE_NOWAIT};
    r = doomed_locked(&e) ? gone(&e) : choose_all_locked(&q);
    if (r == 0)
        r = request_run_locked(&q);
    terrace_tier chosen = r == 0 ? e.copy->tier : 0;
    manager_unlock(m);
    if (r)
        return r;
    *address = e.address;
    if (where)
        *where = chosen;
    return 0;
}

int terrace_acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void *stream,
                    void **address, terrace_tier *where)
{
    if (!t || !address)
        return error_set(-TERRACE_EINVAL, "terrace_acquire: the tensor or address is NULL");
    return lease_acquire(t, tier, mode, address, where) ? 0 : acquire(t, tier, mode, stream, address, where);
}

static int list_check(const terrace_access *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (list[i].size != sizeof list[i])
            return error_set(-TERRACE_EINVAL, "entry %zu: terrace_access.size is %zu; set it to "
                             "sizeof(terrace_access), %zu", i, list[i].size, sizeof list[i]);
        if (!list[i].tensor)
            return error_set(-TERRACE_EINVAL, "entry %zu: the tensor is NULL", i);
        if (list[i].tensor->manager != list[0].tensor->manager)
            return error_set(-TERRACE_EINVAL, "entry %zu: its tensor belongs to another manager", i);
        int r = mode_check(list[i].mode);
        if (r)
            return r;
    }
    return 0;
}

static int list_run_locked(struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        if (q->entry[i].small)
            q->entry[i].tensor = q->entry[i].small->group; /* it may have moved */
        lease_close_locked(q->entry[i].tensor);
    }
    int r = choose_all_locked(q);
    return r ? r : request_run_locked(q);
}

static int list_take(struct request *q, const terrace_access *list)
{
    for (size_t i = 0; i < q->n; i++) {
        q->entry[i] = (struct entry){.tensor = list[i].tensor,
                                     .small = small_of(list[i].tensor),
                                     .tier = list[i].tier, .mode = list[i].mode};
        q->wait |= (list[i].mode & TERRACE_WAIT) != 0;
        q->nowait |= (list[i].mode & TERRACE_NOWAIT) != 0;
    }
    if (q->wait && q->nowait)
        return error_set(-TERRACE_EINVAL, "WAIT and NOWAIT exclude each other in one list");
    unsigned how = q->wait ? TERRACE_WAIT : q->nowait ? TERRACE_NOWAIT : 0;
    int r = 0;
    for (size_t i = 0; r == 0 && i < q->n; i++)
        r = small_prepare(list[i].tensor, list[i].tier, list[i].mode | how);
    return r;
}

int terrace_acquire_all(terrace_access *list, size_t n, void *stream)
{
    if (n == 0)
        return 0;
    if (!list)
        return error_set(-TERRACE_EINVAL, "terrace_acquire_all: the list is NULL");
    if (!list[0].tensor)
        return error_set(-TERRACE_EINVAL, "entry 0: the tensor is NULL");
    struct terrace *m = list[0].tensor->manager;
    int r = manager_check(m);
    if (r == 0)
        r = list_check(list, n);
    if (r)
        return r;
    struct entry few[SHORT_LIST];
    struct request q = {.m = m, .entry = n <= SHORT_LIST ? few : calloc(n, sizeof few[0]), .n = n,
                        .stream = stream};
    if (!q.entry)
        return error_set(-TERRACE_ENOMEM, "no host memory for a list of %zu", n);
    r = list_take(&q, list);
    if (r == 0) {
        manager_lock(m);
        r = list_run_locked(&q);
        manager_unlock(m);
    }
    for (size_t i = 0; r == 0 && i < n; i++) {
        list[i].address = q.entry[i].address;
        list[i].where = q.entry[i].copy->tier;
    }
    if (q.entry != few)
        free(q.entry);
    return r;
}

static struct copy *pinned_at_locked(struct terrace_tensor *t, const void *address)
{
    for (unsigned i = 0; i < t->manager->tiers; i++) {
        struct copy *c = &t->copy[i];
        bool held = c->pins && (c->state == COPY_VALID || c->promised);
        if (held && view_address(c) == address)
            return c;
    }
    return NULL;
}

/* Why the bytes have not come; also where somebody else has been told. */
static int promise_broken_locked(const struct copy *c, struct small *s)
{
    int r = s ? small_report_locked(s) : tensor_report_locked(c->tensor);
    return r ? r : error_set(c->broken, "'%s' could not be brought to %s, where it was acquired: %s",
                             s ? small_name(s) : tensor_name(c->tensor), copy_tier(c)->name, terrace_strerror(c->broken));
}

static __attribute__((noinline)) int release(terrace_tensor *t, void *address, void *stream)
{
    struct terrace *m = t->manager;
    int r = manager_check(m);
    if (r)
        return r;
    struct small *s = small_of(t);
    manager_lock(m);
    struct small_left *left = s ? small_left_at_locked(s, address) : NULL;
    t = left ? left->group : small_group(t);
    lease_close_locked(t);
    struct copy *c = NULL;
    if (!s || left || s->pins)
        c = pinned_at_locked(t, (char *)address - (left ? left->offset : s ? s->offset : 0));
    if (!c) {
        manager_unlock(m);
        return error_set(-TERRACE_EINVAL, "'%s' is not acquired at %p",
                         s ? small_name(s) : tensor_name(t), address);
    }
    if (tier_has_streams(copy_tier(c)) && stream != TERRACE_HOST_SYNC)
        r = stream_release_locked(c, stream);
    if (r && r != -TERRACE_EDEVICE) { /* as if it had not been called; on a lost device all use has ended */
        manager_unlock(m);
        return r;
    }
    copy_unpin_locked(c);
    m->releases++;
    if (c->state == COPY_STALE && c->promised) /* it had been promised its bytes */
        r = promise_broken_locked(c, s);
    if (!c->pins) {
        copy_stale_locked(c);
        policy_used(&copy_tier(c)->policy, &c->node);
        lease_open_locked(c);
        copy_settle_locked(c);
        demote_pending_locked(t);
        lanes_poke_locked(m);
        tensor_reap_locked(t);
    }
    manager_changed_locked(m);
    if (s)
        small_released_locked(s, left);
    manager_unlock(m);
    return r;
}

int terrace_release(terrace_tensor *t, void *address, void *stream)
{
    if (!t)
        return error_set(-TERRACE_EINVAL, "terrace_release: the tensor is NULL");
    return lease_release(t, address) ? 0 : release(t, address, stream);
}
