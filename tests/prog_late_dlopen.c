/* prog_late_dlopen.c - the library as a plugin of a program long running.
 *
 * First uses up the room that dlopen has for static thread-local storage, with
 * the libraries given as arguments, and runs thousands of threads. Then, again
 * and again, loads the library in a thread that outlives it, uses it from there
 * and from others, and unloads it. The program's own malloc must stay libc's.
 * usage: prog_late_dlopen LIBTERRACE [LIBRARY-WITH-STATIC-TLS...] */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "terrace.h"

enum { THREADS = 2000, AT_ONCE = 50, ROUNDS = 60, WARM = 10, USERS = 4, TENSORS = 20 };

static _Thread_local char local[4096];

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("prog_late_dlopen: ", stdout);
    vprintf(format, args);
    putchar('\n');
    exit(1);
}

/* ---- the program's malloc ------------------------------------------------ */

static void malloc_is_libc_s(void)
{
    static const char *const names[] = {"malloc", "free", "calloc", "realloc", "posix_memalign"};
    static const char *const absent[] = {"mallctl", "mallocx", "je_mallctl", "terrace_je_mallctl",
                                         "terrace_je_malloc"};
    Dl_info info;
    for (unsigned i = 0; i < sizeof names / sizeof *names; i++) {
        void *at = dlsym(RTLD_DEFAULT, names[i]);
        if (!at || !dladdr(at, &info) || !strstr(info.dli_fname, "libc.so"))
            die("%s is that of %s", names[i], at ? info.dli_fname : "nobody");
    }
    for (unsigned i = 0; i < sizeof absent / sizeof *absent; i++)
        if (dlsym(RTLD_DEFAULT, absent[i]))
            die("%s is visible", absent[i]);
}

/* ---- a life before ------------------------------------------------------- */

static void *short_lived(void *context)
{
    void *p = malloc(1000);
    local[0] = p ? 1 : 0;
    free(p);
    return context;
}

static void run_threads(void)
{
    pthread_t threads[AT_ONCE];
    for (int wave = 0; wave < THREADS / AT_ONCE; wave++) {
        for (int i = 0; i < AT_ONCE; i++)
            if (pthread_create(&threads[i], NULL, short_lived, NULL))
                die("no thread");
        for (int i = 0; i < AT_ONCE; i++)
            pthread_join(threads[i], NULL);
    }
}

static void use_up_static_tls(char **libraries)
{
    int n = 0;
    while (libraries[n] && dlopen(libraries[n], RTLD_NOW | RTLD_LOCAL))
        n++;
    if (!libraries[n] || !strstr(dlerror(), "static TLS"))
        die("static TLS was not used up by %d libraries", n);
}

/* ---- the library --------------------------------------------------------- */

struct api {
    int (*open)(terrace **, const char *);
    void (*close)(terrace *);
    int (*find)(terrace *, const char *, terrace_tier *);
    int (*create)(terrace *, size_t, const terrace_tensor_attr *, terrace_tensor **);
    int (*acquire)(terrace_tensor *, terrace_tier, unsigned, void *, void **, terrace_tier *);
    int (*release)(terrace_tensor *, void *, void *);
    const char *(*last_error)(void);
};

struct user {
    const struct api *api;
    terrace *manager;
    sem_t *go; /* NULL: ends at once; else waits, having used the library */
    sem_t *done;
};

static void *symbol(void *library, const char *name)
{
    void *at = dlsym(library, name);
    if (!at)
        die("%s", dlerror());
    return at;
}

static struct api api_of(void *library)
{
    return (struct api){
        .open = symbol(library, "terrace_open"),
        .close = symbol(library, "terrace_close"),
        .find = symbol(library, "terrace_tier_find"),
        .create = symbol(library, "terrace_tensor_create"),
        .acquire = symbol(library, "terrace_acquire"),
        .release = symbol(library, "terrace_release"),
        .last_error = symbol(library, "terrace_last_error"),
    };
}

static void use_tensors(const struct api *api, terrace *manager)
{
    terrace_tensor *t;
    terrace_tier host;
    void *p;
    for (size_t bytes = 100; bytes < (size_t)100 << TENSORS / 2; bytes *= 2) {
        if (api->find(manager, "host", &host) || api->create(manager, bytes, NULL, &t) ||
            api->acquire(t, host, TERRACE_OVERWRITE, NULL, &p, NULL))
            die("%s", api->last_error());
        memset(p, 1, bytes);
        if (api->release(t, p, NULL))
            die("%s", api->last_error());
    }
}

static void *use(void *context)
{
    struct user *u = context;
    use_tensors(u->api, u->manager);
    sem_post(u->done);
    sem_wait(u->go);
    return NULL;
}

/* Loads, uses and unloads the library in a thread that ends afterwards, while
 * others that used it end after it was unloaded. */
static void *one_round(void *path)
{
    pthread_t threads[USERS];
    terrace *manager;
    sem_t go, done;
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        die("%s", dlerror());
    struct api api = api_of(library);
    if (api.open(&manager, "tiers=\"numa:0\"; limit_host=64M"))
        die("%s", api.last_error());
    sem_init(&go, 0, 0);
    sem_init(&done, 0, 0);
    struct user user = {&api, manager, &go, &done};
    for (int i = 0; i < USERS; i++)
        if (pthread_create(&threads[i], NULL, use, &user))
            die("no thread");
    for (int i = 0; i < USERS; i++)
        sem_wait(&done);
    use_tensors(&api, manager);
    malloc_is_libc_s();
    api.close(manager);
    dlclose(library);
    for (int i = 0; i < USERS; i++)
        sem_post(&go);
    for (int i = 0; i < USERS; i++)
        pthread_join(threads[i], NULL);
    return NULL;
}

static long resident_kib(void)
{
    char line[128];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmRSS: %ld", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        die("usage: prog_late_dlopen LIBTERRACE [LIBRARY-WITH-STATIC-TLS...]");
    if (argc > 2)
        use_up_static_tls(argv + 2);
    run_threads();
    malloc_is_libc_s();
    long before = 0;
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t thread;
        if (round == WARM)
            before = resident_kib();
        if (pthread_create(&thread, NULL, one_round, argv[1]) || pthread_join(thread, NULL))
            die("no thread");
    }
    malloc_is_libc_s();
    long more = resident_kib() - before;
    printf("%d rounds; %ld KiB more resident than after the first %d\n", ROUNDS, more, WARM);
    return more > 4096;
}
