/* lease.c - tensors that are acquired and released without the lock.
 *
 * One lock for a manager is simple and does not scale. Most uses change nothing,
 * however: the tensor is there, nobody waits for it or its room, and what the use
 * means for the future may be noted a little later. So a tensor that has been
 * released may be left open. Its lease then has one word
 *
 *     owner's token : 32 | pins : 12 | of them for writing : 12 | tier : 4 | SOLE | OPEN
 *
 * and to acquire or release it is to change that word by compare-and-swap. A
 * thread acquires if it owns the word or nobody has a pin, and then owns it; so the
 * pins are one thread's, as in struct pin. To write, the copy must be SOLE: the only
 * one with these bytes, and known to be so, for then another write changes nothing.
 * Everything else is done with the lock, which first closes the tensor: the word
 * becomes 0 and its pins ordinary ones. Which of two that come at the same time is
 * first, the word decides.
 *
 * A copy is open only where nothing else could be under way with it: VALID, no
 * transfer, hint, error or demotion pending, no other copy in memory, and only
 * while nobody waits for a release or for room in its tier. It is off the policy's
 * lists. Whoever wants room closes all that are there; that takes time, so then
 * they stay closed for a multiple of as many releases.
 *
 * The uses still reach the schedule, the policy and the statistics, and in order.
 * Each thread notes them in a log of its own, a ring which it alone fills and which
 * the lock's holder empties: all logs together, merged by the counter of the
 * processor's cycles, before anything else is done with a tensor, when a step ends,
 * and whenever one is half full. How far a thread may go on without that is said by
 * whoever empties its log: not beyond the use for which the schedule may have to
 * bring something (manager.there_until), so that nothing is brought later than
 * without leases. While it expects to bring something no thread may go on at all;
 * where all bytes have always been in memory, every one may.
 *
 * A job whose bytes have all been in memory for very many uses is likely to go on so:
 * from then on its uses are only counted. When something is absent after all, they
 * are noted again, and one more step is learned as if it were the first.
 *
 * A tensor in a log is alive: who acquires notes the use before the acquire
 * returns, so before the release; and before a tensor is freed the logs are emptied.
 *
 * A log belongs to its thread and to its manager, which outlive each other in any
 * order, and is freed by the latter to let go of it. A forked child never comes to
 * touch a log: see manager_check().
 *
 * May call: core.h, mover.h, prefetch.h. */
#include "lease.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "mover.h"
#include "prefetch.h"

enum {
    USES = 512,          /* in a log */
    ENOUGH = 1 << 20,    /* uses with nothing absent, after which they are only counted */
    LATER = 32,          /* uses until a thread that found the lock taken tries again */
    REST_LEAST = 256,    /* releases after all have been closed, until one is opened, */
    REST = 4,            /* and so many for each that was closed */
    SPARSE = 8,          /* one use in so many is timed */
    SPARSE_CYCLES = 3000, /* where they are closer than that: about a microsecond */
    PREFETCH = 8,        /* uses ahead whose tensors are fetched into the cache */
    MODES = TERRACE_READ | TERRACE_WRITE | TERRACE_OVERWRITE,
};

/* ---- the word ---------------------------------------------------------- */

static const uint64_t OPEN = 1, SOLE = 2, ONE_WRITE = 1 << 6, ONE_PIN = 1 << 18,
                      COUNT = (1 << 12) - 1;
enum { TIER_AT = 2, WRITES_AT = 6, PINS_AT = 18, OWNER_AT = 30 + 2 };

static uint64_t pins_in(uint64_t word)
{
    return word >> PINS_AT & COUNT;
}

static uint64_t writes_in(uint64_t word)
{
    return word >> WRITES_AT & COUNT;
}

static unsigned tier_in(uint64_t word)
{
    return word >> TIER_AT & (MAX_TIERS - 1);
}
_Static_assert(MAX_TIERS <= 16, "the word has four bits for a tier");

/* ---- the logs ---------------------------------------------------------- */

struct noted {
    uintptr_t what;  /* tensor and mode */
    uint64_t cycles; /* when; 0: not long after the one before */
};

