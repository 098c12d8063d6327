/* test_account.c - the account that processes share: nothing is charged twice or lost,
 * whoever is killed, and who has less than its share gets it. */
#include "account.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <time.h>

#include "manager.h"
#include "others.h"

#define LIMIT (UINT64_C(64) << 20)

static char path[64];
static struct account *joined; /* this process's */

enum { JOIN, LEAVE, TAKE, GIVE, HELD, CHURN, SERVE };

static int64_t obey(struct order order)
{
    uint64_t n = (uint64_t)order.number;
    switch (order.what) {
    case JOIN:
        return account_join(path, LIMIT, &joined);
    case LEAVE:
        account_leave(joined);
        return 0;
    case TAKE:
        return account_take(joined, n);
    case GIVE:
        account_give(joined, n);
        return 0;
    case HELD:
        return (int64_t)account_held(joined);
    case CHURN: /* for ever, at full speed */
        for (;;)
            if (account_take(joined, 4096 * n))
                account_give(joined, 4096 * n);
    case SERVE: /* for ever */
        for (uint32_t seen = 0;;) {
            uint64_t asked = account_asked(joined);
            if (asked)
                account_give(joined, asked);
            seen = account_wait(joined, seen);
        }
    default:
        return -1;
    }
}

static void begin(void)
{
    snprintf(path, sizeof path, "/dev/shm/terrace-test-%d", (int)getpid());
    unlink(path);
}

static void join(void)
{
    assert_ok(account_join(path, LIMIT, &joined));
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static bool there(void)
{
    return access(path, F_OK) == 0;
}

Test(account, the_last_one_removes_it, .timeout = 60)
{
    begin();
    struct other o = other_start(obey);
    join();
    cr_assert(there());
    cr_assert_eq(account_limit(joined), LIMIT);
    cr_assert_eq(other(&o, JOIN, 0), 0);
    cr_assert_eq(account_members(joined), 2);
    cr_assert(account_take(joined, LIMIT / 2));
    account_leave(joined);
    cr_assert(there());
    cr_assert_eq(other(&o, TAKE, (int64_t)LIMIT), 1, "what was charged to who has left is free");
    cr_assert_eq(other(&o, LEAVE, 0), 0);
    cr_assert(!there());
    other_end(&o);
}

Test(account, all_have_one_limit, .timeout = 60)
{
    begin();
    struct other o = other_start(obey), p = other_start(obey);
    join();
    cr_assert_eq(other(&o, JOIN, 0), 0);
    cr_assert_eq(other(&p, JOIN, 0), 0);
    cr_assert(account_try(joined, LIMIT / 2));
    cr_assert_eq(other(&o, TAKE, (int64_t)LIMIT / 4), 1);
    cr_assert_eq(other(&p, TAKE, (int64_t)LIMIT / 4), 1);
    cr_assert_eq(account_free(joined), 0);
    cr_assert(!account_try(joined, 4096));
    cr_assert(!account_take(joined, 4096), "it has more than its share");
    cr_assert_eq(other(&p, GIVE, 4096), 0);
    cr_assert_eq(account_free(joined), 4096);
    cr_assert(account_take(joined, 4096));
    cr_assert_eq(account_held(joined), LIMIT / 2 + 4096);
    cr_assert_eq(other(&o, HELD, 0), (int64_t)LIMIT / 4);
    account_leave(joined);
    other_end(&o); /* without leaving */
    other_end(&p);
    join();
    cr_assert_eq(account_members(joined), 1);
    cr_assert_eq(account_free(joined), LIMIT);
    account_leave(joined);
    cr_assert(!there());
}

Test(account, what_a_killed_one_had_is_free, .timeout = 60)
{
    begin();
    struct other o = other_start(obey);
    join();
    cr_assert_eq(other(&o, JOIN, 0), 0);
    cr_assert_eq(other(&o, TAKE, (int64_t)LIMIT), 1);
    cr_assert(!account_try(joined, LIMIT));
    other_kill(&o);
    cr_assert(account_try(joined, LIMIT));
    cr_assert_eq(account_members(joined), 1);
    account_leave(joined);
    cr_assert(!there());
}

/* In the middle of whatever it does, the lock held or not. */
Test(account, killed_at_any_moment, .timeout = 100)
{
    enum { ROUNDS = 60, OTHERS = 3 };
    begin();
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct other o[OTHERS];
        for (int k = 0; k < OTHERS; k++)
            o[k] = other_start(obey);
        for (int k = 0; k < OTHERS; k++) {
            cr_assert_eq(other(&o[k], JOIN, 0), 0);
            other_begin(&o[k], CHURN, 1 + k);
        }
        usleep(1000 + 137 * i % 2000);
        for (int k = 0; k < OTHERS; k++)
            other_kill(&o[k]);
        join();
        cr_assert_eq(account_members(joined), 1);
        cr_assert_eq(account_free(joined), LIMIT, "round %u: %llu bytes are lost", i,
                     (unsigned long long)(LIMIT - account_free(joined)));
        account_leave(joined);
        cr_assert(!there());
    }
}

static void *joins(void *arg)
{
    static struct account *lost;
    cr_assert_eq(account_join(path, LIMIT, &lost), 0);
    cr_assert(account_take(lost, LIMIT));
    return arg;
}

