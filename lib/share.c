/* share.c - a manager's part in host memory that processes share: it gives when asked
 *
 * What its host tiers commit is charged to the account (account.c), by their arenas. When
 * that is full, a commit fails as if the machine had no more memory, and something of
 * this process leaves instead (room.c). This thread hears when another process asks that
 * has less than its share: first what is free goes back, then something is evicted for
 * it, by an allocation that nobody uses. For a second after that this process does not
 * ask for more itself.
 *
 * May call: share.h, account.h, core.h, process.h, terrace.h. */
#include "share.h"

#include <dirent.h>
#include <limits.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "account.h"
#include "process.h"

static const char FOLDER[] = "/dev/shm", PREFIX[] = "terrace-shared-";
static const uint64_t PIECE = 16 << 20, REST_NS = 1000000000;

struct share {
    struct terrace *manager;
    struct account *account;
    pthread_t thread;
    sem_t joined, resting, leave;
    atomic_bool stop, stopped;
    uint64_t limit;
    int result;
    char why[ERROR_TEXT];
};

static bool is_host(const struct tier *tier)
{
    return tier->backend->tier_class == TERRACE_CLASS_HOST;
}

/* ---- giving ---------------------------------------------------------------- */

/* Has the tier evict what it has above `most` bytes. Gives up the lock. */
static void evict_locked(struct tier *tier, uint64_t most)
{
    struct terrace *m = tier->manager;
    struct arena *a = &tier->arena;
    uint64_t excess = a->committed - most, piece = excess < PIECE ? excess : PIECE;
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "memory for other processes"};
    terrace_tensor *t;
    void *p;
    if (most + piece > a->ceiling)
        return;
    a->ceiling = most + piece;
    tier->full_until = clock_ns() + REST_NS;
    manager_unlock(m);
    if (terrace_tensor_create(m, piece, &attr, &t) == 0) {
        if (terrace_acquire(t, (terrace_tier)(tier - m->tier), TERRACE_OVERWRITE, NULL, &p, NULL) == 0)
            terrace_release(t, p, NULL);
        terrace_tensor_destroy(t);
    }
    manager_lock(m);
    tier_purge_locked(tier);
}

/* Returns how much it was. */
static uint64_t give(struct tier *tier, uint64_t bytes)
{
    struct arena *a = &tier->arena;
    manager_lock(tier->manager);
    uint64_t before = a->committed, most = before > bytes ? before - bytes : 0;
    tier_purge_locked(tier);
    if (a->committed > most)
        evict_locked(tier, most);
    uint64_t after = a->committed;
    manager_unlock(tier->manager);
    return before > after ? before - after : 0;
}

static void give_all(struct share *s)
{
    struct terrace *m = s->manager;
    uint64_t asked = account_asked(s->account);
    for (unsigned i = 0; i < m->tiers && asked && !s->stop; i++) {
        uint64_t given = is_host(&m->tier[i]) ? give(&m->tier[i], asked) : 0;
        asked -= given < asked ? given : asked;
    }
}

/* The account takes this process to be there for as long as the thread is. */
static void *serve(void *arg)
{
    struct share *s = arg;
    uint32_t seen = 0;
    s->result = account_join(options_text(&s->manager->options, "SHARED"), s->limit, &s->account);
    if (s->result)
        snprintf(s->why, sizeof s->why, "%s", terrace_last_error());
    bool joined = s->result == 0;
    sem_post(&s->joined);
    if (!joined)
        return NULL;
    while (!s->stop) {
        give_all(s);
        seen = account_wait(s->account, seen);
    }
    sem_post(&s->resting);
    sem_wait(&s->leave);
    account_leave(s->account);
    return NULL;
}

/* ---- opening and closing ----------------------------------------------------- */

static void share_free(struct share *s)
{
    sem_destroy(&s->joined);
    sem_destroy(&s->resting);
    sem_destroy(&s->leave);
    free(s);
}

static int start(struct share *s)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int e = pthread_create(&s->thread, NULL, serve, s);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (e)
        return error_set(-TERRACE_ESYSTEM, "no thread for TERRACE_SHARED: %s", strerror(e));
    while (sem_wait(&s->joined))
        ;
    if (s->result == 0)
        return 0;
    pthread_join(s->thread, NULL);
    return error_set(s->result, "%s", s->why);
}

/* Tells people where the budget comes from. */
static void describe(struct tier *tier, const struct account *a)
{
    char reason[sizeof tier->limit_reason];
    struct arena *arena = &tier->arena;
    snprintf(reason, sizeof reason, "%s", tier->limit_reason);
    snprintf(tier->limit_reason, sizeof tier->limit_reason, "shared by the processes of %.80s; %.200s", account_path(a),
             reason);
    if (arena->limit > account_limit(a))
        arena->limit = arena->ceiling = account_limit(a) / tier->info.page * tier->info.page;
    tier->full_said = true; /* that others use it is as it should be */
}

int share_open(struct terrace *m)
{
    const char *path = options_text(&m->options, "SHARED");
    if (!path || !*path)
        return 0;
    struct share *s = calloc(1, sizeof *s);
    if (!s)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    s->manager = m;
    sem_init(&s->joined, 0, 0);
    sem_init(&s->resting, 0, 0);
    sem_init(&s->leave, 0, 0);
    for (unsigned i = 0; i < m->tiers; i++)
        s->limit += is_host(&m->tier[i]) ? m->tier[i].arena.limit : 0;
    int r = start(s);
    if (r) {
        share_free(s);
        return r;
    }
    for (unsigned i = 0; i < m->tiers; i++)
        if (is_host(&m->tier[i])) {
            describe(&m->tier[i], s->account);
            m->tier[i].arena.account = s->account;
        }
    m->share = s;
    return 0;
}

void share_stop(struct terrace *m)
{
    struct share *s = m->share;
    if (!s || s->stopped)
        return;
    s->stop = s->stopped = true;
    account_wake(s->account);
    while (sem_wait(&s->resting))
        ;
}

void share_close(struct terrace *m)
{
    struct share *s = m->share;
    if (!s)
        return;
    share_stop(m);
    sem_post(&s->leave);
    pthread_join(s->thread, NULL);
    m->share = NULL;
    share_free(s);
}

void share_end(struct terrace *m)
{
    if (*m->alive && m->share)
        account_end(m->share->account);
}

/* ---- names --------------------------------------------------------------------- */

void terrace_process_name_shared(char *buf, size_t len)
{
    char path[PATH_MAX];
    const struct dirent *e;
    DIR *folder = opendir(FOLDER);
    while (folder && (e = readdir(folder)) != NULL) {
        snprintf(path, sizeof path, "%s/%s", FOLDER, e->d_name);
        if (strncmp(e->d_name, PREFIX, sizeof PREFIX - 1) == 0)
            account_sweep(path);
    }
    if (folder)
        closedir(folder);
    snprintf(buf, len, "%s/%s%ld-%llx", FOLDER, PREFIX, (long)getpid(), (unsigned long long)clock_ns());
}
