//! Cgroup paths to container, pod, systemd unit and user.
//!
//! Pure functions on text that the kernel wrote; total: any text gives an answer. The outermost container wins: what is
//! nested in it was made by the workload itself and proves nothing.

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

impl CgroupIdentity {
    /// How much it says: a container before a pod before a unit before a mere path.
    fn weight(&self) -> u8 {
        let says = [
            self.path.len() > 1,
            self.user_uid.is_some(),
            self.unit.is_some(),
            self.pod_uid.is_some(),
            self.container_id.is_some(),
        ];
        says.iter().enumerate().map(|(bit, said)| u8::from(*said) << bit).sum()
    }
}

/// Longest path looked at; the kernel's limit is one page.
const PATH_BYTES_MAX: usize = 4096;
/// Segments looked at.
const SEGMENTS_MAX: usize = 64;

/// The identity in the text of `/proc/PID/cgroup`: v1, v2 or hybrid.
///
/// Where hierarchies differ the one that says most wins; among equals the unified one, then systemd's own, then the
/// first. On a hybrid system a container may be known to the v1 controllers only.
pub fn parse_proc_cgroup(text: &str) -> CgroupIdentity {
    let mut best: Option<(u8, u8, CgroupIdentity)> = None;
    for line in text.lines() {
        // `ID:CONTROLLERS:PATH`; a path may contain colons.
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            continue;
        };
        let rank = match (id, controllers) {
            ("0", "") => 2,
            (_, "name=systemd") => 1,
            _ => 0,
        };
        let identity = parse_path(path);
        let weight = identity.weight();
        if best.as_ref().is_none_or(|(best_weight, best_rank, _)| (weight, rank) > (*best_weight, *best_rank))
        {
            best = Some((weight, rank, identity));
        }
    }
    best.map(|(_, _, identity)| identity).unwrap_or_default()
}

/// The identity in one cgroup path.
pub fn parse_path(path: &str) -> CgroupIdentity {
    let path = &path[..path.floor_char_boundary(PATH_BYTES_MAX)];
    let mut found = CgroupIdentity { path: path.into(), ..CgroupIdentity::default() };
    // What the parent segments say of an id that does not name its runtime.
    let mut parent = Parent::default();
    for segment in path.split('/').filter(|segment| !segment.is_empty()).take(SEGMENTS_MAX) {
        if let Some(uid) = pod_uid(segment) {
            found.pod_uid.get_or_insert(uid);
            // A pod's slice has the form of a unit; it is not one that people know.
            parent.pod = true;
            continue;
        }
        if let Some((id, runtime)) = container(segment, &parent) {
            if let Some((slice, _)) = segment.split_once(':') {
                found.pod_uid = found.pod_uid.or_else(|| pod_uid(slice));
            }
            found.container_id = Some(id.into());
            found.runtime = Some(runtime);
            break;
        }
        if let Some(uid) = segment.strip_prefix("user-").and_then(|rest| rest.strip_suffix(".slice")) {
            found.user_uid = found.user_uid.or_else(|| uid.parse().ok());
        }
        if is_unit(segment) {
            found.unit = Some(segment.into());
        }
        parent.see(segment);
    }
    // containerd's, Docker's or the kubelet's own unit is not who runs in a container of theirs.
    if found.container_id.is_some() && found.user_uid.is_none() {
        found.unit = None;
    }
    found
}

/// What has been seen above a segment.
#[derive(Default)]
struct Parent {
    pod: bool,
    docker: bool,
    ecs: bool,
    podman: bool,
    /// The segment directly above, if it may be a containerd namespace.
    namespace: bool,
}

impl Parent {
    fn see(&mut self, segment: &str) {
        self.docker |= segment == "docker";
        self.ecs |= segment == "ecs";
        self.podman |= segment == "libpod_parent"
            || segment.starts_with("libpod_pod_")
            || segment.starts_with("machine-libpod");
        self.pod |=
            segment == "kubepods" || segment.starts_with("kubepods.") || segment.starts_with("kubepods-");
        self.namespace = !segment.ends_with(".slice") && !is_unit(segment);
    }
}

