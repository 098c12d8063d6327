/* uffd_copy.c - pages that change places by being copied, without UFFDIO_MOVE.
 *
 * Linux has had synchronous write protection of anonymous memory (a writer waits
 * until it is woken) since 5.7, and moves pages only since 6.8. In between a
 * page changes places in three steps: UFFDIO_COPY makes it at its new place,
 * whole at once; its old one is given up (MADV_DONTNEED); who waits at its place
 * in the region is woken.
 *
 * On its way out of a region a page is read by the program until it is gone, and
 * must not be written to any more: so the region's pages are protected first. A
 * blocked writer that is woken faults again, and then the page is absent.
 *
 * An absent page of a region must not be read here: the fault would be this
 * thread's own to serve. /proc/self/pagemap says which pages are there, in memory
 * or swapped out. The others are holes, and are left out.
 *
 * This goes by chunks, so no more than a chunk is held twice. Where a chunk is a
 * part of a huge page, the kernel would keep that until its last part is given
 * up; asking for the chunk to be reclaimed early (MADV_COLD) has it split.
 *
 * What the kernel cannot tell here is that a device is writing to a page (a
 * transfer by O_DIRECT that began before the page was protected), which it does
 * where it moves pages itself. terrace.h says what a program is to do about it.
 *
 * May call: uffd.h, libc. */
#include "uffd_copy.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_COLD
#define MADV_COLD 20 /* Linux 5.4 */
#endif
#define THERE (UINT64_C(3) << 62) /* in an entry of pagemap: present, swapped out */

enum { PAGE = 4096, CHUNK = 256 << 10, CHUNK_PAGES = CHUNK / PAGE };

/* Which pages of a chunk are there. 0 or an errno. */
static int look(const struct uffd *u, const char *at, size_t bytes, bool *there)
{
    uint64_t entry[CHUNK_PAGES];
    ssize_t wanted = (ssize_t)(bytes / PAGE * sizeof entry[0]);
    ssize_t got = pread(u->pagemap, entry, (size_t)wanted, (off_t)((uintptr_t)at / PAGE * sizeof entry[0]));
    if (got != wanted)
        return got < 0 ? errno : EIO;
    for (size_t i = 0; i < bytes / PAGE; i++)
        there[i] = entry[i] & THERE;
    return 0;
}

/* Pages that are all there, to where there are none. 0 or an errno; then *done
 * bytes are copied. Wakes nobody. */
static int copy_run(const struct uffd *u, char *to, char *from, size_t bytes, size_t *done)
{
    *done = 0;
    while (*done < bytes) {
        struct uffdio_copy c = {.dst = (uintptr_t)to + *done, .src = (uintptr_t)from + *done,
                                .len = bytes - *done, .mode = UFFDIO_COPY_MODE_DONTWAKE};
        int e = ioctl(u->fd, UFFDIO_COPY, &c) ? errno : 0;
        if (c.copy > 0)
            *done += (size_t)c.copy;
        else if (e)
            return e;
        if (e && e != EAGAIN)
            return e;
    }
    return 0;
}

/* The pages of a chunk that are there. The same. */
static int copy_chunk(const struct uffd *u, char *to, char *from, size_t bytes, size_t *done)
{
    bool there[CHUNK_PAGES] = {false};
    int e = look(u, from, bytes, there);
    *done = 0;
    for (size_t at = 0, end; e == 0 && at < bytes; at = end) {
        size_t copied = 0;
        for (end = at + PAGE; end < bytes && there[end / PAGE] == there[at / PAGE];)
            end += PAGE;
        if (there[at / PAGE])
            e = copy_run(u, to + at, from + at, end - at, &copied);
        *done = e ? at + copied : end;
    }
    return e;
}

/* Protects pages from being written to, or lets that be again. 0 or an errno. */
static int protect(const struct uffd *u, char *at, size_t bytes, bool on)
{
    struct uffdio_writeprotect w = {.range = {(uintptr_t)at, bytes}, .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0};
    return ioctl(u->fd, UFFDIO_WRITEPROTECT, &w) ? errno : 0;
}

int uffd_copy_in(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    int e = 0;
    for (*moved = 0; e == 0 && *moved < bytes;) {
        size_t chunk = bytes - *moved < CHUNK ? bytes - *moved : CHUNK, done;
        char *new = (char *)to + *moved, *old = (char *)from + *moved;
        e = copy_chunk(u, new, old, chunk, &done);
        uffd_wake(u, new, chunk);
        if (done > PAGE)
            (void)madvise(old, done, MADV_COLD); /* splits a huge page that it is a part of */
        (void)madvise(old, done, MADV_DONTNEED);
        *moved += done;
    }
    return e;
}

int uffd_copy_out(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    int e = 0;
    for (*moved = 0; e == 0 && *moved < bytes;) {
        size_t chunk = bytes - *moved < CHUNK ? bytes - *moved : CHUNK, done;
        char *new = (char *)to + *moved, *old = (char *)from + *moved;
        e = protect(u, old, chunk, true);
        if (e == 0)
            e = copy_chunk(u, new, old, chunk, &done);
        if (e == 0 && madvise(old, chunk, MADV_DONTNEED))
            e = errno;
        if (e) { /* the chunk stays where it is */
            (void)madvise(new, chunk, MADV_DONTNEED);
            while (protect(u, old, chunk, false) == EAGAIN)
                usleep(100);
            return e;
        }
        uffd_wake(u, old, chunk);
        *moved += chunk;
    }
    return e;
}

/* Memory beyond the end of a file. It is moved there, as the thread sanitizer
 * takes mapping it there for a write to it. */
bool uffd_copy_poison(void *base, size_t bytes)
{
    int fd = memfd_create("terrace-poison", MFD_CLOEXEC);
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (map == MAP_FAILED)
        return false;
    madvise(map, bytes, MADV_DONTFORK);
    if (mremap(map, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, base) == base)
        return true;
    munmap(map, bytes);
    return false;
}
