/* engine_terrace.c - a loop's tensors are terrace's; each visit acquires its
 * own as one list. Nothing is prefetched by hand, unless --ahead says so. */
#include "loop.h"

#include <stdio.h>
#include <stdlib.h>

#include "terrace.h"

typedef struct state {
    terrace *m;
    terrace_tier host;
    terrace_tensor **t;
} state;

static void must(int r)
{
    if (r)
        loop_fail("terrace: %s", terrace_last_error());
}

static void *open_(const loop *l)
{
    const loop_options *o = l->options;
    state *s = loop_need(calloc(1, sizeof *s));
    char conf[4096];
    if (snprintf(conf, sizeof conf, "limit_host=%zu;nvme_path=%s;policy=%s", o->limit, o->folder,
                 o->policy ? o->policy : "auto") >= (int)sizeof conf)
        loop_fail("--folder is too long");
    must(terrace_open(&s->m, conf));
    must(terrace_tier_find(s->m, "host", &s->host));
    s->t = loop_need(calloc(l->tensors, sizeof(terrace_tensor *)));
    uint64_t *offset = loop_offsets(l);
    for (size_t i = 0; i < l->tensors; i++)
        must(l->file ? terrace_tensor_open(s->m, l->file, offset[i], l->bytes[i], NULL, &s->t[i])
                     : terrace_tensor_create(s->m, l->bytes[i], NULL, &s->t[i]));
    free(offset);
    return s;
}

static unsigned mode_of(char mode)
{
    return mode == 'r' ? TERRACE_READ : mode == 'w' ? TERRACE_WRITE : TERRACE_OVERWRITE;
}

/* Hints at the visit `ahead` of this one. */
static void hint(state *s, const loop *l, const work *w, uint64_t step, size_t i)
{
    visit v;
    if (!l->options->ahead || !w->known)
        return;
    i += l->options->ahead;
    w->plan(l, step + i / w->visits, i % w->visits, &v);
    for (unsigned k = 0; k < v.n; k++)
        if (v.mode[k] != 'o')
            must(terrace_prefetch(s->t[v.tensor[k]], s->host));
}

static void run(void *self, loop *l, const work *w, uint64_t step, bool more)
{
    state *s = self;
    (void)more;
    for (size_t i = 0; i < w->visits; i++) {
        visit v;
        terrace_access list[LOOP_MOST];
        void *address[LOOP_MOST];
        w->plan(l, step, i, &v);
        for (unsigned k = 0; k < v.n; k++)
            list[k] = (terrace_access){.size = sizeof *list, .tensor = s->t[v.tensor[k]], .tier = s->host,
                                       .mode = mode_of(v.mode[k])};
        must(terrace_acquire_all(list, v.n, NULL));
        hint(s, l, w, step, i);
        for (unsigned k = 0; k < v.n; k++)
            address[k] = list[k].address;
        w->compute(l, step, i, address);
        for (unsigned k = 0; k < v.n; k++)
            must(terrace_release(list[k].tensor, list[k].address, NULL));
    }
    must(terrace_step(s->m));
}

static traffic moved(void *self)
{
    state *s = self;
    terrace_statistics now = {.size = sizeof now};
    must(terrace_stats(s->m, &now));
    return (traffic){now.fill_bytes, now.writeback_bytes};
}

static void close_(void *self)
{
    state *s = self;
    terrace_close(s->m);
    free(s->t);
    free(s);
}

const engine engine_terrace = {.name = "terrace", .limited = true, .open = open_, .run = run,
                               .moved = moved, .close = close_};
