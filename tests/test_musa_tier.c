/* test_musa_tier.c - tensors on the MUSA (Moore Threads) tier, on a simulated runtime. */
#include "runtime_musa.h"

#include "runtime_tier_cases.h"
