/* test_lease.c - tensors acquired and released without the lock: that they are,
 * and that nothing else can tell. The disk and the second node are simulated.
 *
 * A list of one is acquired with the lock, always: what it does is the standard. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>

#include "lease.h"
#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOWER = 8 };
#else
enum { SLOWER = 1 };
#endif

enum { SIZE = 64 * KIB, NEAR = 0, FAR = 1 };

/* Bytes that nobody checks may change while they are written down: what
 * reaches the disk is then discarded. Only reading them for that is excused. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^simdisk_store$\n";
}

static bool is_open(terrace_tensor *t)
{
    return lease_is_open(t);
}

/* A tensor with a pattern, which is open. */
static terrace_tensor *open_tensor(terrace *m, const char *label, uint64_t seed)
{
    terrace_tensor *t = tensor_of(m, SIZE, label);
    write_pattern(t, NEAR, SIZE, seed);
    cr_assert(is_open(t));
    return t;
}

static void *acquired(terrace_tensor *t, unsigned mode)
{
    void *p;
    assert_ok(terrace_acquire(t, NEAR, mode, NULL, &p, NULL));
    return p;
}

/* The same from another thread, which is gone then. */
struct elsewhere {
    terrace_tensor *t, *before; /* used before, or NULL */
    unsigned mode;
    void *p;
    int r;
};

static void *elsewhere_acquire(void *arg)
{
    struct elsewhere *e = arg;
    for (int i = 0; e->before && i < 3; i++) /* it may do without the lock, too */
        if (terrace_acquire(e->before, NEAR, TERRACE_READ, NULL, &e->p, NULL) ||
            terrace_release(e->before, e->p, NULL))
            abort();
    e->r = terrace_acquire(e->t, NEAR, e->mode, NULL, &e->p, NULL);
    return NULL;
}

static void *elsewhere_release(void *arg)
{
    struct elsewhere *e = arg;
    e->r = terrace_release(e->t, e->p, NULL);
    return NULL;
}

static void in_thread(void *(*function)(void *), void *arg)
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, function, arg), 0);
    pthread_join(thread, NULL);
}

/* ---- pins are pins ------------------------------------------------------ */

Test(lease, pins_exclude_on_another_tier, .timeout = 60)
{
    terrace *m = open_with("numa:0,simnode:0,simdisk:0", 8 * MIB, "limit_simnode=8M");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = acquired(t, TERRACE_WRITE), *q;
    cr_assert(is_open(t), "it was acquired without the lock");
    assert_fails(terrace_acquire(t, FAR, TERRACE_READ, NULL, &q, NULL), TERRACE_EBUSY);
    cr_assert(strstr(terrace_last_error(), "for writing"), "%s", terrace_last_error());
    cr_assert_not(is_open(t));
    pattern_fill(p, SIZE, 2);
    assert_ok(terrace_release(t, p, NULL));
    p = acquired(t, TERRACE_READ);
    cr_assert(is_open(t));
    assert_fails(terrace_acquire(t, FAR, TERRACE_WRITE, NULL, &q, NULL), TERRACE_EBUSY);
    cr_assert_null(strstr(terrace_last_error(), "for writing"), "%s", terrace_last_error());
    assert_ok(terrace_acquire(t, FAR, TERRACE_READ, NULL, &q, NULL));
    cr_assert(pattern_is(q, SIZE, 2));
    assert_ok(terrace_release(t, q, NULL));
    assert_ok(terrace_release(t, p, NULL));
    terrace_close(m);
}

Test(lease, pins_hold_room, .timeout = 60)
{
    terrace *m = open_sim(4 * MIB, "");
    terrace_tensor *t = open_tensor(m, "the holder", 1), *large = tensor_of(m, 4 * MIB, "large");
    void *p = acquired(t, TERRACE_READ), *q;
    cr_assert(is_open(t));
    cr_assert_eq(tier_stats_of(m, NEAR).pinned, SIZE);
    cr_assert(is_open(t), "to be counted it need not be closed");
    assert_fails(terrace_acquire(large, NEAR, TERRACE_OVERWRITE, NULL, &q, NULL), TERRACE_EBUDGET);
    cr_assert(strstr(terrace_last_error(), "the holder"), "%s", terrace_last_error());
    cr_assert_not(is_open(t));
    assert_fails(terrace_acquire(large, NEAR, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &q, NULL),
                 TERRACE_EBUDGET); /* its own pins: nobody else could help */
    cr_assert(pattern_is(p, SIZE, 1), "and it has stayed");
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_acquire(large, NEAR, TERRACE_OVERWRITE, NULL, &q, NULL));
    assert_ok(terrace_release(large, q, NULL));
    expect_pattern(t, NEAR, SIZE, 1);
    terrace_close(m);
}

