//! Where a living process is: its unit, its container, its pod, from its path and the state files of its runtime.

use super::*;

const POD_UID: &str = "0f1e2d3c-1111-2222-3333-444455556666";
const CRI_BUNDLE: &str = r#"{"annotations":{"io.kubernetes.cri.container-name":"api","io.kubernetes.cri.image-name":"shop:1",
    "io.kubernetes.cri.sandbox-name":"shop-1","io.kubernetes.cri.sandbox-namespace":"shop",
    "io.kubernetes.cri.sandbox-uid":"0f1e2d3c-1111-2222-3333-444455556666"},"linux":{"cgroupsPath":"/x"}}"#;

#[test]
fn living_processes_tell_where_they_are() {
    use StateFile::{ContainerdBundle, ContainersStorage, ContainersStorageRoot, DockerConfig, RuncState};
    let check = |version_1: bool, cgroup: &str, file: Option<(StateFile, &str, &str)>, expected: &str| {
        let mut world = World::new(version_1);
        if let Some((kind, id, json)) = file {
            world = world.state_file(kind, id, json);
        }
        world.process(7, 3, "python3", 1000, cgroup);
        let workload = world.resolver().resolve(key(7), None, Some("/usr/bin/python3"));
        assert_eq!(told(&workload), expected, "{cgroup}");
    };
    let container = "container=4f1e0c6b7d8a9e";
    check(false, "0::/\n", None, "exact exe=/usr/bin/python3 comm=python3 user=app");
    check(
        false,
        "0::/system.slice/nginx.service\n",
        None,
        "exact exe=/usr/bin/python3 comm=python3 user=app unit=nginx.service",
    );
    let pod = format!(
        "0::/kubepods.slice/kubepods-pod{}.slice/cri-containerd-{ID}.scope\n",
        POD_UID.replace('-', "_")
    );
    check(
        false,
        &pod,
        Some((ContainerdBundle, &format!("k8s.io/{ID}"), CRI_BUNDLE)),
        &format!(
            "exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=containerd name=api image=shop:1 \
             pod=shop-1 namespace=shop pod_uid={POD_UID}"
        ),
    );
    // Nothing but the path: the container and the pod have no names.
    check(
        false,
        &pod,
        None,
        &format!(
            "exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=containerd pod_uid={POD_UID}"
        ),
    );
    check(
        true,
        &format!("5:cpu:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/docker.service\n"),
        Some((
            DockerConfig,
            ID,
            r#"{"Name":"/web","Config":{"Image":"nginx:1","Labels":{"team":"shop","big":7,"com.x":"y"}}}"#,
        )),
        &format!(
            "exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=docker name=web image=nginx:1 com.x:y team:shop"
        ),
    );
    check(
        false,
        &format!("0::/kubepods.slice/kubepods-pod{}.slice/crio-{ID}.scope\n", POD_UID.replace('-', "_")),
        Some((
            ContainersStorage,
            ID,
            r#"{"annotations":{"io.kubernetes.container.name":"api","io.kubernetes.cri-o.ImageName":"shop:2",
            "io.kubernetes.pod.name":"shop-2","io.kubernetes.pod.namespace":"shop","io.kubernetes.cri-o.Labels":"{\"app\":\"shop\"}",
            "io.kubernetes.cri-o.Metadata":"{}"}}"#,
        )),
        &format!(
            "exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=crio name=api image=shop:2 pod=shop-2 \
             namespace=shop pod_uid={POD_UID} app:shop io.kubernetes.container.name:api io.kubernetes.pod.name:shop-2 \
             io.kubernetes.pod.namespace:shop"
        ),
    );
    check(
        false,
        &format!("0::/machine.slice/libpod-{ID}.scope\n"),
        Some((ContainersStorageRoot, ID, r#"{"annotations":{"a":"b"}}"#)),
        &format!("exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=podman a:b"),
    );
    check(
        true,
        &format!("3:pids:/{ID}\n"),
        Some((RuncState, ID, r#"{"config":{"labels":["bundle=/x","nerdctl/name=job","k=v=w",3]}}"#)),
        &format!(
            "exact exe=/usr/bin/python3 comm=python3 user=1000 {container} runtime=unknown name=job k:v=w nerdctl/name:job"
        ),
    );
    // A path made by hand, confirmed by the bundle that its form points to; and one that the bundle does not confirm.
    check(
        true,
        "3:pids:/default/job\n0::/\n",
        Some((ContainerdBundle, "default/job", r#"{"linux":{"cgroupsPath":"/default/job"}}"#)),
        "exact exe=/usr/bin/python3 comm=python3 user=1000 container=job runtime=containerd name=job",
    );
    check(
        true,
        "3:pids:/default/job\n0::/\n",
        Some((ContainerdBundle, "default/job", r#"{"linux":{"cgroupsPath":"/elsewhere"}}"#)),
        "exact exe=/usr/bin/python3 comm=python3 user=app",
    );
}

#[test]
fn broken_state_files_are_no_state_files() {
    let huge = format!(r#"{{"annotations":{{"a":"{}"}}}}"#, "x".repeat(1 << 20));
    let deep = "[".repeat(100_000);
    let plain = format!("exact comm=sh user=1000 container={} runtime=containerd", &ID[..14]);
    for json in [
        "",
        "{",
        "[]",
        "7",
        r#"{"annotations":7}"#,
        r#"{"annotations":{"io.kubernetes.cri.container-name":""}}"#,
        &huge,
        &deep,
    ] {
        let world = World::new(false).state_file(StateFile::ContainerdBundle, &format!("k8s.io/{ID}"), json);
        world.process(7, 3, "sh", 1000, &format!("0::/kubepods/{ID}\n"));
        assert_eq!(told(&world.resolver().resolve(key(7), None, None)), plain);
    }
}

#[test]
fn what_a_shim_says_counts_only_if_the_bundle_agrees() {
    let check = |shim_uid: u32, told_path: &str, expected: &str| {
        let json = format!(r#"{{"linux":{{"cgroupsPath":"{told_path}"}}}}"#);
        let world = World::new(true).state_file(StateFile::ContainerdBundle, "default/lab-1", &json);
        world.process(2, 1, "containerd-shim", shim_uid, "0::/\n");
        world.arguments(2, &["/usr/bin/containerd-shim-runc-v2", "-namespace", "default", "-id", "lab-1"]);
        world.process(3, 2, "sh", 0, "4:pids:/lab/one\n0::/lab/one\n");
        world.process(7, 3, "curl", 0, "4:pids:/lab/one\n0::/lab/one\n");
        let mut resolver = world.resolver();
        assert_eq!(told(&resolver.resolve(key(7), None, None)), expected);
        expected.contains("container").then(|| {
            // The path is known now: one that is gone is found by it.
            let group = world.group("lab/one");
            let gone = resolver.resolve(key(9), Some(&task(9, 8, group, "curl")), None);
            assert_eq!(
                told(&gone),
                "exact comm=curl user=1000 container=lab-1 runtime=containerd name=lab-1"
            );
        });
    };
    check(0, "/lab/one", "exact comm=curl user=0 container=lab-1 runtime=containerd name=lab-1");
    check(0, "/lab", "exact comm=curl user=0 container=lab-1 runtime=containerd name=lab-1");
    check(0, "/lab/on", "exact comm=curl user=root");
    check(0, "/", "exact comm=curl user=root");
    check(1000, "/lab/one", "exact comm=curl user=root");
}
