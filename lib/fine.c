/* fine.c - blocks of address-stable memory held page by page.
 *
 * Whoever touches single pages here and there is to pay for these: 4 KiB read,
 * 4 KiB of memory. So a block need not be in memory as a whole. Its bytes then
 * have a base, which is the arena's copy where there is one (a write-back is
 * under way), else the disk's, else zeros; and pages that are in memory lie on
 * top of that. Such a page is held by a frame, 4 KiB of the arena: the disk
 * reads into it, it is moved (uffd.h) from there to its place, and back
 * before it leaves. Changes are found by checksum, as for blocks, and written
 * in place on the disk, or into the arena's copy.
 *
 * How much is read at a fault follows from the block's faults before it: pages
 * at a constant distance are read ahead, twice as many each time. Adjacent ones
 * soon make the whole block come, and then the block after it. When a whole
 * block comes, its single pages are put into it first.
 *
 * A page that is being written down, alone or with its block, and is touched
 * again is copied: nobody waits for the disk to finish.
 *
 * Pieces on disk that are checked or encrypted are larger than a page, and where
 * another memory tier is next a page has no place of its own: then all blocks come
 * whole.
 *
 * Frames and how they are read: frame.c. How pages leave: fine_leave.c.
 *
 * May call: core.h, forked.h, frame.h, region.h, stable.h, uffd.h. */
#include "fine.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "forked.h"
#include "frame.h"
#include "stable.h"

enum {
    MOST_WINDOW = 32,               /* pages read at once */
    WHOLE = BLOCK_PAGES * 3 / 4     /* so many pages in memory: the rest may come as well */
};

/* ---- serving pages ----------------------------------------------------- */

/* Gives a page its bytes where no disk is needed: from `from`, or zeros. Gives
 * up the lock. False: no frame. */
static bool page_copy_locked(struct stable *s, struct terrace_tensor *t, unsigned page, const void *from)
{
    struct terrace *m = t->manager;
    struct frame *old = t->fine->frame[page];
    struct frame *f = frame_take_locked(s, t, page, FRAME_MOVING);
    if (!f)
        return false;
    f->behind = old != NULL;
    if (from) /* under the lock: the source may go when it is given up */
        memcpy(frame_address(f), from, PAGE);
    else
        memset(frame_address(f), 0, PAGE);
    f->sum = checksum(frame_address(f), PAGE);
    f->summed = true;
    m->stats.cpu_copy_bytes += from ? PAGE : 0;
    frame_map_locked(s, f);
    return true;
}

static void poison_locked(struct stable *s, struct frame *f)
{
    struct terrace_tensor *t = f->block;
    unsigned page = f->page;
    bit_set(t->fine->wanted, page, false);
    frame_drop_locked(s, f);
    t->busy++;
    manager_unlock(t->manager);
    uffd_poison(&s->uffd, page_address(t, page), PAGE);
    uffd_wake(&s->uffd, page_address(t, page), PAGE);
    manager_lock(t->manager);
    block_rest_locked(t);
}

/* The whole block is wanted, by those who waited for pages, too. */
static void go_whole_locked(struct stable *s, struct fine *fine)
{
    memset(fine->wanted, 0, sizeof fine->wanted);
    block_fault_locked(s, fine->block);
}

/* Brings one wanted page a step further; n: how many to read from here. False:
 * there is no frame. */
