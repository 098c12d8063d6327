/* frame.c - single pages of address-stable memory: the frames that hold them, and
 * how these are read.
 *
 * Frames are cut from slabs, which are tensors of their own kind: a slab takes
 * part in eviction like a block. Frames are given out in order, so a slab holds
 * what was faulted in at about the same time, and leaves as one.
 *
 * Frames belong to the service thread, but from the start of their I/O until it
 * has ended to the lane's.
 *
 * May call: core.h, frame.h, moved.h, mover.h, region.h, stable.h, uffd.h. */
#include "frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "fine.h"
#include "moved.h"
#include "stable.h"

struct fine *fine_of(struct terrace_tensor *t)
{
    if (!t->fine && (t->fine = calloc(1, sizeof *t->fine)) != NULL) {
        t->fine->block = t;
        memset(t->fine->hole, t->blank ? 0xff : 0, sizeof t->fine->hole);
        t->summed = false; /* single pages of it may change on the disk */
    }
    return t->fine;
}

void fine_list_locked(struct stable *s, struct fine *fine)
{
    if (!fine->listed)
        TAILQ_INSERT_TAIL(&s->paged, fine, link);
    fine->listed = true;
    work_locked(fine->block->manager);
}

void block_rest_locked(struct terrace_tensor *t)
{
    t->busy--;
    if (t->doomed)
        manager_changed_locked(t->manager);
    tensor_reap_locked(t);
}

/* ---- slabs and frames -------------------------------------------------- */

/* A new slab. Gives up the lock. NULL: no room now. */
static struct slab *slab_new_locked(struct stable *s, struct tier *tier)
{
    struct terrace *m = tier->manager;
    struct slab *slab = calloc(1, sizeof *slab);
    struct terrace_tensor *t = slab ? tensor_for_block(m, NULL, 0, SLAB_PAGES * PAGE) : NULL;
    if (!t) {
        free(slab);
        return NULL;
    }
    struct copy *c = &t->copy[tier - m->tier];
    *slab = (struct slab){.tensor = t, .tier = tier};
    t->slab = slab;
    LIST_INSERT_HEAD(&s->slabs, slab, link);
    if (fill_start_locked(c, TERRACE_OVERWRITE, false, false) < 0) {
        LIST_REMOVE(slab, link);
        tensor_doom_locked(t);
        return NULL;
    }
    for (unsigned i = 0; i < SLAB_PAGES; i++)
        slab->frame[i].index = (unsigned char)i;
    c->hollow = 0;
    copy_set_locked(c, COPY_VALID);
    policy_arrived(&tier->policy, &c->node, false);
    t->mapped = true;
    t->from = c->tier;
    copy_settle_locked(c);
    return slab;
}

void slab_free_locked(struct stable *s, struct slab *slab)
{
    struct terrace_tensor *t = slab->tensor;
    struct terrace *m = t->manager;
    struct copy *c = slab_copy(slab);
    unsigned i = (unsigned)(slab->tier - m->tier);
    if (s->open[i] == slab)
        s->open[i] = NULL;
    if (s->spare[i] == slab)
        s->spare[i] = NULL;
    LIST_REMOVE(slab, link);
    stable_unstuck_locked(t);
    m->stats.evictions++;
    policy_remove(&slab->tier->policy, &c->node);
    policy_evicted(&slab->tier->policy, &c->node);
    tensor_doom_locked(t);
    lanes_poke_locked(m);
}

/* Ends the recall of a slab, which stays with what is left in it. */
static void slab_stay_locked(struct slab *slab)
{
    struct terrace_tensor *t = slab->tensor;
    struct copy *c = slab_copy(slab);
    t->leaving = slab->recalled = false;
    slab->tier->draining -= c->node.bytes;
    stable_stuck_locked(c);
    manager_changed_locked(t->manager);
}

void slab_check_locked(struct stable *s, struct slab *slab)
{
    struct terrace_tensor *t = slab->tensor;
    bool moving = false, left = false;
    if (t->leaving ? !slab->recalled : slab->live)
        return;
    for (unsigned i = 0; i < slab->used; i++) {
        unsigned state = slab->frame[i].state;
        moving |= state == FRAME_MOVING || state == FRAME_WRITING || state == FRAME_READING;
        left |= state != FRAME_DEAD;
    }
    if (t->busy || moving)
        return;
    if (t->leaving) {
        if (left) {
            slab_stay_locked(slab);
            return;
        }
        t->leaving = false;
        slab->tier->draining -= slab_copy(slab)->node.bytes;
        slab_free_locked(s, slab);
    } else {
        slab_free_locked(s, slab);
    }
}

