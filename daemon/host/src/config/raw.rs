//! Reads a TOML table key by key and collects every mistake: wrong types, unknown keys, values outside their range.
//!
//! Deriving `Deserialize` would stop at the first mistake. Here each key is asked for by name, which also tells what
//! the allowed keys are; what nobody asked for is reported as unknown. Nothing here knows what a key means.

use std::collections::BTreeMap;

use toml::{Table, Value};

/// Everything that is wrong, in the order of the file's sections.
#[derive(Debug, Default)]
pub(super) struct Problems(pub(super) Vec<String>);

impl Problems {
    /// Reports one mistake at a path such as `capture.tap`.
    pub(super) fn add(&mut self, path: &str, what: impl AsRef<str>) {
        self.0.push(format!("{path}: {}", what.as_ref()));
    }
}

/// One table of the file. Every question removes a key; [`Section::finish`] reports what is left.
#[derive(Debug)]
pub(super) struct Section {
    path: String,
    left: Table,
    asked: Vec<&'static str>,
}

impl Section {
    /// The whole file.
    pub(super) fn root(table: Table) -> Section {
        Section { path: String::new(), left: table, asked: Vec::new() }
    }

    /// Full path of a key of this section.
    pub(super) fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// A sub-table; an empty one where it is absent or not a table.
    pub(super) fn section(&mut self, key: &'static str, problems: &mut Problems) -> Section {
        let path = self.at(key);
        let left = match self.take(key) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                problems.add(&path, format!("must be a table [{path}], is {}", kind(&other)));
                Table::new()
            }
        };
        Section { path, left, asked: Vec::new() }
    }

    /// An array of tables, `[[key]]`, numbered from 0 in the paths.
    pub(super) fn sections(&mut self, key: &'static str, problems: &mut Problems) -> Vec<Section> {
        let path = self.at(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                problems.add(&path, format!("must be an array of tables [[{path}]], is {}", kind(&other)));
                return Vec::new();
            }
        };
        let mut sections = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            match value {
                Value::Table(left) => sections.push(Section { path, left, asked: Vec::new() }),
                other => problems.add(&path, format!("must be a table, is {}", kind(&other))),
            }
        }
        sections
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        let path = self.at(key);
        match self.take(key)? {
            Value::String(text) => Some(text),
            other => {
                problems.add(&path, format!("must be a string, is {}", kind(&other)));
                None
            }
        }
    }

    /// A string that must be there and not be empty.
    pub(super) fn required(&mut self, key: &'static str, problems: &mut Problems) -> Option<String> {
        if !self.left.contains_key(key) {
            self.asked.push(key);
            problems.add(&self.at(key), "is required");
            return None;
        }
        let text = self.text(key, problems)?;
        if text.is_empty() {
            problems.add(&self.at(key), "must not be empty");
            return None;
        }
        Some(text)
    }

    /// One of a closed set of words.
    pub(super) fn word<T: Copy>(
        &mut self,
        key: &'static str,
        default: T,
        words: &[(&str, T)],
        problems: &mut Problems,
    ) -> T {
        let Some(text) = self.text(key, problems) else { return default };
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return *value;
        }
        let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        problems.add(&self.at(key), format!("{text:?} is not one of {}", quoted(&allowed)));
        default
    }

    /// A whole number within a range, both ends included.
    pub(super) fn integer(
        &mut self,
        key: &'static str,
        default: u64,
        range: std::ops::RangeInclusive<u64>,
        problems: &mut Problems,
    ) -> u64 {
        let path = self.at(key);
        let Some(value) = self.take(key) else { return default };
        let Value::Integer(number) = value else {
            problems.add(&path, format!("must be a whole number, is {}", kind(&value)));
            return default;
        };
        match u64::try_from(number) {
            Ok(number) if range.contains(&number) => number,
            _ => {
                problems.add(&path, format!("{number} is outside {} to {}", range.start(), range.end()));
                default
            }
        }
    }

    /// A power of two within a range, both ends included.
    pub(super) fn power_of_two(
        &mut self,
        key: &'static str,
        default: u32,
        range: std::ops::RangeInclusive<u32>,
        problems: &mut Problems,
    ) -> u32 {
        let range = u64::from(*range.start())..=u64::from(*range.end());
        let number = self.integer(key, u64::from(default), range, problems);
        // The range keeps it within 32 bits.
        let number = u32::try_from(number).unwrap_or(default);
        if number.is_power_of_two() {
            return number;
        }
        problems.add(&self.at(key), format!("{number} is not a power of two"));
        default
    }

    /// A decimal number (whole numbers are taken as well), as basis points (ten-thousandths, rounded down).
    pub(super) fn basis_points(&mut self, key: &'static str, problems: &mut Problems) -> Option<u64> {
        let path = self.at(key);
        let number = match self.take(key)? {
            Value::Float(number) => number,
            Value::Integer(number) => number as f64,
            other => {
                problems.add(&path, format!("must be a number, is {}", kind(&other)));
                return None;
            }
        };
        if !(0.0..=1.0).contains(&number) {
            problems.add(&path, format!("{number} is outside 0 to 1"));
            return None;
        }
        // The epsilon undoes the binary representation of decimals such as 0.95.
        Some((number * 10_000.0 + 1e-6) as u64)
    }

    /// A list of strings.
    pub(super) fn texts(&mut self, key: &'static str, problems: &mut Problems) -> Vec<String> {
        self.list(key, "strings", problems, |value| match value {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            _ => None,
        })
    }

    /// A list of ids (`u32`).
    pub(super) fn ids(&mut self, key: &'static str, problems: &mut Problems) -> Vec<u32> {
        self.list(key, "ids (whole numbers from 0 to 4294967294)", problems, |value| match value {
            Value::Integer(number) => u32::try_from(*number).ok().filter(|id| *id != u32::MAX),
            _ => None,
        })
    }

    /// A table whose values are strings.
    pub(super) fn map(&mut self, key: &'static str, problems: &mut Problems) -> BTreeMap<String, String> {
        let path = self.at(key);
        let table = match self.take(key) {
            None => return BTreeMap::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                problems.add(&path, format!("must be a table of strings, is {}", kind(&other)));
                return BTreeMap::new();
            }
        };
        let mut map = BTreeMap::new();
        for (name, value) in table {
            match value {
                Value::String(text) => {
                    map.insert(name, text);
                }
                other => {
                    problems.add(&format!("{path}.{name}"), format!("must be a string, is {}", kind(&other)))
                }
            }
        }
        map
    }

    /// Reports every key that nobody asked for.
    pub(super) fn finish(self, problems: &mut Problems) {
        for key in self.left.keys() {
            problems.add(&self.at(key), format!("is unknown; allowed here: {}", quoted(&self.asked)));
        }
    }

    fn list<T>(
        &mut self,
        key: &'static str,
        what: &str,
        problems: &mut Problems,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Vec<T> {
        let path = self.at(key);
        let values = match self.take(key) {
            None => return Vec::new(),
            Some(Value::Array(values)) => values,
            Some(other) => {
                problems.add(&path, format!("must be a list of {what}, is {}", kind(&other)));
                return Vec::new();
            }
        };
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match read(value) {
                Some(item) => list.push(item),
                None => problems
                    .add(&format!("{path}[{index}]"), format!("{value} is not allowed in a list of {what}")),
            }
        }
        list
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.asked.push(key);
        self.left.remove(key)
    }
}

/// `"a", "b"`.
pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Float(_) => "a decimal number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}
