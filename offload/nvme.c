/* nvme.c - the disk tier: spill files striped over folders, and users' files.
 *
 * A reservation is one unnamed file per spill folder. Tier addresses run on
 * from reservation to reservation, and within one they go round the folders in
 * stripes of 2 MiB. The part of a range that lies in one folder is contiguous
 * in that folder's file, so commit and decommit are one fallocate per folder.
 * As the files have no name, nothing is left behind however the process ends.
 *
 * A user's file is attached read-only at addresses with the top bit set: slot
 * and file offset. Size and modification time are compared with those at
 * attach before and after every read.
 *
 * I/O is O_DIRECT: spilled bytes must not come back as page cache. Where a file
 * system refuses that, or a file offset is not aligned, reads and writes are
 * buffered and the cached pages dropped behind them.
 *
 * Two engines do the transfers, io_uring and a pool of threads. Both only move
 * bytes: nvme_op_start() says where a copy goes, nvme_op_step() looks at what one
 * transfer returned and says whether the copy is finished or goes on. Writing
 * past RLIMIT_FSIZE must be an error and not SIGXFSZ, so the signal is blocked
 * around calls that can raise it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "nvme.h"

/* Every errno, from whatever call, becomes a code here. */
int nvme_errno(int error)
{
    switch (error) {
    case 0: return 0;
    case ENOMEM: return -TERRACE_ENOMEM;
    case ENOSPC: case EDQUOT: case EFBIG: return -TERRACE_ENOSPC;
    case EACCES: case EPERM: case EROFS: return -TERRACE_EPERM;
    case ENOENT: case ENOTDIR: case ELOOP: return -TERRACE_ENOENT;
    case EOPNOTSUPP: case ENOSYS: return -TERRACE_ENOTSUP;
    case EMFILE: case ENFILE: case EAGAIN: return -TERRACE_ESYSTEM;
    default: return -TERRACE_EIO;
    }
}

/* ---- opening and closing ------------------------------------------------- */

static const char *uring_remedy(int error)
{
    switch (error) {
    case EPERM: return " (seccomp or kernel.io_uring_disabled)";
    case ENOMEM: return " (the locked memory limit, ulimit -l, is too low)";
    case ENOSYS: return " (the kernel is older than 5.11, or seccomp)";
    default: return "";
    }
}

/* Picks and opens the engine, and says why. */
static int engine_open(struct nvme *u, int probe, char *reason, size_t len)
{
    const terrace_host *host = u->host;
    const char *asked = host->option(host->context, "IO");
    bool insist = asked && !strcmp(asked, "uring"), avoid = asked && !strcmp(asked, "threads");
    int error = avoid ? 0 : nvme_uring.open(u, probe);
    if (!avoid && !error) {
        u->engine = &nvme_uring;
        snprintf(reason, len, "%s", insist ? "TERRACE_IO=uring" : "the kernel accepts it");
        return 0;
    }
    if (insist)
        return host->fail(host->context, -TERRACE_ECONFIG,
                          "TERRACE_IO=uring, but io_uring was refused: %s%s; allow it, or set "
                          "TERRACE_IO=auto", strerror(-error), uring_remedy(-error));
    if (avoid)
        snprintf(reason, len, "TERRACE_IO=threads; %d threads of pread/pwrite", WORKERS);
    else
        snprintf(reason, len, "io_uring refused: %s%s; using %d threads of pread/pwrite; allow io_uring "
                 "in the container's seccomp profile for less CPU use",
                 strerror(-error), uring_remedy(-error), WORKERS);
    error = nvme_threads.open(u, probe);
    u->engine = &nvme_threads;
    if (error)
        return host->fail(host->context, nvme_errno(-error),
                          "no threads could be started for disk transfers: %s; raise the limits on "
                          "processes (ulimit -u) and memory", strerror(-error));
    return 0;
}

__attribute__((format(printf, 3, 4))) static void append(char *buf, size_t len, const char *format, ...)
{
    size_t used = strlen(buf);
    va_list args;
    va_start(args, format);
    vsnprintf(buf + used, len - used, format, args);
    va_end(args);
}

