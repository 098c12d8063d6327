#!/bin/bash
# .ci/deps with stand-ins for the package manager: what it asks for, and when.
. "$(dirname "$0")/tap.sh"
not_sanitized deps
mkdir "$scratch/bin"

stand_in() { # NAME: the rest of its script on standard input
    { echo '#!/bin/sh'; cat; } >"$scratch/bin/$1"
    chmod +x "$scratch/bin/$1"
}
stand_in dpkg-query <<'END'
case $* in *present*) printf installed ;; *) exit 1 ;; esac
END
stand_in apt-cache <<'END'
exit $KNOWN
END
stand_in apt-get <<END
echo "\$DEBIAN_FRONTEND apt-get \$*" >>$scratch/calls
case "\$*" in *install*) exit \$INSTALL ;; esac
END
stand_in id <<'END'
echo $USER_ID
END
stand_in sudo <<'END'
exit 1
END

# Runs deps as a user, with packages known to apt-cache or not (0 or 1).
deps() { # USER_ID KNOWN INSTALL PACKAGE...
    local user=$1 known=$2 result=$3
    shift 3
    : >"$scratch/calls"
    USER_ID=$user KNOWN=$known INSTALL=$result PATH=$scratch/bin:$PATH .ci/deps "$@" >"$scratch/said"
}
calls() { [ "$(grep -c . "$scratch/calls")" -eq "$1" ] || { cat "$scratch/calls"; false; }; }

nothing_missing() { deps 1000 0 0 present-a present-b && calls 0 && [ ! -s "$scratch/said" ]; }
installs_missing() {
    deps 0 0 0 present-a absent-b absent-c && calls 1 &&
        grep -q '^noninteractive .*install -y --no-install-recommends absent-b absent-c$' "$scratch/calls" &&
        grep -q 'installing absent-b absent-c' "$scratch/said"
}
updates_first() {
    deps 0 1 0 absent-b && calls 2 && head -n 1 "$scratch/calls" | grep -q ' update$'
}
failure_is_told() { ! deps 0 0 1 absent-b && grep -q 'could not install absent-b' "$scratch/said"; }
without_rights() {
    ! deps 1000 0 0 absent-b && calls 0 &&
        grep -q 'apt-get install -y --no-install-recommends absent-b$' "$scratch/said"
}

check "with nothing missing it does and says nothing" nothing_missing
check "it installs only what is missing, and says so" installs_missing
check "it updates the lists where packages are not known" updates_first
check "it says so when installing fails" failure_is_told
check "without rights it prints the command and fails" without_rights
