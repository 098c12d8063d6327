/* uffd.h - the kernel's userfaultfd, as far as address-stable memory needs it.
 * May call: error.h, libc. */
#ifndef TERRACE_LIB_UFFD_H
#define TERRACE_LIB_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uffd {
    int fd;
    bool kernel_faults; /* also those of system calls are served */
    bool can_poison;
    bool copies;        /* pages, as the kernel cannot move them or was not to */
    int pagemap;        /* where it copies: says which pages there are */
};

/* Opens one for this process. copy: that copies pages in any case. `reason` says
 * which it is, and what was refused, if something was. Errors: ENOTSUP
 * (forbidden, or the kernel can neither move pages nor hold writers back; the
 * sentence says which, and the remedy). */
int  uffd_open(struct uffd *u, bool copy, char *reason, size_t len);
void uffd_close(struct uffd *u);

/* Faults on absent pages of the range, a region, come to this descriptor. */
int uffd_watch(const struct uffd *u, void *base, size_t bytes);
/* Pages can be put into the range, of an arena; its faults stay the kernel's. */
int uffd_accept(const struct uffd *u, void *base, size_t bytes);

/* The pages behind [from, from + bytes) come to `to`, where there are none: to
 * place them is from an arena to a region, to take them from a region to an
 * arena. No write to the region is lost, and whoever waits there is woken. Holes
 * stay holes. Returns 0 or a positive errno; then *moved bytes have moved. */
int uffd_place(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);
int uffd_take(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);
void uffd_wake(const struct uffd *u, void *base, size_t bytes);
/* Whoever touches the range from now on gets SIGBUS. False: not supported. */
bool uffd_poison(const struct uffd *u, void *base, size_t bytes);

/* Reads up to max waiting faults' addresses; returns how many, 0 if none. */
int uffd_faults(const struct uffd *u, uint64_t *address, int max);

#endif
