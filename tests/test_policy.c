/* test_policy.c - who leaves first: the policy's pure functions, on traces. */
#include <criterion/criterion.h>
#include <stddef.h>

#include "policy.h"

/* ---- a tier that is nothing but its policy -------------------------------- */

enum { MOST = 2000, LIMIT = 16 }; /* copies of one byte */

struct sim {
    struct policy policy;
    struct policy_node node[MOST];
    bool resident[MOST];
    uint64_t held;
    unsigned misses;
};

static struct sim sim;

static void sim_open(enum policy_kind kind)
{
    sim = (struct sim){0};
    policy_init(&sim.policy, kind, LIMIT);
    for (int i = 0; i < MOST; i++)
        sim.node[i].bytes = 1;
}

static int index_of(const struct policy_node *n)
{
    return n ? (int)(n - sim.node) : -1;
}

static int sim_evict(void)
{
    struct policy_node *n = policy_victim(&sim.policy, false);
    cr_assert_not_null(n);
    policy_remove(&sim.policy, n);
    policy_evicted(&sim.policy, n);
    sim.resident[index_of(n)] = false;
    sim.held--;
    return index_of(n);
}

static void sim_use(int i)
{
    struct policy_node *n = &sim.node[i];
    if (!sim.resident[i]) {
        sim.misses++;
        if (sim.held == LIMIT)
            sim_evict();
        sim.resident[i] = true;
        sim.held++;
        policy_arrived(&sim.policy, n, false);
    }
    policy_remove(&sim.policy, n);
    policy_used(&sim.policy, n);
    policy_add(&sim.policy, n, false);
}

static void sim_use_range(int from, int to)
{
    for (int i = from; i < to; i++)
        sim_use(i);
}

/* ---- traces ---------------------------------------------------------------- */

Test(policy, lru_evicts_in_order_of_use)
{
    static const int order[] = {4, 0, 5, 2, 3, 1};
    for (int kind = POLICY_AUTO; kind <= POLICY_LRU; kind++) {
        sim_open((enum policy_kind)kind); /* among copies seen once they are the same */
        sim_use_range(0, 6);
        sim_use(0), sim_use(5), sim_use(2), sim_use(3), sim_use(1);
        for (int i = 0; i < 6; i++)
            cr_assert_eq(sim_evict(), order[i]);
        cr_assert_null(policy_victim(&sim.policy, false));
    }
}

/* Misses on eight copies used again after every scan of three times the tier. */
static unsigned hot_misses(enum policy_kind kind)
{
    enum { HOT = 8, SCAN = 3 * LIMIT };
    int next = HOT;
    unsigned misses = 0;
    sim_open(kind);
    for (int i = 0; i < 4; i++) { /* short absences: this is how they prove themselves */
        sim_use_range(0, HOT);
        sim_use_range(next, next + 12);
        next += 12;
    }
    sim_use_range(0, HOT);
    for (int round = 0; round < 20; round++, next += SCAN) {
        sim_use_range(next, next + SCAN);
        sim.misses = 0;
        sim_use_range(0, HOT);
        misses += sim.misses;
    }
    return misses;
}

Test(policy, a_hot_set_survives_scans_with_auto_but_not_with_lru)
{
    cr_assert_eq(hot_misses(POLICY_AUTO), 0);
    cr_assert_eq(hot_misses(POLICY_LRU), 20 * 8);
}

Test(policy, what_comes_back_late_stays_cold)
{
    sim_open(POLICY_AUTO);
    for (int round = 0; round < 3; round++) {
        sim_use(0);
        cr_assert_not(sim.node[0].hot);
        sim_use_range(1, 3 * LIMIT); /* long after half a tier was evicted since */
    }
}

Test(policy, what_comes_back_soon_is_hot)
{
    for (int kind = POLICY_AUTO; kind <= POLICY_LRU; kind++) {
        sim_open((enum policy_kind)kind);
        sim_use_range(0, LIMIT + 1);
        cr_assert_not(sim.resident[0]);
        sim_use(0);
        cr_assert_eq(sim.node[0].hot, kind == POLICY_AUTO);
    }
}

/* ---- the order of leaving -------------------------------------------------- */

/* Adds copy i as if it had been used at `stamp`. */
static void add(int i, bool hot, bool dirty, uint64_t stamp)
{
    struct policy_node *n = &sim.node[i];
    n->hot = hot;
    n->stamp = stamp;
    policy_add(&sim.policy, n, dirty);
}