Test(lease, who_waits_for_room_learns_of_the_release, .timeout = 60)
{
    terrace *m = open_sim(4 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = acquired(t, TERRACE_READ);
    cr_assert(is_open(t));
    struct elsewhere e = {.t = tensor_of(m, 4 * MIB, "large"), .mode = TERRACE_OVERWRITE | TERRACE_WAIT,
                          .r = 1};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, elsewhere_acquire, &e), 0);
    eventually(!is_open(t));
    usleep(10000);
    assert_ok(terrace_release(t, p, NULL));
    pthread_join(thread, NULL);
    assert_ok(e.r);
    in_thread(elsewhere_release, &e);
    assert_ok(e.r);
    terrace_close(m);
}

Test(lease, who_waits_for_two_sees_all_releases, .timeout = 60)
{
    enum { N = 40 };
    terrace *m = open_sim(4 * MIB, "");
    terrace_tensor *t[N], *busy = open_tensor(m, "busy", 7);
    void *p[N];
    for (int i = 0; i < N; i++)
        t[i] = open_tensor(m, "t", 1);
    for (int i = 0; i < N; i++)
        p[i] = acquired(t[i], TERRACE_READ);
    struct elsewhere e = {.t = tensor_of(m, 4 * MIB - SIZE, "large"),
                          .mode = TERRACE_OVERWRITE | TERRACE_WAIT, .r = 1};
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, elsewhere_acquire, &e), 0);
    eventually(!is_open(t[0]));
    for (int i = 0; i < 3000; i++) /* many more than copies rest */
        assert_ok(terrace_release(busy, acquired(busy, TERRACE_READ), NULL));
    cr_assert_not(is_open(busy), "while somebody waits for a release, all are noticed");
    for (int i = 0; i < N; i++)
        assert_ok(terrace_release(t[i], p[i], NULL));
    pthread_join(thread, NULL);
    assert_ok(e.r);
    terrace_close(m);
}

Test(lease, another_thread_may_release, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    struct elsewhere e = {.t = t, .before = open_tensor(m, "before", 2), .p = acquired(t, TERRACE_WRITE)};
    in_thread(elsewhere_release, &e);
    assert_ok(e.r);
    cr_assert(is_open(t));
    assert_fails(terrace_release(t, e.p, NULL), TERRACE_EINVAL);
    assert_ok(terrace_release(t, acquired(t, TERRACE_READ), NULL));
    void *p = acquired(t, TERRACE_READ);
    cr_assert(is_open(t));
    e.mode = TERRACE_READ;
    in_thread(elsewhere_acquire, &e);
    assert_ok(e.r);
    cr_assert_not(is_open(t), "two threads have it now");
    cr_assert_eq(p, e.p);
    assert_fails(terrace_release(t, (char *)p + 1, NULL), TERRACE_EINVAL);
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_release(t, p, NULL));
    cr_assert(is_open(t));
    assert_fails(terrace_release(t, p, NULL), TERRACE_EINVAL);
    terrace_close(m);
}

Test(lease, very_many_pins_of_one_thread, .timeout = 60)
{
    enum { PINS = 10000 };
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = NULL;
    for (int i = 0; i < PINS; i++)
        p = acquired(t, i % 2 ? TERRACE_READ : TERRACE_WRITE);
    for (int i = 0; i < PINS; i++)
        assert_ok(terrace_release(t, p, NULL));
    assert_fails(terrace_release(t, p, NULL), TERRACE_EINVAL);
    cr_assert_eq(stats_of(m).acquires, PINS + 1);
    cr_assert_eq(tier_stats_of(m, NEAR).pinned, 0);
    terrace_close(m);
}

