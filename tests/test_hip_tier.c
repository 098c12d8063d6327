/* test_hip_tier.c - tensors on the HIP (AMD, Hygon) tier, on a simulated runtime. */
#include "runtime_hip.h"

#include "runtime_tier_cases.h"
