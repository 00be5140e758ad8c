//! The read-only gate: decides whether a BPF object may be handed to the kernel, and names what it refuses.
//!
//! It is an allowlist. A *kind* (program type with its section name), a *helper*, a *map type*, a *map flag*, an
//! *attach target* or an *opcode* that is not listed in [`allow`] is refused, whether or not it is known to do harm;
//! so is every section that is not understood, because a program could hide in it.
//!
//! There are two passes over the same rules. [`judge_object`] reads the ELF file itself (every executable section,
//! subprograms included, called or not) and then the linked programs. [`judge_instructions`] judges the exact
//! instructions of one program as they are handed to the kernel, after relocation, and follows the context pointer so
//! that no program can write through it (since 6.18 a uprobe program may change its caller's registers that way).
//!
//! The gate never loads anything, never follows a file's claims about itself (names in the file only choose between
//! refusals), and has no switch that turns it off.

pub(crate) mod allow;
mod elf;
pub(crate) mod flow;
mod helpers;
pub(crate) mod instruction;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use aya_obj::Object;
use aya_obj::generated::bpf_insn;

pub use allow::Kind;
use instruction::Instruction;

/// One rule of the gate, as it is named in a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The program's kind is not on the list of observing kinds.
    ProgramKind,
    /// A section that is neither code of an allowed kind nor known data.
    UnknownSection,
    /// A helper that is not on the list.
    Helper,
    /// `bpf_tail_call`: it leaves the instructions that were judged.
    TailCall,
    /// A kernel function (kfunc) or another external symbol.
    Kfunc,
    /// An instruction that no observing program needs.
    Opcode,
    /// A map type that is not on the list.
    MapType,
    /// A map flag that is not on the list, or a pinned map.
    MapFlags,
    /// A tracepoint that is not on the list: hooks per packet or per system call cost every process.
    AttachTarget,
    /// A store through the context pointer.
    ContextWrite,
    /// More than one socket filter: there is one, for our own tap.
    SocketFilter,
    /// A CO-RE relocation, which would change instructions after they were judged.
    Relocation,
}

impl Rule {
    /// Stable kebab-case name for scripts.
    pub const fn name(self) -> &'static str {
        match self {
            Rule::ProgramKind => "program-kind",
            Rule::UnknownSection => "unknown-section",
            Rule::Helper => "helper",
            Rule::TailCall => "tail-call",
            Rule::Kfunc => "kfunc",
            Rule::Opcode => "opcode",
            Rule::MapType => "map-type",
            Rule::MapFlags => "map-flags",
            Rule::AttachTarget => "attach-target",
            Rule::ContextWrite => "context-write",
            Rule::SocketFilter => "socket-filter",
            Rule::Relocation => "relocation",
        }
    }
}

/// One thing that is forbidden: which program (or map, or section), of which kind, by which rule, and what exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Name of the program, map or section.
    pub program: String,
    /// Its kind, in libbpf's section vocabulary (`xdp`, `cgroup/connect4`, `map`, ..).
    pub kind: String,
    /// The rule.
    pub rule: Rule,
    /// What exactly: the helper's name, the map's type, the target.
    pub detail: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}: {}", self.program, self.kind, self.rule.name(), self.detail)
    }
}

/// Why an object may not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The file is not a BPF object this gate understands. Exit code 2.
    #[error("not a readable BPF object: {0}")]
    Unreadable(String),
    /// Forbidden, all findings at once, sorted. Exit code 1.
    #[error("forbidden: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Forbidden(Vec<Finding>),
}

/// A program that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovedProgram {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// Instructions after linking; 0 for a kind that [`Kind::is_multi`] and is judged in the file only.
    pub instructions: usize,
    /// Names of the helpers it calls.
    pub helpers: BTreeSet<String>,
}

/// An object that passed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Approval {
    /// Programs, sorted by name.
    pub programs: Vec<ApprovedProgram>,
    /// Maps with their type names, sorted.
    pub maps: BTreeMap<String, &'static str>,
}

/// Judges a whole object file.
///
/// # Errors
/// [`GateError::Unreadable`] if it is no 64-bit little-endian BPF object, [`GateError::Forbidden`] with every finding.
pub fn judge_object(bytes: &[u8]) -> Result<Approval, GateError> {
    let file = elf::read(bytes).map_err(GateError::Unreadable)?;
    let mut findings = Vec::new();
    for section in &file.forbidden {
        findings.push(section.clone());
    }
    for code in &file.code {
        judge_code(code, &mut findings);
    }
    let filters: Vec<_> = file.programs.iter().filter(|(_, kind)| *kind == Kind::SocketFilter).collect();
    if let [_, _, ..] = filters.as_slice() {
        let names: Vec<_> = filters.iter().map(|(name, _)| name.as_str()).collect();
        findings.push(finding(&names.join(","), "socket", Rule::SocketFilter, "more than one socket filter"));
    }
    if !findings.is_empty() {
        // A forbidden object is not parsed any further: the second parser may not know its kinds.
        return Err(forbidden(findings));
    }
    judge_linked(bytes, &file, findings)
}

