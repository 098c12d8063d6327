/* runtime.c - accelerators behind a vendor's runtime library: loading, devices, units.
 *
 * Unit N of a kind is device N of its runtime, as the vendor's own variable leaves and
 * orders them (HIP_VISIBLE_DEVICES and the like). A failed load is tried again by the
 * next who asks, as a driver may be installed meanwhile. A library is never unloaded:
 * runtimes have threads.
 *
 * Calls are made in visits: the device is made current in the calling thread, and what
 * was current before put back, so that no caller finds another one than it left.
 *
 * A forked child cannot use a runtime that its parent has started: there every function
 * fails, or does nothing, without a call to it.
 *
 * The budget is what is free when the tier is opened, less a margin for what other
 * users of the device, kernels and libraries take later; all of it is allocated then,
 * but where a runtime has virtual memory management.
 *
 * May call: the other runtime files, named.h, pci.h, libc. */
#define _GNU_SOURCE
#include "runtime.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "named.h"
#include "pci.h"

#define GIB 1073741824.0

/* ---- visits and errors --------------------------------------------------- */

int runtime_enter(const struct runtime_unit *u, struct runtime_scope *scope)
{
    *scope = (struct runtime_scope){0};
    return u->pid == getpid() ? u->rt->call->enter(u->rt, u->index, scope) : RUNTIME_FORKED;
}

int runtime_enter_again(const struct runtime_unit *u, struct runtime_scope *scope)
{
    int code = runtime_enter(u, scope);
    return code == 0 || code == RUNTIME_FORKED ? code : runtime_enter(u, scope);
}

void runtime_leave(const struct runtime_unit *u, const struct runtime_scope *scope)
{
    u->rt->call->leave(u->rt, scope);
}

int runtime_error(const struct runtime_unit *u, int code)
{
    return code == RUNTIME_FORKED ? -TERRACE_EFORK : u->rt->call->error(u->rt, code);
}

int runtime_fail(const struct runtime_unit *u, int code, const char *format, ...)
{
    char what[200], text[160] = "";
    va_list args;
    int error = runtime_error(u, code);
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (error == -TERRACE_EFORK)
        return u->host->fail(u->host->context, error, "%s: %s in a forked child", u->name, what);
    u->rt->call->text(u->rt, code, text, sizeof text);
    if (error == -TERRACE_EDEVMEM)
        return u->host->fail(u->host->context, error, "%s: %s: %s; lower %s, or end what else uses the device",
                             u->name, what, text, u->rt->limit);
    return u->host->fail(u->host->context, error, "%s: %s: %s%s", u->name, what, text,
                         error == -TERRACE_EDEVICE ? "; the device is of no more use to this process" : "");
}

/* ---- loading ------------------------------------------------------------- */

/* A library by one of its names, in a folder or, NULL, where the system finds it. What
 * is wrong with one that is there is worth more than that others are not there. */
static void *library_try(const struct runtime *rt, const char *folder, char *path, size_t len, char *why, size_t why_len)
{
    const char *rest = folder ? strchr(folder, '/') : NULL, *home = "";
    char variable[40];
    if (folder && *folder == '$') {
        snprintf(variable, sizeof variable, "%.*s", (int)(rest - folder - 1), folder + 1);
        home = secure_getenv(variable);
        if (!home || *home != '/')
            return NULL;
    }
    for (const char *const *name = rt->library; *name; name++) {
        snprintf(path, len, "%s%s%s%s", home, folder ? rest : "", folder ? "/" : "", *name);
        void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (library)
            return library;
        const char *error = dlerror();
        if (error && (!*why || (!strstr(error, "No such file") && strstr(why, "No such file"))))
            snprintf(why, why_len, "%s", error);
    }
    return NULL;
}

static void *library_find(struct runtime *rt, char *why, size_t len)
{
    char error[256] = "";
    void *library = NULL;
    if (!rt->folders_only)
        library = library_try(rt, NULL, rt->loaded, sizeof rt->loaded, error, sizeof error);
    for (const char *const *folder = rt->folder; !library && *folder; folder++)
        library = library_try(rt, *folder, rt->loaded, sizeof rt->loaded, error, sizeof error);
    if (!library)
        snprintf(why, len, "no %s runtime: %s", rt->maker, *error ? error : "its folder is not known");
    return library;
}

