/* backend_tools.h - what the use of a tier backend without the core needs: temporary
 * folders, counts of what a process holds, patterns, one copy. Everything is static;
 * include it once per program.
 * May call: terrace_backend.h, libc. */
#ifndef TERRACE_CLI_BACKEND_TOOLS_H
#define TERRACE_CLI_BACKEND_TOOLS_H

#include <dirent.h>
#include <ftw.h>
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

/* ---- folders ------------------------------------------------------------- */

enum { STUB_FOLDERS = 3 };
static char stub_folder[STUB_FOLDERS][256];
static char stub_folders[STUB_FOLDERS * 256 + 8]; /* all of them, as TERRACE_NVME_PATH */

/* Makes n temporary folders. */
STUB void folders_create(unsigned n)
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
    // cppcheck-suppress readdirCalled -- the stream is this function's own
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
