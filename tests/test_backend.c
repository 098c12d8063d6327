/* The conformance suite over every backend and engine, and what only the disk
 * tier promises: which folders it refuses, and that neither limits, sandboxes
 * nor SIGKILL make it fail uglily or leave anything behind. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "../offload/nvme.h"
#include "conformance.h"

CONFORMANCE(numa, .backend = "numa")
CONFORMANCE(uring, .backend = "nvme", .io = "uring", .engine = "io_uring", .folders = 1)
CONFORMANCE(threads, .backend = "nvme", .io = "threads", .engine = "threads", .folders = 1)
CONFORMANCE(striped_uring, .backend = "nvme", .io = "uring", .engine = "io_uring", .folders = 3)
CONFORMANCE(striped_threads, .backend = "nvme", .io = "threads", .engine = "threads", .folders = 3)

/* ---- sandboxes ----------------------------------------------------------- */

/* From now on system call `number` fails with `error`; where mask is not 0,
 * only if its third argument has all those bits. */
static void forbid(unsigned number, unsigned mask, unsigned error)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_STMT(BPF_ALU | BPF_AND | BPF_K, mask),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, mask, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

enum { TMPFILE_BIT = O_TMPFILE & ~O_DIRECTORY };

/* ---- opening ------------------------------------------------------------- */

static int nvme_open(void)
{
    t.b = backend_named("nvme");
    t.info = (terrace_unit_info){.size = sizeof t.info};
    return t.b->open(&stub_host, 0, &t.info, &t.unit);
}

static void nvme_refuses(int want, const char *folder, const char *why)
{
    unsigned fds = fds_open();
    stub.nvme_path = folder;
    cr_assert_eq(nvme_open(), want, "%s", stub.sentence);
    cr_assert_not_null(strstr(stub.sentence, why), "%s", stub.sentence);
    cr_assert_not_null(strstr(stub.sentence, "TERRACE_NVME_PATH"), "%s", stub.sentence);
    cr_assert_eq(fds_open(), fds);
}

static void sysfs_write(const char *sys, const char *file, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/devices/pci/%s", sys, file);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f, "%s", path);
    fputs(text, f);
    fclose(f);
}

/* Of a partition, on a disk, of a controller that has no node but its slot has. */
Test(nvme_folder, the_node_next_to_a_disk)
{
    char sys[] = "/var/tmp/terrace-test.XXXXXX", command[500];
    dev_t partition = makedev(259, 5), none = makedev(259, 6);
    cr_assert_not_null(mkdtemp(sys));
    snprintf(command, sizeof command, "cd %s && mkdir -p dev/block devices/pci/slot/nvme0/nvme0n1/nvme0n1p1 && "
             "ln -s ../../devices/pci/slot/nvme0/nvme0n1/nvme0n1p1 dev/block/259:5", sys);
    cr_assert_eq(system(command), 0);
    cr_assert_eq(nvme_disk_node(sys, none), -1);
    cr_assert_eq(nvme_disk_node(sys, partition), -1);
    sysfs_write(sys, "slot/numa_node", "1\n");
    cr_assert_eq(nvme_disk_node(sys, partition), 1);
    sysfs_write(sys, "slot/nvme0/numa_node", "3\n");
    cr_assert_eq(nvme_disk_node(sys, partition), 3, "the nearest decides");
    sysfs_write(sys, "slot/nvme0/numa_node", "-1\n");
    cr_assert_eq(nvme_disk_node(sys, partition), -1, "that says there is none");
    snprintf(command, sizeof command, "rm -r %s", sys);
    cr_assert_eq(system(command), 0);
}

Test(nvme_folder, memory_is_refused)
{
    nvme_refuses(-TERRACE_ECONFIG, "/dev/shm", "/dev/shm is on tmpfs");
}

