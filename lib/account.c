/* account.c - host memory that several processes share one budget of.
 *
 * The account is a file that all of them map: the limit, the sum of what is charged, and
 * a slot for each process with its part of it. Charging is an addition under a lock in
 * the file, and there is no process that has to be there for it.
 *
 * A process may be killed at any moment. Its slot is a mutex that a thread of its holds
 * for as long as it lives; the kernel marks it when that thread ends, however it does
 * (robust mutexes), in whatever namespace of processes it was. Who finds the account
 * full looks at all slots and gives back what was charged by the dead. The lock itself is
 * of that kind, too: who gets it from a dead one counts the sum anew.
 *
 * Free bytes belong to who comes first. When there are none left, a process that has less
 * than its share, the limit divided by the processes there are, asks: it writes down how
 * much it wants and wakes the others, and who has more than the share gives as much. LEAST
 * bytes each process gets in any case, over the limit if need be: so that all go on where
 * they are more than it can hold, or one of them is stopped.
 *
 * A file that nobody has joined any more is removed by the last who leaves; one who has
 * opened it just then finds it marked, and looks for the next.
 *
 * May call: error.h, libc. */
#include "account.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "error.h"

enum { SLOTS = 1023, WAIT_MS = 250 };
static const uint64_t LEAST = 8 << 20;
static const char MAGIC[16] = "terrace account";

/* One process. */
struct slot {
    pthread_mutex_t alive; /* held while it is */
    uint64_t charged, wanted;
};

/* What is in the file. Under the lock, but for the words that are waited for. */
struct page {
    char magic[sizeof MAGIC];
    uint64_t bytes;   /* of this structure: another version has others */
    uint64_t limit, charged;
    uint32_t members; /* slots in use, dead ones included until that is noticed */
    uint32_t top;     /* slots that have ever been in use lie below */
    uint32_t gone;    /* the file is removed */
    _Atomic uint32_t asks, gifts; /* go up */
    pthread_mutex_t lock;
    struct slot slot[SLOTS];
};

struct account {
    struct page *page;
    struct slot *mine;
    char path[PATH_MAX];
};

/* ---- locks ------------------------------------------------------------------ */

static void robust_init(pthread_mutex_t *m)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(m, &attr);
    pthread_mutexattr_destroy(&attr);
}

static void lock(struct page *p)
{
    if (pthread_mutex_lock(&p->lock) != EOWNERDEAD)
        return;
    pthread_mutex_consistent(&p->lock);
    p->charged = 0;
    for (unsigned i = 0; i < SLOTS; i++)
        p->charged += p->slot[i].charged;
}

static void unlock(struct page *p)
{
    pthread_mutex_unlock(&p->lock);
}

static long futex(_Atomic uint32_t *word, int operation, uint32_t value, const struct timespec *until)
{
    return syscall(SYS_futex, word, operation, value, until, NULL, 0);
}

static void tell(_Atomic uint32_t *word)
{
    atomic_fetch_add(word, 1);
    futex(word, FUTEX_WAKE, INT_MAX, NULL);
}

/* ---- slots ------------------------------------------------------------------- */

static void clear_locked(struct page *p, struct slot *s)
{
    p->charged -= s->charged;
    s->charged = s->wanted = 0;
}

/* Takes the slot's mutex if nobody alive has it. */
static bool seize(struct slot *s)
{
    int e = pthread_mutex_trylock(&s->alive);
    if (e == EOWNERDEAD)
        pthread_mutex_consistent(&s->alive);
    return e == 0 || e == EOWNERDEAD;
}

/* Gives back what the dead have, and counts the living. */
static void reap_locked(struct page *p)
{
    p->members = 0;
    for (unsigned i = 0; i < p->top; i++) {
        struct slot *s = &p->slot[i];
        if (!seize(s)) {
            p->members++;
            continue;
        }
        clear_locked(p, s);
        pthread_mutex_unlock(&s->alive);
    }
}

static struct slot *slot_take_locked(struct page *p)
{
    reap_locked(p);
    for (unsigned i = 0; i < SLOTS; i++)
        if (seize(&p->slot[i])) {
            p->top = i < p->top ? p->top : i + 1;
            p->members++;
            return &p->slot[i];
        }
    return NULL;
}

static uint64_t share_locked(const struct page *p)
{
    uint64_t share = p->limit / (p->members ? p->members : 1);
    return share > LEAST ? share : LEAST;
}

/* ---- the file ---------------------------------------------------------------- */

static int system_failed(const char *path, const char *what)
{
    int e = errno, r = e == EACCES || e == EPERM ? -TERRACE_EPERM : e == ENOENT ? -TERRACE_ENOENT : -TERRACE_ESYSTEM;
    return error_set(r, "TERRACE_SHARED=%s: %s: %s; name a file that this user can make, as in /dev/shm", path, what,
                     strerror(e));
}

