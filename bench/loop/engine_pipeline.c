/* engine_pipeline.c - what a careful engineer writes for one loop whose order
 * is known: buffers go round, the visits `ahead` are read into some while one
 * is computed on, and written from behind; O_DIRECT through io_uring, huge
 * pages, registered buffers. What was only read is not written. Nothing is kept
 * from one step to the next: the buffers are all the memory there is. */
#include "loop.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CHUNK = 1 << 20, DEPTH = 64, HUGE = 2 << 20 };

/* A buffer holds the tensors of one visit. */
typedef struct slot {
    char *memory;
    size_t io; /* transfers under way or waiting for room in the ring */
} slot;

typedef struct transfer {
    slot *slot;
    uint64_t offset;
    size_t bytes;
    char *at;
    bool write;
} transfer;

typedef struct state {
    struct io_uring ring;
    int fd;
    uint64_t *offset; /* of each tensor in the file */
    slot *slots;
    size_t n, bytes; /* slots; bytes of each */
    transfer *queue; /* not yet submitted, a ring: writes and reads in the order made */
    size_t head, tail, room, flying;
    uint64_t next;   /* the next visit to be read, counted through all steps */
    const work *work;
    traffic moved;
} state;

/* ---- transfers ------------------------------------------------------------ */

static void enqueue(state *s, slot *to, uint64_t offset, char *at, size_t bytes, bool write)
{
    for (size_t done = 0; done < bytes; done += CHUNK) {
        size_t n = bytes - done < CHUNK ? bytes - done : CHUNK;
        if (s->tail - s->head == s->room)
            loop_fail("pipeline: more transfers than buffers can have");
        s->queue[s->tail++ % s->room] = (transfer){to, offset + done, n, at + done, write};
        to->io++;
    }
    *(write ? &s->moved.written : &s->moved.read) += bytes;
}

static void submit(state *s)
{
    bool any = false;
    for (; s->head != s->tail && s->flying < DEPTH; s->head++, s->flying++) {
        transfer *t = &s->queue[s->head % s->room];
        struct io_uring_sqe *e = io_uring_get_sqe(&s->ring);
        int buffer = (int)(t->slot - s->slots);
        if (t->write)
            io_uring_prep_write_fixed(e, s->fd, t->at, (unsigned)t->bytes, t->offset, buffer);
        else
            io_uring_prep_read_fixed(e, s->fd, t->at, (unsigned)t->bytes, t->offset, buffer);
        /* A completion has to tell slot and length: both fit. */
        io_uring_sqe_set_data64(e, (uint64_t)buffer << 32 | t->bytes);
        any = true;
    }
    if (any && io_uring_submit(&s->ring) < 0)
        loop_fail("pipeline: io_uring_submit failed");
}

/* Takes completions; waits for one of them where there is none. */
static void reap(state *s)
{
    struct io_uring_cqe *e;
    int error = io_uring_wait_cqe(&s->ring, &e);
    for (; error == 0; error = io_uring_peek_cqe(&s->ring, &e)) {
        if (e->res != (int)(uint32_t)e->user_data)
            loop_fail("pipeline: a transfer failed: %s", e->res < 0 ? strerror(-e->res) : "it was short");
        s->slots[e->user_data >> 32].io--;
        s->flying--;
        io_uring_cqe_seen(&s->ring, e);
    }
    if (error != -EAGAIN && error != -EINTR)
        loop_fail("pipeline: %s", strerror(-error));
}

static void wait_for(state *s, const slot *one)
{
    submit(s);
    while (one->io) {
        reap(s);
        submit(s);
    }
}

static void drain(state *s)
{
    for (size_t i = 0; i < s->n; i++)
        wait_for(s, &s->slots[i]);
}

/* ---- the pipeline --------------------------------------------------------- */

static size_t visit_bytes(const loop *l, const visit *v)
{
    size_t sum = 0;
    for (unsigned k = 0; k < v->n; k++)
        sum += l->bytes[v->tensor[k]];
    return sum;
}

static void transfer_visit(state *s, const loop *l, const visit *v, slot *to, bool write)
{
    char *at = to->memory;
    for (unsigned k = 0; k < v->n; at += l->bytes[v->tensor[k++]])
        if (write ? v->mode[k] != 'r' : v->mode[k] != 'o')
            enqueue(s, to, s->offset[v->tensor[k]], at, l->bytes[v->tensor[k]], write);
}

