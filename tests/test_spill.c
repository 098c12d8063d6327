/* What is spilled to real disks: jobs much larger than memory, striping, disks
 * that are full, sandboxes without io_uring, folders that are not fit, and what
 * is left behind by a process that is killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "manager.h"

enum { BYTES = 8 * MIB, BUDGET = 32 * MIB, TENSORS = 32, FOLDERS = 3 };
#define DISK "numa:0,nvme:0"

/* ---- folders and jobs ---------------------------------------------------- */

static char folder[FOLDERS][200];
static char folders[FOLDERS * 201 + 1]; /* the first ones, as TERRACE_NVME_PATH */

static void folders_make(unsigned n)
{
    const char *parent = getenv("TMPDIR") ? getenv("TMPDIR") : "/var/tmp";
    folders[0] = 0;
    for (unsigned i = 0; i < n; i++) {
        snprintf(folder[i], sizeof folder[i], "%s/terrace-spill.XXXXXX", parent);
        cr_assert_not_null(mkdtemp(folder[i]), "%s: %s", folder[i], strerror(errno));
        strcat(strcat(folders, i ? ":" : ""), folder[i]);
    }
}

/* Only an empty folder can be removed: nothing may have been left in it. */
static void folders_remove(void)
{
    for (unsigned i = 0; i < FOLDERS && folder[i][0]; i++) {
        cr_assert_eq(rmdir(folder[i]), 0, "%s: %s", folder[i], strerror(errno));
        folder[i][0] = 0;
    }
}

static terrace *open_spill(const char *io, const char *more)
{
    char conf[sizeof folders + 200];
    terrace *m;
    snprintf(conf, sizeof conf, "tiers=" DISK ";limit_numa=%d;log=off;nvme_path=%s%s%s;%s", BUDGET, folders,
             io ? ";io=" : "", io ? io : "", more ? more : "");
    assert_ok(terrace_open(&m, conf));
    return m;
}

/* Sees the bytes of one seed and puts those of another there. */
static void change(terrace_tensor *t, terrace_tier host, uint64_t from, uint64_t to)
{
    void *p;
    assert_ok(terrace_acquire(t, host, TERRACE_WRITE, NULL, &p, NULL));
    cr_assert(pattern_is(p, BYTES, from), "the bytes are not those of seed %llu", (unsigned long long)from);
    pattern_fill(p, BYTES, to);
    assert_ok(terrace_release(t, p, NULL));
}

/* Tensors in an order in which neighbours are far apart. */
static unsigned shuffled(unsigned i, unsigned n)
{
    return i * 13 % n;
}

/* Written, changed and read in two orders, many more than fit. */
static void job(terrace *m, unsigned n)
{
    terrace_tensor *t[TENSORS];
    terrace_tier host = host_of(m);
    for (unsigned i = 0; i < n; i++) {
        t[i] = tensor_of(m, BYTES, "spilled");
        write_pattern(t[i], host, BYTES, i);
    }
    for (unsigned i = 0; i < n; i++)
        change(t[shuffled(i, n)], host, shuffled(i, n), 100 + shuffled(i, n));
    for (unsigned i = 0; i < n; i++)
        expect_pattern(t[i], host, BYTES, 100 + i);
    for (unsigned i = n; i-- > 0;)
        if (i % 2)
            change(t[i], host, 100 + i, 200 + i);
    for (unsigned i = 0; i < n; i++)
        expect_pattern(t[shuffled(i, n)], host, BYTES, (shuffled(i, n) % 2 ? 200 : 100) + shuffled(i, n));
    for (unsigned i = 0; i < n; i++)
        terrace_tensor_destroy(t[i]);
}

static void much_more_than_memory(const char *io, unsigned over)
{
    folders_make(over);
    terrace *m = open_spill(io, NULL);
    job(m, TENSORS);
    terrace_statistics s = stats_of(m);
    cr_assert_geq(s.writeback_bytes, (TENSORS - BUDGET / BYTES) * (uint64_t)BYTES);
    cr_assert_eq(s.io_errors, 0);
    cr_assert_leq(tier_stats_of(m, 0).peak, BUDGET);
    terrace_close(m);
    folders_remove();
}

