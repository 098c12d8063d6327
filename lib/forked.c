/* forked.c - what a forked child finds in address-stable memory.
 *
 * A child sees the bytes as they were at the fork, without a thread or a
 * userfaultfd of its own: the kernel serves it. Pages that are in a region are
 * inherited, copy on write, as all memory is. What is in a tier's memory is
 * moved to its place, in the child. What was evicted is mapped from the spill
 * file, privately. So the parent may end, the child may fork again, and a child
 * that only calls exec() costs a copy of page tables. All this is done by parts:
 * a block, or a run of its pages where it is held page by page.
 *
 * Where that cannot be done fork() fails: for sealed bytes (TERRACE_VERIFY,
 * TERRACE_ENCRYPT), those of a tier that is no file, those that a file mapping
 * serves, more parts than a process may have mappings. refusal.c sees to it.
 *
 * Outside of fork() regions are left out of new processes (MADV_DONTFORK), and
 * inside of it those parts that are not inherited still are: whoever gets there
 * by the bare system call, or before the handler here has run, meets a
 * segmentation fault, never zeros. So does a child for which bytes cannot be mapped,
 * where the kernel would not refuse it or TERRACE_FORK=allow.
 *
 * Blocks on disk that a child reads must stay what they are. Each fork has a
 * number, and each copy on disk that its child was told to read bears it: until
 * that child is gone, what is written goes to other blocks, to which the bytes are
 * copied first where single pages are written; and extents that are given up are
 * kept aside. That a child is gone or has called exec(), and all its children, too,
 * is told by a page of shared memory that only they have: while somebody maps it,
 * the kernel refuses to seal it against writing.
 *
 * The list of managers and their locks are held, in this order, from the
 * prepare handler to the end of fork(). The handlers are registered when the
 * first manager opens: after those of the library's own allocator, so that its
 * locks are taken last.
 *
 * May call: core.h, mapped.h, refusal.h, stable.h. */
#include "forked.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "mapped.h"
#include "refusal.h"
#include "stable.h"

enum { FORK_FAIL, FORK_ALLOW }; /* TERRACE_FORK */
enum { PAGE = 4096, MAPPINGS = 65530 /* that a process may have where the system does not say */ };

/* One fork whose child was told to read from disk. */
struct child {
    TAILQ_ENTRY(child) link;
    uint64_t number;
    int fd;     /* of the shared page */
    void *page; /* mapped here until the fork is over */
    struct extent *kept[MAX_TIERS]; /* it, or one of an earlier fork, may read these */
};

struct forks {
    struct terrace *manager;
    LIST_ENTRY(forks) link;
    TAILQ_HEAD(children, child) children; /* by number */
    uint64_t number;   /* of the last fork */
    struct child *now; /* of the fork under way */
    bool taking_part;  /* in it */
};

struct part {
    enum { INHERIT, MOVE, READ } how;
    int fd;
    char *at;
    uint64_t from; /* address, or offset in the file */
    size_t bytes;
};

