/* driver.c - what tests ask of the simulated driver (sim/sim.h), of a real one: its
 * memory can be read and written; what cannot be asked of it ends the test, which
 * then counts as skipped. */
#include <criterion/criterion.h>

#include "../../offload/cuda_driver.h"
#include "../sim/sim.h"

static void skip(const char *what)
{
    cr_skip_test("%s is for the simulated driver", what);
}

/* Copies from or to device 0. */
static bool transfer(void *host, uint64_t address, size_t bytes, bool in)
{
    struct cuda_scope scope;
    cuda_context context;
    cuda_stream stream;
    char why[300];
    if (cuda_load(why, sizeof why) == 0 || cuda.context_retain(&context, 0))
        return false;
    bool done = cuda_enter(context, &scope) == CUDA_OK;
    if (done) {
        done = cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING) == CUDA_OK;
        if (done) {
            done = (in ? cuda.copy_in(address, host, bytes, stream) : cuda.copy_out(host, address, bytes, stream)) == CUDA_OK;
            done = cuda.stream_synchronize(stream) == CUDA_OK && done;
            cuda.stream_destroy(stream);
        }
        cuda_leave(&scope);
    }
    cuda.context_release(0);
    return done;
}

bool sim_read(void *to, uint64_t from, size_t bytes) { return transfer(to, from, bytes, false); }
bool sim_write(uint64_t to, const void *from, size_t bytes) { return transfer((void *)(uintptr_t)from, to, bytes, true); }

bool sim_set(const char *name, int64_t value)
{
    (void)value;
    skip(name);
    return false;
}

bool sim_occupy(int device, int64_t bytes)
{
    (void)device, (void)bytes;
    skip("other users' memory");
    return false;
}

void sim_lose(int device, unsigned nth, int code)
{
    (void)device, (void)nth, (void)code;
    skip("a lost device");
}

unsigned sim_calls(const char *call)
{
    skip(call);
    return 0;
}

void sim_count(struct sim_counts *out)
{
    (void)out;
    skip("what the driver counts");
}

/* Nobody keeps these books here; compute-sanitizer does. */
unsigned sim_leaks(FILE *to)
{
    (void)to;
    return 0;
}

unsigned sim_misuses(void) { return 0; }
void sim_forget_misuses(void) {}
const char *sim_misuse(unsigned i)
{
    (void)i;
    return NULL;
}

void sim_fail(const char *call, unsigned nth, unsigned times, int code)
{
    (void)nth, (void)times, (void)code;
    skip(call);
}

void *sim_memory(uint64_t address, size_t bytes)
{
    (void)address, (void)bytes;
    return NULL;
}

int sim_launch(void *stream, void (*kernel)(void *), void *arg, uint64_t ns)
{
    (void)stream, (void)kernel, (void)arg, (void)ns;
    skip("a function as a kernel");
    return 0;
}

void sim_hold(unsigned kinds)
{
    (void)kinds;
    skip("holding kernels");
}

void sim_let_go(void) {}

unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode);
unsigned cuStreamEndCapture(cuda_stream stream, void **graph);
unsigned cuGraphDestroy(void *graph);

unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode)
{
    (void)stream, (void)mode;
    skip("capturing");
    return 0;
}

unsigned cuStreamEndCapture(cuda_stream stream, void **graph)
{
    (void)stream, (void)graph;
    return 0;
}

unsigned cuGraphDestroy(void *graph)
{
    (void)graph;
    return 0;
}
