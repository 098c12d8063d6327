/* terrace.h - one allocator over accelerator memory, host RAM and NVMe.
 *
 * A manager (terrace) owns tiers: places bytes can live, such as "numa:0" or
 * "nvme:0". A tensor (terrace_tensor) is a handle to bytes that may be in
 * several tiers at once. terrace_acquire() brings the bytes to a tier and pins
 * them there; terrace_release() lets them go. In between terrace evicts,
 * writes back and prefetches so that no tier exceeds its budget.
 *
 * Conventions, true of every function unless its comment says otherwise:
 *  - thread-safe; sizes and offsets are in bytes;
 *  - an int result is 0 or a negative TERRACE_E... code, and then
 *    terrace_last_error() has a sentence: what failed, on what, the remedy;
 *  - outputs come last and are written only on success;
 *  - structs passed by the caller begin with `size`, set to sizeof the struct;
 *  - in a forked child every call but terrace_close() fails with TERRACE_EFORK;
 *  - no signal handler is installed, nothing is printed unless asked for.
 *
 * This header compiles as C11 and C++17.
 */
#ifndef TERRACE_H
#define TERRACE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TERRACE_VERSION_MAJOR 0
#define TERRACE_VERSION_MINOR 1
#define TERRACE_VERSION_PATCH 0
#define TERRACE_VERSION "0.1.0"

#if defined(TERRACE_BUILD) && defined(__GNUC__)
#define TERRACE_API __attribute__((visibility("default")))
#else
#define TERRACE_API
#endif

/* Every error: name, value, and the short text terrace_strerror() gives. The
 * kinds of exhaustion are kept apart: host memory (ENOMEM), device memory
 * (EDEVMEM), storage space (ENOSPC), a budget (EBUDGET), a rule (ERULE). */
#define TERRACE_ERRORS(X)                                                                  \
    X(EINVAL, 1, "an argument is invalid")                                                 \
    X(ENOMEM, 2, "the host is out of memory")                                              \
    X(EDEVMEM, 3, "the device is out of memory")                                           \
    X(ENOSPC, 4, "the storage is full")                                                    \
    X(EBUDGET, 5, "the tier's budget is exhausted by tensors in use")                      \
    X(ERULE, 6, "a placement rule forbids it")                                             \
    X(EBUSY, 7, "the tensor is in use in a way that excludes this one")                    \
    X(EAGAIN, 8, "the bytes are on their way; ask again")                                  \
    X(ENOTSUP, 9, "not supported by this tier or this build")                              \
    X(EFORK, 10, "the manager belongs to the parent process")                              \
    X(EIO, 11, "a transfer failed")                                                        \
    X(ECORRUPT, 12, "the bytes read back are not the bytes written")                       \
    X(ECHANGED, 13, "the file was changed or truncated since it was opened")               \
    X(ENOENT, 14, "no such tier or file")                                                  \
    X(EPERM, 15, "the system refuses permission")                                          \
    X(ECONFIG, 16, "a setting has a value that cannot be used")                            \
    X(EDEVICE, 17, "a device failed")                                                      \
    X(ESYSTEM, 18, "the operating system refused a resource")

enum {
#define TERRACE_ERROR_ENUM(name, value, text) TERRACE_##name = value,
    TERRACE_ERRORS(TERRACE_ERROR_ENUM)
#undef TERRACE_ERROR_ENUM
    TERRACE_ERROR_LAST
};

typedef struct terrace terrace;               /* a manager: tiers, budgets, policy */
typedef struct terrace_tensor terrace_tensor; /* a handle to bytes */
typedef int32_t terrace_tier;                 /* a tier, a kind or a class, looked up once */

/* How acquired bytes will be used (exactly one of the first three; READ may
 * be combined with WRITE and adds nothing to it), and how to wait. */
enum {
    TERRACE_READ = 1,      /* the bytes are read, not changed */
    TERRACE_WRITE = 2,     /* some bytes change, the others are kept */
    TERRACE_OVERWRITE = 4, /* all bytes are undefined until written: nothing is read */
    TERRACE_WAIT = 8,      /* if no room can be made now, or another user excludes
                            * this one, wait for a release */
    TERRACE_NOWAIT = 16    /* if not there yet, start the migration and return
                            * -TERRACE_EAGAIN */
};

