//! Where in an ELF file the probes belong: dynamic and static symbols to file offsets through the program headers.
//!
//! The file is another process's and may say anything of itself. So it is read, never mapped (whoever may truncate it
//! could otherwise kill the daemon), in pieces of at most [`PIECE_BYTES_MAX`], and in all not more than
//! [`READ_BYTES_MAX`]: nothing is allocated by a size that the file states. What does not parse is left out; nothing
//! panics.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use abi::attacher::{Hook, Place};
use object::elf::{
    EM_X86_64, FileHeader64, PT_LOAD, ProgramHeader64, SHT_DYNSYM, SHT_SYMTAB, SectionHeader64, Sym64,
};
use object::pod::{Pod, bytes_of_slice_mut, slice_from_bytes};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader, Sym};
use object::{Endianness, SectionIndex};

use super::places::{Function, probed};
use super::prologue::{BODY_BYTES_MAX, Code};

/// Bytes of one file that are read, headers and tables together: the largest programs with symbols (Node, Chromium)
/// have 64 MiB of them.
const READ_BYTES_MAX: u64 = 256 << 20;
/// Bytes that are held at a time.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// Program headers that are looked at: linkers make a dozen.
const SEGMENTS_MAX: usize = 512;
/// Section headers that are looked at: linkers make some dozens for a program.
const SECTIONS_MAX: usize = 4_096;
/// Bytes of a function of unknown size that are looked at.
const INNER_BYTES: u64 = 256;
/// Places of a string table where one of our names stands, some as the end of longer ones.
const NAMES_MAX: usize = 4_096;

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
        (has(Hook::SslWrite) || has(Hook::SslWriteEx) || has(Hook::SslWriteEx2))
            && (has(Hook::SslRead) || has(Hook::SslReadEx))
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

/// Bytes of the longest of them with its end.
const NAME_BYTES_MAX: usize = 16;

/// Finds the places of the probes in an ELF file.
///
/// # Errors
/// It is not a 64-bit ELF file, is damaged where it matters, or has more tables than are read.
pub fn dissect(file: &File) -> Result<Anatomy, Unreadable> {
    dissect_within(&|bytes: &mut [u8], offset: u64| file.read_exact_at(bytes, offset), READ_BYTES_MAX)
}

/// Fills a buffer from an offset of the file.
type ReadAt<'a> = &'a dyn Fn(&mut [u8], u64) -> io::Result<()>;

fn dissect_within(read_at: ReadAt<'_>, budget: u64) -> Result<Anatomy, Unreadable> {
    let mut reader = Reader { read_at, left: budget };
    let elf = Elf::read(&mut reader)?;
    let mut found = [None; SYMBOLS.len()];
    // A program that exports nothing of interest may still name it in its own table.
    for kind in [SHT_DYNSYM, SHT_SYMTAB] {
        for section in elf.sections.iter().filter(|section| section.sh_type(elf.endian) == kind) {
            elf.look_through(section, &mut reader, &mut found)?;
        }
        if found.iter().any(Option::is_some) {
            break;
        }
    }
    let exported: BTreeMap<Hook, Function> =
        SYMBOLS.iter().zip(found).filter_map(|((_, hook), function)| Some((*hook, function?))).collect();
    let mut anatomy = Anatomy::default();
    for (hook, address) in probed(&exported, |function| elf.code_of(function, &mut reader)) {
        let Some(offset) = elf.offset_of(address) else { continue };
        let place = Place { offset, hook: hook.wire(), reserved: 0 };
        let list = if hook.is_once_per_session() { &mut anatomy.once } else { &mut anatomy.transfer };
        list.push(place);
    }
    Ok(anatomy)
}

/// A file that may be read up to a limit.
struct Reader<'a> {
    read_at: ReadAt<'a>,
    left: u64,
}

