/* test_ascend_tier.c - tensors on the Ascend (Huawei) tier, on a simulated runtime. */
#include "runtime_ascend.h"

#include "runtime_tier_cases.h"
