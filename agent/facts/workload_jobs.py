"""Which job of a scheduler a process belongs to, as the control group says that the scheduler made for it."""

from __future__ import annotations

import re

from agent.facts.workload import Job

# Slurm in version 1 and 2 of control groups: "/slurm/uid_1000/job_42/step_0", "…/slurmstepd.scope/job_42/step_0/user".
# https://slurm.schedmd.com/cgroup_v2.html
_SLURM = re.compile(
    r"/(?:slurm\w*|slurmstepd\.scope|\w+_slurmstepd\.scope)(?:/[^/]+)?/job_(\d{1,10})(?:/step_(\w{1,32}))?"
)
# Kubernetes, by its own driver "/kubepods/burstable/pod<uid>/…" and systemd's "/kubepods-burstable-pod<uid>.slice/…".
# https://kubernetes.io/docs/setup/production-environment/container-runtimes/#cgroup-drivers
_POD = re.compile(
    r"kubepods[^/]*(?:/[^/]+)*?[/-]pod([0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12})(?:\.slice)?(?:/|$)"
)


def parse_jobs(groups: str) -> tuple[Job, ...]:
    """The jobs that a /proc/PID/cgroup file tells."""
    jobs = dict[tuple[str, str], Job]()
    for line in groups.splitlines():
        path = line.partition(":")[2].partition(":")[2]
        if match := _SLURM.search(path):
            jobs.setdefault(("slurm", match[1]), Job(kind="slurm", id=match[1], step=match[2] or ""))
        if match := _POD.search(path):
            uid = match[1].replace("_", "-")
            jobs.setdefault(("kubernetes", uid), Job(kind="kubernetes", id=uid))
    return tuple(jobs.values())
