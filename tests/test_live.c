/* test_live.c - the page by which others see what a manager does: who can read it,
 * what is in it, and that a reader survives any other. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core.h"
#include "live.h"
#include "live_page.h"
#include "manager.h"
#include "simdisk.h"

enum { SIZE = MIB, LIMIT = 4 * MIB };

TestSuite(live, .timeout = 120);

/* The process's open file of that name, after so many others; -1: there is none. */
static int page_fd(unsigned skip)
{
    char path[64], to[64];
    int found = -1;
    DIR *d = opendir("/proc/self/fd");
    for (const struct dirent *e; found < 0 && (e = readdir(d)) != NULL;) {
        ssize_t n = readlinkat(dirfd(d), e->d_name, to, sizeof to - 1);
        to[n > 0 ? n : 0] = 0;
        if (strcmp(to, "/memfd:terrace (deleted)") == 0 && skip-- == 0)
            found = atoi(e->d_name);
    }
    closedir(d);
    if (found < 0)
        return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", found);
    return open(path, O_RDONLY | O_CLOEXEC); /* as a reader does */
}

static struct live_page read_page(void)
{
    struct live_page p;
    int fd = page_fd(0);
    cr_assert_geq(fd, 0);
    uint32_t before, after;
    do { /* until nobody writes to it meanwhile */
        cr_assert_eq(pread(fd, &before, sizeof before, offsetof(struct live_page, sequence)), sizeof before);
        cr_assert_eq(pread(fd, &p, sizeof p, 0), sizeof p);
        cr_assert_eq(pread(fd, &after, sizeof after, offsetof(struct live_page, sequence)), sizeof after);
    } while (before % 2 || before != after);
    close(fd);
    cr_assert_null(live_page_check(&p, sizeof p));
    return p;
}

/* The page is renewed without anybody doing anything. */
static struct live_page read_page_after(uint64_t moment)
{
    struct live_page p;
    eventually((p = read_page()).updated > moment);
    return p;
}

static void work(terrace *m)
{
    terrace_tensor *t[8];
    for (int i = 0; i < 8; i++) {
        t[i] = tensor_of(m, SIZE, "worked on");
        write_pattern(t[i], 0, SIZE, (uint64_t)i);
    }
    for (int i = 0; i < 8; i++)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    assert_ok(terrace_step(m));
    for (int i = 0; i < 8; i++)
        assert_ok(terrace_wait(t[i]));
}

Test(live, shows_what_the_statistics_say)
{
    terrace *m = open_sim(LIMIT, "prefetch=off");
    work(m);
    struct live_page p = read_page_after(clock_ns());
    terrace_statistics s = stats_of(m);
    terrace_tier_statistics host = tier_stats_of(m, 0), disk = tier_stats_of(m, 1);
    cr_assert(p.process == getpid() && p.tiers == 2 && strcmp(p.library, terrace_version()) == 0);
    cr_assert(p.tensors == s.tensors && p.tensor_bytes == s.tensor_bytes && p.steps == 1);
    cr_assert(p.acquires == s.acquires && p.hits == s.hits && p.stall_ns == s.stall_ns && p.stalls == s.stalls);
    cr_assert(p.fill_bytes == s.fill_bytes && p.writeback_bytes == s.writeback_bytes && s.fill_bytes > 0);
    cr_assert(p.tier[0].used == host.used && p.tier[0].limit == LIMIT && p.tier[0].in_bytes == host.in_bytes);
    cr_assert(p.route[0][1] == disk.in_bytes && p.route[1][0] == host.in_bytes && p.route[0][0] == 0);
    cr_assert_str_eq(p.tier[0].name, "numa:0");
    cr_assert_str_eq(p.tier[0].vendor, host.vendor);
    cr_assert_str_eq(p.tier[1].engine, disk.engine);
    cr_assert_str_eq(p.tier[1].tier_class, "disk");
    terrace_close(m);
    cr_assert_eq(page_fd(0), -1);
}

