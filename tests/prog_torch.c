/* prog_torch.c - PyTorch's door as torch goes through it: the library loaded at run
 * time, its functions by their names, blocks of two streams at once, on the driver
 * that libcuda.so.1 is.
 * usage: prog_torch LIBTERRACE */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCKS = 200, MIB = 1 << 20 };

typedef int init_fn(unsigned), retain_fn(void **, int), set_fn(void *), create_fn(void **, unsigned), finish_fn(void);
typedef void *alloc_fn(size_t, int, void *);
typedef void free_fn(void *, size_t, int, void *);
typedef void record_fn(void *, void *);
typedef void *base_fn(void *, size_t *);
typedef int launch_fn(void *, void (*)(void *), void *, uint64_t);
typedef void *memory_fn(uint64_t, size_t);
typedef const char *text_fn(void);

static memory_fn *memory;
static int wrong;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("prog_torch: ", stdout);
    vprintf(format, args);
    putchar('\n');
    exit(1);
}

static void *symbol(void *library, const char *name)
{
    void *p = dlsym(library, name);
    if (!p)
        die("%s", dlerror());
    return p;
}

struct kernel {
    char *at;
    size_t bytes;
    int expected, value; /* -1: none */
};

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    char *p = memory((uintptr_t)k->at, k->bytes);
    wrong += !p || (k->expected >= 0 && (p[0] != (char)k->expected || p[k->bytes - 1] != (char)k->expected));
    if (p && k->value >= 0)
        memset(p, k->value, k->bytes);
    free(k);
}

int main(int argc, char **argv)
{
    void *terrace = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL, *driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!terrace || !driver)
        die("%s", argc > 1 ? dlerror() : "usage: prog_torch LIBTERRACE");
    alloc_fn *take = (alloc_fn *)(uintptr_t)symbol(terrace, "terrace_torch_alloc");
    free_fn *give = (free_fn *)(uintptr_t)symbol(terrace, "terrace_torch_free");
    record_fn *record = (record_fn *)(uintptr_t)symbol(terrace, "terrace_torch_record_stream");
    base_fn *base = (base_fn *)(uintptr_t)symbol(terrace, "terrace_torch_base_alloc");
    text_fn *why = (text_fn *)(uintptr_t)symbol(terrace, "terrace_last_error");
    launch_fn *launch = (launch_fn *)(uintptr_t)symbol(driver, "sim_launch");
    init_fn *init = (init_fn *)(uintptr_t)symbol(driver, "cuInit");
    retain_fn *retain = (retain_fn *)(uintptr_t)symbol(driver, "cuDevicePrimaryCtxRetain");
    set_fn *set = (set_fn *)(uintptr_t)symbol(driver, "cuCtxSetCurrent");
    create_fn *create = (create_fn *)(uintptr_t)symbol(driver, "cuStreamCreate");
    finish_fn *finish = (finish_fn *)(uintptr_t)symbol(driver, "cuCtxSynchronize");
    memory = (memory_fn *)(uintptr_t)symbol(driver, "sim_memory");
    void *context, *stream[2];
    if (init(0) || retain(&context, 0) || set(context) || create(&stream[0], 1) || create(&stream[1], 1))
        die("the driver does not work");
    for (int i = 0; i < BLOCKS; i++) { /* together far more than the device has */
        void *mine = stream[i % 2], *other = stream[1 - i % 2];
        size_t bytes = (size_t)(1 + i % 5) * MIB, said;
        char *p = take(bytes, 0, mine);
        if (!p)
            die("block %d: %s", i, why());
        if (base(p + bytes / 2, &said) != p || said != bytes)
            die("block %d is not found again", i);
        struct kernel *first = malloc(sizeof *first), *second = malloc(sizeof *second);
        *first = (struct kernel){p, bytes, -1, i % 100};
        *second = (struct kernel){p, bytes, i % 100, -1};
        if (launch(mine, kernel_run, first, 2000000) || launch(mine, kernel_run, second, 0))
            die("block %d: a kernel is refused", i);
        if (i % 3 == 0) {
            struct kernel *third = malloc(sizeof *third);
            *third = (struct kernel){p, bytes, -1, -1};
            record(p, other);
            if (launch(other, kernel_run, third, 1000000))
                die("block %d: a kernel is refused", i);
        }
        give(p, bytes, 0, mine);
    }
    if (finish())
        die("the driver failed");
    if (wrong)
        die("%d kernels did not find what was there", wrong);
    return 0;
}
