/* test_cuda_random.c - the random operations of test_random.c with the NVIDIA tier
 * among the others, on a simulated driver. */
#include <stdint.h>
#include <stdio.h>

#include "sim_books.h"

static void *seen(void *at)
{
    void *there = sim_memory((uintptr_t)at, 1);
    return there ? there : at;
}

#define RANDOM_DEVICE
#include "test_random.c"

#define CUDA "cuda:0,numa:0,simdisk:0"
#define CUDA_AND_NODES "cuda:0,numa:0,simnode:0,simdisk:0"

static void run_on_device(const char *tiers, const char *conf, unsigned long operations)
{
    run(tiers, conf, operations);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

Test(cuda_random, device, .timeout = 240) { run_on_device(CUDA, "log=error", 100000); }
Test(cuda_random, device_and_nodes, .timeout = 240) { run_on_device(CUDA_AND_NODES, "log=error", 100000); }
Test(cuda_random, device_encrypted, .timeout = 240) { run_on_device(CUDA, "log=error;encrypt=1", 50000); }
Test(cuda_random, device_lru, .timeout = 240) { run_on_device(CUDA, "log=error;policy=lru;prefetch=1M", 50000); }

Test(cuda_random, device_without_virtual_memory, .timeout = 240)
{
    sim_set("VMM", 0);
    run_on_device(CUDA, "log=error", 50000);
}

Test(cuda_random, device_and_failing_disk, .timeout = 240)
{
    w.faults = true;
    run_on_device(CUDA_AND_NODES, "log=off", 50000);
}

/* Others have most of its memory. */
Test(cuda_random, device_without_memory, .timeout = 240)
{
    cr_assert(sim_occupy(0, 246 * MIB));
    run_on_device(CUDA, "log=off", 50000);
}
