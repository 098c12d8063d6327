/* runtime_corex.h - what tests of the CoreX (Iluvatar) tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_COREX_H
#define TERRACE_TESTS_RUNTIME_COREX_H

#define F(name) cuda##name
#define S(name) "cuda" #name
#define CAPTURES
#define KIND "corex"
#define API "CoreX"
#define LIMIT "TERRACE_LIMIT_COREX"
#define MODEL "Iluvatar simulated 0"
#define NO_MEMORY_NAME "cudaErrorMemoryAllocation (simulated: out of memory)"
#define LOST_NAME "cudaErrorIllegalAddress"

#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "runtime_names.h"

/* It is found in its own folder only. */
static void prepare_kind(void)
{
    char home[PATH_MAX];
    Dl_info library;
    cr_assert(dladdr((void *)cudaGetDevice, &library));
    cr_assert_not_null(realpath(library.dli_fname, home));
    *strstr(home, "/lib64/") = '\0';
    cr_assert_eq(setenv("COREX_HOME", home, 1), 0);
}

#endif