static void describe(const struct nvme *u, terrace_unit_info *info)
{
    info->granule = STRIPE;
    info->page = PAGE;
    info->io_chunk = IO_CHUNK;
    info->io_boundary = u->folders > 1 ? STRIPE : 0;
    info->io_depth = IO_DEPTH;
    info->io_depth_most = IO_DEPTH_MOST;
    info->flags = u->engine->pin ? TERRACE_UNIT_RANGES : 0;
    info->node = nvme_folder_node(&u->folder[0]);
    for (unsigned i = 1; i < u->folders; i++)
        if (nvme_folder_node(&u->folder[i]) != info->node)
            info->node = -1;
    snprintf(info->engine, sizeof info->engine, "%s", u->engine->name);
    for (unsigned i = 0; i < u->folders; i++) {
        const struct folder *f = &u->folder[i];
        append(info->location, sizeof info->location, "%s%s (%s)", i ? ":" : "", f->path, f->fs);
        if (!f->direct)
            append(info->engine_reason, sizeof info->engine_reason,
                   "; buffered in %s, which refuses O_DIRECT", f->path);
        if (!strcmp(f->fs, "fuse"))
            append(info->engine_reason, sizeof info->engine_reason,
                   "; %s is FUSE, perhaps slow or remote", f->path);
    }
}

static void unit_free(struct nvme *u)
{
    nvme_folders_close(u);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

static int nvme_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

static int nvme_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    int error, probe = -1;
    if (index != 0)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no nvme:%d, only nvme:0", index);
    struct nvme *u = calloc(1, sizeof *u);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open nvme:0");
    u->host = host;
    u->pid = getpid();
    u->next_base = STRIPE; /* address 0 is never handed out */
    pthread_mutex_init(&u->lock, NULL);
    error = nvme_folders_open(u, &probe);
    if (!error)
        error = nvme_capacity(u, info);
    if (!error)
        error = engine_open(u, probe, info->engine_reason, sizeof info->engine_reason);
    if (probe >= 0)
        close(probe);
    if (error) {
        unit_free(u);
        return error;
    }
    describe(u, info);
    *unit = u;
    return 0;
}

static void spill_free(const struct nvme *u, struct spill *s)
{
    for (unsigned k = 0; k < u->folders && s->fd[k] >= 0; k++)
        close(s->fd[k]);
    free(s);
}

static void nvme_close(void *unit)
{
    struct nvme *u = unit;
    u->engine->close(u);
    while (u->spills) {
        struct spill *s = u->spills;
        u->spills = s->next;
        spill_free(u, s);
    }
    for (unsigned i = 0; i < u->slots; i++)
        if (u->sources[i])
            nvme_source_free(u->sources[i]);
    free(u->sources);
    unit_free(u);
}

/* ---- spill space --------------------------------------------------------- */

/* How many of the first `bytes` of a reservation lie in folder k: also the
 * offset in its file of what follows them there. */
uint64_t nvme_striped(const struct nvme *u, unsigned k, uint64_t bytes)
{
    uint64_t round = (uint64_t)u->folders * STRIPE, rest = bytes % round, skip = (uint64_t)k * STRIPE;
    uint64_t part = rest > skip ? rest - skip : 0;
    return bytes / round * STRIPE + (part < STRIPE ? part : STRIPE);
}

unsigned nvme_folder_of(const struct nvme *u, const struct spill *s, uint64_t address)
{
    return (unsigned)((address - s->base) / STRIPE % u->folders);
}

static struct spill *spill_find_locked(struct nvme *u, uint64_t address)
{
    struct spill *s = u->spills;
    while (s && address - s->base >= s->bytes)
        s = s->next;
    return s;
}

struct spill *nvme_spill_find(struct nvme *u, uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&u->lock);
    struct spill *s = spill_find_locked(u, address);
    pthread_mutex_unlock(&u->lock);
    return s && bytes <= s->bytes - (address - s->base) ? s : NULL;
}

static int nvme_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct nvme *u = unit;
    const terrace_host *host = u->host;
    uint64_t round = (uint64_t)u->folders * STRIPE;
    (void)flags;
    if (bytes == 0 || bytes > MAX_FILE * u->folders)
        return host->fail(host->context, -TERRACE_ENOTSUP,
                          "a spill reservation holds at most 8 TiB in each folder");
    struct spill *s = calloc(1, sizeof *s + u->folders * sizeof *s->fd);
    if (!s)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory for a spill reservation");
    s->bytes = bytes;
    for (unsigned k = 0; k < u->folders; k++) {
        const struct folder *f = &u->folder[k];
        s->fd[k] = nvme_file_create(f->fd);
        if (s->fd[k] < 0 || (f->direct && fcntl(s->fd[k], F_SETFL, O_DIRECT) != 0)) {
            int error = errno;
            if (s->fd[k] >= 0 && k + 1 < u->folders)
                s->fd[k + 1] = -1;
            spill_free(u, s);
            return nvme_folder_refuse(u, nvme_errno(error), f->path, "does not take files: %s",
                                 strerror(error));
        }
    }
    pthread_mutex_lock(&u->lock);
    *base = s->base = u->next_base;
    u->next_base += (bytes + round - 1) / round * round;
    s->next = u->spills;
    u->spills = s;
    pthread_mutex_unlock(&u->lock);
    return 0;
}

