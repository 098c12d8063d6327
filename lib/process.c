/* process.c - one manager for a whole process: that of libterrace-preload.so.
 *
 * Where that library is in a process, its memory and that of a program which uses
 * terrace itself are to share one budget, whoever comes first. So terrace_open()
 * gives the process's manager to who has no settings of its own, and it is closed
 * by its last user. The preloaded library never closes it: its memory is in use
 * until the process ends.
 *
 * May call: core.h, forked.h, options.h, region.h, report.h, stable.h, trace.h. */
#include "process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core.h"
#include "forked.h"
#include "options.h"
#include "region.h"
#include "report.h"
#include "stable.h"
#include "trace.h"

static const size_t LEAST_THRESHOLD = 64 << 10, THRESHOLD = 1 << 20;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* taken before any manager's */
static struct terrace *manager; /* the process's, or NULL */
static unsigned users;          /* of it */
static bool begun, initialised;
static _Thread_local bool opening;

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

int process_join(const char *conf, terrace **out)
{
    if (!begun || !says_nothing(conf))
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
    pthread_mutex_unlock(&lock);
    return left;
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

int terrace_process_open(terrace **out)
{
    struct terrace *m;
    if (!initialised)
        return -TERRACE_EAGAIN;
    pthread_mutex_lock(&lock);
    int r = join_locked(&m);
    pthread_mutex_unlock(&lock);
    if (r)
        return r;
    r = serves(m);
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
}
