//! What a runtime's state file says of a container: name, image, pod, labels.
//!
//! The files are written by the runtime, but names, images and labels in them are the author's. Parsing is total: what
//! is not understood is absent. The cgroup path in a bundle is the runtime's own word and proves which container a
//! process belongs to where the path itself does not name it.

use std::collections::BTreeMap;
use std::io::{self, Read};

use abi::attacher::StateFile;
use meter::workload::ProcessKey;
use serde_json::Value;

/// Opens what the daemon may not open itself.
pub trait StateFiles: Send + Sync {
    /// The content of the state file of container `id` (`NAMESPACE/ID` where the runtime has namespaces).
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `WouldBlock` if the answer is put off; anything else is treated alike.
    fn open(&self, kind: StateFile, id: &str) -> io::Result<Box<dyn Read>>;

    /// The content of `/proc/PID/maps` of a process.
    ///
    /// # Errors
    /// `NotFound` if the process has ended; anything else is treated alike.
    fn open_maps(&self, process: ProcessKey) -> io::Result<Box<dyn Read>>;

    /// Answers so far that were put off (`WouldBlock`): they will be there when the same is asked again.
    fn deferred(&self) -> u64 {
        0
    }
}

/// No files: names of containers and executables stay unknown.
#[derive(Debug)]
pub struct NoStateFiles;

impl StateFiles for NoStateFiles {
    fn open(&self, _kind: StateFile, _id: &str) -> io::Result<Box<dyn Read>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn open_maps(&self, _process: ProcessKey) -> io::Result<Box<dyn Read>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Bytes of a state file read; larger files are not parsed.
const STATE_BYTES_MAX: u64 = 1 << 20;
/// Labels kept of a container.
const LABELS_MAX: usize = 64;
/// Bytes of a label's key or value; longer ones are left out.
const LABEL_BYTES_MAX: usize = 256;
/// Bytes of a name or an image.
const NAME_BYTES_MAX: usize = 512;

/// What a state file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) name: Option<Box<str>>,
    pub(super) image: Option<Box<str>>,
    pub(super) pod_name: Option<Box<str>>,
    pub(super) pod_namespace: Option<Box<str>>,
    pub(super) pod_uid: Option<Box<str>>,
    pub(super) labels: BTreeMap<Box<str>, Box<str>>,
    /// `linux.cgroupsPath` of the bundle.
    pub(super) cgroups_path: Option<Box<str>>,
}

/// The state file of a container known by its id and runtime, as the cgroup path gives them.
pub(super) fn look_up(files: &dyn StateFiles, runtime: &str, id: &str, path: &str) -> Option<Details> {
    use StateFile::{ContainerdBundle, ContainersStorage, ContainersStorageRoot, DockerConfig, RuncState};
    let mut tries: Vec<(StateFile, String)> = Vec::with_capacity(8);
    let containerd = |tries: &mut Vec<(StateFile, String)>| {
        // `/NAMESPACE/ID` is what containerd chooses itself.
        let above = path.rsplit('/').nth(1).filter(|above| is_namespace(above));
        for namespace in above.into_iter().chain(["k8s.io", "default", "moby"]) {
            tries.push((ContainerdBundle, format!("{namespace}/{id}")));
        }
    };
    match runtime {
        "docker" => tries.push((DockerConfig, id.to_owned())),
        "podman" | "crio" => {
            tries.push((ContainersStorage, id.to_owned()));
            tries.push((ContainersStorageRoot, id.to_owned()));
        }
        "containerd" => containerd(&mut tries),
        _ => {
            containerd(&mut tries);
            for kind in [DockerConfig, ContainersStorage, ContainersStorageRoot, RuncState] {
                tries.push((kind, id.to_owned()));
            }
        }
    }
    tries.into_iter().find_map(|(kind, id)| read(files, kind, &id))
}

/// The bundle of containerd's container `namespace/id`.
pub(super) fn bundle_of(files: &dyn StateFiles, namespaced: &str) -> Option<Details> {
    read(files, StateFile::ContainerdBundle, namespaced)
}

