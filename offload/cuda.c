/* cuda.c - the NVIDIA tier: the memory of each device that the driver shows.
 *
 * Unit N is the driver's device N, as CUDA_VISIBLE_DEVICES leaves and orders them.
 * All is done through the driver's own functions in the device's primary context,
 * the one that the CUDA runtime and the frameworks use: their streams and their
 * pointers are valid together with ours. See cuda_driver.c for how that context is
 * entered and left, cuda_memory.c for memory, cuda_copy.c for copies.
 *
 * The budget is what is free when the tier is opened, less a margin for what other
 * users of the device, kernels and libraries take later.
 *
 * A forked child cannot use a driver that its parent has initialised: there every
 * function fails, or does nothing, without a call to the driver. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cuda_unit.h"
#include "pci.h"

enum { CUDA_MOST = 10 }; /* tiers; leaves some of the core's for others */
#define GIB 1073741824.0

int cuda_fail(const struct cuda_unit *u, cuda_result r, const char *format, ...)
{
    char what[200], text[160];
    va_list args;
    int error = cuda_error(r);
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    if (u->pid != getpid())
        return u->host->fail(u->host->context, -TERRACE_EFORK, "%s: %s in a forked child", u->name, what);
    cuda_text(r, text, sizeof text);
    return u->host->fail(u->host->context, error, "%s: %s: %s%s", u->name, what, text,
                         error == -TERRACE_EDEVMEM  ? "; lower TERRACE_LIMIT_CUDA, or end what else uses the device"
                         : error == -TERRACE_EDEVICE ? "; the device is of no more use to this process"
                                                     : "");
}

/* ---- what a device is ---------------------------------------------------- */

/* Where the system has it: "0000:3b:00.0". */
static void bus_of(const struct cuda_unit *u, char *bus, int len)
{
    if (cuda.device_bus(bus, len, u->device))
        *bus = '\0';
    pci_lower(bus);
}

/* The node next to the device, asked of the driver, then of the system; -1: none. */
static int node_of(const struct cuda_unit *u, const char *bus)
{
    int node = -1;
    if (cuda.device_attribute(&node, CUDA_NODE, u->device) == CUDA_OK && node >= 0)
        return node;
    return pci_node(bus);
}

static void describe_location(const struct cuda_unit *u, const char *bus, terrace_unit_info *info)
{
    char driver[40];
    int version = 0;
    (void)cuda.version(&version);
    bool known = read_line("/sys/module/nvidia/version", driver, sizeof driver);
    snprintf(info->location, sizeof info->location, "%s%s%s, CUDA %d.%d%s%s", u->model, *bus ? ", PCI " : "", bus, version / 1000, version % 1000 / 10, known ? ", driver " : "",
             known ? driver : "");
}

/* Less 5 % of the device, at least 256 MiB, at most a quarter of what is free. */
static cuda_result describe_capacity(struct cuda_unit *u, terrace_unit_info *info)
{
    size_t unused = 0, all = 0;
    cuda_result r = cuda.memory_info(&unused, &all);
    if (r)
        return r;
    uint64_t margin = all / 20 > 256u << 20 ? all / 20 : 256u << 20;
    if (margin > unused / 4)
        margin = unused / 4;
    u->device_room = (unused - margin) / u->granule * u->granule;
    info->capacity = u->device_room + u->host_room;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "%.1f of %.1f GiB are free, less %.1f GiB for "
             "other users%s", (double)unused / GIB, (double)all / GIB, (double)margin / GIB,
             u->host_room ? "; and TERRACE_CUDA_HOST_MEMORY" : "");
    return CUDA_OK;
}

/* Whether the library for copies between disk and device is there; it is not loaded. */
static bool has_cufile(void)
{
    static const char *const path[] = {"/usr/lib/x86_64-linux-gnu/libcufile.so.0",
                                       "/usr/lib/aarch64-linux-gnu/libcufile.so.0",
                                       "/usr/lib64/libcufile.so.0",
                                       "/usr/local/cuda/lib64/libcufile.so.0"};
    for (size_t i = 0; i < sizeof path / sizeof *path; i++)
        if (access(path[i], R_OK) == 0)
            return true;
    return false;
}

