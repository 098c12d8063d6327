/* test_corex_tier.c - tensors on the CoreX (Iluvatar) tier, on a simulated runtime. */
#include "runtime_corex.h"

#include "runtime_tier_cases.h"
