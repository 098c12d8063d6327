/* stream.c - uses of a copy that go on in a stream after its release.
 *
 * A device works through what is put into its streams while the host goes on. So a
 * release with a stream does not end the use of the bytes: it marks where in the
 * stream that ends. Until the device has got there the copy stays where it is, like
 * one that is pinned; but it excludes nobody: who wants it next in a stream has
 * that stream wait for it, and who wants the bytes elsewhere waits.
 *
 * An acquire need not wait for bytes that the backend is already copying to its
 * tier, either: the copy is promised, and the stream waits for it; where the backend
 * has gates, also for such as are still on their way to it (gate.c). If that copying
 * fails, the memory stays until the stream has done with it, and what it held before
 * is still where it came from.
 *
 * Of the uses of a copy by one stream only the last counts. Events are asked for by
 * the thread of the tier's lane, oldest first: nothing else here calls the backend
 * but acquire and release, and nobody does with the lock.
 *
 * May call: stream.h, gate.h, mover.h, lease.h. */
#include "stream.h"

#include <stdio.h>
#include <stdlib.h>

#include "gate.h"
#include "lease.h"
#include "mover.h"

static const int64_t SOON_NS = 20 * 1000;     /* to the next look where somebody waits */
static const int64_t LATER_NS = 1000 * 1000;  /* where nobody does */

struct use {
    TAILQ_ENTRY(use) order; /* in tier.uses, oldest first */
    struct use *next;       /* of the same copy */
    struct tier *tier;
    struct copy *copy; /* until it is over */
    void *stream;
    void *event;
    bool writes;
    unsigned held; /* by calls that use the event without the lock */
    bool over;     /* freed by the last of them */
};

/* ---- what is in the way ------------------------------------------------ */

/* A use in this mode comes after it. */
static bool comes_before(const struct use *u, unsigned mode)
{
    return u->writes || (mode & WRITES);
}

static bool excludes_locked(const struct copy *c, unsigned mode)
{
    if (c->will_write) /* although the stream may be done, the lane has not been told of the copying */
        return true;
    for (const struct use *u = c->uses; u; u = u->next)
        if (comes_before(u, mode))
            return true;
    return false;
}

bool stream_excludes_locked(const struct copy *c, unsigned mode, const void *stream)
{
    const struct terrace_tensor *t = c->tensor;
    bool found = false;
    for (unsigned i = 0; i < t->manager->tiers; i++) {
        const struct copy *x = &t->copy[i];
        if ((!x->uses && !x->will_write) || (x == c && stream != TERRACE_HOST_SYNC))
            continue;
        bool excludes = excludes_locked(x, mode);
        if (excludes)
            stream_hurry_locked(copy_tier(x));
        found |= excludes;
    }
    return found;
}

bool stream_writes_locked(const struct terrace_tensor *t)
{
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (excludes_locked(&t->copy[i], TERRACE_READ))
            return true;
    return false;
}

/* ---- the end of a use -------------------------------------------------- */

static void use_free(struct use *u)
{
    u->tier->backend->forget(u->tier->unit, u->event);
    free(u);
}

/* Off the lists; true: it is to be freed, without the lock. */
static bool use_ends_locked(struct use *u)
{
    struct use **link = &u->copy->uses;
    while (*link != u)
        link = &(*link)->next;
    *link = u->next;
    TAILQ_REMOVE(&u->tier->uses, u, order);
    u->over = true;
    u->copy->tensor->busy--;
    return u->held == 0;
}

/* What a copy's use held up may go on. */
static void use_ended_locked(struct copy *c)
{
    struct terrace *m = copy_manager(c);
    copy_stale_locked(c);
    copy_settle_locked(c);
    m->releases++;
    demote_pending_locked(c->tensor);
    lanes_poke_locked(m);
    tensor_reap_locked(c->tensor);
    manager_changed_locked(m);
}

/* ---- acquire ----------------------------------------------------------- */

int stream_check_locked(const struct request *q)
{
    int r = 0;
    if (q->stream == TERRACE_HOST_SYNC)
        return 0;
    for (size_t i = 0; r == 0 && i < q->n; i++) {
        const struct tier *tier = copy_tier(q->entry[i].copy);
        if (!tier_has_streams(tier) || (i && tier == copy_tier(q->entry[i - 1].copy)))
            continue;
        manager_unlock(q->m);
        r = tier->backend->follow(tier->unit, q->stream, NULL);
        manager_lock(q->m);
    }
    return r;
}