/* Uses that take no lock, and after which no lane has anything to do. */
Test(live, uses_without_the_lock_are_seen)
{
    terrace *m = open_sim(LIMIT, NULL);
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    for (int i = 0; i < 10000; i++) {
        void *p;
        assert_ok(terrace_acquire(t, 0, TERRACE_WRITE, NULL, &p, NULL));
        assert_ok(terrace_release(t, p, NULL));
    }
    struct live_page p = read_page_after(clock_ns());
    cr_assert_eq(p.acquires, 10000);
    terrace_close(m);
}

/* Without a lane those who end a step see to it. */
Test(live, without_a_lane_steps_renew_it)
{
    terrace *m = open_with("numa:0", LIMIT, NULL);
    uint64_t start = clock_ns();
    struct live_page p;
    do {
        usleep(10000);
        assert_ok(terrace_step(m));
        p = read_page();
    } while (p.steps == 0 && clock_ns() - start < 10000000000u);
    cr_assert_gt(p.steps, 0);
    terrace_close(m);
}

enum { MANY = 6000 }; /* more than are looked at at once */

/* Those with the highest numbers, of which the first is in memory. */
static bool are_the_biggest(const struct live_page *p)
{
    bool good = p->tensors_shown == LIVE_TENSORS && p->tensor[0].in_memory == p->tensor[0].bytes;
    for (int i = 0; i < LIVE_TENSORS; i++)
        good = good && p->tensor[i].bytes == 40000u + (unsigned)(MANY - 1 - i) * 8 &&
               p->tensor[i].tiers == (i == 0 ? 1 : 0) &&
               atoi(p->tensor[i].label + strlen("number ")) == MANY - 1 - i;
    return good;
}

Test(live, the_biggest_tensors_come_first)
{
    static terrace_tensor *t[MANY];
    terrace *m = open_sim(LIMIT, NULL);
    for (int i = 0; i < MANY; i++) {
        char label[32];
        int k = i * 7919 % MANY; /* in no order */
        snprintf(label, sizeof label, "number %d", k);
        t[k] = tensor_of(m, 40000 + (size_t)k * 8, label);
    }
    write_pattern(t[MANY - 1], 0, 40000, 1);
    struct live_page p;
    eventually((p = read_page(), are_the_biggest(&p)));
    /* They may go while they are being looked at. */
    for (int i = MANY - 1; i >= 10; i--) {
        terrace_tensor_destroy(t[i]);
        if (i % 64 == 0)
            usleep(10000);
    }
    eventually((p = read_page()).tensors_shown == 10);
    cr_assert_eq(p.tensor[0].bytes, 40000u + 9 * 8);
    terrace_close(m);
}

Test(live, allocations_of_stable_memory_are_shown_whole)
{
    enum { BYTES = 5 * MIB + 12345 };
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "stable one"};
    terrace *m = open_with("numa:0,nvme:0", 16 * MIB, NULL);
    char *a = terrace_malloc(m, BYTES, 0, &attr);
    if (!m->stable) {
        terrace_close(m);
        cr_skip_test("no userfaultfd here");
    }
    memset(a, 1, 3 * MIB);
    struct live_page p;
    eventually((p = read_page_after(clock_ns())).tensors_shown == 1 && p.tensor[0].in_memory >= 3 * MIB);
    cr_assert(p.tensor[0].stable && p.tensor[0].bytes == BYTES && p.tensor[0].in_memory <= BYTES);
    cr_assert_str_eq(p.tensor[0].label, "stable one");
    terrace_free(m, a);
    eventually(read_page().tensors_shown == 0);
    terrace_close(m);
}

/* ---- who may do what ------------------------------------------------------------ */

Test(live, nobody_can_write_or_cut_it)
{
    char path[64];
    terrace *m = open_sim(LIMIT, NULL);
    int fd = page_fd(0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    int again = open(path, O_RDWR);
    if (again >= 0) { /* root may open it; the seals keep it all the same */
        cr_assert(write(again, "x", 1) < 0 && ftruncate(again, 0) < 0 && ftruncate(again, 1 << 20) < 0);
        cr_assert_eq(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0), MAP_FAILED);
        close(again);
    }
    struct stat st;
    cr_assert(fstat(fd, &st) == 0 && (st.st_mode & 0777) == 0400);
    close(fd);
    read_page();
    terrace_close(m);
}