struct lease_log {
    /* The thread's. */
    struct terrace *_Atomic manager; /* NULL once it is gone */
    struct lease_log *other;         /* log of the thread, for another manager */
    uint32_t token;
    int32_t reserve;     /* it looks again when there is room for no more than that */
    uint32_t interval, untimed; /* uses per timed one; to come without a time */
    uint64_t timed;      /* when the last of these was */
    _Atomic uint64_t counted; /* uses that were not noted */
    _Atomic uint32_t tail;
    /* The lock's holder's, and then for the thread to read. */
    _Alignas(64) _Atomic uint32_t head;
    _Atomic uint32_t most; /* where the thread has to stop */
    atomic_uint holders;   /* thread and manager */
    uint64_t cycles;        /* of its use that comes next */
    uint64_t told;          /* of those counted */
    LIST_ENTRY(lease_log) all;
    _Alignas(64) struct noted use[USES];
};

static _Thread_local struct lease_log *current; /* the first of the thread's */
static pthread_key_t ends;
static bool no_ends; /* the ends of threads would not be noticed */
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void let_go(struct lease_log *log)
{
    if (atomic_fetch_sub(&log->holders, 1) == 1)
        free(log);
}

/* A thread ends. The managers learn of its last uses when they next look. */
static void logs_leave(void *first)
{
    (void)first;
    while (current) {
        struct lease_log *log = current;
        current = log->other;
        let_go(log);
    }
}

static void key_make(void)
{
    no_ends = pthread_key_create(&ends, logs_leave) != 0;
}

/* The calling thread's log for the manager, first in its list; NULL: none yet. */
static struct lease_log *log_find(const struct terrace *m)
{
    struct lease_log **link = &current, *log = current;
    while (log && atomic_load_explicit(&log->manager, memory_order_relaxed) != m) {
        link = &log->other;
        log = log->other;
    }
    if (!log || log == current)
        return log;
    *link = log->other;
    log->other = current;
    current = log;
    pthread_setspecific(ends, current);
    return log;
}

/* Frees the thread's logs for managers that are gone. */
static void logs_sweep(void)
{
    struct lease_log **link = &current, *log;
    while ((log = *link) != NULL) {
        if (atomic_load(&log->manager)) {
            link = &log->other;
            continue;
        }
        *link = log->other;
        let_go(log);
    }
}

static struct lease_log *log_make_locked(struct terrace *m)
{
    pthread_once(&once, key_make);
    logs_sweep();
    struct lease_log *log = no_ends ? NULL : aligned_alloc(64, round_up(sizeof *log, 64));
    if (!log)
        return NULL;
    memset(log, 0, sizeof *log);
    atomic_init(&log->manager, m);
    atomic_init(&log->holders, 2);
    log->other = current;
    log->token = thread_token();
    log->interval = log->untimed = 1;
    if (pthread_setspecific(ends, log)) {
        free(log);
        return NULL;
    }
    current = log;
    LIST_INSERT_HEAD(&m->logs, log, all);
    return log;
}

/* ---- emptying the logs ------------------------------------------------- */

static uint64_t cycles(void)
{
#ifdef __x86_64__
    return __builtin_ia32_rdtsc();
#else
    return clock_ns();
#endif
}

/* What that counter means in ns, by what has passed since the first call. */
struct rate {
    uint64_t cycles, ns; /* now */
    double each;
};

static struct rate rate_now(void)
{
    static _Atomic uint64_t first_cycles, first_ns;
    struct rate r = {.cycles = cycles(), .ns = clock_ns(), .each = 1};
    uint64_t none = 0;
    if (atomic_load(&first_ns) == 0) {
        atomic_store(&first_cycles, r.cycles);
        atomic_compare_exchange_strong(&first_ns, &none, r.ns);
    }
    uint64_t passed = r.cycles - atomic_load(&first_cycles);
    if (passed && (int64_t)passed > 0)
        r.each = (double)(r.ns - atomic_load(&first_ns)) / (double)passed;
    return r;
}

