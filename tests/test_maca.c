/* test_maca.c - the MACA (MetaX) tier by itself, on a simulated runtime. */
#include "runtime_maca.h"

#include "runtime_cases.h"