Test(nvme_folder, missing_is_refused)
{
    folders_make(1);
    char path[600];
    snprintf(path, sizeof path, "%s:/nonexistent/spill", stub_folder[0]);
    nvme_refuses(-TERRACE_ECONFIG, path, "/nonexistent/spill cannot be opened: No such file");
    nvme_refuses(-TERRACE_ECONFIG, "/etc/passwd", "Not a directory");
    snprintf(path, sizeof path, "%s::", stub_folder[0]);
    nvme_refuses(-TERRACE_ECONFIG, path, "cannot be opened");
    folders_remove();
}

Test(nvme_folder, unwritable_is_refused)
{
    int status;
    if (geteuid() != 0)
        cr_skip("needs root to become someone else");
    folders_make(1);
    pid_t pid = fork();
    if (!pid) {
        if (setgid(65534) || setuid(65534))
            _exit(2);
        _exit(nvme_open() != -TERRACE_EPERM || !strstr(stub.sentence, stub_folder[0]) ||
              !strstr(stub.sentence, "Permission denied"));
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    folders_remove();
}

Test(nvme_folder, default_passes_over_memory)
{
    setenv("TMPDIR", "/dev/shm", 1);
    stub.nvme_path = NULL;
    cr_assert_eq(nvme_open(), 0, "%s", stub.sentence);
    cr_assert_str_eq(t.info.location, "/var/tmp (ext4)");
    t.b->close(t.unit);
}

Test(nvme_folder, several_add_up)
{
    folders_make(3);
    cr_assert_eq(nvme_open(), 0, "%s", stub.sentence);
    uint64_t three = t.info.capacity;
    cr_assert_eq(t.info.io_boundary, 2 << 20);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_not_null(strstr(t.info.location, stub_folder[i]));
    t.b->close(t.unit);
    stub.nvme_path = stub_folder[0];
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.info.io_boundary, 0);
    /* One disk is counted once, however many folders are on it. */
    cr_assert_lt(three > t.info.capacity ? three - t.info.capacity : t.info.capacity - three, 1 << 30);
    t.b->close(t.unit);
    folders_remove();
}

/* Stripes really go round: each folder's file system object gets its third. */
Test(nvme_folder, stripes_are_dealt_evenly)
{
    uint64_t base;
    folders_make(3);
    cr_assert_eq(nvme_open(), 0);
    unsigned before = fds_open();
    cr_assert_eq(t.b->reserve(t.unit, 9 * STRIPE, 0, &base), 0);
    cr_assert_eq(fds_open(), before + 3);
    cr_assert_eq(t.b->commit(t.unit, base + STRIPE / 2, 7 * STRIPE), 0);
    /* Folder 0 holds half a stripe of 0, then 3 and 6; 1 holds 1, 4 and half of 7; 2 holds 2 and 5. */
    static const long long want[3] = {5 * STRIPE / 2, 5 * STRIPE / 2, 2 * STRIPE};
    unsigned seen = 0;
    for (int fd = 3; fd < 100 && seen < 3; fd++) {
        struct stat is;
        if (fstat(fd, &is) || !S_ISREG(is.st_mode) || is.st_nlink || is.st_blocks < 100)
            continue;
        cr_assert_eq(is.st_blocks * 512, want[seen], "folder %u: %lld", seen, (long long)is.st_blocks * 512);
        seen++;
    }
    cr_assert_eq(seen, 3);
    t.b->release(t.unit, base, 9 * STRIPE);
    t.b->close(t.unit);
    folders_remove();
}

/* ---- space --------------------------------------------------------------- */

Test(nvme_space, commit_and_decommit_are_exact)
{
    uint64_t base;
    folders_make(1);
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.b->reserve(t.unit, UINT64_C(1) << 40, 0, &base), 0);
    long long before = blocks_used();
    cr_assert_eq(t.b->commit(t.unit, base + (UINT64_C(1) << 39), 64 << 20), 0, "%s", stub.sentence);
    long long used = blocks_used() - before;
    cr_assert(used >= 64 << 20 && used < 65 << 20, "%lld", used);
    t.b->decommit(t.unit, base + (UINT64_C(1) << 39), 64 << 20);
    cr_assert_lt(blocks_used() - before, 1 << 20);
    t.b->close(t.unit);
    folders_remove();
}