static uint64_t ns_of(const struct rate *r, uint64_t at)
{
    return r->cycles > at ? r->ns - (uint64_t)((double)(r->cycles - at) * r->each) : r->ns;
}

static struct terrace_tensor *tensor_in(const struct noted *use)
{
    return (struct terrace_tensor *)(use->what & ~(uintptr_t)MODES);
}

static const struct noted *first_in(const struct lease_log *log)
{
    return &log->use[atomic_load_explicit(&log->head, memory_order_relaxed) % USES];
}

static bool is_empty(const struct lease_log *log)
{
    return atomic_load_explicit(&log->head, memory_order_relaxed) ==
           atomic_load_explicit(&log->tail, memory_order_acquire);
}

/* Next to be told of is one of the log that has the oldest, as long as no other
 * has an older one; `until`: up to when that is so. */
static struct lease_log *oldest(struct terrace *m, uint64_t *until)
{
    struct lease_log *log, *best = NULL;
    *until = UINT64_MAX;
    LIST_FOREACH(log, &m->logs, all) {
        if (is_empty(log)) /* NOLINT(clang-analyzer-unix.Malloc): what was freed is off the list */
            continue;
        uint64_t at = first_in(log)->cycles;
        log->cycles = at ? at : log->cycles;
        if (best && log->cycles >= best->cycles) {
            *until = log->cycles < *until ? log->cycles : *until;
            continue;
        }
        *until = best ? best->cycles : UINT64_MAX;
        best = log;
    }
    return best;
}

/* What an acquire and a release with the lock would have told. */
static void tell_locked(struct terrace *m, const struct noted *use, uint64_t ns)
{
    struct terrace_tensor *t = tensor_in(use);
    struct copy *c = &t->copy[t->leased];
    struct policy *p = &m->tier[t->leased].policy;
    prefetch_used_locked(t, t->leased, use->what & MODES, ns);
    p->clock++;
    if (lease_is_open(t))
        t->lease.stamp = ++p->clock;
    else if (!c->node.listed)
        policy_used(p, &c->node);
    m->stats.acquires++;
    m->stats.hits++;
}

static void empty_locked(struct terrace *m, struct lease_log *log, uint64_t until, struct rate *rate)
{
    uint32_t head = atomic_load_explicit(&log->head, memory_order_relaxed);
    uint32_t tail = atomic_load_explicit(&log->tail, memory_order_acquire);
    for (; head != tail; head++) {
        const struct noted *use = &log->use[head % USES];
        if (use->cycles > until)
            break;
        if ((int32_t)(tail - head) > PREFETCH)
            __builtin_prefetch(&tensor_in(&log->use[(head + PREFETCH) % USES])->item.place);
        log->cycles = use->cycles ? use->cycles : log->cycles;
        bool timed = use->cycles && schedule_wants_time(&m->schedule);
        if (timed && !rate->ns)
            *rate = rate_now();
        tell_locked(m, use, timed ? prefetch_time_locked(m, ns_of(rate, use->cycles)) : 0);
    }
    atomic_store_explicit(&log->head, head, memory_order_relaxed);
}

/* How many uses each thread may make before the next are noticed. */
static uint32_t unnoticed_locked(const struct terrace *m, unsigned logs)
{
    const struct schedule *s = &m->schedule;
    bool foresees = false, lanes = false;
    for (unsigned i = 0; i < m->tiers; i++) {
        lanes |= m->tier[i].lane != NULL;
        foresees |= tier_is_memory(&m->tier[i]) && policy_foresees(&m->tier[i].policy);
    }
    if (!m->absent || !foresees || !lanes || m->prefetch_limit == 0)
        return USES;
    uint64_t left = m->there_until > s->now ? (m->there_until - s->now) / logs : 0;
    return left < USES ? (uint32_t)left : USES;
}

static void log_end_locked(struct lease_log *log)
{
    LIST_REMOVE(log, all);
    atomic_store(&log->manager, NULL);
    let_go(log);
}

