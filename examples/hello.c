/* hello.c - terrace in one page: a tensor goes to disk and comes back. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <terrace.h>

static void check(int rc)
{
    if (rc == 0)
        return;
    fprintf(stderr, "hello: %s\n", terrace_last_error());
    exit(1);
}

int main(void)
{
    enum { COUNT = 4 << 20 }; /* 16 MiB */
    terrace *m;
    terrace_tier host, disk;
    terrace_tensor *t;
    void *p;

    check(terrace_open(&m, "limit_host=64M")); /* over the environment, over defaults */
    check(terrace_tier_find(m, "host", &host));
    check(terrace_tier_find(m, "disk", &disk));

    terrace_tensor_attr attr = {.size = sizeof attr, .label = "hello", .role = TERRACE_ROLE_WEIGHT};
    check(terrace_tensor_create(m, COUNT * sizeof(uint32_t), &attr, &t));

    /* All of it will be written, so there is nothing to read first. */
    check(terrace_acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL));
    for (uint32_t i = 0; i < COUNT; i++)
        ((uint32_t *)p)[i] = i * 2654435761u;
    check(terrace_release(t, p, NULL));

    /* Not needed soon: down to disk, in the background. */
    check(terrace_demote(t, disk));
    check(terrace_wait(t));

    /* Wherever it is now, acquire brings it back; the address may be another. */
    check(terrace_acquire(t, host, TERRACE_READ, NULL, &p, NULL));
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < COUNT; i++)
        wrong += ((uint32_t *)p)[i] != i * 2654435761u;
    check(terrace_release(t, p, NULL));

    terrace_statistics s = {.size = sizeof s};
    check(terrace_stats(m, &s));
    printf("hello: %.0f MiB written to disk, %.0f MiB read back, %u values wrong\n",
           (double)s.writeback_bytes / 1048576, (double)s.fill_bytes / 1048576, wrong);

    terrace_tensor_destroy(t);
    terrace_close(m);
    return wrong != 0;
}