static bool page_serve_locked(struct stable *s, struct terrace_tensor *t, unsigned page, unsigned n)
{
    struct fine *fine = t->fine;
    struct frame *f = fine->frame[page];
    struct copy *c = block_copy(t);
    switch (f ? f->state : FRAME_DEAD) {
    case FRAME_READING:
    case FRAME_MOVING: /* whoever does that sees that it is wanted */
        return true;
    case FRAME_MAPPED:
        bit_set(fine->wanted, page, false);
        uffd_wake(&s->uffd, page_address(t, page), PAGE);
        return true;
    case FRAME_HELD:
        frame_map_locked(s, f);
        return true;
    case FRAME_BAD:
        poison_locked(s, f);
        return true;
    case FRAME_WRITING:
        return page_copy_locked(s, t, page, frame_address(f));
    default:
        break;
    }
    if (by_pages(fine) && c->state == COPY_FILLING)
        return false;
    if (!by_pages(fine) && (t->mapped || c->state == COPY_FILLING || (c->state == COPY_VALID && !t->transfer))) {
        go_whole_locked(s, fine);
        return true;
    }
    if (bit(fine->hole, page))
        return page_copy_locked(s, t, page, NULL);
    if (c->state == COPY_VALID)
        return page_copy_locked(s, t, page, base_address(t, page));
    const struct copy *disk = disk_copy(t);
    if (!disk || disk->state != COPY_VALID) { /* it is not where single pages can be read */
        go_whole_locked(s, fine);
        return true;
    }
    return !fine->parted && frame_read_locked(s, t, page, n) != 0;
}

static void serve_locked(struct stable *s, struct fine *fine)
{
    struct terrace_tensor *t = fine->block;
    t->busy++;
    slab_stock_locked(s, t->region->tier);
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        if (fork_gate_locked(t->manager), bit(fine->wanted, i) && !page_serve_locked(s, t, i, 1)) {
            if (!t->doomed)
                fine_list_locked(s, fine);
            break;
        }
    block_rest_locked(t);
}

void fine_serve_all_locked(struct stable *s)
{
    struct fine *fine;
    unsigned n = 0;
    TAILQ_FOREACH(fine, &s->paged, link)
        n++;
    while (n-- && (fine = TAILQ_FIRST(&s->paged)) != NULL) {
        TAILQ_REMOVE(&s->paged, fine, link);
        fine->listed = false;
        if (fine->leaving)
            fine_leave_locked(s, fine->block);
        else
            serve_locked(s, fine);
    }
}

/* ---- patterns ---------------------------------------------------------- */

static bool in_block(int page)
{
    return page >= 0 && page < BLOCK_PAGES;
}

/* Where the walk over this block will fault next; outside of it where it ends. */
static int next_fault(const struct fine *fine)
{
    int page = fine->stride ? fine->end + fine->stride : -1;
    while (in_block(page) && fine->frame[page])
        page += fine->stride;
    return page;
}

static struct terrace_tensor *neighbour(const struct terrace_tensor *t, int way)
{
    size_t i = t->index + (size_t)(long)way;
    return i < t->region->blocks ? t->region->block[i] : NULL;
}

static bool is_whole(struct terrace_tensor *t)
{
    bool was = t && t->notice != NOTICE_NONE && block_copy(t)->state == COPY_VALID; /* mapped until just now */
    return was || (t && (t->mapped || t->faulted));
}

/* A walk over whole blocks has come to this one. */
static bool walks_on(const struct terrace_tensor *t, unsigned page)
{
    const struct fine *fine = t->fine;
    unsigned first = 0, last = BLOCK_PAGES - 1;
    while (fine && first < BLOCK_PAGES - 1 && fine->frame[first])
        first++;
    while (fine && last > 0 && fine->frame[last])
        last--;
    return (page == first && is_whole(neighbour(t, -1))) || (page == last && is_whole(neighbour(t, 1)));
}

/* Takes the walk over from the block before, if it leads here. */
static void walk_inherit(const struct terrace_tensor *t, struct fine *fine, int page)
{
    for (int way = -1; way <= 1; way += 2) {
        const struct terrace_tensor *from = neighbour(t, way);
        if (!from || !from->fine || from->fine->window < 2)
            continue;
        if (next_fault(from->fine) + way * BLOCK_PAGES != page)
            continue;
        fine->stride = from->fine->stride;
        fine->window = from->fine->window;
        fine->end = page - fine->stride;
        return;
    }
}