Test(account, the_end_of_the_thread_counts, .timeout = 60)
{
    pthread_t thread;
    begin();
    join();
    cr_assert_eq(pthread_create(&thread, NULL, joins, NULL), 0);
    pthread_join(thread, NULL);
    cr_assert_eq(account_members(joined), 1);
    cr_assert_eq(account_free(joined), LIMIT);
    account_leave(joined);
}

Test(account, who_has_less_than_its_share_gets_it, .timeout = 60)
{
    begin();
    struct other o = other_start(obey);
    join();
    cr_assert_eq(other(&o, JOIN, 0), 0);
    cr_assert_eq(other(&o, TAKE, (int64_t)LIMIT), 1);
    other_begin(&o, SERVE, 0);
    for (unsigned i = 0; i < 32; i++) {
        double began = seconds();
        cr_assert(account_take(joined, 1 << 20), "after %u MiB", i);
        cr_assert_lt(seconds() - began, 0.2);
    }
    double began = seconds();
    cr_assert(!account_take(joined, 4 << 20), "the share is the half");
    cr_assert_lt(seconds() - began, 0.2, "nobody is asked for what is not one's own");
    cr_assert_eq(account_held(joined), LIMIT / 2);
    other_kill(&o);
    account_leave(joined);
}

/* 8 MiB there are in any case; nobody waits long for more. */
Test(account, nobody_is_stuck_where_none_gives, .timeout = 60)
{
    begin();
    struct other o = other_start(obey);
    join();
    cr_assert_eq(other(&o, JOIN, 0), 0);
    cr_assert_eq(other(&o, TAKE, (int64_t)LIMIT), 1);
    double began = seconds();
    cr_assert(!account_take(joined, 16 << 20));
    cr_assert_leq(seconds() - began, 5);
    cr_assert(account_take(joined, 8 << 20));
    cr_assert(!account_take(joined, 1 << 20));
    cr_assert_eq(account_free(joined), 0);
    account_give(joined, 8 << 20);
    cr_assert_eq(account_free(joined), 0);
    cr_assert_eq(other(&o, GIVE, 1 << 20), 0);
    cr_assert_eq(account_free(joined), 1 << 20);
    other_end(&o);
    account_leave(joined);
}

/* The file is made, removed and made again, and nobody ends up with one of its own. */
Test(account, joined_and_left_all_the_time, .timeout = 100)
{
    enum { OTHERS = 4, ROUNDS = 200 };
    struct other o[OTHERS];
    begin();
    for (int k = 0; k < OTHERS; k++)
        o[k] = other_start(obey);
    for (int i = 0; i < ROUNDS; i++) {
        for (int k = 0; k < OTHERS; k++)
            other_begin(&o[k], JOIN, 0);
        for (int k = 0; k < OTHERS; k++)
            cr_assert_eq(other_answer(&o[k]), 0);
        for (int k = 0; k < OTHERS; k++)
            cr_assert_eq(other(&o[k], TAKE, (int64_t)LIMIT / OTHERS), 1);
        join();
        cr_assert_eq(account_members(joined), OTHERS + 1);
        cr_assert_eq(account_free(joined), 0);
        for (int k = 0; k < OTHERS; k++)
            other_begin(&o[k], LEAVE, 0);
        account_leave(joined);
        for (int k = 0; k < OTHERS; k++)
            cr_assert_eq(other_answer(&o[k]), 0);
        cr_assert(!there());
    }
    for (int k = 0; k < OTHERS; k++)
        other_end(&o[k]);
}

Test(account, what_is_no_account_is_left_alone, .timeout = 60)
{
    struct account *a;
    char other_path[80];
    begin();
    assert_fails(account_join("relative", LIMIT, &a), TERRACE_ECONFIG);
    assert_fails(account_join("/nowhere/at/all", LIMIT, &a), TERRACE_ENOENT);
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    cr_assert_eq(write(fd, "mine", 4), 4);
    assert_fails(account_join(path, LIMIT, &a), TERRACE_ECONFIG);
    cr_assert_eq(ftruncate(fd, 100000), 0);
    assert_fails(account_join(path, LIMIT, &a), TERRACE_ECONFIG);
    account_sweep(path);
    cr_assert(there());
    if (geteuid() == 0) {
        cr_assert_eq(fchown(fd, 65534, 65534), 0);
        assert_fails(account_join(path, LIMIT, &a), TERRACE_EPERM);
    }
    close(fd);
    unlink(path);
    snprintf(other_path, sizeof other_path, "%s.link", path);
    cr_assert_eq(symlink("/dev/shm/elsewhere", other_path), 0);
    cr_assert_neq(account_join(other_path, LIMIT, &a), 0);
    unlink(other_path);
    cr_assert_eq(mkdir(path, 0700), 0);
    cr_assert_neq(account_join(path, LIMIT, &a), 0);
    rmdir(path);
}

Test(account, sweeping_takes_what_nobody_has, .timeout = 60)
{
    begin();
    struct other o = other_start(obey);
    cr_assert_eq(other(&o, JOIN, 0), 0);
    account_sweep(path);
    cr_assert(there());
    other_kill(&o);
    cr_assert(there());
    account_sweep(path);
    cr_assert(!there());
    account_sweep(path);
}
