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
};

/* Opens one for this process. `reason` says what was refused, if something was.
 * Errors: ENOTSUP (forbidden, or the kernel cannot move pages; the sentence
 * says which, and the remedy), ESYSTEM. */
int  uffd_open(struct uffd *u, char *reason, size_t len);
void uffd_close(struct uffd *u);

/* Faults on absent pages of the range come to this descriptor. */
int uffd_watch(const struct uffd *u, void *base, size_t bytes);
/* Pages can be moved into the range; its faults stay the kernel's. */
int uffd_accept(const struct uffd *u, void *base, size_t bytes);

/* Moves the pages behind [from, from + bytes) to `to`, where there are none,
 * atomically for whoever uses either address, and wakes who waits there. Holes
 * move as holes. Returns 0 or a positive errno; then *moved bytes have moved. */
int uffd_move(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);
void uffd_wake(const struct uffd *u, void *base, size_t bytes);
/* Whoever touches the range from now on gets SIGBUS. False: not supported. */
bool uffd_poison(const struct uffd *u, void *base, size_t bytes);

/* Reads up to max waiting faults' addresses; returns how many, 0 if none. */
int uffd_faults(const struct uffd *u, uint64_t *address, int max);

#endif
