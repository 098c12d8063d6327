/* gpt_mixed_ascend.c - Adam of examples/gpt_mixed on an Ascend device that is simulated
 * over host memory: its kernel runs in a stream of the simulated runtime (sim/sim.h),
 * on the bytes of its memory. */
#include <stdio.h>
#include <stdlib.h>

#include "../examples/gpt_mixed_engine.h"
#include "sim/sim.h"

int aclrtSetDevice(int32_t device);
int aclrtCreateStream(void **stream);
int aclrtDestroyStream(void *stream);

static void *queue;

/* Terrace has started the runtime, and an address of its is there already. */
static const char *ascend_open(void *array, void **stream)
{
    static char why[80];
    int r = array ? aclrtSetDevice(0) : -1;
    if (r == 0)
        r = aclrtCreateStream(&queue);
    snprintf(why, sizeof why, "ACL error %d", r);
    *stream = queue;
    return r ? why : NULL;
}

static void ascend_close(void)
{
    if (aclrtDestroyStream(queue))
        engine_fail("the stream's end");
}

/* In the stream: the arrays are where the simulation has their bytes. */
static void run_there(void *arg)
{
    work *w = arg;
    for (int i = 0; i < ARRAYS; i++)
        if (w->array[i] && !(w->array[i] = sim_memory((uintptr_t)w->array[i], w->items * sizeof(float))))
            engine_fail("a kernel uses memory that is not there");
    work_do(w, 0, w->items);
    free(w);
}

static void ascend_run(const work *w)
{
    work *copy = malloc(sizeof *copy);
    if (!copy || w->kernel != KERNEL_moments_element)
        engine_fail("no host memory, or more than Adam is asked for");
    *copy = *w;
    int r = sim_launch(queue, run_there, copy, 0);
    if (r)
        engine_fail("a kernel: ACL error %d", r);
}

const engine engine_linked = {.kind = "ascend", .open = ascend_open, .close = ascend_close, .run = ascend_run};