impl Details {
    /// Whether the bundle says that its processes are in one of these cgroup paths.
    pub(super) fn covers(&self, paths: &[&str]) -> bool {
        let Some(told) = self.cgroups_path.as_deref().filter(|told| told.len() > 1 && told.starts_with('/'))
        else {
            return false;
        };
        let below = |path: &&str| {
            path.strip_prefix(told).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        paths.iter().any(below)
    }
}

/// A word that may be a namespace of containerd: not the name of a slice or unit.
pub(super) fn is_namespace(word: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let unit = [".slice", ".service", ".scope"].iter().any(|end| word.ends_with(end));
    !word.is_empty() && word.len() <= 76 && word.bytes().all(plain) && !unit && word != "." && word != ".."
}

fn read(files: &dyn StateFiles, kind: StateFile, id: &str) -> Option<Details> {
    let file = files.open(kind, id).ok()?;
    let mut bytes = Vec::new();
    file.take(STATE_BYTES_MAX + 1).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > STATE_BYTES_MAX {
        return None;
    }
    let json: Value = serde_json::from_slice(&bytes).ok()?;
    Some(match kind {
        StateFile::DockerConfig => docker(&json),
        StateFile::RuncState => runc(&json),
        _ => bundle(&json),
    })
}

/// An OCI `config.json` with the annotations of containerd's CRI, CRI-O, nerdctl or Podman.
fn bundle(json: &Value) -> Details {
    let annotations = &json["annotations"];
    let text = |keys: &[&str]| keys.iter().find_map(|key| name(&annotations[*key]));
    let mut labels = labels_of(annotations, |key| !key.starts_with("io.kubernetes.cri"));
    // CRI-O keeps the labels as JSON in an annotation.
    if let Some(Ok(nested)) =
        annotations["io.kubernetes.cri-o.Labels"].as_str().map(serde_json::from_str::<Value>)
    {
        labels.extend(labels_of(&nested, |_| true));
    }
    Details {
        name: text(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"]),
        image: text(&[
            "io.kubernetes.cri.image-name",
            "io.kubernetes.cri-o.ImageName",
            "org.opencontainers.image.ref.name",
            "io.podman.annotations.image",
        ]),
        pod_name: text(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        pod_namespace: text(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
        pod_uid: text(&["io.kubernetes.cri.sandbox-uid", "io.kubernetes.pod.uid"]),
        labels,
        cgroups_path: name(&json["linux"]["cgroupsPath"]),
    }
}

/// libcontainer's `state.json`: the annotations are in a list of `key=value`.
fn runc(json: &Value) -> Details {
    let pair = |label: &Value| {
        let (key, value) = label.as_str()?.split_once('=')?;
        (key != "bundle").then(|| (key.to_owned(), Value::from(value)))
    };
    let labels = json["config"]["labels"].as_array().into_iter().flatten();
    let annotations: serde_json::Map<String, Value> = labels.filter_map(pair).collect();
    bundle(&serde_json::json!({ "annotations": annotations }))
}

/// Docker's `config.v2.json`.
fn docker(json: &Value) -> Details {
    let config = &json["Config"];
    let label = |key: &str| name(&config["Labels"][key]);
    Details {
        name: label("io.kubernetes.container.name")
            .or_else(|| name(&json["Name"]).map(|name| name.trim_start_matches('/').into())),
        image: name(&config["Image"]),
        pod_name: label("io.kubernetes.pod.name"),
        pod_namespace: label("io.kubernetes.pod.namespace"),
        pod_uid: label("io.kubernetes.pod.uid"),
        labels: labels_of(&config["Labels"], |_| true),
        cgroups_path: None,
    }
}

fn name(value: &Value) -> Option<Box<str>> {
    let text = value.as_str()?;
    let good = !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.contains(char::is_control);
    good.then(|| text.into())
}

fn labels_of(value: &Value, wanted: impl Fn(&str) -> bool) -> BTreeMap<Box<str>, Box<str>> {
    let Some(object) = value.as_object() else { return BTreeMap::new() };
    let short = |text: &str| text.len() <= LABEL_BYTES_MAX && !text.contains(char::is_control);
    object
        .iter()
        .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
        .filter(|(key, value)| !key.is_empty() && short(key) && short(value) && wanted(key))
        .take(LABELS_MAX)
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}