Test(lease, destroyed_while_acquired, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = acquired(t, TERRACE_READ), *q;
    cr_assert(is_open(t));
    terrace_tensor_destroy(t);
    cr_assert(pattern_is(p, SIZE, 1));
    cr_assert_eq(stats_of(m).tensors, 1);
    assert_fails(terrace_acquire(t, NEAR, TERRACE_READ, NULL, &q, NULL), TERRACE_EINVAL);
    assert_ok(terrace_release(t, p, NULL));
    cr_assert_eq(stats_of(m).tensors, 0);
    cr_assert_eq(tier_stats_of(m, NEAR).tensors, 0);
    terrace_close(m);
}

Test(lease, demoted_while_acquired, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = acquired(t, TERRACE_WRITE);
    cr_assert(is_open(t));
    assert_ok(terrace_demote(t, disk_of(m)));
    pattern_fill(p, SIZE, 2);
    assert_ok(terrace_release(t, p, NULL));
    assert_ok(terrace_wait(t));
    cr_assert_eq(tier_stats_of(m, NEAR).tensors, 0);
    expect_pattern(t, NEAR, SIZE, 2);
    terrace_close(m);
}

/* ---- what is written is not lost --------------------------------------- */

Test(lease, the_first_write_to_a_clean_copy_is_noticed, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    push_down(t, m);
    expect_pattern(t, NEAR, SIZE, 1);
    cr_assert(is_open(t), "it is there, and clean");
    cr_assert_eq(tier_stats_of(m, NEAR).dirty, 0);
    void *p = acquired(t, TERRACE_WRITE);
    pattern_fill(p, SIZE, 2);
    assert_ok(terrace_release(t, p, NULL));
    cr_assert(is_open(t));
    cr_assert_eq(tier_stats_of(m, NEAR).dirty, SIZE);
    p = acquired(t, TERRACE_WRITE);
    cr_assert(is_open(t), "the second write changes nothing");
    pattern_fill(p, SIZE, 3);
    assert_ok(terrace_release(t, p, NULL));
    push_down(t, m);
    expect_pattern(t, NEAR, SIZE, 3);
    terrace_close(m);
}

Test(lease, blank_and_written, .timeout = 60)
{
    static const char zeros[SIZE];
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    for (int i = 0; i < 3; i++) {
        void *p = acquired(t, TERRACE_READ);
        cr_assert_eq(memcmp(p, zeros, SIZE), 0);
        assert_ok(terrace_release(t, p, NULL));
    }
    write_pattern(t, NEAR, SIZE, 1);
    push_down(t, m);
    expect_pattern(t, NEAR, SIZE, 1);
    terrace_close(m);
}

/* The least recently used leave, though their uses were noted late. */
Test(lease, who_leaves_follows_from_the_order_of_use, .timeout = 60)
{
    enum { N = 32 };
    terrace *m = open_sim(N * SIZE, "policy=lru");
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++)
        t[i] = open_tensor(m, "t", (uint64_t)i);
    for (int i = N; i--;) /* backwards: the last ones are the oldest now */
        expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    terrace_tensor *more = tensor_of(m, N / 2 * SIZE, "more");
    write_pattern(more, NEAR, N / 2 * SIZE, 99);
    uint64_t filled = stats_of(m).fill_bytes;
    for (int i = 0; i < N / 2; i++)
        expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    cr_assert_eq(stats_of(m).fill_bytes, filled, "they were used last, and are there");
    for (int i = N / 2; i < N; i++)
        expect_pattern(t[i], NEAR, SIZE, (uint64_t)i);
    terrace_close(m);
}

/* ---- what is learned --------------------------------------------------- */

enum { USED = 200, STEPS = 6 };

static void use_locked(terrace_tensor *t, unsigned mode)
{
    terrace_access one = {.size = sizeof one, .tensor = t, .tier = NEAR, .mode = mode};
    assert_ok(terrace_acquire_all(&one, 1, NULL));
    assert_ok(terrace_release(t, one.address, NULL));
}

static void use(terrace_tensor *t, unsigned mode)
{
    assert_ok(terrace_release(t, acquired(t, mode), NULL));
}

