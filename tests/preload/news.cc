// news.cc - all forms of new and delete, of small and large blocks.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#define NEED(condition)                                                   \
    do {                                                                  \
        if (!(condition)) {                                               \
            std::fprintf(stderr, "news.cc:%d: %s\n", __LINE__, #condition); \
            std::_Exit(1);                                                \
        }                                                                 \
    } while (0)

struct alignas(4096) wide {
    char bytes[3 << 20];
};

static bool aligned(const void *p, std::size_t to)
{
    return reinterpret_cast<std::uintptr_t>(p) % to == 0;
}

static void forms(std::size_t n)
{
    char *p = new char[n];
    std::memset(p, 1, n);
    delete[] p;
    void *q = ::operator new(n);
    ::operator delete(q, n); // sized
    q = ::operator new(n, std::nothrow);
    NEED(q);
    ::operator delete(q, std::nothrow);
    for (std::size_t to = 16; to <= (4 << 20); to *= 4) {
        q = ::operator new(n, std::align_val_t(to));
        NEED(aligned(q, to));
        std::memset(q, 1, n);
        ::operator delete(q, n, std::align_val_t(to));
        q = ::operator new[](n, std::align_val_t(to), std::nothrow);
        NEED(q && aligned(q, to));
        ::operator delete[](q, std::align_val_t(to));
    }
}

int main()
{
    for (std::size_t n : {std::size_t(1), std::size_t(1000), std::size_t(1) << 20, (std::size_t(5) << 20) + 7})
        forms(n);
    wide *w = new wide;
    NEED(aligned(w, 4096));
    delete w;
    bool refused = false;
    try {
        volatile std::size_t absurd = SIZE_MAX / 2 - 100;
        (void)::operator new(absurd);
    } catch (const std::bad_alloc &) {
        refused = true;
    }
    NEED(refused && !::operator new(SIZE_MAX / 2 - 100, std::nothrow));
    std::vector<std::uint64_t> v;
    for (std::uint64_t i = 0; i < 12000000; i++) // 96 MB, grown by doubling
        v.push_back(i * 7);
    for (std::uint64_t i = 0; i < v.size(); i++)
        NEED(v[i] == i * 7);
    std::string s;
    while (s.size() < (40u << 20))
        s += "a string that grows";
    NEED(s.compare(19 * 100000, 19, "a string that grows") == 0);
}
