/* top_read.c - finds the pages of processes that use terrace, and reads them.
 *
 * A page is a memory file among a process's open files. Which those are only its user,
 * and root, may know. Nothing that is found is trusted: a file is read, never mapped,
 * so that its owner may cut it short meanwhile; only one that the kernel knows as a
 * memory file is read at all; and what it says is checked.
 *
 * May call: top.h, libc. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "top.h"

enum { PATH = 64, TRIES = 50, MANAGERS = 64 /* of a process that are looked at */ };

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- one page ------------------------------------------------------------ */

/* The sequence number, UINT32_MAX: it cannot be read. */
static uint32_t sequence_of(int fd)
{
    uint32_t n;
    return pread(fd, &n, sizeof n, offsetof(struct live_page, sequence)) == sizeof n ? n : UINT32_MAX;
}

/* NULL, or why it cannot be shown. */
static const char *page_read(int fd, struct live_page *to)
{
    ssize_t n = -1;
    for (int i = 0; i < TRIES; i++) {
        uint32_t before = sequence_of(fd);
        n = pread(fd, to, sizeof *to, 0);
        if (n < 0)
            return strerror(errno);
        if (!(before & 1) && sequence_of(fd) == before)
            break;
        usleep(1000); /* it is being written; for ever, where its process is stopped */
    }
    return live_page_check(to, (size_t)n);
}

/* Opens the file if it is a memory file that keeps its size; else -1. */
static int page_open(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return -1;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals >= 0 && (seals & F_SEAL_SHRINK) && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        return fd;
    close(fd);
    return -1;
}

/* ---- processes ------------------------------------------------------------ */

/* The number that the process has for itself, in its own namespace. */
static int own_number(pid_t process)
{
    char path[PATH], line[256];
    int number = process;
    snprintf(path, sizeof path, "/proc/%d/status", (int)process);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "NSpid:", 6) == 0) {
            const char *last = strrchr(line, '\t');
            number = last ? (int)strtol(last, NULL, 10) : number;
        }
    if (f)
        fclose(f);
    return number;
}

static void name_read(pid_t process, char *name, size_t len)
{
    char path[PATH];
    snprintf(path, sizeof path, "/proc/%d/comm", (int)process);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, name, len - 1);
    if (fd >= 0)
        close(fd);
    name[n > 0 ? n : 0] = 0;
    name[strcspn(name, "\n")] = 0;
    live_text_clean(name, len);
}

static struct top_manager *manager_find(const struct top_list *list, pid_t process, const struct live_page *page)
{
    for (size_t i = 0; i < list->n; i++) {
        struct top_manager *m = list->manager[i];
        if (m->process == process && m->page.manager == page->manager && m->page.opened == page->opened)
            return m;
    }
    return NULL;
}

static struct top_manager *manager_add(struct top_list *list, pid_t process)
{
    if (list->n == list->room) {
        size_t room = list->room ? 2 * list->room : 16;
        struct top_manager **more = realloc(list->manager, room * sizeof(struct top_manager *));
        if (!more)
            return NULL;
        list->manager = more;
        list->room = room;
    }
    struct top_manager *m = calloc(1, sizeof *m);
    if (m) {
        m->process = process;
        list->manager[list->n++] = m;
    }
    return m;
}

/* False: no memory. */
static bool page_take(struct top_list *list, pid_t process, const struct live_page *page)
{
    struct top_manager *m = manager_find(list, process, page);
    if (m && m->seen)
        return true; /* the file was found twice */
    if (!m && !(m = manager_add(list, process)))
        return false;
    if (m->page.updated && m->page.updated != page->updated) {
        m->before = m->page;
        m->known = true;
    }
    m->page = *page;
    m->seen = true;
    m->read_at = now_ns();
    name_read(process, m->name, sizeof m->name);
    return true;
}

/* Reads one of a process's files, if it is a page of its own. */
static bool file_read(struct top_list *list, pid_t process, const char *path, char *why, size_t len)
{
    struct live_page page;
    int fd = page_open(path);
    if (fd < 0)
        return true;
    const char *wrong = page_read(fd, &page);
    close(fd);
    if (wrong) {
        snprintf(why, len, "its page cannot be shown: %s", wrong);
        return true;
    }
    if (page.process != own_number(process))
        return true; /* the parent's, inherited */
    return page_take(list, process, &page);
}

static bool process_read(struct top_list *list, pid_t process, char *why, size_t len)
{
    static const char target[] = "/memfd:" LIVE_FILE " (deleted)";
    char path[PATH], to[sizeof target + 1];
    bool good = true;
    int found = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)process);
    DIR *folder = opendir(path);
    if (!folder) {
        snprintf(why, len, "%s", errno == ENOENT ? "there is no such process" : strerror(errno));
        return true;
    }
    snprintf(why, len, "it has no manager open, or runs with TERRACE_TOP=0");
    for (const struct dirent *e; good && found < MANAGERS && (e = readdir(folder)) != NULL;) {
        ssize_t n = isdigit((unsigned char)*e->d_name) ? readlinkat(dirfd(folder), e->d_name, to, sizeof to) : -1;
        if (n != sizeof target - 1 || memcmp(to, target, sizeof target - 1) != 0)
            continue;
        found++;
        snprintf(path, sizeof path, "/proc/%d/fd/%.20s", (int)process, e->d_name);
        good = file_read(list, process, path, why, len);
    }
    closedir(folder);
    return good;
}

static bool all_read(struct top_list *list)
{
    char why[128];
    bool good = true;
    DIR *folder = opendir("/proc");
    if (!folder)
        return true;
    for (const struct dirent *e; good && (e = readdir(folder)) != NULL;)
        if (isdigit((unsigned char)*e->d_name))
            good = process_read(list, (pid_t)strtol(e->d_name, NULL, 10), why, sizeof why);
    closedir(folder);
    return good;
}

bool top_read(struct top_list *list, pid_t process, char *why, size_t len)
{
    size_t left = 0;
    for (size_t i = 0; i < list->n; i++)
        list->manager[i]->seen = false;
    bool good = process ? process_read(list, process, why, len) : all_read(list);
    for (size_t i = 0; i < list->n; i++)
        if (list->manager[i]->seen)
            list->manager[left++] = list->manager[i];
        else
            free(list->manager[i]);
    list->n = left;
    return good;
}

void top_free(struct top_list *list)
{
    for (size_t i = 0; i < list->n; i++)
        free(list->manager[i]);
    free(list->manager);
}