Test(nvme_space, more_than_the_disk_is_refused)
{
    uint64_t base;
    folders_make(1);
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.b->reserve(t.unit, UINT64_C(8) << 40, 0, &base), 0);
    long long before = blocks_used();
    cr_assert_eq(t.b->commit(t.unit, base, t.info.capacity + (UINT64_C(8) << 30)), -TERRACE_ENOSPC);
    cr_assert(strstr(stub.sentence, stub_folder[0]) && strstr(stub.sentence, "TERRACE_NVME_PATH") &&
              strstr(stub.sentence, "TERRACE_LIMIT_NVME"), "%s", stub.sentence);
    cr_assert_eq(blocks_used(), before, "a commit that failed leaves nothing allocated");
    t.b->close(t.unit);
    folders_remove();
}

/* With SIGXFSZ at its default, which kills. */
static void file_size_limit(const char *io)
{
    uint64_t base;
    folders_make(1);
    stub.io = io;
    cr_assert_eq(nvme_open(), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->reserve(t.unit, 64 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, 32 << 20), 0);
    struct rlimit limit = {16 << 20, 16 << 20};
    signal(SIGXFSZ, SIG_DFL);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(t.b->commit(t.unit, base + (32 << 20), 1 << 20), -TERRACE_ENOSPC);
    cr_assert_not_null(strstr(stub.sentence, "File too large"), "%s", stub.sentence);
    char text[512], *host = pages(1 << 20);
    terrace_io io1 = conform_io(TERRACE_IO_WRITE, base + (20 << 20), host, 1 << 20);
    cr_assert_eq(copy_now(t.b, t.unit, &io1), -TERRACE_ENOSPC, "%d %d", io1.result, io1.os_error);
    cr_assert_eq(io1.os_error, EFBIG);
    t.b->explain(t.unit, &io1, text, sizeof text);
    cr_assert(strstr(text, "writing 1048576 bytes at offset 20971520 of the unnamed spill file in ") &&
              strstr(text, "File too large"), "%s", text);
    io1 = conform_io(TERRACE_IO_WRITE, base, host, 1 << 20);
    cr_assert_eq(copy_now(t.b, t.unit, &io1), 0);
    sigset_t pending, blocked;
    sigpending(&pending);
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    cr_assert(!sigismember(&pending, SIGXFSZ) && !sigismember(&blocked, SIGXFSZ));
    t.b->close(t.unit);
    folders_remove();
}

Test(nvme_space, file_size_limit_uring)
{
    file_size_limit("uring");
}

Test(nvme_space, file_size_limit_threads)
{
    file_size_limit("threads");
}

Test(nvme_space, without_fallocate_zeros_are_written)
{
    uint64_t base;
    folders_make(3);
    forbid(SYS_fallocate, 0, EOPNOTSUPP);
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.b->reserve(t.unit, 16 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base + 4096, (7 << 20) + 4096), 0, "%s", stub.sentence);
    cr_assert_geq(blocks_used(), 7 << 20);
    char *host = pages(4096);
    terrace_io io = conform_io(TERRACE_IO_READ, base + (7 << 20) + 4096, host, 4096);
    memset(host, 1, 4096);
    cr_assert_eq(copy_now(t.b, t.unit, &io), 0);
    cr_assert(host[0] == 0 && host[4095] == 0);
    t.b->decommit(t.unit, base, 16 << 20);
    cr_assert_not_null(strstr(stub.logged, "stay allocated"), "%s", stub.logged);
    t.b->close(t.unit);
    folders_remove();
}

/* ---- spill as a file to map ---------------------------------------------- */