static void nvme_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct nvme *u = unit;
    (void)bytes;
    pthread_mutex_lock(&u->lock);
    struct spill **link = &u->spills, *s;
    while (*link && (*link)->base != base)
        link = &(*link)->next;
    s = *link;
    if (s)
        *link = s->next;
    pthread_mutex_unlock(&u->lock);
    if (s)
        spill_free(u, s);
}

/* Allocates blocks the slow way. */
static int file_zero(int fd, uint64_t offset, uint64_t bytes)
{
    int error = 0;
    void *zeros = mmap(NULL, IO_CHUNK, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED)
        return ENOMEM;
    while (bytes && !error) {
        ssize_t wrote = pwrite(fd, zeros, bytes < IO_CHUNK ? bytes : IO_CHUNK, (off_t)offset);
        if (wrote > 0) {
            wrote -= (uint64_t)wrote < bytes ? wrote % PAGE : 0;
            offset += (uint64_t)wrote;
            bytes -= (uint64_t)wrote;
        }
        if (wrote == 0 || (wrote < 0 && errno != EINTR))
            error = wrote == 0 ? ENOSPC : errno;
    }
    munmap(zeros, IO_CHUNK);
    return error;
}

/* Puts blocks behind a part of one spill file; 0 or an errno. */
static int file_allocate(const struct folder *f, int fd, uint64_t offset, uint64_t bytes)
{
    uint64_t avail, size;
    struct xfsz x;
    int error;
    if (nvme_folder_room(f, &avail, &size) < bytes)
        return ENOSPC;
    nvme_xfsz_block(&x);
    do
        error = fallocate(fd, 0, (off_t)offset, (off_t)bytes) ? errno : 0;
    while (error == EINTR);
    if (error == EOPNOTSUPP)
        error = file_zero(fd, offset, bytes);
    nvme_xfsz_restore(&x);
    return error;
}

static void file_punch(const struct nvme *u, const struct folder *f, int fd, uint64_t offset,
                       uint64_t bytes)
{
    if (bytes && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)bytes))
        u->host->log(u->host->context, TERRACE_LOG_DEBUG,
                     "%llu bytes of the spill in %s stay allocated: %s", (unsigned long long)bytes,
                     f->path, strerror(errno));
}

static void punch(const struct nvme *u, const struct spill *s, uint64_t from, uint64_t to,
                  unsigned folders)
{
    for (unsigned k = 0; k < folders; k++) {
        uint64_t offset = nvme_striped(u, k, from);
        file_punch(u, &u->folder[k], s->fd[k], offset, nvme_striped(u, k, to) - offset);
    }
}

static int nvme_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct nvme *u = unit;
    const terrace_host *host = u->host;
    struct spill *s = nvme_spill_find(u, address, bytes);
    if (!s)
        return host->fail(host->context, -TERRACE_EINVAL, "not an address of the spill");
    uint64_t from = address - s->base, to = from + bytes;
    for (unsigned k = 0; k < u->folders; k++) {
        const struct folder *f = &u->folder[k];
        uint64_t offset = nvme_striped(u, k, from), part = nvme_striped(u, k, to) - offset;
        int error = part ? file_allocate(f, s->fd[k], offset, part) : 0;
        if (!error)
            continue;
        punch(u, s, from, to, k + 1);
        if (nvme_errno(error) != -TERRACE_ENOSPC)
            return host->fail(host->context, nvme_errno(error), "no %llu more bytes in the spill folder %s: %s",
                              (unsigned long long)part, f->path, strerror(error));
        return host->fail(host->context, -TERRACE_ENOSPC,
                          "no room for %llu more bytes in the spill folder %s, with 5 %% of its disk kept "
                          "free: %s; make room there, name other folders in TERRACE_NVME_PATH, or "
                          "lower TERRACE_LIMIT_NVME",
                          (unsigned long long)part, f->path, strerror(error));
    }
    return 0;
}