static void page_init(struct page *p, uint64_t limit)
{
    memcpy(p->magic, MAGIC, sizeof MAGIC);
    p->bytes = sizeof *p;
    p->limit = limit;
    robust_init(&p->lock);
    for (unsigned i = 0; i < SLOTS; i++)
        robust_init(&p->slot[i].alive);
}

static struct page *page_map(int fd)
{
    void *p = mmap(NULL, sizeof(struct page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return NULL;
    madvise(p, sizeof(struct page), MADV_DONTFORK); /* a child has an account of its own */
    return p;
}

/* A file that has all in it when it gets its name; one that others make at the same time
 * is as good. */
static int file_make(const char *path, uint64_t limit)
{
    char temporary[PATH_MAX];
    if (snprintf(temporary, sizeof temporary, "%s.XXXXXX", path) >= (int)sizeof temporary)
        return error_set(-TERRACE_ECONFIG, "TERRACE_SHARED: the path is too long");
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0)
        return system_failed(path, "it cannot be made");
    int r = ftruncate(fd, sizeof(struct page)) ? system_failed(path, "it cannot be made") : 0;
    struct page *p = r ? NULL : page_map(fd);
    if (p) {
        page_init(p, limit);
        munmap(p, sizeof *p);
        if (link(temporary, path) && errno != EEXIST)
            r = system_failed(path, "it cannot be made");
    } else if (!r) {
        r = system_failed(path, "it cannot be mapped");
    }
    unlink(temporary);
    close(fd);
    return r;
}

static int file_check(int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st))
        return system_failed(path, "it cannot be looked at");
    if (S_ISREG(st.st_mode) && st.st_uid != geteuid())
        return error_set(-TERRACE_EPERM, "TERRACE_SHARED=%s: it is somebody else's file; name another", path);
    if (!S_ISREG(st.st_mode) || st.st_size != sizeof(struct page))
        return error_set(-TERRACE_ECONFIG, "TERRACE_SHARED=%s: it is no account of this version; name a file that is "
                         "not there yet", path);
    return 0;
}

/* Errors: ENOENT where there is none. */
static int file_open(const char *path, struct page **out)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return system_failed(path, "it cannot be opened");
    int r = file_check(fd, path);
    struct page *p = r ? NULL : page_map(fd);
    if (!r && !p)
        r = system_failed(path, "it cannot be mapped");
    close(fd);
    if (r)
        return r;
    if (memcmp(p->magic, MAGIC, sizeof MAGIC) == 0 && p->bytes == sizeof *p) {
        *out = p;
        return 0;
    }
    munmap(p, sizeof *p);
    return error_set(-TERRACE_ECONFIG, "TERRACE_SHARED=%s: it is no account of this version; name a file that is not "
                     "there yet", path);
}

/* With the lock held, of a file that has its name. */
static int file_lock(const char *path, const uint64_t *limit, struct page **out)
{
    for (;;) {
        struct page *p = NULL;
        int r = file_open(path, &p);
        if (r == -TERRACE_ENOENT && limit) {
            r = file_make(path, *limit);
            if (r == 0)
                continue;
        }
        if (r)
            return r;
        lock(p);
        if (!p->gone) {
            *out = p;
            return 0;
        }
        unlock(p);
        munmap(p, sizeof *p);
    }
}

static void remove_locked(struct page *p, const char *path)
{
    p->gone = 1;
    unlink(path);
}

/* ---- joining and leaving ------------------------------------------------------- */

int account_join(const char *path, uint64_t limit, struct account **out)
{
    struct account *a = calloc(1, sizeof *a);
    if (!a)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    snprintf(a->path, sizeof a->path, "%s", path);
    int r = *path == '/' ? file_lock(a->path, &limit, &a->page)
                         : error_set(-TERRACE_ECONFIG, "TERRACE_SHARED=%s is not accepted; accepted is an absolute "
                                     "path, as processes may be anywhere", path);
    if (r) {
        free(a);
        return r;
    }
    a->mine = slot_take_locked(a->page);
    unlock(a->page);
    if (a->mine) {
        *out = a;
        return 0;
    }
    munmap(a->page, sizeof *a->page);
    free(a);
    return error_set(-TERRACE_EBUDGET, "TERRACE_SHARED=%s: %d processes share it already", path, SLOTS);
}

void account_leave(struct account *a)
{
    struct page *p = a->page;
    lock(p);
    clear_locked(p, a->mine);
    pthread_mutex_unlock(&a->mine->alive);
    reap_locked(p);
    if (!p->members)
        remove_locked(p, a->path);
    unlock(p);
    tell(&p->gifts);
    munmap(p, sizeof *p);
    free(a);
}