/* All that is missing of the copy is with its backend. */
static bool taken_locked(const struct copy *c)
{
    const struct transfer *x = c->tensor->transfer;
    return c->state == COPY_FILLING && !c->hollow && x && x->copy == c && x->lane->tier == copy_tier(c) &&
           transfer_is_taken(x);
}

bool stream_can_wait_locked(const struct copy *c, const void *stream)
{
    return stream != TERRACE_HOST_SYNC && tier_has_streams(copy_tier(c)) &&
           (taken_locked(c) || gate_serves_locked(c, stream));
}

/* Has the stream wait for the copies that the entry's backend has taken, and with it all
 * entries of that tier for which these suffice. */
static int follow_taken_locked(const struct request *q, const struct entry *e)
{
    struct tier *tier = copy_tier(e->copy);
    void *event;
    for (size_t i = 0; i < q->n; i++)
        q->entry[i].follows |= copy_tier(q->entry[i].copy) == tier && taken_locked(q->entry[i].copy);
    manager_unlock(q->m);
    int r = tier->backend->record(tier->unit, TERRACE_STREAM_COPIES, &event);
    if (r == 0) {
        r = tier->backend->follow(tier->unit, q->stream, event);
        tier->backend->forget(tier->unit, event);
    }
    manager_lock(q->m);
    return r;
}

/* Has the stream wait for the bytes that the entry was promised; where it cannot, the
 * host does, until the stream can. */
static int follow_entry_locked(const struct request *q, struct entry *e)
{
    bool refused = false;
    int r = 0;
    while (e->copy->promised && !e->follows && e->copy->state == COPY_FILLING) {
        if (taken_locked(e->copy)) {
            r = follow_taken_locked(q, e);
            break;
        }
        if (refused || !gate_serves_locked(e->copy, q->stream)) {
            manager_wait(q->m);
            continue;
        }
        r = gate_follow_locked(e->copy, q->stream);
        if (r != -TERRACE_EAGAIN) {
            e->follows = r == 0;
            break;
        }
        refused = true;
        r = 0;
    }
    return r;
}

/* The copies on their way of which the request was promised some. */
static int follow_copies_locked(const struct request *q)
{
    int r = 0;
    for (size_t i = 0; r == 0 && i < q->n; i++) {
        r = follow_entry_locked(q, &q->entry[i]);
        q->m->stats.stream_waits += q->entry[i].follows;
    }
    return r;
}

/* The uses that the stream is to wait for, at most `most`, held; returns how many
 * there are. */
static size_t to_follow_locked(const struct request *q, struct use **list, size_t most)
{
    size_t n = 0;
    for (size_t i = 0; i < q->n; i++)
        for (struct use *u = q->entry[i].copy->uses; u; u = u->next) {
            if (u->stream == q->stream || !comes_before(u, q->entry[i].mode))
                continue;
            if (n < most) {
                u->held++;
                list[n] = u;
            }
            n++;
        }
    return n;
}

/* Frees those that have ended meanwhile, giving up the lock. */
static void followed_locked(struct terrace *m, struct use **list, size_t n)
{
    size_t ended = 0;
    for (size_t i = 0; i < n; i++)
        if (--list[i]->held == 0 && list[i]->over)
            list[ended++] = list[i];
    if (!ended)
        return;
    manager_unlock(m);
    for (size_t i = 0; i < ended; i++)
        use_free(list[i]);
    manager_lock(m);
}

int stream_follow_locked(const struct request *q)
{
    struct use *few[STREAM_BATCH], **list = few;
    if (q->stream == TERRACE_HOST_SYNC)
        return 0;
    int r = follow_copies_locked(q);
    size_t n = to_follow_locked(q, few, 0);
    if (r || n == 0)
        return r;
    if (n > STREAM_BATCH)
        list = calloc(n, sizeof *list);
    if (!list)
        return error_set(-TERRACE_ENOMEM, "no host memory to follow %zu streams", n);
    to_follow_locked(q, list, n);
    manager_unlock(q->m);
    for (size_t i = 0; r == 0 && i < n; i++) {
        const struct tier *tier = list[i]->tier;
        r = tier->backend->follow(tier->unit, q->stream, list[i]->event);
    }
    manager_lock(q->m);
    followed_locked(q->m, list, n);
    if (list != few)
        free(list);
    return r;
}

