//! Uprobe attachments: one per request of main, each a few kernel links that live until they are detached.
//!
//! Offsets come with the request, nothing is looked up in a file. There are two ways to the kernel:
//!
//! - `uprobe_multi` links, where the kernel has them with a pid filter that means processes (6.10): one link per program
//!   carries all offsets of a request.
//! - Elsewhere, traced uprobes: each (file, offset, program) is once made a *site*, a uprobe in tracefs with the program
//!   attached to it by way of an event on this process, where it never fires. A process is armed by one more perf event
//!   on the site and disarmed by closing it, which unregisters nothing. perf's own uprobe event source is not used: since
//!   2025 it needs CAP_SYS_ADMIN (6.16, and stable releases of older kernels).
//!
//! All threads of the process are covered, a library mapped later too, and a forked child is not.
//!
//! Measured on Linux 6.18 (two busy cores, debug build), eight hooks (read and write, entry and return) of one process
//! of a hundred, with the idle perf event of [`crate::sys::perf::warm_event`] held:
//!
//! | way | first after a quiet second | each further | detach of one | of twenty together | end with 100 armed |
//! |---|---|---|---|---|---|
//! | `uprobe_multi` | 7-8 ms | 0.3 ms | 50-100 ms | 200-370 ms | 0.8-1.1 s |
//! | sites | 9-12 ms | 1.1 ms | 7-18 ms | 18 ms | 1.1 s |
//!
//! `uprobe_multi` is preferred for the first call of a process, which waits for nobody; detaching is in nobody's way.
//! One traced uprobe per process instead of a site would cost 700 ms for a detach and 76 s at the end.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;

use abi::attacher::Hook;

use crate::closer::{Held, close_all};
use crate::files::Lease;
use crate::loader::Loaded;
use crate::settings::tracefs::Tracefs;
use crate::sys::{bpf, perf};

/// Live attachments. Each holds up to 12 descriptors.
pub(crate) const ATTACHMENTS_MAX: usize = 4096;
/// Sites; those of files without attachments go when there is no room. A node with fifty different TLS libraries has 600.
const SITES_MAX: usize = 2048;

/// Sites that one request may need: two for each hook.
const SITES_OF_A_FILE: usize = 2 * abi::attacher::HOOKS_MAX;

/// How uprobes reach the kernel.
pub(crate) enum Way {
    /// `uprobe_multi` links.
    Multi,
    /// Sites in tracefs.
    Traced(Tracefs),
}

/// Program at function entry and, where the hook has one, at return.
fn programs(hook: Hook) -> (&'static str, Option<&'static str>) {
    match hook {
        Hook::Getaddrinfo => ("getaddrinfo_entry", Some("getaddrinfo_return")),
        Hook::SslCtrl => ("ssl_ctrl_entry", None),
        Hook::SslFree => ("ssl_free_entry", None),
        Hook::SslWrite => ("ssl_write_entry", Some("ssl_write_return")),
        Hook::SslWriteEx => ("ssl_write_ex_entry", Some("ssl_write_ex_return")),
        Hook::SslWriteEx2 => ("ssl_write_ex2_entry", Some("ssl_write_ex_return")),
        Hook::SslRead => ("ssl_read_entry", Some("ssl_read_return")),
        Hook::SslReadEx => ("ssl_read_ex_entry", Some("ssl_read_ex_return")),
    }
}

/// A mapped file: its number, a descriptor, and what is held while something is attached to it.
pub(crate) struct InFile<'a> {
    pub(crate) number: u64,
    pub(crate) fd: BorrowedFd<'a>,
    pub(crate) lease: Lease,
}

/// An attachment.
pub(crate) struct Attached {
    file: u64,
    /// Dropped, nothing is attached any more.
    pub(crate) links: Vec<Held>,
    /// Held until that is so.
    pub(crate) lease: Lease,
}

/// Attachments by number.
pub(crate) struct Uprobes {
    way: Way,
    live: BTreeMap<u64, Attached>,
    next: u64,
    /// Sites made so far: their names must differ.
    sites_made: usize,
    /// By file number, offset and program; with the site's perf number.
    sites: BTreeMap<(u64, u64, &'static str), (Held, u64)>,
}

impl Uprobes {
    pub(crate) fn new(way: Way) -> Uprobes {
        Uprobes { way, live: BTreeMap::new(), next: 1, sites_made: 0, sites: BTreeMap::new() }
    }

    /// How many are live.
    pub(crate) fn len(&self) -> usize {
        self.live.len()
    }

