/* lane.c - the thread that moves bytes to and from one tier.
 *
 * A lane cuts transfers into pieces, keeps the backend's queue filled with
 * them, and finishes what comes back. Transfers wait in three queues: demand
 * goes before prefetch, prefetch before write-back, and the latter two never
 * take the last quarter of the backend's queue, so that a demand finds room in
 * it. How much of the queue is filled, and how large pieces are, follows from what
 * gains something (depth.c).
 * When a lane has nothing better to do it looks at hints (prefetches that
 * await room) and at dirty copies that will soon have to leave (write_ahead.c).
 *
 * Pieces are cut the same way for the same addresses, reading and writing, so
 * that each has its seal (checksum or authentication tag). An encrypted piece
 * is written from the lane's staging memory, which belongs to the host tier's
 * budget; it is read straight into the tensor's pages and decrypted there.
 *
 * The thread holds the lock except while it seals, submits, waits, commits disk
 * space and asks what streams have done.
 *
 * May call: core.h, forked.h, gate.h, lease.h, live.h, moved.h, registered.h, seal.h, stream.h, view.h,
 * the backend's table. */
#include "mover.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "forked.h"
#include "gate.h"
#include "lease.h"
#include "live.h"
#include "moved.h"
#include "prefetch.h"
#include "registered.h"
#include "seal.h"
#include "stable.h"
#include "staging.h"
#include "stream.h"
#include "view.h"

enum {
    LEAST_PART = 4,  /* of what a backend thinks worth having in flight, at least */
    HALVED_MOST = 2, /* a piece is a quarter of what a backend takes, at least */
};

struct piece {
    terrace_io io;
    struct transfer *transfer; /* NULL: a raw one's */
    struct raw *raw;
    struct seal *seal; /* NULL: neither checked nor encrypted */
    void *data;        /* in the tensor's memory */
    void *staging;     /* ciphertext goes through here, or NULL */
    struct piece *next_free;
};

/* ---- pieces ------------------------------------------------------------ */

/* Seals for every piece of a transfer. */
static int seals_take(struct seal **seals, const struct tier *disk, uint64_t bytes)
{
    if (!*seals)
        *seals = calloc(bytes / disk->info.io_chunk + 3, sizeof **seals);
    return *seals ? 0 : error_set(-TERRACE_ENOMEM, "no host memory for checksums");
}

/* Room in a memory tier for a write-back, as far as it can be had at once. */
static int goal_prepare_locked(struct transfer *x)
{
    struct copy *goal = x->other;
    struct room want = {.tensor = x->tensor, .failures = &x->failures};
    if (!x->tried)
        x->failures = x->tensor->manager->failures;
    x->tried = true;
    copy_set_locked(goal, COPY_FILLING);
    int r = room_take_locked(copy_tier(goal), &want, &goal->extent);
    if (r == 0) {
        goal->node.bytes = goal->extent->bytes;
        transfer_keep_locked(x, goal);
        return 0;
    }
    copy_drop_locked(goal);
    if (no_memory(r) && copy_tier(goal)->arena.ceiling < copy_tier(goal)->arena.limit)
        r = -TERRACE_EBUDGET; /* nothing is wrong with this one */
    return transfer_redirect_locked(x) ? 0 : r;
}

/* What a transfer needs before its first piece. Gives up the lock. */
static int transfer_prepare_locked(struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    int r = 0;
    if (!x->writeback)
        return !x->other && sealer_checks_files(m->sealer)
                   ? seals_take(&x->tensor->file_seals, x->lane->tier, x->bytes) : 0;
    if (tier_is_memory(copy_tier(x->other)))
        return goal_prepare_locked(x);
    if (fork_keeps_locked(x->other) || !x->other->extent) /* a child reads what is there */
        r = space_take_locked(x);
    if (r == 0) {
        copy_set_locked(x->other, COPY_FILLING);
        if (m->sealer)
            r = seals_take(&x->other->seals, copy_tier(x->other), x->bytes);
    }
    return r;
}

