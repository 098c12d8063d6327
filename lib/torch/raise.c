/* raise.c - torch's own exception, from C.
 *
 * Torch does not look at what an allocator of a user's returns: with NULL, the first
 * kernel that touches it fails, and no program can tell why. So the exception that its
 * own allocator throws is thrown from here: c10::OutOfMemoryError, which Python sees as
 * torch.OutOfMemoryError. It is made as a C++ compiler would (Itanium C++ ABI), from
 * what libc10 and libstdc++ export: the type's description, the constructor of its base
 * class, which it adds nothing to, and std::string, of either of libstdc++'s two kinds:
 * whichever that libc10 was built with. Where the type is not there (before torch 1.13),
 * TORCH_CHECK's own function makes it a RuntimeError. Where neither is, this returns.
 *
 * Compiled so that exceptions pass through it.
 *
 * May call: libc, and by name libc10 and libstdc++. */
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <string.h>

#include "torch.h"

#define STRING_NEW "NSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEE"

/* c10::SourceLocation. */
struct place {
    const char *function, *file;
    uint32_t line;
};

/* The two kinds of std::string, and c10::Error's constructor that takes one. */
static const struct kind {
    const char *error, *string, *end;
} kinds[] = {
    {"_ZN3c105ErrorC1ENS_14SourceLocationE" STRING_NEW,
     "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEC1EPKcRKS3_",
     "_ZNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEED1Ev"},
    {"_ZN3c105ErrorC1ENS_14SourceLocationESs", "_ZNSsC1EPKcRKSaIcE", "_ZNSsD1Ev"},
};

/* An object of a class whose size only its library knows, and is far below this. */
enum { ERROR_BYTES = 2048, STRING_BYTES = 128 };

typedef void any_fn(void);
typedef void *allocate_fn(size_t);
typedef void throw_fn(void *, void *, void (*)(void *));
typedef void error_fn(void *, struct place, void *);
typedef void string_fn(void *, const char *, const void *);
typedef void end_fn(void *);
typedef void check_fn(const char *, const char *, uint32_t, const char *);

static const char FUNCTION[] = "terrace_torch_alloc", FILE_NAME[] = "terrace";

/* ---- finding them ---------------------------------------------------------- */

struct search {
    const char *symbol;
    void *found;
};

/* Torch loads its libraries for itself alone: dlsym(RTLD_DEFAULT) would not find them. */
static int look(struct dl_phdr_info *info, size_t size, void *arg)
{
    struct search *s = arg;
    const char *slash = strrchr(info->dlpi_name, '/'), *name = slash ? slash + 1 : info->dlpi_name;
    (void)size;
    if (strncmp(name, "libc10", 6) != 0 && strncmp(name, "libtorch", 8) != 0)
        return 0;
    void *library = dlopen(info->dlpi_name, RTLD_LAZY | RTLD_NOLOAD);
    if (!library)
        return 0;
    s->found = dlsym(library, s->symbol);
    dlclose(library); /* it stays, as it is torch's */
    return s->found != NULL;
}

static void *find(const char *symbol)
{
    struct search s = {.symbol = symbol};
    dl_iterate_phdr(look, &s);
    return s.found;
}

static any_fn *find_function(const char *symbol)
{
    return (any_fn *)(uintptr_t)find(symbol);
}

/* ---- throwing --------------------------------------------------------------- */

/* The object's destructor is the first of its virtual functions. */
static void end_object(void *object)
{
    end_fn **functions = *(end_fn ***)object;
    functions[0](object);
}

static void raise_out_of_memory(const struct kind *k, void *type, const char *sentence)
{
    allocate_fn *allocate = (allocate_fn *)find_function("__cxa_allocate_exception");
    throw_fn *throw_it = (throw_fn *)find_function("__cxa_throw");
    error_fn *error = (error_fn *)find_function(k->error);
    string_fn *string = (string_fn *)find_function(k->string);
    end_fn *end = (end_fn *)find_function(k->end);
    _Alignas(16) char text[STRING_BYTES];
    char allocator; /* std::allocator is empty */
    if (!allocate || !throw_it || !error || !string || !end)
        return;
    void *object = allocate(ERROR_BYTES);
    string(text, sentence, &allocator);
    error(object, (struct place){FUNCTION, FILE_NAME, 0}, text);
    end(text);
    throw_it(object, type, end_object);
}

void torch_raise(const char *sentence)
{
    char text[1024];
    snprintf(text, sizeof text, "CUDA out of memory. %s", sentence);
    void *type = find("_ZTIN3c1016OutOfMemoryErrorE");
    for (size_t i = 0; type && i < sizeof kinds / sizeof *kinds; i++)
        raise_out_of_memory(&kinds[i], type, text);
    check_fn *check = (check_fn *)find_function("_ZN3c106detail14torchCheckFailEPKcS2_jS2_");
    if (check)
        check(FUNCTION, FILE_NAME, 0, text);
}
