/* opencl_driver.c - OpenCL's library, loaded at run time, and its errors.
 *
 * It stays loaded: implementations have threads of their own, and static data that
 * does not come back after dlclose(). A library that is not there, or lacks what
 * OpenCL 1.2 has, is no error of anybody's: there is no such tier then.
 *
 * May call: opencl_driver.h, terrace_backend.h, libc. */
#define _GNU_SOURCE
#include "opencl_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "terrace_backend.h"

struct opencl_driver opencl;

/* ---- loading ------------------------------------------------------------- */

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char failure[300]; /* "" after a success */

static bool symbol_find(void *library, const char *name, bool required, void *to)
{
    void *symbol = dlsym(library, name);
    memcpy(to, &symbol, sizeof symbol);
    if (!symbol && required && !*failure)
        snprintf(failure, sizeof failure, "libOpenCL.so.1 has no %s: OpenCL 1.2 or later is needed", name);
    return symbol || !required;
}

static bool symbols_find(void *library, struct opencl_driver *to)
{
    bool all = true;
#define OPENCL_REQUIRED(name, symbol, result, parameters) all &= symbol_find(library, #symbol, true, &to->name);
#define OPENCL_OPTIONAL(name, symbol, result, parameters) all &= symbol_find(library, #symbol, false, &to->name);
    OPENCL_FUNCTIONS(OPENCL_REQUIRED, OPENCL_OPTIONAL)
    if (all && !to->queue_create && !to->queue_create_with)
        all = symbol_find(library, "clCreateCommandQueue", true, &to->queue_create);
    return all;
}

static void load(void)
{
    struct opencl_driver found = {0};
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        snprintf(failure, sizeof failure, "no OpenCL library: %s", dlerror());
        return;
    }
    if (symbols_find(library, &found))
        opencl = found;
}

bool opencl_load(char *why, size_t len)
{
    pthread_once(&once, load);
    snprintf(why, len, "%s", failure);
    return !*failure;
}

/* ---- errors -------------------------------------------------------------- */

int opencl_error(opencl_int code)
{
    switch (code) {
    case OPENCL_OK:
        return 0;
    case OPENCL_MEM_OBJECT_ALLOCATION_FAILURE:
    case OPENCL_OUT_OF_RESOURCES:
        return -TERRACE_EDEVMEM;
    case OPENCL_OUT_OF_HOST_MEMORY:
        return -TERRACE_ENOMEM;
    case OPENCL_INVALID_BUFFER_SIZE:
        return -TERRACE_ENOTSUP;
    default: /* from INVALID_VALUE to the last of the kind: an argument */
        return code <= OPENCL_INVALID_VALUE && code > -100 ? -TERRACE_EINVAL : -TERRACE_EDEVICE;
    }
}

static const char *name_of(opencl_int code)
{
    switch (code) {
#define OPENCL_ERROR_NAME(name, value) \
    case value:                        \
        return "CL_" #name;
        OPENCL_ERRORS(OPENCL_ERROR_NAME)
#undef OPENCL_ERROR_NAME
    default:
        return "OpenCL error";
    }
}

void opencl_text(opencl_int code, char *buf, size_t len)
{
    snprintf(buf, len, "%s (%d)", name_of(code), code);
}