/* What a tensor is for: reports and placement rules. */
enum {
    TERRACE_ROLE_OTHER = 0,
    TERRACE_ROLE_WEIGHT,
    TERRACE_ROLE_GRADIENT,
    TERRACE_ROLE_OPTIMIZER,
    TERRACE_ROLE_ACTIVATION,
    TERRACE_ROLE_KVCACHE
};

/* Flags of terrace_tensor_attr. */
enum {
    TERRACE_ATTR_UNMOVABLE = 1, /* once on a tier, never evicted from it */
    TERRACE_ATTR_SVM = 2        /* OpenCL: shared virtual memory pointers */
};

/* Advice of terrace_advise(). */
enum {
    TERRACE_ADVISE_WILLNEED = 1,
    TERRACE_ADVISE_DONTNEED,
    TERRACE_ADVISE_PIN,
    TERRACE_ADVISE_UNPIN
};

/* As a stream: acquire returns when the bytes are there and what streams were still
 * to do with them has been done; release promises that all use has ended. NULL is the
 * backend's default stream. Host tiers, and devices that have no streams, ignore the
 * stream: they always behave as with TERRACE_HOST_SYNC. */
#define TERRACE_HOST_SYNC ((void *)-1)

/* Zero means default; a NULL attr means all defaults. */
typedef struct terrace_tensor_attr {
    size_t size;       /* sizeof(terrace_tensor_attr) */
    const char *label; /* "layers/3/attn/w_q", for rules and reports; copied */
    int role;          /* TERRACE_ROLE_... */
    size_t alignment;  /* bytes, a power of two of at most 2 MiB; default 64 */
    unsigned flags;    /* TERRACE_ATTR_... */
} terrace_tensor_attr;

/* One entry of terrace_acquire_all(). `address` and `where` are outputs. */
typedef struct terrace_access {
    size_t size;            /* sizeof(terrace_access) */
    terrace_tensor *tensor;
    terrace_tier tier;
    unsigned mode;          /* WAIT and NOWAIT of any entry apply to the whole list */
    void *address;
    terrace_tier where;
} terrace_access;

/* Counters since terrace_open(). All byte counts are bytes, times nanoseconds. */
typedef struct terrace_statistics {
    size_t size;               /* sizeof(terrace_statistics) */
    uint64_t tensors;          /* alive now */
    uint64_t tensor_bytes;     /* their bytes as asked for */
    uint64_t steps;            /* terrace_step() calls */
    uint64_t acquires;         /* successful, each entry of a list counted */
    uint64_t hits;             /* of these: without waiting for room or bytes */
    uint64_t stall_ns;         /* time acquires spent waiting, summed over threads, and that
                                * somebody waited for blocks of stable memory */
    uint64_t prefetches;       /* migrations started by a hint or NOWAIT */
    uint64_t prefetch_hits;    /* of these: finished before they were acquired */
    uint64_t evictions;        /* copies dropped from a tier to make room */
    uint64_t clean_evictions;  /* of these: needed no write */
    uint64_t writeback_bytes;  /* written to lower tiers */
    uint64_t fill_bytes;       /* read from lower tiers */
    uint64_t file_bytes;       /* of these: read from users' files */
    uint64_t cpu_copy_bytes;   /* bytes that needed a copy by the CPU on their way */
    uint64_t wasted_bytes;     /* written back, then changed before they were dropped */
    uint64_t io_errors;        /* migrations that failed */
    uint64_t corrupt;          /* of these: checksum or authentication mismatches */
    uint64_t faults;           /* of stable memory: touches of pages that were not at their place */
    const char *absent;        /* kinds of tiers that are not here: a line for each, "cuda: why";
                                * the manager's; "" where none is missing */
    uint64_t stalls;           /* how often somebody waited; see stall_ns */
} terrace_statistics;