/// Container id and runtime of a segment.
fn container<'a>(segment: &'a str, parent: &Parent) -> Option<(&'a str, &'static str)> {
    const SCOPES: [(&str, &str); 5] = [
        ("cri-containerd-", "containerd"),
        ("nerdctl-", "containerd"),
        ("docker-", "docker"),
        ("libpod-", "podman"),
        ("crio-", "crio"),
    ];
    // containerd's systemd form without a slice of its own: `SLICE:PREFIX:ID`.
    if let Some((prefix, id)) = segment.rsplit_once(':')
        && is_long_id(id)
    {
        let runtime = if prefix.ends_with("cri-containerd") || prefix.ends_with("nerdctl") {
            "containerd"
        } else {
            "unknown"
        };
        return Some((id, runtime));
    }
    let name = segment.strip_suffix(".scope").unwrap_or(segment);
    for (prefix, runtime) in SCOPES {
        if let Some(id) = name.strip_prefix(prefix) {
            // `libpod-conmon-ID` and `crio-conmon-ID` hold the monitor of a container, not the container.
            return is_long_id(id).then_some((id, runtime));
        }
    }
    if is_long_id(segment) {
        let runtime = match parent {
            Parent { docker: true, .. } => "docker",
            Parent { podman: true, .. } => "podman",
            Parent { ecs: true, .. } => "ecs",
            // `/kubepods/../ID` is any CRI runtime with the cgroupfs driver; containerd is the one that does it bare.
            Parent { pod: true, .. } | Parent { namespace: true, .. } => "containerd",
            _ => "unknown",
        };
        return Some((segment, runtime));
    }
    // `/ecs/TASK/TASK-NUMBER` on Fargate.
    if parent.ecs
        && let Some((task, number)) = segment.split_once('-')
        && task.len() == 32
        && is_hex(task)
        && !number.is_empty()
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        return Some((segment, "ecs"));
    }
    None
}

/// `podUID`, `kubepods-burstable-podUID.slice`, with underscores for dashes under systemd. Static pods have 32 hex
/// digits without dashes.
fn pod_uid(segment: &str) -> Option<Box<str>> {
    let name = segment.strip_suffix(".slice").unwrap_or(segment);
    let uid = match name.strip_prefix("pod") {
        Some(uid) => uid,
        None if name.contains("kubepods-") => name.rsplit_once("-pod")?.1,
        None => return None,
    };
    let dashed = uid.replace('_', "-");
    let canonical = dashed.len() == 36 && dashed.split('-').map(str::len).eq([8, 4, 4, 4, 12]);
    let hex = dashed.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    (hex && (canonical || (uid.len() == 32 && is_hex(uid)))).then(|| dashed.into())
}

/// A systemd unit that runs processes.
fn is_unit(segment: &str) -> bool {
    let named = |suffix: &str| segment.strip_suffix(suffix).is_some_and(|name| !name.is_empty());
    named(".service") || named(".scope")
}

