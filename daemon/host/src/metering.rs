//! What the pipelines work with: directory, owner index, catalogue, keys; and the one that a shard drives.
//!
//! The owner index is immutable and swapped as a whole. As long as its only source is the configuration, keeping it
//! fresh means saying at intervals that its rules are still those; if that stops, the index becomes stale and records
//! say so.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use meter::attribution::OwnerIndex;
use meter::directory::Directory;
use meter::pipeline::{Attempts, FingerprintKeys, Input, Output, Pipeline, PipelineOptions};
use meter::pricing::Catalogue;
use meter::time::Moment;
use store::Stores;

use crate::capture::status::{realtime, wall_clock};
use crate::config::Config;
use crate::shards::Meter;

/// What all pipelines share. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    directory: Arc<Directory>,
    owners: Arc<ArcSwap<OwnerIndex>>,
    catalogue: Arc<Catalogue>,
    fingerprint_keys: FingerprintKeys,
    attempts: Attempts,
}

impl Shared {
    pub(crate) fn new(config: &Config, stores: &Stores) -> anyhow::Result<Shared> {
        let mut directory = Directory::builtin();
        // The configuration was checked with the same two calls: an error here is a defect of ours.
        directory.extend(&config.providers).map_err(|errors| anyhow::anyhow!("providers: {errors:?}"))?;
        let owners = OwnerIndex::compile(&config.owners, 1, realtime())
            .map_err(|errors| anyhow::anyhow!("owner rules: {errors:?}"))?;
        let catalogue = Catalogue::vendored()
            .context("the price catalogue in this program is damaged: install the program again")?;
        let mut fingerprint_keys = FingerprintKeys::default();
        for tenant in config.tenant_names() {
            if let Some(key) = stores.fingerprint_key(&tenant) {
                fingerprint_keys.insert(tenant, *key);
            }
        }
        Ok(Shared {
            directory: Arc::new(directory),
            owners: Arc::new(ArcSwap::from_pointee(owners)),
            catalogue: Arc::new(catalogue),
            fingerprint_keys,
            attempts: Attempts::new(random_key()),
        })
    }

    pub(crate) fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    pub(crate) fn owners(&self) -> Arc<ArcSwap<OwnerIndex>> {
        Arc::clone(&self.owners)
    }

    pub(crate) fn catalogue(&self) -> Arc<Catalogue> {
        Arc::clone(&self.catalogue)
    }

    /// A pipeline for one shard.
    pub(crate) fn pipeline(&self, shard: usize) -> Driven {
        let owners = self.owners.load_full();
        let options = PipelineOptions {
            directory: self.directory(),
            owners: Arc::clone(&owners),
            catalogue: self.catalogue(),
            clock: wall_clock(),
            fingerprint_keys: self.fingerprint_keys.clone(),
            attempts: self.attempts.clone(),
            id_seed: RandomState::new().hash_one(shard),
            detect_by_path: true,
            fence_panics: true,
        };
        Driven { pipeline: Pipeline::new(options), owners, source: self.owners(), clock_checked: Moment(0) }
    }

    /// Renews the index three times within its maximum age, for ever; an occasion to give back unused memory.
    pub(crate) async fn keep_fresh(self) {
        loop {
            let index = self.owners.load_full();
            tokio::time::sleep(Duration::from_nanos(index.max_staleness_ns() / 3)).await;
            crate::memory::give_back();
            self.owners.store(Arc::new(index.refreshed(index.generation(), realtime())));
        }
    }
}

/// A key that nobody knows, other at every start.
fn random_key() -> [u8; 16] {
    let random = RandomState::new();
    (u128::from(random.hash_one(0)) << 64 | u128::from(random.hash_one(1))).to_le_bytes()
}

/// How often a pipeline looks whether the wall clock was set, ns.
const CLOCK_CHECK_NS: u64 = 10_000_000_000;

/// A pipeline that follows the index and the wall clock.
pub(crate) struct Driven {
    pipeline: Pipeline,
    owners: Arc<OwnerIndex>,
    source: Arc<ArcSwap<OwnerIndex>>,
    clock_checked: Moment,
}

impl Meter for Driven {
    fn handle(&mut self, input: Input<'_>, now: Moment) {
        let newest = self.source.load();
        if !Arc::ptr_eq(&newest, &self.owners) {
            self.owners = Arc::clone(&newest);
            self.pipeline.set_owners(Arc::clone(&newest));
        }
        if now.since(self.clock_checked) > CLOCK_CHECK_NS {
            self.clock_checked = now;
            self.pipeline.set_clock(wall_clock());
        }
        self.pipeline.handle(input, now);
    }

    fn poll(&mut self) -> Option<Output> {
        self.pipeline.poll()
    }

    fn deadline(&self) -> Option<Moment> {
        self.pipeline.deadline()
    }
}
