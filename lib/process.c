/* process.c - one manager for a whole process: that of libterrace-preload.so, or of torch
 *
 * Where that library is in a process, its memory and that of a program which uses
 * terrace itself are to share one budget, whoever comes first. So terrace_open()
 * gives the process's manager to who has no settings of its own, and it is closed
 * by its last user. The preloaded library never closes it: its memory is in use
 * until the process ends. The same goes for PyTorch's door (torch/), which also takes
 * the manager that a program has opened before it, where its settings are the
 * environment's.
 *
 * May call: core.h, forked.h, options.h, region.h, report.h, share.h, stable.h,
 * trace.h. */
#include "process.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "forked.h"
#include "options.h"
#include "region.h"
#include "report.h"
#include "share.h"
#include "stable.h"
#include "trace.h"

enum { LOW = 256 };
static const size_t LEAST_THRESHOLD = 64 << 10, THRESHOLD = 1 << 20;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* taken before any manager's */
static struct terrace *manager; /* the process's, or NULL */
static unsigned users;          /* of it */
static bool begun, initialised;
static atomic_bool shared; /* there is to be one without the preloaded library, too */
static _Thread_local bool opening, hosts;

/* After the constructors of the libraries that this one needs. */
__attribute__((constructor)) static void when_initialised(void)
{
    initialised = true;
}

static void after_fork_in_child(void)
{
    pthread_mutex_init(&lock, NULL);
    manager = NULL;
    users = 0;
}

void terrace_process_begin(void)
{
    begun = true;
    forks_begin();
    pthread_atfork(NULL, NULL, after_fork_in_child);
}

static void begin_sharing(void)
{
    if (!begun)
        pthread_atfork(NULL, NULL, after_fork_in_child);
}

size_t terrace_process_threshold(void)
{
    uint64_t bytes;
    const char *text = getenv("TERRACE_MIN_SIZE");
    return text && options_parse_size(text, &bytes) && bytes >= LEAST_THRESHOLD ? bytes : THRESHOLD;
}

/* ---- settings ------------------------------------------------------------ */

static bool same_text(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

static bool same_settings(const struct options *a, const struct options *b)
{
    bool same = a->limits == b->limits;
    for (int id = 0; id < OPT_COUNT; id++)
        same &= same_text(a->value[id].text, b->value[id].text);
    for (unsigned i = 0; same && i < a->limits; i++)
        same = strcmp(a->limit[i].name, b->limit[i].name) == 0 && a->limit[i].bytes == b->limit[i].bytes &&
               a->limit[i].percent == b->limit[i].percent;
    return same;
}

/* Whether the string changes nothing of what the environment says. */
static bool says_nothing(const char *conf)
{
    struct options with, without;
    if (!conf)
        return true;
    if (options_parse(&with, conf))
        return false;
    bool same = false;
    if (options_parse(&without, NULL) == 0) {
        same = same_settings(&with, &without);
        options_free(&without);
    }
    options_free(&with);
    return same;
}

/* ---- the manager --------------------------------------------------------- */

/* One more user. */
static int join_locked(terrace **out)
{
    if (manager && !*manager->alive) { /* the parent's: this is a child by the bare system call */
        manager = NULL;
        users = 0;
    }
    opening = true;
    int r = manager ? 0 : manager_open(&manager, NULL);
    opening = false;
    if (r)
        return r;
    users++;
    *out = manager;
    return 0;
}

bool process_is_opening(void)
{
    return opening;
}

bool process_opens_hosts(void)
{
    return opening && hosts;
}

int process_join(const char *conf, terrace **out)
{
    if (!(begun || atomic_load(&shared)) || !says_nothing(conf))
        return 1;
    pthread_mutex_lock(&lock);
    int r = join_locked(out);
    pthread_mutex_unlock(&lock);
    return r;
}

bool process_leave(terrace *m)
{
    pthread_mutex_lock(&lock);
    bool left = m == manager && --users;
    if (m == manager && !left)
        manager = NULL;
    m->closing = !left;
    pthread_mutex_unlock(&lock);
    return left;
}

static const struct options *sought;

/* The program's own, which is one user more of it. */
static void adopt(struct terrace *m)
{
    if (manager || !*m->alive || m->closing || !same_settings(&m->options, sought))
        return;
    manager = m;
    users = 1;
}

int process_share(terrace **out)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct options environment;
    int r = options_parse(&environment, NULL);
    if (r)
        return r;
    pthread_once(&once, begin_sharing);
    pthread_mutex_lock(&lock);
    atomic_store(&shared, true);
    sought = &environment;
    if (!manager)
        forks_each(adopt);
    r = join_locked(out);
    pthread_mutex_unlock(&lock);
    options_free(&environment);
    return r;
}

