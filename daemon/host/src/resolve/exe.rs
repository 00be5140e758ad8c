//! The path of a process's executable, from its mappings: `/proc/PID/exe` is not open to everyone.

use std::io::Read;

/// Bytes of `/proc/PID/maps` looked at.
const MAPS_BYTES_MAX: u64 = 256 * 1024;
/// Bytes of a path.
const PATH_BYTES_MAX: usize = 4096;

/// A file by device (`major << 20 | minor`) and inode.
pub(super) type FileNumber = (u64, u64);

/// The path under which `executable` is mapped; if that is not known, the first file that is mapped executable, which
/// is the program itself (libraries lie above it).
pub(super) fn path_in(maps: impl Read, executable: Option<FileNumber>) -> Option<Box<str>> {
    let mut bytes = Vec::new();
    maps.take(MAPS_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    find(&String::from_utf8_lossy(&bytes), executable)
}

fn find(text: &str, executable: Option<FileNumber>) -> Option<Box<str>> {
    let wanted = |mapping: &Mapping<'_>| match executable {
        Some(file) => mapping.file == file,
        None => mapping.executable,
    };
    let mapping = text.lines().filter_map(parse_line).find(wanted)?;
    let path = mapping.path.strip_suffix(" (deleted)").unwrap_or(mapping.path);
    (path.len() <= PATH_BYTES_MAX && !path.contains(char::is_control)).then(|| path.into())
}

struct Mapping<'a> {
    file: FileNumber,
    executable: bool,
    path: &'a str,
}

/// `55d0-55d4 r-xp 00002000 08:01 1234   /usr/bin/curl`
fn parse_line(line: &str) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, ' ');
    let (_range, permissions, _offset) = (fields.next()?, fields.next()?, fields.next()?);
    let (major, minor) = fields.next()?.split_once(':')?;
    let inode: u64 = fields.next()?.parse().ok()?;
    let path = fields.next()?.trim_start();
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let device = hex(major)?.checked_mul(1 << 20)? | hex(minor)?;
    let real = inode != 0 && path.starts_with('/');
    real.then_some(Mapping { file: (device, inode), executable: permissions.contains('x'), path })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const MAPS: &str = "\
00400000-00500000 r--s 00000000 00:1f 5                          /opt/java/classes.jsa
55d0a000-55d0b000 r--p 00000000 08:01 1234                       /usr/bin/my curl
55d0b000-55d0c000 r-xp 00001000 08:01 1234                       /usr/bin/my curl
55d0d000-55d0e000 rw-p 00000000 00:00 0                          [heap]
7f000000-7f001000 r-xp 00000000 08:01 99                         /usr/lib/libc.so.6 (deleted)
not a line
";

    #[test]
    fn the_program_is_found_among_its_mappings() {
        let check =
            |file, expected: Option<&str>| assert_eq!(find(MAPS, file).as_deref(), expected, "{file:?}");
        check(None, Some("/usr/bin/my curl"));
        check(Some((8 << 20 | 1, 1234)), Some("/usr/bin/my curl"));
        check(Some((8 << 20 | 1, 99)), Some("/usr/lib/libc.so.6"));
        check(Some((8 << 20 | 2, 1234)), None);
        assert_eq!(find("", None), None);
    }

    #[test]
    fn this_program_is_found() {
        let maps = File::open("/proc/self/maps").expect("procfs");
        let path = std::env::current_exe().expect("a path");
        assert_eq!(path_in(maps, None).as_deref(), path.to_str());
    }
}
