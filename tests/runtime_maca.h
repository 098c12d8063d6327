/* runtime_maca.h - what tests of the MACA (MetaX) tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_MACA_H
#define TERRACE_TESTS_RUNTIME_MACA_H

#define F(name) mc##name
#define S(name) "mc" #name

#define KIND "maca"
#define API "MACA"
#define LIMIT "TERRACE_LIMIT_MACA"
#define MODEL "Simulated MXC 0"
#define NO_MEMORY_NAME "mcErrorMemoryAllocation (simulated: out of memory)"
#define LOST_NAME "mcErrorIllegalAddress"

#include "runtime_names.h"

static void prepare_kind(void)
{
}

#endif
