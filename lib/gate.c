/* gate.c - streams that wait for bytes whose last copy has not even begun.
 *
 * Bytes that come from a disk pass through memory of the host, and only then does the
 * backend learn of the copy that a stream could be told to wait for. So the stream is
 * told to wait for a gate, a word in memory that somebody will write: the device
 * itself, behind the last copy, and the host, once it knows of the copy's end, or that
 * the bytes will never come. The acquire returns meanwhile.
 *
 * While a stream waits so, the driver knows of no reason why: calls that allocate, map,
 * free or register memory may wait for the stream, and would so keep those from working
 * who are to open its gate. None is made meanwhile. Who has to make one waits for the
 * gates that there are, and until it has made it there are no new ones: then acquire
 * waits as it does without gates. A lane's thread makes none at all (EAGAIN), as it is
 * what opens gates; that is also why room for bytes is taken, on the device and on their
 * way there, before any stream waits.
 *
 * Work of others that itself waits for such a stream may stand before our copies in a
 * queue of the hardware. Nobody can tell, and neither would move again. So where a
 * tier's copies have not moved for very long while a stream waits for one of them, the
 * gate is broken: like one whose bytes could not be read.
 *
 * May call: gate.h, mover.h. */
#include "gate.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t gate_patience_ns = 30 * UINT64_C(1000000000);

struct gate {
    struct gate *next; /* in tier.gates_over */
    struct tier *tier;
    void *handle;   /* the backend's */
    unsigned held;  /* by calls that use it without the lock */
    bool told;      /* the device opens it, too */
    bool over;      /* in that list */
};

/* ---- how many there are -------------------------------------------------- */

static void fewer_locked(struct terrace *m)
{
    if (--m->gates)
        return;
    m->releases++; /* who was refused memory meanwhile asks again */
    lanes_poke_locked(m);
    manager_changed_locked(m);
}

void gates_settle_locked(struct terrace *m)
{
    while (m->gates)
        manager_wait(m);
}

bool gates_change_begins_locked(struct tier *tier)
{
    if (!gates_concern(tier))
        return false;
    tier->manager->changes++;
    gates_settle_locked(tier->manager);
    return true;
}

void gates_change_ended_locked(struct terrace *m, bool begun)
{
    if (begun && --m->changes == 0)
        manager_changed_locked(m);
}

/* ---- one gate ------------------------------------------------------------ */

static void drop_locked(struct gate *g)
{
    if (--g->held == 0 && g->over)
        manager_kick_locked(g->tier->manager, g->tier);
}

/* Has the device open it behind the copies that have been taken. Gives up the lock. */
static void tell_locked(struct gate *g)
{
    struct terrace *m = g->tier->manager;
    if (g->told)
        return;
    g->told = true;
    g->held++;
    manager_unlock(m);
    (void)g->tier->backend->gate_open(g->tier->unit, g->handle, TERRACE_GATE_AFTER_COPIES);
    manager_lock(m);
    drop_locked(g);
}

static void gate_free(struct gate *g)
{
    if (g->handle)
        g->tier->backend->gate_forget(g->tier->unit, g->handle);
    free(g);
}

/* The copy's gate. NULL: the copy needs none any more, or none can be had (*error).
 * Gives up the lock; the copy is pinned. */
static struct gate *gate_of_locked(struct copy *c, int *error)
{
    struct tier *tier = copy_tier(c);
    struct terrace *m = tier->manager;
    struct gate *g = c->gate ? NULL : calloc(1, sizeof *g);
    *error = 0;
    if (c->gate)
        return c->gate;
    if (!g) {
        *error = error_set(-TERRACE_ENOMEM, "no host memory to have a stream wait");
        return NULL;
    }
    g->tier = tier;
    if (m->gates++ == 0)
        for (unsigned i = 0; i < m->tiers; i++)
            manager_kick_locked(m, &m->tier[i]); /* to keep watch */
    manager_unlock(m);
    *error = tier->backend->gate(tier->unit, &g->handle);
    manager_lock(m);
    if (*error == 0 && !c->gate && c->state == COPY_FILLING)
        return c->gate = g;
    manager_unlock(m);
    gate_free(g);
    manager_lock(m);
    fewer_locked(m);
    return *error ? NULL : c->gate;
}

