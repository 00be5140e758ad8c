//! Where a function lies in a library's file.

use anyhow::Context;
use object::{Object, ObjectSegment, ObjectSymbol};

/// File offset of the dynamic symbol `name` of the ELF file at `path`.
pub fn file_offset(path: &str, name: &str) -> anyhow::Result<u64> {
    let data = std::fs::read(path).with_context(|| format!("reading {path}"))?;
    let file = object::File::parse(&*data).with_context(|| format!("parsing {path}"))?;
    let symbol = file.dynamic_symbols().find(|symbol| symbol.name() == Ok(name));
    let address = symbol.with_context(|| format!("{name} in {path}"))?.address();
    file.segments()
        .find(|segment| (segment.address()..segment.address() + segment.size()).contains(&address))
        .map(|segment| address - segment.address() + segment.file_range().0)
        .with_context(|| format!("the segment of {name} in {path}"))
}
