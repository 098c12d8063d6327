/* test_ascend_tier.c - tensors on the Ascend (Huawei) tier, on a simulated runtime. */
#include "runtime_ascend.h"

#include "runtime_tier_cases.h"

Test(ascend_tier, without_virtual_memory, .timeout = 240)
{
    sim_set("VMM", 0);
    run_on_device(ALL, "log=error", 30000);
}