static int take(bool clean_only)
{
    struct policy_node *n = policy_victim(&sim.policy, clean_only);
    if (n)
        policy_remove(&sim.policy, n);
    return index_of(n);
}

Test(policy, cold_leaves_first_until_a_quarter_of_the_tier)
{
    sim_open(POLICY_AUTO);
    for (int i = 0; i < 6; i++)
        add(i, false, i % 2, 100 + (uint64_t)i);
    add(10, true, false, 1);
    add(11, true, true, 2);
    cr_assert_eq(take(false), 0);
    cr_assert_eq(take(false), 1);
    cr_assert_eq(take(false), 10, "four of sixteen are cold: they may stay");
    cr_assert_eq(take(false), 11);
    for (int i = 2; i < 6; i++)
        cr_assert_eq(take(false), i, "nothing hot is left");
    cr_assert_eq(take(false), -1);
}

Test(policy, what_was_cooled_leaves_before_all)
{
    sim_open(POLICY_AUTO);
    add(0, true, false, 1);
    add(1, false, false, 2);
    sim.node[2].hot = true;
    sim.node[2].stamp = 9;
    policy_cool(&sim.node[2]);
    policy_add(&sim.policy, &sim.node[2], false);
    cr_assert_eq(take(false), 2);
    cr_assert_eq(take(false), 0);
    cr_assert_eq(take(false), 1);
}

Test(policy, clean_only_passes_over_the_dirty)
{
    sim_open(POLICY_AUTO);
    add(0, false, true, 1);
    add(1, false, false, 2);
    add(2, true, true, 3);
    add(3, true, false, 4);
    cr_assert_eq(take(true), 3, "few are cold");
    cr_assert_eq(take(true), 1);
    cr_assert_eq(take(true), -1);
    cr_assert_eq(take(false), 2);
    cr_assert_eq(take(false), 0);
}

Test(policy, the_dirty_are_written_in_the_order_of_leaving)
{
    sim_open(POLICY_AUTO);
    add(0, true, true, 1);
    add(1, false, true, 5);
    add(2, false, true, 4);
    add(3, false, false, 2);
    for (int i = 2; i >= 0; i--) {
        cr_assert_eq(index_of(policy_dirty(&sim.policy)), i);
        policy_remove(&sim.policy, policy_dirty(&sim.policy));
    }
    cr_assert_null(policy_dirty(&sim.policy));
}

Test(policy, a_copy_keeps_its_place_when_added_again)
{
    sim_open(POLICY_LRU);
    sim_use_range(0, 5);
    for (int i = 0; i < 5; i++) { /* out of the lists and back, unused: as after a write-back */
        int k = (i * 3) % 5;
        policy_remove(&sim.policy, &sim.node[k]);
        policy_add(&sim.policy, &sim.node[k], k % 2);
    }
    for (int i = 0; i < 5; i++)
        cr_assert_eq(sim_evict(), i);
}

Test(policy, none_has_no_victims)
{
    sim_open(POLICY_NONE);
    add(0, false, false, 1);
    add(1, false, true, 2);
    cr_assert_null(policy_victim(&sim.policy, false));
    cr_assert_null(policy_victim(&sim.policy, true));
    cr_assert_null(policy_dirty(&sim.policy));
}

Test(policy, the_ahead_flag_follows_the_arrival)
{
    sim_open(POLICY_AUTO);
    policy_arrived(&sim.policy, &sim.node[0], true);
    cr_assert(sim.node[0].ahead);
    policy_arrived(&sim.policy, &sim.node[0], false);
    cr_assert_not(sim.node[0].ahead);
}

Test(policy, byte_counters_follow_and_return_to_zero)
{
    uint64_t clean = 0, dirty = 0;
    sim_open(POLICY_AUTO);
    for (int i = 0; i < 100; i++) {
        sim.node[i].bytes = (uint64_t)i * 7;
        add(i, i % 3 == 0, i % 2, (uint64_t)(100 - i));
        *(i % 2 ? &dirty : &clean) += (uint64_t)i * 7;
        cr_assert_eq(policy_clean_bytes(&sim.policy), clean);
        cr_assert_eq(policy_dirty_bytes(&sim.policy), dirty);
    }
    for (int i = 0; i < 100; i++) {
        policy_remove(&sim.policy, &sim.node[i]);
        policy_remove(&sim.policy, &sim.node[i]); /* not listed any more: nothing happens */
    }
    cr_assert_eq(policy_clean_bytes(&sim.policy), 0);
    cr_assert_eq(policy_dirty_bytes(&sim.policy), 0);
    cr_assert_null(policy_victim(&sim.policy, false));
}
