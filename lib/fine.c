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
 * Frames are cut from slabs, which are tensors of their own kind: a slab takes
 * part in eviction like a block. Frames are given out in order, so a slab holds
 * what was faulted in at about the same time, and leaves as one.
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
 * Frames belong to the service thread, but from the start of their I/O until it
 * has ended to the lane's.
 *
 * Pages on disk are written in place, but where a forked child reads them: then
 * the block first gets other blocks on disk, with the same bytes (space.c).
 *
 * May call: core.h, forked.h, mover.h, region.h, uffd.h. */
#include "fine.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "forked.h"
#include "mover.h"
#include "stable.h"

enum {
    SLAB_PAGES = 64,
    MOST_WINDOW = 32,               /* pages read at once */
    WHOLE = BLOCK_PAGES * 3 / 4     /* so many pages in memory: the rest may come as well */
};

enum frame_state {
    FRAME_DEAD,    /* belongs to no page */
    FRAME_READING,
    FRAME_HELD,    /* has the bytes, which are not at their place */
    FRAME_MAPPED,  /* the page is at its place */
    FRAME_MOVING,  /* being moved or looked at without the lock */
    FRAME_WRITING, /* has bytes that are being written down */
    FRAME_BAD      /* the page cannot be read */
};

struct frame {
    struct terrace_tensor *block;
    XXH128_hash_t sum;   /* of what is below it, where `summed` */
    uint16_t page;
    unsigned char index; /* in its slab */
    unsigned char state;
    bool summed;
    bool behind;         /* an older frame of this page is still being written */
    bool same;           /* outcome of the last comparison */
};

struct slab {
    LIST_ENTRY(slab) link;
    struct terrace_tensor *tensor;
    struct tier *tier;
    unsigned used, live; /* frames given out; of them not dead */
    uint64_t placed;     /* a bit per frame: its page has been at its place, also while READING; under stable.landing */
    bool recalled;       /* its pages have been taken back, as far as that could be done */
    struct frame frame[SLAB_PAGES];
};

struct fine {
    TAILQ_ENTRY(fine) link;     /* in stable.paged */
    struct terrace_tensor *block;
    bool listed;
    bool leaving;               /* all its pages are to leave */
    bool bad;                   /* has pages that cannot be read: comes by pages */
    bool used;                  /* has pages in use by somebody's I/O: comes by pages until these have left */
    bool parted;                /* from its blocks on disk: none of it is read or written */
    unsigned pages;             /* that have frames */
    int stride, window, end;    /* the walk: distance, pages at once, last page asked for */
    uint64_t wanted[BLOCK_PAGES / 64]; /* somebody waits for these */
    uint64_t hole[BLOCK_PAGES / 64];   /* these are zeros, whatever the base has */
    struct frame *frame[BLOCK_PAGES];
};

/* I/O of frames that are adjacent in slab and block. */
struct frame_io {
    struct raw raw;
    struct terrace_tensor *block;
    struct frame *first;
    unsigned n, moved;
};

static bool bit(const uint64_t *set, unsigned i)
{
    return set[i / 64] >> i % 64 & 1;
}

static void bit_set(uint64_t *set, unsigned i, bool value)
{
    uint64_t mask = UINT64_C(1) << i % 64;
    set[i / 64] = value ? set[i / 64] | mask : set[i / 64] & ~mask;
}

static bool by_pages(const struct fine *fine)
{
    return fine->bad || fine->used;
}

static bool is_wanted(const struct fine *fine)
{
    uint64_t any = 0;
    for (unsigned i = 0; i < BLOCK_PAGES / 64; i++)
        any |= fine->wanted[i];
    return any;
}

static char *page_address(const struct terrace_tensor *t, unsigned page)
{
    return block_address(t) + (size_t)page * PAGE;
}

static struct slab *slab_of(struct frame *f)
{
    return (struct slab *)((char *)(f - f->index) - offsetof(struct slab, frame));
}

static struct copy *slab_copy(struct slab *slab)
{
    return &slab->tensor->copy[slab->tier - slab->tensor->manager->tier];
}