impl Reader<'_> {
    /// Reads into `words` (aligned for every header) what stands at `offset`: `len` bytes, at most a piece.
    fn piece<'w>(
        &mut self,
        words: &'w mut Vec<u64>,
        offset: u64,
        len: usize,
    ) -> Result<&'w [u8], Unreadable> {
        let within = len <= PIECE_BYTES_MAX && len as u64 <= self.left;
        within.then_some(()).ok_or(Unreadable)?;
        self.left -= len as u64;
        words.resize(len.div_ceil(size_of::<u64>()), 0);
        let bytes = bytes_of_slice_mut(words.as_mut_slice()).get_mut(..len).ok_or(Unreadable)?;
        (self.read_at)(bytes, offset).map_err(|_| Unreadable)?;
        Ok(bytes)
    }

    /// A table of `count` entries.
    fn table<T: Pod + Copy>(&mut self, offset: u64, count: usize) -> Result<Vec<T>, Unreadable> {
        let mut words = Vec::new();
        let len = count.checked_mul(size_of::<T>()).ok_or(Unreadable)?;
        let bytes = self.piece(&mut words, offset, len)?;
        let (entries, _) = slice_from_bytes(bytes, count).map_err(|()| Unreadable)?;
        Ok(entries.to_vec())
    }

    /// Hands on a table of `len` bytes piece by piece, each of whole `unit`s, with the offset in the table.
    fn pieces(
        &mut self,
        start: u64,
        len: u64,
        unit: usize,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<(), Unreadable> {
        let mut words = Vec::new();
        let most = (PIECE_BYTES_MAX / 4 / unit * unit) as u64;
        let mut at = 0;
        while at < len {
            let size = usize::try_from(most.min(len - at)).map_err(|_| Unreadable)?;
            let offset = start.checked_add(at).ok_or(Unreadable)?;
            each(at, self.piece(&mut words, offset, size)?);
            at += size as u64;
        }
        Ok(())
    }
}

/// The headers of a file.
struct Elf {
    endian: Endianness,
    /// Its code is of the one kind that is decoded.
    decodable: bool,
    segments: Vec<ProgramHeader64<Endianness>>,
    sections: Vec<SectionHeader64<Endianness>>,
}

impl Elf {
    fn read(reader: &mut Reader<'_>) -> Result<Elf, Unreadable> {
        let [header] = reader.table::<FileHeader64<Endianness>>(0, 1)?[..] else { return Err(Unreadable) };
        header.is_supported().then_some(()).ok_or(Unreadable)?;
        let endian = header.endian().map_err(|_| Unreadable)?;
        let (segments, sections) = (header.e_phnum(endian).into(), header.e_shnum(endian).into());
        let sized = usize::from(header.e_phentsize(endian)) == size_of::<ProgramHeader64<Endianness>>()
            && (sections == 0
                || usize::from(header.e_shentsize(endian)) == size_of::<SectionHeader64<Endianness>>());
        if !sized || segments > SEGMENTS_MAX || sections > SECTIONS_MAX {
            return Err(Unreadable);
        }
        Ok(Elf {
            endian,
            decodable: header.e_machine(endian) == EM_X86_64,
            segments: reader.table(header.e_phoff(endian), segments)?,
            sections: reader.table(header.e_shoff(endian), sections)?,
        })
    }

    /// Looks for our names in one symbol table; what was found before stays.
    fn look_through(
        &self,
        symbols: &SectionHeader64<Endianness>,
        reader: &mut Reader<'_>,
        found: &mut [Option<Function>; SYMBOLS.len()],
    ) -> Result<(), Unreadable> {
        let SectionIndex(link) = symbols.link(self.endian);
        let Some(strings) = self.sections.get(link) else { return Ok(()) };
        let names = self.names_in(strings, reader)?;
        if names.is_empty() {
            return Ok(());
        }
        let unit = size_of::<Sym64<Endianness>>();
        let len = symbols.sh_size(self.endian) / unit as u64 * unit as u64;
        reader.pieces(symbols.sh_offset(self.endian), len, unit, |_, bytes| {
            let Ok((entries, _)) = slice_from_bytes::<Sym64<Endianness>>(bytes, bytes.len() / unit) else {
                return;
            };
            for symbol in entries {
                let Some(index) = names.get(&symbol.st_name(self.endian)) else { continue };
                if !symbol.is_undefined(self.endian) && symbol.st_value(self.endian) != 0 {
                    let (address, size) = (symbol.st_value(self.endian), symbol.st_size(self.endian));
                    let function = Function { address, size: Some(size) };
                    found[*index] = found[*index].or(self.offset_of(address).map(|_| function));
                }
            }
        })
    }

