//! What a process has mapped, and where in those files the probes belong.
//!
//! Two total parsers: lines of `/proc/PID/maps`, and ELF files (dynamic and static symbols to file offsets through the
//! program headers). Both read what another process controls: whatever does not parse is left out, nothing panics, and
//! every list is bounded.

use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;

use abi::attacher::{Hook, Place};
use object::elf::{FileHeader64, Sym64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, ReadCache};

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

/// What the probes find in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Anatomy {
    /// Hooks that trap once per session: host name, end, resolver.
    pub once: Vec<Place>,
    /// Hooks that trap per read and write.
    pub transfer: Vec<Place>,
}

impl Anatomy {
    /// True if plaintext passes through it.
    pub fn is_tls(&self) -> bool {
        let has = |hook: Hook| self.transfer.iter().any(|place| place.hook == hook.wire());
        (has(Hook::SslWrite) || has(Hook::SslWriteEx)) && (has(Hook::SslRead) || has(Hook::SslReadEx))
    }

    /// True if it resolves names.
    pub fn is_resolver(&self) -> bool {
        self.once.iter().any(|place| place.hook == Hook::Getaddrinfo.wire())
    }
}

/// The file is not an ELF file that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a readable 64-bit ELF file")]
pub struct Unreadable;

const SYMBOLS: [(&str, Hook); 7] = [
    ("getaddrinfo", Hook::Getaddrinfo),
    ("SSL_ctrl", Hook::SslCtrl),
    ("SSL_free", Hook::SslFree),
    ("SSL_write", Hook::SslWrite),
    ("SSL_write_ex", Hook::SslWriteEx),
    ("SSL_read", Hook::SslRead),
    ("SSL_read_ex", Hook::SslReadEx),
];

/// Bytes of one symbol or string table that are read: the largest programs with symbols (Node, Chromium) have a
/// third of it.
const TABLE_BYTES_MAX: u64 = 192 << 20;

/// Finds the places of the probes in an ELF file.
///
/// The file is read, never mapped: whoever may truncate it could otherwise kill the daemon.
///
/// # Errors
/// It is not a 64-bit ELF file, or is damaged where it matters.
pub fn dissect(file: File) -> Result<Anatomy, Unreadable> {
    let cache = ReadCache::new(file);
    let header = FileHeader64::<Endianness>::parse(&cache).map_err(|_| Unreadable)?;
    let endian = header.endian().map_err(|_| Unreadable)?;
    let segments = header.program_headers(endian, &cache).map_err(|_| Unreadable)?;
    let sections = header.sections(endian, &cache).map_err(|_| Unreadable)?;

    let offset_of = |address: u64| {
        segments.iter().find_map(|segment| {
            let loaded = segment.p_type(endian) == object::elf::PT_LOAD;
            let inside = address.checked_sub(segment.p_vaddr(endian))?;
            (loaded && inside < segment.p_filesz(endian))
                .then(|| segment.p_offset(endian).checked_add(inside))?
        })
    };
    let mut found: [Option<u64>; SYMBOLS.len()] = [None; SYMBOLS.len()];
    // A program that exports nothing of interest may still name it in its own table.
    for kind in [object::elf::SHT_DYNSYM, object::elf::SHT_SYMTAB] {
        for section in sections.iter().filter(|section| section.sh_type(endian) == kind) {
            let strings = sections.section(section.link(endian)).map_err(|_| Unreadable)?;
            if section.sh_size(endian) > TABLE_BYTES_MAX || strings.sh_size(endian) > TABLE_BYTES_MAX {
                continue;
            }
            let symbols: &[Sym64<Endianness>] =
                section.data_as_array(endian, &cache).map_err(|_| Unreadable)?;
            let strings = strings.data(endian, &cache).map_err(|_| Unreadable)?;
            for symbol in
                symbols.iter().filter(|symbol| !symbol.is_undefined(endian) && symbol.st_value(endian) != 0)
            {
                let name = strings.get(symbol.st_name(endian) as usize..).unwrap_or_default();
                // Nearly all of some hundred thousand names end here.
                if !matches!(name.first(), Some(b'S' | b'g')) {
                    continue;
                }
                let Some(index) = SYMBOLS.iter().position(|(known, _)| is_named(name, known)) else {
                    continue;
                };
                found[index] = found[index].or_else(|| offset_of(symbol.st_value(endian)));
            }
        }
        if found.iter().any(Option::is_some) {
            break;
        }
    }
    let mut anatomy = Anatomy::default();
    for ((_, hook), offset) in SYMBOLS.iter().zip(found) {
        let Some(offset) = offset else { continue };
        let place = Place { offset, hook: hook.wire(), reserved: 0 };
        let list = if hook.is_once_per_session() { &mut anatomy.once } else { &mut anatomy.transfer };
        list.push(place);
    }
    Ok(anatomy)
}

/// True if the string at the start of `bytes` is `name`.
fn is_named(bytes: &[u8], name: &str) -> bool {
    bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
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

    #[test]
    fn the_c_library_of_this_process_is_dissected() {
        let maps = read_maps(File::open("/proc/self/maps").expect("maps")).expect("maps");
        let library =
            maps.iter().find(|mapping| mapping.likelihood() == Likelihood::Resolver).expect("a C library");
        let link = format!("/proc/self/map_files/{:x}-{:x}", library.start, library.end);
        let Ok(file) = File::open(&link) else {
            println!(
                "SKIPPED the_c_library_of_this_process_is_dissected: {link} opens only with CAP_CHECKPOINT_RESTORE"
            );
            assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "required");
            return;
        };
        let anatomy = dissect(file).expect("an ELF file");
        assert!(anatomy.is_resolver() && !anatomy.is_tls());
        assert!(anatomy.once.iter().all(|place| place.offset > 0));
    }

    #[test]
    fn the_tls_library_and_node_are_dissected_where_they_are() {
        let check = |path: &str| match File::open(path) {
            Ok(file) => {
                let anatomy = dissect(file).expect("an ELF file");
                assert!(anatomy.is_tls() && anatomy.once.len() >= 2, "{path}: {anatomy:?}");
            }
            Err(_) => {
                println!("SKIPPED the_tls_library_and_node_are_dissected_where_they_are: no {path} here")
            }
        };
        check("/usr/lib/x86_64-linux-gnu/libssl.so.3");
        check("/usr/bin/node");
    }

    #[test]
    fn what_is_no_elf_file_is_unreadable() {
        assert_eq!(dissect(File::open("/proc/self/maps").expect("maps")), Err(Unreadable));
        assert_eq!(dissect(File::open("/dev/null").expect("null")), Err(Unreadable));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed(text in ".{0,400}") {
            let _ = parse_maps(&text);
        }
    }
}