/* At most n, up to the next boundary. */
static uint64_t until_boundary(uint64_t n, const terrace_unit_info *info, uint64_t address)
{
    uint64_t until = info->io_boundary ? info->io_boundary - address % info->io_boundary : n;
    return n < until ? n : until;
}

static uint64_t piece_bytes(const struct transfer *x, uint64_t address)
{
    const terrace_unit_info *info = &x->lane->tier->info;
    uint64_t n = x->bytes - x->next, chunk = info->io_chunk >> x->lane->depth.now.halved;
    n = n < chunk ? n : chunk;
    if (x->peered && x->other)
        n = until_boundary(n, &copy_tier(x->other)->info, x->other->extent->address + x->next);
    return x->other ? until_boundary(n, info, address) : n;
}

/* The end of a transfer that lies in its lane's tier; NULL: the user's file. */
static struct copy *lane_end(const struct transfer *x)
{
    return copy_tier(x->copy) == x->lane->tier ? x->copy : x->other;
}

/* Straight from the memory of another device. */
static void piece_from_peer(struct piece *p, struct transfer *x)
{
    p->io.op = TERRACE_IO_PEER;
    p->io.host = NULL;
    p->io.peer = copy_tier(x->other)->unit;
    p->io.peer_address = x->other->extent->address + x->next;
}

static void piece_start_locked(struct lane *lane, struct transfer *x)
{
    struct terrace *m = x->tensor->manager;
    struct piece *p = lane->free_pieces;
    const struct copy *end = lane_end(x);
    uint64_t address = (end ? end->extent->address : x->tensor->file_base) + x->next;
    uint64_t bytes = piece_bytes(x, address);
    struct seal *seals = end ? end->seals : x->tensor->file_seals;
    bool into = x->writeback == (end != x->copy); /* the lane's tier is where the bytes go */

    lane->free_pieces = p->next_free;
    p->transfer = x;
    p->data = (char *)copy_address(end == x->copy ? x->other : x->copy) + x->next;
    p->raw = NULL;
    p->seal = m->sealer && seals ? &seals[x->piece] : NULL;
    p->io = (terrace_io){.address = address, .bytes = bytes, .user = p,
                         .op = into ? TERRACE_IO_WRITE : TERRACE_IO_READ,
                         .host = into && p->staging ? p->staging : p->data};
    if (x->peered && x->other)
        piece_from_peer(p, x);
    if (!x->next) {
        transfer_begins_locked(x);
        x->copies = x->peered || !registered_gains(lane->tier) ? NULL : end == x->copy ? x->other : x->copy;
        if (x->copies)
            registered_copies_locked(x->copies);
    }
    x->next += bytes;
    x->piece++;
    x->in_flight++;
    lane->in_flight++;
    lane->batch[lane->batched++] = &p->io;
}

/* The pieces that may be in flight when one of that priority is to be added. */
static unsigned depth_for(const struct lane *lane, int priority)
{
    unsigned now = lane->depth.now.pieces;
    return priority == PRIORITY_DEMAND ? now : now - now / 4;
}

/* The next transfer to take a piece from; NULL when there is none, or none
 * that may have the pieces that are left. */
static struct transfer *next_transfer(struct lane *lane)
{
    for (int q = 0; q < PRIORITIES; q++) {
        unsigned most = depth_for(lane, q);
        if (!TAILQ_EMPTY(&lane->queue[q]))
            return lane->free_pieces && lane->in_flight < most ? TAILQ_FIRST(&lane->queue[q]) : NULL;
    }
    return NULL;
}

void lane_raw_locked(struct lane *lane, struct raw *r, enum priority priority)
{
    r->asked = moved_clock(lane->tier->manager);
    TAILQ_INSERT_TAIL(&lane->raws[priority], r, link);
    manager_kick_locked(lane->tier->manager, lane->tier);
}

