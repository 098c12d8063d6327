/* test_rules_held.c - placement rules are held: wherever the bytes of a tensor may go,
 * one kind of way after the other, on simulated tiers. */
#include <sys/wait.h>

#include "ruled.h"
#include "simdisk.h"
#include "mover.h"
#include "small.h"

enum { SIZE = 64 * KIB };

static terrace *open_ruled(const char *tiers, const char *more)
{
    char conf[900];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=%s;log=off;%s", tiers, more);
    assert_ok(terrace_open(&m, conf));
    return m;
}

static terrace_tensor *labelled(terrace *m, size_t bytes, const char *label, int role)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label, .role = role};
    terrace_tensor *t;
    assert_ok(terrace_tensor_create(m, bytes, &attr, &t));
    return t;
}

static terrace_tier tier_of(terrace *m, const char *name)
{
    terrace_tier tier;
    assert_ok(terrace_tier_find(m, name, &tier));
    return tier;
}

static terrace_tier used_on(terrace_tensor *t, terrace_tier tier, unsigned mode, uint32_t id)
{
    void *at;
    terrace_tier where;
    assert_ok(terrace_acquire(t, tier, mode, TERRACE_HOST_SYNC, &at, &where));
    size_t bytes = t->small ? ((struct small *)t)->bytes : t->bytes;
    if (mode & TERRACE_READ)
        cr_assert(ruled_is(ruled_seen(at), bytes, id, 1));
    else
        ruled_fill(ruled_seen(at), bytes, id, 1);
    assert_ok(terrace_release(t, at, TERRACE_HOST_SYNC));
    return where;
}

#define assert_says(part) cr_assert(strstr(terrace_last_error(), part), "no %s: %s", part, terrace_last_error())

#define assert_forbidden(call, part)                                                       \
    do {                                                                                   \
        assert_fails(call, TERRACE_ERULE);                                                 \
        assert_says(part);                                                                 \
    } while (0)

static void expect_nowhere_else(uint32_t id, unsigned tiers)
{
    char why[300];
    ruled_denied[id] = (unsigned char)(0x3f & ~tiers);
    ruled_lines = true;
    cr_assert(ruled_clean(why, sizeof why), "%s", why);
}

#define EVERY RULED_ALL, "limit_device=1M;limit_host=2M;limit_disk=8M;"

/* ---- acquire ------------------------------------------------------------------- */

Test(rules_held, a_forbidden_tier_is_not_acquired, .timeout = 20)
{
    terrace *m = open_ruled(EVERY "rules=label=r/*:hosta|deva");
    terrace_tensor *t = labelled(m, SIZE, "r/1", 0), *u = labelled(m, SIZE, "other", 0);
    void *at;
    assert_forbidden(terrace_acquire(t, DEVB, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &at, NULL),
                     "'r/1' may not be on devb:0: \"label=r/*:hosta|deva\" (rules, line 1)");
    assert_forbidden(terrace_acquire(t, tier_of(m, "hostb"), TERRACE_READ | TERRACE_WAIT, NULL, &at, NULL), "hostb:0");
    terrace_access list[2] = {{.size = sizeof list[0], .tensor = u, .tier = DEVB, .mode = TERRACE_OVERWRITE},
                              {.size = sizeof list[0], .tensor = t, .tier = DEVB, .mode = TERRACE_READ}};
    assert_forbidden(terrace_acquire_all(list, 2, TERRACE_HOST_SYNC), "'r/1'");
    cr_expect_eq(used_on(t, tier_of(m, "device"), TERRACE_OVERWRITE, 1), DEVA);
    cr_expect_eq(used_on(t, tier_of(m, "host"), TERRACE_READ, 1), HOSTA);
    cr_expect_eq(used_on(u, DEVB, TERRACE_OVERWRITE, 2), DEVB);
    expect_nowhere_else(1, 1 << DEVA | 1 << HOSTA);
    terrace_close(m);
}

