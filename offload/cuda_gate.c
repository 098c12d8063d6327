/* cuda_gate.c - gates: words in memory that streams wait for.
 *
 * A gate is a word of page-locked memory and the number that it is to reach. A stream
 * waits for that by itself (cuStreamWaitValue64). The word is written by a stream of our
 * own that waits for the copies, and by the host. The numbers of a word only grow, so
 * that it can serve the next gate while a stream has not yet looked at the last one's;
 * but not before the device has written what it was told to, which could be late: for
 * that our stream counts, in a word more.
 *
 * Streams may share a queue of the hardware, in which all that is behind a wait stands
 * still. A stream that shares one with ours would wait for ever for copies that stand
 * behind it. So before it is told to wait for a gate it waits for another word, while
 * each of our streams is told to write one: if all come through, it is in nobody's way;
 * if not, the host lets it go on, and does the waiting itself. A stream is known again
 * by the number that the driver gives it for life, where the driver has such numbers;
 * then that is found out when it is first met, unless copies are under way.
 *
 * A stream may come to its wait long after that has been over. Until the last one has,
 * the words stay where they are: a mark behind each wait tells. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include "cuda_unit.h"

enum {
    GATES = 64,
    OWN = CUDA_QUEUES + 1, /* streams of ours that must not be held up */
    APART = 64,   /* bytes from word to word: a cache line */
    KNOWN = 32,   /* streams that are remembered */
    TRIES = 1000, /* looks at words that do not come, a millisecond apart; */
    FEW = 300,    /* fewer, where nothing depends on that yet */
    QUICK = 200   /* looks before that */
};

struct gate {
    _Atomic uint64_t *word;
    cuda_address at;  /* of the word, for the device */
    uint64_t number;  /* what it is to reach */
    bool used;
    bool sent;        /* the device was told to write it */
    uint64_t count;   /* and then has counted so far; 0: nobody else writes it */
};

struct known {
    unsigned long long id;
    bool apart; /* it shares no queue with ours */
};

/* A stream that has been told to wait. */
struct follower {
    struct follower *next;
    cuda_event behind;
};

struct cuda_gates {
    pthread_mutex_t lock;    /* for what follows */
    struct follower *first, **last;
    bool unmarked;           /* there is one that cannot tell when it has passed */
    struct gate gate[GATES];
    struct gate counter;     /* of the gates that our stream has opened */
    struct known known[KNOWN];
    unsigned next_known;
    bool said;               /* that streams share queues */
    pthread_mutex_t trying;  /* one stream at a time; before `lock` */
    void *words;
    cuda_stream stream;      /* opens gates behind copies: theirs have calls to the host behind them */
};

/* ---- words --------------------------------------------------------------- */

static bool reached(const struct gate *g)
{
    return (int64_t)(atomic_load_explicit(g->word, memory_order_acquire) - g->number) >= 0;
}

/* The device has nothing to do with it any more. */
static bool is_free(const struct cuda_gates *gates, const struct gate *g)
{
    if (g->used || !g->sent || !g->count)
        return !g->used && (!g->sent || reached(g));
    return atomic_load_explicit(gates->counter.word, memory_order_acquire) >= g->count;
}

static struct gate *take(struct cuda_gates *gates)
{
    struct gate *found = NULL;
    pthread_mutex_lock(&gates->lock);
    for (unsigned i = 0; i < GATES && !found; i++)
        if (is_free(gates, &gates->gate[i]))
            found = &gates->gate[i];
    if (found) {
        found->used = true;
        found->sent = false;
        found->count = 0;
        found->number++;
    }
    pthread_mutex_unlock(&gates->lock);
    return found;
}

static void give(struct cuda_gates *gates, struct gate *g)
{
    pthread_mutex_lock(&gates->lock);
    g->used = false;
    pthread_mutex_unlock(&gates->lock);
}

static void set_sent(struct cuda_gates *gates, struct gate *g, bool sent)
{
    pthread_mutex_lock(&gates->lock);
    g->sent = sent;
    pthread_mutex_unlock(&gates->lock);
}

