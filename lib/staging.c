/* staging.c - pinned host memory that bytes pass through on their way.
 *
 * The pool belongs to the manager. It consists of blocks, extents of a host
 * tier's arena, so it counts against that tier's budget; a block is as large as
 * what was asked for when it was made, in pages, never rounded further. Blocks
 * are cut into pieces, which join again when they are free. Its users take what
 * they need when they are opened, so that nothing is pinned on the hot path.
 *
 * A block is locked in memory and offered to every backend that has `pin`, to be
 * registered with its driver or ring once and for all. Either may be refused,
 * most of all by RLIMIT_MEMLOCK: then the memory is used as it is, the reason is
 * logged once, and terrace_tier_stats() tells it.
 *
 * May call: core.h, gate.h, the backends' tables. */
#include "staging.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "gate.h"

struct piece {
    TAILQ_ENTRY(piece) order; /* by block, and by address in it */
    struct block *block;
    uint64_t address, bytes;
    bool used;
};

struct block {
    LIST_ENTRY(block) all;
    struct tier *tier;
    struct extent *extent;
    unsigned pinned; /* bit per tier whose backend has it */
    bool locked;
};

/* All of it under manager.lock. */
struct staging {
    TAILQ_HEAD(piece_list, piece) pieces;
    LIST_HEAD(, block) blocks;
    char state[MAX_TIERS][200]; /* per host tier */
};

/* ---- pieces ------------------------------------------------------------ */

static struct piece *piece_new(struct block *block, uint64_t address, uint64_t bytes)
{
    struct piece *p = calloc(1, sizeof *p);
    if (p)
        *p = (struct piece){.block = block, .address = address, .bytes = bytes};
    return p;
}

/* The smallest free one that suffices, cut to size; NULL: there is none. */
static struct piece *piece_take_locked(struct staging *s, const struct tier *host, uint64_t bytes)
{
    struct piece *p, *best = NULL;
    TAILQ_FOREACH(p, &s->pieces, order)
        if (!p->used && p->block->tier == host && p->bytes >= bytes && (!best || p->bytes < best->bytes))
            best = p;
    if (best && best->bytes > bytes) {
        struct piece *rest = piece_new(best->block, best->address + bytes, best->bytes - bytes);
        if (rest) { /* else all of it is taken */
            best->bytes = bytes;
            TAILQ_INSERT_AFTER(&s->pieces, best, rest, order);
        }
    }
    if (best)
        best->used = true;
    return best;
}

/* Joins the piece with the one after it, where both are free. */
static void piece_join_locked(struct staging *s, struct piece *p)
{
    struct piece *next = p ? TAILQ_NEXT(p, order) : NULL;
    if (!next || p->used || next->used || next->block != p->block)
        return;
    p->bytes += next->bytes;
    TAILQ_REMOVE(&s->pieces, next, order);
    free(next);
}

/* ---- blocks ------------------------------------------------------------ */

static int block_lock(struct block *b)
{
    int r = mlock((void *)(uintptr_t)b->extent->address, b->extent->bytes) ? errno : 0;
    b->locked = r == 0;
    return r;
}

/* Locks a block and has the backends know it; says how that went. Without the
 * lock. */
static void block_pin(struct block *b, char *state, size_t len)
{
    struct terrace *m = b->tier->manager;
    struct rlimit limit = {0};
    char bytes[BYTES_TEXT];
    int error = block_lock(b);
    if (error) {
        getrlimit(RLIMIT_MEMLOCK, &limit);
        snprintf(state, len, "not pinned: mlock: %s; the limit of locked memory (ulimit -l) is %s",
                 strerror(error), limit.rlim_cur == RLIM_INFINITY ? "none" : bytes_text(limit.rlim_cur, bytes));
    } else {
        snprintf(state, len, "pinned");
    }
    for (unsigned i = 0; i < m->tiers; i++) {
        struct tier *tier = &m->tier[i];
        size_t used = strlen(state);
        if (!tier->backend->pin)
            continue;
        int r = tier->backend->pin(tier->unit, (void *)(uintptr_t)b->extent->address, b->extent->bytes);
        if (r == 0)
            b->pinned |= 1u << i;
        snprintf(state + used, len - used, "; %s with %s%s%s", r ? "not registered" : "registered", tier->name,
                 r ? ": " : "", r ? terrace_strerror(r) : "");
    }
}

static void block_unpin(const struct block *b)
{
    struct terrace *m = b->tier->manager;
    void *address = (void *)(uintptr_t)b->extent->address;
    for (unsigned i = 0; i < m->tiers; i++)
        if (b->pinned & 1u << i)
            m->tier[i].backend->unpin(m->tier[i].unit, address, b->extent->bytes);
    if (b->locked)
        munlock(address, b->extent->bytes);
}

