//! Disks that are full, do not answer, or answer with an error: said at once, nothing acknowledged is lost.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::samples::sample;
use super::{Home, layout_in, options, tenant};
use crate::durable::BROKEN_INODE;
use crate::{CommitError, Options, ReadError, StoreState, Stores, TenantState};

const ONE: &str = "ads";
/// Longest wait for a condition.
const PATIENCE: Duration = Duration::from_secs(60);
/// No answer takes so long that waits for no disk.
const AT_ONCE: Duration = Duration::from_millis(500);

fn open(dir: &Path) -> Stores {
    let options = Options { revive_after: Duration::ZERO, ..options() };
    crate::open(crate::prepare(&layout_in(dir), &[tenant(ONE)], None).unwrap(), options)
}

fn store(stores: &Stores, number: u64) -> Result<(), CommitError> {
    stores.commit(&[sample(ONE, number * 1_000_000, number)]).tenants.remove(0).result
}

fn state(stores: &Stores) -> TenantState {
    stores.states().remove(0)
}

fn holds(stores: &Stores, number: u64) -> bool {
    let record = sample(ONE, number * 1_000_000, number);
    stores.reader(&tenant(ONE)).unwrap().get(record.id).unwrap() == Some(record)
}

fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        thread::yield_now();
    }
}

fn skipped(test: &str, why: impl std::fmt::Display) {
    println!("SKIPPED {test}: {why}");
    assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "must not be skipped: {why}");
}

/// The disk fills up under the store, past the reserve: sled fails, nothing acknowledged is lost, nothing hangs, and
/// when there is space again records are stored again.
#[test]
fn a_disk_that_fills_up_takes_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mount_with = |flags, size| mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(size));
    if let Err(error) = mount_with(MsFlags::empty(), "size=6m") {
        return skipped("a_disk_that_fills_up_takes_nothing_that_was_acknowledged", error);
    }
    let stores = open(dir.path());
    let acknowledged: Vec<u64> = (0..30_000).take_while(|number| store(&stores, *number).is_ok()).collect();
    assert!((500..30_000).contains(&acknowledged.len()), "{} records fit", acknowledged.len());
    let full = state(&stores);
    assert_eq!((full.state, full.records_lost, full.recoveries), (StoreState::Failed, 1, 0));
    assert!(full.detail.contains("No space"), "{}", full.detail);
    stores.upkeep(meter::time::UnixNanos(0));

    mount_with(MsFlags::MS_REMOUNT, "size=60m").unwrap();
    wait_until("records are stored again", || store(&stores, 30_001).is_ok());
    let check = |stores: &Stores| {
        let state = state(stores);
        let healthy = (StoreState::Open, 0, 0);
        assert_eq!((state.state, state.recoveries, state.records_missing), healthy, "{}", state.detail);
        assert!(acknowledged.iter().chain([&30_001]).all(|number| holds(stores, *number)));
    };
    check(&stores);
    drop(stores);
    check(&open(dir.path()));
    umount2(dir.path(), MntFlags::MNT_DETACH).unwrap();
}

/// An ext4 of its own, made of a file. Thawed and unmounted when dropped.
struct Disk {
    dir: tempfile::TempDir,
    frozen: bool,
}

