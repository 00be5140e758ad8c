//! What must be known of another process before something is done about it: that it still is the one main means.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _};

use super::verbs::Refused;

/// Bytes of `/proc/PID/maps` that are looked through, one line at a time: twice what main reads of it.
const MAPS_BYTES_MAX: u64 = 4 << 20;

/// Largest process id of any kernel (`PID_MAX_LIMIT`).
pub(crate) const PID_MAX: u32 = 4 << 20;

/// Checks that `pid` is alive and, if `start_ticks` is not 0, that it started then: a recycled id is another process.
pub(crate) fn is_the_one(pid: u32, start_ticks: u64) -> Result<(), Refused> {
    if pid == 0 || pid > PID_MAX {
        return Err(Refused::NotAllowed);
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|_| Refused::Gone)?;
    let (state, start) = parse_stat(&stat).ok_or(Refused::Gone)?;
    let dead = matches!(state, 'Z' | 'X' | 'x');
    if dead || (start_ticks != 0 && start != start_ticks) { Err(Refused::Gone) } else { Ok(()) }
}

/// When the process started, in ticks; `None` if it is gone.
pub(crate) fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&stat).map(|(_, start)| start)
}

/// State and start time (fields 3 and 22; the command name may hold anything, parentheses too).
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// Offset in the file and length of the executable mapping at exactly `start..end`, from `/proc/PID/maps`.
pub(crate) fn executable_mapping(pid: u32, start: u64, end: u64) -> Result<(u64, u64), Refused> {
    let maps = File::open(format!("/proc/{pid}/maps")).map_err(|error| Refused::from_io(&error))?;
    executable_range(BufReader::new(maps.take(MAPS_BYTES_MAX)), start, end)
}

fn executable_range(mut maps: impl BufRead, start: u64, end: u64) -> Result<(u64, u64), Refused> {
    let wanted = format!("{start:08x}-{end:08x} ");
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = maps.read_until(b'\n', &mut line).map_err(|error| Refused::from_io(&error))?;
        if line.starts_with(wanted.as_bytes()) {
            break;
        }
        if read == 0 {
            return Err(Refused::Gone);
        }
    }
    let mut fields = line.split(|byte| *byte == b' ').skip(1).map(|field| String::from_utf8_lossy(field));
    let permissions = fields.next().ok_or(Refused::Gone)?;
    if permissions.as_bytes().get(2) != Some(&b'x') {
        return Err(Refused::NotAllowed);
    }
    let offset = fields.next().and_then(|text| u64::from_str_radix(&text, 16).ok()).ok_or(Refused::Gone)?;
    Ok((offset, end.saturating_sub(start)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_any_command_name_is_read() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["cat", "a) b (c", ") R 1"] {
            assert_eq!(parse_stat(&format!("77 ({name}) {rest}")), Some(('S', 4242)), "{name}");
        }
        assert_eq!(parse_stat("77 (cut"), None);
    }

    #[test]
    fn a_mapping_is_found_in_any_length_of_maps() {
        let check = |before: usize, line: &str, expected: Result<(u64, u64), Refused>| {
            let mut text = "1000-2000 r-xp 00000000 08:01 9 /some/where\n".repeat(before);
            text.push_str(line);
            assert_eq!(executable_range(text.as_bytes().take(MAPS_BYTES_MAX), 0x7000, 0x9000), expected);
        };
        check(0, "00007000-00009000 r-xp 00003000 08:01 9 /lib\n", Ok((0x3000, 0x2000)));
        check(9_999, "00007000-00009000 r-xp 00003000 08:01 9 /lib", Ok((0x3000, 0x2000)));
        check(0, "00007000-00009000 r--p 00003000 08:01 9 /lib\n", Err(Refused::NotAllowed));
        check(0, "00007000-0000a000 r-xp 00003000 08:01 9 /lib\n", Err(Refused::Gone));
        check(0, "00007000-00009000 r-xp", Err(Refused::Gone));
        check(999_999, "00007000-00009000 r-xp 00003000 08:01 9 /lib\n", Err(Refused::Gone));
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id();
        let stat = fs::read_to_string(format!("/proc/{own}/stat")).expect("stat");
        let (_, start) = parse_stat(&stat).expect("fields");
        assert_eq!(is_the_one(own, start), Ok(()));
        assert_eq!(is_the_one(own, 0), Ok(()));
        assert_eq!(is_the_one(own, start + 1), Err(Refused::Gone));
        assert_eq!(is_the_one(0, 0), Err(Refused::NotAllowed));
        assert_eq!(is_the_one(PID_MAX + 1, 0), Err(Refused::NotAllowed));
    }
}
