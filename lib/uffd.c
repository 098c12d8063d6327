/* uffd.c - the kernel's userfaultfd, as far as address-stable memory needs it.
 *
 * Moving pages (UFFDIO_MOVE) came with Linux 6.8, later than the headers this
 * may be built with, so it is declared here as Linux's own
 * Documentation/admin-guide/mm/userfaultfd.rst and uapi header define it. Where
 * it is missing pages are copied: uffd_copy.c.
 *
 * May call: error.h, uffd_copy.h, libc. */
#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "error.h"
#include "terrace.h"
#include "uffd_copy.h"

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

enum { PAGE = 4096 };

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

/* Agrees with the kernel on what is needed of it. */
static bool agree(struct uffd *u, uint64_t features)
{
    struct uffdio_api api = {.api = UFFD_API, .features = features};
    bool agreed = ioctl(u->fd, UFFDIO_API, &api) == 0;
    u->can_poison = agreed && api.features & FEATURE_POISON;
    return agreed;
}

/* To copy pages the kernel must hold writers back, and tell which there are. */
static int prepare_copying(struct uffd *u)
{
    if (!agree(u, UFFD_FEATURE_PAGEFAULT_FLAG_WP))
        return error_set(-TERRACE_ENOTSUP, "address-stable memory needs a kernel that moves pages (UFFDIO_MOVE, "
                         "Linux 6.8 or later), or holds back who writes to them (UFFDIO_WRITEPROTECT, Linux 5.7 "
                         "or later, not on all processors)");
    u->pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    if (u->pagemap < 0)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory needs a kernel that moves pages (UFFDIO_MOVE, "
                         "Linux 6.8 or later), or that /proc/self/pagemap can be read (%s)", strerror(errno));
    u->copies = true;
    return 0;
}

int uffd_open(struct uffd *u, bool copy, char *reason, size_t len)
{
    *u = (struct uffd){.pagemap = -1};
    u->fd = descriptor(&u->kernel_faults);
    if (u->fd < 0)
        return error_set(-TERRACE_ENOTSUP, "address-stable memory needs userfaultfd, which is refused "
                         "(%s): allow it in the container's seccomp profile, or set "
                         "vm.unprivileged_userfaultfd=1", strerror(errno));
    int r = !copy && agree(u, FEATURE_MOVE) ? 0 : prepare_copying(u);
    if (r) {
        close(u->fd);
        return r;
    }
    snprintf(reason, len, "userfaultfd%s%s%s", u->copies ? ", copying pages" : "",
             !u->copies ? "" : copy ? ": TERRACE_STABLE=copy" :
             ", as this kernel cannot move them (UFFDIO_MOVE, Linux 6.8 or later)",
             u->kernel_faults ? "" : "; for user-mode faults only: system calls on pages that are not in memory "
             "fail with EFAULT; allow /dev/userfaultfd to this user, or set vm.unprivileged_userfaultfd=1");
    return 0;
}

void uffd_close(struct uffd *u)
{
    close(u->fd);
    if (u->pagemap >= 0)
        close(u->pagemap);
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
    if (!u->copies)
        return enrol(u, base, bytes, UFFDIO_REGISTER_MODE_MISSING);
    /* A huge page would keep all its memory when parts of it are given up. */
    (void)madvise(base, bytes, MADV_NOHUGEPAGE);
    return enrol(u, base, bytes, UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_WP);
}

int uffd_accept(const struct uffd *u, void *base, size_t bytes)
{
    return enrol(u, base, bytes, UFFDIO_REGISTER_MODE_WP); /* nothing is ever protected */
}

static int move(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
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

int uffd_place(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    return (u->copies ? uffd_copy_in : move)(u, to, from, bytes, moved);
}

int uffd_take(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved)
{
    return (u->copies ? uffd_copy_out : move)(u, to, from, bytes, moved);
}

void uffd_wake(const struct uffd *u, void *base, size_t bytes)
{
    struct uffdio_range r = {(uintptr_t)base, bytes};
    (void)ioctl(u->fd, UFFDIO_WAKE, &r);
}

bool uffd_poison(const struct uffd *u, void *base, size_t bytes)
{
    struct poison p = {.start = (uintptr_t)base, .len = bytes};
    if (u->copies)
        return uffd_copy_poison(base, bytes);
    return u->can_poison && ioctl(u->fd, IOCTL_POISON, &p) == 0;
}

/* A writer that was held back is to try again: what it waits for may have ended
 * before it began to. */
static bool is_writer(const struct uffd *u, const struct uffd_msg *msg)
{
    if (!(msg->arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP))
        return false;
    uffd_wake(u, (void *)(uintptr_t)(msg->arg.pagefault.address / PAGE * PAGE), PAGE);
    return true;
}

int uffd_faults(const struct uffd *u, uint64_t *address, int max)
{
    struct uffd_msg msg[16];
    int n = 0;
    bool more = true;
    while (more && n < max) { /* nobody may look again after a writer that is not counted */
        ssize_t got = read(u->fd, msg, sizeof msg[0] * (size_t)(max - n < 16 ? max - n : 16));
        more = false;
        for (ssize_t i = 0; i < got / (ssize_t)sizeof msg[0]; i++) {
            if (msg[i].event != UFFD_EVENT_PAGEFAULT)
                continue;
            if (is_writer(u, &msg[i]))
                more = true;
            else
                address[n++] = msg[i].arg.pagefault.address;
        }
    }
    return n;
}
