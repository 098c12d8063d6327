/* test_files.c - tensors whose first contents are a part of a user's file, with
 * both disk engines: what is read, what is never written, what is refused. */
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "manager.h"
#include "simdisk.h"

enum { PAGE = 4096, FILE_BYTES = 6 * MIB + 1234, LIMIT = 16 * MIB };

/* ---- the file ---------------------------------------------------------------- */

static char folder[64], path[96];
static unsigned char data[FILE_BYTES]; /* what it holds */
static struct stat before;

/* The file with those contents and that time, which is long past: a later write
 * is noticed however coarse the clock. */
static void put_file(void)
{
    const struct timespec past[2] = {{.tv_sec = 1000000000}, {.tv_sec = 1000000000, .tv_nsec = 5}};
    int fd = open(path, O_WRONLY | O_CREAT, 0644);
    cr_assert(fd >= 0 && write(fd, data, sizeof data) == (ssize_t)sizeof data);
    cr_assert_eq(ftruncate(fd, sizeof data), 0);
    cr_assert_eq(futimens(fd, past), 0);
    cr_assert_eq(fstat(fd, &before), 0);
    close(fd);
}

static void make_file(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/weights", folder);
    pattern_fill(data, sizeof data, 77);
    put_file();
}

static void remove_folder(void)
{
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));)
        if (unlinkat(dirfd(d), e->d_name, 0))
            unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
    if (d)
        closedir(d);
    rmdir(folder);
}

TestSuite(files, .init = make_file, .fini = remove_folder, .timeout = 60);

static void expect_untouched(void)
{
    static unsigned char now[FILE_BYTES];
    struct stat is;
    int fd = open(path, O_RDONLY);
    cr_assert(fd >= 0 && read(fd, now, sizeof now) == (ssize_t)sizeof now);
    cr_assert_eq(memcmp(now, data, sizeof data), 0, "the file was written");
    cr_assert_eq(fstat(fd, &is), 0);
    cr_assert(is.st_size == before.st_size && is.st_mtim.tv_sec == before.st_mtim.tv_sec &&
              is.st_mtim.tv_nsec == before.st_mtim.tv_nsec, "the file's time was changed");
    close(fd);
}

/* Replaces what is at an offset; at its end, it grows. */
static void change_file(off_t offset, char c)
{
    int fd = open(path, O_WRONLY);
    cr_assert(fd >= 0 && pwrite(fd, &c, 1, offset) == 1);
    close(fd);
}

static unsigned open_files(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (d && readdir(d))
        n++;
    closedir(d);
    return n;
}

/* ---- managers and tensors ---------------------------------------------------- */

static const char *const engines[] = {"uring", "threads"};
#define EACH_ENGINE(e) (unsigned e = 0; e < sizeof engines / sizeof engines[0]; e++)

static terrace *open_disk(unsigned engine, size_t limit, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "log=off;io=%s;nvme_path=%s;%s", engines[engine], folder, more);
    return open_with("numa:0,nvme:0", limit, conf);
}

static terrace_tensor *part_of(terrace *m, uint64_t offset, size_t bytes)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "layers/0/w"};
    terrace_tensor *t;
    assert_ok(terrace_tensor_open(m, path, offset, bytes, &attr, &t));
    return t;
}

static void expect_part(terrace_tensor *t, uint64_t offset, size_t bytes)
{
    void *p;
    assert_ok(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL));
    cr_assert_eq(memcmp(p, data + offset, bytes), 0, "not the file's %zu bytes from %llu", bytes,
                 (unsigned long long)offset);
    assert_ok(terrace_release(t, p, NULL));
}

/* What an acquire for reading fails with; the sentence has the file's name. */
static void expect_changed(terrace_tensor *t)
{
    void *p = &t;
    assert_fails(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_ECHANGED);
    cr_assert(strstr(terrace_last_error(), path) && strstr(terrace_last_error(), "layers/0/w"), "%s",
              terrace_last_error());
    cr_assert_eq(p, (void *)&t, "an output was written on failure");
    assert_ok(terrace_wait(t)); /* it was reported already */
}