Test(rules_held, a_class_is_the_first_choice_that_has_room, .timeout = 20)
{
    terrace *m = open_ruled(RULED_ALL, "limit_deva=1M;limit_devb=128K;limit_host=4M;limit_disk=8M;"
                                       "rules=role=weight:devb>deva, role=gradient:hostb>hosta");
    terrace_tensor *w[4], *g = labelled(m, SIZE, "g", TERRACE_ROLE_GRADIENT), *o = labelled(m, SIZE, "o", 0);
    for (unsigned i = 0; i < 4; i++) {
        w[i] = labelled(m, SIZE, "w", TERRACE_ROLE_WEIGHT);
        cr_expect_eq(used_on(w[i], tier_of(m, "device"), TERRACE_OVERWRITE, i + 1), i < 2 ? DEVB : DEVA, "%u", i);
    }
    cr_expect_eq(used_on(g, tier_of(m, "host"), TERRACE_OVERWRITE, 8), HOSTB);
    cr_expect_eq(used_on(o, tier_of(m, "host"), TERRACE_OVERWRITE, 9), HOSTA);
    terrace_close(m);
}

/* ---- eviction ------------------------------------------------------------------ */

Test(rules_held, what_may_not_leave_stays_and_others_fail, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,diska:0", "limit_hosta=256K;limit_diska=8M;rules=label=r/*:!disk");
    terrace_tensor *r[3], *u[3], *big = labelled(m, 2 * SIZE, "big", 0);
    for (unsigned i = 0; i < 3; i++) {
        char label[20];
        snprintf(label, sizeof label, "r/%u", i);
        r[i] = labelled(m, SIZE, label, 0);
        u[i] = labelled(m, SIZE, "free", 0);
        used_on(r[i], 0, TERRACE_OVERWRITE, i + 1);
    }
    for (unsigned i = 0; i < 3; i++)
        used_on(u[i], 0, TERRACE_OVERWRITE, 10 + i);
    for (unsigned i = 0; i < 3; i++)
        used_on(u[i], 0, TERRACE_READ, 10 + i); /* by turns, in what is left */
    void *at;
    assert_forbidden(terrace_acquire(big, 0, TERRACE_OVERWRITE | TERRACE_WAIT, NULL, &at, NULL),
                     "192.0 KiB that rules keep there, as 'r/");
    assert_says("by \"label=r/*:!disk\" (rules, line 1)");
    for (unsigned i = 0; i < 3; i++)
        expect_nowhere_else(i + 1, 1 << HOSTA);
    terrace_tensor_destroy(r[0]);
    used_on(big, 0, TERRACE_OVERWRITE, 20);
    used_on(r[1], 0, TERRACE_READ, 2);
    terrace_close(m);
}

Test(rules_held, eviction_takes_the_way_that_is_left, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,hostb:0,diska:0,diskb:0",
                            "limit_hosta=128K;limit_hostb=256K;limit_disk=8M;rules=*:!hostb, label=b*:!diska");
    terrace_tensor *t[4];
    for (unsigned i = 0; i < 4; i++) {
        t[i] = labelled(m, SIZE, i % 2 ? "b" : "a", 0);
        used_on(t[i], 0, TERRACE_OVERWRITE, i + 1);
    }
    for (unsigned i = 0; i < 4; i++) {
        push_down(t[i], m);
        expect_nowhere_else(i + 1, 1 << HOSTA | 1 << (i % 2 ? DISKB : DISKA));
        cr_expect_eq(t[i]->copy[i % 2 ? 3 : 2].state, COPY_VALID);
        used_on(t[i], 0, TERRACE_READ, i + 1);
    }
    terrace_close(m);
}

/* ---- by way of ------------------------------------------------------------------ */

Test(rules_held, no_way_leads_through_a_forbidden_tier, .timeout = 20)
{
    terrace *m = open_ruled("deva:0,hosta:0,diska:0", "limit_deva=256K;limit_hosta=1M;limit_diska=8M;"
                                                      "rules=label=d:!host");
    terrace_tensor *t = labelled(m, SIZE, "d", 0);
    void *at;
    assert_forbidden(terrace_acquire(t, 0, TERRACE_WRITE, TERRACE_HOST_SYNC, &at, NULL), "TERRACE_OVERWRITE");
    used_on(t, 0, TERRACE_OVERWRITE, 1);
    assert_ok(terrace_demote(t, tier_of(m, "disk"))); /* a hint, and there is no way */
    assert_ok(terrace_wait(t));
    terrace_tensor *u[5];
    for (unsigned i = 0; i < 5; i++) {
        u[i] = labelled(m, SIZE, "u", 0);
        used_on(u[i], 0, TERRACE_OVERWRITE, 2 + i); /* t does not go */
    }
    used_on(t, 0, TERRACE_READ, 1);
    expect_nowhere_else(1, 1 << DEVA);
    terrace_close(m);
}

