//! `ebpf/objects/manifest.json`: what the committed objects are, and what made them.
//!
//! Facts are read from the finished object, not from the sources: program sections, the legacy map definitions that
//! aya writes, and the helper numbers of every call instruction.

use std::collections::BTreeSet;

use anyhow::{Context, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use serde_json::{Map, Value, json};

use super::freshness::REMEDY;
use super::toolchain::Toolchain;

/// The manifest's JSON, keys in a fixed order.
#[derive(Clone)]
pub(crate) struct Manifest {
    json: Map<String, Value>,
}

impl Manifest {
    /// A manifest without objects.
    pub(crate) fn new(source_hash: String, toolchain: &Toolchain) -> Manifest {
        let mut json = Map::new();
        json.insert("source_hash".into(), source_hash.into());
        json.insert("compiler".into(), toolchain.compiler_version().into());
        json.insert("linker".into(), toolchain.linker_version().into());
        json.insert("objects".into(), Value::Object(Map::new()));
        Manifest { json }
    }

    /// Reads what [`Manifest::text`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Manifest> {
        match serde_json::from_str(text).ok()? {
            Value::Object(json) => Some(Manifest { json }),
            _ => None,
        }
    }

    /// As it is committed.
    pub(crate) fn text(&self) -> anyhow::Result<String> {
        Ok(format!("{}\n", serde_json::to_string_pretty(&self.json).context("writing the manifest")?))
    }

    /// The compiler that made the objects.
    pub(crate) fn compiler(&self) -> &str {
        self.json.get("compiler").and_then(Value::as_str).unwrap_or_default()
    }

    /// Would `toolchain` build the same bytes?
    pub(crate) fn made_by(&self, toolchain: &Toolchain) -> bool {
        self.compiler() == toolchain.compiler_version()
            && self.json.get("linker").and_then(Value::as_str) == Some(toolchain.linker_version())
    }

    /// Adds one object.
    pub(crate) fn describe(
        &mut self,
        name: &str,
        tested: bool,
        sha256: &str,
        elf: &[u8],
    ) -> anyhow::Result<()> {
        let object = object::File::parse(elf).with_context(|| format!("reading {name}"))?;
        let described = json!({
            "sha256": sha256,
            "tested": tested,
            "programs": programs(&object)?,
            "maps": maps(&object)?,
            "helpers": helpers(&object)?,
        });
        match self.json.get_mut("objects") {
            Some(Value::Object(objects)) => objects.insert(name.into(), described),
            _ => bail!("the manifest has no objects"),
        };
        Ok(())
    }

    /// Fails unless `other`, built with another toolchain, has the same programs, maps and helpers.
    pub(crate) fn same_interface(&self, other: &Manifest) -> anyhow::Result<()> {
        let empty = Map::new();
        let objects = self.json.get("objects").and_then(Value::as_object).unwrap_or(&empty);
        for (name, object) in objects {
            for part in ["programs", "maps", "helpers"] {
                let built = other.json.get("objects").and_then(|objects| objects.get(name)?.get(part));
                ensure!(
                    object.get(part) == built,
                    "ebpf/objects/{name} has other {part} than this toolchain builds: {REMEDY}"
                );
            }
        }
        Ok(())
    }
}

/// Every entry point: name, section and the program type that the section's name stands for.
fn programs(object: &object::File<'_>) -> anyhow::Result<Vec<Value>> {
    let mut programs = Vec::new();
    for symbol in object.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_global()) {
        let Some(index) = symbol.section_index() else { continue };
        let section = object.section_by_index(index)?.name()?.to_owned();
        if section == ".text" {
            continue;
        }
        let program_type = match section.split('/').next().unwrap_or_default() {
            "uprobe" | "uretprobe" => "kprobe",
            "tracepoint" => "tracepoint",
            "raw_tp" => "raw_tracepoint",
            "socket" => "socket_filter",
            _ => bail!("section {section}: a program of an unknown kind"),
        };
        programs.push((symbol.name()?.to_owned(), section, program_type));
    }
    programs.sort();
    Ok(programs
        .into_iter()
        .map(|(name, section, kind)| json!({ "name": name, "section": section, "type": kind }))
        .collect())
}

/// Every map: `struct bpf_map_def` of section `maps` (seven 32-bit numbers).
fn maps(object: &object::File<'_>) -> anyhow::Result<Vec<Value>> {
    let section = object.section_by_name("maps").context("no section `maps`")?;
    let data = section.data()?;
    let mut maps = Vec::new();
    for symbol in object.symbols().filter(|symbol| symbol.section_index() == Some(section.index())) {
        if symbol.kind() == SymbolKind::Section {
            continue;
        }
        let at = usize::try_from(symbol.address())?;
        let field = |n: usize| -> anyhow::Result<u32> {
            let bytes = data.get(at + n * 4..at + n * 4 + 4).context("a map definition is cut off")?;
            Ok(u32::from_le_bytes(bytes.try_into()?))
        };
        let [kind, key, value, entries, flags] = [field(0)?, field(1)?, field(2)?, field(3)?, field(4)?];
        let kind = match kind {
            1 => "hash",
            2 => "array",
            6 => "percpu_array",
            9 => "lru_hash",
            11 => "lpm_trie",
            27 => "ringbuf",
            other => bail!("map {}: type {other} is not one of ours", symbol.name()?),
        };
        maps.push((symbol.name()?.to_owned(), kind, key, value, entries, flags));
    }
    maps.sort();
    Ok(maps
        .into_iter()
        .map(|(name, kind, key, value, entries, flags)| {
            json!({ "name": name, "type": kind, "key_bytes": key, "value_bytes": value, "max_entries": entries, "flags": flags })
        })
        .collect())
}

/// Numbers of the helpers that any instruction calls (`enum bpf_func_id`).
fn helpers(object: &object::File<'_>) -> anyhow::Result<Vec<i32>> {
    const CALL: u8 = 0x85;
    const LOAD_64: u8 = 0x18;
    let mut helpers = BTreeSet::new();
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let mut instructions = section.data()?.chunks_exact(8);
        while let Some(instruction) = instructions.next() {
            match (instruction[0], instruction[1] >> 4) {
                (LOAD_64, _) => {
                    instructions.next();
                }
                (CALL, 0) => {
                    helpers.insert(i32::from_le_bytes(instruction[4..8].try_into()?));
                }
                // Another function of the object.
                (CALL, 1) => {}
                (CALL, kind) => bail!("section {}: a call of kind {kind}", section.name()?),
                _ => {}
            }
        }
    }
    Ok(helpers.into_iter().collect())
}