/* One tier. Strings are owned by the manager and valid until terrace_close(). */
typedef struct terrace_tier_statistics {
    size_t size;               /* sizeof(terrace_tier_statistics) */
    const char *name;          /* "numa:0" */
    const char *kind;          /* "numa" */
    const char *tier_class;    /* "device", "host" or "disk" */
    const char *location;      /* what it is: node, device name, folders */
    const char *engine;        /* how its bytes move: "io_uring", "threads", ... */
    const char *engine_reason; /* why that engine; what was refused and the remedy */
    uint64_t limit;            /* the budget */
    const char *limit_reason;  /* where the budget came from */
    uint64_t used;             /* bytes held now, caches and staging included */
    uint64_t peak;             /* most ever held */
    uint64_t pinned;           /* bytes of tensors acquired now */
    uint64_t dirty;            /* bytes whose only valid copy is here */
    uint64_t tensors;          /* tensors with a valid copy here */
    uint64_t in_bytes;         /* moved into the tier */
    uint64_t out_bytes;        /* moved out of the tier */
    uint64_t io_chunk;         /* largest piece a transfer is cut into */
    uint64_t io_depth;         /* most pieces in flight at once, at present */
    const char *small_engine;  /* memory tiers: what serves small tensors, or why they
                                * are treated like others; NULL elsewhere */
    const char *distances;     /* to tiers of the same kind: "numa:0 10, numa:1 21" (10 is the
                                * distance to itself); "" where there is nothing to say */
    int node;                  /* the system's number of the NUMA node it is, or is next to;
                                * -1: none or not known */
    const char *stable_engine; /* memory tiers: what serves terrace_malloc() and why; NULL
                                * where nothing does, and before the first call */
    uint64_t cached;           /* of used: free, kept for the next; what is not needed
                                * for a while goes back */
    uint64_t cached_pieces;    /* how many runs of addresses that is */
    uint64_t largest_cached;   /* bytes of the largest: much less than cached, where the
                                * addresses are fragmented */
    uint64_t extents;          /* runs of addresses in use */
    uint64_t small_bytes;      /* in groups of small tensors: slices in use, or kept */
    uint64_t group_bytes;      /* addresses of the groups; of all memory tiers */
    uint64_t staging;          /* of used: memory that bytes pass through */
    const char *staging_state; /* whether it is pinned and registered, or why not; NULL: none */
    const char *vendor;        /* whose hardware it is, or its kind */
    uint64_t byte_seconds;     /* bytes held (`used`), times the seconds they were */
    uint64_t stable_bytes;     /* of used: blocks of devices' stable memory that are here */
} terrace_tier_statistics;

/* ---- the manager ------------------------------------------------------- */

/* Opens a manager. `conf` holds settings as "key=value" entries separated by
 * newline or ';', keys being the environment variables' names in lower case
 * without "TERRACE_" ("limit_numa=8G; nvme_path=/scratch"); values may be
 * double-quoted, with \" and \\ as the only escapes. conf goes over the
 * environment, the environment over defaults; NULL: environment alone.
 * Blocks while tiers are probed and spill files are created (milliseconds).
 * The caller owns *out and ends it with terrace_close().
 * Errors: EINVAL (out is NULL), ECONFIG (a value does not parse: the sentence
 * names the setting, the value and what is accepted), ENOTSUP (a setting this
 * build does not support), ENOENT (a tier asked for is not there), EPERM,
 * ENOSPC (spill folder), ENOMEM, ESYSTEM. */
TERRACE_API int terrace_open(terrace **out, const char *conf);

/* Waits for I/O in flight, destroys tensors that remain, writes the report
 * where TERRACE_REPORT asks for one, and frees the manager. NULL is allowed.
 * Not thread-safe: no other call may use the manager or its tensors any more.
 * In a forked child it only closes this process's view. */
TERRACE_API void terrace_close(terrace *m);

/* Looks up a tier ("numa:0"), a kind ("numa": any tier of it) or a class
 * ("device", "host", "disk"). Does not block.
 * Errors: EINVAL, ENOENT (the sentence lists what there is). */
TERRACE_API int terrace_tier_find(terrace *m, const char *name, terrace_tier *out);

