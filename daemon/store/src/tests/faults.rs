//! Damage, theft, mix-ups: refused or set aside, one tenant at a time, and never shown as data.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use meter::record::Record;

use super::samples::{CANARY, sample};
use super::{Home, layout_in, options, tenant};
use crate::{CommitError, Durability, ListQuery, Options, PrepareError, StoreState, Stores, UsageQuery};

const ONE: &str = "ads";
const TWO: &str = "search";

fn records(name: &str, count: u64) -> Vec<Record> {
    (0..count).map(|seed| sample(name, seed * 1_000_000, seed)).collect()
}

/// A home whose two tenants hold 300 records each, closed.
fn furnished() -> Home {
    let home = Home::new(&[ONE, TWO]);
    let stores = home.open();
    for name in [ONE, TWO] {
        assert_eq!(stores.commit(&records(name, 300)).lost(), 0);
    }
    assert!(stores.states().iter().all(|state| state.state == StoreState::Open && state.records == 300));
    home
}

fn listed(stores: &Stores, name: &str) -> usize {
    let query = ListQuery { limit: 10_000, ..ListQuery::default() };
    stores.reader(&tenant(name)).unwrap().list(&query).unwrap().records.len()
}

#[test]
fn keys_that_must_not_be_used_are_refused() {
    let check = |harm: &dyn Fn(&Path, &Path), word: &str| {
        let home = furnished();
        let layout = home.layout();
        harm(&layout.key_dir, &layout.state_dir.join("tenants"));
        let error = home.prepare().expect_err(word);
        assert!(matches!(error, PrepareError::KeyRefused { .. }), "{error}");
        assert_eq!(error.exit_code(), 78);
        assert!(error.to_string().contains(word), "{error}");
        // Refused again: the first refusal changed nothing, above all it made no key.
        assert_eq!(home.prepare().expect_err(word).to_string(), error.to_string());
    };
    let swap = |a: PathBuf, b: PathBuf| {
        let aside = a.with_extension("aside");
        fs::rename(&a, &aside).unwrap();
        fs::rename(&b, &a).unwrap();
        fs::rename(&aside, &b).unwrap();
    };
    check(&|keys, _| fs::remove_file(keys.join("ads.key")).unwrap(), "missing");
    check(
        &|keys, _| File::options().write(true).open(keys.join("ads.key")).unwrap().set_len(31).unwrap(),
        "length",
    );
    check(&|keys, _| File::create(keys.join("ads.key")).map(drop).unwrap(), "length");
    check(&|keys, _| flip(&keys.join("ads.key"), 30), "damaged");
    check(
        &|keys, _| fs::set_permissions(keys.join("ads.key"), Permissions::from_mode(0o640)).unwrap(),
        "others may use it",
    );
    check(&|keys, _| swap(keys.join("ads.key"), keys.join("search.key")), "belongs to store");
    check(&|_, tenants| swap(tenants.join(ONE), tenants.join(TWO)), "belongs to tenant");
    check(
        &|_, tenants| swap(tenants.join("ads/identity"), tenants.join("search/identity")),
        "belongs to tenant",
    );
    check(
        &|_, tenants| fs::remove_file(tenants.join("ads/identity")).unwrap(),
        "identity of this store is missing",
    );
    check(&|_, tenants| fs::write(tenants.join("ads/identity"), [0xff; 9]).unwrap(), "damaged");
    check(
        &|keys, _| {
            fs::rename(keys.join("ads.key"), keys.join("real")).unwrap();
            std::os::unix::fs::symlink(keys.join("real"), keys.join("ads.key")).unwrap();
        },
        "cannot be opened",
    );
    check(
        &|keys, _| {
            fs::remove_file(keys.join("ads.key")).unwrap();
            fs::create_dir(keys.join("ads.key")).unwrap();
        },
        "not a regular file",
    );
}

/// A key file of the right form and the right store, but with another key.
#[test]
fn a_wrong_key_for_the_right_store_is_refused() {
    let home = furnished();
    let path = home.layout().key_dir.join("ads.key");
    let mut file = fs::read(&path).unwrap();
    file[30] ^= 1;
    let end = file.len() - 4;
    let sum = crc32c::crc32c(&file[..end]).to_be_bytes();
    file[end..].copy_from_slice(&sum);
    fs::write(&path, file).unwrap();
    let error = home.prepare().unwrap_err();
    assert!(error.to_string().contains("does not open the data key"), "{error}");
    assert_eq!(error.exit_code(), 78);
}

#[test]
fn a_key_without_a_store_serves_a_new_one() {
    let home = furnished();
    fs::remove_dir_all(home.layout().state_dir).unwrap();
    let stores = home.open();
    assert_eq!(listed(&stores, ONE), 0);
    assert_eq!(stores.commit(&records(ONE, 3)).lost(), 0);
    drop(stores);
    assert_eq!(listed(&home.open(), ONE), 3);
}

