/* test_corex.c - the CoreX (Iluvatar) tier by itself, on a simulated runtime. */
#include "runtime_corex.h"

#include "runtime_cases.h"
#include "runtime_capture_cases.h"