static char *frame_address(struct frame *f)
{
    return (char *)copy_address(slab_copy(slab_of(f))) + (size_t)f->index * PAGE;
}

static char *base_address(struct terrace_tensor *t, unsigned page)
{
    return (char *)copy_address(block_copy(t)) + (size_t)page * PAGE;
}

static struct copy *disk_copy(struct terrace_tensor *t)
{
    struct tier *disk = spill_tier(t->manager);
    return disk ? &t->copy[disk - t->manager->tier] : NULL;
}

static struct fine *fine_of(struct terrace_tensor *t)
{
    if (!t->fine && (t->fine = calloc(1, sizeof *t->fine)) != NULL) {
        t->fine->block = t;
        memset(t->fine->hole, t->blank ? 0xff : 0, sizeof t->fine->hole);
        t->summed = false; /* single pages of it may change on the disk */
    }
    return t->fine;
}

static void expel_locked(struct stable *s, struct terrace_tensor *t);

static void list_locked(struct stable *s, struct fine *fine)
{
    if (!fine->listed)
        TAILQ_INSERT_TAIL(&s->paged, fine, link);
    fine->listed = true;
    work_locked(fine->block->manager);
}

/* The block is not needed by a call any more, of which its region's end may wait. */
static void rest_locked(struct terrace_tensor *t)
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
    copy_settle_locked(c);
    return slab;
}

static void slab_free_locked(struct stable *s, struct slab *slab)
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

/* A frame of it is dead, or its I/O has ended. */
static void slab_check_locked(struct stable *s, struct slab *slab)
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

/* Sees to it that there are frames for the faults to come. Gives up the lock. */
static void stock_locked(struct stable *s, struct tier *tier)
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
        stock_locked(s, tier);
}

/* A frame for a page; NULL: there is none now. */
static struct frame *frame_take_locked(struct stable *s, struct terrace_tensor *t, unsigned page,
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

/* Its memory stays with the slab until that leaves. */
static void frame_drop_locked(struct stable *s, struct frame *f)
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

/* Puts the page of a frame that has its bytes at its place. Gives up the lock. */
static void frame_map_locked(struct stable *s, struct frame *f)
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
        list_locked(s, t->fine); /* the address space is changing: again */
    else
        bit_set(t->fine->wanted, f->page, false);
    slab_check_locked(s, slab_of(f));
    rest_locked(t);
}

/* ---- reading ----------------------------------------------------------- */

static void io_end_locked(struct frame_io *io)
{
    struct terrace_tensor *t = io->block;
    t->raws--;
    manager_changed_locked(t->manager);
    rest_locked(t);
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
        t->region->tier->in_bytes += raw->bytes;
        spill_tier(m)->out_bytes += raw->bytes;
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
        list_locked(s, fine);
    slab_check_locked(s, slab_of(io->first));
    io_end_locked(io);
}

static void io_start_locked(struct frame_io *io, struct frame *first, unsigned n, int op)
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

/* How many of n pages from this one a single transfer may have. */
static unsigned io_most(struct terrace_tensor *t, unsigned page, unsigned n)
{
    const struct copy *disk = disk_copy(t);
    size_t chunk = copy_tier(disk)->info.io_chunk;
    uint64_t address = disk->extent->address + (uint64_t)page * PAGE;
    unsigned most = (unsigned)((chunk - address % chunk) / PAGE);
    return n < most ? n : most;
}

/* Reads up to n adjacent pages that have no frame. Returns how many; 0: later. */
static unsigned read_run_locked(struct stable *s, struct terrace_tensor *t, unsigned page, unsigned n)
{
    struct frame_io *io = malloc(sizeof *io);
    struct frame *first = io ? frame_take_locked(s, t, page, FRAME_READING) : NULL;
    if (!first) {
        free(io);
        return 0;
    }
    unsigned got = 1;
    unsigned left = SLAB_PAGES - slab_of(first)->used;
    n = io_most(t, page, n < left + 1 ? n : left + 1);
    while (got < n && !t->fine->frame[page + got] && !bit(t->fine->hole, page + got)) {
        frame_take_locked(s, t, page + got, FRAME_READING);
        got++;
    }
    io->raw.landed = read_landed;
    io->raw.done_locked = read_done_locked;
    io_start_locked(io, first, got, TERRACE_IO_READ);
    return got;
}

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
    rest_locked(t);
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
    return !fine->parted && read_run_locked(s, t, page, n) != 0;
}

