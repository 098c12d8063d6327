/* nvme.h - what the files of the disk tier share.
 *
 * nvme.c is the backend, and says how it works; nvme_folder.c knows the spill
 * folders, nvme_source.c users' files, nvme_copy.c one copy from its start to
 * its end, nvme_uring.c and nvme_threads.c the two ways to make it happen. */
#ifndef TERRACE_OFFLOAD_NVME_H
#define TERRACE_OFFLOAD_NVME_H

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "terrace_backend.h"

enum {
    PAGE = 4096,
    STRIPE = 2 << 20,     /* also the granule */
    IO_CHUNK = 2 << 20,
    IO_DEPTH = 16,        /* to begin with */
    IO_DEPTH_MOST = 64,
    WORKERS = 8,
    MAX_FOLDERS = 16,
    MAX_TRIES = 1000,     /* of one transfer, without progress */
    KEEP_FREE = 20,       /* 1/20 of a disk stays free */
    SLOT_SHIFT = 47,
    MAX_SLOTS = 1 << (63 - SLOT_SHIFT)
};
#define ATTACHED (UINT64_C(1) << 63)
#define MAX_FILE (UINT64_C(8) << 40) /* bytes of one spill file; ext4 ends at 16 TiB */
#define GIB 1073741824.0

struct folder {
    char *path;
    const char *fs; /* file system type */
    int fd;
    bool direct;
};

struct spill {
    struct spill *next;
    uint64_t base, bytes;
    int fd[]; /* one per folder */
};

/* A user's file as it was when attached. */
struct source {
    char *path;
    struct stat is;
    int fd, direct; /* direct: -1 where O_DIRECT is refused */
    unsigned refs;
};

struct nvme {
    const terrace_host *host;
    const struct engine *engine;
    void *state; /* the engine's */
    pid_t pid;
    struct folder folder[MAX_FOLDERS];
    unsigned folders;
    pthread_mutex_t lock; /* protects what follows; never held across I/O */
    uint64_t next_base;
    struct spill *spills;
    struct source **sources; /* by slot; NULL where free */
    unsigned slots;
};

struct engine {
    const char *name;
    int (*open)(struct nvme *u, int probe); /* 0 or -errno; probe: a file that holds nvme_probe_page */
    void (*close)(struct nvme *u);
    int (*submit)(void *unit, terrace_io *const *list, unsigned n);
    int (*wait)(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns);
    void (*wake)(void *unit);
    /* Or NULL. 0 or -errno. */
    int (*pin)(void *unit, void *address, uint64_t bytes);
    void (*unpin)(void *unit, void *address, uint64_t bytes);
    int (*watch)(void *unit, int fd); /* or NULL */
};

static inline int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* When a wait that begins now ends; negative: never. */
static inline int64_t deadline_of(int64_t timeout_ns)
{
    int64_t now = now_ns();
    return timeout_ns < 0 || timeout_ns > INT64_MAX - now ? -1 : now + timeout_ns;
}

struct xfsz {
    sigset_t mask; /* of the thread before */
    bool pending;  /* already, so not ours to consume */
};

/* What io->backend holds while a copy is in flight. */
struct __attribute__((may_alias)) op {
    terrace_io *next;      /* in a queue */
    struct source *source; /* NULL for a spill file */
    uint64_t offset;       /* in the file */
    uint32_t done;         /* bytes */
    uint32_t tries;        /* since the last progress */
    int fd;
    bool direct;
};
_Static_assert(sizeof(struct op) <= sizeof(((terrace_io *)0)->backend), "op fits");

static inline struct op *op_of(const terrace_io *io)
{
    return (struct op *)(uintptr_t)io->backend;
}

struct queue {
    terrace_io *head, *tail;
};

static inline void queue_push(struct queue *q, terrace_io *io)
{
    op_of(io)->next = NULL;
    if (q->head)
        op_of(q->tail)->next = io;
    else
        q->head = io;
    q->tail = io;
}

static inline terrace_io *queue_pop(struct queue *q)
{
    terrace_io *io = q->head;
    if (io)
        q->head = op_of(io)->next;
    return io;
}

static inline unsigned queue_take(struct queue *q, terrace_io **out, unsigned max)
{
    unsigned n = 0;
    while (n < max && (out[n] = queue_pop(q)))
        n++;
    return n;
}

static inline uint64_t source_offset(uint64_t address)
{
    return address & ((UINT64_C(1) << SLOT_SHIFT) - 1);
}

/* Every errno becomes a TERRACE_E... code here. */
int nvme_errno(int error);

/* ---- nvme.c: spill files ---- */

/* The reservation that holds a range, or NULL. */
struct spill *nvme_spill_find(struct nvme *u, uint64_t address, uint64_t bytes);
unsigned nvme_folder_of(const struct nvme *u, const struct spill *s, uint64_t address);
/* How many of the first `bytes` of a reservation lie in folder k: also the
 * offset in its file of what follows them there. */
uint64_t nvme_striped(const struct nvme *u, unsigned k, uint64_t bytes);

/* ---- nvme_folder.c ---- */

extern unsigned char nvme_probe_page[]; /* what engines read when they are opened */

/* Opens the folders of TERRACE_NVME_PATH; *probe becomes a file in the first
 * that holds nvme_probe_page. Sets the failure sentence. */
int nvme_folders_open(struct nvme *u, int *probe);
void nvme_folders_close(struct nvme *u);
/* Sets the failure sentence: the folder, why it cannot be used, the remedy. */
int nvme_folder_refuse(const struct nvme *u, int code, const char *path, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* An unnamed file in a folder, or -1 with errno. */
int nvme_file_create(int folder);
/* Bytes that may still be used of the disk a folder is on. */
uint64_t nvme_folder_room(const struct folder *f, uint64_t *avail, uint64_t *size);
/* The NUMA node next to the disk a folder is on; -1: not known. */
int nvme_folder_node(const struct folder *f);
/* That of a disk or partition, as sysfs, mounted at `sys`, tells of the first device
 * above it that has one: its controller, or the bus's device. */
int nvme_disk_node(const char *sys, dev_t disk);
/* Fills in capacity and its reason. Sets the failure sentence. */
int nvme_capacity(const struct nvme *u, terrace_unit_info *info);

/* ---- nvme_source.c ---- */

int nvme_attach(void *unit, const char *path, uint64_t offset, uint64_t bytes, uint64_t *base);
void nvme_detach(void *unit, uint64_t base, uint64_t bytes);
struct source *nvme_source_find(struct nvme *u, uint64_t address);
/* Is the file what it was when attached? */
bool nvme_source_same(const struct source *s);
void nvme_source_free(struct source *s);

/* ---- nvme_copy.c ---- */

/* Around calls that may write past RLIMIT_FSIZE. errno survives. */
void nvme_xfsz_block(struct xfsz *x);
void nvme_xfsz_restore(const struct xfsz *x);

/* Finds the file behind a copy; false: it is finished, with its result. */
bool nvme_op_start(struct nvme *u, terrace_io *io);
/* Bytes still to be transferred; O_DIRECT wants whole pages. */
size_t nvme_op_left(const terrace_io *io);
/* Looks at what a transfer returned (bytes or -errno). True: the copy is
 * finished; false: its rest is to be transferred. */
bool nvme_op_step(terrace_io *io, ssize_t got);
/* Ends a copy with a result and the errno behind it. Always true. */
bool nvme_op_end(terrace_io *io, int error, int result);

/* ---- the engines ---- */

extern const struct engine nvme_uring, nvme_threads;

#endif