/* What is encrypted on its way to the disk passes through memory of hosta. */
Test(rules_held, staging_memory_is_memory_of_its_tier, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,hostb:0,diska:0",
                            "limit_hosta=2M;limit_hostb=128K;limit_diska=8M;encrypt=1;rules=label=b:!hosta");
    cr_assert_not_null(m->tier[2].lane->staging);
    terrace_tensor *t = labelled(m, SIZE, "b", 0), *u = labelled(m, SIZE, "u", 0);
    used_on(t, 1, TERRACE_OVERWRITE, 1);
    used_on(u, 1, TERRACE_OVERWRITE, 2);
    push_down(u, m);
    cr_expect_eq(u->copy[2].state, COPY_VALID);
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_ok(terrace_wait(t));
    cr_expect_eq(t->copy[2].extent, NULL);
    cr_expect_eq(t->copy[1].state, COPY_VALID);
    terrace_close(m);
}

/* ---- hints ---------------------------------------------------------------------- */

Test(rules_held, hints_to_forbidden_tiers_fail, .timeout = 20)
{
    terrace *m = open_ruled(EVERY "rules=label=r:!hosta|device|disk, label=s:hostb>hosta");
    terrace_tensor *r = labelled(m, SIZE, "r", 0), *s = labelled(m, SIZE, "s", 0);
    used_on(r, HOSTB, TERRACE_OVERWRITE, 1);
    used_on(s, DEVA, TERRACE_OVERWRITE, 2);
    assert_forbidden(terrace_prefetch(r, HOSTA), "'r' may not be on hosta:0");
    assert_forbidden(terrace_prefetch(r, tier_of(m, "device")), "\"label=r:!hosta|device|disk\"");
    assert_forbidden(terrace_demote(r, tier_of(m, "disk")), "may not be on diska:0");
    assert_forbidden(terrace_demote(r, HOSTA), "hosta:0");
    assert_ok(terrace_prefetch(r, tier_of(m, "host")));
    assert_ok(terrace_demote(s, tier_of(m, "host")));
    assert_ok(terrace_wait(s));
    cr_expect(s->copy[HOSTB].state == COPY_VALID && s->copy[HOSTA].state == COPY_ABSENT);
    expect_nowhere_else(1, 1 << HOSTB);
    terrace_close(m);
}

/* ---- small tensors -------------------------------------------------------------- */

Test(rules_held, small_tensors_share_a_group_where_rules_say_the_same, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,hostb:0,diska:0", "limit_host=64M;limit_diska=64M;"
                                                       "rules=label=r*:!disk, label=s*:!diska");
    terrace_tensor *u = labelled(m, 4096, "u", 0), *v = labelled(m, 4096, "v", 0), *r = labelled(m, 4096, "r", 0),
                   *q = labelled(m, 4096, "r2", 0), *s = labelled(m, 100, "s", 0);
    cr_assert(u->small && r->small && s->small);
    cr_expect_eq(small_group(u), small_group(v));
    cr_expect_eq(small_group(r), small_group(q));
    cr_expect_eq(small_group(r), small_group(s)); /* by other rules, but to the same effect */
    cr_expect_neq(small_group(u), small_group(r));
    used_on(u, 0, TERRACE_OVERWRITE, 1);
    used_on(r, 0, TERRACE_OVERWRITE, 2);
    assert_ok(terrace_demote(v, disk_of(m)));
    push_down(u, m);
    assert_forbidden(terrace_demote(r, disk_of(m)), "'r' may not be on diska:0");
    used_on(u, 0, TERRACE_READ, 1);
    used_on(r, 1, TERRACE_READ, 2); /* moves to a group of its own */
    cr_expect(placement_allows(small_group(r)->placement, &m->tier[1]));
    assert_forbidden(terrace_demote(r, disk_of(m)), "'r' may not be on diska:0");
    expect_nowhere_else(2, 1 << HOSTA | 1 << HOSTB);
    terrace_close(m);
}

