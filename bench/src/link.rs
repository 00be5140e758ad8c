//! A network of the benchmark's own: a veth pair into a network namespace.

use std::process::{Command, Stdio};

/// The near end's address; the far end has the next ones.
pub(crate) const NEAR: &str = "198.18.77.1";

/// A veth pair whose far end answers on addresses of its own; gone when dropped.
pub(crate) struct Link {
    /// The far end's namespace.
    pub(crate) namespace: &'static str,
}

impl Link {
    /// Makes it, with `addresses` far addresses from 198.18.77.2 on.
    pub(crate) fn new(addresses: u8) -> anyhow::Result<Link> {
        let link = Link { namespace: "venturi-bench" };
        let namespace = link.namespace;
        let ip =
            |arguments: &str| Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
        let _ = ip(&format!("netns del {namespace}"));
        ip(&format!("netns add {namespace}"))?;
        ip(&format!("link add vbench0 type veth peer name vbench1 netns {namespace}"))?;
        ip(&format!("addr add {NEAR}/24 dev vbench0"))?;
        ip("link set vbench0 up")?;
        for address in 0..addresses {
            ip(&format!("-n {namespace} addr add 198.18.77.{}/24 dev vbench1", 2 + address))?;
        }
        ip(&format!("-n {namespace} link set vbench1 up"))?;
        Ok(link)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for arguments in [["link", "del", "vbench0"], ["netns", "del", self.namespace]] {
            let _ = Command::new("ip").args(arguments).stderr(Stdio::null()).status();
        }
    }
}
