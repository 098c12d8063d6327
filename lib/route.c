/* route.c - by which way bytes get from one tier to another: between devices it is chosen,
 * by what is measured; and it is told to people.
 *
 * Devices of one make may reach each other's memory. Whether that is faster than through
 * the host depends on what is between them. So each way has its turn with the first larger
 * tensors, and what it does then decides.
 *
 * May call: core.h, mover.h, process.h, relay.h, the backends' tables. */
#include "route.h"

#include <stdio.h>
#include <stdlib.h>

#include "mover.h"
#include "process.h"
#include "relay.h"

static const uint64_t WORTH_MEASURING = 1u << 20; /* bytes */
enum { LOOK_AGAIN = 256, LOOK = 8 /* transfers */ };
enum { PEER_AUTO, PEER_OFF }; /* as TERRACE_PEER lists them */

/* What one way does: bytes over the time in which something is on it, and nothing on the
 * other way, which may be in line before it. */
struct rate {
    unsigned active;        /* transfers */
    bool mixed;             /* there were some on the other way, too */
    uint64_t since;         /* while there are any: what came before is in the rest */
    uint64_t bytes, ns;     /* of the measurement under way */
    uint64_t is;            /* per second; 0: not known */
};

/* From one tier to another. */
struct peer {
    bool reaches;
    struct rate straight, staged;
    uint64_t chosen; /* transfers worth measuring, so far */
};

struct peers {
    struct peer from[MAX_TIERS][MAX_TIERS];
};

/* ---- between devices ----------------------------------------------------- */

static struct peer *peer_of(const struct tier *from, const struct tier *to)
{
    struct terrace *m = to->manager;
    struct peer *p = m->peers ? &m->peers->from[from - m->tier][to - m->tier] : NULL;
    return p && p->reaches ? p : NULL;
}

static bool may_reach(const struct tier *from, const struct tier *to)
{
    return from != to && from->backend == to->backend && to->backend->peer && to->lane && tier_is_memory(to) &&
           !(to->backend->caps & TERRACE_CAP_CPU);
}

/* Which devices reach each other is seen by the program, too: where that knows nothing of
 * terrace, it stays its own affair. What the thread's last failure was stays so. */
void routes_open(struct terrace *m)
{
    char before[ERROR_TEXT];
    if (m->options.value[OPT_PEER].number == PEER_OFF || process_is_opening())
        return;
    snprintf(before, sizeof before, "%s", terrace_last_error());
    for (struct tier *from = m->tier; from < m->tier + m->tiers; from++)
        for (struct tier *to = m->tier; to < m->tier + m->tiers; to++) {
            if (!may_reach(from, to) || (!m->peers && !(m->peers = calloc(1, sizeof *m->peers))))
                continue;
            bool reaches = to->backend->peer(to->unit, from->unit) == 0;
            m->peers->from[from - m->tier][to - m->tier].reaches = reaches;
            if (!reaches)
                log_write(&m->log, TERRACE_LOG_INFO, "%s is not reached from %s: %s", from->name, to->name,
                          terrace_last_error());
        }
    error_record("%s", before);
}

void routes_close(struct terrace *m)
{
    free(m->peers);
    m->peers = NULL;
}

bool route_reaches(const struct tier *from, const struct tier *to)
{
    return peer_of(from, to) != NULL;
}

uint64_t route_rate(const struct tier *from, const struct tier *to)
{
    const struct peer *p = peer_of(from, to);
    return p ? p->straight.is : 0;
}

enum way route_faster(uint64_t peer, uint64_t relay, uint64_t nth)
{
    if (!peer || !relay)
        return peer ? WAY_RELAY : WAY_PEER;
    enum way best = relay > peer + peer / 4 ? WAY_RELAY : WAY_PEER;
    if (nth % LOOK_AGAIN < LOOK && nth >= LOOK_AGAIN)
        return best == WAY_PEER ? WAY_RELAY : WAY_PEER;
    return best;
}

