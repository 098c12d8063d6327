/* opencl.c - the OpenCL tier: the memory of each device of every implementation.
 *
 * Unit N is the Nth of the devices that opencl_devices.c lists. Each has a context of
 * its own, made when it is opened, and three queues: one for copies in each direction
 * (opencl_copy.c), and one that stands for the default stream. Memory is in
 * opencl_memory.c, the program's queues are in opencl_stream.c.
 *
 * A forked child cannot use what its parent has of OpenCL: there close does nothing
 * with it. */
#define _GNU_SOURCE
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "named.h"
#include "opencl_unit.h"

int opencl_fail(const struct opencl_unit *u, opencl_int code, const char *format, ...)
{
    char what[200], text[80];
    va_list args;
    int error = opencl_error(code);
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    opencl_text(code, text, sizeof text);
    return u->host->fail(u->host->context, error, "%s: %s: %s%s", u->name, what, text,
                         error == -TERRACE_EDEVMEM ? "; lower TERRACE_LIMIT_OPENCL, or end what else uses the device" : "");
}

/* ---- what there is ------------------------------------------------------- */

static int absent(const terrace_host *host, const char *why)
{
    (void)host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    return 0;
}

static int count(const terrace_host *host)
{
    struct opencl_found list[OPENCL_MOST];
    char why[300];
    bool named = kind_is_named(host, "opencl");
    int own = 0;
    if (!named && opencl_only_cpu())
        return absent(host, "the implementations here compute on the CPU, in the host's memory; TERRACE_TIERS with "
                            "opencl:0 uses one all the same");
    int n = opencl_find(list, why, sizeof why);
    if (n == 0)
        return absent(host, why);
    while (own < n && !list[own].aside)
        own++;
    if (own == 0 && !named)
        return absent(host, "the devices here work in the host's memory, or are NVIDIA's (see cuda); TERRACE_TIERS with "
                            "opencl:0 uses one all the same");
    return named ? n : own;
}

/* ---- opening and closing ------------------------------------------------- */

static const char *type_name(opencl_device device)
{
    uint64_t type = opencl_number(device, OPENCL_DEVICE_TYPE);
    return type & OPENCL_DEVICE_TYPE_GPU ? "GPU" : type & OPENCL_DEVICE_TYPE_CPU ? "CPU" : "accelerator";
}

/* The maker's name as one word: "NVIDIA Corporation" is nvidia. Some have several. */
static void vendor_name(opencl_device device, char *buf, size_t len)
{
    static const struct {
        const char *begin, *name;
    } known[] = {{"Advanced Micro Devices", "amd"}, {"AuthenticAMD", "amd"}, {"GenuineIntel", "intel"},
                 {"Moore Threads", "moorethreads"}, {"Iluvatar", "iluvatar"}};
    char text[200];
    size_t n = 0;
    opencl_string(device, OPENCL_DEVICE_VENDOR, text, sizeof text);
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strncasecmp(text, known[i].begin, strlen(known[i].begin)) == 0)
            snprintf(text, sizeof text, "%s", known[i].name);
    for (; n < len - 1 && isalnum((unsigned char)text[n]); n++)
        buf[n] = (char)tolower((unsigned char)text[n]);
    buf[n] = '\0';
}

static void describe(const struct opencl_found *found, terrace_unit_info *info)
{
    char platform[256] = "", device[80], driver[40], version[60];
    size_t used = strlen(info->engine_reason);
    if (opencl.platform_info(found->platform, OPENCL_PLATFORM_NAME, sizeof platform, platform, NULL))
        snprintf(platform, sizeof platform, "an unknown platform");
    opencl_string(found->device, OPENCL_DEVICE_NAME, device, sizeof device);
    opencl_string(found->device, OPENCL_DRIVER_VERSION, driver, sizeof driver);
    opencl_string(found->device, OPENCL_DEVICE_VERSION, version, sizeof version);
    snprintf(info->location, sizeof info->location, "%s, %s, of %.60s, driver %s", device, type_name(found->device),
             platform, driver);
    vendor_name(found->device, info->vendor, sizeof info->vendor);
    snprintf(info->engine, sizeof info->engine, "OpenCL %.8s", version + strlen("OpenCL "));
    info->engine[strlen("OpenCL ") + strcspn(info->engine + strlen("OpenCL "), " ")] = '\0';
    if (found->shared)
        snprintf(info->engine_reason + used, sizeof info->engine_reason - used, "; its memory is the host's");
}

static opencl_int contents_open(struct opencl_unit *u, const struct opencl_found *found, int index,
                                terrace_unit_info *info)
{
    const intptr_t properties[] = {OPENCL_CONTEXT_PLATFORM, (intptr_t)found->platform, 0};
    opencl_int r = 0;
    u->context = opencl.context_create(properties, 1, &u->device, NULL, NULL, &r);
    if (r)
        return r;
    opencl_memory_open(u, index, found->shared, info);
    r = opencl_copies_open(u, info);
    if (r == 0)
        describe(found, info);
    return r;
}

static struct opencl_unit *unit_new(const terrace_host *host, int index, opencl_device device)
{
    struct opencl_unit *u = calloc(1, sizeof *u);
    char model[60];
    pthread_condattr_t attr;
    if (!u)
        return NULL;
    u->host = host;
    u->pid = getpid();
    u->device = device;
    opencl_string(device, OPENCL_DEVICE_NAME, model, sizeof model);
    snprintf(u->name, sizeof u->name, "opencl:%d (%s)", index, model);
    pthread_mutex_init(&u->memory, NULL);
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&u->changed, &attr);
    pthread_condattr_destroy(&attr);
    return u;
}

static void opencl_close(void *unit)
{
    struct opencl_unit *u = unit;
    if (u->pid == getpid()) {
        opencl_memory_close(u);
        opencl_copies_close(u);
        if (u->context)
            (void)opencl.context_release(u->context);
        pthread_cond_destroy(&u->changed);
        pthread_mutex_destroy(&u->lock);
        pthread_mutex_destroy(&u->memory);
    }
    free(u->slab);
    free(u);
}

static int opencl_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    struct opencl_found list[OPENCL_MOST];
    char why[300];
    int n = opencl_find(list, why, sizeof why);
    if (n == 0)
        return host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    if (index >= n)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no opencl:%d, only %d", index, n);
    struct opencl_unit *u = unit_new(host, index, list[index].device);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open opencl:%d", index);
    opencl_int r = contents_open(u, &list[index], index, info);
    if (r) {
        int error = opencl_fail(u, r, "opening the device; TERRACE_TIERS can leave it out");
        opencl_close(u);
        return error;
    }
    *unit = u;
    return 0;
}

static const terrace_backend opencl_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "opencl",
    .tier_class = TERRACE_CLASS_DEVICE,
    .count = count,
    .open = opencl_open,
    .close = opencl_close,
    .reserve = opencl_reserve,
    .release = opencl_release,
    .commit = opencl_commit,
    .decommit = opencl_decommit,
    .submit = opencl_submit,
    .wait = opencl_wait,
    .wake = opencl_wake,
    .explain = opencl_explain,
    .record = opencl_record,
    .passed = opencl_passed,
    .follow = opencl_follow,
    .forget = opencl_forget,
    .view = opencl_view,
    .unview = opencl_unview,
};
TERRACE_BACKEND_BUILTIN(opencl_backend);
