//! User names, from `/etc/passwd` alone: directory services would need a network.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use super::proc::read_text_up_to;

/// Bytes of the file looked at.
const PASSWD_BYTES_MAX: u64 = 4 << 20;
/// How often the file's time of change is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Users {
    path: PathBuf,
    names: HashMap<u32, Box<str>>,
    changed_at: Option<SystemTime>,
    looked_at: Option<Instant>,
}

impl Users {
    pub(super) fn new(path: PathBuf) -> Users {
        Users { path, names: HashMap::new(), changed_at: None, looked_at: None }
    }

    pub(super) fn name(&mut self, uid: u32) -> Option<Box<str>> {
        if self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
            self.looked_at = Some(Instant::now());
            let changed_at = fs::metadata(&self.path).and_then(|meta| meta.modified()).ok();
            if changed_at != self.changed_at || changed_at.is_none() {
                self.changed_at = changed_at;
                self.names = parse(&read_text_up_to(&self.path, PASSWD_BYTES_MAX).unwrap_or_default());
            }
        }
        self.names.get(&uid).cloned()
    }
}

/// The first name of each id counts, as it does for `getpwuid`.
fn parse(text: &str) -> HashMap<u32, Box<str>> {
    let mut names = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        if let (Some(name), Some(uid)) = (fields.next(), fields.nth(1))
            && let Ok(uid) = uid.parse()
            && !name.is_empty()
        {
            names.entry(uid).or_insert_with(|| name.into());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn names_by_id() {
        let names =
            parse("root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n#:x\n:x:5:5\nnobody:x:x\napp:x:1000:1000");
        let mut seen: Vec<(u32, &str)> = names.iter().map(|(uid, name)| (*uid, &**name)).collect();
        seen.sort();
        assert_eq!(seen, [(0, "root"), (1000, "app")]);
    }
}
