#!/bin/bash
# Builds interface packages with the ROS wheels' own generators and installs them into the venv.
#
#   build_interfaces.sh VENV PACKAGE_FOLDER...
#
# Packages are built in the order given. The venv itself is the ROS prefix (include/, lib/,
# share/*/cmake), so nothing has to be sourced afterwards. Needs cmake, g++ and Python's headers.
set -euo pipefail

die() { echo "build_interfaces: $*" >&2; exit 1; }

[ $# -ge 2 ] || die 'usage: build_interfaces.sh VENV PACKAGE_FOLDER...'
venv=$(cd "$1" && pwd)
shift
python=$venv/bin/python
jobs=${JOBS:-$(nproc)}

# A sourced ROS would be found first and mixed in.
unset PYTHONPATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
export PATH=$venv/bin:$PATH AMENT_PREFIX_PATH=$venv

# The wheels' cmake files name the include folders of the machine they were built on.
relocate_wheels() {
  local python_include numpy_include files
  python_include=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')
  numpy_include=$("$python" -c 'import numpy; print(numpy.get_include())')
  [ -f "$python_include/Python.h" ] || die "no Python.h in $python_include: install python3-dev"
  files=$(grep -rlE '/opt/python/cp3' "$venv/share" --include='*.cmake' || true)
  [ -n "$files" ] || return 0
  xargs sed -i -E \
    -e "s#/opt/python/cp[0-9]+-cp[0-9]+/lib/python[0-9.]+/site-packages/numpy/_?core/include#$numpy_include#g" \
    -e "s#/opt/python/cp[0-9]+-cp[0-9]+/include/python[0-9.]+#$python_include#g" <<<"$files"
}

build_package() {
  local source=$1 work=$2
  cmake -S "$source" -B "$work" \
    -DCMAKE_INSTALL_PREFIX="$venv" -DCMAKE_PREFIX_PATH="$venv" \
    -DPython3_EXECUTABLE="$python" -DPython3_FIND_VIRTUALENV=ONLY -DBUILD_TESTING=OFF
  cmake --build "$work" --parallel "$jobs"
  cmake --install "$work"
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
relocate_wheels
for package in "$@"; do
  name=$(basename "$package")
  echo "building $name"
  build_package "$package" "$work/$name"
done