static void pick_raws_locked(struct lane *lane, enum priority priority)
{
    unsigned most = depth_for(lane, priority);
    struct raw *r;
    while ((r = TAILQ_FIRST(&lane->raws[priority])) != NULL && lane->free_pieces && lane->in_flight < most) {
        struct piece *p = lane->free_pieces;
        TAILQ_REMOVE(&lane->raws[priority], r, link);
        lane->free_pieces = p->next_free;
        r->began = moved_clock(lane->tier->manager);
        p->transfer = NULL;
        p->raw = r;
        p->seal = NULL;
        p->data = r->host;
        p->io = (terrace_io){.address = r->address, .host = r->host, .bytes = r->bytes, .op = r->op, .user = p};
        lane->in_flight++;
        lane->batch[lane->batched++] = &p->io;
    }
}

/* Room for the transfer is being made: others go on meanwhile. Nobody waits for it but
 * who wants the room that it makes, as two of them could wait for each other. */
static void park_locked(struct lane *lane, struct transfer *x)
{
    TAILQ_REMOVE(&lane->queue[x->priority], x, link);
    TAILQ_INSERT_TAIL(&lane->parked, x, link);
    x->parked = true;
    transfer_keeps_no_more_locked(x);
    lane->parked_at = x->tensor->manager->releases;
}

static void unpark_locked(struct lane *lane)
{
    struct transfer *x;
    if (TAILQ_EMPTY(&lane->parked) || lane->parked_at == lane->tier->manager->releases)
        return;
    while ((x = TAILQ_FIRST(&lane->parked)) != NULL) {
        TAILQ_REMOVE(&lane->parked, x, link);
        TAILQ_INSERT_TAIL(&lane->queue[x->priority], x, link);
        x->parked = false;
        transfer_keep_all_locked(x);
    }
}

/* Queues pieces for submission until the depth or the work is exhausted. */
static void pick_locked(struct lane *lane)
{
    struct transfer *x;
    pick_raws_locked(lane, PRIORITY_DEMAND);
    while ((x = next_transfer(lane)) != NULL) {
        if (x->next == 0 && !x->stale) {
            int r = transfer_prepare_locked(x);
            if (r == -TERRACE_EAGAIN) {
                park_locked(lane, x);
                continue;
            }
            if (r)
                transfer_fail(x, r, terrace_last_error());
        }
        if (x->lane != lane)
            continue; /* it was given another goal */
        if (!x->error && !x->stale && x->next < x->bytes)
            piece_start_locked(lane, x);
        if (x->error || x->stale || x->next == x->bytes) {
            TAILQ_REMOVE(&lane->queue[x->priority], x, link);
            x->queued = false;
            if (x->in_flight == 0)
                transfer_finish_locked(x);
        }
    }
    pick_raws_locked(lane, PRIORITY_PREFETCH);
    pick_raws_locked(lane, PRIORITY_WRITEBACK);
}

static void piece_finish_locked(struct lane *lane, struct piece *p)
{
    struct transfer *x = p->transfer;
    terrace_statistics *stats = &lane->tier->manager->stats;
    stats->cpu_copy_bytes += p->io.cpu_copied;
    p->next_free = lane->free_pieces;
    lane->free_pieces = p;
    lane->in_flight--;
    if (p->raw) {
        p->raw->done_locked(p->raw);
        return;
    }
    x->in_flight--;
    if (x->in_flight == 0 && !x->queued)
        transfer_finish_locked(x);
}

/* Checksum or encryption of a piece on its way out; without the lock. */
static void piece_seal(struct piece *p)
{
    if (p->io.op == TERRACE_IO_WRITE && p->seal)
        seal_close(p->transfer->tensor->manager->sealer, p->seal, p->data, p->staging, p->io.bytes);
}

static void raw_check(struct lane *lane, struct piece *p)
{
    struct raw *r = p->raw;
    char what[300];
    r->error = p->io.result;
    if (r->error) {
        lane->tier->backend->explain(lane->tier->unit, &p->io, what, sizeof what);
        snprintf(r->text, sizeof r->text, "%s: %s", lane->tier->name, what);
    }
    if (r->landed)
        r->landed(r);
}