/* Has the manager find out what serves stable memory. */
static int serves(struct terrace *m)
{
    terrace_tier host;
    if (m->options.value[OPT_MIN_SIZE].number < LEAST_THRESHOLD)
        return error_set(-TERRACE_ECONFIG, "TERRACE_MIN_SIZE=%s is not accepted; accepted is a size of 64K or more",
                         m->options.value[OPT_MIN_SIZE].text);
    int r = terrace_tier_find(m, "host", &host);
    void *p = r ? NULL : terrace_malloc(m, LEAST_THRESHOLD, host, NULL);
    if (!p)
        return r ? r : -TERRACE_ENOTSUP;
    terrace_free(m, p);
    if (!m->stable)
        return error_set(-TERRACE_ENOTSUP, "memory of a program that knows nothing of terrace is tiered by "
                         "userfaultfd only: %s", m->stable_engine);
    if (!m->stable->uffd.kernel_faults)
        return error_set(-TERRACE_ENOTSUP, "userfaultfd is allowed for user-mode faults only, and system calls on "
                         "pages that are not in memory would fail: allow /dev/userfaultfd to this user, or set "
                         "vm.unprivileged_userfaultfd=1");
    return 0;
}

/* ---- descriptors ----------------------------------------------------------- */

/* The low ones are the program's, which may have closed its standard input, or put
 * files at numbers of its choice: while a manager opens its own files, all that are
 * free there are taken by another. */
struct taken {
    fd_set by;
    int below;
    ino_t file;
};

static void low_take(struct taken *t)
{
    struct rlimit most;
    struct stat st;
    FD_ZERO(&t->by);
    t->below = getrlimit(RLIMIT_NOFILE, &most) || most.rlim_cur >= 2 * LOW ? LOW : 3;
    int one = memfd_create("terrace", MFD_CLOEXEC), fd = one;
    t->file = one >= 0 && fstat(one, &st) == 0 ? st.st_ino : 0;
    while (fd >= 0 && fd < t->below) {
        FD_SET(fd, &t->by);
        fd = fcntl(one, F_DUPFD_CLOEXEC, fd + 1);
    }
    if (fd >= 0)
        close(fd);
}

/* But for numbers where another thread has meanwhile put something. */
static void low_give(const struct taken *t)
{
    struct stat st;
    for (int fd = 0; fd < t->below; fd++)
        if (FD_ISSET(fd, &t->by) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_ino == t->file)
            close(fd);
}

int terrace_process_open(terrace **out)
{
    struct terrace *m;
    struct taken low;
    if (!initialised)
        return -TERRACE_EAGAIN;
    low_take(&low);
    pthread_mutex_lock(&lock);
    hosts = true;
    int r = join_locked(&m), joined = r == 0;
    hosts = false;
    pthread_mutex_unlock(&lock);
    if (joined)
        r = serves(m);
    low_give(&low);
    if (!joined)
        return r;
    if (r == 0) {
        *out = m;
        return 0;
    }
    char why[ERROR_TEXT];
    snprintf(why, sizeof why, "%s", terrace_last_error());
    terrace_close(m);
    return error_set(r, "%s", why);
}

void terrace_process_discard(terrace *m, void *p, size_t bytes)
{
    stable_discard(m, p, bytes);
}

pid_t terrace_process_fork(pid_t (*fork_now)(void))
{
    return forks_try(fork_now);
}

/* ---- the end -------------------------------------------------------------- */

void terrace_process_report(void)
{
    pthread_mutex_lock(&lock);
    if (manager && *manager->alive) {
        trace_end(manager);
        report_write(manager);
    }
    pthread_mutex_unlock(&lock);
}

/* The program ends and has not closed the manager. Where a signal handler ended it in
 * the middle of a call, the lock is held for ever. */
static void say_at_exit(struct terrace *m)
{
    struct timespec until;
    if (!*m->alive || (begun && m == manager) || !(m->report || m->trace))
        return;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec++;
    if (pthread_mutex_clocklock(&m->lock, CLOCK_MONOTONIC, &until))
        return;
    pthread_mutex_unlock(&m->lock);
    trace_end(m);
    report_write(m);
}

__attribute__((destructor)) static void when_the_process_ends(void)
{
    forks_each(say_at_exit);
    forks_each(share_end);
}
