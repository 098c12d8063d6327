/* nvme_copy.c - one copy: where it goes, what a transfer did, when it is over. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>

#include "nvme.h"

static void xfsz_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGXFSZ);
}

void nvme_xfsz_block(struct xfsz *x)
{
    sigset_t set;
    sigpending(&set);
    x->pending = sigismember(&set, SIGXFSZ);
    xfsz_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, &x->mask);
}

void nvme_xfsz_restore(const struct xfsz *x)
{
    static const struct timespec at_once;
    sigset_t set;
    int saved = errno;
    xfsz_set(&set);
    if (!x->pending)
        sigtimedwait(&set, NULL, &at_once);
    pthread_sigmask(SIG_SETMASK, &x->mask, NULL);
    errno = saved;
}

/* Ends a copy; error is an errno. Always true: it is finished. */
bool nvme_op_end(terrace_io *io, int error, int result)
{
    struct op *op = op_of(io);
    if (op->source && !nvme_source_same(op->source))
        error = 0, result = -TERRACE_ECHANGED;
    io->os_error = error;
    io->result = result;
    if (!op->direct) {
        io->cpu_copied = io->bytes;
        posix_fadvise(op->fd, (off_t)op->offset, (off_t)io->bytes, POSIX_FADV_DONTNEED);
    }
    return true;
}

static bool op_start_attached(struct nvme *u, terrace_io *io)
{
    struct op *op = op_of(io);
    struct source *s = nvme_source_find(u, io->address);
    io->result = -TERRACE_EINVAL;
    if (!s || io->op != TERRACE_IO_READ)
        return false;
    io->result = -TERRACE_ECHANGED;
    if (!nvme_source_same(s))
        return false;
    op->source = s;
    op->offset = source_offset(io->address);
    op->direct = s->direct >= 0 && op->offset % PAGE == 0 && (uintptr_t)io->host % PAGE == 0;
    op->fd = op->direct ? s->direct : s->fd;
    return true;
}

/* Finds the file behind a copy; false: it is finished, with its result. */
bool nvme_op_start(struct nvme *u, terrace_io *io)
{
    struct op *op = op_of(io);
    *op = (struct op){0};
    io->os_error = 0;
    io->cpu_copied = 0;
    if (io->address & ATTACHED)
        return op_start_attached(u, io);
    struct spill *s = nvme_spill_find(u, io->address, io->bytes);
    io->result = -TERRACE_EINVAL;
    if (!s)
        return false;
    unsigned k = nvme_folder_of(u, s, io->address);
    op->offset = nvme_striped(u, k, io->address - s->base);
    op->direct = u->folder[k].direct;
    op->fd = s->fd[k];
    return true;
}

/* Bytes still to be transferred; O_DIRECT wants whole pages. */
size_t nvme_op_left(const terrace_io *io)
{
    const struct op *op = op_of(io);
    size_t all = op->direct ? (io->bytes + PAGE - 1) & ~(size_t)(PAGE - 1) : io->bytes;
    return all - op->done;
}

/* Looks at what a transfer returned (bytes or -errno). True: the copy is
 * finished; false: its rest is to be transferred. */
bool nvme_op_step(terrace_io *io, ssize_t got)
{
    struct op *op = op_of(io);
    uint32_t before = op->done;
    if (got < 0 && got != -EINTR && got != -EAGAIN && got != -ECANCELED) {
        if (got != -EINVAL || !op->direct || !op->source)
            return nvme_op_end(io, (int)-got, nvme_errno((int)-got));
        op->direct = false; /* this file system wants more than page alignment */
        op->fd = op->source->fd;
    } else if (got == 0) {
        return nvme_op_end(io, 0, op->source ? -TERRACE_ECHANGED : -TERRACE_EIO);
    } else if (got > 0) {
        op->done += (uint32_t)got;
        if (op->done >= io->bytes)
            return nvme_op_end(io, 0, 0);
        if (op->source && !nvme_source_same(op->source))
            return nvme_op_end(io, 0, -TERRACE_ECHANGED);
        if (op->direct)
            op->done -= op->done % PAGE;
    }
    op->tries = op->done > before ? 0 : op->tries + 1;
    if (op->tries < MAX_TRIES)
        return false;
    return nvme_op_end(io, got < 0 ? (int)-got : 0, -TERRACE_EIO);
}

