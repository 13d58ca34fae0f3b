# Source this to use ROS 2 from the virtual environment: `source standalone/env.sh`.
#
# The ROS wheels keep their shared libraries beside the Python modules; without these variables
# they start Python twice to find them. On a machine with a ROS 2 installation that is already
# sourced only the Fast DDS profile is added. KPVO_VENV names another environment than ./.venv.

_kpvo_here=$(cd "$(dirname "${BASH_SOURCE[0]:-$0}")" && pwd)
_kpvo_venv=${KPVO_VENV:-$(dirname "$_kpvo_here")/.venv}

if [ -d "$_kpvo_venv" ]; then
  case ":$PATH:" in
    *":$_kpvo_venv/bin:"*) ;;
    *) export PATH="$_kpvo_venv/bin:$PATH" ;;
  esac
  _kpvo_libs=$(find "$_kpvo_venv"/lib/python3*/site-packages -maxdepth 1 -name 'ros_*.libs' 2>/dev/null \
    | sort | paste -sd: -)
  if [ -n "$_kpvo_libs" ]; then
    case ":${AMENT_PREFIX_PATH:-}:" in
      *":$_kpvo_venv:"*) ;;
      *)
        export AMENT_PREFIX_PATH="$_kpvo_venv${AMENT_PREFIX_PATH:+:$AMENT_PREFIX_PATH}"
        export LD_LIBRARY_PATH="$_kpvo_venv/lib:$_kpvo_libs${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        ;;
    esac
    export ROS_DISTRO=${ROS_DISTRO:-jazzy}
    export _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
  fi
fi

# Fast DDS 2 (Jazzy) reads the first name, Fast DDS 3 (Kilted and later) the second.
export FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$_kpvo_here/fastdds.xml}
export FASTDDS_DEFAULT_PROFILES_FILE=${FASTDDS_DEFAULT_PROFILES_FILE:-$_kpvo_here/fastdds.xml}
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
unset _kpvo_here _kpvo_venv _kpvo_libs
