/* test_hip.c - the HIP (AMD, Hygon) tier by itself, on a simulated runtime. */
#include "runtime_hip.h"

#include "runtime_cases.h"
#include "runtime_capture_cases.h"
