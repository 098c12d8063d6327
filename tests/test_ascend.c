/* test_ascend.c - the Ascend (Huawei) tier by itself, on a simulated runtime. */
#include "runtime_ascend.h"

#include "runtime_cases.h"

int aclInit(const char *configuration);

Test(ascend, somebody_else_may_have_started_the_runtime)
{
    cr_assert_eq(aclInit(NULL), 0);
    start();
    end();
}

/* As older versions do. */
Test(ascend, what_is_allocated_at_once_may_be_limited)
{
    uint64_t base;
    sim_set("ALLOCATION", 64 << 20);
    start();
    cr_assert(t.info.capacity > 56 * M && t.info.capacity <= 62 * M, "%llu", (unsigned long long)t.info.capacity);
    cr_assert_not_null(strstr(t.info.capacity_reason, "the runtime does not allocate more than 0.1 GiB at once"), "%s",
                       t.info.capacity_reason);
    cr_assert_eq(t.b->reserve(t.unit, t.info.capacity, 0, &base), 0, "%s", stub.sentence);
    t.b->release(t.unit, base, t.info.capacity);
    end();
}