/* Follows the faults of a block. Returns how many pages are to be read. */
static int walk(const struct terrace_tensor *t, struct fine *fine, int page)
{
    if (!fine->window || next_fault(fine) != page)
        walk_inherit(t, fine, page);
    if (fine->window && fine->stride && next_fault(fine) == page) {
        fine->window *= fine->window < MOST_WINDOW ? 2 : 1;
    } else {
        fine->stride = fine->window ? page - fine->end : 0;
        fine->window = 1;
    }
    fine->end = page;
    return fine->bad ? 1 : fine->window;
}

/* Reads the pages of a walk ahead of it. */
static void ahead_locked(struct stable *s, struct terrace_tensor *t, int n)
{
    struct fine *fine = t->fine;
    int page = fine->end;
    while (--n > 0 && !s->forking) {
        page += fine->stride;
        if (!in_block(page))
            return;
        fine->end = page;
        if (!fine->frame[page] && !page_serve_locked(s, t, (unsigned)page, 1))
            return;
    }
}

static bool may_be_fine(const struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    const struct tier *tier = t->region->tier;
    return !m->sealer && spill_tier(m) && tensor_spill_tier(t) == spill_tier(m) && !tier_below(tier) && t->bytes == (size_t)BLOCK_PAGES * PAGE &&
           tier->policy.kind != POLICY_NONE;
}

bool fine_fault_locked(struct stable *s, struct terrace_tensor *t, unsigned page)
{
    struct copy *c = block_copy(t);
    bool writing = t->transfer && t->transfer->writeback;
    if (!may_be_fine(t))
        return false;
    struct fine *fine = t->fine;
    bool whole = t->mapped || c->pins || c->state == COPY_FILLING || (c->state == COPY_VALID && !writing);
    if (whole && !(fine && by_pages(fine)))
        return false;
    bool can_come = c->state == COPY_ABSENT && !(fine && by_pages(fine));
    if (can_come && (walks_on(t, page) || (fine && fine->pages >= WHOLE)))
        return false;
    fine = fine_of(t);
    if (!fine)
        return false;
    int n = fine->frame[page] ? 1 : walk(t, fine, (int)page); /* what is on its way is part of the walk */
    if (can_come && n == MOST_WINDOW && (fine->stride == 1 || fine->stride == -1))
        return false;
    bit_set(fine->wanted, page, true);
    t->busy++;
    slab_stock_locked(s, t->region->tier);
    bool going = page_serve_locked(s, t, page, fine->stride == 1 ? (unsigned)n : 1);
    if (!going && !t->doomed)
        fine_list_locked(s, fine);
    else if (n > 1 && !t->faulted && !t->doomed)
        ahead_locked(s, t, n);
    block_rest_locked(t);
    return true;
}

/* ---- turning whole ----------------------------------------------------- */

static void fold_frame_locked(struct stable *s, struct frame *f, bool *changed)
{
    struct terrace_tensor *t = f->block;
    if (!f->summed) {
        memcpy(base_address(t, f->page), frame_address(f), PAGE);
        bit_set(t->fine->hole, f->page, false);
        *changed = true;
    }
    frame_drop_locked(s, f);
}

/* Besides by the fault that is being served. */
static bool pinned_by_others(struct terrace_tensor *t)
{
    const struct pin *p = block_copy(t)->pins;
    return p && (p->next || p->count > 1);
}

