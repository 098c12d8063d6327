/* cuda_peer.c - copies from one NVIDIA device to another.
 *
 * The device that bytes go to is let into the other's memory: allocated memory by its
 * context's peer access, mapped memory granule by granule. Then the driver's copy goes
 * over NVLink or PCIe without the host. That it does so rightly is tried out first, as
 * bridges and IOMMUs between devices may be in the way, without any error. */
#include <string.h>

#include "cuda_unit.h"

enum { BYTES = 64 << 10 };

/* Different bytes by place. */
static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i * 11 + (i >> 8) * 5 + 3);
}

cuda_result cuda_peer_copy(const struct cuda_unit *u, const terrace_io *io, uint64_t bytes, cuda_stream stream)
{
    const struct cuda_unit *from = io->peer;
    return cuda.copy_peer(io->address, u->context, io->peer_address, from->context, bytes, stream);
}

/* Some of a device's memory, as the core takes it. */
static int memory_take(struct cuda_unit *u, uint64_t *base)
{
    int r = cuda_reserve(u, u->granule, 0, base);
    if (r)
        return r;
    r = cuda_commit(u, *base, BYTES);
    if (r)
        cuda_release(u, *base, u->granule);
    return r;
}

static void memory_give(struct cuda_unit *u, uint64_t base)
{
    cuda_decommit(u, base, BYTES);
    cuda_release(u, base, u->granule);
}

/* Copies into a device's memory: from the host or, with io->peer, another device. */
static cuda_result bring(const struct cuda_unit *u, const terrace_io *io, void *back)
{
    struct cuda_scope scope;
    cuda_stream stream;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r)
        return r;
    r = cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING);
    if (r == CUDA_OK) {
        r = io->peer ? cuda_peer_copy(u, io, BYTES, stream) : cuda.copy_in(io->address, io->host, BYTES, stream);
        if (r == CUDA_OK && back)
            r = cuda.copy_out(back, io->address, BYTES, stream);
        cuda_result end = cuda.stream_synchronize(stream);
        (void)CUDA_UNDO(cuda.stream_destroy(stream));
        r = r ? r : end;
    }
    cuda_leave(&scope);
    return r;
}

static int try_out(const struct cuda_unit *u, struct cuda_unit *from, uint64_t to, uint64_t source)
{
    const terrace_host *host = u->host;
    unsigned char bytes[BYTES];
    size_t i;
    for (i = 0; i < BYTES; i++)
        bytes[i] = byte_at(i);
    cuda_result r = bring(from, &(terrace_io){.address = source, .host = bytes}, NULL);
    memset(bytes, 0, sizeof bytes);
    if (r == CUDA_OK)
        r = bring(u, &(terrace_io){.address = to, .peer = from, .peer_address = source}, bytes);
    if (r)
        return cuda_fail(u, r, "copying from %s", from->name);
    for (i = 0; i < BYTES && bytes[i] == byte_at(i); i++)
        ;
    if (i == BYTES)
        return 0;
    return host->fail(host->context, -TERRACE_ENOTSUP, "%s got %#x from %s, which has %#x there (byte %zu): what is "
                      "between them does not let bytes through", u->name, bytes[i], from->name, byte_at(i), i);
}

/* Lets a device into another's memory. */
static cuda_result let_in(const struct cuda_unit *u, struct cuda_unit *from)
{
    struct cuda_scope scope;
    int can = 0;
    cuda_result r = cuda.peer_can && cuda.peer_enable && cuda.copy_peer ? cuda_enter(u->context, &scope) : CUDA_NOT_SUPPORTED;
    if (r)
        return r;
    r = cuda.peer_can(&can, u->device, from->device);
    if (r == CUDA_OK)
        r = can ? cuda.peer_enable(from->context, 0) : CUDA_NOT_SUPPORTED;
    if (r == CUDA_ALREADY_PEERS)
        r = CUDA_OK;
    if (r == CUDA_OK)
        r = cuda_memory_let_in(from, u->device);
    cuda_leave(&scope);
    return r;
}

int cuda_peer(void *unit, void *other)
{
    struct cuda_unit *u = unit, *from = other;
    uint64_t source, to;
    cuda_result letting = let_in(u, from);
    if (letting)
        return cuda_fail(u, letting, "reaching the memory of %s", from->name);
    int r = memory_take(from, &source);
    if (r)
        return r;
    r = memory_take(u, &to);
    if (r == 0) {
        r = try_out(u, from, to, source);
        memory_give(u, to);
    }
    memory_give(from, source);
    return r;
}
