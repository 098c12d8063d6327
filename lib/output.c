/* output.c - files that are written for people and tools: their names, and how one
 * takes the place of another.
 *
 * May call: libc. */
#include "output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* With the process's number where "%p" stands. */
static char *numbered(const char *given)
{
    char *text = NULL;
    const char *place = strstr(given, "%p");
    if (!place)
        return strdup(given);
    return asprintf(&text, "%.*s%ld%s", (int)(place - given), given, (long)getpid(), place + 2) < 0 ? NULL : text;
}

char *output_path(const char *given)
{
    char here[PATH_MAX], *name = numbered(given), *path = NULL;
    if (!name || *name == '/' || !getcwd(here, sizeof here))
        return name;
    if (asprintf(&path, "%s/%s", here, name) < 0)
        path = NULL;
    free(name);
    return path;
}

bool output_begin(struct output *o, const char *path)
{
    *o = (struct output){.path = strdup(path)};
    if (!o->path || asprintf(&o->part, "%s.%ld", path, (long)getpid()) < 0) {
        free(o->path);
        errno = ENOMEM;
        return false;
    }
    unlink(o->part); /* of a process that had this number before */
    int fd = open(o->part, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    o->file = fd < 0 ? NULL : fdopen(fd, "w");
    if (o->file)
        return true;
    int e = errno;
    if (fd >= 0)
        close(fd);
    free(o->path);
    free(o->part);
    errno = e;
    return false;
}

bool output_end(struct output *o)
{
    bool good = fclose(o->file) == 0 && rename(o->part, o->path) == 0;
    int e = errno;
    if (!good)
        unlink(o->part);
    free(o->path);
    free(o->part);
    errno = e;
    return good;
}
