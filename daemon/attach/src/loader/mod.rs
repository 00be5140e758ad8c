//! From the committed object to loaded programs: gate, maps, link, gate again, load, read back.
//!
//! The whole file passes the gate before the kernel sees any of it. Then `aya::EbpfLoader` makes the maps (sizes and
//! settings overridden), the same bytes are linked against those maps by `aya_obj`, the gate judges the linked
//! instructions, and exactly those are loaded by a `bpf(2)` call of our own: what was judged is what is loaded. After
//! the load the kernel is asked what it holds, and a difference stops everything.
//!
//! aya's feature detection loads a few constant programs of one or two instructions and drops them at once; they are
//! never attached.

mod tag;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use abi::attacher::{Limit, LoadedProgram};
use abi::control::Settings;
use aya::maps::{Map, MapData};
use aya::{Ebpf, EbpfLoader};
use aya_obj::generated::bpf_insn;
use zerocopy::IntoBytes;

use crate::gate::allow::{self, Kind};
use crate::gate::instruction::{Instruction, LOAD_IMM64, walk};
use crate::gate::{self, GateError};
use crate::sys::bpf::{self, ProgLoad, TRACE_UPROBE_MULTI};
use tag::TagMatch;

/// What each program of the object is for. A program that is not in this table is not loaded, and an object without
/// one of them is refused: main relies on all of them.
pub(crate) const PROGRAMS: &[(&str, Kind, Target)] = &[
    ("inet_sock_set_state", Kind::Tracepoint, Target::Tracepoint("sock", "inet_sock_set_state")),
    ("sched_process_exec", Kind::Tracepoint, Target::Tracepoint("sched", "sched_process_exec")),
    ("sched_process_exit", Kind::Tracepoint, Target::Tracepoint("sched", "sched_process_exit")),
    ("sched_process_fork", Kind::RawTracepoint, Target::RawTracepoint(c"sched_process_fork")),
    ("getaddrinfo_entry", Kind::Uprobe, Target::OnRequest),
    ("getaddrinfo_return", Kind::Uretprobe, Target::OnRequest),
    ("ssl_ctrl_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_free_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_write_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_write_return", Kind::Uretprobe, Target::OnRequest),
    ("ssl_write_ex_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_write_ex_return", Kind::Uretprobe, Target::OnRequest),
    ("ssl_write_ex2_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_read_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_read_return", Kind::Uretprobe, Target::OnRequest),
    ("ssl_read_ex_entry", Kind::Uprobe, Target::OnRequest),
    ("ssl_read_ex_return", Kind::Uretprobe, Target::OnRequest),
    ("tap", Kind::SocketFilter, Target::OnRequest),
];

/// Where a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Category and name.
    Tracepoint(&'static str, &'static str),
    /// Name.
    RawTracepoint(&'static CStr),
    /// Main asks for it, by verb.
    OnRequest,
}

/// Sizes that the command line may change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Bytes of `EVENTS`, a power of two.
    pub(crate) events_bytes: u32,
    /// Bytes of `CONTENT`, a power of two.
    pub(crate) content_bytes: u32,
}

/// What is loaded.
pub(crate) struct Loaded {
    /// Holds the maps; its own programs stay unloaded.
    pub(crate) ebpf: Ebpf,
    /// Uprobe programs were loaded for `uprobe_multi` links.
    pub(crate) multi: bool,
    /// As the kernel reports them.
    pub(crate) report: Vec<LoadedProgram>,
    programs: BTreeMap<&'static str, OwnedFd>,
    /// Names by the kernel's id.
    ids: BTreeMap<u32, &'static str>,
}

impl Loaded {
    /// A loaded program.
    pub(crate) fn program(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.programs.get(name).map(OwnedFd::as_fd)
    }

    /// How often the kernel skipped the program with this id because another ran on the same CPU.
    ///
    /// # Errors
    /// It is none of ours, or the kernel does not count (before Linux 5.12).
    pub(crate) fn misses(&self, id: u32) -> io::Result<u64> {
        let program = self.ids.get(&id).and_then(|name| self.program(name));
        let program = program.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))?;
        bpf::recursion_misses(program)?.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODATA))
    }

    /// Descriptor of a map.
    pub(crate) fn map(&self, name: &str) -> Option<BorrowedFd<'_>> {
        self.ebpf.map(name).and_then(map_data).map(|data| data.fd().as_fd())
    }
}

