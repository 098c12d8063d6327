/* nvme_folder.c - spill folders: which are fit, their files, their room. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "nvme.h"

unsigned char nvme_probe_page[PAGE] __attribute__((aligned(4096)));

static const struct file_system {
    uint32_t magic;
    const char *name;
    const char *refusal; /* NULL: fine */
} file_systems[] = {
    {0x0000ef53, "ext4", NULL},       {0x58465342, "xfs", NULL},
    {0x9123683e, "btrfs", NULL},      {0xf2f52010, "f2fs", NULL},
    {0x2fc12fc1, "zfs", NULL},        {0x794c7630, "overlay", NULL},
    {0xca451a4e, "bcachefs", NULL},   {0x65735546, "fuse", NULL},
    {0x01021994, "tmpfs", "memory"},  {0x858458f6, "ramfs", "memory"},
    {0x958458f6, "hugetlbfs", "memory"},
    {0x00006969, "nfs", "network"},   {0x0000517b, "smb", "network"},
    {0xff534d42, "cifs", "network"},  {0xfe534d42, "smb2", "network"},
    {0x01021997, "9p", "network"},    {0x00c36400, "ceph", "network"},
    {0x0bd00bd0, "lustre", "network"}, {0x47504653, "gpfs", "network"},
    {0x5346414f, "afs", "network"},   {0x6b414653, "afs", "network"},
    {0x73757245, "coda", "network"},  {0x19830326, "beegfs", "network"},
    {0x20030528, "orangefs", "network"},
};

static const struct file_system *file_system_find(uint32_t magic)
{
    static const struct file_system other = {0, "another file system", NULL};
    for (size_t i = 0; i < sizeof file_systems / sizeof *file_systems; i++)
        if (file_systems[i].magic == magic)
            return &file_systems[i];
    return &other;
}