/* Reads ahead into the buffers that are free, up to a visit. */
static void read_ahead(state *s, const loop *l, uint64_t now, uint64_t end)
{
    const work *w = s->work;
    for (; s->next < end && s->next < now + s->n; s->next++) {
        slot *to = &s->slots[s->next % s->n];
        visit v;
        if (to->io)
            break;
        w->plan(l, s->next / w->visits, s->next % w->visits, &v);
        transfer_visit(s, l, &v, to, false);
    }
    submit(s);
}

static void run(void *self, loop *l, const work *w, uint64_t step, bool more)
{
    state *s = self;
    uint64_t begin = step * w->visits, end = begin + w->visits;
    if (s->work != w || s->next < begin) {
        drain(s);
        s->work = w;
        s->next = begin;
    }
    /* Ahead into the next step, but never to what has yet to be written. */
    uint64_t most = more && s->n < w->visits ? end + s->n : end;
    for (uint64_t g = begin; g < end; g++) {
        slot *here = &s->slots[g % s->n];
        visit v;
        void *address[LOOP_MOST];
        read_ahead(s, l, g, most);
        while (s->next <= g || here->io) { /* the buffer is still being written, or read */
            reap(s);
            read_ahead(s, l, g, most);
        }
        w->plan(l, step, g - begin, &v);
        char *at = here->memory;
        for (unsigned k = 0; k < v.n; at += l->bytes[v.tensor[k++]])
            address[k] = at;
        w->compute(l, step, g - begin, address);
        transfer_visit(s, l, &v, here, true);
        submit(s);
    }
    if (!more)
        drain(s);
}

static void *open_(const loop *l)
{
    const loop_options *o = l->options;
    state *s = loop_need(calloc(1, sizeof *s));
    for (size_t i = 0; i < l->tensors; i++)
        s->bytes = l->bytes[i] > s->bytes ? l->bytes[i] : s->bytes;
    for (size_t i = 0; i < l->step.visits; i++) {
        visit v;
        l->step.plan(l, 0, i, &v);
        s->bytes = visit_bytes(l, &v) > s->bytes ? visit_bytes(l, &v) : s->bytes;
    }
    s->bytes = (s->bytes + HUGE - 1) & ~(size_t)(HUGE - 1);
    s->n = o->ahead ? o->ahead + 1 : 3;
    if (s->n * s->bytes > o->limit)
        s->n = o->limit / s->bytes;
    if (s->n < 2)
        loop_fail("pipeline: --limit must hold two visits, of %zu MiB", s->bytes / LOOP_MIB);
    char *memory = loop_map(s->n * s->bytes + HUGE);
    memory += -(uintptr_t)memory & (HUGE - 1);
    madvise(memory, s->n * s->bytes, MADV_HUGEPAGE);
    s->slots = loop_need(calloc(s->n, sizeof *s->slots));
    struct iovec *buffers = loop_need(calloc(s->n, sizeof *buffers));
    for (size_t i = 0; i < s->n; i++) {
        s->slots[i].memory = memory + i * s->bytes;
        buffers[i] = (struct iovec){s->slots[i].memory, s->bytes};
    }
    s->room = s->n * (s->bytes / CHUNK + LOOP_MOST);
    s->queue = loop_need(calloc(s->room, sizeof *s->queue));
    s->offset = loop_offsets(l);
    s->fd = l->file ? open(l->file, O_RDONLY | O_DIRECT) : loop_spill(l, loop_bytes(l), O_DIRECT);
    if (s->fd < 0)
        loop_fail("%s: %s", l->file, strerror(errno));
    int error = io_uring_queue_init(DEPTH, &s->ring, 0);
    if (error == 0)
        error = io_uring_register_buffers(&s->ring, buffers, (unsigned)s->n);
    if (error)
        loop_fail("pipeline: io_uring: %s", strerror(-error));
    free(buffers);
    return s;
}

static traffic moved(void *self)
{
    return ((state *)self)->moved;
}

static void close_(void *self)
{
    state *s = self;
    io_uring_queue_exit(&s->ring);
    close(s->fd);
    free(s->offset);
    free(s->queue);
    free(s->slots);
    free(s);
}

const engine engine_pipeline = {.name = "pipeline", .limited = true, .known = true, .open = open_,
                                .run = run, .moved = moved, .close = close_};