/* Inside a visit. */
static cuda_result describe(struct cuda_unit *u, terrace_unit_info *info)
{
    char bus[32] = "", memory[200] = "";
    bus_of(u, bus, sizeof bus);
    u->node = node_of(u, bus);
    cuda_result r = cuda_memory_open(u, memory, sizeof memory);
    if (r == CUDA_OK)
        r = describe_capacity(u, info);
    if (r)
        return r;
    describe_location(u, bus, info);
    info->granule = u->granule;
    info->page = CUDA_PAGE;
    info->io_chunk = CUDA_IO_CHUNK;
    info->io_depth = CUDA_IO_DEPTH;
    info->node = u->node;
    snprintf(info->vendor, sizeof info->vendor, "nvidia");
    if (!u->virtual_memory)
        info->flags = TERRACE_UNIT_WHOLE;
    snprintf(info->engine, sizeof info->engine, "CUDA driver API");
    snprintf(info->engine_reason, sizeof info->engine_reason, "%.170s; disks are reached through the host, libcufile is %s",
             memory, has_cufile() ? "here but not used" : "not here");
    return CUDA_OK;
}

/* ---- opening and closing ------------------------------------------------- */

static int count(const terrace_host *host)
{
    char why[300];
    int n = cuda_load(why, sizeof why);
    if (n == 0)
        (void)host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    return n < CUDA_MOST ? n : CUDA_MOST;
}

/* What was opened so far of a unit, inside a visit or in a forked child. */
static void contents_close(struct cuda_unit *u)
{
    cuda_copies_close(u);
    cuda_streams_close(u);
    cuda_memory_close(u);
    cuda_places_close(u);
}

static void unit_free(struct cuda_unit *u)
{
    if (u->context && u->pid == getpid())
        (void)CUDA_UNDO(cuda.context_release(u->device));
    pthread_mutex_destroy(&u->lock);
    pthread_mutex_destroy(&u->mapping);
    pthread_mutex_destroy(&u->placing);
    free(u);
}

/* The device, its name and its context. */
static cuda_result device_open(struct cuda_unit *u)
{
    cuda_result r = cuda.device_get(&u->device, u->index);
    if (r == CUDA_OK)
        r = cuda.device_name(u->model, sizeof u->model, u->device);
    snprintf(u->name, sizeof u->name, "cuda:%d (%s)", u->index, r ? "not identified" : u->model);
    if (r == CUDA_OK)
        r = cuda.context_retain(&u->context, u->device);
    if (r)
        u->context = NULL;
    return r;
}

static cuda_result contents_open(struct cuda_unit *u, terrace_unit_info *info)
{
    struct cuda_scope scope;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return r;
    r = describe(u, info);
    if (r == CUDA_OK)
        r = cuda_copies_open(u);
    if (r)
        contents_close(u);
    cuda_leave(&scope);
    return r;
}

static int cuda_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    char why[300];
    int n = cuda_load(why, sizeof why);
    if (n == 0)
        return host->fail(host->context, -TERRACE_ENOENT, "%s", why);
    if (index >= n || index >= CUDA_MOST)
        return host->fail(host->context, -TERRACE_ENOENT, "there is no cuda:%d, only %d; of more than %d devices "
                          "CUDA_VISIBLE_DEVICES chooses", index, n, CUDA_MOST);
    struct cuda_unit *u = calloc(1, sizeof *u);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory to open cuda:%d", index);
    u->host = host;
    u->index = index;
    u->pid = getpid();
    pthread_mutex_init(&u->lock, NULL);
    pthread_mutex_init(&u->mapping, NULL);
    pthread_mutex_init(&u->placing, NULL);
    cuda_result r = device_open(u);
    if (r == CUDA_OK)
        r = contents_open(u, info);
    if (r) {
        int error = cuda_fail(u, r, "opening the device; TERRACE_TIERS can leave it out");
        unit_free(u);
        return error;
    }
    *unit = u;
    return 0;
}

static void cuda_close(void *unit)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    bool visit = cuda_enter_again(u->context, &scope) == CUDA_OK;
    contents_close(u);
    if (visit)
        cuda_leave(&scope);
    unit_free(u);
}

static const terrace_backend cuda_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "cuda",
    .tier_class = TERRACE_CLASS_DEVICE,
    .count = count,
    .open = cuda_open,
    .close = cuda_close,
    .reserve = cuda_reserve,
    .release = cuda_release,
    .commit = cuda_commit,
    .decommit = cuda_decommit,
    .submit = cuda_submit,
    .wait = cuda_wait,
    .wake = cuda_wake,
    .explain = cuda_explain,
    .pin = cuda_pin,
    .unpin = cuda_unpin,
    .available = cuda_available,
    .record = cuda_record,
    .passed = cuda_passed,
    .follow = cuda_follow,
    .forget = cuda_forget,
    .place = cuda_place,
};
TERRACE_BACKEND_BUILTIN(cuda_backend);