/* Checks a piece that came back and notes its failure; without the lock, the
 * transfer's error being the lane's own business until it has finished. */
static void piece_check(struct lane *lane, struct piece *p)
{
    struct transfer *x = p->transfer;
    struct terrace *m = lane->tier->manager;
    char what[300], text[ERROR_TEXT];
    int error = p->io.result;
    if (p->raw) {
        raw_check(lane, p);
        return;
    }
    bool intact = true;
    if (error == 0 && p->io.op == TERRACE_IO_READ && p->seal)
        intact = x->other ? seal_open(m->sealer, p->seal, p->data, p->io.bytes)
                         : seal_file(p->seal, p->data, p->io.bytes);
    if (error == 0 && intact)
        return;
    lane->tier->backend->explain(lane->tier->unit, &p->io, what, sizeof what);
    if (error == 0)
        error = -TERRACE_ECORRUPT;
    snprintf(text, sizeof text, "'%s' on %s: %s%s", tensor_name(x->tensor), lane->tier->name, what,
             intact ? "" : ": the bytes read back are not the bytes written");
    transfer_fail(x, error, text);
}

/* ---- hints -------------------------------------------------------------- */

void lane_hint_locked(struct terrace_tensor *t, struct tier *memory)
{
    struct copy *from;
    struct lane *lane = transfer_source_locked(t, memory, &from);
    if (!lane && !t->blank && transfer_way(t, memory))
        lane = memory->lane;
    if (!lane || t->hinted)
        return;
    t->hinted = true;
    t->hint_tier = (unsigned char)(memory - t->manager->tier);
    t->hint_lane = (unsigned char)(lane->tier - t->manager->tier);
    TAILQ_INSERT_TAIL(&lane->hints, t, hint);
    manager_kick_locked(t->manager, lane->tier);
}

void lane_unhint_locked(struct terrace_tensor *t)
{
    if (t->hinted)
        TAILQ_REMOVE(&t->manager->tier[t->hint_lane].lane->hints, t, hint);
    t->hinted = false;
}

void lanes_poke_locked(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (m->tier[i].lane && (!TAILQ_EMPTY(&m->tier[i].lane->hints) || !TAILQ_EMPTY(&m->tier[i].lane->parked)))
            manager_kick_locked(m, &m->tier[i]);
        else if (m->tier[i].credit && policy_dirty(&m->tier[i].policy) && spill_tier(m))
            manager_kick_locked(m, spill_tier(m));
}

bool being_written(struct terrace_tensor *t)
{
    if (lease_is_open(t))
        lease_close_locked(t);
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (copy_pinned_to_write(&t->copy[i]))
            return true;
    return stream_writes_locked(t);
}

/* Starts the fills that were hinted at, in order, while there is room. */
static void follow_hints_locked(struct lane *lane)
{
    struct terrace *m = lane->tier->manager;
    struct terrace_tensor *t;
    while ((t = TAILQ_FIRST(&lane->hints)) != NULL) {
        struct tier *tier = &m->tier[t->hint_tier];
        struct copy *c = &t->copy[t->hint_tier];
        uint64_t most = m->prefetch_limit == UINT64_MAX ? tier->arena.limit / 2 : m->prefetch_limit;
        bool wanted = c->state == COPY_ABSENT && !t->mapped && !t->transfer && !t->doomed && !t->blank && !t->raws &&
                      !being_written(t);
        if (wanted && tier->ahead && tier->ahead + arena_round(&tier->arena, t->bytes) > most)
            return; /* until some of it is used */
        TAILQ_REMOVE(&lane->hints, t, hint);
        t->hinted = false;
        if (!wanted)
            continue;
        int r = fill_start_locked(c, TERRACE_READ, false, true);
        bool later = r == -TERRACE_EAGAIN ||
                     (r == -TERRACE_EBUDGET && arena_round(&tier->arena, t->bytes) <= tier->arena.limit);
        if (later && c->state == COPY_ABSENT && !t->doomed && !t->hinted) {
            t->hinted = true;
            TAILQ_INSERT_HEAD(&lane->hints, t, hint); /* room is being made */
            return;
        }
        tensor_reap_locked(t);
    }
}

