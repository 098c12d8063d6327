/* gpt_mixed_opencl.c - gpt_mixed's kernels on an OpenCL device, in the context that
 * terrace has for it, in one queue that works in order. An array is a cl_mem. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "gpt_mixed_engine.h"

#ifndef WITH_OPENCL

static const char *absent(void *array, void **stream)
{
    (void)array;
    *stream = NULL;
    return "this was built where OpenCL has no headers; install them (Debian: opencl-c-headers, ocl-icd-opencl-dev)";
}

const engine engine_opencl = {.kind = "opencl", .open = absent};

#else

#include <CL/cl.h>

/* The text of gpt_mixed.cl. */
extern const char kernels_text[], kernels_end[];
__asm__(".section .rodata\n"
        ".hidden kernels_text\n.hidden kernels_end\n.globl kernels_text\n.globl kernels_end\n"
        "kernels_text: .incbin \"examples/gpt_mixed.cl\"\n"
        "kernels_end: .byte 0\n"
        ".previous\n");

static struct {
    cl_context context;
    cl_device_id device;
    cl_command_queue queue;
    cl_kernel kernel[KERNEL_COUNT];
} cl;

static const char *said(const char *what, cl_int error)
{
    static char why[120];
    snprintf(why, sizeof why, "%s: OpenCL error %d", what, error);
    return why;
}

static void must(const char *what, cl_int error)
{
    if (error)
        engine_fail("%s", said(what, error));
}

/* What does not compile is told by the compiler. */
static void print_log(cl_program program)
{
    char log[4000] = "";
    clGetProgramBuildInfo(program, cl.device, CL_PROGRAM_BUILD_LOG, sizeof log - 1, log, NULL);
    fputs(log, stderr);
}

/* Divisions are rounded as C's are where the device can; most do anyway. */
static cl_int build(cl_program program)
{
    cl_device_fp_config config = 0;
    clGetDeviceInfo(cl.device, CL_DEVICE_SINGLE_FP_CONFIG, sizeof config, &config, NULL);
    bool exact = config & CL_FP_CORRECTLY_ROUNDED_DIVIDE_SQRT;
    return clBuildProgram(program, 1, &cl.device, exact ? "-cl-fp32-correctly-rounded-divide-sqrt" : "", NULL, NULL);
}

static const char *kernels_build(void)
{
    static const char *const names[KERNEL_COUNT] = {
#define NAME(name) #name,
        KERNELS(NAME)
#undef NAME
    };
    const char *text = kernels_text;
    size_t bytes = (size_t)(kernels_end - kernels_text);
    cl_int r;
    cl_program program = clCreateProgramWithSource(cl.context, 1, &text, &bytes, &r);
    if (!program)
        return said("clCreateProgramWithSource", r);
    r = build(program);
    if (r)
        print_log(program);
    for (int i = 0; i < KERNEL_COUNT && r == CL_SUCCESS; i++)
        cl.kernel[i] = clCreateKernel(program, names[i], &r);
    clReleaseProgram(program);
    return r ? said("compiling gpt_mixed.cl", r) : NULL;
}

static const char *opencl_open(void *array, void **stream)
{
    cl_int r = clGetMemObjectInfo(array, CL_MEM_CONTEXT, sizeof cl.context, (void *)&cl.context, NULL);
    if (cl.queue) { /* the same device, for moments, too */
        *stream = cl.queue;
        return NULL;
    }
    if (r == CL_SUCCESS)
        r = clGetContextInfo(cl.context, CL_CONTEXT_DEVICES, sizeof cl.device, (void *)&cl.device, NULL);
    if (r == CL_SUCCESS)
        r = clRetainContext(cl.context);
    if (r == CL_SUCCESS)
        cl.queue = clCreateCommandQueue(cl.context, cl.device, 0, &r);
    *stream = cl.queue;
    return r ? said("making a queue", r) : kernels_build();
}

static void opencl_close(void)
{
    for (int i = 0; i < KERNEL_COUNT; i++)
        clReleaseKernel(cl.kernel[i]);
    clReleaseCommandQueue(cl.queue);
    clReleaseContext(cl.context);
    memset(&cl, 0, sizeof cl);
}

static void opencl_run(const work *w)
{
    cl_kernel k = cl.kernel[w->kernel];
    cl_int r = CL_SUCCESS;
    for (cl_uint i = 0; i < ARRAYS; i++) {
        cl_mem array = w->array[i];
        r |= clSetKernelArg(k, i, sizeof array, (const void *)&array);
    }
    r |= clSetKernelArg(k, ARRAYS, sizeof w->n, &w->n);
    must("a kernel's arguments", r);
    must("a kernel", clEnqueueNDRangeKernel(cl.queue, k, 1, NULL, &w->items, NULL, 0, NULL, NULL));
}

static void *opencl_take(size_t bytes)
{
    return clCreateBuffer(cl.context, CL_MEM_READ_WRITE, bytes, NULL, NULL);
}

static void opencl_give(void *array)
{
    if (array)
        must("freeing memory", clReleaseMemObject(array));
}

static void opencl_put(void *to, const void *from, size_t bytes)
{
    must("copying to the device", clEnqueueWriteBuffer(cl.queue, to, CL_TRUE, 0, bytes, from, 0, NULL, NULL));
}

static void opencl_get(void *to, const void *from, size_t bytes)
{
    must("copying from the device",
         clEnqueueReadBuffer(cl.queue, (void *)(size_t)from, CL_TRUE, 0, bytes, to, 0, NULL, NULL));
}

static void opencl_copy(void *to, const void *from, size_t bytes)
{
    must("copying", clEnqueueCopyBuffer(cl.queue, (void *)(size_t)from, to, 0, 0, bytes, 0, NULL, NULL));
}

static void opencl_zero(void *to, size_t bytes)
{
    const cl_float nothing = 0;
    must("clearing", clEnqueueFillBuffer(cl.queue, to, &nothing, sizeof nothing, 0, bytes, 0, NULL, NULL));
}

const engine engine_opencl = {.kind = "opencl", .open = opencl_open, .close = opencl_close, .run = opencl_run,
                              .take = opencl_take, .give = opencl_give, .put = opencl_put, .get = opencl_get,
                              .copy = opencl_copy, .zero = opencl_zero};

#endif