/* Writes the name of a tier, kind or class into buf, NUL-terminated. Does not
 * block. Errors: EINVAL (no such tier, or len too small). */
TERRACE_API int terrace_tier_name(terrace *m, terrace_tier tier, char *buf, size_t len);

/* ---- tensors ----------------------------------------------------------- */

/* Small tensors, of at most 32 KiB, may share a group of 256 KiB with others, by
 * which they move between tiers: a million of them does not cost a million
 * transfers. Each is acquired, released and destroyed by itself, but
 *  - while one is acquired, its whole group is kept there, and counts as pinned;
 *  - a group moves down once each of its tensors has been demoted since it was
 *    created or last acquired, and is brought by a prefetch of any of them;
 *  - a migration that fails has failed for every tensor of the group.
 * Tensors with flags, with an alignment above 4 KiB or from a file are never in
 * a group; none is where a group would be a large part of the budget (below
 * 16 MiB). With several tiers in memory a group is used on one of them; a tensor
 * that is wanted on another leaves its group, with one copy by the CPU. */

/* Creates a tensor of `bytes` (at least 1). It takes no memory in any tier
 * until first acquired, and reads as zeros until first written (after an
 * OVERWRITE acquire its bytes are undefined until written). Tensors of 4096
 * bytes and more are page-aligned and page-padded. Does not block.
 * The caller owns *out and ends it with terrace_tensor_destroy().
 * Errors: EINVAL (bytes is 0 or absurd, attr is malformed), ERULE (placement rules
 * leave no tier in memory), ENOMEM. */
TERRACE_API int terrace_tensor_create(terrace *m, size_t bytes, const terrace_tensor_attr *attr,
                                      terrace_tensor **out);

/* Creates a tensor whose first contents are `bytes` of the file `path` from
 * `offset`. The file is never written: once changed, the tensor is evicted to
 * the spill. A file changed or truncated since then is TERRACE_ECHANGED at the
 * next read from it. Where file offset and memory alignment disagree, one CPU
 * copy is made and counted. Blocks for an open() and fstat().
 * Errors: EINVAL (as above; the range is not inside the file), ENOENT, EPERM,
 * ENOTSUP (no disk tier), ERULE, ENOMEM, EIO. */
TERRACE_API int terrace_tensor_open(terrace *m, const char *path, uint64_t offset, size_t bytes,
                                    const terrace_tensor_attr *attr, terrace_tensor **out);

/* Destroys a tensor and its bytes everywhere. While it is acquired or moving,
 * the destruction takes effect after the last release or the end of the move.
 * Does not block. NULL is allowed. Where the library was built with assertions,
 * a handle that was destroyed lately is told from others: using it is EINVAL,
 * destroying it again does nothing but leave a sentence. */
TERRACE_API void terrace_tensor_destroy(terrace_tensor *t);

/* Brings the tensor to a tier (a kind or class picks the tier where it
 * already is, else the fastest with room), pins it there, and gives its
 * address, valid until the matching release and no longer.
 *
 * Pins are counted per tensor and tier. Readers may hold a tensor on several
 * tiers at once; a WRITE or OVERWRITE while it is pinned on another tier, or
 * anything elsewhere while a writer holds it, is EBUSY, or waits with WAIT.
 * Writers on the same tier are ordered by the caller.
 *
 * With a stream of the tier's (a CUstream, a cl_command_queue), what is put into it
 * after acquire comes after whatever else the bytes are waiting for there: other
 * streams that write them, or that read what is to be written, and the end of a copy
 * to the tier that the device already has in its queue. Nothing else is waited for by
 * streams: acquire itself waits for bytes that are on a disk, and for work in streams
 * where the bytes are wanted on another tier. On OpenCL the address is a cl_mem.
 *
 * Blocks while room is made (evictions) and the bytes arrive, unless NOWAIT.
 * Without WAIT it waits for I/O but never for another user's release; WAIT
 * never waits when the calling thread's own pins alone exceed the budget.
 * `where` may be NULL.
 * Errors: EINVAL, EBUSY, EAGAIN (NOWAIT: ask again), EBUDGET (the sentence
 * names the holders), ENOSPC (no room could be made: the disk is full), EIO,
 * ECORRUPT, ECHANGED, ENOMEM (also where other processes have the tier's memory;
 * EDEVMEM on a device), EDEVICE, ERULE (a placement rule forbids the tier, the way
 * there, or what would have to leave from leaving), ENOTSUP (a disk tier cannot be acquired); of a
 * stream: EINVAL (none of this tier), EBUSY (it is being captured into a graph). */
