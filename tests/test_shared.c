/* test_shared.c - managers of several processes that share a host budget. */
#include <time.h>

#include "account.h"
#include "manager.h"
#include "others.h"
#include "simdisk.h"

enum { LIMIT = 32 * MIB, TENSORS = 24, SIZE = 2 * MIB };

static char path[64];
static terrace *m;
static terrace_tier host;
static terrace_tensor *tensor[TENSORS];
static unsigned char *stable;

enum { OPEN, CLOSE, WRITE, CHECK, PIN, USED, MALLOC, STABLE_CHECK };

static terrace *opens(void)
{
    char conf[200];
    snprintf(conf, sizeof conf, "tiers=numa:0,simdisk:0;limit_numa=%d;shared=%s", LIMIT, path);
    terrace *out;
    return terrace_open(&out, conf) ? NULL : out;
}

static int64_t write_all(uint64_t seed, int n)
{
    for (int i = 0; i < n; i++) {
        void *p;
        if (!tensor[i] && terrace_tensor_create(m, SIZE, NULL, &tensor[i]))
            return -1;
        int r = terrace_acquire(tensor[i], host, TERRACE_OVERWRITE, NULL, &p, NULL);
        if (r)
            return r;
        pattern_fill(p, SIZE, seed + (uint64_t)i);
        terrace_release(tensor[i], p, NULL);
    }
    return 0;
}

/* How many are right. */
static int64_t right(uint64_t seed, int n)
{
    int64_t good = 0;
    for (int i = 0; i < n; i++) {
        void *p;
        if (terrace_acquire(tensor[i], host, TERRACE_READ, NULL, &p, NULL))
            continue;
        good += pattern_is(p, SIZE, seed + (uint64_t)i);
        terrace_release(tensor[i], p, NULL);
    }
    return good;
}

static int64_t pin(int n)
{
    void *p;
    int r = 0;
    for (int i = 0; r == 0 && i < n; i++)
        r = terrace_acquire(tensor[i], host, TERRACE_READ, NULL, &p, NULL);
    return r;
}

static int64_t obey(struct order order)
{
    int n = (int)(order.number & 0xff);
    uint64_t seed = (uint64_t)order.number >> 8;
    switch (order.what) {
    case OPEN:
        m = opens();
        return m ? terrace_tier_find(m, "host", &host) : -1;
    case CLOSE:
        terrace_close(m);
        return 0;
    case WRITE:
        return write_all(seed, n);
    case CHECK:
        return right(seed, n);
    case PIN:
        return pin(n);
    case USED:
        return (int64_t)tier_stats_of(m, 0).used;
    case MALLOC:
        stable = terrace_malloc(m, (size_t)n * SIZE, host, NULL);
        for (int i = 0; stable && i < n; i++)
            pattern_fill(stable + (size_t)i * SIZE, SIZE, seed + (uint64_t)i);
        return stable ? 0 : -1;
    case STABLE_CHECK: {
        int64_t good = 0;
        for (int i = 0; i < n; i++)
            good += pattern_is(stable + (size_t)i * SIZE, SIZE, seed + (uint64_t)i);
        return good;
    }
    default:
        return -1;
    }
}

#define WITH(seed, n) ((int64_t)(seed) << 8 | (n))

static void begin(void)
{
    snprintf(path, sizeof path, "/dev/shm/terrace-test-%d", (int)getpid());
    unlink(path);
}

static void ends(void)
{
    cr_assert_neq(access(path, F_OK), 0, "the account is left behind");
}

/* Each uses more than all of the budget, at the same time. */
Test(shared, two_processes_in_one_budget, .timeout = 100)
{
    begin();
    struct other o = other_start(obey), p = other_start(obey);
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&p, OPEN, 0), 0);
    struct account *watch;
    assert_ok(account_join(path, LIMIT, &watch));
    for (int round = 1; round < 6; round++) {
        other_begin(&o, WRITE, WITH(round * 100, TENSORS));
        other_begin(&p, WRITE, WITH(round * 100 + 50, TENSORS));
        cr_assert_eq(other_answer(&o), 0);
        cr_assert_eq(other_answer(&p), 0);
        int64_t used = other(&o, USED, 0) + other(&p, USED, 0);
        cr_assert_leq(used, LIMIT);
        cr_assert_geq(used, LIMIT / 2);
        cr_assert_eq((uint64_t)used + account_free(watch), LIMIT);
        other_begin(&o, CHECK, WITH(round * 100, TENSORS));
        other_begin(&p, CHECK, WITH(round * 100 + 50, TENSORS));
        cr_assert_eq(other_answer(&o), TENSORS);
        cr_assert_eq(other_answer(&p), TENSORS);
    }
    cr_assert_eq(other(&o, CLOSE, 0), 0);
    cr_assert_eq(other(&p, CLOSE, 0), 0);
    cr_assert_eq(account_free(watch), LIMIT);
    account_leave(watch);
    other_end(&o);
    other_end(&p);
    ends();
}

