/* backend_stub.h - what a test needs to use a tier backend without the core: the
 * services a core offers, and the table by name. Everything is static; include it once
 * per program. */
#ifndef TERRACE_TESTS_BACKEND_STUB_H
#define TERRACE_TESTS_BACKEND_STUB_H

#include <stdarg.h>

#include "cli/backend_tools.h"

extern const terrace_backend *const __start_terrace_backends[] __attribute__((visibility("hidden")));
extern const terrace_backend *const __stop_terrace_backends[] __attribute__((visibility("hidden")));

STUB const terrace_backend *backend_named(const char *name)
{
    for (const terrace_backend *const *b = __start_terrace_backends; b < __stop_terrace_backends; b++)
        if (!strcmp((*b)->name, name))
            return *b;
    return NULL;
}

/* ---- the services -------------------------------------------------------- */

static struct {
    const char *nvme_path, *io, *cuda_host_memory; /* options */
    char sentence[1024];        /* the last failure */
    char logged[1024];          /* the last message */
} stub;
static const char *stub_tiers; /* one more option */

static const char *stub_option(void *context, const char *name)
{
    if (!strcmp(name, "TIERS"))
        return stub_tiers;
    (void)context;
    return !strcmp(name, "NVME_PATH") ? stub.nvme_path
         : !strcmp(name, "IO") ? stub.io
         : !strcmp(name, "CUDA_HOST_MEMORY") ? stub.cuda_host_memory : NULL;
}

__attribute__((format(printf, 3, 4))) static void stub_log(void *context, int level, const char *format, ...)
{
    va_list args;
    (void)context, (void)level;
    va_start(args, format);
    vsnprintf(stub.logged, sizeof stub.logged, format, args);
    va_end(args);
}

__attribute__((format(printf, 3, 4))) static int stub_fail(void *context, int err, const char *format, ...)
{
    va_list args;
    (void)context;
    va_start(args, format);
    vsnprintf(stub.sentence, sizeof stub.sentence, format, args);
    va_end(args);
    return err;
}

static const terrace_host stub_host = {
    .size = sizeof(terrace_host), .option = stub_option, .log = stub_log, .fail = stub_fail,
};

/* ---- folders ------------------------------------------------------------- */

/* Makes n temporary folders and sets the option to them. */
STUB void folders_make(unsigned n)
{
    folders_create(n);
    stub.nvme_path = stub_folders;
}

/* Bytes on disk of the unnamed files this process has open. */
STUB long long blocks_used(void)
{
    long long sum = 0;
    struct stat is;
    for (int fd = 3; fd < 100; fd++)
        if (!fstat(fd, &is) && S_ISREG(is.st_mode) && !is.st_nlink)
            sum += is.st_blocks * 512LL;
    return sum;
}

#endif