Test(spill, much_more_than_memory_uring, .timeout = 240) { much_more_than_memory("uring", 1); }
Test(spill, much_more_than_memory_threads, .timeout = 240) { much_more_than_memory("threads", 1); }
Test(spill, over_several_folders_uring, .timeout = 240) { much_more_than_memory("uring", FOLDERS); }
Test(spill, over_several_folders_threads, .timeout = 240) { much_more_than_memory("threads", FOLDERS); }

/* Bytes on disk of the files of a folder that are open here. */
static uint64_t blocks_in(const char *path)
{
    char link[40], target[300];
    uint64_t sum = 0;
    struct stat is;
    for (int fd = 3; fd < 200; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, target, sizeof target - 1);
        if (n < 0 || fstat(fd, &is) || !S_ISREG(is.st_mode))
            continue;
        target[n] = 0;
        if (!strncmp(target, path, strlen(path)) && target[strlen(path)] == '/')
            sum += (uint64_t)is.st_blocks * 512;
    }
    return sum;
}

Test(spill, stripes_are_dealt_evenly, .timeout = 60)
{
    folders_make(FOLDERS);
    terrace *m = open_spill("threads", NULL);
    terrace_tier_statistics disk = tier_stats_of(m, 1);
    terrace_tensor *t[12];
    for (unsigned i = 0; i < 12; i++) {
        t[i] = tensor_of(m, BYTES, "striped");
        write_pattern(t[i], host_of(m), BYTES, i);
        push_down(t[i], m);
    }
    for (unsigned i = 0; i < FOLDERS; i++) {
        uint64_t part = blocks_in(folder[i]);
        cr_assert_not_null(strstr(disk.location, folder[i]), "%s", disk.location);
        cr_assert_geq(part, 12 * (uint64_t)BYTES / FOLDERS, "%s has %llu bytes", folder[i],
                      (unsigned long long)part);
    }
    for (unsigned i = 0; i < 12; i++)
        expect_pattern(t[i], host_of(m), BYTES, i);
    terrace_close(m);
    folders_remove();
}

/* ---- full disks ---------------------------------------------------------- */

static bool reads_right(terrace_tensor *t, terrace_tier host, uint64_t seed)
{
    void *p;
    int r = terrace_acquire(t, host, TERRACE_READ, NULL, &p, NULL);
    cr_assert(r == 0 || r == -TERRACE_ENOSPC, "%s: %s", terrace_strerror(r), terrace_last_error());
    if (r)
        return false;
    cr_assert(pattern_is(p, BYTES, seed), "the bytes are not those of seed %llu", (unsigned long long)seed);
    assert_ok(terrace_release(t, p, NULL));
    return true;
}

/* Writes until the disk is full, by a sentence that names it: nothing is lost
 * then, and with some tensors gone it goes on. At least `fit` can be written. */
static void until_full(terrace *m, unsigned fit, const char *named)
{
    terrace_tier host = host_of(m);
    terrace_tensor *t[TENSORS];
    unsigned n = 0, readable = 0;
    void *p;
    int r = 0;
    while (r == 0) {
        cr_assert_lt(n, TENSORS, "the disk is never full");
        t[n] = tensor_of(m, BYTES, "until full");
        r = terrace_acquire(t[n], host, TERRACE_OVERWRITE, NULL, &p, NULL);
        if (r == 0) {
            pattern_fill(p, BYTES, n);
            assert_ok(terrace_release(t[n++], p, NULL));
        }
    }
    cr_assert_eq(r, -TERRACE_ENOSPC, "%s: %s", terrace_strerror(r), terrace_last_error());
    cr_assert_not_null(strstr(terrace_last_error(), named), "%s", terrace_last_error());
    cr_assert_geq(n, fit, "only %u were written", n);
    terrace_tensor_destroy(t[n]);

    for (unsigned i = 0; i < n; i++) /* those whose place in memory needs nothing written */
        readable += reads_right(t[i], host, i);
    cr_assert_gt(readable, 0);
    terrace_tensor_destroy(t[n - 1]);
    terrace_tensor_destroy(t[0]);
    for (unsigned i = 1; i < n - 1; i++)
        cr_assert(reads_right(t[i], host, i), "%s", terrace_last_error());
    for (unsigned i = 1; i < n - 1; i++)
        change(t[i], host, i, 100 + i);
    t[0] = tensor_of(m, BYTES, "again");
    write_pattern(t[0], host, BYTES, 100);
    for (unsigned i = 0; i < n - 1; i++)
        expect_pattern(t[i], host, BYTES, 100 + i);
}