/// A full container id: 64 hex digits.
fn is_long_id(text: &str) -> bool {
    text.len() == 64 && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{CgroupIdentity, parse_path, parse_proc_cgroup};

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const INNER: &str = "ffffffff89abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const UID: &str = "2c48913c-b29f-11e7-9350-020968147796";
    const UID_: &str = "2c48913c_b29f_11e7_9350_020968147796";
    const TASK: &str = "0123456789abcdef0123456789abcdef";

    /// `container runtime pod unit user`, `-` for what is not there.
    fn render(found: &CgroupIdentity) -> String {
        let text =
            |value: &Option<Box<str>>| value.as_deref().unwrap_or("-").replace(ID, "ID").replace(UID, "UID");
        let user = found.user_uid.map_or("-".to_owned(), |uid| uid.to_string());
        let runtime = found.runtime.unwrap_or("-");
        format!(
            "{} {runtime} {} {} {user}",
            text(&found.container_id),
            text(&found.pod_uid),
            text(&found.unit)
        )
    }

    fn check(path: &str, expected: &str) {
        let path = path
            .replace("INNER", INNER)
            .replace("ID_", UID_)
            .replace("PODUID", UID)
            .replace("ID", ID)
            .replace("TASK", TASK);
        let expected = expected.replace("TASK", TASK);
        assert_eq!(render(&parse_path(&path)), expected, "{path}");
    }

    #[test]
    fn paths_name_containers_pods_units_and_users() {
        check("/", "- - - - -");
        check("", "- - - - -");
        // The kubelet, both drivers.
        check("/kubepods/burstable/podPODUID/ID", "ID containerd UID - -");
        check("/kubepods/podPODUID/ID", "ID containerd UID - -");
        check(
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podID_.slice/cri-containerd-ID.scope",
            "ID containerd UID - -",
        );
        check("/kubepods.slice/kubepods-podID_.slice/crio-ID.scope", "ID crio UID - -");
        check("/kubepods.slice/kubepods-podID_.slice/docker-ID.scope", "ID docker UID - -");
        check(
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podID_.slice:cri-containerd:ID",
            "ID containerd UID - -",
        );
        check(
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podID_.slice/cri-containerd-ID.scope",
            "ID containerd UID - -",
        );
        check("/kubepods/besteffort/podTASK/ID", "ID containerd TASK - -");
        check("/kubepods.slice/kubepods-podID_.slice", "- - UID - -");
        // Runtimes alone.
        check("/docker/ID", "ID docker - - -");
        check("/system.slice/docker-ID.scope", "ID docker - - -");
        check("/default/ID", "ID containerd - - -");
        check("/k8s.io/ID", "ID containerd - - -");
        check("/system.slice/nerdctl-ID.scope", "ID containerd - - -");
        check("/machine.slice/libpod-ID.scope", "ID podman - - -");
        check("/machine.slice/libpod-ID.scope/container", "ID podman - - -");
        check("/libpod_parent/ID", "ID podman - - -");
        check("/machine.slice/libpod-conmon-ID.scope", "- - - libpod-conmon-ID.scope -");
        check("/ecs/TASK/ID", "ID ecs - - -");
        check("/ecs/TASK/TASK-1234567890", "TASK-1234567890 ecs - - -");
        check("/ID", "ID unknown - - -");
        // Units and users.
        check("/system.slice/nginx.service", "- - - nginx.service -");
        check("/system.slice/system-getty.slice/getty@tty1.service", "- - - getty@tty1.service -");
        check("/init.scope", "- - - init.scope -");
        check("/user.slice/user-1000.slice/session-3.scope", "- - - session-3.scope 1000");
        check(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/agent.service",
            "- - - agent.service 1000",
        );
        check(
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            "ID podman - user@1000.service 1000",
        );
        check("/user.slice/user-4294967296.slice/session-1.scope", "- - - session-1.scope -");
        check("/custom/group", "- - - - -");
        // What a container makes inside itself does not count.
        check("/system.slice/docker-ID.scope/kubepods/podPODUID/INNER", "ID docker - - -");
        check("/docker/ID/system.slice/evil.service", "ID docker - - -");
        // Almost ids.
        check("/docker/IDa", "- - - - -");
        check("/docker/0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef", "- - - - -");
        check("/kubepods/podnot-a-uid/x", "- - - - -");
        check("/.service/.scope/.slice/user-.slice", "- - - - -");
    }

    #[test]
    fn hierarchies_are_weighed() {
        let check = |lines: &[&str], expected: &str, path: &str| {
            let text = lines.join("\n").replace("ID", ID);
            let found = parse_proc_cgroup(&text);
            assert_eq!(
                (render(&found).as_str(), found.path.replace(ID, "ID").as_str()),
                (expected, path),
                "{text}"
            );
        };
        check(&["0::/system.slice/nginx.service"], "- - - nginx.service -", "/system.slice/nginx.service");
        check(&["12:pids:/docker/ID", "1:name=systemd:/docker/ID"], "ID docker - - -", "/docker/ID");
        // Hybrid: the unified hierarchy knows only the unit of the runtime.
        check(
            &["4:memory:/docker/ID", "1:name=systemd:/docker/ID", "0::/system.slice/containerd.service"],
            "ID docker - - -",
            "/docker/ID",
        );
        check(&["8:cpu,cpuacct:/a:b", "1:name=systemd:/", "0::/"], "- - - - -", "/a:b");
        check(
            &["1:name=systemd:/system.slice/x.service", "0::/"],
            "- - - x.service -",
            "/system.slice/x.service",
        );
        check(&["5:cpu:/x", "0::/y"], "- - - - -", "/y");
        check(&[""], "- - - - -", "");
        check(&["nonsense", "1:two", "0::/z"], "- - - - -", "/z");
    }

    #[test]
    fn no_more_than_a_page_of_a_path_is_looked_at() {
        // Each of three bytes, so that the border lies inside of one.
        let found = parse_path(&format!("/a{}/x.service", "\u{20ac}".repeat(1_400)));
        assert_eq!((found.path.len(), found.unit), (4_094, None));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_answer(text in "\\PC{0,200}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            parse_proc_cgroup(&text);
            parse_path(&text);
            let lossy = String::from_utf8_lossy(&bytes);
            let found = parse_proc_cgroup(&lossy);
            prop_assert!(found.runtime.is_some() == found.container_id.is_some());
        }

        #[test]
        fn nothing_below_a_container_changes_it(tail in "(/[a-z0-9.:_-]{1,70}){0,6}") {
            let path = format!("/system.slice/docker-{ID}.scope");
            let (outer, nested) = (parse_path(&path), parse_path(&format!("{path}{tail}")));
            prop_assert_eq!(render(&outer), render(&nested));
        }
    }
}