/* Of the fork under way. Mapped, since a child may not be able to free(). */
struct fork_plan {
    struct terrace *manager; /* that is being described */
    bool short_of_parts;
    bool lost;               /* something cannot */
    size_t bytes;            /* of all this */
    size_t parts, most;
    struct part part[];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static LIST_HEAD(, forks) managers = LIST_HEAD_INITIALIZER(managers);
static struct fork_plan *plan; /* of the fork under way, or NULL */
static const char *lost;       /* why it is to fail, as its child would not get all; NULL: it is not */
static struct terrace *loser;  /* whose memory that is */
static struct refusal refusal;
static _Thread_local const char *lost_last; /* of this thread's last fork */
static _Thread_local bool strict; /* this thread's forks fail even where the kernel does not refuse them */

/* ---- children ---------------------------------------------------------- */

static bool child_is_gone(const struct child *c)
{
    return fcntl(c->fd, F_ADD_SEALS, F_SEAL_WRITE) == 0;
}

/* What it kept is the concern of the one before it, or of nobody any more. */
static void child_free_locked(struct forks *f, struct child *c)
{
    struct child *before = TAILQ_PREV(c, children, link);
    for (unsigned i = 0; i < f->manager->tiers; i++)
        while (c->kept[i]) {
            struct extent *e = c->kept[i];
            c->kept[i] = e->next;
            e->next = before ? before->kept[i] : NULL;
            if (before)
                before->kept[i] = e;
            else
                arena_free(&f->manager->tier[i].arena, e);
        }
    TAILQ_REMOVE(&f->children, c, link);
    close(c->fd);
    free(c);
}

/* What tells when the child of the fork under way is gone; NULL: not to be had. */
static struct child *child_expected_locked(struct forks *f)
{
    if (f->now)
        return f->now;
    struct child *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    c->fd = memfd_create("terrace-fork", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (c->fd < 0 || ftruncate(c->fd, PAGE))
        goto close_page;
    c->page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
    if (c->page == MAP_FAILED)
        goto close_page;
    c->number = ++f->number;
    TAILQ_INSERT_TAIL(&f->children, c, link);
    return f->now = c;
close_page:
    if (c->fd >= 0)
        close(c->fd);
    free(c);
    return NULL;
}

/* The youngest child that is there, of this fork or an earlier one. */
static struct child *reader_locked(struct forks *f, uint64_t number)
{
    struct child *c = TAILQ_LAST(&f->children, children), *before;
    for (; c; c = before) {
        before = TAILQ_PREV(c, children, link);
        if (c->number > number)
            continue;
        if (c == f->now || !child_is_gone(c))
            return c;
        child_free_locked(f, c);
    }
    return NULL;
}

bool fork_reads_still_locked(struct copy *disk)
{
    if (disk->forked && !reader_locked(copy_manager(disk)->forks, disk->forked))
        disk->forked = 0;
    return disk->forked != 0;
}

bool fork_keeps_locked(struct copy *disk)
{
    struct child *c = disk->forked ? reader_locked(copy_manager(disk)->forks, disk->forked) : NULL;
    disk->forked = 0;
    if (!c || !disk->extent)
        return false;
    disk->extent->next = c->kept[disk->tier];
    c->kept[disk->tier] = disk->extent;
    disk->extent = NULL;
    return true;
}

void forks_reap_locked(struct terrace *m)
{
    struct child *c, *next;
    for (c = TAILQ_FIRST(&m->forks->children); c; c = next) {
        next = TAILQ_NEXT(c, link);
        if (c != m->forks->now && child_is_gone(c))
            child_free_locked(m->forks, c);
    }
}

void fork_unshare(char *at, size_t bytes)
{
    unsigned char there[512];
    size_t pages = bytes / PAGE, n = 1;
    if (pages > sizeof there)
        pages = sizeof there;
    if (mincore(at, pages * PAGE, there) == 0) /* absent ones must not be asked for */
        while (n < pages && there[n] & 1)
            n++;
    madvise(at, n * PAGE, MADV_POPULATE_WRITE);
}

/* ---- the plan ---------------------------------------------------------- */

/* Adds a part, or makes the last one longer. False: there are too many. */
static bool part_add(struct fork_plan *p, struct part part)
{
    struct part *last = p->parts ? &p->part[p->parts - 1] : NULL;
    if (last && last->how == part.how && last->fd == part.fd && last->at + last->bytes == part.at &&
        (part.how == INHERIT || last->from + last->bytes == part.from)) {
        last->bytes += part.bytes;
        return true;
    }
    p->short_of_parts |= p->parts == p->most;
    if (p->parts == p->most)
        return false;
    p->part[p->parts++] = part;
    return true;
}

void fork_inherits(struct fork_plan *p, char *at, size_t bytes)
{
    part_add(p, (struct part){.how = INHERIT, .at = at, .bytes = bytes});
}

void fork_moves(struct fork_plan *p, char *at, const void *from, size_t bytes)
{
    part_add(p, (struct part){.how = MOVE, .at = at, .from = (uintptr_t)from, .bytes = bytes});
}

void fork_lacks(struct fork_plan *p)
{
    p->lost = true;
}

void fork_reads_locked(struct fork_plan *p, char *at, struct copy *disk, uint64_t offset, size_t bytes)
{
    struct terrace *m = p->manager;
    const struct tier *tier = copy_tier(disk);
    uint64_t address = disk->extent->address + offset, run;
    if (m->sealer || !tier->backend->file || !child_expected_locked(m->forks)) {
        p->lost = true;
        return;
    }
    disk->forked = m->forks->number;
    for (; bytes; at += run, address += run, bytes -= run) {
        struct part part = {.how = READ, .at = at};
        if (tier->backend->file(tier->unit, address, bytes, TERRACE_IO_READ, &part.fd, &part.from, &run)) {
            p->lost = true;
            return;
        }
        part.bytes = run;
        if (!part_add(p, part))
            return;
    }
}

/* ---- around fork() ------------------------------------------------------ */

static void parts_advise(const struct fork_plan *p, int advice)
{
    for (size_t i = 0; i < p->parts; i++)
        if (p->part[i].how == INHERIT)
            madvise(p->part[i].at, p->part[i].bytes, advice);
}

/* Why a child does not get all stable memory; NULL: it does. */
static const char *loss(const struct fork_plan *p)
{
    return !p                 ? "no host memory"
         : p->short_of_parts  ? "it lies in too many parts; raise vm.max_map_count"
         : p->lost            ? "what is spilled is encrypted, checked, or not in a file; raise the host's limit, "
                                "so that nothing is spilled, or unset TERRACE_ENCRYPT and TERRACE_VERIFY"
                              : NULL;
}

/* A part takes two mappings at the most, and some are left for others. */
static size_t parts_most(void)
{
    char text[32] = "";
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    if (fd >= 0) {
        (void)!read(fd, text, sizeof text - 1);
        close(fd);
    }
    size_t mappings = strtoul(text, NULL, 10);
    return (mappings ? mappings : MAPPINGS) / 8 * 3;
}

static struct fork_plan *plan_new(void)
{
    size_t most = parts_most(), bytes = sizeof(struct fork_plan) + most * sizeof(struct part);
    struct fork_plan *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                               -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    p->bytes = bytes;
    p->most = most;
    return p;
}

/* Describes the manager's memory; says why a child does not get all of it, or NULL. */
static const char *plan_describe_locked(struct terrace *m)
{
    if (!plan)
        plan = plan_new();
    forks_reap_locked(m);
    stable_fork_begins_locked(m);
    if (plan) {
        plan->manager = m;
        plan->short_of_parts = plan->lost = false;
        stable_describe_locked(m, plan);
    }
    return loss(plan);
}

static void describe(struct forks *f)
{
    struct terrace *m = f->manager;
    const char *why = mapped_serves(m) ? "a file mapping serves it; allow userfaultfd" : NULL;
    manager_lock(m);
    f->taking_part = stable_has_regions_locked(m);
    if (f->taking_part)
        why = plan_describe_locked(m);
    else
        manager_unlock(m);
    if (why && m->options.value[OPT_FORK].number == FORK_FAIL) {
        lost = why;
        loser = m;
    }
}

/* Has the fork under way fail. False: the kernel does not refuse it. */
static bool refuse(void)
{
    bool refused = refusal_begin(&refusal);
    if (refused || strict)
        error_set(-TERRACE_ENOMEM, "fork fails, as the child would not get all stable memory: %s; or set "
                  "TERRACE_FORK=allow, for children that only call exec()", lost);
    else
        error_set(-TERRACE_ENOMEM, "a forked child does not get all stable memory, and touching that is a "
                  "segmentation fault: %s; TERRACE_FORK=allow if it is not to fail", lost);
    if (!strict)
        log_write(&loser->log, TERRACE_LOG_WARN, "%s", terrace_last_error());
    return refused;
}

static void before_fork(void)
{
    struct forks *f;
    pthread_mutex_lock(&lock);
    lost = NULL;
    LIST_FOREACH(f, &managers, link)
        describe(f);
    bool refused = lost && refuse();
    if (plan && !refused)
        parts_advise(plan, MADV_DOFORK);
}

static void plan_free(void)
{
    if (plan)
        munmap(plan, plan->bytes);
    plan = NULL;
}

static void after_fork_in_parent(void)
{
    struct forks *f;
    int error = errno; /* of the fork */
    refusal_end(&refusal);
    if (plan)
        parts_advise(plan, MADV_DONTFORK);
    LIST_FOREACH(f, &managers, link) {
        if (!f->taking_part)
            continue;
        if (f->now)
            munmap(f->now->page, PAGE);
        f->now = NULL;
        f->taking_part = false;
        stable_fork_ended_locked(f->manager);
        manager_unlock(f->manager);
    }
    plan_free();
    lost_last = lost;
    pthread_mutex_unlock(&lock);
    errno = error;
}

/* Only system calls: this is a process of one thread that may have stopped
 * others anywhere. */
static void part_place(const struct part *p)
{
    void *got = MAP_FAILED;
    if (p->how == MOVE)
        got = mremap((void *)(uintptr_t)p->from, p->bytes, p->bytes, MREMAP_MAYMOVE | MREMAP_FIXED, p->at);
    else if (p->how == READ)
        got = mmap(p->at, p->bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_FIXED_NOREPLACE | MAP_NORESERVE, p->fd, (off_t)p->from);
    if (got != MAP_FAILED && got != p->at)
        munmap(got, p->bytes); /* a kernel that takes the address as a wish */
}

static void after_fork_in_child(void)
{
    struct forks *f;
    struct child *c;
    if (lost && strict)
        _exit(0); /* forks_try() says that there was none */
    refusal_end(&refusal);
    for (size_t i = 0; plan && i < plan->parts; i++)
        part_place(&plan->part[i]);
    LIST_FOREACH(f, &managers, link)
        TAILQ_FOREACH(c, &f->children, link)
            close(c->fd);
    LIST_INIT(&managers); /* they are the parent's */
    plan_free();
    pthread_mutex_init(&lock, NULL);
}

pid_t forks_try(pid_t (*fork_now)(void))
{
    strict = true;
    pid_t child = fork_now();
    strict = false;
    if (child == 0 || !lost_last)
        return child;
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ; /* the kernel did not refuse it, and it has ended at once */
    errno = ENOMEM;
    return -1;
}

/* ---- opening and closing ----------------------------------------------- */

static int registered;

static void handlers_register(void)
{
    registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child);
}

void forks_begin(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, handlers_register);
}

int forks_open(struct terrace *m)
{
    forks_begin();
    struct forks *f = registered == 0 ? calloc(1, sizeof *f) : NULL;
    if (!f)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    f->manager = m;
    TAILQ_INIT(&f->children);
    m->forks = f;
    pthread_mutex_lock(&lock);
    LIST_INSERT_HEAD(&managers, f, link);
    pthread_mutex_unlock(&lock);
    return 0;
}

void forks_close(struct terrace *m)
{
    pthread_mutex_lock(&lock);
    LIST_REMOVE(m->forks, link);
    pthread_mutex_unlock(&lock);
}

void forks_free(struct terrace *m)
{
    struct child *c, *next;
    manager_lock(m);
    for (c = TAILQ_FIRST(&m->forks->children); c; c = next) {
        next = TAILQ_NEXT(c, link);
        child_free_locked(m->forks, c);
    }
    manager_unlock(m);
    free(m->forks);
    m->forks = NULL;
}

void forks_each(void (*fn)(struct terrace *m))
{
    struct forks *f;
    pthread_mutex_lock(&lock);
    LIST_FOREACH(f, &managers, link)
        fn(f->manager);
    pthread_mutex_unlock(&lock);
}
