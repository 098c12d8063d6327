/* test_hip.c - the HIP (AMD, Hygon) tier by itself, on a simulated runtime. */
#define F(name) hip##name
#define S(name) "hip" #name
#define CAPTURES
#define KIND "hip"
#define API "HIP"
#define LIMIT "TERRACE_LIMIT_HIP"
#define MODEL "Simulated AMD accelerator 0"
#define NO_MEMORY_NAME "hipErrorOutOfMemory (simulated: out of memory)"
#define LOST_NAME "hipErrorIllegalAddress"

#include "runtime_names.h"

static void prepare_kind(void)
{
}

#include "runtime_cases.h"
#include "runtime_capture_cases.h"