static void nvme_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct nvme *u = unit;
    struct spill *s = nvme_spill_find(u, address, bytes);
    if (s)
        punch(u, s, address - s->base, address - s->base + bytes, u->folders);
}

/* Where a part of a reservation lies. Space is promised by blocks that are there
 * before they are written, which takes a file system that allocates them. */
static int nvme_file(void *unit, uint64_t address, uint64_t bytes, int op, int *fd, uint64_t *offset,
                     uint64_t *run)
{
    struct nvme *u = unit;
    const terrace_host *host = u->host;
    struct spill *s = nvme_spill_find(u, address, bytes);
    if (!s || bytes == 0)
        return host->fail(host->context, -TERRACE_EINVAL, "not an address of the spill");
    unsigned k = nvme_folder_of(u, s, address);
    uint64_t from = address - s->base, left = u->folders > 1 ? STRIPE - from % STRIPE : bytes;
    *fd = s->fd[k];
    *offset = nvme_striped(u, k, from);
    *run = bytes < left ? bytes : left;
    if (op == TERRACE_IO_WRITE && fallocate(*fd, 0, (off_t)*offset, PAGE) && errno == EOPNOTSUPP)
        return host->fail(host->context, -TERRACE_ENOTSUP,
                          "the spill folder %s is on %s, which cannot promise space ahead of writing "
                          "(fallocate); let TERRACE_NVME_PATH name a folder on ext4, xfs or the like",
                          u->folder[k].path, u->folder[k].fs);
    return 0;
}

/* ---- the table ----------------------------------------------------------- */

static int nvme_submit(void *unit, terrace_io *const *list, unsigned n)
{
    return ((struct nvme *)unit)->engine->submit(unit, list, n);
}

static int nvme_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    return ((struct nvme *)unit)->engine->wait(unit, done, max, timeout_ns);
}

static void nvme_wake(void *unit)
{
    ((struct nvme *)unit)->engine->wake(unit);
}

static int nvme_watch(void *unit, int fd)
{
    const struct engine *engine = ((struct nvme *)unit)->engine;
    return engine->watch ? engine->watch(unit, fd) : -TERRACE_ENOTSUP;
}

static int nvme_pin(void *unit, void *address, uint64_t bytes)
{
    struct nvme *u = unit;
    return u->engine->pin ? nvme_errno(-u->engine->pin(unit, address, bytes)) : -TERRACE_ENOTSUP;
}

static void nvme_unpin(void *unit, void *address, uint64_t bytes)
{
    struct nvme *u = unit;
    if (u->engine->unpin)
        u->engine->unpin(unit, address, bytes);
}

static const char *result_text(const terrace_io *io)
{
    if (io->os_error)
        return strerror(io->os_error);
    switch (io->result) {
    case 0: return "done";
    case -TERRACE_ECHANGED: return "the file was changed or truncated since it was opened";
    case -TERRACE_EINVAL: return "nothing there can be read or written like that";
    default: return "the transfer stopped short of its end";
    }
}

static void nvme_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    struct nvme *u = unit;
    const char *verb = io->op == TERRACE_IO_READ ? "reading" : "writing";
    struct source *source = io->address & ATTACHED ? nvme_source_find(u, io->address) : NULL;
    struct spill *s = io->address & ATTACHED ? NULL : nvme_spill_find(u, io->address, 0);
    uint64_t offset = source_offset(io->address);
    const char *where = source ? source->path : "nowhere";
    if (s) {
        unsigned k = nvme_folder_of(u, s, io->address);
        offset = nvme_striped(u, k, io->address - s->base);
        where = u->folder[k].path;
    }
    snprintf(buf, len, "%s %zu bytes at offset %llu of %s%s: %s", verb, io->bytes,
             (unsigned long long)offset, s ? "the unnamed spill file in " : "", where, result_text(io));
}

static const terrace_backend nvme_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "nvme",
    .tier_class = TERRACE_CLASS_DISK,
    .count = nvme_count,
    .open = nvme_open,
    .close = nvme_close,
    .reserve = nvme_reserve,
    .release = nvme_release,
    .commit = nvme_commit,
    .decommit = nvme_decommit,
    .submit = nvme_submit,
    .wait = nvme_wait,
    .wake = nvme_wake,
    .explain = nvme_explain,
    .attach = nvme_attach,
    .detach = nvme_detach,
    .file = nvme_file,
    .pin = nvme_pin,
    .unpin = nvme_unpin,
    .watch = nvme_watch,
};
TERRACE_BACKEND_BUILTIN(nvme_backend);