void account_end(struct account *a)
{
    struct page *p = a->page;
    lock(p);
    reap_locked(p);
    if (p->members <= 1)
        remove_locked(p, a->path);
    unlock(p);
}

void account_sweep(const char *path)
{
    struct page *p;
    if (file_lock(path, NULL, &p))
        return;
    reap_locked(p);
    if (!p->members)
        remove_locked(p, path);
    unlock(p);
    munmap(p, sizeof *p);
}

uint64_t account_limit(const struct account *a)
{
    return a->page->limit;
}

const char *account_path(const struct account *a)
{
    return a->path;
}

/* ---- charging ------------------------------------------------------------------ */

static bool fits_locked(const struct page *p, uint64_t bytes)
{
    return bytes <= p->limit && p->charged <= p->limit - bytes;
}

static void charge_locked(struct account *a, uint64_t bytes)
{
    a->page->charged += bytes;
    a->mine->charged += bytes;
    a->mine->wanted = 0;
}

/* Where it does not fit: whether it would with what the dead have had. */
static bool try_locked(struct account *a, uint64_t bytes)
{
    struct page *p = a->page;
    if (!fits_locked(p, bytes))
        reap_locked(p);
    bool fits = fits_locked(p, bytes);
    if (fits)
        charge_locked(a, bytes);
    return fits;
}

bool account_try(struct account *a, uint64_t bytes)
{
    lock(a->page);
    bool done = try_locked(a, bytes);
    unlock(a->page);
    return done;
}

/* Until something is given, or the time is over. False: it is. */
static bool wait_for_gift(struct page *p, uint32_t seen, const struct timespec *until)
{
    struct timespec now, rest;
    clock_gettime(CLOCK_MONOTONIC, &now);
    int64_t ns = (until->tv_sec - now.tv_sec) * INT64_C(1000000000) + until->tv_nsec - now.tv_nsec;
    if (ns <= 0)
        return false;
    rest = (struct timespec){ns / 1000000000, ns % 1000000000};
    futex(&p->gifts, FUTEX_WAIT, seen, &rest);
    return true;
}

bool account_take(struct account *a, uint64_t bytes)
{
    struct page *p = a->page;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += WAIT_MS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    for (bool patient = true;;) {
        lock(p);
        bool done = try_locked(a, bytes), entitled = a->mine->charged + bytes <= share_locked(p);
        if (!done && !patient && a->mine->charged + bytes <= LEAST) {
            charge_locked(a, bytes);
            done = true;
        }
        bool asks = !done && entitled && patient;
        a->mine->wanted = asks ? bytes : 0;
        uint32_t seen = atomic_load(&p->gifts);
        unlock(p);
        if (!asks)
            return done;
        tell(&p->asks);
        patient = wait_for_gift(p, seen, &until);
    }
}

void account_give(struct account *a, uint64_t bytes)
{
    lock(a->page);
    a->page->charged -= bytes;
    a->mine->charged -= bytes;
    unlock(a->page);
    tell(&a->page->gifts);
}

uint64_t account_free(struct account *a)
{
    struct page *p = a->page;
    lock(p);
    uint64_t left = p->charged < p->limit ? p->limit - p->charged : 0;
    unlock(p);
    return left;
}

uint64_t account_held(const struct account *a)
{
    lock(a->page);
    uint64_t held = a->mine->charged;
    unlock(a->page);
    return held;
}

unsigned account_members(struct account *a)
{
    lock(a->page);
    reap_locked(a->page);
    unsigned n = a->page->members;
    unlock(a->page);
    return n;
}

/* ---- being asked ----------------------------------------------------------------- */

uint32_t account_wait(struct account *a, uint32_t seen)
{
    if (atomic_load(&a->page->asks) == seen)
        futex(&a->page->asks, FUTEX_WAIT, seen, NULL);
    return atomic_load(&a->page->asks);
}

void account_wake(struct account *a)
{
    tell(&a->page->asks);
}

uint64_t account_asked(struct account *a)
{
    struct page *p = a->page;
    uint64_t wanted = 0;
    lock(p);
    for (unsigned i = 0; i < p->top; i++)
        wanted += &p->slot[i] == a->mine ? 0 : p->slot[i].wanted;
    uint64_t left = p->charged < p->limit ? p->limit - p->charged : 0, share = share_locked(p);
    uint64_t more = a->mine->charged > share ? a->mine->charged - share : 0, batch = p->limit / 32;
    uint64_t give = wanted > left ? wanted - left : 0;
    unlock(p);
    if (give && give < batch)
        give = batch; /* who asks will soon ask again */
    return give < more ? give : more;
}
