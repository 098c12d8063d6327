/* nvme_source.c - users' files, attached read-only. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nvme.h"

struct source *nvme_source_find(struct nvme *u, uint64_t address)
{
    uint64_t slot = (address & ~ATTACHED) >> SLOT_SHIFT;
    pthread_mutex_lock(&u->lock);
    struct source *s = slot < u->slots ? u->sources[slot] : NULL;
    pthread_mutex_unlock(&u->lock);
    return s;
}

static bool stat_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
           a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

bool nvme_source_same(const struct source *s)
{
    struct stat now;
    return fstat(s->fd, &now) == 0 && stat_same(&now, &s->is);
}

void nvme_source_free(struct source *s)
{
    if (s->direct >= 0)
        close(s->direct);
    close(s->fd);
    free(s->path);
    free(s);
}

/* A descriptor with exactly these status flags; O_NONBLOCK only keeps open
 * itself from waiting where the path is a pipe. */
static int source_fd(const char *path, int flags, struct stat *is)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, is) == 0 && fcntl(fd, F_SETFL, flags) == 0)
        return fd;
    int error = errno;
    if (fd >= 0)
        close(fd);
    errno = error;
    return -1;
}

static struct source *source_open(const char *path)
{
    struct stat is;
    struct source *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->path = strdup(path);
    s->fd = s->path ? source_fd(path, 0, &s->is) : -1;
    if (s->fd < 0) {
        int error = errno;
        free(s->path);
        free(s);
        errno = error;
        return NULL;
    }
    s->direct = S_ISREG(s->is.st_mode) ? source_fd(path, O_DIRECT, &is) : -1;
    if (s->direct >= 0 && !stat_same(&is, &s->is)) {
        close(s->direct);
        s->direct = -1;
    }
    return s;
}

static int source_check(const struct nvme *u, const struct source *s, uint64_t offset, uint64_t bytes)
{
    uint64_t size = (uint64_t)s->is.st_size;
    if (!S_ISREG(s->is.st_mode))
        return u->host->fail(u->host->context, -TERRACE_EINVAL, "%s is not a regular file", s->path);
    if (bytes == 0 || offset > size || bytes > size - offset)
        return u->host->fail(u->host->context, -TERRACE_EINVAL,
                             "%llu bytes from %llu are not inside %s, which has %llu",
                             (unsigned long long)bytes, (unsigned long long)offset, s->path,
                             (unsigned long long)size);
    if (size >> SLOT_SHIFT)
        return u->host->fail(u->host->context, -TERRACE_ENOTSUP, "%s is larger than 128 TiB", s->path);
    return 0;
}

/* The slot where a file is attached already, else a free one, else -1. */
static int slot_find_locked(struct nvme *u, const struct source *s)
{
    int slot = -1;
    for (unsigned i = 0; i < u->slots; i++)
        if (!u->sources[i])
            slot = (int)i;
        else if (stat_same(&u->sources[i]->is, &s->is) && !strcmp(u->sources[i]->path, s->path))
            return (int)i;
    if (slot >= 0 || u->slots == MAX_SLOTS)
        return slot;
    unsigned more = u->slots ? 2 * u->slots : 16;
    struct source **grown = realloc(u->sources, more * sizeof *grown);
    if (!grown)
        return -1;
    memset(grown + u->slots, 0, (more - u->slots) * sizeof *grown);
    u->sources = grown;
    slot = (int)u->slots;
    u->slots = more;
    return slot;
}

int nvme_attach(void *unit, const char *path, uint64_t offset, uint64_t bytes, uint64_t *base)
{
    struct nvme *u = unit;
    struct source *s = source_open(path), *extra = s;
    if (!s)
        return u->host->fail(u->host->context, nvme_errno(errno), "cannot open %s: %s", path,
                             strerror(errno));
    int error = source_check(u, s, offset, bytes);
    if (error)
        goto free_extra;
    pthread_mutex_lock(&u->lock);
    int slot = slot_find_locked(u, s);
    if (slot >= 0 && !u->sources[slot]) {
        u->sources[slot] = s;
        extra = NULL;
    }
    if (slot >= 0)
        u->sources[slot]->refs++;
    pthread_mutex_unlock(&u->lock);
    if (slot >= 0)
        *base = ATTACHED | (uint64_t)slot << SLOT_SHIFT | offset;
    else
        error = u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to open %s", path);
free_extra:
    if (extra)
        nvme_source_free(extra);
    return error;
}

void nvme_detach(void *unit, uint64_t base, uint64_t bytes)
{
    struct nvme *u = unit;
    uint64_t slot = (base & ~ATTACHED) >> SLOT_SHIFT;
    (void)bytes;
    pthread_mutex_lock(&u->lock);
    struct source *s = slot < u->slots ? u->sources[slot] : NULL;
    bool last = s && --s->refs == 0;
    if (last)
        u->sources[slot] = NULL;
    pthread_mutex_unlock(&u->lock);
    if (last)
        nvme_source_free(s);
}