/* Steps that repeat, with a surprise in one of them. */
static terrace *learn(void (*with)(terrace_tensor *, unsigned), terrace_tensor **t, bool steps)
{
    terrace *m = open_with("numa:0,nvme:0", 32 * MIB, "");
    for (int i = 0; i < USED; i++) {
        t[i] = tensor_of(m, SIZE, "t");
        with(t[i], TERRACE_OVERWRITE);
    }
    for (int s = 0; s < STEPS; s++) {
        for (int i = 0; i < 2 * USED; i++)
            with(t[(i * 7 + i / 50) % USED], i % 3 ? TERRACE_READ : TERRACE_WRITE);
        if (s == 3)
            with(t[11], TERRACE_READ);
        if (steps)
            assert_ok(terrace_step(m));
    }
    for (int i = 0; i < 33; i++)
        with(t[(i * 7 + i / 50) % USED], TERRACE_READ);
    manager_lock(m);
    leases_drain_locked(m);
    manager_unlock(m);
    return m;
}

static void same_learned(bool steps)
{
    terrace_tensor *t[2][USED];
    terrace *m[2] = {learn(use, t[0], steps), learn(use_locked, t[1], steps)};
    const struct schedule *a = &m[0]->schedule, *b = &m[1]->schedule;
    cr_assert(is_open(t[0][7]));
    cr_assert_eq(a->now, b->now);
    cr_assert_eq(a->at, b->at);
    cr_assert_eq(a->trusted, b->trusted);
    cr_assert_eq(a->steps, b->steps);
    cr_assert((a->line != NULL) && (b->line != NULL));
    cr_assert_eq(a->line->length, b->line->length);
    for (uint32_t i = 0; i < a->line->length; i++) {
        cr_assert_eq(a->line->use[i].place, b->line->use[i].place);
        cr_assert_eq(a->line->use[i].mode, b->line->use[i].mode);
        cr_assert_eq(a->line->use[i].tier, b->line->use[i].tier);
    }
    for (int i = 0; i < USED; i++) {
        cr_assert_eq(t[0][i]->item.next, t[1][i]->item.next, "tensor %d", i);
        cr_assert_eq(t[0][i]->item.last, t[1][i]->item.last, "tensor %d", i);
    }
    cr_assert_eq(stats_of(m[0]).acquires, stats_of(m[1]).acquires);
    cr_assert_eq(stats_of(m[0]).hits, stats_of(m[1]).hits);
    terrace_close(m[0]);
    terrace_close(m[1]);
}

Test(lease, learns_the_same_with_steps, .timeout = 60)
{
    same_learned(true);
}

Test(lease, learns_the_same_without, .timeout = 60)
{
    same_learned(false);
}

/* Computing times between uses come with the uses, however late these are told. */
Test(lease, learns_how_long_computing_takes, .timeout = 60)
{
    enum { N = 20, US = 2000 };
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t[N];
    for (int i = 0; i < N; i++)
        t[i] = open_tensor(m, "t", 1);
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < N; i++) {
            use(t[i], TERRACE_READ);
            usleep(US);
        }
        assert_ok(terrace_step(m));
    }
    const struct schedule_line *l = m->schedule.line;
    cr_assert(l && l->length == N);
    cr_assert(is_open(t[0]));
    for (uint32_t i = 1; i < N; i++)
        cr_assert(l->use[i].at >= l->use[i - 1].at + US * 1000 * 9 / 10, "use %u at %llu, before that %llu", i,
                  (unsigned long long)l->use[i].at, (unsigned long long)l->use[i - 1].at);
    terrace_close(m);
}

/* ---- threads and managers ---------------------------------------------- */

struct runner {
    pthread_t thread;
    terrace_tensor **t;
    int n, uses;
};

static void *runner_run(void *arg)
{
    struct runner *r = arg;
    for (int i = 0; i < r->uses; i++) {
        void *p;
        if (terrace_acquire(r->t[i % r->n], NEAR, TERRACE_READ, NULL, &p, NULL) ||
            terrace_release(r->t[i % r->n], p, NULL))
            abort();
    }
    return NULL;
}

Test(lease, every_use_is_counted, .timeout = 60)
{
    enum { THREADS = 4, N = 8, USES = 100001 / SLOWER };
    terrace *m = open_sim(32 * MIB, "");
    terrace_tensor *t[N];
    struct runner r[THREADS];
    for (int i = 0; i < N; i++)
        t[i] = open_tensor(m, "t", 1);
    for (int i = 0; i < THREADS; i++) { /* two have their own, two share */
        r[i] = (struct runner){.t = i < 2 ? t + 2 * i : t + 4, .n = i < 2 ? 2 : 4, .uses = USES};
        cr_assert_eq(pthread_create(&r[i].thread, NULL, runner_run, &r[i]), 0);
    }
    for (int i = 0; i < 100; i++)
        assert_ok(terrace_step(m));
    for (int i = 0; i < THREADS; i++)
        pthread_join(r[i].thread, NULL);
    cr_assert_eq(stats_of(m).acquires, THREADS * USES + N);
    cr_assert_eq(tier_stats_of(m, NEAR).pinned, 0);
    terrace_close(m);
}

