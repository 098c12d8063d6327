/* plugin.c - backends from outside: TERRACE_BACKENDS names libraries, each with a
 * tier backend in it (terrace_backend.h says how one is written).
 *
 * What is loaded runs with all rights of the process, so neither the file nor a
 * folder above it may be writable by others: the real path is looked at, from the
 * root down, and that is what is loaded. A library stays loaded until the process
 * ends, since vendors' runtimes keep threads and handlers of their own.
 *
 * May call: core.h, libc. */
#include "plugin.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <unistd.h>

static int refused(const char *path, const char *part, const char *why)
{
    return error_set(-TERRACE_EPERM, "TERRACE_BACKENDS=%.200s: %.200s %s, so that others could change what is loaded; "
                     "correct its owner and mode, or take it from another folder", path, part, why);
}

/* One part of a real path: nobody but root and this user may change it. */
static int part_check(const char *path, const char *part)
{
    struct stat is;
    if (stat(part, &is))
        return error_set(-TERRACE_ENOENT, "TERRACE_BACKENDS=%.200s: %.200s: %s", path, part, strerror(errno));
    if (is.st_uid != 0 && is.st_uid != geteuid())
        return refused(path, part, "belongs to another user");
    if ((is.st_mode & S_IWOTH) && !(S_ISDIR(is.st_mode) && (is.st_mode & S_ISVTX)))
        return refused(path, part, "is writable by everybody");
    if ((is.st_mode & S_IWGRP) && is.st_gid != 0 && is.st_gid != getegid() && !(is.st_mode & S_ISVTX))
        return refused(path, part, "is writable by a group that this user is not of");
    return 0;
}

static int path_check(const char *path, const char *real)
{
    char part[PATH_MAX];
    int r = part_check(path, "/");
    for (const char *slash = real + 1; r == 0 && slash; ) {
        slash = strchr(slash, '/');
        size_t n = slash ? (size_t)(slash++ - real) : strlen(real);
        memcpy(part, real, n);
        part[n] = '\0';
        r = part_check(path, part);
    }
    return r;
}

static int plugin_load(const char *path, const terrace_backend **out)
{
    char real[PATH_MAX];
    if (*path != '/')
        return error_set(-TERRACE_EINVAL, "TERRACE_BACKENDS=%.200s: give the path from the root on, separated from "
                         "others by ':'", path);
    if (!realpath(path, real))
        return error_set(-TERRACE_ENOENT, "TERRACE_BACKENDS=%.200s: %s", path, strerror(errno));
    int r = path_check(path, real);
    if (r)
        return r;
    void *library = dlopen(real, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return error_set(-TERRACE_ENOENT, "TERRACE_BACKENDS=%.200s cannot be loaded: %.300s", path, dlerror());
    const terrace_backend *(*get)(void) = (const terrace_backend *(*)(void))dlsym(library, "terrace_backend_plugin");
    const terrace_backend *table = get ? get() : NULL;
    if (!table) {
        dlclose(library);
        return error_set(-TERRACE_EINVAL, "TERRACE_BACKENDS=%.200s is no backend: it has no terrace_backend_plugin(), "
                         "which TERRACE_BACKEND_PLUGIN() of terrace_backend.h makes", path);
    }
    *out = table;
    // cppcheck-suppress resourceLeak -- it stays loaded
    return 0;
}

int plugins_load(const struct terrace *m, const terrace_backend *table[MAX_PLUGINS])
{
    const char *list = options_text(&m->options, "BACKENDS");
    char path[PATH_MAX];
    int n = 0;
    if (!list)
        return 0;
    if (getauxval(AT_SECURE))
        return error_set(-TERRACE_EPERM, "TERRACE_BACKENDS is not for programs with more rights than their user has; "
                         "unset it");
    while (*list) {
        size_t length = strcspn(list, ":");
        if (length && n == MAX_PLUGINS)
            return error_set(-TERRACE_EINVAL, "TERRACE_BACKENDS names more than %d libraries", MAX_PLUGINS);
        if (length >= sizeof path)
            return error_set(-TERRACE_EINVAL, "TERRACE_BACKENDS: a path of %zu bytes is too long", length);
        memcpy(path, list, length);
        path[length] = '\0';
        int r = length ? plugin_load(path, &table[n]) : 0;
        if (r)
            return r;
        n += length > 0;
        list += length + (list[length] != '\0');
    }
    return n;
}