Test(rules_held, small_tensors_begin_where_they_may, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,hostb:0,diska:0", "limit_host=64M;limit_diska=64M;rules=label=b*:!hosta");
    terrace_tensor *t = labelled(m, 100, "b", 0);
    void *at;
    assert_forbidden(terrace_acquire(t, 0, TERRACE_WRITE, NULL, &at, NULL), "'b' may not be on hosta:0");
    cr_expect_eq(used_on(t, host_of(m), TERRACE_OVERWRITE, 1), 1);
    push_down(t, m);
    cr_expect_eq(used_on(t, host_of(m), TERRACE_READ, 1), 1);
    expect_nowhere_else(1, 1 << HOSTB | 1 << DISKA);
    terrace_close(m);
}

/* ---- what is left in memory ------------------------------------------------------ */

/* A tensor that is overwritten in part, in memory that another had, does not take the
 * other's bytes along. */
Test(rules_held, leftovers_do_not_move, .timeout = 20)
{
    terrace *m = open_ruled("deva:0,hosta:0,diska:0", "limit_deva=256K;limit_hosta=256K;limit_diska=8M;"
                                                      "rules=label=r:!disk");
    for (unsigned i = 0; i < 4; i++) {
        terrace_tier tier = i % 2;
        terrace_tensor *r = labelled(m, SIZE, "r", 0), *u = labelled(m, i < 2 ? SIZE : SIZE - 100, "u", 0);
        void *at;
        used_on(r, tier, TERRACE_OVERWRITE, 1);
        terrace_tensor_destroy(r);
        assert_ok(terrace_acquire(u, tier, i < 2 ? TERRACE_OVERWRITE : TERRACE_WRITE, TERRACE_HOST_SYNC, &at, NULL));
        ruled_fill(ruled_seen(at), 4096, 2, 1);
        assert_ok(terrace_release(u, at, TERRACE_HOST_SYNC));
        if (tier == 0) {
            assert_ok(terrace_demote(u, 1));
            assert_ok(terrace_wait(u));
        }
        push_down(u, m);
        cr_expect_eq(u->copy[2].state, COPY_VALID);
        expect_nowhere_else(1, 1 << DEVA | 1 << HOSTA);
        terrace_tensor_destroy(u);
    }
    terrace_close(m);
}

/* ---- files ------------------------------------------------------------------------ */

Test(rules_held, a_file_is_read_but_what_was_changed_is_not_spilled, .timeout = 20)
{
    char path[80], bytes[SIZE];
    terrace_tensor *t;
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "r"};
    void *at;
    snprintf(path, sizeof path, "/var/tmp/terrace-held.%d", (int)getpid());
    ruled_fill(bytes, SIZE, 1, 1);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    cr_assert(fd >= 0 && write(fd, bytes, SIZE) == SIZE);
    close(fd);
    terrace *m = open_ruled("hosta:0,diska:0", "limit_hosta=128K;limit_diska=8M;rules=label=r:!disk");
    assert_ok(terrace_tensor_open(m, path, 0, SIZE, &attr, &t));
    used_on(t, 0, TERRACE_READ, 1);
    push_down(t, m); /* the file has it */
    cr_expect_eq(t->copy[0].state, COPY_ABSENT);
    assert_ok(terrace_acquire(t, 0, TERRACE_WRITE, NULL, &at, NULL));
    assert_ok(terrace_release(t, at, NULL));
    assert_forbidden(terrace_demote(t, disk_of(m)), "may not be on diska:0");
    for (unsigned i = 0; i < 3; i++)
        used_on(labelled(m, SIZE, "u", 0), 0, TERRACE_OVERWRITE, 2 + i);
    cr_expect_eq(t->copy[0].state, COPY_VALID);
    cr_expect_eq(t->copy[1].extent, NULL);
    terrace_close(m);
    unlink(path);
}

/* ---- shares of devices -------------------------------------------------------------- */