void leases_drain_locked(struct terrace *m)
{
    struct rate rate = {0};
    struct lease_log *log, *next;
    unsigned logs = 0;
    uint64_t until;
    for (log = LIST_FIRST(&m->logs); log; log = next) {
        next = LIST_NEXT(log, all);
        logs++;
        uint64_t counted = atomic_load_explicit(&log->counted, memory_order_relaxed);
        m->stats.acquires += counted - log->told;
        m->stats.hits += counted - log->told;
        log->told = counted;
        if (atomic_load(&log->holders) == 1 && is_empty(log))
            log_end_locked(log);
    }
    if (logs == 0)
        return;
    while ((log = oldest(m, &until)) != NULL)
        empty_locked(m, log, until, &rate);
    if (!m->absent && m->stats.acquires > ENOUGH)
        atomic_store_explicit(&m->unheeded, true, memory_order_relaxed);
    uint32_t most = unnoticed_locked(m, logs);
    LIST_FOREACH(log, &m->logs, all)
        atomic_store_explicit(&log->most, atomic_load_explicit(&log->head, memory_order_relaxed) + most,
                              memory_order_release);
}

void leases_end(struct terrace *m)
{
    struct lease_log *log, *next;
    for (log = LIST_FIRST(&m->logs); log; log = next) {
        next = LIST_NEXT(log, all);
        log_end_locked(log);
    }
}

/* ---- noting a use ------------------------------------------------------ */

static int32_t room_in(const struct lease_log *log)
{
    return (int32_t)(atomic_load_explicit(&log->most, memory_order_acquire) -
                     atomic_load_explicit(&log->tail, memory_order_relaxed));
}

/* Whether the calling thread has a log, and may go on without being noticed. */
static bool log_is_of_use_locked(struct terrace *m)
{
    const struct lease_log *log = log_find(m);
    if (!log) {
        log = log_make_locked(m);
        leases_drain_locked(m); /* says how much the new one may take */
    }
    return log && room_in(log) > 0;
}

/* There is little room in the log. Whether there is any. */
static __attribute__((noinline)) bool log_look(struct terrace *m, struct lease_log *log)
{
    int32_t room = room_in(log);
    if (room > 0 && pthread_mutex_trylock(&m->lock)) { /* another may be about to do it */
        log->reserve = room > LATER ? room - LATER : 0;
        return true;
    }
    if (room <= 0) {
        if (is_empty(log))
            return false; /* no use may go unnoticed now */
        manager_lock(m);
    }
    leases_drain_locked(m);
    manager_unlock(m);
    room = room_in(log);
    log->reserve = room > 0 ? room / 2 : 0;
    return room > 0;
}

/* The calling thread's log, with room in it for a use to be noted, or NULL. */
static struct lease_log *log_ready(struct terrace *m, bool to_note)
{
    struct lease_log *log = current;
    if (!log || atomic_load_explicit(&log->manager, memory_order_relaxed) != m)
        log = log_find(m);
    return log && (!to_note || room_in(log) > log->reserve || log_look(m, log)) ? log : NULL;
}

static uint64_t time_now(struct lease_log *log)
{
    uint64_t now = cycles();
    bool sparse = now - log->timed < SPARSE_CYCLES * (uint64_t)log->interval;
    log->interval = sparse ? SPARSE : 1;
    log->untimed = log->interval;
    log->timed = now;
    return now;
}

static void note(struct lease_log *log, const struct terrace_tensor *t, unsigned mode)
{
    uint32_t n = atomic_load_explicit(&log->tail, memory_order_relaxed);
    struct noted *use = &log->use[n % USES];
    use->what = (uintptr_t)t | (mode & MODES);
    use->cycles = --log->untimed ? 0 : time_now(log);
    atomic_store_explicit(&log->tail, n + 1, memory_order_release);
}

static void count(struct lease_log *log)
{
    uint64_t n = atomic_load_explicit(&log->counted, memory_order_relaxed);
    atomic_store_explicit(&log->counted, n + 1, memory_order_relaxed);
}

/* ---- acquiring and releasing ------------------------------------------- */

