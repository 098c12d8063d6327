/* test_small_tiers.c - small tensors where several tiers are in memory. */
#include "small_cases.h"

static terrace *open_two(const char *more)
{
    char conf[300];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=numa:0,simnode:0,simdisk:0;limit_numa=%d;limit_simnode=%d;%s", BUDGET, BUDGET,
             more);
    assert_ok(terrace_open(&m, conf));
    return m;
}

static void *acquire_on(terrace_tensor *t, terrace_tier tier, unsigned mode)
{
    void *p;
    terrace_tier where;
    assert_ok(terrace_acquire(t, tier, mode, NULL, &p, &where));
    cr_assert_eq(where, tier);
    return p;
}

Test(small, each_tier_has_its_groups, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b, *c = create(m, 100, "c");
    create_pair(m, &a, &b);
    void *p = acquire_on(a, 0, TERRACE_WRITE), *q = acquire_on(b, 1, TERRACE_WRITE);
    cr_assert(zeros(p, PAGE_BYTES) && zeros(q, PAGE_BYTES));
    cr_assert_neq(small_group(a), small_group(b));
    cr_assert_not(small_group(b)->alone);
    pattern_fill(p, PAGE_BYTES, 1);
    pattern_fill(q, PAGE_BYTES, 2);
    terrace_tensor *d = create(m, PAGE_BYTES, "d"); /* near what was last used first */
    cr_assert_eq(small_group(d), small_group(b));
    expect_zeros(c, 100);
    release(a, p);
    release(b, q);
    assert_ok(terrace_demote(d, disk_of(m)));
    push_down(a, m);
    push_down(b, m);
    expect_pattern(a, host_of(m), PAGE_BYTES, 1); /* a class: wherever its group is used */
    expect_pattern(b, host_of(m), PAGE_BYTES, 2);
    cr_assert_not(small_group(a)->alone || small_group(b)->alone);
    assert_ok(terrace_prefetch(b, 0)); /* is for acquire to decide */
    cr_assert_eq(small_group(b)->copy[0].state, COPY_ABSENT);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    terrace_tensor_destroy(c);
    terrace_tensor_destroy(d);
    expect_no_bytes(m);
    terrace_close(m);
}

Test(small, neighbours_do_not_exclude_each_other, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    void *q = acquire_on(b, 0, TERRACE_WRITE);
    void *p = acquire_on(a, 1, TERRACE_WRITE); /* leaves the group */
    cr_assert(pattern_is(p, PAGE_BYTES, 1));
    cr_assert(small_of(a) && small_group(a)->alone);
    pattern_fill(p, PAGE_BYTES, 3);
    pattern_fill(q, PAGE_BYTES, 4);
    release(a, p);
    release(b, q);
    cr_assert_eq(tier_stats_of(m, 0).tensors, 1);
    cr_assert_eq(tier_stats_of(m, 1).tensors, 1);
    expect_pattern(a, 0, PAGE_BYTES, 3); /* and goes to any tier from then on */
    expect_pattern(b, 0, PAGE_BYTES, 4);
    cr_assert_eq(stats_of(m).tensors, 2);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    cr_assert_eq(stats_of(m).tensors, 0);
    expect_no_bytes(m);
    terrace_close(m);
}

Test(small, its_own_users_do, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    void *q;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    void *p = acquire_on(a, 0, TERRACE_WRITE);
    assert_fails(terrace_acquire(a, 1, TERRACE_READ, NULL, &q, NULL), TERRACE_EBUSY);
    cr_assert(strstr(terrace_last_error(), "'a' is acquired on numa:0 for writing"), "%s", terrace_last_error());
    assert_fails(terrace_acquire(a, 1, TERRACE_READ | TERRACE_WAIT, NULL, &q, NULL), TERRACE_EBUSY); /* its own pin */
    release(a, p);
    p = acquire_on(a, 0, TERRACE_READ);
    assert_fails(terrace_acquire(a, 1, TERRACE_WRITE, NULL, &q, NULL), TERRACE_EBUSY);
    void *with = acquire_on(b, 0, TERRACE_WRITE);
    q = acquire_on(a, 1, TERRACE_READ); /* readers may be on both, whatever b's does */
    cr_assert(p != q && pattern_is(p, PAGE_BYTES, 1) && pattern_is(q, PAGE_BYTES, 1));
    release(a, q);
    assert_fails(terrace_acquire(a, 1, TERRACE_WRITE, NULL, &q, NULL), TERRACE_EBUSY);
    release(b, with);
    release(a, p);
    assert_fails(terrace_release(a, p, NULL), TERRACE_EINVAL);
    q = acquire_on(a, 1, TERRACE_WRITE);
    release(a, q);
    terrace_tensor_destroy(a);
    terrace_tensor_destroy(b);
    expect_no_bytes(m);
    terrace_close(m);
}

