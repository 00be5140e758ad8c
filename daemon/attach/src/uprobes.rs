//! Uprobe attachments: one per request of main, each a few kernel links that live until they are detached.
//!
//! Offsets come with the request, nothing is looked up in a file. Where the kernel has `uprobe_multi` with a pid filter
//! that means processes, one link per program carries all offsets of a request; else each (program, offset) is a perf
//! event. Either way all threads of the process are covered, a library mapped later too, and a forked child is not.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::attacher::Hook;

use crate::loader::Loaded;
use crate::sys::bpf;
use crate::sys::perf::{self, UprobeSource};

/// Live attachments. Each holds up to 12 descriptors.
pub(crate) const ATTACHMENTS_MAX: usize = 4096;

/// How uprobes reach the kernel.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    /// `uprobe_multi` links.
    Multi,
    /// perf events.
    Perf(UprobeSource),
}

/// Program at function entry and, where the hook has one, at return.
fn programs(hook: Hook) -> (&'static str, Option<&'static str>) {
    match hook {
        Hook::Getaddrinfo => ("getaddrinfo_entry", Some("getaddrinfo_return")),
        Hook::SslCtrl => ("ssl_ctrl_entry", None),
        Hook::SslFree => ("ssl_free_entry", None),
        Hook::SslWrite => ("ssl_write_entry", Some("ssl_write_return")),
        Hook::SslWriteEx => ("ssl_write_ex_entry", Some("ssl_write_ex_return")),
        Hook::SslRead => ("ssl_read_entry", Some("ssl_read_return")),
        Hook::SslReadEx => ("ssl_read_ex_entry", Some("ssl_read_ex_return")),
    }
}

/// Attachments by number.
pub(crate) struct Uprobes {
    way: Way,
    live: BTreeMap<u64, Vec<OwnedFd>>,
    next: u64,
}

impl Uprobes {
    pub(crate) fn new(way: Way) -> Uprobes {
        Uprobes { way, live: BTreeMap::new(), next: 1 }
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
        file: BorrowedFd<'_>,
        pid: u32,
        places: &[(Hook, u64)],
    ) -> Result<u64, (io::Error, Vec<OwnedFd>)> {
        let mut by_hook: BTreeMap<Hook, Vec<u64>> = BTreeMap::new();
        for (hook, offset) in places {
            by_hook.entry(*hook).or_default().push(*offset);
        }
        let path = bpf::fd_path(file);
        let mut links = Vec::new();
        for (hook, offsets) in &by_hook {
            let (entry, at_return) = programs(*hook);
            // Return first: a call that begins in between is then counted as one whose entry was not seen; the other
            // way round it would be missed in silence.
            for (name, is_return) in at_return.map(|name| (name, true)).into_iter().chain([(entry, false)]) {
                let Some(program) = loaded.program(name) else {
                    return Err((io::Error::from(io::ErrorKind::NotFound), links));
                };
                if let Err(error) = self.link(program, &path, offsets, pid, is_return, &mut links) {
                    return Err((error, links));
                }
            }
        }
        let number = self.next;
        self.next += 1;
        self.live.insert(number, links);
        Ok(number)
    }

    /// Takes an attachment out; closing the descriptors detaches it.
    pub(crate) fn take(&mut self, number: u64) -> Option<Vec<OwnedFd>> {
        self.live.remove(&number)
    }

    /// Takes everything out.
    pub(crate) fn take_all(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.live).into_values().flatten().collect()
    }

    fn link(
        &self,
        program: BorrowedFd<'_>,
        path: &std::ffi::CStr,
        offsets: &[u64],
        pid: u32,
        is_return: bool,
        links: &mut Vec<OwnedFd>,
    ) -> io::Result<()> {
        match self.way {
            Way::Multi => links.push(bpf::uprobe_multi(program.as_fd(), path, offsets, pid, is_return)?),
            Way::Perf(source) => {
                for offset in offsets {
                    links.push(perf::uprobe(source, program, path, *offset, pid, is_return)?);
                }
            }
        }
        Ok(())
    }
}