Test(nvme_file, says_where_bytes_lie)
{
    enum { BYTES = 16 << 20 };
    uint64_t base, offset, run, at;
    int fd;
    folders_make(3);
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.b->reserve(t.unit, BYTES, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, BYTES), 0, "%s", stub.sentence);
    char *host = pages(t.info.io_chunk);
    for (at = 0; at < BYTES; at += t.info.io_chunk) {
        pattern_fill(host, t.info.io_chunk, at);
        cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + at, host, t.info.io_chunk), 0);
    }
    for (at = 0; at < BYTES; at += run) {
        cr_assert_eq(t.b->file(t.unit, base + at, BYTES - at, TERRACE_IO_WRITE, &fd, &offset, &run), 0);
        cr_assert(run > 0 && run <= BYTES - at && run == t.info.io_chunk);
        char *p = mmap(NULL, run, PROT_READ, MAP_PRIVATE, fd, (off_t)offset);
        cr_assert_neq(p, MAP_FAILED);
        cr_assert(pattern_is(p, run, at), "at %llu", (unsigned long long)at);
        munmap(p, run);
    }
    cr_assert_eq(t.b->file(t.unit, base + 3 * 4096, 4096, TERRACE_IO_READ, &fd, &offset, &run), 0);
    cr_assert(run == 4096 && offset == 3 * 4096);
    cr_assert_eq(t.b->file(t.unit, base, BYTES + 4096, TERRACE_IO_READ, &fd, &offset, &run), -TERRACE_EINVAL);
    cr_assert_eq(t.b->file(t.unit, base, 0, TERRACE_IO_READ, &fd, &offset, &run), -TERRACE_EINVAL);
    cr_assert_eq(t.b->file(t.unit, base + (UINT64_C(1) << 50), 4096, TERRACE_IO_READ, &fd, &offset, &run),
                 -TERRACE_EINVAL);
    t.b->close(t.unit);
    folders_remove();
}

Test(nvme_file, is_written_only_where_space_can_be_promised)
{
    uint64_t base, offset, run;
    int fd;
    folders_make(1);
    forbid(SYS_fallocate, 0, EOPNOTSUPP);
    cr_assert_eq(nvme_open(), 0);
    cr_assert_eq(t.b->reserve(t.unit, 4 << 20, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, 4 << 20), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->file(t.unit, base, 4096, TERRACE_IO_READ, &fd, &offset, &run), 0);
    cr_assert_eq(t.b->file(t.unit, base, 4096, TERRACE_IO_WRITE, &fd, &offset, &run), -TERRACE_ENOTSUP);
    cr_assert_not_null(strstr(stub.sentence, "fallocate"), "%s", stub.sentence);
    t.b->close(t.unit);
    folders_remove();
}

/* ---- engines ------------------------------------------------------------- */

static void round_trip(void)
{
    uint64_t base = conform_range(4 << 20);
    char *host = pages(t.info.io_chunk);
    pattern_fill(host, t.info.io_chunk, 5);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, t.info.io_chunk), 0);
    memset(host, 0, t.info.io_chunk);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base, host, t.info.io_chunk), 0);
    cr_assert(pattern_is(host, t.info.io_chunk, 5));
    t.b->release(t.unit, base, 4 << 20);
}

static void falls_back(unsigned number)
{
    folders_make(1);
    forbid(number, 0, EPERM);
    stub.io = "auto";
    cr_assert_eq(nvme_open(), 0, "%s", stub.sentence);
    cr_assert_str_eq(t.info.engine, "threads");
    cr_assert_not_null(strstr(t.info.engine_reason, "io_uring refused: Operation not permitted (seccomp"),
                       "%s", t.info.engine_reason);
    round_trip();
    t.b->close(t.unit);
    unsigned fds = fds_open();
    stub.io = "uring";
    cr_assert_eq(nvme_open(), -TERRACE_ECONFIG);
    cr_assert(strstr(stub.sentence, "TERRACE_IO=uring") && strstr(stub.sentence, "not permitted"), "%s",
              stub.sentence);
    cr_assert_eq(fds_open(), fds);
    folders_remove();
}

Test(nvme_engine, forbidden_ring_falls_back)
{
    falls_back(SYS_io_uring_setup);
}

