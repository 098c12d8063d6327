/* test_cnrt_tier.c - tensors on the CNRT (Cambricon) tier, on a simulated runtime. */
#include "runtime_cnrt.h"

#include "runtime_tier_cases.h"