Test(rules_held, a_share_of_device_bytes_is_kept_when_placing, .timeout = 20)
{
    terrace *m = open_ruled(EVERY "rules=keep 50% of device on bvendor");
    terrace_tier device = tier_of(m, "device");
    terrace_tensor *t[8];
    void *at[8];
    terrace_tier where;
    for (unsigned i = 0; i < 8; i++)
        t[i] = labelled(m, SIZE, "t", 0);
    assert_forbidden(terrace_acquire(t[0], DEVA, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &at[0], NULL),
                     "less than 50 % of the bytes on devices would be where a rule wants them");
    cr_expect_eq(used_on(t[0], device, TERRACE_OVERWRITE, 1), DEVB); /* elsewhere */
    assert_ok(terrace_acquire(t[1], device, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &at[1], &where));
    cr_expect_eq(where, DEVA); /* half and half */
    assert_forbidden(terrace_acquire(t[2], DEVA, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &at[2], NULL), "deva:0");
    assert_ok(terrace_release(t[1], at[1], TERRACE_HOST_SYNC));
    used_on(t[2], DEVA, TERRACE_OVERWRITE, 3); /* t[1] leaves for it */
    cr_expect_eq(t[1]->copy[DEVA].state, COPY_ABSENT);
    used_on(t[3], DEVB, TERRACE_OVERWRITE, 4);
    used_on(t[4], DEVA, TERRACE_OVERWRITE, 5);
    cr_expect_eq(t[2]->copy[DEVA].state, COPY_VALID);
    terrace_close(m);
}

/* ---- other rules in force ------------------------------------------------------------- */

Test(rules_held, new_rules_hold_for_tensors_there_are, .timeout = 20)
{
    terrace *m = open_ruled(EVERY);
    terrace_tensor *t = labelled(m, SIZE, "t", 0);
    void *at;
    used_on(t, HOSTA, TERRACE_OVERWRITE, 1);
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_ok(terrace_wait(t));
    used_on(t, HOSTA, TERRACE_READ, 1); /* and so on hosta and diska */
    assert_ok(terrace_rules_set(m, "label=t:!disk"));
    cr_expect_eq(t->copy[DISKA].extent, NULL);
    expect_nowhere_else(1, 1 << HOSTA);
    assert_forbidden(terrace_demote(t, disk_of(m)), "may not be on diska:0");
    assert_forbidden(terrace_rules_set(m, "label=t:!hosta"), "'t' may not be on hosta:0, but is there");
    assert_forbidden(terrace_rules_set(m, "label=t:disk"), "could be on no tier in memory");
    assert_forbidden(terrace_demote(t, disk_of(m)), "\"label=t:!disk\""); /* those before hold */
    assert_ok(terrace_rules_set(m, "label=t:!diska"));
    ruled_denied[1] = 0;
    push_down(t, m);
    cr_expect_eq(t->copy[DISKB].state, COPY_VALID);
    assert_ok(terrace_acquire(t, HOSTB, TERRACE_READ, NULL, &at, NULL));
    assert_forbidden(terrace_rules_set(m, "label=t:!hostb"), "is there");
    assert_ok(terrace_release(t, at, NULL));
    assert_ok(terrace_rules_set(m, "label=t:!hostb")); /* the disk has it */
    expect_nowhere_else(1, 0x3f & ~(1 << HOSTB));
    used_on(t, HOSTA, TERRACE_READ, 1);
    assert_ok(terrace_rules_set(m, NULL));
    used_on(t, HOSTB, TERRACE_READ, 1);
    terrace_close(m);
}

Test(rules_held, new_rules_are_refused_while_bytes_move, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,diska:0", "limit_hosta=1M;limit_diska=8M");
    terrace_tensor *t = labelled(m, SIZE, "t", 0);
    used_on(t, 0, TERRACE_OVERWRITE, 1);
    simnode_hold(&ruled[DISKA].node, true);
    assert_ok(terrace_demote(t, disk_of(m)));
    cr_assert(simnode_await_queued(&ruled[DISKA].node, 1));
    assert_forbidden(terrace_rules_set(m, "*:!disk"), "moving to or from there");
    simnode_hold(&ruled[DISKA].node, false);
    assert_ok(terrace_wait(t));
    assert_forbidden(terrace_rules_set(m, "*:!disk"), "'t' may not be on diska:0, but is there, and nowhere else");
    used_on(t, 0, TERRACE_READ, 1);
    assert_ok(terrace_rules_set(m, "*:!disk"));
    terrace_close(m);
}