Test(nvme_engine, unusable_ring_falls_back)
{
    falls_back(SYS_io_uring_enter);
}

/* A sandbox entered later: what is in flight comes back, the rest fails. */
Test(nvme_engine, ring_forbidden_in_use, .timeout = 30)
{
    folders_make(1);
    stub.io = "uring";
    cr_assert_eq(nvme_open(), 0);
    uint64_t base = conform_range(4 << 20);
    char *host = pages(4096);
    forbid(SYS_io_uring_enter, 0, EPERM);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base, host, 4096), -TERRACE_EPERM);
    terrace_io *done[1];
    t.b->wake(t.unit);
    cr_assert_eq(t.b->wait(t.unit, done, 1, -1), 0);
    for (int i = 0; i < 200; i++)
        cr_assert_lt(conform_copy(TERRACE_IO_READ, base, host, 4096), 0);
    t.b->close(t.unit);
    folders_remove();
}

static void without_direct(const char *io)
{
    folders_make(1);
    forbid(SYS_fcntl, O_DIRECT, EINVAL);
    stub.io = io;
    cr_assert_eq(nvme_open(), 0, "%s", stub.sentence);
    cr_assert_not_null(strstr(t.info.engine_reason, "refuses O_DIRECT"), "%s", t.info.engine_reason);
    round_trip();
    t.b->close(t.unit);
    folders_remove();
}

Test(nvme_engine, buffered_where_direct_is_refused_uring)
{
    without_direct("uring");
}

Test(nvme_engine, buffered_where_direct_is_refused_threads)
{
    without_direct("threads");
}

Test(nvme_engine, auto_takes_the_ring)
{
    folders_make(1);
    stub.io = NULL;
    cr_assert_eq(nvme_open(), 0);
    cr_assert_str_eq(t.info.engine, "io_uring", "%s", t.info.engine_reason);
    t.b->close(t.unit);
    folders_remove();
}

static void forked_child_may_close(const char *io)
{
    int status;
    folders_make(1);
    stub.io = io;
    cr_assert_eq(nvme_open(), 0);
    round_trip();
    pid_t pid = fork();
    if (!pid) {
        alarm(20);
        t.b->close(t.unit);
        _exit(0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    round_trip();
    t.b->close(t.unit);
    folders_remove();
}

Test(nvme_engine, forked_child_may_close_uring)
{
    forked_child_may_close("uring");
}

Test(nvme_engine, forked_child_may_close_threads)
{
    forked_child_may_close("threads");
}

/* ---- SIGKILL ------------------------------------------------------------- */

static void killed(const char *io, bool named)
{
    int ready[2], status;
    char byte;
    folders_make(3);
    cr_assert_eq(pipe(ready), 0);
    pid_t pid = fork();
    if (!pid) {
        uint64_t base;
        if (named)
            forbid(SYS_openat, TMPFILE_BIT, EOPNOTSUPP);
        stub.io = io;
        if (nvme_open() || t.b->reserve(t.unit, 64 << 20, 0, &base) || t.b->commit(t.unit, base, 64 << 20))
            _exit(1);
        char *host = pages(1 << 20);
        terrace_io write = conform_io(TERRACE_IO_WRITE, base, host, 1 << 20);
        if (copy_now(t.b, t.unit, &write) || blocks_used() < 64 << 20)
            _exit(2);
        if (named != (open(stub_folder[0], O_TMPFILE | O_RDWR, 0600) < 0))
            _exit(3);
        if (ready[1] >= 0 && TEMP_FAILURE_RETRY(syscall(SYS_write, ready[1], "r", 1)) == 1)
            pause();
        _exit(4);
    }
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the child failed before it spilled");
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(entries_in(stub_folder[i]), 0);
    folders_remove();
}

Test(nvme_kill, leaves_nothing_uring)
{
    killed("uring", false);
}

Test(nvme_kill, leaves_nothing_threads)
{
    killed("threads", false);
}

Test(nvme_kill, leaves_nothing_without_tmpfile)
{
    killed("auto", true);
}
