/* mapped_block.c - what is done with a block of mapped memory: its pages are looked
 * at, read, written, and dropped.
 *
 * May call: mapped_inside.h, the backend's table. */
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mapped_inside.h"

struct part {
    int fd;
    uint64_t offset, bytes;
};

/* The file behind pages of a block, which lies in one piece as stripes do. */
static bool file_behind(const struct mapping *r, size_t i, size_t page, size_t pages, struct part *p)
{
    uint64_t address = r->space + (uint64_t)i * BLOCK + page * PAGE;
    return r->disk->backend->file(r->disk->unit, address, pages * PAGE, TERRACE_IO_READ, &p->fd, &p->offset,
                                  &p->bytes) == 0;
}

void mapping_file(const struct mapping *r, size_t i, enum what what)
{
    struct part p;
    if (!file_behind(r, i, 0, block_bytes(r, i) / PAGE, &p))
        return;
    if (what == READ)
        posix_fadvise(p.fd, (off_t)p.offset, (off_t)p.bytes, POSIX_FADV_WILLNEED);
    else
        sync_file_range(p.fd, (off_t)p.offset, (off_t)p.bytes, what == WRITE ? SYNC_FILE_RANGE_WRITE :
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
}

static void block_holds(struct mapping *r, size_t i, size_t pages)
{
    r->held += pages;
    r->held -= r->block[i].held;
    r->block[i].held = (uint16_t)pages;
}

/* Of the kernel's cachestat(), Linux 6.5, which headers may not have yet. */
enum { SYSCALL_CACHESTAT = 451 };
struct cache_range {
    uint64_t offset, bytes;
};
struct cache_state {
    uint64_t cached, dirty, writing, evicted, recently;
};

size_t mapping_in_memory(const struct mapping *r, size_t i, size_t page, size_t pages, size_t *unwritten)
{
    unsigned char there[BLOCK_PAGES];
    struct cache_state state;
    struct part p;
    size_t n = 0;
    *unwritten = 0;
    if (file_behind(r, i, page, pages, &p) &&
        syscall(SYSCALL_CACHESTAT, p.fd, &(struct cache_range){p.offset, p.bytes}, &state, 0) == 0) {
        *unwritten = state.dirty + state.writing;
        return state.cached < pages ? state.cached : pages;
    }
    if (mincore(block_at(r, i) + page * PAGE, pages * PAGE, there))
        return 0;
    for (size_t k = 0; k < pages; k++)
        n += there[k] & 1;
    return n;
}

void mapping_look(struct mapping *r, size_t i)
{
    size_t unwritten;
    block_holds(r, i, mapping_in_memory(r, i, 0, block_bytes(r, i) / PAGE, &unwritten));
}

bool mapping_pages(const struct mapped *e, const struct mapping *r, size_t i, size_t n, uint64_t *entry)
{
    size_t pages = (n - 1) * BLOCK_PAGES + block_bytes(r, i + n - 1) / PAGE;
    off_t at = (off_t)((uintptr_t)block_at(r, i) / PAGE * sizeof *entry);
    if (e->pagemap < 0 ||
        pread(e->pagemap, entry, pages * sizeof *entry, at) != (ssize_t)(pages * sizeof *entry))
        return false;
    for (size_t k = 0; k < pages; k++)
        entry[k] >>= 63;
    return true;
}

void mapping_leave(struct mapping *r, size_t i)
{
    struct block *b = &r->block[i];
    madvise(block_at(r, i), block_bytes(r, i), MADV_DONTNEED);
    mapping_file(r, i, WRITE);
    b->mapped = 0;
    b->left = true;
}

/* Not before they are written: the kernel would wait for its own queues. */
static void pages_drop(struct mapping *r, size_t i, size_t page, size_t pages)
{
    size_t unwritten;
    struct part p;
    if (mapping_in_memory(r, i, page, pages, &unwritten) && !unwritten && file_behind(r, i, page, pages, &p))
        posix_fadvise(p.fd, (off_t)p.offset, (off_t)p.bytes, POSIX_FADV_DONTNEED);
}

void mapping_drop(const struct mapped *e, struct mapping *r, size_t i)
{
    uint64_t mapped[BLOCK_PAGES];
    size_t pages = block_bytes(r, i) / PAGE;
    if (!mapping_pages(e, r, i, 1, mapped)) {
        pages_drop(r, i, 0, pages);
    } else {
        for (size_t from = 0, to; from < pages; from = to) {
            for (to = from + 1; to < pages && mapped[to] == mapped[from];)
                to++;
            if (!mapped[from])
                pages_drop(r, i, from, to - from);
        }
    }
    mapping_look(r, i);
}

void mapping_read(struct mapping *r, size_t i)
{
    struct terrace *m = r->tier->manager;
    mapping_file(r, i, READ);
    block_holds(r, i, block_bytes(r, i) / PAGE);
    r->block[i].touched = r->clock;
    r->block[i].left = false;
    manager_lock(m);
    m->stats.prefetches++;
    manager_unlock(m);
}
