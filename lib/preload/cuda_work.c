/* cuda_work.c - what streams have to do: whether anything runs on a device just now.
 *
 * Memory moves only while nothing can use it. So every call that puts work into a
 * stream passes a gate, and notes the stream behind it. Who wants to move memory shuts
 * the gate, if nobody is in it, and then asks the driver about each stream that is
 * noted: one that has done all is noted no more. Nobody waits with the gate shut, as
 * work may wait for a call that stands before it.
 *
 * A stream of which the driver cannot be asked (destroyed with work in it, another
 * thread's own default stream, one that a call does not name) is done when its context
 * has been waited for. Each note has a number for that: what has a higher one than
 * there was before the wait began came later.
 *
 * While a stream is being captured nobody is asked: that would spoil the capture.
 *
 * May call: cuda_reach.c, cuda_use.c, small.h. */
#include <pthread.h>
#include <unistd.h>

#include "cuda_hooks.h"
#include "small.h"

/* A stream with work in it, maybe. */
struct busy {
    cuda_context context;
    cuda_stream stream; /* NULL: the default one, CUDA_STREAM_ANY: not to be asked about */
    pid_t thread;       /* whose default stream it is, where that is a thread's own */
    uint64_t number;
};

static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER; /* shared: puts work into a stream */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   /* for the rest; taken after the gate */
static struct busy *streams;
static size_t busy, room;
static uint64_t number;
static bool lost; /* there was no memory to note a stream: nothing moves any more */
static atomic_int captures;

/* ---- noting ------------------------------------------------------------------ */

static pid_t thread_number(void)
{
    static _Thread_local pid_t mine;
    return mine ? mine : (mine = gettid());
}

static struct busy *find_locked(cuda_context context, cuda_stream stream, pid_t thread)
{
    for (size_t i = 0; i < busy; i++)
        if (streams[i].stream == stream && streams[i].context == context && streams[i].thread == thread)
            return &streams[i];
    return NULL;
}

static struct busy *add_locked(void)
{
    if (busy == room) {
        size_t more = room ? 2 * room : 64;
        struct busy *bigger = small_realloc(streams, more * sizeof *streams);
        if (!bigger)
            return NULL;
        streams = bigger;
        room = more;
    }
    return &streams[busy++];
}

static void note_locked(cuda_context context, cuda_stream stream, pid_t thread)
{
    struct busy *b = find_locked(context, stream, thread);
    if (!b && !(b = add_locked())) {
        lost = true;
        return;
    }
    *b = (struct busy){context, stream, thread, ++number};
}

static void drop_locked(struct busy *b)
{
    *b = streams[--busy];
}

bool work_begin(void)
{
    if (memory_count == 0 || inside)
        return false;
    pthread_rwlock_rdlock(&gate);
    return true;
}

/* After the call: who waits for the context in the meantime has a lower number. */
void work_end(bool begun, cuda_stream stream)
{
    cuda_context context = NULL;
    if (!begun)
        return;
    (void)driver.cuCtxGetCurrent(&context);
    stream = stream == CUDA_STREAM_LEGACY ? NULL : stream;
    pthread_mutex_lock(&lock);
    note_locked(context, stream, stream == CUDA_STREAM_PER_THREAD ? thread_number() : 0);
    pthread_mutex_unlock(&lock);
    pthread_rwlock_unlock(&gate);
}

void work_forget(cuda_context context)
{
    pthread_mutex_lock(&lock);
    for (size_t i = busy; i-- > 0;)
        if (streams[i].context == context)
            drop_locked(&streams[i]);
    pthread_mutex_unlock(&lock);
}

uint64_t work_noted(void)
{
    pthread_mutex_lock(&lock);
    uint64_t now = number;
    pthread_mutex_unlock(&lock);
    return now;
}

void work_done(cuda_context context, uint64_t noted)
{
    pthread_mutex_lock(&lock);
    for (size_t i = busy; i-- > 0;)
        if (streams[i].context == context && streams[i].number <= noted)
            drop_locked(&streams[i]);
    pthread_mutex_unlock(&lock);
}

/* ---- captures ------------------------------------------------------------------ */

/* Through the gate, so that nobody asks a stream in the meantime. */
void work_captures(int more)
{
    pthread_rwlock_rdlock(&gate);
    captures += more;
    pthread_rwlock_unlock(&gate);
}

bool work_is_captured(void)
{
    return captures > 0;
}

/* ---- asking --------------------------------------------------------------------- */