/* Every test is a process of its own: limits, mounts and filters stay in it. */

/* More than RLIMIT_FSIZE in one file raises SIGXFSZ, which ends a process. */
static void file_size_limit(const char *io)
{
    struct rlimit limit = {64 * MIB, 64 * MIB};
    folders_make(1);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    terrace *m = open_spill(io, NULL);
    until_full(m, (BUDGET + 32 * MIB) / BYTES, folder[0]);
    terrace_close(m);
    folders_remove();
}

Test(full, file_size_limit_uring, .timeout = 120) { file_size_limit("uring"); }
Test(full, file_size_limit_threads, .timeout = 120) { file_size_limit("threads"); }
Test(full, file_size_limit_verified, .timeout = 120) { file_size_limit("auto;verify=spill"); }

enum { DISK_MIB = 160, ROOM_MIB = 96 };

/* Puts a small disk on a folder, for this process only; it goes with it. */
static bool small_disk_mount(void)
{
    char command[1000];
    if (geteuid() || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
        return false;
    snprintf(command, sizeof command,
             "{ i=%s.image; truncate -s %dM $i && mkfs.ext4 -q -m 0 $i && mount -o loop $i %s; r=$?; "
             "rm -f $i; exit $r; } >/dev/null 2>&1", folder[0], DISK_MIB, folder[0]);
    return system(command) == 0;
}

static void small_disk_make(void)
{
    folders_make(1);
    if (small_disk_mount())
        return;
    folders_remove();
    cr_skip("needs root, mkfs.ext4 and loop devices");
}

/* Nothing may be left that keeps it busy. */
static void small_disk_remove(void)
{
    cr_assert_eq(umount(folder[0]), 0, "%s", strerror(errno));
    folders_remove();
}

/* Budget beyond the disk: the disk itself refuses. */
static void disk_without_room(const char *io)
{
    small_disk_make();
    terrace *m = open_spill(io, ";limit_nvme=10G");
    until_full(m, (BUDGET + ROOM_MIB * MIB) / BYTES, folder[0]);
    terrace_close(m);
    small_disk_remove();
}

/* The default budget is what the disk has. */
static void disk_as_budget(const char *io)
{
    small_disk_make();
    terrace *m = open_spill(io, NULL);
    until_full(m, (BUDGET + ROOM_MIB * MIB) / BYTES, folder[0]);
    terrace_close(m);
    small_disk_remove();
}

/* Room that was there at the start is taken by others. */
static void disk_filled_by_others(const char *io)
{
    char path[250];
    small_disk_make();
    terrace *m = open_spill(io, NULL);
    snprintf(path, sizeof path, "%s/others", folder[0]);
    int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    cr_assert_eq(fallocate(fd, 0, 0, 64 * MIB), 0, "%s", strerror(errno));
    close(fd);
    until_full(m, (BUDGET + (ROOM_MIB - 64) * MIB) / BYTES, folder[0]);
    terrace_close(m);
    small_disk_remove();
}

Test(full, disk_without_room_uring, .timeout = 120) { disk_without_room("uring"); }
Test(full, disk_without_room_threads, .timeout = 120) { disk_without_room("threads"); }
Test(full, disk_as_budget_uring, .timeout = 120) { disk_as_budget("uring"); }
Test(full, disk_as_budget_threads, .timeout = 120) { disk_as_budget("threads"); }
Test(full, disk_filled_by_others_uring, .timeout = 120) { disk_filled_by_others("uring"); }
Test(full, disk_filled_by_others_threads, .timeout = 120) { disk_filled_by_others("threads"); }

/* ---- killed -------------------------------------------------------------- */

/* Moves bytes for ever; says so once some have been written and read. */
static void move_for_ever(const char *io, int ready)
{
    terrace *m = open_spill(io, NULL);
    terrace_tensor *t[8];
    for (unsigned i = 0; i < 8; i++) {
        t[i] = tensor_of(m, BYTES, "moved");
        write_pattern(t[i], host_of(m), BYTES, i);
    }
    for (uint64_t round = 0;; round++) {
        for (unsigned i = 0; i < 8; i++)
            change(t[i], host_of(m), i + round, i + round + 1);
        if (round == 1 && blocks_in(folder[0]) >= BUDGET && write(ready, "r", 1) != 1)
            return;
    }
}

static void killed(const char *io)
{
    int ready[2], status;
    char byte;
    folders_make(2);
    cr_assert_eq(pipe(ready), 0);
    fflush(NULL);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(30);
        move_for_ever(io, ready[1]);
        _exit(1);
    }
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1, "the child ended before it spilled");
    usleep(20000);
    cr_assert_eq(kill(pid, SIGKILL), 0);
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "the child ended with 0x%x", (unsigned)status);
    close(ready[0]);
    folders_remove();
}

