/* preload.h - what the files of the preloaded library share.
 * May call: terrace.h, process.h, the small blocks' allocator, libc.
 *
 * A block is large from TERRACE_MIN_SIZE on: it is address-stable memory of
 * terrace. All others, and whatever terrace itself needs, come from jemalloc. */
#ifndef TERRACE_PRELOAD_H
#define TERRACE_PRELOAD_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "process.h"

#define HOOK __attribute__((visibility("default")))
#define LIKELY(x) __builtin_expect(!!(x), 1)

enum { PAGE = 4096, SLOT = 2 << 20 }; /* large blocks begin at multiples of a slot */

static inline size_t round_up(size_t n, size_t to)
{
    return (n + to - 1) & ~(to - 1);
}

/* ---- guard.c: who must not be given terrace's memory ---- */

/* This thread is inside of terrace, or is one of its own. */
extern _Thread_local bool inside __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Around what is called in terrace. Signals wait meanwhile: a handler may touch
 * memory that only comes while nobody holds terrace's locks. errno is kept. */
struct guard {
    sigset_t mask;
    int error;
    bool inside;
};
void guard_enter(struct guard *g);
void guard_leave(const struct guard *g);

/* Whether code at this address is libterrace's, or of a library that was added. */
bool guard_is_library(const void *address);
void guard_add(const void *address); /* the library that this is in */
void guard_begin(void);

/* One line on stderr, unless TERRACE_LOG=off. */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same, for who wants to know more (TERRACE_LOG=info), and all (debug). */
void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
void detail(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Why "host" or "device" memory is the system's: once, where both have the same reason. */
void say_untiered(const char *memory, const char *why);

/* ---- table.c: which addresses are large blocks ---- */

/* What has become of a page of a block; 0: nothing. */
enum {
    PAGE_GONE = 0x80,      /* unmapped: a segmentation fault */
    PAGE_FOREIGN = 0x40,   /* something else was mapped there */
    PAGE_PROTECTED = 0x20, /* with the PROT_... in the low bits */
    PAGE_LOCKED = 0x10,
    PAGE_HELD = 0x08       /* a device's driver knows it */
};

struct block {
    char *base;
    size_t bytes;        /* in use; a multiple of a page, but for malloc's own */
    size_t reserved;     /* address space, from base */
    unsigned epoch;      /* of the process that made it: see large.c */
    unsigned char *page; /* PAGE_..., for each; NULL: none is set */
    unsigned char *slot; /* for each slot, what mapping.c has to know; with `page` */
};

/* False: no memory for that, or an address too high. */
bool table_add(struct block *b);
void table_remove(struct block *b);
/* The block that the address is in, or NULL. Takes no lock. */
struct block *table_at(const void *p);
/* The first block in a part of the address space, or NULL. */
struct block *table_next(const char *from, const char *to);
/* How many there are. */
extern atomic_size_t table_count __attribute__((visibility("hidden")));

/* ---- large.c: large blocks of malloc and mmap ---- */

/* Bytes that make a block large; SIZE_MAX: none is. */
extern size_t large_least __attribute__((visibility("hidden")));

/* Zeroed; with address space for `reserve` bytes where that is more. NULL: not to be
 * had, or the caller is one who must not get it. */
struct block *large_new(size_t bytes, size_t reserve, const void *caller);
void large_free(struct block *b);
/* The block that malloc gave out at p, or NULL. */
static inline struct block *large_of(const void *p)
{
    struct block *b = (uintptr_t)p % SLOT ? NULL : table_at(p);
    return b && b->base == p ? b : NULL;
}
/* Whether the block was the parent's when this process was forked from it: the
 * kernel alone serves it. */
bool large_inherited(const struct block *b);
/* As terrace_advise() and terrace_process_discard(); 0 or an errno. */
int  large_advise(const struct block *b, char *at, size_t bytes, int advice);
void large_discard(const struct block *b, char *at, size_t bytes);
/* From here on there are no new ones. */
void large_stop(void);

/* ---- cuda_memory.c: blocks on devices ---- */

/* Bytes that make one large. */
extern size_t memory_least __attribute__((visibility("hidden")));

/* ---- malloc.c ---- */

/* Whether it is in use, and not one that the program brings along. */
bool malloc_is_ours(void);

/* ---- mapping.c ---- */

void mapping_begin(void);
/* The system's own, whoever calls. */
void *real_mmap(void *at, size_t bytes, int prot, int flags, int fd, off_t offset);
int   real_munmap(void *at, size_t bytes);
/* Memory that a device's driver is about to know, or knows no more: it stays where it is
 * meanwhile. 0, or an errno. */
int   mapping_hold(void *at, size_t bytes, bool hold);

#endif
