//! Who ran it: process -> container -> pod -> controller, or process -> unit, or process -> user.

pub mod cgroup;

use std::collections::BTreeMap;
use std::sync::Arc;

/// A process, told apart from a later one with the same number by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProcessKey {
    /// Thread group id in the initial namespace.
    pub pid: u32,
    /// Start, `CLOCK_BOOTTIME` in units of 10 ms (field 22 of `/proc/PID/stat`); 0 unknown.
    pub start_ticks: u64,
}

/// How a workload's identity was obtained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WorkloadEvidence {
    /// Read from the kernel for this very process.
    Exact,
    /// Inherited from the parent: the process was gone before it could be looked at.
    Lineage,
    /// Nothing but the pid is known.
    Unknown,
}

impl WorkloadEvidence {
    /// Name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            WorkloadEvidence::Exact => "exact",
            WorkloadEvidence::Lineage => "lineage",
            WorkloadEvidence::Unknown => "unknown",
        }
    }
}

/// A container and what its runtime's state file says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Full id as in the cgroup path.
    pub id: Box<str>,
    /// `containerd`, `docker`, `podman`, `crio`, `ecs` or `unknown`.
    pub runtime: &'static str,
    /// Name.
    pub name: Option<Box<str>>,
    /// Image reference.
    pub image: Option<Box<str>>,
}

/// A Kubernetes pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Unique id, from the cgroup path.
    pub uid: Option<Box<str>>,
    /// Name.
    pub name: Option<Box<str>>,
    /// Namespace: controlled by an administrator.
    pub namespace: Option<Box<str>>,
    /// `Deployment/shop-api` and the like.
    pub controller: Option<Box<str>>,
}

/// Who ran it. Labels are what the workload's author wrote: self-asserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The process.
    pub process: ProcessKey,
    /// Path of the executable.
    pub exe: Option<Box<str>>,
    /// Command name.
    pub comm: Option<Box<str>>,
    /// Real user id.
    pub uid: Option<u32>,
    /// Its name.
    pub user: Option<Box<str>>,
    /// Cgroup path, of the unified hierarchy where there is one.
    pub cgroup: Option<Box<str>>,
    /// Container.
    pub container: Option<Container>,
    /// Pod.
    pub pod: Option<Pod>,
    /// systemd unit.
    pub unit: Option<Box<str>>,
    /// Labels and annotations of container and pod.
    pub labels: BTreeMap<Box<str>, Box<str>>,
    /// How sure.
    pub evidence: WorkloadEvidence,
}

impl Workload {
    /// A workload of which only the process is known.
    pub fn unknown(process: ProcessKey) -> Arc<Workload> {
        Arc::new(Workload {
            process,
            exe: None,
            comm: None,
            uid: None,
            user: None,
            cgroup: None,
            container: None,
            pod: None,
            unit: None,
            labels: BTreeMap::new(),
            evidence: WorkloadEvidence::Unknown,
        })
    }

    /// The stable name that roll-ups group by: pod controller, container name, unit, or executable and user.
    pub fn group_name(&self) -> String {
        if let Some(pod) = &self.pod {
            let name =
                pod.controller.as_deref().or(pod.name.as_deref()).or(pod.uid.as_deref()).unwrap_or("pod");
            return match pod.namespace.as_deref() {
                Some(namespace) => format!("{namespace}/{name}"),
                None => name.to_owned(),
            };
        }
        if let Some(container) = &self.container {
            return container.name.as_deref().unwrap_or(&container.id).to_owned();
        }
        if let Some(unit) = &self.unit {
            return unit.to_string();
        }
        let exe = self.exe.as_deref().or(self.comm.as_deref()).unwrap_or("unknown");
        match (&self.user, self.uid) {
            (Some(user), _) => format!("{exe} ({user})"),
            (None, Some(uid)) => format!("{exe} (uid {uid})"),
            (None, None) => exe.to_owned(),
        }
    }
}
