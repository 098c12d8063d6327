/* cudart.c - a program that uses the CUDA runtime. LOADED: it loads the library; else it is
 * linked with it. The runtime looks for all of the driver's functions before it finds
 * that a simulated driver is not NVIDIA's, and refuses it. */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdio.h>

int main(void)
{
    void *at = NULL;
    cudaError_t (*allocate)(void **, size_t);
#ifdef LOADED
    void *library = dlopen(LOADED, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return puts(dlerror()), 2;
    *(void **)&allocate = dlsym(library, "cudaMalloc");
#else
    allocate = cudaMalloc;
#endif
    cudaError_t r = allocate(&at, 4 << 20);
    printf("cudaMalloc gives %d\n", r);
    return 0;
}
