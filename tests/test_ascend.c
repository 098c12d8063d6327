/* test_ascend.c - the Ascend (Huawei) tier by itself, on a simulated runtime. */
#include "runtime_ascend.h"

#include "runtime_cases.h"

int aclInit(const char *configuration);

static void without_virtual_memory(void)
{
    sim_set("VMM", 0);
    prepare();
}

CONFORMANCE(whole, .backend = KIND, .engine = API " runtime", .prepare = without_virtual_memory)

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
    sim_set("VMM", 0);
    sim_set("ALLOCATION", 64 << 20);
    start();
    cr_assert(t.info.capacity > 56 * M && t.info.capacity <= 62 * M, "%llu", (unsigned long long)t.info.capacity);
    cr_assert_not_null(strstr(t.info.capacity_reason, "the runtime does not allocate more than 0.1 GiB at once"), "%s",
                       t.info.capacity_reason);
    cr_assert_eq(t.b->reserve(t.unit, t.info.capacity, 0, &base), 0, "%s", stub.sentence);
    t.b->release(t.unit, base, t.info.capacity);
    end();
}

/* ---- memory behind addresses --------------------------------------------- */

static uint64_t taken(void)
{
    return counted().used[0];
}

Test(ascend_pages, are_there_by_granules_while_a_page_is)
{
    uint64_t base;
    start();
    cr_assert_eq(t.b->reserve(t.unit, 64 * M, 0, &base), 0);
    uint64_t before = taken();
    cr_assert_eq(t.b->commit(t.unit, base + 3 * M, 2 * M), 0); /* half of granules 1 and 2 */
    cr_assert_eq(taken() - before, 2 * GRANULE);
    cr_assert_eq(t.b->commit(t.unit, base + 2 * M, 4096), 0);
    cr_assert_eq(t.b->commit(t.unit, base + 5 * M, M), 0);
    cr_assert_eq(taken() - before, 2 * GRANULE);
    t.b->decommit(t.unit, base + 3 * M, 2 * M);
    cr_assert_eq(taken() - before, 2 * GRANULE);
    t.b->decommit(t.unit, base + 2 * M, 4096);
    cr_assert_eq(taken() - before, GRANULE);
    t.b->decommit(t.unit, base + 5 * M, M);
    cr_assert_eq(taken(), before);
    t.b->release(t.unit, base, 64 * M);
    end();
}

Test(ascend_pages, keep_their_bytes_beside_others)
{
    uint64_t base;
    char *there = pages(M);
    start();
    cr_assert_eq(t.b->reserve(t.unit, 64 * M, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    cr_assert_eq(t.b->commit(t.unit, base + M, M), 0);
    pattern_fill(there, M, 1);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + M, there, M), 0);
    t.b->decommit(t.unit, base, M);
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    t.b->decommit(t.unit, base, M);
    memset(there, 0, M);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base + M, there, M), 0);
    cr_assert(pattern_is(there, M, 1));
    t.b->decommit(t.unit, base + M, M);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base + M, there, M), -TERRACE_EINVAL, "nothing is there any more");
    t.b->release(t.unit, base, 64 * M);
    end();
}

Test(ascend_pages, that_are_not_to_be_had_leave_nothing_behind)
{
    uint64_t base, room;
    start();
    cr_assert_eq(t.b->reserve(t.unit, 512 * M, 0, &base), 0);
    uint64_t before = taken();
    cr_assert_eq(t.b->commit(t.unit, base, 512 * M), -TERRACE_EDEVMEM);
    says(NO_MEMORY_NAME);
    says("lower " LIMIT);
    cr_assert_eq(taken(), before, "what failed left memory behind");
    cr_assert_eq(t.b->commit(t.unit, base, 4 * M), 0);
    cr_assert_eq(t.b->available(t.unit, &room), 0);
    cr_assert(sim_occupy(0, (int64_t)room));
    cr_assert_eq(t.b->commit(t.unit, base + 2 * M, 4 * M), -TERRACE_EDEVMEM);
    cr_assert_eq(taken() - before, 4 * M, "it was half there, and has to stay so");
    t.b->release(t.unit, base, 512 * M);
    cr_assert_eq(taken(), before);
    end();
}

Test(ascend_pages, are_done_without_where_they_do_not_work)
{
    start();
    t.b->close(t.unit);
    sim_fail("aclrtMapMem", 1, 1, 507000);
    cr_assert_eq(t.b->open(&stub_host, 0, &t.info, &t.unit), 0, "%s", stub.sentence);
    cr_assert(t.info.flags & TERRACE_UNIT_WHOLE);
    cr_assert_not_null(strstr(t.info.engine_reason, "all memory is allocated at once, for virtual memory "
                              "ACL_ERROR_RT_INTERNAL_ERROR"), "%s", t.info.engine_reason);
    end();
}
