/* backend_stub.h - what a test needs to use a tier backend without the core:
 * the services a core offers, the table by name, temporary folders, counts of
 * what a process holds. Everything is static; include it once per program. */
#ifndef TERRACE_TESTS_BACKEND_STUB_H
#define TERRACE_TESTS_BACKEND_STUB_H

#include <dirent.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "terrace_backend.h"

#define STUB __attribute__((unused)) static

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

static const char *stub_option(void *context, const char *name)
{
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

enum { STUB_FOLDERS = 3 };
static char stub_folder[STUB_FOLDERS][256];
static char stub_folders[STUB_FOLDERS * 256 + 8]; /* all of them, as TERRACE_NVME_PATH */

/* Makes n temporary folders and sets the option to them. */
STUB void folders_make(unsigned n)
{
    const char *parent = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    stub_folders[0] = 0;
    for (unsigned i = 0; i < n; i++) {
        snprintf(stub_folder[i], sizeof stub_folder[i], "%s/terrace-test.XXXXXX", parent);
        if (!mkdtemp(stub_folder[i])) {
            perror(stub_folder[i]);
            abort();
        }
        snprintf(stub_folders + strlen(stub_folders), sizeof stub_folders - strlen(stub_folders), "%s%s",
                 i ? ":" : "", stub_folder[i]);
    }
    stub.nvme_path = stub_folders;
}

static int folders_remove_one(const char *path, const struct stat *is, int type, struct FTW *where)
{
    (void)is, (void)type, (void)where;
    return remove(path);
}

STUB void folders_remove(void)
{
    for (unsigned i = 0; i < STUB_FOLDERS; i++)
        if (stub_folder[i][0]) {
            nftw(stub_folder[i], folders_remove_one, 16, FTW_DEPTH | FTW_PHYS);
            stub_folder[i][0] = 0;
        }
}

/* ---- counting ------------------------------------------------------------ */

STUB unsigned entries_in(const char *path)
{
    unsigned n = 0;
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.' || (e->d_name[1] && strcmp(e->d_name, ".."));
    if (d)
        closedir(d);
    return n;
}

STUB unsigned fds_open(void)
{
    return entries_in("/proc/self/fd");
}

/* The kernel's own workers for a ring end a little after it: waits for them. */
STUB bool threads_settle(unsigned want)
{
#ifdef __SANITIZE_THREAD__
    want++; /* the sanitizer's own */
#endif
    for (int i = 0; i < 500 && entries_in("/proc/self/task") > want; i++)
        usleep(10000);
    return entries_in("/proc/self/task") <= want;
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

STUB int64_t stub_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ---- memory and patterns ------------------------------------------------- */

STUB void *pages(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

/* Bytes that depend on seed and position. */
STUB void pattern_fill(void *memory, size_t bytes, uint64_t seed)
{
    uint64_t *word = memory;
    for (size_t i = 0; i < bytes / 8; i++)
        word[i] = (seed + i + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

STUB bool pattern_is(const void *memory, size_t bytes, uint64_t seed)
{
    uint64_t word;
    for (size_t i = 0; i < bytes; i += 8) {
        word = (seed + i / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);
        if (memcmp((const char *)memory + i, &word, bytes - i < 8 ? bytes - i : 8))
            return false;
    }
    return true;
}

/* ---- copies -------------------------------------------------------------- */

/* Submits one copy and waits for it; its result. */
STUB int copy_now(const terrace_backend *b, void *unit, terrace_io *io)
{
    terrace_io *done = NULL;
    int n = b->submit(unit, &io, 1);
    if (n != 1)
        return n < 0 ? n : -TERRACE_EAGAIN;
    do
        n = b->wait(unit, &done, 1, -1);
    while (n == 0);
    return n < 0 ? n : done != io ? -TERRACE_EINVAL : io->result;
}

#endif