impl Disk {
    fn new() -> Result<Disk, String> {
        let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
        let run = |program: &str, arguments: &[&str]| {
            let done = Command::new(program).args(arguments).current_dir(dir.path()).output();
            match done {
                Ok(output) if output.status.success() => Ok(()),
                Ok(output) => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
                Err(error) => Err(format!("{program}: {error}")),
            }
        };
        fs::create_dir(dir.path().join("disk")).map_err(|error| error.to_string())?;
        File::create(dir.path().join("image"))
            .and_then(|file| file.set_len(64 << 20))
            .map_err(|error| error.to_string())?;
        run("/sbin/mkfs.ext4", &["-q", "image"])?;
        run("mount", &["-o", "loop", "image", "disk"])?;
        Ok(Disk { dir, frozen: false })
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    /// From now on nobody who writes to it comes back.
    fn freeze(&mut self) {
        self.frozen = true;
        self.fsfreeze("--freeze");
    }

    fn thaw(&mut self) {
        if std::mem::take(&mut self.frozen) {
            self.fsfreeze("--unfreeze");
        }
    }

    fn fsfreeze(&self, what: &str) {
        let status = Command::new("fsfreeze").arg(what).arg(self.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "fsfreeze {what}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.thaw();
        // What was left open keeps it mounted until it is closed.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

/// The disk does not come back from a write: status answers at once and says so, questions are refused after moments,
/// and once it answers everything goes on as if nothing had been.
#[test]
fn a_disk_that_does_not_answer_makes_nobody_wait() {
    let mut disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => return skipped("a_disk_that_does_not_answer_makes_nobody_wait", why),
    };
    let stores = open(&disk.path());
    for number in 0..20 {
        store(&stores, number).unwrap();
    }
    assert_eq!((state(&stores).state, state(&stores).stuck_for), (StoreState::Open, None));
    disk.freeze();
    thread::scope(|scope| {
        let writer = scope.spawn(|| store(&stores, 20));
        let longest = std::cell::Cell::new(Duration::ZERO);
        let ask = || {
            let started = Instant::now();
            let state = state(&stores);
            longest.set(longest.get().max(started.elapsed()));
            state
        };
        wait_until("the store says that it is stuck", || ask().state == StoreState::Stuck);
        let stuck = ask();
        assert!(stuck.stuck_for.is_some_and(|time| time >= Duration::from_secs(3)));
        assert!(stuck.detail.contains("has not answered for"), "{}", stuck.detail);
        assert_eq!((stuck.records, stuck.records_lost), (20, 0), "as it was last known to be");
        let started = Instant::now();
        let reader = stores.reader(&tenant(ONE)).unwrap();
        let refused = reader.get(sample(ONE, 0, 0).id);
        assert!(matches!(refused, Err(ReadError::Failed { .. })), "{refused:?}");
        assert!(started.elapsed() < AT_ONCE && longest.get() < AT_ONCE, "{:?}", longest.get());
        disk.thaw();
        writer.join().unwrap().unwrap();
    });
    assert_eq!((state(&stores).state, state(&stores).records), (StoreState::Open, 21));
    assert!((0..21).all(|number| holds(&stores, number)));
}

/// A flush that fails is never repeated on the same database: it is opened again; failing again and again it is set
/// aside whole, and what follows is stored. Nothing acknowledged is gone.
#[test]
fn a_database_that_keeps_failing_is_set_aside_and_replaced() {
    let home = Home::new(&[ONE]);
    let stores = open(home.dir.path());
    for number in 0..5 {
        store(&stores, number).unwrap();
    }
    let directory = home.layout().state_dir.join("tenants/ads");
    let broken = |inode| BROKEN_INODE.store(inode, Ordering::Relaxed);
    let fail = |number| {
        broken(fs::metadata(directory.join("db/db")).unwrap().ino());
        let error = store(&stores, number).unwrap_err();
        broken(0);
        assert!(matches!(&error, CommitError::Failed(why) if why.contains("Input/output error")), "{error}");
    };
    // Twice it recovers.
    for number in [100, 101] {
        fail(number);
        assert_eq!(state(&stores).state, StoreState::Failed);
        store(&stores, number + 100).unwrap();
        assert_eq!(state(&stores).state, StoreState::Open);
        assert!((0..5).all(|number| holds(&stores, number)));
    }
    fail(102);
    let replaced = state(&stores);
    assert_eq!((replaced.state, replaced.recoveries), (StoreState::Quarantined, 1), "{}", replaced.detail);
    assert!(replaced.detail.contains("failed 3 times"), "{}", replaced.detail);
    assert_eq!((replaced.records, replaced.records_lost, replaced.records_missing), (0, 3, 0));
    store(&stores, 300).unwrap();
    stores.upkeep(meter::time::UnixNanos(0));
    let aside = state(&stores);
    assert!(
        aside.records_aside >= 7,
        "five, and the two that were stored in between: {}",
        aside.records_aside
    );
    drop(stores);

    // What was set aside opens as it was.
    let moved = fs::read_dir(&directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.file_name().unwrap().to_string_lossy().contains("quarantine"))
        .expect("a database aside");
    fs::rename(directory.join("db"), home.dir.path().join("new")).unwrap();
    fs::rename(moved, directory.join("db")).unwrap();
    fs::remove_file(directory.join("mark")).unwrap();
    let stores = open(home.dir.path());
    assert!([0, 1, 2, 3, 4, 200, 201].into_iter().all(|number| holds(&stores, number)));
}