static void *hold_a_while(void *arg)
{
    terrace_tensor *t = arg;
    void *p = acquire_on(t, 0, TERRACE_WRITE);
    usleep(100000);
    pattern_fill(p, PAGE_BYTES, 9);
    release(t, p);
    return NULL;
}

Test(small, wait_waits_for_them, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    pthread_t thread;
    void *p;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    cr_assert_eq(pthread_create(&thread, NULL, hold_a_while, a), 0);
    eventually(tier_stats_of(m, 0).pinned);
    assert_ok(terrace_acquire(a, 1, TERRACE_READ | TERRACE_WAIT, NULL, &p, NULL));
    cr_assert(pattern_is(p, PAGE_BYTES, 9));
    release(a, p);
    pthread_join(thread, NULL);
    terrace_close(m);
}

Test(small, lists_over_two_tiers, .timeout = 20)
{
    terrace *m = open_two("");
    terrace_tensor *a, *b;
    create_pair(m, &a, &b);
    write_pattern(a, 0, PAGE_BYTES, 1);
    write_pattern(b, 0, PAGE_BYTES, 2);
    terrace_access list[] = {{.size = sizeof list[0], .tensor = a, .tier = 0, .mode = TERRACE_WRITE},
                             {.size = sizeof list[0], .tensor = b, .tier = 1, .mode = TERRACE_WRITE}};
    assert_ok(terrace_acquire_all(list, 2, NULL));
    cr_assert(pattern_is(list[0].address, PAGE_BYTES, 1) && pattern_is(list[1].address, PAGE_BYTES, 2));
    cr_assert(list[0].where == 0 && list[1].where == 1);
    release(a, list[0].address);
    release(b, list[1].address);
    terrace_close(m);
}

static void *two_tiers_main(void *arg)
{
    struct job *job = arg;
    enum { OWN = 100 };
    struct mine own[OWN] = {{0}};
    uint64_t rng = job->seed * 0x9e3779b97f4a7c15u;
    terrace_tier disk = disk_of(job->m);
    for (int i = 0; i < (SANITIZED ? 3000 : 15000); i++) {
        struct mine *x = &own[dice(&rng) % OWN];
        terrace_tier tier = (terrace_tier)(dice(&rng) % 8 == 0);
        void *p;
        if (!x->t) {
            *x = (struct mine){.bytes = 1 + dice(&rng) % 9000};
            x->t = create(job->m, x->bytes, "mine");
        } else if (dice(&rng) % 16 == 0) {
            terrace_tensor_destroy(x->t);
            x->t = NULL;
            continue;
        }
        bool write = dice(&rng) % 2;
        if (dice(&rng) % 16 == 0)
            assert_ok(terrace_demote(x->t, disk));
        assert_ok(terrace_acquire(x->t, tier, (write ? TERRACE_WRITE : TERRACE_READ) | TERRACE_WAIT, NULL, &p, NULL));
        cr_assert(x->seed ? pattern_is(p, x->bytes, x->seed) : zeros(p, x->bytes));
        if (write)
            pattern_fill(p, x->bytes, x->seed = dice(&rng) | 1);
        release(x->t, p);
    }
    for (int i = 0; i < OWN; i++)
        terrace_tensor_destroy(own[i].t);
    return NULL;
}

Test(small, threads_on_two_tiers, .timeout = 100)
{
    terrace *m = open_two("");
    struct job job[2];
    for (int i = 0; i < 2; i++) {
        job[i] = (struct job){.m = m, .seed = (uint64_t)i + 1};
        cr_assert_eq(pthread_create(&job[i].thread, NULL, two_tiers_main, &job[i]), 0);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(job[i].thread, NULL);
    eventually(tier_stats_of(m, 2).tensors == 0);
    expect_no_bytes(m);
    terrace_close(m);
}


Test(small, close_with_all_of_it_alive, .timeout = 20)
{
    terrace *m = open_sim(BUDGET, NULL);
    for (int i = 0; i < 1000; i++) {
        terrace_tensor *t = create(m, (size_t)(i * 33 % 32768 + 1), "left");
        if (i % 3 == 0)
            write_pattern(t, 0, (size_t)(i * 33 % 32768 + 1), 1);
        if (i % 50 == 0)
            acquire(t, TERRACE_READ); /* and acquired */
        if (i % 100 == 0)
            terrace_tensor_destroy(t); /* and destroyed */
        if (i % 7 == 0)
            assert_ok(terrace_demote(t, disk_of(m)));
    }
    terrace_close(m);
}
