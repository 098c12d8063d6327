/* runtime_musa.h - what tests of the MUSA (Moore Threads) tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_MUSA_H
#define TERRACE_TESTS_RUNTIME_MUSA_H

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

#endif
