// torch_raise.cc - a libc10 in miniature, and a program that asks terrace for more device
// memory than there is: what it catches. With -DLIBRARY it is the library; with -DOLD
// that has TORCH_CHECK's function only, as before torch 1.13.
// usage: torch_raise LIBTERRACE [LIBC10]
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

namespace c10 {

struct SourceLocation {
    const char *function, *file;
    uint32_t line;
};

class __attribute__((visibility("default"))) Error : public std::exception {
    std::string msg;
    std::vector<std::string> context;
    std::string text;

public:
    Error(SourceLocation where, std::string message);
    const char *what() const noexcept override { return text.c_str(); }
    virtual const char *what_without_backtrace() const noexcept { return msg.c_str(); }
};

class __attribute__((visibility("default"))) OutOfMemoryError : public Error {
    using Error::Error;
};

namespace detail {
[[noreturn]] void torchCheckFail(const char *function, const char *file, uint32_t line, const char *message);
}

} // namespace c10

#ifdef LIBRARY

namespace c10 {
#ifndef OLD
Error::Error(SourceLocation where, std::string message)
    : msg(std::move(message)), text(msg + " (" + where.function + ")") {}
// As libc10_cuda does, which so has the type's description.
__attribute__((visibility("default"))) void throw_one() { throw OutOfMemoryError({"", "", 0}, ""); }
#endif
namespace detail {
struct Check : std::exception {
    std::string text;
    const char *what() const noexcept override { return text.c_str(); }
};
__attribute__((visibility("default"))) void torchCheckFail(const char *, const char *, uint32_t, const char *message)
{
    Check c;
    c.text = message;
    throw c;
}
} // namespace detail
} // namespace c10

#else

#include <cstdio>
#include <dlfcn.h>

namespace c10 {
Error::Error(SourceLocation, std::string message) : text(std::move(message)) {}
} // namespace c10

typedef void *alloc_fn(size_t, int, void *);

int main(int argc, char **argv)
{
    void *terrace = argc > 1 ? dlopen(argv[1], RTLD_NOW) : nullptr;
    if (!terrace || (argc > 2 && !dlopen(argv[2], RTLD_NOW))) // for itself alone, as Python does
        return std::puts(dlerror()), 2;
    auto take = reinterpret_cast<alloc_fn *>(dlsym(terrace, "terrace_torch_alloc"));
    auto look = reinterpret_cast<alloc_fn *>(dlsym(terrace, "terrace_torch_alloc_or_null"));
    for (int i = 0; i < 3; i++) {
        if (look(size_t(1) << 40, 0, nullptr))
            return 1;
        try {
            void *p = take(size_t(1) << 40, 0, nullptr);
            std::printf("%s\n", p ? "memory" : "nothing");
        } catch (const c10::OutOfMemoryError &e) {
            std::printf("OutOfMemoryError %s\n", e.what());
        } catch (const std::exception &e) {
            std::printf("exception %s\n", e.what());
        }
    }
    return take(1 << 20, 0, nullptr) ? 0 : 1; // it goes on
}

#endif