/* READ, WRITE, READ|WRITE or OVERWRITE, with WAIT or NOWAIT or neither. */
static bool mode_is_good(unsigned mode)
{
    const uint32_t good = 0x1e | 0x1e << TERRACE_WAIT | 0x1e << TERRACE_NOWAIT;
    return mode < 32 && (good >> mode & 1);
}
_Static_assert(TERRACE_WAIT == 8 && TERRACE_NOWAIT == 16 && TERRACE_OVERWRITE == 4, "as above");

bool lease_acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void **address,
                   terrace_tier *where)
{
    struct terrace *m = t->manager;
    if (!m || !*m->alive || t->small || !mode_is_good(mode))
        return false;
    uint64_t word = atomic_load_explicit(&t->lease.word, memory_order_acquire);
    unsigned at = tier_in(word);
    if (!(word & OPEN) || ((mode & WRITES) && !(word & SOLE)))
        return false;
    if (at != (unsigned)tier && !tier_matches(m, (int)at, tier))
        return false;
    bool to_note = !atomic_load_explicit(&m->unheeded, memory_order_relaxed);
    struct lease_log *log = log_ready(m, to_note);
    if (!log)
        return false;
    uint64_t more = ONE_PIN + (mode & WRITES ? ONE_WRITE : 0), next;
    do {
        bool mine = word >> OWNER_AT == log->token;
        if (!(word & OPEN) || tier_in(word) != at || ((mode & WRITES) && !(word & SOLE)) ||
            (mine ? pins_in(word) == COUNT : pins_in(word) != 0))
            return false;
        next = (word & UINT32_MAX) + more + ((uint64_t)log->token << OWNER_AT);
    } while (!atomic_compare_exchange_weak_explicit(&t->lease.word, &word, next, memory_order_acq_rel,
                                                    memory_order_acquire));
    if (to_note)
        note(log, t, mode);
    else
        count(log);
    __builtin_prefetch(atomic_load_explicit(&t->lease.beside, memory_order_relaxed), 1);
    *address = atomic_load_explicit(&t->lease.address, memory_order_relaxed);
    if (where)
        *where = (terrace_tier)at;
    return true;
}

bool lease_release(terrace_tensor *t, void *address)
{
    const struct terrace *m = t->manager;
    if (!m || !*m->alive || t->small)
        return false;
    uint64_t word = atomic_load_explicit(&t->lease.word, memory_order_acquire), next;
    do {
        uint64_t pins = pins_in(word);
        if (!pins || atomic_load_explicit(&t->lease.address, memory_order_relaxed) != address)
            return false;
        next = word - ONE_PIN - (writes_in(word) == pins ? ONE_WRITE : 0); /* as copy_unpin_locked() */
    } while (!atomic_compare_exchange_weak_explicit(&t->lease.word, &word, next, memory_order_acq_rel,
                                                    memory_order_acquire));
    return true;
}

bool lease_holds(terrace_tensor *t, const struct tier *tier)
{
    if (t->small)
        return false;
    uint64_t word = atomic_load_explicit(&t->lease.word, memory_order_relaxed);
    return (word & OPEN) && &tier->manager->tier[tier_in(word)] == tier;
}

/* ---- opening and closing ----------------------------------------------- */

/* Whether prompt bookkeeping matters to nobody. */
static bool is_quiet_locked(struct tier *tier)
{
    const struct terrace *m = tier->manager;
    if (tier->open_rest) {
        tier->open_rest--;
        return false;
    }
    if (tier->wanted || m->waiting)
        return false;
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct lane *lane = m->tier[i].lane;
        if (lane && (!TAILQ_EMPTY(&lane->hints) || !TAILQ_EMPTY(&lane->parked)))
            return false;
    }
    return true;
}

static bool is_settled_locked(const struct copy *c)
{
    const struct terrace_tensor *t = c->tensor;
    if (t->region || t->group || t->slab || t->doomed || t->transfer || t->busy || t->hinted ||
        t->demoted || t->error || c->state != COPY_VALID || c->node.ahead ||
        !(copy_tier(c)->backend->caps & TERRACE_CAP_CPU))
        return false;
    for (unsigned i = 0; i < t->manager->tiers; i++) {
        const struct copy *x = &t->copy[i];
        if (x->pins || (x != c && x->state != COPY_ABSENT && tier_is_memory(copy_tier(x))))
            return false;
    }
    return true;
}

