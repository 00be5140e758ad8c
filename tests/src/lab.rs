//! A provider and the world in which clients find it. One laboratory at a time: the daemon watches the whole node, so
//! whoever starts one takes a turn.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::ca::{AI_HOSTS, Authority, OTHER_HOSTS};
use crate::clients::World;
use crate::provider::{self, Served};
use crate::relay::Distance;

static TURN: Mutex<()> = Mutex::new(());
static NEXT_ADDRESS: AtomicU8 = AtomicU8::new(1);

/// A provider behind TLS on loopback addresses of this test's own, and the world in which clients find it.
pub struct Lab {
    /// Folder of this laboratory.
    pub dir: tempfile::TempDir,
    /// Where clients find the providers.
    pub world: World,
    /// What the AI hosts served.
    pub ai: Arc<Served>,
    /// What the other hosts served.
    pub other: Arc<Served>,
    address: IpAddr,
    authority: Authority,
    runtime: tokio::runtime::Runtime,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// A laboratory whose provider offers `alpn`.
    ///
    /// # Panics
    /// If its addresses or folders cannot be had: then nothing can be tested.
    pub fn new(alpn: &[&str]) -> Lab {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = tempfile::Builder::new().prefix("venturi-lab").tempdir().expect("a temporary folder");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let authority = Authority::new(dir.path()).expect("a certificate authority");
        let number = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
        let address = IpAddr::V4(Ipv4Addr::new(127, 77, number, 1));
        let other_address = IpAddr::V4(Ipv4Addr::new(127, 77, number, 2));
        let spawn = |address: IpAddr| {
            let tls = authority.server_config(alpn).expect("a TLS configuration");
            runtime
                .block_on(provider::spawn(SocketAddr::new(address, 443), tls))
                .expect("a listening provider")
        };
        let (ai, other) = (spawn(address), spawn(other_address));
        let hosts = AI_HOSTS.iter().map(|host| ((*host).to_owned(), address));
        let others = OTHER_HOSTS.iter().map(|host| ((*host).to_owned(), other_address));
        let world = World { hosts: hosts.chain(others).collect(), ca: authority.pem.clone() };
        Lab { dir, world, ai, other, address, authority, runtime, _turn: turn }
    }

    /// Folder of this laboratory.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The same world, `delay` per direction away.
    ///
    /// # Panics
    /// If the relay cannot listen.
    pub fn at_distance(&self, delay: Duration) -> World {
        self.behind(Distance { delay, window: None })
    }

    /// The same world, `delay` per direction away, where `host` is the server on `port` of loopback behind our TLS, which
    /// offers `alpn`.
    ///
    /// # Panics
    /// If the relays cannot listen.
    pub fn fronting(&self, host: &str, port: u16, alpn: &[&str], delay: Duration) -> World {
        let number = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
        let near = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 77, number, 1)), 443);
        let far = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 78, number, 1)), 443);
        let tls = self.authority.server_config(alpn).expect("a TLS configuration");
        let server = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        self.runtime.block_on(crate::relay::terminate(near, tls, server)).expect("an end of TLS");
        self.runtime
            .block_on(crate::relay::spawn(far, near, Distance { delay, window: None }))
            .expect("a relay");
        let mut world = self.world.clone();
        world.hosts.insert(host.to_owned(), far.ip());
        world
    }

    /// The same world with the AI hosts behind a relay over `distance`.
    pub fn behind(&self, distance: Distance) -> World {
        let number = NEXT_ADDRESS.fetch_add(1, Ordering::Relaxed);
        let far = IpAddr::V4(Ipv4Addr::new(127, 78, number, 1));
        let relay =
            crate::relay::spawn(SocketAddr::new(far, 443), SocketAddr::new(self.address, 443), distance);
        self.runtime.block_on(relay).expect("a relay");
        let mut world = self.world.clone();
        for host in AI_HOSTS {
            world.hosts.insert((*host).to_owned(), far);
        }
        world
    }
}