/// Judges the exact instructions of one program. `kind` decides which opcodes exist for it.
pub fn judge_instructions(program: &str, kind: Kind, instructions: &[bpf_insn]) -> Vec<Finding> {
    let decoded: Vec<Instruction> = instructions.iter().map(Instruction::from_kernel).collect();
    let mut findings = Vec::new();
    for (index, instruction) in instruction::walk(&decoded) {
        if let Some((rule, detail)) = allow::instruction(kind, instruction) {
            findings.push(finding(program, kind.name(), rule, &format!("{detail} at instruction {index}")));
        }
    }
    if findings.is_empty()
        && let Err((index, detail)) = flow::context_is_never_written(&decoded)
    {
        let detail = format!("{detail} at instruction {index}");
        findings.push(finding(program, kind.name(), Rule::ContextWrite, &detail));
    }
    findings
}

fn judge_code(code: &elf::Code, findings: &mut Vec<Finding>) {
    for (index, instruction) in instruction::walk(&code.instructions) {
        let program = code.function_at(index);
        if let Some(symbol) = code.externs.get(&index) {
            let detail = format!("call or address of external symbol {symbol}");
            findings.push(finding(program, code.kind_name(), Rule::Kfunc, &detail));
            continue;
        }
        let kind = code.kind.unwrap_or(Kind::SocketFilter);
        if let Some((rule, detail)) = allow::instruction(kind, instruction) {
            findings.push(finding(program, code.kind_name(), rule, &detail));
        }
    }
}

fn judge_linked(bytes: &[u8], file: &elf::File, mut findings: Vec<Finding>) -> Result<Approval, GateError> {
    if file.programs.iter().any(|(_, kind)| kind.is_multi()) {
        // aya-obj does not know these sections; the file pass has seen every instruction they can contain.
        let programs = file.programs.iter().map(|(name, kind)| approved(name, *kind, &[])).collect();
        return Ok(Approval { programs, maps: BTreeMap::new() });
    }
    let mut object = parse(bytes)?;
    if object.has_btf_relocations() {
        findings.push(finding("(object)", "relocation", Rule::Relocation, "CO-RE relocations"));
    }
    let mut maps = BTreeMap::new();
    for (name, map) in &object.maps {
        for (rule, detail) in allow::map(map) {
            findings.push(finding(name, "map", rule, &detail));
        }
        maps.insert(name.clone(), allow::map_type_name(map.map_type()));
    }
    if !findings.is_empty() {
        return Err(forbidden(findings));
    }
    let stand_ins = object.maps.clone();
    let descriptors =
        stand_ins.iter().enumerate().map(|(at, (name, map))| (name.as_str(), at as i32 + 3, map));
    link(&mut object, descriptors).map_err(GateError::Unreadable)?;
    let mut programs = Vec::new();
    for (name, kind) in &file.programs {
        let Some(function) = object.programs.get(name).and_then(|p| object.functions.get(&p.function_key()))
        else {
            findings.push(finding(
                name,
                kind.name(),
                Rule::UnknownSection,
                "code that the loader does not see",
            ));
            continue;
        };
        findings.extend(judge_instructions(name, *kind, &function.instructions));
        programs.push(approved(name, *kind, &function.instructions));
    }
    if !findings.is_empty() {
        return Err(forbidden(findings));
    }
    programs.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Approval { programs, maps })
}

/// Parses with aya-obj. The parser asserts on some malformed input, which must be a refusal and not an abort.
pub(crate) fn parse(bytes: &[u8]) -> Result<Object, GateError> {
    catch_unwind(AssertUnwindSafe(|| Object::parse(bytes)))
        .map_err(|_| GateError::Unreadable("the parser panicked on it".to_owned()))?
        .map_err(|error| GateError::Unreadable(error.to_string()))
}

/// Relocates maps and links subprograms: afterwards each program's function holds what the kernel will get.
pub(crate) fn link<'a>(
    object: &mut Object,
    maps: impl Iterator<Item = (&'a str, i32, &'a aya_obj::maps::Map)>,
) -> Result<(), String> {
    let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
    let text = text.into_iter().collect();
    catch_unwind(AssertUnwindSafe(|| {
        object.relocate_maps(maps, &text).map_err(|error| crate::chain(&error))?;
        object.relocate_calls(&text).map_err(|error| crate::chain(&error))
    }))
    .map_err(|_| "the linker panicked on it".to_owned())?
}

/// Which kind the loader sees in a section that the gate has passed.
pub(crate) fn kind_of_section(section: &aya_obj::ProgramSection) -> Option<Kind> {
    use aya_obj::ProgramSection as S;
    match section {
        S::UProbe { sleepable: false } => Some(Kind::Uprobe),
        S::URetProbe { sleepable: false } => Some(Kind::Uretprobe),
        S::TracePoint => Some(Kind::Tracepoint),
        S::RawTracePoint => Some(Kind::RawTracepoint),
        S::SocketFilter => Some(Kind::SocketFilter),
        _ => None,
    }
}

fn approved(name: &str, kind: Kind, instructions: &[bpf_insn]) -> ApprovedProgram {
    let decoded: Vec<Instruction> = instructions.iter().map(Instruction::from_kernel).collect();
    let helpers = instruction::walk(&decoded).filter_map(|(_, i)| i.helper()).map(helpers::name).collect();
    ApprovedProgram { name: name.to_owned(), kind, instructions: instructions.len(), helpers }
}

fn forbidden(mut findings: Vec<Finding>) -> GateError {
    findings.sort();
    findings.dedup();
    GateError::Forbidden(findings)
}

fn finding(program: &str, kind: &str, rule: Rule, detail: &str) -> Finding {
    Finding { program: program.to_owned(), kind: kind.to_owned(), rule, detail: detail.to_owned() }
}