/* Whether a stream has done all. One's own context is current, but for this. */
static bool is_done(const struct busy *b, cuda_context current)
{
    cuda_context popped;
    if (b->stream == CUDA_STREAM_ANY || (b->thread && b->thread != thread_number()))
        return false;
    if (b->context == current)
        return driver.cuStreamQuery(b->stream) == CUDA_OK;
    if (!b->context || driver.cuCtxPushCurrent_v2(b->context))
        return false;
    bool done = driver.cuStreamQuery(b->stream) == CUDA_OK;
    (void)driver.cuCtxPopCurrent_v2(&popped);
    return done;
}

void work_destroys(cuda_stream stream)
{
    cuda_context now = NULL;
    (void)driver.cuCtxGetCurrent(&now);
    pthread_mutex_lock(&lock);
    for (size_t i = busy; i-- > 0;)
        if (streams[i].stream == stream && captures == 0 && is_done(&streams[i], now))
            drop_locked(&streams[i]);
        else if (streams[i].stream == stream)
            streams[i].stream = CUDA_STREAM_ANY;
    pthread_mutex_unlock(&lock);
}

/* With the gate shut: nothing is added. */
static bool all_done_locked(void)
{
    cuda_context current = NULL;
    (void)driver.cuCtxGetCurrent(&current);
    for (size_t i = busy; i-- > 0;)
        if (is_done(&streams[i], current))
            drop_locked(&streams[i]);
    return busy == 0 && !lost;
}

bool work_stop(void)
{
    if (!driver.cuStreamQuery || pthread_rwlock_trywrlock(&gate))
        return false;
    bool done = false;
    if (captures == 0) {
        pthread_mutex_lock(&lock);
        done = all_done_locked();
        pthread_mutex_unlock(&lock);
    }
    if (!done)
        pthread_rwlock_unlock(&gate);
    return done;
}

void work_go_on(void)
{
    pthread_rwlock_unlock(&gate);
}

static cuda_context any_context(void)
{
    pthread_mutex_lock(&lock);
    cuda_context context = busy ? streams[0].context : NULL;
    pthread_mutex_unlock(&lock);
    return context;
}

/* Each context once: others may add work all the time. */
bool work_wait(void)
{
    uint64_t noted = work_noted();
    cuda_context context, popped;
    for (int i = 0; i < 64 && (context = any_context()); i++) {
        if (captures || !driver.cuCtxSynchronize || driver.cuCtxPushCurrent_v2(context))
            return false;
        cuda_result r = driver.cuCtxSynchronize();
        (void)driver.cuCtxPopCurrent_v2(&popped);
        if (r)
            return false;
        work_done(context, noted);
        noted = work_noted();
    }
    return !lost;
}

/* ---- the entries ------------------------------------------------------------------ */

static inline cuda_stream cuda_config_stream(const cuda_launch_config *config)
{
    return config ? config->stream : NULL;
}

/* The default stream of programs whose default stream is each thread's own. */
static inline cuda_stream own_stream(cuda_stream stream)
{
    return stream ? stream : CUDA_STREAM_PER_THREAD;
}

#define PUT(symbol, where, parameters, arguments, after) \
    ENTRY cuda_result symbol parameters                  \
    {                                                    \
        CUDA_NEEDS(symbol);                              \
        bool begun = work_begin();                       \
        cuda_result r = driver.symbol arguments;         \
        work_end(begun, where);                          \
        after;                                           \
        return r;                                        \
    }
#define SETTLE       \
    if (begun && !r) \
    (void)memory_settle()
#define USE(use) \
    if (begun)   \
    use_launch use
#define OWN(base, since, symbol, parameters)
#define NEED(symbol, parameters)
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments)
#define PLAIN(base, since, symbol, where, parameters, arguments) PUT(symbol, where, parameters, arguments, )
#define WORK(base, since, symbol, since2, symbol2, where, parameters, arguments) \
    PUT(symbol, where, parameters, arguments, )                                  \
    PUT(symbol2, own_stream(where), parameters, arguments, )
#define LAUNCH(base, since, symbol, since2, symbol2, where, parameters, arguments, use) \
    PUT(symbol, where, parameters, arguments, USE(use))                                 \
    PUT(symbol2, own_stream(where), parameters, arguments, USE(use))
#define DONE(base, since, symbol, since2, symbol2, where, parameters, arguments) \
    PUT(symbol, where, parameters, arguments, SETTLE)                            \
    PUT(symbol2, own_stream(where), parameters, arguments, SETTLE)
#include "cuda_entries.def"
