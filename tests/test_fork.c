/* test_fork.c - children of a process with managers: in them every call but
 * close is refused, they may have managers of their own, and whatever they do
 * the parent's bytes, also those on their way, stay what they are. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "manager.h"
#include "simdisk.h"

enum { SIZE = 1 * MIB, LIMIT = 4 * MIB, TEXT = 4096 };

static char folder[64];
static char *said; /* by a child that fails */

static void begin(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    said = mmap(NULL, TEXT, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(said, MAP_FAILED);
}

static void end(void)
{
    rmdir(folder);
}

TestSuite(fork, .init = begin, .fini = end, .timeout = 120);

static const char *const engines[] = {"uring", "threads"};
#define EACH_ENGINE(e) (unsigned e = 0; e < sizeof engines / sizeof engines[0]; e++)

static const char *disk_conf(unsigned engine)
{
    static char conf[256];
    snprintf(conf, sizeof conf, "tiers=numa:0,nvme:0;limit_numa=%d;io=%s;nvme_path=%s", LIMIT,
             engines[engine], folder);
    return conf;
}

static terrace *open_disk(unsigned engine)
{
    terrace *m;
    assert_ok(terrace_open(&m, disk_conf(engine)));
    return m;
}

/* ---- children ---------------------------------------------------------------- */

#define child_wants(condition)                                                             \
    do {                                                                                   \
        if (!(condition)) {                                                                \
            snprintf(said, TEXT, "line %d: %s: %s", __LINE__, #condition, terrace_last_error()); \
            return 1;                                                                      \
        }                                                                                  \
    } while (0)

/* A child that hangs ends with its parent. */
static pid_t child(void)
{
    pid_t pid = fork();
    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

static void expect_clean_end(pid_t pid)
{
    int status;
    cr_assert_gt(pid, 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status 0x%x: %s", (unsigned)status, said);
}

static void in_child(int (*run)(void *), void *arg)
{
    pid_t pid = child();
    if (pid == 0)
        _exit(run(arg));
    expect_clean_end(pid);
}

/* What the parent has at the time of the fork. */
struct parent {
    terrace *m;
    terrace_tensor *held, *below;
    void *address; /* where `held` is acquired */
    char *stable;  /* NULL where the system has no stable memory */
    unsigned engine;
};

/* The next sentence is told from the last one by the other error in between. */
static bool other_sentence(void)
{
    return terrace_open(NULL, NULL) == -TERRACE_EINVAL && !strstr(terrace_last_error(), "parent");
}

static bool fork_sentence(void)
{
    return strstr(terrace_last_error(), "parent process") && strstr(terrace_last_error(), "terrace_open");
}

#define child_refused(call)                                                                \
    do {                                                                                   \
        child_wants(other_sentence());                                                     \
        child_wants((call) == -TERRACE_EFORK);                                             \
        child_wants(fork_sentence());                                                      \
    } while (0)

static int every_call(void *arg)
{
    const struct parent *p = arg;
    terrace *m = p->m;
    terrace_tier tier = -5;
    terrace_tensor *t = (terrace_tensor *)&t;
    void *address = &address;
    char name[16] = "untouched";
    terrace_statistics s = {.size = sizeof s, .tensors = 1234};
    terrace_tier_statistics ts = {.size = sizeof ts, .used = 1234};
    terrace_access list = {.size = sizeof list, .tensor = p->below, .mode = TERRACE_READ};

    child_refused(terrace_tier_find(m, "host", &tier));
    child_refused(terrace_tier_name(m, 0, name, sizeof name));
    child_refused(terrace_tensor_create(m, SIZE, NULL, &t));
    child_refused(terrace_tensor_open(m, "/etc/passwd", 0, 1, NULL, &t));
    child_refused(terrace_acquire(p->held, 0, TERRACE_READ, NULL, &address, &tier));
    child_refused(terrace_acquire(p->below, 0, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &address, &tier));
    child_refused(terrace_acquire(p->below, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &address, &tier));
    child_refused(terrace_acquire_all(&list, 1, NULL));
    child_refused(terrace_release(p->held, p->address, NULL));
    child_refused(terrace_prefetch(p->below, 0));
    child_refused(terrace_demote(p->held, 1));
    child_refused(terrace_step(m));
    child_refused(terrace_wait(p->below));
    child_refused(terrace_stats(m, &s));
    child_refused(terrace_tier_stats(m, 0, &ts));
    child_refused(terrace_advise(m, p->stable, 4096, TERRACE_ADVISE_WILLNEED, 0));
    child_refused(terrace_safepoint(m, 0, NULL));
    child_refused((terrace_malloc(m, SIZE, 0, NULL) ? 0 : -TERRACE_EFORK));
    child_refused((terrace_tensor_destroy(p->held), -TERRACE_EFORK));
    if (p->stable)
        child_refused((terrace_free(m, p->stable), -TERRACE_EFORK));

    child_wants(tier == -5 && t == (terrace_tensor *)&t && address == &address);
    child_wants(strcmp(name, "untouched") == 0 && s.tensors == 1234 && ts.used == 1234 && !list.address);
    child_wants(*terrace_strerror(-TERRACE_EFORK) && strcmp(terrace_version(), TERRACE_VERSION) == 0);
    terrace_close(m);
    return 0;
}

static int only_close(void *arg)
{
    terrace_close(((const struct parent *)arg)->m);
    return 0;
}

static int scribble(void *arg)
{
    const struct parent *p = arg;
    memset(p->address, 0xee, SIZE);
    return 0;
}

static struct parent parent_of(terrace *m)
{
    struct parent p = {.m = m, .held = tensor_of(m, SIZE, "held"), .below = tensor_of(m, SIZE, "below")};
    write_pattern(p.below, 0, SIZE, 2);
    push_down(p.below, m);
    assert_ok(terrace_acquire(p.held, 0, TERRACE_OVERWRITE, NULL, &p.address, NULL));
    pattern_fill(p.address, SIZE, 1);
    return p;
}

/* The parent goes on as if nothing had been. */
static void expect_unaffected(struct parent *p)
{
    cr_assert(pattern_is(p->address, SIZE, 1), "a child wrote the parent's memory");
    assert_ok(terrace_release(p->held, p->address, NULL));
    push_down(p->held, p->m);
    expect_pattern(p->below, 0, SIZE, 2);
    expect_pattern(p->held, 0, SIZE, 1);
    cr_assert_eq(stats_of(p->m).tensors, 2);
    cr_assert_eq(stats_of(p->m).io_errors, 0);
    cr_assert_eq(stats_of(p->m).steps, 0);
    terrace_close(p->m);
}

/* ---- what is refused --------------------------------------------------------- */

Test(fork, in_a_child_every_call_but_close_is_refused)
{
    struct parent p = parent_of(open_sim(LIMIT, NULL));
    in_child(every_call, &p);
    expect_unaffected(&p);
}

Test(fork, on_a_real_disk_too)
{
    for EACH_ENGINE (e) {
        struct parent p = parent_of(open_disk(e));
        in_child(every_call, &p);
        in_child(only_close, &p);
        in_child(scribble, &p);
        expect_unaffected(&p);
    }
}

Test(fork, with_stable_memory)
{
    struct parent p = parent_of(open_sim(16 * MIB, NULL));
    p.stable = terrace_malloc(p.m, 4 * MIB, 0, NULL);
    if (!p.stable)
        cr_skip_test("%s", terrace_last_error());
    pattern_fill(p.stable, 4 * MIB, 3);
    in_child(every_call, &p);
    in_child(only_close, &p);
    cr_assert(pattern_is(p.stable, 4 * MIB, 3));
    terrace_free(p.m, p.stable);
    expect_unaffected(&p);
}

/* No fork handler runs in such a child. */
Test(fork, a_child_of_the_bare_system_call_is_refused)
{
    struct parent p = parent_of(open_sim(LIMIT, NULL));
    pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (pid == 0)
        _exit(terrace_step(p.m) == -TERRACE_EFORK ? 0 : 1);
    expect_clean_end(pid);
    expect_unaffected(&p);
}

static int grandchild(void *arg)
{
    pid_t pid = child();
    int status = 0;
    if (pid == 0)
        _exit(every_call(arg));
    child_wants(waitpid(pid, &status, 0) == pid && status == 0);
    return 0;
}

Test(fork, a_grandchild_is_refused)
{
    struct parent p = parent_of(open_sim(LIMIT, NULL));
    in_child(grandchild, &p);
    expect_unaffected(&p);
}

/* ---- while bytes are on their way -------------------------------------------- */

Test(fork, with_a_transfer_in_flight)
{
    struct parent p = parent_of(open_sim(LIMIT, NULL));
    void *address;
    simdisk_hold();
    assert_fails(terrace_acquire(p.below, 0, TERRACE_READ | TERRACE_NOWAIT, NULL, &address, NULL),
                 TERRACE_EAGAIN);
    cr_assert(simdisk_await_queued(1));
    in_child(every_call, &p);
    in_child(only_close, &p);
    simdisk_let_go();
    assert_ok(terrace_wait(p.below));
    expect_unaffected(&p);
}

enum { WORKERS = 2, EACH = 6, PART = 700 * KIB, FORKS = 150 };

struct worker {
    terrace *m;
    terrace_tensor *t[EACH];
    uint64_t seed[EACH], next;
    atomic_bool *stop;
    char wrong[512];
};

static void worker_turn(struct worker *w, unsigned i)
{
    bool write = w->next % 3 == 0;
    void *p;
    int r = terrace_acquire(w->t[i], 0, (write ? TERRACE_WRITE : TERRACE_READ) | TERRACE_WAIT, NULL, &p, NULL);
    if (r) {
        snprintf(w->wrong, sizeof w->wrong, "%s", terrace_last_error());
        return;
    }
    if (!pattern_is(p, PART, w->seed[i]))
        snprintf(w->wrong, sizeof w->wrong, "a tensor has other bytes after %llu turns",
                 (unsigned long long)w->next);
    if (write)
        pattern_fill(p, PART, w->seed[i] = w->next);
    if (terrace_release(w->t[i], p, NULL))
        snprintf(w->wrong, sizeof w->wrong, "%s", terrace_last_error());
}

/* At least some rounds, so that bytes do move. */
static void *worker_run(void *arg)
{
    struct worker *w = arg;
    for (unsigned n = 0; !*w->wrong && (n < 20 * EACH || !atomic_load(w->stop)); n++) {
        w->next++;
        worker_turn(w, n % EACH);
    }
    return NULL;
}

static void worker_init(struct worker *w, terrace *m, uint64_t seed, atomic_bool *stop)
{
    *w = (struct worker){.m = m, .next = seed << 40, .stop = stop};
    for (unsigned i = 0; i < EACH; i++) {
        w->t[i] = tensor_of(m, PART, "t");
        write_pattern(w->t[i], 0, PART, w->seed[i] = (seed << 40) + i);
    }
}

static int refused_and_closed(void *arg)
{
    struct worker *w = arg;
    void *p;
    child_refused(terrace_acquire(w->t[0], 0, TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL));
    child_refused(terrace_wait(w->t[1]));
    child_refused(terrace_step(w->m));
    terrace_close(w->m);
    return 0;
}

Test(fork, many_times_while_bytes_move)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e);
        atomic_bool stop = false;
        struct worker w[WORKERS];
        pthread_t thread[WORKERS];
        for (unsigned i = 0; i < WORKERS; i++)
            worker_init(&w[i], m, i + 1, &stop);
        for (unsigned i = 0; i < WORKERS; i++)
            cr_assert_eq(pthread_create(&thread[i], NULL, worker_run, &w[i]), 0);
        for (int n = 0; n < FORKS; n++)
            in_child(refused_and_closed, &w[n % WORKERS]);
        atomic_store(&stop, true);
        for (unsigned i = 0; i < WORKERS; i++) {
            pthread_join(thread[i], NULL);
            cr_assert_str_eq(w[i].wrong, "");
            for (unsigned k = 0; k < EACH; k++)
                expect_pattern(w[i].t[k], 0, PART, w[i].seed[k]);
        }
        cr_assert(stats_of(m).fill_bytes > 0 && stats_of(m).writeback_bytes > 0);
        cr_assert_eq(stats_of(m).io_errors, 0);
        cr_assert_leq(tier_stats_of(m, 0).peak, LIMIT);
        terrace_close(m);
    }
}

/* ---- a child's own manager --------------------------------------------------- */

/* Spills three times its budget and reads it back. */
static int spill_and_read(terrace *m, uint64_t seed)
{
    enum { N = 12 };
    terrace_tensor *t[N];
    void *p;
    for (uint64_t i = 0; i < N; i++) {
        child_wants(terrace_tensor_create(m, SIZE, NULL, &t[i]) == 0);
        child_wants(terrace_acquire(t[i], 0, TERRACE_OVERWRITE, NULL, &p, NULL) == 0);
        pattern_fill(p, SIZE, seed + i);
        child_wants(terrace_release(t[i], p, NULL) == 0);
    }
    for (uint64_t i = 0; i < N; i++) {
        child_wants(terrace_acquire(t[i], 0, TERRACE_READ, NULL, &p, NULL) == 0);
        child_wants(pattern_is(p, SIZE, seed + i));
        child_wants(terrace_release(t[i], p, NULL) == 0);
        terrace_tensor_destroy(t[i]);
    }
    return 0;
}

static int own_manager(void *arg)
{
    const struct parent *p = arg;
    terrace *own;
    child_wants(terrace_open(&own, disk_conf(p->engine)) == 0);
    child_wants(spill_and_read(own, 100) == 0);
    child_refused(terrace_step(p->m));
    terrace_close(p->m);
    child_wants(spill_and_read(own, 200) == 0);
    terrace_close(own);
    return 0;
}

Test(fork, a_child_may_open_its_own_manager)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("this sanitizer has no threads in children of a process with threads");
#endif
    enum { CHILDREN = 3 };
    for EACH_ENGINE (e) {
        struct parent p = parent_of(open_disk(e));
        pid_t pid[CHILDREN];
        p.engine = e;
        for (int i = 0; i < CHILDREN; i++)
            if ((pid[i] = child()) == 0)
                _exit(own_manager(&p));
        cr_assert_eq(spill_and_read(p.m, 300), 0, "%s", said); /* meanwhile */
        for (int i = 0; i < CHILDREN; i++)
            expect_clean_end(pid[i]);
        expect_unaffected(&p);
    }
}

/* ---- how a child ends -------------------------------------------------------- */

Test(fork, a_child_ends_by_exit)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("this sanitizer looks for leaks at exit, by threads that a child has not");
#endif
    for EACH_ENGINE (e)
        for (int closes = 0; closes < 2; closes++) {
            struct parent p = parent_of(open_disk(e));
            fflush(NULL);
            pid_t pid = child();
            if (pid == 0) {
                if (closes)
                    terrace_close(p.m);
                exit(0);
            }
            expect_clean_end(pid);
            expect_unaffected(&p);
        }
}

Test(fork, a_killed_child_takes_nothing_along)
{
    for EACH_ENGINE (e) {
        struct parent p = parent_of(open_disk(e));
        int status;
        pid_t pid = child();
        if (pid == 0) {
            raise(SIGKILL);
            _exit(0);
        }
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        expect_unaffected(&p);
    }
}
