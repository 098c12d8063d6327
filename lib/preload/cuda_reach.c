/* cuda_reach.c - how a program gets to the CUDA driver, and finds this library in its place.
 *
 * A program that is linked with libcuda.so.1 finds the entries that this library
 * exports under their names. One that loads it, as the CUDA runtime does, linked
 * statically or not, asks dlsym() for names, mostly for cuGetProcAddress alone, and
 * that one for the rest. So dlsym() stands here, too: it is the system's own for all
 * names but those of the driver's entries, and for who looks behind himself
 * (RTLD_NEXT), and for terrace. The system's function goes by its caller's address:
 * it is jumped to, so that the caller stays the program.
 *
 * The driver is the library that the system has loaded as libcuda.so.1. What another
 * one exports under the same names is left alone, and so is a form of an entry that
 * is not known here.
 *
 * May call: guard.c, nccl.c. */
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>

#include "cuda_hooks.h"

#define LIBRARY "libcuda.so.1"
#define CALLER __builtin_return_address(0)

struct cuda_driver driver;
static atomic_bool bound;

/* ---- the entries ----------------------------------------------------------- */

/* An entry in one of its forms. */
static const struct form {
    const char *base, *symbol;
    int since;
    bool per_thread;
    size_t at;       /* of the driver's own in `driver` */
    void (*here)(void);
} forms[] = {
#define FORM(base, since, symbol, per_thread) \
    {#base, #symbol, since, per_thread, offsetof(struct cuda_driver, symbol), (void (*)(void))symbol},
#define OWN(base, since, symbol, parameters) FORM(base, since, symbol, false)
#define NEED(symbol, parameters)
#define PLAIN(base, since, symbol, where, parameters, arguments) FORM(base, since, symbol, false)
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments) \
    FORM(base, since, symbol, false) FORM(base, since2, symbol2, true)
#include "cuda_entries.def"
};
enum { FORMS = sizeof forms / sizeof *forms };

static void **own_of(const struct form *f)
{
    return (void **)((char *)&driver + f->at);
}

static void *here_of(const struct form *f)
{
    return (void *)(uintptr_t)f->here;
}

static const struct form *form_named(const char *symbol)
{
    for (int i = 0; i < FORMS; i++)
        if (strcmp(forms[i].symbol, symbol) == 0)
            return &forms[i];
    return NULL;
}

/* cuMemAlloc_v2 and the like; cudaMalloc and curl_easy_init are not. */
static inline bool may_be_entry(const char *name)
{
    return name && name[0] == 'c' && name[1] == 'u' && name[2] >= 'A' && name[2] <= 'Z';
}

static inline bool is_nccl(const char *name)
{
    return name && name[0] == 'n' && strcmp(name, "ncclCommRegister") == 0;
}

/* ---- the system's dlsym ------------------------------------------------------ */

typedef void *dlsym_fn(void *, const char *);

/* Its version is that of the architecture's first C library, or of the one that took
 * it over from libdl. */
static dlsym_fn *system_dlsym(void)
{
    static _Atomic(dlsym_fn *) found;
    static const char *const version[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17", "GLIBC_2.27", "GLIBC_2.36"};
    dlsym_fn *fn = found;
    for (size_t i = 0; !fn && i < sizeof version / sizeof *version; i++)
        fn = (dlsym_fn *)(uintptr_t)dlvsym(RTLD_NEXT, "dlsym", version[i]);
    found = fn;
    return fn;
}

void *reach_dlsym(void *handle, const char *name)
{
    return system_dlsym()(handle, name);
}

/* ---- the driver ------------------------------------------------------------------ */

static void *loaded(void)
{
    return dlopen(LIBRARY, RTLD_LAZY | RTLD_NOLOAD);
}

static void bind_locked(void)
{
    void *library = loaded();
    if (!library)
        return;
    struct cuda_driver found = {0};
#define NEED(symbol, parameters) *(void **)&found.symbol = reach_dlsym(library, #symbol);
#define OWN(base, since, symbol, parameters) NEED(symbol, parameters)
#define PLAIN(base, since, symbol, where, parameters, arguments) NEED(symbol, parameters)
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments) \
    NEED(symbol, parameters) NEED(symbol2, parameters)
#include "cuda_entries.def"
    if (!found.cuCtxGetCurrent || !found.cuMemAlloc_v2) { /* some other library of that name */
        dlclose(library);
        return;
    }
    driver = found;
    guard_add((void *)(uintptr_t)driver.cuCtxGetCurrent);
    atomic_store_explicit(&bound, true, memory_order_release);
}