/// Why capture stops before it starts: the limit and the explanation for a person.
pub(crate) type Stop = (Limit, String);

/// Loads everything, or nothing. `allow_multi` false loads for perf events even where `uprobe_multi` works.
///
/// # Errors
/// The limit that stops capture, and what, where, what to do.
pub(crate) fn load(
    object: &[u8],
    settings: &Settings,
    sizes: Sizes,
    allow_multi: bool,
) -> Result<Loaded, Stop> {
    gate::judge_object(object).map_err(|error| match error {
        GateError::Unreadable(why) => (Limit::NoObject, format!("the embedded probes object: {why}")),
        forbidden @ GateError::Forbidden(_) => (Limit::GateRefused, forbidden.to_string()),
    })?;
    let ebpf = create_maps(object, settings, sizes)?;
    let linked = link(object, &ebpf)?;
    let judged =
        linked.iter().flat_map(|program| gate::judge_instructions(program.name, program.kind, &program.code));
    let findings: Vec<_> = judged.collect();
    if !findings.is_empty() {
        return Err((Limit::GateRefused, GateError::Forbidden(findings).to_string()));
    }
    let multi = allow_multi && uprobe_multi_works(&linked);
    let mut loaded =
        Loaded { ebpf, multi, report: Vec::new(), programs: BTreeMap::new(), ids: BTreeMap::new() };
    for program in &linked {
        let fd = load_one(program, multi)?;
        let held = read_back(program, fd.as_fd(), &loaded)?;
        loaded.ids.insert(held.id, program.name);
        loaded.report.push(held);
        loaded.programs.insert(program.name, fd);
    }
    Ok(loaded)
}

/// A program as it will be handed to the kernel.
struct Linked {
    name: &'static str,
    kind: Kind,
    license: CString,
    code: Vec<bpf_insn>,
}

fn create_maps(object: &[u8], settings: &Settings, sizes: Sizes) -> Result<Ebpf, Stop> {
    let made = EbpfLoader::new()
        .btf(None)
        .override_global("SETTINGS", settings.as_bytes(), true)
        .map_max_entries("EVENTS", sizes.events_bytes)
        .map_max_entries("CONTENT", sizes.content_bytes)
        .load(object);
    made.map_err(|error| {
        let why = crate::chain(&error);
        let limit = if why.contains("os error 1)") { Limit::MissingCapability } else { Limit::LoadRefused };
        (limit, format!("making the maps: {why}"))
    })
}

fn link(object: &[u8], ebpf: &Ebpf) -> Result<Vec<Linked>, Stop> {
    let refused = |why: String| (Limit::NoObject, format!("the embedded probes object: {why}"));
    let mut parsed = gate::parse(object).map_err(|error| refused(error.to_string()))?;
    let maps = parsed.maps.clone();
    let with_descriptors = maps.iter().filter_map(|(name, map)| {
        let data = ebpf.map(name).and_then(map_data)?;
        Some((name.as_str(), data.fd().as_fd().as_raw_fd(), map))
    });
    gate::link(&mut parsed, with_descriptors).map_err(refused)?;
    parsed.sanitize_functions(aya::features());
    if let Some(stranger) =
        parsed.programs.keys().find(|name| PROGRAMS.iter().all(|(known, ..)| *known != name.as_str()))
    {
        return Err((Limit::GateRefused, format!("program {stranger} has no purpose in this version")));
    }
    let mut linked = Vec::new();
    for (name, kind, _) in PROGRAMS {
        let program =
            parsed.programs.get(*name).ok_or_else(|| refused(format!("there is no program {name}")))?;
        if gate::kind_of_section(&program.section) != Some(*kind) {
            return Err(refused(format!("program {name} is {:?}, not {}", program.section, kind.name())));
        }
        let function = parsed.functions.get(&program.function_key());
        let function = function.ok_or_else(|| refused(format!("program {name} has no code")))?;
        linked.push(Linked {
            name,
            kind: *kind,
            license: program.license.clone(),
            code: function.instructions.clone(),
        });
    }
    Ok(linked)
}

