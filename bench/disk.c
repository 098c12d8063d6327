/* disk.c - what a disk gives: reads and writes at the same time, in any mix.
 *
 * usage: disk [-r RATE] FILE SIZE SECONDS [SHARE...]
 * (RATE: MB/s at most; SIZE: MiB; SHARE: percent of bytes that are read)
 *
 * Sequential O_DIRECT transfers through io_uring out of and into huge pages,
 * as many in flight as it takes: the file is read from its beginning and
 * written from its middle, round and round. It is made and written first,
 * unless it has the size already. Prints one JSON object for each share. */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, CHUNK = MIB, DEPTH = 48, HUGE = 2 * MIB };

struct disk {
    struct io_uring ring;
    int fd;
    char *memory;
    off_t size, at[2]; /* where reads, writes are */
    unsigned long long done[2], begun[2];
};

static void fail(const char *what, int error)
{
    fprintf(stderr, "disk: %s: %s\n", what, strerror(error));
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Waits until so many bytes may have been moved since the start. */
static void keep_to(double rate, double start, double bytes)
{
    double ahead = rate > 0 ? bytes / rate - (now() - start) : 0;
    if (ahead > 0)
        usleep((useconds_t)(ahead * 1e6));
}

/* Begins a read or a write, whichever the share lacks, in a buffer. */
static void begin(struct disk *d, unsigned buffer, unsigned share)
{
    unsigned long long all = d->begun[0] + d->begun[1] + 1;
    int write = d->begun[0] * 100 >= all * share;
    struct io_uring_sqe *e = io_uring_get_sqe(&d->ring);
    char *p = d->memory + (size_t)buffer * CHUNK;
    if (write)
        io_uring_prep_write_fixed(e, d->fd, p, CHUNK, (__u64)d->at[1], 0);
    else
        io_uring_prep_read_fixed(e, d->fd, p, CHUNK, (__u64)d->at[0], 0);
    io_uring_sqe_set_data64(e, buffer << 1 | (unsigned)write);
    d->begun[write]++;
    d->at[write] = (d->at[write] + CHUNK) % d->size;
}

/* One completion. */
static unsigned end(struct disk *d)
{
    struct io_uring_cqe *e;
    int error = io_uring_wait_cqe(&d->ring, &e);
    if (error || e->res != CHUNK)
        fail("a transfer failed", error ? -error : e->res < 0 ? -e->res : EIO);
    unsigned data = (unsigned)e->user_data;
    d->done[data & 1]++;
    io_uring_cqe_seen(&d->ring, e);
    return data >> 1;
}

static void measure(struct disk *d, unsigned share, double seconds, double rate)
{
    memset(d->done, 0, sizeof d->done);
    memset(d->begun, 0, sizeof d->begun);
    d->at[0] = 0;
    d->at[1] = d->size / 2 / CHUNK * CHUNK;
    double start = now(), stop = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        begin(d, i, share);
    while (stop < start + seconds) {
        io_uring_submit(&d->ring);
        begin(d, end(d), share);
        keep_to(rate, start, (double)(d->done[0] + d->done[1]) * CHUNK);
        stop = now();
    }
    double read = (double)d->done[0] * CHUNK, written = (double)d->done[1] * CHUNK;
    io_uring_submit(&d->ring);
    for (unsigned i = 0; i < DEPTH; i++)
        end(d);
    printf("{\"read_percent\": %u, \"seconds\": %.3f, \"GBps\": %.3f, \"read_GBps\": %.3f, "
           "\"write_GBps\": %.3f}\n", share, stop - start, (read + written) / (stop - start) * 1e-9,
           read / (stop - start) * 1e-9, written / (stop - start) * 1e-9);
    fflush(stdout);
}

static void lay_out(struct disk *d, const char *path)
{
    struct stat s;
    d->fd = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (d->fd < 0 || fstat(d->fd, &s))
        fail(path, errno);
    if (s.st_size == d->size)
        return;
    int error = posix_fallocate(d->fd, 0, d->size);
    if (error)
        fail(path, error);
    for (off_t at = 0; at < d->size; at += CHUNK)
        if (pwrite(d->fd, d->memory, CHUNK, at) != CHUNK)
            fail(path, errno);
}

int main(int argc, char **argv)
{
    struct disk d = {.fd = -1};
    double rate = 0;
    if (argc > 2 && strcmp(argv[1], "-r") == 0) {
        rate = strtod(argv[2], NULL) * 1e6;
        argc -= 2;
        argv += 2;
    }
    if (argc < 4 || strtol(argv[2], NULL, 10) < 2 * DEPTH) {
        fprintf(stderr, "usage: disk [-r RATE] FILE SIZE SECONDS [SHARE...] (RATE in MB/s; SIZE in MiB, at least %d)\n", 2 * DEPTH);
        return 2;
    }
    d.size = strtol(argv[2], NULL, 10) * MIB;
    char *memory = mmap(NULL, (size_t)DEPTH * CHUNK + HUGE, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        fail("memory", errno);
    d.memory = memory + (-(unsigned long)memory & (HUGE - 1));
    madvise(d.memory, (size_t)DEPTH * CHUNK, MADV_HUGEPAGE);
    memset(d.memory, 1, (size_t)DEPTH * CHUNK);
    struct iovec all = {d.memory, (size_t)DEPTH * CHUNK};
    int error = io_uring_queue_init(2 * DEPTH, &d.ring, 0);
    if (error == 0)
        error = io_uring_register_buffers(&d.ring, &all, 1);
    if (error)
        fail("io_uring", -error);
    lay_out(&d, argv[1]);
    for (int i = 4; i < argc; i++)
        measure(&d, (unsigned)strtoul(argv[i], NULL, 10), strtod(argv[3], NULL), rate);
    io_uring_queue_exit(&d.ring);
    close(d.fd);
    return 0;
}