void slab_stock_locked(struct stable *s, struct tier *tier)
{
    unsigned i = (unsigned)(tier - tier->manager->tier);
    if (!s->open[i] || s->open[i]->tensor->leaving || s->open[i]->used == SLAB_PAGES) {
        s->open[i] = s->spare[i];
        s->spare[i] = NULL;
    }
    if (s->open[i] && s->spare[i])
        return;
    struct slab *slab = slab_new_locked(s, tier);
    if (!s->open[i])
        s->open[i] = slab;
    else if (!s->spare[i])
        s->spare[i] = slab;
    else if (slab)
        slab_free_locked(s, slab); /* somebody else had one made meanwhile */
    if (slab && !s->spare[i] && s->open[i] == slab)
        slab_stock_locked(s, tier);
}

struct frame *frame_take_locked(struct stable *s, struct terrace_tensor *t, unsigned page,
                                unsigned state)
{
    unsigned i = (unsigned)(t->region->tier - t->manager->tier);
    struct slab *slab = s->open[i];
    if (!slab || slab->used == SLAB_PAGES || slab->tensor->leaving) {
        slab = s->open[i] = s->spare[i];
        s->spare[i] = NULL;
    }
    if (!slab || slab->tensor->leaving)
        return NULL;
    struct frame *f = &slab->frame[slab->used++];
    slab->live++;
    *f = (struct frame){.block = t, .page = (uint16_t)page, .index = f->index,
                        .state = (unsigned char)state};
    t->fine->pages += !t->fine->frame[page];
    t->fine->frame[page] = f;
    return f;
}

void frame_drop_locked(struct stable *s, struct frame *f)
{
    struct fine *fine = f->block->fine;
    if (fine->frame[f->page] == f) {
        fine->frame[f->page] = NULL;
        fine->pages--;
        fine->used &= fine->pages != 0;
    }
    f->state = FRAME_DEAD;
    slab_of(f)->live--;
    slab_check_locked(s, slab_of(f));
}

/* A page that is, or was, shared with a child cannot be moved: gives the frame
 * another one. Without the lock. */
static void frame_unshare(struct frame *f)
{
    char bytes[PAGE];
    memcpy(bytes, frame_address(f), PAGE);
    madvise(frame_address(f), PAGE, MADV_DONTNEED);
    memcpy(frame_address(f), bytes, PAGE);
}

void frame_map_locked(struct stable *s, struct frame *f)
{
    struct terrace_tensor *t = f->block;
    struct terrace *m = t->manager;
    size_t moved;
    slab_of(f)->tensor->busy++;
    t->busy++;
    f->state = FRAME_MOVING;
    moving_locked(m, true);
    manager_unlock(m);
    int e = uffd_place(&s->uffd, page_address(t, f->page), frame_address(f), PAGE, &moved);
    if (e == EBUSY) {
        frame_unshare(f);
        e = uffd_place(&s->uffd, page_address(t, f->page), frame_address(f), PAGE, &moved);
    }
    manager_lock(m);
    moving_locked(m, false);
    slab_of(f)->tensor->busy--;
    f->state = e ? FRAME_HELD : FRAME_MAPPED;
    if (e)
        fine_list_locked(s, t->fine); /* the address space is changing: again */
    else
        bit_set(t->fine->wanted, f->page, false);
    slab_check_locked(s, slab_of(f));
    block_rest_locked(t);
}

/* ---- reading ----------------------------------------------------------- */

void frame_io_end_locked(struct frame_io *io)
{
    struct terrace_tensor *t = io->block;
    t->raws--;
    manager_changed_locked(t->manager);
    block_rest_locked(t);
    free(io);
}

/* In the lane's thread, without the lock: the frames are its own. */
static void read_landed(struct raw *raw)
{
    struct frame_io *io = (struct frame_io *)raw;
    struct terrace_tensor *t = io->block;
    struct stable *s = t->manager->stable;
    size_t moved = 0;
    if (raw->error)
        return;
    for (unsigned i = 0; i < io->n; i++)
        io->first[i].sum = checksum(frame_address(&io->first[i]), PAGE);
    pthread_mutex_lock(&s->landing);
    (void)uffd_place(&s->uffd, page_address(t, io->first->page), raw->host, (size_t)io->n * PAGE, &moved);
    io->moved = (unsigned)(moved / PAGE);
    for (unsigned i = 0; i < io->moved; i++)
        slab_of(io->first)->placed |= UINT64_C(1) << io->first[i].index;
    pthread_mutex_unlock(&s->landing);
}

