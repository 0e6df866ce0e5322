#!/usr/bin/env bash
# A Slurm of one node for the tests, without systemd, cgroups or accounting (Debian, as root): start.sh FOLDER.
# It pretends to have 32 CPUs and two GPUs. Everything lies below FOLDER but munge's key and three links in /etc/slurm.
set -euo pipefail
ROOT=$(realpath -m "${1:?start.sh FOLDER}")
HOST=$(uname -n)
HOST=${HOST%%.*}
export PATH=$PATH:/usr/sbin:/sbin

wait_for() { # what, seconds, command...
  local what=$1 tries=$(($2 * 10)); shift 2
  for _ in $(seq "$tries"); do "$@" >/dev/null 2>&1 && return 0; sleep 0.1; done
  echo "start.sh: gave up waiting for $what; see $ROOT/log" >&2
  return 1
}
alive() { [ -s "$1" ] && kill -0 "$(cat "$1")" 2>/dev/null; }

missing=()
for package in slurm-wlm slurm-client munge; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
OTHER=$(readlink /etc/slurm/slurm.conf || true)
OTHER=${OTHER%/etc/slurm.conf}
if [ -n "$OTHER" ] && [ "$OTHER" != "$ROOT" ] && [ -e "$OTHER/etc/of-these-tests" ]; then
  "$(dirname "$0")/stop.sh" "$OTHER" # tests that were killed left it behind
fi
if [ -e /etc/slurm/slurm.conf ] && [ "$(readlink /etc/slurm/slurm.conf)" != "$ROOT/etc/slurm.conf" ]; then
  echo "start.sh: /etc/slurm/slurm.conf: expected none, found a Slurm of this machine's own; it is left alone" >&2
  exit 1
fi

mkdir -p "$ROOT"/{etc,run,log,state,spool,dev} /etc/slurm
touch "$ROOT/etc/of-these-tests"
install -d -o munge -g munge -m 0755 /run/munge
install -d -o munge -g munge -m 0700 /var/log/munge /var/lib/munge
if [ ! -s /etc/munge/munge.key ]; then
  dd if=/dev/urandom bs=128 count=1 of=/etc/munge/munge.key status=none
  chown munge: /etc/munge/munge.key
  chmod 400 /etc/munge/munge.key
fi
alive /run/munge/munged.pid \
  || setpriv --reuid=munge --regid=munge --clear-groups /usr/sbin/munged --force --pid-file=/run/munge/munged.pid
wait_for munged 10 bash -c 'munge -n | unmunge'

# Two GPUs: copies of /dev/null, for Slurm counts device files only.
for i in 0 1; do [ -c "$ROOT/dev/gpu$i" ] || mknod "$ROOT/dev/gpu$i" c 1 3; done
echo "NodeName=$HOST Name=gpu File=$ROOT/dev/gpu[0-1] Flags=nvidia_gpu_env" >"$ROOT/etc/gres.conf"
echo "CgroupPlugin=cgroup/v1" >"$ROOT/etc/cgroup.conf"
cat >"$ROOT/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=6817
SlurmdPort=6818
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.log
JobCompType=jobcomp/filetxt
JobCompLoc=$ROOT/log/jobs.txt
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
TaskProlog=$ROOT/etc/prolog.sh
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,defer_batch
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
OverTimeLimit=0
GresTypes=gpu
AccountingStorageType=accounting_storage/none
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=32 Boards=1 SocketsPerBoard=1 CoresPerSocket=32 ThreadsPerCore=1 RealMemory=60000 Gres=gpu:2
PartitionName=cpu Nodes=$HOST Default=YES MaxTime=24:00:00 DefMemPerCPU=500 State=UP
PartitionName=gpu Nodes=$HOST Default=NO MaxTime=24:00:00 DefMemPerCPU=500 State=UP
CONF
# Every task of a job says which devices it sees.
printf '#!/bin/sh\necho "$SLURM_JOB_ID $CUDA_VISIBLE_DEVICES" >>%s\n' "$ROOT/log/devices.txt" >"$ROOT/etc/prolog.sh"
chmod 755 "$ROOT/etc/prolog.sh"
touch "$ROOT/log/devices.txt"
for name in slurm.conf gres.conf cgroup.conf; do ln -sfn "$ROOT/etc/$name" "/etc/slurm/$name"; done

alive "$ROOT/run/slurmctld.pid" || slurmctld
wait_for slurmctld 30 scontrol ping
alive "$ROOT/run/slurmd.pid" || slurmd
if sinfo -h -o %T | grep -Eq 'drain|down'; then scontrol update nodename="$HOST" state=resume; fi
wait_for "the node" 30 bash -c "sinfo -h -o %T | grep -Eq '^(idle|mixed|allocated)'"
