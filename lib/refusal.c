/* refusal.c - has the kernel refuse a fork.
 *
 * A handler of pthread_atfork() has no say in whether there is a fork. But a child
 * gets each private writable mapping of its parent as one, and the kernel has to
 * promise it as much memory again (vm.overcommit_memory). By default it promises a
 * mapping no more than RAM and swap: what is made writable in two parts, each below
 * that, becomes one mapping above it. With strict accounting, what is more than half
 * of what may yet be promised cannot be promised twice. Nobody touches the mapping,
 * so it takes no memory; other processes can be refused memory meanwhile only by
 * strict accounting.
 *
 * Where everything is promised, a user other than root is limited to no processes;
 * a thread or process that another thread starts meanwhile is refused, too.
 *
 * May call: nothing of the library. */
#include "refusal.h"

#include <stdint.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

enum { PAGE = 4096 };

static uint64_t most_promised(void)
{
    struct sysinfo s;
    return sysinfo(&s) ? 0 : ((uint64_t)s.totalram + s.totalswap) * s.mem_unit;
}

/* Whether so much of it could be made writable that it cannot be had again: as much
 * as was refused in one piece, then or before. */
static bool promised(char *memory, size_t bytes)
{
    size_t at = 0, piece = bytes / 2, refused = SIZE_MAX;
    while (at < refused && piece && piece <= bytes - at) {
        if (mprotect(memory + at, piece, PROT_READ | PROT_WRITE) == 0) {
            at += piece;
            continue;
        }
        refused = piece;
        piece = piece / 2 / PAGE * PAGE;
    }
    return at >= refused;
}

static bool too_much_memory(struct refusal *r)
{
    struct rlimit data; /* what that refuses is allowed to a child */
    r->bytes = most_promised() / PAGE * PAGE * 4;
    if (!r->bytes || getrlimit(RLIMIT_DATA, &data) || data.rlim_cur != RLIM_INFINITY)
        return false;
    r->memory = mmap(NULL, r->bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (r->memory == MAP_FAILED) {
        r->memory = NULL;
        return false;
    }
    munlock(r->memory, r->bytes); /* after mlockall() it would be filled */
    return promised(r->memory, r->bytes);
}

static bool too_many_processes(struct refusal *r)
{
    if (getuid() == 0 || getrlimit(RLIMIT_NPROC, &r->processes))
        return false;
    const struct rlimit none = {.rlim_cur = 0, .rlim_max = r->processes.rlim_max};
    r->limited = setrlimit(RLIMIT_NPROC, &none) == 0;
    return r->limited;
}

bool refusal_begin(struct refusal *r)
{
    *r = (struct refusal){.memory = NULL};
    if (too_much_memory(r))
        return true;
    refusal_end(r);
    return too_many_processes(r);
}

void refusal_end(struct refusal *r)
{
    if (r->memory)
        munmap(r->memory, r->bytes);
    if (r->limited)
        setrlimit(RLIMIT_NPROC, &r->processes);
    *r = (struct refusal){.memory = NULL};
}