/* ---- reading ----------------------------------------------------------------- */

static const struct part {
    uint64_t offset;
    size_t bytes;
} parts[] = {
    {0, FILE_BYTES}, {0, 1}, {0, PAGE - 1}, {PAGE, PAGE}, {PAGE, 5000}, {2 * MIB, 2 * MIB + 1},
    {2 * PAGE, FILE_BYTES - 2 * PAGE}, {6 * MIB, 1234}, /* these are aligned, those are not: */
    {1, 1}, {3, PAGE - 3}, {PAGE - 1, 2}, {512, 2 * MIB - 512 + PAGE + 1}, {1, 3 * MIB},
    {FILE_BYTES - 1, 1}, {FILE_BYTES - PAGE, PAGE}, {777, FILE_BYTES - 777}};

Test(files, any_part_can_be_read)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        uint64_t read = 0;
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            terrace_tensor *t = part_of(m, parts[i].offset, parts[i].bytes);
            for (int again = 0; again < 2; again++) {
                expect_part(t, parts[i].offset, parts[i].bytes);
                push_down(t, m);
                read += parts[i].bytes;
            }
            terrace_tensor_destroy(t);
        }
        cr_assert_eq(stats_of(m).file_bytes, read);
        cr_assert_eq(stats_of(m).writeback_bytes, 0);
        terrace_close(m);
        expect_untouched();
    }
}

Test(files, copies_by_the_cpu_are_counted)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
            uint64_t counted = stats_of(m).cpu_copy_bytes;
            terrace_tensor *t = part_of(m, parts[i].offset, parts[i].bytes);
            expect_part(t, parts[i].offset, parts[i].bytes);
            counted = stats_of(m).cpu_copy_bytes - counted;
            cr_assert_eq(counted, parts[i].offset % PAGE ? parts[i].bytes : 0,
                         "%zu bytes from %llu: %llu counted", parts[i].bytes,
                         (unsigned long long)parts[i].offset, (unsigned long long)counted);
            terrace_tensor_destroy(t);
        }
        terrace_close(m);
    }
}

Test(files, a_prefetch_brings_the_bytes)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *t = part_of(m, 100, 3 * MIB);
        assert_ok(terrace_prefetch(t, host_of(m)));
        assert_ok(terrace_wait(t));
        cr_assert_eq(stats_of(m).file_bytes, 3 * MIB);
        expect_part(t, 100, 3 * MIB);
        cr_assert_eq(stats_of(m).prefetch_hits, 1);
        cr_assert_eq(stats_of(m).file_bytes, 3 * MIB);
        terrace_close(m);
    }
}

/* Reads end within the tensor's own pages, also where the file's offsets and
 * the stripes over several folders do not meet. */
Test(files, the_neighbours_are_left_alone)
{
    enum { BYTES = 2 * MIB - 512 + PAGE + 1, NEIGHBOURS = 40 };
    char second[80], conf[256];
    snprintf(second, sizeof second, "%s/second", folder);
    cr_assert_eq(mkdir(second, 0700), 0);
    for EACH_ENGINE (e) {
        snprintf(conf, sizeof conf, "log=off;io=%s;nvme_path=%s:%s", engines[e], folder, second);
        terrace *m = open_with("numa:0,nvme:0", LIMIT, conf);
        terrace_tensor *t = part_of(m, 512, BYTES), *gap = tensor_of(m, 4 * MIB + 400 * KIB, "gap");
        terrace_tensor *n[NEIGHBOURS];
        void *p[NEIGHBOURS];
        write_pattern(gap, 0, 4 * MIB + 400 * KIB, 1);
        expect_part(t, 512, BYTES);
        for (uint64_t i = 0; i < NEIGHBOURS; i++) {
            n[i] = tensor_of(m, 2 * PAGE, "neighbour");
            assert_ok(terrace_acquire(n[i], 0, TERRACE_OVERWRITE, NULL, &p[i], NULL));
            pattern_fill(p[i], 2 * PAGE, i);
        }
        push_down(t, m);
        expect_part(t, 512, BYTES);
        for (uint64_t i = 0; i < NEIGHBOURS; i++)
            cr_assert(pattern_is(p[i], 2 * PAGE, i), "neighbour %d was written over", (int)i);
        expect_pattern(gap, 0, 4 * MIB + 400 * KIB, 1);
        terrace_close(m);
    }
}