void runtime_symbol(struct runtime *rt, void *library, const char *prefix, const char *name, bool required, void *to)
{
    char symbol[64];
    snprintf(symbol, sizeof symbol, "%s%s", prefix, name);
    void *found = dlsym(library, symbol);
    memcpy(to, &found, sizeof found);
    if (!found && required && !*rt->missing)
        snprintf(rt->missing, sizeof rt->missing, "%s", symbol);
}

static int load_locked(struct runtime *rt, char *why, size_t len)
{
    char text[160];
    int n = 0;
    void *library = library_find(rt, why, len);
    if (!library)
        return 0;
    *rt->missing = '\0';
    rt->call->find(rt, library);
    if (*rt->missing) {
        snprintf(why, len, "%s has no function %s; a newer %s runtime is needed", rt->loaded, rt->missing, rt->api);
        dlclose(library);
        return 0;
    }
    int code = rt->call->start(rt, &n);
    if (code || n <= 0) {
        rt->call->text(rt, code, text, sizeof text);
        snprintf(why, len, "the %s runtime has no device to use%s%s", rt->api, code ? ": " : "", code ? text : "");
        return 0;
    }
    rt->owner = getpid();
    rt->devices = n;
    return n;
}

static int load(struct runtime *rt, char *why, size_t len)
{
    int n = 0;
    pthread_mutex_lock(&rt->lock);
    if (!rt->owner)
        n = load_locked(rt, why, len);
    else if (rt->owner == getpid())
        n = rt->devices;
    else
        snprintf(why, len, "this process was forked from one that uses the %s runtime, which has to be left alone "
                           "then; open managers in processes that were started anew", rt->api);
    pthread_mutex_unlock(&rt->lock);
    return n;
}

/* Whether the system has none of the files that come with a device. */
static bool no_node(const struct runtime *rt)
{
    for (const char *const *node = rt->node; *node; node++)
        if (access(*node, F_OK) == 0)
            return false;
    return rt->node[0];
}

int runtime_count(struct runtime *rt, const terrace_host *host)
{
    char why[320];
    int n = 0;
    if (!kind_is_named(host, rt->kind) && no_node(rt))
        snprintf(why, sizeof why, "there is no %s device: no %s", rt->maker, rt->node[0]);
    else
        n = load(rt, why, sizeof why);
    if (n == 0)
        (void)host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    return n < RUNTIME_MOST ? n : RUNTIME_MOST;
}

/* ---- what a device is ---------------------------------------------------- */

/* Less 5 % of the device, at least 256 MiB, at most a quarter of what is free. */
static int describe_capacity(const struct runtime_unit *u, terrace_unit_info *info)
{
    size_t unused = 0, all = 0;
    int code = u->rt->call->memory_info(u->rt, &unused, &all);
    if (code)
        return code;
    uint64_t margin = all / 20 > 256u << 20 ? all / 20 : 256u << 20;
    if (margin > unused / 4)
        margin = unused / 4;
    info->capacity = (unused - margin) / RUNTIME_GRANULE * RUNTIME_GRANULE;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "%.1f of %.1f GiB are free, less %.1f GiB for "
             "other users", (double)unused / GIB, (double)all / GIB, (double)margin / GIB);
    return 0;
}

static int describe(const struct runtime_unit *u, const char *bus, terrace_unit_info *info)
{
    int code = describe_capacity(u, info);
    info->granule = RUNTIME_GRANULE;
    info->page = RUNTIME_PAGE;
    info->io_chunk = RUNTIME_IO_CHUNK;
    info->io_depth = RUNTIME_IO_DEPTH;
    info->flags = u->maps ? 0 : TERRACE_UNIT_WHOLE;
    info->node = pci_node(bus);
    snprintf(info->location, sizeof info->location, "%s%s%s", u->model, *bus ? ", PCI " : "", bus);
    snprintf(info->vendor, sizeof info->vendor, "%s", strstr(u->rt->loaded, "galaxyhip") ? "hygon" : u->rt->vendor);
    snprintf(info->engine, sizeof info->engine, "%s runtime", u->rt->api);
    snprintf(info->engine_reason, sizeof info->engine_reason, "%.90s; %s%.80s; %s", u->rt->loaded,
             u->maps ? "virtual memory, by granules of 2 MiB" : "all memory is allocated at once", u->maps_not,
             u->rt->registers ? "host memory is registered" : "it does not register host memory");
    return code;
}

/* ---- opening and closing ------------------------------------------------- */

