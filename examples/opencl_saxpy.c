/* opencl_saxpy.c - y = a x + y on an OpenCL device that holds an eighth of the data.
 *
 * The two vectors are cut into tensors, and terrace brings each pair to the device as
 * its turn comes, and takes others away. A tensor on the device is a cl_mem. The
 * program makes its queue and its kernel in the context that the first of these is
 * of; acquire and release are told the queue, so that nothing here waits for the
 * device until the results are read. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <terrace.h>

#ifndef WITH_OPENCL

int main(void)
{
    puts("opencl_saxpy: built where OpenCL has no headers; install them (Debian: opencl-c-headers,\n"
         "ocl-icd-opencl-dev) and a device or pocl-opencl-icd, then make again");
    return 1;
}

#else

#include <CL/cl.h>

enum { PIECES = 32, COUNT = 1 << 19, BYTES = COUNT * sizeof(float) }; /* 2 x 32 x 2 MiB */

static const char *const source =
    "kernel void saxpy(float a, global const float *x, global float *y)\n"
    "{\n"
    "    y[get_global_id(0)] += a * x[get_global_id(0)];\n"
    "}\n";

static void check(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "opencl_saxpy: %s\n", terrace_last_error());
    exit(1);
}

static void check_cl(cl_int rc)
{
    if (rc == CL_SUCCESS)
        return;
    fprintf(stderr, "opencl_saxpy: OpenCL error %d\n", rc);
    exit(1);
}

/* The vectors' values. */
static float x_of(int piece, int i)
{
    return (float)((piece * 31 + i) % 1000);
}

static float y_of(int piece, int i)
{
    return (float)((piece + 7 * i) % 500);
}

static void vector_fill(terrace_tensor *t, terrace_tier host, int piece, float (*value)(int, int))
{
    void *p;
    check(terrace_acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL));
    for (int i = 0; i < COUNT; i++)
        ((float *)p)[i] = value(piece, i);
    check(terrace_release(t, p, NULL));
}

/* The context and the device behind a tensor. */
static cl_context context_of(terrace_tensor *t, terrace_tier device, cl_device_id *id)
{
    cl_context context;
    void *p;
    check(terrace_acquire(t, device, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    check_cl(clGetMemObjectInfo(p, CL_MEM_CONTEXT, sizeof(cl_context), &context, NULL));
    check_cl(clRetainContext(context));
    check_cl(clGetContextInfo(context, CL_CONTEXT_DEVICES, sizeof(cl_device_id), id, NULL));
    check(terrace_release(t, p, TERRACE_HOST_SYNC));
    return context;
}

static cl_kernel kernel_build(cl_context context, cl_device_id id, const char *name)
{
    cl_int rc;
    const char *text = source;
    cl_program program = clCreateProgramWithSource(context, 1, &text, NULL, &rc);
    check_cl(rc);
    check_cl(clBuildProgram(program, 1, &id, "", NULL, NULL));
    cl_kernel kernel = clCreateKernel(program, name, &rc);
    check_cl(rc);
    clReleaseProgram(program);
    return kernel;
}

static void saxpy(cl_kernel kernel, cl_command_queue queue, terrace_tier device, float a, terrace_tensor *x,
                  terrace_tensor *y)
{
    terrace_access use[2] = {
        {.size = sizeof use[0], .tensor = x, .tier = device, .mode = TERRACE_READ},
        {.size = sizeof use[0], .tensor = y, .tier = device, .mode = TERRACE_WRITE},
    };
    size_t count = COUNT;
    check(terrace_acquire_all(use, 2, queue));
    cl_mem at[2] = {use[0].address, use[1].address};
    check_cl(clSetKernelArg(kernel, 0, sizeof a, &a));
    check_cl(clSetKernelArg(kernel, 1, sizeof(cl_mem), (const void *)&at[0]));
    check_cl(clSetKernelArg(kernel, 2, sizeof(cl_mem), (const void *)&at[1]));
    check_cl(clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &count, NULL, 0, NULL, NULL));
    check(terrace_release(x, use[0].address, queue));
    check(terrace_release(y, use[1].address, queue));
}

static int count_wrong(terrace_tensor *t, terrace_tier host, int piece, float a)
{
    int wrong = 0;
    void *p;
    check(terrace_acquire(t, host, TERRACE_READ, NULL, &p, NULL)); /* once the device has done with it */
    for (int i = 0; i < COUNT; i++)
        wrong += ((float *)p)[i] != a * x_of(piece, i) + y_of(piece, i);
    check(terrace_release(t, p, NULL));
    return wrong;
}

int main(void)
{
    terrace *m;
    terrace_tier device, host;
    terrace_tensor *x[PIECES], *y[PIECES];
    cl_device_id id;
    cl_int rc;
    int wrong = 0;
    const float a = 3;

    if (terrace_open(&m, "tiers=opencl:0,numa:0,nvme:0; limit_opencl=16M; limit_host=64M")) {
        fprintf(stderr, "opencl_saxpy: %s\n", terrace_last_error());
        return 1;
    }
    check(terrace_tier_find(m, "opencl", &device));
    check(terrace_tier_find(m, "host", &host));
    for (int i = 0; i < PIECES; i++) {
        check(terrace_tensor_create(m, BYTES, NULL, &x[i]));
        check(terrace_tensor_create(m, BYTES, NULL, &y[i]));
        vector_fill(x[i], host, i, x_of);
        vector_fill(y[i], host, i, y_of);
    }

    cl_context context = context_of(x[0], device, &id);
    cl_kernel kernel = kernel_build(context, id, "saxpy");
    cl_command_queue queue = clCreateCommandQueue(context, id, 0, &rc);
    check_cl(rc);
    for (int i = 0; i < PIECES; i++) {
        if (i + 1 < PIECES) {
            check(terrace_prefetch(x[i + 1], device));
            check(terrace_prefetch(y[i + 1], device));
        }
        saxpy(kernel, queue, device, a, x[i], y[i]);
    }
    for (int i = 0; i < PIECES; i++)
        wrong += count_wrong(y[i], host, i, a);

    terrace_tier_statistics s = {.size = sizeof s};
    check(terrace_tier_stats(m, 0, &s));
    printf("opencl_saxpy: %.0f MiB of vectors through %.0f MiB of %s (%s): %d values wrong\n",
           2.0 * PIECES * BYTES / 1048576, (double)s.peak / 1048576, s.name, s.location, wrong);
    terrace_close(m); /* it waits for what is under way */
    clReleaseKernel(kernel);
    clReleaseCommandQueue(queue);
    clReleaseContext(context);
    return wrong != 0;
}

#endif