/* Whether one more write would change nothing. */
static bool is_sole_locked(const struct copy *c)
{
    const struct terrace_tensor *t = c->tensor;
    if (t->blank || t->file_valid || c->wrote)
        return false;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (&t->copy[i] != c && t->copy[i].state == COPY_VALID)
            return false;
    return true;
}

void lease_open_locked(struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    struct tier *tier = copy_tier(c);
    struct terrace *m = tier->manager;
    if (!is_settled_locked(c) || !is_quiet_locked(tier) || !log_is_of_use_locked(m))
        return;
    t->open_pin = pin_take_locked(m);
    if (!t->open_pin)
        return;
    policy_remove(&tier->policy, &c->node);
    t->leased = c->tier;
    t->open_dirty = copy_dirty_locked(c);
    t->lease.stamp = c->node.stamp;
    TAILQ_INSERT_TAIL(&tier->open, c, held);
    tier->opened++;
    tier->open_bytes[t->open_dirty] += c->node.bytes;
    atomic_store_explicit(&t->lease.address, copy_address(c), memory_order_relaxed);
    atomic_store_explicit(&t->lease.word, OPEN | (is_sole_locked(c) ? SOLE : 0) |
                          (uint64_t)c->tier << TIER_AT, memory_order_release);
}

static void close_locked(struct terrace_tensor *t)
{
    struct copy *c = &t->copy[t->leased];
    struct tier *tier = copy_tier(c);
    uint64_t word = atomic_exchange_explicit(&t->lease.word, 0, memory_order_acq_rel);
    struct pin *pin = t->open_pin;
    TAILQ_REMOVE(&tier->open, c, held);
    tier->opened--;
    tier->open_bytes[t->open_dirty] -= c->node.bytes;
    c->node.stamp = t->lease.stamp;
    if (pins_in(word)) {
        *pin = (struct pin){.thread = (uint32_t)(word >> OWNER_AT), .count = (uint32_t)pins_in(word),
                            .writes = (uint32_t)writes_in(word)};
        c->pins = pin;
        TAILQ_INSERT_TAIL(&tier->pinned, c, held);
    } else {
        pin_give_locked(tier->manager, pin);
    }
    copy_settle_locked(c);
}

void lease_close_locked(struct terrace_tensor *t)
{
    leases_drain_locked(t->manager);
    if (lease_is_open(t))
        close_locked(t);
}

static int by_stamp(const void *a, const void *b)
{
    const struct copy *x = *(struct copy *const *)a, *y = *(struct copy *const *)b;
    return (x->tensor->lease.stamp > y->tensor->lease.stamp) - (x->tensor->lease.stamp < y->tensor->lease.stamp);
}

void leases_close_locked(struct tier *tier)
{
    struct copy *c;
    size_t n = 0;
    if (TAILQ_EMPTY(&tier->open))
        return;
    leases_drain_locked(tier->manager);
    tier->open_rest = REST_LEAST + REST * tier->opened;
    struct copy **order = malloc(tier->opened * sizeof *order);
    if (order) { /* the policy's lists are in that order, and it takes time to find a place in them */
        TAILQ_FOREACH(c, &tier->open, held)
            order[n++] = c;
        qsort(order, n, sizeof *order, by_stamp);
        for (size_t i = 0; i < n; i++)
            close_locked(order[i]->tensor);
        free(order);
    }
    while ((c = TAILQ_FIRST(&tier->open)) != NULL)
        close_locked(c->tensor);
}

uint64_t lease_pinned_bytes_locked(const struct tier *tier)
{
    const struct copy *c;
    uint64_t bytes = 0;
    TAILQ_FOREACH(c, &tier->open, held)
        if (pins_in(atomic_load_explicit(&c->tensor->lease.word, memory_order_relaxed)))
            bytes += c->extent->bytes;
    return bytes;
}