Test(lease, many_threads_one_after_the_other, .timeout = 60)
{
    enum { THREADS = 300 };
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    for (int i = 0; i < THREADS; i++)
        in_thread(runner_run, &(struct runner){.t = &t, .n = 1, .uses = 3});
    cr_assert_eq(stats_of(m).acquires, 3 * THREADS + 1);
    terrace_close(m);
}

Test(lease, managers_come_and_go_under_a_thread, .timeout = 60)
{
    for (int round = 0; round < 50; round++) {
        terrace *m[3];
        terrace_tensor *t[3];
        for (int i = 0; i < 3; i++) {
            m[i] = open_with("numa:0", 8 * MIB, "");
            t[i] = open_tensor(m[i], "t", (uint64_t)(round + i));
        }
        for (int i = 0; i < 300; i++)
            use(t[i % 3], TERRACE_WRITE);
        for (int i = 0; i < 3; i++) {
            cr_assert(is_open(t[i]));
            expect_pattern(t[i], NEAR, SIZE, (uint64_t)(round + i));
            cr_assert_eq(stats_of(m[i]).acquires, 102);
            terrace_close(m[i]);
        }
    }
}

/* The thread ends after its manager. */
static void *outlives(void *arg)
{
    pthread_barrier_t *barrier = arg;
    terrace *m = open_with("numa:0", 8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    use(t, TERRACE_READ);
    terrace_close(m);
    pthread_barrier_wait(barrier);
    return NULL;
}

Test(lease, a_thread_outlives_its_manager, .timeout = 60)
{
    pthread_barrier_t barrier;
    pthread_t thread[4];
    pthread_barrier_init(&barrier, NULL, 4);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, outlives, &barrier), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
}

Test(lease, not_in_a_child, .timeout = 60)
{
    terrace *m = open_sim(8 * MIB, "");
    terrace_tensor *t = open_tensor(m, "t", 1);
    void *p = acquired(t, TERRACE_READ), *q;
    cr_assert(is_open(t));
    pid_t child = fork();
    if (child == 0)
        _exit(terrace_acquire(t, NEAR, TERRACE_READ, NULL, &q, NULL) != -TERRACE_EFORK ||
              terrace_release(t, p, NULL) != -TERRACE_EFORK);
    int status;
    waitpid(child, &status, 0);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_ok(terrace_release(t, p, NULL));
    terrace_close(m);
}

/* ---- all at once -------------------------------------------------------- */

/* Threads use tensors that fit, at full speed, and check every byte now and then;
 * another makes everything happen that closes them. */
enum { SLOTS = 48, WORKERS = 3 };

static struct {
    terrace *m;
    struct {
        pthread_rwlock_t lock; /* the order that callers see to */
        terrace_tensor *t;
        uint64_t seed;
    } slot[SLOTS];
    atomic_bool stop;
    atomic_int wrong;
    char what[600];
    atomic_ulong fast, uses;
} storm;

static uint32_t draw(uint32_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 17;
    *x ^= *x << 5;
    return *x;
}

/* The first thing that is wrong stops all threads. */
#define wrong_if(wrong) wrong_if_at(wrong, #wrong)
static void wrong_if_at(bool wrong, const char *what)
{
    int none = 0;
    if (wrong && atomic_compare_exchange_strong(&storm.wrong, &none, 1))
        snprintf(storm.what, sizeof storm.what, "%s: %s", what, terrace_last_error());
}

static void storm_read(int i, bool check)
{
    void *p;
    pthread_rwlock_rdlock(&storm.slot[i].lock);
    terrace_tensor *t = storm.slot[i].t;
    atomic_fetch_add(&storm.fast, is_open(t));
    wrong_if(terrace_acquire(t, NEAR, TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL) != 0);
    wrong_if(check && !pattern_is(p, SIZE, storm.slot[i].seed));
    wrong_if(((uint64_t *)p)[5] != pattern(storm.slot[i].seed, 5));
    wrong_if(terrace_release(t, p, NULL) != 0);
    pthread_rwlock_unlock(&storm.slot[i].lock);
}