static void serve_locked(struct stable *s, struct fine *fine)
{
    struct terrace_tensor *t = fine->block;
    t->busy++;
    stock_locked(s, t->region->tier);
    for (unsigned i = 0; i < BLOCK_PAGES; i++)
        if (fork_gate_locked(t->manager), bit(fine->wanted, i) && !page_serve_locked(s, t, i, 1)) {
            if (!t->doomed)
                list_locked(s, fine);
            break;
        }
    rest_locked(t);
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
            expel_locked(s, fine->block);
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
    return !m->sealer && spill_tier(m) && !tier_below(tier) && t->bytes == (size_t)BLOCK_PAGES * PAGE &&
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
    stock_locked(s, t->region->tier);
    bool going = page_serve_locked(s, t, page, fine->stride == 1 ? (unsigned)n : 1);
    if (!going && !t->doomed)
        list_locked(s, fine);
    else if (n > 1 && !t->faulted && !t->doomed)
        ahead_locked(s, t, n);
    rest_locked(t);
    return true;
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

/* The frames of the list that may be taken back are, and those that must not be
 * lost are then HELD. Returns whether all could. Gives up the lock. */
static bool recall_locked(struct stable *s, struct terrace *m, struct frame **list, unsigned n)
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
        rest_locked(f->block);
        slab_of(f)->tensor->busy--;
        f->state = kept[i] ? FRAME_MAPPED : FRAME_HELD;
        f->summed &= kept[i] || f->same;
        if (bit(f->block->fine->wanted, f->page))
            list_locked(s, f->block->fine);
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
    t->region->tier->out_bytes += raw->bytes;
    spill_tier(m)->in_bytes += raw->bytes;
    write_ended_locked(s, io->first, io->n, raw->error != 0);
    io_end_locked(io);
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
    rest_locked(t);
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
    io_start_locked(io, f, n, TERRACE_IO_WRITE);
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
    return disk->extent && !fork_reads_still_locked(disk) ? io_most(f->block, f->page, run) : 1;
}

/* Empties frames, as far as that can be done. Gives up the lock. */
static void leave_locked(struct stable *s, struct terrace *m, struct frame **list, unsigned n)
{
    recall_locked(s, m, list, n);
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

/* The block's frames from page `*from` on, as many as are handled at once. Lets a
 * fork go first. */
static unsigned frames_of_locked(const struct fine *fine, unsigned *from, struct frame **list)
{
    unsigned n = 0;
    fork_gate_locked(fine->block->manager);
    for (; *from < BLOCK_PAGES && n < SLAB_PAGES; ++*from)
        if (fine->frame[*from] &&
            (fine->frame[*from]->state == FRAME_MAPPED || fine->frame[*from]->state == FRAME_HELD))
            list[n++] = fine->frame[*from];
    return n;
}

static void expel_locked(struct stable *s, struct terrace_tensor *t)
{
    struct frame *list[SLAB_PAGES];
    unsigned from = 0, n;
    t->fine->leaving = false;
    t->busy++;
    while ((n = frames_of_locked(t->fine, &from, list)) != 0)
        leave_locked(s, t->manager, list, n);
    fine_trim_locked(s);
    if (is_wanted(t->fine) && !t->doomed)
        list_locked(s, t->fine);
    rest_locked(t);
    demote_ask_locked(t, NULL); /* what was changed may have gone into the arena's copy */
}

void fine_expel_locked(struct stable *s, struct terrace_tensor *t)
{
    if (t->fine && t->fine->pages) {
        t->fine->leaving = true;
        list_locked(s, t->fine);
    } else {
        fine_trim_locked(s);
    }
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
        all &= recall_locked(s, t->manager, list, n);
    rest_locked(t);
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
