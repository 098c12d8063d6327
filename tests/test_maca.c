/* test_maca.c - the MACA (MetaX) tier by itself, on a simulated runtime. */
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

#include "runtime_cases.h"

