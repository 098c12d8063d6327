/* test_musa.c - the MUSA (Moore Threads) tier by itself, on a simulated runtime. */
#define F(name) musa##name
#define S(name) "musa" #name
#define CAPTURES
#define KIND "musa"
#define API "MUSA"
#define LIMIT "TERRACE_LIMIT_MUSA"
#define MODEL "Simulated MTT 0"
#define NO_MEMORY_NAME "musaErrorMemoryAllocation (simulated: out of memory)"
#define LOST_NAME "musaErrorIllegalAddress"

#include "runtime_names.h"

static void prepare_kind(void)
{
}

#include "runtime_cases.h"
#include "runtime_capture_cases.h"