static bool staged_is_faster(const struct peer *p)
{
    return p->straight.is && p->staged.is > p->straight.is + p->straight.is / 4;
}

enum way route_choose_locked(const struct terrace_tensor *t, const struct tier *from, const struct tier *to)
{
    struct peer *p = peer_of(from, to);
    bool relays = relay_leads(t, from, to);
    if (!p)
        return relays ? WAY_RELAY : WAY_NONE;
    if (!relays)
        return WAY_PEER;
    if (t->bytes < WORTH_MEASURING) /* it would tell nothing of the other way */
        return staged_is_faster(p) ? WAY_RELAY : WAY_PEER;
    return route_faster(p->straight.is, p->staged.is, ++p->chosen);
}

/* Both ways; NULL: there is no choice. */
static struct peer *ways_of(const struct tier *from, const struct tier *to)
{
    struct terrace *m = to->manager;
    return m->peers ? &m->peers->from[from - m->tier][to - m->tier] : NULL;
}

void route_begins_locked(const struct tier *from, const struct tier *to, enum way way)
{
    struct peer *p = ways_of(from, to);
    if (!p)
        return;
    struct rate *r = way == WAY_PEER ? &p->straight : &p->staged;
    if (r->active++ == 0)
        r->since = clock_ns();
    if (p->straight.active && p->staged.active)
        p->straight.mixed = p->staged.mixed = true;
}

static void rate_learn(struct rate *r, uint64_t bytes, uint64_t ns)
{
    r->bytes += bytes;
    r->ns += ns;
    if (r->bytes < WORTH_MEASURING)
        return;
    uint64_t is = (uint64_t)((double)r->bytes * 1e9 / (double)(r->ns + 1)) + 1;
    r->is = r->is ? (3 * r->is + is) / 4 : is;
    r->bytes = r->ns = 0;
}

void route_ends_locked(const struct tier *from, const struct tier *to, enum way way, uint64_t bytes)
{
    struct peer *p = ways_of(from, to);
    if (!p)
        return;
    struct rate *r = way == WAY_PEER ? &p->straight : &p->staged;
    uint64_t now = clock_ns();
    r->active--;
    if (!r->mixed)
        rate_learn(r, bytes, now - r->since);
    r->mixed = r->active && (r->mixed && (way == WAY_PEER ? p->staged.active : p->straight.active));
    r->since = now;
}

void route_fails_locked(const struct tier *from, const struct tier *to)
{
    struct peer *p = peer_of(from, to);
    if (p)
        p->reaches = false;
}

/* ---- for people ---------------------------------------------------------- */

static const struct tier *host_between(struct terrace *m, const struct tier *a, const struct tier *b)
{
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *host = &m->tier[i];
        if (host != a && host != b && (host->backend->caps & TERRACE_CAP_CPU) && transfer_lane(a, host) &&
            transfer_lane(host, b))
            return host;
    }
    return NULL;
}

int terrace_route(terrace *m, terrace_tier from, terrace_tier to, char *buf, size_t len)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (from < 0 || to < 0 || (unsigned)from >= m->tiers || (unsigned)to >= m->tiers || from == to || !buf || len == 0)
        return error_set(-TERRACE_EINVAL, "terrace_route: %d and %d are not two tiers of this manager, or buf is NULL",
                         from, to);
    const struct tier *a = &m->tier[from], *b = &m->tier[to], *host;
    manager_lock(m);
    const struct peer *p = peer_of(a, b);
    bool slower = p && staged_is_faster(p);
    manager_unlock(m);
    if (transfer_lane(a, b))
        snprintf(buf, len, "direct");
    else if (p && !slower)
        snprintf(buf, len, "direct, device to device");
    else if ((host = relay_between(a, b)) != NULL)
        snprintf(buf, len, "through staging memory of %s", host->name);
    else if ((host = host_between(m, a, b)) != NULL)
        snprintf(buf, len, "by way of %s", host->name);
    else
        return error_set(-TERRACE_ENOTSUP, "no route leads from %s to %s: there is no host tier between them", a->name,
                         b->name);
    return 0;
}
