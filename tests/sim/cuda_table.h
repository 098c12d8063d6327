/* cuda_table.h - what the files of the simulated CUDA driver share. */
#ifndef TERRACE_TESTS_SIM_CUDA_TABLE_H
#define TERRACE_TESTS_SIM_CUDA_TABLE_H

#include "cuda_abi.h"
#include "stream.h"

/* How each exported function begins. */
#define ENTER(conditions)                                         \
    do {                                                          \
        static struct entry entry = {.name = __func__};           \
        int refused = entry_enter(&entry, ENTRY_INIT | (conditions)); \
        if (refused)                                              \
            return refused;                                       \
    } while (0)

/* Ends a call that was given what it must not be; says so. */
int cuda_misused(const char *call, const char *what);
#define MISUSED(what) cuda_misused(__func__, what)

/* What the engine knows a CUDA stream as; CU_STREAM_LEGACY is the default one,
 * CU_STREAM_PER_THREAD one of the thread's own. */
uint64_t cuda_stream(CUstream stream);

#endif /* TERRACE_TESTS_SIM_CUDA_TABLE_H */
