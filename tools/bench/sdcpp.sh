#!/bin/sh
# Builds stable-diffusion.cpp from the sources in the crate diffusion-rs-sys, and sdcpp.cpp, which times it: sdcpp.sh FOLDER.
#
#     tools/reference/to_checkpoint.py MODEL model.safetensors --dtype f16
#     tools/bench/sdcpp.sh FOLDER && FOLDER/sdcpp model.safetensors 3 512 2
#
# cmake and ninja (pip has both) must be in PATH; FOLDER/cargo is used to fetch the crate and is no part of this workspace.
set -eu
version=0.1.20
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1" && cd "$1"
if [ ! -d source ]; then
    mkdir -p cargo/src && : > cargo/src/lib.rs
    printf '[package]\nname = "fetch"\nversion = "0.0.0"\nedition = "2024"\n[dependencies]\ndiffusion-rs-sys = "=%s"\n[workspace]\n' "$version" > cargo/Cargo.toml
    cargo vendor --manifest-path cargo/Cargo.toml cargo/vendor > /dev/null
    cp -r cargo/vendor/diffusion-rs-sys/stable-diffusion.cpp source
fi
cmake -S source -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DSD_BUILD_EXAMPLES=OFF -DSD_BUILD_SHARED_LIBS=OFF -DSD_WEBP=OFF -DSD_WEBM=OFF
cmake --build build
c++ -O2 -std=c++17 -Isource/include "$here/sdcpp.cpp" -o sdcpp build/libstable-diffusion.a -Wl,--start-group $(find build -name '*.a') -Wl,--end-group -fopenmp -lpthread -ldl