/* ---- the lane's thread ------------------------------------------------- */

static void piece_fail(struct piece *p, int error, const char *text)
{
    if (!p->raw) {
        transfer_fail(p->transfer, error, text);
        return;
    }
    p->raw->error = error;
    snprintf(p->raw->text, sizeof p->raw->text, "%s", text);
}

/* Those who wait for a fill can have their streams wait instead, once all of it is
 * with the backend. */
static void note_taken(struct lane *lane, unsigned n)
{
    struct terrace *m = lane->tier->manager;
    bool whole = false;
    manager_lock(m);
    for (unsigned i = 0; i < n; i++) {
        struct transfer *x = lane->taken[i];
        if (!x)
            continue;
        x->taken += lane->batch[i]->bytes;
        whole |= transfer_is_taken(x) && x->copy->pins;
        gate_taken_locked(x); /* it is here until its pieces have come back to this thread */
    }
    if (whole)
        manager_changed_locked(m);
    manager_unlock(m);
}

/* Hands the batch to the backend, as much as it takes; without the lock. False
 * where it takes nothing and nothing is under way that could change that: then
 * the whole batch has failed. */
static bool submit(struct lane *lane, unsigned sealed)
{
    struct tier *disk = lane->tier;
    if (lane->batched == 0)
        return true;
    for (unsigned i = sealed; i < lane->batched; i++)
        piece_seal(lane->batch[i]->user);
    for (unsigned i = 0; tier_has_streams(disk) && i < lane->batched; i++)
        lane->taken[i] = ((struct piece *)lane->batch[i]->user)->transfer;
    int n = disk->backend->submit(disk->unit, lane->batch, lane->batched);
    if (n <= 0) {
        if (lane->in_flight > lane->batched)
            return true; /* again when those are back */
        char text[ERROR_TEXT];
        snprintf(text, sizeof text, "%s takes no more transfers: %s", disk->name,
                 n < 0 ? terrace_strerror(n) : "its queue does not move");
        for (unsigned i = 0; i < lane->batched; i++)
            piece_fail(lane->batch[i]->user, n < 0 ? n : -TERRACE_EIO, text);
        return false;
    }
    if (tier_has_streams(disk))
        note_taken(lane, (unsigned)n);
    lane->batched -= (unsigned)n;
    memmove(lane->batch, lane->batch + n, lane->batched * sizeof lane->batch[0]);
    return true;
}

/* Ends the pieces that the backend would not take. */
static void abandon_locked(struct lane *lane)
{
    unsigned n = lane->batched;
    lane->batched = 0;
    for (unsigned i = 0; i < n; i++)
        piece_finish_locked(lane, lane->batch[i]->user);
}

static bool more_waits(const struct lane *lane)
{
    bool more = false;
    for (int q = 0; q < PRIORITIES; q++)
        more |= !TAILQ_EMPTY(&lane->queue[q]) || !TAILQ_EMPTY(&lane->raws[q]);
    return more;
}

/* So many pieces have come back: the lane's rate over the time in which it has
 * something to do, and what depth is worth having. */
static void measure(struct lane *lane, unsigned pieces, uint64_t bytes)
{
    enum { ENOUGH = 64 << 20 };
    uint64_t now = clock_ns(), ns = now - lane->busy_since;
    depth_done(&lane->depth, pieces, bytes, ns, lane->in_flight + pieces, more_waits(lane));
    lane->busy_bytes += bytes;
    lane->busy_ns += ns;
    lane->busy_since = now;
    if (lane->busy_bytes < ENOUGH)
        return;
    uint64_t rate = (uint64_t)((double)lane->busy_bytes * 1e9 / (double)(lane->busy_ns + 1));
    lane->rate = lane->rate ? (3 * lane->rate + rate) / 4 : rate;
    lane->busy_bytes = lane->busy_ns = 0;
}