    /// Which of our names begin where in a string table; a name may also be the end of a longer one.
    fn names_in(
        &self,
        strings: &SectionHeader64<Endianness>,
        reader: &mut Reader<'_>,
    ) -> Result<HashMap<u32, usize>, Unreadable> {
        let beginnings = ["SSL_", "getaddrinfo"].map(memchr::memmem::Finder::new::<str>);
        let mut names = HashMap::new();
        // The end of the piece before: a name may lie across both.
        let mut text: Vec<u8> = Vec::new();
        let (start, len) = (strings.sh_offset(self.endian), strings.sh_size(self.endian));
        reader.pieces(start, len, 1, |at, bytes| {
            let begins = at - text.len() as u64;
            text.extend_from_slice(bytes);
            for place in beginnings.iter().flat_map(|beginning| beginning.find_iter(&text)) {
                let index = SYMBOLS.iter().position(|(name, _)| is_named(&text[place..], name));
                if names.len() < NAMES_MAX {
                    names.extend(u32::try_from(begins + place as u64).ok().zip(index));
                }
            }
            text.drain(..text.len().saturating_sub(NAME_BYTES_MAX));
        })?;
        Ok(names)
    }

    /// The code of a function, if it can be read and decoded.
    fn code_of(&self, function: Function, reader: &mut Reader<'_>) -> Option<Code> {
        if !self.decodable {
            return None;
        }
        let len = function.size.unwrap_or(INNER_BYTES).min(BODY_BYTES_MAX);
        let mut words = Vec::new();
        let offset = self.offset_of(function.address)?;
        let bytes = reader.piece(&mut words, offset, usize::try_from(len).ok()?).ok()?.to_vec();
        Some(Code { address: function.address, bytes, whole: function.size == Some(len) })
    }

    fn offset_of(&self, address: u64) -> Option<u64> {
        self.segments.iter().find_map(|segment| {
            let loaded = segment.p_type(self.endian) == PT_LOAD;
            let inside = address.checked_sub(segment.p_vaddr(self.endian))?;
            (loaded && inside < segment.p_filesz(self.endian))
                .then(|| segment.p_offset(self.endian).checked_add(inside))?
        })
    }
}