static void read_failed_locked(struct stable *s, struct frame_io *io)
{
    struct terrace_tensor *t = io->block;
    struct fine *fine = t->fine;
    struct frame *f = io->first;
    fine->bad = true; /* from now on page by page: the others may be readable */
    fine->window = 0;
    if (io->n == 1 && bit(fine->wanted, f->page) && !s->stop) {
        struct terrace *m = t->manager;
        m->stats.io_errors++;
        log_write(&m->log, TERRACE_LOG_ERROR, "stable memory at %p cannot be read back and is poisoned: %s",
                  (void *)page_address(t, f->page), io->raw.text);
        f->state = FRAME_BAD;
        return;
    }
    for (unsigned i = 0; i < io->n; i++)
        frame_drop_locked(s, &f[i]);
}

static void read_done_locked(struct raw *raw)
{
    struct frame_io *io = (struct frame_io *)raw;
    struct terrace_tensor *t = io->block;
    struct terrace *m = t->manager;
    struct stable *s = m->stable;
    struct fine *fine = t->fine;
    bool again = raw->error;
    if (raw->error) {
        read_failed_locked(s, io);
    } else {
        m->stats.fill_bytes += raw->bytes;
        moved_locked(spill_tier(m), t->region->tier, raw->bytes,
                     &(struct move){.label = tensor_name(t), .asked = raw->asked, .began = raw->began});
    }
    for (unsigned i = 0; !raw->error && i < io->n; i++) {
        struct frame *f = &io->first[i];
        f->summed = true;
        f->state = i < io->moved ? FRAME_MAPPED : FRAME_HELD;
        again |= i >= io->moved;
        if (i < io->moved)
            bit_set(fine->wanted, f->page, false);
        else
            bit_set(fine->wanted, f->page, true);
    }
    if (again && !t->doomed)
        fine_list_locked(s, fine);
    slab_check_locked(s, slab_of(io->first));
    frame_io_end_locked(io);
}

void frame_io_start_locked(struct frame_io *io, struct frame *first, unsigned n, int op)
{
    struct terrace_tensor *t = first->block;
    struct copy *disk = disk_copy(t);
    io->block = t;
    io->first = first;
    io->n = n;
    io->moved = 0;
    io->raw.address = disk->extent->address + (uint64_t)first->page * PAGE;
    io->raw.host = frame_address(first);
    io->raw.bytes = (size_t)n * PAGE;
    io->raw.op = op;
    io->raw.error = 0;
    t->raws++;
    t->busy++;
    lane_raw_locked(copy_tier(disk)->lane, &io->raw,
                    op == TERRACE_IO_READ ? PRIORITY_DEMAND : PRIORITY_WRITEBACK);
}

unsigned frame_io_most(struct terrace_tensor *t, unsigned page, unsigned n)
{
    const struct copy *disk = disk_copy(t);
    size_t chunk = copy_tier(disk)->info.io_chunk;
    uint64_t address = disk->extent->address + (uint64_t)page * PAGE;
    unsigned most = (unsigned)((chunk - address % chunk) / PAGE);
    return n < most ? n : most;
}

unsigned frame_read_locked(struct stable *s, struct terrace_tensor *t, unsigned page, unsigned n)
{
    struct frame_io *io = malloc(sizeof *io);
    struct frame *first = io ? frame_take_locked(s, t, page, FRAME_READING) : NULL;
    if (!first) {
        free(io);
        return 0;
    }
    unsigned got = 1;
    unsigned left = SLAB_PAGES - slab_of(first)->used;
    n = frame_io_most(t, page, n < left + 1 ? n : left + 1);
    while (got < n && !t->fine->frame[page + got] && !bit(t->fine->hole, page + got)) {
        frame_take_locked(s, t, page + got, FRAME_READING);
        got++;
    }
    io->raw.landed = read_landed;
    io->raw.done_locked = read_done_locked;
    frame_io_start_locked(io, first, got, TERRACE_IO_READ);
    return got;
}

void fine_trim_locked(struct stable *s)
{
    struct slab *slab, *next;
    for (slab = LIST_FIRST(&s->slabs); slab; slab = next) {
        next = LIST_NEXT(slab, link);
        if (!slab->live && !slab->tensor->busy && !slab->tensor->leaving)
            slab_free_locked(s, slab);
    }
}

void fine_close_locked(struct stable *s)
{
    struct slab *slab;
    while ((slab = LIST_FIRST(&s->slabs)) != NULL) {
        slab->tensor->leaving = false;
        slab_free_locked(s, slab);
    }
}
