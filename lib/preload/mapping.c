/* mapping.c - mmap and its family, in place of the C library's.
 *
 * A large anonymous private mapping that may be read and written becomes a block.
 * Everything else is the system's: files, shared memory, fixed addresses, stacks,
 * reservations (PROT_NONE, MAP_NORESERVE), and all that the caller wants locked,
 * filled or of a certain page size.
 *
 * What is done to parts of a block later is done by slots of 2 MiB, the blocks of
 * stable memory. A slot of which only some pages are unmapped or protected is
 * pinned: terrace moves pages only where all of them are alike. Addresses of a
 * block stay occupied until all of it is unmapped.
 *
 * May call: large.c, table.c, guard.c. */
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "preload.h"
#include "small.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14 */
#define MADV_POPULATE_WRITE 23
#endif

enum { READ_WRITE = PROT_READ | PROT_WRITE, PROTECTION = PROT_READ | PROT_WRITE | PROT_EXEC };

/* Held while something is done to a part of a block. Taken before terrace's locks. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- the system's own ---------------------------------------------------- */

void *real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return (void *)syscall(SYS_mmap, at, bytes, prot, flags, fd, offset);
}

int real_munmap(void *at, size_t bytes)
{
    return (int)syscall(SYS_munmap, at, bytes);
}

static int real_mprotect(void *at, size_t bytes, int prot)
{
    return (int)syscall(SYS_mprotect, at, bytes, prot);
}

static int real_madvise(void *at, size_t bytes, int advice)
{
    return (int)syscall(SYS_madvise, at, bytes, advice);
}

/* jemalloc's memory is never terrace's: the linker sends its calls here. */
void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int   __wrap_munmap(void *at, size_t bytes);
int   __wrap_madvise(void *at, size_t bytes, int advice);
int   __wrap_mprotect(void *at, size_t bytes, int prot);

void *__wrap_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return real_mmap(at, bytes, prot, flags, fd, offset);
}

int __wrap_munmap(void *at, size_t bytes)
{
    return real_munmap(at, bytes);
}

int __wrap_madvise(void *at, size_t bytes, int advice)
{
    return real_madvise(at, bytes, advice);
}

int __wrap_mprotect(void *at, size_t bytes, int prot)
{
    return real_mprotect(at, bytes, prot);
}

/* ---- pages and slots of a block ------------------------------------------ */

enum { SLOT_PAGES = SLOT / PAGE };
enum { SLOT_PLAIN, SLOT_PINNED, SLOT_DEAD }; /* dead: none of it is the block's any more */

static size_t page_of(const struct block *b, const char *at)
{
    return (size_t)(at - b->base) / PAGE;
}

