/* fine_leave.c - single pages of address-stable memory leave: they are taken back
 * from their places, compared, and written down where they were changed.
 *
 * Pages on disk are written in place, but where a forked child reads them: then
 * the block first gets other blocks on disk, with the same bytes (space.c).
 *
 * May call: core.h, forked.h, frame.h, moved.h, mover.h, region.h, uffd.h. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fine.h"
#include "forked.h"
#include "frame.h"
#include "moved.h"

static bool is_wanted(const struct fine *fine)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < BLOCK_PAGES / 64; i++)
        any |= fine->wanted[i];
    return any;
}

/* ---- leaving ----------------------------------------------------------- */

/* Takes frames' pages back into them and compares; without the lock. */
static void take_back(struct stable *s, struct frame *const *list, unsigned n, bool *kept)
{
    for (unsigned i = 0; i < n; i++) {
        struct frame *f = list[i];
        size_t moved;
        char *at = page_address(f->block, f->page);
        int e = uffd_take(&s->uffd, frame_address(f), at, PAGE, &moved);
        if (e == EBUSY) {
            fork_unshare(at, PAGE);
            e = uffd_take(&s->uffd, frame_address(f), at, PAGE, &moved);
        }
        kept[i] = e != 0;
        if (!kept[i])
            f->same = f->summed && XXH128_isEqual(checksum(frame_address(f), PAGE), f->sum);
    }
}

bool frames_recall_locked(struct stable *s, struct terrace *m, struct frame **list, unsigned n)
{
    struct frame *moving[SLAB_PAGES];
    bool kept[SLAB_PAGES], all = true;
    unsigned k = 0;
    for (unsigned i = 0; i < n; i++)
        if (list[i]->state == FRAME_MAPPED && !list[i]->behind) {
            list[i]->state = FRAME_MOVING;
            list[i]->block->busy++;
            slab_of(list[i])->tensor->busy++;
            moving[k++] = list[i];
        } else {
            all &= list[i]->state == FRAME_HELD || list[i]->state == FRAME_DEAD;
        }
    moving_locked(m, true);
    manager_unlock(m);
    take_back(s, moving, k, kept);
    manager_lock(m);
    moving_locked(m, false);
    for (unsigned i = 0; i < k; i++) {
        struct frame *f = moving[i];
        block_rest_locked(f->block);
        slab_of(f)->tensor->busy--;
        f->state = kept[i] ? FRAME_MAPPED : FRAME_HELD;
        f->summed &= kept[i] || f->same;
        if (bit(f->block->fine->wanted, f->page))
            fine_list_locked(s, f->block->fine);
        all &= !kept[i];
    }
    return all;
}

static void write_failed_locked(struct terrace *m, struct slab *slab, int error, const char *text)
{
    if (m->stable->stop)
        return; /* the manager is being closed: nothing is kept */
    slab->tensor->failed_at = ++m->failures;
    slab->tensor->blank = false; /* leaving costs a write, which may fail again */
    m->failure = error;
    snprintf(m->failure_text, sizeof m->failure_text, "%s", text);
    tensor_failed_locked(slab->tensor, error, text);
    slab->tier->credit = 0;
}

/* Of WRITING frames, adjacent in slab and block. */
static void write_ended_locked(struct stable *s, struct frame *first, unsigned n, bool failed)
{
    struct fine *fine = first->block->fine;
    struct slab *slab = slab_of(first);
    slab->tensor->busy++;
    for (unsigned i = 0; i < n; i++) {
        struct frame *f = &first[i], *now = fine->frame[f->page];
        if (!failed)
            bit_set(fine->hole, f->page, false);
        if (now != f && now) { /* a copy of it has been made */
            now->behind = false;
            now->summed &= !failed;
        }
        if (now == f && failed)
            f->state = FRAME_HELD;
        else
            frame_drop_locked(s, f);
    }
    slab->tensor->busy--;
    if (fine->listed)
        work_locked(first->block->manager);
    slab_check_locked(s, slab);
}

static void write_done_locked(struct raw *raw)
{
    struct frame_io *io = (struct frame_io *)raw;
    struct terrace_tensor *t = io->block;
    struct terrace *m = t->manager;
    struct stable *s = m->stable;
    if (raw->error)
        write_failed_locked(m, slab_of(io->first), raw->error, raw->text);
    m->stats.writeback_bytes += raw->error ? 0 : raw->bytes;
    moved_locked(t->region->tier, spill_tier(m), raw->bytes,
                 &(struct move){.label = tensor_name(t), .asked = raw->asked, .began = raw->began,
                                .priority = PRIORITY_WRITEBACK, .spoiled = raw->error});
    write_ended_locked(s, io->first, io->n, raw->error != 0);
    frame_io_end_locked(io);
}

/* Blocks on disk to write the block's pages to, which nobody else reads. No fill is
 * begun meanwhile. Gives up the lock. */
