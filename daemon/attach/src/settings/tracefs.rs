//! tracefs: ids and field offsets of tracepoints. Mounted where it is missing and this process may.

use std::ffi::CStr;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A mounted tracefs.
pub(crate) struct Tracefs {
    root: PathBuf,
}

impl Tracefs {
    /// Finds it, or mounts it at `/sys/kernel/tracing`. Called before capabilities are dropped: mounting needs
    /// CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// What is missing and what to do.
    pub(crate) fn find_or_mount() -> Result<Tracefs, String> {
        if let Some(found) = Tracefs::find() {
            return Ok(found);
        }
        let [place, _] = PLACES;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("tracefs"), place, Some("tracefs"), flags, None::<&str>).map_err(|error| {
            format!(
                "tracefs is not mounted and mounting it at {place} failed ({error}); \
                 as root: mount -t tracefs tracefs {place}"
            )
        })?;
        Tracefs::find()
            .ok_or_else(|| format!("tracefs at {place} has no socket events: a kernel without tracepoints"))
    }

    fn find() -> Option<Tracefs> {
        let places = PLACES.iter().map(Path::new);
        places
            .filter(|root| root.join("events/sock").is_dir())
            .map(|root| Tracefs { root: root.to_owned() })
            .next()
    }

    /// The number that perf knows a tracepoint by.
    pub(crate) fn id(&self, category: &str, name: &str) -> Result<u64, String> {
        let path = self.event(category, name).join("id");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        text.trim().parse().map_err(|_| format!("{}: {text:?} is not a number", path.display()))
    }

    /// The fields of a tracepoint.
    pub(crate) fn format(&self, category: &str, name: &str) -> Result<Format, String> {
        let path = self.event(category, name).join("format");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Format { text, path })
    }

    /// Names a uprobe at an offset of a file, for perf to attach to: the way of kernels that allow a process without
    /// CAP_SYS_ADMIN nothing better. The answer is the file to control it with, its name and its perf number.
    pub(crate) fn add_uprobe(
        &self,
        name: &str,
        path: &CStr,
        offset: u64,
        at_return: bool,
    ) -> io::Result<(PathBuf, u64)> {
        let control = self.root.join("uprobe_events");
        let kind = if at_return { 'r' } else { 'p' };
        append(&control, &format!("{kind}:{GROUP}/{name} {}:{offset:#x}\n", path.to_string_lossy()))?;
        match self.id(GROUP, name) {
            Ok(id) => Ok((control, id)),
            Err(why) => {
                remove_uprobe(&control, name)?;
                Err(io::Error::other(why))
            }
        }
    }

    /// Removes what an attacher that was killed has left. Those still in use stay: the kernel refuses.
    pub(crate) fn remove_stale_uprobes(&self) {
        let Ok(names) = std::fs::read_dir(self.root.join("events").join(GROUP)) else { return };
        for name in names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            let _ = remove_uprobe(&self.root.join("uprobe_events"), &name);
        }
    }

    fn event(&self, category: &str, name: &str) -> PathBuf {
        self.root.join("events").join(category).join(name)
    }
}

/// Group of our traced uprobes in tracefs.
const GROUP: &str = "venturi";

/// Takes a traced uprobe out. Refused while something is attached to it.
pub(crate) fn remove_uprobe(control: &Path, name: &str) -> io::Result<()> {
    append(control, &format!("-:{GROUP}/{name}\n"))
}

fn append(control: &Path, command: &str) -> io::Result<()> {
    OpenOptions::new().append(true).open(control)?.write_all(command.as_bytes())
}

/// A `format` file: lines such as `field:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;`.
pub(crate) struct Format {
    text: String,
    path: PathBuf,
}

impl Format {
    /// Offset of a field, bytes.
    pub(crate) fn offset(&self, field: &str) -> Result<u32, String> {
        let mut fields = self.text.lines().filter_map(parse_line);
        let found = fields.find(|(name, _)| *name == field).map(|(_, offset)| offset);
        found.ok_or_else(|| format!("{}: there is no field {field}", self.path.display()))
    }
}

/// Name and offset of the field that a line describes.
fn parse_line(line: &str) -> Option<(&str, u32)> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    // `__u8 saddr[4]` ends with the size, `__data_loc char[] filename` with the name.
    let declaration =
        declaration.strip_suffix(']').and_then(|text| text.rsplit_once('[')).map_or(declaration, |d| d.0);
    let name = declaration.rsplit([' ', '*']).find(|word| !word.is_empty())?;
    let offset = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
    Some((name, offset))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, expected: Option<(&str, u32)>) {
        assert_eq!(parse_line(line), expected, "{line}");
    }

    #[test]
    fn fields_of_every_shape_are_read() {
        check("\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;", Some(("skaddr", 8)));
        check("\tfield:__u8 saddr[4];\toffset:32;\tsize:4;\tsigned:0;", Some(("saddr", 32)));
        check("\tfield:char *name;\toffset:4;\tsize:8;\tsigned:0;", Some(("name", 4)));
        check("\tfield:__data_loc char[] filename;\toffset:8;\tsize:4;\tsigned:0;", Some(("filename", 8)));
        check("print fmt: \"family=%s\"", None);
        check("", None);
    }
}