bool fine_fold_locked(struct stable *s, struct terrace_tensor *t)
{
    struct fine *fine = t->fine;
    struct frame *list[SLAB_PAGES];
    unsigned from = 0, n;
    bool all = true, changed = false, had = fine && fine->pages;
    if (!fine)
        return true;
    if (t->raws || t->busy)
        return false;
    t->busy++;
    while ((n = frames_of_locked(fine, &from, list)) != 0)
        all &= frames_recall_locked(s, t->manager, list, n);
    block_rest_locked(t);
    for (unsigned i = 0; i < BLOCK_PAGES; i++) /* that I/O may wait for what is asked for now */
        fine->used |= fine->frame[i] && fine->frame[i]->state == FRAME_MAPPED && !pinned_by_others(t);
    if (!all || t->raws)
        return false;
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        if (fine->frame[i] && fine->frame[i]->state != FRAME_HELD)
            return false;
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        if (fine->frame[i])
            fold_frame_locked(s, fine->frame[i], &changed);
    for (unsigned i = 0; !t->blank && i < BLOCK_PAGES; i++)
        if (bit(fine->hole, i)) {
            memset(base_address(t, i), 0, PAGE);
            changed = true;
        }
    if (changed)
        copy_written_locked(block_copy(t));
    /* A table of single pages in the way would make the block's move split it. */
    if (had)
        madvise(block_address(t), t->bytes, MADV_DONTNEED);
    fine_free_locked(s, t);
    return true;
}

bool fine_stays_locked(const struct terrace_tensor *t)
{
    return t->fine && t->fine->used;
}

/* ---- forks ------------------------------------------------------------- */

bool fine_rests_locked(struct stable *s, struct terrace_tensor *t)
{
    const struct fine *fine = t->fine;
    bool hole = false;
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        hole |= bit(fine->hole, i);
    if (hole || t->busy || t->raws || t->faulted || fine->pages || fine->listed || fine->bad)
        return false;
    fine_free_locked(s, t);
    return true;
}

/* Where a child finds a page. */
enum place { NOWHERE, IN_PLACE, IN_FRAME, IN_BASE, ON_DISK };

static bool is_placed(struct frame *f)
{
    return slab_of(f)->placed >> f->index & 1;
}

static enum place page_place(struct terrace_tensor *t, unsigned page)
{
    struct frame *f = t->fine->frame[page];
    const struct copy *disk = disk_copy(t);
    if (f && (f->state == FRAME_HELD || f->state == FRAME_WRITING))
        return IN_FRAME;
    if (f ? f->state == FRAME_MAPPED || is_placed(f) : bit(t->fine->hole, page))
        return IN_PLACE; /* a hole: zeros */
    if (block_copy(t)->state == COPY_VALID)
        return IN_BASE;
    return disk && disk->state == COPY_VALID ? ON_DISK : NOWHERE;
}

void fine_describe_locked(struct terrace_tensor *t, struct fork_plan *p)
{
    for (unsigned page = 0, n; page < BLOCK_PAGES; page += n) {
        enum place place = page_place(t, page);
        char *at = page_address(t, page);
        for (n = 1; place == ON_DISK && page + n < BLOCK_PAGES && page_place(t, page + n) == ON_DISK;)
            n++;
        if (place == IN_PLACE)
            fork_inherits(p, at, PAGE);
        else if (place == IN_FRAME)
            fork_moves(p, at, frame_address(t->fine->frame[page]), PAGE);
        else if (place == IN_BASE)
            fork_moves(p, at, base_address(t, page), PAGE);
        else if (place == ON_DISK)
            fork_reads_locked(p, at, disk_copy(t), (uint64_t)page * PAGE, (size_t)n * PAGE);
        else
            fork_lacks(p);
    }
}

/* ---- ending ------------------------------------------------------------ */

void fine_retire_locked(struct stable *s, struct terrace_tensor *t)
{
    if (!t->fine)
        return;
    memset(t->fine->wanted, 0, sizeof t->fine->wanted);
    if (t->fine->listed)
        TAILQ_REMOVE(&s->paged, t->fine, link);
    t->fine->listed = false;
}

void fine_free_locked(struct stable *s, struct terrace_tensor *t)
{
    if (!t->fine)
        return;
    fine_retire_locked(s, t);
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        if (t->fine->frame[i])
            frame_drop_locked(s, t->fine->frame[i]);
    free(t->fine);
    t->fine = NULL;
}

bool fine_spoilt_locked(struct stable *s, struct terrace_tensor *t)
{
    if (!may_be_fine(t) || !fine_of(t))
        return false;
    t->fine->bad = true;
    (void)s;
    return true;
}

