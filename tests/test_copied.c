/* test_copied.c - address-stable memory whose pages are copied, as on kernels that
 * cannot move them (TERRACE_STABLE=copy): the cases of test_stable.c, and how it
 * is said what serves. */
#include "copied.h"
#include "test_stable.c"

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