/* A block of exactly so many bytes, all of it one piece in use. Gives up the lock. */
static int grow_locked(struct staging *s, struct tier *host, uint64_t bytes, struct piece **out)
{
    struct terrace *m = host->manager;
    struct block *b = calloc(1, sizeof *b);
    struct piece *p = b ? piece_new(b, 0, 0) : NULL;
    struct grant grant;
    char state[sizeof s->state[0]];
    int r = p ? arena_take(&host->arena, bytes, 0, &grant) : -TERRACE_ENOMEM;
    if (r == 0)
        r = grant_fulfil_locked(host, &grant, &b->extent);
    if (r) {
        free(p);
        free(b);
        return r;
    }
    b->tier = host;
    p->address = b->extent->address;
    p->bytes = b->extent->bytes;
    p->used = true;
    host->staging += b->extent->bytes;
    m->changes++; /* none is made while a stream waits at a gate */
    gates_settle_locked(m);
    manager_unlock(m);
    block_pin(b, state, sizeof state);
    manager_lock(m);
    gates_change_ended_locked(m, true);
    LIST_INSERT_HEAD(&s->blocks, b, all);
    TAILQ_INSERT_TAIL(&s->pieces, p, order);
    bool told = *s->state[host - m->tier] != '\0';
    memcpy(s->state[host - m->tier], state, sizeof state);
    if (!told)
        log_write(&m->log, TERRACE_LOG_INFO, "%s: staging memory is %s", host->name, state);
    *out = p;
    return 0;
}

/* ---- taking and giving ------------------------------------------------- */

struct tier *staging_host(struct tier *user)
{
    struct terrace *m = user->manager;
    struct tier *host = NULL;
    for (unsigned i = 0; i < m->tiers; i++) {
        struct tier *tier = &m->tier[i];
        if (!(tier->backend->caps & TERRACE_CAP_CPU) || !tier_is_memory(tier))
            continue;
        if (!host || (user->info.node >= 0 && tier->info.node == user->info.node && host->info.node != user->info.node))
            host = tier;
    }
    return host;
}

static struct staging *staging_get_locked(struct terrace *m)
{
    if (!m->staging && (m->staging = calloc(1, sizeof *m->staging)) != NULL) {
        TAILQ_INIT(&m->staging->pieces);
        LIST_INIT(&m->staging->blocks);
    }
    return m->staging;
}

static int take_locked(struct tier *host, uint64_t bytes, uint64_t most, bool wait, struct piece **out)
{
    struct terrace *m = host->manager;
    struct staging *s = staging_get_locked(m);
    if (!s)
        return -TERRACE_ENOMEM;
    for (;;) {
        *out = piece_take_locked(s, host, bytes);
        if (*out)
            return 0;
        int r = host->staging + bytes > most ? -TERRACE_EBUDGET : grow_locked(s, host, bytes, out);
        bool later = host->staging >= bytes && (r == -TERRACE_EBUDGET || r == -TERRACE_EAGAIN);
        if (!wait || !later)
            return r == -TERRACE_EAGAIN ? -TERRACE_EBUDGET : r;
        manager_wait(m);
    }
}

int staging_take(struct tier *user, uint64_t bytes, uint64_t most, bool wait, void **out)
{
    struct terrace *m = user->manager;
    struct tier *host = staging_host(user);
    struct piece *p = NULL;
    char need[BYTES_TEXT], held[BYTES_TEXT];
    if (!host)
        return error_set(-TERRACE_ENOTSUP, "%s needs staging memory, and there is no host tier", user->name);
    bytes = round_up(bytes, host->info.page);
    manager_lock(m);
    int r = take_locked(host, bytes, most, wait, &p);
    uint64_t staging = host->staging;
    manager_unlock(m);
    if (r == 0)
        *out = (void *)(uintptr_t)p->address;
    else if (r == -TERRACE_EBUDGET)
        error_set(r, "no room for %s of staging memory for %s in the budget of %s, where it has %s",
                  bytes_text(bytes, need), user->name, host->name, bytes_text(staging, held));
    else
        error_set(r, "no host memory for staging");
    return r;
}

void staging_give(struct terrace *m, void *address)
{
    struct piece *p = NULL;
    manager_lock(m);
    if (address)
        TAILQ_FOREACH(p, &m->staging->pieces, order)
            if (p->used && p->address == (uintptr_t)address)
                break;
    if (p) {
        p->used = false;
        piece_join_locked(m->staging, p);
        piece_join_locked(m->staging, TAILQ_PREV(p, piece_list, order));
        manager_changed_locked(m);
    }
    manager_unlock(m);
}

uint64_t staging_registered_locked(const struct tier *host)
{
    const struct staging *s = host->manager->staging;
    const struct block *b;
    uint64_t bytes = 0;
    if (s)
        LIST_FOREACH(b, &s->blocks, all)
            bytes += b->tier == host && b->pinned ? b->extent->bytes : 0;
    return bytes;
}

const char *staging_state_locked(const struct tier *host)
{
    const struct terrace *m = host->manager;
    return m->staging && host->staging ? m->staging->state[host - m->tier] : NULL;
}

void staging_close(struct terrace *m)
{
    struct staging *s = m->staging;
    struct piece *p;
    struct block *b;
    while (s && (p = TAILQ_FIRST(&s->pieces)) != NULL) {
        TAILQ_REMOVE(&s->pieces, p, order);
        free(p);
    }
    while (s && (b = LIST_FIRST(&s->blocks)) != NULL) {
        LIST_REMOVE(b, all);
        block_unpin(b);
        b->tier->staging -= b->extent->bytes;
        arena_free(&b->tier->arena, b->extent);
        free(b);
    }
    free(s);
    m->staging = NULL;
}
