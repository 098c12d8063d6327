/* relay.c - from one device to another, through staging memory.
 *
 * Two devices of different makes cannot reach each other's memory, but both reach
 * pinned host memory. So a piece is read by the one's lane into a buffer and written
 * from there by the other's, and as there are several buffers both are busy at the
 * same time: bytes arrive at the rate of the slower of the two, and no tensor takes
 * room in a host tier. The buffers are taken when the manager opens; each is on one
 * transfer's behalf at a time, demand before prefetch.
 *
 * A transfer here is in no lane's queue. Its pieces are, one after the other, in both.
 *
 * May call: core.h, mover.h, rules.h, staging.h. */
#include "relay.h"

#include <stdio.h>
#include <stdlib.h>

#include "staging.h"

enum { HOPS = 6 }; /* buffers: as one is filled another is emptied, and none waits for a thread to wake */
static const size_t BUFFER = 4u << 20, LEAST = 256u << 10; /* bytes; a small host tier has smaller ones */

/* One buffer, and the piece in it. */
struct hop {
    struct raw raw;
    struct relay *relay;
    struct transfer *transfer; /* NULL: free */
    void *buffer;
    uint64_t at; /* in the tensor */
};

struct relay {
    struct tier *host;
    void *memory;
    size_t chunk;
    unsigned hops;
    struct hop hop[HOPS];
    TAILQ_HEAD(, transfer) queue[PRIORITIES]; /* with pieces left to start */
};

/* ---- opening ------------------------------------------------------------- */

static bool is_device(const struct tier *tier)
{
    return tier_is_memory(tier) && !(tier->backend->caps & TERRACE_CAP_CPU) && tier->lane;
}

static void refused(struct terrace *m, const struct relay *r)
{
    log_write(&m->log, TERRACE_LOG_INFO, "bytes between devices go by way of whole tensors in host memory: no %zu bytes "
              "of staging memory for each piece: %s", r->chunk, terrace_last_error());
}

void relay_open(struct terrace *m)
{
    struct tier *device[2] = {NULL};
    unsigned n = 0;
    size_t chunk = 0;
    for (unsigned i = 0; i < m->tiers; i++)
        if (is_device(&m->tier[i])) {
            chunk = m->tier[i].info.io_chunk > chunk ? m->tier[i].info.io_chunk : chunk;
            device[n++ > 0] = &m->tier[i];
        }
    struct tier *host = n < 2 ? NULL : staging_host(device[0]);
    struct relay *r = host ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return;
    r->host = host;
    r->chunk = chunk < BUFFER ? chunk : BUFFER;
    while (r->chunk > LEAST && 2 * r->chunk > host->arena.limit / 8)
        r->chunk /= 2;
    for (r->hops = HOPS; r->hops > 2 && r->hops * r->chunk > host->arena.limit / 16; r->hops--)
        continue;
    for (int q = 0; q < PRIORITIES; q++)
        TAILQ_INIT(&r->queue[q]);
    uint64_t bytes = r->hops * r->chunk;
    if (bytes > host->arena.limit / 8 || staging_take(device[0], bytes, UINT64_MAX, false, &r->memory)) {
        refused(m, r);
        free(r);
        return;
    }
    for (unsigned i = 0; i < r->hops; i++)
        r->hop[i] = (struct hop){.relay = r, .buffer = (char *)r->memory + i * r->chunk};
    m->relay = r;
}

void relay_close(struct terrace *m)
{
    if (m->relay)
        staging_give(m, m->relay->memory);
    free(m->relay);
    m->relay = NULL;
}

const struct tier *relay_between(const struct tier *from, const struct tier *to)
{
    const struct relay *r = from->manager->relay;
    return r && from != to && is_device(from) && is_device(to) ? r->host : NULL;
}

bool relay_leads(const struct terrace_tensor *t, const struct tier *from, const struct tier *to)
{
    const struct tier *host = relay_between(from, to);
    return host && tensor_may(t, host);
}

/* ---- pieces -------------------------------------------------------------- */

static void pump_locked(struct relay *r);

/* The piece is done with; what follows it may be started, or was the end. */
static void hop_ends_locked(struct hop *h)
{
    struct transfer *x = h->transfer;
    h->transfer = NULL;
    x->in_flight--;
    if (x->queued && (x->error || x->stale)) {
        TAILQ_REMOVE(&h->relay->queue[x->priority], x, link);
        x->queued = false;
    }
    if (!x->queued && x->in_flight == 0)
        transfer_finish_locked(x);
    pump_locked(h->relay);
}

