/* test_copied.c - address-stable memory whose pages are copied, as on kernels that
 * cannot move them (TERRACE_STABLE=copy): the cases of test_stable.c, and how it
 * is said what serves. */
#include "copied.h"
#include "test_stable.c"

#include "simnode.h"

Test(copied, it_is_said_what_serves_and_why)
{
    terrace *m = open_sim(8 * MIB, NULL);
    terrace_free(m, stable_of(m, BLOCK));
    const char *engine = tier_stats_of(m, 0).stable_engine;
    cr_assert(strstr(engine, "userfaultfd, copying pages: TERRACE_STABLE=copy"), "%s", engine);
    terrace_close(m);
    m = open_sim(8 * MIB, "stable=userfaultfd"); /* conf wins */
    terrace_free(m, stable_of(m, BLOCK));
    engine = tier_stats_of(m, 0).stable_engine;
    cr_assert_not(strstr(engine, "TERRACE_STABLE=copy"), "%s", engine);
    terrace_close(m);
}

/* Pages come to a region as new ones, which are to be the tier's node's as well. */
Test(copied, a_region_is_on_its_tiers_node)
{
    terrace *m = open_with("simnode:0,simdisk:0", 8 * MIB, "limit_simnode=8M;stable=userfaultfd");
    terrace_free(m, stable_of(m, 3 * BLOCK));
    bool copies = strstr(tier_stats_of(m, 0).stable_engine, "copying");
    cr_assert_eq(atomic_load(&simnode_adopted), copies ? 3 * BLOCK : 0);
    terrace_close(m);
    atomic_store(&simnode_adopted, 0);
    m = open_with("simnode:0,simdisk:0", 8 * MIB, "limit_simnode=8M");
    terrace_free(m, stable_of(m, 3 * BLOCK));
    cr_assert_eq(atomic_load(&simnode_adopted), 3 * BLOCK);
    terrace_close(m);
}
