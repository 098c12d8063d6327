/* opencl_here.h - whether there is an OpenCL device to test with. */
#ifndef TERRACE_TESTS_OPENCL_HERE_H
#define TERRACE_TESTS_OPENCL_HERE_H

#include <criterion/criterion.h>

#include "../offload/opencl_unit.h"

/* Skips the test where there is none. */
static inline void opencl_needed(void)
{
    struct opencl_found list[OPENCL_MOST];
    char why[300];
    if (opencl_find(list, why, sizeof why) == 0)
        cr_skip_test("not run: %s (Debian's pocl-opencl-icd has one)", why);
}

#endif