/* It is to look again by then, -1: it need not. */
static void no_longer_than(struct lane *lane, int64_t ns)
{
    if (ns >= 0 && (lane->patience < 0 || ns < lane->patience))
        lane->patience = ns;
}

static void lane_turn_locked(struct lane *lane)
{
    struct tier *disk = lane->tier;
    struct terrace *m = disk->manager;
    unsigned sealed = lane->batched; /* left over from the last turn */
    int n = 0;
    bool busy = lane->in_flight > 0;
    lane->again = false;
    lane->patience = -1;
    gates_end_locked(disk);
    no_longer_than(lane, gates_watch_locked(m));
    if (!lane->stop) {
        follow_hints_locked(lane);
        prefetch_follow_locked(lane);
        write_ahead_locked(lane);
        unpark_locked(lane);
        pick_locked(lane);
        no_longer_than(lane, registered_renew_locked(lane));
    }
    if (lane->in_flight && !busy)
        lane->busy_since = clock_ns();
    live_renew_locked(m);
    bool rest = lane->stop && lane->in_flight == 0;
    int watch = lane->watching || lane->stop ? -1 : stable_descriptor_locked(m, disk);
    struct stream_poll poll;
    int64_t look = stream_poll_locked(disk, &poll);
    no_longer_than(lane, look);
    no_longer_than(lane, live_patience_locked(disk));
    rest &= look < 0;
    struct view *views = views_dropped_locked(disk);
    int64_t patience = lane->again ? 0 : lane->patience; /* work may have come while the lock was given up */
    lane->sleeping = true;
    manager_unlock(m);
    if (watch >= 0)
        lane->watching = disk->backend->watch(disk->unit, watch) == 0;
    views_end(disk, views);
    bool taken = submit(lane, sealed);
    if (taken && !rest)
        n = disk->backend->wait(disk->unit, lane->done, lane->most, patience);
    for (int i = 0; i < n; i++)
        piece_check(lane, lane->done[i]->user);
    stream_poll(disk, &poll);
    manager_lock(m);
    lane->sleeping = false;
    stream_polled_locked(disk, &poll);
    if (lane->watching)
        stable_faults_locked(m, watch >= 0);
    if (!taken)
        abandon_locked(lane);
    uint64_t bytes = 0;
    for (int i = 0; i < n; i++) {
        bytes += lane->done[i]->bytes;
        piece_finish_locked(lane, lane->done[i]->user);
    }
    if (n > 0)
        measure(lane, (unsigned)n, bytes);
}

static void *lane_main(void *arg)
{
    struct lane *lane = arg;
    struct terrace *m = lane->tier->manager;
    manager_lock(m);
    while (!lane->stop || lane->in_flight || !TAILQ_EMPTY(&lane->tier->uses))
        lane_turn_locked(lane);
    manager_unlock(m);
    return NULL;
}

/* ---- opening and closing ----------------------------------------------- */

/* Staging for ciphertext, at most a sixteenth of the host tier's budget. */
static int staging_open(struct lane *lane)
{
    size_t chunk = lane->tier->info.io_chunk;
    const struct tier *host = staging_host(lane->tier);
    uint64_t pieces = host ? host->arena.limit / 16 / chunk : 1;
    if (pieces < 1)
        pieces = 1;
    lane->most = pieces < lane->tier->info.io_depth ? (unsigned)pieces : lane->tier->info.io_depth;
    depth_init(&lane->depth, lane->most, lane->most, lane->most, chunk, 0); /* there is staging for so many */
    int r = staging_take(lane->tier, lane->most * chunk, UINT64_MAX, false, &lane->staging);
    if (r) {
        char why[ERROR_TEXT];
        snprintf(why, sizeof why, "%s", terrace_last_error());
        return error_set(r, "TERRACE_ENCRYPT: %s", why);
    }
    for (unsigned i = 0; i < lane->most; i++)
        lane->pieces[i].staging = (char *)lane->staging + i * chunk;
    return 0;
}

