//! Names from the wire, and what is none. A provider, a client or a model chooses them, so they are kept only if they are
//! one printable word of bounded length: prose does not pass. What does not is withheld, and the record says so.

use super::json::Value;
use crate::exchange::{Place, Withheld};
use crate::limits::{MODEL_NAME_MAX, WORD_MAX};

/// What stands where a name is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named<'a> {
    /// Nothing, or nothing that could be a name (`null`, a number, an object).
    Absent,
    /// A name.
    Name(&'a str),
    /// Something else.
    Withheld,
}

impl<'a> Named<'a> {
    /// The name; what is withheld is noted for `place`.
    pub fn at(self, place: Place, withheld: &mut Withheld) -> Option<&'a str> {
        match self {
            Named::Absent => None,
            Named::Name(name) => Some(name),
            Named::Withheld => {
                withheld.note(place);
                None
            }
        }
    }
}

/// A model, deployment or ARN: printable ASCII without spaces, quotes, braces and angle brackets.
pub fn model(text: &[u8]) -> Named<'_> {
    judge(text, MODEL_NAME_MAX, |byte| byte.is_ascii_graphic() && !b"\"'`\\{}<>".contains(&byte))
}

/// An enumerated word, an id or a function's name: letters, digits and few signs.
pub fn word(text: &[u8]) -> Named<'_> {
    judge(text, WORD_MAX, |byte| byte.is_ascii_alphanumeric() || b"_-.:/@+=~".contains(&byte))
}

/// The same for the text in a JSON value, which may have been cut.
pub fn of<'a>(value: Value<'a>, kind: fn(&'a [u8]) -> Named<'a>) -> Named<'a> {
    match value {
        Value::Text { bytes, whole: true } => kind(bytes),
        Value::Text { whole: false, .. } => Named::Withheld,
        _ => Named::Absent,
    }
}

fn judge(text: &[u8], max: usize, good: fn(u8) -> bool) -> Named<'_> {
    match std::str::from_utf8(text) {
        Ok("") => Named::Absent,
        Ok(name) if text.len() <= max && text.iter().copied().all(good) => Named::Name(name),
        _ => Named::Withheld,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_printable_words_are_names() {
        fn check(kind: fn(&'static [u8]) -> Named<'static>, text: &'static str, expected: Named<'static>) {
            assert_eq!(kind(text.as_bytes()), expected, "{text:?}");
        }
        for name in [
            "gpt-4o-2024-08-06",
            "openai/gpt-4o:free",
            "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/abc",
            "claude-3@20240229",
            "./models/qwen2.5-7b(q4)[1].gguf",
            "ft:gpt-4o-mini:acme::id~1",
        ] {
            check(model, name, Named::Name(name));
        }
        for prose in [
            "two words",
            "line\nbreak",
            "tab\t",
            "nul\0",
            "caf\u{e9}",
            "\u{202e}x",
            "a\"b",
            "{\"a\":1}",
            "a\u{7f}",
        ] {
            check(model, prose, Named::Withheld);
            check(word, prose, Named::Withheld);
        }
        check(word, "get_weather", Named::Name("get_weather"));
        check(word, "ns:tool/v1.2-x", Named::Name("ns:tool/v1.2-x"));
        for prose in ["a,b", "rm(x)", "what?", "<tag>"] {
            check(word, prose, Named::Withheld);
        }
        check(word, "", Named::Absent);
        let long: &'static str = "x".repeat(MODEL_NAME_MAX + 1).leak();
        check(model, long, Named::Withheld);
        check(model, &long[1..], Named::Name(&long[1..]));
        check(word, &long[..WORD_MAX + 1], Named::Withheld);
        check(word, &long[..WORD_MAX], Named::Name(&long[..WORD_MAX]));
    }

    #[test]
    fn what_is_cut_or_no_text_is_no_name() {
        assert_eq!(of(Value::Text { bytes: b"x", whole: false }, word), Named::Withheld);
        assert_eq!(of(Value::Null, word), Named::Absent);
        assert_eq!(of(Value::Number(b"1"), word), Named::Absent);
        let mut withheld = Withheld::default();
        assert_eq!(
            of(Value::Text { bytes: b"a b", whole: true }, word).at(Place::Tools, &mut withheld),
            None
        );
        assert_eq!(
            of(Value::Text { bytes: b"a", whole: true }, word).at(Place::Model, &mut withheld),
            Some("a")
        );
        assert_eq!(withheld.places().collect::<Vec<_>>(), [Place::Tools]);
    }
}
