/* test_cnrt.c - the CNRT (Cambricon) tier by itself, on a simulated runtime. */
#include "runtime_cnrt.h"

#include "runtime_cases.h"

Test(runtime_pin, is_refused)
{
    char *memory = pages(M);
    start();
    cr_assert_not_null(strstr(t.info.engine_reason, "it does not register host memory"), "%s", t.info.engine_reason);
    cr_assert_eq(t.b->pin(t.unit, memory, M), -TERRACE_ENOTSUP);
    t.b->unpin(t.unit, memory, M);
    end();
}