    /// Attaches hooks at offsets of one file for one process (`pid` 0: all). All or nothing: on an error the links
    /// made so far come back to be closed elsewhere.
    pub(crate) fn attach(
        &mut self,
        loaded: &Loaded,
        file: InFile<'_>,
        pid: u32,
        places: &[(Hook, u64)],
    ) -> Result<u64, (io::Error, Vec<Held>)> {
        let mut by_hook: BTreeMap<Hook, Vec<u64>> = BTreeMap::new();
        for (hook, offset) in places {
            by_hook.entry(*hook).or_default().push(*offset);
        }
        let mut links = Vec::new();
        for (hook, offsets) in &by_hook {
            let (entry, at_return) = programs(*hook);
            // Return first: a call that begins in between is then counted as one whose entry was not seen; the other
            // way round it would be missed in silence.
            for (name, is_return) in at_return.map(|name| (name, true)).into_iter().chain([(entry, false)]) {
                let linked = match loaded.program(name) {
                    Some(program) => self.link((name, program), &file, offsets, pid, is_return, &mut links),
                    None => Err(io::Error::from(io::ErrorKind::NotFound)),
                };
                if let Err(error) = linked {
                    return Err((error, links));
                }
            }
        }
        let number = self.next;
        self.next += 1;
        self.live.insert(number, Attached { file: file.number, links, lease: file.lease });
        Ok(number)
    }

    /// Takes an attachment out; dropping its links detaches it.
    pub(crate) fn take(&mut self, number: u64) -> Option<Attached> {
        self.live.remove(&number)
    }

    /// Takes out everything on a file: its attachments, and its sites, which cannot be removed before them.
    pub(crate) fn take_file(&mut self, file: u64) -> (Vec<Attached>, Vec<Held>) {
        let attached =
            self.live.extract_if(.., |_, attached| attached.file == file).map(|(_, attached)| attached);
        let attached = attached.collect();
        let sites = self.sites.extract_if(.., |(of, ..), _| *of == file).map(|(_, (site, _))| site).collect();
        (attached, sites)
    }

    /// Takes out the sites of files without attachments if there is no room for those of another file.
    pub(crate) fn take_idle_sites(&mut self) -> Vec<Held> {
        if self.sites.len() + SITES_OF_A_FILE <= SITES_MAX {
            return Vec::new();
        }
        let used: BTreeSet<u64> = self.live.values().map(|attached| attached.file).collect();
        self.sites.extract_if(.., |(file, ..), _| !used.contains(file)).map(|(_, (site, _))| site).collect()
    }

    /// Detaches everything, in parallel, sites last: they cannot be removed while they are used.
    pub(crate) fn close(&mut self) {
        let live = std::mem::take(&mut self.live).into_values();
        close_all(live.flat_map(|attached| attached.links).collect());
        close_all(std::mem::take(&mut self.sites).into_values().map(|(site, _)| site).collect());
    }

    fn link(
        &mut self,
        (name, program): (&'static str, BorrowedFd<'_>),
        file: &InFile<'_>,
        offsets: &[u64],
        pid: u32,
        is_return: bool,
        links: &mut Vec<Held>,
    ) -> io::Result<()> {
        let path = bpf::fd_path(file.fd);
        let tracefs = match &self.way {
            Way::Multi => {
                links.push(bpf::uprobe_multi(program, &path, offsets, pid, is_return)?.into());
                return Ok(());
            }
            Way::Traced(tracefs) => tracefs,
        };
        for offset in offsets {
            let key = (file.number, *offset, name);
            let id = match self.sites.get(&key) {
                Some((_, id)) => *id,
                None if self.sites.len() >= SITES_MAX => {
                    return Err(io::Error::from_raw_os_error(libc::ENFILE));
                }
                None => {
                    self.sites_made += 1;
                    let site = make_site(tracefs, self.sites_made, program, &path, *offset, is_return)?;
                    let id = site.1;
                    self.sites.insert(key, site);
                    id
                }
            };
            links.push(perf::extend_to(id, pid)?.into());
        }
        Ok(())
    }
}

/// Makes a site: the program is attached, and fires nowhere but in this process, which does not use the library.
fn make_site(
    tracefs: &Tracefs,
    index: usize,
    program: BorrowedFd<'_>,
    path: &CStr,
    offset: u64,
    is_return: bool,
) -> io::Result<(Held, u64)> {
    let name = format!("at_{}_{index}", std::process::id());
    let (control, id) = tracefs.add_uprobe(&name, path, offset, is_return)?;
    // Held before it is attached, so that a refusal takes it out again.
    let mut held = Held::Traced { event: None, control, name };
    if let Held::Traced { event, .. } = &mut held {
        let anchor = perf::tracepoint(id, std::process::id())?;
        perf::run_program(&anchor, program)?;
        *event = Some(anchor);
    }
    Ok((held, id))
}
