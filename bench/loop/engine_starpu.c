/* engine_starpu.c - each visit is a task of StarPU, whose memory is limited and
 * whose disk, with O_DIRECT, holds the rest. Advice: a scheduler of StarPU; "+wontuse"
 * says after each visit that its tensors will not be used soon.
 *
 * A module, so that only the program that runs it has StarPU's libraries in
 * memory. One worker computes, on all processors. */
#include "loop.h"

#if __has_include(<starpu.h>)
#include <malloc.h>
#include <starpu.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct state {
    starpu_data_handle_t *handle, order;
    char folder[4096], nothing;
    bool wontuse;
    loop *l;
    const work *work;
} state;

typedef struct call {
    state *s;
    uint64_t step;
    size_t i;
} call;

static void compute(void *buffers[], void *argument)
{
    call c;
    visit v;
    void *address[LOOP_MOST];
    starpu_codelet_unpack_args(argument, &c);
    c.s->work->plan(c.s->l, c.step, c.i, &v);
    for (unsigned k = 0; k < v.n; k++)
        address[k] = (void *)STARPU_VECTOR_GET_PTR(buffers[k]);
    c.s->work->compute(c.s->l, c.step, c.i, address);
}

static struct starpu_perfmodel model = {.type = STARPU_HISTORY_BASED, .symbol = "terrace_bench"};
static struct starpu_codelet codelet = {
    .cpu_funcs = {compute}, .nbuffers = STARPU_VARIABLE_NBUFFERS, .model = &model};

static void must(int r, const char *what)
{
    if (r < 0)
        loop_fail("StarPU: %s: %s", what, strerror(-r));
}

static void *open_(const loop *l)
{
    const loop_options *o = l->options;
    state *s = loop_need(calloc(1, sizeof *s));
    char limit[32];
    snprintf(limit, sizeof limit, "%zu", o->limit / LOOP_MIB);
    setenv("STARPU_LIMIT_CPU_MEM", limit, 1);
    setenv("STARPU_WORKERS_NOBIND", "1", 1);
    setenv("STARPU_SILENT", "1", 0);
    setenv("STARPU_CALIBRATE", "0", 0);
    setenv("STARPU_HOME", o->folder, 0);
    mallopt(M_MMAP_THRESHOLD, 128 << 10); /* else freed buffers stay in the heap, beyond the limit */
    struct starpu_conf conf;
    starpu_conf_init(&conf);
    conf.ncpus = 1;
    s->wontuse = loop_advised(l, "wontuse");
    conf.sched_policy_name = strndup(o->advice, strcspn(o->advice, "+"));
    must(starpu_init(&conf), "starpu_init");
    if (snprintf(s->folder, sizeof s->folder, "%s/terrace-bench-starpu.XXXXXX", o->folder) >= (int)sizeof s->folder ||
        !mkdtemp(s->folder))
        loop_fail("no folder in %s", o->folder);
    must(starpu_disk_register(&starpu_disk_unistd_o_direct_ops, s->folder,
                              (starpu_ssize_t)(2 * loop_bytes(l) + 64ul * LOOP_MIB)), "starpu_disk_register");
    s->handle = loop_need(calloc(l->tensors, sizeof(starpu_data_handle_t)));
    for (size_t i = 0; i < l->tensors; i++)
        starpu_vector_data_register(&s->handle[i], -1, 0, (uint32_t)(l->bytes[i] / 8), 8);
    starpu_variable_data_register(&s->order, STARPU_MAIN_RAM, (uintptr_t)&s->nothing, sizeof s->nothing);
    return s;
}

static void run(void *self, loop *l, const work *w, uint64_t step, bool more)
{
    state *s = self;
    (void)more;
    s->l = l;
    s->work = w;
    for (size_t i = 0; i < w->visits; i++) {
        visit v;
        struct starpu_data_descr data[LOOP_MOST + 1];
        call c = {s, step, i};
        w->plan(l, step, i, &v);
        for (unsigned k = 0; k < v.n; k++)
            data[k] = (struct starpu_data_descr){s->handle[v.tensor[k]], v.mode[k] == 'r' ? STARPU_R
                                                 : v.mode[k] == 'w' ? STARPU_RW : STARPU_W};
        if (w->ordered)
            data[v.n] = (struct starpu_data_descr){s->order, STARPU_RW};
        must(starpu_task_insert(&codelet, STARPU_VALUE, &c, sizeof c, STARPU_DATA_MODE_ARRAY, data,
                                (int)(v.n + w->ordered), 0), "starpu_task_insert");
        for (unsigned k = 0; s->wontuse && k < v.n; k++)
            starpu_data_wont_use(s->handle[v.tensor[k]]);
    }
    must(starpu_task_wait_for_all(), "starpu_task_wait_for_all");
}

static void close_(void *self)
{
    state *s = self;
    for (size_t i = 0; i < s->l->tensors; i++)
        starpu_data_unregister_no_coherency(s->handle[i]);
    starpu_data_unregister(s->order);
    starpu_shutdown();
    rmdir(s->folder);
    free(s->handle);
    free(s);
}

__attribute__((visibility("default"))) const engine engine_starpu = {
    .name = "starpu", .advice = "eager", .limited = true, .fills = true, .open = open_, .run = run, .close = close_};
#endif
