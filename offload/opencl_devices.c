/* opencl_devices.c - which OpenCL devices there are, and which of them are tiers.
 *
 * GPUs and accelerators are, and CPUs, of every implementation, from OpenCL 1.2 on.
 * Two kinds are tiers only where TERRACE_TIERS names them, because their memory is
 * already another tier's: those that work in the host's memory (CPUs, GPUs in the
 * same chip), and NVIDIA's, which the tier cuda serves.
 *
 * Loading an implementation is not free: it brings a compiler and threads along. So
 * where nobody asked for OpenCL by name, those that compute on the CPU are left
 * unloaded, being told by the files that announce them to the loader.
 *
 * May call: opencl_unit.h, libc. */
#define _GNU_SOURCE
#include <ctype.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "opencl_unit.h"

enum { PLATFORMS = 16, NVIDIA = 0x10DE };

/* ---- what is asked for, what is installed --------------------------------- */

/* Whether the file names the library of an implementation for CPUs. */
static bool is_for_cpu(const char *path)
{
    static const char *const cpu[] = {"libpocl", "libintelocl", "liboclgrind"};
    char line[256] = "";
    bool found = false;
    FILE *file = fopen(path, "re");
    if (file && fgets(line, sizeof line, file))
        for (size_t i = 0; i < sizeof cpu / sizeof *cpu; i++)
            found |= strstr(line, cpu[i]) != NULL;
    if (file)
        fclose(file);
    return found;
}

bool opencl_only_cpu(void)
{
    static const char *const elsewhere[] = {"OCL_ICD_VENDORS", "OCL_ICD_FILENAMES", "OPENCL_VENDOR_PATH"};
    glob_t files;
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (getenv(elsewhere[i]))
            return false;
    if (glob("/etc/OpenCL/vendors/*.icd", GLOB_NOSORT, NULL, &files))
        return false; /* the library may be an implementation itself */
    bool all = files.gl_pathc > 0;
    for (size_t i = 0; i < files.gl_pathc; i++)
        all &= is_for_cpu(files.gl_pathv[i]);
    globfree(&files);
    return all;
}

/* ---- devices ------------------------------------------------------------- */

uint64_t opencl_number(opencl_device device, opencl_uint what)
{
    uint64_t value = 0; /* of 4 or 8 bytes */
    size_t size = 0;
    if (opencl.device_info(device, what, sizeof value, &value, &size) || size > sizeof value)
        return 0;
    uint32_t half;
    memcpy(&half, &value, sizeof half);
    return size == sizeof half ? half : value;
}

void opencl_string(opencl_device device, opencl_uint what, char *buf, size_t len)
{
    char text[1024] = "";
    if (opencl.device_info(device, what, sizeof text, text, NULL))
        text[0] = '\0';
    const char *begin = text + strspn(text, " ");
    snprintf(buf, len, "%s", begin);
    for (size_t n = strlen(buf); n && isspace((unsigned char)buf[n - 1]); n--)
        buf[n - 1] = '\0';
}

static bool is_recent(opencl_device device)
{
    static const char prefix[] = "OpenCL ";
    char version[80];
    opencl_string(device, OPENCL_DEVICE_VERSION, version, sizeof version);
    if (strncmp(version, prefix, sizeof prefix - 1) != 0)
        return false;
    char *end;
    long major = strtol(version + sizeof prefix - 1, &end, 10);
    long minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    return major > 1 || (major == 1 && minor >= 2);
}

static bool is_usable(opencl_device device)
{
    return opencl_number(device, OPENCL_DEVICE_AVAILABLE) && is_recent(device) &&
           opencl_number(device, OPENCL_DEVICE_MAX_MEM_ALLOC_SIZE) > OPENCL_GRANULE;
}

/* A platform's, after those that are in the list. */
static int add(opencl_platform platform, struct opencl_found *list, int n, int *seen)
{
    opencl_device device[OPENCL_MOST];
    opencl_uint devices = 0;
    if (opencl.devices(platform, OPENCL_DEVICE_TYPES, OPENCL_MOST, device, &devices))
        return n;
    for (opencl_uint i = 0; i < devices && i < OPENCL_MOST; i++) {
        bool cpu = opencl_number(device[i], OPENCL_DEVICE_TYPE) & OPENCL_DEVICE_TYPE_CPU;
        struct opencl_found found = {.platform = platform, .device = device[i]};
        found.shared = cpu || opencl_number(device[i], OPENCL_DEVICE_HOST_UNIFIED_MEMORY);
        found.aside = found.shared || opencl_number(device[i], OPENCL_DEVICE_VENDOR_ID) == NVIDIA;
        ++*seen;
        if (n < OPENCL_MOST && is_usable(device[i]))
            list[n++] = found;
    }
    return n;
}

static int compare(const void *a, const void *b)
{
    const struct opencl_found *x = a, *y = b;
    return x->aside - y->aside;
}

int opencl_find(struct opencl_found list[OPENCL_MOST], char *why, size_t len)
{
    opencl_platform platform[PLATFORMS];
    opencl_uint platforms = 0;
    int n = 0, seen = 0;
    if (!opencl_load(why, len))
        return 0;
    opencl_int r = opencl.platforms(PLATFORMS, platform, &platforms);
    if (r || platforms == 0) {
        char text[80] = "";
        if (r && r != OPENCL_PLATFORM_NOT_FOUND)
            opencl_text(r, text, sizeof text);
        snprintf(why, len, "libOpenCL.so.1 finds no OpenCL implementation (platform) here%s%s", *text ? ": " : "", text);
        return 0;
    }
    for (opencl_uint i = 0; i < platforms && i < PLATFORMS; i++)
        n = add(platform[i], list, n, &seen);
    if (n == 0)
        snprintf(why, len, seen ? "none of %d OpenCL devices is available, has OpenCL 1.2 and some memory"
                                : "the OpenCL implementations here have no device", seen);
    /* qsort() may change the order of equals: these are few */
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && compare(&list[k - 1], &list[k]) > 0; k--) {
            struct opencl_found swap = list[k];
            list[k] = list[k - 1];
            list[k - 1] = swap;
        }
    return n;
}