bool gate_serves_locked(const struct copy *c, const void *stream)
{
    const struct terrace_tensor *t = c->tensor;
    const struct transfer *x = t->transfer;
    return copy_tier(c)->backend->gate && stream != TERRACE_HOST_SYNC && !t->manager->changes &&
           c->state == COPY_FILLING && !c->hollow && x && !x->writeback &&
           (t->onward == c || (x->copy == c && !x->error && !x->stale));
}

int gate_follow_locked(struct copy *c, void *stream)
{
    struct tier *tier = copy_tier(c);
    struct terrace *m = tier->manager;
    int r;
    struct gate *g = gate_of_locked(c, &r);
    if (!g)
        return r;
    g->held++;
    manager_unlock(m);
    r = tier->backend->gate_follow(tier->unit, stream, g->handle);
    manager_lock(m);
    if (c->gate == g && c->tensor->transfer) /* it may have been taken while there was no gate to open */
        gate_taken_locked(c->tensor->transfer);
    drop_locked(g);
    return r;
}

void gate_taken_locked(struct transfer *x)
{
    if (x->copy->gate && x->lane->tier == copy_tier(x->copy) && transfer_is_taken(x))
        tell_locked(x->copy->gate);
}

/* ---- its end ------------------------------------------------------------- */

void gate_over_locked(struct copy *c)
{
    struct gate *g = c->gate;
    if (!g)
        return;
    c->gate = NULL;
    g->over = true;
    g->next = g->tier->gates_over;
    g->tier->gates_over = g;
    manager_kick_locked(g->tier->manager, g->tier);
}

/* One that nobody uses just now, off the list. */
static struct gate *next_over_locked(struct tier *tier)
{
    struct gate **link = &tier->gates_over, *g;
    while (*link && (*link)->held)
        link = &(*link)->next;
    g = *link;
    if (g)
        *link = g->next;
    return g;
}

void gates_end_locked(struct tier *tier)
{
    struct terrace *m = tier->manager;
    struct gate *g;
    while ((g = next_over_locked(tier)) != NULL) {
        manager_unlock(m);
        (void)tier->backend->gate_open(tier->unit, g->handle, TERRACE_GATE_NOW);
        gate_free(g);
        manager_lock(m);
        fewer_locked(m);
    }
}

/* ---- copies that do not move --------------------------------------------- */

/* The thread that would see to it may itself be stuck, in a call to the driver. */
static void break_locked(struct tier *tier)
{
    struct terrace_tensor *t;
    LIST_FOREACH(t, &tier->manager->all, all) {
        struct transfer *x = t->transfer;
        if (x && !x->writeback && copy_tier(x->copy) == tier && x->copy->gate && x->in_flight) {
            x->stuck = true;
            gate_over_locked(x->copy);
        }
    }
    gates_end_locked(tier);
}

void gate_stuck_locked(struct transfer *x)
{
    char text[ERROR_TEXT];
    if (!x->stuck)
        return;
    snprintf(text, sizeof text, "'%.80s': the copies to %s have not moved for %.1f s while a stream waited for them: "
             "the work of streams that wait for that one may stand before them in a queue of the hardware; have more "
             "of these queues, or acquire with TERRACE_HOST_SYNC", tensor_name(x->tensor), copy_tier(x->copy)->name,
             (double)gate_patience_ns * 1e-9);
    transfer_fail(x, -TERRACE_EIO, text);
}

int64_t gates_watch_locked(struct terrace *m)
{
    int64_t look = -1;
    for (unsigned i = 0; m->gates && i < m->tiers; i++) {
        const struct lane *lane = m->tier[i].lane;
        if (!m->tier[i].backend->gate || !lane)
            continue;
        uint64_t still = lane->in_flight ? clock_ns() - lane->busy_since : 0;
        if (still >= gate_patience_ns)
            break_locked(&m->tier[i]);
        else if (look < 0 || (int64_t)(gate_patience_ns - still) < look)
            look = (int64_t)(gate_patience_ns - still);
    }
    return look;
}