fn load_one(program: &Linked, multi: bool) -> Result<OwnedFd, Stop> {
    let loaded = bpf::prog_load(&ProgLoad {
        prog_type: program.kind.prog_type(),
        expected_attach_type: if multi && program.kind.is_uprobe() { TRACE_UPROBE_MULTI } else { 0 },
        name: program.name,
        license: &program.license,
        instructions: &program.code,
        kernel_version: 0,
    });
    loaded.map_err(|refused| {
        let limit = match refused.error.raw_os_error() {
            Some(libc::EPERM) if refused.log.is_empty() => Limit::MissingCapability,
            _ => Limit::LoadRefused,
        };
        let log = if refused.log.is_empty() { String::new() } else { format!("; verifier: {}", refused.log) };
        (limit, format!("loading program {}: {}{log}", program.name, refused.error))
    })
}

/// Tries what libbpf tries: a link to a directory is refused as a bad file only where `uprobe_multi` exists, and a pid
/// of -1 as invalid only where its pid filter means processes (it meant threads until 6.10).
fn uprobe_multi_works(linked: &[Linked]) -> bool {
    let Some(program) = linked.iter().find(|program| program.kind.is_uprobe()) else { return false };
    let Ok(fd) = load_one(program, true) else { return false };
    let attempt =
        |pid| bpf::uprobe_multi(fd.as_fd(), c"/", &[0], pid, false).err().and_then(|e| e.raw_os_error());
    attempt(0) == Some(libc::EBADF) && attempt(u32::MAX) == Some(libc::EINVAL)
}

/// Asks the kernel what it holds and compares it with what was approved.
fn read_back(program: &Linked, fd: BorrowedFd<'_>, loaded: &Loaded) -> Result<LoadedProgram, Stop> {
    let differs = |what: String| (Limit::ReadBackDiffers, format!("program {}: {what}", program.name));
    let (info, map_ids) =
        bpf::prog_info(fd).map_err(|error| differs(format!("it cannot be queried: {error}")))?;
    if info.type_ != program.kind.prog_type() as u32 {
        return Err(differs(format!(
            "the kernel holds type {}, not {:?}",
            info.type_,
            program.kind.prog_type()
        )));
    }
    let name = info.name.map(|byte| byte as u8);
    if name != bpf::kernel_name(program.name) {
        return Err(differs(format!("the kernel calls it {:?}", String::from_utf8_lossy(&name))));
    }
    let expected = expected_maps(program, loaded).map_err(differs)?;
    let held: BTreeSet<u32> = map_ids.into_iter().collect();
    if held != expected {
        return Err(differs(format!("the kernel holds maps {held:?}, approved were {expected:?}")));
    }
    match tag::compare(info.tag, &program.code) {
        TagMatch::Neither => {
            tracing::warn!(program = program.name, "the kernel computes tags in an unknown way")
        }
        digest => tracing::debug!(program = program.name, ?digest, "the kernel's tag agrees"),
    }
    Ok(LoadedProgram {
        id: info.id,
        prog_type: info.type_,
        instructions: u32::try_from(program.code.len()).unwrap_or(u32::MAX),
        reserved: 0,
        tag: info.tag,
        name,
    })
}

/// Ids of the maps that the approved instructions refer to. Each is asked of the kernel and judged by the map list.
fn expected_maps(program: &Linked, loaded: &Loaded) -> Result<BTreeSet<u32>, String> {
    let decoded: Vec<Instruction> = program.code.iter().map(Instruction::from_kernel).collect();
    let loads = walk(&decoded).filter(|(_, i)| i.code == LOAD_IMM64 && matches!(i.src, 1 | 2));
    let referred: BTreeSet<i32> = loads.map(|(_, i)| i.imm).collect();
    let mut ids = BTreeSet::new();
    for (name, map) in loaded.ebpf.maps() {
        let Some(data) = map_data(map) else { continue };
        let fd = data.fd().as_fd();
        if !referred.contains(&fd.as_raw_fd()) {
            continue;
        }
        let info = bpf::map_info(fd).map_err(|error| format!("map {name}: {error}"))?;
        if !allow::map_is_allowed(info.type_, info.map_flags) {
            return Err(format!(
                "map {name} has type {} and flags {:#x} in the kernel",
                info.type_, info.map_flags
            ));
        }
        ids.insert(info.id);
    }
    if ids.len() != referred.len() {
        return Err("it refers to a descriptor that is no map of ours".to_owned());
    }
    Ok(ids)
}

/// The descriptor holder of a map of one of the allowed types.
fn map_data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}
