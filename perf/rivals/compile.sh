# Sourced by the `build` scripts of rivals in C and C++, in the rival's folder; see README.
: "${CC:=gcc}" "${CXX:=g++}"

# Says what is missing and ends the script.
lacks() {
    echo "$1"
    exit 77
}

if [ -e main.cpp ]; then
    compiler="$CXX -std=c++17" source=main.cpp language=c++
    command -v "$CXX" >/dev/null || lacks "no C++ compiler ($CXX)"
else
    compiler="$CC -std=gnu11 -D_GNU_SOURCE" source=main.c language=c
fi

# The header must be there; else the text says what it takes.
needs() { # header text
    echo "#include <$1>" | $compiler -x $language -fsyntax-only - 2>/dev/null || lacks "$2"
}

# Its release: of the .pc file, else of Debian's package.
release() { # module package
    pkg-config --modversion "$1" 2>/dev/null || dpkg-query -W -f='${Version}' "$2" 2>/dev/null || echo '?'
}

compile() { # program argument...
    program=$1
    shift
    exec $compiler -O2 -Wall -Wextra -o "$program" $source "$@" -pthread
}
