/* guard.c - who must not be given terrace's memory: terrace itself.
 *
 * It would wait for itself: for its own locks, or for a page that only it can
 * bring. Three things tell: a flag of the thread, set while a hook has called
 * terrace and in threads that terrace started; and the caller's address, where a
 * program calls terrace by itself.
 *
 * May call: libc. */
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "preload.h"

_Thread_local bool inside;
static uintptr_t library_from, library_to;

void guard_enter(struct guard *g)
{
    sigset_t all;
    g->error = errno;
    g->inside = inside;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &g->mask);
    inside = true;
}

void guard_leave(const struct guard *g)
{
    inside = g->inside;
    pthread_sigmask(SIG_SETMASK, &g->mask, NULL);
    errno = g->error;
}

bool guard_is_library(const void *address)
{
    return (uintptr_t)address - library_from < library_to - library_from;
}

/* Notes where the object that has terrace_version() lies. */
static int look(struct dl_phdr_info *info, size_t size, void *arg)
{
    uintptr_t from = UINTPTR_MAX, to = 0, one = (uintptr_t)arg;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *h = &info->dlpi_phdr[i];
        uintptr_t at = info->dlpi_addr + h->p_vaddr;
        if (h->p_type != PT_LOAD)
            continue;
        from = at < from ? at : from;
        to = at + h->p_memsz > to ? at + h->p_memsz : to;
    }
    if (one < from || one >= to)
        return 0;
    library_from = from;
    library_to = to;
    return 1;
}

void guard_begin(void)
{
    dl_iterate_phdr(look, (void *)(uintptr_t)terrace_version);
}

void say(const char *format, ...)
{
    const char *level = getenv("TERRACE_LOG");
    char line[1024] = "terrace: ";
    if (level && strcasecmp(level, "off") == 0)
        return;
    va_list args;
    va_start(args, format);
    size_t length = strlen(line);
    vsnprintf(line + length, sizeof line - length - 1, format, args);
    va_end(args);
    length = strlen(line);
    line[length++] = '\n';
    while (write(STDERR_FILENO, line, length) < 0 && errno == EINTR)
        ;
}
