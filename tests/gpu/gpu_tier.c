/* gpu_tier.c - the tests of tensors on the NVIDIA tier, on a device that is there.
 * Those that need the simulated driver are skipped. */
#include "../test_cuda_tier.c"
