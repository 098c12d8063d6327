/* stable.c - passes over memory larger than what may be held of it.
 *
 * usage: stable terrace|terrace+step|swap|mmap SIZE BUDGET FOLDER, sizes in MiB
 *
 * The memory is terrace_malloc()'s with BUDGET as the host tier's limit, with or
 * without a terrace_step() after each pass; or anonymous, for the kernel to swap; or a shared mapping of an unnamed file in
 * FOLDER. bench/stable.py runs one of each, every one under the same memory
 * limit of the kernel, and compares.
 *
 * Prints "ready" once everything has been written. Then every line of input,
 *
 *   ORDER read|write THREADS SECONDS ADVICE
 *
 * makes one pass, after an unmeasured one of the same kind, and prints a JSON
 * object. ORDER is sequential, strided (a page of every 16, 16 times over) or
 * random. All words of a page are read, or incremented. A pass ends when as
 * many pages have been visited as there are, or after SECONDS; strided and
 * random ones go on where the last one stopped, so that they do not find it in
 * memory. ADVICE (normal, sequential, random) is for mmap's madvise. */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "terrace.h"

enum { MIB = 1 << 20, PAGE = 4096, STRIDE = 16, MOST_THREADS = 64, LOOK = 64 };

struct memory {
    terrace *m; /* NULL: a peer's */
    unsigned char *p;
    size_t pages;
    bool file;
    bool steps;  /* passes are marked */
};

struct walker {
    const struct memory *memory;
    char order;
    bool write;
    size_t from, to;  /* its share of the pass, in visits */
    uint64_t random;
    double deadline;
    size_t visits;
    uint64_t sum;
};