/* By the host. */
static void open_now(struct gate *g)
{
    atomic_store_explicit(g->word, g->number, memory_order_release);
}

/* By a stream, when it gets there; inside a visit. */
static cuda_result open_in(struct cuda_gates *gates, struct gate *g, cuda_stream stream)
{
    set_sent(gates, g, true);
    cuda_result r = cuda.write_value(stream, g->at, g->number, 0);
    if (r)
        set_sent(gates, g, false);
    return r;
}

/* ---- streams that have not passed ---------------------------------------- */

/* Drops those who have; false: some have not. Inside a visit. */
static bool all_passed(struct cuda_unit *u)
{
    struct cuda_gates *gates = u->gates;
    bool passed = true;
    pthread_mutex_lock(&gates->lock);
    struct follower *f;
    while ((f = gates->first) != NULL && (passed = cuda.event_query(f->behind) != CUDA_NOT_READY)) {
        gates->first = f->next;
        if (!gates->first)
            gates->last = &gates->first;
        cuda_forget(u, f->behind);
        free(f);
    }
    passed &= !gates->unmarked;
    pthread_mutex_unlock(&gates->lock);
    return passed;
}

/* Has the stream wait, and notes that; inside a visit. */
static cuda_result wait_in(struct cuda_unit *u, const struct gate *g, cuda_stream stream)
{
    struct cuda_gates *gates = u->gates;
    cuda_result r = cuda.wait_value(stream, g->at, g->number, CUDA_WAIT_REACHED);
    if (r)
        return r;
    struct follower *f = calloc(1, sizeof *f);
    bool marked = f && CUDA_UNDO(cuda_event_take(u, &f->behind));
    if (marked && !CUDA_UNDO(cuda.event_record(f->behind, stream))) {
        cuda_forget(u, f->behind);
        marked = false;
    }
    pthread_mutex_lock(&gates->lock);
    if (marked) {
        *gates->last = f;
        gates->last = &f->next;
    }
    gates->unmarked |= !marked;
    pthread_mutex_unlock(&gates->lock);
    if (!marked)
        free(f);
    (void)all_passed(u);
    return CUDA_OK;
}

/* ---- whom a waiting stream would hold up --------------------------------- */

/* Whether the stream is known to share a queue with ours, or not to; *id is its number
 * for life, 0: it has none. */
static bool is_known(struct cuda_gates *gates, cuda_stream stream, unsigned long long *id, bool *apart)
{
    bool found = false;
    *id = 0;
    if (!cuda.stream_id || cuda.stream_id(stream, id))
        *id = 0;
    pthread_mutex_lock(&gates->lock);
    for (unsigned i = 0; *id && i < KNOWN && !found; i++) {
        found = gates->known[i].id == *id;
        *apart = gates->known[i].apart;
    }
    pthread_mutex_unlock(&gates->lock);
    return found;
}

static void remember(struct cuda_unit *u, unsigned long long id, bool apart)
{
    struct cuda_gates *gates = u->gates;
    pthread_mutex_lock(&gates->lock);
    if (id)
        gates->known[gates->next_known++ % KNOWN] = (struct known){id, apart};
    bool says = !apart && !gates->said;
    gates->said |= says;
    pthread_mutex_unlock(&gates->lock);
    if (says)
        u->host->log(u->host->context, TERRACE_LOG_INFO, "cuda:%d: a stream shares a queue of the hardware with copies, "
                     "so the host waits for bytes from disks in its place; CUDA_DEVICE_MAX_CONNECTIONS=32 gives "
                     "streams more queues", u->index);
}

/* Waits until all words have been written, so many ms at least: that many looks, so
 * that a program which is not given time to run has not used it up. */
