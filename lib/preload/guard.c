/* guard.c - who must not be given terrace's memory: terrace itself, and a device's driver.
 *
 * terrace would wait for itself: for its own locks, or for a page that only it can
 * bring. Three things tell: a flag of the thread, set while a hook has called
 * terrace and in threads that terrace started; and the caller's address, where a
 * program calls terrace by itself. A driver has memory used by a device, from where
 * no fault brings a page.
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

/* Where the libraries lie: terrace, and drivers. Read without a lock. */
enum { SPANS = 3 };
static struct span {
    uintptr_t from;
    _Atomic size_t bytes; /* written last; 0: none */
} spans[SPANS];

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
    for (int i = 0; i < SPANS; i++)
        if ((uintptr_t)address - spans[i].from < spans[i].bytes)
            return true;
    return false;
}

/* Notes where the object lies that has an address. */
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
    int i = 0;
    while (i < SPANS - 1 && spans[i].bytes && spans[i].from != from)
        i++;
    spans[i].from = from;
    spans[i].bytes = to - from;
    return 1;
}

void guard_add(const void *address)
{
    dl_iterate_phdr(look, (void *)(uintptr_t)address);
}

void guard_begin(void)
{
    guard_add((void *)(uintptr_t)terrace_version);
}

/* ---- telling people ------------------------------------------------------ */

static void print(const char *format, va_list args)
{
    char line[1024] = "terrace: ";
    size_t length = strlen(line);
    vsnprintf(line + length, sizeof line - length - 1, format, args);
    length = strlen(line);
    line[length++] = '\n';
    while (write(STDERR_FILENO, line, length) < 0 && errno == EINTR)
        ;
}

static bool level_is(const char *level)
{
    const char *asked = getenv("TERRACE_LOG");
    return asked && strcasecmp(asked, level) == 0;
}

void say(const char *format, ...)
{
    va_list args;
    if (level_is("off"))
        return;
    va_start(args, format);
    print(format, args);
    va_end(args);
}

void say_untiered(const char *memory, const char *why)
{
    static char before[512];
    if (strcmp(before, why) == 0)
        return;
    snprintf(before, sizeof before, "%s", why);
    say("%s memory is not tiered, and the program runs as without terrace: %s", memory, before);
}

void note(const char *format, ...)
{
    va_list args;
    if (!level_is("info") && !level_is("debug"))
        return;
    va_start(args, format);
    print(format, args);
    va_end(args);
}

void detail(const char *format, ...)
{
    va_list args;
    if (!level_is("debug"))
        return;
    va_start(args, format);
    print(format, args);
    va_end(args);
}
