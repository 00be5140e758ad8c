//! Who may know whom: the table of ARCHITECTURE.md, checked against what cargo resolves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde_json::Value;

use super::Finding;
use crate::shell;

/// What one package may know.
struct Layer {
    package: &'static str,
    /// Our own packages it may depend on.
    ours: &'static [&'static str],
    /// What must not be in its tree, however deep, tests apart.
    never: &'static [&'static str],
    /// Direct dependencies of others it may have; `None`: any that is not reserved.
    only: Option<&'static [&'static str]>,
}

const LAYERS: &[Layer] = &[
    Layer { package: "abi", ours: &[], never: &["aya"], only: Some(&["zerocopy"]) },
    Layer {
        package: "probes",
        ours: &["abi"],
        never: &["aya", "tokio"],
        only: Some(&["aya-ebpf", "aya-log-ebpf", "zerocopy"]),
    },
    Layer { package: "attach", ours: &["abi"], never: &["sled", "tonic", "rustls"], only: None },
    Layer {
        package: "meter",
        ours: &[],
        never: &["aya", "aya-obj", "hyper", "mio", "nix", "sled", "tokio", "tonic"],
        only: None,
    },
    Layer { package: "store", ours: &["meter"], never: &["aya", "aya-obj", "tokio", "tonic"], only: None },
    Layer { package: "proto", ours: &[], never: &["aya", "sled"], only: None },
    Layer {
        package: "host",
        ours: &["abi", "meter", "proto", "store"],
        never: &["ratatui", "crossterm", "comfy-table"],
        only: None,
    },
    Layer { package: "ctl", ours: &["proto"], never: &["aya", "aya-obj", "sled"], only: None },
    Layer { package: "xtask", ours: &[], never: &["aya", "tokio", "sled"], only: None },
    Layer { package: "e2e", ours: &["meter", "proto", "store"], never: &[], only: None },
    Layer { package: "bench", ours: &["e2e", "meter", "proto", "store"], never: &[], only: None },
];

/// Packages that only some of ours may name in their manifest, tests apart.
const RESERVED: &[(&str, &[&str])] = &[
    ("sled", &["store"]),
    ("aes-gcm-siv", &["store"]),
    ("aes-gcm", &["store"]),
    ("chacha20poly1305", &["store"]),
    ("aws-lc-rs", &["store"]),
    ("ring", &["store"]),
    ("aya", &["attach", "host"]),
    ("aya-obj", &["attach", "host"]),
    ("aya-ebpf", &["probes"]),
    ("seccompiler", &["host"]),
];

/// What cargo resolved of one package.
#[derive(Debug, Default)]
struct Node {
    /// Names of what it needs to run or build, tests apart.
    direct: BTreeSet<String>,
    /// True for a member of this workspace.
    ours: bool,
}

/// Checks the packages of this workspace.
pub(super) fn check() -> anyhow::Result<Vec<Finding>> {
    let text =
        shell::output(shell::cargo().args(["metadata", "--format-version", "1", "--locked", "--quiet"]))?;
    let graph = graph(&serde_json::from_str(&text).context("reading what `cargo metadata` says")?);
    Ok(findings(&graph))
}

fn findings(graph: &BTreeMap<String, Node>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, node) in graph.iter().filter(|(_, node)| node.ours) {
        let Some(layer) = LAYERS.iter().find(|layer| layer.package == name) else {
            findings.push(format!(
                "package {name} has no rule in xtask/src/tidy/layers.rs: say what it may know"
            ));
            continue;
        };
        for other in &node.direct {
            let others_is_ours = graph.get(other).is_some_and(|node| node.ours);
            if others_is_ours && !layer.ours.contains(&other.as_str()) {
                findings.push(format!("{name} must not depend on {other}: it may know {:?}", layer.ours));
            }
            if !others_is_ours && layer.only.is_some_and(|only| !only.contains(&other.as_str())) {
                findings.push(format!(
                    "{name} may depend on {:?} only, not on {other}",
                    layer.only.unwrap_or_default()
                ));
            }
            if let Some((_, allowed)) = RESERVED.iter().find(|(reserved, _)| reserved == other)
                && !allowed.contains(&name.as_str())
            {
                findings.push(format!("{other} is reserved for {allowed:?}; {name} must not name it"));
            }
        }
        let tree = tree(graph, name);
        for never in layer.never.iter().filter(|never| tree.contains(**never)) {
            findings
                .push(format!("{name} must not reach {never}: `cargo tree -p {name} -i {never}` shows how"));
        }
    }
    findings
}

/// Everything below `name`.
fn tree<'a>(graph: &'a BTreeMap<String, Node>, name: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut left: Vec<&str> =
        graph.get(name).map(|node| node.direct.iter().map(String::as_str).collect()).unwrap_or_default();
    while let Some(next) = left.pop() {
        if let Some((key, node)) = graph.get_key_value(next)
            && seen.insert(key.as_str())
        {
            left.extend(node.direct.iter().map(String::as_str));
        }
    }
    seen
}

/// Names and edges of `cargo metadata`; several versions of one name become one node.
fn graph(metadata: &Value) -> BTreeMap<String, Node> {
    let list = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let names: BTreeMap<String, String> = list(metadata, "packages")
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let members: BTreeSet<String> = list(metadata, "workspace_members").iter().map(text).collect();
    let mut graph: BTreeMap<String, Node> = BTreeMap::new();
    for node in list(&metadata["resolve"], "nodes") {
        let id = text(&node["id"]);
        let Some(name) = names.get(&id) else { continue };
        let entry = graph.entry(name.clone()).or_default();
        entry.ours |= members.contains(&id);
        for dep in list(&node, "deps") {
            let outside_tests =
                list(&dep, "dep_kinds").iter().any(|kind| kind["kind"].as_str() != Some("dev"));
            if let Some(dep) = names.get(&text(&dep["pkg"])).filter(|_| outside_tests) {
                entry.direct.insert(dep.clone());
            }
        }
    }
    graph
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(edges: &[(&str, &[&str])], expected: &[&str]) {
        let mut graph: BTreeMap<String, Node> = BTreeMap::new();
        for (name, direct) in edges {
            let ours = LAYERS.iter().any(|layer| layer.package == *name) || name.starts_with("new");
            let direct = direct.iter().map(|name| (*name).to_owned()).collect();
            graph.insert((*name).to_owned(), Node { direct, ours });
        }
        let found = findings(&graph);
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found} should say {expected}");
        }
    }

    #[test]
    fn forbidden_knowledge_is_found() {
        check(&[("meter", &["serde"]), ("serde", &[])], &[]);
        check(
            &[("meter", &["a"]), ("a", &["b"]), ("b", &["tokio"]), ("tokio", &[])],
            &["meter must not reach tokio"],
        );
        check(&[("ctl", &["store"]), ("store", &[])], &["ctl must not depend on store"]);
        check(&[("abi", &["serde"]), ("serde", &[])], &["abi may depend on"]);
        check(&[("host", &["sled"]), ("sled", &[])], &["sled is reserved"]);
        check(&[("newcomer", &[])], &["newcomer has no rule"]);
        check(&[("a", &["b"]), ("b", &["a"]), ("meter", &["a"])], &[]);
    }
}