static bool all_reached(struct gate *const *g, unsigned n, unsigned looks)
{
    unsigned i = 0;
    for (unsigned look = 0; i < n && look < QUICK + looks; look++) {
        while (i < n && reached(g[i]))
            i++;
        if (i < n && look < QUICK)
            sched_yield();
        else if (i < n)
            nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    return i == n;
}

/* Has the stream wait while each of ours writes a word; inside a visit, by one thread
 * at a time. */
static cuda_result try(struct cuda_unit *u, cuda_stream stream, unsigned looks, bool *apart)
{
    struct cuda_gates *gates = u->gates;
    struct gate *held = take(gates), *seen[OWN];
    unsigned n = 0;
    cuda_result r = held ? wait_in(u, held, stream) : CUDA_NOT_READY;
    while (r == CUDA_OK && n < OWN) {
        seen[n] = take(gates);
        r = seen[n] ? open_in(gates, seen[n], n < CUDA_QUEUES ? u->queue[n].stream : gates->stream) : CUDA_NOT_READY;
        n += seen[n] != NULL;
    }
    *apart = r == CUDA_OK && all_reached(seen, n, looks);
    if (held)
        open_now(held);
    while (n)
        give(gates, seen[--n]);
    if (held)
        give(gates, held);
    return r;
}

/* The same where it is not known already. */
static cuda_result stands_apart(struct cuda_unit *u, cuda_stream stream, unsigned looks, bool *apart)
{
    unsigned long long id;
    cuda_result r = CUDA_OK;
    pthread_mutex_lock(&u->gates->trying);
    if (!is_known(u->gates, stream, &id, apart)) {
        r = try(u, stream, looks, apart);
        if (r == CUDA_OK)
            remember(u, id, *apart);
    }
    pthread_mutex_unlock(&u->gates->trying);
    return r;
}

void cuda_gates_meet(struct cuda_unit *u, cuda_stream stream)
{
    unsigned long long id;
    bool apart;
    if (!u->gates || is_known(u->gates, stream, &id, &apart) || id == 0)
        return;
    for (unsigned i = 0; i < CUDA_QUEUES; i++)
        if (cuda.event_query(u->queue[i].end))
            return; /* what does not come through might stand behind copies */
    (void)stands_apart(u, stream, FEW, &apart);
}

/* ---- the backend's functions --------------------------------------------- */

static int not_now(const struct cuda_unit *u, const char *why)
{
    return u->host->fail(u->host->context, -TERRACE_EAGAIN, "cuda:%d: the stream cannot wait for bytes from a disk: %s",
                         u->index, why);
}

int cuda_gate(void *unit, void **gate)
{
    struct cuda_unit *u = unit;
    struct gate *g = u->gates ? take(u->gates) : NULL;
    if (!g)
        return not_now(u, u->gates ? "too many others do" : "device or driver cannot wait for values in memory");
    *gate = g;
    return 0;
}

int cuda_gate_follow(void *unit, void *stream, void *gate)
{
    struct cuda_unit *u = unit;
    struct gate *g = gate;
    struct cuda_scope scope;
    bool apart = false;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return cuda_stream_fail(u, r, "looking at");
    r = cuda_stream_check(stream);
    if (r == CUDA_OK)
        r = stands_apart(u, stream, TRIES, &apart);
    if (r == CUDA_OK && apart)
        r = wait_in(u, g, stream);
    cuda_leave(&scope);
    if (r == CUDA_NOT_READY)
        return not_now(u, "too many others do");
    if (r)
        return cuda_stream_fail(u, r, "adding to");
    return apart ? 0 : not_now(u, "it shares a queue of the hardware with copies");
}

/* By our stream, behind the copies to the device; inside a visit. */
static cuda_result open_behind(struct cuda_unit *u, struct gate *g)
{
    struct cuda_gates *gates = u->gates;
    cuda_result r = CUDA_OK;
    for (unsigned i = 0; r == CUDA_OK && i < CUDA_QUEUES / 2; i++)
        r = cuda.stream_wait(gates->stream, u->queue[i].end, 0);
    if (r)
        return r;
    pthread_mutex_lock(&gates->lock); /* the count is in the order of the stream */
    g->sent = true;
    g->count = ++gates->counter.number;
    r = cuda.write_value(gates->stream, g->at, g->number, 0);
    cuda_result counts = cuda.write_value(gates->stream, gates->counter.at, gates->counter.number, 0);
    pthread_mutex_unlock(&gates->lock);
    return r ? r : counts;
}

int cuda_gate_open(void *unit, void *gate, int how)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    if (how == TERRACE_GATE_NOW) {
        open_now(gate);
        return 0;
    }
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        r = open_behind(u, gate);
        cuda_leave(&scope);
    }
    return r ? cuda_fail(u, r, "having a stream go on") : 0;
}

