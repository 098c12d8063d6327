/* gpu_stable.c - the tests of address-stable memory of a device, on one that is there.
 * Those that need the simulated driver are skipped. */
#include "../test_cuda_stable.c"
