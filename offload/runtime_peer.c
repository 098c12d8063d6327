/* runtime_peer.c - copies from one device of a vendor's runtime to another.
 *
 * That the runtime says two devices reach each other is not believed: it is tried out with
 * memory as the tiers have it, and the bytes are compared, as bridges and their settings
 * between the two may be in the way, without any error.
 *
 * May call: runtime.h, libc. */
#include <string.h>

#include "runtime.h"

enum { BYTES = 64 << 10 };

/* Different bytes by place. */
static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 11 + (i >> 8) * 5 + 3);
}

/* What is done with a stream of a device, inside a visit. */
struct trial {
    struct runtime_unit *u, *from;
    uint64_t to, source;  /* memory of the two */
    unsigned char *host;  /* the bytes */
};

static int fill_source(const struct trial *t, void *stream)
{
    return t->from->rt->call->copy(t->from->rt, (void *)(uintptr_t)t->source, t->host, BYTES, RUNTIME_IN, stream);
}

static int fetch(const struct trial *t, void *stream)
{
    const struct runtime_calls *call = t->u->rt->call;
    void *to = (void *)(uintptr_t)t->to;
    int code = call->peer_open(t->u->rt, t->u->index, t->from->index);
    if (code == 0)
        code = call->peer_copy(t->u->rt, to, t->u->index, (const void *)(uintptr_t)t->source, t->from->index, BYTES, stream);
    return code ? code : call->copy(t->u->rt, t->host, to, BYTES, RUNTIME_OUT, stream);
}

static int with_stream(const struct trial *t, const struct runtime_unit *u, int (*work)(const struct trial *, void *))
{
    const struct runtime_calls *call = u->rt->call;
    struct runtime_scope scope;
    void *stream;
    int code = runtime_enter(u, &scope);
    if (code)
        return code;
    code = call->stream_create(u->rt, &stream);
    if (code == 0) {
        code = work(t, stream);
        int end = call->stream_synchronize(u->rt, stream);
        (void)RUNTIME_UNDO(call->stream_destroy(u->rt, stream));
        code = code ? code : end;
    }
    runtime_leave(u, &scope);
    return code;
}

/* Takes some memory of a device as the core does. Errors: as the functions'. */
static int memory_take(struct runtime_unit *u, uint64_t *base)
{
    int r = runtime_reserve(u, RUNTIME_GRANULE, 0, base);
    if (r)
        return r;
    r = runtime_commit(u, *base, BYTES);
    if (r)
        runtime_release(u, *base, RUNTIME_GRANULE);
    return r;
}

static void memory_give(struct runtime_unit *u, uint64_t base)
{
    runtime_decommit(u, base, BYTES);
    runtime_release(u, base, RUNTIME_GRANULE);
}

/* With memory of both. 0, or a TERRACE_E... code with its sentence. */
static int try_out(const struct trial *t)
{
    const terrace_host *host = t->u->host;
    size_t i;
    for (i = 0; i < BYTES; i++)
        t->host[i] = byte_at(i);
    int code = with_stream(t, t->from, fill_source);
    memset(t->host, 0, BYTES);
    if (code == 0)
        code = with_stream(t, t->u, fetch);
    if (code)
        return runtime_fail(t->u, code, "copying from %s", t->from->name);
    for (i = 0; i < BYTES && t->host[i] == byte_at(i); i++)
        ;
    if (i == BYTES)
        return 0;
    return host->fail(host->context, -TERRACE_ENOTSUP, "%s got %#x from %s, which has %#x there (byte %zu): what is "
                      "between them does not let bytes through", t->u->name, t->host[i], t->from->name, byte_at(i), i);
}

int runtime_peer(void *unit, void *other)
{
    unsigned char bytes[BYTES];
    struct trial t = {.u = unit, .from = other, .host = bytes};
    const terrace_host *host = t.u->host;
    if (!t.u->rt->peers || t.u->index == t.from->index)
        return host->fail(host->context, -TERRACE_ENOTSUP, "the %s runtime has no copies between devices", t.u->rt->api);
    int r = memory_take(t.from, &t.source);
    if (r)
        return r;
    r = memory_take(t.u, &t.to);
    if (r == 0) {
        r = try_out(&t);
        memory_give(t.u, t.to);
    }
    memory_give(t.from, t.source);
    return r;
}

int runtime_peer_copy(struct runtime_unit *u, const terrace_io *io, void *stream)
{
    const struct runtime_unit *from = io->peer;
    return u->rt->call->peer_copy(u->rt, (void *)(uintptr_t)io->address, u->index,
                                  (const void *)(uintptr_t)io->peer_address, from->index, io->bytes, stream);
}