TERRACE_API int terrace_acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void *stream,
                                void **address, terrace_tier *where);

/* Ends one acquire; `address` is what acquire returned. On a stream, marks its end
 * there: nothing moves under work still running. Does not block.
 * Errors: EINVAL (not acquired at that address, or no stream of the tier), EBUSY (the
 * stream is being captured), ENOMEM: then nothing was released; EIO and the like when
 * the migration behind an asynchronous acquire failed, EDEVICE when the device did:
 * then it was, what was written under it is discarded, and the last valid copy stays
 * valid. */
TERRACE_API int terrace_release(terrace_tensor *t, void *address, void *stream);

/* Acquires all n entries or none, without two threads each holding half.
 * Blocks and fails as terrace_acquire(); a tensor named twice is pinned twice.
 * On failure no output is written. n of 0 does nothing. */
TERRACE_API int terrace_acquire_all(terrace_access *list, size_t n, void *stream);

/* Hints that the tensor will soon be acquired on `tier`; never blocks. It is
 * dropped where following it would evict what is more useful.
 * Errors: EINVAL, ENOTSUP, ERULE, ENOMEM. */
TERRACE_API int terrace_prefetch(terrace_tensor *t, terrace_tier tier);

/* Hints that the tensor will not be used soon: moves it down to `tier` (a host
 * or disk tier, kind or class) in the background. While acquired, this takes
 * effect at the last release; for one of a group, once the others have been
 * demoted, too. Never blocks; terrace_wait() waits for the end.
 * Errors: EINVAL, ENOTSUP, ERULE, ENOMEM. */
TERRACE_API int terrace_demote(terrace_tensor *t, terrace_tier tier);

/* Marks the end of a training step: the access pattern of a step predicts the
 * next. Does not block. */
TERRACE_API int terrace_step(terrace *m);

/* Waits until the tensor's migrations have settled; returns (and clears) the
 * error of one that failed since the last acquire or wait that reported it. */
TERRACE_API int terrace_wait(terrace_tensor *t);

/* ---- address-stable memory --------------------------------------------- */