static int space_locked(struct terrace_tensor *t)
{
    struct copy *disk = disk_copy(t);
    int r = 0;
    if (disk->extent && !fork_reads_still_locked(disk))
        goto valid;
    t->busy++;
    t->fine->parted = true;
    while (t->raws > 1) /* others than the caller's */
        manager_wait(t->manager);
    r = space_own_locked(disk);
    t->fine->parted = false;
    block_rest_locked(t);
    if (r)
        return r;
valid:
    if (disk->state != COPY_VALID)
        copy_set_locked(disk, COPY_VALID);
    t->blank = false;
    return 0;
}

/* Changed bytes of HELD frames, adjacent in slab and block, go where they will
 * be kept. False: not now. Gives up the lock. */
static bool save_locked(struct stable *s, struct frame *f, unsigned n)
{
    struct terrace_tensor *t = f->block;
    struct terrace *m = t->manager;
    struct copy *c = block_copy(t);
    if (c->state == COPY_FILLING || t->mapped)
        return false;
    if (c->state == COPY_VALID) {
        for (unsigned i = 0; i < n; i++) {
            memcpy(base_address(t, f[i].page), frame_address(&f[i]), PAGE);
            bit_set(t->fine->hole, f[i].page, false);
            frame_drop_locked(s, &f[i]);
        }
        copy_written_locked(c);
        copy_settle_locked(c);
        return true;
    }
    for (unsigned i = 0; i < n; i++)
        f[i].state = FRAME_WRITING;
    t->raws++; /* no fill is begun */
    struct frame_io *io = malloc(sizeof *io);
    int r = io ? space_locked(t) : error_set(-TERRACE_ENOMEM, "no host memory to write pages down");
    t->raws--;
    if (r) {
        free(io);
        write_failed_locked(m, slab_of(f), r, terrace_last_error());
        write_ended_locked(s, f, n, true);
        return false;
    }
    io->raw.landed = NULL;
    io->raw.done_locked = write_done_locked;
    frame_io_start_locked(io, f, n, TERRACE_IO_WRITE);
    return true;
}

/* How many frames from here can be written as one. */
static unsigned write_run(struct frame *const *list, unsigned n)
{
    struct frame *f = list[0];
    struct copy *disk = disk_copy(f->block);
    unsigned run = 1;
    while (run < n && list[run] == f + run && list[run]->block == f->block && list[run]->page == f->page + run &&
           list[run]->state == FRAME_HELD && !list[run]->summed)
        run++;
    return disk->extent && !fork_reads_still_locked(disk) ? frame_io_most(f->block, f->page, run) : 1;
}

/* Empties frames, as far as that can be done. Gives up the lock. */
static void leave_locked(struct stable *s, struct terrace *m, struct frame **list, unsigned n)
{
    frames_recall_locked(s, m, list, n);
    for (unsigned i = 0, run; i < n; i += run) {
        run = 1;
        if (list[i]->state != FRAME_HELD || list[i]->behind || bit(list[i]->block->fine->wanted, list[i]->page))
            continue;
        if (list[i]->summed) {
            frame_drop_locked(s, list[i]);
            continue;
        }
        run = write_run(&list[i], n - i);
        uint64_t failures = m->failures;
        if (!save_locked(s, list[i], run) && m->failures != failures)
            return;
    }
}

void fine_unmap_slab_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct slab *slab = t->slab;
    struct frame *list[SLAB_PAGES];
    unsigned n = 0;
    TAILQ_REMOVE(&s->leaving, t, work);
    t->busy++;
    for (unsigned i = 0; i < slab->used; i++)
        if (slab->frame[i].state != FRAME_DEAD)
            list[n++] = &slab->frame[i];
    leave_locked(s, m, list, n);
    t->busy--;
    slab->recalled = true;
    slab_check_locked(s, slab);
}

unsigned frames_of_locked(const struct fine *fine, unsigned *from, struct frame **list)
{
    unsigned n = 0;
    fork_gate_locked(fine->block->manager);
    for (; *from < BLOCK_PAGES && n < SLAB_PAGES; ++*from)
        if (fine->frame[*from] &&
            (fine->frame[*from]->state == FRAME_MAPPED || fine->frame[*from]->state == FRAME_HELD))
            list[n++] = fine->frame[*from];
    return n;
}

void fine_leave_locked(struct stable *s, struct terrace_tensor *t)
{
    struct frame *list[SLAB_PAGES];
    unsigned from = 0, n;
    t->fine->leaving = false;
    t->busy++;
    while ((n = frames_of_locked(t->fine, &from, list)) != 0)
        leave_locked(s, t->manager, list, n);
    fine_trim_locked(s);
    if (is_wanted(t->fine) && !t->doomed)
        fine_list_locked(s, t->fine);
    block_rest_locked(t);
    demote_ask_locked(t, NULL); /* what was changed may have gone into the arena's copy */
}

void fine_expel_locked(struct stable *s, struct terrace_tensor *t)
{
    if (t->fine && t->fine->pages) {
        t->fine->leaving = true;
        fine_list_locked(s, t->fine);
    } else {
        fine_trim_locked(s);
    }
}
