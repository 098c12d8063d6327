/* uffd_copy.h - pages that change places by being copied, without UFFDIO_MOVE.
 * May call: uffd.h. */
#ifndef TERRACE_LIB_UFFD_COPY_H
#define TERRACE_LIB_UFFD_COPY_H

#include "uffd.h"

/* As uffd_place() and uffd_take(). */
int uffd_copy_in(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);
int uffd_copy_out(const struct uffd *u, void *to, void *from, size_t bytes, size_t *moved);

/* As uffd_poison(), also where the kernel has nothing for it. */
bool uffd_copy_poison(void *base, size_t bytes);

#endif
