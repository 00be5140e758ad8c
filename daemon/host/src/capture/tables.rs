//! The kernel's maps as main uses them: rings to read, the host trie and verdicts to write, counters to sum.
//!
//! Main has descriptors, no capability: mapping the rings works everywhere, element commands from Linux 5.19 (before,
//! main keeps CAP_BPF under its system call filter). Whatever fails is an error that names the map.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use abi::attacher::Descriptor;
use abi::control::{self, DATAGRAMS_MAX, DatagramKey, DatagramState, HOST_KEY_BYTES, Verdict, VerdictKey};
use abi::counter::{self, Counter};
use anyhow::{Context, anyhow};
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{HashMap, Map, MapData, PerCpuArray, RingBuf};
use meter::directory::Directory;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::event::SessionIdentity;
use super::status::Loss;

/// `BPF_NOEXIST`
const NO_EXIST: u64 = 1;

/// The two rings.
pub(super) struct Rings {
    pub(super) events: RingBuf<MapData>,
    pub(super) content: RingBuf<MapData>,
}

/// The maps.
pub(super) struct Tables {
    hosts: LpmTrie<MapData, [u8; HOST_KEY_BYTES], u32>,
    verdicts: HashMap<MapData, [u8; size_of::<VerdictKey>()], u32>,
    counters: PerCpuArray<MapData, u64>,
    datagrams: HashMap<MapData, [u8; size_of::<DatagramKey>()], [u8; size_of::<DatagramState>()]>,
    verdicts_inserted: u64,
}

/// Opens everything that the attacher handed over.
pub(super) fn open(mut descriptors: BTreeMap<Descriptor, OwnedFd>) -> anyhow::Result<(Rings, Tables)> {
    let mut map = |which: Descriptor| -> anyhow::Result<Map> {
        let name = which.variant_name();
        let descriptor =
            descriptors.remove(&which).ok_or_else(|| anyhow!("venturi-attach sent no map {name}"))?;
        let data = MapData::from_fd(descriptor).with_context(|| format!("reading what map {name} is"))?;
        Map::from_map_data(data).with_context(|| format!("using map {name}"))
    };
    let rings = Rings {
        events: map(Descriptor::Events)?.try_into().context("mapping the ring EVENTS")?,
        content: map(Descriptor::Content)?.try_into().context("mapping the ring CONTENT")?,
    };
    let tables = Tables {
        hosts: map(Descriptor::Hosts)?.try_into().context("map HOSTS")?,
        verdicts: map(Descriptor::Verdicts)?.try_into().context("map VERDICTS")?,
        counters: map(Descriptor::Counters)?.try_into().context("map COUNTERS")?,
        datagrams: map(Descriptor::Datagrams)?.try_into().context("map DATAGRAMS")?,
        verdicts_inserted: 0,
    };
    Ok((rings, tables))
}

impl Tables {
    /// Fills the host trie from the directory; returns how many names it holds.
    ///
    /// # Errors
    /// The kernel refuses an entry: nothing would be recognised by it.
    pub(super) fn fill_hosts(&mut self, directory: &Directory) -> anyhow::Result<usize> {
        let mut count = 0;
        for (name, provider) in directory.kernel_keys() {
            let mut data = [0; HOST_KEY_BYTES];
            let len = name.len().min(HOST_KEY_BYTES);
            data[..len].copy_from_slice(&name[..len]);
            let bits = u32::try_from(len * 8).unwrap_or_default();
            self.hosts
                .insert(&Key::new(bits, data), provider, 0)
                .context("writing the provider directory to map HOSTS")?;
            count += 1;
        }
        Ok(count)
    }

    /// Tells the kernel what to do with a session; false if it refuses.
    pub(super) fn decide(&mut self, identity: &SessionIdentity, verdict: Verdict) -> bool {
        let mut key = VerdictKey::new_zeroed();
        key.ssl = identity.ssl;
        key.opened_ns = identity.opened_ns;
        key.tgid = identity.tgid;
        let mut bytes = [0; size_of::<VerdictKey>()];
        bytes.copy_from_slice(key.as_bytes());
        // A session may be decided on again; only a new entry counts as one.
        if self.verdicts.insert(bytes, verdict.wire(), NO_EXIST).is_ok() {
            self.verdicts_inserted += 1;
            return true;
        }
        self.verdicts.insert(bytes, verdict.wire(), 0).is_ok()
    }

    /// What the kernel counts of QUIC connections.
    pub(super) fn datagrams(&self) -> Vec<(DatagramKey, DatagramState)> {
        let read = |(key, state): ([u8; size_of::<DatagramKey>()], [u8; size_of::<DatagramState>()])| {
            Some((DatagramKey::read_from_bytes(&key).ok()?, DatagramState::read_from_bytes(&state).ok()?))
        };
        self.datagrams.iter().flatten().take(DATAGRAMS_MAX as usize).filter_map(read).collect()
    }

    /// Removes a QUIC connection.
    pub(super) fn forget_datagrams(&mut self, key: &DatagramKey) {
        let mut bytes = [0; size_of::<DatagramKey>()];
        bytes.copy_from_slice(key.as_bytes());
        // It may never have been there: the kernel's table was full.
        let _ = self.datagrams.remove(&bytes);
    }

    /// Entries that full tables of the kernel forgot by themselves, at least: they hold no more than their capacity, and
    /// every entry was made, and removed or not. `counters` as [`Tables::counters`] reads them.
    pub(super) fn evicted(&self, counters: &[u64]) -> [(Loss, u64); 4] {
        let read = |counter: Counter| counters.get(counter as usize).copied().unwrap_or_default();
        let sessions =
            evicted(read(Counter::SessionsInserted), read(Counter::SessionsRemoved), control::SESSIONS_MAX);
        let verdicts = evicted(self.verdicts_inserted, read(Counter::VerdictsRemoved), control::VERDICTS_MAX);
        let programs = evicted(read(Counter::ProgramsInserted), 0, control::PROGRAMS_MAX);
        let lookups =
            evicted(read(Counter::LookupsInserted), read(Counter::LookupsRemoved), control::LOOKUPS_MAX);
        [
            (Loss::LookupsEvicted, lookups),
            (Loss::SessionsEvicted, sessions),
            (Loss::VerdictsEvicted, verdicts),
            (Loss::ProgramsEvicted, programs),
        ]
    }

    /// Every counter, summed over CPUs; `None` if they cannot be read.
    pub(super) fn counters(&self) -> Option<Vec<u64>> {
        let sum = |index: usize| {
            let values = self.counters.get(&u32::try_from(index).ok()?, 0).ok()?;
            Some(values.iter().sum())
        };
        (0..counter::COUNT).map(sum).collect()
    }
}

/// Entries that a table forgot by itself, at least.
fn evicted(made: u64, removed: u64, room: u32) -> u64 {
    made.saturating_sub(removed).saturating_sub(u64::from(room))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_neither_removed_nor_fits_was_forgotten() {
        let check =
            |made, removed, room, expected| assert_eq!(evicted(made, removed, room), expected, "{made}");
        check(0, 0, 10, 0);
        check(10, 0, 10, 0);
        check(11, 0, 10, 1);
        check(31, 20, 10, 1);
        // Counters of several processors are not read at one moment.
        check(5, 6, 10, 0);
        check(u64::MAX, 0, u32::MAX, u64::MAX - u64::from(u32::MAX));
    }
}