/// True if the string at the start of `bytes` is `name`.
fn is_named(bytes: &[u8], name: &str) -> bool {
    bytes.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&0))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;
    use crate::capture::image::{Likelihood, read_maps};
    use crate::capture::prologue::is_emulated;

    /// A test that needs something of this machine; in CI it must not be skipped.
    fn skip(test: &str, why: &str) {
        println!("SKIPPED {test}: {why}");
        assert!(std::env::var_os("VENTURI_REQUIRE_KERNEL").is_none(), "{test} is required: {why}");
    }

    #[test]
    fn the_c_library_of_this_process_is_dissected() {
        let maps = read_maps(File::open("/proc/self/maps").expect("maps")).expect("maps");
        let library =
            maps.iter().find(|mapping| mapping.likelihood() == Likelihood::Resolver).expect("a C library");
        let link = format!("/proc/self/map_files/{:x}-{:x}", library.start, library.end);
        let Ok(file) = File::open(&link) else {
            let why = format!("{link} opens only with CAP_CHECKPOINT_RESTORE");
            return skip("the_c_library_of_this_process_is_dissected", &why);
        };
        let anatomy = dissect(&file).expect("an ELF file");
        assert!(anatomy.is_resolver() && !anatomy.is_tls());
        assert!(anatomy.once.iter().all(|place| place.offset > 0));
    }

    #[test]
    fn the_tls_library_and_node_are_dissected_where_they_are() {
        let library = format!("/usr/lib/{}-linux-gnu/libssl.so.3", std::env::consts::ARCH);
        for path in [&library, "/usr/bin/node"] {
            let Ok(file) = File::open(path) else {
                skip("the_tls_library_and_node_are_dissected_where_they_are", &format!("no {path} here"));
                continue;
            };
            let anatomy = dissect(&file).expect("an ELF file");
            assert!(anatomy.is_tls() && anatomy.once.len() >= 2, "{path}: {anatomy:?}");
            for place in anatomy.once.iter().chain(&anatomy.transfer) {
                let mut code = [0; 4];
                file.read_exact_at(&mut code, place.offset).expect("code");
                let cheap = is_emulated(&code) || std::env::consts::ARCH != "x86_64";
                assert!(cheap, "{path}: {place:?} is at {code:02x?}");
            }
        }
    }

    #[test]
    fn what_is_no_elf_file_is_unreadable() {
        for path in ["/proc/self/maps", "/dev/null", "/etc/passwd"] {
            assert_eq!(dissect(&File::open(path).expect(path)), Err(Unreadable), "{path}");
        }
    }

    /// A file with one segment that maps address 0x1000 to offset 0, and a dynamic symbol table that stands where and
    /// is as long as it says.
    #[derive(Clone, Debug)]
    struct Made {
        strings: Vec<u8>,
        /// Offset of the name, section, address.
        symbols: Vec<(u32, u16, u64)>,
        /// In place of the true sizes of the two tables.
        claimed: [Option<u64>; 2],
    }

    impl Made {
        fn bytes(&self) -> Vec<u8> {
            let symbols: Vec<u8> = self
                .symbols
                .iter()
                .flat_map(|(name, section, value)| {
                    let mut symbol = [0; 24];
                    symbol[..4].copy_from_slice(&name.to_le_bytes());
                    symbol[6..8].copy_from_slice(&section.to_le_bytes());
                    symbol[8..16].copy_from_slice(&value.to_le_bytes());
                    symbol
                })
                .collect();
            let (headers, sections) = (64 + 56, 3 * 64_u64);
            let (at_symbols, at_strings) = (headers + sections, headers + sections + symbols.len() as u64);
            let mut file = vec![0; usize::try_from(headers + sections).expect("small")];
            file[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
            put(20, &1_u32.to_le_bytes());
            put(32, &64_u64.to_le_bytes());
            put(40, &headers.to_le_bytes());
            for (at, value) in [(54, 56_u16), (56, 1), (58, 64), (60, 3)] {
                put(at, &value.to_le_bytes());
            }
            put(64, &1_u32.to_le_bytes());
            put(64 + 16, &0x1000_u64.to_le_bytes());
            put(64 + 32, &u64::MAX.to_le_bytes());
            let tables = [(11_u32, at_symbols, symbols.len()), (3, at_strings, self.strings.len())];
            for (index, (kind, offset, len)) in tables.into_iter().enumerate() {
                let at = 120 + 64 * (index + 1);
                put(at + 4, &kind.to_le_bytes());
                put(at + 24, &offset.to_le_bytes());
                put(at + 32, &self.claimed[index].unwrap_or(len as u64).to_le_bytes());
                put(at + 40, &2_u32.to_le_bytes());
            }
            [file, symbols, self.strings.clone()].concat()
        }
    }

    fn read(file: &[u8]) -> impl Fn(&mut [u8], u64) -> io::Result<()> {
        |bytes: &mut [u8], offset: u64| {
            let from = usize::try_from(offset).ok().and_then(|from| file.get(from..));
            let from = from.and_then(|rest| rest.get(..bytes.len())).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(from);
            Ok(())
        }
    }

    fn found(anatomy: &Anatomy) -> Vec<(u32, u64)> {
        anatomy.once.iter().chain(&anatomy.transfer).map(|place| (place.hook, place.offset)).collect()
    }

    #[test]
    fn names_are_found_wherever_they_stand_and_however_they_share_their_ends() {
        let check = |padding: usize, text: &str, symbols: &[(u32, u16, u64)], expected: &[(Hook, u64)]| {
            let strings = [vec![b'x'; padding], text.as_bytes().to_vec()].concat();
            let shift = u32::try_from(padding).expect("small");
            let symbols = symbols.iter().map(|(name, section, value)| (name + shift, *section, *value));
            let made = Made { strings, symbols: symbols.collect(), claimed: [None; 2] };
            let anatomy = dissect_within(&read(&made.bytes()), READ_BYTES_MAX).expect("an ELF file");
            let expected: Vec<_> = expected.iter().map(|(hook, offset)| (hook.wire(), *offset)).collect();
            assert_eq!(found(&anatomy), expected, "{text:?} behind {padding}");
        };
        let (write, free) = (Hook::SslWrite, Hook::SslFree);
        check(0, "\0SSL_write\0", &[(1, 7, 0x1234)], &[(write, 0x234)]);
        check(
            0,
            "\0my_SSL_write\0SSL_free\0",
            &[(4, 7, 0x1234), (14, 7, 0x1300)],
            &[(free, 0x300), (write, 0x234)],
        );
        // Undefined, without an address, outside the segment, a longer name, no end.
        check(0, "\0SSL_write\0", &[(1, 0, 0x1234), (1, 7, 0), (1, 7, 0x999)], &[]);
        check(0, "\0SSL_writer\0SSL_write", &[(1, 7, 0x1234), (12, 7, 0x1234)], &[]);
        // Across the border of two pieces, at every place.
        for padding in (PIECE_BYTES_MAX / 4 - 12)..(PIECE_BYTES_MAX / 4 + 2) {
            check(padding, "\0SSL_write\0", &[(1, 7, 0x1234)], &[(write, 0x234)]);
        }
    }

    /// Dissects with a small budget and looks at what is read, in all and at a time.
    fn check_bounds(file: &[u8], endless: bool) {
        const BUDGET: u64 = 1 << 20;
        let total = Cell::new(0);
        let read_file = read(file);
        let counted = |bytes: &mut [u8], offset: u64| {
            total.set(total.get() + bytes.len() as u64);
            assert!(bytes.len() <= PIECE_BYTES_MAX, "{} bytes at a time", bytes.len());
            read_file(bytes, offset).or_else(|error| if endless { Ok(()) } else { Err(error) })
        };
        if let Ok(anatomy) = dissect_within(&counted, BUDGET) {
            assert!(found(&anatomy).len() <= SYMBOLS.len());
        }
        assert!(total.get() <= BUDGET, "{} bytes in all", total.get());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(bytes in proptest::collection::vec(any::<u8>(), 0..600), endless: bool) {
            check_bounds(&bytes, endless);
            check_bounds(&[b"\x7fELF\x02\x01\x01", &bytes[..]].concat(), endless);
        }

        #[test]
        fn any_damage_to_a_file_is_read_within_bounds(
            damage in proptest::collection::vec((0..500_usize, any::<u8>()), 0..12),
            claimed: [Option<u64>; 2],
            endless: bool,
        ) {
            let strings = b"\0SSL_write\0SSL_read\0getaddrinfo\0".to_vec();
            let symbols = (0..8).map(|number| (number * 5, 1, 0x1000 + u64::from(number))).collect();
            let mut file = Made { strings, symbols, claimed }.bytes();
            for (at, byte) in damage {
                if let Some(slot) = file.get_mut(at) {
                    *slot = byte;
                }
            }
            check_bounds(&file, endless);
        }
    }
}
