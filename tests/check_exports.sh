#!/bin/bash
# The library exports what the public header declares, under a version, and
# nothing else; and it needs no libraries but those it should.
. "$(dirname "$0")/tap.sh"
not_sanitized exports
library=$BUILD/lib/libterrace.so

exported() { nm -D --defined-only "$library" | awk '$2 != "A" && !/@TERRACE_PRIVATE$/ {print $3}' | sort; }
# For the preloaded library of the same version.
private() { nm -D --defined-only "$library" | sed -n 's/.* \(terrace_[a-z_]*\)@@TERRACE_PRIVATE$/\1/p' | sort; }
declared_private() { sed -n 's/^TERRACE_API.*[ *]\(terrace_process_[a-z_]*\)(.*/\1/p' lib/process.h | sort; }
private_is_declared() { diff <(declared_private) <(private) && [ "$(private | wc -l)" -gt 3 ]; }

# Functions declared with TERRACE_API, without comments.
declared() {
    sed -n '/^TERRACE_API/s/.*[ *]\(terrace_[a-z_]*\)(.*/\1@@TERRACE_0.1/p' include/terrace.h include/terrace_backend.h | sort
}

only_declared() { diff <(declared) <(exported); }
some_declared() { [ "$(declared | wc -l)" -gt 15 ]; }
one_version() {
    local versions
    versions=$(nm -D --defined-only "$library" | awk '$2 == "A" && !/TERRACE_PRIVATE/ {print $3}')
    [ "$versions" = TERRACE_0.1@@TERRACE_0.1 ] || [ "$versions" = TERRACE_0.1 ] || {
        echo "$versions"
        false
    }
}
soname() { readelf -d "$library" | grep -q 'SONAME.*\[libterrace\.so\.0\]'; }
needs_little() {
    ! readelf -d "$library" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' |
        grep -Ev '^(libc|libm|liburing|libnuma|libxxhash|libsodium|ld-linux.*)\.so\.[0-9]+$'
}
# Static TLS would keep the library from being loaded with dlopen().
no_static_tls() { ! readelf -d "$library" | grep -q STATIC_TLS; }
no_executable_stack() { readelf -lW "$library" | grep GNU_STACK | grep -qv 'E '; }

check "functions are declared in the header" some_declared
check "the library exports what the header declares and nothing else" only_declared
check "what is for the preloaded library is declared, and has a version of its own" private_is_declared
check "there is one version node" one_version
check "the soname is libterrace.so.0" soname
check "the library needs only what it should" needs_little
check "no static thread-local storage" no_static_tls
check "the stack is not executable" no_executable_stack