#[test]
fn one_daemon_at_a_time() {
    let home = Home::new(&[ONE]);
    let stores = home.open();
    let error = home.prepare().unwrap_err();
    assert!(matches!(error, PrepareError::Locked { .. }), "{error}");
    assert_eq!(error.exit_code(), 1);
    let reader = stores.reader(&tenant(ONE)).unwrap();
    drop(stores);
    assert!(home.prepare().is_err(), "a reader holds the lock too");
    drop(reader);
    drop(home.prepare_when_free());
}

#[test]
fn directories_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let check = |state_dir: PathBuf, key_dir: PathBuf, word: &str| {
        let error = crate::prepare(&crate::Layout { state_dir, key_dir }, &[tenant(ONE)], None).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.exit_code(), 1);
    };
    let path = |name: &str| dir.path().join(name);
    check(file.clone(), path("keys"), "file");
    check(path("a"), file.clone(), "file");
    check(path("b"), path("b/keys"), "contain each other");
    check(path("c/state"), path("c"), "contain each other");
    fs::create_dir(path("open")).unwrap();
    fs::set_permissions(path("open"), Permissions::from_mode(0o777)).unwrap();
    check(path("d"), path("open"), "chmod 700");
    // A tenant's directory that was replaced by a link is not followed.
    fs::create_dir_all(path("e/tenants")).unwrap();
    std::os::unix::fs::symlink(dir.path(), path("e/tenants/ads")).unwrap();
    check(path("e"), path("keys"), "tenants/ads");
}

/// As root the directories go to the daemon's user, the keys stay with root.
#[test]
fn directories_belong_to_the_daemon_and_keys_to_root() {
    use std::os::unix::fs::MetadataExt as _;
    if !nix::unistd::Uid::effective().is_root() {
        println!("SKIPPED directories_belong_to_the_daemon_and_keys_to_root: not root");
        assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "root is required");
        return;
    }
    let home = Home::new(&[ONE]);
    let layout = home.layout();
    let mode = |mode| fs::set_permissions(home.dir.path(), Permissions::from_mode(mode)).unwrap();
    mode(0o700);
    let error = crate::prepare(&layout, &home.tenants, Some((4711, 4712))).unwrap_err().to_string();
    let named = format!("uid 4711 may not enter {}: `chmod o+x`", home.dir.path().display());
    assert!(error.contains(&named) && error.contains("another --state-dir"), "{error}");
    mode(0o755);
    drop(crate::prepare(&layout, &home.tenants, Some((4711, 4712))).unwrap());
    let check = |path: PathBuf, uid: u32, mode: u32| {
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.uid(), meta.mode() & 0o7777), (uid, mode), "{}", path.display());
    };
    check(layout.state_dir.clone(), 4711, 0o700);
    check(layout.state_dir.join("tenants"), 4711, 0o700);
    check(layout.state_dir.join("tenants/ads"), 4711, 0o700);
    check(layout.state_dir.join("tenants/ads/identity"), 4711, 0o600);
    check(layout.key_dir.clone(), 0, 0o700);
    check(layout.key_dir.join("ads.key"), 0, 0o600);
    // What is made above them lets the daemon's user pass.
    let deep = crate::Layout { state_dir: home.dir.path().join("a/b/state"), ..home.layout() };
    drop(crate::prepare(&deep, &[tenant(TWO)], Some((4711, 4712))).unwrap());
    check(home.dir.path().join("a/b"), 0, 0o755);
    let error = crate::prepare(&layout, &home.tenants, Some((4713, 4712))).unwrap_err();
    assert!(error.to_string().contains("chown"), "{error}");
}

#[test]
fn a_directory_of_someone_else_keeps_its_mode() {
    let home = Home::new(&[ONE]);
    let state = home.layout().state_dir;
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, Permissions::from_mode(0o755)).unwrap();
    fs::write(state.join("something-else"), "").unwrap();
    home.prepare().unwrap();
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o755);
}

#[test]
fn an_unfinished_snapshot_does_not_stop_the_store() {
    let home = furnished();
    let database = home.layout().state_dir.join("tenants/ads/db");
    File::create(database.join("snap.00000000000000FF.generating")).unwrap();
    let stores = home.open();
    assert_eq!(stores.states()[0].state, StoreState::Open);
    assert_eq!(listed(&stores, ONE), 300);
    assert!(
        fs::read_dir(&database)
            .unwrap()
            .all(|entry| { !entry.unwrap().file_name().to_string_lossy().ends_with(".generating") })
    );
}