Test(files, one_file_is_held_open_once_and_no_longer_than_needed)
{
    enum { N = 64 };
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *t[N];
        unsigned held = open_files();
        for (uint64_t i = 0; i < N; i++)
            t[i] = part_of(m, i * 10000, 10000);
        cr_assert_leq(open_files(), held + 2);
        cr_assert_eq(unlink(path), 0);
        for (uint64_t i = 0; i < N; i++) {
            expect_part(t[i], i * 10000, 10000);
            terrace_tensor_destroy(t[i]);
        }
        cr_assert_eq(open_files(), held);
        terrace_close(m);
        put_file();
    }
}

/* ---- writing ----------------------------------------------------------------- */

Test(files, unchanged_bytes_leave_without_a_write)
{
    enum { N = 20, SIZE = 1 * MIB };
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, 4 * MIB, "");
        terrace_tensor *t[N];
        for (uint64_t i = 0; i < N; i++)
            t[i] = part_of(m, i * 1000, SIZE);
        for (int round = 0; round < 3; round++)
            for (uint64_t i = 0; i < N; i++)
                expect_part(t[i], i * 1000, SIZE);
        terrace_statistics s = stats_of(m);
        cr_assert_gt(s.evictions, 0);
        cr_assert_eq(s.clean_evictions, s.evictions);
        cr_assert_eq(s.writeback_bytes, 0);
        cr_assert_eq(tier_stats_of(m, 1).in_bytes, 0);
        cr_assert_eq(tier_stats_of(m, 1).used, 0);
        cr_assert_leq(tier_stats_of(m, 0).peak, 4 * MIB);
        terrace_close(m);
        expect_untouched();
    }
}

Test(files, what_is_written_goes_to_the_spill)
{
    for EACH_ENGINE (e)
        for (uint64_t offset = 0; offset < 1000; offset += 999) {
            enum { SIZE = 3 * MIB + 5 };
            terrace *m = open_disk(e, LIMIT, "");
            terrace_tensor *t = part_of(m, offset, SIZE);
            unsigned char *p;
            assert_ok(terrace_acquire(t, 0, TERRACE_WRITE, NULL, (void **)&p, NULL));
            cr_assert_eq(memcmp(p, data + offset, SIZE), 0);
            p[0] ^= 0xff, p[SIZE - 1] ^= 0xff;
            assert_ok(terrace_release(t, p, NULL));
            push_down(t, m);
            cr_assert_geq(stats_of(m).writeback_bytes, SIZE);
            cr_assert_geq(tier_stats_of(m, 1).used, SIZE);
            expect_untouched();
            cr_assert_eq(truncate(path, 0), 0); /* it does not matter any more */
            for (int again = 0; again < 2; again++) {
                assert_ok(terrace_acquire(t, 0, TERRACE_READ, NULL, (void **)&p, NULL));
                cr_assert_eq(p[0], (unsigned char)~data[offset]);
                cr_assert_eq(p[SIZE - 1], (unsigned char)~data[offset + SIZE - 1]);
                cr_assert_eq(memcmp(p + 1, data + offset + 1, SIZE - 2), 0);
                assert_ok(terrace_release(t, p, NULL));
                push_down(t, m);
            }
            cr_assert_eq(stats_of(m).file_bytes, SIZE);
            terrace_close(m);
            put_file();
        }
}

Test(files, what_is_overwritten_is_not_read)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *t = part_of(m, 4096, 2 * MIB);
        write_pattern(t, 0, 2 * MIB, 5);
        push_down(t, m);
        expect_pattern(t, 0, 2 * MIB, 5);
        cr_assert_eq(stats_of(m).file_bytes, 0);
        terrace_close(m);
        expect_untouched();
    }
}

