/* test_sim_program.c - the simulated CUDA driver: what programs call and terrace does not. */
#include "sim/session.h"

TestSuite(sim_program, .timeout = 30, .init = session_begin, .fini = session_end);

Test(sim_program, pitched_memory_has_whole_rows)
{
    CUdeviceptr at;
    size_t pitch;
    ok(cuMemAllocPitch_v2(&at, &pitch, 1000, 3, 4));
    cr_assert(pitch >= 1000 && pitch % 256 == 0);
    ok(cuMemsetD8_v2(at, 1, 3 * pitch));
    ok(cuMemFree_v2(at));
    fails(cuMemAllocPitch_v2(&at, &pitch, 1000, 3, 5), CUDA_ERROR_INVALID_VALUE);
    sim_forget_misuses();
}

Test(sim_program, each_device_has_a_pool)
{
    CUmemoryPool pool;
    CUdeviceptr at;
    CUstream stream = stream_new();
    ok(cuDeviceGetDefaultMemPool(&pool, 0));
    ok(cuMemAllocFromPoolAsync(&at, MIB, pool, stream));
    ok(cuMemFreeAsync(at, stream));
    ok(cuStreamSynchronize(stream));
    fails(cuMemAllocFromPoolAsync(&at, MIB, NULL, stream), CUDA_ERROR_INVALID_VALUE);
    sim_forget_misuses();
    ok(cuStreamDestroy_v2(stream));
}

Test(sim_program, only_allocated_memory_is_shared)
{
    CUipcMemHandle handle;
    CUdeviceptr at = memory_new(MIB), mapped;
    ok(cuIpcGetMemHandle(&handle, at));
    ok(cuMemFree_v2(at));
    ok(cuMemAddressReserve(&mapped, 2 * MIB, 0, 0, 0));
    fails(cuIpcGetMemHandle(&handle, mapped), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemAddressFree(mapped, 2 * MIB));
}

static void run_one(void *arg)
{
    run_step(arg);
}

Test(sim_program, a_kernel_gets_a_copy_of_its_argument)
{
    static const struct sim_function function = {run_one, sizeof(struct step)};
    CUstream stream = stream_new();
    CUdeviceptr at = number_new();
    struct step step = {at, 7, 0};
    size_t offset = 1, bytes = 0;
    ok(cuFuncGetParamInfo((CUfunction)&function, 0, &offset, &bytes));
    cr_assert(offset == 0 && bytes == sizeof step);
    fails(cuFuncGetParamInfo((CUfunction)&function, 1, &offset, &bytes), CUDA_ERROR_INVALID_VALUE);
    sim_hold(1u << SIM_KERNEL);
    ok(cuLaunchKernel((CUfunction)&function, 1, 1, 1, 1, 1, 1, 0, stream, (void *[]){&step}, NULL));
    step.add = 3;
    sim_let_go();
    ok(cuStreamSynchronize(stream));
    cr_assert_eq(number_at(at), 7);
    ok(cuStreamDestroy_v2(stream));
    ok(cuMemFree_v2(at));
}

Test(sim_program, attributes_are_asked_several_at_once)
{
    CUdeviceptr at = memory_new(3 * MIB), base = 0;
    size_t bytes = 0;
    unsigned type = 0;
    CUpointer_attribute which[] = {CU_POINTER_ATTRIBUTE_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR,
                                   CU_POINTER_ATTRIBUTE_RANGE_SIZE};
    ok(cuPointerGetAttributes(3, which, (void *[]){&type, &base, &bytes}, at + MIB));
    cr_assert(type == CU_MEMORYTYPE_DEVICE && base == at && bytes == 3 * MIB);
    cr_assert(sim_on_device(at));
    ok(cuMemFree_v2(at));
    cr_assert_not(sim_on_device(at));
}
