/* test_musa.c - the MUSA (Moore Threads) tier by itself, on a simulated runtime. */
#include "runtime_musa.h"

#include "runtime_cases.h"
#include "runtime_capture_cases.h"
