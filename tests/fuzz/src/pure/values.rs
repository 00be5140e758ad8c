//! What is found in documents.

use meter::llm::json::{Paths, Scanner, Value, Visitor};
use meter::llm::protobuf;

/// Values as they are handed out.
#[derive(Default, PartialEq, Debug)]
struct Values(Vec<(u8, String)>);

impl Visitor<u8> for Values {
    fn value(&mut self, field: u8, value: Value<'_>) {
        let text = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(bool) => bool.to_string(),
            Value::Number(text) => {
                format!("{} {:?} {:?}", String::from_utf8_lossy(text), value.count(), value.scaled(12))
            }
            Value::Text { bytes, whole } => format!("{:?} {whole}", String::from_utf8_lossy(bytes)),
            Value::Object => "{".to_owned(),
            Value::Array => "[".to_owned(),
        };
        self.0.push((field, text));
    }
}

/// JSON: cut anywhere, same values.
pub fn json(data: &[u8]) {
    let (Some(first), rest) = (data.first(), data.get(1..).unwrap_or_default()) else { return };
    let paths = Paths::new(&[("/a", 0), ("/b/c", 1), ("/b/*/d", 2), ("/*/e", 3), ("/b", 4), ("/f/*", 5)]);
    let run = |pieces: &[&[u8]]| {
        let (mut scanner, mut values) = (Scanner::default(), Values::default());
        for piece in pieces {
            scanner.push(&paths, piece, &mut values);
        }
        scanner.finish(&paths, &mut values);
        (values, scanner.documents())
    };
    let (left, right) = rest.split_at(usize::from(*first).min(rest.len()));
    let whole = run(&[rest]);
    assert_eq!(whole, run(&[left, right]));
    let bytes: Vec<&[u8]> = rest.chunks(1).collect();
    assert_eq!(whole, run(&bytes));
}

/// Protobuf: cut anywhere, same values.
pub fn protobuf(data: &[u8]) {
    let [size, rest @ ..] = data else { return };
    let paths = Paths::new(&[("/1", 0), ("/2/1", 1), ("/2/3/1", 2), ("/2/3", 3), ("/15/2", 4), ("/16", 5)]);
    let run = |size: usize| {
        let (mut scanner, mut values) = (protobuf::Scanner::default(), Values::default());
        for piece in rest.chunks(size) {
            scanner.push(&paths, piece, &mut values);
        }
        values
    };
    assert_eq!(run(usize::MAX), run(usize::from(*size).max(1)));
}