bool reach_driver(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    if (LIKELY(atomic_load_explicit(&bound, memory_order_acquire)))
        return true;
    pthread_mutex_lock(&lock);
    if (!bound)
        bind_locked();
    pthread_mutex_unlock(&lock);
    return bound;
}

/* ---- dlsym ------------------------------------------------------------------------- */

/* What stands here for a name, and the function it stands for; NULL: none, not there. */
static void *here_for(const char *name, void **own)
{
    if (is_nccl(name)) {
        *own = nccl_own();
        return (void *)(uintptr_t)ncclCommRegister;
    }
    const struct form *f = form_named(name);
    *own = f && reach_driver() ? *own_of(f) : NULL;
    return f ? here_of(f) : NULL;
}

/* Such a name, asked of a library or of all that there are. */
static __attribute__((noinline)) void *entry_at(void *handle, const char *name)
{
    void *found = reach_dlsym(handle, name), *own, *here = here_for(name, &own);
    if (!found || !here)
        return found;
    if (found == here) /* this library comes first: is there one behind it? */
        return own ? here : reach_dlsym(RTLD_NEXT, name);
    return found == own ? here : found;
}

HOOK void *dlsym(void *handle, const char *name)
{
    if (LIKELY(!may_be_entry(name) && !is_nccl(name)) || handle == RTLD_NEXT || inside || guard_is_library(CALLER))
        return system_dlsym()(handle, name); /* a jump */
    return entry_at(handle, name);
}

/* ---- cuGetProcAddress ----------------------------------------------------------------- */

/* The form that a version asks for: the newest up to it that the driver has. */
static const struct form *form_for(const char *base, int version, bool per_thread)
{
    const struct form *best = NULL;
    for (int i = 0; i < FORMS; i++) {
        const struct form *f = &forms[i];
        if (strcmp(f->base, base) == 0 && f->per_thread == per_thread && f->since <= version && *own_of(f) &&
            (!best || f->since > best->since))
            best = f;
    }
    return best;
}

/* Whether the driver gives the same function for the version that brought this form:
 * else it has a later one, with other parameters, maybe. */
static bool same_form(const struct form *f, const void *found, uint64_t flags)
{
    void *again = NULL;
    if (found == *own_of(f))
        return true;
    if (driver.cuGetProcAddress_v2)
        return driver.cuGetProcAddress_v2(f->base, &again, f->since, flags, NULL) == CUDA_OK && again == found;
    return driver.cuGetProcAddress(f->base, &again, f->since, flags) == CUDA_OK && again == found;
}

/* What a program gets for a function that the driver has found. */
static void *in_place_of(void *found, const char *base, int version, uint64_t flags)
{
    const struct form *f = NULL;
    if (!may_be_entry(base))
        return found;
    if (flags & CUDA_LOOKUP_PER_THREAD)
        f = form_for(base, version, true);
    if (!f || !same_form(f, found, flags))
        f = form_for(base, version, false);
    if (f && same_form(f, found, flags)) {
        detail("%s stands here for the driver's", f->symbol);
        return here_of(f);
    }
    if (f)
        note("%s of CUDA %d.%d is the driver's own: this form of it is not known", base, version / 1000,
             version % 1000 / 10);
    return found;
}

ENTRY cuda_result cuGetProcAddress_v2(const char *name, void **out, int version, uint64_t flags, cuda_status *status)
{
    CUDA_NEEDS(cuGetProcAddress_v2);
    cuda_result r = driver.cuGetProcAddress_v2(name, out, version, flags, status);
    if (r == CUDA_OK && *out && !inside && !guard_is_library(CALLER))
        *out = in_place_of(*out, name, version, flags);
    return r;
}

ENTRY cuda_result cuGetProcAddress(const char *name, void **out, int version, uint64_t flags)
{
    CUDA_NEEDS(cuGetProcAddress);
    cuda_result r = driver.cuGetProcAddress(name, out, version, flags);
    if (r == CUDA_OK && *out && !inside && !guard_is_library(CALLER))
        *out = in_place_of(*out, name, version, flags);
    return r;
}
