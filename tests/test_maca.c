/* test_maca.c - the MACA (MetaX) tier by itself, on a simulated runtime. */
#include "runtime_maca.h"

#include "runtime_cases.h"

/* The driver has a code of its own for that. */
Test(maca, memory_that_is_not_to_be_had_is_the_devices)
{
    uint64_t base;
    start();
    sim_fail("mcMalloc", 1, 1, 10007);
    cr_assert_eq(t.b->reserve(t.unit, 4 * M, 0, &base), -TERRACE_EDEVMEM);
    says("mcErrorNoMemory");
    says("lower TERRACE_LIMIT_MACA");
    end();
}