/* Plain pointers whose pages move between tiers underneath; they never change. Of host
 * tiers, and of devices that can change what is behind an address (CUDA).
 *
 * On a host they move at any time. Served by userfaultfd, where it is allowed and the kernel can
 * move pages (Linux 6.8 or later); else, or with TERRACE_STABLE=file, by mapping a
 * spill file, whose pages a thread keeps to the budget as well as it can: then all
 * the disk space is taken at once, and neither TERRACE_ENCRYPT nor TERRACE_VERIFY is
 * possible. With TERRACE_STABLE=userfaultfd pages are copied where they cannot be
 * moved, with TERRACE_STABLE=copy always (Linux 5.7 or later, where the processor
 * lets userfaultfd hold back who writes).
 * Which one it is and why: terrace_tier_statistics.stable_engine, `terrace info`.
 *
 * Where pages are copied, one that a device is writing to by itself (a read of
 * a file opened with O_DIRECT, buffers registered for RDMA or io_uring) may leave
 * before that is done, and what comes then is lost: pin it (terrace_advise())
 * from before the transfer until after it. Moved pages stay meanwhile.
 *
 * On a device the pointer is a device address (CUdeviceptr), for kernels and the runtime's
 * copies, like one of cudaMalloc(). Its memory comes in whole blocks of a granule (2 MiB):
 * many small pieces waste it. Blocks are in the device's memory or, where its budget
 * (TERRACE_LIMIT_CUDA) or the device has no room, in that of the host tier next to it, in
 * whose budget they count, and where kernels use them at the same address through the bus:
 * what does not fit is slower. They move inside terrace_safepoint() only. What is
 * registered elsewhere, or used by a graph that runs later, is pinned by terrace_advise(),
 * followed by a safepoint, before. Only the device itself has access. Without virtual
 * memory management it is memory that does not move, and never more than the budget; where
 * device or driver cannot use host memory so, nothing is far. Which of these it is:
 * terrace_tier_statistics.stable_engine.
 *
 * terrace_malloc() gives `bytes` of memory that reads as zeros, aligned to a
 * page (2 MiB from that size on). On a device it may block while tensors leave for it.
 * Touching a page of a host's that was evicted blocks until
 * it is back. Where it cannot be read back, that is logged, and touching it is
 * a SIGBUS, never wrong bytes. Where only user-mode faults are allowed, a
 * system call on an evicted page fails with EFAULT.
 *
 * A child of fork() has the memory as it was then, copy on write, however long
 * it lives and whatever becomes of its parent; until it ends or calls exec(),
 * the disk blocks it may still read are not used again. Where it could not have
 * all, fork() fails with ENOMEM (or EAGAIN), and terrace_last_error() says why: what is
 * evicted is under TERRACE_ENCRYPT or TERRACE_VERIFY, as the child would read it
 * unchecked, or on a tier that is no file; pages are used at random, so that those in
 * memory and those on disk alternate more often than a fifth of vm.max_map_count
 * (12000 times by default); a file mapping serves, as the parent's writes would be the
 * child's. With TERRACE_FORK=allow there is a child nevertheless, to which touching
 * what it lacks is a segmentation fault, never other bytes. So it is, and that is
 * logged, where the kernel cannot be made to refuse a fork: to root where
 * vm.overcommit_memory is 1; and where the child is made by the bare system call.
 * Children by vfork(), posix_spawn(), system() and popen() are not concerned.
 *
 * Of a kind or class of tiers the fastest that can serve it is taken.
 *
 * NULL on failure: EINVAL, ENOMEM, ENOTSUP (a disk, a device whose backend cannot move
 * pages, or no way to serve it), EBUDGET (nothing may be evicted; on a device: neither
 * it nor the host has room), EDEVMEM, EDEVICE, ERULE, ENOSPC (file mapping), ESYSTEM. */
TERRACE_API void *terrace_malloc(terrace *m, size_t bytes, terrace_tier tier,
                                 const terrace_tensor_attr *attr);

/* Gives it back; p is what terrace_malloc() returned, or NULL. Waits for I/O on
 * it that is under way, and for a safepoint of its tier. All work in streams that uses
 * memory of a device has to be done before. */
TERRACE_API void terrace_free(terrace *m, void *p);

/* Says how a part of one allocation will be used: WILLNEED (soon: bring it),
 * DONTNEED (not soon: move it down), PIN (keep it in `tier`; blocks until it is
 * there; counted) and UNPIN. Whole blocks, of 2 MiB, are affected. All but PIN
 * return at once. By a file mapping, PIN locks the pages (mlock); past
 * RLIMIT_MEMLOCK the kernel may still take them when it is short of memory.
 *
 * Of a device's memory nothing moves yet: the next safepoint carries it out, PIN too,
 * and no advice blocks. There WILLNEED makes it the last to leave, before what was
 * allocated or advised earlier, and DONTNEED has it leave, and stay away until
 * something else is advised.
 *
 * Errors: EINVAL, EBUDGET (pinning would leave less than an eighth of the budget),
 * ENOMEM, ENOTSUP (a device's memory is to be pinned elsewhere). */
TERRACE_API int terrace_advise(terrace *m, void *p, size_t bytes, int advice, terrace_tier tier);