/* One that does nothing gives what it has more than its share of, and loses no byte. */
Test(shared, who_came_first_gives, .timeout = 100)
{
    begin();
    struct other o = other_start(obey), p = other_start(obey);
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&o, WRITE, WITH(100, 16)), 0);
    cr_assert_geq(other(&o, USED, 0), LIMIT - 2 * SIZE);
    cr_assert_eq(other(&p, OPEN, 0), 0);
    cr_assert_eq(other(&p, WRITE, WITH(200, 6)), 0);
    cr_assert_eq(other(&p, PIN, WITH(0, 6)), 0, "six together are less than the half");
    cr_assert_geq(other(&p, USED, 0), 6 * SIZE);
    cr_assert_leq(other(&o, USED, 0), LIMIT - 6 * SIZE);
    cr_assert_eq(other(&o, CHECK, WITH(100, 16)), 16);
    cr_assert_eq(other(&p, CHECK, WITH(200, 6)), 6);
    other_end(&o);
    other_end(&p);
}

Test(shared, what_a_killed_one_had_is_free, .timeout = 100)
{
    begin();
    struct other o = other_start(obey), p = other_start(obey);
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&p, OPEN, 0), 0);
    cr_assert_eq(other(&o, WRITE, WITH(100, 14)), 0);
    cr_assert_eq(other(&o, PIN, WITH(0, 14)), 0);
    other_kill(&o);
    cr_assert_eq(other(&p, WRITE, WITH(200, 15)), 0);
    cr_assert_eq(other(&p, PIN, WITH(0, 15)), 0);
    cr_assert_geq(other(&p, USED, 0), 15 * SIZE);
    cr_assert_eq(other(&p, CLOSE, 0), 0);
    ends();
    other_end(&p);
}

/* What another holds acquired cannot be given: one sentence, and no long wait. */
Test(shared, what_is_in_use_elsewhere_is_not_to_be_had, .timeout = 100)
{
    begin();
    struct other o = other_start(obey);
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&o, WRITE, WITH(100, 15)), 0);
    cr_assert_eq(other(&o, PIN, WITH(0, 15)), 0);
    m = opens();
    cr_assert_not_null(m, "%s", terrace_last_error());
    host = host_of(m);
    terrace_tensor *t = tensor_of(m, 12 * MIB, "big");
    void *p;
    time_t began = time(NULL);
    assert_fails(terrace_acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL), TERRACE_ENOMEM);
    cr_assert_not_null(strstr(terrace_last_error(), path), "%s", terrace_last_error());
    cr_assert_leq(time(NULL) - began, 10);
    cr_assert_eq(write_all(300, 3), 0, "a little there is in any case: %s", terrace_last_error());
    cr_assert_eq(right(300, 3), 3);
    cr_assert_eq(other(&o, CLOSE, 0), 0);
    assert_ok(terrace_acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL));
    assert_ok(terrace_release(t, p, NULL));
    terrace_close(m);
    ends();
    other_end(&o);
}

/* Its own manager is another member; the parent's is the parent's. */
Test(shared, a_child_of_fork_joins_by_itself, .timeout = 100)
{
    begin();
    struct other o = other_start(obey); /* it forks */
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&o, WRITE, WITH(100, 4)), 0);
    m = opens();
    cr_assert_not_null(m);
    host = host_of(m);
    cr_assert_eq(write_all(200, 4), 0);
#ifndef __SANITIZE_THREAD__
    pid_t child = fork();
    if (child == 0) {
        terrace_close(m);
        memset(tensor, 0, sizeof tensor);
        simdisk = (struct simdisk){.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
        m = opens();
        bool good = m && write_all(300, 20) == 0 && right(300, 20) == 20;
        terrace_close(m);
        _exit(!good);
    }
    int status = 1;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
#endif
    cr_assert_eq(right(200, 4), 4);
    cr_assert_eq(other(&o, CHECK, WITH(100, 4)), 4);
    terrace_close(m);
    other_end(&o);
}

/* Plain pointers, whose pages nobody asks for by a call. */
Test(shared, stable_memory, .timeout = 100)
{
    begin();
    struct other o = other_start(obey), p = other_start(obey);
    cr_assert_eq(other(&o, OPEN, 0), 0);
    cr_assert_eq(other(&p, OPEN, 0), 0);
    if (other(&o, MALLOC, WITH(100, 20)))
        cr_skip("no stable memory here");
    cr_assert_eq(other(&p, MALLOC, WITH(200, 20)), 0);
    for (int i = 0; i < 3; i++) {
        other_begin(&o, STABLE_CHECK, WITH(100, 20));
        other_begin(&p, STABLE_CHECK, WITH(200, 20));
        cr_assert_eq(other_answer(&o), 20);
        cr_assert_eq(other_answer(&p), 20);
        cr_assert_leq(other(&o, USED, 0) + other(&p, USED, 0), LIMIT);
    }
    other_end(&o);
    other_end(&p);
}

Test(shared, a_file_that_cannot_be_used, .timeout = 60)
{
    terrace *x;
    assert_fails(terrace_open(&x, "tiers=numa:0,simdisk:0;limit_numa=32M;shared=here"), TERRACE_ECONFIG);
    cr_assert_not_null(strstr(terrace_last_error(), "TERRACE_SHARED=here"), "%s", terrace_last_error());
    assert_fails(terrace_open(&x, "tiers=numa:0,simdisk:0;limit_numa=32M;shared=/nowhere/x"), TERRACE_ENOENT);
}