void cuda_gate_forget(void *unit, void *gate)
{
    struct cuda_unit *u = unit;
    give(u->gates, gate);
}

/* ---- opening and closing ------------------------------------------------- */

static const char *lacks(const struct cuda_unit *u)
{
    int can = 0;
    if (!cuda.wait_value || !cuda.write_value || !cuda.host_alloc || !cuda.host_free || !cuda.host_address)
        return "the driver is too old";
    if (cuda.device_attribute(&can, CUDA_HAS_VALUES, u->device) || can <= 0)
        return "the device cannot";
    return NULL;
}

static bool words_open(struct cuda_gates *gates)
{
    cuda_address at = 0;
    if (cuda.host_alloc(&gates->words, (GATES + 1) * APART, CUDA_HOST_PORTABLE | CUDA_HOST_MAPPED)) {
        gates->words = NULL;
        return false;
    }
    if (cuda.host_address(&at, gates->words, 0)) {
        (void)CUDA_UNDO(cuda.host_free(gates->words));
        return false;
    }
    for (unsigned i = 0; i <= GATES; i++) {
        struct gate *g = i < GATES ? &gates->gate[i] : &gates->counter;
        g->word = (_Atomic uint64_t *)((char *)gates->words + (size_t)i * APART);
        g->at = at + (uint64_t)i * APART;
        atomic_init(g->word, 0);
    }
    return true;
}

void cuda_gates_open(struct cuda_unit *u, char *reason, size_t len)
{
    const char *no = lacks(u);
    struct cuda_gates *gates = no ? NULL : calloc(1, sizeof *gates);
    if (gates && cuda.stream_create(&gates->stream, CUDA_STREAM_NON_BLOCKING)) {
        free(gates);
        gates = NULL;
    }
    if (gates && !words_open(gates)) {
        (void)CUDA_UNDO(cuda.stream_destroy(gates->stream));
        free(gates);
        gates = NULL;
    }
    u->gates = gates;
    if (!gates) {
        snprintf(reason, len, "the host waits for disks (%s)", no ? no : "no stream or page-locked memory for that");
        return;
    }
    gates->last = &gates->first;
    pthread_mutex_init(&gates->lock, NULL);
    pthread_mutex_init(&gates->trying, NULL);
    snprintf(reason, len, "streams wait for disks");
}

/* Waits a second, at least, for streams that have not got to their waits: the words stay
 * with those that have not even then. */
static void words_close(struct cuda_unit *u)
{
    bool passed = all_passed(u);
    for (unsigned look = 0; !passed && look < TRIES; look++) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        passed = all_passed(u);
    }
    if (passed)
        (void)CUDA_UNDO(cuda.host_free(u->gates->words));
    else
        u->host->log(u->host->context, TERRACE_LOG_DEBUG, "cuda:%d keeps some words that streams wait for", u->index);
}

void cuda_gates_close(struct cuda_unit *u)
{
    if (!u->gates)
        return;
    if (u->pid == getpid()) {
        (void)CUDA_UNDO(cuda.stream_synchronize(u->gates->stream));
        (void)CUDA_UNDO(cuda.stream_destroy(u->gates->stream));
        words_close(u);
    }
    while (u->gates->first) { /* their events go with the context */
        struct follower *f = u->gates->first;
        u->gates->first = f->next;
        free(f);
    }
    pthread_mutex_destroy(&u->gates->trying);
    pthread_mutex_destroy(&u->gates->lock);
    free(u->gates);
    u->gates = NULL;
}