static int lane_start(struct lane *lane)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&lane->thread, NULL, lane_main, lane);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e)
        return error_set(-TERRACE_ESYSTEM, "no thread to move bytes to and from %s: %s",
                         lane->tier->name, strerror(e));
    lane->running = true;
    return 0;
}

/* How often pieces may be halved: not where each has its seal. */
static unsigned halved_most(const struct tier *disk)
{
    size_t parts = disk->info.io_chunk / disk->info.page;
    unsigned n = 0;
    while (!disk->manager->sealer && n < HALVED_MOST && parts >> (n + 1))
        n++;
    return n;
}

int lane_open(struct tier *disk)
{
    struct lane *lane = calloc(1, sizeof *lane);
    if (!lane)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    lane->tier = disk;
    unsigned depth = disk->info.io_depth;
    lane->most = disk->info.io_depth_most;
    bool trials = lane->most > depth;
    depth_init(&lane->depth, depth, trials && depth >= LEAST_PART ? depth / LEAST_PART : depth, lane->most,
               disk->info.io_chunk, trials ? halved_most(disk) : 0);
    for (int q = 0; q < PRIORITIES; q++) {
        TAILQ_INIT(&lane->queue[q]);
        TAILQ_INIT(&lane->raws[q]);
    }
    TAILQ_INIT(&lane->hints);
    TAILQ_INIT(&lane->parked);
    lane->pieces = calloc(lane->most, sizeof *lane->pieces);
    lane->batch = calloc(lane->most, sizeof(terrace_io *));
    lane->done = calloc(lane->most, sizeof(terrace_io *));
    lane->taken = calloc(lane->most, sizeof(struct transfer *));
    disk->lane = lane;
    int r = 0;
    if (!lane->pieces || !lane->batch || !lane->done || !lane->taken) {
        r = -TERRACE_ENOMEM;
        error_set(r, "no host memory");
    }
    if (r == 0 && !tier_is_memory(disk) && sealer_encrypts(disk->manager->sealer))
        r = staging_open(lane);
    for (unsigned i = 0; r == 0 && i < lane->most; i++) {
        lane->pieces[i].next_free = lane->free_pieces;
        lane->free_pieces = &lane->pieces[i];
    }
    if (r == 0)
        r = lane_start(lane);
    if (r)
        lane_close(disk);
    return r;
}

static void raws_forget_locked(struct raws *raws)
{
    struct raw *r;
    while ((r = TAILQ_FIRST(raws)) != NULL) {
        TAILQ_REMOVE(raws, r, link);
        r->error = -TERRACE_ESYSTEM;
        snprintf(r->text, sizeof r->text, "the manager is being closed");
        r->done_locked(r);
    }
}

void lane_stop(struct tier *disk)
{
    struct lane *lane = disk->lane;
    if (!lane || !lane->running)
        return;
    manager_lock(disk->manager);
    lane->stop = true;
    manager_kick_locked(disk->manager, disk);
    manager_unlock(disk->manager);
    pthread_join(lane->thread, NULL);
    lane->running = false;
    manager_lock(disk->manager);
    for (int q = 0; q < PRIORITIES; q++)
        while (!TAILQ_EMPTY(&lane->queue[q]))
            transfer_forget_locked(lane, TAILQ_FIRST(&lane->queue[q]));
    for (int q = 0; q < PRIORITIES; q++)
        raws_forget_locked(&lane->raws[q]);
    while (!TAILQ_EMPTY(&lane->parked))
        transfer_forget_locked(lane, TAILQ_FIRST(&lane->parked));
    gates_end_locked(disk);
    manager_unlock(disk->manager);
}

void lane_close(struct tier *disk)
{
    struct lane *lane = disk->lane;
    if (!lane)
        return;
    if (lane->staging)
        staging_give(disk->manager, lane->staging);
    free(lane->pieces);
    free(lane->batch);
    free(lane->done);
    free(lane->taken);
    free(lane);
    disk->lane = NULL;
}