/* For file systems without O_TMPFILE: a name, gone before anyone can use it. */
static int file_create_unlinked(int folder)
{
    char name[64];
    int fd, attempt = 0;
    do {
        snprintf(name, sizeof name, ".terrace-%d-%llx", (int)getpid(), (unsigned long long)now_ns());
        fd = openat(folder, name, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    } while (fd < 0 && errno == EEXIST && ++attempt < 100);
    if (fd >= 0 && unlinkat(folder, name, 0) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

/* An unnamed file in a folder, or -1 with errno. */
int nvme_file_create(int folder)
{
    int fd = openat(folder, ".", O_TMPFILE | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOENT || errno == EINVAL))
        fd = file_create_unlinked(folder);
    return fd;
}

/* Says why a folder cannot be used. */
int nvme_folder_refuse(const struct nvme *u, int code,
                                                               const char *path,
                                                               const char *format, ...)
{
    char why[256];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    return u->host->fail(u->host->context, code,
                         "the spill folder %s %s; let TERRACE_NVME_PATH name a writable folder on a "
                         "local disk", path, why);
}

/* Overlays (containers) may lie on tmpfs, where files have no block map. */
static bool overlay_in_memory(int fd)
{
    struct fiemap map = {.fm_length = PAGE};
    return ioctl(fd, FS_IOC_FIEMAP, &map) != 0 && errno == EOPNOTSUPP;
}

/* Writes the probe page, with O_DIRECT where the file system lets it. */
static int file_probe(int fd, bool *direct)
{
    struct xfsz x;
    ssize_t wrote = -1;
    nvme_xfsz_block(&x);
    *direct = fcntl(fd, F_SETFL, O_DIRECT) == 0;
    if (*direct) {
        wrote = pwrite(fd, nvme_probe_page, PAGE, 0);
        *direct = wrote >= 0 || errno != EINVAL;
    }
    if (!*direct && fcntl(fd, F_SETFL, 0) == 0)
        wrote = pwrite(fd, nvme_probe_page, PAGE, 0);
    nvme_xfsz_restore(&x);
    return wrote == PAGE ? 0 : wrote < 0 ? errno : ENOSPC;
}

static int folder_check(struct nvme *u, struct folder *f, int *probe)
{
    struct statfs fs;
    f->fd = open(f->path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (f->fd < 0 || fstatfs(f->fd, &fs) != 0)
        return nvme_folder_refuse(u, nvme_errno(errno) == -TERRACE_ENOENT ? -TERRACE_ECONFIG : nvme_errno(errno),
                                  f->path, "cannot be opened: %s", strerror(errno));
    const struct file_system *type = file_system_find((uint32_t)fs.f_type);
    f->fs = type->name;
    if (type->refusal)
        return nvme_folder_refuse(u, -TERRACE_ECONFIG, f->path, "is on %s, a %s file system", type->name,
                             type->refusal);
    *probe = nvme_file_create(f->fd);
    if (*probe < 0)
        return nvme_folder_refuse(u, nvme_errno(errno), f->path, "does not take files: %s", strerror(errno));
    int error = file_probe(*probe, &f->direct);
    if (error)
        return nvme_folder_refuse(u, nvme_errno(error), f->path, "cannot be written: %s", strerror(error));
    if (!strcmp(type->name, "overlay") && overlay_in_memory(*probe))
        return nvme_folder_refuse(u, -TERRACE_ECONFIG, f->path, "is an overlay on a memory file system");
    return 0;
}

/* Opens one more folder; the first one's probe file stays open in *probe. */
static int folder_add(struct nvme *u, const char *path, size_t len, int *probe)
{
    int file = -1;
    if (u->folders == MAX_FOLDERS)
        return u->host->fail(u->host->context, -TERRACE_ECONFIG,
                             "TERRACE_NVME_PATH names more than %d folders", MAX_FOLDERS);
    struct folder *f = &u->folder[u->folders];
    f->path = strndup(path, len);
    if (!f->path)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to open nvme:0");
    f->fd = -1;
    int error = folder_check(u, f, &file);
    if (file >= 0 && !error && u->folders == 0)
        *probe = file;
    else if (file >= 0)
        close(file);
    if (!error) {
        u->folders++;
        return 0;
    }
    if (f->fd >= 0)
        close(f->fd);
    free(f->path);
    return error;
}

int nvme_folders_open(struct nvme *u, int *probe)
{
    const char *path = u->host->option(u->host->context, "NVME_PATH");
    int error = -TERRACE_ENOENT;
    if (path && *path) {
        do {
            size_t len = strcspn(path, ":");
            error = folder_add(u, path, len, probe);
            path += len;
        } while (!error && *path++);
        return error;
    }
    path = getenv("TMPDIR");
    if (path && *path)
        error = folder_add(u, path, strlen(path), probe);
    return error ? folder_add(u, "/var/tmp", strlen("/var/tmp"), probe) : 0;
}

void nvme_folders_close(struct nvme *u)
{
    while (u->folders) {
        struct folder *f = &u->folder[--u->folders];
        close(f->fd);
        free(f->path);
    }
}

/* Bytes that may still be used of the disk a folder is on. */
uint64_t nvme_folder_room(const struct folder *f, uint64_t *avail, uint64_t *size)
{
    struct statfs fs = {0};
    if (fstatfs(f->fd, &fs) != 0)
        return 0;
    uint64_t unit = (uint64_t)(fs.f_frsize ? fs.f_frsize : fs.f_bsize);
    *avail = fs.f_bavail * unit;
    *size = fs.f_blocks * unit;
    return *avail > *size / KEEP_FREE ? *avail - *size / KEEP_FREE : 0;
}

/* How many folders share a folder's disk. */
static unsigned folder_sharing(const struct nvme *u, const struct folder *f)
{
    struct stat mine, other;
    unsigned n = 0;
    if (fstat(f->fd, &mine) != 0)
        return 1;
    for (unsigned i = 0; i < u->folders; i++)
        n += fstat(u->folder[i].fd, &other) == 0 && other.st_dev == mine.st_dev;
    return n ? n : 1;
}

int nvme_disk_node(const char *sys, dev_t disk)
{
    char entry[PATH_MAX], path[PATH_MAX], text[16], *end;
    snprintf(entry, sizeof entry, "%s/dev/block/%u:%u", sys, major(disk), minor(disk));
    if (!realpath(entry, path))
        return -1;
    for (; (end = strrchr(path, '/')) != NULL; *end = '\0') {
        snprintf(entry, sizeof entry, "%.*s/numa_node", PATH_MAX - 16, path);
        FILE *file = fopen(entry, "re");
        if (!file)
            continue;
        int node = fgets(text, sizeof text, file) ? (int)strtol(text, NULL, 10) : -1;
        fclose(file);
        return node < 0 ? -1 : node;
    }
    return -1;
}

int nvme_folder_node(const struct folder *f)
{
    struct stat is;
    return fstat(f->fd, &is) ? -1 : nvme_disk_node("/sys", is.st_dev);
}

/* Stripes are dealt evenly, so the disk with the least room per folder decides. */
int nvme_capacity(const struct nvme *u, terrace_unit_info *info)
{
    uint64_t least = UINT64_MAX, avail = 0, size = 0;
    const struct folder *tight = &u->folder[0];
    for (unsigned i = 0; i < u->folders; i++) {
        const struct folder *f = &u->folder[i];
        uint64_t part = nvme_folder_room(f, &avail, &size) / folder_sharing(u, f);
        if (part < least)
            least = part, tight = f;
    }
    if (least < STRIPE) {
        nvme_folder_room(tight, &avail, &size);
        return nvme_folder_refuse(u, -TERRACE_ENOSPC, tight->path,
                             "is on a full disk (%.1f of %.1f GiB free, 5 %% of it stays free)",
                             (double)avail / GIB, (double)size / GIB);
    }
    nvme_folder_room(tight, &avail, &size);
    info->capacity = least * u->folders;
    snprintf(info->capacity_reason, sizeof info->capacity_reason,
             "%.1f GiB free in %.60s less 5 %% of the disk's %.1f GiB%s", (double)avail / GIB,
             tight->path, (double)size / GIB, u->folders > 1 ? ", striped evenly" : "");
    return 0;
}