#[test]
fn a_database_of_another_store_is_set_aside() {
    let home = furnished();
    let tenants = home.layout().state_dir.join("tenants");
    fs::rename(tenants.join("ads/db"), tenants.join("aside")).unwrap();
    fs::rename(tenants.join("search/db"), tenants.join("ads/db")).unwrap();
    fs::rename(tenants.join("aside"), tenants.join("search/db")).unwrap();
    let stores = home.open();
    for (state, name) in stores.states().iter().zip([ONE, TWO]) {
        assert_eq!(state.state, StoreState::Quarantined);
        assert_eq!((state.recoveries, listed(&stores, name)), (1, 0));
        assert!(state.detail.contains("db.quarantine-"), "{}", state.detail);
        assert_eq!(stores.commit(&records(name, 5)).lost(), 0);
        assert_eq!(listed(&stores, name), 5);
    }
}

/// Whatever bit is wrong on disk: the other tenant serves everything, and of this one nothing is shown that was not
/// stored, and the store takes records.
#[test]
fn flipped_bits_harm_one_tenant_at_most() {
    let home = furnished();
    let truth = records(ONE, 300);
    let database = home.layout().state_dir.join("tenants/ads/db");
    let (mut set_aside, mut partly, mut unharmed) = (0, 0, 0);
    for round in 0..24_u64 {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(home.dir.path(), copy.path());
        let files: Vec<PathBuf> = ["db", "conf"].iter().map(|name| database.join(name)).collect();
        let file = if round % 6 == 5 { &files[1] } else { &files[0] };
        let file = copy.path().join(file.strip_prefix(home.dir.path()).unwrap());
        let length = fs::metadata(&file).unwrap().len();
        for flips in 0..1 + round % 3 {
            let mixed = (round * 31 + flips + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            flip(&file, mixed % length.min(60_000));
        }
        let layout = layout_in(copy.path());
        let stores = crate::open(crate::prepare(&layout, &home.tenants, None).unwrap(), options());
        assert_eq!(listed(&stores, TWO), 300);
        let reader = stores.reader(&tenant(ONE)).unwrap();
        let query = ListQuery { limit: 10_000, ..ListQuery::default() };
        match reader.list(&query) {
            Ok(page) => {
                assert!(page.records.iter().all(|record| truth.contains(record)), "round {round}: invented");
                let state = &stores.states()[0];
                match (state.state, page.records.len()) {
                    (StoreState::Quarantined, _) => set_aside += 1,
                    (_, 300) => unharmed += 1,
                    (_, some) => {
                        assert_eq!(state.records_missing + some as u64, 300, "round {round}: silent loss");
                        assert!(state.detail.contains("are gone"), "{}", state.detail);
                        partly += 1;
                    }
                }
                reader.usage(&UsageQuery::default()).unwrap();
                assert_eq!(stores.commit(&records(ONE, 301)).lost(), 0, "round {round}");
                assert!(reader.get(records(ONE, 301)[300].id).unwrap().is_some());
            }
            Err(error) => panic!("round {round}: {error}"),
        }
    }
    println!("flipped bits: {set_aside} set aside, {partly} with rows missing, {unharmed} unharmed");
}

/// A row whose frame is damaged inside an otherwise sound database: counted once, left out, sums made from the rest.
#[test]
fn a_row_that_does_not_verify_is_counted_and_left_out() {
    let home = furnished();
    let truth = records(ONE, 300);
    let database = home.database(ONE);
    let mut harmed = 0;
    for (index, row) in database.iter().flatten().enumerate() {
        let (key, mut value) = (row.0, row.1.to_vec());
        if key[0] == b'r' && index % 100 == 0 || key[0] == b'u' && harmed < 10 {
            let at = value.len() / 2;
            value[at] ^= 4;
            database.insert(key, value).unwrap();
            harmed += 1;
        }
    }
    // Rows that change places do not verify either.
    let ids: Vec<_> = database.scan_prefix(b"r").keys().flatten().skip(150).take(2).collect();
    let (left, right) = (database.get(&ids[0]).unwrap().unwrap(), database.get(&ids[1]).unwrap().unwrap());
    database.insert(&ids[0], right).unwrap();
    database.insert(&ids[1], left).unwrap();
    harmed += 2;
    drop(database);

    let stores = home.open();
    let reader = stores.reader(&tenant(ONE)).unwrap();
    let query = ListQuery { limit: 10_000, ..ListQuery::default() };
    let shown = reader.list(&query).unwrap().records;
    assert!(shown.len() < 300 && shown.iter().all(|record| truth.contains(record)));
    let is_exchange = |record: &&Record| matches!(record.subject, meter::record::Subject::Exchange(_));
    let exchanges = shown.iter().filter(is_exchange).count() as u64;
    let counted = |stores: &Stores| {
        let rows = stores.reader(&tenant(ONE)).unwrap().usage(&UsageQuery::default()).unwrap();
        rows.iter().map(|row| row.exchanges).sum::<u64>()
    };
    assert_eq!(counted(&stores), exchanges, "the hour with broken sums is added up from its records");
    assert_eq!(stores.states()[0].rows_refused, harmed);
    assert_eq!(listed(&stores, ONE), shown.len());
    assert_eq!(stores.states()[0].rows_refused, harmed, "counted once");
}

#[test]
fn nothing_that_was_stored_can_be_read_from_the_disk() {
    let home = furnished();
    let mut files = Vec::new();
    walk(home.dir.path(), &mut files);
    assert!(files.len() > 8);
    let needles = [
        CANARY,
        "openai",
        "nginx.service",
        "Deployment/shop",
        "python3",
        "cost_centre",
        "4711",
        "api.example",
    ];
    for file in &files {
        let bytes = fs::read(file).unwrap();
        for needle in needles {
            let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{needle} is in {}", file.display());
        }
    }
    let key = fs::read(home.layout().key_dir.join("ads.key")).unwrap();
    for file in files.iter().filter(|file| !file.starts_with(home.layout().key_dir)) {
        let found = fs::read(file).unwrap().windows(32).any(|window| window == &key[24..56]);
        assert!(!found, "the wrapping key is in {}", file.display());
    }
}

/// What [`Home::open_with`] waits for is told, and harms nothing.
#[test]
fn a_database_that_another_holds_is_named_and_not_set_aside() {
    let home = furnished();
    let held = home.database(ONE);
    let stores = crate::open(home.prepare_when_free(), options());
    let state = &stores.states()[0];
    assert!(state.detail.contains("acquire lock"), "{}", state.detail);
    drop((stores, held));
    assert_eq!(listed(&home.open(), ONE), 300);
}

#[test]
fn without_space_records_are_counted_and_the_store_goes_on() {
    let home = furnished();
    let greedy = Options { reserve_bytes: u64::MAX, ..options() };
    let stores = home.open_with(greedy);
    let outcome = stores.commit(&records(ONE, 301));
    assert!(matches!(outcome.tenants[0].result, Err(CommitError::DiskFull { .. })));
    assert_eq!((outcome.lost(), stores.states()[0].records_lost), (301, 301));
    assert!(!outcome.stored(&tenant(ONE)));
    // How much is free, others change meanwhile.
    assert!(matches!(stores.find_room(), Err(CommitError::DiskFull { reserve: u64::MAX, .. })));
    assert_eq!(listed(&stores, ONE), 300);
    drop(stores);
    let stores = home.open();
    assert_eq!((stores.find_room(), stores.commit(&records(ONE, 301)).lost()), (Ok(()), 0));
}

#[test]
fn tenants_do_not_see_each_other_and_have_their_own_keys() {
    let home = furnished();
    let stores = home.open();
    let reader = stores.reader(&tenant(ONE)).unwrap();
    for record in records(TWO, 300) {
        assert_ne!(reader.get(record.id).unwrap().as_ref(), Some(&record));
    }
    let keys = [ONE, TWO].map(|name| stores.fingerprint_key(&tenant(name)).unwrap());
    assert_ne!(keys[0], keys[1]);
    drop((stores, reader));
    let again = home.open().fingerprint_key(&tenant(ONE)).unwrap();
    assert_eq!(keys[0], again, "fingerprints stay comparable");
}

#[test]
fn a_flush_is_seen_to_be_an_fsync() {
    let home = furnished();
    assert!(home.open().states().iter().all(|state| state.durability == Durability::Durable));
}

#[test]
fn the_self_check_notices_a_flush_that_is_none() {
    let home = Home::new(&[]);
    let file = File::create(home.dir.path().join("file")).unwrap();
    let other = File::create(home.dir.path().join("other")).unwrap();
    assert!(!crate::durable::check(&file, || true), "nothing was synced");
    assert!(!crate::durable::check(&file, || other.sync_all().is_ok()), "another file was synced");
    assert!(!crate::durable::check(&file, || file.sync_data().is_ok()), "fdatasync is not fsync");
    assert!(!crate::durable::check(&file, || file.sync_all().is_ok()), "sync_file_range was never refused");
}

/// The sealed tenant says so.
#[test]
fn unassigned_traffic_is_sealed() {
    let stores = Home::new(&["unassigned"]).open();
    assert_eq!(stores.states()[0].state, StoreState::Sealed);
    assert_eq!(stores.states()[0].key_custody, "local");
}

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1 << (at % 8)], at).unwrap();
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { walk(&path, files) } else { files.push(path) }
    }
}

pub(super) fn copy_tree(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            fs::create_dir(&target).unwrap();
            fs::set_permissions(&target, entry.metadata().unwrap().permissions()).unwrap();
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