/* Has a lane read or write the piece; false: it has stopped. */
static bool hop_goes_locked(struct hop *h, const struct copy *end, int op, void (*done_locked)(struct raw *))
{
    struct lane *lane = copy_tier(end)->lane;
    if (lane->stop) {
        transfer_fail(h->transfer, -TERRACE_ESYSTEM, "the manager is being closed");
        return false;
    }
    h->raw.address = end->extent->address + h->at;
    h->raw.op = op;
    h->raw.error = 0;
    h->raw.done_locked = done_locked;
    lane_raw_locked(lane, &h->raw, h->transfer->priority);
    return true;
}

static void has_failed(struct hop *h)
{
    char text[ERROR_TEXT];
    snprintf(text, sizeof text, "'%.80s' on the way from %s to %s: %.300s", tensor_name(h->transfer->tensor),
             copy_tier(h->transfer->other)->name, copy_tier(h->transfer->copy)->name, h->raw.text);
    transfer_fail(h->transfer, h->raw.error, text);
}

static void written_locked(struct raw *raw)
{
    struct hop *h = (struct hop *)raw;
    if (raw->error)
        has_failed(h);
    hop_ends_locked(h);
}

static void read_locked(struct raw *raw)
{
    struct hop *h = (struct hop *)raw;
    const struct transfer *x = h->transfer;
    if (raw->error)
        has_failed(h);
    if (x->error || x->stale || !hop_goes_locked(h, x->copy, TERRACE_IO_WRITE, written_locked))
        hop_ends_locked(h);
}

/* As many bytes as both ends move at once, from there on. */
static size_t piece_bytes(const struct relay *r, const struct transfer *x)
{
    uint64_t n = x->bytes - x->next;
    const struct copy *end[] = {x->copy, x->other};
    n = n < r->chunk ? n : r->chunk;
    for (int i = 0; i < 2; i++) {
        const terrace_unit_info *info = &copy_tier(end[i])->info;
        uint64_t address = end[i]->extent->address + x->next;
        uint64_t until = info->io_boundary ? info->io_boundary - address % info->io_boundary : n;
        n = n < info->io_chunk ? n : info->io_chunk;
        n = n < until ? n : until;
    }
    return n;
}

static struct transfer *next_locked(struct relay *r)
{
    for (int q = 0; q < PRIORITIES; q++)
        if (!TAILQ_EMPTY(&r->queue[q]))
            return TAILQ_FIRST(&r->queue[q]);
    return NULL;
}

/* Starts pieces while there are buffers. */
static void pump_locked(struct relay *r)
{
    struct transfer *x;
    for (unsigned i = 0; i < r->hops && (x = next_locked(r)) != NULL; i++) {
        struct hop *h = &r->hop[i];
        if (h->transfer)
            continue;
        if (!x->next)
            transfer_begins_locked(x);
        h->transfer = x;
        h->at = x->next;
        h->raw.host = h->buffer;
        h->raw.bytes = piece_bytes(r, x);
        x->next += h->raw.bytes;
        x->in_flight++;
        if (x->next == x->bytes) {
            TAILQ_REMOVE(&r->queue[x->priority], x, link);
            x->queued = false;
        }
        if (!hop_goes_locked(h, x->other, TERRACE_IO_READ, read_locked)) {
            hop_ends_locked(h);
            return;
        }
    }
}

void relay_start_locked(struct transfer *x)
{
    struct relay *r = x->tensor->manager->relay;
    size_t page = copy_tier(x->copy)->info.page, other = copy_tier(x->other)->info.page;
    x->bytes = round_up(x->tensor->bytes, page > other ? page : other);
    TAILQ_INSERT_TAIL(&r->queue[x->priority], x, link);
    pump_locked(r);
}

void relay_hurry_locked(struct transfer *x)
{
    struct relay *r = x->tensor->manager->relay;
    if (x->queued) {
        TAILQ_REMOVE(&r->queue[x->priority], x, link);
        TAILQ_INSERT_TAIL(&r->queue[PRIORITY_DEMAND], x, link);
    }
    x->priority = PRIORITY_DEMAND;
}
