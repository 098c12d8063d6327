/* uffd.c - the kernel's userfaultfd, as far as address-stable memory needs it.
 *
 * Moving pages (UFFDIO_MOVE) came with Linux 6.8, later than the headers this
 * may be built with, so it is declared here as Linux's own
 * Documentation/admin-guide/mm/userfaultfd.rst and uapi header define it.
 *
 * May call: error.h, libc. */
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "terrace.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#define FEATURE_POISON (UINT64_C(1) << 14)
#define FEATURE_MOVE (UINT64_C(1) << 16)
#define MOVE_ALLOW_SRC_HOLES (UINT64_C(1) << 1)

struct move {
    uint64_t dst, src, len, mode;
    int64_t moved;
};
struct poison {
    uint64_t start, len, mode;
    int64_t updated;
};
#define IOCTL_MOVE _IOWR(UFFDIO, 0x05, struct move)
#define IOCTL_POISON _IOWR(UFFDIO, 0x08, struct poison)
#define IOCTL_NEW _IO(0xAA, 0x00) /* of /dev/userfaultfd */

/* The ways to get one, the most capable first. */
static int descriptor(bool *kernel_faults)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    *kernel_faults = true;
    int fd = (int)syscall(SYS_userfaultfd, flags);
    if (fd >= 0)
        return fd;
    int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device >= 0) {
        fd = ioctl(device, IOCTL_NEW, flags);
        close(device);
        if (fd >= 0)
            return fd;
    }
    *kernel_faults = false;
    return (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
}

int uffd_open(struct uffd *u, char *reason, size_t len)
{
    snprintf(reason, len, "userfaultfd");
    u->fd = descriptor(&u->kernel_faults);
    if (u->fd < 0)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory needs userfaultfd, which is refused "
                         "(%s): allow it in the container's seccomp profile, or set "
                         "vm.unprivileged_userfaultfd=1", strerror(errno));
    struct uffdio_api api = {.api = UFFD_API, .features = FEATURE_MOVE};
    if (ioctl(u->fd, UFFDIO_API, &api)) {
        close(u->fd);
        return error_set(-TERRACE_ENOTSUP, "address-stable memory needs a kernel that moves pages "
                         "(UFFDIO_MOVE, Linux 6.8 or later)");
    }
    u->can_poison = api.features & FEATURE_POISON;
    if (!u->kernel_faults)
        snprintf(reason, len, "userfaultfd for user-mode faults only: system calls on pages that are "
                 "not in memory fail with EFAULT; allow /dev/userfaultfd to this user, or set "
                 "vm.unprivileged_userfaultfd=1");
    return 0;
}

void uffd_close(struct uffd *u)
{
    close(u->fd);
}

static int enrol(const struct uffd *u, void *base, size_t bytes, uint64_t mode)
{
    struct uffdio_register r = {.range = {(uintptr_t)base, bytes}, .mode = mode};
    if (ioctl(u->fd, UFFDIO_REGISTER, &r))
        return error_set(-TERRACE_ESYSTEM, "userfaultfd does not take %zu bytes at %p: %s", bytes, base,
                         strerror(errno));
    return 0;
}

int uffd_watch(const struct uffd *u, void *base, size_t bytes)
{
    return enrol(u, base, bytes, UFFDIO_REGISTER_MODE_MISSING);
}

int uffd_accept(const struct uffd *u, void *base, size_t bytes)
{
    return enrol(u, base, bytes, UFFDIO_REGISTER_MODE_WP); /* nothing is ever protected */
}

int uffd_move(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    *moved = 0;
    while (*moved < bytes) {
        struct move m = {.dst = (uintptr_t)to + *moved, .src = (uintptr_t)from + *moved,
                         .len = bytes - *moved, .mode = MOVE_ALLOW_SRC_HOLES};
        int e = ioctl(u->fd, IOCTL_MOVE, &m) ? errno : 0;
        if (m.moved > 0)
            *moved += (size_t)m.moved;
        if (e && e != EAGAIN)
            return e;
        if (e == EAGAIN && m.moved <= 0)
            return EAGAIN;
    }
    return 0;
}

void uffd_wake(const struct uffd *u, void *base, size_t bytes)
{
    struct uffdio_range r = {(uintptr_t)base, bytes};
    (void)ioctl(u->fd, UFFDIO_WAKE, &r);
}

bool uffd_poison(const struct uffd *u, void *base, size_t bytes)
{
    struct poison p = {.start = (uintptr_t)base, .len = bytes};
    return u->can_poison && ioctl(u->fd, IOCTL_POISON, &p) == 0;
}

int uffd_faults(const struct uffd *u, uint64_t *address, int max)
{
    struct uffd_msg msg[16];
    ssize_t got = read(u->fd, msg, sizeof msg[0] * (size_t)(max < 16 ? max : 16));
    int n = 0;
    for (ssize_t i = 0; i < got / (ssize_t)sizeof msg[0]; i++)
        if (msg[i].event == UFFD_EVENT_PAGEFAULT)
            address[n++] = msg[i].arg.pagefault.address;
    return n;
}
