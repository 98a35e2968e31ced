# Shared by ./test, ./demo and the scripts beside this file. Sourced, never run.
# Changes nothing by being sourced; everything here is a function or a variable.

REFLOAT_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say()  { printf '%s\n' "$*" >&2; }
loud() { printf '\n!! %s\n\n' "$*" >&2; }
die()  { printf 'error: %s\n' "$*" >&2; exit 1; }

# Where fetched servers and built tools are kept between runs, outside the tree, so that a fresh checkout is quick.
# A plain user shares what root has put into the common place by reading it (see cached).
cache_dir() {
    if [ -n "${REFLOAT_TEST_CACHE:-}" ]; then printf '%s' "$REFLOAT_TEST_CACHE"
    elif [ "$(id -u)" = 0 ]; then printf '/var/cache/refloat-tests'
    else printf '%s/.cache/refloat-tests' "$HOME"
    fi
}

# Prints the path of `$1` in the first cache that has it.
cached() {
    local dir
    for dir in "$(cache_dir)" ${REFLOAT_TEST_CACHE:-/var/cache/refloat-tests}; do
        if [ -e "$dir/$1" ]; then printf '%s' "$dir/$1"; return 0; fi
    done
    return 1
}

# Runs a command as the user that may own a PostgreSQL cluster: PostgreSQL refuses to run as root.
as_server_user() {
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid=postgres --regid=postgres --init-groups -- env HOME=/var/lib/postgresql "$@"
    else
        "$@"
    fi
}

# Makes cargo callable where it was installed by rustup but the shell's profile was not read.
need_cargo() {
    if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    command -v cargo >/dev/null || die "cargo is not installed: Rust 1.95 or newer is needed to build Refloat (rustup.rs tells how)"
}

# cargo_tool NAME VERSION OPTION...: builds a program of the registry into the cache, unless it is there or in PATH.
# Without optimisation, unless the caller sets CARGO_PROFILE_DEV_OPT_LEVEL.
cargo_tool() {
    local name=$1 version=$2 cache build log code=0; shift 2
    command -v "$name" >/dev/null && return
    cached "bin/$name" >/dev/null && return
    cache=$(cache_dir)
    say "installing $name $version, once"
    mkdir -p "$cache/bin"
    build=$(mktemp -d "$cache/.build.XXXXXX")
    log=$build/log
    # Outside the tree, so that its toolchain file and settings for cargo don't bear on the tool.
    if (cd "$build" && env -u RUSTFLAGS CARGO_TARGET_DIR="$build/target" CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=symbols \
        cargo install "$name" --version "$version" --locked --debug --no-track --root "$build/root" "$@" >"$log" 2>&1 </dev/null); then
        mv "$build/root/bin/$name" "$cache/bin/$name"
    else
        tail -n 5 "$log" >&2
        loud "$name could not be installed"
        code=1
    fi
    rm -rf "$build"
    return $code
}

is_ci() { case "${CI:-}" in ''|0|false) return 1 ;; *) return 0 ;; esac; }