static void storm_write_locked(int i, uint64_t seed)
{
    void *p;
    terrace_tensor *t = storm.slot[i].t;
    atomic_fetch_add(&storm.fast, is_open(t));
    wrong_if(terrace_acquire(t, NEAR, (seed & 1 ? TERRACE_WRITE : TERRACE_OVERWRITE) | TERRACE_WAIT, NULL, &p,
                             NULL) != 0);
    pattern_fill(p, SIZE, seed);
    storm.slot[i].seed = seed;
    wrong_if(terrace_release(t, p, NULL) != 0);
}

static void storm_write(int i, uint64_t seed)
{
    pthread_rwlock_wrlock(&storm.slot[i].lock);
    storm_write_locked(i, seed);
    pthread_rwlock_unlock(&storm.slot[i].lock);
}

static void *storm_worker(void *arg)
{
    uint32_t x = (uint32_t)(uintptr_t)arg * 77777 + 1;
    while (!atomic_load(&storm.stop) && !atomic_load(&storm.wrong)) {
        uint32_t what = draw(&x), i = (draw(&x) >> 8) % SLOTS;
        if (what % 16 == 0)
            storm_write((int)i, draw(&x));
        else
            storm_read((int)i, what % 16 == 1);
        atomic_fetch_add(&storm.uses, 1);
    }
    return NULL;
}

static void storm_renew(int i)
{
    pthread_rwlock_wrlock(&storm.slot[i].lock);
    terrace_tensor_destroy(storm.slot[i].t);
    wrong_if(terrace_tensor_create(storm.m, SIZE, NULL, &storm.slot[i].t) != 0);
    storm_write_locked(i, (uint64_t)i);
    pthread_rwlock_unlock(&storm.slot[i].lock);
}

static void storm_disturb(uint32_t *x, terrace_tensor *large)
{
    int i = (int)((draw(x) >> 8) % SLOTS);
    terrace_tensor *t = storm.slot[i].t; /* this thread alone replaces it */
    void *p;
    switch (draw(x) % 8) {
    case 0: /* half of them have to leave */
        wrong_if(terrace_acquire(large, NEAR, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &p, NULL) != 0);
        wrong_if(terrace_release(large, p, NULL) != 0);
        wrong_if(terrace_demote(large, 1) != 0);
        break;
    case 1:
        wrong_if(terrace_demote(t, 1) != 0);
        break;
    case 2:
        wrong_if(terrace_prefetch(t, NEAR) != 0);
        break;
    case 3:
        wrong_if(terrace_step(storm.m) != 0);
        break;
    case 4:
        wrong_if(terrace_wait(t) != 0);
        break;
    case 5:
        storm_renew(i);
        break;
    case 6:
        tier_stats_of(storm.m, NEAR);
        break;
    default:
        stats_of(storm.m);
    }
}

Test(lease, storm, .timeout = 300)
{
    pthread_t thread[WORKERS];
    uint32_t x = 12345;
    storm.m = open_sim((SLOTS + 4) * SIZE, "");
    terrace_tensor *large = tensor_of(storm.m, SLOTS / 2 * SIZE, "large");
    for (int i = 0; i < SLOTS; i++) {
        pthread_rwlock_init(&storm.slot[i].lock, NULL);
        storm.slot[i].t = tensor_of(storm.m, SIZE, "slot");
        storm_write(i, (uint64_t)i);
    }
    for (uintptr_t i = 0; i < WORKERS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, storm_worker, (void *)(i + 1)), 0);
    for (int i = 0; i < 2000 / SLOWER && !storm.wrong; i++) {
        storm_disturb(&x, large);
        if (i % 4 == 0)
            usleep(3000); /* for the fast ones to become fast again */
    }
    storm.stop = true;
    for (int i = 0; i < WORKERS; i++)
        pthread_join(thread[i], NULL);
    cr_assert_eq(storm.wrong, 0, "%s", storm.what);
    for (int i = 0; i < SLOTS; i++)
        storm_read(i, true);
    cr_assert_eq(storm.wrong, 0, "%s", storm.what);
    cr_assert(storm.fast > storm.uses / 10, "%lu of %lu uses found their tensor open", storm.fast, storm.uses);
    terrace_close(storm.m);
}