Test(killed, leaves_no_file_uring, .timeout = 120) { killed("uring"); }
Test(killed, leaves_no_file_threads, .timeout = 120) { killed("threads"); }

/* ---- sandboxes ----------------------------------------------------------- */

/* From now on a system call fails with EPERM, as in a container. */
static void forbid(unsigned number)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
}

/* What terrace_open() must refuse, with all of these in its sentence. */
static void refuses(int code, const char *a, const char *b, const char *c)
{
    terrace *m = NULL;
    assert_fails(terrace_open(&m, "tiers=" DISK ";log=off"), code);
    cr_assert_null(m);
    const char *s = terrace_last_error();
    cr_assert(strstr(s, a) && strstr(s, b) && strstr(s, c), "%s", s);
}

static void without_a_ring(const char *io)
{
    folders_make(1);
    forbid(SYS_io_uring_setup);
    terrace *m = open_spill(io, NULL);
    terrace_tier_statistics disk = tier_stats_of(m, 1);
    cr_assert_str_eq(disk.engine, "threads");
    cr_assert(strstr(disk.engine_reason, "io_uring refused: Operation not permitted") &&
              strstr(disk.engine_reason, "seccomp"), "%s", disk.engine_reason);
    job(m, TENSORS);
    terrace_close(m);
    setenv("TERRACE_NVME_PATH", folder[0], 1);
    setenv("TERRACE_IO", "uring", 1);
    refuses(TERRACE_ECONFIG, "TERRACE_IO=uring", "io_uring was refused: Operation not permitted",
            "set TERRACE_IO=auto");
    folders_remove();
}

Test(sandbox, a_job_runs_on_threads, .timeout = 120) { without_a_ring(NULL); }
Test(sandbox, auto_is_the_default, .timeout = 120) { without_a_ring("auto"); }

Test(sandbox, a_ring_is_used_where_it_is_allowed, .timeout = 60)
{
    folders_make(1);
    terrace *m = open_spill(NULL, NULL);
    cr_assert_str_eq(tier_stats_of(m, 1).engine, "io_uring");
    terrace_close(m);
    folders_remove();
}

/* ---- folders that are not fit -------------------------------------------- */

Test(folder, unwritable_is_refused, .timeout = 60)
{
    uid_t user = geteuid();
    folders_make(1);
    setenv("TERRACE_NVME_PATH", folder[0], 1);
    cr_assert_eq(chmod(folder[0], 0500), 0);
    cr_assert_eq(user ? 0 : seteuid(65534), 0);
    refuses(TERRACE_EPERM, "TERRACE_NVME_PATH", folder[0], "writable folder on a local disk");
    cr_assert_eq(user ? 0 : seteuid(0), 0);
    folders_remove();
}

Test(folder, memory_is_refused, .timeout = 60)
{
    setenv("TERRACE_NVME_PATH", "/dev/shm", 1);
    refuses(TERRACE_ECONFIG, "TERRACE_NVME_PATH", "/dev/shm is on tmpfs", "a local disk");
}

/* One that is fit does not make up for another. */
Test(folder, one_of_several_is_refused, .timeout = 60)
{
    char path[300];
    folders_make(1);
    snprintf(path, sizeof path, "%s:/nonexistent/spill", folder[0]);
    setenv("TERRACE_NVME_PATH", path, 1);
    refuses(TERRACE_ECONFIG, "TERRACE_NVME_PATH", "/nonexistent/spill", "No such file");
    folders_remove();
}
