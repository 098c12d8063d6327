/* engine_memory.c - a loop's tensors are plain memory, all of it mapped.
 *
 * "ram" and "swap" are the same program, with anonymous memory: under a memory
 * cgroup the kernel swaps. "mmap" is a shared mapping of a file, or of the file
 * the tensors come from. Advice:
 *   normal       none
 *   sequential   MADV_SEQUENTIAL: the kernel reads further ahead
 *   random       MADV_RANDOM: it does not read ahead
 *   willneed     MADV_WILLNEED for the visit `ahead` of the current one
 *   huge         MADV_HUGEPAGE
 *   sync         each visit's changes are handed to the disk at its end
 * and those joined by a '+'. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

typedef struct state {
    char *base;
    uint64_t *offset;
    size_t bytes;
    int fd; /* -1: anonymous */
} state;

static void advise(void *p, size_t bytes, int advice)
{
    if (madvise(p, bytes, advice) && advice != MADV_HUGEPAGE)
        loop_fail("madvise: %s", strerror(errno));
}

static void *open_memory(const loop *l, int fd)
{
    state *s = loop_need(malloc(sizeof *s));
    *s = (state){.offset = loop_offsets(l), .bytes = loop_bytes(l), .fd = fd};
    if (fd < 0) {
        s->base = loop_map(s->bytes);
    } else {
        s->base = mmap(NULL, s->bytes, l->file ? PROT_READ : PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (s->base == MAP_FAILED)
            loop_fail("mmap: %s", strerror(errno));
    }
    if (loop_advised(l, "huge"))
        advise(s->base, s->bytes, MADV_HUGEPAGE);
    if (loop_advised(l, "sequential"))
        advise(s->base, s->bytes, MADV_SEQUENTIAL);
    if (loop_advised(l, "random"))
        advise(s->base, s->bytes, MADV_RANDOM);
    return s;
}

static void *open_anonymous(const loop *l)
{
    return open_memory(l, -1);
}

static void *open_file(const loop *l)
{
    int fd = l->file ? open(l->file, O_RDONLY) : loop_spill(l, loop_bytes(l), 0);
    if (fd < 0)
        loop_fail("%s: %s", l->file, strerror(errno));
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); /* nothing is left of earlier runs */
    return open_memory(l, fd);
}

static void run(void *self, loop *l, const work *w, uint64_t step, bool more)
{
    state *s = self;
    bool willneed = loop_advised(l, "willneed"), sync = s->fd >= 0 && loop_advised(l, "sync");
    size_t ahead = w->known ? l->options->ahead : 0;
    for (size_t i = 0; i < w->visits; i++) {
        visit v;
        void *address[LOOP_MOST];
        if (willneed && (more || i + ahead < w->visits)) {
            w->plan(l, step + (i + ahead) / w->visits, (i + ahead) % w->visits, &v);
            for (unsigned k = 0; k < v.n; k++)
                if (v.mode[k] != 'o')
                    advise(s->base + s->offset[v.tensor[k]], l->bytes[v.tensor[k]], MADV_WILLNEED);
        }
        w->plan(l, step, i, &v);
        for (unsigned k = 0; k < v.n; k++)
            address[k] = s->base + s->offset[v.tensor[k]];
        w->compute(l, step, i, address);
        for (unsigned k = 0; sync && k < v.n; k++)
            if (v.mode[k] != 'r')
                sync_file_range(s->fd, (off_t)s->offset[v.tensor[k]], (off_t)l->bytes[v.tensor[k]],
                                SYNC_FILE_RANGE_WRITE);
    }
}

static void close_(void *self)
{
    state *s = self;
    munmap(s->base, s->bytes);
    if (s->fd >= 0)
        close(s->fd);
    free(s->offset);
    free(s);
}

const engine engine_ram = {.name = "ram", .advice = "huge", .fills = true, .open = open_anonymous,
                           .run = run, .close = close_};
const engine engine_swap = {.name = "swap", .advice = "normal", .fills = true, .open = open_anonymous,
                            .run = run, .close = close_};
const engine engine_mmap = {.name = "mmap",
                            .advice = "sequential",
                            .open = open_file, .run = run, .close = close_};
