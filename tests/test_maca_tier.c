/* test_maca_tier.c - tensors on the MACA (MetaX) tier, on a simulated runtime. */
#include "runtime_maca.h"

#include "runtime_tier_cases.h"