/* ---- release ----------------------------------------------------------- */

/* The stream's earlier use of the copy, which the new one comes after. */
static struct use *use_of_locked(const struct copy *c, const void *stream)
{
    struct use *u = c->uses;
    while (u && u->stream != stream)
        u = u->next;
    return u;
}

int stream_release_locked(struct copy *c, void *stream)
{
    struct tier *tier = copy_tier(c);
    struct terrace *m = tier->manager;
    struct use *u = malloc(sizeof *u), *earlier;
    void *event = NULL;
    if (!u)
        return error_set(-TERRACE_ENOMEM, "no host memory to note the use of '%s'", tensor_name(c->tensor));
    manager_unlock(m); /* the pin keeps everything in its place */
    int r = tier->backend->record(tier->unit, stream, &event);
    manager_lock(m);
    if (r) {
        free(u);
        return r;
    }
    *u = (struct use){.tier = tier, .copy = c, .stream = stream, .event = event, .writes = copy_pinned_to_write(c)};
    earlier = use_of_locked(c, stream);
    if (earlier)
        u->writes |= earlier->writes;
    u->next = c->uses;
    c->uses = u;
    c->tensor->busy++;
    TAILQ_INSERT_TAIL(&tier->uses, u, order);
    manager_kick_locked(m, tier);
    if (earlier && use_ends_locked(earlier)) {
        manager_unlock(m);
        use_free(earlier);
        manager_lock(m);
    }
    return 0;
}

/* ---- the lane's part --------------------------------------------------- */

void stream_hurry_locked(struct tier *tier)
{
    if (TAILQ_EMPTY(&tier->uses) || tier->uses_sought)
        return;
    tier->uses_sought = true;
    manager_kick_locked(tier->manager, tier);
}

/* Enough of the same stream's come before it. */
static bool is_behind(const struct use *u, const struct stream_poll *p)
{
    unsigned n = 0;
    for (unsigned i = 0; i < p->n; i++)
        n += p->use[i]->stream == u->stream;
    return n == STREAM_BATCH / 4;
}

int64_t stream_poll_locked(struct tier *tier, struct stream_poll *p)
{
    enum { LOOK = 1024 };
    unsigned looks = 0;
    struct use *u;
    p->n = 0;
    TAILQ_FOREACH(u, &tier->uses, order) {
        if (p->n == STREAM_BATCH || looks++ == LOOK)
            break;
        if (is_behind(u, p))
            continue;
        u->held++;
        p->use[p->n++] = u;
    }
    return p->n == 0 ? -1 : tier->uses_more ? 0 : tier->uses_sought || tier->wanted ? SOON_NS : LATER_NS;
}

void stream_poll(struct tier *tier, struct stream_poll *p)
{
    for (unsigned i = 0; i < p->n; i++)
        p->result[i] = tier->backend->passed(tier->unit, p->use[i]->event);
}

/* How the device failed is the tensor's error: what was being written is lost. */
static void use_failed_locked(const struct use *u, int error)
{
    char text[ERROR_TEXT];
    snprintf(text, sizeof text, "'%s' on %s: the work in its stream failed: %s", tensor_name(u->copy->tensor),
             u->tier->name, terrace_strerror(error));
    if (u->writes)
        tensor_failed_locked(u->copy->tensor, error, text);
}

void stream_polled_locked(struct tier *tier, const struct stream_poll *p)
{
    struct use *ended[STREAM_BATCH];
    unsigned n = 0;
    for (unsigned i = 0; i < p->n; i++) {
        struct use *u = p->use[i];
        struct copy *c = u->copy;
        bool mine = !u->over && p->result[i] != 0;
        u->held--;
        if (mine && p->result[i] < 0)
            use_failed_locked(u, p->result[i]);
        if (mine ? use_ends_locked(u) : u->over && u->held == 0)
            ended[n++] = u;
        if (mine)
            use_ended_locked(c);
    }
    if (TAILQ_EMPTY(&tier->uses))
        tier->uses_sought = false;
    tier->uses_more = n && n == p->n;
    if (n == 0)
        return;
    manager_unlock(tier->manager);
    for (unsigned i = 0; i < n; i++)
        use_free(ended[i]);
    manager_lock(tier->manager);
}
