//! What was measured, on standard output: a table for a reader, or one JSON object per row for a program.

use serde_json::{Map, Value};

/// A figure with the name of its column, unit included; `None` where there is nothing to measure.
pub(crate) type Figure = (&'static str, Option<f64>);

/// Where figures go.
pub(crate) struct Report {
    json: bool,
    /// The section of the rows that follow.
    title: String,
    /// Names of the columns under the last heading.
    columns: Vec<&'static str>,
}

impl Report {
    pub(crate) fn new(json: bool) -> Report {
        Report { json, title: String::new(), columns: Vec::new() }
    }

    /// Begins a section; `aim` says what its figures should be.
    pub(crate) fn section(&mut self, title: &str, aim: &str) {
        title.clone_into(&mut self.title);
        self.columns.clear();
        if !self.json {
            println!("\n## {title}");
            if !aim.is_empty() {
                println!("aim: {aim}");
            }
        }
    }

    /// One row; a heading precedes it where its columns are not those of the row before.
    pub(crate) fn row(&mut self, name: &str, figures: &[Figure]) {
        if self.json {
            let mut object = Map::new();
            object.insert("section".to_owned(), Value::from(self.title.as_str()));
            object.insert("name".to_owned(), Value::from(name));
            for (column, value) in figures {
                if let Some(value) = value {
                    object.insert((*column).to_owned(), Value::from(*value));
                }
            }
            println!("{}", Value::Object(object));
            return;
        }
        let columns: Vec<&str> = figures.iter().map(|(column, _)| *column).collect();
        let width = |column: &str| column.len().max(9) + 2;
        if columns != self.columns {
            let heading: String =
                columns.iter().map(|column| format!("{column:>0$}", width(column))).collect();
            println!("{:44}{heading}", "");
            self.columns = columns;
        }
        let values: String = figures
            .iter()
            .map(|(column, value)| format!("{:>1$}", value.map_or("-".to_owned(), shown), width(column)))
            .collect();
        println!("{name:44}{values}");
    }

    /// That something could not be measured, and why.
    pub(crate) fn not_measured(&self, why: &str) {
        if self.json {
            println!("{}", serde_json::json!({"section": self.title, "not_measured": why}));
        } else {
            println!("NOT MEASURED: {why}");
        }
    }
}

/// Three digits at least, no more after the point than they need.
fn shown(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.1.. => format!("{value:.2}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.4}"),
    }
}
