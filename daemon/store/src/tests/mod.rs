//! The store's promises, tested from outside its modules.

mod crash;
mod disk;
mod faults;
mod feed;
mod model;
mod retention;
mod samples;

use std::path::Path;

use meter::attribution::TenantName;
use tempfile::TempDir;

use crate::{Layout, Options, PrepareError, Prepared, Stores};

/// A state and a key directory that vanish with it.
struct Home {
    dir: TempDir,
    tenants: Vec<TenantName>,
}

impl Home {
    fn new(tenants: &[&str]) -> Home {
        let tenants = tenants.iter().map(|name| TenantName::new(name).unwrap()).collect();
        Home { dir: tempfile::tempdir().unwrap(), tenants }
    }

    fn layout(&self) -> Layout {
        layout_in(self.dir.path())
    }

    fn prepare(&self) -> Result<Prepared, PrepareError> {
        crate::prepare(&self.layout(), &self.tenants, None)
    }

    fn open(&self) -> Stores {
        self.open_with(options())
    }

    /// Waits for the locks of the databases, too.
    fn open_with(&self, options: Options) -> Stores {
        let started = std::time::Instant::now();
        loop {
            let stores = crate::open(self.prepare_when_free(), options.clone());
            let locked = stores.states().iter().any(|state| state.detail.contains("acquire lock"));
            if !locked || started.elapsed().as_secs() >= 10 {
                return stores;
            }
            drop(stores);
            std::thread::yield_now();
        }
    }

    /// The database of a tenant whose store is closed; waits for its lock.
    fn database(&self, tenant: &str) -> sled::Db {
        let path = self.layout().state_dir.join("tenants").join(tenant).join("db");
        let started = std::time::Instant::now();
        loop {
            match sled::open(&path) {
                Err(sled::Error::Io(_)) if started.elapsed().as_secs() < 10 => std::thread::yield_now(),
                other => return other.unwrap(),
            }
        }
    }

    /// Waits for the lock: a process that another test starts holds copies of all descriptors until its exec.
    fn prepare_when_free(&self) -> Prepared {
        let started = std::time::Instant::now();
        loop {
            match self.prepare() {
                Err(PrepareError::Locked { .. }) if started.elapsed().as_secs() < 10 => {
                    std::thread::yield_now()
                }
                other => return other.unwrap(),
            }
        }
    }
}

fn layout_in(dir: &Path) -> Layout {
    Layout { state_dir: dir.join("state"), key_dir: dir.join("keys") }
}

/// No reserve: the machine that runs the tests may be nearly full.
fn options() -> Options {
    Options { reserve_bytes: 0, ..Options::default() }
}

fn tenant(name: &str) -> TenantName {
    TenantName::new(name).unwrap()
}
