/* calls.c - system calls on memory that has been spilled. */
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "job.h"

enum { PIECE = 256 << 10 };

static char path[200];

static int open_file(int flags)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, sizeof path, "%s/calls.%d", folder ? folder : "/var/tmp", getpid());
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | flags, 0600);
    unlink(path);
    return fd;
}

/* A block on disk, for the most part. */
static char *spilled(uint64_t seed)
{
    char *p = NULL;
    NEED(posix_memalign((void **)&p, 4096, SPILLS) == 0);
    job_fill(p, SPILLS, seed);
    job_press();
    return p;
}

static void file_both_ways(int flags)
{
    char *p = spilled(1), *q = spilled(2);
    int fd = open_file(flags);
    if (fd < 0 && errno == EINVAL) /* no O_DIRECT here */
        return;
    NEED(fd >= 0);
    for (size_t at = 0; at < SPILLS; at += PIECE)
        NEED(pwrite(fd, p + at, PIECE, (off_t)at) == PIECE);
    for (size_t at = 0; at < SPILLS; at += PIECE)
        NEED(pread(fd, q + at, PIECE, (off_t)at) == PIECE);
    NEED(job_has(q, SPILLS, 1));
    struct iovec v[3] = {{p, 4096}, {p + SPILLS / 2, 8192}, {p + SPILLS - 4096, 4096}};
    NEED(pwritev(fd, v, 3, 0) == 16384);
    NEED(preadv(fd, (struct iovec[]){{q + 12 * MIB, 16384}}, 1, 0) == 16384);
    NEED(memcmp(q + 12 * MIB, p, 4096) == 0 && memcmp(q + 12 * MIB + 12288, p + SPILLS - 4096, 4096) == 0);
    close(fd);
    free(p);
    free(q);
}

static void files(void)
{
    file_both_ways(0);
}

static void direct(void)
{
    file_both_ways(O_DIRECT);
}

static void sockets(void)
{
    char *p = spilled(3), *q = spilled(4);
    int s[2];
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    pid_t child = fork();
    NEED(child >= 0);
    if (child == 0) {
        for (size_t at = 0; at < SPILLS;) {
            struct iovec v = {p + at, SPILLS - at < PIECE ? SPILLS - at : PIECE};
            ssize_t n = sendmsg(s[0], &(struct msghdr){.msg_iov = &v, .msg_iovlen = 1}, 0);
            NEED(n > 0);
            at += (size_t)n;
        }
        _exit(0);
    }
    for (size_t at = 0; at < SPILLS;) {
        struct iovec v = {q + at, SPILLS - at < PIECE ? SPILLS - at : PIECE};
        ssize_t n = recvmsg(s[1], &(struct msghdr){.msg_iov = &v, .msg_iovlen = 1}, 0);
        NEED(n > 0);
        at += (size_t)n;
    }
    NEED(job_wait(child) == 0 && job_has(q, SPILLS, 3));
    free(p);
    free(q);
}

/* Paths and results of system calls in spilled pages. */
static void small_arguments(void)
{
    char *p = spilled(5);
    strcpy(p + 20 * MIB, "/proc/self/stat");
    job_press();
    struct stat *st = (struct stat *)(p + 70 * MIB);
    NEED(stat(p + 20 * MIB, st) == 0 && S_ISREG(st->st_mode));
    NEED(getcwd(p + 50 * MIB, 4096) == p + 50 * MIB);
    int *fds = (int *)(p + 30 * MIB);
    NEED(pipe(fds) == 0 && write(fds[1], p + 20 * MIB, 5) == 5 && read(fds[0], p + 60 * MIB, 5) == 5);
    NEED(memcmp(p + 60 * MIB, "/proc", 5) == 0);
    free(p);
}

static void wait_for(struct io_uring *ring, int n, int bytes)
{
    struct io_uring_cqe *cqe;
    while (n--) {
        NEED(io_uring_wait_cqe(ring, &cqe) == 0 && cqe->res == bytes);
        io_uring_cqe_seen(ring, cqe);
    }
}

/* The program's own ring, with buffers that are spilled and that it registers. */
static void own_ring(void)
{
    struct io_uring ring;
    enum { DEPTH = 8, REGISTERED = 8 };
    int fd = open_file(O_DIRECT);
    if (fd < 0 || io_uring_queue_init(DEPTH, &ring, 0))
        return;
    char *p = spilled(6), *q = spilled(7);
    for (int way = 0; way < 2; way++)
        for (size_t at = 0; at < SPILLS; at += DEPTH * PIECE) {
            for (int i = 0; i < DEPTH; i++) {
                struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
                size_t here = at + (size_t)i * PIECE;
                if (way == 0)
                    io_uring_prep_write(sqe, fd, p + here, PIECE, here);
                else
                    io_uring_prep_read(sqe, fd, q + here, PIECE, here);
            }
            NEED(io_uring_submit(&ring) == DEPTH);
            wait_for(&ring, DEPTH, PIECE);
        }
    NEED(job_has(q, SPILLS, 6));
    struct iovec v[REGISTERED];
    for (int i = 0; i < REGISTERED; i++)
        v[i] = (struct iovec){q + (size_t)i * 3 * MIB, PIECE};
    NEED(io_uring_register_buffers(&ring, v, REGISTERED) == 0);
    job_press(); /* all but those leave */
    for (int i = 0; i < REGISTERED; i++) {
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
        io_uring_prep_read_fixed(sqe, fd, v[i].iov_base, PIECE, (size_t)(SPILLS - (size_t)(i + 1) * PIECE), i);
    }
    NEED(io_uring_submit(&ring) == REGISTERED);
    wait_for(&ring, REGISTERED, PIECE);
    for (int i = 0; i < REGISTERED; i++)
        NEED(memcmp(v[i].iov_base, p + SPILLS - (size_t)(i + 1) * PIECE, PIECE) == 0);
    io_uring_queue_exit(&ring);
    close(fd);
    free(p);
    free(q);
}

int main(int argc, char **argv)
{
    return job_run((const struct job[]){{"files", files},
                                        {"direct", direct},
                                        {"sockets", sockets},
                                        {"arguments", small_arguments},
                                        {"ring", own_ring},
                                        {0}},
                   argc, argv);
}
