/* runtime_hip.h - what tests of the HIP (AMD, Hygon) tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_HIP_H
#define TERRACE_TESTS_RUNTIME_HIP_H

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

#endif