/* Where device pages of stable memory may move; on host tiers they may move at any time,
 * and this does nothing. `stream` is the tier's, as of terrace_acquire(). All work that
 * uses stable memory of the tier, in whichever stream, has to be in that one by now, or
 * what is in there has to come after it; TERRACE_HOST_SYNC promises that it has ended.
 * Until this returns nobody may put more such work into streams.
 *
 * Where nothing has changed since the last one (advice, memory given out or back, room in
 * the device's budget) it returns at once. Else it blocks: until that work is done, then
 * while blocks move. Near are then, as many as the budget has room for beside tensors:
 * what is pinned, for which tensors leave; then what was allocated or advised to be
 * needed last. Blocks leave for tensors that found no room since the last one. What has
 * no room where it should be stays, which is no error, unless it is pinned. Of two at the
 * same time on one tier, one comes after the other. With a kind or class all its tiers
 * are done, each with its own default stream where `stream` is NULL.
 *
 * Errors, after which every byte is still at its address, and the next safepoint goes on
 * from there (after EDEVICE some of the memory may not be usable before that): EINVAL (no
 * stream of the tier), EBUSY (the stream is being captured into a graph: nothing moved),
 * EBUDGET, EDEVMEM, ERULE (no room for what is pinned), ENOMEM, EDEVICE. */
TERRACE_API int terrace_safepoint(terrace *m, terrace_tier tier, void *stream);

/* ---- placement rules --------------------------------------------------- */

/* Puts placement rules in force: which tensors may be on which tiers; "" or NULL: none.
 * TERRACE_RULES says them from the start. `text` is rules, or "@" and the path of a
 * file of them; `terrace help rules` and the README tell the language. Every rule that
 * matches a tensor holds, at all times, also for bytes on their way: what cannot be
 * done without breaking one fails with TERRACE_ERULE and a sentence that names it.
 *
 * Rules hold for all tensors there are, and those to come, until they are replaced.
 * Copies of existing tensors where they may not be any more are dropped, and their
 * memory given back to the system, where the bytes are valid on an allowed tier, too.
 * Where they are not, or are in use or moving, nothing changes, and the error names a
 * tensor, the tier and the rule. Blocks on a disk that a forked child may still read
 * stay until it ends; files that the user wrote are the user's.
 *
 * May take a while with many tensors. Errors: EINVAL, ECONFIG (the text, with line and
 * column, or the file cannot be used), ERULE (see above; or a tensor could be nowhere
 * in memory), ENOMEM. */
TERRACE_API int terrace_rules_set(terrace *m, const char *text);

/* Writes for people what the rules in force say of a tensor of `bytes` with the label
 * and role of `attr` (NULL: none) in the process of that rank (-1: this one): tier by
 * tier whether it may be there, and the rule that decides; which is preferred; which
 * shares are to be kept. With bytes of 0: all rules, and the tiers that they mean
 * here. Cut to len, NUL included. Errors: EINVAL, ENOMEM. */
TERRACE_API int terrace_rules_explain(terrace *m, size_t bytes, const terrace_tensor_attr *attr, int rank, char *buf,
                                      size_t len);

/* ---- seeing what happens ----------------------------------------------- */

/* Fills *out up to out->size. Does not block. Errors: EINVAL. */
TERRACE_API int terrace_stats(terrace *m, terrace_statistics *out);

/* Fills *out for one tier (not a kind or class); tiers are numbered from 0, in
 * order of speed, until EINVAL. Does not block. Errors: EINVAL. */
TERRACE_API int terrace_tier_stats(terrace *m, terrace_tier tier, terrace_tier_statistics *out);

/* Writes by which way bytes get from one tier to another: "direct", "through staging
 * memory of numa:0" (piece by piece), or "by way of numa:0" (whole tensors). Rules that
 * forbid a tensor a way are not considered. Cut to len, NUL included. By any thread;
 * does not block. Errors: EINVAL, ENOTSUP (there is no way). */
TERRACE_API int terrace_route(terrace *m, terrace_tier from, terrace_tier to, char *buf, size_t len);

/* A short constant text for 0 or a negative TERRACE_E... code. Never NULL. */
TERRACE_API const char *terrace_strerror(int err);

/* The calling thread's last failure as a sentence; "" if there was none.
 * Valid until the thread's next terrace call. Never NULL. */
TERRACE_API const char *terrace_last_error(void);

/* The library's version, e.g. "0.1.0"; compare with TERRACE_VERSION. */
TERRACE_API const char *terrace_version(void);

#ifdef __cplusplus
}
#endif
#endif /* TERRACE_H */