/* Pages behind the block's end are gone from the start. */
static bool pages_begin(struct block *b)
{
    size_t pages = b->reserved / PAGE, used = round_up(b->bytes, PAGE) / PAGE;
    if (b->page)
        return true;
    unsigned char *new = real_mmap(NULL, pages + pages / SLOT_PAGES + 1, READ_WRITE,
                                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (new == MAP_FAILED)
        return false;
    memset(new + used, PAGE_GONE, pages - used);
    b->page = new;
    b->slot = new + pages;
    return true;
}

/* The end of the pages from `at` on that are in the same state, up to `end`. */
static char *alike(const struct block *b, char *at, char *end)
{
    const unsigned char *page = b->page;
    char *to = at + PAGE;
    if (!page)
        return end;
    while (to < end && page[page_of(b, to)] == page[page_of(b, at)])
        to += PAGE;
    return to < end ? to : end;
}

static int slot_advise(struct block *b, size_t slot, int advice)
{
    char *at = b->base + slot * SLOT, *end = b->base + b->reserved;
    return large_advise(b, at, end - at < SLOT ? (size_t)(end - at) : SLOT, advice);
}

/* What follows for a slot from the state of its pages. 0, or an errno where it
 * cannot be pinned. */
static int slot_settle(struct block *b, size_t slot)
{
    size_t pages = b->reserved / PAGE, used = round_up(b->bytes, PAGE) / PAGE;
    size_t end = (slot + 1) * SLOT_PAGES < pages ? (slot + 1) * SLOT_PAGES : pages;
    bool dead = true, odd = false;
    int e = 0;
    for (size_t i = slot * SLOT_PAGES; i < end; i++) {
        dead &= (b->page[i] & (PAGE_GONE | PAGE_FOREIGN)) != 0;
        odd |= i < used ? b->page[i] != 0 : b->page[i] != PAGE_GONE;
    }
    int now = dead ? SLOT_DEAD : odd ? SLOT_PINNED : SLOT_PLAIN;
    if (large_inherited(b) || now == b->slot[slot])
        return 0;
    if (now == SLOT_DEAD)
        large_discard(b, b->base + slot * SLOT, (end - slot * SLOT_PAGES) * PAGE);
    else if (now == SLOT_PINNED)
        e = slot_advise(b, slot, TERRACE_ADVISE_PIN);
    else if (b->slot[slot] == SLOT_PINNED)
        (void)slot_advise(b, slot, TERRACE_ADVISE_UNPIN);
    if (e == 0)
        b->slot[slot] = (unsigned char)now;
    return e;
}

/* Sets the state of pages, and what follows for their slots. 0 or an errno, and
 * then it is as it was. */
static int pages_set(struct block *b, const char *at, const char *end, unsigned char state)
{
    int e = 0;
    if (!pages_begin(b))
        return ENOMEM;
    size_t from = page_of(b, at), to = page_of(b, end), slot;
    unsigned char *old = small_malloc(to - from);
    if (!old)
        return ENOMEM;
    memcpy(old, b->page + from, to - from);
    memset(b->page + from, state, to - from);
    for (slot = from / SLOT_PAGES; e == 0 && slot * SLOT_PAGES < to; slot++)
        e = slot_settle(b, slot);
    if (e) {
        memcpy(b->page + from, old, to - from);
        while (slot-- > from / SLOT_PAGES)
            (void)slot_settle(b, slot);
    }
    small_free(old);
    return e;
}

/* ---- what is done to a part of a block ----------------------------------- */

/* Each is given pages of one state, of a block that is locked. 0 or an errno. */
typedef int part_fn(struct block *b, char *at, char *end, unsigned char state, int how);

/* Nothing is there any more, nor will the kernel put anything there. */
static void close_pages(char *at, char *end)
{
    (void)real_mmap(at, (size_t)(end - at), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

/* Where the rest of a slot cannot be pinned, its pages stay reachable. */
static int part_unmap(struct block *b, char *at, char *end, unsigned char state, int how)
{
    (void)how;
    if (!pages_begin(b))
        return ENOMEM;
    if (state & PAGE_GONE)
        return 0;
    memset(b->page + page_of(b, at), PAGE_GONE, (size_t)(end - at) / PAGE);
    for (char *next; at < end; at = next) {
        size_t slot = (size_t)(at - b->base) / SLOT;
        next = b->base + (slot + 1) * SLOT < end ? b->base + (slot + 1) * SLOT : end;
        if (slot_settle(b, slot) == 0 || state & PAGE_FOREIGN)
            close_pages(at, next);
    }
    return 0;
}

static int part_protect(struct block *b, char *at, char *end, unsigned char state, int prot)
{
    size_t bytes = (size_t)(end - at);
    if (state & PAGE_GONE)
        return ENOMEM;
    if (state & PAGE_FOREIGN)
        return real_mprotect(at, bytes, prot) ? errno : 0;
    if (prot & ~PROTECTION)
        return EINVAL; /* PROT_GROWSDOWN, PROT_GROWSUP */
    state = (unsigned char)((state & (PAGE_LOCKED | PAGE_HELD)) | (prot == READ_WRITE ? 0 : PAGE_PROTECTED | prot));
    int e = prot == READ_WRITE ? 0 : pages_set(b, at, end, state);
    if (e == 0 && real_mprotect(at, bytes, prot))
        e = errno;
    if (e == 0 && prot == READ_WRITE && b->page)
        e = pages_set(b, at, end, state);
    return e;
}

static int part_lock(struct block *b, char *at, char *end, unsigned char state, int lock_it)
{
    size_t bytes = (size_t)(end - at);
    if (state & PAGE_GONE)
        return ENOMEM;
    if (state & PAGE_FOREIGN || large_inherited(b))
        return syscall(lock_it ? SYS_mlock : SYS_munlock, at, bytes) ? errno : 0;
    int e = lock_it ? pages_set(b, at, end, state | PAGE_LOCKED) : 0;
    if (e == 0 && syscall(lock_it ? SYS_mlock : SYS_munlock, at, bytes))
        e = errno;
    if (state & PAGE_LOCKED ? !lock_it : lock_it && e)
        (void)pages_set(b, at, end, state & (unsigned char)~PAGE_LOCKED);
    return e;
}

/* A device's driver has them stay where they are. */
static int part_hold(struct block *b, char *at, char *end, unsigned char state, int hold)
{
    if (state & (PAGE_GONE | PAGE_FOREIGN) || large_inherited(b))
        return 0;
    return pages_set(b, at, end, (unsigned char)(hold ? state | PAGE_HELD : state & ~PAGE_HELD));
}

/* Pages of a slot that stays: they are overwritten. */
static void zero_pages(char *at, char *end, unsigned char state)
{
    size_t bytes = (size_t)(end - at);
    if (state & PAGE_PROTECTED)
        real_mprotect(at, bytes, READ_WRITE);
    memset(at, 0, bytes);
    if (state & PAGE_PROTECTED)
        real_mprotect(at, bytes, state & PROTECTION);
}

/* The bytes are not wanted any more. `exactly`: they must read as zeros. */
static int part_empty(struct block *b, char *at, char *end, unsigned char state, int exactly)
{
    if (state & PAGE_GONE)
        return ENOMEM;
    if (state & PAGE_FOREIGN)
        return real_madvise(at, (size_t)(end - at), exactly ? MADV_DONTNEED : MADV_FREE) ? errno : 0;
    if (large_inherited(b)) {
        int prot = state & PAGE_PROTECTED ? state & PROTECTION : READ_WRITE;
        void *got = real_mmap(at, (size_t)(end - at), prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
        return got == MAP_FAILED ? errno : 0;
    }
    for (char *next; at < end; at = next) {
        size_t slot = (size_t)(at - b->base) / SLOT;
        char *from = b->base + slot * SLOT, *to = from + SLOT;
        char *last = b->base + round_up(b->bytes, PAGE); /* of a slot at the end there is no more */
        next = to < end ? to : end;
        if (at == from && next == (to < last ? to : last) && !(b->page && b->slot[slot]))
            large_discard(b, at, to < b->base + b->reserved ? SLOT : (size_t)(b->base + b->reserved - at));
        else if (exactly)
            zero_pages(at, next, state);
    }
    return 0;
}

static int part_advise(struct block *b, char *at, char *end, unsigned char state, int advice)
{
    switch (advice) {
    case MADV_DONTNEED:
    case MADV_FREE:
        return part_empty(b, at, end, state, advice == MADV_DONTNEED);
    case MADV_POPULATE_READ:
    case MADV_POPULATE_WRITE:
        return real_madvise(at, (size_t)(end - at), advice) ? errno : 0;
    case MADV_WIPEONFORK:
    case MADV_REMOVE:
        return EINVAL;
    case MADV_WILLNEED:
    case MADV_COLD:
    case MADV_PAGEOUT:
        if (!large_inherited(b) && !state)
            (void)large_advise(b, at, (size_t)(end - at),
                               advice == MADV_WILLNEED ? TERRACE_ADVISE_WILLNEED : TERRACE_ADVISE_DONTNEED);
        return 0;
    default: /* page sizes and the like are terrace's concern */
        return advice < 0 || advice > MADV_COLLAPSE ? EINVAL : 0;
    }
}

/* Something else comes to these addresses. */
static int part_replace(struct block *b, char *at, char *end, unsigned char state, int how)
{
    (void)state, (void)how;
    return pages_set(b, at, end, PAGE_FOREIGN);
}

static bool nothing_left(const struct block *b)
{
    for (size_t i = 0; b->page && i < b->reserved / PAGE; i++)
        if (!(b->page[i] & PAGE_GONE))
            return false;
    return b->page;
}

static int parts_do(struct block *b, char *at, char *end, part_fn *fn, int how)
{
    int result = 0;
    for (char *next; at < end; at = next) {
        next = alike(b, at, end);
        int e = fn(b, at, next, b->page ? b->page[page_of(b, at)] : 0, how);
        result = result ? result : e;
    }
    return result;
}

/* Goes through a part of the address space: fn for what is in blocks, `other`, a
 * system call, for what is not. 0, or -1 with errno. */
static int range_do(char *at, size_t bytes, part_fn *fn, int how, int (*other)(void *, size_t, int))
{
    char *end = at + round_up(bytes, PAGE);
    int result = 0;
    for (char *next; at < end; at = next) {
        pthread_mutex_lock(&lock);
        struct block *b = table_next(at, end);
        int e = 0;
        next = b && b->base > at ? b->base : end;
        if (b && b->base <= at) {
            next = b->base + b->reserved < end ? b->base + b->reserved : end;
            e = parts_do(b, at, next, fn, how);
            if (fn == part_unmap && nothing_left(b))
                large_free(b);
        }
        pthread_mutex_unlock(&lock);
        if ((!b || b->base > at) && other && other(at, (size_t)(next - at), how))
            e = errno;
        result = result ? result : e;
    }
    errno = result ? result : errno;
    return result ? -1 : 0;
}

int mapping_hold(void *at, size_t bytes, bool hold)
{
    char *from = (char *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
    bytes += (size_t)((char *)at - from);
    if (!bytes || bytes > SIZE_MAX - PAGE - (uintptr_t)from || !table_next(from, from + bytes))
        return 0;
    return range_do(from, bytes, part_hold, hold, NULL) ? errno : 0;
}

/* ---- hooks --------------------------------------------------------------- */

#define CALLER __builtin_return_address(0)

/* Whether something of a block is there, and the caller is not terrace itself. */
static bool is_ours(const void *at, size_t bytes, const void *caller)
{
    const char *from = at;
    return !inside && !guard_is_library(caller) && bytes && !((uintptr_t)at % PAGE) &&
           bytes <= SIZE_MAX - PAGE - (uintptr_t)at &&
           table_next(from, from + bytes);
}

static int other_munmap(void *at, size_t bytes, int how)
{
    (void)how;
    return real_munmap(at, bytes);
}

HOOK int munmap(void *at, size_t bytes)
{
    if (!is_ours(at, bytes, CALLER))
        return real_munmap(at, bytes);
    return range_do(at, bytes, part_unmap, 0, other_munmap);
}

HOOK int mprotect(void *at, size_t bytes, int prot)
{
    if (!is_ours(at, bytes, CALLER))
        return real_mprotect(at, bytes, prot);
    return range_do(at, bytes, part_protect, prot, real_mprotect);
}

HOOK int madvise(void *at, size_t bytes, int advice)
{
    if (!is_ours(at, bytes, CALLER))
        return real_madvise(at, bytes, advice);
    return range_do(at, bytes, part_advise, advice, real_madvise);
}

HOOK int posix_madvise(void *at, size_t bytes, int advice)
{
    int error = errno, r = advice == POSIX_MADV_DONTNEED ? 0 : madvise(at, bytes, advice) ? errno : 0;
    errno = error; /* DONTNEED: it must not lose bytes */
    return r;
}

static int other_lock(void *at, size_t bytes, int lock_it)
{
    return (int)syscall(lock_it ? SYS_mlock : SYS_munlock, at, bytes);
}

/* Any address will do: whole pages are locked. */
static int lock_range(const void *at, size_t bytes, int lock_it, const void *caller)
{
    char *from = (char *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1));
    bytes += (size_t)((const char *)at - from);
    if (!is_ours(from, bytes, caller))
        return other_lock(from, bytes, lock_it);
    return range_do(from, bytes, part_lock, lock_it, other_lock);
}

HOOK int mlock(const void *at, size_t bytes)
{
    return lock_range(at, bytes, 1, CALLER);
}

HOOK int munlock(const void *at, size_t bytes)
{
    return lock_range(at, bytes, 0, CALLER);
}

HOOK int mlock2(const void *at, size_t bytes, unsigned flags)
{
    if (is_ours((void *)((uintptr_t)at & ~(uintptr_t)(PAGE - 1)), bytes, CALLER))
        return lock_range(at, bytes, 1, CALLER);
    return (int)syscall(SYS_mlock2, at, bytes, flags);
}

/* What is locked cannot be moved: no large blocks from here on, or not at all. */
HOOK int mlockall(int flags)
{
    if (table_count) {
        errno = ENOMEM;
        return -1;
    }
    int r = (int)syscall(SYS_mlockall, flags);
    if (r == 0)
        large_stop();
    return r;
}

/* Whether a mapping is a block's kind. */
static bool is_plain(const void *at, int prot, int flags, int fd)
{
    return !at && prot == READ_WRITE && flags == (MAP_PRIVATE | MAP_ANONYMOUS) && (fd == -1 || fd == 0);
}

static void *map(void *at, size_t bytes, int prot, int flags, int fd, off_t offset, const void *caller)
{
    if (!LIKELY(bytes < large_least) && is_plain(at, prot, flags, fd)) {
        struct block *b = large_new(round_up(bytes, PAGE), 0, caller);
        if (b)
            return b->base;
    }
    if (flags & MAP_FIXED && is_ours(at, bytes, caller) && range_do(at, bytes, part_replace, 0, NULL))
        return MAP_FAILED;
    return real_mmap(at, bytes, prot, flags, fd, offset);
}

HOOK void *mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return map(at, bytes, prot, flags, fd, offset, CALLER);
}

HOOK void *mmap64(void *at, size_t bytes, int prot, int flags, int fd, off_t offset)
{
    return map(at, bytes, prot, flags, fd, offset, CALLER);
}

/* ---- mremap -------------------------------------------------------------- */

/* Whether the pages are one block's, and none of them is out of the ordinary. */
static bool is_whole(const struct block *b, char *at, size_t bytes)
{
    return b && at + bytes <= b->base + round_up(b->bytes, PAGE) &&
           (!b->page || (!b->page[page_of(b, at)] && alike(b, at, at + bytes) == at + bytes));
}

static bool grows_in_place(struct block *b, const char *at, size_t bytes, size_t more)
{
    bool last = at + bytes == b->base + round_up(b->bytes, PAGE);
    if (!last || b->page || large_inherited(b) || more > (size_t)(b->base + b->reserved - at))
        return false;
    b->bytes = (size_t)(at - b->base) + more;
    return true;
}

static void *remap(char *at, size_t bytes, size_t more, int flags, void *to, const void *caller)
{
    struct block *b = table_at(at), *new = NULL;
    if (!is_whole(b, at, bytes) || !more || flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED)) {
        errno = is_whole(b, at, bytes) ? EINVAL : EFAULT;
        return MAP_FAILED;
    }
    if (!(flags & MREMAP_FIXED) && more <= bytes)
        return more < bytes && munmap(at + more, bytes - more) ? MAP_FAILED : at;
    if (!(flags & MREMAP_FIXED) && grows_in_place(b, at, bytes, more))
        return at;
    if (!(flags & MREMAP_MAYMOVE)) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    if (!(flags & MREMAP_FIXED))
        new = large_new(more, more > bytes ? 2 * more : 0, caller);
    int how = MAP_PRIVATE | MAP_ANONYMOUS | (flags & MREMAP_FIXED ? MAP_FIXED : 0);
    char *into = new ? new->base : map(flags & MREMAP_FIXED ? to : NULL, more, READ_WRITE, how, -1, 0, NULL);
    if (into == MAP_FAILED)
        return into;
    memcpy(into, at, bytes < more ? bytes : more);
    munmap(at, bytes);
    return into;
}

HOOK void *mremap(void *at, size_t bytes, size_t more, int flags, ...)
{
    va_list args;
    va_start(args, flags);
    void *to = flags & MREMAP_FIXED ? va_arg(args, void *) : NULL;
    va_end(args);
    bytes = round_up(bytes, PAGE);
    more = round_up(more, PAGE);
    if (is_ours(at, bytes, CALLER))
        return remap(at, bytes, more, flags, to, CALLER);
    if (flags & MREMAP_FIXED && is_ours(to, more, CALLER) && range_do(to, more, part_replace, 0, NULL))
        return MAP_FAILED;
    return (void *)syscall(SYS_mremap, at, bytes, more, flags, to);
}

/* ---- forks --------------------------------------------------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&lock);
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
}

void mapping_begin(void)
{
    pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}
