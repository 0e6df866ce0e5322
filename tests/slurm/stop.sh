#!/usr/bin/env bash
# Stop what start.sh started in FOLDER, by its pid files only: stop.sh FOLDER.
set -u
ROOT=$(realpath -m "${1:?stop.sh FOLDER}")

stop() { # pid file, program
  [ -s "$1" ] || return 0
  local pid
  pid=$(cat "$1")
  if grep -qs "$2" "/proc/$pid/comm"; then
    kill -TERM "$pid" 2>/dev/null
    for _ in $(seq 150); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    kill -0 "$pid" 2>/dev/null && kill -KILL "$pid"
  fi
  rm -f "$1"
}

if [ -s "$ROOT/run/slurmctld.pid" ]; then timeout 10 scancel --user="$(id -un)" 2>/dev/null; sleep 1; fi
stop "$ROOT/run/slurmd.pid" slurmd
stop "$ROOT/run/slurmctld.pid" slurmctld
stop /run/munge/munged.pid munged
for name in slurm.conf gres.conf cgroup.conf; do
  [ "$(readlink "/etc/slurm/$name" 2>/dev/null)" = "$ROOT/etc/$name" ] && rm -f "/etc/slurm/$name"
done
exit 0