Test(rules_held, new_rules_hold_for_groups_that_there_are, .timeout = 20)
{
    terrace *m = open_ruled("hosta:0,hostb:0,diska:0", "limit_host=64M;limit_diska=64M");
    terrace_tensor *a = labelled(m, 4096, "a", 0), *b = labelled(m, 4096, "b", TERRACE_ROLE_WEIGHT);
    used_on(a, 0, TERRACE_OVERWRITE, 1);
    used_on(b, 0, TERRACE_OVERWRITE, 2);
    cr_assert_eq(small_group(a), small_group(b));
    assert_forbidden(terrace_rules_set(m, "label=a:!hosta"), "'");
    assert_ok(terrace_rules_set(m, "role=weight:!disk"));
    assert_forbidden(terrace_demote(a, disk_of(m)), "may not be on diska:0"); /* as the other */
    terrace_tensor *c = labelled(m, 4096, "c", 0), *d = labelled(m, 4096, "d", TERRACE_ROLE_WEIGHT);
    cr_expect_neq(small_group(c), small_group(a));
    cr_expect_neq(small_group(c), small_group(d));
    used_on(c, 0, TERRACE_OVERWRITE, 3);
    push_down(c, m);
    used_on(d, 0, TERRACE_OVERWRITE, 4);
    expect_nowhere_else(2, 1 << HOSTA);
    expect_nowhere_else(4, 1 << HOSTA);
    assert_ok(terrace_rules_set(m, "label=a:!hostb, role=weight:!disk"));
    cr_expect_eq(small_group(b)->placement->denied, 1 << 1 | 1 << 2); /* what either has to obey */
    terrace_close(m);
}

/* ---- address-stable memory -------------------------------------------------------------- */

static void *stable(terrace *m, size_t bytes, const char *label)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
    return terrace_malloc(m, bytes, host_of(m), &attr);
}

Test(rules_held, stable_memory_stays_off_a_forbidden_disk, .timeout = 60)
{
    terrace *m = open_with("numa:0,simdisk:0", 16 * MIB, "log=off;fork=allow;rules=label=r*:!disk");
    char *r = stable(m, 6 * MIB, "r"), *u = stable(m, 32 * MIB, "u");
    cr_assert(r && u, "%s", terrace_last_error());
    cr_assert_null(stable(m, 4 * MIB, "r2"));
    assert_says("rules keep 'r2' in numa:0, where 10.0 MiB of stable memory would have to stay");
    ruled_fill(r, 6 * MIB, 1, 1);
    for (int round = 0; round < 3; round++)
        ruled_fill(u, 32 * MIB, 2, (uint32_t)round + 1);
    cr_assert(ruled_is(u, 32 * MIB, 2, 3) && ruled_is(r, 6 * MIB, 1, 1));
    terrace_tensor *t;
    unsigned blocks = 0;
    cr_expect_gt(stats_of(m).writeback_bytes, 0);
    manager_lock(m);
    LIST_FOREACH(t, &m->all, all)
        if (t->region && t->placement) {
            cr_expect_eq(t->copy[1].extent, NULL);
            blocks++;
        }
    manager_unlock(m);
    cr_expect_eq(blocks, 3);
    pid_t child = fork(); /* which reads what is there, and nothing of it is on the disk */
    if (child == 0)
        _exit(ruled_is(r, 6 * MIB, 1, 1) ? 0 : 1);
    int status;
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_forbidden(terrace_rules_set(m, "*:!disk"), "rules keep 'u' in numa:0");
    terrace_free(m, u);
    assert_ok(terrace_rules_set(m, "*:!disk"));
    cr_assert(ruled_is(r, 6 * MIB, 1, 1));
    terrace_free(m, r);
    terrace_close(m);
}

Test(rules_held, a_file_mapping_needs_both_tiers, .timeout = 60)
{
    terrace *m = open_with("numa:0,nvme:0", 64 * MIB, "log=off;stable=file;rules=label=r*:!disk");
    char *u = stable(m, 8 * MIB, "u");
    cr_assert_not_null(u, "%s", terrace_last_error());
    cr_assert_null(stable(m, 8 * MIB, "r"));
    assert_says("'r' may not be on nvme:0, where a file mapping has its bytes: \"label=r*:!disk\"");
    assert_forbidden(terrace_rules_set(m, "label=u:!nvme"), "'u' may not be on nvme:0");
    terrace_free(m, u);
    assert_ok(terrace_rules_set(m, "label=u:!nvme"));
    terrace_close(m);
}
