//! What a process has mapped, from `/proc/PID/maps`.
//!
//! A process controls how many mappings it has and what their paths say: what does not parse is left out, nothing
//! panics, and text and list are bounded.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

/// Bytes of `/proc/PID/maps` that are read: some ten thousand mappings.
const MAPS_BYTES_MAX: u64 = 2 << 20;
/// Files of a process that are looked at.
const FILES_MAX: usize = 512;

/// A file by number, as `/proc/PID/maps` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// Device as `major << 20 | minor`.
    pub device: u64,
    /// Inode.
    pub inode: u64,
}

/// An executable mapping of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind it.
    pub end: u64,
    /// Which file.
    pub file: FileKey,
    /// Last part of its path.
    pub name: Arc<str>,
}

/// How likely a file is a TLS library or the resolver, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likelihood {
    /// `libssl*`.
    Tls,
    /// The C library.
    Resolver,
    /// The process's executable (the first mapping of most).
    Executable,
    /// Any other library.
    Other,
}

impl Mapping {
    fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// By its name; the executable cannot be told from it.
    pub fn likelihood(&self) -> Likelihood {
        let name = &*self.name;
        let c_library =
            ["libc.so", "libc-", "ld-musl-", "libc.musl-"].iter().any(|prefix| name.starts_with(prefix));
        if name.starts_with("libssl") {
            Likelihood::Tls
        } else if c_library {
            Likelihood::Resolver
        } else if name.contains(".so") {
            Likelihood::Other
        } else {
            Likelihood::Executable
        }
    }
}

/// The executable mappings in the text of `/proc/PID/maps`: the largest one of each file.
pub fn parse_maps(text: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for mapping in text.lines().filter_map(parse_line) {
        match mappings.iter().position(|known| known.file == mapping.file) {
            None if mappings.len() < FILES_MAX => mappings.push(mapping),
            // Large programs have several; their functions are in the largest one.
            Some(at) if mapping.len() > mappings[at].len() => mappings[at] = mapping,
            None | Some(_) => {}
        }
    }
    mappings
}

/// Reads the maps of a process from an open descriptor. A process that is gone reads as empty.
///
/// # Errors
/// Reading fails.
pub fn read_maps(file: File) -> io::Result<Vec<Mapping>> {
    let mut bytes = Vec::new();
    file.take(MAPS_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(parse_maps(&String::from_utf8_lossy(&bytes)))
}

/// `7f12-7f34 r-xp 00000000 08:01 1234   /usr/lib/libssl.so.3`
fn parse_line(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (permissions, rest) = rest.split_once(' ')?;
    let (_offset, rest) = rest.split_once(' ')?;
    let (device, rest) = rest.split_once(' ')?;
    let (inode, path) = rest.split_once(' ')?;
    let (major, minor) = device.split_once(':')?;
    let path = path.trim_start();
    if !permissions.contains('x') || !path.starts_with('/') {
        return None;
    }
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (start, end) = (hex(start)?, hex(end)?);
    let inode: u64 = inode.parse().ok()?;
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let name = path.rsplit('/').next().unwrap_or(path);
    let device = hex(major)?.checked_shl(20)? | hex(minor)?;
    (inode != 0 && start < end).then(|| Mapping {
        start,
        end,
        file: FileKey { device, inode },
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn maps_give_one_executable_mapping_per_file() {
        let text = "\
5581-5590 r--p 00000000 08:01 10    /usr/bin/python3.11
5590-5600 r-xp 0000f000 08:01 10    /usr/bin/python3.11
5600-5690 r-xp 0001f000 08:01 10    /usr/bin/python3.11
5690-56a0 r-xp 0001f000 08:01 10    /usr/bin/python3.11
7f00-7f10 r-xp 00000000 00:2a 4711  /usr/lib/x86_64-linux-gnu/libssl.so.3
7f10-7f20 r-xp 00000000 fe:01 12    /with space/libssl-3-1a2b.so (deleted)
7f20-7f30 r-xp 00000000 00:00 0
7f30-7f40 r-xp 00000000 00:00 0     [vdso]
7f40-7f50 rw-p 00000000 08:01 13    /usr/lib/libc.so.6
broken
7f60-7f50 r-xp 00000000 08:01 14    /backwards.so
";
        let seen: Vec<_> = parse_maps(text)
            .into_iter()
            .map(|mapping| {
                (mapping.start, mapping.file.device, mapping.file.inode, mapping.likelihood(), mapping.name)
            })
            .collect();
        let expected = [
            (0x5600, 8 << 20 | 1, 10, Likelihood::Executable, "python3.11".into()),
            (0x7f00, 0x2a, 4711, Likelihood::Tls, "libssl.so.3".into()),
            (0x7f10, 0xfe << 20 | 1, 12, Likelihood::Tls, "libssl-3-1a2b.so".into()),
        ];
        assert_eq!(seen, expected);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(text in ".{0,400}") {
            let _ = parse_maps(&text);
        }
    }
}
