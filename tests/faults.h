/* faults.h - makes the Nth call of a kind fail.
 *
 * A test links tests/faults.c together with the objects it is about (the disk
 * tier, or the whole library), with the linker's --wrap for every symbol in
 * tests/faults.wrap, which is to say with
 *
 *   -Wl,--wrap=malloc -Wl,--wrap=calloc -Wl,--wrap=aligned_alloc
 *   -Wl,--wrap=realloc -Wl,--wrap=strdup
 *   -Wl,--wrap=strndup -Wl,--wrap=mmap -Wl,--wrap=open -Wl,--wrap=openat
 *   -Wl,--wrap=fallocate -Wl,--wrap=pread -Wl,--wrap=pwrite -Wl,--wrap=eventfd
 *   -Wl,--wrap=pthread_create -Wl,--wrap=io_uring_queue_init
 *   -Wl,--wrap=io_uring_submit -Wl,--wrap=io_uring_wait_cqe_timeout
 *   -Wl,--wrap=io_uring_peek_batch_cqe -Wl,--wrap=ioctl -Wl,--wrap=uffd_take
 *
 * Calls made by those objects, the test's own included, are counted; calls
 * made inside shared libraries are not seen. A sweep looks like
 *
 *   bool fired;
 *   unsigned n = 0;
 *   do {
 *       fault_arm(FAULT_PREAD, ++n, EIO);
 *       ... the operation: it succeeds with the right bytes, or fails cleanly ...
 *       fired = fault_disarm();
 *   } while (fired);   // the last round was untouched, and must have succeeded
 *
 * At most one fault is armed at a time, and it strikes once, in whichever
 * thread makes the call. Arm and disarm from one thread. */
#ifndef TERRACE_TESTS_FAULTS_H
#define TERRACE_TESTS_FAULTS_H

#include <stdbool.h>
#include <stdint.h>

enum fault_call {
    FAULT_NONE,
    FAULT_ALLOCATE,     /* malloc, calloc, aligned_alloc, realloc, strdup, strndup: NULL and errno */
    FAULT_MMAP,
    FAULT_OPEN,         /* open, openat */
    FAULT_FALLOCATE,
    FAULT_PREAD,
    FAULT_PWRITE,
    FAULT_EVENTFD,
    FAULT_THREAD,       /* pthread_create */
    FAULT_URING_INIT,   /* io_uring_queue_init */
    FAULT_URING_SUBMIT, /* io_uring_submit returns -error and submits nothing */
    FAULT_URING_WAIT,   /* io_uring_wait_cqe_timeout returns -error at once */
    FAULT_URING_RESULT, /* a completion io_uring_peek_batch_cqe gave: its res is changed */
    FAULT_CALLS
};

/* In place of an errno, for PREAD, PWRITE and URING_RESULT: the transfer takes
 * place, but reports one byte more than half of what it did. */
enum { FAULT_SHORT = -1 };

/* The nth (from 1) call of this kind from now on fails with an errno. */
void fault_arm(enum fault_call call, unsigned nth, int error);

/* The kernel's userfaultfd is one without these UFFD_FEATUREs. */
void fault_kernel_lacks(uint64_t features);

/* Instead of being moved out of a region, pages are copied, then dropped where
 * they were: wrong where somebody writes to them meanwhile. */
void fault_copy_then_drop(bool on);

/* Ends it; true: it struck. */
bool fault_disarm(void);

#endif