/* ---- files that change ------------------------------------------------------- */

static void grow(void) { change_file(FILE_BYTES, 'x'); }
static void rewrite_inside(void) { change_file(MIB, (char)~data[MIB]); }
static void rewrite_elsewhere(void) { change_file(FILE_BYTES - 1, (char)~data[FILE_BYTES - 1]); }
static void cut_inside(void) { cr_assert_eq(truncate(path, MIB), 0); }
static void cut_to_nothing(void) { cr_assert_eq(truncate(path, 0), 0); }
static void cut_elsewhere(void) { cr_assert_eq(truncate(path, FILE_BYTES - 1), 0); }

static void (*const changes[])(void) = {grow, rewrite_inside, rewrite_elsewhere,
                                        cut_inside, cut_to_nothing, cut_elsewhere};

Test(files, a_change_is_an_error_at_the_next_read)
{
    for EACH_ENGINE (e)
        for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
            terrace *m = open_disk(e, LIMIT, "");
            terrace_tensor *was_read = part_of(m, 0, 3 * MIB), *was_not = part_of(m, 5, 3 * MIB);
            terrace_tensor *in_memory = part_of(m, 8192, 2 * MIB);
            expect_part(was_read, 0, 3 * MIB);
            push_down(was_read, m);
            expect_part(in_memory, 8192, 2 * MIB);
            changes[i]();
            expect_changed(was_read);
            expect_changed(was_not);
            expect_part(in_memory, 8192, 2 * MIB); /* nothing was read */
            push_down(in_memory, m);
            expect_changed(in_memory);
            cr_assert_eq(stats_of(m).io_errors, 3);
            cr_assert_eq(tier_stats_of(m, 0).tensors, 0);
            terrace_close(m);
            put_file();
        }
}

Test(files, the_handle_survives_a_change)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *restored = part_of(m, 0, 3 * MIB), *filled = part_of(m, 100, 3 * MIB);
        cut_to_nothing();
        for (int again = 0; again < 3; again++) {
            expect_changed(restored);
            expect_changed(filled);
        }
        write_pattern(filled, 0, 3 * MIB, 9);
        push_down(filled, m);
        expect_pattern(filled, 0, 3 * MIB, 9);
        put_file();
        expect_part(restored, 0, 3 * MIB);
        terrace_close(m);
    }
}

Test(files, a_prefetch_of_a_changed_file_fails_in_wait)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *t = part_of(m, 0, 3 * MIB);
        grow();
        assert_ok(terrace_prefetch(t, host_of(m)));
        assert_fails(terrace_wait(t), TERRACE_ECHANGED);
        assert_ok(terrace_wait(t));
        terrace_close(m);
        put_file();
    }
}

Test(files, a_changed_file_can_be_opened_again)
{
    for EACH_ENGINE (e) {
        terrace *m = open_disk(e, LIMIT, "");
        terrace_tensor *old = part_of(m, 0, 2 * MIB);
        unsigned char was = data[MIB];
        rewrite_inside();
        terrace_tensor *t = part_of(m, 0, 2 * MIB);
        data[MIB] = (unsigned char)~was;
        expect_part(t, 0, 2 * MIB);
        expect_changed(old);
        push_down(t, m);
        expect_part(t, 0, 2 * MIB);
        terrace_close(m);
        data[MIB] = was;
        put_file();
    }
}

/* ---- what is refused --------------------------------------------------------- */

static void expect_refused(terrace *m, const char *name, uint64_t offset, size_t bytes, int error)
{
    terrace_tensor *t = (terrace_tensor *)&t;
    unsigned held = open_files();
    int r = terrace_tensor_open(m, name, offset, bytes, NULL, &t);
    cr_assert_eq(r, -error, "%zu bytes from %llu of %s: %s", bytes, (unsigned long long)offset, name,
                 terrace_strerror(r));
    cr_assert(bytes == 0 || bytes == SIZE_MAX || strstr(terrace_last_error(), name), "%s",
              terrace_last_error());
    cr_assert_eq(t, (terrace_tensor *)&t, "an output was written on failure");
    cr_assert_eq(open_files(), held, "a file was left open");
}