Test(live, a_child_has_the_file_but_it_is_not_the_childs)
{
    terrace *m = open_sim(LIMIT, NULL);
    int status;
    pid_t parent = getpid(), child = fork();
    if (child == 0) {
        struct live_page p;
        int fd = page_fd(0);
        bool good = fd >= 0 && pread(fd, &p, sizeof p, 0) == sizeof p && p.process == parent;
        terrace *own;
        good = good && terrace_open(&own, "tiers=numa:0;limit_numa=4M") == 0;
        bool mine = false;
        close(fd);
        for (unsigned i = 0; good && (fd = page_fd(i)) >= 0; i++) {
            mine |= pread(fd, &p, sizeof p, 0) == sizeof p && p.process == getpid();
            close(fd);
        }
        _exit(good && mine ? 0 : 1);
    }
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    read_page_after(clock_ns());
    terrace_close(m);
}

Test(live, managers_have_a_page_each)
{
    terrace *a = open_with("numa:0", LIMIT, NULL), *b = open_with("numa:0", 2 * LIMIT, NULL);
    struct live_page p[2];
    for (unsigned i = 0; i < 2; i++) {
        int fd = page_fd(i);
        cr_assert_eq(pread(fd, &p[i], sizeof p[i], 0), sizeof p[i]);
        close(fd);
    }
    cr_assert_neq(p[0].manager, p[1].manager);
    cr_assert_eq(p[0].tier[0].limit + p[1].tier[0].limit, 3 * LIMIT);
    terrace_close(a);
    terrace_close(b);
    cr_assert_eq(page_fd(0), -1);
}

Test(live, it_can_be_switched_off)
{
    terrace *m = open_sim(LIMIT, "top=0");
    cr_assert_null(m->live);
    cr_assert_eq(page_fd(0), -1);
    work(m);
    terrace_close(m);
}

/* ---- readers ----------------------------------------------------------------------- */

static bool is_ended(const char *text, size_t room)
{
    const char *end = memchr(text, 0, room);
    for (const char *c = text; end && c < end; c++)
        if ((unsigned char)*c < ' ' || *c == 0x7f)
            return false;
    return end != NULL;
}

/* Whatever is in a page: it is refused, or can be shown. */
Test(live, any_bytes_are_refused_or_harmless)
{
    static struct live_page good, p;
    unsigned shown = 0;
    terrace *m = open_sim(LIMIT, NULL);
    good = read_page();
    terrace_close(m);
    srandom(3);
    for (int i = 0; i < 20000; i++) {
        size_t bytes = random() % 4 ? sizeof p : (size_t)random() % (sizeof p + 1);
        p = good;
        for (int k = (int)(random() % 8); k >= 0; k--) {
            size_t at = random() % 3 ? (size_t)random() % sizeof p : (size_t)random() % 64;
            memset((char *)&p + at, random() % 2 ? 0xff : (int)random(), (size_t)random() % (sizeof p - at) % 300);
        }
        if (live_page_check(&p, bytes))
            continue;
        shown++;
        cr_assert(bytes == sizeof p && p.tiers <= LIVE_TIERS && p.tensors_shown <= LIVE_TENSORS);
        for (int k = 0; k < LIVE_TIERS; k++)
            cr_assert(is_ended(p.tier[k].name, sizeof p.tier[k].name) &&
                      is_ended(p.tier[k].engine_reason, sizeof p.tier[k].engine_reason));
        for (int k = 0; k < LIVE_TENSORS; k++)
            cr_assert(is_ended(p.tensor[k].label, sizeof p.tensor[k].label));
    }
    cr_assert(shown > 1000 && shown < 19000, "%u", shown);
    p = good;
    p.version++;
    cr_assert(strstr(live_page_check(&p, sizeof p), "version"));
    p = good;
    p.magic[0]++;
    cr_assert(strstr(live_page_check(&p, sizeof p), "no page"));
    cr_assert(strstr(live_page_check(&p, 3), "no page"));
    p = good;
    cr_assert(strstr(live_page_check(&p, sizeof p - 1), "damaged"));
}