static void fail(const char *what)
{
    fprintf(stderr, "stable: %s\n", what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static size_t page_of(struct walker *w, size_t visit)
{
    size_t pages = w->memory->pages;
    if (w->order == 'r') {
        w->random ^= w->random << 13;
        w->random ^= w->random >> 7;
        w->random ^= w->random << 17;
        return w->random % pages;
    }
    visit %= pages;
    if (w->order == 's')
        return visit;
    size_t round = pages / STRIDE;
    return visit % round * STRIDE + visit / round % STRIDE;
}

static void visit_page(struct walker *w, size_t page)
{
    uint64_t *p = (uint64_t *)(w->memory->p + page * PAGE);
    uint64_t sum = 0;
    for (size_t i = 0; i < PAGE / sizeof *p; i++)
        if (w->write)
            p[i]++;
        else
            sum += p[i];
    w->sum += sum;
}

static void *walk(void *arg)
{
    struct walker *w = arg;
    for (size_t i = w->from; i < w->to; i++) {
        visit_page(w, page_of(w, i));
        w->visits++;
        if (w->visits % LOOK == 0 && now() >= w->deadline)
            break;
    }
    return NULL;
}

struct result {
    size_t visits;
    double seconds;
    uint64_t sum;
};

/* One pass by some threads, each over a share of it. */
static struct result pass(const struct memory *memory, char order, bool write, unsigned threads,
                          double seconds)
{
    static size_t cursor;
    static uint64_t seed = 88172645463325252u;
    struct walker w[MOST_THREADS];
    pthread_t thread[MOST_THREADS];
    double start = now();
    size_t first = order == 's' ? 0 : cursor;
    struct result r = {0};
    for (unsigned i = 0; i < threads; i++) {
        w[i] = (struct walker){.memory = memory, .order = order, .write = write,
                               .from = first + memory->pages / threads * i,
                               .to = first + memory->pages / threads * (i + 1),
                               .random = seed += 0x9e3779b97f4a7c15u, .deadline = start + seconds};
        if (pthread_create(&thread[i], NULL, walk, &w[i]))
            fail("no thread");
    }
    for (unsigned i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        r.visits += w[i].visits;
        r.sum += w[i].sum;
    }
    cursor = first + r.visits;
    if (memory->steps)
        terrace_step(memory->m);
    r.seconds = now() - start;
    return r;
}

static terrace_statistics stats(const struct memory *memory)
{
    terrace_statistics s = {.size = sizeof s};
    if (memory->m)
        terrace_stats(memory->m, &s);
    return s;
}

static void measure(const struct memory *memory, char *line)
{
    enum { ORDER, KIND, THREADS, SECONDS, ADVICE, WORDS };
    char *word[WORDS], *rest = NULL;
    for (int i = 0; i < WORDS; i++)
        if (!(word[i] = strtok_r(i ? NULL : line, " \n", &rest)))
            fail("a line of input is not ORDER read|write THREADS SECONDS ADVICE");
    const char *order = word[ORDER], *advice = word[ADVICE];
    unsigned threads = (unsigned)strtoul(word[THREADS], NULL, 10);
    double seconds = strtod(word[SECONDS], NULL);
    if (threads < 1 || threads > MOST_THREADS)
        fail("that many threads cannot be had");
    bool write = *word[KIND] == 'w';
    char how = (char)(order[0] == 's' && order[1] == 't' ? 't' : order[0]);
    if (memory->file)
        madvise(memory->p, memory->pages * PAGE,
                *advice == 's' ? MADV_SEQUENTIAL : *advice == 'r' ? MADV_RANDOM : MADV_NORMAL);
    pass(memory, how, write, threads, seconds);
    terrace_statistics before = stats(memory);
    struct result r = pass(memory, how, write, threads, seconds);
    terrace_statistics after = stats(memory);
    printf("{\"visits\": %zu, \"seconds\": %.4f, \"MiBps\": %.3f, \"read_bytes\": %llu, "
           "\"written_bytes\": %llu, \"faults\": %llu, \"sum\": %llu}\n",
           r.visits, r.seconds, (double)(r.visits * PAGE) / r.seconds / MIB,
           (unsigned long long)(after.fill_bytes - before.fill_bytes),
           (unsigned long long)(after.writeback_bytes - before.writeback_bytes),
           (unsigned long long)(after.faults - before.faults), (unsigned long long)r.sum);
    fflush(stdout);
    if (memory->file) /* not while others are measured */
        msync(memory->p, memory->pages * PAGE, MS_SYNC);
}

static void memory_open(struct memory *memory, const char *kind, const char *budget, const char *folder)
{
    size_t bytes = memory->pages * PAGE;
    if (*kind == 't') {
        memory->steps = strchr(kind, '+') != NULL;
        char conf[512];
        terrace_tier host;
        snprintf(conf, sizeof conf, "limit_host=%sM;nvme_path=\"%s\"", budget, folder);
        if (terrace_open(&memory->m, conf) || terrace_tier_find(memory->m, "host", &host) ||
            !(memory->p = terrace_malloc(memory->m, bytes, host, NULL)))
            fail(terrace_last_error());
        return;
    }
    int fd = -1;
    memory->file = *kind == 'm';
    if (memory->file) {
        fd = open(folder, O_TMPFILE | O_RDWR, 0600);
        if (fd < 0 || posix_fallocate(fd, 0, (off_t)bytes))
            fail("no file of that size in that folder");
    }
    memory->p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                     memory->file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd, 0);
    if (memory->p == MAP_FAILED)
        fail("mmap");
}

int main(int argc, char **argv)
{
    if (argc != 5 || !strchr("tsm", *argv[1])) {
        fprintf(stderr, "usage: stable terrace|terrace+step|swap|mmap SIZE BUDGET FOLDER (sizes in MiB)\n");
        return 2;
    }
    struct memory memory = {.pages = strtoul(argv[2], NULL, 10) * (MIB / PAGE)};
    memory_open(&memory, argv[1], argv[3], argv[4]);
    uint64_t x = 1;
    for (size_t i = 0; i < memory.pages * (PAGE / sizeof x); i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ((uint64_t *)memory.p)[i] = x; /* nothing that compresses */
    }
    if (memory.file)
        msync(memory.p, memory.pages * PAGE, MS_SYNC);
    puts("ready");
    fflush(stdout);
    char line[80];
    while (fgets(line, sizeof line, stdin))
        measure(&memory, line);
    if (memory.m) {
        terrace_free(memory.m, memory.p);
        terrace_close(memory.m);
    }
    return 0;
}