Test(files, what_is_not_there_is_refused)
{
    char name[128];
    terrace *m = open_disk(1, LIMIT, "");
    snprintf(name, sizeof name, "%s/missing", folder);
    expect_refused(m, name, 0, 1, TERRACE_ENOENT);
    snprintf(name, sizeof name, "%s/of/a/file", path);
    expect_refused(m, name, 0, 1, TERRACE_ENOENT);
    expect_refused(m, folder, 0, 1, TERRACE_EINVAL);
    snprintf(name, sizeof name, "%s/pipe", folder);
    cr_assert_eq(mkfifo(name, 0600), 0);
    expect_refused(m, name, 0, 1, TERRACE_EINVAL); /* without waiting for its other end */
    expect_refused(m, "/dev/zero", 0, 1, TERRACE_EINVAL);
    cr_assert_eq(stats_of(m).tensors, 0);
    terrace_close(m);
}

Test(files, a_range_outside_the_file_is_refused)
{
    terrace *m = open_disk(1, LIMIT, "");
    expect_refused(m, path, 0, FILE_BYTES + 1, TERRACE_EINVAL);
    expect_refused(m, path, FILE_BYTES, 1, TERRACE_EINVAL);
    expect_refused(m, path, FILE_BYTES - 5, 6, TERRACE_EINVAL);
    expect_refused(m, path, UINT64_MAX, 1, TERRACE_EINVAL);
    expect_refused(m, path, UINT64_MAX - 4096, 8192, TERRACE_EINVAL);
    expect_refused(m, path, 0, 0, TERRACE_EINVAL);
    expect_refused(m, path, 0, SIZE_MAX, TERRACE_EINVAL);
    expect_refused(m, path, 0, SIZE_MAX / 8, TERRACE_EINVAL);
    terrace_tensor *t;
    assert_fails(terrace_tensor_open(m, NULL, 0, 1, NULL, &t), TERRACE_EINVAL);
    assert_fails(terrace_tensor_open(m, path, 0, 1, NULL, NULL), TERRACE_EINVAL);
    assert_fails(terrace_tensor_open(NULL, path, 0, 1, NULL, &t), TERRACE_EINVAL);
    assert_fails(terrace_tensor_open(m, path, 0, 1, &(terrace_tensor_attr){0}, &t), TERRACE_EINVAL);
    cr_assert_eq(stats_of(m).tensors, 0);
    terrace_close(m);
}

Test(files, what_may_not_be_read_is_refused)
{
    terrace *m = open_disk(1, LIMIT, "");
    cr_assert_eq(chmod(path, 0), 0);
    bool root = geteuid() == 0;
    if (root)
        cr_assert_eq(seteuid(65534), 0);
    terrace_tensor *t;
    int r = terrace_tensor_open(m, path, 0, 1, NULL, &t);
    if (root)
        cr_assert_eq(seteuid(0), 0);
    cr_assert_eq(r, -TERRACE_EPERM, "%s", terrace_strerror(r));
    cr_assert(strstr(terrace_last_error(), path), "%s", terrace_last_error());
    terrace_close(m);
}

Test(files, without_a_tier_that_reads_files)
{
    static const char *const tiers[] = {"numa:0", "numa:0,simdisk:0"};
    for (int i = 0; i < 2; i++) {
        terrace *m = open_with(tiers[i], LIMIT, "");
        terrace_tensor *t;
        assert_fails(terrace_tensor_open(m, path, 0, 1, NULL, &t), TERRACE_ENOTSUP);
        cr_assert(strstr(terrace_last_error(), "TERRACE_TIERS") && strstr(terrace_last_error(), path),
                  "%s", terrace_last_error());
        terrace_close(m);
    }
}