/* What was opened so far of a unit, inside a visit or in a forked child. */
static void contents_close(struct runtime_unit *u)
{
    runtime_copies_close(u);
    runtime_streams_close(u);
    runtime_memory_close(u);
}

static void unit_free(struct runtime_unit *u)
{
    pthread_cond_destroy(&u->woken);
    pthread_mutex_destroy(&u->waking);
    pthread_mutex_destroy(&u->lock);
    pthread_mutex_destroy(&u->mapping);
    free(u);
}

static struct runtime_unit *unit_new(struct runtime *rt, const terrace_host *host, int index)
{
    struct runtime_unit *u = calloc(1, sizeof *u);
    pthread_condattr_t attr;
    if (!u)
        return NULL;
    u->rt = rt;
    u->host = host;
    u->index = index;
    u->pid = getpid();
    snprintf(u->name, sizeof u->name, "%s:%d", rt->kind, index);
    pthread_mutex_init(&u->mapping, NULL);
    pthread_mutex_init(&u->lock, NULL);
    pthread_mutex_init(&u->waking, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->woken, &attr);
    pthread_condattr_destroy(&attr);
    return u;
}

/* Finds out how much can be allocated at once, where that may be less than there is. */
static void find_largest(const struct runtime_unit *u, terrace_unit_info *info)
{
    const struct runtime_calls *call = u->rt->call;
    uint64_t all = info->capacity;
    void *there = NULL;
    while (info->capacity > RUNTIME_GRANULE && call->allocate(u->rt, &there, info->capacity + RUNTIME_GRANULE))
        info->capacity = info->capacity / 16 * 15 / RUNTIME_GRANULE * RUNTIME_GRANULE;
    if (there)
        (void)RUNTIME_UNDO(call->release(u->rt, there));
    size_t used = strlen(info->capacity_reason);
    if (info->capacity < all)
        snprintf(info->capacity_reason + used, sizeof info->capacity_reason - used,
                 "; the runtime does not allocate more than %.1f GiB at once", (double)info->capacity / GIB);
}

/* Inside a visit. 0, or a TERRACE_E... code with its sentence. */
static int contents_open(struct runtime_unit *u, terrace_unit_info *info)
{
    struct runtime *rt = u->rt;
    char bus[32] = "";
    int code = rt->call->describe(rt, u->index, u->model, sizeof u->model, bus, sizeof bus);
    if (code == 0 && rt->model && !strstr(u->model, rt->model))
        return u->host->fail(u->host->context, -TERRACE_ENOENT, "%s: the device calls itself '%s', which is none of "
                             "%s's", u->name, u->model, rt->maker);
    if (code)
        return runtime_fail(u, code, "opening the device; TERRACE_TIERS can leave it out");
    snprintf(u->name, sizeof u->name, "%s:%d (%s)", rt->kind, u->index, u->model);
    pci_lower(bus);
    int error = runtime_test(u);
    if (error)
        return error;
    code = describe(u, bus, info);
    if (code == 0 && rt->limited && !u->maps)
        find_largest(u, info);
    if (code == 0)
        code = runtime_copies_open(u);
    return code ? runtime_fail(u, code, "opening the device; TERRACE_TIERS can leave it out") : 0;
}

static int unit_open(struct runtime_unit *u, terrace_unit_info *info)
{
    struct runtime_scope scope;
    int code = runtime_enter(u, &scope);
    if (code)
        return runtime_fail(u, code, "using the device; TERRACE_TIERS can leave it out");
    int error = contents_open(u, info);
    if (error)
        contents_close(u);
    runtime_leave(u, &scope);
    return error;
}

int runtime_open(struct runtime *rt, const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    char why[320];
    int n = load(rt, why, sizeof why);
    if (n == 0)
        return host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    if (index >= n || index >= RUNTIME_MOST)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no %s:%d, only %d; of more than %d devices %s "
                          "chooses", rt->kind, index, n, RUNTIME_MOST, rt->chooses);
    struct runtime_unit *u = unit_new(rt, host, index);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open %s:%d", rt->kind, index);
    int error = unit_open(u, info);
    if (error)
        unit_free(u);
    else
        *unit = u;
    return error;
}

void runtime_close(void *unit)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    bool visit = runtime_enter_again(u, &scope) == 0;
    contents_close(u);
    if (visit)
        runtime_leave(u, &scope);
    unit_free(u);
}
