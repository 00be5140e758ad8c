//! The ELF file as it is, without a BPF loader's interpretation: every section is accounted for, every executable
//! byte is decoded, every external symbol is named.

use std::collections::BTreeMap;

use object::elf;
use object::read::elf::{ElfFile64, ElfSection64};
use object::{
    Endianness, Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionKind, SymbolKind,
};

use super::allow::{self, Kind};
use super::instruction::Instruction;
use super::{Finding, Rule, finding};

/// What the gate needs of an object file.
pub(super) struct File {
    /// Programs of allowed kinds, by symbol.
    pub(super) programs: Vec<(String, Kind)>,
    /// Executable sections of allowed kinds and subprograms.
    pub(super) code: Vec<Code>,
    /// Sections that may not be there.
    pub(super) forbidden: Vec<Finding>,
}

/// One executable section.
pub(super) struct Code {
    section: String,
    /// `None` for subprograms.
    pub(super) kind: Option<Kind>,
    pub(super) instructions: Vec<Instruction>,
    /// Slot number to external symbol.
    pub(super) externs: BTreeMap<usize, String>,
    /// First slot of each function.
    functions: BTreeMap<usize, String>,
}

impl Code {
    /// The function that holds a slot.
    pub(super) fn function_at(&self, slot: usize) -> &str {
        self.functions.range(..=slot).next_back().map_or(self.section.as_str(), |(_, name)| name.as_str())
    }

    /// Kind as named in a refusal.
    pub(super) fn kind_name(&self) -> &str {
        if self.kind.is_some() { &self.section } else { "subprogram" }
    }
}

/// Data sections that compilers and loaders make. None of them can hold a program.
const DATA: &[&str] = &["license", "version", "maps", ".maps", ".BTF", ".BTF.ext", ".eh_frame", ".comment"];
const DATA_PREFIXES: &[&str] = &[".rodata", ".data", ".bss", ".debug_", ".note", ".rel", ".llvm"];
/// `SHT_LLVM_ADDRSIG`: which symbols' addresses matter; written by clang.
const LLVM_ADDRSIG: elf::SectionType = elf::SectionType(0x6fff_4c03);
const TABLES: &[elf::SectionType] =
    &[elf::SHT_NULL, elf::SHT_SYMTAB, elf::SHT_STRTAB, elf::SHT_REL, LLVM_ADDRSIG];

pub(super) fn read(bytes: &[u8]) -> Result<File, String> {
    let object = ElfFile64::<Endianness>::parse(bytes).map_err(|error| error.to_string())?;
    let header = object.elf_header();
    if header.e_machine.get(object.endian()) != elf::EM_BPF || !object.is_little_endian() {
        return Err("not a little-endian BPF object".to_owned());
    }
    let mut file = File { programs: Vec::new(), code: Vec::new(), forbidden: Vec::new() };
    for section in object.sections() {
        let name = section.name().map_err(|error| error.to_string())?.to_owned();
        let header = section.elf_section_header();
        let executable = header.sh_flags.get(object.endian()).0 & elf::SHF_EXECINSTR.0 != 0;
        let table = TABLES.contains(&header.sh_type.get(object.endian()));
        match allow::section(&name) {
            // A name that means a program is one, even if the file does not mark it as code.
            allow::SectionKind::Allowed(kind, target) if !table => {
                let code = read_code(&object, &section, &name, Some(kind))?;
                if let Some(target) = target.filter(|target| !allow::target(kind, target)) {
                    let program = code.function_at(0);
                    file.forbidden.push(finding(program, kind.name(), Rule::AttachTarget, &target));
                }
                file.programs.extend(code.functions.values().map(|name| (name.clone(), kind)));
                file.code.push(code);
            }
            allow::SectionKind::Subprograms if !table => {
                file.code.push(read_code(&object, &section, &name, None)?)
            }
            allow::SectionKind::Refused(kind) if !table => {
                let names = functions(&object, &section)?;
                let program = names.into_values().next().unwrap_or_else(|| name.clone());
                file.forbidden.push(finding(&program, &kind, Rule::ProgramKind, &format!("section {name}")));
            }
            _ if !executable && (table || is_data(&name)) => {}
            _ if name.trim_start_matches('?').starts_with(".struct_ops") => {
                file.forbidden.push(finding(
                    &name,
                    "struct_ops",
                    Rule::ProgramKind,
                    "kernel operations table",
                ));
            }
            _ => {
                let names = functions(&object, &section)?;
                let program = names.into_values().next().unwrap_or_else(|| name.clone());
                let detail = format!("section {name:?} is neither an allowed program nor known data");
                file.forbidden.push(finding(&program, "unknown", Rule::UnknownSection, &detail));
            }
        }
    }
    if file.programs.is_empty() && file.forbidden.is_empty() && file.code.is_empty() {
        return Err("it holds no program".to_owned());
    }
    Ok(file)
}

fn is_data(name: &str) -> bool {
    DATA.contains(&name) || DATA_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn read_code(
    object: &ElfFile64<'_, Endianness>,
    section: &ElfSection64<'_, '_, Endianness>,
    name: &str,
    kind: Option<Kind>,
) -> Result<Code, String> {
    let data = section.data().map_err(|error| error.to_string())?;
    if data.len() % 8 != 0 || section.kind() == SectionKind::UninitializedData {
        return Err(format!("section {name}: not a whole number of instructions"));
    }
    let (slots, _) = data.as_chunks::<8>();
    let instructions = slots.iter().map(|raw| Instruction::from_bytes(*raw)).collect();
    let mut externs = BTreeMap::new();
    for (offset, relocation) in section.relocations() {
        let RelocationTarget::Symbol(index) = relocation.target() else { continue };
        let symbol = object.symbol_by_index(index).map_err(|error| error.to_string())?;
        if symbol.is_undefined() {
            externs.insert(offset as usize / 8, symbol.name().unwrap_or("?").to_owned());
        }
    }
    Ok(Code { section: name.to_owned(), kind, instructions, externs, functions: functions(object, section)? })
}

/// Function symbols of a section, by first slot. A symbol that reaches out of its section makes the file unreadable:
/// loaders slice by it.
fn functions(
    object: &ElfFile64<'_, Endianness>,
    section: &ElfSection64<'_, '_, Endianness>,
) -> Result<BTreeMap<usize, String>, String> {
    let mut found = BTreeMap::new();
    for symbol in object.symbols() {
        if symbol.section_index() != Some(section.index()) || symbol.kind() != SymbolKind::Text {
            continue;
        }
        let name = symbol.name().map_err(|error| error.to_string())?;
        let end = symbol.address().checked_add(symbol.size()).ok_or("a symbol wraps around")?;
        if end > section.size() || symbol.address() % 8 != 0 || symbol.size() % 8 != 0 {
            return Err(format!("symbol {name} is not inside its section"));
        }
        found.insert(symbol.address() as usize / 8, name.to_owned());
    }
    Ok(found)
}
