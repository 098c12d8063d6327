/* opencl_work.h - kernels that write and check the patterns of manager.h, for tests
 * of what programs do with the OpenCL tier. */
#ifndef TERRACE_TESTS_OPENCL_WORK_H
#define TERRACE_TESTS_OPENCL_WORK_H

#include <CL/cl.h>

#include "manager.h"

static const char *const work_source =
    "ulong pattern(ulong seed, ulong i) { ulong x = (seed << 32) ^ i; x *= 0x9e3779b97f4a7c15ul; return x ^ x >> 29; }\n"
    "kernel void fill(global ulong *p, ulong seed) { p[get_global_id(0)] = pattern(seed, get_global_id(0)); }\n"
    "kernel void check(global const ulong *p, ulong seed, ulong more, global uint *wrong) {\n"
    "    if (p[get_global_id(0)] != pattern(seed, get_global_id(0)) + more) atomic_inc(wrong);\n"
    "}\n"
    "kernel void add(global ulong *p, ulong more) { p[get_global_id(0)] += more; }\n";

/* What a program makes of the context that it finds. */
static struct {
    cl_context context;
    cl_device_id device;
    cl_program program;
    bool pointers; /* handles are pointers of shared virtual memory */
    cl_mem wrong; /* how many words were not what they should be */
} work;

#define assert_cl(call)                                                                    \
    do {                                                                                   \
        cl_int assert_cl_r = (call);                                                       \
        cr_assert(assert_cl_r == CL_SUCCESS, "%s: OpenCL error %d", #call, assert_cl_r);   \
    } while (0)

/* From any handle of the tier. */
static inline void work_open(void *handle)
{
    cl_uint zero = 0;
    cl_int r;
    assert_cl(clGetMemObjectInfo(handle, CL_MEM_CONTEXT, sizeof work.context, &work.context, NULL));
    assert_cl(clRetainContext(work.context));
    assert_cl(clGetContextInfo(work.context, CL_CONTEXT_DEVICES, sizeof work.device, &work.device, NULL));
    const char *source = work_source;
    work.program = clCreateProgramWithSource(work.context, 1, &source, NULL, &r);
    assert_cl(r);
    assert_cl(clBuildProgram(work.program, 1, &work.device, "", NULL, NULL));
    work.wrong = clCreateBuffer(work.context, CL_MEM_COPY_HOST_PTR, sizeof zero, &zero, &r);
    assert_cl(r);
}

static inline void work_close(void)
{
    clReleaseMemObject(work.wrong);
    clReleaseProgram(work.program);
    clReleaseContext(work.context);
}

static inline cl_command_queue work_queue(bool in_order)
{
    cl_int r;
    cl_command_queue q = clCreateCommandQueue(work.context, work.device,
                                              in_order ? 0 : CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE, &r);
    assert_cl(r);
    return q;
}

static inline void work_put(cl_command_queue q, const char *name, void *at, size_t bytes, cl_ulong a, cl_ulong b)
{
    cl_int r;
    size_t words = bytes / sizeof(cl_ulong);
    cl_mem memory = at;
    cl_kernel k = clCreateKernel(work.program, name, &r);
    assert_cl(r);
    if (work.pointers)
        assert_cl(clSetKernelArgSVMPointer(k, 0, at));
    else
        assert_cl(clSetKernelArg(k, 0, sizeof memory, &memory));
    assert_cl(clSetKernelArg(k, 1, sizeof a, &a));
    if (*name == 'c') {
        assert_cl(clSetKernelArg(k, 2, sizeof b, &b));
        assert_cl(clSetKernelArg(k, 3, sizeof work.wrong, &work.wrong));
    }
    assert_cl(clEnqueueNDRangeKernel(q, k, 1, NULL, &words, NULL, 0, NULL, NULL));
    clReleaseKernel(k);
}

static inline unsigned work_wrong(cl_command_queue q)
{
    cl_uint wrong = 0;
    assert_cl(clEnqueueReadBuffer(q, work.wrong, CL_TRUE, 0, sizeof wrong, &wrong, 0, NULL, NULL));
    return wrong;
}

/* What is put into the queue from now on waits for the event that this returns. */
static inline cl_event work_hold(cl_command_queue q)
{
    cl_int r;
    cl_event event = clCreateUserEvent(work.context, &r);
    assert_cl(r);
    assert_cl(clEnqueueBarrierWithWaitList(q, 1, &event, NULL));
    return event;
}

static inline void work_let_go(cl_event event, cl_int status)
{
    assert_cl(clSetUserEventStatus(event, status));
    clReleaseEvent(event);
}

#endif
